//! Taking a package that a peer offers: verify, decide, keep, commit, answer.

use std::sync::Arc;

use bytes::Bytes;
use passerelle_disk::crash_point;
use passerelle_link::{Incoming, OfferAnswer, Peer, WriteError, wait_to_judge_offer};
use passerelle_proto::session::{Answer, Fault, Held};
use passerelle_proto::v1::{
    self, Busy, BusyReason, PackLocation, Reason, Section, Signed, entry::Event, statement::What,
};
use passerelle_proto::{
    Denial, Digest, Facts, Hop, INLINE_LEN_MAX, PackageId, PartyId, Permit, Place, StatementDraft,
    Timestamp, UntrustedManifest, VerifiedManifest, accepted_at, busy_words, decide,
};
use prost::Message;
use tonic::async_trait;

use crate::damage;
use crate::metrics::Counter;
use crate::node::Node;
use crate::repair::{self, Wanted};
use crate::resend;
use crate::sequencer::{Acceptance, SubmitError};
use crate::spool::{Partial, SpoolError};

/// After this many milliseconds a package that there was no room for may be offered again.
const BUSY_RETRY_MS: u64 = 5_000;
/// The same, while no copy of the log has been shown; that takes one `Hello`.
const UNANCHORED_RETRY_MS: u64 = 1_000;

/// Why an offer is not taken.
enum Refusal {
    /// Signed, and final for the package.
    Final(Reason, String, String),
    /// Signed, and to be tried again.
    Busy(BusyReason),
    /// Nothing is said.
    Silent(String),
}

/// Put off until somebody shows that the log is the one that others know.
const UNANCHORED: Refusal = Refusal::Busy(BusyReason::Unanchored);

fn final_refusal(reason: Reason, why: impl ToString) -> Refusal {
    Refusal::Final(reason, String::new(), why.to_string())
}

/// Decides about an offer, and takes it when it is small.
pub(crate) async fn offered(
    node: Arc<Node>,
    peer: &Peer,
    signed: Signed,
    inline: Bytes,
    accepted: Option<Signed>,
) -> OfferAnswer {
    if !wait_to_judge_offer(node.trust.subscribe(), &node.stop, &signed).await {
        return OfferAnswer::Decline("the gateway is stopping".into());
    }
    let anchored = node.anchor.soon().await;
    let package = PackageId(Digest::of(&signed.body));
    node.received(peer, inline.len() as u64);
    let looked = {
        let (node, peer) = (node.clone(), peer.clone());
        let work = move || look(&node, &peer, signed, package, accepted);
        passerelle_host::blocking(work).await
    };
    let (manifest, permit, first_accepted) = match looked {
        Ok(Ok(Looked::Known(receipt))) => {
            node.metrics.add(Counter::Duplicates, &[], 1);
            return match resend::about(&node, peer, package).await {
                Ok(()) => OfferAnswer::Answer(Answer::Statement(receipt)),
                Err(why) => OfferAnswer::Decline(why),
            };
        }
        Ok(Ok(Looked::Damaged(_))) if !anchored => {
            return refuse(&node, peer, package, UNANCHORED).await;
        }
        Ok(Ok(Looked::Damaged(wanted))) => {
            return repair::take(node, peer.clone(), wanted, inline).await;
        }
        Ok(Ok(Looked::New(manifest, permit, first))) => (manifest, permit, first),
        Ok(Err(refusal)) if anchored => return refuse(&node, peer, package, refusal).await,
        // Nothing final is said before it can be recorded.
        Ok(Err(_)) => return refuse(&node, peer, package, UNANCHORED).await,
        Err(_) => return OfferAnswer::Decline("the gateway is stopping".into()),
    };
    let taking = Taking {
        node: node.clone(),
        peer: peer.clone(),
        manifest,
        permit,
        first_accepted,
    };
    if let Some(hop) = taking.full_hop() {
        tracing::warn!(%hop, "too much waits for this next hop: packages are put off");
        let busy = Refusal::Busy(BusyReason::Quota);
        return refuse(&node, peer, package, busy).await;
    }
    if taking.manifest.total_length() > INLINE_LEN_MAX {
        return taking.begin(anchored).await;
    }
    if !anchored {
        return refuse(&node, peer, package, UNANCHORED).await;
    }
    // It goes on when the stream ends meanwhile: what is kept is accepted, or let go of.
    match tokio::spawn(taking.keep(inline)).await {
        Ok(Some(answer)) => OfferAnswer::Answer(answer),
        Ok(None) | Err(_) => OfferAnswer::Decline("it cannot be kept now".into()),
    }
}

