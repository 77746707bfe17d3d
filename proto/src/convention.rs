//! The convention: what two institutions have agreed, as a text that both have signed.
//!
//! It is a TOML text in a signed note, digested and verified exactly as it stands. It counts only
//! with the signatures of both signatories, under root keys that were compared on paper.

mod flow;
mod party;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

pub use flow::{Acknowledgement, Flow, Retention};
pub use party::Party;

use crate::{Digest, FlowId, KeyId, Note, NoteError, PartyId, Timestamp, VerifyingKey};

/// Longest text of a convention in bytes.
pub const CONVENTION_LEN_MAX: usize = 1_000_000;
/// Most parties of one convention.
pub const PARTIES_MAX: usize = 1024;
/// Most flows of one convention.
pub const FLOWS_MAX: usize = 256;

const DAY: Duration = Duration::from_secs(24 * 3600);
const DAY_MS: i64 = 24 * 3600 * 1000;

/// Root key ids that were compared on paper: where trust starts.
pub type Roots = BTreeMap<PartyId, KeyId>;

/// Why a text is no convention, or not one that binds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConventionError {
    /// The note around the text.
    #[error("convention: {0}")]
    Note(#[from] NoteError),
    /// Longer than allowed.
    #[error("convention: {bytes} bytes; at most {CONVENTION_LEN_MAX} are allowed")]
    TooLong {
        /// Length found.
        bytes: usize,
    },
    /// Not the TOML that is expected.
    #[error("convention: {0}")]
    Toml(String),
    /// Well formed, and contradicts itself.
    #[error("convention: {0}")]
    Content(String),
    /// A signatory's root key in the text is not the one compared on paper.
    #[error(
        "convention: the root key of {party} has fingerprint {found}, and {pinned} is pinned: \
         compare with the signed letter, and trust neither before they agree"
    )]
    Root {
        /// Whose key.
        party: PartyId,
        /// Fingerprint of the key in the text.
        found: KeyId,
        /// Fingerprint in the configuration.
        pinned: String,
    },
    /// One of the two signatures is missing or does not verify.
    #[error(
        "convention: it does not bind without the signature of {party} ({reason}): \
         ask {party} to sign this very text"
    )]
    Unsigned {
        /// Whose signature.
        party: PartyId,
        /// What is wrong with it.
        reason: NoteError,
    },
}

/// The territory that the data describes, and the geography it is told in.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Territory {
    /// Name, for people.
    pub name: String,
    /// SIREN of the inter-municipal body (EPCI).
    pub epci: String,
    /// Year of the official geographic code that commune and IRIS codes are read in.
    pub vintage: u16,
    /// INSEE codes of the communes.
    pub communes: Vec<String>,
}

/// Something that a party has promised.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Obligation {
    /// Short name.
    pub id: String,
    /// Article of the convention.
    pub article: String,
    /// Who has promised it.
    pub party: PartyId,
    /// What was promised, in words.
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    id: String,
    version: u64,
    #[serde(default)]
    supersedes: Option<Digest>,
    valid_from: Timestamp,
    valid_until: Timestamp,
    #[serde(default)]
    wind_down_days: u32,
    signatories: [PartyId; 2],
    territory: Territory,
    #[serde(rename = "party")]
    parties: Vec<Party>,
    #[serde(rename = "flow")]
    flows: Vec<Flow>,
    #[serde(rename = "obligation", default)]
    obligations: Vec<Obligation>,
}

/// A convention whose text is well formed; nobody's signature has been looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsignedConvention {
    text: String,
    body: Body,
}

impl UnsignedConvention {
    /// Reads and checks the TOML text.
    ///
    /// # Errors
    /// [`ConventionError`] with the line of a syntax error, or what contradicts what.
    pub fn parse(text: &str) -> Result<Self, ConventionError> {
        if text.len() > CONVENTION_LEN_MAX {
            return Err(ConventionError::TooLong { bytes: text.len() });
        }
        let body: Body =
            toml::from_str(text).map_err(|error| ConventionError::Toml(error.to_string()))?;
        check(&body)?;
        Ok(Self {
            text: text.to_owned(),
            body,
        })
    }

    /// The text as it stands.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The convention without any claim that it binds: for tools that show or derive one.
    pub fn draft(&self) -> Convention {
        Convention {
            digest: Digest::of(self.text.as_bytes()),
            body: self.body.clone(),
        }
    }
}

/// A convention that binds: both signatories have signed this very text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Convention {
    digest: Digest,
    body: Body,
}

impl Convention {
    /// Verifies a note against the two pinned root fingerprints.
    ///
    /// # Errors
    /// [`ConventionError`] names what is missing.
    pub fn verify(note: &[u8], pinned: &Roots) -> Result<Self, ConventionError> {
        let note = Note::parse(note)?;
        let convention = UnsignedConvention::parse(note.text())?.draft();
        for party in convention.signatories() {
            let root = convention.root(party)?;
            if pinned.get(party) != Some(&root.id()) {
                return Err(ConventionError::Root {
                    party: party.clone(),
                    found: root.id(),
                    pinned: pinned.get(party).map_or("none".into(), KeyId::to_string),
                });
            }
            convention.signed(&note, party)?;
        }
        Ok(convention)
    }

