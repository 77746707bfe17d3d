//! Full tiles and bundles that have rotted: what they were follows from others, and is written
//! again.

use std::io;
use std::path::Path;

use passerelle_proto::Digest;
use passerelle_proto::merkle::{leaf_hash, node_hash};
use passerelle_proto::tile::{
    TILE_WIDTH, decode_entries, decode_tile, encode_tile, entries_path, push_entry, tile_path,
};

use super::{Tiles, missing};
use crate::log::segment::Segments;
use crate::log::{Fatal, io_at};

/// The hash over a full row.
pub(super) fn root_of(mut row: Vec<Digest>) -> Digest {
    while row.len() > 1 {
        row = row
            .chunks(2)
            .map(|pair| node_hash(&pair[0], &pair[1]))
            .collect();
    }
    row.first().copied().unwrap_or(Digest([0; 32]))
}

fn leaves(entries: &[Vec<u8>]) -> Vec<Digest> {
    entries.iter().map(|entry| leaf_hash(entry)).collect()
}

impl Tiles {
    /// A hash of a row of tiles.
    pub(super) fn hash(&self, level: usize, index: u64) -> Result<Digest, Fatal> {
        let (tile, at) = (index / TILE_WIDTH, (index % TILE_WIDTH) as usize);
        if self.full.get(level).is_none_or(|full| *full <= tile) {
            let pending = self.pending.get(level).and_then(|hashes| hashes.get(at));
            return pending
                .copied()
                .ok_or_else(|| missing(&self.dir, "there is no such hash"));
        }
        Ok(self.sound_tile(level, tile)?[at])
    }

    /// A full tile that leads to the hash that stands for it; made again where it does not.
    fn sound_tile(&self, level: usize, tile: u64) -> Result<Vec<Digest>, Fatal> {
        let root = self.hash(level + 1, tile)?;
        let path = self.dir.join(tile_path(level as u8, tile, TILE_WIDTH));
        let is_sound = |hashes: &Vec<Digest>| root_of(hashes.clone()) == root;
        let found = self.read_there(&path)?;
        let found = found.and_then(|bytes| decode_tile(&bytes, TILE_WIDTH));
        if let Some(hashes) = found.filter(is_sound) {
            return Ok(hashes);
        }
        let again = match level {
            0 => leaves(&self.sound_bundle(tile)?),
            _ => {
                let below = tile * TILE_WIDTH..(tile + 1) * TILE_WIDTH;
                below
                    .map(|child| self.root_below(level - 1, child))
                    .collect::<Result<_, _>>()?
            }
        };
        if !is_sound(&again) {
            return Err(Fatal::Rotten { path });
        }
        tracing::warn!(file = %path.display(), "a tile of the log has rotted and is made again");
        self.put_back(&path, &encode_tile(&again))?;
        Ok(again)
    }

    /// The hash over a tile as it stands: whether it is the right one shows above.
    fn root_below(&self, level: usize, tile: u64) -> Result<Digest, Fatal> {
        let path = self.dir.join(tile_path(level as u8, tile, TILE_WIDTH));
        let hashes = self.read_there(&path)?;
        let hashes = hashes.and_then(|bytes| decode_tile(&bytes, TILE_WIDTH));
        hashes.map(root_of).ok_or(Fatal::Rotten { path })
    }

    /// The entries of a full bundle; made again where they are not those of the log.
    pub(super) fn sound_bundle(&self, bundle: u64) -> Result<Vec<Vec<u8>>, Fatal> {
        let root = self.hash(1, bundle)?;
        let path = self.dir.join(entries_path(bundle, TILE_WIDTH));
        let is_sound = |entries: &Vec<Vec<u8>>| root_of(leaves(entries)) == root;
        let found = self.read_there(&path)?.and_then(|bytes| {
            let entries = decode_entries(&bytes, TILE_WIDTH)?;
            Some(entries.iter().map(|entry| entry.to_vec()).collect())
        });
        if let Some(entries) = found.filter(is_sound) {
            return Ok(entries);
        }
        let entries = self.segment_entries(bundle * TILE_WIDTH)?;
        if entries.len() as u64 != TILE_WIDTH || !is_sound(&entries) {
            return Err(Fatal::Rotten { path });
        }
        tracing::warn!(file = %path.display(), "a bundle of the log has rotted and is made again");
        let mut bytes = Vec::new();
        for entry in &entries {
            push_entry(&mut bytes, entry).ok_or_else(|| missing(&path, "an entry is too long"))?;
        }
        self.put_back(&path, &bytes)?;
        Ok(entries)
    }

    /// Writes what was made again; where there is no room, the next reader makes it again.
    fn put_back(&self, path: &Path, bytes: &[u8]) -> Result<(), Fatal> {
        match self.replace(path, bytes) {
            Err(error) if error.is_full() => Ok(()),
            replaced => Ok(replaced?),
        }
    }

    /// A bundle's worth of entries from `first` on, as far as segments still have them.
    fn segment_entries(&self, first: u64) -> Result<Vec<Vec<u8>>, Fatal> {
        let segments = Segments::new(&self.disk, &self.dir, 0);
        let numbers = segments.list()?;
        let begins = numbers.partition_point(|begin| *begin <= first);
        let mut entries = Vec::new();
        for begin in numbers.iter().skip(begins.saturating_sub(1)) {
            if entries.len() as u64 == TILE_WIDTH || *begin > first + TILE_WIDTH {
                break;
            }
            let mut index = *begin;
            segments.each_entry(*begin, |entry| {
                if (first..first + TILE_WIDTH).contains(&index) {
                    entries.push(entry.to_vec());
                }
                index += 1;
                Ok(())
            })?;
        }
        Ok(entries)
    }

    fn read_there(&self, path: &Path) -> Result<Option<Vec<u8>>, Fatal> {
        if let Some(bytes) = self.unwritten.get(path) {
            return Ok(Some(bytes.to_vec()));
        }
        match self.disk.read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some).map_err(io_at(path)),
        }
    }
}
