//! Looking into the outbox and through `work/`: what is found is claimed and sealed, one after the
//! other. One that cannot be claimed or sealed now is stuck by itself, and keeps no other waiting.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use passerelle_disk::{DiskError, crash_point};
use passerelle_host::monotonic;
use passerelle_proto::Digest;

use super::{report, seal_job};
use crate::clock::{ClockDoubt, FIRST_WORD_MAX};
use crate::event::AgentEvent;
use crate::job::{Job, JobStage, jobs, reject_dropped};
use crate::node::Node;
use crate::outbox::{Dropped, Find, Obstacle, Outbox, RETRY, Unfit, make_folders};
use crate::outgoing::read_manifest;

/// Looks until the agent stops.
pub(crate) async fn watch_outbox(node: Arc<Node>) {
    let mut watch = Watch::new(&node);
    let mut poll = tokio::time::interval(node.config.limits.poll);
    let mut told = None;
    loop {
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            _ = poll.tick() => {}
        }
        let doubt = not_to_seal(&node);
        // It may be another doubt than before.
        let kind = doubt.as_ref().map(std::mem::discriminant);
        if kind != told {
            told = kind;
            tell_of_doubt(doubt);
        }
        if doubt.is_some() {
            continue;
        }
        let looked = passerelle_host::blocking(move || {
            watch.look();
            watch
        });
        let Ok(back) = looked.await else {
            return;
        };
        watch = back;
    }
}

/// Why nothing is to be sealed now: a package that is made at the wrong time is refused by
/// everybody, and would have to be dropped again.
fn not_to_seal(node: &Node) -> Option<ClockDoubt> {
    match node.clock.doubt(node.host_clock.moment())? {
        ClockDoubt::Unheard if monotonic() >= node.began + FIRST_WORD_MAX => None,
        doubt => Some(doubt),
    }
}

fn tell_of_doubt(doubt: Option<ClockDoubt>) {
    match doubt {
        Some(differs @ ClockDoubt::Differs { .. }) => {
            let why = differs.to_string();
            tracing::error!(
                why,
                "what is dropped stays in the outbox, and is not sealed"
            );
        }
        Some(ClockDoubt::Unheard) => {
            tracing::debug!("what is dropped waits for the gateway's first word");
        }
        None => tracing::debug!("what is dropped is sealed"),
    }
}

/// What is remembered from one look to the next.
pub(super) struct Watch {
    node: Arc<Node>,
    outbox: Outbox,
    /// When `work/` is looked through: at the start, and after something has failed.
    resume_at: Option<Instant>,
    /// The convention whose flows have their folders.
    convention: Option<Digest>,
    /// Where something is stuck, as far as this look has come.
    stuck: BTreeSet<PathBuf>,
}

impl Watch {
    pub(super) fn new(node: &Arc<Node>) -> Self {
        let store = &node.store;
        Self {
            node: node.clone(),
            outbox: Outbox::new(store.disk(), store.outbox(), node.config.limits.settle),
            resume_at: Some(monotonic()),
            convention: None,
            stuck: BTreeSet::new(),
        }
    }

    /// Looks once. Blocks for as long as it takes to seal all that is found.
    pub(super) fn look(&mut self) {
        self.stuck.clear();
        let resumes = self.resume_at.is_some_and(|at| at <= monotonic());
        if resumes {
            self.resume_at = None;
            self.resume();
            crash_point!("start.resumed");
        }
        self.make_folders();
        self.look_into_outbox();
        let work = self.node.store.work();
        let elsewhere = |path: &Path| !resumes && path.starts_with(&work);
        let is_stuck = |path: &Path| self.stuck.contains(path) || elsewhere(path);
        self.node.outgoing.stuck.keep_only(is_stuck);
    }

    /// Goes on with jobs that were claimed and are not sealed, because the agent was stopped or the
    /// disk was full.
    fn resume(&mut self) {
        let work = self.node.store.work();
        let found = match jobs(&self.node.store) {
            Ok(found) => found,
            Err(error) => return self.failed(&work, &error),
        };
        for job in found {
            let place = job.directory().to_owned();
            if self.waits(&place) {
                self.resume_later();
                continue;
            }
            // A test package is made and sealed under this lock: it is never met half made.
            let node = self.node.clone();
            let _one = node.sealing();
            let went_on = go_on(&node, job);
            self.note(&place, went_on);
        }
    }

