//! Statements: small signed objects that say what happened to a package.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;

use crate::envelope::{self, EnvelopeError};
use crate::manifest::NONCE_LEN;
use crate::v1::statement::What;
use crate::v1::{self, BusyReason, ObjectType, Reason, Signed};
use crate::{
    Digest, KeyId, PackageId, PartyId, Role, SigningKey, StatementId, Timestamp, VerifyingKey,
};

/// Longest statement body in bytes.
pub const STATEMENT_LEN_MAX: usize = 8 * 1024;
/// Longest comment of an acknowledgement, or of a request to cancel, in bytes.
pub const COMMENT_LEN_MAX: usize = 2 * 1024;

/// Statements that one inquiry may ask for.
pub const INQUIRE_MAX: u64 = 256;

/// Why a statement is not accepted. Whoever made it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// The envelope, or the encoding of the body.
    #[error("statement: {0}")]
    Envelope(#[from] EnvelopeError),
    /// A field that no honest issuer writes like this.
    #[error("statement: field `{field}` {problem}")]
    Field {
        /// Name of the field in `statement.proto`.
        field: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
}

fn field(field: &'static str, problem: &'static str) -> StatementError {
    StatementError::Field { field, problem }
}

/// What is to be said, before it is numbered and signed.
#[derive(Debug, Clone)]
pub struct StatementDraft {
    /// Party that speaks.
    pub issuer: PartyId,
    /// Party that is spoken to.
    pub destination: PartyId,
    /// Package that is spoken of.
    pub package: PackageId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

impl StatementDraft {
    /// The body to sign, at its place in the sequence of `chain`.
    pub fn body(&self, signer: &KeyId, chain: &StatementChain) -> Vec<u8> {
        let (seq, previous) = chain.next(&self.destination);
        self.message(signer, seq, previous).encode_to_vec()
    }

    /// The body outside of any sequence: an answer that is repeated on demand and never queued
    /// (`Busy`, and a refusal at the door).
    pub fn body_unnumbered(&self, signer: &KeyId) -> Vec<u8> {
        self.message(signer, 0, None).encode_to_vec()
    }

    /// Signs alone, outside of any sequence.
    pub fn sign_unnumbered(&self, key: &SigningKey) -> Signed {
        envelope::sign_one(key, ObjectType::Statement, self.body_unnumbered(&key.id()))
    }

    /// Signs alone, at its place in the sequence, which goes on by one.
    pub fn sign(&self, key: &SigningKey, chain: &mut StatementChain) -> Signed {
        let body = self.body(&key.id(), chain);
        chain.advance(&self.destination, StatementId(Digest::of(&body)));
        envelope::sign_one(key, ObjectType::Statement, body)
    }

    fn message(&self, signer: &KeyId, seq: u64, previous: Option<StatementId>) -> v1::Statement {
        v1::Statement {
            signer: signer.0.to_vec(),
            nonce: crate::key::random::<NONCE_LEN>().to_vec(),
            issuer: self.issuer.to_string(),
            destination: self.destination.to_string(),
            seq,
            previous: previous.map_or(Vec::new(), |id| id.as_bytes().to_vec()),
            at_ms: self.at.as_ms(),
            package: self.package.as_bytes().to_vec(),
            what: Some(self.what.clone()),
        }
    }
}

/// Where an issuer stands in its sequence towards each destination, whichever of its keys signs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatementChain(BTreeMap<PartyId, (u64, StatementId)>);

impl StatementChain {
    /// Number and predecessor of the next statement to `destination`.
    pub fn next(&self, destination: &PartyId) -> (u64, Option<StatementId>) {
        match self.0.get(destination) {
            Some((seq, id)) => (seq + 1, Some(*id)),
            None => (1, None),
        }
    }

    /// The statement with this id has been made: the sequence goes on after it.
    pub fn advance(&mut self, destination: &PartyId, id: StatementId) {
        let (seq, _) = self.next(destination);
        self.0.insert(destination.clone(), (seq, id));
    }

    /// Takes over a statement that was made earlier, in any order.
    pub fn seen(&mut self, statement: &VerifiedStatement) {
        let seq = statement.body().seq;
        let (next, _) = self.next(statement.destination());
        if seq >= next {
            self.0
                .insert(statement.destination().clone(), (seq, statement.id()));
        }
    }

    /// Sequence by destination: number and id of the latest statement.
    pub fn iter(&self) -> impl Iterator<Item = (&PartyId, u64, StatementId)> {
        self.0.iter().map(|(party, (seq, id))| (party, *seq, *id))
    }

    /// Where it stands, as text: `first`, a line for each destination, and a digest over all.
    pub fn to_text(&self, first: &str) -> String {
        let mut text = format!("{first}\n");
        for (party, seq, id) in self.iter() {
            text.push_str(&format!("{party} {seq} {id}\n"));
        }
        let digest = Digest::of(text.as_bytes());
        format!("{text}{digest}\n")
    }

    /// Reads such a text: its first line, and where it stands. `None`: it is damaged.
    pub fn parse_text(text: &str) -> Option<(&str, Self)> {
        let (lines, digest) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let body = &text[..lines.len() + 1];
        if digest.parse() != Ok(Digest::of(body.as_bytes())) {
            return None;
        }
        let mut lines = body.lines();
        let first = lines.next()?;
        let mut chain = Self::default();
        for line in lines {
            let mut parts = line.split(' ');
            let mut part = || parts.next();
            let (party, seq, id) = (part()?, part()?, part()?);
            let latest = (seq.parse().ok()?, id.parse().ok()?);
            chain.0.insert(party.parse().ok()?, latest);
        }
        Some((first, chain))
    }
}

#[derive(Debug)]
struct Content {
    id: StatementId,
    signed: Signed,
    body: v1::Statement,
    what: What,
    signer: KeyId,
    issuer: PartyId,
    destination: PartyId,
    package: PackageId,
}

/// A statement that is well formed, whose signature nobody has verified yet.
#[derive(Debug, Clone)]
pub struct UntrustedStatement(Arc<Content>);

impl UntrustedStatement {
    /// Checks limits, canonical encoding and every field by itself.
    ///
    /// # Errors
    /// [`StatementError`] names the field and what is wrong with it.
    pub fn parse(signed: Signed) -> Result<Self, StatementError> {
        envelope::check_shape(&signed, ObjectType::Statement, STATEMENT_LEN_MAX)?;
        let body: v1::Statement = envelope::decode_exact(&signed.body)?;
        let party =
            |name, text: &str| PartyId::parse(text).map_err(|_| field(name, "is no party id"));
        let digest = |name, bytes: &[u8]| {
            Digest::from_slice(bytes).map_err(|_| field(name, "is not 32 bytes"))
        };
        if body.nonce.len() != NONCE_LEN {
            return Err(field("nonce", "is not 16 bytes"));
        }
        if body.seq > 1 || !body.previous.is_empty() {
            digest("previous", &body.previous)?;
        }
        let what = body.what.clone().ok_or(field("what", "is missing"))?;
        check_what(&what)?;
        Ok(Self(Arc::new(Content {
            id: StatementId(Digest::of(&signed.body)),
            signer: KeyId(digest("signer", &body.signer)?.0),
            issuer: party("issuer", &body.issuer)?,
            destination: party("destination", &body.destination)?,
            package: PackageId(digest("package", &body.package)?),
            what,
            signed,
            body,
        })))
    }

    /// Id of the key that is to verify it.
    pub fn signer(&self) -> KeyId {
        self.0.signer
    }

    /// Party that it claims speaks.
    pub fn issuer(&self) -> &PartyId {
        &self.0.issuer
    }

    /// Takes a statement as verified that this program has itself verified before it stored it.
    ///
    /// Only for bytes read back from the own log or the own directories: keys may be gone from
    /// the sheets since.
    pub fn verified_before(self) -> VerifiedStatement {
        VerifiedStatement(self.0)
    }

    /// Verifies the envelope with `key`, which must be the key the body names, of its issuer.
    ///
    /// # Errors
    /// [`StatementError`]: another key or issuer, or a signature that does not verify.
    pub fn verify(self, key: &VerifyingKey) -> Result<VerifiedStatement, StatementError> {
        if key.id() != self.0.signer {
            let (named, given) = (self.0.signer, key.id());
            return Err(EnvelopeError::Signer { named, given }.into());
        }
        if key.party() != &self.0.issuer {
            return Err(field("issuer", "is not the party whose key has signed"));
        }
        envelope::verify(&self.0.signed, key)?;
        Ok(VerifiedStatement(self.0))
    }
}

/// A statement whose signature verifies. Cheap to clone.
#[derive(Debug, Clone)]
pub struct VerifiedStatement(Arc<Content>);

impl VerifiedStatement {
    /// SHA-256 of the body.
    pub fn id(&self) -> StatementId {
        self.0.id
    }

    /// The envelope, as it arrived.
    pub fn signed(&self) -> &Signed {
        &self.0.signed
    }

    /// The decoded body.
    pub fn body(&self) -> &v1::Statement {
        &self.0.body
    }

    /// Key that signed it.
    pub fn signer(&self) -> KeyId {
        self.0.signer
    }

    /// Party that speaks.
    pub fn issuer(&self) -> &PartyId {
        &self.0.issuer
    }

    /// Party that is spoken to.
    pub fn destination(&self) -> &PartyId {
        &self.0.destination
    }

    /// Package that is spoken of.
    pub fn package(&self) -> PackageId {
        self.0.package
    }

    /// When it was said.
    pub fn at(&self) -> Timestamp {
        Timestamp::from_ms(self.0.body.at_ms)
    }

    /// What is said.
    pub fn what(&self) -> &What {
        &self.0.what
    }
}

/// A reason for a refusal in messages, logs and metrics.
pub fn reason_words(reason: Reason) -> &'static str {
    match reason {
        Reason::Unspecified => "unspecified",
        Reason::Signature => "signature",
        Reason::SignerUnknown => "signer unknown",
        Reason::SignerExpired => "signer expired",
        Reason::SignerRevoked => "signer revoked",
        Reason::Malformed => "malformed",
        Reason::ConventionUnknown => "convention unknown",
        Reason::ConventionDates => "convention dates",
        Reason::FlowUnknown => "flow unknown",
        Reason::FlowSender => "flow sender",
        Reason::FlowRecipient => "flow recipient",
        Reason::TooLarge => "too large",
        Reason::TooOld => "too old",
        Reason::FromFuture => "from future",
        Reason::Expired => "expired",
        Reason::Route => "route",
        Reason::Lineage => "lineage",
        Reason::Digest => "digest",
        Reason::Key => "key",
        Reason::Content => "content",
        Reason::EntryName => "entry name",
        Reason::Role => "role",
        Reason::Other => "other",
        Reason::Cancelled => "cancelled",
    }
}

/// Why a gateway puts an offer off, in messages, logs and metrics.
pub fn busy_words(reason: BusyReason) -> &'static str {
    match reason {
        BusyReason::Unspecified => "unspecified",
        BusyReason::Disk => "disk",
        BusyReason::Quota => "quota",
        BusyReason::Offers => "offers",
        BusyReason::Unanchored => "unanchored",
        BusyReason::Uncosigned => "uncosigned",
    }
}

