//! One stream between two peers, as state machines without sockets and without a clock.
//!
//! Both sides run the same [`Session`]: each may offer packages and take what the other offers.
//! Frames, results of reading and writing, and `now` go in; frames to send, work to do and the
//! next deadline come out.
//!
//! ```text
//! inputs   on_frame  on_timeout  offer  on_read  give_up  accept  refuse  on_synced  answer
//!          send_statement  send_note  ack  bye
//! getters  can_offer  can_send_statement  peer_hello  is_finished
//! outputs  poll_frame  poll_event  poll_timeout
//! ```
//!
//! A package goes: Offer → Need (head) → Data → Need (chunks) → Data, with Synced in between →
//! the answer, a statement or Have. What is small travels inside its Offer and is answered at once.

mod accepting;
mod fault;
mod offering;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

pub use accepting::{Accepting, Held};
pub use fault::Fault;
use offering::Offering;

use crate::v1::{self, Lane, Section, Signed, frame};
use crate::{Digest, StatementId, VerifiedManifest};

/// Oldest version of the protocol that this program speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// Newest version of the protocol that this program speaks.
pub const PROTOCOL_MAX: u32 = 1;
/// Own silence after which a keep-alive is sent.
pub const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Silence of the peer after which the stream is given up.
pub const IDLE_MAX: Duration = Duration::from_secs(10);
/// Offers without an answer, in each direction of one control lane.
pub const OFFERS_MAX: usize = 64;
/// Statements sent and not yet acknowledged on one stream.
pub const STATEMENTS_MAX: usize = 64;
/// Longest payload of one Data frame in bytes.
pub const DATA_LEN_MAX: u64 = 1024 * 1024;
/// Payload of the Data frames that this program sends, in bytes.
pub const DATA_LEN: u64 = 256 * 1024;
/// Bytes of one package sent and not yet known to be on the receiver's stable storage: room for
/// the longest chunk, which can be synced only when it is whole, and for 4 MiB behind it.
pub const UNSYNCED_MAX: u64 = 4 * 1024 * 1024 + crate::MAX_CIPHERTEXT_LEN as u64;
/// Bytes received after which the receiver syncs.
pub const SYNC_EVERY: u64 = 1024 * 1024;
/// Frames waiting to be sent, above which no more data is read.
const FRAMES_MAX: usize = 8;
/// Notes that one stream may bring.
const NOTES_MAX: u32 = 2048;

/// What came of an offer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Accepted, refused or busy, signed.
    Statement(Signed),
    /// Every byte is durable at the receiver; a statement follows later.
    Have,
}

