//! Each durable operation of an agent fails once, in every way: what was dropped is in one place at
//! the next start, and what was said to be stored is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use passerelle_disk::{At, Disk, DiskError, Fault, FaultyDisk, Flavour, HostDisk};
use passerelle_proto::v1::{self, statement::What};
use passerelle_proto::{Digest, PackageId, StatementId, Timestamp};
use prost::Message;

use crate::job::{Job, JobStage, jobs};
use crate::outbox::Dropped;
use crate::outgoing::Outgoing;
use crate::received::Register;
use crate::store::{Store, StoreError};

const NOW: Timestamp = Timestamp::from_ms(1_480_000_000_000);
/// A scenario has fewer operations than this.
const OPERATIONS_MAX: u64 = 1_000;
const FLOW: &str = "signalement";
const CONTENT: &[u8] = b"code;nom\n21166;Chenove\n";

/// What an agent has told others.
#[derive(Default)]
struct Promised {
    sealed: bool,
    /// Statements that were acknowledged to the gateway, about a package of ours.
    stored: Vec<Vec<u8>>,
    over: bool,
    registered: Option<PackageId>,
    said: Option<v1::Signed>,
    acked: bool,
}

fn manifest() -> v1::Signed {
    let body = v1::Manifest {
        not_after_ms: NOW.as_ms(),
        ..v1::Manifest::default()
    };
    let body = body.encode_to_vec();
    v1::Signed {
        body,
        ..v1::Signed::default()
    }
}

fn delivered() -> (StatementId, v1::Signed) {
    let body = v1::Statement {
        what: Some(What::Delivered(v1::Delivered::default())),
        ..v1::Statement::default()
    };
    let body = body.encode_to_vec();
    let id = StatementId(Digest::of(&body));
    let signed = v1::Signed {
        body,
        ..v1::Signed::default()
    };
    (id, signed)
}

fn words(error: StoreError) -> DiskError {
    match error {
        StoreError::Disk(error) => error,
        other => panic!("{other}"),
    }
}

/// Claims, seals, is told and ends; receives, registers, places and says so.
fn live(disk: &Arc<dyn Disk>, root: &Path, promised: &mut Promised) -> Result<(), DiskError> {
    let store = Store::open(disk, root).map_err(words)?;
    send(&store, promised)?;
    receive(&store, promised)
}

fn send(store: &Store, promised: &mut Promised) -> Result<(), DiskError> {
    let dropped = Dropped {
        flow: FLOW.into(),
        path: store.outbox().join(FLOW).join("t.csv"),
    };
    let job = Job::claim(store, &dropped, NOW)?;
    let unfinished = job.unfinished_package();
    let pack = job.disk().create(&unfinished).at("create", &unfinished)?;
    pack.write_at(b"sealed", 0).at("write", &unfinished)?;
    pack.sync().at("sync", &unfinished)?;
    job.commit_package()?;
    promised.sealed = true;
    for (id, said) in [("ab", b"accepted"), ("cd", b"received")] {
        job.store_statement(id, said)?;
        promised.stored.push(said.to_vec());
    }
    // What failed once is tried again when the last statement comes again.
    let over = || job.clone().finish(&store.sent(), None, "t", "over", NOW);
    over().or_else(|_| over())?;
    promised.over = true;
    Ok(())
}

fn receive(store: &Store, promised: &mut Promised) -> Result<(), DiskError> {
    let disk = store.disk();
    let register = Register::load(store)?;
    let whole = store.opening().join("whole");
    disk.create_directories(&whole)?;
    disk.replace(&whole.join("t.csv"), CONTENT)?;
    let place = store.inbox().join(FLOW).join("t");
    let description = v1::Description::default();
    let enter = || register.enter(&manifest(), &description, Some(&place), NOW);
    let entry = enter().or_else(|_| enter())?;
    promised.registered = Some(entry.id());
    disk.create_directories(&store.inbox().join(FLOW))?;
    disk.rename_synced(&whole, &place)?;
    let (id, signed) = delivered();
    entry.store_statement(id, &signed)?;
    promised.said = Some(signed);
    promised.acked = entry.acked(id)?;
    Ok(())
}

/// Every file called `t.csv` that was dropped and is somewhere in the agent's keeping.
fn copies(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["outbox", "work", "sent", "rejected"]
        .map(|place| root.join(place))
        .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.ends_with("t.csv") => found.push(path),
                false => {}
            }
        }
    }
    found
}

