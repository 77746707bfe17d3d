//! Party sheets (fiches): what a party says about its own addresses, names and keys.
//!
//! A TOML text in a note signed by the party's offline root key alone. Rotation and revocation are
//! the next sheet, with a higher `seq`; no partner can veto it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    Digest, KeyId, LogVerifier, Note, NoteError, PartyId, RecipientKey, Role, SigningKey,
    Timestamp, VerifyingKey, log_epoch,
};

/// Longest text of a sheet in bytes.
pub const SHEET_LEN_MAX: usize = 256 * 1024;
/// Longest life of a sheet: 400 days.
pub const SHEET_LIFE_MAX: Duration = Duration::from_secs(400 * 24 * 3600);
/// Most keys, names, addresses or revocations, each.
pub const SHEET_ITEMS_MAX: usize = 256;

/// Why a text is no sheet of its party.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SheetError {
    /// The note, or the root's signature.
    #[error("sheet: {0}")]
    Note(#[from] NoteError),
    /// Longer than allowed.
    #[error("sheet: {bytes} bytes; at most {SHEET_LEN_MAX} are allowed")]
    TooLong {
        /// Length found.
        bytes: usize,
    },
    /// Not the TOML that is expected.
    #[error("sheet: {0}")]
    Toml(String),
    /// Well formed, and contradicts itself.
    #[error("sheet of {party}: {problem}")]
    Content {
        /// Whose sheet.
        party: PartyId,
        /// What is wrong.
        problem: String,
    },
}

/// What a signing key may speak for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyRole {
    /// Manifests, and statements of the recipient.
    Agent,
    /// Statements of the gateway.
    Gateway,
    /// Acts of a person.
    Operator,
}

/// A TLS name of the party, and which of its programs has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsName {
    /// DNS name, exact: no wildcard.
    pub name: String,
    /// The program.
    pub role: Role,
}

/// What TLS connections of the party are recognised by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificates of the authorities that may issue the party's certificates, in PEM.
    pub anchors: Vec<String>,
    /// SHA-256 of public keys (SPKI); when there are any, a leaf must have one of them.
    #[serde(default)]
    pub pins: Vec<Digest>,
    /// The names.
    #[serde(rename = "name", default)]
    pub names: Vec<TlsName>,
}

/// A signing key and what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SheetKey {
    /// The public key.
    pub key: VerifyingKey,
    /// What it may speak for.
    pub roles: Vec<KeyRole>,
    /// First instant at which it may be used.
    pub not_before: Timestamp,
    /// Last instant at which it may be used.
    pub not_after: Timestamp,
}

/// The party's audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SheetLog {
    /// Origin line of its checkpoints.
    pub origin: String,
    /// Verifier keys (C2SP), an Ed25519 and an ML-DSA-44 one: the pair that signs now. Pairs that
    /// signed before may follow, the newest first: what they have signed stays verifiable.
    pub vkeys: Vec<String>,
}

impl SheetLog {
    /// The pairs of keys, the one that signs now first; empty when they are malformed, which a
    /// sheet that was read never has.
    pub fn keys(&self) -> Vec<LogVerifier> {
        LogVerifier::all_from_vkeys(&self.origin, &self.vkeys).unwrap_or_default()
    }
}

/// A key that is no longer to be believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// Which key.
    pub key: KeyId,
    /// From when on.
    pub at: Timestamp,
    /// Why, in words.
    pub reason: String,
}

/// A party's sheet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sheet {
    /// Whose sheet.
    pub party: PartyId,
    /// Counts from 1; the highest one seen counts.
    pub seq: u64,
    /// When it was written.
    pub issued: Timestamp,
    /// Last instant at which it counts; at most 400 days after `issued`.
    pub not_after: Timestamp,
    /// Where the party's gateway listens, `host:port`; none for a party without a gateway.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Keys that packages for this party are sealed for, the newest first: the first that is not
    /// revoked is used, and the party still opens with the others.
    #[serde(default)]
    pub recipients: Vec<RecipientKey>,
    /// How its connections are recognised.
    pub tls: Tls,
    /// Its audit log, where it has a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<SheetLog>,
    /// Its signing keys.
    #[serde(rename = "key", default)]
    pub keys: Vec<SheetKey>,
    /// Keys withdrawn before their time.
    #[serde(rename = "revocation", default)]
    pub revocations: Vec<Revocation>,
}

