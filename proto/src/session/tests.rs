//! A pair of sessions over an in-memory wire with virtual time.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::fixture::{keys, plan, seal_files, world};
use crate::v1::Section;
use crate::{ChunkTable, Digest, Sealed};

const START: Duration = Duration::from_secs(100);

fn hello(lane: Lane) -> v1::Hello {
    v1::Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        lane: lane as i32,
        ..v1::Hello::default()
    }
}

/// What a receiver has durably, and what it would lose when it is killed.
#[derive(Default)]
struct Store {
    written: BTreeMap<(i32, u64), Bytes>,
    synced: BTreeMap<(i32, u64), Bytes>,
}

impl Store {
    fn held(&self, sealed: &Sealed) -> Held {
        let part = |section: Section| self.synced.get(&(section as i32, 0));
        let table = part(Section::ChunkTable).filter(|_| part(Section::Index).is_some());
        let length = sealed.manifest.payload_length();
        let chunks = self.synced.iter().filter(|((section, _), _)| *section == 4);
        Held {
            table: table.map(|bytes| ChunkTable::parse(bytes, length).unwrap()),
            chunks: chunks.map(|(_, bytes)| bytes.len() as u64).sum(),
        }
    }
}

/// Both ends, and bytes of data that crossed.
struct Pair {
    offering: Session,
    accepting: Session,
    now: Duration,
    crossed: u64,
}

fn pair(lane: Lane) -> Pair {
    let mut pair = Pair {
        offering: Session::new(hello(lane), START),
        accepting: Session::new(hello(lane), START),
        now: START,
        crossed: 0,
    };
    for _ in 0..2 {
        let to = pair.offering.poll_frame(START);
        let back = pair.accepting.poll_frame(START);
        to.map(|frame| pair.accepting.on_frame(frame, START).unwrap());
        back.map(|frame| pair.offering.on_frame(frame, START).unwrap());
    }
    assert!(matches!(
        pair.offering.poll_event(),
        Some(Event::Greeted(_))
    ));
    assert!(matches!(
        pair.accepting.poll_event(),
        Some(Event::Greeted(_))
    ));
    pair
}

fn noise(length: usize) -> Vec<u8> {
    (0..length.div_ceil(32) as u32)
        .flat_map(|n| Digest::of(&n.to_be_bytes()).0)
        .take(length)
        .collect()
}

fn package(length: usize) -> (Sealed, Vec<u8>) {
    let mut plan = plan(world().directory.convention());
    plan.title = String::new();
    seal_files(&plan, &keys("caf21").agent, &[("a", noise(length))])
}

impl Pair {
    /// Runs until the transfer is complete or `frames` frames have crossed; true when complete.
    fn transfer(&mut self, sealed: &Sealed, pack: &[u8], store: &mut Store, frames: usize) -> bool {
        let slot = self.offering.offer(&sealed.manifest, Bytes::new());
        for _ in 0..frames {
            self.offering_work(slot, sealed, pack);
            if let Some(frame) = self.offering.poll_frame(self.now) {
                if let Some(frame::Frame::Data(data)) = &frame.frame {
                    self.crossed += data.bytes.len() as u64;
                }
                self.accepting.on_frame(frame, self.now).unwrap();
            }
            if self.accepting_work(sealed, store) {
                return true;
            }
            while let Some(frame) = self.accepting.poll_frame(self.now) {
                self.offering.on_frame(frame, self.now).unwrap();
            }
        }
        false
    }

    fn offering_work(&mut self, slot: u32, sealed: &Sealed, pack: &[u8]) {
        while let Some(event) = self.offering.poll_event() {
            let Event::Read {
                section,
                offset,
                length,
                ..
            } = event
            else {
                panic!("{event:?}")
            };
            let start = sealed.layout.offset_of(section).unwrap() + offset;
            let bytes = &pack[start as usize..(start + length) as usize];
            self.offering
                .on_read(slot, section, offset, Bytes::copy_from_slice(bytes));
        }
    }

