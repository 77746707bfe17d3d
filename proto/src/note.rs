//! Signed notes (c2sp.org/signed-note): a text that people can read, then its signatures.
//!
//! ```text
//! text, one or more lines, each ended by a line feed
//!
//! — caf21 base64(key hash ‖ signature)
//! ```
//!
//! Convention and sheets carry one composite line per signer. Its signature type is 0xff, "what
//! follows names the algorithm", so its key hash is the first four bytes of SHA-256(name ‖ LF ‖
//! 0xff ‖ `mldsa65-ed25519` ‖ public key).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::key::COMPOSITE_ALGORITHM;
use crate::{Digest, SignatureError, SigningKey, VerifyingKey};

/// Longest note in bytes.
pub const NOTE_LEN_MAX: usize = 1024 * 1024 + 64 * 1024;
/// Most signature lines of one note.
pub const NOTE_SIGNATURES_MAX: usize = 64;

const DASH: &str = "\u{2014} ";

/// One signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// Who claims to have signed.
    pub name: String,
    /// Which key, as far as four bytes tell.
    pub key_hash: u32,
    /// The signature without the key hash.
    pub bytes: Vec<u8>,
}

impl NoteSignature {
    /// The line as it stands in a note, ended by a line feed.
    pub fn to_line(&self) -> String {
        let bytes = [&self.key_hash.to_be_bytes(), self.bytes.as_slice()].concat();
        format!("{DASH}{} {}\n", self.name, STANDARD.encode(bytes))
    }
}

/// A text and its signature lines; none of them verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// Why a text is no note, or not one that a key has signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Longer than any note may be.
    #[error("the note has {bytes} bytes; at most {NOTE_LEN_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not UTF-8, or with control characters.
    #[error("line {line}: the note holds characters that are no text: save it as UTF-8, LF")]
    NotText {
        /// Line, from 1.
        line: usize,
    },
    /// The text does not end in a line feed, or there is no blank line before the signatures.
    #[error("the note has no signature block: a blank line and `\u{2014} name base64` must follow")]
    NoSignatures,
    /// A line of the signature block is malformed.
    #[error("signature line {line} of the note is malformed")]
    SignatureLine {
        /// Line within the block, from 1.
        line: usize,
    },
    /// More signature lines than allowed.
    #[error("the note has more than {NOTE_SIGNATURES_MAX} signatures")]
    TooManySignatures,
    /// No line is by this key.
    #[error("the note is not signed by {name} with key {key}")]
    Missing {
        /// Whose signature is missing.
        name: String,
        /// Id of the key.
        key: String,
    },
    /// A line is by this key, and does not verify.
    #[error("the signature of {name} on the note does not verify: {reason}")]
    Signature {
        /// Whose signature it claims to be.
        name: String,
        /// Which part failed.
        reason: SignatureError,
    },
}

impl Note {
    /// A note without signatures yet.
    ///
    /// # Errors
    /// [`NoteError`] when the text is too long, no plain text, or not ended by a line feed.
    pub fn unsigned(text: &str) -> Result<Self, NoteError> {
        check_text(text.as_bytes())?;
        if !text.ends_with('\n') {
            return Err(NoteError::NoSignatures);
        }
        Ok(Self {
            text: text.to_owned(),
            signatures: Vec::new(),
        })
    }

    /// Reads a note with one or more signature lines.
    ///
    /// # Errors
    /// [`NoteError`] names what is malformed. No signature is verified here.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        let note = check_text(bytes)?;
        // The last blank line parts text and signatures; texts may hold blank lines as well.
        let split = note.rfind("\n\n").ok_or(NoteError::NoSignatures)?;
        let (text, block) = (&note[..=split], &note[split + 2..]);
        if block.is_empty() || !block.ends_with('\n') {
            return Err(NoteError::NoSignatures);
        }
        let lines: Vec<&str> = block.lines().collect();
        if lines.len() > NOTE_SIGNATURES_MAX {
            return Err(NoteError::TooManySignatures);
        }
        let signatures = lines
            .iter()
            .enumerate()
            .map(|(at, line)| parse_line(line).ok_or(NoteError::SignatureLine { line: at + 1 }));
        Ok(Self {
            text: text.to_owned(),
            signatures: signatures.collect::<Result<_, _>>()?,
        })
    }

    /// The text that is signed; it ends in a line feed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines, in their order.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// SHA-256 of the text.
    pub fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }

    /// The whole note.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut note = self.text.clone();
        note.push('\n');
        for line in &self.signatures {
            note.push_str(&line.to_line());
        }
        note.into_bytes()
    }

    /// Adds a signature line.
    ///
    /// # Errors
    /// [`NoteError::TooManySignatures`].
    pub fn push(&mut self, signature: NoteSignature) -> Result<(), NoteError> {
        if self.signatures.len() == NOTE_SIGNATURES_MAX {
            return Err(NoteError::TooManySignatures);
        }
        self.signatures.push(signature);
        Ok(())
    }

    /// Signs the text with a composite key; an earlier line by the same key is replaced.
    ///
    /// # Errors
    /// [`NoteError::TooManySignatures`].
    pub fn sign_with(&mut self, key: &SigningKey) -> Result<(), NoteError> {
        let name = key.party().to_string();
        let key_hash = composite_key_hash(key.verifying_key());
        self.signatures
            .retain(|line| line.name != name || line.key_hash != key_hash);
        self.push(NoteSignature {
            name,
            key_hash,
            bytes: key.sign(self.text.as_bytes()),
        })
    }

    /// Verifies that `key` has signed the text. Lines by other keys are not looked at.
    ///
    /// # Errors
    /// [`NoteError::Missing`] when there is no line by this key; [`NoteError::Signature`].
    pub fn verified_by(&self, key: &VerifyingKey) -> Result<(), NoteError> {
        let key_hash = composite_key_hash(key);
        let name = key.party().as_str();
        let by_key = |line: &&NoteSignature| line.name == name && line.key_hash == key_hash;
        let line = self
            .signatures
            .iter()
            .find(by_key)
            .ok_or_else(|| NoteError::Missing {
                name: name.to_owned(),
                key: key.id().to_string(),
            })?;
        key.verify(self.text.as_bytes(), &line.bytes)
            .map_err(|reason| NoteError::Signature {
                name: name.to_owned(),
                reason,
            })
    }
}

