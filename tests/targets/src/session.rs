//! The session machine against a peer that may send anything, and a driver that is slow.
//!
//! A run is a list of [`Step`]s: what the peer sends, and what the driver of our side does. After
//! each of them the promises of the machine are checked from outside, by [`Watch`].

mod packages;
mod watch;

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use passerelle_proto::session::{Answer, Event, Fault, Held, PROTOCOL_MAX, Session};
use passerelle_proto::v1::{self, Frame, Lane, frame};
use passerelle_proto::{StatementId, UntrustedManifest};
use prost::Message;

use self::packages::Package;
use self::watch::Watch;

/// Steps of one run.
const STEPS_MAX: usize = 400;
/// Longest list of ids or ranges that the peer sends.
const LIST_MAX: usize = 70;

/// One thing that happens.
#[derive(Debug, Arbitrary)]
enum Step {
    // What the peer sends.
    Hello(u8),
    Offer {
        slot: Slot,
        package: u8,
        inline: u32,
    },
    /// The bytes that come next in the slot's transfer, as an honest peer sends them.
    NextData {
        slot: Slot,
        length: u32,
    },
    Data {
        slot: Slot,
        section: u8,
        offset: u32,
        length: u32,
    },
    Need {
        slot: Slot,
        ranges: Vec<(u8, u32, u32)>,
    },
    /// All of the head, or all chunks, as an honest peer asks for them.
    NeedAll {
        slot: Slot,
        chunks: bool,
    },
    PeerSynced {
        slot: Slot,
        bytes: u32,
    },
    /// All bytes that were sent to the peer are on its disk.
    PeerSyncedAll {
        slot: Slot,
    },
    PeerAnswer {
        slot: Slot,
        have: bool,
    },
    PeerWithdraw {
        slot: Slot,
        answering: bool,
    },
    Note(u16),
    Statement(u8),
    AckOurs {
        count: u8,
        unknown: bool,
    },
    KeepAlive,
    PeerBye,
    /// Any frame at all.
    Bytes(Vec<u8>),
    // What our side does.
    Propose {
        package: u8,
    },
    Read {
        short: bool,
    },
    GiveUp {
        slot: Slot,
    },
    Accept {
        slot: Slot,
        held: Option<u32>,
    },
    Refuse {
        slot: Slot,
    },
    SyncDone,
    Answer {
        slot: Slot,
        have: bool,
    },
    SendStatement(u8),
    Ack(u8),
    Poll(u8),
    Wait(u16),
    Bye,
}

/// A number of an offer: small ones, so that they meet.
#[derive(Debug, Clone, Copy, Arbitrary)]
struct Slot(u8);

impl Slot {
    fn number(self) -> u32 {
        match self.0 {
            255 => u32::MAX,
            small => u32::from(small),
        }
    }
}

/// A peer that offers, on either lane.
pub(crate) fn accepting(data: &[u8]) {
    run(data, false);
}

/// A peer that takes what we offer, on either lane.
pub(crate) fn offering(data: &[u8]) {
    run(data, true);
}

/// Frames as bytes, each behind its length; our side takes whatever is well formed.
pub(crate) fn frames(data: &[u8]) {
    let Some((lane, mut rest)) = data.split_first() else {
        return;
    };
    let mut scene = Scene::new(lane_of(*lane));
    while let Ok(frame) = Frame::decode_length_delimited(&mut rest) {
        if scene.gets(frame).is_err() {
            return;
        }
        scene.drive();
        while scene.poll() {}
    }
}

fn lane_of(byte: u8) -> Lane {
    match byte & 1 {
        0 => Lane::Bulk,
        _ => Lane::Control,
    }
}

fn run(data: &[u8], offering: bool) {
    let mut data = Unstructured::new(data);
    let Ok(lane) = data.arbitrary::<u8>() else {
        return;
    };
    let mut scene = Scene::new(lane_of(lane));
    if scene.gets(hello(scene.lane, 0)).is_err() {
        return;
    }
    if offering {
        scene.propose(lane >> 1);
        while scene.poll() {}
    }
    for _ in 0..STEPS_MAX {
        let Ok(step) = data.arbitrary::<Step>() else {
            break;
        };
        if scene.step(step).is_err() || data.is_empty() {
            break;
        }
    }
    scene.watch.at_the_end(scene.session, scene.now);
}

fn hello(lane: Lane, kind: u8) -> Frame {
    framed(frame::Frame::Hello(v1::Hello {
        protocol_min: u32::from(kind & 3),
        protocol_max: PROTOCOL_MAX + u32::from(kind >> 2 & 3),
        lane: if kind & 0x10 == 0 { lane as i32 } else { 7 },
        software: "x".repeat(usize::from(kind) * 2),
        ..v1::Hello::default()
    }))
}

