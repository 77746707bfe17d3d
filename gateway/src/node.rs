//! What all parts of one running gateway share.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use passerelle_disk::{Disk, DiskError};
use passerelle_host::{Clock, monotonic};
use passerelle_link::{Belief, Identity, Peer, RefusalSink, TrustStore};
use passerelle_proto::v1::{self, Reason, Signed, entry::Event, statement::What};
use passerelle_proto::{
    Directory, Hop, LogSigner, PackageId, PartyId, SigningKeys, StatementDraft, Timestamp,
    UntrustedManifest, VerifiedManifest, reason_words,
};
use prost::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::anchor::Anchor;
use crate::breaker::Circuits;
use crate::config::Limits;
use crate::freshness::Freshness;
use crate::gateway::{EXIT_CONFIG, EXIT_STOPPED};
use crate::inquiry::Inquiries;
use crate::log::{AppendError, Fatal};
use crate::metrics::{Counter, Metrics};
use crate::peers::Peers;
use crate::queue::Queue;
use crate::reconcile::FORKED;
use crate::refusals::RefusalBudget;
use crate::sequencer::{Committed, Sequencer};
use crate::spool::Spool;
use crate::time_stamp::Stamps;

/// The parts.
pub(crate) struct Node {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) party: PartyId,
    pub(crate) data_dir: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) config_file: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) keys: Arc<SigningKeys>,
    pub(crate) log_signers: RwLock<Vec<Arc<LogSigner>>>,
    pub(crate) trust: Arc<TrustStore>,
    pub(crate) anchor: Arc<Anchor>,
    pub(crate) sequencer: Sequencer,
    pub(crate) queue: Arc<dyn Queue>,
    pub(crate) spool: Arc<Spool>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) peers: Peers,
    pub(crate) circuits: Circuits,
    pub(crate) inquiries: Inquiries,
    pub(crate) host_clock: Arc<dyn Clock>,
    pub(crate) clock: Belief,
    pub(crate) freshness: Mutex<Freshness>,
    pub(crate) stamps: Stamps,
    pub(crate) refusals: Mutex<RefusalBudget>,
    pub(crate) stop: CancellationToken,
    pub(crate) failure: watch::Sender<Option<Failure>>,
    pub(crate) started: Timestamp,
}

