//! What can be seen to be missing.
//!
//! A signing key numbers what it says to each party, and every statement names the one before it.
//! The numbers go over all packages, so a hole in them is no proof that something about this
//! package was left out; but a hole is told, and two statements under one number are refused.

use std::collections::{BTreeMap, BTreeSet};

use super::EvidenceError;
use super::report::StatementReport;
use crate::v1::statement::What;
use crate::{Directory, KeyId, KeyRole, PartyId, StatementId, VerifiedStatement};

/// Something that the file does not hold although it must exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// Statements between two that are here. They are about other packages, or were left out.
    Between {
        /// Who has said them.
        issuer: PartyId,
        /// To whom.
        destination: PartyId,
        /// Number of the one that is here before them.
        after: u64,
        /// Number of the one that is here behind them.
        before: u64,
    },
    /// An entry of a log in the file about this package: its own gateway has signed that it is
    /// there. It was left out, or stood in a log that was lost.
    Entry {
        /// Whose log.
        log: PartyId,
        /// Which entry.
        index: u64,
        /// Whether that party's log has taken the place of a lost one.
        anew: bool,
    },
    /// The numbers of a gateway began anew with a log that took the place of a lost one: they do
    /// not show what is missing of either.
    Anew {
        /// Whose gateway.
        issuer: PartyId,
        /// To whom it has spoken.
        destination: PartyId,
    },
}

/// Follows the sequence of every signing key towards every party.
///
/// # Errors
/// [`EvidenceError::Contradiction`]: two statements under one number, or one that names another
/// predecessor than the one that is here; unless its gateway's log was lost, and its numbers with
/// it.
pub(super) fn holes(
    statements: &[StatementReport],
    directory: &Directory,
) -> Result<Vec<Missing>, EvidenceError> {
    let mut sequences: BTreeMap<(KeyId, &PartyId), BTreeMap<u64, &VerifiedStatement>> =
        BTreeMap::new();
    let mut anew = BTreeSet::new();
    let mut began_anew = |statement: &VerifiedStatement| {
        let (issuer, destination) = (statement.issuer(), statement.destination());
        let key = directory.signing_key(issuer, &statement.signer());
        let speaks = key.is_some_and(|key| key.may(KeyRole::Gateway));
        let lost = speaks && directory.has_begun_anew(issuer);
        if lost {
            anew.insert((issuer.clone(), destination.clone()));
        }
        lost
    };
    for StatementReport { statement, .. } in statements {
        let seq = statement.body().seq;
        if seq == 0 {
            continue;
        }
        let sequence = sequences
            .entry((statement.signer(), statement.destination()))
            .or_default();
        if let Some(other) = sequence.insert(seq, statement)
            && !began_anew(statement)
        {
            return Err(twice(statement, other.id()));
        }
    }
    let mut holes = Vec::new();
    for sequence in sequences.values() {
        for ((after, one), (before, next)) in sequence.iter().zip(sequence.iter().skip(1)) {
            let follows = next.body().previous == one.id().as_bytes();
            if follows != (after + 1 == *before) {
                if began_anew(next) {
                    continue;
                }
                return Err(broken(next, *after));
            }
            if !follows {
                holes.push(Missing::Between {
                    issuer: next.issuer().clone(),
                    destination: next.destination().clone(),
                    after: *after,
                    before: *before,
                });
            }
        }
    }
    let anew = anew.into_iter().map(|(issuer, destination)| Missing::Anew {
        issuer,
        destination,
    });
    holes.extend(anew);
    Ok(holes)
}

fn twice(statement: &VerifiedStatement, other: StatementId) -> EvidenceError {
    EvidenceError::Contradiction {
        place: format!("statements {} and {other}", statement.id()),
        problem: format!(
            "{} has signed both as number {} to {}: it has told two sequences",
            statement.issuer(),
            statement.body().seq,
            statement.destination()
        ),
    }
}

fn broken(statement: &VerifiedStatement, before: u64) -> EvidenceError {
    EvidenceError::Contradiction {
        place: format!("statement {}", statement.id()),
        problem: format!(
            "{} has signed it as number {}, and what it names as its predecessor does not agree \
             with number {before} in the file",
            statement.issuer(),
            statement.body().seq
        ),
    }
}

/// Entries that receipts in the file speak of and that are not in it, where their log is.
///
/// # Errors
/// [`EvidenceError::Contradiction`]: that log holds another receipt there.
pub(super) fn receipts(
    statements: &[StatementReport],
    logs: &[PartyId],
    directory: &Directory,
) -> Result<Vec<Missing>, EvidenceError> {
    let mut missing = Vec::new();
    for report in statements {
        let What::Accepted(said) = report.what() else {
            continue;
        };
        let issuer = report.statement.issuer();
        if !logs.contains(issuer) {
            continue;
        }
        let index = said.log_index;
        let own = |standing: &super::Standing| &standing.log == issuer;
        match report.standings.iter().find(|standing| own(standing)) {
            Some(standing) if standing.index == index => {}
            Some(standing) => {
                return Err(EvidenceError::Contradiction {
                    place: format!("entry {} of the log of {issuer}", standing.index),
                    problem: format!("its receipt says that it is entry {index}"),
                });
            }
            None => missing.push(Missing::Entry {
                log: issuer.clone(),
                index,
                anew: directory.has_begun_anew(issuer),
            }),
        }
    }
    Ok(missing)
}
