//! Purges from the decision to the signed word, with a log, a queue and a spool.

use std::path::Path;

use passerelle_disk::{Disk, Fault, FaultyDisk, Flavour, MemoryDisk};
use passerelle_host::Worker;
use passerelle_proto::fixture::{NOW, keys, party, plan, seal_files, world};
use passerelle_proto::v1::{PackLocation, Section, Signed};
use passerelle_proto::{Digest, LogSigner, PackLayout, Sealed, UntrustedStatement};
use prost::Message;

use super::*;
use crate::anchor::Anchor;
use crate::config::Limits;
use crate::log::Log;
use crate::queue::{Class, MemQueue, Retention};
use crate::sequencer::Signer;

/// Length of the log's segments: a disk in memory is copied for each fault.
const SEGMENT_LEN: u64 = 160 * 1024;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Payload retention of what is accepted here.
const PAYLOAD_DAYS: u32 = 30;

const SECTIONS: [Section; 4] = [
    Section::Wraps,
    Section::ChunkTable,
    Section::Index,
    Section::Chunks,
];

/// The parts of a gateway of Grand Dijon that a purge needs.
struct Parts {
    purger: Purger,
    thread: Worker,
}

fn later(days: u32) -> Timestamp {
    NOW.saturating_add(DAY * days)
}

fn terms(days: u32, size: u64) -> Terms {
    Terms {
        now: Some(later(days)),
        cosigned: Some(Cosigned {
            by: party("caf21"),
            size,
        }),
        short: false,
    }
}

fn sealed(length: u32) -> (Sealed, Vec<u8>) {
    let noise = (0..length.div_ceil(32)).flat_map(|n| Digest::of(&n.to_be_bytes()).0);
    let plan = plan(world().directory.convention());
    let files = [("a", noise.collect::<Vec<u8>>())];
    seal_files(&plan, &keys("caf21").agent, &files)
}

fn to_sender(_: &PartyId) -> Option<Hop> {
    Some(Hop::gateway(party("caf21")))
}

impl Parts {
    fn start(disk: &Arc<dyn Disk>) -> Result<Self, String> {
        let signer = LogSigner::from_seed(&party("grand-dijon"), &[1; 64]);
        let log = Log::open_with(disk, Path::new("/log"), signer, SEGMENT_LEN)
            .map_err(|error| error.to_string())?;
        let queue: Arc<dyn Queue> = Arc::new(MemQueue::new());
        let key = Arc::new(keys("grand-dijon").gateway);
        let signer: Signer = Arc::new(move || key.clone());
        let (dir, anchor) = (Path::new("/"), Anchor::open());
        let started = Sequencer::start(disk, log, queue.clone(), signer, dir, anchor, || NOW);
        let (sequencer, thread) = started.map_err(|error| error.to_string())?;
        let spool = Spool::open(disk, Path::new("/spool"), Limits::default());
        let spool = spool.map_err(|error| error.to_string())?;
        crate::opening::sweep(queue.as_ref(), &spool, NOW).map_err(|error| error.to_string())?;
        let party = party("grand-dijon");
        let purger = Purger {
            party,
            sequencer,
            queue,
            spool,
        };
        Ok(Self { purger, thread })
    }

    fn stop(self) {
        self.purger.sequencer.stop();
        self.thread.join().unwrap();
    }

    /// Accepts a package that fits into a shared segment, or one that does not.
    async fn accept(&self, length: u32) -> (Sealed, PackLocation) {
        let (sealed, pack) = sealed(length);
        let spool = &self.purger.spool;
        let mut partial = spool.begin(&sealed.manifest, |_| false).unwrap();
        for section in SECTIONS {
            let start = sealed.layout.offset_of(section).unwrap() as usize;
            let end = start + sealed.layout.length_of(section) as usize;
            partial.write(section, 0, &pack[start..end]).unwrap();
        }
        let location = partial.finish().unwrap();
        let accepted = Event::Accepted(v1::AcceptedEvent {
            manifest: Some(sealed.manifest.signed().clone()),
            routes: vec![v1::Route {
                next_hop: Some(Hop::agent(party("grand-dijon")).to_message()),
                recipients: vec!["grand-dijon".into()],
            }],
            pack: Some(location),
            retention: Some(v1::RetentionDays {
                payload: PAYLOAD_DAYS,
                metadata: 365,
                evidence: 3650,
            }),
            ..v1::AcceptedEvent::default()
        });
        self.purger.sequencer.commit(accepted).await.unwrap();
        partial.accepted().unwrap();
        (sealed, location)
    }

