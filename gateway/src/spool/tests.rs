//! What the spool keeps over a kill, and what it removes.

mod mending;

use std::fs;
use std::os::unix::fs::FileExt;

use passerelle_proto::fixture::{NOW, keys, plan, seal_files, world};
use passerelle_proto::{Digest, Sealed, SoundReader};

use super::*;

mod purging;

fn package(length: u32) -> (Sealed, Vec<u8>) {
    let noise: Vec<u8> = (0..length.div_ceil(32))
        .flat_map(|n| Digest::of(&n.to_be_bytes()).0)
        .collect();
    seal_files(
        &plan(world().directory.convention()),
        &keys("caf21").agent,
        &[("a", noise)],
    )
}

fn part<'p>(sealed: &Sealed, pack: &'p [u8], section: Section) -> &'p [u8] {
    let start = sealed.layout.offset_of(section).unwrap() as usize;
    &pack[start..start + sealed.layout.length_of(section) as usize]
}

const SECTIONS: [Section; 3] = [Section::Wraps, Section::ChunkTable, Section::Index];

/// The log knows no package.
fn nobody(_: &PackageId) -> bool {
    false
}

fn open(dir: &Path) -> Arc<Spool> {
    Spool::open(&passerelle_disk::system(), dir, Limits::default()).unwrap()
}

#[test]
fn a_transfer_goes_on_from_what_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    let (sealed, pack) = package(900_000);
    let mut partial = open(dir.path()).begin(&sealed.manifest, nobody).unwrap();
    assert!(partial.held().table.is_none());
    for section in SECTIONS {
        partial
            .write(section, 0, part(&sealed, &pack, section))
            .unwrap();
    }
    let chunks = part(&sealed, &pack, Section::Chunks);
    partial
        .write(Section::Chunks, 0, &chunks[..300_000])
        .unwrap();
    partial.sync().unwrap();
    partial
        .write(Section::Chunks, 300_000, &chunks[300_000..400_000])
        .unwrap();
    drop(partial);
    let spool = open(dir.path());
    let mut partial = spool.begin(&sealed.manifest, nobody).unwrap();
    assert_eq!(
        partial.held().chunks,
        300_000,
        "what was not synced does not count"
    );
    assert!(partial.held().table.is_some());
    partial
        .write(Section::Chunks, 300_000, &chunks[300_000..])
        .unwrap();
    let location = partial.finish().unwrap();
    partial.accepted().unwrap();
    let reader = spool.reader(&sealed.manifest, &location).unwrap();
    let length = chunks.len() as u64;
    assert_eq!(reader.read(Section::Chunks, 0, length).unwrap(), chunks);
    spool
        .sweep(&[(sealed.manifest.id(), location)], &BTreeSet::new(), NOW)
        .unwrap();
    assert!(spool.reader(&sealed.manifest, &location).is_ok());
    spool.sweep(&[], &BTreeSet::new(), NOW).unwrap();
    assert!(spool.reader(&sealed.manifest, &location).is_err());
    assert_eq!(spool.bytes(), 0);
}

#[test]
fn the_newest_transfer_of_a_package_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let (sealed, pack) = package(900_000);
    let spool = open(dir.path());
    let mut old = spool.begin(&sealed.manifest, nobody).unwrap();
    let mut new = spool.begin(&sealed.manifest, nobody).unwrap();
    let wraps = part(&sealed, &pack, Section::Wraps);
    assert!(matches!(
        old.write(Section::Wraps, 0, wraps),
        Err(SpoolError::TakenOver)
    ));
    new.write(Section::Wraps, 0, wraps).unwrap();
}

