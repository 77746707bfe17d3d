//! A flow of the convention: who may send what to whom, and under which article.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::Party;
use crate::{FlowId, PartyId, v1};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Longest life of a package in days.
const NOT_AFTER_DAYS_MAX: u32 = 90;

/// What recipients may do with what they have received.
const ONWARD: [&str; 3] = ["forbidden", "with-opinion", "free"];

/// Whether a person or a system of the recipient is to say that they have taken note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acknowledgement {
    /// Not asked for.
    None,
    /// Asked for.
    Required,
}

/// Longest retention in days: a hundred years.
const RETENTION_DAYS_MAX: u32 = 36_500;

/// How long each kind of trace is kept, in days after a package is over for its last recipient.
///
/// What a flow does not say is 30 days for the payload, 730 for the metadata and 3,650 for the
/// evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// The encrypted chunks at the gateways; at the sender what it dropped.
    pub payload: u32,
    /// Wraps, table and index at the gateways; at the sender its record of what it sent.
    pub metadata: u32,
    /// The gateways' logs: manifests, statements and all other entries.
    pub evidence: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            payload: 30,
            metadata: 730,
            evidence: 3_650,
        }
    }
}

impl Retention {
    /// How long the chunks are kept.
    pub fn payload(&self) -> Duration {
        DAY * self.payload
    }

    /// How long what stands before the chunks is kept, and the sender's record.
    pub fn metadata(&self) -> Duration {
        DAY * self.metadata
    }

    /// As it stands in a log.
    pub fn to_message(self) -> v1::RetentionDays {
        v1::RetentionDays {
            payload: self.payload,
            metadata: self.metadata,
            evidence: self.evidence,
        }
    }

    fn check(&self) -> bool {
        let Self {
            payload,
            metadata,
            evidence,
        } = *self;
        payload <= metadata && metadata <= evidence && evidence <= RETENTION_DAYS_MAX
    }
}

/// One kind of exchange that the convention allows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// Name used everywhere.
    pub id: FlowId,
    /// Article that allows it.
    pub article: String,
    /// What it carries, in words.
    pub title: String,
    /// `table`, `report`, `notice` and so on: what the checks start from.
    pub kind: String,
    /// Who may send.
    pub from: Vec<PartyId>,
    /// Who may receive.
    pub to: Vec<PartyId>,
    /// What recipients may do with it: `forbidden`, `with-opinion`, `free`.
    pub onward: String,
    /// Checks before sealing and after opening, by name.
    #[serde(default)]
    pub checks: Vec<String>,
    /// Approvals by operators that are needed before a package leaves.
    #[serde(default)]
    pub approvals: u8,
    /// Whether an acknowledgement is asked for.
    pub acknowledgement: Acknowledgement,
    /// Days until it is due.
    #[serde(default)]
    pub acknowledgement_days: u32,
    /// How long its traces are kept.
    #[serde(default)]
    pub retention: Retention,
    /// Largest package, in bytes of ciphertext.
    pub size_max: u64,
    /// Oldest package at its first acceptance, in days after its making.
    pub age_max_days: u32,
    /// Life of a package in days, unless its sender says less.
    pub not_after_days: u32,
    /// Whether equal chunks may be recognised from one package to the next.
    #[serde(default)]
    pub delta: bool,
    /// Whether it goes on during the wind-down after the convention's term.
    #[serde(default)]
    pub after_term: bool,
    /// Whether a package must name the packages it was made from.
    #[serde(default)]
    pub parents_required: bool,
}

impl Flow {
    /// Oldest package at its first acceptance.
    pub fn age_max(&self) -> Duration {
        DAY * self.age_max_days
    }

    /// Life of a package.
    pub fn not_after(&self) -> Duration {
        DAY * self.not_after_days
    }

    /// Who receives when a sender names nobody: everybody who may, but not the sender.
    pub fn default_recipients(&self, sender: &PartyId) -> Vec<PartyId> {
        let mut recipients = self.to.clone();
        recipients.retain(|party| party != sender);
        recipients.sort();
        recipients.dedup();
        recipients
    }

    pub(super) fn check(&self, known: &BTreeMap<&PartyId, &Party>) -> Result<(), String> {
        let id = &self.id;
        for party in self.from.iter().chain(&self.to) {
            if !known.contains_key(party) {
                return Err(format!("flow {id} names {party}, which is no [[party]]"));
            }
        }
        if self.from.is_empty() || self.to.is_empty() {
            return Err(format!("flow {id} has no sender or no recipient"));
        }
        if !(1..=NOT_AFTER_DAYS_MAX).contains(&self.not_after_days) || self.age_max_days == 0 {
            return Err(format!(
                "flow {id}: not_after_days is 1 to {NOT_AFTER_DAYS_MAX}, age_max_days at least 1"
            ));
        }
        if !ONWARD.contains(&self.onward.as_str()) {
            let rules = ONWARD.join(", ");
            return Err(format!("flow {id}: onward is one of {rules}"));
        }
        if !self.retention.check() {
            return Err(format!(
                "flow {id}: retention is payload <= metadata <= evidence <= \
                 {RETENTION_DAYS_MAX} days"
            ));
        }
        if self.size_max == 0 {
            return Err(format!("flow {id}: size_max is 0 bytes"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(retention: &str) -> Result<Flow, String> {
        let text = format!(
            "id = \"f\"\narticle = \"article 1\"\ntitle = \"t\"\nkind = \"table\"\n\
             from = [\"caf21\"]\nto = [\"caf21\"]\nonward = \"free\"\n\
             acknowledgement = \"none\"\n{retention}\nsize_max = 1\nage_max_days = 7\n\
             not_after_days = 30\n"
        );
        let flow: Flow = toml::from_str(&text).map_err(|error| error.to_string())?;
        let party: Party = toml::from_str("id = \"caf21\"\nname = \"n\"\nrole = \"r\"\n")
            .map_err(|error| error.to_string())?;
        flow.check(&BTreeMap::from([(&party.id, &party)]))?;
        Ok(flow)
    }

    #[test]
    fn what_a_flow_does_not_say_about_retention_is_the_documented_number_of_days() {
        let days = |retention: &str| {
            let Retention {
                payload,
                metadata,
                evidence,
            } = flow(retention).unwrap().retention;
            (payload, metadata, evidence)
        };
        assert_eq!(days(""), (30, 730, 3_650));
        assert_eq!(days("retention = { payload = 0 }"), (0, 730, 3_650));
        let all = "retention = { payload = 1, metadata = 2, evidence = 3 }";
        assert_eq!(days(all), (1, 2, 3));
    }

    #[test]
    fn what_proves_is_kept_at_least_as_long_as_what_is_proved() {
        for wrong in [
            "retention = { payload = 731 }",
            "retention = { metadata = 3651 }",
            "retention = { evidence = 36501 }",
        ] {
            let error = flow(wrong).unwrap_err();
            assert!(error.contains("flow f: retention"), "{error}");
        }
        let error = flow("retention = { payloads = 1 }").unwrap_err();
        assert!(error.contains("payloads"), "{error}");
    }
}
