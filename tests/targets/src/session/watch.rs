//! What is known about a session from outside, and what must hold of it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use passerelle_proto::session::{
    DATA_LEN, DATA_LEN_MAX, Event, Held, IDLE_MAX, NOTES_LEN_MAX, NOTES_MAX, OFFERS_MAX,
    REPLIES_WAITING_MAX, STATEMENTS_MAX, Session, UNSYNCED_MAX,
};
use passerelle_proto::v1::{self, Frame, Lane, Section, Signed, frame};
use passerelle_proto::{Digest, StatementId};

use super::{LIST_MAX, Package, ends};

/// The parts of a package, in their order.
const PARTS: [Section; 4] = [
    Section::Wraps,
    Section::ChunkTable,
    Section::Index,
    Section::Chunks,
];

/// Everything that was seen.
pub(super) struct Watch {
    lane: Lane,
    /// Offers of the peer that wait for a decision.
    pub(super) undecided: BTreeMap<u32, Signed>,
    /// Statements of the peer that wait for an acknowledgement.
    pub(super) statements: Vec<StatementId>,
    /// What is to be synced.
    pub(super) syncs: Vec<(u32, u64)>,
    pub(super) timed_out: bool,
    taking: BTreeMap<u32, Taking>,
    offered: BTreeMap<u32, Offered>,
    reads: VecDeque<(u32, Section, u64, u64)>,
    unacked: Vec<StatementId>,
    notes: (usize, usize),
}

/// A transfer from the peer.
struct Taking {
    package: &'static Package,
    /// Where the next byte that is written must stand.
    written: [u64; 4],
    arrived: u64,
    verified: u64,
    synced: u64,
    over: bool,
}

/// A package of ours.
struct Offered {
    package: &'static Package,
    left: bool,
    sent: u64,
    synced: u64,
    /// What was asked for and not sent yet, in order.
    asked: VecDeque<(Section, u64, u64)>,
}

