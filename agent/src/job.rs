//! One package on its way out: a directory in `work/`, whose files are its state.
//!
//! | in `work/<job>/` | means |
//! |---|---|
//! | `source/` empty | the claim did not happen; the directory is removed at start |
//! | `source/<name>` | claimed; what was begun in `package.tmp` is begun again |
//! | `package` | sealed: the commit point, never sealed again |
//! | `statements/<id>` | verbatim signed bytes of what was said about it |
//!
//! The whole directory then moves to `sent/<date>/<id12>-<title>` or `rejected/<date>/…`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use passerelle_disk::{At, Disk, DiskError, crash_point};
use passerelle_proto::{Digest, PackageId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::outbox::Dropped;
use crate::said::Said;
use crate::store::Store;

/// File with what was known at the claim.
const RECORD: &str = "job.toml";
/// File that says, to a person, why it was not sent or not delivered.
pub const REPORT: &str = "report.txt";
/// File that says, to a person, when what was dropped was removed, and why.
pub const REMOVED: &str = "removed.txt";
/// A record that is being removed has this before its name. No job's name begins so.
pub(crate) const LEAVING: &str = ".leaving-";

/// What a job carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Dropped by somebody.
    Data,
    /// Made by `ping`; receipted, not delivered.
    Test,
}

/// What was known when the job was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRecord {
    /// Flow it was dropped for.
    pub flow: String,
    /// Name it was dropped under.
    pub name: String,
    /// When it was claimed, Unix milliseconds.
    pub claimed_ms: i64,
    /// What it carries.
    pub kind: JobKind,
    /// Recipients of a test package; data takes them from `package.toml` or the flow.
    #[serde(default)]
    pub recipients: Vec<String>,
}

impl JobRecord {
    /// As it is kept: TOML, and its digest in a comment behind it, since one bit makes another flow
    /// or another name of what is well formed still.
    fn to_text(&self) -> std::io::Result<String> {
        let text = toml::to_string(self).map_err(std::io::Error::other)?;
        let digest = Digest::of(text.as_bytes());
        Ok(format!("{text}# {digest}\n"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (lines, digest) = text.strip_suffix('\n')?.rsplit_once("\n# ")?;
        let toml = &text[..lines.len() + 1];
        let whole = digest.parse() == Ok(Digest::of(toml.as_bytes()));
        whole.then(|| toml::from_str(toml).ok())?
    }
}

/// A job's directory.
#[derive(Debug, Clone)]
pub struct Job {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
}

impl PartialEq for Job {
    /// A job is its directory.
    fn eq(&self, other: &Self) -> bool {
        self.directory == other.directory
    }
}

impl Eq for Job {}

/// How far a job in `work/` has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobStage {
    /// Nothing was moved in; there is nothing to lose.
    Empty,
    /// To be sealed.
    Claimed,
    /// Has its package.
    Sealed,
}

impl Job {
    /// The job in `directory`.
    pub fn at(disk: &Arc<dyn Disk>, directory: PathBuf) -> Job {
        let disk = disk.clone();
        Job { disk, directory }
    }

    /// Takes `dropped` out of the outbox: makes it durable where it lies, and moves it.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn claim(store: &Store, dropped: &Dropped, at: Timestamp) -> Result<Job, DiskError> {
        Self::settle(store, dropped)?;
        Self::take(store, dropped, at)
    }

    /// Makes what was dropped durable where it lies, which takes as long as the disk needs for what
    /// nobody has synced. Whoever dropped it may not have done so: after a power cut a claimed file
    /// would be empty, and an empty file would be sealed.
    pub(crate) fn settle(store: &Store, dropped: &Dropped) -> Result<(), DiskError> {
        store.disk().sync_tree(&dropped.path)
    }

