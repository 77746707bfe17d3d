//! Proof that an entry is in a log, as one text (c2sp.org/tlog-proof).
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra base64            (absent when there is nothing to add)
//! index 73894
//! base64 of each hash, from the leaf's sibling up
//!
//! the signed checkpoint, with the cosignatures there are
//! ```

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::merkle::{leaf_hash, verify_inclusion};
use crate::{CHECKPOINT_LEN_MAX, Checkpoint, CheckpointError, Digest, LogVerifier};

/// Most hashes of an inclusion proof: a log has fewer than 2^64 entries.
pub const INCLUSION_HASHES_MAX: usize = 64;
/// Longest extra data in bytes: an entry of the log fits.
pub const PROOF_EXTRA_LEN_MAX: usize = 64 * 1024;
/// Longest text in bytes: hashes and extra data in base64, and the checkpoint.
pub const LOG_PROOF_LEN_MAX: usize = CHECKPOINT_LEN_MAX + 2 * PROOF_EXTRA_LEN_MAX;

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";

/// That an entry stands at an index of the log that a checkpoint is of. Unverified until
/// [`LogProof::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogProof {
    /// Index of the entry, from 0.
    pub index: u64,
    /// Inclusion proof (RFC 6962, 2.1.1), from the leaf's sibling up.
    pub hashes: Vec<Digest>,
    /// Whatever travels along; nothing vouches for it.
    pub extra: Option<Vec<u8>>,
    /// The signed checkpoint, verbatim.
    pub checkpoint: Vec<u8>,
}

/// Why a text is no proof, or does not prove anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogProofError {
    /// Longer than any proof.
    #[error("the proof has {bytes} bytes; at most {LOG_PROOF_LEN_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A line is not what must stand there.
    #[error("line {line} of the proof is malformed: {expected} is expected there")]
    Line {
        /// Line, from 1.
        line: usize,
        /// What must stand there.
        expected: &'static str,
    },
    /// The checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The hashes do not lead from this entry to the signed root.
    #[error(
        "the proof does not show that this is entry {index} of the {size} entries of {origin}: \
         the entry or the proof was altered"
    )]
    NotIncluded {
        /// Index that the proof claims.
        index: u64,
        /// Entries under the checkpoint.
        size: u64,
        /// Which log.
        origin: String,
    },
}

impl LogProof {
    /// The text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!("{FIRST_LINE}\n");
        if let Some(extra) = &self.extra {
            head += &format!("extra {}\n", STANDARD.encode(extra));
        }
        head += &format!("index {}\n", self.index);
        for hash in &self.hashes {
            head += &format!("{}\n", STANDARD.encode(hash.0));
        }
        head.push('\n');
        [head.as_bytes(), &self.checkpoint].concat()
    }

    /// Reads a text. Nothing is verified here.
    ///
    /// # Errors
    /// [`LogProofError::TooLong`], or [`LogProofError::Line`] with the first malformed line.
    pub fn parse(bytes: &[u8]) -> Result<Self, LogProofError> {
        if bytes.len() > LOG_PROOF_LEN_MAX {
            return Err(LogProofError::TooLong { bytes: bytes.len() });
        }
        let mut lines = Lines {
            rest: bytes,
            read: 0,
        };
        if lines.next() != Some(FIRST_LINE) {
            return Err(lines.malformed(FIRST_LINE));
        }
        let mut line = lines.next();
        let mut extra = None;
        if let Some(text) = line.and_then(|line| line.strip_prefix("extra ")) {
            let bytes = STANDARD.decode(text).ok();
            let bytes = bytes.filter(|bytes| bytes.len() <= PROOF_EXTRA_LEN_MAX);
            extra = Some(bytes.ok_or_else(|| lines.malformed("`extra` and base64"))?);
            line = lines.next();
        }
        let index = line
            .and_then(|line| line.strip_prefix("index "))
            .and_then(decimal)
            .ok_or_else(|| lines.malformed("`index` and a number"))?;
        let mut hashes = Vec::new();
        loop {
            let line = lines.next().ok_or_else(|| lines.malformed(HASH))?;
            if line.is_empty() {
                break;
            }
            let hash = hash(line).filter(|_| hashes.len() < INCLUSION_HASHES_MAX);
            hashes.push(hash.ok_or_else(|| lines.malformed(HASH))?);
        }
        Ok(Self {
            index,
            hashes,
            extra,
            checkpoint: lines.rest.to_vec(),
        })
    }

    /// Verifies that both of the log's signatures hold and that `entry` is in it.
    ///
    /// Cosignatures are the caller's to judge ([`Checkpoint::verify_cosigned`]): without one the
    /// log could show another history to somebody else.
    ///
    /// # Errors
    /// [`LogProofError::Checkpoint`] or [`LogProofError::NotIncluded`].
    pub fn verify(&self, entry: &[u8], log: &LogVerifier) -> Result<Checkpoint, LogProofError> {
        let checkpoint = Checkpoint::verify(&self.checkpoint, log)?;
        let Checkpoint { size, root, .. } = &checkpoint;
        match verify_inclusion(&leaf_hash(entry), self.index, *size, &self.hashes, root) {
            true => Ok(checkpoint),
            false => Err(LogProofError::NotIncluded {
                index: self.index,
                size: *size,
                origin: checkpoint.origin,
            }),
        }
    }
}

