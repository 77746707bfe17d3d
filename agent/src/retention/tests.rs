//! What goes when, and that a failure at any moment loses nothing else.

use std::fs;
use std::path::Path;

use passerelle_disk::{Disk, Fault, FaultyDisk, Flavour, HostDisk};
use passerelle_proto::fixture::{NOW, keys, party, plan, seal_files, world};
use passerelle_proto::v1::{self, Signed};
use passerelle_proto::{Digest, StatementDraft, StatementId};
use prost::Message;

use super::*;
use crate::job::{LEAVING, REMOVED, reject_dropped};
use crate::outbox::Dropped;
use crate::store::Store;

const FLOW: &str = "observation-iris";

fn later(days: u32) -> Timestamp {
    NOW.saturating_add(DAY * days)
}

/// Payload and metadata retention of [`FLOW`] in the fixture's convention.
fn retention() -> Retention {
    let world = world();
    let flow = FLOW.parse().unwrap();
    world.directory.convention().flow(&flow).unwrap().retention
}

fn statement(package: passerelle_proto::PackageId, at: Timestamp, what: What) -> Signed {
    StatementDraft {
        issuer: party("grand-dijon"),
        destination: party("caf21"),
        package,
        at,
        what,
    }
    .sign_unnumbered(&keys("grand-dijon").agent)
}

/// Stored as what has come is: under its id.
fn store_said(job: &Job, said: &Signed) {
    let id = StatementId(Digest::of(&said.body)).to_string();
    job.store_statement(&id, &said.encode_to_vec()).unwrap();
}

fn dropped(store: &Store, name: &str) -> Dropped {
    let path = store.outbox().join(FLOW).join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"code;nom\n21166;Chenove\n").unwrap();
    let flow = FLOW.into();
    Dropped { flow, path }
}

/// A job whose only recipient has opened the package at this time.
fn finished(store: &Store, place: &Path, delivered: Timestamp) -> (Job, VerifiedManifest) {
    finish(store, place, &manifest(), delivered)
}

fn manifest() -> VerifiedManifest {
    let plan = plan(world().directory.convention());
    let files = [("t.csv", b"x".to_vec())];
    seal_files(&plan, &keys("caf21").agent, &files).0.manifest
}

fn finish(
    store: &Store,
    place: &Path,
    manifest: &VerifiedManifest,
    delivered: Timestamp,
) -> (Job, VerifiedManifest) {
    let job = Job::claim(store, &dropped(store, "t.csv"), NOW).unwrap();
    let signed = manifest.signed().encode_to_vec();
    store.disk().replace(&job.manifest(), &signed).unwrap();
    let what = What::Delivered(v1::Delivered {
        recipient: "grand-dijon".into(),
        content_commit: vec![0; 32],
    });
    store_said(&job, &statement(manifest.id(), delivered, what));
    let id = Some(manifest.id());
    let job = job.finish(place, id, "t", "over", NOW).unwrap();
    (job, manifest.clone())
}

fn open(disk: &Arc<dyn Disk>, root: &Path) -> Store {
    Store::open(disk, root).unwrap()
}

fn pass(outgoing: &Outgoing, now: Timestamp) -> Vec<Result<Going, DiskError>> {
    let jobs = outgoing.all_finished().into_iter();
    let directory = &world().directory;
    jobs.map(|job| prune_job(outgoing, directory, job, now))
        .collect()
}

fn pass_one(outgoing: &Outgoing, now: Timestamp) -> Going {
    let mut found = pass(outgoing, now);
    assert_eq!(found.len(), 1);
    found.remove(0).unwrap()
}

#[test]
fn what_was_dropped_goes_with_the_payload_and_the_record_with_the_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&passerelle_disk::system(), dir.path());
    let (job, manifest) = finished(&store, &store.sent(), NOW);
    let outgoing = Outgoing::load(&store).unwrap();
    let Retention {
        payload, metadata, ..
    } = retention();
    assert_eq!(pass_one(&outgoing, later(payload)), Going::Nothing);
    assert!(job.dropped().unwrap().is_some(), "its day is not over yet");
    assert_eq!(pass_one(&outgoing, later(payload + 1)), Going::Dropped);
    assert_eq!(job.dropped().unwrap(), None);
    let note = fs::read_to_string(job.directory().join(REMOVED)).unwrap();
    assert!(note.contains(&later(payload + 1).date()), "{note}");
    assert!(job.removed().is_some());
    assert_eq!(pass_one(&outgoing, later(payload + 1)), Going::Nothing);
    assert_eq!(statements(&job).unwrap().len(), 1);
    assert_eq!(read_manifest(&job).unwrap().id(), manifest.id());
    assert_eq!(pass_one(&outgoing, later(metadata)), Going::Nothing);
    assert_eq!(pass_one(&outgoing, later(metadata + 1)), Going::Record);
    assert!(!job.directory().exists());
    assert!(outgoing.find_finished(&manifest.id()).is_none());
}

