//! What a commit promises, and what a start makes of the log.

use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::join_all;
use passerelle_proto::fixture::{NOW, keys, party};
use passerelle_proto::{Hop, LogSigner, UntrustedStatement, VerifiedStatement};

use super::*;
use crate::queue::{Class, MemQueue};

struct Running {
    sequencer: Sequencer,
    queue: Arc<dyn Queue>,
    thread: Worker,
}

impl Running {
    fn stop(self) {
        self.sequencer.stop();
        self.thread.join().unwrap();
    }
}

fn start(dir: &Path, queue: Arc<dyn Queue>, clock: fn() -> Timestamp) -> Running {
    let signer = LogSigner::from_seed(&party("grand-dijon"), &[1; 64]);
    let log = Log::open(&passerelle_disk::system(), &dir.join("log"), signer).unwrap();
    let key = Arc::new(keys("grand-dijon").gateway);
    let signer: Signer = Arc::new(move || key.clone());
    let (sequencer, thread) = Sequencer::start(
        &passerelle_disk::system(),
        log,
        queue.clone(),
        signer,
        dir,
        Anchor::open(),
        clock,
    )
    .unwrap();
    Running {
        sequencer,
        queue,
        thread,
    }
}

fn fresh(dir: &Path) -> Running {
    start(dir, Arc::new(MemQueue::new()), || NOW)
}

/// Takes a package whose manifest has this body.
struct Taking {
    body: Vec<u8>,
    denied: bool,
}

fn manifest(number: u8) -> v1::Manifest {
    v1::Manifest {
        nonce: vec![number; 16],
        flow: "observation-iris".into(),
        sender: "caf21".into(),
        ..v1::Manifest::default()
    }
}

impl Acceptance for Taking {
    fn draft(&mut self, index: u64, at: Timestamp) -> Result<StatementDraft, String> {
        if self.denied {
            return Err("the flow has ended".into());
        }
        Ok(StatementDraft {
            issuer: party("grand-dijon"),
            destination: party("caf21"),
            package: PackageId(Digest::of(&self.body)),
            at,
            what: What::Accepted(v1::Accepted {
                log_index: index,
                recipients: vec!["prestataire-obs".into()],
            }),
        })
    }

    fn event(self: Box<Self>, receipt: Signed) -> Event {
        Event::Accepted(v1::AcceptedEvent {
            manifest: Some(Signed {
                body: self.body,
                ..Signed::default()
            }),
            receipt: Some(receipt),
            routes: vec![v1::Route {
                next_hop: Some(next_hop().to_message()),
                recipients: vec!["prestataire-obs".into()],
            }],
            ..v1::AcceptedEvent::default()
        })
    }
}

fn next_hop() -> Hop {
    Hop::agent(party("prestataire-obs"))
}

fn taking(number: u8) -> Box<Taking> {
    let body = manifest(number).encode_to_vec();
    let denied = false;
    Box::new(Taking { body, denied })
}

/// Submits all of these while nothing can be committed: they become one batch, but for the first
/// one, which the thread may have taken alone.
fn submit_at_once(
    sequencer: &Sequencer,
    numbers: impl IntoIterator<Item = u8>,
) -> impl Future<Output = Vec<Result<Committed, SubmitError>>> {
    let submissions = numbers
        .into_iter()
        .map(|number| sequencer.accept(taking(number)));
    let mut all = Box::pin(join_all(submissions));
    let ledger = sequencer.ledger();
    assert!(all.as_mut().now_or_never().is_none());
    drop(ledger);
    all
}

fn counted(class: &str) -> Event {
    let class = class.to_owned();
    Event::Counted(v1::CountedEvent { class, count: 1 })
}

fn receipt(committed: &Committed) -> VerifiedStatement {
    let Some(Event::Accepted(event)) = &committed.entry.event else {
        panic!("no acceptance: {committed:?}");
    };
    let signed = event.receipt.clone().unwrap();
    let key = keys("grand-dijon").gateway;
    let parsed = UntrustedStatement::parse(signed).unwrap();
    parsed.verify(key.verifying_key()).unwrap()
}

