//! Tiles and bundles that have rotted are made again, or named.

use passerelle_proto::tile::{TILE_WIDTH, entries_path, tile_path};

use super::*;

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 2;
    fs::write(path, bytes).unwrap();
}

fn grown(dir: &Path) -> Log {
    let mut log = open(dir).unwrap();
    grow(&mut log, 2_400);
    log
}

#[test]
fn a_tile_that_has_rotted_proves_nothing_wrong_and_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = grown(dir.path());
    let size = log.size();
    let path = dir.path().join(tile_path(0, 1, TILE_WIDTH));
    let before = (
        log.inclusion_proof(300, size).unwrap(),
        fs::read(&path).unwrap(),
    );
    let harms: [fn(&Path); 3] = [
        flip,
        |path| fs::write(path, b"short").unwrap(),
        |path| fs::remove_file(path).unwrap(),
    ];
    for harm in harms {
        harm(&path);
        assert_eq!(log.inclusion_proof(300, size).unwrap(), before.0);
        assert_eq!(fs::read(&path).unwrap(), before.1);
    }
}

#[test]
fn a_bundle_that_has_rotted_is_made_again_while_its_segment_is_there_and_named_when_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let log = grown(dir.path());
    let newest = log.size() / TILE_WIDTH - 1;
    let path = dir.path().join(entries_path(newest, TILE_WIDTH));
    let before = fs::read(&path).unwrap();
    for harm in [flip, |path: &Path| fs::remove_file(path).unwrap()] {
        harm(&path);
        let index = newest * TILE_WIDTH + 9;
        assert_eq!(log.entry(index).unwrap(), entry(index));
        assert_eq!(fs::read(&path).unwrap(), before);
    }
    let old = dir.path().join(entries_path(0, TILE_WIDTH));
    flip(&old);
    let refused = log.entry(9).unwrap_err();
    assert!(
        matches!(&refused, Fatal::Rotten { path } if *path == old),
        "{refused}"
    );
    assert!(
        refused
            .to_string()
            .contains("restore the file from a backup")
    );
    // Its tile is sound, and says so.
    assert!(log.inclusion_proof(9, log.size()).is_ok());
}
