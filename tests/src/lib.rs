//! Shared fixtures of the end-to-end tests.
//!
//! A [`Program`] is run as the real process that an institution runs; a [`CountingProxy`] stands
//! in front of a gateway and counts what crosses; [`eventually`] waits on a condition with a
//! deadline.

mod deadline;
mod laboratory;
mod process;
mod proxy;
mod rogue;

pub use deadline::eventually;
pub use laboratory::{
    CAF_AGENT, CAF_GATEWAY, CONTRACTOR_AGENT, DIJON_AGENT, DIJON_GATEWAY, LIMIT, Process,
    RunningLab, noise, now, quick_options,
};
pub use process::{Program, Running, binary};
pub use proxy::{CountingProxy, free_addresses};
pub use rogue::{Outcome, Rogue};
