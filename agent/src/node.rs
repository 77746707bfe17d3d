//! What all parts of one running agent share.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use passerelle_disk::{DiskError, crash_point};
use passerelle_host::Clock;
use passerelle_link::{Identity, LinkStatus, TrustStore};
use passerelle_proto::v1::{self, statement::What};
use passerelle_proto::{
    Directory, Hop, PackageId, PartyId, RecipientKeys, SigningKey, SigningKeys, StatementChain,
    StatementDraft, StatementId, Timestamp, UntrustedStatement, VerifiedManifest,
};
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::GatewayClock;
use crate::config::AgentConfig;
use crate::damage;
use crate::event::AgentEvent;
use crate::incoming::Incoming;
use crate::metrics::AgentMetrics;
use crate::outgoing::{Outgoing, Sent};
use crate::received::{Entry, Register};
use crate::store::Store;
use crate::unopened::Unopened;

/// First line of the file that says where our sequence of statements stands.
const CHAIN: &str = "sequence of statements";

/// The parts.
pub(crate) struct Node {
    pub(crate) config: AgentConfig,
    pub(crate) party: PartyId,
    pub(crate) host_clock: Arc<dyn Clock>,
    pub(crate) clock: GatewayClock,
    pub(crate) store: Store,
    pub(crate) register: Register,
    pub(crate) identity: Identity,
    pub(crate) trust: TrustStore,
    pub(crate) keys: SigningKeys,
    pub(crate) recipients: RecipientKeys,
    pub(crate) outgoing: Outgoing,
    // Held while a claimed job is sealed.
    pub(crate) sealing: Mutex<()>,
    pub(crate) incoming: Incoming,
    pub(crate) unopened: Unopened,
    pub(crate) chain: Mutex<StatementChain>,
    pub(crate) events: broadcast::Sender<AgentEvent>,
    pub(crate) link: watch::Sender<LinkStatus>,
    // Something to send has come up.
    pub(crate) news: Notify,
    pub(crate) metrics: Arc<AgentMetrics>,
    pub(crate) stop: CancellationToken,
    pub(crate) started: Timestamp,
    // The same moment, by the clock that nobody can set.
    pub(crate) began: Instant,
    pub(crate) run: v1::AgentRun,
}

impl Node {
    /// The wall clock.
    pub(crate) fn now(&self) -> Timestamp {
        self.host_clock.now()
    }

    /// What is believed about parties now.
    pub(crate) fn directory(&self) -> Directory {
        self.trust.directory()
    }

    /// The key that signs now.
    pub(crate) fn signing_key(&self) -> Arc<SigningKey> {
        self.keys.current(&self.directory(), self.now())
    }

    /// Jobs are sealed one at a time.
    pub(crate) fn sealing(&self) -> MutexGuard<'_, ()> {
        self.sealing
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The gateway that serves this party.
    pub(crate) fn gateway(&self) -> Option<Hop> {
        let directory = self.directory();
        let gateway = directory.convention().gateway_of(&self.party)?;
        Some(Hop::gateway(gateway.clone()))
    }

    /// Tells whoever listens.
    pub(crate) fn tell(&self, event: AgentEvent) {
        // Nobody needs to listen.
        let _ = self.events.send(event);
    }

    fn chain_path(&self) -> PathBuf {
        self.store.state().join("chain")
    }

    /// All packages that this agent has sent or received, or has not been able to open.
    pub(crate) fn packages(&self) -> Vec<PackageId> {
        let mut packages = self.outgoing.packages();
        packages.extend(self.register.all().iter().map(Entry::id));
        let registered = |id: &PackageId| self.register.find(*id).is_some();
        let unopened = self.unopened.all().into_iter().map(|(id, _)| id);
        packages.extend(unopened.filter(|id| !registered(id)));
        packages
    }

    /// Signs a statement about a received package and keeps it until the gateway has it.
    ///
    /// Blocks. On return the statement is durable.
    ///
    /// # Errors
    /// [`DiskError`]; nothing was said then.
    pub(crate) fn say(
        &self,
        entry: &Entry,
        destination: &PartyId,
        what: What,
    ) -> Result<StatementId, DiskError> {
        self.speak(entry.id(), destination, what, |id, signed| {
            entry.store_statement(id, signed).map(|()| id)
        })
    }

    /// Signs a statement about a package of ours and keeps it until the gateway has it.
    ///
    /// Blocks. On return the statement is durable.
    ///
    /// # Errors
    /// [`DiskError`]; nothing was said then.
    pub(crate) fn say_of_sent(
        &self,
        sent: &Sent,
        destination: &PartyId,
        what: What,
    ) -> Result<StatementId, DiskError> {
        self.speak(sent.manifest.id(), destination, what, |id, signed| {
            sent.job.said().store(id, signed).map(|()| id)
        })
    }

    /// Signs a statement about a damaged package, which `keep` makes durable. It is not sent yet.
    ///
    /// # Errors
    /// [`DiskError`]; nothing was said then.
    pub(crate) fn say_damaged(
        &self,
        package: PackageId,
        destination: &PartyId,
        what: What,
        keep: impl FnOnce(StatementId, &v1::Signed) -> Result<(), DiskError>,
    ) -> Result<(), DiskError> {
        self.sign(package, destination, what, keep).map(drop)
    }

