//! Segment files: preallocated with zeros, written from front to back, one `fdatasync` a frame.
//!
//! The next one is preallocated ahead, so that a full disk shows while there is still room to say
//! so, and no append waits for the allocation.
//!
//! A segment begins with everything that is needed to go on from there: the frontier of the tree
//! and the hashes of the tiles that are not full. Opening the log reads the newest one, and those
//! before it with entries of the bundle that is not full: one, as a rule.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use passerelle_disk::{At, Disk, DiskError, DiskFile, crash_point};
use passerelle_proto::Digest;
use passerelle_proto::merkle::Frontier;

use super::frame::{self, Frame};
use super::tiles::Tiles;
use super::{Fatal, io_at};

const MAGIC: &[u8; 8] = b"PSLSEG01";
/// Name of the file that becomes the next segment; it holds nothing but zeros.
const SPARE: &str = "spare";
/// Length of a segment's beginning, zeros included.
const HEAD_LEN: usize = 128 * 1024;

/// Why a segment was not made.
pub(super) enum SegmentError {
    /// No room; nothing has changed.
    Full,
    /// See [`Fatal`].
    Fatal(Fatal),
}

impl SegmentError {
    /// A full disk is no reason to stop: the unfinished file goes, and nothing has changed.
    fn of(disk: &dyn Disk, error: DiskError, unfinished: &Path) -> Self {
        if !error.is_full() {
            return Self::Fatal(error.into());
        }
        // Should it stay, the next attempt truncates it.
        let _ = disk.remove(unfinished);
        Self::Full
    }

    pub(super) fn into_fatal(self) -> Fatal {
        match self {
            Self::Fatal(fatal) => fatal,
            Self::Full => Fatal::Io {
                path: PathBuf::from("log"),
                source: io::ErrorKind::StorageFull.into(),
            },
        }
    }
}

/// The newest segment.
pub(super) struct Segment {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    end: u64,
    len: u64,
}

/// The directory of all segments.
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    len: u64,
}

