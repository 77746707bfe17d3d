//! Checkpoints of an audit log (c2sp.org/tlog-checkpoint) and what partners sign under them
//! (c2sp.org/tlog-cosignature).
//!
//! The log itself signs with Ed25519 (type 0x01) and with ML-DSA-44 (type 0x06); a partner cosigns
//! with Ed25519 (type 0x04) and with ML-DSA-44. Both lines are required of either.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::key::{TYPE_ED25519, TYPE_ED25519_COSIGNATURE, TYPE_MLDSA44};
use crate::{Digest, LogSigner, LogVerifier, Note, NoteError, NoteSignature, Timestamp};

/// Longest checkpoint note in bytes, cosignatures included.
pub const CHECKPOINT_LEN_MAX: usize = 256 * 1024;

/// Longest origin in bytes: what is cosigned says its length in one byte.
pub(crate) const ORIGIN_LEN_MAX: usize = 255;

/// How many entries a log had, and their root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub origin: String,
    /// Number of entries.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Digest,
}

/// Why a text is no checkpoint, or not one that a key has signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The note around it.
    #[error("checkpoint: {0}")]
    Note(#[from] NoteError),
    /// Not the three lines that are expected.
    #[error("checkpoint: the text is malformed at line {line}")]
    Text {
        /// Line, from 1.
        line: usize,
    },
    /// Nothing says with which keys its log signs.
    #[error("checkpoint: no sheet says with which keys its log signs")]
    NoKey,
    /// Of another log.
    #[error("checkpoint: it is of log {found}, not of {wanted}")]
    Origin {
        /// Origin found.
        found: String,
        /// Origin wanted.
        wanted: String,
    },
    /// A line is missing.
    #[error("checkpoint: {part} signature of {name} is missing")]
    Missing {
        /// Whose.
        name: String,
        /// Which half.
        part: &'static str,
    },
    /// A line does not verify.
    #[error("checkpoint: the {part} signature of {name} does not verify")]
    Signature {
        /// Whose.
        name: String,
        /// Which half.
        part: &'static str,
    },
}

const CLASSICAL: &str = "classical (Ed25519)";
const POST_QUANTUM: &str = "post-quantum (ML-DSA-44)";