enum Looked {
    Known(Signed),
    Damaged(Wanted),
    New(VerifiedManifest, Permit, Option<Timestamp>),
}

fn look(
    node: &Node,
    peer: &Peer,
    signed: Signed,
    package: PackageId,
    accepted: Option<Signed>,
) -> Result<Looked, Refusal> {
    if let Some((_, event)) = node.accepted(&package) {
        // The same bytes as the first time; only whoever was answered then may ask.
        let before = event.previous_hop.as_ref() == Some(&peer.hop.to_message());
        let same = event
            .manifest
            .as_ref()
            .is_some_and(|first| first.body == signed.body);
        return match event.receipt.filter(|_| before && same) {
            Some(receipt) if damage::is_damaged(node, &package) => {
                let manifest = accepted_manifest(event.manifest)?;
                Ok(Looked::Damaged(Wanted { manifest, receipt }))
            }
            Some(receipt) => Ok(Looked::Known(receipt)),
            None => Err(final_refusal(Reason::Route, "it came another way before")),
        };
    }
    let malformed =
        |error: passerelle_proto::ManifestError| final_refusal(Reason::Malformed, error);
    let untrusted = UntrustedManifest::parse(signed).map_err(malformed)?;
    let directory = node.directory();
    let signer = untrusted.signer();
    let key = directory
        .signing_key(untrusted.sender(), &signer)
        .ok_or_else(|| {
            let denial = Denial::SignerUnknown(signer);
            Refusal::Final(denial.reason(), String::new(), denial.to_string())
        })?;
    let manifest = untrusted
        .verify(&key.key)
        .map_err(|error| final_refusal(Reason::Signature, error))?;
    // A log that was lost may have held our own receipt: the peer shows it.
    let before = accepted
        .and_then(|receipt| accepted_at(&directory, &node.party, &manifest, receipt, node.now()));
    let permit = judge(node, peer, &manifest, before)?;
    if manifest.total_length() > node.limits.package_bytes_max {
        let why = "it is larger than this gateway's configuration allows";
        return Err(final_refusal(Reason::TooLarge, why));
    }
    if node.freshness().stopped {
        tracing::warn!("no partner has cosigned our log for too long: packages are put off");
        return Err(Refusal::Busy(BusyReason::Uncosigned));
    }
    // What is left of the log is for statements about packages that are here already.
    let has_room = node.sequencer.ledger().log.has_next_segment();
    let has_room = has_room.map_err(|fatal| {
        node.fail(fatal.to_string());
        Refusal::Silent(fatal.to_string())
    })?;
    if !has_room {
        tracing::warn!("the disk is full: packages are put off");
        return Err(Refusal::Busy(BusyReason::Disk));
    }
    Ok(Looked::New(manifest, permit, before))
}

/// The manifest that was verified when its package was accepted.
fn accepted_manifest(signed: Option<Signed>) -> Result<VerifiedManifest, Refusal> {
    let parsed = UntrustedManifest::parse(signed.unwrap_or_default());
    let parsed = parsed.map_err(|error| Refusal::Silent(error.to_string()))?;
    Ok(parsed.verified_before())
}

fn judge(
    node: &Node,
    peer: &Peer,
    manifest: &VerifiedManifest,
    first_accepted: Option<Timestamp>,
) -> Result<Permit, Refusal> {
    let directory = node.directory();
    let facts = Facts {
        directory: &directory,
        manifest,
        place: Place::Gateway {
            party: &node.party,
            peer: &peer.hop,
        },
        first_accepted,
    };
    let moment = node.host_clock.moment();
    decide(&facts, moment.wall).map_err(|denial| {
        // A refusal cannot be called back: a clock that was set wrong must not be its reason.
        if denial.depends_on_now() && !node.clock.is_believed(moment) {
            tracing::warn!(%denial, "our clock is not believed: the package is put off");
            return Refusal::Busy(BusyReason::Clock);
        }
        Refusal::Final(
            denial.reason(),
            denial.article().to_owned(),
            denial.to_string(),
        )
    })
}

