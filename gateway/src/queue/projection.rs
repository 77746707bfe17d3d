//! The queue over either engine: fold, then store, then board.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use passerelle_disk::Disk;
use passerelle_host::{Changes, Signal};
use passerelle_proto::{Digest, Hop, PackageId, Timestamp, v1};

use super::board::Board;
use super::database::Database;
use super::fold::{Change, Items, fold};
use super::item::{Class, Item, ItemKey};
use super::memory::MemoryStore;
use super::store::{Applied, Part, Store, StoreError};
use super::{
    Counts, Going, ItemView, Lease, LeaseToken, PAGE_MAX, Queue, QueueError, Retention, Settle,
};

/// The queue in a sled database: unfinished items only.
pub struct SledQueue(Projection<Database>);

impl SledQueue {
    /// Opens or creates the database in `dir`. One that cannot be opened, or that a crash of the
    /// machine may have damaged, is moved aside and a new one is begun: [`Queue::applied`] then
    /// says 0, and the log has to be applied from there.
    ///
    /// # Errors
    /// [`QueueError::Store`] when not even an empty database can be made.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Self, QueueError> {
        Ok(Self(Projection::over(Database::open(disk, dir)?)?))
    }
}

/// The queue in memory, for tests and simulations.
pub struct MemQueue(Projection<MemoryStore>);

impl MemQueue {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self(Projection::with(MemoryStore::new()))
    }
}

#[cfg(test)]
impl MemQueue {
    /// As after a crash in the middle of the first batch.
    pub(super) fn forget_applied(&self) {
        let mut inner = self.0.inner();
        inner.store.commit(Applied::nothing()).unwrap();
    }
}

impl Default for MemQueue {
    fn default() -> Self {
        Self::new()
    }
}

struct Inner<S> {
    store: S,
    board: Board,
}

struct Projection<S> {
    inner: Mutex<Inner<S>>,
    changed: Signal,
}

impl<S: Store> Items for Inner<S> {
    fn of_package(&self, package: &PackageId) -> Result<Vec<(ItemKey, Item)>, StoreError> {
        let mut items = Vec::new();
        for key in self.board.of_package(package) {
            items.push((key, self.known(key)?));
        }
        Ok(items)
    }

    fn holds(&self, package: &PackageId, key: ItemKey) -> bool {
        self.board.holds(package, key)
    }

    fn item(&self, key: ItemKey) -> Result<Option<Item>, StoreError> {
        self.store.get(key)
    }
}

impl<S: Store> Inner<S> {
    /// An item that the board knows of.
    fn known(&self, key: ItemKey) -> Result<Item, StoreError> {
        self.store.get(key)?.ok_or(StoreError::Record)
    }

    fn put(&mut self, key: ItemKey, item: &Item) -> Result<(), StoreError> {
        let before = match self.board.holds(&item.package, key) {
            true => Some(self.known(key)?),
            false => None,
        };
        self.store.put(key, item)?;
        self.board.put(key, before.as_ref(), item);
        Ok(())
    }

    fn change(&mut self, change: Change) -> Result<(), StoreError> {
        match change {
            Change::Put(key, item) => self.put(key, &item),
            Change::Retry(key, item) => {
                self.put(key, &item)?;
                self.board.retry(key, &item);
                Ok(())
            }
            Change::Remove(key) => {
                let Some(item) = self.store.get(key)? else {
                    return Ok(());
                };
                self.store.remove(key)?;
                self.board.remove(key, &item);
                Ok(())
            }
        }
    }

    fn view(&self, key: ItemKey, item: Item) -> ItemView {
        let attempt = self.board.attempt(key);
        ItemView {
            key,
            item,
            leased: attempt.lease.is_some(),
            attempts: attempt.count,
            last_error: attempt.last_error,
        }
    }
}

impl<S: Store> Projection<S> {
    fn with(store: S) -> Self {
        let board = Board::default();
        Self {
            inner: Mutex::new(Inner { store, board }),
            changed: Signal::default(),
        }
    }

    /// Draws up the lines from the items that are there.
    fn over(store: S) -> Result<Self, StoreError> {
        let queue = Self::with(store);
        let mut inner = queue.inner();
        for part in [Part::Open, Part::Retained] {
            let mut after = None;
            loop {
                let page = inner.store.scan(part, after, PAGE_MAX)?;
                let Some((last, _)) = page.last() else { break };
                after = Some(*last);
                for (key, item) in page {
                    inner.board.put(key, None, &item);
                }
            }
        }
        drop(inner);
        Ok(queue)
    }

