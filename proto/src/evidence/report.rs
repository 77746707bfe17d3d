//! What evidence was found to say.

use std::collections::BTreeMap;

use super::Missing;
use crate::v1::{self, statement::What};
use crate::{
    Denial, Flow, PackageId, PartyId, TimeStamp, Timestamp, VerifiedManifest, VerifiedStatement,
};

/// Everything that a file proves. All signatures and proofs in it hold.
#[derive(Debug, Clone)]
pub struct EvidenceReport {
    /// The package.
    pub package: PackageId,
    /// Its manifest; `None` when no log in the file has accepted it.
    pub manifest: Option<ManifestReport>,
    /// Everything that was said about it, in the order in which it says that it was said.
    pub statements: Vec<StatementReport>,
    /// What else the logs hold about it.
    pub events: Vec<OtherEvent>,
    /// The logs, and how far they were cosigned.
    pub logs: Vec<LogCheckpoints>,
    /// What can be seen to be missing.
    pub missing: Vec<Missing>,
    /// The newest sheet of each party that the file was judged under: number and issue.
    pub sheets: Vec<(PartyId, u64, Timestamp)>,
}

/// The manifest, and what the convention says about it.
#[derive(Debug, Clone)]
pub struct ManifestReport {
    /// The manifest.
    pub manifest: VerifiedManifest,
    /// Name and version of the convention that it was made under.
    pub convention: (String, u64),
    /// The flow, with its article; `None` when that convention has no such flow.
    pub flow: Option<Flow>,
    /// Why the convention did not permit it when it was accepted.
    pub denial: Option<Denial>,
    /// Where it was accepted.
    pub standings: Vec<Standing>,
    /// Whose gateway serves the sender and each recipient.
    pub gateways: BTreeMap<PartyId, PartyId>,
}

/// A statement, and what it rests on.
#[derive(Debug, Clone)]
pub struct StatementReport {
    /// The statement.
    pub statement: VerifiedStatement,
    /// Where it stands, by log and index.
    pub standings: Vec<Standing>,
    /// Why its signature may not be believed although it verifies.
    pub doubt: Option<Doubt>,
}

impl StatementReport {
    /// Whether it counts as evidence: without doubt, and in a log under a checkpoint that another
    /// institution has cosigned.
    pub fn counts(&self) -> bool {
        self.doubt.is_none() && self.cosigned().next().is_some()
    }

    /// Cosignatures over it, by other institutions than the one whose log it stands in.
    pub fn cosigned(&self) -> impl Iterator<Item = &CosignedAt> {
        self.standings
            .iter()
            .flat_map(|standing| &standing.cosigned)
    }

    /// What is said.
    pub fn what(&self) -> &What {
        self.statement.what()
    }
}

/// Where something stands in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whose log.
    pub log: PartyId,
    /// At which index.
    pub index: u64,
    /// When it was appended, by that gateway's clock.
    pub at: Timestamp,
    /// The first cosignature over it of each other institution that has cosigned.
    pub cosigned: Vec<CosignedAt>,
    /// The first time-stamp over it of each authority.
    pub stamped: Vec<StampedAt>,
}

impl Standing {
    /// Whether somebody else's clock than its own gateway's shows that what `issuer` says was there
    /// before `at`.
    ///
    /// Where the issuer's keys were lost, the revoked key of its own log shows nothing: whoever has
    /// it writes any time.
    pub fn was_there_before(&self, at: Timestamp, issuer: &PartyId) -> bool {
        let believed = |stamp: &TimeStamp| stamp.doubt.is_none() && stamp.latest() < at;
        let shows = |cosigned: &CosignedAt| {
            let lost = cosigned.revoked.is_some() && &cosigned.partner == issuer;
            cosigned.at < at && !lost
        };
        self.cosigned.iter().any(shows)
            || self.stamped.iter().any(|stamped| believed(&stamped.stamp))
    }
}

/// A partner has cosigned a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CosignedAt {
    /// Who.
    pub partner: PartyId,
    /// Entries under it.
    pub size: u64,
    /// When, by the partner's clock.
    pub at: Timestamp,
    /// From when on the key that it was cosigned with is revoked: later than `at`, or it would not
    /// count at all.
    pub revoked: Option<Timestamp>,
}

/// An authority has stamped a checkpoint (RFC 3161).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StampedAt {
    /// Entries under it.
    pub size: u64,
    /// When, by which authority, and whether that is to be believed.
    pub stamp: TimeStamp,
}

/// Why a signature that verifies may not be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// It says that it was made when its key was not to be used.
    Dates {
        /// First instant of the key.
        from: Timestamp,
        /// Last instant of the key.
        until: Timestamp,
    },
    /// Its key was revoked, and nobody shows that it was there before.
    Revoked {
        /// From when on.
        at: Timestamp,
    },
    /// Its issuer has not the part in the package that the words are about.
    NotIts,
    /// It is about another content than the manifest names.
    OtherContent,
}

/// An entry about the package that holds nothing signed of its own.
#[derive(Debug, Clone)]
pub struct OtherEvent {
    /// Where it stands.
    pub standing: Standing,
    /// The entry.
    pub entry: v1::Entry,
}

/// The checkpoints of one log in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogCheckpoints {
    /// Whose log.
    pub party: PartyId,
    /// Entries under its newest checkpoint in the file.
    pub size: u64,
    /// What partners have cosigned, by size.
    pub cosigned: Vec<CosignedAt>,
    /// What authorities have stamped, by size.
    pub stamped: Vec<StampedAt>,
    /// Entries of it about the package.
    pub entries: u64,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fixture::{NOW, party};

    fn standing(cosigned: Option<Timestamp>, stamped: Option<(Timestamp, bool)>) -> Standing {
        let cosigned = cosigned.map(|at| CosignedAt {
            partner: party("grand-dijon"),
            size: 9,
            at,
            revoked: None,
        });
        let stamped = stamped.map(|(at, believed)| StampedAt {
            size: 9,
            stamp: TimeStamp {
                at,
                accuracy: Some(Duration::from_secs(2)),
                authority: "CN=authority".to_owned(),
                policy: "1.2.3".to_owned(),
                serial: "01".to_owned(),
                doubt: (!believed).then(|| "nobody trusts it".to_owned()),
            },
        });
        Standing {
            log: party("caf21"),
            index: 3,
            at: NOW,
            cosigned: cosigned.into_iter().collect(),
            stamped: stamped.into_iter().collect(),
        }
    }

    #[test]
    fn a_cosignature_or_a_believed_time_stamp_shows_what_was_there_before_and_nothing_else_does() {
        let before = |seconds| NOW.saturating_sub(Duration::from_secs(seconds));
        for (cosigned, stamped, shown) in [
            (None, None, false),
            (Some(before(1)), None, true),
            (Some(NOW), None, false),
            (None, Some((before(3), true)), true),
            // The authority's own accuracy reaches beyond that moment.
            (None, Some((before(2), true)), false),
            (None, Some((before(3), false)), false),
            (Some(NOW), Some((before(3), true)), true),
        ] {
            let standing = standing(cosigned, stamped);
            let found = standing.was_there_before(NOW, &party("caf21"));
            assert_eq!(found, shown, "{standing:?}");
        }
    }

    #[test]
    fn the_lost_key_of_its_own_log_shows_nothing_of_what_somebody_says() {
        let mut standing = standing(Some(NOW.saturating_sub(Duration::from_secs(1))), None);
        standing.cosigned[0].revoked = Some(NOW);
        assert!(standing.was_there_before(NOW, &party("caf21")));
        assert!(!standing.was_there_before(NOW, &party("grand-dijon")));
    }
}
