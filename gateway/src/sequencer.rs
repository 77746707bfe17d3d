//! The one place where anything is committed.
//!
//! A batch is whatever was submitted while the batch before was being committed: no timer, at most
//! 256 entries and 4 MiB. For packages that are to be accepted it decides once more and signs all
//! receipts with one signature; then comes the append, then the queue, then the answers.

mod recovery;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};

use passerelle_disk::{Disk, crash_point};
use passerelle_host::{Worker, is_in_place};
use passerelle_proto::v1::{self, ObjectType, Signed, entry::Event, statement::What};
use passerelle_proto::{
    Digest, PackageId, SigningKey, StatementChain, StatementDraft, StatementId, Timestamp, envelope,
};
use prost::Message;
use tokio::sync::{Notify, oneshot, watch};

use crate::anchor::Anchor;
use crate::index::PackageIndex;
use crate::log::{AppendError, BATCH_ENTRIES_MAX, BATCH_LEN_MAX, ENTRY_LEN_MAX, Fatal, Log};
use crate::queue::{Queue, QueueError};
use crate::sequences::Sequences;

/// Submissions that wait; who comes then waits outside.
const WAITING_MAX: usize = 1024;
/// Entries after which the sequences are written while the gateway runs: so many of the log, and no
/// more, are read for them by a start after a kill.
const NOTE_EVERY: u64 = 65_536;
/// Bytes kept free in a batch for the signatures of receipts.
const RECEIPT_LEN_MAX: usize = 8 * 1024;

/// A package that is about to be accepted, or another word of our own that is signed and committed
/// at once.
pub trait Acceptance: Send {
    /// Decides once more, and says what is to be signed if the entry stands at `index`.
    ///
    /// # Errors
    /// The package is not accepted; the submitter gets this back.
    fn draft(&mut self, index: u64, at: Timestamp) -> Result<StatementDraft, String>;

    /// Whether what is signed stands in our sequence towards its destination. What never goes there
    /// must not: it would be missed there.
    fn is_numbered(&self) -> bool {
        true
    }

    /// The entry, with our receipt.
    fn event(self: Box<Self>, receipt: Signed) -> Event;
}

/// An entry that is on stable storage.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Where it stands.
    pub index: u64,
    /// The entry.
    pub entry: v1::Entry,
}

/// Why nothing was committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The second decision said no.
    #[error("{0}")]
    Denied(String),
    /// The package stands in the log already, or in the batch that is about to.
    #[error("the package is accepted already")]
    Duplicate,
    /// The entry is longer than an entry may be. Only this one is refused.
    #[error("an entry of {0} bytes; {ENTRY_LEN_MAX} are allowed")]
    TooLong(usize),
    /// No room for the next segment of the log; try again later.
    #[error("no room for the log: make room on the disk")]
    Full,
    /// Nobody has shown yet that this log is the one that others know.
    #[error("the log is not anchored: nobody has shown a copy of it yet")]
    Unanchored,
    /// The gateway is stopping, or has stopped for a reason that it has shown.
    #[error("the gateway has stopped")]
    Stopped,
}

enum Draft {
    // What a start appends first: it passes the gate.
    First(Box<Event>),
    Event(Box<Event>),
    Accept(Box<dyn Acceptance>),
}

type Answer = oneshot::Sender<Result<Committed, SubmitError>>;
type Waiting = (Draft, Answer);
type Kept = (Vec<v1::Entry>, Vec<Answer>);

/// What comes after a batch.
enum Turn {
    On,
    Last,
    /// Nothing can be committed any more.
    Fatal,
}

enum Submission {
    Draft(Draft, Answer),
    Stop,
}

/// The log and what follows it at once, behind one lock for readers.
pub(crate) struct Ledger {
    /// The log.
    pub(crate) log: Log,
    /// Which entries speak of a package.
    pub(crate) index: PackageIndex,
    /// Which statements have come.
    pub(crate) sequences: Sequences,
}

impl Ledger {
    /// Log indices of the entries about a package, ascending.
    pub(crate) fn find(&self, package: &PackageId) -> Result<Vec<u64>, Fatal> {
        let path = PathBuf::from("index");
        let found = self.index.find(package);
        found.map_err(|source| Fatal::Io { path, source })
    }
}

/// The key that signs receipts at this moment.
pub type Signer = Arc<dyn Fn() -> Arc<SigningKey> + Send + Sync>;

/// Submits entries to the thread that commits them. Cheap to clone.
#[derive(Clone)]
pub struct Sequencer {
    submissions: SyncSender<Submission>,
    // Wakes whoever commits in place; a thread waits for the submissions themselves.
    submitted: Arc<Notify>,
    ledger: Arc<Mutex<Ledger>>,
    size: watch::Receiver<u64>,
    fatal: watch::Receiver<Option<String>>,
}

