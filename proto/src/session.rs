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
//!
//! A driver waits for one of: a frame of the peer, room for a frame of ours, work that is done,
//! and the deadline; after each it takes the events. The events of one slot are work to be done
//! one after the other, in their order. A [`Fault`] that an input returns ends the stream; wrong
//! bytes of one package are [`Event::Broken`], and the stream goes on.

mod accepting;
mod event;
mod fault;
mod hello;
mod offering;
mod offers;
mod slots;
mod statements;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use accepting::Accepting;
pub use accepting::Held;
pub use event::{Answer, Event};
pub use fault::Fault;
use offering::Offering;
use slots::Slot;

use crate::StatementId;
use crate::v1::{self, Lane, frame};

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
// What is verified as a whole is synced as a whole: it has to fit into the window.
const _: () = assert!(
    crate::INDEX_LEN_MAX <= UNSYNCED_MAX
        && crate::TABLE_LEN_MAX <= UNSYNCED_MAX
        && crate::WRAPS_LEN_MAX <= UNSYNCED_MAX
);
/// Bytes received after which the receiver syncs.
pub const SYNC_EVERY: u64 = 1024 * 1024;
/// Frames waiting to be sent, above which no more data is read.
const FRAMES_MAX: usize = 8;
/// Replies that wait until the peer reads them. One that does is owed fewer: an answer for each of
/// its offers, an acknowledgement for each of its statements, and the syncs of one window.
pub const REPLIES_WAITING_MAX: usize = 512;
/// Bytes of notes that one stream may bring: a convention, and the sheets of all its parties.
pub const NOTES_LEN_MAX: usize = 64 * 1024 * 1024;
/// Notes that one stream may bring.
pub const NOTES_MAX: usize = 2 * crate::PARTIES_MAX;
/// Longest reason in words that is taken from a peer, in characters.
const WHY_LEN_MAX: usize = 300;