    /// Its recipient says that it has opened it; index of the entry.
    async fn deliver(&self, package: PackageId) -> u64 {
        let what = What::Delivered(v1::Delivered {
            recipient: "grand-dijon".into(),
            content_commit: vec![0; 32],
        });
        let body = v1::Statement {
            issuer: "grand-dijon".into(),
            destination: "caf21".into(),
            package: package.as_bytes().to_vec(),
            what: Some(what),
            ..v1::Statement::default()
        };
        let statement = Event::Statement(v1::StatementEvent {
            statement: Some(Signed {
                body: body.encode_to_vec(),
                ..Signed::default()
            }),
            from: Some(Hop::agent(party("grand-dijon")).to_message()),
            next_hop: Some(Hop::gateway(party("caf21")).to_message()),
        });
        let committed = self.purger.sequencer.commit(statement).await;
        committed.unwrap().index
    }

    async fn purge(&self, terms: &Terms) -> usize {
        let gone = self.purger.batch(terms, to_sender).await;
        gone.unwrap().len()
    }

    /// Our own words that something of the package is gone, and where they stand.
    fn said(&self, package: &PackageId) -> Vec<v1::Purged> {
        let entries = self.purger.sequencer.entries_about(package).unwrap();
        let said = entries.into_iter().filter_map(|committed| {
            let Some(Event::Statement(event)) = committed.entry.event else {
                return None;
            };
            let statement = UntrustedStatement::parse(event.statement?).ok()?;
            let key = keys("grand-dijon").gateway;
            let verified = statement.verify(key.verifying_key()).ok()?;
            match verified.what() {
                What::Purged(said) => Some(*said),
                _ => None,
            }
        });
        said.collect()
    }

    fn decisions(&self, package: &PackageId) -> Vec<(u64, v1::PurgeDecidedEvent)> {
        let entries = self.purger.sequencer.entries_about(package).unwrap();
        let decided = entries.into_iter().filter_map(|it| match it.entry.event {
            Some(Event::PurgeDecided(event)) => Some((it.index, event)),
            _ => None,
        });
        decided.collect()
    }
}

fn files(disk: &Arc<dyn Disk>, folder: &str) -> usize {
    let found = disk.list(Path::new(folder)).unwrap();
    found.iter().filter(|path| disk.is_file(path)).count()
}

fn in_memory() -> Arc<dyn Disk> {
    Arc::new(MemoryDisk::default())
}

#[tokio::test]
async fn a_package_goes_when_it_is_due_and_cosigned_and_not_before() {
    let disk = in_memory();
    let parts = Parts::start(&disk).unwrap();
    let (sealed, _) = parts.accept(300_000).await;
    let package = sealed.manifest.id();
    assert_eq!(parts.purge(&terms(9_999, 99)).await, 0, "nobody has it yet");
    let over = parts.deliver(package).await;
    assert_eq!(
        parts.purge(&terms(PAYLOAD_DAYS - 1, 99)).await,
        0,
        "not due"
    );
    let not_cosigned = terms(PAYLOAD_DAYS, over);
    assert_eq!(parts.purge(&not_cosigned).await, 0, "not cosigned");
    let mut unbelieved = terms(PAYLOAD_DAYS, 99);
    unbelieved.now = None;
    assert_eq!(parts.purge(&unbelieved).await, 0, "not at this clock");
    let mut nobody = terms(PAYLOAD_DAYS, 99);
    nobody.cosigned = None;
    assert_eq!(parts.purge(&nobody).await, 0, "nobody has cosigned");
    assert_eq!(files(&disk, "/spool"), 1);
    assert_eq!(parts.decisions(&package), []);

    assert_eq!(parts.purge(&terms(PAYLOAD_DAYS, over + 1)).await, 1);
    assert_eq!(
        (files(&disk, "/spool"), files(&disk, "/spool/heads")),
        (0, 1)
    );
    let [(index, decision)] = &parts.decisions(&package)[..] else {
        panic!("one decision")
    };
    assert_eq!(decision.over_index, over);
    assert_eq!(
        (decision.cosigned_by.as_str(), decision.cosigned_size),
        ("caf21", over + 1)
    );
    assert_eq!(
        (decision.due_ms, decision.early),
        (later(PAYLOAD_DAYS).as_ms(), false)
    );
    let said = v1::Purged {
        part: PurgedPart::Chunks as i32,
        decided_index: *index,
        early: false,
    };
    assert_eq!(parts.said(&package), [said]);

    assert_eq!(
        parts.purge(&terms(364, 99)).await,
        0,
        "the head stays for the metadata's time"
    );
    assert_eq!(parts.purge(&terms(365, 99)).await, 1);
    assert_eq!(files(&disk, "/spool/heads"), 0);
    assert_eq!(parts.said(&package)[1].part(), PurgedPart::Head);
    assert_eq!(parts.purger.queue.retention(), Retention::default());
    assert_eq!(parts.purger.spool.bytes(), 0);
    parts.stop();
}