struct Committer {
    disk: Arc<dyn Disk>,
    anchor: Arc<Anchor>,
    ledger: Arc<Mutex<Ledger>>,
    queue: Arc<dyn Queue>,
    signer: Signer,
    chain: StatementChain,
    chain_path: PathBuf,
    sequences_path: PathBuf,
    clock: Box<dyn Fn() -> Timestamp + Send>,
    last: Timestamp,
    /// Size of the log up to which the sequences were written.
    noted: u64,
    size: watch::Sender<u64>,
    fatal: watch::Sender<Option<String>>,
}

/// Why the sequencer does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log.
    #[error(transparent)]
    Log(#[from] Fatal),
    /// The queue.
    #[error("queue: {0}")]
    Queue(#[from] QueueError),
    /// The index, or the sequence of our statements.
    #[error("{what}: {source}")]
    Io {
        /// Which of them.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// An entry of our own log that this program cannot read.
    #[error("log entry {0} cannot be read: is this program older than the log?")]
    Entry(u64),
}

impl Sequencer {
    /// Brings queue and index up to the log, and starts the thread.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn start(
        disk: &Arc<dyn Disk>,
        log: Log,
        queue: Arc<dyn Queue>,
        signer: Signer,
        dir: &Path,
        anchor: Arc<Anchor>,
        clock: impl Fn() -> Timestamp + Send + 'static,
    ) -> Result<(Self, Worker), OpenError> {
        let failed = |what| move |source| OpenError::Io { what, source };
        let index = PackageIndex::open(disk, &dir.join("index")).map_err(failed("index"))?;
        let sequences_path = dir.join("sequences");
        let sequences = Sequences::read(disk.as_ref(), &sequences_path, log.size());
        let sequences_from = sequences.next();
        let mut ledger = Ledger {
            log,
            index,
            sequences,
        };
        let chain_path = dir.join("chain");
        let (mut chain, from) = recovery::read_chain(disk.as_ref(), &chain_path, ledger.log.size());
        let last = recovery::catch_up(&mut ledger, queue.as_ref(), &mut chain, from)?;
        let (size, size_receiver) = watch::channel(ledger.log.size());
        let (fatal, fatal_receiver) = watch::channel(None);
        let ledger = Arc::new(Mutex::new(ledger));
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let committer = Committer {
            disk: disk.clone(),
            anchor,
            ledger: ledger.clone(),
            queue,
            signer,
            chain,
            chain_path,
            sequences_path,
            clock: Box::new(clock),
            last,
            noted: from.min(sequences_from),
            size,
            fatal,
        };
        let submitted = Arc::new(Notify::new());
        let worker = match is_in_place() {
            true => Worker::Task(tokio::spawn(
                committer.run_in_place(receiver, submitted.clone()),
            )),
            false => std::thread::Builder::new()
                .name("sequencer".into())
                .spawn(move || committer.run(&receiver))
                .map(Worker::Thread)
                .map_err(failed("thread"))?,
        };
        let sequencer = Self {
            submissions: sender,
            submitted,
            ledger,
            size: size_receiver,
            fatal: fatal_receiver,
        };
        Ok((sequencer, worker))
    }

    /// Commits an entry. When this returns, it is on stable storage and in the queue.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was committed then.
    pub async fn commit(&self, event: Event) -> Result<Committed, SubmitError> {
        self.submit(Draft::Event(Box::new(event))).await
    }

    /// Commits one of the first entries of a start, before anything else may be appended.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was committed then.
    pub(crate) async fn begin(&self, event: Event) -> Result<Committed, SubmitError> {
        self.submit(Draft::First(Box::new(event))).await
    }

    /// Accepts a package, with a signed receipt that names its index in the log.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was committed then.
    pub async fn accept(&self, accept: Box<dyn Acceptance>) -> Result<Committed, SubmitError> {
        self.submit(Draft::Accept(accept)).await
    }

    async fn submit(&self, draft: Draft) -> Result<Committed, SubmitError> {
        let (answer, answered) = oneshot::channel();
        let mut submission = Submission::Draft(draft, answer);
        loop {
            use std::sync::mpsc::TrySendError;
            match self.submissions.try_send(submission) {
                Ok(()) => {
                    self.submitted.notify_one();
                    break;
                }
                Err(TrySendError::Disconnected(_)) => return Err(SubmitError::Stopped),
                Err(TrySendError::Full(back)) => {
                    submission = back;
                    // A batch ends every few milliseconds, and the log grows then.
                    let mut size = self.size.clone();
                    if size.changed().await.is_err() {
                        return Err(SubmitError::Stopped);
                    }
                }
            }
        }
        answered.await.unwrap_or(Err(SubmitError::Stopped))
    }

    /// The log and the index, for readers; nothing else may be locked meanwhile.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Follows the number of entries.
    pub fn size(&self) -> watch::Receiver<u64> {
        self.size.clone()
    }

    /// Follows why nothing can be committed any more.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.fatal.clone()
    }

    /// Ends the thread after what was submitted before.
    pub fn stop(&self) {
        let _ = self.submissions.send(Submission::Stop);
        self.submitted.notify_one();
    }

    /// One entry; `None` when it cannot be read by this program. Blocks.
    ///
    /// # Errors
    /// [`Fatal`] when the log cannot be read.
    pub(crate) fn entry(&self, index: u64) -> Result<Option<v1::Entry>, Fatal> {
        let bytes = self.ledger().log.entry(index)?;
        Ok(v1::Entry::decode(bytes.as_slice()).ok())
    }

    /// Entries about a package, ascending, with their indices.
    ///
    /// # Errors
    /// [`Fatal`] when the log cannot be read.
    pub fn entries_about(&self, package: &PackageId) -> Result<Vec<Committed>, Fatal> {
        let ledger = self.ledger();
        let mut found = Vec::new();
        for index in ledger.find(package)? {
            let bytes = ledger.log.entry(index)?;
            if let Ok(entry) = v1::Entry::decode(bytes.as_slice()) {
                found.push(Committed { index, entry });
            }
        }
        Ok(found)
    }
}

