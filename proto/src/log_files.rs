//! Reading a log's files: proofs over its tiles, and a copy of all of it at one size.
//!
//! A log may grow while it is read. A tile or bundle that was not full at the size that is wanted
//! may have been replaced by a longer one since, whose beginning says the same.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::Digest;
use crate::audit::{AuditError, LogFiles};
use crate::merkle::{StoredHashes, TILE_HEIGHT};
use crate::tile::{
    TILE_WIDTH, decode_entries, decode_tile, encode_tile, entries_path, push_entry, tile_path,
};

/// Tiles that a reader keeps in memory, 8 KiB each.
const TILES_KEPT_MAX: usize = 256;

/// Hashes of a log of one size, read from its tiles.
pub struct TileReader<'f, F> {
    files: &'f F,
    size: u64,
    kept: RefCell<BTreeMap<(u8, u64), Vec<Digest>>>,
}

impl<'f, F: LogFiles> TileReader<'f, F> {
    /// A reader of the first `size` entries; `files` hold at least that many.
    pub fn new(files: &'f F, size: u64) -> Self {
        Self {
            files,
            size,
            kept: RefCell::new(BTreeMap::new()),
        }
    }
}

impl<F: LogFiles> StoredHashes for TileReader<'_, F> {
    type Error = AuditError;

    fn stored(&self, level: u8, index: u64) -> Result<Digest, AuditError> {
        let (tile, at) = (index / TILE_WIDTH, (index % TILE_WIDTH) as usize);
        let level = level / TILE_HEIGHT;
        let width = width_at(self.size >> (u32::from(level) * 8), tile);
        let missing = || AuditError::Missing {
            path: tile_path(level, tile, width.max(1)),
        };
        let mut kept = self.kept.borrow_mut();
        if let Some(hashes) = kept.get(&(level, tile)) {
            return hashes.get(at).copied().ok_or_else(missing);
        }
        let hashes = read_tile(self.files, level, tile, width)?;
        let hash = hashes.get(at).copied();
        if kept.len() == TILES_KEPT_MAX {
            kept.clear();
        }
        kept.insert((level, tile), hashes);
        hash.ok_or_else(missing)
    }
}

/// How many of `count` hashes or entries stand in this tile or bundle.
fn width_at(count: u64, tile: u64) -> u64 {
    count.saturating_sub(tile * TILE_WIDTH).min(TILE_WIDTH)
}

/// The first `width` hashes of a tile.
fn read_tile(
    files: &impl LogFiles,
    level: u8,
    tile: u64,
    width: u64,
) -> Result<Vec<Digest>, AuditError> {
    let path = |width| tile_path(level, tile, width);
    let (found, bytes) = read_as_wide(files, width, path)?;
    let mut hashes = decode_tile(&bytes, found).ok_or(AuditError::Damaged { path: path(found) })?;
    hashes.truncate(width as usize);
    Ok(hashes)
}

/// The first `width` entries of a bundle.
fn read_bundle(files: &impl LogFiles, bundle: u64, width: u64) -> Result<Vec<u8>, AuditError> {
    let path = |width| entries_path(bundle, width);
    let (found, bytes) = read_as_wide(files, width, path)?;
    let damaged = || AuditError::Damaged { path: path(found) };
    let entries = decode_entries(&bytes, found).ok_or_else(damaged)?;
    let mut wanted = Vec::new();
    for entry in &entries[..width as usize] {
        push_entry(&mut wanted, entry).ok_or_else(damaged)?;
    }
    Ok(wanted)
}

/// Reads a file of this width, or the one that has replaced it.
fn read_as_wide(
    files: &impl LogFiles,
    width: u64,
    path: impl Fn(u64) -> String,
) -> Result<(u64, Vec<u8>), AuditError> {
    // The file may be replaced once more between two looks, never by a narrower one.
    let widths = [width, TILE_WIDTH].into_iter();
    let mut widths = widths.chain(width + 1..TILE_WIDTH).chain([TILE_WIDTH]);
    let found = widths.find_map(|width| Some((width, files.read(&path(width))?)));
    found.ok_or_else(|| AuditError::Missing { path: path(width) })
}

