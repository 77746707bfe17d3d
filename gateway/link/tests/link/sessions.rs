//! Packages over real connections.
