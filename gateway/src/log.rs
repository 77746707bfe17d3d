//! The audit log, which is also the write-ahead log: appending to it is the only commit.
//!
//! What [`Log::append`] returns as committed is on stable storage in a segment file. Tiles, entry
//! bundles and checkpoints (c2sp.org/tlog-tiles) are derived from segments and can be made again;
//! they are what proves the log to others. On a full disk entries are appended as long as the
//! segment has room; what is derived from them waits.
//!
//! ```text
//! log/checkpoint  log/tile/…  log/cosigned/<partner>    the log as files, for anybody
//! log/wal/<first index>.seg                             segments, newest last
//! ```

mod frame;
mod held;
mod segment;
mod tiles;

use std::cmp::Ordering;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use passerelle_disk::{Disk, DiskError, crash_point};
use passerelle_proto::merkle::{self, Frontier, leaf_hash};
use passerelle_proto::{
    Checkpoint, CheckpointError, Digest, LogSigner, LogVerifier, Timestamp, log_epoch,
};

use self::segment::{Segment, SegmentError, Segments};
use self::tiles::Tiles;

/// Longest entry in bytes.
pub const ENTRY_LEN_MAX: usize = 60 * 1024;
/// Most entries of one append.
pub const BATCH_ENTRIES_MAX: usize = 256;
/// Most bytes of one append.
pub const BATCH_LEN_MAX: usize = 4 * 1024 * 1024;
/// Length of a segment file in bytes.
pub const SEGMENT_LEN: u64 = 64 * 1024 * 1024;

/// Environment variable with another length of segments in bytes, in builds with debug assertions:
/// a test does not write 64 MiB to see one end.
pub const SEGMENT_LEN_ASKED: &str = "PASSERELLE_SEGMENT_LEN";

const MISSING: &str = "entries are missing here; restore the newest copy of the log, or begin a \
                       new one with `passerelle audit reconcile`";
const OTHER_HISTORY: &str = "this is another history; restore the log that was signed, or begin a \
                             new one with `passerelle audit reconcile`";
const LATER_EPOCH: &str = "a later log has taken the place of this one; restore that one, or begin \
                           the next with `passerelle audit reconcile`";

pub(crate) fn segment_len() -> u64 {
    if !cfg!(debug_assertions) {
        return SEGMENT_LEN;
    }
    let asked = std::env::var(SEGMENT_LEN_ASKED).ok();
    let length = asked.and_then(|length| length.parse().ok());
    length.unwrap_or(SEGMENT_LEN)
}

/// The log must not be used any more: what is on the disk is not known. Stop, and recover at the
/// next start.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// Reading or writing failed.
    #[error(
        "{path}: {source}: the log stops here; mend the disk and start again",
        path = .path.display()
    )]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A segment is damaged in its middle.
    #[error(
        "{path}: damaged at byte {offset}, with intact entries behind it: this is no torn end but \
         rot or tampering; restore the file from a backup",
        path = .path.display()
    )]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// A file has rotted, and so has what it could be made from, or that is gone.
    #[error(
        "{path}: damaged, and what it could be made from is gone; restore the file from a backup \
         of the log, or from a copy that was exported",
        path = .path.display()
    )]
    Rotten {
        /// Which file.
        path: PathBuf,
    },
    /// Segments are gone, and with them entries that stand in no full bundle.
    #[error(
        "{path}: of the entries {from} to {until}, which segments here must hold, {found} are \
         left: entries are missing; restore the log directory from a backup",
        path = .path.display()
    )]
    Missing {
        /// The directory of the segments.
        path: PathBuf,
        /// Index of the first of these entries.
        from: u64,
        /// Index behind the last of them.
        until: u64,
        /// How many were found.
        found: u64,
    },
    /// What remains is shorter than what was signed.
    #[error(
        "the log has {found} entries, and its checkpoint was signed for {signed}: entries are \
         missing; restore the log directory from a backup"
    )]
    Shorter {
        /// Entries found.
        found: u64,
        /// Entries signed.
        signed: u64,
    },
    /// The entries do not lead to a root that was signed or cosigned.
    #[error(
        "our first {size} entries have the root {found}, and {by} covers {signed_size} entries \
         with the root {signed}: {remedy}"
    )]
    Fork {
        /// Size of the tree.
        size: u64,
        /// Root found.
        found: Digest,
        /// Size of the tree that was signed.
        signed_size: u64,
        /// Root signed.
        signed: Digest,
        /// What bears it, "the checkpoint that grand-dijon/gateway keeps".
        by: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The sheet names another log than the one that is here.
    #[error(
        "the party's newest sheet names the log {wanted}, and what is here is {found}: a new log \
         is begun with `passerelle audit reconcile`, while the gateway is stopped"
    )]
    Epoch {
        /// Origin of the log that is here.
        found: String,
        /// Origin that the sheet names.
        wanted: String,
    },
    /// The checkpoint is not ours.
    #[error(
        "{path}: {source}; remove it: partners and agents keep copies that say whether the log is \
         whole",
        path = .path.display()
    )]
    Checkpoint {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// A checkpoint cannot be signed.
    #[error("a checkpoint of the log cannot be signed: {0}")]
    Sign(#[from] CheckpointError),
    /// The caller wants to append what no log can hold. A fault of our own program.
    #[error("an append of {entries} entries, {bytes} bytes is beyond its limits")]
    Batch {
        /// Entries given.
        entries: usize,
        /// Bytes given.
        bytes: usize,
    },
}

/// Why nothing was appended, or no checkpoint was signed.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// There is no room for the next segment, or for what a checkpoint covers; nothing that was
    /// committed is lost, and it may be tried again.
    #[error("no room for the log: make room on the disk")]
    Full,
    /// See [`Fatal`].
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

impl From<DiskError> for Fatal {
    fn from(error: DiskError) -> Self {
        let DiskError { path, source, .. } = error;
        Self::Io { path, source }
    }
}

impl From<DiskError> for AppendError {
    fn from(error: DiskError) -> Self {
        match error.is_full() {
            true => Self::Full,
            false => Self::Fatal(error.into()),
        }
    }
}

impl From<SegmentError> for AppendError {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::Full => Self::Full,
            SegmentError::Fatal(fatal) => Self::Fatal(fatal),
        }
    }
}

