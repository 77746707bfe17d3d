//! What is known in memory only: who stands in which line, whose time is over when, who is leased,
//! who waits after a failure. Void at restart; lines and deadlines are then drawn up from the
//! items, so that they can never contradict them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use passerelle_proto::{Hop, PackageId, Timestamp};

use super::item::{Class, Item, ItemKey, ItemState};
use super::kept::Kept;
use super::{Counts, Going, LeaseToken, Retention, Settle};

/// Longest error text kept per item, in bytes.
const ERROR_LEN_MAX: usize = 200;

#[derive(Default)]
struct Line {
    ready: BTreeSet<ItemKey>,
    delayed: BTreeSet<(Instant, ItemKey)>,
}

/// What happened to an item since the start of this process.
#[derive(Clone, Debug, Default)]
pub(super) struct Attempt {
    pub(super) count: u32,
    pub(super) last_error: String,
    pub(super) lease: Option<LeaseToken>,
    until: Option<Instant>,
    parked: bool,
}

/// The lines of all hops.
#[derive(Default)]
pub(super) struct Board {
    lines: HashMap<(Hop, Class), Line>,
    packages: BTreeSet<(PackageId, ItemKey)>,
    /// Those with a deadline, by it.
    due: BTreeSet<(Timestamp, ItemKey)>,
    counts: BTreeMap<Hop, Counts>,
    kept: Kept,
    attempts: HashMap<ItemKey, Attempt>,
    leases: HashMap<LeaseToken, (ItemKey, Hop, Class)>,
    last_token: u64,
}

impl Board {
    /// The items of a package, oldest first.
    pub(super) fn of_package(&self, package: &PackageId) -> Vec<ItemKey> {
        let key = |index, route| (*package, ItemKey { index, route });
        let range = self.packages.range(key(0, 0)..=key(u64::MAX, u8::MAX));
        range.map(|(_, key)| *key).collect()
    }

    /// Whether the package has this item.
    pub(super) fn holds(&self, package: &PackageId, key: ItemKey) -> bool {
        self.packages.contains(&(*package, key))
    }

    /// The item is new, or has changed from `before`.
    pub(super) fn put(&mut self, key: ItemKey, before: Option<&Item>, item: &Item) {
        if before.is_none() {
            self.packages.insert((item.package, key));
            self.due
                .extend(item.deadline.map(|deadline| (deadline, key)));
        }
        if item.retained.is_some() {
            if let Some(before) = before {
                self.kept.remove(key, before);
            }
            return self.kept.insert(key, item);
        }
        if let Some(before) = before {
            self.count(before, -1);
        }
        self.count(item, 1);
        if item.state() == ItemState::Waiting {
            let idle = self.attempts.get(&key).is_none_or(|attempt| {
                attempt.lease.is_none() && attempt.until.is_none() && !attempt.parked
            });
            if idle {
                self.line(item).ready.insert(key);
            }
        } else {
            self.leave_line(key, item);
        }
    }

    /// Whatever delays the item ends.
    pub(super) fn retry(&mut self, key: ItemKey, item: &Item) {
        self.leave_line(key, item);
        self.attempts.remove(&key);
        if item.state() == ItemState::Waiting {
            self.line(item).ready.insert(key);
        }
    }

    /// The item is finished.
    pub(super) fn remove(&mut self, key: ItemKey, item: &Item) {
        self.packages.remove(&(item.package, key));
        if let Some(deadline) = item.deadline {
            self.due.remove(&(deadline, key));
        }
        if item.retained.is_some() {
            return self.kept.remove(key, item);
        }
        self.leave_line(key, item);
        self.attempts.remove(&key);
        self.count(item, -1);
        let line = (item.next_hop.clone(), item.class);
        let empty = |line: &Line| line.ready.is_empty() && line.delayed.is_empty();
        if self.lines.get(&line).is_some_and(empty) {
            self.lines.remove(&line);
        }
    }

    /// Takes up to `n` keys off the line, oldest first, each under a lease of its own.
    pub(super) fn claim(
        &mut self,
        hop: &Hop,
        class: Class,
        n: usize,
        now: Instant,
    ) -> Vec<(LeaseToken, ItemKey)> {
        let Some(line) = self.lines.get_mut(&(hop.clone(), class)) else {
            return Vec::new();
        };
        while let Some(&(at, key)) = line.delayed.first() {
            if at > now {
                break;
            }
            line.delayed.pop_first();
            line.ready.insert(key);
        }
        let keys: Vec<ItemKey> = line.ready.iter().take(n).copied().collect();
        keys.into_iter()
            .map(|key| (self.lease(hop, class, key), key))
            .collect()
    }

    fn lease(&mut self, hop: &Hop, class: Class, key: ItemKey) -> LeaseToken {
        if let Some(line) = self.lines.get_mut(&(hop.clone(), class)) {
            line.ready.remove(&key);
        }
        self.last_token += 1;
        let token = LeaseToken(self.last_token);
        let attempt = self.attempts.entry(key).or_default();
        attempt.count = attempt.count.saturating_add(1);
        attempt.lease = Some(token);
        attempt.until = None;
        self.leases.insert(token, (key, hop.clone(), class));
        token
    }

