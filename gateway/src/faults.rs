//! Each durable operation of a gateway fails once, in every way, and the power goes after it: what
//! was acknowledged is there at the next start, and nothing is left behind.

mod omissions;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use futures::executor::block_on;
use passerelle_disk::{Disk, Fault, FaultyDisk, Flavour, MemoryDisk};
use passerelle_proto::audit::verify_log;
use passerelle_proto::fixture::{NOW, keys, party, plan, seal_files, world};
use passerelle_proto::v1::entry::Event;
use passerelle_proto::v1::{self, PackLocation, Section};
use passerelle_proto::{Digest, LogSigner, Sealed};

use crate::anchor::Anchor;
use crate::config::Limits;
use crate::log::Log;
use crate::queue::{MemQueue, Queue};
use crate::sequencer::{Committed, Sequencer, Signer, SubmitError};
use crate::spool::{Spool, SpoolError};

/// Behind its head, a batch takes more than half of a segment.
const SEGMENT_LEN: u64 = (128 + 224) * 1024;
/// Entries appended at once, twice, before anything else: with what follows they fill a tile, and
/// a segment is no longer needed.
const BATCH: u64 = 120;
/// Bytes of an entry, so that a few fill a segment.
const LONG: usize = 50_000;
/// A scenario has fewer operations than this.
const OPERATIONS_MAX: u64 = 2_000;

const SECTIONS: [Section; 4] = [
    Section::Wraps,
    Section::ChunkTable,
    Section::Index,
    Section::Chunks,
];

fn sealed(length: u32) -> (Sealed, Vec<u8>) {
    let noise = (0..length.div_ceil(32)).flat_map(|n| Digest::of(&n.to_be_bytes()).0);
    let files = [("a", noise.collect::<Vec<u8>>())];
    let plan = plan(world().directory.convention());
    seal_files(&plan, &keys("caf21").agent, &files)
}

/// A package with a file of its own in the spool, and one that shares.
fn packages() -> &'static [(Sealed, Vec<u8>); 2] {
    static PACKAGES: OnceLock<[(Sealed, Vec<u8>); 2]> = OnceLock::new();
    PACKAGES.get_or_init(|| [sealed(300_000), sealed(2_000)])
}

fn part<'p>(sealed: &Sealed, pack: &'p [u8], section: Section) -> &'p [u8] {
    let start = sealed.layout.offset_of(section).unwrap() as usize;
    &pack[start..start + sealed.layout.length_of(section) as usize]
}

fn signer() -> LogSigner {
    LogSigner::from_seed(&party("caf21"), &[1; 64])
}

/// What a gateway has told others.
#[derive(Clone, Default)]
struct Promised {
    appended: Vec<Vec<u8>>,
    committed: Vec<Committed>,
    /// Accepted and not finished, by place in [`packages`].
    accepted: Vec<(usize, PackLocation)>,
}

/// The same, while it lives.
#[derive(Default)]
struct Promises {
    promised: Mutex<Promised>,
    /// Whether there is a new segment before there is a checkpoint, which has tiles synced.
    late: bool,
}

impl Promises {
    fn so_far(&self) -> MutexGuard<'_, Promised> {
        self.promised.lock().unwrap()
    }
}

/// A gateway without connections.
struct Parts {
    sequencer: Sequencer,
    spool: Arc<Spool>,
    thread: passerelle_host::Worker,
}

impl Parts {
    fn start(disk: &Arc<dyn Disk>, promised: &Promises) -> Result<Self, String> {
        let words = |error: &dyn ToString| error.to_string();
        let dir = Path::new("/log");
        let log = Log::open_with(disk, dir, signer(), SEGMENT_LEN);
        let mut log = log.map_err(|error| words(&error))?;
        if log.size() == 0 {
            let entry = |number| refused(number).into_entry();
            for first in [0, BATCH] {
                let entries: Vec<Vec<u8>> = (first..first + BATCH).map(entry).collect();
                log.append(&entries).map_err(|error| words(&error))?;
                promised.so_far().appended.extend(entries);
            }
        }
        let queue: Arc<dyn Queue> = Arc::new(MemQueue::new());
        let key = Arc::new(keys("caf21").gateway);
        let dir = Path::new("/");
        let signer: Signer = Arc::new(move || key.clone());
        let started = Sequencer::start(disk, log, queue, signer, dir, Anchor::open(), || NOW);
        let (sequencer, thread) = started.map_err(|error| words(&error))?;
        let spool = Spool::open(disk, Path::new("/spool"), Limits::default());
        let spool = spool.map_err(|error| words(&error))?;
        Ok(Self {
            sequencer,
            spool,
            thread,
        })
    }