pub(crate) fn io_at(path: &Path) -> impl FnOnce(io::Error) -> Fatal + '_ {
    |source| Fatal::Io {
        path: path.to_owned(),
        source,
    }
}

/// The key that signs a log now, and those that have signed it.
#[derive(Clone, Debug)]
pub struct LogKeys {
    signer: Arc<LogSigner>,
    // What they have signed still tells this log from others.
    known: Vec<LogVerifier>,
}

impl LogKeys {
    /// `signer` signs from now on; `known` have signed before.
    #[must_use]
    pub fn new(signer: Arc<LogSigner>, known: &[LogVerifier]) -> Self {
        let current = signer.verifier().clone();
        let before = known.iter().filter(|key| **key != current).cloned();
        let known = std::iter::once(current.clone()).chain(before).collect();
        Self { signer, known }
    }

    /// Origin line of the log that is signed.
    pub(crate) fn origin(&self) -> &str {
        self.signer.verifier().name()
    }

    /// The same keys, for the log of another origin line.
    pub(crate) fn for_origin(&self, origin: &str) -> Self {
        Self::new(Arc::new(self.signer.for_origin(origin)), &self.known)
    }
}

impl From<LogSigner> for LogKeys {
    fn from(signer: LogSigner) -> Self {
        Self::new(Arc::new(signer), &[])
    }
}

/// The log of one gateway; it has one writer.
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    keys: LogKeys,
    frontier: Frontier,
    tiles: Tiles,
    segments: Segments,
    segment: Segment,
    // Entries under our newest checkpoint.
    signed: u64,
}

