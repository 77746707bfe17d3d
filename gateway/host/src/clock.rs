//! The wall clock, and the clocks that nobody can set.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use passerelle_proto::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// The wall clock of a machine, and its time since boot.
pub trait Clock: fmt::Debug + Send + Sync {
    /// What the wall clock shows. Somebody may set it, forth or back.
    fn now(&self) -> Timestamp;

    /// Time since boot, sleep included; nobody can set it.
    fn since_boot(&self) -> Duration;

    /// Both at one moment.
    fn moment(&self) -> Moment {
        Moment {
            wall: self.now(),
            since_boot: self.since_boot(),
        }
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The wall clock.
    pub wall: Timestamp,
    /// Time since boot, sleep included.
    pub since_boot: Duration,
}

/// The clocks of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn since_boot(&self) -> Duration {
        let since_boot = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(since_boot.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(since_boot.tv_nsec).unwrap_or(0);
        Duration::new(seconds, nanos)
    }
}

/// Monotonic time, for leases, backoff and intervals.
///
/// It is the clock of the runtime that this is called in: the machine's, unless that runtime has
/// paused it.
#[must_use]
pub fn monotonic() -> Instant {
    tokio::time::Instant::now().into_std()
}
