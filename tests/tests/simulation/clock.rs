//! The clock of one simulated machine.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use passerelle_host::Clock;
use passerelle_proto::Timestamp;
use passerelle_proto::fixture::NOW;
use tokio::time::Instant;

/// How long machines have been running when a simulation begins.
const UP_BEFORE: Duration = Duration::from_secs(3_600);

/// Lets virtual time pass. It costs nothing and races with nothing: the runtime is paused, and one
/// thread does everything that is due until then, in the order that the seed says.
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Follows virtual time, except that somebody may set its wall clock.
#[derive(Debug)]
pub struct VirtualClock {
    start: Instant,
    wrong_by_ms: AtomicI64,
}

impl VirtualClock {
    /// A clock that is right; it is [`NOW`].
    pub fn right() -> Self {
        Self {
            start: Instant::now(),
            wrong_by_ms: AtomicI64::new(0),
        }
    }

    /// Sets the wall clock so much ahead of the right time, or back.
    pub fn set_wrong_by(&self, ms: i64) {
        self.wrong_by_ms.store(ms, Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let passed = self.start.elapsed().as_millis() as i64;
        let wrong = self.wrong_by_ms.load(Ordering::SeqCst);
        Timestamp::from_ms(NOW.as_ms() + passed + wrong)
    }

    fn since_boot(&self) -> Duration {
        UP_BEFORE + self.start.elapsed()
    }
}
