//! What is to be handed to the gateway: sealed packages, and statements about received ones.
//!
//! In memory; what it holds can be read again from `work/` and `received/`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use passerelle_disk::{At, DiskError, FileCursor};
use passerelle_host::monotonic;
use passerelle_proto::v1::{Signed, statement::What};
use passerelle_proto::{
    PackError, PackLayout, PackageId, StatementId, UntrustedManifest, UntrustedStatement,
    VerifiedManifest, VerifiedStatement,
};
use prost::Message;

use crate::job::{Job, JobStage, LEAVING, jobs};
use crate::outbox::Stuck;
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
    /// Whether our gateway has signed for it, and wants it again: its copy has rotted.
    pub(crate) wanted: bool,
    /// What is wrong with it here, for people: it is offered to nobody then.
    pub(crate) damage: Option<String>,
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
    /// What was dropped and cannot become a package now.
    pub(crate) stuck: Stuck,
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
                let listed = store.disk().entries(&date);
                for directory in readable(listed).unwrap_or_default() {
                    outgoing.load_finished(store, directory);
                }
            }
        }
        Ok(outgoing)
    }

    /// Reads one package that is over, where this is one.
    fn load_finished(&self, store: &Store, directory: PathBuf) {
        if is_leaving(&directory) {
            readable(store.disk().remove_tree(&directory));
            return;
        }
        let job = Job::at(store.disk(), directory);
        // The agent may have stopped after the job was moved.
        readable(job.free_package());
        if let Some(manifest) = read_manifest(&job) {
            self.state().finished.insert(manifest.id(), job);
        }
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
        let (manifest, layout, damage) = read_sealed(&job)?;
        let said = statements(&job)?;
        let any = |wanted: fn(&What) -> bool| said.iter().any(|said| wanted(said.what()));
        let submitted = any(|what| matches!(what, What::Accepted(_)));
        let sent = Sent {
            damage: damage.map(|why| held_words(&job, &why)),
            job,
            manifest: manifest.clone(),
            layout,
            submitted,
            tried: submitted || before,
            // Whether it was offered since is not known: it gets the same receipt then.
            wanted: any(|what| matches!(what, What::Damaged(_))),
        };
        if let Some(why) = &sent.damage {
            tracing::error!(
                package = manifest.id().short(),
                why,
                "a sealed package is damaged"
            );
        }
        self.state().sent.insert(manifest.id(), sent);
        Ok(manifest)
    }

    /// The next package to offer; it is given to nobody else until it is put back.
    pub(crate) fn claim(&self, fits: impl Fn(&VerifiedManifest) -> bool) -> Option<Sent> {
        let mut state = self.state();
        let now = monotonic();
        let ready = |id: &PackageId, sent: &Sent| {
            let waits = state.not_before.get(id).is_some_and(|at| *at > now);
            let due = (!sent.submitted || sent.wanted) && sent.damage.is_none();
            due && !waits && !state.offered.contains(id) && fits(&sent.manifest)
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
            sent.wanted = false;
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
            Some(at) => {
                if let Some(sent) = state.sent.get_mut(package) {
                    sent.wanted = sent.submitted;
                }
                state.not_before.insert(*package, at);
            }
            None => {
                state.not_before.remove(package);
            }
        }
    }

    /// Our gateway wants a package again that it has signed for.
    pub(crate) fn offer_again(&self, package: &PackageId) {
        let mut state = self.state();
        state.not_before.remove(package);
        if let Some(sent) = state.sent.get_mut(package) {
            sent.wanted = true;
        }
    }

    /// A package has rotted here: it is offered to nobody. Says why, and what helps.
    pub(crate) fn hold(&self, package: &PackageId, why: &str) -> String {
        let mut state = self.state();
        let Some(sent) = state.sent.get_mut(package) else {
            return why.to_owned();
        };
        let words = held_words(&sent.job, why);
        sent.damage = Some(words.clone());
        words
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
    pub(crate) fn offer_all_again(&self) -> usize {
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

    /// The record of a package that is over is gone.
    pub(crate) fn forget(&self, package: &PackageId) {
        self.state().finished.remove(package);
    }

    /// How many packages of ours have rotted here.
    pub(crate) fn damaged(&self) -> usize {
        let state = self.state();
        state
            .sent
            .values()
            .filter(|sent| sent.damage.is_some())
            .count()
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

/// What was found among the packages that are over. People put files of their own there, which are
/// passed over; one package that the disk does not give keeps no agent from starting.
fn readable<T>(found: Result<T, DiskError>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(error) if error.source.kind() == ErrorKind::NotADirectory => None,
        Err(error) => {
            tracing::warn!(%error, "of packages that are over, this is not known before a restart");
            None
        }
    }
}

/// Whether the agent stopped while this was being removed.
fn is_leaving(directory: &Path) -> bool {
    let name = directory.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with(LEAVING)
}

/// What is wrong with a sealed package, and what helps.
fn held_words(job: &Job, why: &str) -> String {
    let (package, source) = (job.package(), job.source());
    format!(
        "{} is damaged: {why}; unless it arrives all the same, drop what lies in {} again and \
         cancel this one",
        package.display(),
        source.display()
    )
}

type ReadSealed = (VerifiedManifest, PackLayout, Option<String>);

/// The manifest of a sealed package, from its pack or, where that has rotted, from what was kept
/// beside it; what is wrong with the pack.
fn read_sealed(job: &Job) -> Result<ReadSealed, DiskError> {
    let path = job.package();
    let kept = read_manifest(job);
    let read = job.disk().open(&path).map_err(PackError::Io);
    let read = read.and_then(|file| PackLayout::read(&mut FileCursor::new(file)));
    let rotten = |error: &PackError| match error {
        PackError::Io(source) => {
            let kind = source.kind();
            matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::NotFound)
        }
        _ => true,
    };
    let (damage, found) = match (read, kept) {
        (Ok((layout, signed)), kept) => {
            let same = kept.as_ref().is_none_or(|kept| *kept.signed() == signed);
            let other = "its manifest and the one beside it differ".to_owned();
            let parsed = UntrustedManifest::parse(signed).map(UntrustedManifest::verified_before);
            match (parsed, kept) {
                (Ok(manifest), _) if same => return Ok((manifest, layout, None)),
                (Err(error), Some(kept)) => (error.to_string(), kept),
                (Ok(_), Some(kept)) => (other, kept),
                (parsed, None) => {
                    let parsed = parsed.map_err(std::io::Error::other).at("read", &path)?;
                    return Ok((parsed, layout, None));
                }
            }
        }
        (Err(error), Some(kept)) if rotten(&error) => (error.to_string(), kept),
        (Err(error), _) => return Err(std::io::Error::other(error)).at("read", &path),
    };
    let layout = PackLayout::tight(&found);
    Ok((found, layout, Some(damage)))
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
    let stored = job.named_statements()?;
    let parsed = stored.iter().filter_map(|(name, bytes)| {
        let signed = Signed::decode(bytes.as_slice()).ok();
        let parsed = signed.and_then(|signed| UntrustedStatement::parse(signed).ok());
        let found = parsed.map(UntrustedStatement::verified_before);
        let found = found.filter(|found| found.id().to_string() == *name);
        if found.is_none() {
            // Who said it says it again when the package is offered again.
            let job = job.directory().display();
            tracing::error!(%job, name, "a statement about a package of ours is damaged");
        }
        found
    });
    Ok(parsed.collect())
}
