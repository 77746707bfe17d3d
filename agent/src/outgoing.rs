//! What is to be handed to the gateway: sealed packages, and statements about received ones.
//!
//! In memory; what it holds can be read again from `work/` and `received/`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use passerelle_disk::{At, DiskError, FileCursor};
use passerelle_host::monotonic;
use passerelle_proto::v1::{Signed, statement::What};
use passerelle_proto::{
    PackLayout, PackageId, StatementId, UntrustedManifest, UntrustedStatement, VerifiedManifest,
    VerifiedStatement,
};
use prost::Message;

use crate::job::{Job, JobStage, jobs};
use crate::store::Store;

/// A sealed package on its way.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) job: Job,
    pub(crate) manifest: VerifiedManifest,
    pub(crate) layout: PackLayout,
    /// Whether our gateway has signed for it.
    pub(crate) submitted: bool,
    /// Whether our gateway may have it: it was offered, by this process or one before.
    pub(crate) tried: bool,
}

#[derive(Default)]
struct State {
    sent: BTreeMap<PackageId, Sent>,
    /// Packages that are being offered on some stream.
    offered: BTreeSet<PackageId>,
    /// Not to be offered before.
    not_before: BTreeMap<PackageId, Instant>,
    statements: BTreeMap<StatementId, (PackageId, Signed)>,
    on_the_way: BTreeSet<StatementId>,
    /// Packages that our gateway had signed for in a log that is lost, and not yet in its new one.
    again: BTreeSet<PackageId>,
    /// Whether there are such, or have been since the last look.
    offers_again: bool,
    /// Packages that are over, for statements that come later.
    finished: BTreeMap<PackageId, Job>,
}

/// See the module's text.
#[derive(Default)]
pub(crate) struct Outgoing {
    state: Mutex<State>,
    /// Statements are taken one at a time: the last of them moves the job's directory.
    pub(crate) taking: Mutex<()>,
}

