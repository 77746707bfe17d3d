//! What was received, and what was said about it: `received/<date>/<id>/`.
//!
//! ```text
//! manifest         the signed manifest, verbatim
//! description      entry names, title, period (not for what was refused)
//! place            where it goes in the inbox, relative to the agent's directory
//! hook             the `on_receive` command has still to be told of it
//! unacked/, acked/ what we have said about it
//! ```
//!
//! This register, never the inbox, says whether a package has been received.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use passerelle_disk::{At, Disk, DiskError, beside, crash_point};
use passerelle_proto::v1::{self, statement::What};
use passerelle_proto::{Digest, PackageId, StatementId, Timestamp};
use prost::Message;

use crate::said::Said;
use crate::store::Store;

/// Name of the file that says that the command has still to be told.
const HOOK: &str = "hook";
/// How long an entry outlives the `not_after` of its package.
pub const KEPT_AFTER: Duration = Duration::from_secs(90 * 24 * 3_600);

/// All entries, found by package id.
#[derive(Debug)]
pub struct Register {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    entries: Mutex<BTreeMap<PackageId, PathBuf>>,
}

/// One received (or refused) package.
#[derive(Debug, Clone)]
pub struct Entry {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    directory: PathBuf,
    id: PackageId,
}

impl Register {
    /// Reads the names under `received/`; removes what was being written when the agent died.
    ///
    /// Files of somebody else are passed over. A day that cannot be read is an error all the same:
    /// what was received on it would be taken for new, and delivered once more.
    pub fn load(store: &Store) -> Result<Register, DiskError> {
        let disk = store.disk();
        let mut entries = BTreeMap::new();
        for date in disk.entries(&store.received())? {
            let listed = match disk.entries(&date) {
                Err(error) if is_none_of_ours(&date, &error) => {
                    tracing::warn!(%error, "in received/ this is passed over");
                    continue;
                }
                listed => listed?,
            };
            for directory in listed {
                let name = directory.file_name().unwrap_or_default().to_string_lossy();
                match name.parse::<PackageId>() {
                    Ok(id) => {
                        entries.insert(id, directory);
                    }
                    Err(_) if name.ends_with(".tmp") => {
                        if let Err(error) = disk.remove_tree(&directory) {
                            tracing::warn!(%error, "what is half written in received/ stays");
                        }
                    }
                    Err(_) => {}
                }
            }
        }
        Ok(Register {
            disk: disk.clone(),
            root: store.root().to_owned(),
            entries: Mutex::new(entries),
        })
    }

    /// The entry of a package.
    pub fn find(&self, id: PackageId) -> Option<Entry> {
        let directory = self.entries().get(&id)?.clone();
        Some(self.entry(id, directory))
    }

    /// All entries, in the order of their ids.
    pub fn all(&self) -> Vec<Entry> {
        let entries = self.entries();
        let entry = |(id, directory): (&PackageId, &PathBuf)| self.entry(*id, directory.clone());
        entries.iter().map(entry).collect()
    }

    /// Enters a package that was opened. On return the entry is durable; it appears whole or not
    /// at all. `place` is absolute and below the agent's directory; a test package has none. With
    /// `hook`, the `on_receive` command is to be told of it.
    pub fn enter(
        &self,
        manifest: &v1::Signed,
        description: &v1::Description,
        place: Option<&Path>,
        hook: bool,
        now: Timestamp,
    ) -> Result<Entry, DiskError> {
        let mut files = vec![("description".to_owned(), description.encode_to_vec())];
        if let Some(place) = place {
            let relative = place.strip_prefix(&self.root).unwrap_or(place);
            let bytes = relative.as_os_str().as_encoded_bytes();
            files.push(("place".to_owned(), bytes.to_vec()));
        }
        if hook {
            files.push((HOOK.to_owned(), Vec::new()));
        }
        self.write(manifest, files, now)
    }

    /// Enters a package that is refused, together with the statement that says so: there is no
    /// moment at which the entry could be taken for one that was opened.
    pub fn enter_refused(
        &self,
        manifest: &v1::Signed,
        id: StatementId,
        refusal: &v1::Signed,
        now: Timestamp,
    ) -> Result<Entry, DiskError> {
        let statement = (format!("unacked/{id}"), refusal.encode_to_vec());
        self.write(manifest, vec![statement], now)
    }

