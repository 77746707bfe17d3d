//! Items in memory: for tests and simulations, and the measure for the other engine.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use passerelle_proto::Timestamp;

use super::item::{Item, ItemKey};
use super::store::{Applied, Part, Store, StoreError};

/// Loses everything when it is dropped.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    items: BTreeMap<ItemKey, Item>,
    due: BTreeSet<(Timestamp, ItemKey)>,
    applied: Applied,
}

impl MemoryStore {
    pub(crate) fn new() -> Self {
        Self {
            items: BTreeMap::new(),
            due: BTreeSet::new(),
            applied: Applied::nothing(),
        }
    }
}

impl Store for MemoryStore {
    fn get(&self, key: ItemKey) -> Result<Option<Item>, StoreError> {
        Ok(self.items.get(&key).cloned())
    }

    fn put(&mut self, key: ItemKey, item: &Item) -> Result<(), StoreError> {
        if let Some(deadline) = item.deadline {
            self.due.insert((deadline, key));
        }
        self.items.insert(key, item.clone());
        Ok(())
    }

    fn remove(&mut self, key: ItemKey, item: &Item) -> Result<(), StoreError> {
        if let Some(deadline) = item.deadline {
            self.due.remove(&(deadline, key));
        }
        self.items.remove(&key);
        Ok(())
    }

    fn commit(&mut self, applied: Applied) -> Result<(), StoreError> {
        self.applied = applied;
        Ok(())
    }

    fn applied(&self) -> Applied {
        self.applied
    }

    fn scan(
        &self,
        part: Part,
        after: Option<ItemKey>,
        limit: usize,
    ) -> Result<Vec<(ItemKey, Item)>, StoreError> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.items.range((start, Bound::Unbounded));
        let wanted = |key: &ItemKey| key.is_retained() == (part == Part::Retained);
        Ok(range
            .filter(|(key, _)| wanted(key))
            .take(limit)
            .map(|(key, item)| (*key, item.clone()))
            .collect())
    }

    fn due(&self, until: Timestamp, limit: usize) -> Result<Vec<(Timestamp, ItemKey)>, StoreError> {
        let due = self.due.iter().take_while(|(at, _)| *at <= until);
        Ok(due.take(limit).copied().collect())
    }

    fn clear(&mut self) -> Result<(), StoreError> {
        *self = Self::new();
        Ok(())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
