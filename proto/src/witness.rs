//! What a witness is asked and what it answers (c2sp.org/tlog-witness, `add-checkpoint`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::merkle::verify_consistency;
use crate::proof::decimal;
use crate::{Checkpoint, CheckpointError, Digest, LogSigner, LogVerifier, Timestamp};

/// Hashes that a consistency proof may have.
const PROOF_MAX: usize = 63;
/// Longest request body in bytes.
pub const WITNESS_BODY_LEN_MAX: usize = 64 * 1024;

/// Asks for a cosignature: the size that the witness knows, the proof from there, the checkpoint.
pub fn add_checkpoint_body(old: u64, proof: &[Digest], note: &[u8]) -> Vec<u8> {
    let mut body = format!("old {old}\n");
    for hash in proof {
        body.push_str(&STANDARD.encode(hash.0));
        body.push('\n');
    }
    body.push('\n');
    [body.as_bytes(), note].concat()
}

/// Answer of a witness: a status of the HTTP protocol and a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WitnessAnswer {
    /// 200 cosigned; 400 malformed; 403 signature; 404 unknown log; 409 another size is known,
    /// which is the body, or another root of this size; 422 the proof does not verify.
    pub status: u32,
    /// Cosignature lines, a size and a line feed, or a reason in words.
    pub body: Vec<u8>,
    /// What the witness must remember durably before it answers 200.
    pub seen: Option<Checkpoint>,
}

fn refuse(status: u32, why: &str) -> WitnessAnswer {
    WitnessAnswer {
        status,
        body: format!("{why}\n").into_bytes(),
        seen: None,
    }
}

/// Decides about a request. `known` is the largest tree of this log that was cosigned before.
///
/// The caller stores `seen` durably before it sends the answer: never two roots for one size.
pub fn witness(
    body: &[u8],
    log: &LogVerifier,
    known: Option<&Checkpoint>,
    signer: &LogSigner,
    now: Timestamp,
) -> WitnessAnswer {
    let Some((old, proof, note)) = parse(body) else {
        return refuse(400, "malformed request");
    };
    let checkpoint = match Checkpoint::verify(note, log) {
        Ok(checkpoint) => checkpoint,
        Err(CheckpointError::Origin { .. }) => return refuse(404, "unknown log"),
        Err(error) => return refuse(403, &error.to_string()),
    };
    let (known_size, known_root) = match known {
        Some(known) => (known.size, known.root),
        None => (0, crate::merkle::empty_root()),
    };
    if old > checkpoint.size {
        return refuse(400, "old size is above the new one");
    }
    if old != known_size {
        return WitnessAnswer {
            status: 409,
            body: format!("{known_size}\n").into_bytes(),
            seen: None,
        };
    }
    if old == checkpoint.size && known_root != checkpoint.root {
        return refuse(409, "this size was cosigned with another root");
    }
    if !verify_consistency(old, &known_root, checkpoint.size, &checkpoint.root, &proof) {
        return refuse(
            422,
            "the new tree does not continue the one cosigned before",
        );
    }
    WitnessAnswer {
        status: 200,
        body: checkpoint.cosign(signer, now),
        seen: Some(checkpoint),
    }
}

fn parse(body: &[u8]) -> Option<(u64, Vec<Digest>, &[u8])> {
    if body.len() > WITNESS_BODY_LEN_MAX {
        return None;
    }
    let split = body.windows(2).position(|pair| pair == b"\n\n")?;
    let (head, note) = (&body[..split], &body[split + 2..]);
    let mut lines = std::str::from_utf8(head).ok()?.split('\n');
    let old = decimal(lines.next()?.strip_prefix("old ")?)?;
    let proof: Option<Vec<Digest>> = lines
        .map(|line| Digest::from_slice(&STANDARD.decode(line).ok()?).ok())
        .collect();
    Some((old, proof.filter(|proof| proof.len() <= PROOF_MAX)?, note))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PartyId;
    use crate::merkle::{Frontier, leaf_hash};

    const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

    fn signer(party: &str, seed: u8) -> LogSigner {
        LogSigner::from_seed(&PartyId::parse(party).unwrap(), &[seed; 64])
    }

    fn checkpoint(entries: &[&str]) -> Checkpoint {
        let mut frontier = Frontier::default();
        entries
            .iter()
            .for_each(|entry| frontier.push(leaf_hash(entry.as_bytes())));
        Checkpoint {
            origin: "caf21.passerelle/log".into(),
            size: frontier.size(),
            root: frontier.root(),
        }
    }

    #[test]
    fn a_witness_cosigns_what_continues_and_nothing_else() {
        let (log, partner) = (signer("caf21", 1), signer("grand-dijon", 2));
        let ask = |old, proof: &[Digest], checkpoint: &Checkpoint, known: Option<&Checkpoint>| {
            let note = checkpoint.sign(&log, NOW).unwrap();
            let body = add_checkpoint_body(old, proof, &note);
            witness(&body, log.verifier(), known, &partner, NOW)
        };
        let (one, two) = (checkpoint(&["a"]), checkpoint(&["a", "b"]));
        let first = ask(0, &[], &one, None);
        assert_eq!((first.status, first.seen), (200, Some(one.clone())));
        let proof = [leaf_hash(b"b")];
        let second = ask(1, &proof, &two, Some(&one));
        assert_eq!(second.status, 200);
        let note = two.sign(&log, NOW).unwrap();
        let cosigned = crate::with_cosignatures(&note, &second.body);
        Checkpoint::verify_cosigned(&cosigned, partner.verifier()).unwrap();
        assert_eq!(ask(0, &[], &two, Some(&one)).body, b"1\n");
        let fork = checkpoint(&["x", "b"]);
        assert_eq!(ask(1, &proof, &fork, Some(&one)).status, 422);
        assert_eq!(ask(3, &[], &two, Some(&two)).status, 400);
        let fork = checkpoint(&["x"]);
        assert_eq!(ask(1, &[], &fork, Some(&one)).status, 409);
        let stranger = signer("caf21", 9);
        let note = one.sign(&stranger, NOW).unwrap();
        let body = add_checkpoint_body(0, &[], &note);
        assert_eq!(
            witness(&body, log.verifier(), None, &partner, NOW).status,
            403
        );
        let hash = STANDARD.encode([0; 32]);
        let returned = [
            format!("old 0\r\n{hash}"),
            format!("old 0\n{hash}\r\n{hash}"),
        ];
        let malformed = ["old x", "old +0", "old 00", "old 0\nAAAA"];
        for malformed in malformed
            .into_iter()
            .chain(returned.iter().map(String::as_str))
        {
            let body = [format!("{malformed}\n\n").as_bytes(), &note].concat();
            let answer = witness(&body, log.verifier(), None, &partner, NOW);
            assert_eq!(answer.status, 400, "{malformed}");
        }
    }
}
