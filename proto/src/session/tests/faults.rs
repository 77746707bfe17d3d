//! Each way in which a peer can break the protocol is found, and told by its name.

use super::*;
use crate::v1::Reason;
use crate::{
    CHECKPOINT_LEN_MAX, ChunkError, INLINE_LEN_MAX, MANIFEST_LEN_MAX, MAX_CIPHERTEXT_LEN,
    NOTE_LEN_MAX, PARTIES_MAX, STATEMENT_LEN_MAX,
};

fn small() -> Package {
    package(1000, 2000, &[500, 700])
}

/// What a receiver of `package` makes of these frames: the fault of the package, if there is one.
fn broken(package: &Package, frames: &[(Section, u64, Bytes)]) -> Option<Fault> {
    let mut pair = taking(package, Held::default());
    for (section, offset, bytes) in frames {
        let frame = package.data(*section, *offset, bytes.clone());
        pair.far.on_frame(frame, START).unwrap();
    }
    let fault = events(&mut pair.far).into_iter().find_map(|event| {
        assert!(!matches!(event, Event::Complete { .. }));
        match event {
            Event::Broken { slot: 0, fault } => Some(fault),
            _ => None,
        }
    });
    assert!(fault.as_ref().is_none_or(Fault::is_of_package));
    fault
}

/// The frames of the head, then these.
fn after_head(package: &Package, frames: &[(Section, u64, Bytes)]) -> Vec<(Section, u64, Bytes)> {
    let head = [Section::Wraps, Section::ChunkTable, Section::Index]
        .map(|section| (section, 0, package.part(section).clone()));
    [&head, frames].concat()
}

fn flipped(bytes: &Bytes, at: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes.into()
}

#[test]
fn a_part_of_the_head_that_is_not_what_was_signed_breaks_the_transfer() {
    let package = small();
    let names = ["wraps part", "chunk table", "index"];
    for (at, name) in names.into_iter().enumerate() {
        let mut frames = after_head(&package, &[]);
        frames[at].2 = flipped(&frames[at].2, 7);
        let fault = broken(&package, &frames).unwrap();
        assert_eq!(fault, Fault::HeadDigest(name));
        assert_eq!(fault.reason(), Reason::Digest);
    }
}

#[test]
fn a_chunk_table_that_is_signed_and_nonsense_breaks_the_transfer() {
    let mut package = small();
    let head = [0, 1, 2].map(|at| package.parts[at].clone());
    package.manifest = manifest(&head, 1201);
    let fault = broken(&package, &after_head(&package, &[])).unwrap();
    let sum = ChunkError::Sum {
        sum: 1200,
        payload: 1201,
    };
    assert_eq!(fault, Fault::Chunk(sum));
    assert_eq!(fault.reason(), Reason::Malformed);
}

#[test]
fn a_flipped_chunk_breaks_the_transfer_and_none_of_it_is_written() {
    let package = small();
    let mut pair = taking(&package, Held::default());
    let chunks = flipped(package.part(Section::Chunks), 600);
    for (section, offset, bytes) in after_head(&package, &[(Section::Chunks, 0, chunks)]) {
        let frame = package.data(section, offset, bytes);
        pair.far.on_frame(frame, START).unwrap();
    }
    let events = events(&mut pair.far);
    for event in &events {
        let chunk = |section: &Section| *section == Section::Chunks;
        assert!(!matches!(event, Event::Write { section, .. } if chunk(section)));
    }
    let Some(Event::Broken { fault, .. }) = events.into_iter().last() else {
        panic!();
    };
    assert_eq!(fault, Fault::Chunk(ChunkError::Digest { chunk: 1 }));
    assert_eq!(fault.reason(), Reason::Digest);
}

#[test]
fn what_is_under_way_of_a_broken_transfer_is_dropped_and_the_stream_goes_on() {
    let package = small();
    let mut pair = taking(&package, Held::default());
    for _ in 0..3 {
        let wraps = flipped(package.part(Section::Wraps), 0);
        let frame = package.data(Section::Wraps, 0, wraps);
        pair.far.on_frame(frame, START).unwrap();
    }
    assert_eq!(events(&mut pair.far).len(), 1, "it is told once");
    let refusal = package.manifest.signed().clone();
    pair.far.answer(0, Answer::Statement(refusal.clone()));
    pair.cross();
    let refused = Answer::Statement(refusal);
    assert!(
        events(&mut pair.near).iter().any(
            |event| matches!(event, Event::Answered { slot: 0, answer } if *answer == refused)
        )
    );
    assert!(pair.near.can_offer());
}

