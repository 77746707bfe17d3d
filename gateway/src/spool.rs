//! The spool: packages that were accepted and are still kept, and transfers under way.
//!
//! A package of up to 256 KiB lies in a segment that many share; every other one has a file of its
//! own, `<id>.pack`, at its final path from the first byte. What is on the disk and
//! not in the log is a transfer under way, never an accepted package.
//!
//! When the chunks of a package that is over are to go and what stands before them is to stay, the
//! latter gets a file of its own under `heads/`. A package that shares a segment goes as a whole:
//! what stands before its few chunks is about as long as they are, one file for each would be
//! hundreds of thousands of files, and its manifest stands in the log anyway. A segment is removed
//! with the last package in it.

mod heads;
mod mending;
mod partial;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use passerelle_disk::{Disk, DiskError, DiskFile};
use passerelle_proto::v1::{PackLocation, Section};
use passerelle_proto::{
    InlineError, PACK_HEADER_LEN, PackLayout, PackageId, Stored, Timestamp, VerifiedManifest,
    split_inline,
};

use self::heads::Heads;
pub(crate) use self::mending::Mending;
pub use self::partial::Partial;
use self::shared::Shared;
use crate::config::Limits;

/// Free bytes that the file system must keep; below, no package is taken.
pub const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// Longest package that lies in a shared segment, in bytes.
pub const SHARED_LEN_MAX: u64 = 256 * 1024;
/// Room is short when less than one part in so many of what the spool may use is left.
const SHORT_PART: u64 = 10;
/// A transfer that nobody has gone on with for this long is removed.
const PARTIAL_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why the spool takes or gives no bytes.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The disk, or what this gateway may use of it, is full. Nothing was written; offer again.
    #[error("no room in the spool: {0}")]
    Full(&'static str),
    /// An inline package is not what its manifest says.
    #[error(transparent)]
    Inline(#[from] InlineError),
    /// The package is committed, or about to be: offered again it gets its receipt.
    #[error("this package is being committed")]
    Committed,
    /// The same package is being taken on another stream, which is newer: this one ends.
    #[error("another stream has taken over this package")]
    TakenOver,
    /// Bytes that lie outside of the package.
    #[error("bytes outside of the package")]
    Outside,
    /// A transfer was to be finished before everything had come.
    #[error("{held} of {wanted} bytes of chunks have come")]
    Incomplete {
        /// Bytes that have come.
        held: u64,
        /// Bytes that belong to it.
        wanted: u64,
    },
    /// Reading or writing failed.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl SpoolError {
    /// Whether the disk can no longer be believed: the gateway must stop.
    pub fn is_fatal(&self) -> bool {
        use rustix::io::Errno;
        let disk = [Errno::IO, Errno::ROFS].map(Errno::raw_os_error);
        matches!(self, Self::Io { source, .. }
            if source.raw_os_error().is_some_and(|error| disk.contains(&error)))
    }
}

impl From<DiskError> for SpoolError {
    fn from(error: DiskError) -> Self {
        failed(&error.path)(error.source)
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SpoolError + '_ {
    |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            SpoolError::Full("the disk is full")
        }
        _ => SpoolError::Io {
            path: path.to_owned(),
            source,
        },
    }
}

/// Why a package could not be read. Where a sector has failed the disk may be believed elsewhere:
/// that is `InvalidData`, and stops nothing.
fn unread(error: io::Error) -> io::Error {
    let failed = rustix::io::Errno::IO.raw_os_error();
    match error.raw_os_error() == Some(failed) {
        true => io::Error::new(io::ErrorKind::InvalidData, error),
        false => error,
    }
}

#[derive(Default)]
struct Usage {
    /// Bytes reserved by packages and transfers, by package.
    packs: BTreeMap<PackageId, u64>,
    /// The newest transfer of each package that somebody is sending now.
    partials: BTreeMap<PackageId, u64>,
    last_turn: u64,
    /// Packages whose transfer is whole and about to be committed.
    finishing: BTreeSet<PackageId>,
    total: u64,
}

/// The spool of one gateway.
pub struct Spool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    limits: Limits,
    usage: Mutex<Usage>,
    /// Held while a transfer begins, or old ones are removed.
    opening: Mutex<()>,
    shared: Shared,
    heads: Heads,
    /// Length of the longest package that there was no room for since there was enough.
    refused: AtomicU64,
}