    /// Writes an entry with these files beside its manifest, and gives it its name.
    fn write(
        &self,
        manifest: &v1::Signed,
        files: Vec<(String, Vec<u8>)>,
        now: Timestamp,
    ) -> Result<Entry, DiskError> {
        let id = PackageId(passerelle_proto::Digest::of(&manifest.body));
        let date = self.root.join("received").join(now.date());
        let unfinished = date.join(format!("{id}.tmp"));
        let directory = date.join(id.to_string());
        // An attempt before this one may have failed when it was named; nobody was told of it.
        self.disk.remove_tree(&directory)?;
        self.disk.remove_tree(&unfinished)?;
        self.disk.create_directories(&unfinished)?;
        self.disk
            .replace(&unfinished.join("manifest"), &manifest.encode_to_vec())?;
        for (name, bytes) in files {
            let path = unfinished.join(name);
            if let Some(parent) = path.parent() {
                self.disk.create_directories(parent)?;
            }
            self.disk.replace(&path, &bytes)?;
        }
        crash_point!("enter.written");
        let named = self.disk.rename_synced(&unfinished, &directory);
        // It may have been named all the same: then it is the one entry, whose package is not to be
        // opened again, and the next attempt goes on with it.
        if named.is_ok() || self.disk.is_dir(&directory) {
            self.entries().insert(id, directory.clone());
        }
        named.map(|()| self.entry(id, directory))
    }

    fn entry(&self, id: PackageId, directory: PathBuf) -> Entry {
        Entry {
            disk: self.disk.clone(),
            root: self.root.clone(),
            directory,
            id,
        }
    }

    /// Removes the entries whose package could not be offered any more for [`KEPT_AFTER`], unless
    /// something that we have said about it is still to be sent. Returns how many, and what could
    /// not be read or removed: that stays, and holds nothing else up.
    pub fn prune(&self, now: Timestamp) -> (usize, Vec<DiskError>) {
        let (mut removed, mut failed) = (0, Vec::new());
        for entry in self.all() {
            match self.prune_one(&entry, now) {
                Ok(true) => removed += 1,
                Ok(false) => {}
                Err(error) => failed.push(error),
            }
        }
        (removed, failed)
    }