/// Work for the driver, and news for its caller.
#[derive(Debug)]
pub enum Event {
    /// The peer has introduced itself.
    Greeted(v1::Hello),
    /// The peer sends a convention or a sheet.
    Note(Vec<u8>),
    /// The peer offers a package: call `accept`, `refuse` or `answer`.
    Offered {
        /// Number of the offer.
        slot: u32,
        /// Its manifest; nothing is verified.
        manifest: Signed,
        /// The whole package, when it is small; else empty.
        inline: Bytes,
    },
    /// Read this part of an offered package, then call `on_read`.
    Read {
        /// Which of our offers.
        slot: u32,
        /// Part of the package.
        section: Section,
        /// Offset within the part.
        offset: u64,
        /// Bytes wanted.
        length: u64,
    },
    /// Write these verified bytes.
    Write {
        /// Which of the peer's offers.
        slot: u32,
        /// Part of the package.
        section: Section,
        /// Offset within the part.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Sync all that was to be written, then call `on_synced` with this count.
    Sync {
        /// Which of the peer's offers.
        slot: u32,
        /// Bytes of this transfer that are durable then.
        received: u64,
    },
    /// Everything is there and synced: commit, then call `answer`.
    Complete {
        /// Which of the peer's offers.
        slot: u32,
    },
    /// The bytes of this offer are wrong: refuse the package with a signed statement, `answer`.
    Broken {
        /// Which of the peer's offers.
        slot: u32,
        /// What is wrong.
        fault: Fault,
    },
    /// The peer has answered one of our offers.
    Answered {
        /// Which of our offers.
        slot: u32,
        /// How.
        answer: Answer,
    },
    /// The peer gives up an offer.
    Withdrawn {
        /// Its number.
        slot: u32,
        /// Whether it was one of ours.
        ours: bool,
        /// Why, in words.
        why: String,
    },
    /// The peer sends a statement: commit it, then call `ack`.
    Statement(Signed),
    /// Our statements with these ids are committed at the peer.
    Acked(Vec<StatementId>),
    /// The peer wants to end the stream.
    Bye(String),
}

enum Slot {
    /// Offered, and nothing decided yet.
    Undecided,
    /// Bytes are coming.
    Accepting(Box<Accepting>),
    /// All bytes are here, or the offer is refused; what remains is our answer.
    Answering,
}

/// One stream. See the module's text for its methods.
pub struct Session {
    lane: Lane,
    greeted: Option<v1::Hello>,
    offers: BTreeMap<u32, Offering>,
    next_slot: u32,
    slots: BTreeMap<u32, Slot>,
    last_peer_slot: Option<u32>,
    unacked: VecDeque<StatementId>,
    notes: u32,
    frames: VecDeque<v1::Frame>,
    events: VecDeque<Event>,
    last_sent: Duration,
    last_heard: Duration,
    bye_sent: bool,
    bye_received: bool,
}

impl Session {
    /// A stream that begins now; our `hello` is the first frame.
    ///
    /// All times are durations since any one start.
    pub fn new(hello: v1::Hello, now: Duration) -> Self {
        let lane = hello.lane();
        let mut session = Self {
            lane,
            greeted: None,
            offers: BTreeMap::new(),
            next_slot: 0,
            slots: BTreeMap::new(),
            last_peer_slot: None,
            unacked: VecDeque::new(),
            notes: 0,
            frames: VecDeque::new(),
            events: VecDeque::new(),
            last_sent: now,
            last_heard: now,
            bye_sent: false,
            bye_received: false,
        };
        session.send(frame::Frame::Hello(hello));
        session
    }

    fn send(&mut self, frame: frame::Frame) {
        self.frames.push_back(v1::Frame { frame: Some(frame) });
    }

    fn offers_max(&self) -> usize {
        match self.lane {
            Lane::Control => OFFERS_MAX,
            Lane::Bulk | Lane::Unspecified => 1,
        }
    }

    /// A frame has arrived.
    ///
    /// # Errors
    /// [`Fault`]: the peer broke the protocol; the stream must end.
    pub fn on_frame(&mut self, frame: v1::Frame, now: Duration) -> Result<(), Fault> {
        self.last_heard = now;
        let frame = frame.frame.ok_or(Fault::EmptyFrame)?;
        match (&self.greeted, frame) {
            (None, frame::Frame::Hello(hello)) => self.on_hello(hello),
            (None, _) | (Some(_), frame::Frame::Hello(_)) => Err(Fault::Hello),
            (Some(_), frame) => self.on_greeted_frame(frame),
        }
    }

    fn on_hello(&mut self, hello: v1::Hello) -> Result<(), Fault> {
        if hello.protocol_min > PROTOCOL_MAX || hello.protocol_max < PROTOCOL_MIN {
            return Err(Fault::Versions {
                theirs: (hello.protocol_min, hello.protocol_max),
            });
        }
        if hello.lane() != self.lane {
            return Err(Fault::Hello);
        }
        self.greeted = Some(hello.clone());
        self.events.push_back(Event::Greeted(hello));
        Ok(())
    }