const HASH: &str = "a hash in base64, or the empty line before the checkpoint,";

/// A number as C2SP writes it: ASCII digits, no sign, no leading zeros.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

fn hash(line: &str) -> Option<Digest> {
    Digest::from_slice(&STANDARD.decode(line).ok()?).ok()
}

struct Lines<'a> {
    rest: &'a [u8],
    read: usize,
}

impl<'a> Lines<'a> {
    /// The next line without its line feed; `None` at the end and for what is no text.
    fn next(&mut self) -> Option<&'a str> {
        self.read += 1;
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let (line, rest) = (&self.rest[..end], &self.rest[end + 1..]);
        self.rest = rest;
        std::str::from_utf8(line).ok()
    }

    fn malformed(&self, expected: &'static str) -> LogProofError {
        LogProofError::Line {
            line: self.read,
            expected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogSigner, PartyId, Timestamp};

    fn signer() -> LogSigner {
        LogSigner::from_seed(&PartyId::parse("caf21").unwrap(), &[1; 64])
    }

    /// Proof of the second of two entries.
    fn proof(extra: Option<Vec<u8>>) -> LogProof {
        let checkpoint = Checkpoint {
            origin: signer().verifier().name().to_owned(),
            size: 2,
            root: crate::merkle::node_hash(&leaf_hash(b"one"), &leaf_hash(b"two")),
        };
        let now = Timestamp::from_ms(1_700_000_000_000);
        LogProof {
            index: 1,
            hashes: vec![leaf_hash(b"one")],
            extra,
            checkpoint: checkpoint.sign(&signer(), now).unwrap(),
        }
    }

    #[test]
    fn a_proof_reads_back_and_shows_its_entry_and_no_other() {
        for extra in [None, Some(b"context".to_vec())] {
            let proof = LogProof::parse(&proof(extra.clone()).to_bytes()).unwrap();
            assert_eq!(proof.extra, extra);
            let checkpoint = proof.verify(b"two", signer().verifier()).unwrap();
            assert_eq!(checkpoint.size, 2);
            let refused = proof.verify(b"TWO", signer().verifier());
            assert!(matches!(refused, Err(LogProofError::NotIncluded { .. })));
            let elsewhere = LogProof { index: 0, ..proof };
            assert!(elsewhere.verify(b"two", signer().verifier()).is_err());
        }
    }

    #[test]
    fn malformed_proofs_are_refused_by_line() {
        let good = String::from_utf8(proof(Some(vec![1])).to_bytes()).unwrap();
        for (from, to, line) in [
            ("@v1", "@v2", 1),
            ("extra AQ==", "extra ?", 2),
            ("index 1", "index 01", 3),
            ("index 1", "index +1", 3),
            ("index 1\n", "index 1\nAAAA\n", 4),
        ] {
            let refused = LogProof::parse(good.replacen(from, to, 1).as_bytes());
            let Err(LogProofError::Line { line: found, .. }) = refused else {
                panic!("{to}: {refused:?}");
            };
            assert_eq!(found, line, "{to}");
        }
        let hash = STANDARD.encode([0; 32]) + "\n";
        let many = "index 1\n".to_owned() + &hash.repeat(INCLUSION_HASHES_MAX + 1);
        assert!(LogProof::parse(good.replacen("index 1\n", &many, 1).as_bytes()).is_err());
    }
}
