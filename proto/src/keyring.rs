//! The keys that a program holds, of which its party's sheet says which one counts now.
//!
//! A successor is given to the program before the sheet lists it, and takes over by itself when it
//! does; what was signed or sealed with the key before stays valid.

use std::sync::{Arc, PoisonError, RwLock};

use crate::{Directory, KeyId, KeyRole, PartyId, RecipientSecret, SigningKey, Timestamp};

/// Keys of one kind that a program may hold at once.
pub const KEYS_HELD_MAX: usize = 16;

/// Signing keys for one role.
#[derive(Debug)]
pub struct SigningKeys {
    role: KeyRole,
    keys: RwLock<Vec<Arc<SigningKey>>>,
}

impl SigningKeys {
    /// The keys, in the order of the configuration; `None` when there are none.
    pub fn new(role: KeyRole, keys: Vec<SigningKey>) -> Option<Self> {
        let keys: Vec<_> = keys.into_iter().map(Arc::new).collect();
        (!keys.is_empty()).then(|| Self {
            role,
            keys: RwLock::new(keys),
        })
    }

    /// Takes these keys instead; nothing happens when there are none.
    pub fn replace(&self, with: Self) {
        let with = with.keys.into_inner();
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        *keys = with.unwrap_or_else(PoisonError::into_inner);
    }

    /// Ids of all keys held.
    pub fn ids(&self) -> Vec<KeyId> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().map(|key| key.id()).collect()
    }

    /// The newest key that the sheets of its party let speak at `now`.
    ///
    /// Where they let none of them, the first one configured: whoever gets what it signs says why
    /// it does not count.
    pub fn current(&self, directory: &Directory, now: Timestamp) -> Arc<SigningKey> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let since = |key: &&Arc<SigningKey>| {
            let entry = directory.signing_key(key.party(), &key.id())?;
            let dates = entry.not_before <= now && now <= entry.not_after;
            let believed = entry.revoked.is_none_or(|at| at > now);
            (dates && believed && entry.may(self.role)).then_some(entry.not_before)
        };
        // Of several that begin at the same time, the first.
        let valid = keys.iter().rev().filter(|key| since(key).is_some());
        let newest = valid.max_by_key(since);
        // `new` refuses to make a ring without keys.
        Arc::clone(newest.unwrap_or(&keys[0]))
    }
}

/// Keys that open packages.
#[derive(Debug)]
pub struct RecipientKeys(RwLock<Vec<Arc<RecipientSecret>>>);

impl RecipientKeys {
    /// The keys; `None` when there are none.
    pub fn new(keys: Vec<RecipientSecret>) -> Option<Self> {
        let keys: Vec<_> = keys.into_iter().map(Arc::new).collect();
        (!keys.is_empty()).then(|| Self(RwLock::new(keys)))
    }

    /// Takes these keys instead.
    pub fn replace(&self, with: Self) {
        let with = with.0.into_inner();
        let mut keys = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *keys = with.unwrap_or_else(PoisonError::into_inner);
    }

    /// Ids of all keys held.
    pub fn ids(&self) -> Vec<KeyId> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().map(|key| key.id()).collect()
    }

    /// The key for a package that is sealed for these; the first one where none of them is ours,
    /// whose opening then says so.
    pub fn choose(&self, sealed_for: &[KeyId]) -> Arc<RecipientSecret> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let ours = keys.iter().find(|key| sealed_for.contains(&key.id()));
        // `new` refuses to make a ring without keys.
        Arc::clone(ours.unwrap_or(&keys[0]))
    }

    /// Whether a sheet of the party lists at least one of them.
    pub fn is_listed(&self, directory: &Directory, party: &PartyId) -> bool {
        let ids = self.ids();
        let sheet = directory.sheet(party);
        sheet.is_some_and(|sheet| sheet.recipients.iter().any(|key| ids.contains(&key.id())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, NOW, keys as keys_of, party, world};
    use crate::{Adopted, Revocation, Sheet, SheetKey};

    fn successor() -> SigningKey {
        SigningKey::from_seed(&party("caf21"), &[77; 64])
    }

    /// After a second sheet that lists the successor from `NOW` on.
    fn overlapping(edit: impl FnOnce(&mut Sheet)) -> Directory {
        let mut sheet = fixture::sheet("caf21");
        sheet.seq = 2;
        sheet.keys.push(SheetKey {
            key: successor().verifying_key().clone(),
            roles: vec![KeyRole::Agent],
            not_before: NOW,
            not_after: "2026-11-01".parse().unwrap(),
        });
        edit(&mut sheet);
        let note = sheet.sign(&keys_of("caf21").root).unwrap();
        match world().directory.adopt_note(&note).unwrap() {
            Adopted::Newer(directory) => directory,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_newest_key_that_the_sheet_lets_speak_now_signs() {
        let old = keys_of("caf21").agent.id();
        let new = successor().id();
        let keys = SigningKeys::new(KeyRole::Agent, vec![keys_of("caf21").agent, successor()]);
        let keys = keys.unwrap();
        let unlisted = keys.current(&world().directory, NOW).id();
        assert_eq!(unlisted, old, "no sheet lists the successor yet");
        let overlapping_now = overlapping(|_| {});
        let before = Timestamp::from_ms(NOW.as_ms() - 1);
        assert_eq!(keys.current(&overlapping_now, before).id(), old);
        assert_eq!(keys.current(&overlapping_now, NOW).id(), new);
        let late = "2026-11-15".parse().unwrap();
        assert_eq!(keys.current(&overlapping_now, late).id(), old);
        let revoked = overlapping(|sheet| {
            sheet.revocations.push(Revocation {
                key: new,
                at: NOW,
                reason: "lost".into(),
            });
        });
        assert_eq!(keys.current(&revoked, NOW).id(), old);
        let other_role = overlapping(|sheet| sheet.keys[2].roles = vec![KeyRole::Operator]);
        assert_eq!(keys.current(&other_role, NOW).id(), old);
    }

    #[test]
    fn there_is_always_a_key() {
        assert!(SigningKeys::new(KeyRole::Agent, Vec::new()).is_none());
        let keys = SigningKeys::new(KeyRole::Agent, vec![successor()]).unwrap();
        let found = keys.current(&world().directory, NOW);
        assert_eq!(found.id(), successor().id());
        let with = SigningKeys::new(KeyRole::Agent, vec![keys_of("caf21").agent]);
        keys.replace(with.unwrap());
        assert_eq!(keys.ids(), [keys_of("caf21").agent.id()]);
    }
}