    fn inner(&self) -> MutexGuard<'_, Inner<S>> {
        // A panic between store and board is a bug of this file; the log still has everything.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.changed.tell();
    }

    fn apply(&self, first: u64, entries: &[v1::Entry], root: Digest) -> Result<(), QueueError> {
        let mut inner = self.inner();
        let size = inner.store.applied().size;
        if first > size {
            return Err(QueueError::Gap { size, first });
        }
        let end = first.saturating_add(entries.len() as u64);
        if end <= size {
            return Ok(());
        }
        for (index, entry) in (first..).zip(entries).skip((size - first) as usize) {
            for change in fold(&*inner, index, entry)? {
                inner.change(change)?;
            }
        }
        inner.store.commit(Applied { size: end, root })?;
        drop(inner);
        self.notify();
        Ok(())
    }

    fn claim(
        &self,
        peer: &Hop,
        class: Class,
        n: usize,
        now: Instant,
    ) -> Result<Vec<Lease>, QueueError> {
        let mut inner = self.inner();
        let mut leases = Vec::new();
        for (token, key) in inner.board.claim(peer, class, n.min(PAGE_MAX), now) {
            let item = inner.known(key)?;
            let attempts = inner.board.attempt(key).count;
            leases.push(Lease {
                token,
                key,
                item,
                attempts,
            });
        }
        Ok(leases)
    }

    fn find(&self, package: &PackageId) -> Result<Vec<ItemView>, QueueError> {
        let inner = self.inner();
        let items = inner.of_package(package)?;
        Ok(items
            .into_iter()
            .map(|(key, item)| inner.view(key, item))
            .collect())
    }

    fn page(
        &self,
        part: Part,
        after: Option<ItemKey>,
        limit: usize,
    ) -> Result<Vec<ItemView>, QueueError> {
        let inner = self.inner();
        let items = inner.store.scan(part, after, limit.min(PAGE_MAX))?;
        Ok(items
            .into_iter()
            .map(|(key, item)| inner.view(key, item))
            .collect())
    }

    fn due(&self, until: Timestamp, limit: usize) -> Result<Vec<ItemView>, QueueError> {
        let inner = self.inner();
        let mut views = Vec::new();
        for key in inner.board.due(until, limit.min(PAGE_MAX)) {
            let item = inner.known(key)?;
            views.push(inner.view(key, item));
        }
        Ok(views)
    }

    fn purgeable(&self, going: Going, limit: usize) -> Result<Vec<ItemView>, QueueError> {
        let inner = self.inner();
        let keys = inner.board.purgeable(going, limit.min(PAGE_MAX));
        let mut views = Vec::new();
        for key in keys {
            let item = inner.known(key)?;
            views.push(inner.view(key, item));
        }
        Ok(views)
    }

    fn reset(&self) -> Result<(), QueueError> {
        let mut inner = self.inner();
        inner.store.clear()?;
        inner.board = Board::default();
        drop(inner);
        self.notify();
        Ok(())
    }
}

macro_rules! queue {
    ($queue:ty) => {
        impl Queue for $queue {
            fn apply(
                &self,
                first_index: u64,
                entries: &[v1::Entry],
                root: Digest,
            ) -> Result<(), QueueError> {
                self.0.apply(first_index, entries, root)
            }

            fn applied(&self) -> Applied {
                self.0.inner().store.applied()
            }

            fn claim(
                &self,
                peer: &Hop,
                class: Class,
                n: usize,
                now: Instant,
            ) -> Result<Vec<Lease>, QueueError> {
                self.0.claim(peer, class, n, now)
            }

            fn settle(&self, token: LeaseToken, settle: Settle) -> bool {
                let settled = self.0.inner().board.settle(token, settle);
                self.0.notify();
                settled
            }

            fn wake(&self, peer: &Hop) {
                self.0.inner().board.wake(peer);
                self.0.notify();
            }

            fn next_attempt(&self, peer: &Hop, class: Class, now: Instant) -> Option<Instant> {
                self.0.inner().board.next_attempt(peer, class, now)
            }

            fn find(&self, package: &PackageId) -> Result<Vec<ItemView>, QueueError> {
                self.0.find(package)
            }

            fn page(
                &self,
                after: Option<ItemKey>,
                limit: usize,
            ) -> Result<Vec<ItemView>, QueueError> {
                self.0.page(Part::Open, after, limit)
            }

            fn retained_page(
                &self,
                after: Option<ItemKey>,
                limit: usize,
            ) -> Result<Vec<ItemView>, QueueError> {
                self.0.page(Part::Retained, after, limit)
            }

            fn purgeable(&self, going: Going, limit: usize) -> Result<Vec<ItemView>, QueueError> {
                self.0.purgeable(going, limit)
            }

            fn retention(&self) -> Retention {
                self.0.inner().board.retention()
            }

            fn due(&self, until: Timestamp, limit: usize) -> Result<Vec<ItemView>, QueueError> {
                self.0.due(until, limit)
            }

            fn next_due(&self) -> Result<Option<Timestamp>, QueueError> {
                Ok(self.0.inner().board.next_due())
            }

            fn counts(&self) -> BTreeMap<Hop, Counts> {
                self.0.inner().board.counts()
            }

            fn changed(&self) -> Changes {
                self.0.changed.subscribe()
            }

            fn reset(&self) -> Result<(), QueueError> {
                self.0.reset()
            }

            fn close(&self) -> Result<(), QueueError> {
                Ok(self.0.inner().store.close()?)
            }
        }
    };
}

queue!(SledQueue);
queue!(MemQueue);