impl Spool {
    /// Opens or begins the spool.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path, limits: Limits) -> Result<Arc<Self>, SpoolError> {
        disk.create_directories(dir)?;
        let mut usage = Usage::default();
        for path in disk.list(dir).map_err(failed(dir))? {
            let Some(id) = pack_id(&path) else {
                // A mark whose pack is gone already; nothing else would ever remove it.
                if path
                    .extension()
                    .is_some_and(|extension| extension == "part")
                    && !disk.is_file(&path.with_extension("pack"))
                {
                    disk.remove_if_there(&path)?;
                }
                continue;
            };
            let length = disk.status(&path).map_err(failed(&path))?.length;
            usage.packs.insert(id, length);
            usage.total += length;
        }
        Ok(Arc::new(Self {
            disk: disk.clone(),
            dir: dir.to_owned(),
            limits,
            usage: Mutex::new(usage),
            opening: Mutex::default(),
            shared: Shared::open(disk, &dir.join("shared"))?,
            heads: Heads::open(disk, &dir.join("heads"))?,
            refused: AtomicU64::new(0),
        }))
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn opening(&self) -> MutexGuard<'_, ()> {
        self.opening
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn pack_path(&self, package: &PackageId) -> PathBuf {
        self.dir.join(format!("{package}.pack"))
    }

    /// The file that holds a package.
    pub(crate) fn path_of(&self, package: &PackageId, location: &PackLocation) -> PathBuf {
        match location.segment {
            0 => self.pack_path(package),
            segment => self.shared.path(segment),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.usage().total + self.shared.bytes() + self.heads.bytes()
    }

    /// Bytes in segments that packages share.
    #[cfg(feature = "simulation")]
    pub(crate) fn shared_bytes(&self) -> u64 {
        self.shared.bytes()
    }

    /// Whether `bytes` more have room beside the `used` ones.
    fn check_room(&self, used: u64, bytes: u64) -> Result<(), SpoolError> {
        let free = self.disk.free_bytes(&self.dir).map_err(failed(&self.dir))?;
        let lack = if used.saturating_add(bytes) > self.limits.spool_bytes_max {
            "its quota is used up"
        } else if free < bytes.saturating_add(FREE_BYTES_MIN) {
            "the disk is nearly full"
        } else {
            return Ok(());
        };
        // Of what could not be taken if the spool were empty nothing is remembered.
        let room = free.saturating_add(used).saturating_sub(FREE_BYTES_MIN);
        if bytes <= room.min(self.limits.spool_bytes_max) {
            self.refused.fetch_max(bytes, Ordering::Relaxed);
        }
        Err(SpoolError::Full(lack))
    }

    /// Whether so little room is left, on the disk or of what the spool may use, that packages
    /// which are over should go before their time.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn is_short(&self) -> Result<bool, SpoolError> {
        let free = self.disk.free_bytes(&self.dir).map_err(failed(&self.dir))?;
        let (used, most) = (self.bytes(), self.limits.spool_bytes_max);
        let refused = self.refused.load(Ordering::Relaxed);
        let reserve = refused.max(most / SHORT_PART);
        let short = used.saturating_add(reserve) > most
            || free < FREE_BYTES_MIN.saturating_add(refused.max(FREE_BYTES_MIN));
        if !short {
            self.refused.store(0, Ordering::Relaxed);
        }
        Ok(short)
    }

