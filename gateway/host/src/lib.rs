//! What a program takes from its machine besides disk and network: time, chance, threads.
//!
//! Gateways and agents ask here and nowhere else, so that a simulation can put all of it under one
//! seed. The wall clock is an object that is handed in at the start: each party has its own, and
//! one may be wrong. Monotonic time is tokio's, which a runtime may pause. Blocking work and chance
//! belong to the thread: in a simulation all of it is done on one.

mod chance;
mod clock;
mod signal;
#[cfg(feature = "simulation")]
mod simulation;
mod work;

pub use chance::jitter;
pub use clock::{Clock, HostClock, Moment, monotonic};
pub use signal::{Changes, Signal};
#[cfg(feature = "simulation")]
pub use simulation::{Simulated, simulate};
pub use work::{BLOCKING_THREADS_MAX, Worker, blocking, is_in_place};
