//! Shared fixtures of the end-to-end tests.
//!
//! A [`Program`] is run as the real process that an institution runs; a [`CountingProxy`] stands
//! in front of a gateway and counts what crosses; [`eventually`] waits on a condition with a
//! deadline.

mod deadline;
mod process;
mod proxy;

pub use deadline::eventually;
pub use process::{Program, Running, binary};
pub use proxy::CountingProxy;
