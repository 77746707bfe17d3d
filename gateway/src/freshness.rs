//! How old the partners' cosignatures over our log may be.
//!
//! A receipt counts as evidence under a checkpoint that another institution has cosigned. When
//! that does not happen for long, somebody has to look; and when a partner can be reached and no
//! partner has cosigned for very long, a gateway that went on would collect packages without any
//! evidence that counts, so it puts them off. A partner that is away is no reason to stop: its
//! cosignature comes with it.

use std::time::Duration;

use passerelle_proto::v1::Entry;
use passerelle_proto::{Hop, PartyId, Timestamp};
use prost::Message;

use crate::config::Limits;
use crate::metrics::Gauge;
use crate::node::Node;
use crate::witness;

/// How often the age is looked at.
pub(crate) const FRESHNESS_EVERY: Duration = Duration::from_secs(5);
/// Longest time between two requests for a cosignature, also when nothing was appended.
pub const COSIGN_EVERY_MAX: Duration = Duration::from_secs(3600);
/// A partner that has been connected for this long has had the time to cosign.
pub const RENEWAL_GRACE_MAX: Duration = Duration::from_secs(600);

/// What one partner has cosigned last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigner {
    /// Who.
    pub party: PartyId,
    /// When it cosigned last; if it never has, when our log began.
    pub since: Timestamp,
    /// Since when it has been connected; `None` while it is away.
    pub connected: Option<Timestamp>,
}

/// What is to be done about the age of cosignatures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Freshness {
    /// Partners whose cosignature is older than the limit for an alert, and how old it is.
    pub late: Vec<(PartyId, Duration)>,
    /// No new packages are taken: partners can be reached, and none has cosigned for too long.
    pub stopped: bool,
}

impl Freshness {
    /// Judges the age of all cosignatures.
    pub fn of(cosigners: &[Cosigner], limits: &Limits, now: Timestamp) -> Self {
        let age = |cosigner: &Cosigner| now.since(cosigner.since);
        let late = cosigners
            .iter()
            .filter(|cosigner| age(cosigner) >= limits.cosignature_age_alert)
            .map(|cosigner| (cosigner.party.clone(), age(cosigner)))
            .collect();
        let grace = RENEWAL_GRACE_MAX.min(limits.cosignature_age_stop);
        let had_time = |cosigner: &Cosigner| {
            let connected = cosigner.connected;
            connected.is_some_and(|since| now.since(since) >= grace)
        };
        // One other institution that cosigns is enough for everything that is logged.
        let too_old = |cosigner: &Cosigner| age(cosigner) >= limits.cosignature_age_stop;
        let stopped = cosigners.iter().all(too_old) && cosigners.iter().any(had_time);
        Self { late, stopped }
    }

    /// In a sentence, or empty.
    pub fn words(&self) -> String {
        if self.late.is_empty() {
            return String::new();
        }
        let late = self.late.iter().map(|(party, age)| {
            let minutes = age.as_secs() / 60;
            match minutes {
                0..=119 => format!("{party} has not cosigned our log for {minutes} min"),
                _ => format!("{party} has not cosigned our log for {} h", minutes / 60),
            }
        });
        let late = late.collect::<Vec<_>>().join("; ");
        match self.stopped {
            true => format!("{late}: packages are put off until a partner cosigns it"),
            false => format!("{late}: what was logged since then does not count as evidence yet"),
        }
    }
}

/// How often a partner is asked, also when nothing was appended: well before the alert.
pub(crate) fn renewal(limits: &Limits) -> Duration {
    COSIGN_EVERY_MAX.min(limits.cosignature_age_alert / 2)
}