    /// Begins or resumes taking a package. An older transfer of it ends, unless it is whole and
    /// about to be committed. `accepted` says whether the log has the package: its bytes must not
    /// be touched then.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn begin(
        self: &Arc<Self>,
        manifest: &VerifiedManifest,
        accepted: impl FnOnce(&PackageId) -> bool,
    ) -> Result<Partial, SpoolError> {
        let id = manifest.id();
        let length = PackLayout::tight(manifest).file_len();
        // One at a time: who begins anew throws away what is there.
        let _opening = self.opening();
        let (turn, new) = self.reserve(&id, length)?;
        // From here on an older transfer cannot finish; it may have done so before.
        let opened = match accepted(&id) {
            true => Err(SpoolError::Committed),
            false => Partial::open(self.clone(), manifest, turn),
        };
        opened.inspect_err(|_| {
            self.ended(&id, turn);
            if new && !self.disk.is_file(&self.pack_path(&id)) {
                self.forget(&id);
            }
        })
    }

    /// Makes room for a transfer and gives it its turn; says whether nothing was there before.
    fn reserve(&self, id: &PackageId, length: u64) -> Result<(u64, bool), SpoolError> {
        let shared = self.shared.bytes() + self.heads.bytes();
        let mut usage = self.usage();
        if usage.finishing.contains(id) {
            return Err(SpoolError::Committed);
        }
        let before = usage.packs.get(id).copied();
        let more = length.saturating_sub(before.unwrap_or(0));
        if more > 0 {
            self.check_room(usage.total + shared, more)?;
        }
        let others = usage.partials.keys().filter(|other| *other != id);
        let others: u64 = others.filter_map(|other| usage.packs.get(other)).sum();
        if others.saturating_add(length) > self.limits.partial_bytes_max {
            return Err(SpoolError::Full("too much is being received at once"));
        }
        usage.last_turn += 1;
        let turn = usage.last_turn;
        usage.partials.insert(*id, turn);
        usage.packs.insert(*id, length);
        usage.total = usage.total + length - before.unwrap_or(0);
        Ok((turn, before.is_none()))
    }

    /// A transfer is whole; until it ends none other of its package begins.
    pub(crate) fn finishing(&self, package: &PackageId, turn: u64) -> Result<(), SpoolError> {
        let mut usage = self.usage();
        if usage.partials.get(package) != Some(&turn) {
            return Err(SpoolError::TakenOver);
        }
        usage.finishing.insert(*package);
        Ok(())
    }

    /// Whether a transfer is still the newest of its package.
    pub(crate) fn is_current(&self, package: &PackageId, turn: u64) -> bool {
        self.usage().partials.get(package) == Some(&turn)
    }

    /// A transfer is over, complete or not. What it has written stays.
    pub(crate) fn ended(&self, package: &PackageId, turn: u64) {
        let mut usage = self.usage();
        if usage.partials.get(package) == Some(&turn) {
            usage.finishing.remove(package);
            usage.partials.remove(package);
        }
    }

    /// A pack is no longer on the disk.
    fn forget(&self, package: &PackageId) {
        let mut usage = self.usage();
        if let Some(length) = usage.packs.remove(package) {
            usage.total -= length;
        }
    }

    /// Keeps a package that travelled inside its offer; durable when this returns.
    ///
    /// # Errors
    /// [`SpoolError`], also when the bytes are not what the manifest says.
    pub fn store_inline(
        &self,
        manifest: &VerifiedManifest,
        inline: &[u8],
    ) -> Result<PackLocation, SpoolError> {
        split_inline(manifest, inline)?;
        self.check_room(self.bytes(), inline.len() as u64)?;
        self.shared.append(inline)
    }

    /// What was kept at `location` was not accepted, or lies elsewhere now.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn release(&self, location: &PackLocation) -> Result<(), SpoolError> {
        match location.segment {
            // A transfer: it can be gone on with.
            0 => Ok(()),
            _ => self.shared.release(location),
        }
    }

    /// Opens a package to read it.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn reader(
        &self,
        manifest: &VerifiedManifest,
        location: &PackLocation,
    ) -> Result<PackReader, SpoolError> {
        let layout = PackLayout::tight(manifest);
        // In a segment only head and chunks are kept: the manifest is in the log.
        let start = match location.segment {
            0 => 0,
            _ => {
                let before = PACK_HEADER_LEN + layout.manifest_len();
                i128::from(location.offset) - i128::from(before)
            }
        };
        let path = self.path_of(&manifest.id(), location);
        let file = self.disk.open(&path).map_err(failed(&path))?;
        Ok(PackReader {
            path,
            file: file.into(),
            layout,
            start,
        })
    }

    /// Removes a package that is kept no more. Removing twice is harmless.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn remove(&self, package: &PackageId, location: &PackLocation) -> Result<(), SpoolError> {
        if location.segment != 0 {
            return self.shared.erase(location);
        }
        let path = self.pack_path(package);
        // A repair that begins meanwhile would make the file anew.
        let _opening = self.opening();
        self.disk.remove_if_there(&path)?;
        self.disk.remove_if_there(&partial::mark_path(&path))?;
        self.forget(package);
        Ok(())
    }

    /// Gives what stands before the chunks of a package a file of its own; durable when this
    /// returns. Where the package's file is gone that was done before.
    ///
    /// # Errors
    /// [`SpoolError`]; with `UnexpectedEof` or `InvalidData` there is nothing to keep.
    pub fn keep_head(&self, manifest: &VerifiedManifest) -> Result<(), SpoolError> {
        let path = self.pack_path(&manifest.id());
        let file = match self.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(failed(&path))?,
        };
        let length = PackLayout::tight(manifest).offset_of(Section::Chunks);
        let mut head = vec![0; usize::try_from(length.unwrap_or(0)).unwrap_or(0)];
        let read = file.read_exact_at(&mut head, 0);
        read.map_err(unread).map_err(failed(&path))?;
        self.heads.keep(&manifest.id(), &head)
    }

    /// Removes what was left of a package whose chunks are gone. Removing twice is harmless.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn remove_head(&self, package: &PackageId) -> Result<(), SpoolError> {
        self.heads.remove(package)
    }

    /// What was removed before is durably gone when this returns.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn sync_removed(&self) -> Result<(), SpoolError> {
        self.disk.sync_dir(&self.dir).map_err(failed(&self.dir))?;
        self.shared.sync_removed()?;
        self.heads.sync()
    }

    /// At the start: removes what neither the log knows nor anybody may still go on with. `heads`
    /// names packages of which what stands before their chunks is kept.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn sweep(
        &self,
        live: &[(PackageId, PackLocation)],
        heads: &BTreeSet<PackageId>,
        now: Timestamp,
    ) -> Result<(), SpoolError> {
        self.heads.sweep(heads)?;
        let accepted: BTreeSet<PackageId> = live.iter().map(|(id, _)| *id).collect();
        self.clear(|package| accepted.contains(package), now, true)?;
        for package in &accepted {
            let mark = partial::mark_path(&self.pack_path(package));
            self.disk.remove_if_there(&mark)?;
        }
        self.shared.sweep(live.iter().map(|(_, location)| location))
    }

    /// Removes transfers that nobody goes on with and whose package has expired, or that are older
    /// than a week. What `accepted` knows stays. Returns how many were removed.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn expire(
        &self,
        accepted: impl Fn(&PackageId) -> bool,
        now: Timestamp,
    ) -> Result<usize, SpoolError> {
        self.clear(accepted, now, false)
    }

    fn clear(
        &self,
        accepted: impl Fn(&PackageId) -> bool,
        now: Timestamp,
        left_overs: bool,
    ) -> Result<usize, SpoolError> {
        let _opening = self.opening();
        let known: Vec<PackageId> = self.usage().packs.keys().copied().collect();
        let mut removed = 0;
        for id in known {
            let path = self.pack_path(&id);
            let mark = partial::mark_path(&path);
            // Without a mark it is accepted, or was left over by a removal that a stop cut off.
            let clear = match self.disk.is_file(&mark) {
                true => self.kept_until(&path).is_none_or(|until| now >= until),
                false => left_overs,
            };
            if !clear {
                continue;
            }
            if self.usage().partials.contains_key(&id) || accepted(&id) {
                continue;
            }
            self.disk.remove_if_there(&mark)?;
            self.disk.remove_if_there(&path)?;
            self.forget(&id);
            removed += 1;
        }
        Ok(removed)
    }
}

fn pack_id(path: &Path) -> Option<PackageId> {
    path.file_name()?
        .to_str()?
        .strip_suffix(".pack")?
        .parse()
        .ok()
}

/// A package in the spool, open for reading. Cheap to clone.
#[derive(Clone)]
pub struct PackReader {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    layout: PackLayout,
    start: i128,
}

impl PackReader {
    /// Reads a part. Blocks.
    ///
    /// # Errors
    /// What the system says, also when the file is shorter than it must be; `InvalidData` where
    /// the disk does not give the bytes any more.
    pub fn read(&self, section: Section, offset: u64, length: u64) -> io::Result<Bytes> {
        let start = i128::from(self.layout.offset_of(section).unwrap_or(0));
        let at = u64::try_from(self.start + start + i128::from(offset))
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        let read = self.file.read_exact_at(&mut bytes, at);
        read.map_err(|error| {
            let error = unread(error);
            io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
        })?;
        Ok(bytes.into())
    }
}

impl Stored for PackReader {
    fn read(&self, section: Section, offset: u64, length: u64) -> io::Result<Bytes> {
        PackReader::read(self, section, offset, length)
    }
}

#[cfg(test)]
mod tests;
