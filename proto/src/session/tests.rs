//! Packages of any shape, and a pair of sessions over an in-memory wire with a virtual clock.

mod ending;
mod faults;
mod offers;
mod transfers;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message;

use super::*;
use crate::fixture::{keys, plan, seal_files, world};
use crate::v1::{ObjectType, Section};
use crate::{
    ChunkRecord, ChunkTable, Digest, SigningKey, UntrustedManifest, VerifiedManifest, envelope,
};

const START: Duration = Duration::from_secs(100);

fn hello(lane: Lane) -> v1::Hello {
    v1::Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        lane: lane as i32,
        ..v1::Hello::default()
    }
}

fn framed(frame: frame::Frame) -> v1::Frame {
    v1::Frame { frame: Some(frame) }
}

/// Bytes that differ from place to place, and with `seed`.
fn noise(length: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

/// A package as a stream sees it: what its parts mean does not matter.
#[derive(Clone)]
struct Package {
    manifest: VerifiedManifest,
    table: ChunkTable,
    /// Wraps, chunk table, index, chunks.
    parts: [Bytes; 4],
}

/// A package with parts of these lengths.
fn package(wraps: usize, index: usize, chunks: &[u32]) -> Package {
    let chunks: Vec<Bytes> = chunks
        .iter()
        .zip(10..)
        .map(|(length, seed)| noise(*length as usize, seed))
        .collect();
    let records = chunks.iter().map(|chunk| ChunkRecord {
        length: chunk.len() as u32,
        sha256: Digest::of(chunk),
    });
    let table = ChunkTable::new(records.collect()).unwrap();
    let head = [noise(wraps, 1), table.encode().into(), noise(index, 2)];
    let manifest = manifest(&head, table.payload_length());
    let [wraps, table_bytes, index] = head;
    Package {
        manifest,
        table,
        parts: [wraps, table_bytes, index, chunks.concat().into()],
    }
}

/// A signing key, and what it has signed about some package.
static TEMPLATE: LazyLock<(SigningKey, v1::Manifest)> = LazyLock::new(|| {
    let signer = keys("caf21").agent;
    let plan = plan(world().directory.convention());
    let (sealed, _) = seal_files(&plan, &signer, &[("a", vec![1])]);
    let body = v1::Manifest::decode(&*sealed.manifest.signed().body).unwrap();
    (signer, body)
});

fn manifest(head: &[Bytes; 3], payload_length: u64) -> VerifiedManifest {
    let (signer, mut body) = (&TEMPLATE.0, TEMPLATE.1.clone());
    let [wraps, table, index] = head.clone().map(|part| {
        Some(v1::Part {
            length: part.len() as u64,
            sha256: Digest::of(&part).0.to_vec(),
        })
    });
    (body.wraps, body.chunk_table, body.index) = (wraps, table, index);
    body.payload_length = payload_length;
    let signed = envelope::sign_one(signer, ObjectType::Manifest, body.encode_to_vec());
    let untrusted = UntrustedManifest::parse(signed).unwrap();
    untrusted.verify(signer.verifying_key()).unwrap()
}

impl Package {
    fn part(&self, section: Section) -> &Bytes {
        &self.parts[section as usize - 1]
    }

    fn read(&self, section: Section, offset: u64, length: u64) -> Bytes {
        let start = offset as usize;
        self.part(section).slice(start..start + length as usize)
    }

    fn head_length(&self) -> u64 {
        self.parts[..3].iter().map(|part| part.len() as u64).sum()
    }

    /// The Data frame with these bytes of the package, or with others instead.
    fn data(&self, section: Section, offset: u64, bytes: Bytes) -> v1::Frame {
        framed(frame::Frame::Data(v1::Data {
            slot: 0,
            section: section as i32,
            offset,
            bytes,
        }))
    }
}

/// Two sessions that have introduced themselves; `near` offers and `far` takes.
struct Pair {
    near: Session,
    far: Session,
    now: Duration,
}

fn pair(lane: Lane) -> Pair {
    let mut pair = Pair {
        near: Session::new(hello(lane), START),
        far: Session::new(hello(lane), START),
        now: START,
    };
    pair.cross();
    for session in [&mut pair.near, &mut pair.far] {
        assert!(matches!(session.poll_event(), Some(Event::Greeted(_))));
        assert!(session.poll_event().is_none());
    }
    pair
}

impl Pair {
    /// Every frame that waits crosses, both ways.
    fn cross(&mut self) {
        while self.near.has_frame() || self.far.has_frame() {
            self.cross_near();
            self.cross_far();
        }
    }

    fn cross_near(&mut self) {
        while let Some(frame) = self.near.poll_frame(self.now) {
            self.far.on_frame(frame, self.now).unwrap();
        }
    }

    fn cross_far(&mut self) {
        while let Some(frame) = self.far.poll_frame(self.now) {
            self.near.on_frame(frame, self.now).unwrap();
        }
    }

    /// A frame that no honest peer sends arrives at the far side.
    fn far_gets(&mut self, frame: frame::Frame) -> Result<(), Fault> {
        self.far.on_frame(framed(frame), self.now)
    }

    fn near_gets(&mut self, frame: frame::Frame) -> Result<(), Fault> {
        self.near.on_frame(framed(frame), self.now)
    }
}

fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.poll_event()).collect()
}

/// A pair on a bulk lane whose far side has taken the offer of `package` in slot 0.
fn taking(package: &Package, held: Held) -> Pair {
    let mut pair = pair(Lane::Bulk);
    assert_eq!(pair.near.offer(&package.manifest, Bytes::new()), 0);
    pair.cross();
    let offered = pair.far.poll_event();
    assert!(matches!(offered, Some(Event::Offered { slot: 0, .. })));
    pair.far.accept(0, &package.manifest, held);
    pair
}