async fn refuse(
    node: &Arc<Node>,
    peer: &Peer,
    package: PackageId,
    refusal: Refusal,
) -> OfferAnswer {
    match answer_refusal(node, peer, package, refusal).await {
        Ok(answer) => OfferAnswer::Answer(answer),
        Err(why) => OfferAnswer::Decline(why),
    }
}

async fn answer_refusal(
    node: &Arc<Node>,
    peer: &Peer,
    package: PackageId,
    refusal: Refusal,
) -> Result<Answer, String> {
    let what = match refusal {
        Refusal::Silent(why) => return Err(why),
        Refusal::Busy(reason) => {
            node.metrics
                .add(Counter::Busy, &[("reason", busy_words(reason))], 1);
            What::Busy(Busy {
                reason: reason as i32,
                retry_after_ms: match reason {
                    BusyReason::Unanchored => UNANCHORED_RETRY_MS,
                    _ => BUSY_RETRY_MS,
                },
            })
        }
        Refusal::Final(reason, article, why) => {
            tracing::warn!(%peer, package = package.short(), %why, "a package was refused");
            node.refused(&peer.hop, Some(package), reason, &article);
            What::Refused(v1::Refused {
                reason: reason as i32,
                article,
                recipients: Vec::new(),
            })
        }
    };
    let (signing, to) = (node.clone(), peer.hop.party.clone());
    passerelle_host::blocking(move || Answer::Statement(signing.answer(&to, package, what)))
        .await
        .map_err(|_| "the gateway is stopping".to_owned())
}

/// A package that may be taken.
struct Taking {
    node: Arc<Node>,
    peer: Peer,
    manifest: VerifiedManifest,
    permit: Permit,
    /// When we accepted it before, in a log that was lost.
    first_accepted: Option<Timestamp>,
}

impl Taking {
    /// A next hop for which no more may wait than does.
    fn full_hop(&self) -> Option<&Hop> {
        let counts = self.node.queue.counts();
        let full = |hop: &&Hop| {
            let waiting = counts.get(*hop).map_or(0, |counts| counts.bytes);
            waiting.saturating_add(self.manifest.total_length()) > self.node.limits.hop_bytes_max
        };
        self.permit.routes.keys().find(full)
    }

    /// Begins a transfer, or goes on with one; only the latter while the log is not anchored.
    async fn begin(self, anchored: bool) -> OfferAnswer {
        let (node, manifest) = (self.node.clone(), self.manifest.clone());
        let begin = move || {
            let accepted = |package: &PackageId| node.accepted(package).is_some();
            node.spool.begin(&manifest, accepted)
        };
        let begun = passerelle_host::blocking(begin).await;
        match begun {
            Ok(Ok(partial)) => {
                let held = partial.held();
                if !anchored && held.table.is_none() {
                    let discard = move || partial.discard();
                    if let Ok(Err(error)) = passerelle_host::blocking(discard).await {
                        tracing::warn!(%error, "an empty transfer stays until it is cleared");
                    }
                    let package = self.manifest.id();
                    return refuse(&self.node, &self.peer, package, UNANCHORED).await;
                }
                OfferAnswer::Take(Box::new(Transfer {
                    taking: self,
                    partial: Some(partial),
                    held,
                }))
            }
            Ok(Err(error)) => match self.spool_failed(error).await {
                Some(answer) => OfferAnswer::Answer(answer),
                None => OfferAnswer::Decline("it cannot be kept now".into()),
            },
            Err(_) => OfferAnswer::Decline("the gateway is stopping".into()),
        }
    }