#[test]
fn repeated_left_out_and_misplaced_data_is_told_apart() {
    let package = small();
    let chunks = package.part(Section::Chunks);
    let part = "chunks";
    let first = (Section::Chunks, 0, chunks.slice(..300));
    let repeated = after_head(&package, &[first.clone(), first.clone()]);
    let (found, expected) = (0, 300);
    let fault = Fault::Repeated {
        part,
        found,
        expected,
    };
    assert_eq!(broken(&package, &repeated), Some(fault));

    let truncated = after_head(
        &package,
        &[first, (Section::Chunks, 500, chunks.slice(500..))],
    );
    let (found, expected) = (500, 300);
    let fault = Fault::LeftOut {
        part,
        found,
        expected,
    };
    assert_eq!(broken(&package, &truncated), Some(fault));

    let mut longer = chunks.to_vec();
    longer.push(0);
    let beyond = after_head(&package, &[(Section::Chunks, 0, longer.into())]);
    let (end, length) = (1201, 1200);
    let fault = Fault::OutOfRange { part, end, length };
    assert_eq!(broken(&package, &beyond), Some(fault));

    let far = after_head(&package, &[(Section::Chunks, u64::MAX, chunks.clone())]);
    let fault = broken(&package, &far);
    assert!(
        matches!(fault, Some(Fault::OutOfRange { .. })),
        "no overflow"
    );
}

#[test]
fn another_part_than_the_one_that_is_due_breaks_the_transfer() {
    let package = small();
    let index = (Section::Index, 0, package.part(Section::Index).clone());
    let due = "wraps part";
    assert_eq!(
        broken(&package, std::slice::from_ref(&index)),
        Some(Fault::WrongPart { due })
    );
    let due = "chunks";
    let again = after_head(&package, &[index]);
    assert_eq!(broken(&package, &again), Some(Fault::WrongPart { due }));
}

#[test]
fn data_is_not_taken_before_it_is_asked_for_or_after_all_of_it_came() {
    let package = small();
    let chunks = package.part(Section::Chunks);
    let mut pair = taking(&package, Held::default());
    for (section, offset, bytes) in after_head(&package, &[(Section::Chunks, 0, chunks.clone())]) {
        let frame = package.data(section, offset, bytes);
        pair.far.on_frame(frame, START).unwrap();
    }
    let last = package.data(Section::Chunks, 1199, chunks.slice(1199..));
    assert_eq!(pair.far.on_frame(last.clone(), START), Err(Fault::NotAsked));

    let mut pair = super::pair(Lane::Bulk);
    assert_eq!(pair.far.on_frame(last.clone(), START), Err(Fault::Slot(0)));
    pair.near.offer(&package.manifest, Bytes::new());
    pair.cross();
    assert_eq!(pair.far.on_frame(last, START), Err(Fault::NotAsked));
}

#[test]
fn a_peer_that_does_not_wait_for_the_sync_fills_no_memory() {
    let package = package(100, 100, &[MAX_CIPHERTEXT_LEN; 4]);
    let held = Held {
        table: Some(package.table.clone()),
        chunks: 0,
        ..Held::default()
    };
    let mut pair = taking(&package, held);
    let all = package.part(Section::Chunks);
    let mut taken = 0;
    let fault = loop {
        let bytes = all.slice(taken..taken + DATA_LEN as usize);
        let frame = package.data(Section::Chunks, taken as u64, bytes);
        match pair.far.on_frame(frame, START) {
            Ok(()) => taken += DATA_LEN as usize,
            Err(fault) => break fault,
        }
    };
    assert_eq!(fault, Fault::Window);
    assert!(taken as u64 <= UNSYNCED_MAX);
}

#[test]
fn frames_of_data_have_their_limits() {
    let package = small();
    for length in [0, DATA_LEN_MAX as usize + 1] {
        let mut pair = taking(&package, Held::default());
        let frame = package.data(Section::Wraps, 0, noise(length, 1));
        assert_eq!(pair.far.on_frame(frame, START), Err(Fault::DataLength));
    }
}