impl Segments {
    /// Those of the log in `log`, each of `len` bytes.
    pub(super) fn new(disk: &Arc<dyn Disk>, log: &Path, len: u64) -> Self {
        Self {
            disk: disk.clone(),
            dir: log.join("wal"),
            len,
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self, first: u64) -> PathBuf {
        self.dir.join(format!("{first:016}.seg"))
    }

    /// First indices of all segments, ascending.
    pub(super) fn list(&self) -> Result<Vec<u64>, Fatal> {
        let found = self.disk.list(&self.dir).map_err(io_at(&self.dir))?;
        let number = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?.strip_suffix(".seg")?;
            name.parse::<u64>().ok()
        };
        let mut numbers: Vec<u64> = found.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Removes what was being made when the gateway stopped: nothing else would ever do so.
    pub(super) fn remove_unfinished(&self) -> Result<(), Fatal> {
        for path in self.disk.list(&self.dir).map_err(io_at(&self.dir))? {
            if path.extension().is_some_and(|extension| extension == "tmp") {
                self.disk.remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    /// Preallocates the segment after the newest one, unless that is done.
    pub(super) fn reserve(&self) -> Result<(), SegmentError> {
        let path = self.dir.join(SPARE);
        let found = self.disk.status(&path);
        if found.is_ok_and(|found| found.length == self.len) {
            return Ok(());
        }
        let unfinished = path.with_extension("tmp");
        let made = begin(self.disk.as_ref(), &unfinished, &[], self.len).and_then(|_| {
            crash_point!("segment.reserved");
            self.disk.rename_synced(&unfinished, &path)
        });
        made.map_err(|error| SegmentError::of(self.disk.as_ref(), error, &unfinished))
    }

    /// Removes segments whose entries all stand in full, synced bundles, but for the newest two.
    pub(super) fn remove_bundled(&self, bundled: u64) -> Result<(), Fatal> {
        for pair in self.list()?.windows(3) {
            // All entries of the first one lie before the second one's first.
            if pair[1] <= bundled {
                self.disk.remove_if_there(&self.path(pair[0]))?;
                crash_point!("segment.removed");
            }
        }
        Ok(())
    }

    /// Makes the next segment: preallocated, begun and synced before it has its name.
    pub(super) fn create(
        &self,
        tiles: &Tiles,
        frontier: &Frontier,
    ) -> Result<Segment, SegmentError> {
        self.reserve()?;
        let disk = self.disk.as_ref();
        let path = self.path(frontier.size());
        let unfinished = path.with_extension("tmp");
        let made = self.fill_spare(&unfinished, &encode_head(frontier, tiles));
        let file = made.map_err(|error| SegmentError::of(disk, error, &unfinished))?;
        crash_point!("segment.filled");
        // Once it may have its name, the one before must not be written any more: whatever the
        // error is, nobody goes on.
        let named = disk.rename_synced(&unfinished, &path);
        named.map_err(|error| SegmentError::Fatal(error.into()))?;
        crash_point!("segment.begun");
        Ok(Segment {
            path,
            file,
            end: HEAD_LEN as u64,
            len: self.len,
        })
    }

    fn fill_spare(&self, unfinished: &Path, head: &[u8]) -> Result<Box<dyn DiskFile>, DiskError> {
        let spare = self.dir.join(SPARE);
        self.disk.rename(&spare, unfinished).at("rename", &spare)?;
        crash_point!("segment.taken");
        let file = self.disk.open(unfinished).at("open", unfinished)?;
        file.write_at(head, 0).at("write", unfinished)?;
        file.sync().at("sync", unfinished)?;
        Ok(file)
    }

    /// Opens the newest segment; its end is copied into a new file and synced before it is
    /// believed: after a failed sync it may have lived in memory only.
    pub(super) fn recover(
        &self,
        first: u64,
        log: &Path,
    ) -> Result<(Segment, Frontier, Tiles), Fatal> {
        let path = self.path(first);
        let bytes = self.disk.read(&path).map_err(io_at(&path))?;
        let corrupt = |offset: usize| Fatal::Corrupt {
            path: path.clone(),
            offset: offset as u64,
        };
        let (frontier, pending) = decode_head(&bytes).ok_or_else(|| corrupt(0))?;
        let tiles = Tiles::resume(&self.disk, log, frontier.size(), pending);
        let mut root = frontier.clone();
        let end = scan(&bytes, |frame| {
            let expected = (root.size(), root.root());
            frame
                .entries
                .iter()
                .for_each(|entry| root.push(passerelle_proto::merkle::leaf_hash(entry)));
            (frame.first, frame.root_before) == expected
        })
        .map_err(corrupt)?;
        let copy = path.with_extension("tmp");
        // A copy from a backup ends where its last frame does.
        let len = self.len.max(bytes.len() as u64);
        let file = begin(self.disk.as_ref(), &copy, &bytes[..end], len)?;
        crash_point!("start.copied");
        self.disk.rename_synced(&copy, &path)?;
        let segment = Segment {
            path,
            file,
            end: end as u64,
            len,
        };
        Ok((segment, frontier, tiles))
    }

    /// Entries of a whole segment, in order.
    pub(super) fn each_entry(
        &self,
        first: u64,
        mut entry: impl FnMut(&[u8]) -> Result<(), Fatal>,
    ) -> Result<(), Fatal> {
        let path = self.path(first);
        let bytes = self.disk.read(&path).map_err(io_at(&path))?;
        let mut outcome = Ok(());
        let scanned = scan(&bytes, |frame| {
            for bytes in &frame.entries {
                if outcome.is_ok() {
                    outcome = entry(bytes);
                }
            }
            true
        });
        scanned.map_err(|offset| Fatal::Corrupt {
            path,
            offset: offset as u64,
        })?;
        outcome
    }
}

impl Segment {
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.end + bytes <= self.len
    }

    /// Where what is committed ends, if this is the segment at `path`.
    pub(super) fn end_of(&self, path: &Path) -> Option<u64> {
        (self.path == path).then_some(self.end)
    }

    /// Writes a frame and syncs it.
    pub(super) fn write(&mut self, frame: &[u8]) -> Result<(), Fatal> {
        let failed = io_at(&self.path);
        let written = self.file.write_at(frame, self.end).and_then(|()| {
            crash_point!("commit.written");
            self.file.sync()
        });
        written.map_err(failed)?;
        self.end += frame.len() as u64;
        Ok(())
    }
}

/// Hands over all intact frames and returns where they end.
///
/// A bad frame at the very end is torn and not counted; with an intact one behind it the offset
/// of the bad one is the error.
pub(super) fn scan(
    bytes: &[u8],
    mut accept: impl FnMut(&Frame<'_>) -> bool,
) -> Result<usize, usize> {
    let mut at = HEAD_LEN;
    while let Some(frame) = bytes.get(at..).and_then(frame::decode) {
        if !accept(&frame) {
            return Err(at);
        }
        at += frame.len;
    }
    match bytes.get(at..).is_some_and(frame::any_intact) {
        true => Err(at),
        false => Ok(at),
    }
}

/// A new file with room for `len` bytes that begins with `bytes`, synced.
fn begin(
    disk: &dyn Disk,
    path: &Path,
    bytes: &[u8],
    len: u64,
) -> Result<Box<dyn DiskFile>, DiskError> {
    let file = disk.create(path).at("create", path)?;
    file.allocate(len).at("allocate", path)?;
    if !bytes.is_empty() {
        file.write_at(bytes, 0).at("write", path)?;
    }
    file.sync().at("sync", path)?;
    Ok(file)
}

fn encode_head(frontier: &Frontier, tiles: &Tiles) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&frontier.size().to_le_bytes());
    let mut hashes = |list: &[Digest]| {
        body.extend_from_slice(&(list.len() as u32).to_le_bytes());
        list.iter().for_each(|hash| body.extend_from_slice(&hash.0));
    };
    hashes(frontier.peaks());
    tiles.pending().iter().for_each(|level| hashes(level));
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&(body.len() as u32).to_le_bytes());
    head.extend_from_slice(&Digest::of(&body).0);
    head.extend_from_slice(&body);
    head.resize(HEAD_LEN, 0);
    head
}

/// The frontier, and the hashes of tiles that are not full, by level.
fn decode_head(bytes: &[u8]) -> Option<(Frontier, Vec<Vec<Digest>>)> {
    let head = bytes.get(..HEAD_LEN)?.strip_prefix(MAGIC)?;
    let (length, rest) = head.split_at_checked(4)?;
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    let (digest, rest) = rest.split_at_checked(32)?;
    let body = rest.get(..length)?;
    if Digest::of(body).0[..] != *digest {
        return None;
    }
    let (size, mut rest) = body.split_at_checked(8)?;
    let size = u64::from_le_bytes(size.try_into().ok()?);
    let mut lists = Vec::new();
    while !rest.is_empty() {
        let (count, after) = rest.split_at_checked(4)?;
        let count = u32::from_le_bytes(count.try_into().ok()?) as usize;
        let (hashes, after) = after.split_at_checked(count.checked_mul(32)?)?;
        let hashes: Option<Vec<Digest>> = hashes
            .chunks_exact(32)
            .map(|hash| Digest::from_slice(hash).ok())
            .collect();
        lists.push(hashes?);
        rest = after;
    }
    let mut lists = lists.into_iter();
    let frontier = Frontier::from_peaks(size, lists.next()?)?;
    Some((frontier, lists.collect()))
}
