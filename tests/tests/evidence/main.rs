//! What a gateway can prove, what it refuses to go on without, and how it gets back to it.
//!
//! One program, since its tests spend most of their time in waiting and run side by side.

mod anchor;
mod backup;
mod expired;
mod files;
mod freshness;
mod inquire;
mod reconcile;
mod time_stamp;
mod unknown;