    fn prune_one(&self, entry: &Entry, now: Timestamp) -> Result<bool, DiskError> {
        let not_after = entry.manifest()?.1.not_after_ms;
        let until = Timestamp::from_ms(not_after).saturating_add(KEPT_AFTER);
        if now <= until || !entry.unacked()?.is_empty() {
            return Ok(false);
        }
        // Half an entry could not be read at the next start: it loses its name first.
        let unfinished = beside(&entry.directory, ".tmp");
        self.disk.rename_synced(&entry.directory, &unfinished)?;
        self.entries().remove(&entry.id);
        self.disk.remove_tree(&unfinished)?;
        Ok(true)
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<PackageId, PathBuf>> {
        // A map of paths is whole at every step: a panic elsewhere does not spoil it.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Entry {
    /// An entry is its directory.
    fn eq(&self, other: &Self) -> bool {
        self.directory == other.directory
    }
}

impl Eq for Entry {}

impl Entry {
    /// The package.
    pub fn id(&self) -> PackageId {
        self.id
    }

    /// Its directory below `received/`.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the `on_receive` command has still to be told of it.
    pub(crate) fn hook_is_due(&self) -> bool {
        self.disk.is_file(&self.directory.join(HOOK))
    }

    /// The command has been told of it. On return that is durable.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(crate) fn hook_is_done(&self) -> Result<(), DiskError> {
        self.disk.remove_synced(&self.directory.join(HOOK))
    }

    /// The day it was received, "2016-12-31".
    pub fn date(&self) -> String {
        let date = self
            .directory
            .parent()
            .and_then(Path::file_name)
            .unwrap_or_default();
        date.to_string_lossy().into_owned()
    }

    /// Its signed manifest and the body of it, verified before it was stored.
    pub fn manifest(&self) -> Result<(v1::Signed, v1::Manifest), DiskError> {
        let path = self.directory.join("manifest");
        let signed: v1::Signed = decode(&path, &self.disk.read(&path).at("read", &path)?)?;
        if Digest::of(&signed.body) != self.id.0 {
            return Err(rotten(&path));
        }
        let body = decode(&path, &signed.body)?;
        Ok((signed, body))
    }

    /// The body of its manifest; `None` when that has rotted, of which people are told: the entry
    /// still says that the package was received.
    pub fn sound_manifest(&self) -> Result<Option<v1::Manifest>, DiskError> {
        match self.manifest() {
            Ok((_, body)) => Ok(Some(body)),
            Err(error) if error.source.kind() == ErrorKind::InvalidData => {
                tracing::error!(%error, "an entry of the register has rotted");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether its package was opened: one that was refused has neither description nor place.
    pub(crate) fn was_opened(&self) -> bool {
        let has = |name| self.disk.is_file(&self.directory.join(name));
        has("description") || has("place")
    }

    /// What its sender wrote about it; `None` when it was refused.
    pub fn description(&self) -> Result<Option<v1::Description>, DiskError> {
        let path = self.directory.join("description");
        match self.disk.read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            other => decode(&path, &other.at("read", &path)?).map(Some),
        }
    }

    /// Where it was put in the inbox; `None` when it was refused, or a test.
    pub fn place(&self) -> Result<Option<PathBuf>, DiskError> {
        let path = self.directory.join("place");
        match self.disk.read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            other => {
                let relative = String::from_utf8(other.at("read", &path)?);
                let relative = relative.map_err(std::io::Error::other).at("read", &path)?;
                Ok(Some(self.root.join(relative)))
            }
        }
    }

    fn said(&self) -> Said {
        Said::below(&self.disk, &self.directory)
    }

    /// Stores a statement of ours. On return it is durable, to be sent until it is acked.
    pub fn store_statement(&self, id: StatementId, signed: &v1::Signed) -> Result<(), DiskError> {
        self.said().store(id, signed)
    }

    /// The gateway has committed this one. `false` if it was not waiting.
    pub fn acked(&self, id: StatementId) -> Result<bool, DiskError> {
        self.said().acked(id)
    }

    /// Our statements that are to be sent.
    pub fn unacked(&self) -> Result<Vec<v1::Signed>, DiskError> {
        self.said().unacked()
    }

    /// All our statements about it.
    pub fn statements(&self) -> Result<Vec<v1::Signed>, DiskError> {
        self.said().all()
    }

    /// The statement that answers every further offer: our `Delivered` or `Refused`, the very
    /// bytes that were signed first.
    pub fn terminal(&self) -> Result<Option<v1::Signed>, DiskError> {
        Ok(self.statements()?.into_iter().find(|signed| {
            let body = v1::Statement::decode(signed.body.as_slice());
            let what = body.ok().and_then(|s| s.what);
            matches!(what, Some(What::Delivered(_) | What::Refused(_)))
        }))
    }
}

/// Whether nothing was ever received into what cannot be listed: it is a file, or is called
/// otherwise than a day.
fn is_none_of_ours(date: &Path, error: &DiskError) -> bool {
    let name = date.file_name().unwrap_or_default().to_string_lossy();
    error.source.kind() == ErrorKind::NotADirectory || name.parse::<Timestamp>().is_err()
}

fn decode<M: Message + Default>(path: &Path, bytes: &[u8]) -> Result<M, DiskError> {
    M::decode(bytes).map_err(|_| rotten(path))
}

/// A file of the register has other bytes than were written.
fn rotten(path: &Path) -> DiskError {
    let why = "damaged: restore it from a backup, or remove the entry once its package is over";
    DiskError::new(
        "read",
        path,
        std::io::Error::new(ErrorKind::InvalidData, why),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_ms(1_480_000_000_000);

    fn manifest(not_after_ms: i64) -> v1::Signed {
        let body = v1::Manifest {
            not_after_ms,
            ..Default::default()
        }
        .encode_to_vec();
        v1::Signed {
            body,
            ..Default::default()
        }
    }

    fn statement(what: What) -> (StatementId, v1::Signed) {
        let body = v1::Statement {
            what: Some(what),
            ..Default::default()
        }
        .encode_to_vec();
        let id = StatementId(Digest::of(&body));
        (
            id,
            v1::Signed {
                body,
                ..Default::default()
            },
        )
    }

    /// The entry of a test package.
    fn opened(register: &Register, not_after_ms: i64) -> Result<Entry, DiskError> {
        let description = v1::Description::default();
        register.enter(&manifest(not_after_ms), &description, None, false, NOW)
    }

    #[test]
    fn a_refused_package_is_never_there_without_its_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
        let register = Register::load(&store).unwrap();
        let (id, signed) = statement(What::Refused(v1::Refused::default()));
        let refused = register.enter_refused(&manifest(1), id, &signed, NOW);
        let entry = refused.unwrap();
        assert_eq!(entry.unacked().unwrap(), std::slice::from_ref(&signed));
        assert_eq!(entry.terminal().unwrap(), Some(signed));
        assert_eq!(entry.description().unwrap(), None);
    }

    #[test]
    fn an_entry_is_found_again_after_a_restart_with_all_that_was_stored() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
        let place = store.inbox().join("f/x");
        let description = v1::Description {
            title: "t".into(),
            ..Default::default()
        };
        let register = Register::load(&store).unwrap();
        let signed = manifest(1);
        let entry = register
            .enter(&signed, &description, Some(&place), true, NOW)
            .unwrap();
        let again = Register::load(&store).unwrap().find(entry.id()).unwrap();
        assert_eq!(again.manifest().unwrap().0, signed);
        assert_eq!(again.description().unwrap(), Some(description));
        assert_eq!(again.place().unwrap(), Some(place));
        assert_eq!(again.terminal().unwrap(), None);
    }

    #[test]
    fn a_statement_is_sent_until_acked_and_answers_duplicates_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
        let register = Register::load(&store).unwrap();
        let entry = opened(&register, 1).unwrap();
        let (id, signed) = statement(What::Delivered(v1::Delivered::default()));
        entry.store_statement(id, &signed).unwrap();
        assert_eq!(entry.unacked().unwrap(), std::slice::from_ref(&signed));
        assert!(entry.acked(id).unwrap());
        assert!(!entry.acked(id).unwrap());
        entry.store_statement(id, &signed).unwrap();
        assert_eq!(entry.unacked().unwrap(), []);
        assert_eq!(entry.terminal().unwrap(), Some(signed));
    }

