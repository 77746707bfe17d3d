//! What a log promises when it is killed, torn, or tampered with.

mod full;
mod rot;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use passerelle_proto::audit::verify_log;
use passerelle_proto::{PartyId, next_log_origin};

use super::*;

const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);
const SMALL: u64 = 160 * 1024;

fn signer() -> LogSigner {
    LogSigner::from_seed(&PartyId::parse("caf21").unwrap(), &[1; 64])
}

fn open(dir: &Path) -> Result<Log, Fatal> {
    Log::open_with(&passerelle_disk::system(), dir, signer(), SMALL)
}

fn entry(number: u64) -> Vec<u8> {
    format!("entry {number} {}", "x".repeat((number % 90) as usize)).into_bytes()
}

fn grow(log: &mut Log, count: u64) {
    let until = log.size() + count;
    while log.size() < until {
        let batch = (until - log.size()).min(7);
        let entries: Vec<Vec<u8>> = (0..batch).map(|n| entry(log.size() + n)).collect();
        log.append(&entries).unwrap();
    }
}

fn verified(dir: &Path) -> BTreeMap<u64, Vec<u8>> {
    let files = |path: &str| fs::read(dir.join(path)).ok();
    let mut entries = BTreeMap::new();
    verify_log(&files, signer().verifier(), &[], |index, bytes| {
        entries.insert(index, bytes.to_vec());
    })
    .unwrap();
    entries
}

#[test]
fn a_bundle_that_lies_in_more_than_two_segments_is_read_whole() {
    let long = |number: u64| [entry(number), vec![b'x'; 8_000]].concat();
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    // A segment has room for some of them only.
    for number in 0..20 {
        log.append(&[long(number)]).unwrap();
    }
    drop(log);
    let mut log = open(dir.path()).unwrap();
    log.append(&[long(20)]).unwrap();
    for number in 0..21 {
        assert_eq!(log.entry(number).unwrap(), long(number));
    }
    log.checkpoint(NOW).unwrap();
    let entries = verified(dir.path());
    assert!(entries.iter().all(|(index, bytes)| *bytes == long(*index)));
    drop(log);
    let segments = fs::read_dir(dir.path().join("wal")).unwrap();
    let mut segments: Vec<_> = segments.map(|file| file.unwrap().path()).collect();
    segments.retain(|file| file.extension().is_some_and(|end| end == "seg"));
    segments.sort();
    assert!(segments.len() > 4);
    fs::remove_file(&segments[1]).unwrap();
    let refused = open(dir.path()).err().unwrap();
    let Fatal::Missing {
        from, until, found, ..
    } = refused
    else {
        panic!("{refused}");
    };
    assert!(from == 0 && until > 16 && found < until, "{refused}");
}

#[test]
fn a_log_over_many_segments_opens_again_and_verifies_from_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut roots = Vec::new();
    for round in 0..6 {
        let mut log = open(dir.path()).unwrap();
        assert_eq!(log.size(), round * 500);
        grow(&mut log, 500);
        roots.push((log.size(), log.root()));
        for (size, root) in &roots {
            assert_eq!(&log.root_at(*size).unwrap(), root);
        }
        if round % 2 == 0 {
            log.checkpoint(NOW).unwrap();
            let entries = verified(dir.path());
            assert_eq!(entries.len() as u64, log.size());
            assert!(entries.iter().all(|(index, bytes)| *bytes == entry(*index)));
        }
    }
    let log = open(dir.path()).unwrap();
    for index in [0, 255, 256, 2_047, 2_999] {
        assert_eq!(log.entry(index).unwrap(), entry(index));
        let proof = log.inclusion_proof(index, log.size()).unwrap();
        let leaf = leaf_hash(&entry(index));
        assert!(merkle::verify_inclusion(
            &leaf,
            index,
            log.size(),
            &proof,
            &log.root()
        ));
    }
    assert!(log.entry(3_000).is_err());
    assert!(
        fs::read_dir(dir.path().join("wal")).unwrap().count() <= 4,
        "old segments go"
    );
}