#[test]
fn small_packages_share_a_segment_that_goes_with_the_last_of_them_however_often_each_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let stored: Vec<_> = (1..4_u32)
        .map(|n| {
            let (sealed, pack) = package(n * 100);
            let all = [SECTIONS.as_slice(), &[Section::Chunks]].concat();
            let inline: Vec<u8> = all
                .iter()
                .flat_map(|section| part(&sealed, &pack, *section).to_vec())
                .collect();
            let location = spool.store_inline(&sealed.manifest, &inline).unwrap();
            let reader = spool.reader(&sealed.manifest, &location).unwrap();
            let read = SoundReader::new(&sealed.manifest, reader).inline();
            assert_eq!(read.unwrap(), inline);
            let mut altered = inline.clone();
            altered[10] ^= 1;
            let refused = spool.store_inline(&sealed.manifest, &altered);
            assert!(matches!(refused, Err(SpoolError::Inline(_))));
            (sealed.manifest, location)
        })
        .collect();
    let spool = open(dir.path());
    let live: Vec<_> = stored
        .iter()
        .map(|(manifest, at)| (manifest.id(), *at))
        .collect();
    spool.sweep(&live, &BTreeSet::new(), NOW).unwrap();
    let files = || fs::read_dir(dir.path().join("shared")).unwrap().count();
    for (at, (manifest, location)) in stored.iter().enumerate() {
        assert_eq!(files(), 1, "{at}");
        // Each word about a package that is over finishes it once more.
        for _ in 0..stored.len() {
            spool.remove(&manifest.id(), location).unwrap();
        }
    }
    assert_eq!(files(), 0);
}

#[test]
fn a_quota_refuses_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        spool_bytes_max: 500_000,
        ..Limits::default()
    };
    let spool = Spool::open(&passerelle_disk::system(), dir.path(), limits).unwrap();
    let (sealed, _) = package(900_000);
    assert!(matches!(
        spool.begin(&sealed.manifest, nobody),
        Err(SpoolError::Full(_))
    ));
    assert_eq!(spool.bytes(), 0);
}

/// Now, by the clock of the file system.
fn written_now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_ms(since.unwrap().as_millis() as i64)
}

#[test]
fn a_transfer_is_kept_for_a_week_or_until_its_package_expires() {
    let dir = tempfile::tempdir().unwrap();
    let (sealed, pack) = package(900_000);
    let spool = open(dir.path());
    let begin = || {
        let mut partial = spool.begin(&sealed.manifest, nobody).unwrap();
        let wraps = part(&sealed, &pack, Section::Wraps);
        partial.write(Section::Wraps, 0, wraps).unwrap();
        partial
    };
    drop(begin());
    let week = written_now().saturating_add(PARTIAL_LIFE);
    let until = sealed.manifest.not_after().min(week);
    let minute = Duration::from_secs(60);
    let (early, late) = (until.saturating_sub(minute), until.saturating_add(minute));
    assert_eq!(spool.expire(nobody, early).unwrap(), 0);
    let running = begin();
    assert_eq!(
        spool.expire(nobody, late).unwrap(),
        0,
        "somebody is sending it"
    );
    drop(running);
    assert_eq!(spool.expire(|_| true, late).unwrap(), 0, "the log has it");
    assert_eq!(spool.expire(nobody, late).unwrap(), 1);
    assert_eq!(spool.bytes(), 0);
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        2,
        "shared segments, and heads"
    );
}

#[test]
fn a_transfer_that_is_not_whole_is_not_finished() {
    let dir = tempfile::tempdir().unwrap();
    let (sealed, pack) = package(900_000);
    let spool = open(dir.path());
    let mut partial = spool.begin(&sealed.manifest, nobody).unwrap();
    for section in SECTIONS {
        partial
            .write(section, 0, part(&sealed, &pack, section))
            .unwrap();
    }
    let chunks = part(&sealed, &pack, Section::Chunks);
    let (most, last) = chunks.split_at(chunks.len() - 1);
    partial.write(Section::Chunks, 0, most).unwrap();
    assert!(matches!(
        partial.finish(),
        Err(SpoolError::Incomplete { .. })
    ));
    partial
        .write(Section::Chunks, most.len() as u64, last)
        .unwrap();
    assert!(partial.finish().is_ok());
}

#[test]
fn only_what_is_being_sent_now_counts_as_being_received() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (package(900_000).0, package(800_000).0);
    let limits = Limits {
        partial_bytes_max: 1_000_000,
        ..Limits::default()
    };
    let spool = Spool::open(&passerelle_disk::system(), dir.path(), limits).unwrap();
    let running = spool.begin(&one.manifest, nobody).unwrap();
    assert!(matches!(
        spool.begin(&other.manifest, nobody),
        Err(SpoolError::Full(_))
    ));
    let again = spool.begin(&one.manifest, nobody).unwrap();
    drop((running, again));
    spool.begin(&other.manifest, nobody).unwrap();
}