    /// What is said when the spool does not take a package.
    async fn spool_failed(&self, error: SpoolError) -> Option<Answer> {
        if error.is_fatal() {
            self.node.fail(error.to_string());
            return None;
        }
        let refusal = match error {
            SpoolError::Full(why) => {
                tracing::warn!(why, "no room: packages are put off");
                Refusal::Busy(BusyReason::Disk)
            }
            SpoolError::Inline(error) => final_refusal(Reason::Digest, error),
            SpoolError::TakenOver
            | SpoolError::Committed
            | SpoolError::Outside
            | SpoolError::Incomplete { .. }
            | SpoolError::Io { .. } => Refusal::Silent(error.to_string()),
        };
        let package = self.manifest.id();
        answer_refusal(&self.node, &self.peer, package, refusal)
            .await
            .ok()
    }

    /// Keeps a package that travelled inside its offer, and accepts it.
    async fn keep(self, inline: Bytes) -> Option<Answer> {
        let (node, manifest) = (self.node.clone(), self.manifest.clone());
        let store = move || node.spool.store_inline(&manifest, &inline);
        match passerelle_host::blocking(store).await {
            Ok(Ok(location)) => self.commit(location).await,
            Ok(Err(error)) => self.spool_failed(error).await,
            Err(_) => None,
        }
    }

    /// Accepts a package that is kept at `location`; when it is not accepted, nothing stays there.
    /// Nobody else knows of the place: this is to run to its end.
    async fn commit(self, location: PackLocation) -> Option<Answer> {
        crash_point!("accept.kept");
        let accepting = Accepting {
            node: self.node.clone(),
            peer: self.peer.clone(),
            manifest: self.manifest.clone(),
            permit: self.permit.clone(),
            first_accepted: self.first_accepted,
            location,
        };
        let committed = self.node.sequencer.accept(Box::new(accepting)).await;
        if committed.is_err() {
            let node = self.node.clone();
            let release = move || node.spool.release(&location);
            if let Ok(Err(error)) = passerelle_host::blocking(release).await {
                tracing::warn!(%error, "what was not accepted stays until the next start");
            }
        }
        match committed {
            Ok(committed) => {
                crash_point!("accept.committed");
                self.node.metrics.add(Counter::Accepted, &[], 1);
                let package = self.manifest.id().short();
                let (from, index) = (&self.peer.hop, committed.index);
                tracing::info!(package, %from, index, "accepted");
                match committed.entry.event {
                    Some(Event::Accepted(event)) => event.receipt.map(Answer::Statement),
                    _ => None,
                }
            }
            Err(error @ (SubmitError::Full | SubmitError::Unanchored)) => {
                let busy = match error {
                    SubmitError::Full => Refusal::Busy(BusyReason::Disk),
                    _ => UNANCHORED,
                };
                let package = self.manifest.id();
                answer_refusal(&self.node, &self.peer, package, busy)
                    .await
                    .ok()
            }
            // Committed meanwhile on another stream: the same answer as there.
            Err(SubmitError::Duplicate) => {
                let (node, package) = (self.node.clone(), self.manifest.id());
                let known = passerelle_host::blocking(move || node.accepted(&package)).await;
                let (_, event) = known.ok().flatten()?;
                let same_way = event.previous_hop == Some(self.peer.hop.to_message());
                event.receipt.filter(|_| same_way).map(Answer::Statement)
            }
            Err(SubmitError::Denied(why)) => {
                // No longer permitted: a new offer gets the answer.
                tracing::info!(why, "a package was not accepted at the last moment");
                None
            }
            Err(SubmitError::TooLong(_) | SubmitError::Stopped) => None,
        }
    }
}

fn is_busy(answer: &Answer) -> bool {
    let Answer::Statement(signed) = answer else {
        return false;
    };
    let said = v1::Statement::decode(signed.body.as_slice());
    said.is_ok_and(|said| matches!(said.what, Some(What::Busy(_))))
}

/// The second decision, and the entry.
struct Accepting {
    node: Arc<Node>,
    peer: Peer,
    manifest: VerifiedManifest,
    permit: Permit,
    first_accepted: Option<Timestamp>,
    location: PackLocation,
}

impl Accepting {
    fn recipients(&self) -> Vec<PartyId> {
        let mut recipients: Vec<PartyId> = self.permit.routes.values().flatten().cloned().collect();
        recipients.sort();
        recipients
    }
}