/// Why a gateway stops by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// In words.
    pub why: String,
    /// What its process says with its exit code: [`EXIT_CONFIG`] when a person has to look before
    /// the next start, else [`EXIT_STOPPED`].
    pub exit: u8,
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

    /// What is to be done about the age of cosignatures.
    pub(crate) fn freshness(&self) -> Freshness {
        let known = self.freshness.lock();
        known.unwrap_or_else(|p| p.into_inner()).clone()
    }

    /// Keeps what was found about the age of cosignatures; what was known before.
    pub(crate) fn set_freshness(&self, found: Freshness) -> Freshness {
        let known = self.freshness.lock();
        std::mem::replace(&mut *known.unwrap_or_else(|p| p.into_inner()), found)
    }

    /// Stops the gateway: it must not go on.
    pub(crate) fn fail(&self, why: impl Into<String>) {
        self.end(why.into(), EXIT_STOPPED);
    }

    /// Stops the gateway: its log is not the one that others know. Nothing is appended any more,
    /// not even that it stops. `kept` is the checkpoint that shows it; a new log begins with it.
    pub(crate) fn fail_forked(&self, fatal: &Fatal, kept: &[u8]) {
        self.anchor.forked();
        if let Err(error) = self.disk.replace(&self.data_dir.join(FORKED), kept) {
            tracing::error!(%error, "the checkpoint that contradicts the log was not kept");
        }
        self.end(format!("log: {fatal}"), EXIT_CONFIG);
    }

    fn end(&self, why: String, exit: u8) {
        tracing::error!(%why, "the gateway stops");
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(Failure { why, exit });
            first
        });
    }

    /// Signs a checkpoint of the log as it stands, unless it is not anchored. Blocks.
    pub(crate) fn checkpoint(&self) -> Result<(), AppendError> {
        match self.anchor.is_held() {
            true => self.sequencer.ledger().log.checkpoint(self.now()).map(drop),
            false => Ok(()),
        }
    }

    /// Where our log stands as files.
    pub(crate) fn log_dir(&self) -> PathBuf {
        self.data_dir.join("log")
    }

    /// The last checkpoint of a partner that we have cosigned.
    pub(crate) fn witnessed_path(&self, party: &PartyId) -> PathBuf {
        self.data_dir.join("witness").join(format!("{party}.note"))
    }

    /// Our last checkpoint that a partner has cosigned.
    pub(crate) fn cosigned_path(&self, party: &PartyId) -> PathBuf {
        self.log_dir()
            .join("cosigned")
            .join(format!("{party}.note"))
    }

    /// Reads a small file that may not be there.
    pub(crate) fn read_if_there(&self, path: &Path) -> Vec<u8> {
        self.disk.read(path).unwrap_or_default()
    }

    /// Replaces a small file whose directory may not be there; durable on return.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        if let Some(parent) = path.parent() {
            self.disk.create_directories(parent)?;
        }
        self.disk.replace(path, bytes)
    }

    /// A signed answer outside of any sequence: the same offer gets the like again.
    pub(crate) fn answer(&self, to: &PartyId, package: PackageId, what: What) -> Signed {
        StatementDraft {
            issuer: self.party.clone(),
            destination: to.clone(),
            package,
            at: self.now(),
            what,
        }
        .sign_unnumbered(&self.keys.current(&self.directory(), self.now()))
    }

    /// Counts package bytes that a peer gets from us.
    pub(crate) fn sent(&self, peer: &Peer, bytes: u64) {
        self.peers.sent(&peer.hop, bytes);
        self.count_bytes(peer, "sent", bytes);
    }

    /// Counts package bytes that a peer brings us.
    pub(crate) fn received(&self, peer: &Peer, bytes: u64) {
        self.peers.received(&peer.hop, bytes);
        self.count_bytes(peer, "received", bytes);
    }

    fn count_bytes(&self, peer: &Peer, direction: &str, bytes: u64) {
        let (hop, transport) = (peer.hop.to_string(), peer.transport.to_string());
        let labels = [
            ("peer", hop.as_str()),
            ("transport", transport.as_str()),
            ("direction", direction),
        ];
        self.metrics.add(Counter::Bytes, &labels, bytes);
    }

    /// Records a refusal: an entry of its own within the peer's budget, else a count.
    pub(crate) fn refused(
        self: &Arc<Self>,
        peer: &Hop,
        package: Option<PackageId>,
        reason: Reason,
        article: &str,
    ) {
        let event = v1::RefusedEvent {
            peer: Some(peer.to_message()),
            package: package.map_or(Vec::new(), |id| id.as_bytes().to_vec()),
            reason: reason as i32,
            article: article.to_owned(),
            statement: None,
        };
        self.record_refusal(peer, event);
    }

    /// The same of a statement that was verified. One that is only counted for want of budget stays
    /// missing in its sequence: it is asked for, and comes once more.
    pub(crate) fn refused_statement(
        self: &Arc<Self>,
        peer: &Hop,
        reason: Reason,
        statement: Option<v1::RefusedStatement>,
    ) {
        let event = v1::RefusedEvent {
            peer: Some(peer.to_message()),
            reason: reason as i32,
            statement,
            ..v1::RefusedEvent::default()
        };
        self.record_refusal(peer, event);
    }

    fn record_refusal(self: &Arc<Self>, peer: &Hop, event: v1::RefusedEvent) {
        let reason = event.reason();
        let class = reason_words(reason);
        self.metrics.add(Counter::Refusals, &[("reason", class)], 1);
        // What cannot be appended yet is counted, and recorded as a count later.
        let held = self.anchor.is_held();
        let admitted = {
            let mut budget = self.refusals.lock().unwrap_or_else(|p| p.into_inner());
            match held {
                true => budget.admit(peer, class, monotonic()),
                false => {
                    budget.count(class);
                    false
                }
            }
        };
        if !admitted {
            return;
        }
        let event = Event::Refused(event);
        let node = self.clone();
        tokio::spawn(async move {
            if let Err(error) = node.sequencer.commit(event).await {
                tracing::warn!(%error, "a refusal was not recorded");
            }
        });
    }

    /// The entry with which a package was accepted here, and its index; `None`: it was not. Where
    /// the package lies is what the log said last, after a repair.
    ///
    /// Blocks for reading the log.
    pub(crate) fn accepted(&self, package: &PackageId) -> Option<(u64, v1::AcceptedEvent)> {
        let entries = match self.sequencer.entries_about(package) {
            Ok(entries) => entries,
            Err(fatal) => {
                self.fail(fatal.to_string());
                return None;
            }
        };
        let mut accepted: Option<(u64, v1::AcceptedEvent)> = None;
        for Committed { index, entry } in entries {
            match (entry.event, &mut accepted) {
                (Some(Event::Accepted(event)), None) => accepted = Some((index, event)),
                (Some(Event::Repaired(event)), Some((_, found))) => {
                    found.pack = event.pack.or(found.pack);
                }
                _ => {}
            }
        }
        accepted
    }

    /// The manifest of a package that the log accepted at `index`. Blocks.
    pub(crate) fn manifest_at(&self, index: u64) -> Option<(VerifiedManifest, v1::AcceptedEvent)> {
        let bytes = match self.sequencer.ledger().log.entry(index) {
            Ok(bytes) => bytes,
            Err(fatal) => {
                self.fail(fatal.to_string());
                return None;
            }
        };
        let entry = v1::Entry::decode(bytes.as_slice()).ok()?;
        let Some(Event::Accepted(event)) = entry.event else {
            return None;
        };
        let manifest = UntrustedManifest::parse(event.manifest.clone()?).ok()?;
        Some((manifest.verified_before(), event))
    }

    /// The first receipt that a next hop gave for a package; `None`: it gave none. Blocks.
    ///
    /// # Errors
    /// [`Fatal`] when the log cannot be read.
    pub(crate) fn receipt_of(
        &self,
        package: &PackageId,
        hop: &Hop,
    ) -> Result<Option<Signed>, Fatal> {
        let entries = self.sequencer.entries_about(package)?;
        Ok(first_receipt(entries, hop))
    }

    /// Where a statement for `destination` goes next.
    pub(crate) fn way_to(&self, destination: &PartyId) -> Option<Hop> {
        self.directory().next_hop(&self.party, destination)
    }
}