impl Checkpoint {
    /// The text that is signed.
    pub fn to_text(&self) -> String {
        format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            STANDARD.encode(self.root.0)
        )
    }

    /// Reads the text; lines after the third are extensions and are passed over.
    ///
    /// # Errors
    /// [`CheckpointError::Text`].
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let malformed = |line| CheckpointError::Text { line };
        let ended = text
            .strip_suffix('\n')
            .ok_or(malformed(text.lines().count()))?;
        let mut lines = ended.split('\n');
        let origin = lines
            .next()
            .filter(|line| (1..=ORIGIN_LEN_MAX).contains(&line.len()))
            .ok_or(malformed(1))?;
        let digits = lines.next().ok_or(malformed(2))?;
        let size: u64 = digits.parse().map_err(|_| malformed(2))?;
        if size.to_string() != digits {
            return Err(malformed(2));
        }
        let root = lines.next().and_then(|line| STANDARD.decode(line).ok());
        let root = root
            .and_then(|bytes| Digest::from_slice(&bytes).ok())
            .ok_or(malformed(3))?;
        if let Some(empty) = lines.position(str::is_empty) {
            return Err(malformed(empty + 4));
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
        })
    }

    /// The checkpoint as a note signed by its own log.
    ///
    /// # Errors
    /// [`CheckpointError::Note`] when the origin cannot stand in a note.
    pub fn sign(&self, signer: &LogSigner, now: Timestamp) -> Result<Vec<u8>, CheckpointError> {
        let text = self.to_text();
        let mut note = Note::unsigned(&text)?;
        let verifier = signer.verifier();
        note.push(NoteSignature {
            name: verifier.name().to_owned(),
            key_hash: verifier.line_hash(TYPE_ED25519),
            bytes: signer.sign_classical(text.as_bytes()),
        })?;
        note.push(self.post_quantum_line(signer, now))?;
        Ok(note.to_bytes())
    }

    /// A partner's two cosignature lines, each ended by a line feed.
    pub fn cosign(&self, signer: &LogSigner, now: Timestamp) -> Vec<u8> {
        let verifier = signer.verifier();
        let time = seconds(now);
        let message = format!("cosignature/v1\ntime {time}\n{}", self.to_text());
        let signature = signer.sign_classical(message.as_bytes());
        let classical = NoteSignature {
            name: verifier.name().to_owned(),
            key_hash: verifier.line_hash(TYPE_ED25519_COSIGNATURE),
            bytes: [time.to_be_bytes().as_slice(), &signature].concat(),
        };
        let lines = [classical, self.post_quantum_line(signer, now)];
        lines
            .iter()
            .flat_map(|line| line.to_line().into_bytes())
            .collect()
    }

    fn post_quantum_line(&self, signer: &LogSigner, now: Timestamp) -> NoteSignature {
        let verifier = signer.verifier();
        let time = seconds(now);
        let signature = signer.sign_post_quantum(&self.subtree_message(verifier.name(), time));
        NoteSignature {
            name: verifier.name().to_owned(),
            key_hash: verifier.line_hash(TYPE_MLDSA44),
            bytes: [time.to_be_bytes().as_slice(), &signature].concat(),
        }
    }

    /// `cosigned_message` of c2sp.org/tlog-cosignature, for the whole tree.
    fn subtree_message(&self, cosigner: &str, time: u64) -> Vec<u8> {
        let mut message = b"subtree/v1\n\0".to_vec();
        let short = |text: &str| u8::try_from(text.len()).unwrap_or(u8::MAX);
        message.push(short(cosigner));
        message.extend_from_slice(cosigner.as_bytes());
        message.extend_from_slice(&time.to_be_bytes());
        message.push(short(&self.origin));
        message.extend_from_slice(self.origin.as_bytes());
        message.extend_from_slice(&0_u64.to_be_bytes());
        message.extend_from_slice(&self.size.to_be_bytes());
        message.extend_from_slice(&self.root.0);
        message
    }

    /// Verifies both of the log's own signatures on a note.
    ///
    /// # Errors
    /// [`CheckpointError`] names the half that is missing or does not verify.
    pub fn verify(note: &[u8], log: &LogVerifier) -> Result<Self, CheckpointError> {
        let (note, checkpoint) = read(note)?;
        if checkpoint.origin != log.name() {
            return Err(CheckpointError::Origin {
                found: checkpoint.origin,
                wanted: log.name().to_owned(),
            });
        }
        let line = find(&note, log, TYPE_ED25519, CLASSICAL)?;
        if !log.verify_classical(note.text().as_bytes(), &line.bytes) {
            return Err(bad(log, CLASSICAL));
        }
        checkpoint.verify_post_quantum(&note, log)?;
        Ok(checkpoint)
    }

    /// As [`Checkpoint::verify`], with whichever of the log's keys has signed it.
    ///
    /// # Errors
    /// [`CheckpointError`] of the first key, when none of them has.
    pub fn verify_any(note: &[u8], keys: &[LogVerifier]) -> Result<Self, CheckpointError> {
        with_any(keys, |key| Self::verify(note, key))
    }

    /// As [`Checkpoint::verify_cosigned`], with whichever of the partner's keys has cosigned it.
    ///
    /// # Errors
    /// [`CheckpointError`] of the first key, when none of them has.
    pub fn verify_cosigned_any(
        note: &[u8],
        keys: &[LogVerifier],
    ) -> Result<(Self, Timestamp), CheckpointError> {
        Self::cosigner(note, keys).map(|(_, checkpoint, at)| (checkpoint, at))
    }

    /// As [`Checkpoint::verify_cosigned_any`], and says which of the keys it was.
    ///
    /// # Errors
    /// [`CheckpointError`] of the first key, when none of them has.
    pub fn cosigner<'k>(
        note: &[u8],
        keys: &'k [LogVerifier],
    ) -> Result<(&'k LogVerifier, Self, Timestamp), CheckpointError> {
        with_any(keys, |key| {
            let (checkpoint, at) = Self::verify_cosigned(note, key)?;
            Ok((key, checkpoint, at))
        })
    }

    /// Verifies both of a partner's cosignatures on a note of any log; says when it cosigned.
    ///
    /// # Errors
    /// [`CheckpointError`] names the half that is missing or does not verify.
    pub fn verify_cosigned(
        note: &[u8],
        partner: &LogVerifier,
    ) -> Result<(Self, Timestamp), CheckpointError> {
        let (note, checkpoint) = read(note)?;
        let line = find(&note, partner, TYPE_ED25519_COSIGNATURE, CLASSICAL)?;
        let (time, signature) = timestamped(&line.bytes).ok_or(bad(partner, CLASSICAL))?;
        let message = format!("cosignature/v1\ntime {time}\n{}", note.text());
        if !partner.verify_classical(message.as_bytes(), signature) {
            return Err(bad(partner, CLASSICAL));
        }
        checkpoint.verify_post_quantum(&note, partner)?;
        let ms = i64::try_from(time.saturating_mul(1000)).unwrap_or(i64::MAX);
        Ok((checkpoint, Timestamp::from_ms(ms)))
    }

    fn verify_post_quantum(&self, note: &Note, key: &LogVerifier) -> Result<(), CheckpointError> {
        let line = find(note, key, TYPE_MLDSA44, POST_QUANTUM)?;
        let (time, signature) = timestamped(&line.bytes).ok_or(bad(key, POST_QUANTUM))?;
        match key.verify_post_quantum(&self.subtree_message(key.name(), time), signature) {
            true => Ok(()),
            false => Err(bad(key, POST_QUANTUM)),
        }
    }
}