    #[test]
    fn an_acknowledgement_is_no_answer_to_an_offer() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
        let register = Register::load(&store).unwrap();
        let entry = opened(&register, 1).unwrap();
        let (id, signed) = statement(What::Acknowledged(v1::Acknowledged::default()));
        entry.store_statement(id, &signed).unwrap();
        assert_eq!(entry.terminal().unwrap(), None);
    }

    #[test]
    fn half_an_entry_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
        let half = store
            .received()
            .join("2016-11-24")
            .join(format!("{}.tmp", Digest::of(b"")));
        std::fs::create_dir_all(&half).unwrap();
        let register = Register::load(&store).unwrap();
        assert_eq!(register.all(), []);
        assert!(!half.exists());
    }

    #[test]
    fn an_entry_that_was_named_although_the_disk_failed_is_found() {
        use passerelle_disk::{Fault, FaultyDisk, Flavour, HostDisk};
        let mut named = 0;
        for operation in 1.. {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
            let fault = Fault {
                operation,
                full: false,
                flavour: Flavour::Persisted,
            };
            let faulty = FaultyDisk::new(Arc::new(HostDisk), Some(fault));
            let mut register = Register::load(&store).unwrap();
            register.disk = Arc::new(faulty.clone());
            let failed = opened(&register, 1).is_err();
            let directory = store.received().join(NOW.date());
            let id = PackageId(Digest::of(&manifest(1).body));
            let there = directory.join(id.to_string()).is_dir();
            assert_eq!(register.find(id).is_some(), there, "{fault}");
            named += u32::from(failed && there);
            if !faulty.has_failed() {
                break;
            }
        }
        assert!(named > 0, "no failure came so late");
    }

    #[test]
    fn files_of_somebody_else_keep_no_register_from_being_read_and_a_day_does() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
        let entry = opened(&Register::load(&store).unwrap(), 1).unwrap();
        let day = entry.directory().parent().unwrap();
        for stray in [".DS_Store", "2016-11-23"] {
            std::fs::write(store.received().join(stray), b"").unwrap();
        }
        std::fs::write(day.join("Thumbs.db"), b"").unwrap();
        let register = Register::load(&store).unwrap();
        assert_eq!(register.find(entry.id()), Some(entry.clone()));
        let denied = || DiskError::new("list", day, ErrorKind::PermissionDenied.into());
        assert!(!is_none_of_ours(day, &denied()));
        assert!(is_none_of_ours(&store.received().join("old"), &denied()));
    }

    #[test]
    fn an_entry_lives_until_ninety_days_after_its_package_could_last_be_offered() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
        let register = Register::load(&store).unwrap();
        let entry = opened(&register, NOW.as_ms()).unwrap();
        let last = NOW.saturating_add(KEPT_AFTER);
        let (id, signed) = statement(What::Delivered(v1::Delivered::default()));
        entry.store_statement(id, &signed).unwrap();
        let prune = |at| {
            let (removed, failed) = register.prune(at);
            assert!(failed.is_empty(), "{failed:?}");
            removed
        };
        let after = last.saturating_add(Duration::from_millis(1));
        assert_eq!(prune(after), 0, "its sender has not been told");
        entry.acked(id).unwrap();
        assert_eq!(prune(last), 0);
        assert_eq!(prune(after), 1);
        assert_eq!(register.find(entry.id()), None);
        assert!(!entry.directory().exists());
    }

    #[test]
    fn an_entry_that_cannot_be_read_stays_and_holds_no_other_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
        let register = Register::load(&store).unwrap();
        let entries = [1, 2, 3].map(|at| opened(&register, at).unwrap());
        let mut ids = entries.map(|entry| entry.id());
        ids.sort();
        let first = register.find(ids[0]).unwrap();
        std::fs::write(first.directory().join("manifest"), b"\xff").unwrap();
        let late = NOW.saturating_add(KEPT_AFTER);
        let (removed, failed) = register.prune(late);
        assert_eq!((removed, failed.len()), (2, 1), "{failed:?}");
        assert!(first.directory().exists());
    }
}
