//! Bytes of a package that are wrong on their way.

use passerelle_proto::Sealed;
use passerelle_proto::v1::{self, Data, Lane, Reason, Section, frame};
use passerelle_tests::{CAF_GATEWAY, Outcome, Rogue};

use crate::scene::{Scene, expect_refused, offer, part};

/// Bytes in one frame: the length of a chunk of such a package, so that frames can be altered.
const FRAME_LEN: usize = 64 * 1024;

/// Offers a package, sends what is wanted of its head, and leaves it at its chunks.
fn offer_and_send_the_head(rogue: &mut Rogue, sealed: &Sealed, pack: &[u8]) -> u32 {
    let manifest = sealed.manifest.signed().clone();
    let slot = rogue.offer(manifest, Vec::new());
    let head = wanted(rogue, slot);
    assert!(head.iter().all(|range| range.section() != Section::Chunks));
    for data in frames(slot, &head, sealed, pack) {
        rogue.say(frame::Frame::Data(data));
    }
    slot
}

/// The ranges that are asked for next.
fn wanted(rogue: &mut Rogue, slot: u32) -> Vec<v1::Range> {
    match rogue.outcome(slot) {
        Outcome::Need(need) => need.ranges,
        other => panic!("{other:?}"),
    }
}

fn frames(slot: u32, ranges: &[v1::Range], sealed: &Sealed, pack: &[u8]) -> Vec<Data> {
    let mut frames = Vec::new();
    for range in ranges {
        let bytes = part(sealed, pack, range.section());
        let bytes = &bytes[range.offset as usize..(range.offset + range.length) as usize];
        for (at, bytes) in bytes.chunks(FRAME_LEN).enumerate() {
            frames.push(Data {
                slot,
                section: range.section,
                offset: range.offset + (at * FRAME_LEN) as u64,
                bytes: bytes.to_vec().into(),
            });
        }
    }
    frames
}

/// What is done to the frames of a package's chunks.
type Alteration = fn(&mut Vec<Data>);

#[test]
fn chunks_that_are_altered_truncated_repeated_or_out_of_range_are_refused() {
    let flipped: Alteration = |frames| {
        let mut bytes = frames[2].bytes.to_vec();
        bytes[7] ^= 1;
        frames[2].bytes = bytes.into();
    };
    let truncated: Alteration = |frames| {
        let shorter = frames[3].bytes.len() - 1;
        frames[3].bytes.truncate(shorter);
    };
    let repeated: Alteration = |frames| frames.insert(2, frames[1].clone());
    let outside: Alteration = |frames| frames[1].offset = 1 << 40;
    let head: Alteration = |frames| frames[1].section = Section::Index as i32;
    let cases = [
        (flipped, Reason::Digest, "chunk 0"),
        (truncated, Reason::Malformed, "left out or truncated"),
        (repeated, Reason::Malformed, "once more"),
        (outside, Reason::Malformed, "out of range"),
        (head, Reason::Malformed, "another part of the package"),
    ];
    let scene = Scene::start();
    let mut rogue = scene.rogue(Lane::Bulk);
    for (seed, (alter, reason, words)) in cases.into_iter().enumerate() {
        let (sealed, pack) = scene.large(seed as u64 + 1);
        let id = sealed.manifest.id().to_string();
        let slot = offer_and_send_the_head(&mut rogue, &sealed, &pack);
        let ranges = wanted(&mut rogue, slot);
        let mut data = frames(slot, &ranges, &sealed, &pack);
        alter(&mut data);
        for data in data {
            rogue.say(frame::Frame::Data(data));
        }
        expect_refused(&rogue.outcome(slot), reason, words);
        scene.audited(CAF_GATEWAY, &id);
        scene.printed(CAF_GATEWAY, &[&id[..12], words]);
    }
    scene.expect_only_an_honest_package_arrives(&mut scene.rogue(Lane::Control));
}

#[test]
fn a_head_that_differs_from_its_commitment_is_refused() {
    let scene = Scene::start();
    let mut rogue = scene.rogue(Lane::Bulk);
    let parts = [
        (Section::Wraps, "wraps part"),
        (Section::ChunkTable, "chunk table"),
        (Section::Index, "index"),
    ];
    for (seed, (section, name)) in parts.into_iter().enumerate() {
        let (sealed, mut pack) = scene.large(seed as u64 + 11);
        let at = sealed.layout.offset_of(section).unwrap() as usize;
        pack[at] ^= 1;
        let id = sealed.manifest.id().to_string();
        let slot = offer_and_send_the_head(&mut rogue, &sealed, &pack);
        expect_refused(&rogue.outcome(slot), Reason::Digest, name);
        scene.audited(CAF_GATEWAY, &id);
        let words = format!("{name} differs from its digest");
        scene.printed(CAF_GATEWAY, &[&id[..12], &words]);
    }
    scene.expect_only_an_honest_package_arrives(&mut scene.rogue(Lane::Control));
}

#[test]
fn what_nobody_asked_for_ends_the_stream_with_words_and_is_audited() {
    let scene = Scene::start();
    let mut rogue = scene.rogue(Lane::Bulk);
    let (sealed, _) = scene.large(21);
    let slot = rogue.offer(offer(&scene.large(21)).manifest, Vec::new());
    wanted(&mut rogue, slot);
    rogue.say(frame::Frame::Data(Data {
        slot: slot + 5,
        section: Section::Wraps as i32,
        offset: 0,
        bytes: vec![0; 10].into(),
    }));
    let why = rogue.ended();
    assert!(why.contains("unknown or was used before"), "{why}");
    let id = sealed.manifest.id().to_string();
    let told = scene.entries(CAF_GATEWAY);
    assert!(told.iter().all(|entry| entry["package"] != id), "{told:?}");
    scene.expect_only_an_honest_package_arrives(&mut scene.rogue(Lane::Control));
}