    /// Takes what is durable out of the outbox. On return it is durably the agent's; before the
    /// rename it is untouched. Nothing of it has been read. After an error it lies in the outbox,
    /// or in a claimed job that nobody has heard of yet.
    pub(crate) fn take(store: &Store, dropped: &Dropped, at: Timestamp) -> Result<Job, DiskError> {
        let name = dropped.path.file_name().unwrap_or_default();
        let job = Self::empty(
            store,
            &JobRecord {
                flow: dropped.flow.clone(),
                name: name.to_string_lossy().into_owned(),
                claimed_ms: at.as_ms(),
                kind: JobKind::Data,
                recipients: Vec::new(),
            },
        )?;
        match store
            .disk()
            .rename_synced(&dropped.path, &job.source().join(name))
        {
            Ok(()) => {
                crash_point!("claim.claimed");
                Ok(job)
            }
            Err(e) => {
                // It may have been moved all the same: then this is a claimed job.
                if job.dropped()?.is_none() {
                    store.disk().remove_tree(&job.directory)?;
                }
                Err(e)
            }
        }
    }

    /// Makes a test package for one recipient, to be sealed like any other.
    pub fn test(
        store: &Store,
        flow: &str,
        recipient: &str,
        at: Timestamp,
    ) -> Result<Job, DiskError> {
        let record = JobRecord {
            flow: flow.to_owned(),
            name: "ping".to_owned(),
            claimed_ms: at.as_ms(),
            kind: JobKind::Test,
            recipients: vec![recipient.to_owned()],
        };
        let job = Self::empty(store, &record)?;
        store
            .disk()
            .replace(&job.source().join("ping.txt"), b"passerelle ping\n")?;
        Ok(job)
    }

    fn empty(store: &Store, record: &JobRecord) -> Result<Job, DiskError> {
        let disk = store.disk();
        let directory = fresh_directory(disk.as_ref(), &store.work(), record.claimed_ms)?;
        let job = Job::at(disk, directory);
        let prepared = job.prepare(record).inspect_err(|_| {
            // Nothing was moved in. The failure that is told is the first one.
            let _ = disk.remove_tree(&job.directory);
        });
        prepared?;
        crash_point!("claim.prepared");
        Ok(job)
    }

    fn prepare(&self, record: &JobRecord) -> Result<(), DiskError> {
        self.disk.create_directories(&self.source())?;
        let text = record.to_text().at("describe", &self.directory)?;
        self.disk.replace(&self.record_file(), text.as_bytes())
    }