/// What a statement is called in messages, logs and file names.
pub fn statement_name(what: &What) -> &'static str {
    match what {
        What::Accepted(_) => "accepted",
        What::Forwarded(_) => "forwarded",
        What::Delivered(_) => "delivered",
        What::Acknowledged(_) => "acknowledged",
        What::Refused(_) => "refused",
        What::Busy(_) => "busy",
        What::NotCollected(_) => "not-collected",
        What::NotReceipted(_) => "not-receipted",
        What::Cancel(_) => "cancel",
        What::Damaged(_) => "damaged",
        What::Inquire(_) => "inquire",
    }
}

/// Recipients for whom this statement ends the package's way; an empty list from a refusal means
/// all behind its issuer. `None`: it ends nothing.
pub fn terminal_recipients(what: &What) -> Option<Vec<PartyId>> {
    let one = |recipient: &str| PartyId::parse(recipient).ok().map(|party| vec![party]);
    match what {
        What::Delivered(said) => one(&said.recipient),
        What::NotCollected(said) => one(&said.recipient),
        What::Refused(said) => Some(
            said.recipients
                .iter()
                .filter_map(|name| name.parse().ok())
                .collect(),
        ),
        What::Accepted(_)
        | What::Forwarded(_)
        | What::Acknowledged(_)
        | What::Busy(_)
        | What::Cancel(_)
        | What::Damaged(_)
        | What::Inquire(_)
        | What::NotReceipted(_) => None,
    }
}

