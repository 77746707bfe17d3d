//! What is removed of packages that are over.

use super::*;

fn stored(spool: &Arc<Spool>, length: u32) -> (VerifiedManifest, PackLocation, Vec<u8>) {
    let (sealed, pack) = package(length);
    let mut partial = spool.begin(&sealed.manifest, nobody).unwrap();
    write_all(&mut partial, &sealed, &pack);
    let location = partial.finish().unwrap();
    partial.accepted().unwrap();
    (sealed.manifest, location, pack)
}

/// Every byte of a package, sound or not.
fn whole(spool: &Spool, manifest: &VerifiedManifest, at: &PackLocation) -> Vec<u8> {
    let reader = spool.reader(manifest, at).unwrap();
    let layout = PackLayout::tight(manifest);
    let sections = [SECTIONS.as_slice(), &[Section::Chunks]].concat();
    let read = |section| reader.read(section, 0, layout.length_of(section)).unwrap();
    sections.into_iter().flat_map(read).collect()
}

fn inside(dir: &Path, folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join(folder)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.is_file());
    paths
}

#[test]
fn chunks_go_and_what_stands_before_them_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let (manifest, location, pack) = stored(&spool, 600_000);
    for _ in 0..2 {
        // Gone on with after a stop, it is done once more.
        spool.keep_head(&manifest).unwrap();
        spool.remove(&manifest.id(), &location).unwrap();
        spool.sync_removed().unwrap();
    }
    assert_eq!(inside(dir.path(), "."), [] as [PathBuf; 0]);
    let [head] = &inside(dir.path(), "heads")[..] else {
        panic!("one head")
    };
    let kept = fs::read(head).unwrap();
    let layout = PackLayout::tight(&manifest);
    assert_eq!(
        kept.len() as u64,
        layout.offset_of(Section::Chunks).unwrap()
    );
    assert_eq!(
        kept[kept.len() - 100..],
        head_of(&manifest, &pack)[kept.len() - 100..]
    );
    assert_eq!(spool.bytes(), kept.len() as u64);
    let again = open(dir.path());
    assert_eq!(again.bytes(), kept.len() as u64, "a start counts it too");
    let wanted = BTreeSet::from([manifest.id()]);
    again.sweep(&[], &wanted, NOW).unwrap();
    assert_eq!(inside(dir.path(), "heads").len(), 1);
    again.remove_head(&manifest.id()).unwrap();
    again.remove_head(&manifest.id()).unwrap();
    assert_eq!(again.bytes(), 0);
    assert!(inside(dir.path(), "heads").is_empty());
}

/// What a receiver writes before the chunks: header and manifest, then the sealed parts.
fn head_of(manifest: &VerifiedManifest, pack: &[u8]) -> Vec<u8> {
    let layout = PackLayout::tight(manifest);
    let mut head = layout.header().to_vec();
    head.extend(prost::Message::encode_to_vec(manifest.signed()));
    let sealed = PackLayout::parse(pack[..PACK_HEADER_LEN as usize].try_into().unwrap()).unwrap();
    for section in SECTIONS {
        let start = sealed.offset_of(section).unwrap() as usize;
        head.extend(&pack[start..start + sealed.length_of(section) as usize]);
    }
    head
}

#[test]
fn a_head_that_nothing_is_known_of_goes_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let (manifest, location, _) = stored(&spool, 600_000);
    spool.keep_head(&manifest).unwrap();
    let half = dir.path().join("heads/x.head.tmp");
    passerelle_disk::system().replace(&half, b"half").unwrap();
    let spool = open(dir.path());
    let live = [(manifest.id(), location)];
    spool.sweep(&live, &BTreeSet::new(), NOW).unwrap();
    assert!(inside(dir.path(), "heads").is_empty());
    assert_eq!(spool.bytes(), location.length);
}

#[test]
fn a_package_in_a_shared_segment_is_overwritten_while_the_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let (first, at, _) = stored(&spool, 2_000);
    let (second, beside, _) = stored(&spool, 3_000);
    assert_eq!(at.segment, beside.segment);
    let before = whole(&spool, &second, &beside);
    // As often as it is gone on with: what is beside it is not counted off for it.
    for _ in 0..9 {
        spool.remove(&first.id(), &at).unwrap();
        spool.sync_removed().unwrap();
    }
    let gone = whole(&spool, &first, &at);
    assert!(gone.iter().all(|byte| *byte == 0));
    assert_eq!(whole(&spool, &second, &beside), before);
    assert_eq!(spool.bytes(), beside.length);
}

#[test]
fn what_is_removed_once_more_after_a_start_never_hits_a_newer_package() {
    let dir = tempfile::tempdir().unwrap();
    let spool = open(dir.path());
    let (first, at, _) = stored(&spool, 2_000);
    let live = [(first.id(), at)];
    drop(spool);
    // Its segment goes with it, and the process dies before that is said.
    let spool = open(dir.path());
    spool.sweep(&live, &BTreeSet::new(), NOW).unwrap();
    spool.remove(&first.id(), &at).unwrap();
    assert!(inside(dir.path(), "shared").is_empty());
    drop(spool);
    let spool = open(dir.path());
    spool.sweep(&live, &BTreeSet::new(), NOW).unwrap();
    let (second, beside, _) = stored(&spool, 3_000);
    let before = whole(&spool, &second, &beside);
    spool.remove(&first.id(), &at).unwrap();
    assert_eq!(whole(&spool, &second, &beside), before);
    assert_ne!(beside.segment, at.segment);
}

#[test]
fn room_is_short_from_the_first_refusal_until_there_is_enough() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        spool_bytes_max: 2_000_000,
        ..Limits::default()
    };
    let spool = Spool::open(&passerelle_disk::system(), dir.path(), limits).unwrap();
    let (first, at, _) = stored(&spool, 1_200_000);
    assert!(!spool.is_short().unwrap());
    let (next, _) = package(900_000);
    assert!(matches!(
        spool.begin(&next.manifest, nobody),
        Err(SpoolError::Full(_))
    ));
    assert!(spool.is_short().unwrap(), "somebody has been put off");
    spool.remove(&first.id(), &at).unwrap();
    assert!(!spool.is_short().unwrap());
    let (large, _) = package(2_500_000);
    assert!(spool.begin(&large.manifest, nobody).is_err());
    assert!(
        !spool.is_short().unwrap(),
        "nothing that goes makes room for it"
    );
    stored(&spool, 1_900_000);
    assert!(spool.is_short().unwrap(), "less than a tenth is left");
}
