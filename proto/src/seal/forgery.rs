//! Packages that no honest sealer makes, to see what recipients say about them.

use std::io::{Cursor, Write};

use prost::Message;

use super::{Randomness, SealPlan, Sealed, Sealing, SourceEntry};
use crate::{ChunkRecord, Digest, EntryName, SigningKey, cipher};

/// What is wrong inside a package whose outside is in order.
#[derive(Debug, Clone)]
pub enum Flaw {
    /// The name of its only file.
    Name(String),
    /// The manifest commits to another description than the index holds.
    Commitment,
    /// Its only chunk decompresses to this many bytes and declares fewer.
    Bomb(usize),
}

/// The content of every forged package, as its index describes it.
const CONTENT: &[u8] = b"iris;foyers\n212310101;12\n";

/// A package with one file and one flaw, validly signed, and its pack.
///
/// # Panics
/// When the plan is one that cannot be sealed.
#[allow(clippy::unwrap_used)]
pub fn forge(plan: &SealPlan, signer: &SigningKey, flaw: &Flaw) -> (Sealed, Vec<u8>) {
    let randomness = Randomness::fresh();
    let entries = [SourceEntry {
        name: EntryName::parse("table.csv").unwrap(),
        length: CONTENT.len() as u64,
        media_type: String::new(),
    }];
    let mut sealing = Sealing::new(plan, signer, &entries, &randomness).unwrap();
    let mut description = sealing.description(&[Digest::of(CONTENT)]);
    let honest = description.encode_to_vec();
    let mut plain = CONTENT.to_vec();
    if let Flaw::Name(name) = flaw {
        description.entries[0].name.clone_from(name);
    }
    if let Flaw::Bomb(length) = flaw {
        plain.resize(*length, 0);
    }
    let chunk = cipher::seal_bomb(&sealing.chunk_secret, &plain, CONTENT.len() as u32);
    sealing.digests.extend_from_slice(&chunk.digest.0);
    sealing.records.push(ChunkRecord {
        length: chunk.ciphertext.len() as u32,
        sha256: Digest::of(&chunk.ciphertext),
    });
    let encoded = description.encode_to_vec();
    let committed = match flaw {
        Flaw::Commitment => [honest.as_slice(), b" "].concat(),
        _ => encoded.clone(),
    };
    // A forged name may be longer than the room that is kept for the honest one.
    let room = sealing.head_room() + 65_536;
    let mut pack = Cursor::new(vec![0; usize::try_from(room).unwrap()]);
    pack.set_position(room);
    pack.write_all(&chunk.ciphertext).unwrap();
    let written = sealing.write_head(&encoded, &committed, room, &mut pack);
    let (manifest, layout) = written.unwrap();
    let sealed = Sealed {
        manifest,
        layout,
        description,
    };
    (sealed, pack.into_inner())
}
