//! Tiles and entry bundles: the log as files that anybody can check.
//!
//! Full ones are written and synced as they fill; those that are not full only with a checkpoint.
//! They are derived: what is missing after a crash is written again from the segments. A full one
//! is believed only while its hashes lead to the hash that stands for it in the tile above.

mod mend;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use passerelle_disk::{Disk, beside, crash_point};
use passerelle_proto::Digest;
use passerelle_proto::merkle::{StoredHashes, TILE_HEIGHT};
use passerelle_proto::tile::{TILE_WIDTH, encode_tile, entries_path, push_entry, tile_path};

use super::Fatal;
use super::segment::Segments;

const WIDTH: usize = TILE_WIDTH as usize;

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

    /// Entries in full, synced bundles.
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
            self.write_full(&path, &bundle)?;
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
        self.write_full(&path, &encode_tile(&row))?;
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

    fn write_full(&mut self, path: &str, bytes: &[u8]) -> Result<(), Fatal> {
        let path = self.dir.join(path);
        // A file has its name only once it is synced, so after a restart most of it is there.
        match self.disk.read(&path) {
            Ok(there) if there == bytes => self.disk.sync_parent(&path)?,
            _ => self.replace(&path, bytes)?,
        }
        crash_point!("tile.written");
        // What stood for it while it was not full.
        let partial = beside(&path, ".p");
        self.partial.retain(|old| !old.starts_with(&partial));
        Ok(self.disk.remove_tree(&partial)?)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), Fatal> {
        if let Some(parent) = path.parent() {
            self.disk.create_directories(parent)?;
        }
        Ok(self.disk.replace(path, bytes)?)
    }

    /// Writes what is not full, for a checkpoint that follows.
    pub(super) fn write_partial(&mut self) -> Result<(), Fatal> {
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