/// One stream. See the module's text for its methods.
pub struct Session {
    lane: Lane,
    greeted: Option<v1::Hello>,
    offers: BTreeMap<u32, Offering>,
    next_slot: u32,
    // Offers that we gave up and whose last frames from the peer may be under way.
    given_up: BTreeSet<u32>,
    slots: BTreeMap<u32, Slot>,
    last_peer_slot: Option<u32>,
    // Offers that the peer gave up while we decided: the decision still runs.
    taken_back: usize,
    unacked: VecDeque<StatementId>,
    // Statements of the peer that we have not acknowledged.
    uncommitted: usize,
    notes: usize,
    notes_len: usize,
    frames: VecDeque<v1::Frame>,
    // Those among them that reply to frames of the peer.
    replies: usize,
    events: VecDeque<Event>,
    last_sent: Duration,
    last_heard: Duration,
    bye_sent: bool,
    bye_received: bool,
    // When our Bye has left.
    bye_left: Option<Duration>,
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
            given_up: BTreeSet::new(),
            slots: BTreeMap::new(),
            last_peer_slot: None,
            taken_back: 0,
            unacked: VecDeque::new(),
            uncommitted: 0,
            notes: 0,
            notes_len: 0,
            frames: VecDeque::new(),
            replies: 0,
            events: VecDeque::new(),
            last_sent: now,
            last_heard: now,
            bye_sent: false,
            bye_received: false,
            bye_left: None,
        };
        session.send(frame::Frame::Hello(hello));
        session
    }

    fn send(&mut self, frame: frame::Frame) {
        self.replies += usize::from(is_reply(&frame));
        self.frames.push_back(v1::Frame { frame: Some(frame) });
    }

    /// A frame has arrived.
    ///
    /// # Errors
    /// [`Fault`]: the peer broke the protocol; the stream must end.
    pub fn on_frame(&mut self, frame: v1::Frame, now: Duration) -> Result<(), Fault> {
        self.last_heard = now;
        if self.replies > REPLIES_WAITING_MAX {
            return Err(Fault::NotRead);
        }
        let frame = frame.frame.ok_or(Fault::EmptyFrame)?;
        match (&self.greeted, frame) {
            (None, frame::Frame::Hello(hello)) => {
                hello::check(&hello, self.lane)?;
                self.greeted = Some(hello.clone());
                self.events.push_back(Event::Greeted(hello));
                Ok(())
            }
            // A peer that wants none of this stream says why, and nothing else.
            (None, frame::Frame::Bye(bye)) => {
                self.on_bye(bye);
                Ok(())
            }
            (None, _) | (Some(_), frame::Frame::Hello(_)) => Err(Fault::Hello),
            (Some(_), frame) => self.on_greeted_frame(frame),
        }
    }

    fn on_greeted_frame(&mut self, frame: frame::Frame) -> Result<(), Fault> {
        match frame {
            frame::Frame::Hello(_) => Err(Fault::Hello),
            frame::Frame::Note(note) => self.on_note(note),
            frame::Frame::Offer(offer) => self.on_offer(offer),
            frame::Frame::Need(need) => self.on_need(&need),
            frame::Frame::Data(data) => self.on_data(data),
            frame::Frame::Synced(synced) => self.on_peer_synced(&synced),
            frame::Frame::Have(have) => self.on_answer(have.slot, Answer::Have),
            frame::Frame::Statement(signed) => self.on_statement(signed),
            frame::Frame::Answer(answer) => {
                let statement = answer.statement.ok_or(Fault::EmptyFrame)?;
                statements::check_length(&statement)?;
                self.on_answer(answer.slot, Answer::Statement(statement))
            }
            frame::Frame::Ack(ack) => self.on_ack(&ack),
            frame::Frame::Withdraw(v1::Withdraw {
                slot,
                why,
                answering,
            }) => match answering {
                true => self.on_declined(slot, shortened(&why)),
                false => self.on_withdrawn(slot, shortened(&why)),
            },
            frame::Frame::KeepAlive(_) => Ok(()),
            frame::Frame::Bye(bye) => {
                self.on_bye(bye);
                Ok(())
            }
        }
    }

    fn on_note(&mut self, note: v1::Note) -> Result<(), Fault> {
        if note.text.len() > crate::NOTE_LEN_MAX {
            return Err(Fault::TooLong("note"));
        }
        self.notes += 1;
        self.notes_len += note.text.len();
        if self.notes > NOTES_MAX || self.notes_len > NOTES_LEN_MAX {
            return Err(Fault::TooManyNotes);
        }
        self.events.push_back(Event::Note(note.text));
        Ok(())
    }

    fn on_bye(&mut self, bye: v1::Bye) {
        self.bye_received = true;
        self.events.push_back(Event::Bye(shortened(&bye.why)));
    }

    /// Time has passed.
    ///
    /// # Errors
    /// [`Fault::Idle`] when the peer was silent for too long.
    pub fn on_timeout(&mut self, now: Duration) -> Result<(), Fault> {
        if now.saturating_sub(self.last_heard) >= IDLE_MAX {
            return Err(Fault::Idle);
        }
        if self.bye_deadline().is_some_and(|deadline| now >= deadline) {
            // A peer that does not answer a Bye has nothing more to say.
            self.bye_received = true;
        }
        if now.saturating_sub(self.last_sent) >= KEEP_ALIVE && self.frames.is_empty() {
            self.send(frame::Frame::KeepAlive(v1::KeepAlive {}));
        }
        Ok(())
    }

    fn bye_deadline(&self) -> Option<Duration> {
        let unanswered = self.bye_left.filter(|_| !self.bye_received);
        unanswered.map(|left| left + IDLE_MAX)
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

    /// Sends a convention or a sheet.
    pub fn send_note(&mut self, text: Vec<u8>) {
        self.send(frame::Frame::Note(v1::Note { text }));
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
        self.replies -= usize::from(frame.frame.as_ref().is_some_and(is_reply));
        if let Some(frame::Frame::Bye(_)) = frame.frame {
            self.bye_left = Some(now);
        }
        self.read_more();
        Some(frame)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When `on_timeout` is to be called next.
    pub fn poll_timeout(&self) -> Duration {
        let idle = self.last_heard + IDLE_MAX;
        // While frames wait to be sent there is nothing to keep alive.
        let silent = self
            .frames
            .is_empty()
            .then_some(self.last_sent + KEEP_ALIVE);
        let others = silent.into_iter().chain(self.bye_deadline());
        others.fold(idle, Duration::min)
    }
}

/// Whether the peer makes us send this frame, by what it sends.
fn is_reply(frame: &frame::Frame) -> bool {
    use frame::Frame::*;
    match frame {
        Need(_) | Synced(_) | Have(_) | Answer(_) | Ack(_) => true,
        Withdraw(withdraw) => withdraw.answering,
        Hello(_) | Note(_) | Offer(_) | Data(_) | Statement(_) | KeepAlive(_) | Bye(_) => false,
    }
}

fn shortened(why: &str) -> String {
    why.chars().take(WHY_LEN_MAX).collect()
}