fn framed(frame: frame::Frame) -> Frame {
    Frame { frame: Some(frame) }
}

fn statement(body: &[u8]) -> v1::Signed {
    v1::Signed {
        body: body.to_vec(),
        ..v1::Signed::default()
    }
}

/// Our side of the stream, its clock, and what is known about it.
struct Scene {
    session: Session,
    lane: Lane,
    now: Duration,
    watch: Watch,
}

impl Scene {
    fn new(lane: Lane) -> Self {
        let now = Duration::from_secs(100);
        let own = v1::Hello {
            protocol_min: 1,
            protocol_max: PROTOCOL_MAX,
            lane: lane as i32,
            ..v1::Hello::default()
        };
        Self {
            session: Session::new(own, now),
            lane,
            now,
            watch: Watch::new(lane),
        }
    }

    /// A frame arrives; whatever it makes us do is looked at.
    fn gets(&mut self, frame: Frame) -> Result<(), Fault> {
        self.watch.arrives(&frame);
        self.session.on_frame(frame, self.now)?;
        self.events();
        Ok(())
    }

    fn events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            self.watch.event(event);
        }
    }

    fn poll(&mut self) -> bool {
        let frame = self.session.poll_frame(self.now);
        self.events();
        frame.inspect(|frame| self.watch.leaves(frame)).is_some()
    }

    fn propose(&mut self, package: u8) {
        if !self.session.can_offer() {
            return;
        }
        let package = Package::at(package);
        let inline = match self.lane {
            Lane::Control => package.inline(),
            _ => Bytes::new(),
        };
        let slot = self.session.offer(&package.manifest, inline);
        self.watch.proposed(slot, package);
    }

    /// What a willing driver does with everything that waits for it.
    fn drive(&mut self) {
        for (slot, signed) in std::mem::take(&mut self.watch.undecided) {
            let parsed = UntrustedManifest::parse(signed);
            match parsed {
                Ok(manifest) if self.lane == Lane::Bulk => {
                    let manifest = manifest.verified_before();
                    self.session.accept(slot, &manifest, Held::default());
                }
                Ok(_) => self.session.answer(slot, Answer::Have),
                Err(error) => self.session.refuse(slot, &error.to_string()),
            }
            self.events();
        }
        self.sync_done();
        let statements = std::mem::take(&mut self.watch.statements);
        self.ack(&statements);
    }

    fn ack(&mut self, statements: &[StatementId]) {
        if !statements.is_empty() {
            self.session.ack(statements);
        }
    }

    fn sync_done(&mut self) {
        for (slot, received) in std::mem::take(&mut self.watch.syncs) {
            self.session.on_synced(slot, received);
            self.watch.synced(slot, received);
        }
        self.events();
    }

    fn step(&mut self, step: Step) -> Result<(), Fault> {
        match self.peer_frame(&step) {
            Some(frame) => self.gets(frame)?,
            None => self.our_step(step)?,
        }
        self.events();
        self.watch.check(&self.session, self.now);
        Ok(())
    }

    /// The frame that this step stands for, when it is one of the peer's.
    fn peer_frame(&self, step: &Step) -> Option<Frame> {
        use frame::Frame as F;
        let frame = match step {
            Step::Hello(kind) => return Some(hello(self.lane, *kind)),
            Step::Offer {
                slot,
                package,
                inline,
            } => F::Offer(v1::Offer {
                slot: slot.number(),
                manifest: Some(Package::at(*package).manifest.signed().clone()),
                inline: vec![0; (*inline % 70_000) as usize].into(),
                accepted: None,
            }),
            Step::NextData { slot, length } => {
                F::Data(self.watch.next_data(slot.number(), *length)?)
            }
            Step::Data {
                slot,
                section,
                offset,
                length,
            } => F::Data(v1::Data {
                slot: slot.number(),
                section: i32::from(*section % 6),
                offset: u64::from(*offset),
                bytes: vec![0; (*length % 1_100_000) as usize].into(),
            }),
            Step::Need { slot, ranges } => F::Need(need(*slot, ranges)),
            Step::NeedAll { slot, chunks } => F::Need(self.watch.need_all(slot.number(), *chunks)?),
            Step::PeerSynced { slot, bytes } => F::Synced(v1::Synced {
                slot: slot.number(),
                bytes: u64::from(*bytes),
            }),
            Step::PeerSyncedAll { slot } => F::Synced(v1::Synced {
                slot: slot.number(),
                bytes: self.watch.sent_on(slot.number()),
            }),
            Step::PeerAnswer { slot, have } => match have {
                true => F::Have(v1::Have {
                    slot: slot.number(),
                }),
                false => F::Answer(v1::Answer {
                    slot: slot.number(),
                    statement: Some(statement(b"accepted")),
                }),
            },
            Step::PeerWithdraw { slot, answering } => F::Withdraw(v1::Withdraw {
                slot: slot.number(),
                why: "why".into(),
                answering: *answering,
            }),
            Step::Note(length) => F::Note(v1::Note {
                text: vec![0; usize::from(*length) * 20],
            }),
            Step::Statement(body) => F::Statement(statement(&vec![*body; usize::from(*body) * 40])),
            Step::AckOurs { count, unknown } => F::Ack(self.watch.ack_ours(*count, *unknown)),
            Step::KeepAlive => F::KeepAlive(v1::KeepAlive {}),
            Step::PeerBye => F::Bye(v1::Bye {
                why: "é".repeat(400),
            }),
            Step::Bytes(bytes) => return Frame::decode(bytes.as_slice()).ok(),
            _ => return None,
        };
        Some(framed(frame))
    }

    fn our_step(&mut self, step: Step) -> Result<(), Fault> {
        match step {
            Step::Propose { package } => self.propose(package),
            Step::Read { short } => self.read(short),
            Step::GiveUp { slot } => {
                self.session.give_up(slot.number(), "we give it up");
                self.watch.gave_up(slot.number());
            }
            Step::Accept { slot, held } => self.accept(slot.number(), held),
            Step::Refuse { slot } => self.settle(slot.number(), None),
            Step::Answer { slot, have: true } => self.settle(slot.number(), Some(Answer::Have)),
            Step::Answer { slot, have: false } => {
                self.settle(slot.number(), Some(Answer::Statement(statement(b"no"))));
            }
            Step::SyncDone => self.sync_done(),
            Step::SendStatement(body) if self.session.can_send_statement() => {
                let signed = statement(&[body; 8]);
                self.watch.states(&signed);
                self.session.send_statement(signed);
            }
            Step::Ack(count) => {
                let count = usize::from(count).min(self.watch.statements.len());
                let ids: Vec<StatementId> = self.watch.statements.drain(..count).collect();
                self.ack(&ids);
            }
            Step::Poll(count) => {
                let mut left = count;
                while left > 0 && self.poll() {
                    left -= 1;
                }
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis(u64::from(ms));
                if self.now >= self.session.poll_timeout() {
                    self.session.on_timeout(self.now)?;
                    self.watch.timed_out = true;
                }
            }
            Step::Bye => self.session.bye("we want to end"),
            _ => {}
        }
        Ok(())
    }

    fn read(&mut self, short: bool) {
        let Some((slot, section, offset, bytes)) = self.watch.take_read() else {
            return;
        };
        let bytes = if short {
            bytes.slice(..bytes.len() - 1)
        } else {
            bytes
        };
        self.session.on_read(slot, section, offset, bytes);
    }

    fn accept(&mut self, slot: u32, held: Option<u32>) {
        let Some(signed) = self.watch.undecided.remove(&slot) else {
            return;
        };
        let Some(package) = Package::of(&signed) else {
            return self.session.refuse(slot, "unknown");
        };
        let held = held.map_or_else(Held::default, |chunks| Held {
            table: Some(package.table.clone()),
            chunks: u64::from(chunks) % (package.payload_length() + 1),
            ..Held::default()
        });
        self.watch.takes(slot, package, &held);
        self.session.accept(slot, &package.manifest, held);
    }

    fn settle(&mut self, slot: u32, answer: Option<Answer>) {
        self.watch.settled(slot);
        match answer {
            Some(answer) => self.session.answer(slot, answer),
            None => self.session.refuse(slot, "not now"),
        }
    }
}

fn need(slot: Slot, ranges: &[(u8, u32, u32)]) -> v1::Need {
    let ranges = ranges
        .iter()
        .take(LIST_MAX)
        .map(|(section, offset, length)| v1::Range {
            section: i32::from(*section % 6),
            offset: u64::from(*offset),
            length: u64::from(*length),
        });
    v1::Need {
        slot: slot.number(),
        ranges: ranges.collect(),
    }
}

/// Whether an event ends the transfer of its slot.
fn ends(event: &Event) -> Option<u32> {
    match event {
        Event::Complete { slot } | Event::Broken { slot, .. } => Some(*slot),
        Event::Withdrawn {
            slot, ours: false, ..
        } => Some(*slot),
        _ => None,
    }
}
