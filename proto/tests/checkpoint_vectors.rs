//! `vectors/checkpoint.json`: what another implementation of the log's formats must agree on.
//!
//! ML-DSA signatures are randomised, so those in the file are verified; everything else is made
//! again and compared byte for byte.

// What a test prepares fails as loudly as the test itself.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use passerelle_proto::merkle::{Frontier, leaf_hash};
use passerelle_proto::{Checkpoint, LogProof, LogSigner, PartyId, Timestamp};
use serde_json::Value;

fn vectors() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/checkpoint.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn text<'v>(vectors: &'v Value, name: &str) -> &'v str {
    let value = &vectors[name];
    value.as_str().unwrap_or_else(|| panic!("{name}: {value}"))
}

/// The keys that the file names by party and by the byte that its seed repeats.
fn signer(vectors: &Value, which: &str) -> LogSigner {
    let party = PartyId::parse(text(&vectors[which], "party")).unwrap();
    let seed = vectors[which]["seed_byte"].as_u64().unwrap();
    LogSigner::from_seed(&party, &[u8::try_from(seed).unwrap(); 64])
}

fn checkpoint(vectors: &Value) -> Checkpoint {
    let mut frontier = Frontier::default();
    for entry in vectors["entries"].as_array().unwrap() {
        frontier.push(leaf_hash(entry.as_str().unwrap().as_bytes()));
    }
    Checkpoint {
        origin: signer(vectors, "log").verifier().name().to_owned(),
        size: frontier.size(),
        root: frontier.root(),
    }
}

#[test]
fn the_keys_are_those_of_the_vectors() {
    let vectors = vectors();
    for which in ["log", "partner"] {
        let vkeys = signer(&vectors, which).verifier().to_vkeys();
        assert_eq!(vectors[which]["vkeys"], serde_json::json!(vkeys), "{which}");
    }
}

#[test]
fn the_checkpoint_is_that_of_the_vectors_and_its_four_signatures_verify() {
    let vectors = vectors();
    let (log, partner) = (signer(&vectors, "log"), signer(&vectors, "partner"));
    let wanted = checkpoint(&vectors);
    let note = text(&vectors, "cosigned");
    assert_eq!(
        Checkpoint::verify(note.as_bytes(), log.verifier()).unwrap(),
        wanted
    );
    let cosigned = Checkpoint::verify_cosigned(note.as_bytes(), partner.verifier());
    let at = Timestamp::from_ms(vectors["at_ms"].as_i64().unwrap());
    assert_eq!(cosigned.unwrap(), (wanted.clone(), at));

    // Text and Ed25519 lines have no randomness in them.
    let lines: Vec<&str> = note.lines().collect();
    let signed = String::from_utf8(wanted.sign(&log, at).unwrap()).unwrap();
    assert_eq!(signed.lines().take(5).collect::<Vec<_>>(), lines[..5]);
    let cosignature = String::from_utf8(wanted.cosign(&partner, at)).unwrap();
    assert_eq!(cosignature.lines().next(), Some(lines[6]));
}

#[test]
fn no_byte_of_the_checkpoint_can_change() {
    let vectors = vectors();
    let (log, partner) = (signer(&vectors, "log"), signer(&vectors, "partner"));
    let note = text(&vectors, "cosigned").as_bytes();
    // Every byte of the text and of the Ed25519 lines, and some of the long lines.
    let short = note.windows(2).position(|pair| pair == b"\n\n").unwrap() + 160;
    for at in (0..short).chain((short..note.len()).step_by(97)) {
        let mut altered = note.to_vec();
        altered[at] ^= 1;
        let verified = Checkpoint::verify(&altered, log.verifier()).is_ok()
            && Checkpoint::verify_cosigned(&altered, partner.verifier()).is_ok();
        assert!(!verified, "byte {at}");
    }
}

#[test]
fn the_proof_of_the_vectors_shows_its_entry() {
    let vectors = vectors();
    let proof = LogProof::parse(text(&vectors, "proof").as_bytes()).unwrap();
    assert_eq!(proof.to_bytes(), text(&vectors, "proof").as_bytes());
    let log = signer(&vectors, "log");
    let entries = vectors["entries"].as_array().unwrap();
    for (index, entry) in entries.iter().enumerate() {
        let entry = entry.as_str().unwrap().as_bytes();
        let shown = proof.verify(entry, log.verifier()).is_ok();
        assert_eq!(shown, proof.index == index as u64, "{index}");
    }
}
