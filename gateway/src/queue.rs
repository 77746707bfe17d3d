//! The queue: which package and which statement still has to go where.
//!
//! A projection of the audit log and nothing else. An entry is committed first and applied here
//! afterwards, by one pure [`fold`]; a queue that is lost, behind or unreadable is rebuilt from the
//! log. Finished items are not kept. Leases, attempts and delays live in memory and are void at a
//! restart.

mod board;
mod damage;
mod database;
mod fold;
mod item;
mod kept;
mod memory;
mod projection;
mod store;

use std::collections::BTreeMap;
use std::time::Instant;

use passerelle_host::Changes;
use passerelle_proto::{Hop, PackageId, Timestamp, v1};

pub use fold::{Change, FoldError, Items, fold};
pub use item::{Class, Item, ItemKey, ItemState, Retained};
pub use projection::{MemQueue, SledQueue};
pub use store::{Applied, StoreError};

/// Most items that one claim or page hands out.
pub const PAGE_MAX: usize = 1024;

/// The queue can no longer follow the log. Nothing is lost: stop, and rebuild it at the start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// An entry cannot be read.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// The engine fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Entries are missing between what is applied and what is given.
    #[error("entry {first} cannot be applied after entry {size}: entries are missing between")]
    Gap {
        /// Number of entries applied.
        size: u64,
        /// Index given.
        first: u64,
    },
}

/// Names a lease. Never used twice while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseToken(pub(crate) u64);

/// An item that nobody else is given until the lease is settled, or the log ends it.
#[derive(Clone, Debug)]
pub struct Lease {
    /// To be given back with [`Queue::settle`].
    pub token: LeaseToken,
    /// Which item.
    pub key: ItemKey,
    /// The item.
    pub item: Item,
    /// Attempts so far, this one included.
    pub attempts: u32,
}

/// How a lease ends that the log has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Nothing was tried: ready at once, and not counted.
    Return,
    /// Not before `at` again.
    Retry {
        /// Monotonic time of the next attempt.
        at: Instant,
        /// Whether the item got further: attempts are counted anew.
        progress: bool,
        /// What went wrong, for people.
        error: String,
    },
    /// Not again before an operator says so (`retried`) or the process restarts.
    Park {
        /// What went wrong, for people.
        error: String,
    },
}

/// An item and what this process has tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemView {
    /// Which item.
    pub key: ItemKey,
    /// The item.
    pub item: Item,
    /// Whether somebody has it on lease.
    pub leased: bool,
    /// Attempts since the start of this process.
    pub attempts: u32,
    /// What went wrong last, or empty.
    pub last_error: String,
}

/// Unfinished items of one next hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packages to be handed over.
    pub waiting: u64,
    /// Packages held back.
    pub held: u64,
    /// Packages handed over, terminal statement awaited.
    pub forwarded: u64,
    /// Packages whose copy here is damaged.
    pub damaged: u64,
    /// Statements to be handed over.
    pub statements: u64,
    /// Length of these packages in the spool, in bytes.
    pub bytes: u64,
}

impl Counts {
    /// All items.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.waiting + self.held + self.forwarded + self.damaged + self.statements
    }
}

/// What is kept of packages that are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Packages whose chunks are kept.
    pub packages: u64,
    /// Length of these in the spool, in bytes.
    pub bytes: u64,
    /// Packages of which only what stands before the chunks is kept.
    pub heads: u64,
    /// Those among both of which something is to go by a decision in the log.
    pub decided: u64,
    /// When the next part of any of the others is due to go.
    pub due: Option<Timestamp>,
}

/// What of the packages that are over is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Going {
    /// What is to go by a decision in the log, oldest package first.
    Decided,
    /// What is due, the earliest first.
    Due {
        /// Last time that counts as due.
        until: Timestamp,
        /// Only packages that were over with an entry below this index.
        below: u64,
    },
    /// Chunks, due or not, in the order in which they will be.
    Early {
        /// As for what is due.
        below: u64,
    },
}

/// The unfinished items. All methods may be called from any thread; they block for the time of a
/// database access.
pub trait Queue: Send + Sync {
    /// Applies entries that the log has committed from `first_index` on; `root` is the log's root
    /// after the last of them. Entries applied before are passed over.
    ///
    /// When this returns the items are as durable as the engine makes them; the log stays the
    /// truth.
    ///
    /// # Errors
    /// [`QueueError`]: the queue must not be used any more.
    fn apply(
        &self,
        first_index: u64,
        entries: &[v1::Entry],
        root: passerelle_proto::Digest,
    ) -> Result<(), QueueError>;

    /// How much of the log is applied.
    fn applied(&self) -> Applied;

    /// Leases up to `n` waiting items of a class to `peer`, oldest first.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    fn claim(
        &self,
        peer: &Hop,
        class: Class,
        n: usize,
        now: Instant,
    ) -> Result<Vec<Lease>, QueueError>;

    /// Ends a lease; `false` when the log or an operator has ended it before.
    fn settle(&self, token: LeaseToken, settle: Settle) -> bool;

    /// The peer has shown itself: what was delayed after a failure is ready at once.
    fn wake(&self, peer: &Hop);

    /// When there is something to claim: `now`, later, or `None` until something changes.
    fn next_attempt(&self, peer: &Hop, class: Class, now: Instant) -> Option<Instant>;

    /// Items of a package, of the statements about it, and what is kept of it, oldest first.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    fn find(&self, package: &PackageId) -> Result<Vec<ItemView>, QueueError>;

    /// Up to `limit` (at most [`PAGE_MAX`]) items after `after`, oldest first.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    fn page(&self, after: Option<ItemKey>, limit: usize) -> Result<Vec<ItemView>, QueueError>;

    /// As [`Queue::page`], of what is kept of packages that are over.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    fn retained_page(
        &self,
        after: Option<ItemKey>,
        limit: usize,
    ) -> Result<Vec<ItemView>, QueueError>;

    /// Up to `limit` packages that are over and of which something is to go.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    fn purgeable(&self, going: Going, limit: usize) -> Result<Vec<ItemView>, QueueError>;

    /// How much is kept of packages that are over.
    fn retention(&self) -> Retention;

    /// Up to `limit` packages whose deadline is not after `until`, earliest first.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    fn due(&self, until: Timestamp, limit: usize) -> Result<Vec<ItemView>, QueueError>;

    /// The earliest deadline, if any.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    fn next_due(&self) -> Result<Option<Timestamp>, QueueError>;

    /// Unfinished items by next hop; hops without any are absent.
    fn counts(&self) -> BTreeMap<Hop, Counts>;

    /// Changes whenever something may have become claimable.
    fn changed(&self) -> Changes;

    /// Forgets everything, so that the whole log can be applied from entry 0.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    fn reset(&self) -> Result<(), QueueError>;

    /// A stop in good order: the next start need not rebuild.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    fn close(&self) -> Result<(), QueueError>;
}

#[cfg(test)]
mod tests;