impl Outgoing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Reads what was on its way when the agent stopped.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(crate) fn load(store: &Store) -> Result<Self, DiskError> {
        let outgoing = Self::default();
        for job in jobs(store)? {
            if job.stage()? == JobStage::Sealed {
                // Whoever gave the package its name may not have lived to make that durable.
                let directory = job.directory();
                job.disk().sync_dir(directory).at("sync", directory)?;
                outgoing.insert(job, true)?;
            }
        }
        for place in [store.sent(), store.rejected()] {
            for date in store.disk().entries(&place)? {
                for directory in store.disk().entries(&date)? {
                    let job = Job::at(store.disk(), directory);
                    // The agent may have stopped after the job was moved.
                    job.free_package()?;
                    if let Some(manifest) = read_manifest(&job) {
                        outgoing.state().finished.insert(manifest.id(), job);
                    }
                }
            }
        }
        Ok(outgoing)
    }

    /// A job is sealed: its package is offered from now on.
    ///
    /// # Errors
    /// [`DiskError`] when its package cannot be read.
    pub(crate) fn sealed(&self, job: Job) -> Result<VerifiedManifest, DiskError> {
        self.insert(job, false)
    }

    /// `before`: a process before this one may have offered it.
    fn insert(&self, job: Job, before: bool) -> Result<VerifiedManifest, DiskError> {
        let path = job.package();
        let file = job.disk().open(&path).at("open", &path)?;
        let mut file = FileCursor::new(file);
        let (layout, signed) = PackLayout::read(&mut file)
            .map_err(std::io::Error::other)
            .at("read", &path)?;
        let manifest = UntrustedManifest::parse(signed)
            .map_err(std::io::Error::other)
            .at("read", &path)?;
        let manifest = manifest.verified_before();
        let submitted = statements(&job)?
            .iter()
            .any(|said| matches!(said.what(), What::Accepted(_)));
        let sent = Sent {
            job,
            manifest: manifest.clone(),
            layout,
            submitted,
            tried: submitted || before,
        };
        self.state().sent.insert(manifest.id(), sent);
        Ok(manifest)
    }

    /// The next package to offer; it is given to nobody else until it is put back.
    pub(crate) fn claim(&self, fits: impl Fn(&VerifiedManifest) -> bool) -> Option<Sent> {
        let mut state = self.state();
        let now = monotonic();
        let ready = |id: &PackageId, sent: &Sent| {
            let waits = state.not_before.get(id).is_some_and(|at| *at > now);
            !sent.submitted && !waits && !state.offered.contains(id) && fits(&sent.manifest)
        };
        // The oldest first: jobs are named by their time.
        let found = state
            .sent
            .iter()
            .filter(|(id, sent)| ready(id, sent))
            .min_by_key(|(_, sent)| sent.job.name())
            .map(|(_, sent)| sent.clone())?;
        let id = found.manifest.id();
        if let Some(sent) = state.sent.get_mut(&id) {
            sent.tried = true;
        }
        state.offered.insert(id);
        Some(found)
    }

    /// When the next package may be offered that has to wait.
    pub(crate) fn next_attempt(&self) -> Option<Instant> {
        let state = self.state();
        let waiting = state
            .not_before
            .iter()
            .filter(|(id, _)| state.sent.contains_key(id));
        waiting.map(|(_, at)| *at).min()
    }

    /// A package is no longer being offered; `not_before`: not at once again.
    pub(crate) fn put_back(&self, package: &PackageId, not_before: Option<Instant>) {
        let mut state = self.state();
        state.offered.remove(package);
        match not_before {
            Some(at) => state.not_before.insert(*package, at),
            None => state.not_before.remove(package),
        };
    }

    /// The gateway is there again: nothing waits any more.
    pub(crate) fn wake(&self) {
        self.state().not_before.clear();
    }

    /// Takes back a package that was never offered, or is not being offered: nobody has it, and
    /// nobody gets it any more. `None`: it is too late for that.
    pub(crate) fn withdraw(&self, package: &PackageId) -> Option<Sent> {
        let mut state = self.state();
        let here = state.sent.get(package).is_some_and(|sent| !sent.tried);
        match here && !state.offered.contains(package) {
            true => state.sent.remove(package),
            false => None,
        }
    }

    /// Our gateway has signed for a package.
    pub(crate) fn submitted(&self, package: &PackageId) {
        let mut state = self.state();
        if let Some(sent) = state.sent.get_mut(package) {
            sent.submitted = true;
        }
        state.again.remove(package);
    }

    /// Whatever is on its way is offered again; how many packages that are.
    pub(crate) fn offer_again(&self) -> usize {
        let state = &mut *self.state();
        state.offers_again = true;
        for (id, sent) in &mut state.sent {
            sent.submitted = false;
            state.again.insert(*id);
        }
        state.again.len()
    }

    /// Whether the gateway has signed for the last package that was offered again; once.
    pub(crate) fn all_offered_again(&self) -> bool {
        let mut state = self.state();
        let all = state.offers_again && state.again.is_empty();
        state.offers_again &= !all;
        all
    }

    /// A package on its way.
    pub(crate) fn find(&self, package: &PackageId) -> Option<Sent> {
        self.state().sent.get(package).cloned()
    }

    /// Directory of a package that is over.
    pub(crate) fn find_finished(&self, package: &PackageId) -> Option<Job> {
        self.state().finished.get(package).cloned()
    }

    /// A package is over.
    pub(crate) fn finished(&self, package: &PackageId, job: &Job) {
        let mut state = self.state();
        state.sent.remove(package);
        state.offered.remove(package);
        state.not_before.remove(package);
        state.again.remove(package);
        state.finished.insert(*package, job.clone());
    }

    /// All packages on their way.
    pub(crate) fn all(&self) -> Vec<Sent> {
        self.state().sent.values().cloned().collect()
    }

    /// All jobs, of packages on their way or over.
    pub(crate) fn jobs(&self) -> Vec<Job> {
        let state = self.state();
        let open = state.sent.values().map(|sent| sent.job.clone());
        open.chain(state.finished.values().cloned()).collect()
    }

    /// All directories of packages that are over.
    pub(crate) fn all_finished(&self) -> Vec<Job> {
        self.state().finished.values().cloned().collect()
    }

    /// All packages, on their way or over.
    pub(crate) fn packages(&self) -> Vec<PackageId> {
        let state = self.state();
        state
            .sent
            .keys()
            .chain(state.finished.keys())
            .copied()
            .collect()
    }

    /// A statement of ours that the gateway is to get.
    pub(crate) fn statement(&self, package: PackageId, id: StatementId, signed: Signed) {
        self.state().statements.insert(id, (package, signed));
    }

    /// The next statement to send.
    pub(crate) fn claim_statement(&self) -> Option<Signed> {
        let mut state = self.state();
        let (id, (_, signed)) = state
            .statements
            .iter()
            .find(|(id, _)| !state.on_the_way.contains(id))?;
        let (id, signed) = (*id, signed.clone());
        state.on_the_way.insert(id);
        Some(signed)
    }

    /// Statements are committed at the gateway, or were lost on the way.
    pub(crate) fn settle_statements(
        &self,
        ids: &[StatementId],
        acked: bool,
    ) -> Vec<(PackageId, StatementId)> {
        let mut state = self.state();
        let mut settled = Vec::new();
        for id in ids {
            state.on_the_way.remove(id);
            if acked && let Some((package, _)) = state.statements.remove(id) {
                settled.push((package, *id));
            }
        }
        settled
    }
}

/// The manifest of a job, from its package or from what is kept of it.
pub(crate) fn read_manifest(job: &Job) -> Option<VerifiedManifest> {
    let bytes = job.disk().read(&job.manifest()).ok()?;
    let signed = Signed::decode(bytes.as_slice()).ok()?;
    Some(UntrustedManifest::parse(signed).ok()?.verified_before())
}

/// Statements that were verified and stored with a job.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn statements(job: &Job) -> Result<Vec<VerifiedStatement>, DiskError> {
    let stored = job.statements()?;
    let parsed = stored.iter().filter_map(|bytes| {
        let signed = Signed::decode(bytes.as_slice()).ok()?;
        Some(UntrustedStatement::parse(signed).ok()?.verified_before())
    });
    Ok(parsed.collect())
}
