//! Each durable operation of an agent fails once, in every way: what was dropped is in one place at
//! the next start, and what was said to be stored is there.

mod omissions;

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use passerelle_disk::{At, Disk, DiskError, Fault, FaultyDisk, Flavour, HostDisk, Kind};
use passerelle_proto::v1::{self, statement::What};
use passerelle_proto::{Digest, PackageId, StatementId, Timestamp};
use prost::Message;

use crate::job::{Job, JobStage, REPORT, jobs};
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
#[derive(Clone, Default)]
struct Promised {
    claimed: bool,
    sealed: bool,
    /// Statements that were acknowledged to the gateway, about a package of ours.
    stored: Vec<Vec<u8>>,
    over: bool,
    registered: Option<PackageId>,
    said: Option<v1::Signed>,
    acked: bool,
}

/// The same, while it lives.
#[derive(Default)]
struct Promises(Mutex<Promised>);

impl Promises {
    fn so_far(&self) -> MutexGuard<'_, Promised> {
        self.0.lock().unwrap()
    }
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
fn live(disk: &Arc<dyn Disk>, root: &Path, promised: &Promises) -> Result<(), DiskError> {
    let store = Store::open(disk, root).map_err(words)?;
    send(&store, promised)?;
    receive(&store, promised)
}

fn send(store: &Store, promised: &Promises) -> Result<(), DiskError> {
    let dropped = Dropped {
        flow: FLOW.into(),
        path: store.outbox().join(FLOW).join("t.csv"),
    };
    let job = Job::claim(store, &dropped, NOW)?;
    promised.so_far().claimed = true;
    let unfinished = job.unfinished_package();
    let pack = job.disk().create(&unfinished).at("create", &unfinished)?;
    pack.write_at(b"sealed", 0).at("write", &unfinished)?;
    pack.sync().at("sync", &unfinished)?;
    job.commit_package()?;
    promised.so_far().sealed = true;
    for (id, said) in [("ab", b"accepted"), ("cd", b"received")] {
        job.store_statement(id, said)?;
        promised.so_far().stored.push(said.to_vec());
    }
    // What failed once is tried again when the last statement comes again.
    let over = || job.clone().finish(&store.sent(), None, "t", "over", NOW);
    over().or_else(|_| over())?;
    promised.so_far().over = true;
    Ok(())
}

fn receive(store: &Store, promised: &Promises) -> Result<(), DiskError> {
    let disk = store.disk();
    let register = Register::load(store)?;
    let whole = store.opening().join("whole");
    disk.create_directories(&whole)?;
    disk.replace(&whole.join("t.csv"), CONTENT)?;
    let place = store.inbox().join(FLOW).join("t");
    let description = v1::Description::default();
    let enter = || register.enter(&manifest(), &description, Some(&place), true, NOW);
    let entry = enter().or_else(|_| enter())?;
    promised.so_far().registered = Some(entry.id());
    disk.create_directories(&store.inbox().join(FLOW))?;
    disk.rename_synced(&whole, &place)?;
    let (id, signed) = delivered();
    entry.store_statement(id, &signed)?;
    promised.so_far().said = Some(signed);
    let acked = entry.acked(id)?;
    promised.so_far().acked = acked;
    Ok(())
}

/// Every file called `t.csv` that was dropped and is somewhere in the agent's keeping.
fn copies(disk: &dyn Disk, root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["outbox", "work", "sent", "rejected"]
        .map(|place| root.join(place))
        .into();
    while let Some(folder) = folders.pop() {
        for path in disk.entries(&folder).unwrap() {
            match disk.status(&path).unwrap().kind {
                Kind::Directory => folders.push(path),
                _ if path.ends_with("t.csv") => found.push(path),
                _ => {}
            }
        }
    }
    found
}