    /// Ends a lease; `false` when the log or an operator has ended it before.
    pub(super) fn settle(&mut self, token: LeaseToken, settle: Settle) -> bool {
        let Some((key, hop, class)) = self.leases.remove(&token) else {
            return false;
        };
        let attempt = self.attempts.entry(key).or_default();
        attempt.lease = None;
        match settle {
            Settle::Return => {
                attempt.count = attempt.count.saturating_sub(1);
                self.lines
                    .entry((hop, class))
                    .or_default()
                    .ready
                    .insert(key);
            }
            Settle::Retry {
                at,
                progress,
                error,
            } => {
                if progress {
                    attempt.count = 0;
                }
                attempt.until = Some(at);
                attempt.last_error = cut(error);
                let line = self.lines.entry((hop, class)).or_default();
                line.delayed.insert((at, key));
            }
            Settle::Park { error } => {
                attempt.parked = true;
                attempt.last_error = cut(error);
            }
        }
        true
    }

    /// The hop has shown itself: its delayed items are ready at once.
    pub(super) fn wake(&mut self, hop: &Hop) {
        for class in Class::ALL {
            let Some(line) = self.lines.get_mut(&(hop.clone(), class)) else {
                continue;
            };
            for (_, key) in std::mem::take(&mut line.delayed) {
                line.ready.insert(key);
                if let Some(attempt) = self.attempts.get_mut(&key) {
                    attempt.until = None;
                }
            }
        }
    }

    /// When the line has something to claim: `now`, later, or never unless it changes.
    pub(super) fn next_attempt(&self, hop: &Hop, class: Class, now: Instant) -> Option<Instant> {
        let line = self.lines.get(&(hop.clone(), class))?;
        if !line.ready.is_empty() {
            return Some(now);
        }
        line.delayed.first().map(|(at, _)| *at)
    }

    pub(super) fn attempt(&self, key: ItemKey) -> Attempt {
        self.attempts.get(&key).cloned().unwrap_or_default()
    }

    pub(super) fn counts(&self) -> BTreeMap<Hop, Counts> {
        self.counts.clone()
    }

    /// Up to `limit` items whose deadline is not after `until`, earliest first.
    pub(super) fn due(&self, until: Timestamp, limit: usize) -> Vec<ItemKey> {
        let due = self.due.iter().take_while(|(at, _)| *at <= until);
        due.take(limit).map(|(_, key)| *key).collect()
    }

    /// The first deadline.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// What may be purged: see [`super::Queue::purgeable`].
    pub(super) fn purgeable(&self, going: Going, limit: usize) -> Vec<ItemKey> {
        self.kept.purgeable(going, limit)
    }

    pub(super) fn retention(&self) -> Retention {
        self.kept.retention()
    }

    fn line(&mut self, item: &Item) -> &mut Line {
        let line = (item.next_hop.clone(), item.class);
        self.lines.entry(line).or_default()
    }

    fn leave_line(&mut self, key: ItemKey, item: &Item) {
        let attempt = self.attempts.get_mut(&key);
        let until = attempt.as_ref().and_then(|attempt| attempt.until);
        if let Some(attempt) = attempt {
            attempt.until = None;
            attempt.parked = false;
            if let Some(token) = attempt.lease.take() {
                self.leases.remove(&token);
            }
        }
        let line = (item.next_hop.clone(), item.class);
        if let Some(line) = self.lines.get_mut(&line) {
            line.ready.remove(&key);
            if let Some(until) = until {
                line.delayed.remove(&(until, key));
            }
        }
    }

    fn count(&mut self, item: &Item, by: i64) {
        let counts = self.counts.entry(item.next_hop.clone()).or_default();
        let number = match (item.is_package(), item.state()) {
            (false, _) => &mut counts.statements,
            (true, ItemState::Waiting) => &mut counts.waiting,
            (true, ItemState::Held) => &mut counts.held,
            // What is over is counted elsewhere, and is no package on its way.
            (true, ItemState::Forwarded | ItemState::Retained) => &mut counts.forwarded,
            (true, ItemState::Damaged) => &mut counts.damaged,
        };
        *number = number.saturating_add_signed(by);
        let length = item
            .pack
            .map_or(0, |pack| i64::try_from(pack.length).unwrap_or(0));
        counts.bytes = counts.bytes.saturating_add_signed(length * by);
        if *counts == Counts::default() {
            self.counts.remove(&item.next_hop);
        }
    }
}

fn cut(mut error: String) -> String {
    let end = (0..=ERROR_LEN_MAX.min(error.len()))
        .rev()
        .find(|&at| error.is_char_boundary(at));
    error.truncate(end.unwrap_or(0));
    error
}