/// Key hash of a composite signature line.
pub fn composite_key_hash(key: &VerifyingKey) -> u32 {
    let kind = [&[0xff], COMPOSITE_ALGORITHM.as_bytes(), key.as_bytes()].concat();
    key_hash(key.party().as_str(), &kind)
}

/// First four bytes of SHA-256(name ‖ LF ‖ signature type and public key).
pub(crate) fn key_hash(name: &str, type_and_key: &[u8]) -> u32 {
    let digest = Digest::of_parts(&[name.as_bytes(), b"\n", type_and_key]);
    u32::from_be_bytes([digest.0[0], digest.0[1], digest.0[2], digest.0[3]])
}

fn check_text(bytes: &[u8]) -> Result<&str, NoteError> {
    if bytes.len() > NOTE_LEN_MAX {
        return Err(NoteError::TooLong { bytes: bytes.len() });
    }
    let line = |upto: usize| bytes[..upto].iter().filter(|byte| **byte == b'\n').count() + 1;
    let text = std::str::from_utf8(bytes).map_err(|error| NoteError::NotText {
        line: line(error.valid_up_to()),
    })?;
    match text.find(|c: char| c.is_control() && c != '\n') {
        Some(at) => Err(NoteError::NotText { line: line(at) }),
        None => Ok(text),
    }
}

fn parse_line(line: &str) -> Option<NoteSignature> {
    let (name, signature) = line.strip_prefix(DASH)?.split_once(' ')?;
    let named = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '+');
    let signature = STANDARD.decode(signature).ok().filter(|_| named)?;
    let (hash, bytes) = signature.split_at_checked(4)?;
    Some(NoteSignature {
        name: name.to_owned(),
        key_hash: u32::from_be_bytes(hash.try_into().ok()?),
        bytes: Some(bytes.to_vec()).filter(|bytes| !bytes.is_empty())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PartyId;

    fn key(party: &str, seed: u8) -> SigningKey {
        SigningKey::from_seed(&PartyId::parse(party).unwrap(), &[seed; 64])
    }

    fn signed() -> Note {
        let mut note = Note::unsigned("first line\n\nlast line é\n").unwrap();
        note.sign_with(&key("caf21", 1)).unwrap();
        note.sign_with(&key("grand-dijon", 2)).unwrap();
        note
    }

    #[test]
    fn a_note_reads_back_with_all_its_signatures() {
        let note = signed();
        let again = Note::parse(&note.to_bytes()).unwrap();
        assert_eq!(again, note);
        again.verified_by(key("caf21", 1).verifying_key()).unwrap();
        again
            .verified_by(key("grand-dijon", 2).verifying_key())
            .unwrap();
        assert_eq!(again.text(), "first line\n\nlast line é\n");
    }

    #[test]
    fn a_changed_text_and_a_missing_signature_are_told_apart() {
        let bytes = String::from_utf8(signed().to_bytes()).unwrap();
        let altered = Note::parse(bytes.replacen("first", "First", 1).as_bytes()).unwrap();
        let refused = altered.verified_by(key("caf21", 1).verifying_key());
        assert!(matches!(refused, Err(NoteError::Signature { .. })));
        let refused = altered.verified_by(key("caf21", 3).verifying_key());
        assert!(matches!(refused, Err(NoteError::Missing { .. })));
    }

    #[test]
    fn signing_again_replaces_the_line() {
        let mut note = signed();
        note.sign_with(&key("caf21", 1)).unwrap();
        assert_eq!(note.signatures().len(), 2);
    }

    #[test]
    fn malformed_notes_are_refused_by_place() {
        let line = "\u{2014} caf21 AAAAAAAA\n";
        assert!(Note::parse(format!("a\n\n{line}").as_bytes()).is_ok());
        for (text, error) in [
            ("a\n".to_owned(), NoteError::NoSignatures),
            ("a\n\n".to_owned(), NoteError::NoSignatures),
            (format!("a\n\n{}", line.trim_end()), NoteError::NoSignatures),
            (
                format!("a\n\n{line}- b AAAAAAAA\n"),
                NoteError::SignatureLine { line: 2 },
            ),
            (
                "a\n\n\u{2014} a+b AAAAAAAA\n".into(),
                NoteError::SignatureLine { line: 1 },
            ),
            (
                "a\n\n\u{2014} ab AAAA\n".into(),
                NoteError::SignatureLine { line: 1 },
            ),
            (format!("a\n\r\n\n{line}"), NoteError::NotText { line: 2 }),
            (
                format!("a\n\n{}", line.repeat(65)),
                NoteError::TooManySignatures,
            ),
        ] {
            assert_eq!(Note::parse(text.as_bytes()), Err(error), "{text:?}");
        }
    }
}
