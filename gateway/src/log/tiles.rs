//! Tiles and entry bundles: the log as files that anybody can check.
//!
//! Full ones are written and synced as they fill; those that are not full only with a checkpoint.
//! They are derived: what is missing after a crash is written again from the segments. A full one
//! is believed only while its hashes lead to the hash that stands for it in the tile above.
//!
//! A full one that there is no room for is kept in memory and written later: no next segment is
//! begun and no checkpoint is signed before that, so there are never more of them than the bytes of
//! one segment make.

mod mend;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use passerelle_disk::{Disk, DiskError, beside, crash_point};
use passerelle_proto::Digest;
use passerelle_proto::merkle::{StoredHashes, TILE_HEIGHT};
use passerelle_proto::tile::{TILE_WIDTH, encode_tile, entries_path, push_entry, tile_path};

use super::segment::Segments;
use super::{AppendError, Fatal};

const WIDTH: usize = TILE_WIDTH as usize;

/// Full files that there was no room for yet, by path.
pub(super) type Unwritten = BTreeMap<PathBuf, Arc<[u8]>>;

/// Writes tiles, and reads hashes and entries back.
pub(super) struct Tiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    // Hashes of the tile that is not full, by level.
    pending: Vec<Vec<Digest>>,
    // Full tiles, by level.
    full: Vec<u64>,
    // Entries of the bundle that is not full.
    entries: Vec<Vec<u8>>,
    // Sizes for which partial files were written, to remove them when they are full.
    partial: Vec<PathBuf>,
    unwritten: Unwritten,
}

impl Tiles {
    pub(super) fn new(disk: &Arc<dyn Disk>, dir: &Path) -> Self {
        Self::resume(disk, dir, 0, Vec::new())
    }

    /// Goes on after `size` entries; `pending` are the hashes of tiles that are not full then.
    pub(super) fn resume(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        size: u64,
        pending: Vec<Vec<Digest>>,
    ) -> Self {
        let mut tiles = Self {
            disk: disk.clone(),
            dir: dir.to_owned(),
            pending,
            full: Vec::new(),
            entries: Vec::new(),
            partial: Vec::new(),
            unwritten: Unwritten::new(),
        };
        if tiles.pending.is_empty() {
            tiles.pending.push(Vec::new());
        }
        let mut count = size;
        for _ in 0..tiles.pending.len() {
            count /= TILE_WIDTH;
            tiles.full.push(count);
        }
        tiles
    }

    pub(super) fn pending(&self) -> &[Vec<Digest>] {
        &self.pending
    }

    /// Full files that there was no room for yet.
    pub(super) fn unwritten(&self) -> &Unwritten {
        &self.unwritten
    }

    /// Entries in full bundles, which are synced unless there was no room for them.
    pub(super) fn bundled(&self) -> u64 {
        self.full.first().copied().unwrap_or(0) * TILE_WIDTH
    }

    /// Takes the entries of the bundle that is not full from the segments before the newest one,
    /// which begin at `firsts`.
    ///
    /// # Errors
    /// [`Fatal::Missing`] when a segment with some of them is gone.
    pub(super) fn read_previous(
        &mut self,
        segments: &Segments,
        firsts: &[u64],
    ) -> Result<(), Fatal> {
        let wanted = self.bundled();
        let pending = self.pending.first().map_or(0, Vec::len);
        if pending == 0 {
            return Ok(());
        }
        let holding = firsts.partition_point(|first| *first <= wanted);
        let mut entries = Vec::new();
        for first in &firsts[holding.saturating_sub(1)..] {
            let mut index = *first;
            segments.each_entry(*first, |entry| {
                if index >= wanted {
                    entries.push(entry.to_vec());
                }
                index += 1;
                Ok(())
            })?;
        }
        if entries.len() != pending {
            return Err(Fatal::Missing {
                path: segments.dir().to_owned(),
                from: wanted,
                until: wanted + pending as u64,
                found: entries.len() as u64,
            });
        }
        self.entries = entries;
        Ok(())
    }

    /// An entry has been committed.
    pub(super) fn push(&mut self, hash: Digest, entry: &[u8]) -> Result<(), Fatal> {
        self.entries.push(entry.to_vec());
        if self.entries.len() == WIDTH {
            let path = entries_path(self.full[0], TILE_WIDTH);
            let bundle = self.bundle()?;
            self.fill(&path, bundle)?;
            self.entries.clear();
        }
        self.push_hash(0, hash)
    }

    fn push_hash(&mut self, level: usize, hash: Digest) -> Result<(), Fatal> {
        if self.pending.len() == level {
            self.pending.push(Vec::new());
            self.full.push(0);
        }
        self.pending[level].push(hash);
        if self.pending[level].len() < WIDTH {
            return Ok(());
        }
        let row = std::mem::take(&mut self.pending[level]);
        let path = tile_path(level as u8, self.full[level], TILE_WIDTH);
        self.fill(&path, encode_tile(&row))?;
        self.full[level] += 1;
        self.push_hash(level + 1, mend::root_of(row))
    }

