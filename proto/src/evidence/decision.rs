//! Holds what a gateway says that it has purged against the decision in its own log.

use super::report::{OtherEvent, Standing, StatementReport};
use super::{EvidenceError, Missing};
use crate::v1::{self, entry::Event, statement::What};
use crate::{CLOCK_TOLERANCE, Directory, PartyId, Timestamp};

/// Follows each `Purged` to its decision, where the log of its issuer is in the file.
///
/// # Errors
/// [`EvidenceError::Contradiction`]: the log holds something else there, or a decision that did not
/// allow this.
pub(super) fn decisions(
    statements: &[StatementReport],
    events: &[OtherEvent],
    logs: &[PartyId],
    directory: &Directory,
) -> Result<Vec<Missing>, EvidenceError> {
    let mut missing = Vec::new();
    for report in statements {
        let What::Purged(said) = report.what() else {
            continue;
        };
        let log = report.statement.issuer();
        if !logs.contains(log) {
            continue;
        }
        let index = said.decided_index;
        let anew = directory.has_begun_anew(log);
        let is_own = |standing: &Standing| &standing.log == log;
        if anew && !report.standings.iter().any(is_own) {
            // It may have been said while the lost log was in use: its decision is another entry.
            missing.push(Missing::Entry {
                log: log.clone(),
                index,
                anew,
            });
            continue;
        }
        let is_there = |standing: &Standing| &standing.log == log && standing.index == index;
        let decided = events.iter().find(|event| is_there(&event.standing));
        let problem = match decided.map(|event| &event.entry.event) {
            Some(Some(Event::PurgeDecided(decided))) => wrong(said, decided, report, index, log),
            Some(_) => Some("no decision stands there"),
            None if statements
                .iter()
                .any(|it| it.standings.iter().any(is_there)) =>
            {
                Some("a statement stands there, and no decision")
            }
            None => {
                missing.push(Missing::Entry {
                    log: log.clone(),
                    index,
                    anew,
                });
                None
            }
        };
        if let Some(problem) = problem {
            return Err(EvidenceError::Contradiction {
                place: format!("the purge by {log} that entry {index} of its log decided"),
                problem: problem.to_owned(),
            });
        }
    }
    Ok(missing)
}

/// Why a decision does not allow what was done by it.
fn wrong(
    said: &v1::Purged,
    decided: &v1::PurgeDecidedEvent,
    report: &StatementReport,
    index: u64,
    log: &PartyId,
) -> Option<&'static str> {
    let own = |standing: &&Standing| &standing.log == log;
    let before = report.standings.iter().find(own);
    let due = Timestamp::from_ms(decided.due_ms);
    // A clock may have been set back a little between the decision and the word about it.
    let said_at = report.statement.at().saturating_add(CLOCK_TOLERANCE);
    match () {
        () if said.part != decided.part => Some("it decided about another part"),
        () if said.early != decided.early => Some("one says that it was early, the other does not"),
        () if !decided.early && said_at < due => Some("it was not due yet"),
        () if before.is_some_and(|standing| standing.index <= index) => {
            Some("it was decided after it was done")
        }
        () if decided.over_index >= index => Some("the package was not over yet"),
        () if decided.cosigned_size <= decided.over_index => {
            Some("nobody had cosigned that the package was over")
        }
        () => None,
    }
}