/// Hands over every tile and every bundle of a log of this size, by path.
///
/// # Errors
/// [`AuditError`] when a file is missing or damaged, and what `put` says.
pub fn copy_log<E: From<AuditError>>(
    files: &impl LogFiles,
    size: u64,
    mut put: impl FnMut(&str, Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    for bundle in 0..size.div_ceil(TILE_WIDTH) {
        let width = width_at(size, bundle);
        put(
            &entries_path(bundle, width),
            read_bundle(files, bundle, width)?,
        )?;
    }
    let (mut level, mut count) = (0, size);
    while count > 0 {
        for tile in 0..count.div_ceil(TILE_WIDTH) {
            let width = width_at(count, tile);
            let hashes = read_tile(files, level, tile, width)?;
            put(&tile_path(level, tile, width), encode_tile(&hashes))?;
        }
        count /= TILE_WIDTH;
        level += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merkle::{Frontier, inclusion_proof, leaf_hash, root, verify_inclusion};

    /// Files of a log with `size` entries, each its own number.
    fn log(size: u64) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let entry = |index: u64| index.to_be_bytes();
        let mut row: Vec<Digest> = (0..size).map(|n| leaf_hash(&entry(n))).collect();
        for bundle in 0..size.div_ceil(TILE_WIDTH) {
            let mut bytes = Vec::new();
            let first = bundle * TILE_WIDTH;
            for index in first..first + width_at(size, bundle) {
                push_entry(&mut bytes, &entry(index)).unwrap();
            }
            files.insert(entries_path(bundle, width_at(size, bundle)), bytes);
        }
        let mut level = 0;
        while !row.is_empty() {
            for (tile, hashes) in row.chunks(TILE_WIDTH as usize).enumerate() {
                let path = tile_path(level, tile as u64, hashes.len() as u64);
                files.insert(path, encode_tile(hashes));
            }
            let full = row.chunks_exact(TILE_WIDTH as usize);
            row = full
                .map(|hashes| {
                    let mut frontier = Frontier::default();
                    hashes.iter().for_each(|hash| frontier.push(*hash));
                    frontier.root()
                })
                .collect();
            level += 1;
        }
        files
    }

    fn reader(files: &BTreeMap<String, Vec<u8>>) -> impl Fn(&str) -> Option<Vec<u8>> + '_ {
        |path| files.get(path).cloned()
    }

    #[test]
    fn proofs_from_files_verify_at_every_size_also_when_the_log_has_grown_since() {
        let files = log(600);
        let read = reader(&files);
        for size in [1, 255, 256, 257, 511, 513, 600] {
            let tiles = TileReader::new(&read, size);
            let top = root(&tiles, size).unwrap();
            for index in [0, size / 2, size - 1] {
                let proof = inclusion_proof(&tiles, index, size).unwrap();
                let leaf = leaf_hash(&index.to_be_bytes());
                assert!(verify_inclusion(&leaf, index, size, &proof, &top), "{size}");
            }
        }
    }

    #[test]
    fn a_copy_at_a_size_is_what_the_log_was_at_that_size() {
        let files = log(600);
        let read = reader(&files);
        for size in [0, 1, 256, 300, 599, 600] {
            let mut copy = BTreeMap::new();
            copy_log(&read, size, |path, bytes| {
                copy.insert(path.to_owned(), bytes);
                Ok::<_, AuditError>(())
            })
            .unwrap();
            assert!(copy == log(size), "{size}");
        }
        let beyond = copy_log(&read, 601, |_, _| Ok::<_, AuditError>(()));
        assert!(matches!(beyond, Err(AuditError::Missing { .. })));
    }
}