    /// `Ok(None)`: not now, and the gateway goes on.
    fn commit(&self, event: Event, promised: &Promises) -> Result<Option<u64>, String> {
        match block_on(self.sequencer.commit(event)) {
            Ok(committed) => {
                let index = committed.index;
                promised.so_far().committed.push(committed);
                Ok(Some(index))
            }
            Err(SubmitError::Full) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn accept(&self, number: usize, promised: &Promises) -> Result<(), String> {
        let (sealed, pack) = &packages()[number];
        let event = |pack| {
            Event::Accepted(v1::AcceptedEvent {
                manifest: Some(sealed.manifest.signed().clone()),
                pack: Some(pack),
                ..v1::AcceptedEvent::default()
            })
        };
        let kept = match number {
            0 => self
                .receive(sealed, pack)
                .map(|(partial, at)| (Some(partial), at)),
            _ => {
                let parts = SECTIONS.map(|section| part(sealed, pack, section));
                let stored = self.spool.store_inline(&sealed.manifest, &parts.concat());
                stored.map(|location| (None, location))
            }
        };
        let (partial, location) = match kept {
            Ok(kept) => kept,
            Err(error) if error.is_fatal() => return Err(error.to_string()),
            // That transfer has failed, and no other.
            Err(_) => return Ok(()),
        };
        if self.commit(event(location), promised)?.is_some() {
            promised.so_far().accepted.push((number, location));
            if let Some(Err(error)) = partial.map(crate::spool::Partial::accepted)
                && error.is_fatal()
            {
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    fn receive(
        &self,
        sealed: &Sealed,
        pack: &[u8],
    ) -> Result<(crate::spool::Partial, PackLocation), SpoolError> {
        let mut partial = self.spool.begin(&sealed.manifest, |_| false)?;
        let held = partial.held();
        if held.table.is_none() {
            for section in &SECTIONS[..3] {
                partial.write(*section, 0, part(sealed, pack, *section))?;
            }
        }
        let chunks = part(sealed, pack, Section::Chunks);
        let held = held.chunks as usize;
        let half = held + (chunks.len() - held) / 2;
        partial.write(Section::Chunks, held as u64, &chunks[held..half])?;
        partial.sync()?;
        partial.write(Section::Chunks, half as u64, &chunks[half..])?;
        let location = partial.finish()?;
        Ok((partial, location))
    }

    /// Long entries, until there is a new segment and an old one that is not needed is gone.
    fn fill_segment(&self, promised: &Promises) -> Result<(), String> {
        for _ in 0..4 {
            let long = v1::RefusedEvent {
                article: "x".repeat(LONG),
                ..v1::RefusedEvent::default()
            };
            self.commit(Event::Refused(long), promised)?;
        }
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), String> {
        let signed = self.sequencer.ledger().log.checkpoint(NOW);
        signed.map(drop).map_err(|error| error.to_string())
    }

    fn stop(self) {
        self.sequencer.stop();
        self.thread.join().unwrap();
    }
}

/// An entry of 1 to 3 kilobytes, to fill segments.
struct Padded(v1::RefusedEvent);

fn refused(number: u64) -> Padded {
    Padded(v1::RefusedEvent {
        package: Digest::of(&number.to_be_bytes()).0.to_vec(),
        article: "x".repeat((number % 3) as usize * 1_000),
        ..v1::RefusedEvent::default()
    })
}

impl Padded {
    fn event(self) -> Event {
        Event::Refused(self.0)
    }

    fn into_entry(self) -> Vec<u8> {
        use prost::Message;
        let event = Some(self.event());
        v1::Entry { at_ms: 0, event }.encode_to_vec()
    }
}

/// What a gateway does in its life, until it is over or the gateway must stop.
fn live(disk: &Arc<dyn Disk>, promised: &Promises) -> Result<(), String> {
    let parts = Parts::start(disk, promised)?;
    let lived = work(&parts, promised);
    parts.stop();
    lived
}

fn work(parts: &Parts, promised: &Promises) -> Result<(), String> {
    // The one that shares comes first: nothing that the other one syncs is synced yet.
    for number in [1, 0] {
        parts.accept(number, promised)?;
    }
    if !promised.late {
        parts.checkpoint()?;
    }
    for number in 0..BATCH / 6 {
        parts.commit(refused(2 * BATCH + number).event(), promised)?;
    }
    // The first package is over, and the second one stays.
    let over = {
        let mut promised = promised.so_far();
        let first = promised
            .accepted
            .iter()
            .position(|(number, _)| *number == 0);
        first.map(|at| promised.accepted.remove(at))
    };
    if let Some((_, location)) = over {
        let id = packages()[0].0.manifest.id();
        if let Err(error) = parts.spool.remove(&id, &location)
            && error.is_fatal()
        {
            return Err(error.to_string());
        }
    }
    match promised.late {
        true => parts.fill_segment(promised),
        false => parts.checkpoint(),
    }
}

/// Starts without faults: everything promised is there, nothing is left, and work goes on.
fn check(memory: &MemoryDisk, promised: &Promised, fault: &dyn Display) {
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    let parts = match Parts::start(&disk, &Promises::default()) {
        Ok(parts) => parts,
        Err(error) => panic!("{fault}: no start: {error}"),
    };
    {
        let ledger = parts.sequencer.ledger();
        for (index, bytes) in (0..).zip(&promised.appended) {
            assert_eq!(&ledger.log.entry(index).unwrap(), bytes, "{fault}");
        }
        for Committed { index, entry } in &promised.committed {
            use prost::Message;
            let stands = ledger.log.entry(*index);
            assert_eq!(stands.unwrap(), entry.encode_to_vec(), "{fault}: {index}");
        }
    }
    let mut live = Vec::new();
    for (number, location) in &promised.accepted {
        let (sealed, pack) = &packages()[*number];
        let reader = parts.spool.reader(&sealed.manifest, location).unwrap();
        for section in SECTIONS {
            let wanted = part(sealed, pack, section);
            let read = reader.read(section, 0, wanted.len() as u64);
            assert!(read.unwrap() == wanted, "{fault}: {section:?} is damaged");
        }
        live.push((sealed.manifest.id(), *location));
    }
    // As a year later: nobody goes on with what was begun.
    let later = NOW.saturating_add(std::time::Duration::from_secs(366 * 24 * 3600));
    parts.spool.sweep(&live, &BTreeSet::new(), later).unwrap();
    let left = disk.list(Path::new("/spool")).unwrap();
    let own = live
        .iter()
        .filter(|(_, location)| location.segment == 0)
        .count();
    assert_eq!(left.len(), own + 2, "{fault}: {left:?}");
    let shared = disk.list(Path::new("/spool/shared")).unwrap();
    assert_eq!(shared.len(), live.len() - own, "{fault}: {shared:?}");
    let more = Promises::default();
    parts.commit(refused(7).event(), &more).unwrap().unwrap();
    parts.checkpoint().unwrap();
    parts.stop();
    let unfinished = |path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "tmp");
    let wal = disk.list(Path::new("/log/wal")).unwrap();
    assert!(!wal.iter().any(unfinished), "{fault}: {wal:?}");
    let files = |path: &str| disk.read(&Path::new("/log").join(path)).ok();
    let verified = verify_log(&files, signer().verifier(), &[], |_, _| {});
    assert!(verified.is_ok(), "{fault}: {verified:?}");
}

/// Fails one operation after the other until none is left; returns how many there were.
fn fail_each(full: bool, flavour: Flavour) -> u64 {
    for operation in 1..OPERATIONS_MAX {
        let fault = Fault {
            operation,
            full,
            flavour,
        };
        let memory = MemoryDisk::default();
        let faulty = FaultyDisk::new(Arc::new(memory.clone()), Some(fault));
        let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
        let promised = Promises::default();
        let lived = live(&disk, &promised);
        if !faulty.has_failed() {
            lived.unwrap();
            return operation - 1;
        }
        let promised = promised.so_far().clone();
        let cut = memory.copy();
        check(&memory, &promised, &fault);
        cut.power_cut();
        check(&cut, &promised, &fault);
    }
    panic!("the scenario has no end");
}

#[test]
fn each_operation_may_fail_with_an_error_of_the_disk() {
    let operations = fail_each(false, Flavour::Lost);
    assert!(operations > 100, "{operations}");
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
