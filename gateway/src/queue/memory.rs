//! Items in memory: for tests and simulations, and the measure for the other engine.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::item::{Item, ItemKey};
use super::store::{Applied, Part, Store, StoreError};

/// Loses everything when it is dropped.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    items: BTreeMap<ItemKey, Item>,
    applied: Applied,
}

impl MemoryStore {
    pub(crate) fn new() -> Self {
        Self {
            items: BTreeMap::new(),
            applied: Applied::nothing(),
        }
    }
}

impl Store for MemoryStore {
    fn get(&self, key: ItemKey) -> Result<Option<Item>, StoreError> {
        Ok(self.items.get(&key).cloned())
    }

    fn put(&mut self, key: ItemKey, item: &Item) -> Result<(), StoreError> {
        self.items.insert(key, item.clone());
        Ok(())
    }

    fn remove(&mut self, key: ItemKey) -> Result<(), StoreError> {
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

    fn clear(&mut self) -> Result<(), StoreError> {
        *self = Self::new();
        Ok(())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}
