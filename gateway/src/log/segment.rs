//! Segment files: preallocated with zeros, written from front to back, one `fdatasync` a frame.
//!
//! The next one is preallocated ahead, so that a full disk shows while there is still room to say
//! so, and no append waits for the allocation.
//!
//! A segment begins with everything that is needed to go on from there: the frontier of the tree
//! and the hashes of the tiles that are not full. Opening the log reads two segments at most.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use passerelle_proto::Digest;
use passerelle_proto::merkle::Frontier;

use super::frame::{self, Frame};
use super::tiles::Tiles;
use super::{Fatal, io_at};
use crate::disk;

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
    fn of(error: io::Error, unfinished: &Path) -> Self {
        if error.kind() != io::ErrorKind::StorageFull {
            return Self::Fatal(io_at(unfinished)(error));
        }
        // Should it stay, the next attempt truncates it.
        let _ = fs::remove_file(unfinished);
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
    file: File,
    end: u64,
    len: u64,
}

fn segment_path(wal: &Path, first: u64) -> PathBuf {
    wal.join(format!("{first:016}.seg"))
}

/// First indices of all segments, ascending.
pub(super) fn list(wal: &Path) -> Result<Vec<u64>, Fatal> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(wal).map_err(io_at(wal))? {
        let name = entry.map_err(io_at(wal))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Preallocates the segment after the newest one, unless that is done.
pub(super) fn reserve(wal: &Path, len: u64) -> Result<(), SegmentError> {
    let path = wal.join(SPARE);
    if is_reserved(wal, len) {
        return Ok(());
    }
    let unfinished = path.with_extension("tmp");
    let made = open_empty(&unfinished)
        .and_then(|file| disk::preallocate(&file, len).and_then(|()| file.sync_all()))
        .and_then(|()| disk::rename_synced(&unfinished, &path));
    made.map_err(|error| SegmentError::of(error, &unfinished))
}

/// Whether the next segment is preallocated.
fn is_reserved(wal: &Path, len: u64) -> bool {
    fs::metadata(wal.join(SPARE)).is_ok_and(|found| found.len() == len)
}

/// Removes segments whose entries all stand in full, synced bundles, but for the newest two.
pub(super) fn remove_bundled(wal: &Path, bundled: u64) -> Result<(), Fatal> {
    let numbers = list(wal)?;
    for pair in numbers.windows(3) {
        // All entries of the first one lie before the second one's first.
        if pair[1] <= bundled {
            let path = segment_path(wal, pair[0]);
            fs::remove_file(&path).map_err(io_at(&path))?;
        }
    }
    Ok(())
}

impl Segment {
    /// Makes the next segment: preallocated, begun and synced before it has its name.
    pub(super) fn create(
        wal: &Path,
        tiles: &Tiles,
        frontier: &Frontier,
        len: u64,
    ) -> Result<Self, SegmentError> {
        let path = segment_path(wal, frontier.size());
        reserve(wal, len)?;
        let unfinished = path.with_extension("tmp");
        let made = fs::rename(wal.join(SPARE), &unfinished)
            .and_then(|()| OpenOptions::new().read(true).write(true).open(&unfinished))
            .and_then(|file| fill(file, &encode_head(frontier, tiles)))
            .and_then(|file| disk::rename_synced(&unfinished, &path).map(|()| file));
        let file = made.map_err(|error| SegmentError::of(error, &unfinished))?;
        Ok(Self {
            path,
            file,
            end: HEAD_LEN as u64,
            len,
        })
    }

    /// Opens the newest segment; its end is copied into a new file and synced before it is
    /// believed: after a failed sync it may have lived in memory only.
    pub(super) fn recover(
        wal: &Path,
        first: u64,
        dir: &Path,
    ) -> Result<(Self, Frontier, Tiles), Fatal> {
        let path = segment_path(wal, first);
        let bytes = fs::read(&path).map_err(io_at(&path))?;
        let corrupt = |offset: usize| Fatal::Corrupt {
            path: path.clone(),
            offset: offset as u64,
        };
        let (frontier, tiles) = decode_head(&bytes, dir).ok_or_else(|| corrupt(0))?;
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
        let len = bytes.len() as u64;
        let failed = io_at(&copy);
        let file = begin(&copy, &bytes[..end], len).map_err(failed)?;
        disk::rename_synced(&copy, &path).map_err(io_at(&path))?;
        let segment = Self {
            path,
            file,
            end: end as u64,
            len,
        };
        Ok((segment, frontier, tiles))
    }

    /// All entries, in order.
    pub(super) fn each(&self, entry: impl FnMut(&[u8]) -> Result<(), Fatal>) -> Result<(), Fatal> {
        each_entry(&self.path, entry)
    }

    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.end + bytes <= self.len
    }

    /// Writes a frame and syncs it.
    pub(super) fn write(&mut self, frame: &[u8]) -> Result<(), Fatal> {
        let written = self.file.write_all_at(frame, self.end);
        written
            .and_then(|()| self.file.sync_data())
            .map_err(io_at(&self.path))?;
        self.end += frame.len() as u64;
        Ok(())
    }
}

/// Entries of a whole segment file, in order.
pub(super) fn each_entry(
    path: &Path,
    mut entry: impl FnMut(&[u8]) -> Result<(), Fatal>,
) -> Result<(), Fatal> {
    let bytes = fs::read(path).map_err(io_at(path))?;
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
        path: path.to_owned(),
        offset: offset as u64,
    })?;
    outcome
}

/// Path of the segment that begins at an index.
pub(super) fn path_of(wal: &Path, first: u64) -> PathBuf {
    segment_path(wal, first)
}

/// Hands over all intact frames and returns where they end.
///
/// A bad frame at the very end is torn and not counted; with an intact one behind it the offset
/// of the bad one is the error.
fn scan(bytes: &[u8], mut accept: impl FnMut(&Frame<'_>) -> bool) -> Result<usize, usize> {
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

fn begin(path: &Path, bytes: &[u8], len: u64) -> io::Result<File> {
    let file = open_empty(path)?;
    disk::preallocate(&file, len)?;
    fill(file, bytes)
}

fn open_empty(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    options.open(path)
}

/// Writes the beginning of a file and syncs it.
fn fill(file: File, bytes: &[u8]) -> io::Result<File> {
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
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

fn decode_head(bytes: &[u8], dir: &Path) -> Option<(Frontier, Tiles)> {
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
    let tiles = Tiles::resume(dir, size, lists.collect());
    Some((frontier, tiles))
}