impl Committer {
    fn run(mut self, submissions: &Receiver<Submission>) {
        while let Ok(first) = submissions.recv() {
            match self.turn(first, submissions) {
                Turn::On => {}
                Turn::Last => break,
                Turn::Fatal => return,
            }
        }
        self.note_chain();
    }

    /// The same where all is done on one thread.
    async fn run_in_place(mut self, submissions: Receiver<Submission>, submitted: Arc<Notify>) {
        loop {
            submitted.notified().await;
            while let Ok(first) = submissions.try_recv() {
                match self.turn(first, &submissions) {
                    Turn::On => {}
                    Turn::Last => return self.note_chain(),
                    Turn::Fatal => return,
                }
            }
        }
    }

    /// One batch: a submission and whatever else waits by now.
    fn turn(&mut self, first: Submission, submissions: &Receiver<Submission>) -> Turn {
        let mut batch = Vec::new();
        let mut bytes = 0;
        let mut stop = !self.take(first, &mut batch, &mut bytes);
        while !stop && batch.len() < BATCH_ENTRIES_MAX && bytes < BATCH_LEN_MAX / 2 {
            match submissions.try_recv() {
                Ok(next) => stop = !self.take(next, &mut batch, &mut bytes),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => stop = true,
            }
        }
        if !batch.is_empty()
            && let Err(fatal) = self.commit(batch)
        {
            tracing::error!(%fatal, "nothing can be committed any more");
            self.fatal.send_replace(Some(fatal));
            return Turn::Fatal;
        }
        let size = *self.size.borrow();
        if size - self.noted >= NOTE_EVERY {
            self.noted = size;
            self.note_chain();
        }
        if stop { Turn::Last } else { Turn::On }
    }

    fn note_chain(&self) {
        let (size, disk) = (*self.size.borrow(), self.disk.as_ref());
        if let Err(error) = recovery::write_chain(disk, &self.chain_path, size, &self.chain) {
            tracing::warn!(%error, "the sequence of statements is read from the log next time");
        }
        let ledger = self.ledger.lock().unwrap_or_else(|p| p.into_inner());
        let written = ledger
            .sequences
            .write(self.disk.as_ref(), &self.sequences_path);
        if let Err(error) = written {
            tracing::warn!(%error, "which statements have come is read from the log next time");
        }
    }

    /// Puts a submission into the batch; `false` when it is the last one.
    fn take(&self, submission: Submission, batch: &mut Vec<Waiting>, bytes: &mut usize) -> bool {
        let (draft, answer) = match submission {
            Submission::Stop => return false,
            Submission::Draft(draft, answer) => (draft, answer),
        };
        let (passes, length) = match &draft {
            Draft::First(event) => (self.anchor.may_begin(), entry_len(event)),
            Draft::Event(event) => (self.anchor.is_held(), entry_len(event)),
            Draft::Accept(_) => (self.anchor.is_held(), 2 * RECEIPT_LEN_MAX),
        };
        let refused = match length > ENTRY_LEN_MAX {
            _ if !passes => SubmitError::Unanchored,
            true => SubmitError::TooLong(length),
            false => {
                *bytes += length;
                batch.push((draft, answer));
                return true;
            }
        };
        let _ = answer.send(Err(refused));
        true
    }

