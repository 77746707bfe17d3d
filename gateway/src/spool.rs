//! The spool: packages that were accepted and not yet finished, and transfers under way.
//!
//! A package that fits into its offer lies in a segment that many share; every other one has a
//! file of its own, `<id>.pack`, at its final path from the first byte. What is on the disk and
//! not in the log is a transfer under way, never an accepted package.

mod partial;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use passerelle_proto::v1::{PackLocation, Section};
use passerelle_proto::{
    InlineError, PACK_HEADER_LEN, PackLayout, PackageId, VerifiedManifest, split_inline,
};

pub use self::partial::Partial;
use self::shared::Shared;
use crate::config::Limits;
use crate::disk;

/// Free bytes that the file system must keep; below, no package is taken.
pub const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// A transfer under way that nobody has gone on with for this long is removed.
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
    /// The same package is being taken on another stream, which is older: that one ends.
    #[error("another stream has taken over this package")]
    TakenOver,
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
        matches!(self, Self::Io { source, .. } if source.raw_os_error() == Some(5))
    }
}

pub(crate) fn failed(path: &Path) -> impl FnOnce(io::Error) -> SpoolError + '_ {
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

#[derive(Default)]
struct Usage {
    /// Bytes reserved by packages and transfers, by package.
    packs: BTreeMap<PackageId, u64>,
    /// Transfers under way: how often each was begun.
    partials: BTreeMap<PackageId, u64>,
    total: u64,
}

/// The spool of one gateway.
pub struct Spool {
    dir: PathBuf,
    limits: Limits,
    usage: Mutex<Usage>,
    shared: Shared,
}

impl Spool {
    /// Opens or begins the spool.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn open(dir: &Path, limits: Limits) -> Result<Arc<Self>, SpoolError> {
        fs::create_dir_all(dir).map_err(failed(dir))?;
        let mut usage = Usage::default();
        for entry in fs::read_dir(dir).map_err(failed(dir))? {
            let entry = entry.map_err(failed(dir))?;
            let Some(id) = pack_id(&entry.path()) else {
                continue;
            };
            let length = entry.metadata().map_err(failed(dir))?.len();
            usage.packs.insert(id, length);
            usage.total += length;
        }
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            limits,
            usage: Mutex::new(usage),
            shared: Shared::open(&dir.join("shared"))?,
        }))
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn pack_path(&self, package: &PackageId) -> PathBuf {
        self.dir.join(format!("{package}.pack"))
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.usage().total + self.shared.bytes()
    }

    fn check_room(&self, bytes: u64) -> Result<(), SpoolError> {
        if self.bytes().saturating_add(bytes) > self.limits.spool_bytes_max {
            return Err(SpoolError::Full("its quota is used up"));
        }
        let free = disk::free_bytes(&self.dir).map_err(failed(&self.dir))?;
        match free < bytes.saturating_add(FREE_BYTES_MIN) {
            true => Err(SpoolError::Full("the disk is nearly full")),
            false => Ok(()),
        }
    }

    /// Begins or resumes taking a package. An older transfer of it ends.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn begin(self: &Arc<Self>, manifest: &VerifiedManifest) -> Result<Partial, SpoolError> {
        let id = manifest.id();
        let length = PackLayout::tight(manifest).file_len();
        let known = self.usage().packs.contains_key(&id);
        if !known {
            self.check_room(length)?;
            let partials: u64 = {
                let usage = self.usage();
                let under_way = usage.partials.keys();
                under_way.filter_map(|id| usage.packs.get(id)).sum()
            };
            if partials.saturating_add(length) > self.limits.partial_bytes_max {
                return Err(SpoolError::Full("too much is being received at once"));
            }
        }
        let turn = {
            let mut usage = self.usage();
            if usage.packs.insert(id, length).is_none() {
                usage.total += length;
            }
            let turn = usage.partials.entry(id).or_default();
            *turn += 1;
            *turn
        };
        Partial::open(self.clone(), self.pack_path(&id), manifest, turn)
    }

    /// Whether a transfer is still the newest of its package.
    pub(crate) fn is_current(&self, package: &PackageId, turn: u64) -> bool {
        self.usage().partials.get(package) == Some(&turn)
    }

    /// A transfer is complete.
    pub(crate) fn completed(&self, package: &PackageId) {
        self.usage().partials.remove(package);
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
        self.check_room(inline.len() as u64)?;
        self.shared.append(inline)
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
        let (path, start) = match location.segment {
            // In a segment only head and chunks are kept: the manifest is in the log.
            0 => (self.pack_path(&manifest.id()), 0),
            segment => {
                let before = PACK_HEADER_LEN + layout.manifest_len();
                let start = i128::from(location.offset) - i128::from(before);
                (self.shared.path(segment), start)
            }
        };
        let file = File::open(&path).map_err(failed(&path))?;
        Ok(PackReader {
            path,
            file: Arc::new(file),
            layout,
            start,
        })
    }

    /// Removes a package that is finished. Removing twice is harmless.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn remove(&self, package: &PackageId, location: &PackLocation) -> Result<(), SpoolError> {
        if location.segment != 0 {
            return self.shared.release(location);
        }
        let path = self.pack_path(package);
        remove_file(&path)?;
        let mut usage = self.usage();
        if let Some(length) = usage.packs.remove(package) {
            usage.total -= length;
        }
        Ok(())
    }

    /// At the start: removes what neither the log knows nor anybody may still go on with.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn sweep(&self, live: &[(PackageId, PackLocation)]) -> Result<(), SpoolError> {
        let accepted: BTreeSet<PackageId> = live.iter().map(|(id, _)| *id).collect();
        let known: Vec<PackageId> = self.usage().packs.keys().copied().collect();
        for id in known {
            let path = self.pack_path(&id);
            let mark = partial::mark_path(&path);
            let under_way = mark.exists() && age(&path) < PARTIAL_LIFE;
            if accepted.contains(&id) || under_way {
                continue;
            }
            remove_file(&mark)?;
            let whole = PackLocation::default();
            self.remove(&id, &whole)?;
        }
        self.shared.sweep(live.iter().map(|(_, location)| location))
    }
}

