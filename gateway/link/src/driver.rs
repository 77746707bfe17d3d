//! Runs the protocol's state machine over a stream of frames.
//!
//! One task per stream. Everything that takes time is a future beside the others, so a side never
//! stops reading because it cannot write; the machine's windows bound what is in memory.

mod transfer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, Stream, StreamExt};
use passerelle_proto::session::{Answer, Event, Fault, IDLE_MAX, Session};
use passerelle_proto::v1::{self, Frame, Lane, Section, Signed, frame};
use passerelle_proto::{Digest, StatementId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use self::transfer::{Offering, Step, Taking};
use crate::exchange::{Exchange, Incoming, LaneError, OfferAnswer, Outbound, Outgoing, Room};
use crate::peer::{Peer, Trust};
use crate::told::Told;

/// Frames that wait between the driver and the transport.
pub const FRAMES_IN_FLIGHT: usize = 4;
/// Pieces of work at once, above which the peer is not read: none of them waits for the peer.
const WORK_MAX: usize = 1024;
/// Notes of the peer that are looked at at once; no more is read until then.
const NOTES_AT_ONCE: usize = 4;
/// Statements of the peer that are being committed at once; more wait.
const STATEMENTS_AT_ONCE: usize = 64;

/// How often a statement that cannot be committed now is tried before the stream ends.
const COMMIT_ATTEMPTS: u32 = 10;
/// Wait between these attempts.
const COMMIT_RETRY: Duration = Duration::from_secs(1);

/// Longest reason that is told to a peer or taken from it, in characters.
const BYE_LEN_MAX: usize = 300;

/// How long the last frames may take to reach the peer.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Why a stream has ended otherwise than in order.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The peer broke the protocol.
    #[error("{0}")]
    Fault(#[from] Fault),
    /// The stream broke.
    #[error("the stream broke: {0}")]
    Stream(String),
    /// The peer does not read.
    #[error("the peer has read nothing for 10 s")]
    Stalled,
    /// The peer has ended it, in order, and says why.
    #[error("the peer ends the stream: {0}")]
    Ended(String),
    /// A statement of the peer cannot be kept, and it is to come again.
    #[error("a statement cannot be committed now: it is to be sent again")]
    Uncommitted,
    /// We do not exchange with this peer, or not now.
    #[error("{0}")]
    Lane(#[from] LaneError),
}

enum Done {
    Greeted(Result<(), LaneError>),
    Nothing,
    Noted,
    Offered(u32, OfferAnswer),
    Written(u32, Box<dyn Incoming>),
    Synced(u32, Box<dyn Incoming>, u64),
    WriteFailed(u32, String),
    Completed(u32, Option<Answer>),
    Committed(StatementId, bool),
    Read(u32, Box<dyn Outbound>, Section, u64, std::io::Result<Bytes>),
}

struct Driver {
    session: Session,
    lane: Lane,
    peer: Peer,
    exchange: Arc<dyn Exchange>,
    start: Instant,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    taking: BTreeMap<u32, Taking>,
    offering: BTreeMap<u32, Offering>,
    statements: VecDeque<Signed>,
    committing: usize,
    noting: usize,
    unacked: Vec<StatementId>,
    ready: bool,
    // What is told to the peer as it comes into force, on the control lane.
    telling: Option<Telling>,
    // Offers of the peer that the program is asked about.
    deciding: BTreeSet<u32>,
    // Why the peer ends the stream, when it was the first to say so.
    told: Option<String>,
    stop: CancellationToken,
    // Whether we have been asked to end.
    stopping: bool,
    // What `ended` is told.
    why: String,
}

/// The notes that are in force, and those that the peer knows.
struct Telling {
    trust: Trust,
    told: Told,
    // Whether there may be more to tell than was sent.
    more: bool,
}

/// Runs one stream until it ends; frames to send go to `outbound`.
///
/// `stop` asks for an orderly end: what is open is finished.
///
/// # Errors
/// [`SessionError`] when it did not end in order. Whatever was under way is put back.
pub async fn run_session(
    mut inbound: impl Stream<Item = Result<Frame, Status>> + Send + Unpin,
    outbound: mpsc::Sender<Frame>,
    peer: Peer,
    lane: Lane,
    exchange: Arc<dyn Exchange>,
    stop: CancellationToken,
) -> Result<(), SessionError> {
    let session = Session::new(exchange.hello(&peer, lane), Duration::ZERO);
    let mut driver = Driver {
        session,
        lane,
        peer,
        exchange,
        start: Instant::now(),
        work: FuturesUnordered::new(),
        taking: BTreeMap::new(),
        offering: BTreeMap::new(),
        statements: VecDeque::new(),
        committing: 0,
        noting: 0,
        unacked: Vec::new(),
        ready: false,
        telling: None,
        deciding: BTreeSet::new(),
        told: None,
        stop: stop.clone(),
        stopping: false,
        why: "the stream was cut".to_owned(),
    };
    let outcome = driver.run(&mut inbound, &outbound, stop).await;
    driver.why = match &outcome {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    };
    use SessionError::{Fault, Lane, Uncommitted};
    if let Err(error @ (Fault(_) | Lane(_) | Uncommitted)) = &outcome {
        // The peer's operator wants to know as well; where it does not read, nothing is lost.
        let why: String = error.to_string().chars().take(BYE_LEN_MAX).collect();
        let bye = frame::Frame::Bye(v1::Bye { why });
        let _ = outbound.try_send(Frame { frame: Some(bye) });
    }
    let broken = matches!(
        outcome,
        Err(SessionError::Stalled | SessionError::Stream(_))
    );
    drop((driver, outbound));
    if !broken {
        // A stream that is let go of loses what is still on its way out: the peer ends it first.
        let rest = async { while let Some(Ok(_)) = inbound.next().await {} };
        let _ = tokio::time::timeout(FLUSH_MAX, rest).await;
    }
    outcome
}

/// However a stream ends, aborted or in order, what was not acknowledged is given back.
impl Drop for Driver {
    fn drop(&mut self) {
        let unacked = std::mem::take(&mut self.unacked);
        self.exchange
            .ended(&self.peer, self.lane, unacked, &self.why);
    }
}

impl Driver {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    async fn run(
        &mut self,
        inbound: &mut (impl Stream<Item = Result<Frame, Status>> + Send + Unpin),
        outbound: &mpsc::Sender<Frame>,
        stop: CancellationToken,
    ) -> Result<(), SessionError> {
        let exchange = self.exchange.clone();
        let peer = self.peer.clone();
        let lane = self.lane;
        let next = |room: Room| {
            let (exchange, peer) = (exchange.clone(), peer.clone());
            async move { exchange.next(&peer, lane, room).await }.boxed()
        };
        let mut waiting: Option<(Room, BoxFuture<'static, Outgoing>)> = None;
        let mut writable_since = self.start;
        loop {
            self.drain_events()?;
            self.tell();
            if self.session.is_finished() && self.work.is_empty() {
                return self.orderly();
            }
            let room = self.room();
            if waiting.as_ref().is_none_or(|(asked, _)| *asked != room) {
                let wanted = self.ready && (room.package || room.statement);
                waiting = wanted.then(|| (room, next(room)));
            }
            let deadline = self.start + self.session.poll_timeout();
            let stalled = writable_since + IDLE_MAX;
            let has_frame = self.session.has_frame();
            if !has_frame {
                writable_since = Instant::now();
            }
            tokio::select! {
                biased;
                permit = outbound.reserve(), if has_frame => {
                    let gone = |_| SessionError::Stream("the peer has closed it".into());
                    let permit = permit.map_err(gone)?;
                    if let Some(frame) = self.session.poll_frame(self.now()) {
                        permit.send(frame);
                    }
                    writable_since = Instant::now();
                }
                frame = inbound.next(), if self.may_read() => match frame {
                    Some(Ok(frame)) => self.session.on_frame(frame, self.now())?,
                    Some(Err(status)) => return Err(broken(&status)),
                    None if self.session.is_ending() => return self.orderly(),
                    None => return Err(SessionError::Stream("the peer has closed it".into())),
                },
                Some(done) = self.work.next(), if !self.work.is_empty() => self.on_done(done)?,
                () = news(&mut self.telling), if self.ready && self.telling.is_some() => {}
                outgoing = waiting_for(&mut waiting), if waiting.is_some() => {
                    waiting = None;
                    self.send(outgoing);
                }
                () = stop.cancelled(), if !self.stopping => {
                    self.stopping = true;
                    self.session.bye("stopping");
                }
                () = tokio::time::sleep_until(stalled), if has_frame => {
                    return Err(SessionError::Stalled);
                }
                () = tokio::time::sleep_until(deadline) => {
                    self.session.on_timeout(self.now())?;
                }
            }
        }
    }

    /// The end, when both sides have said Bye; the first to say so had a reason.
    fn orderly(&mut self) -> Result<(), SessionError> {
        match self.told.take() {
            Some(why) => Err(SessionError::Ended(why)),
            None => Ok(()),
        }
    }

    /// What a peer that has introduced itself is told, on the control lane.
    fn telling_of(&self, hello: &v1::Hello) -> Option<Telling> {
        let trust = self
            .exchange
            .trust()
            .filter(|_| self.lane == Lane::Control)?;
        let told = Told::new(hello);
        Some(Telling {
            trust,
            told,
            more: true,
        })
    }

    fn take_note(&mut self, note: Vec<u8>) {
        self.noting += 1;
        if let Some(telling) = &mut self.telling {
            telling.told.brought(&note);
        }
        let (exchange, peer) = (self.exchange.clone(), self.peer.clone());
        self.spawn(async move {
            exchange.note(&peer, note).await;
            Done::Noted
        });
    }

    /// Sends the notes that the peer lacks.
    fn tell(&mut self) {
        if !self.ready || self.session.has_frame() || self.session.is_ending() {
            return;
        }
        let Some(telling) = self.telling.as_mut().filter(|telling| telling.more) else {
            return;
        };
        let directory = telling.trust.borrow_and_update().clone();
        let notes = telling.told.missing(&directory);
        telling.more = !notes.is_empty();
        notes
            .into_iter()
            .for_each(|note| self.session.send_note(note));
    }

    /// A peer that floods us with notes waits for our disk instead of filling our memory; what
    /// else it may send is limited by the session.
    fn may_read(&self) -> bool {
        self.noting < NOTES_AT_ONCE && self.work.len() < WORK_MAX
    }

    fn room(&self) -> Room {
        Room {
            package: self.session.can_offer(),
            statement: self.lane == Lane::Control && self.session.can_send_statement(),
        }
    }

    fn send(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Statement(signed) => {
                self.unacked.push(StatementId(Digest::of(&signed.body)));
                self.session.send_statement(signed);
            }
            Outgoing::Package(outbound) => {
                let slot = {
                    let (manifest, inline) = (outbound.manifest(), outbound.inline());
                    self.session
                        .offer_accepted(manifest, inline, outbound.accepted())
                };
                let outbound = Some(outbound);
                self.offering.insert(
                    slot,
                    Offering {
                        outbound,
                        answer: None,
                    },
                );
            }
        }
    }

    fn spawn(&self, future: impl Future<Output = Done> + Send + 'static) {
        self.work.push(future.boxed());
    }

    fn drain_events(&mut self) -> Result<(), SessionError> {
        while let Some(event) = self.session.poll_event() {
            self.on_event(event);
        }
        while self.committing < STATEMENTS_AT_ONCE
            && let Some(signed) = self.statements.pop_front()
        {
            self.committing += 1;
            let (exchange, peer) = (self.exchange.clone(), self.peer.clone());
            self.spawn(commit(exchange, peer, signed, self.stop.clone()));
        }
        match self.statements.len() > passerelle_proto::session::STATEMENTS_MAX {
            true => Err(Fault::TooManyOffers.into()),
            false => Ok(()),
        }
    }

    fn on_event(&mut self, event: Event) {
        let (exchange, peer) = (self.exchange.clone(), self.peer.clone());
        match event {
            Event::Greeted(hello) => {
                self.telling = self.telling_of(&hello);
                self.spawn(async move { Done::Greeted(exchange.greeted(&peer, &hello).await) })
            }
            Event::Note(note) => self.take_note(note),
            Event::Offered {
                slot,
                manifest,
                inline,
                accepted,
            } => {
                self.deciding.insert(slot);
                self.spawn(async move {
                    Done::Offered(
                        slot,
                        exchange.offered(&peer, manifest, inline, accepted).await,
                    )
                });
            }
            Event::Read {
                slot,
                section,
                offset,
                length,
            } => self.read(slot, section, offset, length),
            Event::Write {
                slot,
                section,
                offset,
                bytes,
            } => self.step(slot, Step::Write(section, offset, bytes)),
            Event::Sync { slot, received } => self.step(slot, Step::Sync(received)),
            Event::Complete { slot } => self.step(slot, Step::Complete),
            Event::Broken { slot, fault } => self.step(slot, Step::Broken(fault)),
            Event::Answered { slot, answer } => {
                if let Some(offering) = self.offering.get_mut(&slot) {
                    offering.answer = Some(answer);
                    self.finish_offer(slot);
                }
            }
            Event::Withdrawn { slot, ours, why } => self.on_withdrawn(slot, ours, &why),
            Event::Statement(signed) => self.statements.push_back(signed),
            Event::Acked(ids) if ids.is_empty() => {}
            Event::Acked(ids) => {
                self.unacked.retain(|id| !ids.contains(id));
                // It is to know also when the stream ends in this moment: nobody gives them back.
                let told = tokio::spawn(async move { exchange.acked(&peer, ids).await });
                self.spawn(async move {
                    let _ = told.await;
                    Done::Nothing
                });
            }
            Event::Bye(why) => {
                tracing::debug!(peer = %self.peer, %why, "the peer ends the stream");
                if !self.stopping {
                    self.told
                        .get_or_insert(why.chars().take(BYE_LEN_MAX).collect());
                }
                self.session.bye("as you wish");
            }
        }
    }

    fn on_done(&mut self, done: Done) -> Result<(), SessionError> {
        match done {
            Done::Nothing => {}
            Done::Noted => self.noting -= 1,
            Done::Greeted(admitted) => {
                admitted?;
                self.ready = true;
            }
            Done::Offered(slot, answer) => self.on_offer_answer(slot, answer),
            Done::Written(slot, incoming) => self.put_back(slot, incoming),
            Done::Synced(slot, incoming, received) => {
                self.session.on_synced(slot, received);
                self.put_back(slot, incoming);
            }
            Done::WriteFailed(slot, why) => {
                tracing::warn!(peer = %self.peer, %why, "a transfer was given up");
                self.taking.remove(&slot);
                self.session.refuse(slot, "it cannot be kept now");
            }
            Done::Completed(slot, answer) => {
                self.taking.remove(&slot);
                match answer {
                    Some(answer) => self.session.answer(slot, answer),
                    None => self.session.refuse(slot, "it cannot be committed now"),
                }
            }
            Done::Committed(id, committed) => {
                self.committing -= 1;
                match committed {
                    true => self.session.ack(&[id]),
                    // The peer has it still, and sends it again when it has connected again.
                    false if self.stopping => {}
                    false => return Err(SessionError::Uncommitted),
                }
            }
            Done::Read(slot, outbound, section, offset, bytes) => {
                self.on_read(slot, outbound, section, offset, bytes);
            }
        }
        Ok(())
    }
}

/// Waits until other notes are in force; they are told at the next turn.
async fn news(telling: &mut Option<Telling>) {
    if let Some(telling) = telling
        && telling.trust.changed().await.is_ok()
    {
        telling.more = true;
        return;
    }
    // Nobody can change the sheets any more.
    std::future::pending().await
}

/// Has a statement committed, more than once when the disk is full or the program not yet ready.
async fn commit(
    exchange: Arc<dyn Exchange>,
    peer: Peer,
    signed: Signed,
    stop: CancellationToken,
) -> Done {
    let id = StatementId(Digest::of(&signed.body));
    for _ in 0..COMMIT_ATTEMPTS {
        if exchange.statement(&peer, signed.clone()).await {
            return Done::Committed(id, true);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = tokio::time::sleep(COMMIT_RETRY) => {}
        }
    }
    Done::Committed(id, false)
}

async fn waiting_for(waiting: &mut Option<(Room, BoxFuture<'static, Outgoing>)>) -> Outgoing {
    match waiting {
        Some((_, next)) => next.await,
        None => std::future::pending().await,
    }
}

fn broken(status: &Status) -> SessionError {
    // The innermost cause is what an operator can act on: an alert, a reset, a refusal.
    let mut cause: &dyn std::error::Error = status;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let why = match status.message().is_empty() {
        true => cause.to_string(),
        false => status.message().to_owned(),
    };
    SessionError::Stream(why)
}