/// Starts without faults: everything promised is there, and nothing is in two places.
fn check(root: &Path, promised: &Promised, fault: &Fault) {
    let disk: Arc<dyn Disk> = Arc::new(HostDisk);
    let store = Store::open(&disk, root).unwrap();
    let register = Register::load(&store).unwrap();
    Outgoing::load(&store).unwrap_or_else(|error| assert_unread(&store, &error, fault));
    let found = copies(root);
    assert_eq!(found.len(), 1, "{fault}: {found:?}");
    assert_eq!(fs::read(&found[0]).unwrap(), CONTENT, "{fault}");
    let at_work = jobs(&store).unwrap();
    let mut said = Vec::new();
    for job in &at_work {
        if job.stage().unwrap() == JobStage::Empty {
            continue;
        }
        assert!(!promised.over, "{fault}");
        let stage = job.stage().unwrap();
        assert!(
            !promised.sealed || stage == JobStage::Sealed,
            "{fault}: {stage:?}"
        );
        job.record().unwrap();
        said.extend(job.statements().unwrap());
    }
    if found[0].starts_with(store.sent()) {
        let directory = found[0].parent().unwrap().parent().unwrap();
        said.extend(Job::at(&disk, directory.to_owned()).statements().unwrap());
        assert!(!directory.join("package").exists(), "{fault}");
    }
    for statement in &promised.stored {
        assert!(said.contains(statement), "{fault}: {statement:?}");
    }
    if let Some(id) = promised.registered {
        let entry = register.find(id).unwrap();
        entry.manifest().unwrap();
        if let Some(said) = &promised.said {
            assert_eq!(entry.terminal().unwrap().as_ref(), Some(said), "{fault}");
        }
        assert!(
            !promised.acked || entry.unacked().unwrap().is_empty(),
            "{fault}"
        );
        let place = entry.place().unwrap().unwrap();
        let opened = store.opening().join("whole");
        assert_ne!(place.is_dir(), opened.is_dir(), "{fault}: in one place");
    }
    let half = fs::read_dir(store.received()).unwrap();
    let half = half.flat_map(|day| fs::read_dir(day.unwrap().path()).unwrap());
    let half = half.filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        path.extension().is_some_and(|end| end == "tmp")
    });
    assert_eq!(half.count(), 0, "{fault}");
}

/// The package of this scenario is none: nothing but that may stand in the way.
fn assert_unread(store: &Store, error: &DiskError, fault: &Fault) -> Outgoing {
    let sealed = jobs(store)
        .unwrap()
        .iter()
        .any(|job| error.path == job.package());
    assert!(sealed, "{fault}: {error}");
    Outgoing::default()
}

fn fail_each(full: bool, flavour: Flavour) -> u64 {
    for operation in 1..OPERATIONS_MAX {
        let fault = Fault {
            operation,
            full,
            flavour,
        };
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let outbox = root.join("outbox").join(FLOW);
        fs::create_dir_all(&outbox).unwrap();
        fs::write(outbox.join("t.csv"), CONTENT).unwrap();
        let faulty = FaultyDisk::new(Arc::new(HostDisk), Some(fault));
        let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
        let mut promised = Promised::default();
        let lived = live(&disk, &root, &mut promised);
        check(&root, &promised, &fault);
        if let Err(error) = &lived {
            // A second attempt meets no fault: whatever else fails was left in its way.
            let own = error.source.raw_os_error() == Some(if full { 28 } else { 5 });
            assert!(own, "{fault}: {error}");
        }
        if !faulty.has_failed() {
            lived.unwrap();
            return operation - 1;
        }
    }
    panic!("the scenario has no end");
}

#[test]
fn each_operation_may_fail_with_an_error_of_the_disk() {
    let operations = fail_each(false, Flavour::Lost);
    assert!(operations > 40, "{operations}");
    println!("{operations} operations");
}

#[test]
fn each_operation_may_fail_with_an_error_and_happen_all_the_same() {
    fail_each(false, Flavour::Persisted);
}

#[test]
fn each_operation_may_find_the_disk_full() {
    fail_each(true, Flavour::Lost);
}

#[test]
fn each_operation_may_find_the_disk_full_and_happen_all_the_same() {
    fail_each(true, Flavour::Persisted);
}