/// Starts without faults: everything promised is there, and nothing is in two places.
fn check(disk: &Arc<dyn Disk>, root: &Path, promised: &Promised, fault: &dyn Display) {
    let store = Store::open(disk, root).unwrap();
    let register = Register::load(&store).unwrap();
    Outgoing::load(&store).unwrap_or_else(|error| assert_unread(&store, &error, fault));
    check_sent(&store, promised, fault);
    check_received(&store, &register, promised, fault);
}

fn check_sent(store: &Store, promised: &Promised, fault: &dyn Display) {
    let disk = store.disk();
    let found = copies(disk.as_ref(), store.root());
    assert_eq!(found.len(), 1, "{fault}: {found:?}");
    // Until it is claimed, what its dropper has not synced may be lost.
    if promised.claimed || !found[0].starts_with(store.outbox()) {
        assert_eq!(disk.read(&found[0]).unwrap(), CONTENT, "{fault}");
    }
    // What has a package and is dropped again would be sent twice.
    let dropped = found[0].starts_with(store.outbox());
    let mut said = Vec::new();
    for job in &jobs(store).unwrap() {
        let stage = job.stage().unwrap();
        if stage == JobStage::Empty {
            continue;
        }
        assert!(!promised.over, "{fault}");
        assert!(
            !promised.sealed || stage == JobStage::Sealed,
            "{fault}: {stage:?}"
        );
        assert!(!dropped, "{fault}: in the outbox once more");
        if stage == JobStage::Sealed {
            assert_eq!(disk.read(&job.package()).unwrap(), b"sealed", "{fault}");
        }
        job.record().unwrap().unwrap();
        said.extend(job.statements().unwrap());
    }
    assert!(!promised.sealed || !dropped, "{fault}: in the outbox again");
    if found[0].starts_with(store.sent()) {
        let directory = found[0].parent().unwrap().parent().unwrap();
        said.extend(Job::at(disk, directory.to_owned()).statements().unwrap());
        assert!(!disk.is_file(&directory.join("package")), "{fault}");
        let report = disk.read(&directory.join(REPORT)).unwrap();
        assert_eq!(report, b"over", "{fault}");
    }
    for statement in &promised.stored {
        assert!(said.contains(statement), "{fault}: {statement:?}");
    }
}

fn check_received(store: &Store, register: &Register, promised: &Promised, fault: &dyn Display) {
    let disk = store.disk();
    if let Some(id) = promised.registered {
        let entry = register.find(id).unwrap();
        entry.manifest().unwrap();
        assert!(entry.description().unwrap().is_some(), "{fault}");
        if let Some(said) = &promised.said {
            assert_eq!(entry.terminal().unwrap().as_ref(), Some(said), "{fault}");
        }
        assert!(
            !promised.acked || entry.unacked().unwrap().is_empty(),
            "{fault}"
        );
        let place = entry.place().unwrap().unwrap();
        let opened = store.opening().join("whole");
        let (there, here) = (disk.is_dir(&place), disk.is_dir(&opened));
        assert_ne!(there, here, "{fault}: in one place");
        assert!(
            there || promised.said.is_none(),
            "{fault}: said, and not there"
        );
        let content = [place, opened].map(|folder| disk.read(&folder.join("t.csv")).ok());
        assert!(content.contains(&Some(CONTENT.to_vec())), "{fault}");
    }
    for day in disk.entries(&store.received()).unwrap() {
        let unfinished = |path: &PathBuf| path.extension().is_some_and(|end| end == "tmp");
        let found = disk.entries(&day).unwrap();
        assert!(!found.iter().any(unfinished), "{fault}: {found:?}");
    }
}

/// The package of this scenario is none: nothing but that may stand in the way.
fn assert_unread(store: &Store, error: &DiskError, fault: &dyn Display) -> Outgoing {
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
        let promised = Promises::default();
        let lived = live(&disk, &root, &promised);
        let host: Arc<dyn Disk> = Arc::new(HostDisk);
        check(&host, &root, &promised.so_far(), &fault);
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