    fn on_greeted_frame(&mut self, frame: frame::Frame) -> Result<(), Fault> {
        match frame {
            frame::Frame::Hello(_) => return Err(Fault::Hello),
            frame::Frame::Note(note) => {
                self.notes += 1;
                if self.notes > NOTES_MAX || note.text.len() > crate::NOTE_LEN_MAX {
                    return Err(Fault::TooManyNotes);
                }
                self.events.push_back(Event::Note(note.text));
            }
            frame::Frame::Offer(offer) => self.on_offer(offer)?,
            frame::Frame::Need(need) => {
                let offer = self
                    .offers
                    .get_mut(&need.slot)
                    .ok_or(Fault::Slot(need.slot))?;
                offer.on_need(&need.ranges)?;
                self.read_more();
            }
            frame::Frame::Data(data) => self.on_data(data)?,
            frame::Frame::Synced(synced) => {
                let offer = self
                    .offers
                    .get_mut(&synced.slot)
                    .ok_or(Fault::Slot(synced.slot))?;
                offer.on_synced(synced.bytes)?;
                self.read_more();
            }
            frame::Frame::Have(have) => self.on_answer(have.slot, Answer::Have)?,
            frame::Frame::Statement(signed) => self.on_statement(signed)?,
            frame::Frame::Answer(answer) => {
                let statement = answer.statement.ok_or(Fault::EmptyFrame)?;
                self.on_answer(answer.slot, Answer::Statement(statement))?;
            }
            frame::Frame::Ack(ack) => self.on_ack(&ack)?,
            frame::Frame::Withdraw(withdraw) => self.on_withdraw(withdraw),
            frame::Frame::KeepAlive(_) => {}
            frame::Frame::Bye(bye) => {
                self.bye_received = true;
                self.events.push_back(Event::Bye(bye.why));
            }
        }
        Ok(())
    }

    fn on_offer(&mut self, offer: v1::Offer) -> Result<(), Fault> {
        let slot = offer.slot;
        if self.last_peer_slot.is_some_and(|last| slot <= last) {
            return Err(Fault::Slot(slot));
        }
        if self.slots.len() >= self.offers_max() {
            return Err(Fault::TooManyOffers);
        }
        let manifest = offer.manifest.ok_or(Fault::EmptyFrame)?;
        if offer.inline.len() as u64 > crate::INLINE_LEN_MAX {
            return Err(Fault::DataLength);
        }
        self.last_peer_slot = Some(slot);
        self.slots.insert(slot, Slot::Undecided);
        self.events.push_back(Event::Offered {
            slot,
            manifest,
            inline: offer.inline,
        });
        Ok(())
    }

    fn on_data(&mut self, data: v1::Data) -> Result<(), Fault> {
        if data.bytes.is_empty() || data.bytes.len() as u64 > DATA_LEN_MAX {
            return Err(Fault::DataLength);
        }
        let section = data.section();
        let slot = data.slot;
        match self.slots.get_mut(&slot) {
            Some(Slot::Accepting(accepting)) => {
                if let Err(fault) = accepting.on_data(section, data.offset, &data.bytes) {
                    self.slots.insert(slot, Slot::Answering);
                    self.events.push_back(Event::Broken { slot, fault });
                    return Ok(());
                }
                self.after_progress(slot);
                Ok(())
            }
            // Data that was under way when the offer was answered or given up.
            Some(Slot::Answering) => Ok(()),
            None if self.last_peer_slot.is_some_and(|last| slot <= last) => Ok(()),
            _ => Err(Fault::NotAsked),
        }
    }

    fn after_progress(&mut self, slot: u32) {
        let Some(Slot::Accepting(accepting)) = self.slots.get_mut(&slot) else {
            return;
        };
        for (section, offset, bytes) in accepting.take_writes() {
            self.events.push_back(Event::Write {
                slot,
                section,
                offset,
                bytes,
            });
        }
        let sync = accepting.take_sync();
        let need = accepting.take_need();
        let complete = accepting.is_complete();
        if let Some(received) = sync {
            self.events.push_back(Event::Sync { slot, received });
        }
        if let Some(ranges) = need {
            self.send(frame::Frame::Need(v1::Need { slot, ranges }));
        }
        if complete {
            self.slots.insert(slot, Slot::Answering);
            self.events.push_back(Event::Complete { slot });
        }
    }

