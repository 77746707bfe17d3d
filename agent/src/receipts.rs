//! Statements about packages of ours: verified, stored with the job, and followed to its end.

use std::sync::Arc;

use passerelle_disk::{DiskError, crash_point};
use passerelle_link::Peer;
use passerelle_proto::v1::{Signed, statement::What};
use passerelle_proto::{
    Directory, PackageId, UntrustedStatement, VerifiedManifest, VerifiedStatement,
};
use prost::Message;

use crate::again;
use crate::cancel::{self, Unkept};
use crate::damage;
use crate::event::AgentEvent;
use crate::job::{Job, REPORT};
use crate::node::Node;
use crate::outgoing::{read_manifest, statements};
use crate::progress::{Gateways, Progress, progress};

/// What came of a statement.
pub(crate) enum Taken {
    /// Stored, or stored before: it may be acknowledged.
    Stored,
    /// Not about us, or not to be believed; sending it again changes nothing.
    Refused(String),
}

/// Which party's gateway a party is behind, from the convention.
pub(crate) struct Known<'a>(pub(crate) &'a Directory);

impl Gateways for Known<'_> {
    fn gateway_of(&self, party: &str) -> Option<String> {
        let party = party.parse().ok()?;
        self.0
            .convention()
            .gateway_of(&party)
            .map(ToString::to_string)
    }
}

/// Takes a statement. Blocks; on return it is durable.
///
/// # Errors
/// [`DiskError`]: it must be sent again.
pub(crate) fn take(node: &Arc<Node>, peer: &Peer, signed: Signed) -> Result<Taken, DiskError> {
    let refuse = |why: &str| Ok(Taken::Refused(why.to_owned()));
    let untrusted = match UntrustedStatement::parse(signed) {
        Ok(untrusted) => untrusted,
        Err(error) => return refuse(&error.to_string()),
    };
    let directory = node.directory();
    let key = directory.signing_key(untrusted.issuer(), &untrusted.signer());
    let Some(key) = key else {
        return refuse("its signing key is in no sheet of its issuer");
    };
    let statement = match untrusted.verify(&key.key) {
        Ok(statement) => statement,
        Err(error) => return refuse(&error.to_string()),
    };
    if key.revoked.is_some_and(|at| at <= statement.at()) {
        return refuse("its signing key is revoked");
    }
    if !key.may_say(statement.what()) {
        return refuse("its signing key may not say this");
    }
    tracing::debug!(%peer, package = statement.package().short(), "a statement has come");
    if matches!(statement.what(), What::Cancel(_)) {
        return match cancel::keep(node, &statement) {
            Ok(()) => Ok(Taken::Stored),
            Err(Unkept::Refused(why)) => refuse(why),
            Err(Unkept::Disk(error)) => Err(error),
        };
    }
    if matches!(statement.what(), What::Damaged(_)) {
        return damage::asked(node, &statement);
    }
    let taking = node.outgoing.taking.lock();
    let _one = taking.unwrap_or_else(|poisoned| poisoned.into_inner());
    match node.outgoing.find(&statement.package()) {
        Some(sent) => {
            store(node, &sent.job, &sent.manifest, &statement)?;
            close_if_over(node, sent.job, &sent.manifest)?;
            Ok(Taken::Stored)
        }
        None => match node.outgoing.find_finished(&statement.package()) {
            Some(job) => {
                if let Some(manifest) = read_manifest(&job) {
                    store(node, &job, &manifest, &statement)?;
                    report_again(node, job, &manifest)?;
                }
                Ok(Taken::Stored)
            }
            // What was kept of it here may have gone before what the gateways kept.
            None if matches!(statement.what(), What::Purged(_)) => Ok(Taken::Stored),
            None => refuse("it is about no package of ours"),
        },
    }
}

/// Stores a statement with its job, and tells whoever listens. Blocks.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn store(
    node: &Arc<Node>,
    job: &Job,
    manifest: &VerifiedManifest,
    statement: &VerifiedStatement,
) -> Result<(), DiskError> {
    crash_point!("statement.verified");
    let bytes = statement.signed().encode_to_vec();
    let new = job.store_statement(&statement.id().to_string(), &bytes)?;
    crash_point!("statement.stored");
    if matches!(statement.what(), What::Accepted(_)) {
        node.outgoing.submitted(&manifest.id());
        again::end(node)?;
    }
    if new {
        node.metrics.stated();
        node.tell(AgentEvent::Stated {
            package: manifest.id(),
            issuer: statement.issuer().to_string(),
            what: statement.what().clone(),
        });
    }
    Ok(())
}

