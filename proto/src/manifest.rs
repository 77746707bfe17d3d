//! The manifest (bordereau): what a sender signs about a package, and the package's identity.
//!
//! `UntrustedManifest` is what arrived and is well formed; `VerifiedManifest` carries a signature
//! that verifies. Neither says that the package is allowed: only the decision does.

use std::sync::Arc;

use prost::Message;

use crate::chunk::{MAX_CHUNKS, MAX_CIPHERTEXT_LEN, RECORD_LEN};
use crate::envelope::{self, EnvelopeError};
use crate::v1::{self, Kind, ObjectType, Part, Signed};
use crate::{Digest, FlowId, KeyId, PackageId, PartyId, Timestamp, VerifyingKey};

/// Longest manifest body in bytes.
pub const MANIFEST_LEN_MAX: usize = 8 * 1024;
/// Most recipients of one package.
pub const RECIPIENTS_MAX: usize = 32;
/// Most parents that one manifest names.
pub const PARENTS_MAX: usize = 32;
/// Longest life of a package, from `created` to `not_after`, in milliseconds (90 days).
pub const LIFETIME_MS_MAX: i64 = 90 * 24 * 3600 * 1000;
/// Longest sealed index in bytes.
pub const INDEX_LEN_MAX: u64 = 8 * 1024 * 1024;
/// Longest wraps section in bytes: 32 recipients, each below 1,280.
pub const WRAPS_LEN_MAX: u64 = 32 * 1280;
/// Longest payload in bytes: 64 GiB of plaintext, its chunk headers, padding and tags.
pub const PAYLOAD_LEN_MAX: u64 = 72 * 1024 * 1024 * 1024;
/// Longest chunk table in bytes.
pub const TABLE_LEN_MAX: u64 = (MAX_CHUNKS * RECORD_LEN) as u64;

/// Length of the random part of a signed body in bytes.
pub const NONCE_LEN: usize = 16;

/// Why a manifest is not accepted. Whoever made it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The envelope, or the encoding of the body.
    #[error("manifest: {0}")]
    Envelope(#[from] EnvelopeError),
    /// A field that no honest sender writes like this.
    #[error("manifest: field `{field}` {problem}")]
    Field {
        /// Name of the field in `package.proto`.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

fn field(field: &'static str, problem: &'static str) -> ManifestError {
    ManifestError::Field { field, problem }
}

/// Everything a well-formed manifest says, in our own types.
#[derive(Debug)]
struct Content {
    id: PackageId,
    signed: Signed,
    body: v1::Manifest,
    signer: KeyId,
    sender: PartyId,
    recipients: Vec<PartyId>,
    flow: FlowId,
    kind: Kind,
    convention: Digest,
    parents: Vec<PackageId>,
    supersedes: Option<PackageId>,
    request: Option<Digest>,
    key_commit: Digest,
    content_commit: Digest,
    wraps: HeadPart,
    chunk_table: HeadPart,
    index: HeadPart,
}

/// Length and SHA-256 of one part of a package's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadPart {
    /// Length in bytes.
    pub length: u64,
    /// SHA-256 of the part.
    pub sha256: Digest,
}

/// A manifest that is well formed, whose signature nobody has verified yet.
#[derive(Debug, Clone)]
pub struct UntrustedManifest(Arc<Content>);

impl UntrustedManifest {
    /// Checks limits, canonical encoding and every field by itself.
    ///
    /// # Errors
    /// [`ManifestError`] names the field and what is wrong with it.
    pub fn parse(signed: Signed) -> Result<Self, ManifestError> {
        envelope::check_shape(&signed, ObjectType::Manifest, MANIFEST_LEN_MAX)?;
        let body: v1::Manifest = envelope::decode_exact(&signed.body)?;
        check_times(&body)?;
        let chunk_table = head_part("chunk_table", &body.chunk_table, TABLE_LEN_MAX)?;
        check_payload(&body, &chunk_table)?;
        if body.nonce.len() != NONCE_LEN {
            return Err(field("nonce", "is not 16 bytes"));
        }
        let parents = parents(&body)?;
        Ok(Self(Arc::new(Content {
            id: PackageId(Digest::of(&signed.body)),
            signer: KeyId(digest("signer", &body.signer)?.0),
            sender: PartyId::parse(&body.sender).map_err(|_| field("sender", "is no party id"))?,
            recipients: recipients(&body)?,
            flow: FlowId::parse(&body.flow).map_err(|_| field("flow", "is no flow id"))?,
            kind: kind(&body)?,
            convention: digest("convention", &body.convention)?,
            parents,
            supersedes: optional_digest("supersedes", &body.supersedes)?.map(PackageId),
            request: optional_digest("request", &body.request)?,
            key_commit: digest("key_commit", &body.key_commit)?,
            content_commit: digest("content_commit", &body.content_commit)?,
            wraps: head_part("wraps", &body.wraps, WRAPS_LEN_MAX)?,
            chunk_table,
            index: head_part("index", &body.index, INDEX_LEN_MAX)?,
            signed,
            body,
        })))
    }

    /// Decodes an encoded `Signed` and checks it as [`UntrustedManifest::parse`] does.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        Self::parse(envelope::decode_exact(bytes)?)
    }

    /// Id of the key that is to verify it.
    pub fn signer(&self) -> KeyId {
        self.0.signer
    }

    /// Id of the package it would be.
    pub fn id(&self) -> PackageId {
        self.0.id
    }

    /// Sender that it claims.
    pub fn sender(&self) -> &PartyId {
        &self.0.sender
    }

    /// Digest of the convention that it names.
    pub fn convention(&self) -> Digest {
        self.0.convention
    }

    /// Takes a manifest as verified that this program has itself verified before it stored it.
    ///
    /// Only for bytes read back from the own log or the own directories: keys may be gone from
    /// the sheets since.
    pub fn verified_before(self) -> VerifiedManifest {
        VerifiedManifest(self.0)
    }

    /// Verifies the envelope with `key`, which must be the key the body names.
    ///
    /// # Errors
    /// [`EnvelopeError`]: another key, or a signature of which one half or both do not verify.
    pub fn verify(self, key: &VerifyingKey) -> Result<VerifiedManifest, EnvelopeError> {
        if key.id() != self.0.signer {
            return Err(EnvelopeError::Signer {
                named: self.0.signer,
                given: key.id(),
            });
        }
        envelope::verify(&self.0.signed, key)?;
        Ok(VerifiedManifest(self.0))
    }
}