    fn bundle(&self) -> Result<Vec<u8>, Fatal> {
        let mut bundle = Vec::new();
        for entry in &self.entries {
            push_entry(&mut bundle, entry).ok_or(Fatal::Batch {
                entries: 1,
                bytes: entry.len(),
            })?;
        }
        Ok(bundle)
    }

    /// A bundle or a tile has become full.
    fn fill(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), Fatal> {
        let path = self.dir.join(path);
        match self.write_full(&path, &bytes) {
            Err(error) if error.is_full() => {
                self.unwritten.insert(path, bytes.into());
                Ok(())
            }
            written => Ok(written?),
        }
    }

    fn write_full(&mut self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        // A file has its name only once it is synced, so after a restart most of it is there.
        match self.disk.read(path) {
            Ok(there) if there == bytes => self.disk.sync_parent(path)?,
            _ => self.replace(path, bytes)?,
        }
        crash_point!("tile.written");
        self.remove_partial(path)
    }

    /// Removes what stood for a file while it was not full.
    fn remove_partial(&mut self, full: &Path) -> Result<(), DiskError> {
        let partial = beside(full, ".p");
        self.partial.retain(|old| !old.starts_with(&partial));
        self.disk.remove_tree(&partial)
    }

    /// Writes the full files that there was no room for.
    ///
    /// # Errors
    /// [`AppendError::Full`] when there still is none.
    pub(super) fn write_unwritten(&mut self) -> Result<(), AppendError> {
        while let Some((path, bytes)) = self.unwritten.first_key_value() {
            let (path, bytes) = (path.clone(), bytes.clone());
            // Anew, whatever is there: a sync that follows one that failed says nothing.
            self.replace(&path, &bytes)?;
            self.remove_partial(&path)?;
            self.unwritten.remove(&path);
        }
        Ok(())
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        if let Some(parent) = path.parent() {
            self.disk.create_directories(parent)?;
        }
        self.disk.replace(path, bytes)
    }

    /// Writes what is not full, for a checkpoint that follows.
    ///
    /// # Errors
    /// [`AppendError::Full`] when there is no room for it.
    pub(super) fn write_partial(&mut self) -> Result<(), AppendError> {
        let mut written = Vec::new();
        if !self.entries.is_empty() {
            let path = entries_path(self.full[0], self.entries.len() as u64);
            written.push((path, self.bundle()?));
        }
        for (level, hashes) in self.pending.iter().enumerate() {
            if !hashes.is_empty() {
                let path = tile_path(level as u8, self.full[level], hashes.len() as u64);
                written.push((path, encode_tile(hashes)));
            }
        }
        let paths: Vec<PathBuf> = written
            .iter()
            .map(|(path, _)| self.dir.join(path))
            .collect();
        for (path, (_, bytes)) in paths.iter().zip(&written) {
            if !self.partial.contains(path) {
                self.replace(path, bytes)?;
                // Should the next one fail, this one is still to be removed some day.
                self.partial.push(path.clone());
            }
        }
        for old in std::mem::replace(&mut self.partial, paths) {
            if !self.partial.contains(&old) {
                // A partial file that a longer one has replaced; it is only in the way.
                let _ = self.disk.remove(&old);
            }
        }
        Ok(())
    }

    /// One entry.
    pub(super) fn entry(&self, index: u64) -> Result<Vec<u8>, Fatal> {
        let found = self.entries(index, index + 1)?.pop();
        found.ok_or_else(|| missing(&self.dir, "there is no such entry"))
    }

    /// Entries from `first` to `end`.
    pub(super) fn entries(&self, first: u64, end: u64) -> Result<Vec<Vec<u8>>, Fatal> {
        let mut found = Vec::new();
        let mut index = first;
        while index < end {
            let bundle = index / TILE_WIDTH;
            let from = (index % TILE_WIDTH) as usize;
            let to = (end - bundle * TILE_WIDTH).min(TILE_WIDTH) as usize;
            if bundle == self.full[0] {
                let Some(entries) = self.entries.get(from..to) else {
                    return Err(missing(&self.dir, "there is no such entry"));
                };
                found.extend_from_slice(entries);
            } else {
                found.extend_from_slice(&self.sound_bundle(bundle)?[from..to]);
            }
            index = bundle * TILE_WIDTH + to as u64;
        }
        Ok(found)
    }
}

fn missing(path: &Path, why: &str) -> Fatal {
    Fatal::Io {
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, why.to_owned()),
    }
}

impl StoredHashes for Tiles {
    type Error = Fatal;

    fn stored(&self, level: u8, index: u64) -> Result<Digest, Fatal> {
        self.hash(usize::from(level / TILE_HEIGHT), index)
    }
}