fn check_inquiry(
    said: &v1::Inquire,
    party: impl Fn(&str) -> Result<(), StatementError>,
) -> Result<(), StatementError> {
    party(&said.issuer)?;
    party(&said.destination)?;
    if !matches!(said.role.parse(), Ok(Role::Gateway | Role::Agent)) {
        return Err(field("role", "is neither gateway nor agent"));
    }
    let last = said.first.saturating_add(INQUIRE_MAX);
    match said.first > 0 && (said.first..last).contains(&said.last) {
        true => Ok(()),
        false => Err(field(
            "last",
            "does not end a range of 1 to 256 numbers from 1 on",
        )),
    }
}

fn check_what(what: &What) -> Result<(), StatementError> {
    let parties = |name, names: &[String]| {
        if names.len() > crate::manifest::RECIPIENTS_MAX {
            return Err(field(name, "names more than 32"));
        }
        if names.iter().any(|text| PartyId::parse(text).is_err()) {
            return Err(field(name, "holds no party id"));
        }
        Ok(())
    };
    let recipient = |text: &str| parties("recipient", &[text.to_owned()]);
    match what {
        What::Accepted(said) => parties("recipients", &said.recipients),
        What::Refused(said) => {
            if said.reason() == v1::Reason::Unspecified {
                return Err(field("reason", "is not from the closed list"));
            }
            parties("recipients", &said.recipients)
        }
        What::Forwarded(said) => recipient(&said.recipient),
        What::Delivered(said) => match said.content_commit.len() {
            32 => recipient(&said.recipient),
            _ => Err(field("content_commit", "is not 32 bytes")),
        },
        What::Acknowledged(said) if said.comment.len() > COMMENT_LEN_MAX => {
            Err(field("comment", "is longer than 2,048 bytes"))
        }
        What::Acknowledged(said) => recipient(&said.recipient),
        What::Cancel(said) if said.comment.len() > COMMENT_LEN_MAX => {
            Err(field("comment", "is longer than 2,048 bytes"))
        }
        What::Cancel(said) => recipient(&said.recipient),
        What::NotCollected(said) => recipient(&said.recipient),
        What::NotReceipted(said) => recipient(&said.recipient),
        What::Inquire(said) => check_inquiry(said, recipient),
        What::Busy(_) | What::Damaged(_) => Ok(()),
    }
}
