//! The log as files: tiles, bundles of entries, their paths, and frames of its segments.

use passerelle_proto::tile::{
    TILE_WIDTH, decode_entries, decode_tile, encode_tile, entries_path, push_entry,
    tile_path as path,
};

/// What a bundle or a tile is read as is written again byte for byte; the first two bytes are the
/// width that is asked for.
pub(crate) fn tiles(data: &[u8]) {
    let Some((width, bytes)) = data.split_at_checked(2) else {
        return;
    };
    let width = u64::from(u16::from_le_bytes([width[0], width[1]]));
    if let Some(entries) = decode_entries(bytes, width) {
        assert_eq!(entries.len() as u64, width);
        let mut bundle = Vec::new();
        for entry in entries {
            push_entry(&mut bundle, entry).unwrap();
        }
        assert_eq!(bundle, bytes);
    }
    if let Some(hashes) = decode_tile(bytes, width) {
        assert_eq!(hashes.len() as u64, width);
        assert_eq!(encode_tile(&hashes), bytes);
    }
    // Widths that no tile has are refused, and not computed with.
    assert_eq!(decode_tile(bytes, u64::MAX - width), None);
}

/// Paths are those that another implementation reads.
pub(crate) fn tile_path(data: &[u8]) {
    use tlog_tiles::tile::Tile;
    let Some((numbers, _)) = data.split_at_checked(10) else {
        return;
    };
    let index = u64::from_le_bytes(numbers[..8].try_into().unwrap()) >> 8;
    let (level, width) = (numbers[8] % 8, u64::from(numbers[9]) + 1);
    let theirs = Tile::new(8, level, index, width as u32, false).path();
    assert_eq!(
        path(level, index, width),
        theirs.replacen("tile/8/", "tile/", 1)
    );
    let entries = entries_path(index, width);
    let of_level = path(0, index, width);
    assert_eq!(
        entries.strip_prefix("tile/entries/"),
        of_level.strip_prefix("tile/0/")
    );
    assert_eq!(entries.contains(".p/"), width < TILE_WIDTH);
}
