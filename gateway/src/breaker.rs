//! When a peer that cannot be reached is tried again.
//!
//! Pure: `now` and the jitter come in. The first retry is quick, later ones back off; after a few
//! failures in a row the circuit opens, and then one attempt at a time is a probe.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use passerelle_host::{Changes, Signal};
use passerelle_proto::Hop;

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

/// The ways to all next hops, for packages. Statements are not held up: they are small, and what
/// they say is waited for.
#[derive(Debug, Default)]
pub(crate) struct Circuits {
    ways: Mutex<HashMap<Hop, Way>>,
    changed: Signal,
}

#[derive(Debug, Default)]
struct Way {
    breaker: Breaker,
    /// A package is being tried while the circuit is open.
    probing: bool,
}

impl Circuits {
    fn ways(&self) -> MutexGuard<'_, HashMap<Hop, Way>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, hop: &Hop, change: impl FnOnce(&mut Way)) {
        change(self.ways().entry(hop.clone()).or_default());
        self.changed.tell();
    }

    /// Whether a package may be tried now.
    pub(crate) fn is_free(&self, hop: &Hop, now: Instant) -> bool {
        let ways = self.ways();
        ways.get(hop)
            .is_none_or(|way| !way.probing && way.breaker.wait(now).is_zero())
    }

    /// A package is being tried: while the circuit is open no other is.
    ///
    /// Returns `false` when another came first.
    pub(crate) fn begin(&self, hop: &Hop) -> bool {
        let mut ways = self.ways();
        let Some(way) = ways.get_mut(hop) else {
            return true;
        };
        !std::mem::replace(&mut way.probing, way.breaker.is_open())
    }

    /// When the wait for the next attempt is over; `None`: there is none, or a probe is under way.
    pub(crate) fn next_attempt(&self, hop: &Hop, now: Instant) -> Option<Instant> {
        let ways = self.ways();
        let way = ways.get(hop).filter(|way| !way.probing)?;
        Some(now + way.breaker.wait(now)).filter(|at| *at > now)
    }

    /// The peer has answered, or has asked for data.
    pub(crate) fn reached(&self, hop: &Hop) {
        let known = self.ways().contains_key(hop);
        if known {
            self.change(hop, |way| *way = Way::default());
        }
    }

    /// A package was tried in vain. Returns how long the next one waits.
    pub(crate) fn failed(&self, hop: &Hop, now: Instant, jitter: f64) -> Duration {
        let mut wait = Duration::ZERO;
        self.change(hop, |way| {
            way.probing = false;
            wait = way.breaker.failed(now, jitter);
        });
        wait
    }

    /// The peer has shown itself.
    pub(crate) fn woken(&self, hop: &Hop) {
        let known = self.ways().contains_key(hop);
        if known {
            self.change(hop, |way| way.breaker.woken());
        }
    }

    /// Whether the circuit to a peer is open.
    pub(crate) fn is_open(&self, hop: &Hop) -> bool {
        self.ways()
            .get(hop)
            .is_some_and(|way| way.breaker.is_open())
    }

    /// Changes whenever a package may have become free to be tried.
    pub(crate) fn changed(&self) -> Changes {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_circuit_lets_one_package_through_at_a_time() {
        let hop = Hop::gateway("grand-dijon".parse().unwrap());
        let circuits = Circuits::default();
        let now = Instant::now();
        assert!(circuits.begin(&hop) && circuits.begin(&hop), "closed");
        for _ in 1..FAILURES_UNTIL_OPEN {
            circuits.failed(&hop, now, 0.0);
        }
        assert!(!circuits.is_open(&hop) && !circuits.is_free(&hop, now));
        let wait = circuits.failed(&hop, now, 0.0);
        assert!(circuits.is_open(&hop) && !circuits.is_free(&hop, now));
        assert_eq!(circuits.next_attempt(&hop, now), Some(now + wait));
        circuits.woken(&hop);
        assert!(circuits.is_free(&hop, now));
        assert!(circuits.begin(&hop), "the probe");
        assert!(!circuits.begin(&hop) && !circuits.is_free(&hop, now));
        let mut changed = circuits.changed();
        changed.mark_unchanged();
        circuits.reached(&hop);
        let told = futures::FutureExt::now_or_never(changed.changed());
        assert!(told.is_some(), "the others are told");
        assert!(circuits.begin(&hop) && circuits.begin(&hop) && !circuits.is_open(&hop));
    }

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