/// Adds cosignature lines, as [`Checkpoint::cosign`] makes them, to a signed checkpoint.
pub fn with_cosignatures(note: &[u8], lines: &[u8]) -> Vec<u8> {
    [note, lines].concat()
}

/// The same note with the lines of these keys alone, so that what others have written under it is
/// not kept for ever: nobody could tell whose lines they are.
///
/// # Errors
/// [`CheckpointError::Note`] when it is no note.
pub fn lines_of(note: &[u8], keys: &[&LogVerifier]) -> Result<Vec<u8>, CheckpointError> {
    let parsed = Note::parse(note)?;
    let mut kept = Note::unsigned(parsed.text())?;
    let kinds = [TYPE_ED25519, TYPE_ED25519_COSIGNATURE, TYPE_MLDSA44];
    for line in parsed.signatures() {
        let is_of = |key: &&&LogVerifier| {
            line.name == key.name()
                && kinds
                    .iter()
                    .any(|kind| key.line_hash(*kind) == line.key_hash)
        };
        if keys.iter().any(|key| is_of(&key)) {
            kept.push(line.clone())?;
        }
    }
    Ok(kept.to_bytes())
}

fn with_any<'k, T>(
    keys: &'k [LogVerifier],
    verify: impl Fn(&'k LogVerifier) -> Result<T, CheckpointError>,
) -> Result<T, CheckpointError> {
    let mut refused = CheckpointError::NoKey;
    for (at, key) in keys.iter().enumerate() {
        match verify(key) {
            Ok(verified) => return Ok(verified),
            Err(error) if at == 0 => refused = error,
            Err(_) => {}
        }
    }
    Err(refused)
}

fn seconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_ms() / 1000).unwrap_or(0)
}

fn read(bytes: &[u8]) -> Result<(Note, Checkpoint), CheckpointError> {
    let bytes_len = bytes.len();
    if bytes_len > CHECKPOINT_LEN_MAX {
        return Err(NoteError::TooLong { bytes: bytes_len }.into());
    }
    let note = Note::parse(bytes)?;
    let checkpoint = Checkpoint::parse(note.text())?;
    Ok((note, checkpoint))
}

fn find<'n>(
    note: &'n Note,
    key: &LogVerifier,
    kind: u8,
    part: &'static str,
) -> Result<&'n NoteSignature, CheckpointError> {
    let hash = key.line_hash(kind);
    let mut lines = note.signatures().iter();
    let line = lines.find(|line| line.name == key.name() && line.key_hash == hash);
    line.ok_or_else(|| CheckpointError::Missing {
        name: key.name().to_owned(),
        part,
    })
}

fn bad(key: &LogVerifier, part: &'static str) -> CheckpointError {
    CheckpointError::Signature {
        name: key.name().to_owned(),
        part,
    }
}