    /// Commits a batch and answers everybody in it.
    fn commit(&mut self, batch: Vec<Waiting>) -> Result<(), String> {
        self.last = self.last.max((self.clock)());
        let ledger = self.ledger.clone();
        let mut ledger = ledger
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let chain_before = self.chain.clone();
        let (entries, answers) = self
            .entries(&ledger, batch)
            .map_err(|fatal| fatal.to_string())?;
        if entries.is_empty() {
            return Ok(());
        }
        let bytes: Vec<Vec<u8>> = entries.iter().map(Message::encode_to_vec).collect();
        crash_point!("commit.signed");
        let range = match ledger.log.append(&bytes) {
            Ok(range) => range,
            Err(AppendError::Full) => {
                self.chain = chain_before;
                answers.into_iter().for_each(|answer| {
                    let _ = answer.send(Err(SubmitError::Full));
                });
                return Ok(());
            }
            Err(AppendError::Fatal(fatal)) => return Err(fatal.to_string()),
        };
        crash_point!("commit.appended");
        for entry in &entries {
            ledger
                .index
                .push(entry)
                .map_err(|error| format!("index: {error}"))?;
            ledger.sequences.push(entry);
        }
        let root = ledger.log.root();
        drop(ledger);
        let applied = self.queue.apply(range.start, &entries, root);
        applied.map_err(|error| format!("queue: {error}"))?;
        crash_point!("commit.applied");
        self.size.send_replace(range.end);
        for ((index, entry), answer) in range.zip(entries).zip(answers) {
            // Whoever asked may be gone; the entry stands all the same.
            let _ = answer.send(Ok(Committed { index, entry }));
        }
        Ok(())
    }

    /// Turns drafts into entries; receipts are signed together. Those refused are answered here.
    fn entries(&mut self, ledger: &Ledger, batch: Vec<Waiting>) -> Result<Kept, Fatal> {
        // One key for a batch: its receipts are signed together.
        let key = (self.signer)();
        let mut index = ledger.log.size();
        let mut kept = Vec::new();
        let mut bodies = Vec::new();
        let mut accepted = BTreeSet::new();
        for (draft, answer) in batch {
            match draft {
                Draft::First(event) | Draft::Event(event) => kept.push((Ok(event), answer)),
                Draft::Accept(mut acceptance) => {
                    let drafted = match acceptance.draft(index, self.last) {
                        Err(why) => Err(SubmitError::Denied(why)),
                        // Two streams may have brought the same package at the same time.
                        Ok(draft) if is_accepted(ledger, &mut accepted, &draft)? => {
                            Err(SubmitError::Duplicate)
                        }
                        Ok(draft) => Ok(draft),
                    };
                    match drafted {
                        Ok(draft) => {
                            let body = match acceptance.is_numbered() {
                                true => self.number(&key, &draft),
                                false => draft.body_unnumbered(&key.id()),
                            };
                            bodies.push((ObjectType::Statement, body));
                        }
                        Err(why) => {
                            let _ = answer.send(Err(why));
                            continue;
                        }
                    }
                    kept.push((Err(acceptance), answer));
                }
            }
            index += 1;
        }
        // A batch has at most 256 entries and an envelope holds 1,024; none fails only when empty.
        let mut receipts = envelope::sign_batch(&key, bodies)
            .unwrap_or_default()
            .into_iter();
        let at_ms = self.last.as_ms();
        let entries = kept.into_iter().map(|(draft, answer)| {
            let event = match draft {
                Ok(event) => *event,
                Err(acceptance) => acceptance.event(receipts.next().unwrap_or_default()),
            };
            let event = Some(event);
            (v1::Entry { at_ms, event }, answer)
        });
        Ok(entries.unzip())
    }

    /// The body of our next statement; the sequence goes on after it.
    fn number(&mut self, key: &SigningKey, draft: &StatementDraft) -> Vec<u8> {
        let body = draft.body(&key.id(), &self.chain);
        let id = StatementId(Digest::of(&body));
        self.chain.advance(&draft.destination, id);
        body
    }
}

/// Whether `draft` would accept a package a second time; notes it otherwise.
fn is_accepted(
    ledger: &Ledger,
    accepted: &mut BTreeSet<PackageId>,
    draft: &StatementDraft,
) -> Result<bool, Fatal> {
    if !matches!(draft.what, What::Accepted(_)) {
        return Ok(false);
    }
    for index in ledger.find(&draft.package)? {
        let entry = v1::Entry::decode(ledger.log.entry(index)?.as_slice());
        if entry.is_ok_and(|entry| matches!(entry.event, Some(Event::Accepted(_)))) {
            return Ok(true);
        }
    }
    Ok(!accepted.insert(draft.package))
}

/// Length of an entry with this event; the time is counted with the most it can take.
fn entry_len(event: &Event) -> usize {
    let event = Some(event.clone());
    v1::Entry { at_ms: -1, event }.encoded_len()
}

#[cfg(test)]
mod tests;