/// A manifest whose signature verifies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct VerifiedManifest(Arc<Content>);

impl VerifiedManifest {
    /// Package id: SHA-256 of the body.
    pub fn id(&self) -> PackageId {
        self.0.id
    }

    /// The envelope, as it arrived.
    pub fn signed(&self) -> &Signed {
        &self.0.signed
    }

    /// The decoded body.
    pub fn body(&self) -> &v1::Manifest {
        &self.0.body
    }

    /// Id of the key that signed it.
    pub fn signer(&self) -> KeyId {
        self.0.signer
    }

    /// The sending party.
    pub fn sender(&self) -> &PartyId {
        &self.0.sender
    }

    /// 1 to 32 receiving parties, strictly ascending.
    pub fn recipients(&self) -> &[PartyId] {
        &self.0.recipients
    }

    /// The flow of the convention it belongs to.
    pub fn flow(&self) -> &FlowId {
        &self.0.flow
    }

    /// Whether it is a test package: receipted like data and not delivered.
    pub fn is_test(&self) -> bool {
        self.0.kind == Kind::Test
    }

    /// SHA-256 of the text of the convention it was sent under.
    pub fn convention(&self) -> Digest {
        self.0.convention
    }

    /// When the sender made it.
    pub fn created(&self) -> Timestamp {
        Timestamp::from_ms(self.0.body.created_ms)
    }

    /// When it may no longer be opened.
    pub fn not_after(&self) -> Timestamp {
        Timestamp::from_ms(self.0.body.not_after_ms)
    }

    /// Packages it was made from.
    pub fn parents(&self) -> &[PackageId] {
        &self.0.parents
    }

    /// Package it replaces.
    pub fn supersedes(&self) -> Option<PackageId> {
        self.0.supersedes
    }

    /// Release request that it answers.
    pub fn request(&self) -> Option<Digest> {
        self.0.request
    }

    /// HKDF of the package key, checked before anything is decrypted.
    pub fn key_commit(&self) -> Digest {
        self.0.key_commit
    }