fn timestamped(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (time, signature) = bytes.split_at_checked(8)?;
    Some((u64::from_be_bytes(time.try_into().ok()?), signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PartyId;

    fn signer(party: &str, seed: u8) -> LogSigner {
        LogSigner::from_seed(&PartyId::parse(party).unwrap(), &[seed; 64])
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint {
            origin: "caf21.passerelle/log".into(),
            size: 7,
            root: Digest::of(b"root"),
        }
    }

    const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

    #[test]
    fn log_and_partner_sign_with_both_halves() {
        let (log, partner) = (signer("caf21", 1), signer("grand-dijon", 2));
        let note = checkpoint().sign(&log, NOW).unwrap();
        assert_eq!(Checkpoint::verify(&note, log.verifier()), Ok(checkpoint()));
        let cosigned = with_cosignatures(&note, &checkpoint().cosign(&partner, NOW));
        assert_eq!(
            Checkpoint::verify(&cosigned, log.verifier()),
            Ok(checkpoint())
        );
        let (found, at) = Checkpoint::verify_cosigned(&cosigned, partner.verifier()).unwrap();
        assert_eq!((found, at), (checkpoint(), NOW));
        let missing = Checkpoint::verify_cosigned(&note, partner.verifier());
        assert!(matches!(missing, Err(CheckpointError::Missing { .. })));
    }

    #[test]
    fn lines_of_anybody_else_are_not_kept() {
        let (log, partner, other) = (signer("caf21", 1), signer("grand-dijon", 2), signer("x", 3));
        let note = checkpoint().sign(&log, NOW).unwrap();
        let cosigned = with_cosignatures(&note, &checkpoint().cosign(&partner, NOW));
        let stranger = checkpoint().cosign(&other, NOW);
        // A known name with a key that nobody knows is nobody's line either.
        let (name, mut unknown) = (partner.verifier().name().to_owned(), stranger.clone());
        let text = String::from_utf8(unknown).unwrap();
        unknown = text.replace("x.passerelle/log", &name).into_bytes();
        let more = [cosigned.clone(), stranger, unknown].concat();
        let keys = [log.verifier(), partner.verifier()];
        assert_eq!(lines_of(&more, &keys).unwrap(), cosigned);
    }

    #[test]
    fn either_half_alone_is_not_enough() {
        let log = signer("caf21", 1);
        let note = String::from_utf8(checkpoint().sign(&log, NOW).unwrap()).unwrap();
        let lines: Vec<&str> = note.lines().collect();
        for line in [4, 5] {
            let mut fewer = lines.clone();
            fewer.remove(line);
            let fewer = fewer.join("\n") + "\n";
            let refused = Checkpoint::verify(fewer.as_bytes(), log.verifier());
            assert!(
                matches!(refused, Err(CheckpointError::Missing { .. })),
                "{line}"
            );
        }
        let altered = note.replacen("\n7\n", "\n8\n", 1);
        let refused = Checkpoint::verify(altered.as_bytes(), log.verifier());
        assert!(matches!(refused, Err(CheckpointError::Signature { .. })));
    }

    #[test]
    fn another_implementation_verifies_the_classical_signature() {
        use signed_note::{Note, StandardVerifier, VerifierList};
        let log = signer("caf21", 1);
        let note = checkpoint().sign(&log, NOW).unwrap();
        let vkey = &log.verifier().to_vkeys()[0];
        let verifier = StandardVerifier::new(vkey).unwrap();
        let known = VerifierList::new(vec![Box::new(verifier)]);
        let (verified, _) = Note::from_bytes(&note).unwrap().verify(&known).unwrap();
        assert_eq!(verified.len(), 1);
    }

    #[test]
    fn vkeys_and_secret_texts_read_back() {
        let log = signer("caf21", 1);
        let vkeys = log.verifier().to_vkeys();
        let origin = "caf21.passerelle/log";
        assert_eq!(
            &LogVerifier::from_vkeys(origin, &vkeys).unwrap(),
            log.verifier()
        );
        assert!(LogVerifier::from_vkeys(origin, &vkeys[..1]).is_err());
        assert!(LogVerifier::from_vkeys("other", &vkeys).is_err());
        let again = LogSigner::from_secret_text(&log.to_secret_text()).unwrap();
        assert_eq!(again.verifier(), log.verifier());
    }

    #[test]
    fn malformed_texts_are_refused_by_line() {
        let root = STANDARD.encode([0; 32]);
        for (text, line) in [
            ("\n1\n".to_owned(), 1),
            ("a\n01\n".to_owned(), 2),
            ("a\n-1\n".to_owned(), 2),
            (format!("a\n1\n{}\n", &root[4..]), 3),
            (format!("a\n1\n{root}\nextension\n\nb\n"), 5),
            (format!("a\r\n1\n{root}\r\n"), 3),
            (format!("a\n1\r\n{root}\n"), 2),
            (format!("a\n1\n{root}"), 3),
            (format!("{}\n1\n{root}\n", "a".repeat(256)), 1),
        ] {
            assert_eq!(
                Checkpoint::parse(&text),
                Err(CheckpointError::Text { line }),
                "{text:?}"
            );
        }
    }
}
