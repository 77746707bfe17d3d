//! What is kept of packages that are over, in the order in which it goes. In memory only; drawn up
//! from the items at the start.

use std::collections::BTreeSet;

use passerelle_proto::Timestamp;
use passerelle_proto::v1::PurgedPart;

use super::item::{Item, ItemKey, Retained};
use super::{Going, Retention};

/// The order, and the sums.
#[derive(Default)]
pub(super) struct Kept {
    chunks: BTreeSet<(Timestamp, ItemKey)>,
    /// What is left of packages whose chunks are gone.
    heads: BTreeSet<(Timestamp, ItemKey)>,
    /// What is to go by a decision in the log.
    decided: BTreeSet<ItemKey>,
    sums: Retention,
}

impl Kept {
    fn order(&mut self, retained: &Retained) -> &mut BTreeSet<(Timestamp, ItemKey)> {
        match retained.part {
            PurgedPart::Head => &mut self.heads,
            _ => &mut self.chunks,
        }
    }

    /// An item is there from here on.
    pub(super) fn insert(&mut self, key: ItemKey, item: &Item) {
        let Some(retained) = &item.retained else {
            return;
        };
        match retained.decided {
            Some(_) => self.decided.insert(key),
            None => self.order(retained).insert((retained.due, key)),
        };
        self.add(item, retained, 1);
    }

    /// An item is not there any more, or is about to be replaced.
    pub(super) fn remove(&mut self, key: ItemKey, item: &Item) {
        let Some(retained) = &item.retained else {
            return;
        };
        match retained.decided {
            Some(_) => self.decided.remove(&key),
            None => self.order(retained).remove(&(retained.due, key)),
        };
        self.add(item, retained, -1);
    }

    fn add(&mut self, item: &Item, retained: &Retained, by: i64) {
        let sums = &mut self.sums;
        if retained.part == PurgedPart::Head {
            sums.heads = sums.heads.saturating_add_signed(by);
            return;
        }
        let length = item.pack.map_or(0, |pack| pack.length);
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        sums.packages = sums.packages.saturating_add_signed(by);
        sums.bytes = sums.bytes.saturating_add_signed(length * by);
    }

    /// What may be purged: see [`super::Queue::purgeable`].
    pub(super) fn purgeable(&self, going: Going, limit: usize) -> Vec<ItemKey> {
        let due = |order: &BTreeSet<(Timestamp, ItemKey)>, until: Timestamp, below: u64| {
            let due = order.iter().take_while(|(due, _)| *due <= until);
            let due = due.filter(|(_, key)| key.index < below);
            due.take(limit).map(|(_, key)| *key).collect::<Vec<_>>()
        };
        match going {
            Going::Decided => self.decided.iter().take(limit).copied().collect(),
            Going::Due { until, below } => {
                let mut found = due(&self.chunks, until, below);
                found.extend(due(&self.heads, until, below));
                found.truncate(limit);
                found
            }
            // What stands before the chunks is small, and the only thing left of its package.
            Going::Early { below } => due(&self.chunks, Timestamp::from_ms(i64::MAX), below),
        }
    }

    /// How much there is.
    pub(super) fn retention(&self) -> Retention {
        let first = |order: &BTreeSet<(Timestamp, ItemKey)>| order.first().map(|(due, _)| *due);
        Retention {
            decided: self.decided.len() as u64,
            due: [first(&self.chunks), first(&self.heads)]
                .into_iter()
                .flatten()
                .min(),
            ..self.sums
        }
    }
}