    fn accepting_work(&mut self, sealed: &Sealed, store: &mut Store) -> bool {
        while let Some(event) = self.accepting.poll_event() {
            match event {
                Event::Offered { slot, .. } => {
                    self.accepting
                        .accept(slot, &sealed.manifest, store.held(sealed));
                }
                Event::Write {
                    section,
                    offset,
                    bytes,
                    ..
                } => {
                    store.written.insert((section as i32, offset), bytes);
                }
                Event::Sync { slot, received } => {
                    store.synced.extend(std::mem::take(&mut store.written));
                    self.accepting.on_synced(slot, received);
                }
                Event::Complete { .. } => return true,
                other => panic!("{other:?}"),
            }
        }
        false
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_transfer_that_breaks_anywhere_goes_on_where_it_was(
        length in 1_usize..3_000_000,
        breaks in prop::collection::vec(2_usize..40, 0..5),
    ) {
        let (sealed, pack) = package(length);
        let mut store = Store::default();
        let mut crossed = 0;
        let mut done = false;
        let mut streams = 0;
        for frames in breaks.iter().copied().chain([usize::MAX]) {
            let mut pair = pair(Lane::Bulk);
            done = pair.transfer(&sealed, &pack, &mut store, frames);
            crossed += pair.crossed;
            store.written.clear();
            streams += 1;
            if done { break }
        }
        prop_assert!(done);
        let total = sealed.manifest.total_length();
        prop_assert!(crossed <= total + streams * UNSYNCED_MAX);
        let start = sealed.layout.offset_of(Section::Chunks).unwrap() as usize;
        let chunks: Vec<u8> = store.synced.iter()
            .filter(|((section, _), _)| *section == 4)
            .flat_map(|(_, bytes)| bytes.to_vec()).collect();
        prop_assert!(chunks == pack[start..]);
    }
}

fn data(section: Section, offset: u64, bytes: &[u8]) -> v1::Frame {
    v1::Frame {
        frame: Some(frame::Frame::Data(v1::Data {
            slot: 0,
            section: section as i32,
            offset,
            bytes: Bytes::copy_from_slice(bytes),
        })),
    }
}

/// An accepting session that has taken an offer, and the package.
fn accepting(length: usize) -> (Session, Sealed, Vec<u8>) {
    let (sealed, pack) = package(length);
    let mut pair = pair(Lane::Bulk);
    pair.offering.offer(&sealed.manifest, Bytes::new());
    let offer = pair.offering.poll_frame(START).unwrap();
    pair.accepting.on_frame(offer, START).unwrap();
    pair.accepting.poll_event().unwrap();
    pair.accepting.accept(0, &sealed.manifest, Held::default());
    (pair.accepting, sealed, pack)
}

fn broken(session: &mut Session) -> Option<Fault> {
    std::iter::from_fn(|| session.poll_event()).find_map(|event| match event {
        Event::Broken { fault, .. } => Some(fault),
        _ => None,
    })
}

fn part(sealed: &Sealed, pack: &[u8], section: Section) -> Vec<u8> {
    let start = sealed.layout.offset_of(section).unwrap() as usize;
    pack[start..start + sealed.layout.length_of(section) as usize].to_vec()
}

#[test]
fn wrong_bytes_break_the_transfer_and_not_the_stream() {
    let (mut session, sealed, pack) = accepting(400_000);
    let mut wraps = part(&sealed, &pack, Section::Wraps);
    wraps[5] ^= 1;
    session
        .on_frame(data(Section::Wraps, 0, &wraps), START)
        .unwrap();
    assert_eq!(broken(&mut session), Some(Fault::HeadDigest("wraps part")));
    assert_eq!(Fault::HeadDigest("").reason(), v1::Reason::Digest);
    session
        .on_frame(data(Section::Wraps, 0, &wraps), START)
        .unwrap();
    assert_eq!(broken(&mut session), None, "what was under way is dropped");
}

#[test]
fn repeated_reordered_and_flipped_chunks_are_found() {
    let head = |session: &mut Session, sealed: &Sealed, pack: &[u8]| {
        for section in [Section::Wraps, Section::ChunkTable, Section::Index] {
            let bytes = part(sealed, pack, section);
            session.on_frame(data(section, 0, &bytes), START).unwrap();
        }
    };
    let (mut session, sealed, pack) = accepting(400_000);
    head(&mut session, &sealed, &pack);
    let chunks = part(&sealed, &pack, Section::Chunks);
    session
        .on_frame(data(Section::Chunks, 0, &chunks[..1000]), START)
        .unwrap();
    session
        .on_frame(data(Section::Chunks, 0, &chunks[..1000]), START)
        .unwrap();
    let repeated = Fault::Repeated {
        part: "chunks",
        found: 0,
        expected: 1000,
    };
    assert_eq!(broken(&mut session), Some(repeated));

    let (mut session, sealed, pack) = accepting(400_000);
    head(&mut session, &sealed, &pack);
    let mut chunks = part(&sealed, &pack, Section::Chunks);
    chunks[7] ^= 1;
    session
        .on_frame(data(Section::Chunks, 0, &chunks), START)
        .unwrap();
    assert_eq!(
        broken(&mut session),
        Some(Fault::Chunk(crate::ChunkError::Digest { chunk: 0 }))
    );

    let (mut session, sealed, pack) = accepting(400_000);
    head(&mut session, &sealed, &pack);
    let mut chunks = part(&sealed, &pack, Section::Chunks);
    chunks.push(0);
    session
        .on_frame(data(Section::Chunks, 0, &chunks), START)
        .unwrap();
    assert!(
        matches!(broken(&mut session), Some(Fault::OutOfRange { .. })),
        "out of range"
    );
}

#[test]
fn what_breaks_the_protocol_ends_the_stream() {
    let fault = |frame: frame::Frame| {
        let mut pair = pair(Lane::Control);
        pair.accepting
            .on_frame(v1::Frame { frame: Some(frame) }, START)
            .unwrap_err()
    };
    assert_eq!(
        fault(frame::Frame::Hello(hello(Lane::Control))),
        Fault::Hello
    );
    let need = v1::Need {
        slot: 3,
        ranges: Vec::new(),
    };
    assert_eq!(fault(frame::Frame::Need(need)), Fault::Slot(3));
    assert_eq!(
        fault(frame::Frame::Have(v1::Have { slot: 1 })),
        Fault::Slot(1)
    );
    let unasked = data(Section::Chunks, 0, b"x").frame.unwrap();
    assert_eq!(fault(unasked), Fault::Slot(0));
    let mut newer = hello(Lane::Control);
    (newer.protocol_min, newer.protocol_max) = (2, 3);
    let mut session = Session::new(hello(Lane::Control), START);
    let frame = v1::Frame {
        frame: Some(frame::Frame::Hello(newer)),
    };
    assert_eq!(
        session.on_frame(frame, START),
        Err(Fault::Versions { theirs: (2, 3) })
    );
}

#[test]
fn the_sixty_fifth_undecided_offer_is_one_too_many() {
    let (sealed, _) = package(10);
    let mut pair = pair(Lane::Control);
    for _ in 0..OFFERS_MAX {
        assert!(pair.offering.can_offer());
        pair.offering.offer(&sealed.manifest, Bytes::new());
        let frame = pair.offering.poll_frame(START).unwrap();
        pair.accepting.on_frame(frame, START).unwrap();
    }
    assert!(!pair.offering.can_offer());
    pair.offering.offer(&sealed.manifest, Bytes::new());
    let frame = pair.offering.poll_frame(START).unwrap();
    assert_eq!(
        pair.accepting.on_frame(frame, START),
        Err(Fault::TooManyOffers)
    );
}

#[test]
fn no_more_than_the_window_is_sent_ahead_of_the_sync() {
    let (sealed, pack) = package(12_000_000);
    let mut pair = pair(Lane::Bulk);
    let slot = pair.offering.offer(&sealed.manifest, Bytes::new());
    pair.offering.poll_frame(START);
    let ranges = vec![v1::Range {
        section: 4,
        offset: 0,
        length: sealed.manifest.payload_length(),
    }];
    let need = frame::Frame::Need(v1::Need { slot, ranges });
    pair.offering
        .on_frame(v1::Frame { frame: Some(need) }, START)
        .unwrap();
    let mut sent = 0;
    loop {
        pair.offering_work(slot, &sealed, &pack);
        let Some(frame) = pair.offering.poll_frame(START) else {
            break;
        };
        let Some(frame::Frame::Data(data)) = frame.frame else {
            panic!()
        };
        sent += data.bytes.len() as u64;
    }
    assert_eq!(sent, UNSYNCED_MAX);
    let synced = frame::Frame::Synced(v1::Synced {
        slot,
        bytes: sent + 1,
    });
    let beyond = pair.offering.on_frame(
        v1::Frame {
            frame: Some(synced),
        },
        START,
    );
    assert_eq!(beyond, Err(Fault::Synced));
}

#[test]
fn silence_is_answered_by_keep_alives_and_ended_after_ten_seconds() {
    let mut pair = pair(Lane::Control);
    assert_eq!(pair.offering.poll_timeout(), START + KEEP_ALIVE);
    pair.offering.on_timeout(START + KEEP_ALIVE).unwrap();
    let frame = pair.offering.poll_frame(START + KEEP_ALIVE).unwrap();
    assert!(matches!(frame.frame, Some(frame::Frame::KeepAlive(_))));
    pair.accepting.on_frame(frame, START + KEEP_ALIVE).unwrap();
    assert_eq!(pair.offering.on_timeout(START + IDLE_MAX), Err(Fault::Idle));
    assert_eq!(pair.accepting.on_timeout(START + IDLE_MAX), Ok(()));
}

#[test]
fn statements_are_acknowledged_and_answers_are_not() {
    let (sealed, _) = package(10);
    let mut pair = pair(Lane::Control);
    let slot = pair.offering.offer(&sealed.manifest, Bytes::new());
    let frame = pair.offering.poll_frame(START).unwrap();
    pair.accepting.on_frame(frame, START).unwrap();
    let statement = sealed.manifest.signed().clone();
    pair.accepting
        .answer(slot, Answer::Statement(statement.clone()));
    pair.accepting.send_statement(statement.clone());
    pair.offering.bye("done");
    assert!(!pair.offering.is_finished());
    while let Some(frame) = pair.accepting.poll_frame(START) {
        pair.offering.on_frame(frame, START).unwrap();
    }
    assert!(matches!(
        pair.offering.poll_event(),
        Some(Event::Answered { slot: 0, .. })
    ));
    assert!(matches!(
        pair.offering.poll_event(),
        Some(Event::Statement(_))
    ));
    let id = StatementId(Digest::of(&statement.body));
    pair.offering.ack(&[id]);
    while let Some(frame) = pair.offering.poll_frame(START) {
        pair.accepting.on_frame(frame, START).unwrap();
    }
    let mut events = std::iter::from_fn(|| pair.accepting.poll_event());
    assert!(events.any(|event| matches!(event, Event::Acked(ids) if ids == [id])));
    drop(events);
    assert!(
        !pair.offering.is_finished(),
        "the peer may still have something to say"
    );
    pair.accepting.bye("as you wish");
    while let Some(frame) = pair.accepting.poll_frame(START) {
        pair.offering.on_frame(frame, START).unwrap();
    }
    assert!(pair.offering.is_finished() && pair.accepting.is_finished());
}
