//! Dial and listen between parties.
