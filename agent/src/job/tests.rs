//! What a job keeps, and that what fails leaves nothing behind.

use std::fs;

use passerelle_disk::{Fault, FaultyDisk, Flavour, MemoryDisk};

use super::*;

const NOW: Timestamp = Timestamp::from_ms(1_480_000_000_000);

fn drop_file(store: &Store, name: &str, bytes: &[u8]) -> Dropped {
    let flow = store.outbox().join("observation-iris");
    fs::create_dir_all(&flow).unwrap();
    let path = flow.join(name);
    fs::write(&path, bytes).unwrap();
    Dropped {
        flow: "observation-iris".into(),
        path,
    }
}

#[test]
fn the_same_content_dropped_twice_is_two_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
    let first = Job::claim(&store, &drop_file(&store, "t.csv", b"a"), NOW).unwrap();
    let second = Job::claim(&store, &drop_file(&store, "t.csv", b"a"), NOW).unwrap();
    assert_ne!(first, second);
    assert_eq!(jobs(&store).unwrap(), [first, second]);
}

#[test]
fn what_is_dropped_under_the_same_name_after_the_claim_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
    let dropped = drop_file(&store, "t.csv", b"first");
    let job = Job::claim(&store, &dropped, NOW).unwrap();
    drop_file(&store, "t.csv", b"second");
    assert_eq!(fs::read(job.dropped().unwrap().unwrap()).unwrap(), b"first");
    assert_eq!(fs::read(&dropped.path).unwrap(), b"second");
}

#[test]
fn the_stage_is_told_from_the_files_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
    let job = Job::claim(&store, &drop_file(&store, "t.csv", b"a"), NOW).unwrap();
    assert_eq!(job.stage().unwrap(), JobStage::Claimed);
    fs::write(job.unfinished_package(), b"half").unwrap();
    assert_eq!(job.stage().unwrap(), JobStage::Claimed);
    job.commit_package().unwrap();
    assert_eq!(
        Job::at(store.disk(), job.directory().to_owned())
            .stage()
            .unwrap(),
        JobStage::Sealed
    );
    assert_eq!(job.record().unwrap().unwrap().name, "t.csv");
}

#[test]
fn a_claim_that_fails_leaves_no_job_behind() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
    let gone = Dropped {
        flow: "f".into(),
        path: store.outbox().join("f/gone"),
    };
    assert!(Job::claim(&store, &gone, NOW).unwrap_err().is_not_found());
    assert_eq!(jobs(&store).unwrap(), []);
}

#[test]
fn a_crash_between_preparing_and_claiming_leaves_an_empty_job() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
    let record = JobRecord {
        flow: "f".into(),
        name: "n".into(),
        claimed_ms: NOW.as_ms(),
        kind: JobKind::Data,
        recipients: vec![],
    };
    let job = Job::empty(&store, &record).unwrap();
    assert_eq!(job.stage().unwrap(), JobStage::Empty);
}

#[test]
fn a_statement_is_stored_once_and_verbatim() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
    let job = Job::claim(&store, &drop_file(&store, "t.csv", b"a"), NOW).unwrap();
    assert!(job.store_statement("ab12", b"signed").unwrap());
    assert!(!job.store_statement("ab12", b"signed").unwrap());
    assert_eq!(job.statements().unwrap(), [b"signed".to_vec()]);
}

#[test]
fn a_rejected_job_keeps_its_source_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
    let job = Job::claim(&store, &drop_file(&store, "t.csv", b"a"), NOW).unwrap();
    fs::write(job.unfinished_package(), b"half").unwrap();
    let moved = job
        .finish(&store.rejected(), None, "t.csv", "no such flow", NOW)
        .unwrap();
    assert_eq!(fs::read(moved.dropped().unwrap().unwrap()).unwrap(), b"a");
    assert_eq!(
        fs::read(moved.directory().join(REPORT)).unwrap(),
        b"no such flow"
    );
    assert!(!moved.unfinished_package().exists());
    assert_eq!(jobs(&store).unwrap(), []);
}

#[test]
fn a_link_is_moved_aside_as_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
    let flow = store.outbox().join("f");
    fs::create_dir_all(&flow).unwrap();
    let path = flow.join("link");
    std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
    let dropped = Dropped {
        flow: "f".into(),
        path,
    };
    let place = reject_dropped(&store, &dropped, "it is a link", NOW).unwrap();
    let meta = fs::symlink_metadata(place.join("source/link")).unwrap();
    assert!(meta.is_symlink());
}

#[test]
fn titles_become_safe_file_names() {
    assert_eq!(
        file_name_of("Bénéficiaires 2016/12"),
        "Bénéficiaires-2016-12"
    );
    assert_eq!(file_name_of("../../etc"), "etc");
    assert_eq!(file_name_of("…"), "package");
    assert!(file_name_of(&"é".repeat(500)).len() <= 96);
}

/// A store in memory with one drop, on a disk whose operation of this number fails.
fn faulty_store(memory: &MemoryDisk, operation: Option<u64>) -> (FaultyDisk, Store, Dropped) {
    let flow = "f".to_owned();
    let path = Path::new("/agent/outbox/f/link").to_owned();
    let disk: &dyn Disk = memory;
    disk.create_directories(path.parent().unwrap()).unwrap();
    disk.replace(&path, b"a").unwrap();
    let fault = operation.map(|operation| Fault {
        operation,
        full: true,
        flavour: Flavour::Lost,
    });
    let faulty = FaultyDisk::new(Arc::new(memory.clone()), fault);
    let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    let store = Store::open(&disk, Path::new("/agent")).unwrap();
    (faulty, store, Dropped { flow, path })
}

#[test]
fn what_cannot_be_rejected_leaves_nothing_behind_whatever_fails() {
    let opened = faulty_store(&MemoryDisk::default(), None).0.operations();
    for operation in opened + 1..opened + 100 {
        let memory = MemoryDisk::default();
        let disk: &dyn Disk = &memory;
        let (faulty, store, dropped) = faulty_store(&memory, Some(operation));
        let rejected = reject_dropped(&store, &dropped, "it is a link", NOW);
        let day = store.rejected().join(NOW.date());
        let left = disk.entries(&day).unwrap();
        match disk.is_file(&dropped.path) {
            true => assert_eq!((left, rejected.is_err()), (vec![], true), "{operation}"),
            false => assert_eq!(left, [rejected.unwrap()], "{operation}"),
        }
        if !faulty.has_failed() {
            return assert!(operation > opened + 8, "{}", operation - opened);
        }
    }
    panic!("it has no end");
}
