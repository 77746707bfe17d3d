//! Where the unfinished items lie. One engine per file below.

use passerelle_proto::Digest;

use super::item::{Item, ItemKey};

/// How much of the log the items stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Number of log entries.
    pub size: u64,
    /// Merkle root of the log at that size; tells whether it is the same log.
    pub root: Digest,
}

impl Applied {
    /// Nothing yet. The root is that of an empty log (RFC 6962: SHA-256 of nothing).
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            size: 0,
            root: Digest::of(b""),
        }
    }
}

/// The items cannot be read or written. Nothing is lost: they are rebuilt from the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The database refuses.
    #[error("queue database: {operation}: {cause}")]
    Database {
        /// What was tried.
        operation: &'static str,
        /// What the database says.
        cause: String,
    },
    /// The database has not answered in time, or its thread is gone.
    #[error("queue database: no answer to {operation}; restart, and the queue is rebuilt")]
    Stuck {
        /// What was tried.
        operation: &'static str,
    },
    /// A record that was not written by this software.
    #[error("queue database: a record cannot be read; the queue has to be rebuilt from the log")]
    Record,
}

/// Which items a scan goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Those that are on their way.
    Open,
    /// What is kept of packages that are over.
    Retained,
}

/// Items by key.
///
/// Writes may be lost, and their errors unsaid, until [`Store::commit`] has returned. What is found
/// after a crash is at least the state of the last commit, and at most some writes more.
pub(crate) trait Store: Send {
    /// One item.
    fn get(&self, key: ItemKey) -> Result<Option<Item>, StoreError>;
    /// Adds or replaces an item.
    fn put(&mut self, key: ItemKey, item: &Item) -> Result<(), StoreError>;
    /// Removes an item.
    fn remove(&mut self, key: ItemKey) -> Result<(), StoreError>;
    /// Notes how far the log is applied and makes everything so far durable.
    fn commit(&mut self, applied: Applied) -> Result<(), StoreError>;
    /// How far the log was applied at the last commit.
    fn applied(&self) -> Applied;
    /// Up to `limit` items of a part after `after`, oldest first.
    fn scan(
        &self,
        part: Part,
        after: Option<ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Item)>, StoreError>;
    /// Forgets everything, so that it can be rebuilt.
    fn clear(&mut self) -> Result<(), StoreError>;
    /// A stop in good order: the next start may trust what is there.
    fn close(&mut self) -> Result<(), StoreError>;
}
