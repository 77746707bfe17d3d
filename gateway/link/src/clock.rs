//! Whether the wall clock may decide that something has expired, or is to be removed.
//!
//! What expires, or is removed, cannot be called back, so a clock that was set wrong must not do
//! it. The clock is believed when it agreed with a peer's in a greeting, and has moved since then
//! as fast as the clock that counts from boot and that nobody can set.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use passerelle_host::Moment;
use passerelle_proto::Timestamp;

/// Most that two clocks may differ.
pub const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(5 * 60);

/// What is known about the wall clock.
#[derive(Debug, Default)]
pub struct Belief(Mutex<Option<Moment>>);

impl Belief {
    /// A peer has said what its clock shows; `false` when ours shows something else.
    pub fn heard(&self, theirs: Timestamp, moment: Moment) -> bool {
        let agrees = difference(theirs, moment.wall) <= CLOCK_DIFFERENCE_MAX;
        if agrees {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(moment);
        }
        agrees
    }

    /// Whether the wall clock may be believed.
    pub fn is_believed(&self, moment: Moment) -> bool {
        let agreed = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        agreed.is_some_and(|then| {
            let passed = moment.since_boot.saturating_sub(then.since_boot);
            let expected = then.wall.saturating_add(passed);
            difference(expected, moment.wall) <= CLOCK_DIFFERENCE_MAX
        })
    }
}

fn difference(one: Timestamp, other: Timestamp) -> Duration {
    one.since(other).max(other.since(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall_s: i64, boot_s: u64) -> Moment {
        Moment {
            wall: Timestamp::from_ms(wall_s * 1000),
            since_boot: Duration::from_secs(boot_s),
        }
    }

    #[test]
    fn a_clock_that_nobody_has_confirmed_is_not_believed() {
        let clock = Belief::default();
        assert!(!clock.is_believed(at(1_000, 10)));
        assert!(!clock.heard(Timestamp::from_ms(2_000_000), at(1_000, 10)));
        assert!(!clock.is_believed(at(1_000, 10)));
        assert!(clock.heard(Timestamp::from_ms(1_100_000), at(1_000, 10)));
        assert!(clock.is_believed(at(1_000, 10)));
    }

    #[test]
    fn a_clock_that_was_set_is_not_believed_until_a_peer_agrees_again() {
        let clock = Belief::default();
        assert!(clock.heard(Timestamp::from_ms(1_000_000), at(1_000, 10)));
        assert!(
            clock.is_believed(at(91_000, 90_010)),
            "a day later, as it should be"
        );
        assert!(
            !clock.is_believed(at(91_000, 100)),
            "a day ahead after a minute"
        );
        assert!(!clock.is_believed(at(100, 100)), "set back");
        assert!(clock.heard(Timestamp::from_ms(91_000_000), at(91_000, 100)));
        assert!(clock.is_believed(at(91_000, 100)));
    }
}
