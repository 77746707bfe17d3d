//! What an agent keeps of packages that are over, and for how long.
//!
//! What was dropped lies in `sent/` or `rejected/` for the payload retention of its flow, and the
//! record of it, with manifest and statements, for the metadata retention; both count from the end
//! of the day on which the package was over for its last recipient. What a gateway has refused or
//! nobody has fetched was a package too. What was never sealed is its owner's: nothing else has a
//! copy of it, and it stays until somebody takes it away. So does everything in the inbox. The
//! register of what was received is pruned by its own rule.

use std::sync::Arc;
use std::time::{Duration, Instant};

use passerelle_disk::DiskError;
use passerelle_host::monotonic;
use passerelle_proto::v1::statement::What;
use passerelle_proto::{
    Directory, Retention, Timestamp, VerifiedManifest, VerifiedStatement, terminal_recipients,
};

use crate::cancel;
use crate::damage;
use crate::job::Job;
use crate::node::Node;
use crate::outgoing::{Outgoing, read_manifest, statements};

/// How often everything is looked through.
const PRUNE_EVERY: Duration = Duration::from_secs(6 * 3600);
/// How often it is looked whether the clock may be believed by now.
const LOOK_EVERY: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What of a package that is over is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Going {
    Nothing,
    /// What was dropped.
    Dropped,
    /// The whole record.
    Record,
}

fn going(retention: &Retention, over: Timestamp, now: Timestamp) -> Going {
    let ended = |kept: Duration| now >= over.saturating_add(kept);
    if ended(retention.metadata()) {
        return Going::Record;
    }
    match ended(retention.payload()) {
        true => Going::Dropped,
        false => Going::Nothing,
    }
}

/// Removes what has been kept long enough, as long as the agent runs.
pub(crate) async fn keep_pruning(node: Arc<Node>) {
    let mut last: Option<Instant> = None;
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            () = node.stop.cancelled() => return,
        }
        let moment = node.host_clock.moment();
        let again = last.is_none_or(|last| monotonic() >= last + PRUNE_EVERY);
        if !again || node.clock.doubt(moment).is_some() {
            continue;
        }
        last = Some(monotonic());
        let pruning = node.clone();
        let work = move || prune(&pruning, moment.wall);
        let _ = passerelle_host::blocking(work).await;
    }
}

/// Looks through everything once. What cannot be read or removed stays, and holds nothing up.
fn prune(node: &Node, now: Timestamp) {
    if let Err(error) = node.note_chain() {
        return tracing::warn!(%error, "nothing is removed before the next look");
    }
    let (entries, failed) = node.register.prune(now);
    for error in failed {
        tracing::warn!(%error, "an entry of what was received stays");
    }
    for pruned in [cancel::prune(node), damage::prune(node)] {
        if let Err(error) = pruned {
            tracing::warn!(%error, "what was said about packages that are over stays");
        }
    }
    let directory = node.directory();
    let (mut dropped, mut records) = (0, 0);
    for job in node.outgoing.all_finished() {
        if node.stop.is_cancelled() {
            return;
        }
        match prune_job(&node.outgoing, &directory, job, now) {
            Ok(Going::Nothing) => {}
            Ok(Going::Dropped) => dropped += 1,
            Ok(Going::Record) => records += 1,
            Err(error) => tracing::warn!(%error, "what is kept of a package stays"),
        }
    }
    if entries + dropped + records > 0 {
        tracing::info!(
            entries,
            dropped,
            records,
            "what was kept long enough is removed"
        );
    }
}

fn prune_job(
    outgoing: &Outgoing,
    directory: &Directory,
    job: Job,
    now: Timestamp,
) -> Result<Going, DiskError> {
    // A day says enough about most of them.
    if end_of_day(&job).is_some_and(|day| now < day) {
        return Ok(Going::Nothing);
    }
    let Some(manifest) = read_manifest(&job) else {
        return Ok(Going::Nothing);
    };
    let retention = retention_of(directory, &manifest);
    // A statement may come at any time: none into a directory that is being removed.
    let taking = outgoing.taking.lock();
    let _one = taking.unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some(over) = over(&job)? else {
        return Ok(Going::Nothing);
    };
    let going = going(&retention, over, now);
    if going == Going::Nothing || !job.said().unacked()?.is_empty() {
        return Ok(Going::Nothing);
    }
    if going == Going::Record {
        job.remove()?;
        outgoing.forget(&manifest.id());
        return Ok(going);
    }
    if !job.disk().is_dir(&job.source()) {
        return Ok(Going::Nothing);
    }
    job.remove_dropped(&note(&manifest, &retention, now))?;
    Ok(going)
}

/// The retention of the convention under which a package was made; of the newest one where that is
/// not known here.
fn retention_of(directory: &Directory, manifest: &VerifiedManifest) -> Retention {
    let named = directory.convention_by_digest(&manifest.convention());
    let convention = named.unwrap_or(directory.convention());
    let flow = convention.flow(manifest.flow());
    flow.map_or(Retention::default(), |flow| flow.retention)
}

/// The end of the day that a job's directory is filed under; `None` when it is no day.
fn end_of_day(job: &Job) -> Option<Timestamp> {
    let day = job.directory().parent()?.file_name()?.to_str()?;
    let day: Timestamp = day.parse().ok()?;
    Some(day.saturating_add(DAY))
}

/// When a job was over: the end of its day, or the last word that ended it, whichever is later. A
/// clock that was wrong on that day makes it no older than what others have signed.
fn over(job: &Job) -> Result<Option<Timestamp>, DiskError> {
    let Some(day) = end_of_day(job) else {
        return Ok(None);
    };
    let ends =
        |what: &What| matches!(what, What::NotReceipted(_)) || terminal_recipients(what).is_some();
    let said = statements(job)?;
    let ended = said.iter().filter(|said| ends(said.what()));
    Ok(ended.map(VerifiedStatement::at).chain([day]).max())
}

fn note(manifest: &VerifiedManifest, retention: &Retention, now: Timestamp) -> String {
    format!(
        "What was dropped here was removed on {}.\n\n\
         The package is over, and the flow {} keeps what was sent for {} days after that.\n\
         Its manifest and everything that was said about it stay for {} days.\n",
        now.date(),
        manifest.flow(),
        retention.payload,
        retention.metadata
    )
}

#[cfg(test)]
mod tests;