#[tokio::test]
async fn a_small_package_goes_as_a_whole_and_its_bytes_are_overwritten() {
    let disk = in_memory();
    let parts = Parts::start(&disk).unwrap();
    let (sealed, location) = parts.accept(2_000).await;
    let package = sealed.manifest.id();
    parts.deliver(package).await;
    assert_eq!(parts.purge(&terms(PAYLOAD_DAYS, 99)).await, 1);
    assert_eq!(parts.said(&package)[0].part(), PurgedPart::Whole);
    let reader = parts.purger.spool.reader(&sealed.manifest, &location);
    let left = reader.unwrap();
    for section in SECTIONS {
        let length = sealed.layout.length_of(section);
        let left = left.read(section, 0, length).unwrap();
        assert!(left.iter().all(|byte| *byte == 0), "{section:?}");
    }
    assert_eq!(files(&disk, "/spool/heads"), 0);
    parts.stop();
}

#[tokio::test]
async fn what_was_repaired_just_before_the_decision_goes_from_where_it_lies_then() {
    let disk = in_memory();
    let parts = Parts::start(&disk).unwrap();
    let (sealed, _) = parts.accept(2_000).await;
    let package = sealed.manifest.id();
    parts.deliver(package).await;
    let (purger, terms) = (&parts.purger, terms(PAYLOAD_DAYS, 99));
    let view = chosen(purger.queue.as_ref(), &terms).unwrap().remove(0);
    let (_, elsewhere) = parts.accept(3_000).await;
    let repaired = Event::Repaired(v1::RepairedEvent {
        package: package.as_bytes().to_vec(),
        pack: Some(elsewhere),
    });
    purger.sequencer.commit(repaired).await.unwrap();
    let leaving = purger.decide(view, &terms).await.unwrap().unwrap();
    let gone = purger.remove(vec![leaving]).unwrap();
    let [gone] = &gone[..] else {
        panic!("it is gone")
    };
    let reader = purger.spool.reader(&sealed.manifest, &elsewhere).unwrap();
    let wraps = reader.read(Section::Wraps, 0, 100).unwrap();
    assert!(wraps.iter().all(|byte| *byte == 0));
    assert_eq!(gone.part, PurgedPart::Whole);
    parts.stop();
}

#[tokio::test]
async fn for_want_of_room_chunks_go_early_and_the_log_says_so() {
    let disk = in_memory();
    let parts = Parts::start(&disk).unwrap();
    let (sealed, _) = parts.accept(300_000).await;
    let (other, _) = parts.accept(2_000).await;
    let package = sealed.manifest.id();
    let over = parts.deliver(package).await;
    parts.deliver(other.manifest.id()).await;
    let mut short = terms(1, over);
    short.short = true;
    assert_eq!(
        parts.purge(&short).await,
        0,
        "not cosigned: not for want of room either"
    );
    short = terms(1, over + 1);
    short.short = true;
    assert_eq!(parts.purge(&short).await, 1, "the other is not cosigned");
    assert!(parts.decisions(&package)[0].1.early);
    assert!(parts.said(&package)[0].early);
    assert_eq!(
        parts.purge(&short).await,
        0,
        "what stands before the chunks stays"
    );
    assert_eq!(parts.decisions(&other.manifest.id()), []);
    parts.stop();
}