#[test]
fn a_torn_end_is_dropped_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    grow(&mut log, 14);
    let before = (log.size(), log.root());
    let path = dir.path().join("wal/0000000000000000.seg");
    let whole = fs::read(&path).unwrap();
    log.append(&[b"torn".to_vec()]).unwrap();
    let longer = fs::read(&path).unwrap();
    let end = longer.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let start = whole.iter().zip(&longer).position(|(a, b)| a != b).unwrap();
    for cut in start..end {
        let mut torn = whole.clone();
        torn[start..cut].copy_from_slice(&longer[start..cut]);
        fs::write(&path, torn).unwrap();
        let log = open(dir.path()).unwrap();
        assert_eq!((log.size(), log.root()), before, "cut at {cut}");
    }
    fs::write(&path, longer).unwrap();
    assert_eq!(open(dir.path()).unwrap().size(), 15);
}

#[test]
fn damage_with_intact_entries_behind_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    grow(&mut open(dir.path()).unwrap(), 30);
    let path = dir.path().join("wal/0000000000000000.seg");
    let mut bytes = fs::read(&path).unwrap();
    let first = bytes
        .windows(7)
        .position(|window| window == b"entry 3")
        .unwrap();
    bytes[first] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(open(dir.path()), Err(Fatal::Corrupt { .. })));
}

#[test]
fn a_log_shorter_than_its_checkpoint_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    grow(&mut log, 7);
    let path = dir.path().join("wal/0000000000000000.seg");
    let early = fs::read(&path).unwrap();
    grow(&mut log, 7);
    let later = Checkpoint::verify(&log.checkpoint(NOW).unwrap(), signer().verifier()).unwrap();
    log.compare(&later, "grand-dijon").unwrap();
    fs::write(&path, early).unwrap();
    assert!(matches!(
        open(dir.path()),
        Err(Fatal::Shorter {
            found: 7,
            signed: 14
        })
    ));
    fs::remove_file(dir.path().join("checkpoint")).unwrap();
    let rolled_back = open(dir.path()).unwrap();
    let refused = rolled_back.compare(&later, "a copy").unwrap_err();
    let refused = refused.to_string();
    let (ours, theirs) = (rolled_back.root(), later.root);
    let start = format!(
        "our first 7 entries have the root {ours}, \
         and a copy covers 14 entries with the root {theirs}"
    );
    assert!(refused.starts_with(&start), "{refused}");
}

#[test]
fn a_log_shorter_than_what_a_partner_has_cosigned_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    grow(&mut log, 7);
    let path = dir.path().join("wal/0000000000000000.seg");
    let early = fs::read(&path).unwrap();
    grow(&mut log, 7);
    let note = log.checkpoint(NOW).unwrap();
    fs::write(dir.path().join("cosigned/grand-dijon"), note).unwrap();
    open(dir.path()).unwrap();
    fs::write(&path, early).unwrap();
    fs::remove_file(dir.path().join("checkpoint")).unwrap();
    let refused = open(dir.path()).map(|log| log.size()).unwrap_err();
    assert!(refused.to_string().contains("grand-dijon"), "{refused}");
}

#[test]
fn the_next_segment_is_there_before_it_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    for _ in 0..5 {
        assert!(log.has_next_segment().unwrap());
        grow(&mut log, 400);
    }
    let spare = dir.path().join("wal/spare");
    // A directory in its place cannot be replaced by a file: that is no want of room.
    fs::remove_file(&spare).unwrap();
    fs::create_dir_all(spare.join("in the way")).unwrap();
    assert!(log.has_next_segment().is_err());
    fs::remove_dir_all(&spare).unwrap();
    assert!(log.has_next_segment().unwrap());
    assert_eq!(fs::metadata(&spare).unwrap().len(), SMALL);
    fs::remove_file(&spare).unwrap();
    grow(&mut log, 400);
    let mut again = open(dir.path()).unwrap();
    assert_eq!((again.size(), again.root()), (log.size(), log.root()));
    grow(&mut again, 1);
}

#[test]
fn what_a_crash_left_unfinished_is_not_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    grow(&mut log, 7);
    let wal = dir.path().join("wal");
    for name in ["spare.tmp", "0000000000000000.tmp", "0000000000000007.tmp"] {
        fs::write(wal.join(name), vec![0xff; 300 * 1024]).unwrap();
    }
    fs::remove_file(wal.join("spare")).unwrap();
    let mut again = open(dir.path()).unwrap();
    assert_eq!((again.size(), again.root()), (log.size(), log.root()));
    grow(&mut again, 800);
    assert_eq!(open(dir.path()).unwrap().root(), again.root());
}