#[test]
fn an_error_of_the_disk_is_fatal_and_a_full_one_is_not() {
    let of = |errno: rustix::io::Errno| failed(Path::new("x"))(errno.into());
    assert!(of(rustix::io::Errno::IO).is_fatal());
    assert!(!of(rustix::io::Errno::NOENT).is_fatal());
    assert!(matches!(of(rustix::io::Errno::NOSPC), SpoolError::Full(_)));
}

fn write_all(partial: &mut Partial, sealed: &Sealed, pack: &[u8]) {
    for section in [SECTIONS.as_slice(), &[Section::Chunks]].concat() {
        partial
            .write(section, 0, part(sealed, pack, section))
            .unwrap();
    }
}

#[test]
fn a_transfer_that_is_about_to_be_committed_cannot_be_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let (sealed, pack) = package(900_000);
    let spool = open(dir.path());
    let mut old = spool.begin(&sealed.manifest, nobody).unwrap();
    write_all(&mut old, &sealed, &pack);
    let location = old.finish().unwrap();
    let newer = || spool.begin(&sealed.manifest, nobody);
    assert!(matches!(newer(), Err(SpoolError::Committed)));
    // The commit failed: the next transfer finds everything there.
    drop(old);
    let held = newer().unwrap().held();
    assert_eq!(held.chunks, sealed.manifest.payload_length());
    // Accepted: nobody touches it any more, whatever was looked up before.
    newer().unwrap().accepted().unwrap();
    let late = spool.begin(&sealed.manifest, |_| true);
    assert!(matches!(late, Err(SpoolError::Committed)));
    let reader = spool.reader(&sealed.manifest, &location).unwrap();
    let chunks = part(&sealed, &pack, Section::Chunks);
    let found = reader.read(Section::Chunks, 0, chunks.len() as u64);
    assert_eq!(found.unwrap(), chunks);
    assert_eq!(spool.bytes(), location.length);
}

#[test]
fn an_older_transfer_cannot_write_into_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let (sealed, pack) = package(900_000);
    let spool = open(dir.path());
    let _old = spool.begin(&sealed.manifest, nobody).unwrap();
    let path = dir.path().join(format!("{}.pack", sealed.manifest.id()));
    let as_the_old_one = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut new = spool.begin(&sealed.manifest, nobody).unwrap();
    write_all(&mut new, &sealed, &pack);
    new.finish().unwrap();
    // A write that had been let through before the newer one began.
    as_the_old_one.write_all_at(&[0xee; 4096], 0).unwrap();
    assert_eq!(fs::read(&path).unwrap()[..8], *b"PASSPK01");
}

#[test]
fn a_transfer_of_up_to_256_kib_ends_in_a_shared_segment() {
    let dir = tempfile::tempdir().unwrap();
    let (sealed, pack) = package(200_000);
    let spool = open(dir.path());
    drop(spool.begin(&sealed.manifest, nobody).unwrap());
    assert_eq!(spool.bytes(), 0, "nothing was written");
    let mut partial = spool.begin(&sealed.manifest, nobody).unwrap();
    write_all(&mut partial, &sealed, &pack);
    let outside = partial.write(Section::Chunks, sealed.manifest.payload_length(), &[0]);
    assert!(matches!(outside, Err(SpoolError::Outside)));
    let location = partial.finish().unwrap();
    partial.accepted().unwrap();
    assert_eq!(location.segment, 1);
    assert_eq!(spool.bytes(), sealed.manifest.total_length());
    let again = open(dir.path());
    again
        .sweep(&[(sealed.manifest.id(), location)], &BTreeSet::new(), NOW)
        .unwrap();
    let reader = again.reader(&sealed.manifest, &location).unwrap();
    let chunks = part(&sealed, &pack, Section::Chunks);
    let found = reader.read(Section::Chunks, 0, chunks.len() as u64);
    assert_eq!(found.unwrap(), chunks);
    spool.release(&location).unwrap();
    assert_eq!(spool.bytes(), 0);
}