    /// Commitment to the description of the content.
    pub fn content_commit(&self) -> Digest {
        self.0.content_commit
    }

    /// The wraps: one per recipient.
    pub fn wraps(&self) -> HeadPart {
        self.0.wraps
    }

    /// The chunk table.
    pub fn chunk_table(&self) -> HeadPart {
        self.0.chunk_table
    }

    /// The sealed index.
    pub fn index(&self) -> HeadPart {
        self.0.index
    }

    /// Length of the encrypted chunks in bytes.
    pub fn payload_length(&self) -> u64 {
        self.0.body.payload_length
    }

    /// Bytes that travel besides the manifest: head and chunks.
    pub fn total_length(&self) -> u64 {
        let head = self.0.wraps.length + self.0.chunk_table.length + self.0.index.length;
        head + self.0.body.payload_length
    }
}

/// What the wraps are bound to: SHA-256 of the body without its field `wraps`.
pub(crate) fn digest_without_wraps(body: &v1::Manifest) -> Digest {
    let without = v1::Manifest {
        wraps: None,
        ..body.clone()
    };
    Digest::of(&without.encode_to_vec())
}

fn digest(name: &'static str, bytes: &[u8]) -> Result<Digest, ManifestError> {
    Digest::from_slice(bytes).map_err(|_| field(name, "is not 32 bytes"))
}

fn optional_digest(name: &'static str, bytes: &[u8]) -> Result<Option<Digest>, ManifestError> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        digest(name, bytes).map(Some)
    }
}

fn kind(body: &v1::Manifest) -> Result<Kind, ManifestError> {
    match body.kind() {
        Kind::Unspecified => Err(field("kind", "is neither data nor test")),
        kind => Ok(kind),
    }
}

fn recipients(body: &v1::Manifest) -> Result<Vec<PartyId>, ManifestError> {
    if body.recipients.is_empty() || body.recipients.len() > RECIPIENTS_MAX {
        return Err(field("recipients", "names none or more than 32"));
    }
    if !body.recipients.is_sorted_by(|a, b| a < b) {
        return Err(field("recipients", "is not strictly ascending"));
    }
    let parsed = body.recipients.iter().map(|name| PartyId::parse(name));
    parsed
        .map(|party| party.map_err(|_| field("recipients", "holds no party id")))
        .collect()
}

fn parents(body: &v1::Manifest) -> Result<Vec<PackageId>, ManifestError> {
    if body.parents.len() > PARENTS_MAX {
        return Err(field("parents", "names more than 32"));
    }
    if body.parents.is_empty() && !body.no_foreign_data {
        return Err(field(
            "no_foreign_data",
            "must be declared when there are no parents",
        ));
    }
    if !body.parents.is_sorted_by(|a, b| a < b) {
        return Err(field("parents", "is not strictly ascending"));
    }
    body.parents
        .iter()
        .map(|id| digest("parents", id).map(PackageId))
        .collect()
}

fn check_times(body: &v1::Manifest) -> Result<(), ManifestError> {
    let life = body.not_after_ms.checked_sub(body.created_ms);
    match life {
        Some(1..=LIFETIME_MS_MAX) if body.created_ms >= 0 => Ok(()),
        _ => Err(field(
            "not_after_ms",
            "is not within 90 days after `created_ms`",
        )),
    }
}

fn head_part(
    name: &'static str,
    part: &Option<Part>,
    limit: u64,
) -> Result<HeadPart, ManifestError> {
    let part = part.as_ref().ok_or(field(name, "is missing"))?;
    if part.length > limit {
        return Err(field(name, "is longer than its limit"));
    }
    Ok(HeadPart {
        length: part.length,
        sha256: digest(name, &part.sha256)?,
    })
}

fn check_payload(body: &v1::Manifest, table: &HeadPart) -> Result<(), ManifestError> {
    if !table.length.is_multiple_of(RECORD_LEN as u64) {
        return Err(field(
            "chunk_table",
            "is no whole number of 36-byte records",
        ));
    }
    let chunks = table.length / RECORD_LEN as u64;
    let most = chunks * u64::from(MAX_CIPHERTEXT_LEN);
    if body.payload_length > most.min(PAYLOAD_LEN_MAX) {
        return Err(field("payload_length", "is more than its chunks can hold"));
    }
    Ok(())
}