#[test]
fn another_history_of_the_same_length_is_found() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut logs = dirs.each_ref().map(|dir| open(dir.path()).unwrap());
    logs[0].append(&[b"one".to_vec()]).unwrap();
    logs[1].append(&[b"two".to_vec()]).unwrap();
    let other = Checkpoint::verify(&logs[1].checkpoint(NOW).unwrap(), signer().verifier());
    let refused = logs[0].compare(&other.unwrap(), "grand-dijon");
    assert!(matches!(refused, Err(Fatal::Fork { .. })));
}

#[test]
fn altered_entries_and_tiles_are_found_by_whoever_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    grow(&mut log, 300);
    log.checkpoint(NOW).unwrap();
    let files = |path: &str| fs::read(dir.path().join(path)).ok();
    let verify = || verify_log(&files, signer().verifier(), &[], |_, _| {});
    verify().unwrap();
    for path in [
        "tile/entries/000",
        "tile/0/001.p/44",
        "tile/1/000.p/1",
        "checkpoint",
    ] {
        let path = dir.path().join(path);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        let at = bad.len() / 2;
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        assert!(verify().is_err(), "{}", path.display());
        fs::write(&path, good).unwrap();
        verify().unwrap();
    }
}

#[test]
fn appends_beyond_the_limits_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    assert!(log.append(&[]).is_err());
    assert!(
        log.append(&vec![Vec::new(); BATCH_ENTRIES_MAX + 1])
            .is_err()
    );
    assert!(log.append(&[vec![0; ENTRY_LEN_MAX + 1]]).is_err());
    assert_eq!(log.size(), 0);
}

#[test]
fn a_log_whose_keys_have_changed_knows_what_it_signed_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    log.append(&[b"one".to_vec()]).unwrap();
    let old = log.checkpoint(NOW).unwrap();
    let successor = || LogSigner::from_seed(&PartyId::parse("caf21").unwrap(), &[9; 64]);
    let known = [signer().verifier().clone()];
    let keys = || LogKeys::new(Arc::new(successor()), &known);
    log.rekey(keys());
    drop(log);
    // Its own newest checkpoint is under the old key.
    let mut log = Log::open_with(&passerelle_disk::system(), dir.path(), keys(), SMALL).unwrap();
    log.append(&[b"two".to_vec()]).unwrap();
    let new = log.checkpoint(NOW).unwrap();
    assert_eq!(log.verify(&old).unwrap().size, 1);
    assert_eq!(log.verify(&new).unwrap().size, 2);
    assert_eq!(
        Checkpoint::verify(&new, successor().verifier())
            .unwrap()
            .size,
        2
    );
    drop(log);
    let alone = Log::open_with(&passerelle_disk::system(), dir.path(), signer(), SMALL);
    assert!(alone.is_err(), "a key that was never its own says nothing");
}

#[test]
fn a_log_says_nothing_about_the_one_before_it_and_is_not_gone_on_with_after_the_next() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = signer();
    let next = next_log_origin(first.party(), first.verifier().name()).unwrap();
    let keys = |origin: &str| {
        let known = [
            first.verifier().clone(),
            first.for_origin(&next).verifier().clone(),
        ];
        LogKeys::new(Arc::new(first.for_origin(origin)), &known)
    };
    let open = |dir: &Path, origin: &str| {
        Log::open_with(&passerelle_disk::system(), dir, keys(origin), SMALL)
    };
    let mut old = open(dirs[0].path(), first.verifier().name()).unwrap();
    grow(&mut old, 9);
    let note = old.checkpoint(NOW).unwrap();
    let of_old = old.verify(&note).unwrap();
    let mut new = open(dirs[1].path(), &next).unwrap();
    grow(&mut new, 3);
    let note = new.checkpoint(NOW).unwrap();
    let of_new = new.verify(&note).unwrap();
    assert_eq!(new.compare(&of_old, "a copy").unwrap(), 0);
    assert_eq!(new.compare(&of_new, "a copy").unwrap(), 3);
    let refused = old.compare(&of_new, "a copy").unwrap_err().to_string();
    assert!(
        refused.contains("a later log has taken the place"),
        "{refused}"
    );
    drop(old);
    let refused = open(dirs[0].path(), &next).map(drop).unwrap_err();
    assert!(matches!(refused, Fatal::Epoch { .. }), "{refused}");
}