#[test]
fn only_what_the_package_has_may_be_asked_for_and_only_once() {
    let range = |section: Section, offset, length| v1::Range {
        section: section as i32,
        offset,
        length,
    };
    let wrong = [
        vec![range(Section::Chunks, 0, 1201)],
        vec![range(Section::Chunks, u64::MAX, 2)],
        vec![range(Section::Unspecified, 0, 1)],
        vec![range(Section::Index, 0, 10), range(Section::Wraps, 0, 10)],
        vec![range(Section::Index, 0, 10), range(Section::Index, 9, 10)],
        vec![range(Section::Wraps, 0, 0); 5000],
    ];
    for ranges in wrong {
        let mut pair = taking(&small(), Held::default());
        let need = frame::Frame::Need(v1::Need { slot: 0, ranges });
        assert_eq!(pair.near_gets(need), Err(Fault::Range));
    }
    let mut pair = taking(&small(), Held::default());
    let need = |ranges| frame::Frame::Need(v1::Need { slot: 0, ranges });
    let chunks = need(vec![range(Section::Chunks, 0, 1200)]);
    assert_eq!(pair.near_gets(chunks.clone()), Ok(()));
    assert_eq!(pair.near_gets(chunks), Err(Fault::Range), "once more");
    let mut pair = taking(&small(), Held::default());
    for _ in 0..2 {
        assert_eq!(pair.near_gets(need(vec![])), Ok(()));
    }
    assert_eq!(pair.near_gets(need(vec![])), Err(Fault::Range), "a third");
}

#[test]
fn more_than_was_sent_cannot_be_synced_nor_less_than_before() {
    let package = small();
    let mut pair = taking(&package, Held::default());
    pair.cross_far();
    let wraps = package.part(Section::Wraps).clone();
    pair.near.on_read(0, Section::Wraps, 0, wraps);
    let synced = |bytes| frame::Frame::Synced(v1::Synced { slot: 0, bytes });
    assert_eq!(pair.near_gets(synced(1000)), Ok(()));
    assert_eq!(pair.near_gets(synced(999)), Err(Fault::Synced));
    assert_eq!(pair.near_gets(synced(1001)), Err(Fault::Synced));
}

#[test]
fn numbers_that_are_not_on_offer_are_faults() {
    let slot = 3;
    let unknown = [
        frame::Frame::Need(v1::Need {
            slot,
            ranges: Vec::new(),
        }),
        frame::Frame::Synced(v1::Synced { slot, bytes: 0 }),
        frame::Frame::Have(v1::Have { slot }),
        frame::Frame::Answer(v1::Answer {
            slot,
            statement: Some(v1::Signed::default()),
        }),
        frame::Frame::Withdraw(v1::Withdraw {
            slot,
            answering: true,
            ..v1::Withdraw::default()
        }),
        frame::Frame::Withdraw(v1::Withdraw {
            slot,
            ..v1::Withdraw::default()
        }),
    ];
    for frame in unknown {
        assert_eq!(pair(Lane::Control).far_gets(frame), Err(Fault::Slot(3)));
    }
    let mut pair = taking(&small(), Held::default());
    let have = frame::Frame::Have(v1::Have { slot: 0 });
    assert_eq!(pair.near_gets(have.clone()), Ok(()));
    assert_eq!(pair.near_gets(have), Err(Fault::Slot(0)), "answered twice");
}

fn offer(slot: u32) -> v1::Offer {
    v1::Offer {
        slot,
        manifest: Some(v1::Signed::default()),
        inline: Bytes::new(),
        accepted: None,
    }
}

#[test]
fn a_number_is_used_for_one_offer_only() {
    let mut pair = pair(Lane::Control);
    for slot in [0, 7] {
        assert_eq!(pair.far_gets(frame::Frame::Offer(offer(slot))), Ok(()));
        pair.far.refuse(slot, "not now");
    }
    for slot in [7, 3] {
        let again = pair.far_gets(frame::Frame::Offer(offer(slot)));
        assert_eq!(again, Err(Fault::Slot(slot)));
    }
}

#[test]
fn the_sixty_fifth_offer_without_an_answer_is_one_too_many_and_on_a_bulk_lane_the_second() {
    for (lane, most) in [(Lane::Control, OFFERS_MAX as u32), (Lane::Bulk, 1)] {
        let mut pair = pair(lane);
        for slot in 0..most {
            assert_eq!(pair.far_gets(frame::Frame::Offer(offer(slot))), Ok(()));
        }
        let one_more = pair.far_gets(frame::Frame::Offer(offer(most)));
        assert_eq!(one_more, Err(Fault::TooManyOffers));
    }
}

