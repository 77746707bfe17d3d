//! What can fail below real processes fails: they die at every point where that can matter, their
//! disk refuses, fills, forgets or takes long, the clock lies. Nothing is lost, doubled, altered or
//! left behind.
//!
//! One program, since its tests spend most of their time in waiting and run side by side.

mod agent;
mod failures;
mod hook;
mod machine;
mod outside;
mod points;
mod strace;
mod weather;