impl Log {
    /// Opens or begins the log in `dir`, recovers its end and compares it with its checkpoint.
    ///
    /// # Errors
    /// [`Fatal`] when the log cannot be believed.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path, keys: impl Into<LogKeys>) -> Result<Self, Fatal> {
        Self::open_with(disk, dir, keys, segment_len())
    }

    /// As [`Log::open`], with segments of another length.
    ///
    /// # Errors
    /// [`Fatal`].
    pub fn open_with(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        keys: impl Into<LogKeys>,
        segment_len: u64,
    ) -> Result<Self, Fatal> {
        let segments = Segments::new(disk, dir, segment_len);
        disk.create_directories(segments.dir())?;
        segments.remove_unfinished()?;
        let cosigned = dir.join("cosigned");
        disk.create_directories(&cosigned)?;
        let mut numbers = segments.list()?;
        if numbers.is_empty() {
            segments
                .create(&Tiles::new(disk, dir), &Frontier::default())
                .map_err(SegmentError::into_fatal)?;
            numbers.push(0);
        }
        let last = numbers.len() - 1;
        let (segment, mut frontier, mut tiles) = segments.recover(numbers[last], dir)?;
        tiles.read_previous(&segments, &numbers[..last])?;
        segments.each_entry(numbers[last], |entry| {
            let hash = leaf_hash(entry);
            frontier.push(hash);
            tiles.push(hash, entry)
        })?;
        let mut log = Self {
            disk: disk.clone(),
            dir: dir.to_owned(),
            keys: keys.into(),
            frontier,
            tiles,
            segments,
            segment,
            signed: 0,
        };
        log.signed = log.compare_with_checkpoint()?;
        log.compare_with_cosigned(&cosigned)?;
        log.reserve_next()?;
        Ok(log)
    }

    /// Preallocates the next segment; a full disk is met again when that one is needed.
    fn reserve_next(&mut self) -> Result<(), Fatal> {
        match self.segments.reserve() {
            Ok(()) | Err(SegmentError::Full) => Ok(()),
            Err(SegmentError::Fatal(fatal)) => Err(fatal),
        }
    }

    /// Whether the segment after this one is preallocated and may be begun, which is tried again
    /// here. When it is not, the disk is full, and what is left of this segment is for what must
    /// not wait.
    ///
    /// # Errors
    /// [`Fatal::Io`] for any other reason.
    pub fn has_next_segment(&mut self) -> Result<bool, Fatal> {
        let written = self.tiles.write_unwritten();
        let reserved = written.and_then(|()| Ok(self.segments.reserve()?));
        match reserved {
            Ok(()) => Ok(true),
            Err(AppendError::Full) => Ok(false),
            Err(AppendError::Fatal(fatal)) => Err(fatal),
        }
    }

    /// Partners keep what they have cosigned: a log that is shorter, or other, is not believed.
    fn compare_with_cosigned(&self, dir: &Path) -> Result<(), Fatal> {
        for path in self.disk.list(dir).map_err(io_at(dir))? {
            let note = self.disk.read(&path).map_err(io_at(&path))?;
            // What this log has not signed itself says nothing about it.
            if let Ok(kept) = self.verify(&note) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                self.compare(&kept, &format!("the checkpoint that {name} has cosigned"))?;
            }
        }
        Ok(())
    }

    /// Entries under the checkpoint that was signed last.
    fn compare_with_checkpoint(&self) -> Result<u64, Fatal> {
        let path = self.dir.join("checkpoint");
        let note = match self.disk.read(&path) {
            Ok(note) => note,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(source) => return Err(Fatal::Io { path, source }),
        };
        let checkpoint = self.verify(&note).map_err(|source| {
            let path = path.clone();
            Fatal::Checkpoint { path, source }
        })?;
        if checkpoint.origin != self.origin() {
            return Err(Fatal::Epoch {
                found: checkpoint.origin,
                wanted: self.origin().to_owned(),
            });
        }
        if checkpoint.size > self.size() {
            return Err(Fatal::Shorter {
                found: self.size(),
                signed: checkpoint.size,
            });
        }
        self.compare(&checkpoint, "our own checkpoint")?;
        Ok(checkpoint.size)
    }

    /// Compares a checkpoint of this log that somebody keeps with what the log holds; how many
    /// entries it covers. One of a log that this one has taken the place of says nothing: 0.
    ///
    /// # Errors
    /// [`Fatal::Fork`]: this log is not the one that was signed.
    pub fn compare(&self, kept: &Checkpoint, by: &str) -> Result<u64, Fatal> {
        let fork = |size, found, remedy| Fatal::Fork {
            size,
            found,
            signed_size: kept.size,
            signed: kept.root,
            by: by.to_owned(),
            remedy,
        };
        let party = self.keys.signer.party();
        let epoch = |origin: &str| log_epoch(party, origin).unwrap_or(u32::MAX);
        match epoch(&kept.origin).cmp(&epoch(self.origin())) {
            Ordering::Less => return Ok(0),
            Ordering::Equal => {}
            Ordering::Greater => return Err(fork(self.size(), self.root(), LATER_EPOCH)),
        }
        if kept.size > self.size() {
            return Err(fork(self.size(), self.root(), MISSING));
        }
        let found = self.root_at(kept.size)?;
        match found == kept.root {
            true => Ok(kept.size),
            false => Err(fork(kept.size, found, OTHER_HISTORY)),
        }
    }

    /// Origin line of this log.
    pub fn origin(&self) -> &str {
        self.keys.signer.verifier().name()
    }

    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// Root of all entries.
    pub fn root(&self) -> Digest {
        self.frontier.root()
    }

    /// Root of the first `size` entries.
    ///
    /// # Errors
    /// [`Fatal::Io`] when a tile cannot be read.
    pub fn root_at(&self, size: u64) -> Result<Digest, Fatal> {
        merkle::root(&self.tiles, size)
    }

    /// Proof that the first `old` entries are the beginning of the first `new`.
    ///
    /// # Errors
    /// [`Fatal::Io`] when a tile cannot be read.
    pub fn consistency_proof(&self, old: u64, new: u64) -> Result<Vec<Digest>, Fatal> {
        merkle::consistency_proof(&self.tiles, old, new)
    }

    /// Proof that an entry is among the first `size`.
    ///
    /// # Errors
    /// [`Fatal::Io`] when a tile cannot be read.
    pub fn inclusion_proof(&self, index: u64, size: u64) -> Result<Vec<Digest>, Fatal> {
        merkle::inclusion_proof(&self.tiles, index, size)
    }

    /// Commits entries; when this returns they are on stable storage, at these indices.
    ///
    /// One `fdatasync` for all of them.
    ///
    /// # Errors
    /// [`AppendError::Full`] before anything was written; else [`Fatal`].
    pub fn append(&mut self, entries: &[Vec<u8>]) -> Result<Range<u64>, AppendError> {
        let bytes: usize = entries.iter().map(Vec::len).sum();
        let longest = entries.iter().map(Vec::len).max().unwrap_or(0);
        let fits = longest <= ENTRY_LEN_MAX && bytes <= BATCH_LEN_MAX;
        if entries.is_empty() || entries.len() > BATCH_ENTRIES_MAX || !fits {
            let entries = entries.len();
            return Err(Fatal::Batch { entries, bytes }.into());
        }
        let first = self.size();
        let frame = frame::encode(first, &self.root(), entries);
        if !self.segment.has_room(frame.len() as u64) {
            self.next_segment()?;
        }
        self.segment.write(&frame)?;
        for entry in entries {
            let hash = leaf_hash(entry);
            self.frontier.push(hash);
            self.tiles.push(hash, entry)?;
        }
        Ok(first..self.size())
    }

    fn next_segment(&mut self) -> Result<(), AppendError> {
        // A start makes again what the newest segment holds, and nothing of those before it.
        self.tiles.write_unwritten()?;
        self.segment = self.segments.create(&self.tiles, &self.frontier)?;
        self.segments.remove_bundled(self.tiles.bundled())?;
        Ok(self.reserve_next()?)
    }

    /// One entry.
    ///
    /// # Errors
    /// [`Fatal::Io`] when it cannot be read; also past the end.
    pub fn entry(&self, index: u64) -> Result<Vec<u8>, Fatal> {
        self.tiles.entry(index)
    }

    /// Reads entries from `first` on, at most `limit`.
    ///
    /// # Errors
    /// [`Fatal::Io`].
    pub fn entries(&self, first: u64, limit: u64) -> Result<Vec<Vec<u8>>, Fatal> {
        self.tiles
            .entries(first, self.size().min(first.saturating_add(limit)))
    }

    /// Writes the tiles that are not full yet and signs a checkpoint of everything.
    ///
    /// # Errors
    /// [`AppendError::Full`]: the one before stays the newest; else [`Fatal`].
    pub fn checkpoint(&mut self, now: Timestamp) -> Result<Vec<u8>, AppendError> {
        self.tiles.write_unwritten()?;
        self.tiles.write_partial()?;
        crash_point!("checkpoint.tiles");
        let signed = self.checkpoint_value().sign(&self.keys.signer, now);
        let note = signed.map_err(Fatal::from)?;
        let path = self.dir.join("checkpoint");
        self.disk.replace(&path, &note)?;
        crash_point!("checkpoint.written");
        self.signed = self.size();
        Ok(note)
    }

    /// Entries under our newest checkpoint.
    pub fn signed(&self) -> u64 {
        self.signed
    }

    fn checkpoint_value(&self) -> Checkpoint {
        Checkpoint {
            origin: self.origin().to_owned(),
            size: self.size(),
            root: self.root(),
        }
    }

    /// Signs with other keys from now on.
    pub fn rekey(&mut self, keys: LogKeys) {
        self.keys = keys;
    }

    /// Reads a checkpoint that this log has signed, with whichever of its keys.
    ///
    /// # Errors
    /// [`CheckpointError`] when it has not.
    pub fn verify(&self, note: &[u8]) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::verify_any(note, &self.keys.known)
    }

    /// The keys that sign this log's checkpoints.
    pub fn signer(&self) -> &LogSigner {
        &self.keys.signer
    }

    /// Directory of the log as files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cfg(test)]
mod tests;