fn pack_id(path: &Path) -> Option<PackageId> {
    path.file_name()?
        .to_str()?
        .strip_suffix(".pack")?
        .parse()
        .ok()
}

fn age(path: &Path) -> Duration {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    let age = modified.map(|at| SystemTime::now().duration_since(at).unwrap_or_default());
    age.unwrap_or_default()
}

pub(crate) fn remove_file(path: &Path) -> Result<(), SpoolError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

/// A package in the spool, open for reading. Cheap to clone.
#[derive(Clone)]
pub struct PackReader {
    path: PathBuf,
    file: Arc<File>,
    layout: PackLayout,
    start: i128,
}

impl PackReader {
    /// Reads a part. Blocks.
    ///
    /// # Errors
    /// What the system says, also when the file is shorter than it must be.
    pub fn read(&self, section: Section, offset: u64, length: u64) -> io::Result<Bytes> {
        let start = i128::from(self.layout.offset_of(section).unwrap_or(0));
        let at = u64::try_from(self.start + start + i128::from(offset))
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, at).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
        })?;
        Ok(bytes.into())
    }

    /// The whole package as it travels inside an offer.
    ///
    /// # Errors
    /// As [`PackReader::read`].
    pub fn inline(&self) -> io::Result<Bytes> {
        let mut whole = Vec::new();
        for section in [
            Section::Wraps,
            Section::ChunkTable,
            Section::Index,
            Section::Chunks,
        ] {
            let length = self.layout.length_of(section);
            whole.extend_from_slice(&self.read(section, 0, length)?);
        }
        Ok(whole.into())
    }
}

#[cfg(test)]
mod tests;