impl Acceptance for Accepting {
    fn draft(&mut self, index: u64, at: Timestamp) -> Result<StatementDraft, String> {
        let before = self.first_accepted;
        self.permit = judge(&self.node, &self.peer, &self.manifest, before)
            .map_err(|_| "it is not permitted any more".to_owned())?;
        Ok(StatementDraft {
            issuer: self.node.party.clone(),
            destination: self.manifest.sender().clone(),
            package: self.manifest.id(),
            at,
            what: What::Accepted(v1::Accepted {
                log_index: index,
                recipients: self.recipients().iter().map(ToString::to_string).collect(),
            }),
        })
    }

    fn event(self: Box<Self>, receipt: Signed) -> Event {
        let routes = self
            .permit
            .routes
            .iter()
            .map(|(hop, recipients)| v1::Route {
                next_hop: Some(hop.to_message()),
                recipients: recipients.iter().map(ToString::to_string).collect(),
            });
        Event::Accepted(v1::AcceptedEvent {
            manifest: Some(self.manifest.signed().clone()),
            receipt: Some(receipt),
            previous_hop: Some(self.peer.hop.to_message()),
            routes: routes.collect(),
            deadline_ms: self.permit.not_after.as_ms(),
            test: self.manifest.is_test(),
            pack: Some(self.location),
            retention: Some(self.permit.flow.retention.to_message()),
        })
    }
}

/// A package whose bytes are arriving.
struct Transfer {
    taking: Taking,
    // Away while a blocking thread has it.
    partial: Option<Partial>,
    held: Held,
}

impl Transfer {
    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Partial) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, WriteError> {
        let gone = || WriteError(std::io::Error::other("the transfer has ended"));
        let mut partial = self.partial.take().ok_or_else(gone)?;
        let (partial, done) = passerelle_host::blocking(move || {
            let done = work(&mut partial);
            (partial, done)
        })
        .await
        .map_err(|_| gone())?;
        self.partial = Some(partial);
        done.map_err(|error| {
            if error.is_fatal() {
                self.taking.node.fail(error.to_string());
            }
            WriteError(std::io::Error::other(error))
        })
    }

    /// Every byte has come.
    async fn accept(mut self) -> Option<Answer> {
        let location = self.blocking(Partial::finish).await.ok()?;
        let partial = self.partial.take();
        let answer = self.taking.commit(location).await?;
        // What is put off stays a transfer: the next offer finds every byte.
        if let Some(partial) = partial.filter(|_| !is_busy(&answer)) {
            let marked = passerelle_host::blocking(move || partial.accepted()).await;
            if let Ok(Err(error)) = marked {
                tracing::warn!(%error, "the mark of a transfer stays");
            }
            crash_point!("accept.unmarked");
        }
        Some(answer)
    }
}

#[async_trait]
impl Incoming for Transfer {
    fn manifest(&self) -> &VerifiedManifest {
        &self.taking.manifest
    }

    fn held(&self) -> Held {
        self.held.clone()
    }

    async fn write(
        &mut self,
        section: Section,
        offset: u64,
        bytes: Bytes,
    ) -> Result<(), WriteError> {
        let Taking { node, peer, .. } = &self.taking;
        node.received(peer, bytes.len() as u64);
        self.blocking(move |partial| partial.write(section, offset, &bytes))
            .await
    }

    async fn sync(&mut self) -> Result<(), WriteError> {
        self.blocking(Partial::sync).await
    }

    /// Goes on when the stream ends meanwhile: what is kept is accepted, or let go of.
    async fn complete(self: Box<Self>) -> Option<Answer> {
        tokio::spawn(self.accept()).await.ok()?
    }

    async fn broken(mut self: Box<Self>, fault: Fault) -> Option<Answer> {
        if let Some(partial) = self.partial.take() {
            let _ = passerelle_host::blocking(move || partial.discard()).await;
        }
        let Taking {
            node,
            peer,
            manifest,
            ..
        } = &self.taking;
        let refusal = final_refusal(fault.reason(), fault);
        answer_refusal(node, peer, manifest.id(), refusal)
            .await
            .ok()
    }
}