    fn on_statement(&mut self, signed: Signed) -> Result<(), Fault> {
        if signed.body.len() > crate::STATEMENT_LEN_MAX {
            return Err(Fault::DataLength);
        }
        self.events.push_back(Event::Statement(signed));
        Ok(())
    }

    fn on_answer(&mut self, slot: u32, answer: Answer) -> Result<(), Fault> {
        self.offers.remove(&slot).ok_or(Fault::Slot(slot))?;
        self.events.push_back(Event::Answered { slot, answer });
        Ok(())
    }

    fn on_ack(&mut self, ack: &v1::Ack) -> Result<(), Fault> {
        let mut acked = Vec::new();
        for id in &ack.ids {
            let id = StatementId::from_slice(id).map_err(|_| Fault::EmptyFrame)?;
            let known = self.unacked.iter().position(|sent| *sent == id);
            // An acknowledgement of what was never sent proves nothing; it is ignored.
            if let Some(at) = known {
                self.unacked.remove(at);
                acked.push(id);
            }
        }
        self.events.push_back(Event::Acked(acked));
        Ok(())
    }

    fn on_withdraw(&mut self, withdraw: v1::Withdraw) {
        let slot = withdraw.slot;
        let ours = withdraw.answering;
        let known = match ours {
            true => self.offers.remove(&slot).is_some(),
            false => self.slots.remove(&slot).is_some(),
        };
        if known {
            self.events.push_back(Event::Withdrawn {
                slot,
                ours,
                why: withdraw.why,
            });
        }
    }

    /// Time has passed.
    ///
    /// # Errors
    /// [`Fault::Idle`] when the peer was silent for too long.
    pub fn on_timeout(&mut self, now: Duration) -> Result<(), Fault> {
        if now.saturating_sub(self.last_heard) >= IDLE_MAX {
            return Err(Fault::Idle);
        }
        if now.saturating_sub(self.last_sent) >= KEEP_ALIVE && self.frames.is_empty() {
            self.send(frame::Frame::KeepAlive(v1::KeepAlive {}));
        }
        Ok(())
    }

    /// Whether another package may be offered now.
    pub fn can_offer(&self) -> bool {
        self.greeted.is_some() && !self.is_ending() && self.offers.len() < self.offers_max()
    }

    /// Whether another statement may be sent now.
    pub fn can_send_statement(&self) -> bool {
        self.greeted.is_some() && !self.is_ending() && self.unacked.len() < STATEMENTS_MAX
    }

    /// Whether there is a frame to send.
    pub fn has_frame(&self) -> bool {
        !self.frames.is_empty()
    }

    /// Whether one side wants to end.
    pub fn is_ending(&self) -> bool {
        self.bye_sent || self.bye_received
    }

    /// What the peer said of itself.
    pub fn peer_hello(&self) -> Option<&v1::Hello> {
        self.greeted.as_ref()
    }

    /// Whether both sides want to end and nothing is open.
    pub fn is_finished(&self) -> bool {
        let open = !self.offers.is_empty() || !self.slots.is_empty() || !self.unacked.is_empty();
        self.bye_sent && self.bye_received && !open && self.frames.is_empty()
    }

    /// Offers a package; `inline` is the whole of it, when it is small, else empty.
    pub fn offer(&mut self, manifest: &VerifiedManifest, inline: Bytes) -> u32 {
        let slot = self.next_slot;
        self.next_slot += 1;
        self.offers.insert(slot, Offering::new(manifest));
        self.send(frame::Frame::Offer(v1::Offer {
            slot,
            manifest: Some(manifest.signed().clone()),
            inline,
        }));
        slot
    }

    /// The bytes of [`Event::Read`].
    pub fn on_read(&mut self, slot: u32, section: Section, offset: u64, bytes: Bytes) {
        // It may have been answered or given up while the bytes were read.
        let Some(offer) = self.offers.get_mut(&slot) else {
            return;
        };
        offer.on_read(bytes.len() as u64);
        self.send(frame::Frame::Data(v1::Data {
            slot,
            section: section as i32,
            offset,
            bytes,
        }));
        self.read_more();
    }

