//! A copy that has rotted is made whole again, and only what was damaged is asked for.

use passerelle_proto::Soundness;

use super::*;

fn inline(sealed: &Sealed, pack: &[u8]) -> Vec<u8> {
    let all = [SECTIONS.as_slice(), &[Section::Chunks]].concat();
    let parts = all.iter().flat_map(|section| part(sealed, pack, *section));
    parts.copied().collect()
}

/// A package in a file of its own, accepted.
fn accepted(spool: &Arc<Spool>, sealed: &Sealed, pack: &[u8]) -> PackLocation {
    let mut partial = spool.begin(&sealed.manifest, nobody).unwrap();
    for section in [SECTIONS.as_slice(), &[Section::Chunks]].concat() {
        let bytes = part(sealed, pack, section);
        partial.write(section, 0, bytes).unwrap();
    }
    let location = partial.finish().unwrap();
    partial.accepted().unwrap();
    location
}

fn examined(spool: &Spool, sealed: &Sealed, location: &PackLocation) -> Soundness {
    let reader = spool.reader(&sealed.manifest, location).unwrap();
    SoundReader::new(&sealed.manifest, reader)
        .examine()
        .unwrap()
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn of_a_damaged_pack_the_damaged_chunks_are_lacking_and_written_in_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let (sealed, pack) = package(1_500_000);
    let location = accepted(&spool, &sealed, &pack);
    let path = spool.path_of(&sealed.manifest.id(), &location);
    let tight = PackLayout::tight(&sealed.manifest);
    let chunks = tight.offset_of(Section::Chunks).unwrap();
    flip(&path, chunks + 10);
    flip(&path, chunks + 800_000);
    // What stands in front of head and chunks is not read when a package is sent.
    flip(&path, 3);
    let mut mending = spool.mend(&sealed.manifest, || Some(location)).unwrap();
    let held = mending.held();
    let table = held.table.unwrap();
    assert_eq!(held.lacks, [0, table.locate(800_000).unwrap()]);
    assert_eq!(held.chunks, 0);
    for chunk in held.lacks {
        let range = table.range_of(chunk).unwrap();
        let (from, to) = (range.start as usize, range.end as usize);
        let bytes = &part(&sealed, &pack, Section::Chunks)[from..to];
        mending.write(Section::Chunks, range.start, bytes).unwrap();
    }
    assert_eq!(mending.finish().unwrap(), location);
    drop(mending);
    assert_eq!(examined(&spool, &sealed, &location).damage, None);
    let mut file = passerelle_disk::FileCursor::new(spool.disk.open(&path).unwrap());
    assert_eq!(PackLayout::read(&mut file).unwrap().0, tight);
}

#[test]
fn of_a_pack_with_a_damaged_head_or_without_a_file_everything_is_lacking() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let (sealed, pack) = package(900_000);
    let location = accepted(&spool, &sealed, &pack);
    let path = spool.path_of(&sealed.manifest.id(), &location);
    let index = PackLayout::tight(&sealed.manifest).offset_of(Section::Index);
    flip(&path, index.unwrap() + 1);
    let mending = spool.mend(&sealed.manifest, || Some(location)).unwrap();
    assert!(mending.held().table.is_none());
    drop(mending);
    fs::remove_file(&path).unwrap();
    let mut mending = spool.mend(&sealed.manifest, || Some(location)).unwrap();
    assert!(mending.held().table.is_none());
    for section in [SECTIONS.as_slice(), &[Section::Chunks]].concat() {
        let bytes = part(&sealed, &pack, section);
        mending.write(section, 0, bytes).unwrap();
    }
    assert_eq!(mending.finish().unwrap(), location);
    assert_eq!(examined(&spool, &sealed, &location).damage, None);
}

#[test]
fn a_package_in_a_segment_is_written_anew_elsewhere_and_the_segment_goes_when_all_have_left_it() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let (sealed, pack) = package(1_000);
    let inline = inline(&sealed, &pack);
    let before = spool.store_inline(&sealed.manifest, &inline).unwrap();
    let segment = spool.path_of(&sealed.manifest.id(), &before);
    flip(&segment, before.offset + 4);
    assert!(examined(&spool, &sealed, &before).damage.is_some());
    let mut mending = spool.mend(&sealed.manifest, || Some(before)).unwrap();
    let mut altered = inline.clone();
    altered[7] ^= 1;
    assert!(matches!(
        mending.write_inline(&altered),
        Err(SpoolError::Inline(_))
    ));
    mending.write_inline(&inline).unwrap();
    let after = mending.finish().unwrap();
    drop(mending);
    assert_ne!(after, before);
    assert_eq!(examined(&spool, &sealed, &after).damage, None);
    // A segment that has lost its name takes nothing more.
    fs::remove_file(&segment).unwrap();
    let mut mending = spool.mend(&sealed.manifest, || Some(after)).unwrap();
    mending.write_inline(&inline).unwrap();
    let last = mending.finish().unwrap();
    drop(mending);
    assert!(last.segment > after.segment);
    assert_eq!(examined(&spool, &sealed, &last).damage, None);
    assert_eq!(
        spool.usage().total,
        0,
        "what shares a segment is counted there"
    );
}

#[test]
fn the_newest_repair_takes_over_and_what_is_whole_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let (sealed, pack) = package(900_000);
    let location = accepted(&spool, &sealed, &pack);
    let mut old = spool.mend(&sealed.manifest, || Some(location)).unwrap();
    let mut new = spool.mend(&sealed.manifest, || Some(location)).unwrap();
    assert!(matches!(old.finish(), Err(SpoolError::TakenOver)));
    new.finish().unwrap();
    let meanwhile = spool.mend(&sealed.manifest, || Some(location));
    assert!(matches!(meanwhile, Err(SpoolError::Committed)));
    drop(new);
    let whole = spool.mend(&sealed.manifest, || None);
    assert!(matches!(whole, Err(SpoolError::Committed)));
    assert_eq!(examined(&spool, &sealed, &location).damage, None);
}

#[test]
fn the_number_of_a_segment_that_is_gone_does_not_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let (sealed, pack) = package(1_000);
    let inline = inline(&sealed, &pack);
    let spool = open(dir.path());
    let lost = spool.store_inline(&sealed.manifest, &inline).unwrap();
    fs::remove_file(spool.path_of(&sealed.manifest.id(), &lost)).unwrap();
    let spool = open(dir.path());
    spool
        .sweep(&[(sealed.manifest.id(), lost)], &BTreeSet::new(), NOW)
        .unwrap();
    let next = spool.store_inline(&sealed.manifest, &inline).unwrap();
    assert!(next.segment > lost.segment);
}