#[tokio::test]
async fn a_receipt_names_its_entry_and_a_batch_costs_one_signature() {
    let dir = tempfile::tempdir().unwrap();
    let running = fresh(dir.path());
    let sequencer = &running.sequencer;
    let waiting = submit_at_once(sequencer, 0..20);
    let mut signatures = BTreeSet::new();
    let mut sequence = BTreeSet::new();
    for committed in waiting.await {
        let committed = committed.unwrap();
        let statement = receipt(&committed);
        let What::Accepted(said) = statement.what() else {
            panic!("{statement:?}");
        };
        assert_eq!(said.log_index, committed.index);
        let stored = sequencer.ledger().log.entry(committed.index).unwrap();
        assert_eq!(stored, committed.entry.encode_to_vec());
        signatures.insert(statement.signed().sig.clone());
        sequence.insert(statement.body().seq);
    }
    assert_eq!(
        sequence.into_iter().collect::<Vec<_>>(),
        (1..=20).collect::<Vec<_>>()
    );
    assert!(
        signatures.len() <= 2,
        "{} signatures for 20",
        signatures.len()
    );
    assert_eq!(running.queue.applied().size, 20);
    running.stop();
}

#[tokio::test]
async fn one_package_brought_by_many_streams_is_accepted_once() {
    let dir = tempfile::tempdir().unwrap();
    let running = fresh(dir.path());
    let sequencer = &running.sequencer;
    let waiting = submit_at_once(sequencer, [7; 8]);
    let mut accepted = 0;
    for outcome in waiting.await {
        match outcome {
            Ok(_) => accepted += 1,
            Err(error) => assert_eq!(error, SubmitError::Duplicate),
        }
    }
    assert_eq!((accepted, sequencer.ledger().log.size()), (1, 1));
    // Also when it is finished and no longer in the queue.
    let refused = Event::Statement(v1::StatementEvent {
        statement: Some(refusal(7)),
        ..v1::StatementEvent::default()
    });
    sequencer.commit(refused).await.unwrap();
    assert!(running.queue.counts().is_empty());
    let again = sequencer.accept(taking(7)).await.unwrap_err();
    assert_eq!(again, SubmitError::Duplicate);
    running.stop();
}

fn refusal(number: u8) -> Signed {
    let body = v1::Statement {
        issuer: "grand-dijon".into(),
        destination: "caf21".into(),
        package: Digest::of(&manifest(number).encode_to_vec()).0.to_vec(),
        what: Some(What::Refused(v1::Refused::default())),
        ..v1::Statement::default()
    };
    Signed {
        body: body.encode_to_vec(),
        ..Signed::default()
    }
}

#[tokio::test]
async fn what_is_denied_takes_no_index_and_no_number() {
    let dir = tempfile::tempdir().unwrap();
    let running = fresh(dir.path());
    let mut denied = taking(1);
    denied.denied = true;
    let error = running.sequencer.accept(denied).await.unwrap_err();
    assert_eq!(error, SubmitError::Denied("the flow has ended".into()));
    let committed = running.sequencer.accept(taking(2)).await.unwrap();
    assert_eq!((committed.index, receipt(&committed).body().seq), (0, 1));
    running.stop();
}

#[tokio::test]
async fn an_entry_that_is_too_long_is_refused_alone() {
    let dir = tempfile::tempdir().unwrap();
    let running = fresh(dir.path());
    let sequencer = &running.sequencer;
    let error = sequencer
        .commit(counted(&"x".repeat(ENTRY_LEN_MAX)))
        .await
        .unwrap_err();
    assert!(matches!(error, SubmitError::TooLong(bytes) if bytes > ENTRY_LEN_MAX));
    assert_eq!(sequencer.commit(counted("x")).await.unwrap().index, 0);
    running.stop();
}