    /// Verifies an amendment (avenant): both signatories of the version before have signed it,
    /// with the root keys that the version before names.
    ///
    /// The root keys in its own text count from then on: this is how they are replaced.
    ///
    /// # Errors
    /// [`ConventionError`] names what is missing.
    pub fn verify_amendment(note: &[u8], before: &Self) -> Result<Self, ConventionError> {
        let note = Note::parse(note)?;
        let convention = UnsignedConvention::parse(note.text())?.draft();
        for party in convention.signatories() {
            convention.root(party)?;
        }
        for party in before.signatories() {
            before.signed(&note, party)?;
        }
        let next = convention.version() == before.version() + 1;
        if next && convention.supersedes() != Some(before.digest()) {
            return Err(ConventionError::Content(format!(
                "supersedes of version {} is not {}, the digest of the version before",
                convention.version(),
                before.digest()
            )));
        }
        Ok(convention)
    }

    fn root(&self, signatory: &PartyId) -> Result<&VerifyingKey, ConventionError> {
        let party = self.party(signatory);
        party.and_then(|party| party.root.as_ref()).ok_or_else(|| {
            ConventionError::Content(format!("signatory {signatory} has no root key"))
        })
    }

    fn signed(&self, note: &Note, party: &PartyId) -> Result<(), ConventionError> {
        note.verified_by(self.root(party)?)
            .map_err(|reason| ConventionError::Unsigned {
                party: party.clone(),
                reason,
            })
    }

    /// SHA-256 of the text: how packages name it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Name of the agreement, the same over all its versions.
    pub fn id(&self) -> &str {
        &self.body.id
    }

    /// 1 for the first text, one more for each amendment (avenant).
    pub fn version(&self) -> u64 {
        self.body.version
    }

    /// Digest of the version before this one.
    pub fn supersedes(&self) -> Option<Digest> {
        self.body.supersedes
    }

    /// The two institutions that have signed.
    pub fn signatories(&self) -> &[PartyId; 2] {
        &self.body.signatories
    }

    /// First instant of the term.
    pub fn valid_from(&self) -> Timestamp {
        self.body.valid_from
    }

    /// First instant after the term's last day, which `valid_until` names in the text.
    pub fn valid_until(&self) -> Timestamp {
        self.body.valid_until.saturating_add(DAY)
    }

    /// First instant after the wind-down, in which only flows marked `after_term` pass.
    pub fn wind_down_until(&self) -> Timestamp {
        self.valid_until()
            .saturating_add(DAY * self.body.wind_down_days)
    }

    /// The territory.
    pub fn territory(&self) -> &Territory {
        &self.body.territory
    }

    /// All parties, in the order of the text.
    pub fn parties(&self) -> &[Party] {
        &self.body.parties
    }

    /// One party.
    pub fn party(&self, id: &PartyId) -> Option<&Party> {
        self.body.parties.iter().find(|party| &party.id == id)
    }

    /// All flows, in the order of the text.
    pub fn flows(&self) -> &[Flow] {
        &self.body.flows
    }

    /// One flow.
    pub fn flow(&self, id: &FlowId) -> Option<&Flow> {
        self.body.flows.iter().find(|flow| &flow.id == id)
    }

    /// What was promised.
    pub fn obligations(&self) -> &[Obligation] {
        &self.body.obligations
    }

    /// Party whose gateway serves `party`: `via`, or itself.
    pub fn gateway_of(&self, party: &PartyId) -> Option<&PartyId> {
        self.party(party).map(Party::gateway)
    }
}

fn check(body: &Body) -> Result<(), ConventionError> {
    let refuse = |what: String| Err(ConventionError::Content(what));
    if body.version == 0 {
        return refuse("version counts from 1".into());
    }
    if body.version > 1 && body.supersedes.is_none() {
        return refuse("supersedes is missing: the digest of the version before".into());
    }
    if body.valid_until < body.valid_from {
        return refuse("valid_until is before valid_from".into());
    }
    // The last day counts to its end, so an hour in it would say something else than it does.
    if body.valid_until.as_ms() % DAY_MS != 0 {
        return refuse("valid_until is a day, the last one: write 2017-12-31".into());
    }
    if body.parties.len() > PARTIES_MAX || body.flows.len() > FLOWS_MAX {
        return refuse(format!(
            "more than {PARTIES_MAX} parties or {FLOWS_MAX} flows"
        ));
    }
    let mut known = BTreeMap::new();
    for party in &body.parties {
        if known.insert(&party.id, party).is_some() {
            return refuse(format!("party {} is named twice", party.id));
        }
    }
    for party in &body.signatories {
        if !known.contains_key(party) {
            return refuse(format!("signatory {party} is no [[party]]"));
        }
    }
    if body.signatories[0] == body.signatories[1] {
        return refuse("both signatories are the same party".into());
    }
    for party in &body.parties {
        party.check(&known).map_err(ConventionError::Content)?;
    }
    let mut flows = BTreeMap::new();
    for flow in &body.flows {
        if flows.insert(&flow.id, ()).is_some() {
            return refuse(format!("flow {} is named twice", flow.id));
        }
        flow.check(&known).map_err(ConventionError::Content)?;
    }
    Ok(())
}