#[test]
fn a_day_is_counted_from_the_last_word_that_ended_it_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&passerelle_disk::system(), dir.path());
    // Our clock was wrong when it was over: others say that it was ten days later.
    let (job, manifest) = finished(&store, &store.sent(), later(10));
    let purged = What::Purged(v1::Purged {
        part: v1::PurgedPart::Chunks as i32,
        ..v1::Purged::default()
    });
    let said = statement(manifest.id(), later(20), purged);
    store_said(&job, &said);
    let outgoing = Outgoing::load(&store).unwrap();
    let payload = retention().payload;
    assert_eq!(pass_one(&outgoing, later(payload + 9)), Going::Nothing);
    assert_eq!(pass_one(&outgoing, later(payload + 10)), Going::Dropped);
}

#[test]
fn what_was_not_sealed_and_what_is_on_its_way_is_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&passerelle_disk::system(), dir.path());
    let place = reject_dropped(&store, &dropped(&store, "bad.csv"), "no such flow", NOW).unwrap();
    let at_work = Job::claim(&store, &dropped(&store, "new.csv"), NOW).unwrap();
    let (refused, _) = finished(&store, &store.rejected(), NOW);
    let (waiting, _) = finished(&store, &store.sent(), NOW);
    let cancel = What::Cancel(v1::Cancel {
        recipient: "grand-dijon".into(),
        comment: String::new(),
    });
    let said = statement(read_manifest(&waiting).unwrap().id(), NOW, cancel);
    let id = StatementId(passerelle_proto::Digest::of(&said.body));
    waiting.said().store(id, &said).unwrap();
    let outgoing = Outgoing::load(&store).unwrap();
    let found: Vec<Going> = pass(&outgoing, later(9_999))
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(
        found.contains(&Going::Record) && found.contains(&Going::Nothing),
        "{found:?}"
    );
    assert!(place.join("source/bad.csv").is_file(), "it is its owner's");
    assert!(at_work.dropped().unwrap().is_some());
    assert!(
        !refused.directory().exists(),
        "a package that nobody took was one too"
    );
    assert!(
        waiting.dropped().unwrap().is_some(),
        "a word of ours is still to be sent"
    );
}

#[test]
fn one_record_that_cannot_be_read_holds_no_other_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&passerelle_disk::system(), dir.path());
    let jobs = [0, 1].map(|_| finished(&store, &store.sent(), NOW).0);
    let outgoing = Outgoing::load(&store).unwrap();
    let statements = jobs[0].directory().join("statements");
    fs::remove_dir_all(&statements).unwrap();
    fs::write(&statements, b"no directory").unwrap();
    let found = pass(&outgoing, later(9_999));
    assert_eq!(found.iter().filter(|going| going.is_err()).count(), 1);
    assert!(jobs[0].dropped().unwrap().is_some());
    assert!(!jobs[1].directory().exists());
}

/// Each operation fails once; the next start ends what was begun.
fn fail_each(full: bool, flavour: Flavour, now: Timestamp) -> u64 {
    let manifest = manifest();
    for operation in 1..200 {
        let fault = Fault {
            operation,
            full,
            flavour,
        };
        let dir = tempfile::tempdir().unwrap();
        let host: Arc<dyn Disk> = Arc::new(HostDisk);
        let store = open(&host, dir.path());
        finish(&store, &store.sent(), &manifest, NOW);
        drop(store);
        let faulty = FaultyDisk::new(Arc::new(HostDisk), Some(fault));
        let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
        if let Ok(store) = Store::open(&disk, dir.path())
            && let Ok(outgoing) = Outgoing::load(&store)
        {
            pass(&outgoing, now);
        }
        let store = open(&host, dir.path());
        let outgoing = Outgoing::load(&store).unwrap();
        for found in pass(&outgoing, now) {
            found.unwrap();
        }
        let days = fs::read_dir(store.sent()).unwrap();
        let left = days.flat_map(|day| fs::read_dir(day.unwrap().path()).unwrap());
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        let leaving = |name: &std::ffi::OsString| name.to_string_lossy().starts_with(LEAVING);
        assert!(!left.iter().any(leaving), "{fault}: {left:?}");
        match outgoing.find_finished(&manifest.id()) {
            Some(job) => {
                assert_eq!(job.dropped().unwrap(), None, "{fault}");
                assert_eq!(statements(&job).unwrap().len(), 1, "{fault}");
                assert!(job.removed().is_some(), "{fault}");
                assert!(now < later(retention().metadata), "{fault}");
            }
            None => assert!(left.is_empty(), "{fault}: {left:?}"),
        }
        if !faulty.has_failed() {
            return operation - 1;
        }
    }
    panic!("it has no end");
}

#[test]
fn each_operation_may_fail_and_the_next_start_ends_what_was_begun() {
    let Retention {
        payload, metadata, ..
    } = retention();
    for now in [later(payload + 1), later(metadata + 1)] {
        for full in [false, true] {
            for flavour in [Flavour::Lost, Flavour::Persisted] {
                assert!(fail_each(full, flavour, now) > 2);
            }
        }
    }
}

#[test]
fn files_of_somebody_else_among_what_is_over_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&passerelle_disk::system(), dir.path());
    let (sent, manifest) = finished(&store, &store.sent(), NOW);
    let day = sent.directory().parent().unwrap();
    for stray in [store.sent(), store.rejected(), day.to_owned()] {
        fs::write(stray.join("Thumbs.db"), b"").unwrap();
    }
    let outgoing = Outgoing::load(&store).unwrap();
    assert_eq!(outgoing.packages(), [manifest.id()]);
}