fn early() -> Timestamp {
    NOW.saturating_sub(Duration::from_secs(3600))
}

#[tokio::test]
async fn entry_times_never_go_back_not_even_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let running = fresh(dir.path());
    running.sequencer.commit(counted("x")).await.unwrap();
    running.stop();
    let running = start(dir.path(), Arc::new(MemQueue::new()), early);
    let committed = running.sequencer.commit(counted("y")).await.unwrap();
    assert_eq!(committed.entry.at_ms, NOW.as_ms());
    running.stop();
}

#[tokio::test]
async fn a_start_brings_queue_index_and_numbering_up_to_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let running = fresh(dir.path());
    let first = running.sequencer.accept(taking(1)).await.unwrap();
    running.sequencer.commit(counted("x")).await.unwrap();
    running.stop();
    // The file of the numbering is only a shortcut; the queue has to be rebuilt here.
    std::fs::remove_file(dir.path().join("chain")).unwrap();
    let running = fresh(dir.path());
    assert_eq!(running.queue.applied().size, 2);
    let claimed = running
        .queue
        .claim(&next_hop(), Class::Small, 9, Instant::now());
    assert_eq!(claimed.unwrap().len(), 1);
    let package = PackageId(Digest::of(&manifest(1).encode_to_vec()));
    let found = running.sequencer.entries_about(&package).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        receipt(&found[0]).signed(),
        receipt(&first).signed(),
        "the same bytes"
    );
    let second = running.sequencer.accept(taking(2)).await.unwrap();
    let statement = receipt(&second);
    assert_eq!(statement.body().seq, 2);
    assert_eq!(statement.body().previous, receipt(&first).id().as_bytes());
    running.stop();
}

#[tokio::test]
async fn a_start_reads_no_more_of_the_log_than_was_written_since_the_sequences_were_noted() {
    let dir = tempfile::tempdir().unwrap();
    let running = fresh(dir.path());
    running.sequencer.commit(counted("first")).await.unwrap();
    let mut left = NOTE_EVERY;
    while left > 0 {
        let events = left.min(BATCH_ENTRIES_MAX as u64);
        let commits = (0..events).map(|_| running.sequencer.commit(counted("more")));
        assert!(join_all(commits).await.iter().all(Result::is_ok));
        left -= events;
    }
    // What comes after it is committed when it has been noted.
    running.sequencer.commit(counted("last")).await.unwrap();
    let size = *running.sequencer.size().borrow();
    let disk = passerelle_disk::system();
    let (_, noted) = recovery::read_chain(disk.as_ref(), &dir.path().join("chain"), size);
    assert!(noted >= NOTE_EVERY, "{noted} of {size}");
    let sequences = Sequences::read(disk.as_ref(), &dir.path().join("sequences"), size);
    assert!(sequences.next() >= NOTE_EVERY);
    running.stop();
}

#[tokio::test]
async fn a_queue_of_another_log_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let running = fresh(dir.path());
    running.sequencer.accept(taking(1)).await.unwrap();
    running.stop();
    let queue = MemQueue::new();
    let strange = v1::Entry {
        at_ms: 0,
        event: Some(taking(9).event(Signed::default())),
    };
    queue
        .apply(0, &[strange], Digest::of(b"another root"))
        .unwrap();
    let running = start(dir.path(), Arc::new(queue), || NOW);
    let page = running.queue.page(None, 9).unwrap();
    let packages: Vec<_> = page.iter().map(|view| view.item.package).collect();
    assert_eq!(
        packages,
        [PackageId(Digest::of(&manifest(1).encode_to_vec()))]
    );
    running.stop();
}

#[tokio::test]
async fn after_the_stop_nothing_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let running = fresh(dir.path());
    let sequencer = running.sequencer.clone();
    running.stop();
    let error = sequencer.commit(counted("x")).await.unwrap_err();
    assert_eq!(error, SubmitError::Stopped);
}
