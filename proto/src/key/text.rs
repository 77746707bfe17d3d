//! The text form of keys: `party+algorithm+check+base64`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::{KeyId, NameError, PartyId};

/// First word of every secret key's text, so that one that leaks is recognised.
pub(super) const SECRET_PREFIX: &str = "passerelle-secret";

/// Longest key text in bytes: above every algorithm used here.
const TEXT_LEN_MAX: usize = 8 * 1024;

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// The parts are not there.
    #[error("this is no key text: it must read party+algorithm+8 digits+base64, on one line")]
    Form,
    /// A secret key where a public one is wanted.
    #[error("this is a SECRET key where a public one is wanted: do not publish this file")]
    SecretGiven,
    /// A public key where a secret one is wanted.
    #[error("this is a public key where a secret one is wanted: name the `.secret` file")]
    PublicGiven,
    /// The first part is no party.
    #[error("the key's party: {0}")]
    Party(#[from] NameError),
    /// Another algorithm.
    #[error("the key's algorithm is {found:?}, and {wanted} is needed here")]
    Algorithm {
        /// Algorithm found.
        found: String,
        /// Algorithm wanted.
        wanted: &'static str,
    },
    /// Bytes that are no base64, or of another length, or no valid key.
    #[error("the key's bytes are damaged ({0}): copy the text again from its source")]
    Bytes(&'static str),
    /// The check digits belong to another key.
    #[error(
        "the key's fingerprint begins with {found}, and its text says {claimed}: \
         the text was altered or damaged; copy it again from its source"
    )]
    Fingerprint {
        /// Digits in the text.
        claimed: String,
        /// Digits of the key's bytes.
        found: String,
    },
}

/// A text taken apart; the bytes are not yet a key.
pub(super) struct Parts {
    pub(super) party: PartyId,
    pub(super) check: String,
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

impl Parts {
    /// Compares the check digits with the id that the bytes really have.
    pub(super) fn confirm(&self, id: &KeyId) -> Result<(), KeyTextError> {
        let found = id.check_digits();
        if self.check == found {
            return Ok(());
        }
        Err(KeyTextError::Fingerprint {
            claimed: self.check.clone(),
            found,
        })
    }
}

pub(super) fn public_text(party: &PartyId, algorithm: &str, id: &KeyId, bytes: &[u8]) -> String {
    let check = id.check_digits();
    format!("{party}+{algorithm}+{check}+{}", STANDARD.encode(bytes))
}

pub(super) fn secret_text(
    party: &PartyId,
    algorithm: &str,
    id: &KeyId,
    seed: &[u8],
) -> Zeroizing<String> {
    let body = Zeroizing::new(public_text(party, algorithm, id, seed));
    Zeroizing::new(format!("{SECRET_PREFIX}+{}", body.as_str()))
}

pub(super) fn parse_public(text: &str, algorithm: &'static str) -> Result<Parts, KeyTextError> {
    let text = text.trim();
    if text.starts_with(SECRET_PREFIX) {
        return Err(KeyTextError::SecretGiven);
    }
    parse(text, algorithm)
}

pub(super) fn parse_secret(text: &str, algorithm: &'static str) -> Result<Parts, KeyTextError> {
    let text = text.trim();
    match text.strip_prefix(SECRET_PREFIX) {
        Some(rest) => parse(rest.strip_prefix('+').unwrap_or(""), algorithm),
        None if parse(text, algorithm).is_ok() => Err(KeyTextError::PublicGiven),
        None => Err(KeyTextError::Form),
    }
}

fn parse(text: &str, wanted: &'static str) -> Result<Parts, KeyTextError> {
    if text.len() > TEXT_LEN_MAX {
        return Err(KeyTextError::Form);
    }
    // base64 may hold `+` as well: it is what stands after the third one.
    let mut parts = text.splitn(4, '+');
    let (Some(party), Some(algorithm), Some(check), Some(bytes)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(KeyTextError::Form);
    };
    let party = PartyId::parse(party)?;
    if algorithm != wanted {
        return Err(KeyTextError::Algorithm {
            found: algorithm.chars().take(40).collect(),
            wanted,
        });
    }
    let bytes = STANDARD
        .decode(bytes)
        .map_err(|_| KeyTextError::Bytes("not base64"))?;
    Ok(Parts {
        party,
        check: check.to_owned(),
        bytes: Zeroizing::new(bytes),
    })
}