#[test]
fn offers_cannot_be_made_and_taken_back_without_end() {
    let mut pair = pair(Lane::Control);
    let mut fault = None;
    for slot in 0..1000 {
        pair.far_gets(frame::Frame::Offer(offer(slot))).unwrap();
        let withdraw = v1::Withdraw {
            slot,
            ..v1::Withdraw::default()
        };
        if let Err(found) = pair.far_gets(frame::Frame::Withdraw(withdraw)) {
            fault = Some((slot, found));
            break;
        }
    }
    assert_eq!(fault, Some((OFFERS_MAX as u32, Fault::TooManyOffers)));
}

#[test]
fn the_sixty_fifth_statement_without_an_acknowledgement_is_one_too_many() {
    let mut pair = pair(Lane::Control);
    let statement = || frame::Frame::Statement(v1::Signed::default());
    for _ in 0..STATEMENTS_MAX {
        assert_eq!(pair.far_gets(statement()), Ok(()));
    }
    pair.far.ack(&[StatementId(Digest::of(b""))]);
    assert_eq!(pair.far_gets(statement()), Ok(()));
    assert_eq!(pair.far_gets(statement()), Err(Fault::TooManyStatements));
}

#[test]
fn what_is_longer_than_its_kind_may_be_is_not_taken() {
    let signed = |length| v1::Signed {
        body: vec![0; length],
        ..v1::Signed::default()
    };
    let long_manifest = v1::Offer {
        manifest: Some(signed(MANIFEST_LEN_MAX + 1)),
        ..offer(0)
    };
    let long_inline = v1::Offer {
        inline: noise(INLINE_LEN_MAX as usize + 1, 1),
        ..offer(0)
    };
    let note = v1::Note {
        text: vec![0; NOTE_LEN_MAX + 1],
    };
    let answer = v1::Answer {
        slot: 0,
        statement: Some(signed(STATEMENT_LEN_MAX + 1)),
    };
    let ack = v1::Ack {
        ids: vec![vec![0; 32]; STATEMENTS_MAX + 1],
    };
    for (frame, what) in [
        (frame::Frame::Offer(long_manifest), "manifest"),
        (frame::Frame::Offer(long_inline), "package inside an offer"),
        (frame::Frame::Note(note), "note"),
        (
            frame::Frame::Statement(signed(STATEMENT_LEN_MAX + 1)),
            "statement",
        ),
        (frame::Frame::Answer(answer), "statement"),
        (frame::Frame::Ack(ack), "acknowledgement"),
    ] {
        assert_eq!(
            pair(Lane::Control).far_gets(frame),
            Err(Fault::TooLong(what))
        );
    }
}

#[test]
fn notes_are_counted_and_weighed() {
    let note = |length| {
        frame::Frame::Note(v1::Note {
            text: vec![0; length],
        })
    };
    for (length, most) in [(0, NOTES_MAX), (1 << 20, NOTES_LEN_MAX >> 20)] {
        let mut pair = pair(Lane::Control);
        for _ in 0..most {
            assert_eq!(pair.far_gets(note(length)), Ok(()));
            assert!(pair.far.poll_event().is_some());
        }
        assert_eq!(pair.far_gets(note(length)), Err(Fault::TooManyNotes));
    }
}

#[test]
fn frames_without_their_content_are_faults() {
    let mut pair = pair(Lane::Control);
    let nothing = v1::Frame { frame: None };
    assert_eq!(pair.far.on_frame(nothing, START), Err(Fault::EmptyFrame));
    let no_manifest = v1::Offer {
        manifest: None,
        ..offer(0)
    };
    let no_statement = v1::Answer {
        slot: 0,
        statement: None,
    };
    let no_id = v1::Ack {
        ids: vec![vec![0; 31]],
    };
    for frame in [
        frame::Frame::Offer(no_manifest),
        frame::Frame::Answer(no_statement),
        frame::Frame::Ack(no_id),
    ] {
        assert_eq!(pair.far_gets(frame), Err(Fault::EmptyFrame));
    }
}

fn greet(theirs: v1::Hello) -> Result<(), Fault> {
    let mut session = Session::new(hello(Lane::Control), START);
    session.on_frame(framed(frame::Frame::Hello(theirs)), START)
}

