//! Keeps refusals from growing the log without bound.
//!
//! A known peer gets at most 60 entries a minute; what goes beyond, and everything from somebody
//! who is not known, is counted and becomes one entry a minute and class.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use passerelle_proto::Hop;

/// Log entries that one peer's refusals may cause within a minute.
pub const ENTRIES_PER_MINUTE_MAX: u32 = 60;
/// Length of the window.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Classes counted apart from each other; more fall into one class.
const CLASSES_MAX: usize = 64;
const OVERFLOW: &str = "other";

/// How many refusals of one class there were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// What was refused, in a few words that hold nothing the peer chose.
    pub class: String,
    /// How often since the last report.
    pub count: u64,
}

/// Decides which refusals become entries of their own.
#[derive(Debug)]
pub struct RefusalBudget {
    window_start: Instant,
    used: HashMap<Hop, u32>,
    counts: BTreeMap<String, u64>,
}

impl RefusalBudget {
    /// A budget that starts now.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            window_start: now,
            used: HashMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// Whether a refusal of this peer gets an entry of its own; otherwise it is counted as `class`.
    pub fn admit(&mut self, peer: &Hop, class: &str, now: Instant) -> bool {
        if now.saturating_duration_since(self.window_start) >= WINDOW {
            self.window_start = now;
            self.used.clear();
        }
        let used = self.used.entry(peer.clone()).or_insert(0);
        if *used < ENTRIES_PER_MINUTE_MAX {
            *used += 1;
            return true;
        }
        self.count(class);
        false
    }

    /// Counts a refusal that gets no entry of its own.
    pub fn count(&mut self, class: &str) {
        let known = self.counts.contains_key(class);
        let class = if known || self.counts.len() < CLASSES_MAX {
            class
        } else {
            OVERFLOW
        };
        *self.counts.entry(class.to_owned()).or_insert(0) += 1;
    }

    /// Takes the counts out; the caller asks at most once per [`WINDOW`].
    pub fn take(&mut self) -> Vec<Counted> {
        std::mem::take(&mut self.counts)
            .into_iter()
            .map(|(class, count)| Counted { class, count })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use passerelle_proto::Role;

    use super::*;

    fn hop(party: &str) -> Hop {
        Hop {
            party: party.parse().unwrap(),
            role: Role::Gateway,
        }
    }

    #[test]
    fn ten_thousand_refusals_become_sixty_entries_and_one_count() {
        let now = Instant::now();
        let mut budget = RefusalBudget::new(now);
        let peer = hop("caf21");
        let entries = (0..10_000)
            .filter(|_| budget.admit(&peer, "offer: digest", now))
            .count();
        assert_eq!(entries, 60);
        let counted = budget.take();
        assert_eq!(counted.len(), 1);
        assert_eq!(counted[0].count, 9_940);
        assert_eq!(budget.take(), []);
    }

    #[test]
    fn one_peer_does_not_use_up_the_budget_of_another_and_a_minute_renews_it() {
        let now = Instant::now();
        let mut budget = RefusalBudget::new(now);
        while budget.admit(&hop("caf21"), "offer", now) {}
        assert!(budget.admit(&hop("grand-dijon"), "offer", now));
        assert!(budget.admit(&hop("caf21"), "offer", now + WINDOW));
    }

    #[test]
    fn strangers_cannot_make_more_classes_than_the_limit() {
        let mut budget = RefusalBudget::new(Instant::now());
        for number in 0..1000 {
            budget.count(&format!("class {number}"));
        }
        let counted = budget.take();
        assert_eq!(counted.len(), CLASSES_MAX + 1);
        assert_eq!(counted.iter().map(|c| c.count).sum::<u64>(), 1000);
    }
}