    /// Asks for the next reads as far as windows and the queue of frames allow.
    fn read_more(&mut self) {
        if self.frames.len() >= FRAMES_MAX {
            return;
        }
        for (slot, offer) in &mut self.offers {
            if let Some((section, offset, length)) = offer.poll_read() {
                self.events.push_back(Event::Read {
                    slot: *slot,
                    section,
                    offset,
                    length,
                });
            }
        }
    }

    /// Gives up one of our own offers.
    pub fn give_up(&mut self, slot: u32, why: &str) {
        if self.offers.remove(&slot).is_some() {
            let why = why.to_owned();
            let answering = false;
            self.send(frame::Frame::Withdraw(v1::Withdraw {
                slot,
                why,
                answering,
            }));
        }
    }

    /// Takes a package that was offered; the bytes that are missing are asked for.
    pub fn accept(&mut self, slot: u32, manifest: &VerifiedManifest, held: Held) {
        if let Some(Slot::Undecided) = self.slots.get(&slot) {
            let accepting = Box::new(Accepting::new(manifest, held));
            self.slots.insert(slot, Slot::Accepting(accepting));
            self.after_progress(slot);
        }
    }

    /// Says nothing about a package that was offered, and wants none of it on this stream.
    pub fn refuse(&mut self, slot: u32, why: &str) {
        if self.slots.remove(&slot).is_some() {
            let why = why.to_owned();
            let answering = true;
            self.send(frame::Frame::Withdraw(v1::Withdraw {
                slot,
                why,
                answering,
            }));
        }
    }

    /// The bytes of [`Event::Sync`] are on stable storage.
    pub fn on_synced(&mut self, slot: u32, received: u64) {
        if matches!(
            self.slots.get(&slot),
            Some(Slot::Accepting(_) | Slot::Answering)
        ) {
            let bytes = received;
            self.send(frame::Frame::Synced(v1::Synced { slot, bytes }));
        }
    }

    /// Answers an offer.
    pub fn answer(&mut self, slot: u32, answer: Answer) {
        if self.slots.remove(&slot).is_none() {
            return;
        }
        match answer {
            Answer::Statement(signed) => self.send(frame::Frame::Answer(v1::Answer {
                slot,
                statement: Some(signed),
            })),
            Answer::Have => self.send(frame::Frame::Have(v1::Have { slot })),
        }
    }

    /// Sends a statement that is to be acknowledged.
    pub fn send_statement(&mut self, signed: Signed) {
        self.unacked
            .push_back(StatementId(Digest::of(&signed.body)));
        self.send(frame::Frame::Statement(signed));
    }

    /// Sends a convention or a sheet.
    pub fn send_note(&mut self, text: Vec<u8>) {
        self.send(frame::Frame::Note(v1::Note { text }));
    }

    /// Statements of the peer are committed here.
    pub fn ack(&mut self, ids: &[StatementId]) {
        let ids = ids.iter().map(|id| id.as_bytes().to_vec()).collect();
        self.send(frame::Frame::Ack(v1::Ack { ids }));
    }

    /// Wants to end: nothing more is offered, and what is open is finished.
    pub fn bye(&mut self, why: &str) {
        if !self.bye_sent {
            self.bye_sent = true;
            self.send(frame::Frame::Bye(v1::Bye {
                why: why.to_owned(),
            }));
        }
    }

    /// The next frame to send.
    pub fn poll_frame(&mut self, now: Duration) -> Option<v1::Frame> {
        let frame = self.frames.pop_front()?;
        self.last_sent = now;
        self.read_more();
        Some(frame)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When `on_timeout` is to be called next.
    pub fn poll_timeout(&self) -> Duration {
        (self.last_heard + IDLE_MAX).min(self.last_sent + KEEP_ALIVE)
    }
}