/// The earliest receipt of a hop's own among the entries about one package. A hop that has lost its
/// log since gives another one, but judges the package by when it had it first.
fn first_receipt(entries: Vec<Committed>, hop: &Hop) -> Option<Signed> {
    let from = Some(hop.to_message());
    let receipts = entries.into_iter().filter_map(|committed| {
        let Some(Event::Statement(event)) = committed.entry.event else {
            return None;
        };
        let signed = event.statement.filter(|_| event.from == from)?;
        let said = v1::Statement::decode(signed.body.as_slice()).ok()?;
        let own = said.issuer == hop.party.as_str() && matches!(said.what, Some(What::Accepted(_)));
        own.then_some((said.at_ms, signed))
    });
    let first = receipts.min_by_key(|(at_ms, _)| *at_ms);
    first.map(|(_, signed)| signed)
}

impl RefusalSink for Node {
    fn refused(&self, class: &'static str, _: SocketAddr, _: &str) {
        self.metrics.add(Counter::Refusals, &[("reason", class)], 1);
        let mut budget = self.refusals.lock().unwrap_or_else(|p| p.into_inner());
        budget.count(class);
    }
}

#[cfg(test)]
mod tests {
    use passerelle_proto::fixture::party;

    use super::*;

    /// An entry with a statement that came from this hop.
    fn said(from: &Hop, issuer: &str, at_ms: i64, what: What) -> Committed {
        let body = v1::Statement {
            issuer: issuer.to_owned(),
            at_ms,
            what: Some(what),
            ..v1::Statement::default()
        };
        let body = body.encode_to_vec();
        let event = Event::Statement(v1::StatementEvent {
            statement: Some(Signed {
                body,
                ..Signed::default()
            }),
            from: Some(from.to_message()),
            next_hop: None,
        });
        let entry = v1::Entry {
            at_ms,
            event: Some(event),
        };
        Committed { index: 0, entry }
    }

    #[test]
    fn a_hop_is_shown_the_first_receipt_of_its_own() {
        let hop = Hop::gateway(party("grand-dijon"));
        let accepted = || What::Accepted(v1::Accepted::default());
        let forwarded = Event::Forwarded(v1::ForwardedEvent {
            next_hop: Some(hop.to_message()),
            ..v1::ForwardedEvent::default()
        });
        let forwarded = v1::Entry {
            at_ms: 3,
            event: Some(forwarded),
        };
        let mut entries = vec![
            said(&Hop::agent(party("caf21")), "grand-dijon", 1, accepted()),
            said(&hop, "prestataire-obs", 1, accepted()),
            said(&hop, "grand-dijon", 2, What::Busy(v1::Busy::default())),
            Committed {
                index: 0,
                entry: forwarded,
            },
        ];
        assert_eq!(first_receipt(entries.clone(), &hop), None);
        let first = said(&hop, "grand-dijon", 3, accepted());
        // What it says of a log that it has begun since then.
        entries.extend([first.clone(), said(&hop, "grand-dijon", 9, accepted())]);
        let Some(Event::Statement(expected)) = first.entry.event else {
            unreachable!()
        };
        assert_eq!(first_receipt(entries, &hop), expected.statement);
    }
}