#[tokio::test]
async fn a_receipt_that_comes_after_the_decision_is_kept_and_the_purge_ends() {
    let disk = in_memory();
    let parts = Parts::start(&disk).unwrap();
    let (sealed, _) = parts.accept(2_000).await;
    let package = sealed.manifest.id();
    // The first word was that nobody had said anything.
    let over = parts.deliver(package).await;
    let views = chosen(parts.purger.queue.as_ref(), &terms(PAYLOAD_DAYS, 99)).unwrap();
    let event = decision(
        &views[0],
        &views[0].item.retained.unwrap(),
        &terms(PAYLOAD_DAYS, 99),
    );
    let event = Event::PurgeDecided(event.unwrap());
    parts.purger.sequencer.commit(event).await.unwrap();
    let late = parts.deliver(package).await;
    assert!(late > over);
    let mut nothing_new = terms(0, 0);
    nothing_new.now = None;
    assert_eq!(
        parts.purge(&nothing_new).await,
        1,
        "what was decided is gone on with"
    );
    assert_eq!(parts.decisions(&package).len(), 1);
    assert_eq!(parts.said(&package).len(), 1);
    let way = to_sender(&party("caf21")).unwrap();
    let leases = parts
        .purger
        .queue
        .claim(&way, Class::Statement, 9, std::time::Instant::now());
    let leases = leases.unwrap();
    assert!(
        leases.iter().any(|lease| lease.key.index == late),
        "it travels"
    );
    assert_eq!(parts.purge(&terms(9_999, 99)).await, 0);
    parts.stop();
}

/// What stands in the way of a purge does so once, at each of its operations; then the power goes.
/// The next start ends it, and says so once.
fn fail_each(full: bool, flavour: Flavour) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap();
    let memory = MemoryDisk::default();
    let disk: Arc<dyn Disk> = Arc::new(memory.clone());
    let parts = Parts::start(&disk).unwrap();
    let lengths = [2_000, 3_000, 300_000];
    let packages = lengths.map(|length| {
        runtime.block_on(async {
            let (sealed, location) = parts.accept(length).await;
            parts.deliver(sealed.manifest.id()).await;
            (sealed.manifest, location)
        })
    });
    let (beside, at) = runtime.block_on(parts.accept(4_000));
    let beside = beside.manifest;
    parts.stop();
    for operation in 1..500 {
        let fault = Fault {
            operation,
            full,
            flavour,
        };
        let memory = memory.copy();
        let faulty = FaultyDisk::new(Arc::new(memory.clone()), Some(fault));
        let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
        if let Ok(parts) = Parts::start(&disk) {
            let _ = runtime.block_on(parts.purger.batch(&terms(PAYLOAD_DAYS, 99), to_sender));
            parts.stop();
        }
        if !faulty.has_failed() {
            return operation - 1;
        }
        memory.power_cut();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let parts = Parts::start(&disk).unwrap();
        runtime.block_on(async {
            let terms = terms(PAYLOAD_DAYS, 99);
            while parts.purge(&terms).await > 0 {}
        });
        for (manifest, _) in &packages {
            assert_eq!(parts.said(&manifest.id()).len(), 1, "{fault}");
            assert_eq!(parts.decisions(&manifest.id()).len(), 1, "{fault}");
        }
        assert_eq!(
            (files(&disk, "/spool"), files(&disk, "/spool/heads")),
            (0, 1),
            "{fault}"
        );
        let reader = parts.purger.spool.reader(&beside, &at).unwrap();
        let kept = reader
            .read(Section::Chunks, 0, beside.payload_length())
            .unwrap();
        assert!(
            kept.iter().any(|byte| *byte != 0),
            "{fault}: it is on its way"
        );
        let head = PackLayout::tight(&packages[2].0).offset_of(Section::Chunks);
        let bytes = head.unwrap() + at.length;
        assert_eq!(parts.purger.spool.bytes(), bytes, "{fault}");
        parts.stop();
    }
    panic!("a purge has no end");
}

#[test]
fn each_operation_of_a_purge_may_fail_with_an_error_of_the_disk() {
    let operations = fail_each(false, Flavour::Lost);
    assert!(operations > 20, "{operations}");
}

#[test]
fn each_operation_of_a_purge_may_fail_with_an_error_and_happen_all_the_same() {
    fail_each(false, Flavour::Persisted);
}

#[test]
fn each_operation_of_a_purge_may_find_the_disk_full() {
    fail_each(true, Flavour::Lost);
    fail_each(true, Flavour::Persisted);
}