    /// The disk that it lies on.
    pub(crate) fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Name of its directory: the time of the claim and a number.
    pub fn name(&self) -> String {
        self.directory
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// Where the dropped entry lies since the claim.
    pub fn source(&self) -> PathBuf {
        self.directory.join("source")
    }

    /// The dropped file or directory itself.
    pub fn dropped(&self) -> Result<Option<PathBuf>, DiskError> {
        let entries = self.disk.entries(&self.source())?;
        Ok(entries
            .into_iter()
            .find(|p| p.extension().is_none_or(|e| e != "tmp")))
    }

    /// The sealed pack.
    pub fn package(&self) -> PathBuf {
        self.directory.join("package")
    }

    /// The pack while it is being sealed.
    pub fn unfinished_package(&self) -> PathBuf {
        self.directory.join("package.tmp")
    }

    /// The signed manifest, kept when the pack is not.
    pub fn manifest(&self) -> PathBuf {
        self.directory.join("manifest")
    }

    /// Its encoded description: entry names, title, period.
    pub fn description(&self) -> PathBuf {
        self.directory.join("description")
    }

    /// What was known at the claim; `None` when that is damaged or gone.
    pub fn record(&self) -> Result<Option<JobRecord>, DiskError> {
        let path = self.record_file();
        match self.disk.read(&path).at("read", &path) {
            Ok(bytes) => Ok(JobRecord::parse(&bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where that is kept.
    pub fn record_file(&self) -> PathBuf {
        self.directory.join(RECORD)
    }

    /// How far it has come, told from its files alone.
    pub fn stage(&self) -> Result<JobStage, DiskError> {
        if self.disk.is_file(&self.package()) {
            return Ok(JobStage::Sealed);
        }
        // Somebody has spoken of it: it had its package, which is lost and not to be sealed again.
        if !self.statements()?.is_empty() || !self.said().all()?.is_empty() {
            return Ok(JobStage::Sealed);
        }
        match self.dropped()? {
            Some(_) => Ok(JobStage::Claimed),
            None => Ok(JobStage::Empty),
        }
    }

    /// Makes the sealed pack the job's package: its commit point. The pack must be synced.
    pub fn commit_package(&self) -> Result<(), DiskError> {
        self.disk
            .rename_synced(&self.unfinished_package(), &self.package())
    }

    /// Removes what sealing has written beside a package that was never committed: what is no
    /// package has no manifest, from which it would be taken for one. On return that is durable.
    pub(crate) fn discard_seal(&self) -> Result<(), DiskError> {
        self.disk.remove_synced(&self.manifest())?;
        self.disk.remove_synced(&self.description())
    }

    /// Stores a statement about it, under its id. On return it is durable; storing the same
    /// one again changes nothing. `true` if it was new.
    pub fn store_statement(&self, id: &str, signed: &[u8]) -> Result<bool, DiskError> {
        let statements = self.directory.join("statements");
        let path = statements.join(id);
        // Other bytes under its id have rotted.
        if self.disk.read(&path).is_ok_and(|kept| kept == signed) {
            return Ok(false);
        }
        self.disk.create_directories(&statements)?;
        self.disk.replace(&path, signed)?;
        Ok(true)
    }

    /// The stored statements' signed bytes, in the order of their ids.
    pub fn statements(&self) -> Result<Vec<Vec<u8>>, DiskError> {
        let named = self.named_statements()?;
        Ok(named.into_iter().map(|(_, bytes)| bytes).collect())
    }

    /// The same, with the ids under which they were stored.
    pub(crate) fn named_statements(&self) -> Result<Vec<(String, Vec<u8>)>, DiskError> {
        let paths = self.disk.entries(&self.directory.join("statements"))?;
        let whole = paths.iter().filter(|p| p.extension().is_none());
        whole
            .map(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                Ok((name.into_owned(), self.disk.read(path).at("read", path)?))
            })
            .collect()
    }

    /// What this party has said about it itself.
    pub fn said(&self) -> Said {
        Said::below(&self.disk, &self.directory.join("said"))
    }

    /// Moves a finished job to `place/<date>/<id12>-<title>`, with its report, and frees the
    /// ciphertext. On return the move is durable. `package` names it in `sent`; a job that was
    /// never sealed is named after the job.
    pub fn finish(
        self,
        place: &Path,
        package: Option<PackageId>,
        title: &str,
        report: &str,
        now: Timestamp,
    ) -> Result<Job, DiskError> {
        self.disk
            .replace(&self.directory.join(REPORT), report.as_bytes())?;
        crash_point!("finish.reported");
        let date = place.join(now.date());
        self.disk.create_directories(&date)?;
        let name = match package {
            Some(id) => format!("{}-{}", id.short(), file_name_of(title)),
            None => format!("{}-{}", self.name(), file_name_of(title)),
        };
        let target = date.join(name);
        let renamed = self.disk.rename_synced(&self.directory, &target);
        // It may have been moved all the same. Should a power cut undo that, it ends once more.
        if let Err(error) = renamed
            && self.disk.is_dir(&self.directory)
        {
            return Err(error);
        }
        let moved = Job::at(&self.disk, target);
        crash_point!("finish.moved");
        // It is over all the same: the next start frees what is still there.
        if let Err(error) = moved.free_package() {
            tracing::warn!(%error, "the ciphertext of a job that is over stays for now");
        }
        crash_point!("finish.freed");
        Ok(moved)
    }

    /// Removes the ciphertext of a job that is terminal. A power cut may bring it back; each start
    /// does this again.
    pub fn free_package(&self) -> Result<(), DiskError> {
        self.disk.remove_if_there(&self.package())?;
        self.disk.remove_if_there(&self.unfinished_package())
    }

    /// Removes what was dropped of a job that is over; `note` tells a person why. On return it is
    /// durably gone.
    pub fn remove_dropped(&self, note: &str) -> Result<(), DiskError> {
        self.disk
            .replace(&self.directory.join(REMOVED), note.as_bytes())?;
        self.disk.remove_tree(&self.source())
    }

    /// When what was dropped was removed; `None` while it is there.
    pub fn removed(&self) -> Option<Timestamp> {
        let noted = self.disk.status(&self.directory.join(REMOVED)).ok()?;
        let since = noted.modified.duration_since(UNIX_EPOCH).ok()?;
        let gone = !self.disk.is_dir(&self.source());
        gone.then(|| Timestamp::from_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Removes a job that is over, with everything that was said about it.
    pub fn remove(self) -> Result<(), DiskError> {
        let name = self.directory.file_name().unwrap_or_default();
        let leaving = format!("{LEAVING}{}", name.to_string_lossy());
        let leaving = self.directory.with_file_name(leaving);
        // Half a record could not be read at the next start: it loses its name first.
        self.disk.rename_synced(&self.directory, &leaving)?;
        self.disk.remove_tree(&leaving)
    }

    /// Removes a job into which nothing was ever moved.
    pub fn discard_empty(self) -> Result<(), DiskError> {
        self.disk.remove_tree(&self.directory)
    }
}

/// The jobs in `work/`, oldest first.
pub fn jobs(store: &Store) -> Result<Vec<Job>, DiskError> {
    let disk = store.disk();
    let mut paths = disk.entries(&store.work())?;
    paths.retain(|path| disk.is_dir(path));
    Ok(paths.into_iter().map(|path| Job::at(disk, path)).collect())
}

/// Moves what can never be sent out of the outbox, as it is and unread, to
/// `rejected/<date>/<time>-<number>/source/`, beside a report. Returns that directory. After an
/// error it lies in the outbox still, and nothing was left in `rejected/`.
pub fn reject_dropped(
    store: &Store,
    dropped: &Dropped,
    report: &str,
    now: Timestamp,
) -> Result<PathBuf, DiskError> {
    let disk = store.disk();
    let date = store.rejected().join(now.date());
    disk.create_directories(&date)?;
    let directory = fresh_directory(disk.as_ref(), &date, now.as_ms())?;
    let Err(error) = move_beside_report(disk.as_ref(), dropped, &directory, report) else {
        return Ok(directory);
    };
    // It may have been moved all the same, and is rejected then. A directory with a report and
    // nothing else would be one more at every attempt.
    match disk.entries(&directory.join("source"))?.is_empty() {
        true => disk.remove_tree(&directory).and(Err(error)),
        false => Ok(directory),
    }
}

fn move_beside_report(
    disk: &dyn Disk,
    dropped: &Dropped,
    directory: &Path,
    report: &str,
) -> Result<(), DiskError> {
    let source = directory.join("source");
    disk.create_directories(&source)?;
    disk.replace(&directory.join(REPORT), report.as_bytes())?;
    crash_point!("reject.prepared");
    let name = dropped.path.file_name().unwrap_or_default();
    disk.rename_synced(&dropped.path, &source.join(name))?;
    crash_point!("reject.moved");
    Ok(())
}

/// A directory that did not exist, named after the time and a number that makes it unique.
fn fresh_directory(disk: &dyn Disk, parent: &Path, at_ms: i64) -> Result<PathBuf, DiskError> {
    for number in 0_u32.. {
        let path = parent.join(format!("{at_ms:013}-{number:03}"));
        match disk.create_dir(&path) {
            Ok(()) => {
                let synced = disk.sync_dir(parent).at("sync", parent);
                let synced = synced.inspect_err(|_| {
                    // Empty as it is, it is in nobody's way; the first failure is the one to tell.
                    let _ = disk.remove_dir(&path);
                });
                return synced.map(|()| path);
            }
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(DiskError::new("create", &path, e)),
        }
    }
    Err(DiskError::new(
        "create",
        parent,
        std::io::ErrorKind::AlreadyExists.into(),
    ))
}

/// Longest title in a file name, in characters: with id and date it stays under the 255 bytes
/// of a name even where every character takes four bytes.
const TITLE_CHARACTERS_MAX: usize = 48;

/// A title as part of a file name: letters and digits of any script, `.` and `_`; the rest
/// becomes `-`.
pub fn file_name_of(title: &str) -> String {
    let mut name = String::new();
    for c in title.chars().take(TITLE_CHARACTERS_MAX) {
        let keep = c.is_alphanumeric() || matches!(c, '.' | '_');
        match keep {
            true => name.push(c),
            false if name.ends_with('-') => {}
            false => name.push('-'),
        }
    }
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() {
        "package".to_owned()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests;
