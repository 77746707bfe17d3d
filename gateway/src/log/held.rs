//! A log as it stands at one moment, to be copied while it goes on growing.
//!
//! What is committed never changes, and a segment that is removed meanwhile stays open.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use passerelle_disk::{Disk, DiskFile};
use passerelle_proto::tile::{TILE_WIDTH, entries_path, tile_path};

use super::segment::scan;
use super::tiles::Unwritten;
use super::{Fatal, Log, io_at};

/// What there is to copy of a log, besides its checkpoint.
pub(crate) struct Held {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    size: u64,
    unwritten: Unwritten,
    segments: Vec<HeldSegment>,
}

/// A segment, open.
pub(crate) struct HeldSegment {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    /// Where what is committed ends; `None`: nothing is written to it any more.
    end: Option<u64>,
}

impl Log {
    /// What is committed now. Reads no contents: it does not hold up the next append for long.
    ///
    /// # Errors
    /// [`Fatal::Io`].
    pub(crate) fn hold(&self) -> Result<Held, Fatal> {
        let mut segments = Vec::new();
        for first in self.segments.list()? {
            let path = self.segments.path(first);
            let file = self.disk.open_to_read(&path).map_err(io_at(&path))?;
            let end = self.segment.end_of(&path);
            segments.push(HeldSegment { path, file, end });
        }
        Ok(Held {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            size: self.size(),
            unwritten: self.tiles.unwritten().clone(),
            segments,
        })
    }
}

impl Held {
    /// Paths of all full tiles and bundles, below the log's directory. What is not full follows
    /// from the segments.
    pub(crate) fn full_files(&self) -> impl Iterator<Item = String> {
        let full = move |level: u32| self.size >> (8 * (level + 1));
        let levels = (0..u32::from(u8::MAX)).take_while(move |level| full(*level) > 0);
        let tiles = levels.flat_map(move |level| {
            (0..full(level)).map(move |tile| tile_path(level as u8, tile, TILE_WIDTH))
        });
        let bundles = (0..full(0)).map(|bundle| entries_path(bundle, TILE_WIDTH));
        tiles.chain(bundles)
    }

    /// One of them.
    ///
    /// # Errors
    /// [`Fatal::Io`].
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, Fatal> {
        let path = self.dir.join(path);
        if let Some(bytes) = self.unwritten.get(&path) {
            return Ok(bytes.to_vec());
        }
        self.disk.read(&path).map_err(io_at(&path))
    }

    /// The segments, oldest first.
    pub(crate) fn segments(&self) -> &[HeldSegment] {
        &self.segments
    }
}

impl HeldSegment {
    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All that is committed in it, at most [`super::SEGMENT_LEN`] bytes.
    ///
    /// # Errors
    /// [`Fatal::Corrupt`] where it has rotted, [`Fatal::Io`].
    pub(crate) fn read(&self) -> Result<Vec<u8>, Fatal> {
        let failed = io_at(&self.path);
        let read = || {
            let length = match self.end {
                Some(end) => end,
                None => self.file.length()?,
            };
            let mut bytes = vec![0; length as usize];
            self.file.read_exact_at(&mut bytes, 0)?;
            Ok(bytes)
        };
        let mut bytes = read().map_err(failed)?;
        let end = match scan(&bytes, |_| true) {
            Ok(end) if self.end.is_none_or(|committed| committed == end as u64) => end,
            Ok(bad) | Err(bad) => {
                let (path, offset) = (self.path.clone(), bad as u64);
                return Err(Fatal::Corrupt { path, offset });
            }
        };
        // Behind it is room that nothing was written to.
        bytes.truncate(end);
        Ok(bytes)
    }
}
