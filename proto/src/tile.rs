//! The log as files (c2sp.org/tlog-tiles): paths of tiles and entry bundles, and their bytes.

use crate::Digest;

/// Hashes in a full tile, entries in a full bundle.
pub const TILE_WIDTH: u64 = 256;

/// Path of a tile of hashes; `width` is 256, or less for the last one of its level.
pub fn tile_path(level: u8, index: u64, width: u64) -> String {
    format!("tile/{level}/{}{}", number_path(index), partial(width))
}

/// Path of a bundle of entries; `width` is 256, or less for the last one.
pub fn entries_path(index: u64, width: u64) -> String {
    format!("tile/entries/{}{}", number_path(index), partial(width))
}

fn partial(width: u64) -> String {
    match width {
        TILE_WIDTH => String::new(),
        width => format!(".p/{width}"),
    }
}

/// Groups of three digits, all but the last with `x` in front: 1234067 is `x001/x234/067`.
fn number_path(mut number: u64) -> String {
    let mut path = format!("{:03}", number % 1000);
    while number >= 1000 {
        number /= 1000;
        path = format!("x{:03}/{path}", number % 1000);
    }
    path
}

/// Bytes of a tile.
pub fn encode_tile(hashes: &[Digest]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0).collect()
}

/// Hashes in a tile; `None` when the length is not one of `width` hashes.
pub fn decode_tile(bytes: &[u8], width: u64) -> Option<Vec<Digest>> {
    if Some(bytes.len() as u64) != width.checked_mul(32) {
        return None;
    }
    bytes
        .chunks_exact(32)
        .map(|hash| Digest::from_slice(hash).ok())
        .collect()
}

/// Appends an entry to a bundle: length (u16, big endian), then the entry.
///
/// `None` for an entry of more than 65,535 bytes.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Option<()> {
    let length = u16::try_from(entry.len()).ok()?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Some(())
}

/// Entries in a bundle; `None` when it is malformed or has another number of them.
pub fn decode_entries(mut bundle: &[u8], width: u64) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !bundle.is_empty() {
        let (length, rest) = bundle.split_at_checked(2)?;
        let length = u16::from_be_bytes([length[0], length[1]]);
        let (entry, rest) = rest.split_at_checked(length.into())?;
        entries.push(entry);
        bundle = rest;
    }
    (entries.len() as u64 == width).then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_another_implementation() {
        use tlog_tiles::tile::Tile;
        for (level, index, width) in [(0, 0, 256), (1, 1_234_067, 256), (2, 999, 3), (0, 1000, 1)] {
            let theirs = Tile::new(8, level, index, width as u32, false).path();
            let theirs = theirs.replacen("tile/8/", "tile/", 1);
            assert_eq!(tile_path(level, index, width), theirs);
        }
        assert_eq!(entries_path(5, 256), "tile/entries/005");
        assert_eq!(entries_path(5, 7), "tile/entries/005.p/7");
    }

    #[test]
    fn bundles_and_tiles_read_back_and_damaged_ones_do_not() {
        let mut bundle = Vec::new();
        push_entry(&mut bundle, b"one").unwrap();
        push_entry(&mut bundle, b"").unwrap();
        assert_eq!(
            decode_entries(&bundle, 2),
            Some(vec![b"one".as_slice(), b""])
        );
        assert_eq!(decode_entries(&bundle, 3), None);
        assert_eq!(decode_entries(&bundle[..4], 1), None);
        assert_eq!(push_entry(&mut bundle, &vec![0; 70_000]), None);
        let hashes = [Digest::of(b"a"), Digest::of(b"b")];
        let tile = encode_tile(&hashes);
        assert_eq!(decode_tile(&tile, 2), Some(hashes.to_vec()));
        assert_eq!(decode_tile(&tile[1..], 2), None);
        assert_eq!(decode_tile(&[], 1 << 59), None);
    }
}