    /// The gateway has committed a statement of ours. Blocks.
    ///
    /// # Errors
    /// [`DiskError`]; it is sent once more after the next start then.
    pub(crate) fn acked(&self, package: PackageId, id: StatementId) -> Result<(), DiskError> {
        if damage::acked(self, &package, id)? {
            return Ok(());
        }
        if let Some(entry) = self.register.find(package) {
            return entry.acked(id).map(drop);
        }
        // The job may be moved when it is over: not between the question and the rename.
        let taking = self.outgoing.taking.lock();
        let _one = taking.unwrap_or_else(|poisoned| poisoned.into_inner());
        let sent = self.outgoing.find(&package).map(|sent| sent.job);
        let job = sent.or_else(|| self.outgoing.find_finished(&package));
        job.map_or(Ok(()), |job| job.said().acked(id).map(drop))
    }

    /// Enters a package that is refused for good, with the statement that says so.
    ///
    /// Blocks. On return both are durable.
    ///
    /// # Errors
    /// [`DiskError`]; nothing was entered or said then.
    pub(crate) fn enter_refused(
        &self,
        manifest: &VerifiedManifest,
        refused: v1::Refused,
    ) -> Result<Entry, DiskError> {
        let what = What::Refused(refused);
        self.speak(manifest.id(), manifest.sender(), what, |id, signed| {
            let register = &self.register;
            register.enter_refused(manifest.signed(), id, signed, self.now())
        })
    }

    /// Signs the next statement of the sequence and sends it; it counts once `keep` has made it
    /// durable.
    fn speak<T>(
        &self,
        package: PackageId,
        destination: &PartyId,
        what: What,
        keep: impl FnOnce(StatementId, &v1::Signed) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        let (id, signed, kept) = self.sign(package, destination, what, keep)?;
        self.outgoing.statement(package, id, signed);
        self.news.notify_waiters();
        crash_point!("say.noted");
        Ok(kept)
    }

    /// Signs the next statement of the sequence; it counts once `keep` has made it durable.
    fn sign<T>(
        &self,
        package: PackageId,
        destination: &PartyId,
        what: What,
        keep: impl FnOnce(StatementId, &v1::Signed) -> Result<T, DiskError>,
    ) -> Result<(StatementId, v1::Signed, T), DiskError> {
        let draft = StatementDraft {
            issuer: self.party.clone(),
            destination: destination.clone(),
            package,
            at: self.now(),
            what,
        };
        let mut chain = self.chain.lock().unwrap_or_else(|p| p.into_inner());
        let mut next = chain.clone();
        let signed = draft.sign(&self.signing_key(), &mut next);
        let id = StatementId(passerelle_proto::Digest::of(&signed.body));
        let kept = keep(id, &signed);
        crash_point!("say.kept");
        // What failed and happened all the same is sent later: its number is taken.
        if kept.is_ok() || self.has_said(package, &signed) {
            *chain = next;
            if let Err(error) = self.write_chain(&chain) {
                // The register has the statement too, and the next start reads it there.
                tracing::warn!(%error, "where the sequence of statements stands was not noted");
            }
        }
        Ok((id, signed, kept?))
    }

    /// Whether this statement of ours is among those that are kept.
    fn has_said(&self, package: PackageId, signed: &v1::Signed) -> bool {
        let entry = self.register.find(package);
        let sent = self.outgoing.find(&package).map(|sent| sent.job);
        let said = [
            entry.map(|entry| entry.statements()),
            sent.map(|job| job.said().all()),
            Some(damage::said_about(&self.store, &package)),
        ];
        let mut said = said.into_iter().flatten().flatten().flatten();
        said.any(|kept| kept == *signed)
    }

    fn write_chain(&self, chain: &StatementChain) -> Result<(), DiskError> {
        let text = chain.to_text(CHAIN);
        self.store
            .disk()
            .replace(&self.chain_path(), text.as_bytes())
    }

    /// Notes where the sequence of statements stands, before what else would show it is removed.
    ///
    /// # Errors
    /// [`DiskError`]; nothing may be removed then.
    pub(crate) fn note_chain(&self) -> Result<(), DiskError> {
        let chain = self.chain.lock().unwrap_or_else(|p| p.into_inner());
        self.write_chain(&chain)
    }

    /// Signs an answer outside of any sequence.
    pub(crate) fn answer(
        &self,
        destination: &PartyId,
        package: PackageId,
        what: What,
    ) -> v1::Signed {
        StatementDraft {
            issuer: self.party.clone(),
            destination: destination.clone(),
            package,
            at: self.now(),
            what,
        }
        .sign_unnumbered(&self.signing_key())
    }
}

/// Where our sequence of statements stands: what was noted, and what the register holds.
pub(crate) fn read_chain(
    store: &Store,
    register: &Register,
    outgoing: &Outgoing,
) -> Result<StatementChain, DiskError> {
    let path = store.state().join("chain");
    let bytes = store.disk().read(&path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut chain = match StatementChain::parse_text(&text) {
        Some((CHAIN, chain)) => chain,
        _ if text.is_empty() => StatementChain::default(),
        _ => {
            let file = path.display();
            tracing::warn!(%file, "where our statements stand is damaged: read anew from them");
            StatementChain::default()
        }
    };
    let mut said = damage::all_said(store)?;
    for entry in register.all() {
        said.extend(entry.statements()?);
    }
    for job in outgoing.jobs() {
        said.extend(job.said().all()?);
    }
    for signed in said {
        if let Ok(statement) = UntrustedStatement::parse(signed) {
            chain.seen(&statement.verified_before());
        }
    }
    Ok(chain)
}

#[cfg(test)]
pub(crate) mod tests;