impl Watch {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            lane,
            undecided: BTreeMap::new(),
            statements: Vec::new(),
            syncs: Vec::new(),
            timed_out: false,
            taking: BTreeMap::new(),
            offered: BTreeMap::new(),
            reads: VecDeque::new(),
            unacked: Vec::new(),
            notes: (0, 0),
        }
    }

    fn offers_max(&self) -> usize {
        match self.lane {
            Lane::Control => OFFERS_MAX,
            _ => 1,
        }
    }

    /// A frame of the peer, before the machine sees it.
    pub(super) fn arrives(&mut self, frame: &Frame) {
        match &frame.frame {
            Some(frame::Frame::Data(data)) => {
                if let Some(taking) = self
                    .taking
                    .get_mut(&data.slot)
                    .filter(|taking| !taking.over)
                {
                    taking.arrived += data.bytes.len() as u64;
                }
            }
            Some(frame::Frame::Need(need)) => {
                if let Some(offered) = self.offered.get_mut(&need.slot) {
                    let ranges = need.ranges.iter().filter(|range| range.length > 0);
                    let ranges = ranges.map(|range| (range.section(), range.offset, range.length));
                    offered.asked.extend(ranges);
                }
            }
            Some(frame::Frame::Synced(synced)) => {
                if let Some(offered) = self.offered.get_mut(&synced.slot) {
                    offered.synced = offered.synced.max(synced.bytes);
                }
            }
            _ => {}
        }
    }

    /// Work that the machine gives its driver.
    pub(super) fn event(&mut self, event: Event) {
        if let Some(taking) = ends(&event).and_then(|slot| self.taking.get_mut(&slot)) {
            taking.over = true;
        }
        match event {
            Event::Offered {
                slot,
                manifest,
                inline,
                ..
            } => {
                assert!(inline.len() as u64 <= passerelle_proto::INLINE_LEN_MAX);
                self.undecided.insert(slot, manifest);
                assert!(self.undecided.len() <= self.offers_max());
            }
            Event::Withdrawn {
                slot, ours: true, ..
            }
            | Event::Answered { slot, .. } => {
                assert!(
                    self.offered.remove(&slot).is_some(),
                    "offer {slot} was settled before"
                );
            }
            Event::Withdrawn { slot, .. } => {
                self.undecided.remove(&slot);
            }
            Event::Statement(signed) => {
                assert!(signed.body.len() <= passerelle_proto::STATEMENT_LEN_MAX);
                self.statements.push(StatementId(Digest::of(&signed.body)));
                assert!(self.statements.len() <= STATEMENTS_MAX);
            }
            Event::Acked(ids) => {
                for id in ids {
                    let at = self.unacked.iter().position(|sent| *sent == id);
                    self.unacked
                        .remove(at.expect("a statement that we have sent"));
                }
            }
            Event::Note(text) => {
                self.notes = (self.notes.0 + 1, self.notes.1 + text.len());
                assert!(self.notes.0 <= NOTES_MAX && self.notes.1 <= NOTES_LEN_MAX);
            }
            Event::Bye(why) => assert!(why.chars().count() <= 300),
            Event::Greeted(_) | Event::Broken { .. } => {}
            transfer => self.transfer_event(transfer),
        }
    }

    /// Work for one transfer. Those of packages that are not ours have no [`Taking`].
    fn transfer_event(&mut self, event: Event) {
        match event {
            Event::Write {
                slot,
                section,
                offset,
                bytes,
            } => self.write(slot, section, offset, &bytes),
            Event::Sync { slot, received } => {
                let verified = self.taking.get(&slot).map(|taking| taking.verified);
                assert!(
                    verified.is_none_or(|verified| received <= verified),
                    "more is synced than was verified"
                );
                self.syncs.push((slot, received));
            }
            Event::Complete { slot } => {
                if let Some(taking) = self.taking.get(&slot) {
                    let ends = PARTS.map(|section| taking.package.part(section).len() as u64);
                    assert_eq!(taking.written, ends, "complete, and not all is written");
                }
            }
            Event::Read {
                slot,
                section,
                offset,
                length,
            } => {
                assert!((1..=DATA_LEN).contains(&length));
                let others = self.reads.iter().all(|read| read.0 != slot);
                assert!(others, "two reads at once");
                self.reads.push_back((slot, section, offset, length));
            }
            other => panic!("{other:?} is of no transfer"),
        }
    }

    /// Only bytes of the package are written, once, and in their order.
    fn write(&mut self, slot: u32, section: Section, offset: u64, bytes: &Bytes) {
        let Some(taking) = self.taking.get_mut(&slot) else {
            return;
        };
        let part = taking.package.part(section);
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        assert_eq!(
            part.get(start..end),
            Some(&bytes[..]),
            "bytes that were not signed"
        );
        let next = &mut taking.written[section as usize - 1];
        assert_eq!(*next, offset, "not in their order");
        *next = end as u64;
        taking.verified += bytes.len() as u64;
    }

    /// A frame that the machine sends.
    pub(super) fn leaves(&mut self, frame: &Frame) {
        match frame.frame.as_ref().expect("a frame with content") {
            frame::Frame::Offer(offer) => {
                if let Some(offered) = self.offered.get_mut(&offer.slot) {
                    offered.left = true;
                }
                let open = self.offered.values().filter(|offered| offered.left).count();
                assert!(open <= self.offers_max(), "{open} offers at once");
            }
            frame::Frame::Data(data) => self.data_leaves(data),
            _ => {}
        }
    }

    fn data_leaves(&mut self, data: &v1::Data) {
        let length = data.bytes.len() as u64;
        assert!((1..=DATA_LEN_MAX).contains(&length));
        // It may have been settled or given up while the frame waited.
        let Some(offered) = self.offered.get_mut(&data.slot) else {
            return;
        };
        offered.sent += length;
        assert!(
            offered.sent - offered.synced <= UNSYNCED_MAX,
            "beyond the window"
        );
        let (section, offset, left) = offered
            .asked
            .front_mut()
            .expect("bytes that were asked for");
        assert_eq!((data.section(), data.offset), (*section, *offset));
        assert!(length <= *left);
        (*offset, *left) = (*offset + length, *left - length);
        if *left == 0 {
            offered.asked.pop_front();
        }
    }

    pub(super) fn proposed(&mut self, slot: u32, package: &'static Package) {
        let offered = Offered {
            package,
            left: false,
            sent: 0,
            synced: 0,
            asked: VecDeque::new(),
        };
        assert!(self.offered.insert(slot, offered).is_none());
    }

    pub(super) fn gave_up(&mut self, slot: u32) {
        self.offered.remove(&slot);
        self.reads.retain(|read| read.0 != slot);
    }

    pub(super) fn takes(&mut self, slot: u32, package: &'static Package, held: &Held) {
        let mut written = [0; 4];
        if held.table.is_some() {
            written = PARTS.map(|section| package.part(section).len() as u64);
            let chunk = package.table.locate(held.chunks);
            let range = chunk.and_then(|chunk| package.table.range_of(chunk));
            written[3] = range.map_or(package.payload_length(), |range| range.start);
        }
        let taking = Taking {
            package,
            written,
            arrived: 0,
            verified: 0,
            synced: 0,
            over: self.lane == Lane::Control,
        };
        self.taking.insert(slot, taking);
    }

    /// So many bytes of a transfer from the peer are on stable storage.
    pub(super) fn synced(&mut self, slot: u32, received: u64) {
        if let Some(taking) = self.taking.get_mut(&slot) {
            taking.synced = received;
        }
    }

    /// Our side has said its last word about an offer of the peer.
    pub(super) fn settled(&mut self, slot: u32) {
        self.undecided.remove(&slot);
        if let Some(taking) = self.taking.get_mut(&slot) {
            taking.over = true;
        }
    }

    /// What the driver has read for the oldest request.
    pub(super) fn take_read(&mut self) -> Option<(u32, Section, u64, Bytes)> {
        let (slot, section, offset, length) = self.reads.pop_front()?;
        let package = self.offered.get(&slot)?.package;
        let (start, end) = (offset as usize, (offset + length) as usize);
        Some((
            slot,
            section,
            offset,
            package.part(section).slice(start..end),
        ))
    }

    pub(super) fn states(&mut self, signed: &Signed) {
        self.unacked.push(StatementId(Digest::of(&signed.body)));
        assert!(self.unacked.len() <= STATEMENTS_MAX);
    }

    pub(super) fn ack_ours(&self, count: u8, unknown: bool) -> v1::Ack {
        let known = self.unacked.iter().take(usize::from(count).min(LIST_MAX));
        let mut ids: Vec<Vec<u8>> = known.map(|id| id.as_bytes().to_vec()).collect();
        if unknown {
            ids.push(vec![0; 32]);
        }
        v1::Ack { ids }
    }

    pub(super) fn sent_on(&self, slot: u32) -> u64 {
        self.offered.get(&slot).map_or(0, |offered| offered.sent)
    }

    /// The bytes that an honest peer sends next.
    pub(super) fn next_data(&self, slot: u32, length: u32) -> Option<v1::Data> {
        let taking = self.taking.get(&slot)?;
        let mut buffered = taking.arrived - taking.verified;
        for section in PARTS {
            let part = taking.package.part(section);
            let at = taking.written[section as usize - 1] + std::mem::take(&mut buffered);
            let rest = part.get(at as usize..).filter(|rest| !rest.is_empty());
            if let Some(rest) = rest {
                let length = (length as usize % 1_100_000).clamp(1, rest.len());
                return Some(v1::Data {
                    slot,
                    section: section as i32,
                    offset: at,
                    bytes: part.slice(at as usize..at as usize + length),
                });
            }
        }
        None
    }

    /// What an honest peer asks for.
    pub(super) fn need_all(&self, slot: u32, chunks: bool) -> Option<v1::Need> {
        let package = self.offered.get(&slot)?.package;
        let sections = if chunks { &PARTS[3..] } else { &PARTS[..3] };
        let ranges = sections.iter().map(|section| v1::Range {
            section: *section as i32,
            offset: 0,
            length: package.part(*section).len() as u64,
        });
        Some(v1::Need {
            slot,
            ranges: ranges.collect(),
        })
    }

    /// What must hold after every step.
    pub(super) fn check(&mut self, session: &Session, now: Duration) {
        for (slot, taking) in &self.taking {
            let unsynced = taking.arrived - taking.synced;
            assert!(
                taking.over || unsynced <= UNSYNCED_MAX,
                "slot {slot}: {unsynced} bytes are not synced"
            );
        }
        let next = session.poll_timeout();
        assert!(next <= now + IDLE_MAX);
        if std::mem::take(&mut self.timed_out) {
            assert!(
                next > now,
                "a driver that is told to come back at once never rests"
            );
        }
    }

    /// Whatever the peer did without reading, what waits for it is bounded.
    pub(super) fn at_the_end(self, mut session: Session, now: Duration) {
        let mut waiting = 0;
        while let Some(frame) = session.poll_frame(now) {
            waiting += usize::from(matches!(
                frame.frame,
                Some(
                    frame::Frame::Need(_)
                        | frame::Frame::Synced(_)
                        | frame::Frame::Have(_)
                        | frame::Frame::Ack(_)
                        | frame::Frame::Answer(_)
                        | frame::Frame::Withdraw(v1::Withdraw {
                            answering: true,
                            ..
                        })
                )
            ));
        }
        // The driver may have had an answer ready for everything that was open.
        let open = OFFERS_MAX + STATEMENTS_MAX;
        assert!(
            waiting <= REPLIES_WAITING_MAX + open,
            "{waiting} replies wait for the peer"
        );
    }
}
