//! Whether our wall clock and our gateway's agree.
//!
//! A refusal cannot be called back, and what is sealed is never sealed again, so a clock that was
//! set wrong must decide neither. A gateway says in each greeting what its clock shows; from then
//! on that is reckoned by the clock that counts from boot and that nobody can set. While the two
//! differ nobody here can tell which one is wrong: whatever rests on the time waits.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use passerelle_host::Moment;
use passerelle_link::{CLOCK_DIFFERENCE_MAX, Carry};
use passerelle_proto::Timestamp;

use crate::node::Node;

/// Longest wait for a gateway's first greeting after a start; then an agent whose gateway cannot be
/// reached seals by its own clock.
pub(crate) const FIRST_WORD_MAX: Duration = Duration::from_secs(10);
/// How often a gateway whose clock shows something else is asked again: it may have been set right.
const ASK_EVERY: Duration = Duration::from_secs(5 * 60);

/// What our gateway's clock showed, and when.
#[derive(Clone, Copy, Debug)]
struct Heard {
    theirs: Timestamp,
    since_boot: Duration,
}

/// What is known of our gateway's clock.
#[derive(Debug, Default)]
pub(crate) struct GatewayClock(Mutex<Option<Heard>>);

/// Why our own clock decides nothing now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClockDoubt {
    /// The gateway has not greeted us since our start.
    #[error("our gateway has not said yet what time it is: see that it can be reached")]
    Unheard,
    /// It shows something else.
    #[error(
        "our clock shows {ours}, and that of our gateway {theirs}: set the one that is wrong, and \
         it goes on by itself"
    )]
    Differs {
        /// What ours shows.
        ours: Timestamp,
        /// What our gateway's must show by now.
        theirs: Timestamp,
    },
}

impl GatewayClock {
    /// Our gateway has said what its clock shows.
    pub(crate) fn heard(&self, theirs: Timestamp, moment: Moment) {
        let since_boot = moment.since_boot;
        let heard = Heard { theirs, since_boot };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(heard);
    }

    /// What our gateway's clock must show at this moment.
    fn theirs(&self, moment: Moment) -> Option<Timestamp> {
        let heard = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Heard { theirs, since_boot } = heard?;
        Some(theirs.saturating_add(moment.since_boot.saturating_sub(since_boot)))
    }

    /// By how many seconds our clock is ahead of our gateway's; negative: behind.
    pub(crate) fn ahead_s(&self, moment: Moment) -> Option<f64> {
        let theirs = self.theirs(moment)?;
        let [ahead, behind] = [moment.wall.since(theirs), theirs.since(moment.wall)];
        Some(ahead.as_secs_f64() - behind.as_secs_f64())
    }

    /// Why our clock is not to decide anything at this moment; `None`: the clocks agree.
    pub(crate) fn doubt(&self, moment: Moment) -> Option<ClockDoubt> {
        let Some(theirs) = self.theirs(moment) else {
            return Some(ClockDoubt::Unheard);
        };
        let ours = moment.wall;
        let difference = ours.since(theirs).max(theirs.since(ours));
        (difference > CLOCK_DIFFERENCE_MAX).then_some(ClockDoubt::Differs { ours, theirs })
    }
}

/// Has the connection made anew from time to time while the clocks differ: only a greeting says
/// what the gateway's clock shows.
pub(crate) async fn ask_again(
    node: std::sync::Arc<Node>,
    connection: std::sync::Arc<Mutex<Option<impl Carry>>>,
) {
    let mut ask = tokio::time::interval(ASK_EVERY);
    loop {
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            _ = ask.tick() => {}
        }
        let doubt = node.clock.doubt(node.host_clock.moment());
        if matches!(doubt, Some(ClockDoubt::Differs { .. })) {
            let connected = connection.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(connected) = connected.as_ref() {
                tracing::info!("the connection is made anew, to hear the gateway's time again");
                connected.close();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;

    fn at(wall_s: i64, boot_s: i64) -> Moment {
        Moment {
            wall: Timestamp::from_ms(wall_s * 1_000),
            since_boot: Duration::from_secs(boot_s as u64),
        }
    }

    #[test]
    fn a_clock_that_nobody_has_confirmed_decides_nothing() {
        let clock = GatewayClock::default();
        assert_eq!(clock.doubt(at(HOUR, 0)), Some(ClockDoubt::Unheard));
        assert_eq!(clock.ahead_s(at(HOUR, 0)), None);
        clock.heard(Timestamp::from_ms(HOUR * 1_000), at(HOUR + 299, 10));
        assert_eq!(clock.doubt(at(HOUR + 299, 10)), None);
    }

    #[test]
    fn a_clock_that_is_set_wrong_is_doubted_at_once_and_trusted_as_soon_as_it_is_set_right() {
        let clock = GatewayClock::default();
        clock.heard(Timestamp::from_ms(100_000 * 1_000), at(100_000, 10));
        for (day, ahead) in [(86_400, 86_400.0), (-86_400, -86_400.0)] {
            let wrong = at(100_000 + HOUR + day, 10 + HOUR);
            let doubt = clock.doubt(wrong);
            let theirs = Timestamp::from_ms((100_000 + HOUR) * 1_000);
            let ours = wrong.wall;
            assert_eq!(doubt, Some(ClockDoubt::Differs { ours, theirs }));
            assert_eq!(clock.ahead_s(wrong), Some(ahead));
            assert_eq!(clock.doubt(at(100_000 + 2 * HOUR, 10 + 2 * HOUR)), None);
        }
    }

    #[test]
    fn a_doubt_names_both_times() {
        let clock = GatewayClock::default();
        clock.heard(Timestamp::from_ms(1_480_000_000_000), at(1_480_086_400, 10));
        let words = clock.doubt(at(1_480_086_400, 10)).unwrap().to_string();
        for time in ["2016-11-25T15:06:40", "2016-11-24T15:06:40"] {
            assert!(words.contains(time), "{words}");
        }
    }
}