#[test]
fn peers_whose_versions_do_not_overlap_part_with_both_versions_named() {
    let speaking = |protocol_min, protocol_max| v1::Hello {
        protocol_min,
        protocol_max,
        ..hello(Lane::Control)
    };
    for (min, max) in [(0, 1), (1, 1), (1, 9), (0, u32::MAX)] {
        assert_eq!(greet(speaking(min, max)), Ok(()), "{min} to {max}");
    }
    for theirs in [(2, 3), (0, 0), (3, 1)] {
        let fault = Fault::Versions { theirs };
        assert_eq!(greet(speaking(theirs.0, theirs.1)), Err(fault));
    }
    let told = Fault::Versions { theirs: (2, 3) }.to_string();
    assert!(told.contains("speaks protocol 2 to 3, and we speak 1 to 1"));
}

#[test]
fn hello_is_first_once_for_the_lane_of_the_stream_and_not_too_long() {
    let mut pair = pair(Lane::Control);
    let second = frame::Frame::Hello(hello(Lane::Control));
    assert_eq!(pair.far_gets(second), Err(Fault::Hello));
    let mut session = Session::new(hello(Lane::Control), START);
    let early = framed(frame::Frame::KeepAlive(v1::KeepAlive {}));
    assert_eq!(session.on_frame(early, START), Err(Fault::Hello));
    assert_eq!(greet(hello(Lane::Bulk)), Err(Fault::Hello));
    let long = [
        v1::Hello {
            sheets: vec![v1::SheetState::default(); PARTIES_MAX + 1],
            ..hello(Lane::Control)
        },
        v1::Hello {
            checkpoint: vec![0; CHECKPOINT_LEN_MAX + 1],
            ..hello(Lane::Control)
        },
        v1::Hello {
            cosigned: vec![0; CHECKPOINT_LEN_MAX + 1],
            ..hello(Lane::Control)
        },
        v1::Hello {
            software: "x".repeat(201),
            ..hello(Lane::Control)
        },
    ];
    for theirs in long {
        assert_eq!(greet(theirs), Err(Fault::TooLong("Hello")));
    }
}

#[test]
fn an_offer_after_the_peer_wants_to_end_is_a_fault() {
    let mut pair = pair(Lane::Control);
    pair.near.bye("stopping");
    pair.cross();
    assert_eq!(
        pair.far_gets(frame::Frame::Offer(offer(0))),
        Err(Fault::AfterBye)
    );
}

/// What the peer sends, and what the program does with it, so often until it is a fault.
fn until_let_go_of(
    far: &mut Session,
    mut theirs: impl FnMut(u32) -> frame::Frame,
    mut ours: impl FnMut(&mut Session, u32),
) -> (usize, Fault) {
    for count in 0..u32::MAX {
        if let Err(fault) = far.on_frame(framed(theirs(count)), START) {
            return (count as usize, fault);
        }
        ours(far, count);
    }
    panic!("never let go of");
}

#[test]
fn a_peer_that_asks_on_and_reads_none_of_the_replies_is_let_go_of() {
    let mut lanes = pair(Lane::Control);
    let offered = |slot| frame::Frame::Offer(offer(slot));
    let answered = |far: &mut Session, slot| far.answer(slot, Answer::Have);
    let (frames, fault) = until_let_go_of(&mut lanes.far, offered, answered);
    assert_eq!((frames, &fault), (REPLIES_WAITING_MAX + 1, &Fault::NotRead));
    assert!(!fault.is_of_package());
    let mut lanes = pair(Lane::Control);
    let stated = |_| frame::Frame::Statement(lone_statement());
    let acked = |far: &mut Session, _| far.ack(&[StatementId(Digest::of(b"it"))]);
    let (frames, fault) = until_let_go_of(&mut lanes.far, stated, acked);
    assert_eq!((frames, fault), (REPLIES_WAITING_MAX + 1, Fault::NotRead));
    let mut lanes = pair(Lane::Control);
    lanes.far.bye("stopping");
    let (frames, fault) = until_let_go_of(&mut lanes.far, offered, |_, _| {});
    assert_eq!((frames, fault), (REPLIES_WAITING_MAX + 1, Fault::NotRead));
}

#[test]
fn a_peer_that_reads_the_replies_may_go_on() {
    let mut lanes = pair(Lane::Control);
    for slot in 0..3 * REPLIES_WAITING_MAX as u32 {
        lanes.far_gets(frame::Frame::Offer(offer(slot))).unwrap();
        lanes.far.answer(slot, Answer::Have);
        assert!(lanes.far.poll_frame(START).is_some());
    }
}

fn lone_statement() -> v1::Signed {
    v1::Signed {
        body: b"it".to_vec(),
        ..v1::Signed::default()
    }
}