impl Sheet {
    /// Reads and checks the TOML text of a sheet; nobody's signature is looked at.
    ///
    /// # Errors
    /// [`SheetError`] with the line of a syntax error, or what contradicts what.
    pub fn parse(text: &str) -> Result<Self, SheetError> {
        if text.len() > SHEET_LEN_MAX {
            return Err(SheetError::TooLong { bytes: text.len() });
        }
        let sheet: Self =
            toml::from_str(text).map_err(|error| SheetError::Toml(error.to_string()))?;
        sheet.check().map_err(|problem| SheetError::Content {
            party: sheet.party.clone(),
            problem,
        })?;
        Ok(sheet)
    }

    /// Verifies a note with the root key that the convention names for its party.
    ///
    /// # Errors
    /// [`SheetError`] when the note is malformed or not signed by `root`.
    pub fn verify(note: &[u8], root: &VerifyingKey) -> Result<Self, SheetError> {
        let note = Note::parse(note)?;
        note.verified_by(root)?;
        let sheet = Self::parse(note.text())?;
        if &sheet.party != root.party() {
            return Err(SheetError::Content {
                problem: format!("it is signed by the root key of {}", root.party()),
                party: sheet.party,
            });
        }
        Ok(sheet)
    }

    /// The text to sign.
    ///
    /// # Errors
    /// [`SheetError::Toml`] when a field cannot be written.
    pub fn to_text(&self) -> Result<String, SheetError> {
        toml::to_string(self).map_err(|error| SheetError::Toml(error.to_string()))
    }

    /// The sheet as a note signed by `root`.
    ///
    /// # Errors
    /// [`SheetError`] when the sheet contradicts itself.
    pub fn sign(&self, root: &SigningKey) -> Result<Vec<u8>, SheetError> {
        let text = self.to_text()?;
        Self::parse(&text)?;
        let mut note = Note::unsigned(&text)?;
        note.sign_with(root)?;
        Ok(note.to_bytes())
    }

    /// When a key was revoked, as far as this sheet says.
    pub fn revoked(&self, key: &KeyId) -> Option<Timestamp> {
        let of_key = self
            .revocations
            .iter()
            .filter(|revocation| &revocation.key == key);
        of_key.map(|revocation| revocation.at).min()
    }

    fn check(&self) -> Result<(), String> {
        let lengths = [
            self.addresses.len(),
            self.recipients.len(),
            self.tls.anchors.len(),
            self.tls.pins.len(),
            self.tls.names.len(),
            self.keys.len(),
            self.revocations.len(),
            self.log.as_ref().map_or(0, |log| log.vkeys.len()),
        ];
        if lengths.iter().any(|length| *length > SHEET_ITEMS_MAX) {
            return Err(format!("a list has more than {SHEET_ITEMS_MAX} items"));
        }
        if self.seq == 0 {
            return Err("seq counts from 1".into());
        }
        if self.not_after < self.issued || self.not_after.since(self.issued) > SHEET_LIFE_MAX {
            return Err("not_after must be within 400 days after issued".into());
        }
        let signs = self.keys.iter().map(|key| key.key.party());
        let opens = self.recipients.iter().map(RecipientKey::party);
        if let Some(other) = signs.chain(opens).find(|party| **party != self.party) {
            return Err(format!("it lists a key of {other}"));
        }
        for (n, listed) in self.keys.iter().enumerate() {
            let id = listed.key.id();
            if self.keys[..n].iter().any(|before| before.key.id() == id) {
                return Err(format!(
                    "it lists the key {id} twice: write all its roles at once"
                ));
            }
        }
        if let Some(SheetLog { origin, vkeys }) = &self.log {
            if log_epoch(&self.party, origin).is_none() {
                return Err(format!("{origin:?} is no log of {}", self.party));
            }
            let keys = LogVerifier::all_from_vkeys(origin, vkeys);
            if keys
                .map_err(|error| format!("a key of its log: {error}"))?
                .is_empty()
            {
                return Err("its log has no key".into());
            }
        }
        for TlsName { name, .. } in &self.tls.names {
            let allowed =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            if name.is_empty() || name.len() > 253 || !name.chars().all(allowed) {
                return Err(format!("{name:?} is no exact DNS name in lowercase"));
            }
        }
        Ok(())
    }
}