/// How far a package of ours has come, recipient by recipient. Blocks.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn progress_of(
    node: &Node,
    job: &Job,
    manifest: &VerifiedManifest,
) -> Result<Vec<Progress>, DiskError> {
    let said: Vec<_> = statements(job)?
        .iter()
        .map(|one| one.body().clone())
        .collect();
    let recipients = &manifest.body().recipients;
    let directory = node.directory();
    Ok(progress(
        manifest.sender().as_str(),
        recipients,
        &said,
        &Known(&directory),
    ))
}

/// Moves a job to `sent/` or `rejected/` when every recipient has a terminal statement. Blocks.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn close_if_over(
    node: &Arc<Node>,
    job: Job,
    manifest: &VerifiedManifest,
) -> Result<(), DiskError> {
    let states = progress_of(node, &job, manifest)?;
    if !states.iter().all(|state| state.stage.is_terminal()) {
        return Ok(());
    }
    close(node, job, manifest, &states)
}

/// A word about a package that is over has come late: its report says so, and one that has reached
/// somebody after all moves from `rejected/` to `sent/`, so that nobody sends it twice. Blocks.
///
/// # Errors
/// [`DiskError`]: the word must come again.
fn report_again(node: &Arc<Node>, job: Job, manifest: &VerifiedManifest) -> Result<(), DiskError> {
    let states = progress_of(node, &job, manifest)?;
    let delivered = states.iter().any(|state| state.stage.is_delivered());
    if delivered && job.directory().starts_with(node.store.rejected()) {
        return close(node, job, manifest, &states);
    }
    let report = report(&manifest.id(), &words_of(&job), &states);
    let path = job.directory().join(REPORT);
    match job.disk().read(&path) {
        Ok(kept) if kept == report.as_bytes() => Ok(()),
        _ => job.disk().replace(&path, report.as_bytes()),
    }
}

/// Moves a job to where it belongs now that it is over, and tells whoever listens.
fn close(
    node: &Arc<Node>,
    job: Job,
    manifest: &VerifiedManifest,
    states: &[Progress],
) -> Result<(), DiskError> {
    let delivered = states.iter().any(|state| state.stage.is_delivered());
    let title = words_of(&job);
    let place = match delivered {
        true => node.store.sent(),
        false => node.store.rejected(),
    };
    let report = report(&manifest.id(), &title, states);
    let job = job.finish(&place, Some(manifest.id()), &title, &report, node.now())?;
    node.outgoing.finished(&manifest.id(), &job);
    let path = job.directory().to_owned();
    if delivered {
        node.metrics.sent(manifest.flow().as_str());
    } else {
        node.metrics.rejected();
        let why = states
            .iter()
            .map(|state| format!("{}: {}", state.recipient, state.detail));
        let why = why.collect::<Vec<_>>().join("; ");
        let name = title;
        node.tell(AgentEvent::Rejected {
            name,
            why,
            path: path.clone(),
        });
    }
    let package = manifest.id();
    tracing::info!(
        package = package.short(),
        delivered,
        "over for all recipients"
    );
    node.tell(AgentEvent::Finished {
        package,
        delivered,
        path,
    });
    Ok(())
}

/// What a job is called to people.
fn words_of(job: &Job) -> String {
    title_of(job).unwrap_or_else(|| "package".into())
}

/// Title of a job, as it was sealed.
pub(crate) fn title_of(job: &Job) -> Option<String> {
    let bytes = job.disk().read(&job.description()).ok()?;
    let description = passerelle_proto::v1::Description::decode(bytes.as_slice()).ok()?;
    Some(description.title)
}

fn report(package: &PackageId, title: &str, states: &[Progress]) -> String {
    let mut report = format!("{title}\npackage {package}\n\n");
    for state in states {
        let at = passerelle_proto::Timestamp::from_ms(state.at_ms);
        let line = format!("{}: {} ({at})", state.recipient, state.stage.word());
        report.push_str(&line);
        if !state.detail.is_empty() {
            report.push_str(&format!(" {}", state.detail));
        }
        report.push('\n');
    }
    report
}

#[cfg(test)]
mod tests;