    /// An amendment may have brought a flow on which this party sends.
    fn make_folders(&mut self) {
        let directory = self.node.directory();
        let convention = directory.convention();
        if self.convention == Some(convention.digest()) {
            return;
        }
        match make_folders(&self.node.store, convention, &self.node.party) {
            Ok(()) => self.convention = Some(convention.digest()),
            Err(error) => self.failed(&self.node.store.outbox(), &error),
        }
    }

    fn look_into_outbox(&mut self) {
        for find in self.outbox.look(monotonic()) {
            match find {
                Find::Stuck(path, obstacle) => self.put_off(&path, obstacle),
                Find::Stable(dropped) | Find::Unfit(dropped, _) if self.waits(&dropped.path) => {}
                Find::Stable(dropped) => self.take(&dropped),
                Find::Unfit(dropped, unfit) => {
                    let moved = reject_unfit(&self.node, &dropped, unfit);
                    self.note(&dropped.path, moved);
                }
            }
            if self.node.stop.is_cancelled() {
                return;
            }
        }
    }

    /// Claims and seals what has settled.
    fn take(&mut self, dropped: &Dropped) {
        let store = &self.node.store;
        let durable = Job::settle(store, dropped);
        // What was found before it may have taken long to seal, and this one to become durable:
        // meanwhile somebody may have begun to write it anew. Then it settles once more.
        if durable.is_ok() && !self.outbox.is_as_seen(dropped) {
            return;
        }
        let claimed = durable.and_then(|()| Job::take(store, dropped, self.node.now()));
        let job = match claimed {
            Ok(job) => job,
            // It may be in `work/` all the same.
            Err(error) => return self.failed(&dropped.path, &error),
        };
        self.node.outgoing.stuck.settled(&dropped.path);
        let name = dropped.path.file_name().unwrap_or_default();
        self.node.tell(AgentEvent::Claimed {
            job: job.name(),
            flow: dropped.flow.clone(),
            name: name.to_string_lossy().into_owned(),
        });
        let place = job.directory().to_owned();
        let node = self.node.clone();
        let _one = node.sealing();
        let sealed = seal_job(&node, job);
        self.note(&place, sealed);
    }

    /// Whether something has failed so lately that it is not its turn again; then it is stuck.
    fn waits(&mut self, path: &Path) -> bool {
        let waits = self.node.outgoing.stuck.waits(path, monotonic());
        if waits {
            self.stuck.insert(path.to_owned());
        }
        waits
    }

    fn note(&mut self, path: &Path, outcome: Result<(), DiskError>) {
        match outcome {
            Ok(()) => self.node.outgoing.stuck.settled(path),
            Err(error) => self.failed(path, &error),
        }
    }

    fn failed(&mut self, path: &Path, error: &DiskError) {
        self.put_off(path, Obstacle::of(error));
        self.resume_later();
    }

    fn put_off(&mut self, path: &Path, obstacle: Obstacle) {
        let stuck = &self.node.outgoing.stuck;
        stuck.put_off(path, obstacle, monotonic());
        self.stuck.insert(path.to_owned());
    }

    fn resume_later(&mut self) {
        self.resume_at = Some(monotonic() + RETRY);
    }
}

fn go_on(node: &Arc<Node>, job: Job) -> Result<(), DiskError> {
    match job.stage()? {
        JobStage::Empty => job.discard_empty(),
        JobStage::Claimed => seal_job(node, job),
        JobStage::Sealed => offer(node, job),
    }
}

/// Offers a sealed package that nobody knows of: its name was made, and then the disk failed.
fn offer(node: &Arc<Node>, job: Job) -> Result<(), DiskError> {
    let id = read_manifest(&job).map(|manifest| manifest.id());
    if id.is_none_or(|id| node.outgoing.find(&id).is_none()) {
        node.outgoing.sealed(job)?;
        node.news.notify_waiters();
    }
    Ok(())
}

fn reject_unfit(node: &Arc<Node>, dropped: &Dropped, unfit: Unfit) -> Result<(), DiskError> {
    let why = unfit.to_string();
    let name = dropped.path.file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let report = report(&name, &why);
    let path = reject_dropped(&node.store, dropped, &report, node.now())?;
    tracing::warn!(name, why, "rejected");
    node.tell(AgentEvent::Rejected { name, why, path });
    Ok(())
}

#[cfg(test)]
mod tests;