/// Looks at the age of all cosignatures, and says what has changed. Blocks.
pub(crate) fn look(node: &Node) {
    let moment = node.host_clock.moment();
    let cosigners = cosigners(node, moment.wall);
    let mut found = Freshness::of(&cosigners, &node.limits, moment.wall);
    // A clock that was set wrong stops nothing.
    found.stopped &= node.clock.is_believed(moment);
    for Cosigner { party, .. } in &cosigners {
        let late = found.late.iter().any(|(late, _)| late == party);
        let label = party.to_string();
        let labels = [("partner", label.as_str())];
        let metrics = &node.metrics;
        metrics.set(Gauge::CosignatureLate, &labels, f64::from(late));
    }
    let stopped = f64::from(found.stopped);
    node.metrics.set(Gauge::Uncosigned, &[], stopped);
    let before = node.set_freshness(found.clone());
    let parties = |freshness: &Freshness| -> Vec<PartyId> {
        freshness
            .late
            .iter()
            .map(|(party, _)| party.clone())
            .collect()
    };
    if (before.stopped, parties(&before)) == (found.stopped, parties(&found)) {
        return;
    }
    match found.late.is_empty() {
        true => tracing::info!("partners have cosigned our log again"),
        false => tracing::warn!("{}", found.words()),
    }
}

fn cosigners(node: &Node, now: Timestamp) -> Vec<Cosigner> {
    let directory = node.directory();
    let others = directory.sheets().filter(|sheet| sheet.party != node.party);
    let with_log = others.filter(|sheet| sheet.log.is_some());
    let mut began = None;
    with_log
        .map(|sheet| Cosigner {
            since: match witness::cosigned(node, &sheet.party) {
                Some((_, at)) => at,
                None => *began.get_or_insert_with(|| beginning(node).unwrap_or(now)),
            },
            connected: node
                .peers
                .connected_since(&Hop::gateway(sheet.party.clone())),
            party: sheet.party.clone(),
        })
        .collect()
}

/// When the first entry of our log was appended.
fn beginning(node: &Node) -> Option<Timestamp> {
    let ledger = node.sequencer.ledger();
    let first = ledger.log.entries(0, 1).ok()?.pop()?;
    let entry = Entry::decode(first.as_slice()).ok()?;
    Some(Timestamp::from_ms(entry.at_ms))
}

#[cfg(test)]
mod tests {
    use passerelle_proto::fixture::{NOW, party};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn ago(hours: u32) -> Timestamp {
        NOW.saturating_sub(HOUR * hours)
    }

    fn cosigner(name: &str, cosigned: u32, connected: Option<u32>) -> Cosigner {
        Cosigner {
            party: party(name),
            since: ago(cosigned),
            connected: connected.map(ago),
        }
    }

    fn judge(cosigners: &[Cosigner]) -> (usize, bool) {
        let found = Freshness::of(cosigners, &Limits::default(), NOW);
        (found.late.len(), found.stopped)
    }

    #[test]
    fn age_alone_is_told_and_stops_only_while_a_partner_can_be_reached() {
        let week = 7 * 24;
        for (cosigned, connected, expected) in [
            (0, Some(500), (0, false)),
            (1, Some(500), (0, false)),
            (2, Some(500), (1, false)),
            (week - 1, Some(500), (1, false)),
            (week, Some(500), (1, true)),
            (week, None, (1, false)),
            // It has come back this moment: it may still cosign.
            (week, Some(0), (1, false)),
            (week, Some(1), (1, true)),
        ] {
            let one = [cosigner("grand-dijon", cosigned, connected)];
            assert_eq!(
                judge(&one),
                expected,
                "{cosigned} h, connected {connected:?}"
            );
        }
        assert_eq!(judge(&[]), (0, false), "nobody has a log to cosign with");
    }

    #[test]
    fn one_partner_that_cosigns_is_enough_to_go_on() {
        let silent = cosigner("grand-dijon", 1000, Some(500));
        let other = |hours| cosigner("prestataire-obs", hours, None);
        assert_eq!(judge(&[silent.clone(), other(1)]), (1, false));
        assert_eq!(judge(&[silent, other(1000)]), (2, true));
    }

    #[test]
    fn the_sentence_says_who_for_how_long_and_what_follows() {
        let limits = Limits::default();
        let silent = [cosigner("grand-dijon", 200, Some(100))];
        let words = Freshness::of(&silent, &limits, NOW).words();
        let expected = "grand-dijon has not cosigned our log for 200 h: packages are put off \
                        until a partner cosigns it";
        assert_eq!(words, expected);
        assert_eq!(Freshness::default().words(), "");
        assert!(renewal(&limits) <= COSIGN_EVERY_MAX);
        assert!(renewal(&limits) < limits.cosignature_age_alert);
    }
}
