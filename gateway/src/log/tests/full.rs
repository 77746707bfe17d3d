//! What goes on while the disk is full, and what waits.

use passerelle_disk::MemoryDisk;
use passerelle_proto::tile::{TILE_WIDTH, entries_path, tile_path};

use super::*;

fn open_on(memory: &MemoryDisk) -> Result<Log, Fatal> {
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    Log::open_with(&disk, Path::new("/log"), signer(), SMALL)
}

/// Entries that anybody can verify.
fn verified_on(memory: &MemoryDisk) -> u64 {
    let files = |path: &str| memory.read(&Path::new("/log").join(path)).ok();
    let mut entries = 0;
    verify_log(&files, signer().verifier(), &[], |_, _| entries += 1).unwrap();
    entries
}

/// Reads and proves some entries of every tile.
fn check(log: &Log) {
    let size = log.size();
    for index in (0..size).step_by(50).chain([size - 1]) {
        assert_eq!(log.entry(index).unwrap(), entry(index));
        let proof = log.inclusion_proof(index, size).unwrap();
        let leaf = leaf_hash(&entry(index));
        let root = log.root();
        assert!(merkle::verify_inclusion(&leaf, index, size, &proof, &root));
    }
}

/// A log of so many entries under a checkpoint, on a disk that is full since.
fn full_after(entries: u64) -> (MemoryDisk, Log) {
    let memory = MemoryDisk::default();
    let mut log = open_on(&memory).unwrap();
    grow(&mut log, entries);
    log.checkpoint(NOW).unwrap();
    memory.set_full(true);
    (memory, log)
}

#[test]
fn on_a_full_disk_entries_are_appended_and_proved_and_the_checkpoint_waits_for_room() {
    let (memory, mut log) = full_after(250);
    grow(&mut log, 60);
    assert!(matches!(log.checkpoint(NOW), Err(AppendError::Full)));
    assert!(!log.has_next_segment().unwrap(), "packages are put off");
    check(&log);
    assert_eq!(log.signed(), 250);
    assert_eq!(verified_on(&memory), 250, "what was signed stands");
    let held = log.hold().unwrap();
    for path in held.full_files() {
        held.read(&path).unwrap();
    }
    memory.set_full(false);
    log.checkpoint(NOW).unwrap();
    assert_eq!(verified_on(&memory), 310);
    assert!(log.has_next_segment().unwrap());
    let partial = memory.list(Path::new("/log/tile/entries/000.p"));
    assert!(partial.is_err(), "what stood for the full bundle is gone");
    check(&log);
}

#[test]
fn what_there_was_no_room_for_is_made_again_by_a_start() {
    let (memory, mut log) = full_after(250);
    grow(&mut log, 60);
    drop(log);
    let bundle = Path::new("/log").join(entries_path(0, TILE_WIDTH));
    assert!(memory.read(&bundle).is_err());
    memory.set_full(false);
    memory.power_cut();
    let mut log = open_on(&memory).unwrap();
    assert_eq!(log.size(), 310);
    check(&log);
    log.checkpoint(NOW).unwrap();
    assert_eq!(verified_on(&memory), 310);
}

#[test]
fn no_segment_is_begun_before_what_the_last_one_made_is_written() {
    let (memory, mut log) = full_after(250);
    let refused = loop {
        match log.append(&[entry(log.size())]) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, AppendError::Full), "{refused}");
    check(&log);
    let size = log.size();
    memory.set_full(false);
    grow(&mut log, 3 * TILE_WIDTH);
    log.checkpoint(NOW).unwrap();
    drop(log);
    memory.power_cut();
    let log = open_on(&memory).unwrap();
    assert_eq!(log.size(), size + 3 * TILE_WIDTH);
    check(&log);
}

#[test]
fn a_tile_that_has_rotted_is_read_on_a_full_disk_too() {
    let memory = MemoryDisk::default();
    let mut log = open_on(&memory).unwrap();
    grow(&mut log, 300);
    for path in [entries_path(0, TILE_WIDTH), tile_path(0, 0, TILE_WIDTH)] {
        memory.remove(&Path::new("/log").join(path)).unwrap();
    }
    memory.set_full(true);
    check(&log);
}
