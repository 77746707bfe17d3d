//! When a peer that cannot be reached is tried again.
//!
//! Pure: `now` and the jitter come in. The first retry is quick, later ones back off; after a few
//! failures in a row the circuit opens, and then one attempt at a time is a probe.

use std::time::{Duration, Instant};

/// Wait before the first new attempt.
pub const FIRST_RETRY: Duration = Duration::from_millis(200);
/// Longest wait between two attempts.
pub const RETRY_MAX: Duration = Duration::from_secs(300);
/// Failures in a row after which the circuit is open.
pub const FAILURES_UNTIL_OPEN: u32 = 5;

/// The state of the way to one peer.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    failures: u32,
    not_before: Option<Instant>,
}

impl Breaker {
    /// The peer was reached: everything before is forgotten.
    pub fn reached(&mut self) {
        *self = Self::default();
    }

    /// An attempt failed. `jitter` in 0.0 ..= 1.0 spreads gateways that failed together.
    ///
    /// Returns how long to wait: at least half, at most the whole of the backoff.
    pub fn failed(&mut self, now: Instant, jitter: f64) -> Duration {
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let whole = FIRST_RETRY.saturating_mul(1 << doublings).min(RETRY_MAX);
        // The first retry is exact, so that a restarted peer is found at once.
        let share = if doublings == 0 {
            1.0
        } else {
            0.5 + jitter.clamp(0.0, 1.0) / 2.0
        };
        let wait = whole.mul_f64(share);
        self.not_before = Some(now + wait);
        wait
    }

    /// The peer has shown itself (it dialled in): the next attempt may be made at once.
    pub fn woken(&mut self) {
        self.not_before = None;
    }

    /// How long an attempt must still wait; zero: now.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        self.not_before
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// Whether the next attempt is only a probe.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.failures >= FAILURES_UNTIL_OPEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_retry_comes_after_200_ms_and_the_backoff_ends_at_five_minutes() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        assert_eq!(breaker.failed(now, 0.0), FIRST_RETRY);
        let waits: Vec<_> = (0..40).map(|_| breaker.failed(now, 1.0)).collect();
        assert!(waits.is_sorted(), "{waits:?}");
        assert_eq!(waits.last(), Some(&RETRY_MAX));
    }

    #[test]
    fn jitter_never_takes_more_than_half() {
        let now = Instant::now();
        let (mut low, mut high) = (Breaker::default(), Breaker::default());
        for _ in 0..8 {
            let (low, high) = (low.failed(now, 0.0), high.failed(now, 1.0));
            assert!(low * 2 >= high && low <= high);
        }
    }

    #[test]
    fn a_dial_in_ends_the_wait_but_only_success_closes_the_circuit() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_UNTIL_OPEN {
            assert!(!breaker.is_open());
            breaker.failed(now, 0.5);
        }
        assert!(breaker.is_open() && breaker.wait(now) > Duration::ZERO);
        breaker.woken();
        assert!(breaker.is_open() && breaker.wait(now) == Duration::ZERO);
        breaker.reached();
        assert!(!breaker.is_open());
    }
}
