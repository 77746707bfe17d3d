//! The agent's side of every stream with its gateway.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use passerelle_host::monotonic;
use passerelle_link::{
    Exchange, Incoming, LaneError, OfferAnswer, Outgoing, Peer, Room, Trust, WriteError,
};
use passerelle_proto::session::{Answer, Fault, Held, PROTOCOL_MAX, PROTOCOL_MIN};
use passerelle_proto::v1::{self, BusyReason, Lane, Reason, Section, Signed, statement::What};
use passerelle_proto::{
    Checkpoint, Denial, Digest, Facts, INLINE_LEN_MAX, PackageId, PartyId, Place, Role,
    StatementId, Timestamp, UntrustedManifest, VerifiedManifest, accepted_at, decide, log_epoch,
};
use tokio::sync::{RwLock, mpsc};
use tonic::async_trait;

use crate::again;
use crate::cancel;
use crate::event::AgentEvent;
use crate::handing::{Handing, RETRY_MAX, hold_back};
use crate::incoming::{Arriving, forget_unfinished, is_complete};
use crate::node::Node;
use crate::receipts::{self, Taken};
use crate::renewal;

/// When a package is to be offered again that our clock cannot judge.
const CLOCK_RETRY: Duration = Duration::from_secs(10);

/// The agent behind [`Exchange`].
pub(crate) struct AgentExchange {
    node: Arc<Node>,
    // The gateway's checkpoint that we had before it showed one on this connection: a gateway must
    // not prove itself by what it has just told us.
    before: Mutex<Vec<u8>>,
    // The checkpoint that the gateway has shown last, and whose: the sheet that says with which
    // keys it is signed may come later.
    shown: Mutex<Option<(PartyId, Vec<u8>)>>,
    arrived: mpsc::UnboundedSender<PackageId>,
    // Statements that are being stored: an offer that came after them is judged after them.
    storing: RwLock<()>,
}

impl AgentExchange {
    pub(crate) fn new(node: Arc<Node>, arrived: mpsc::UnboundedSender<PackageId>) -> Arc<Self> {
        let before = kept_checkpoint(&node);
        let mut trust = node.trust.subscribe();
        let exchange = Arc::new(Self {
            node,
            before: Mutex::new(before),
            shown: Mutex::default(),
            arrived,
            storing: RwLock::default(),
        });
        let weak = Arc::downgrade(&exchange);
        tokio::spawn(async move {
            while trust.changed().await.is_ok() {
                let Some(exchange) = weak.upgrade() else {
                    return;
                };
                let shown = exchange.last_shown().clone();
                if let Some((party, note)) = shown {
                    exchange.keep_checkpoint(&party, &note);
                }
            }
        });
        exchange
    }

    fn last_shown(&self) -> MutexGuard<'_, Option<(PartyId, Vec<u8>)>> {
        self.shown.lock().unwrap_or_else(|p| p.into_inner())
    }

    /// The gateway says what its clock shows.
    fn hear(&self, theirs: Timestamp) {
        let (clock, moment) = (&self.node.clock, self.node.host_clock.moment());
        let doubted = clock.doubt(moment).is_some();
        clock.heard(theirs, moment);
        match clock.doubt(moment) {
            Some(doubt) => {
                let why = doubt.to_string();
                tracing::error!(why, "our clock and our gateway's do not agree");
            }
            None if doubted => self.node.unopened.hurry(monotonic()),
            None => {}
        }
    }

    /// What we tell the gateway that we know of its log; read anew once per connection.
    fn copy(&self, lane: Lane) -> Vec<u8> {
        let mut before = self.before.lock().unwrap_or_else(|p| p.into_inner());
        if lane == Lane::Control {
            *before = kept_checkpoint(&self.node);
        }
        before.clone()
    }

    /// Keeps the newest checkpoint of our gateway's log: it can tell a log that was rolled back.
    fn keep_checkpoint(&self, gateway: &PartyId, note: &[u8]) {
        let directory = self.node.directory();
        let known = directory.log_keys(gateway);
        let current = directory.log(gateway);
        let epoch = |checkpoint: &Checkpoint| log_epoch(gateway, &checkpoint.origin);
        let Some(Ok(new)) = current.map(|log| Checkpoint::verify(note, log)) else {
            return;
        };
        let path = checkpoint_path(&self.node);
        let kept = kept_checkpoint(&self.node);
        let old = Checkpoint::verify_any(&kept, known).ok();
        let old = match old {
            Some(old) if epoch(&old) < epoch(&new) => {
                // The new log knows nothing of what the old one held.
                if let Err(error) = again::begin(&self.node) {
                    tracing::error!(%error, "what is open cannot be offered again yet");
                    return;
                }
                0
            }
            old => old.map_or(0, |old| old.size),
        };
        if new.size > old
            && let Err(error) = self.node.store.disk().replace(&path, note)
        {
            tracing::warn!(%error, "the gateway's checkpoint was not kept");
        }
    }
}

/// The newest checkpoint of our gateway's log.
fn checkpoint_path(node: &Node) -> PathBuf {
    node.store.state().join("checkpoint.note")
}

fn kept_checkpoint(node: &Node) -> Vec<u8> {
    let path = checkpoint_path(node);
    let kept = node.store.disk().read(&path).unwrap_or_default();
    let Some(gateway) = node.gateway().filter(|_| !kept.is_empty()) else {
        return Vec::new();
    };
    match Checkpoint::verify_any(&kept, node.directory().log_keys(&gateway.party)) {
        Ok(_) => kept,
        Err(error) => {
            let file = path.display();
            tracing::error!(%file, %error, "what is kept of the gateway's log is damaged");
            Vec::new()
        }
    }
}

/// Name and version, for people.
pub(crate) fn software() -> String {
    format!("passerelle {}", env!("CARGO_PKG_VERSION"))
}

#[async_trait]
impl Exchange for AgentExchange {
    fn hello(&self, _: &Peer, lane: Lane) -> v1::Hello {
        let directory = self.node.directory();
        let convention = directory.convention();
        v1::Hello {
            protocol_min: PROTOCOL_MIN,
            protocol_max: PROTOCOL_MAX,
            intent: v1::Intent::Both as i32,
            lane: lane as i32,
            convention: convention.digest().0.to_vec(),
            convention_version: convention.version(),
            sheets: directory
                .sheets()
                .map(|sheet| v1::SheetState {
                    party: sheet.party.to_string(),
                    seq: sheet.seq,
                })
                .collect(),
            checkpoint: Vec::new(),
            cosigned: self.copy(lane),
            now_ms: self.node.now().as_ms(),
            software: software(),
            run: Some(self.node.run.clone()),
        }
    }

    fn trust(&self) -> Option<Trust> {
        Some(self.node.trust.subscribe())
    }

    async fn greeted(&self, peer: &Peer, hello: &v1::Hello) -> Result<(), LaneError> {
        if peer.hop.role != Role::Gateway {
            return Err(LaneError("an agent exchanges with its gateway only".into()));
        }
        let theirs = Timestamp::from_ms(hello.now_ms);
        self.hear(theirs);
        self.node.outgoing.wake();
        if hello.lane() == Lane::Control {
            let shown = (peer.hop.party.clone(), hello.checkpoint.clone());
            *self.last_shown() = Some(shown);
            self.keep_checkpoint(&peer.hop.party, &hello.checkpoint);
        }
        Ok(())
    }

    async fn note(&self, peer: &Peer, note: Vec<u8>) {
        let (node, peer) = (self.node.clone(), peer.clone());
        // It may revoke a key of the peer, which ends the stream that it came on.
        let taken = passerelle_host::blocking(move || {
            renewal::note_adopted(&peer.to_string(), node.trust.adopt(&note));
        });
        let _ = taken.await;
    }

    async fn offered(
        &self,
        peer: &Peer,
        manifest: Signed,
        inline: Bytes,
        accepted: Option<Signed>,
    ) -> OfferAnswer {
        drop(self.storing.write().await);
        let (node, peer) = (self.node.clone(), peer.clone());
        let arrived = self.arrived.clone();
        let offer = (manifest, accepted);
        let work = move || offered(&node, &peer, offer, &inline, arrived);
        let done = passerelle_host::blocking(work).await;
        done.unwrap_or_else(|_| OfferAnswer::Decline("the agent is stopping".into()))
    }

    async fn statement(&self, peer: &Peer, signed: Signed) -> bool {
        let _storing = self.storing.read().await;
        let (node, from) = (self.node.clone(), peer.clone());
        let taken = passerelle_host::blocking(move || receipts::take(&node, &from, signed)).await;
        match taken {
            Ok(Ok(Taken::Stored)) => true,
            Ok(Ok(Taken::Refused(why))) => {
                tracing::warn!(%peer, why, "a statement was refused");
                self.node.metrics.refused();
                true
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "a statement was not stored and must come again");
                false
            }
            Err(_) => false,
        }
    }

    async fn next(&self, peer: &Peer, lane: Lane, room: Room) -> Outgoing {
        loop {
            let news = self.node.news.notified();
            tokio::pin!(news);
            news.as_mut().enable();
            if room.statement
                && let Some(signed) = self.node.outgoing.claim_statement()
            {
                return Outgoing::Statement(signed);
            }
            let fits = |manifest: &VerifiedManifest| {
                (manifest.total_length() <= INLINE_LEN_MAX) == (lane == Lane::Control)
            };
            if room.package
                && let Some(sent) = self.node.outgoing.claim(fits)
            {
                let package = sent.manifest.id();
                match Handing::new(&self.node, peer, sent) {
                    Ok(handing) => return Outgoing::Package(Box::new(handing)),
                    Err(error) => hold_back(&self.node, &package, &error),
                }
                let again = monotonic() + RETRY_MAX;
                self.node.outgoing.put_back(&package, Some(again));
            }
            let again = self.node.outgoing.next_attempt();
            let sleep = async {
                match again {
                    Some(at) => {
                        let at = at.max(monotonic() + Duration::from_millis(20));
                        tokio::time::sleep_until(at.into()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut news => {}
                () = sleep => {}
            }
        }
    }

    async fn acked(&self, _: &Peer, ids: Vec<StatementId>) {
        let node = self.node.clone();
        let done = passerelle_host::blocking(move || {
            for (package, id) in node.outgoing.settle_statements(&ids, true) {
                match node.acked(package, id) {
                    Ok(()) => node.tell(AgentEvent::Acked { package }),
                    Err(error) => tracing::error!(%error, "an acknowledgement was not noted"),
                }
            }
        });
        let _ = done.await;
    }

    fn ended(&self, _: &Peer, _: Lane, unacked: Vec<StatementId>, _: &str) {
        self.node.outgoing.settle_statements(&unacked, false);
        self.node.news.notify_waiters();
    }
}

/// The answer about a package that is here already.
fn had(node: &Arc<Node>, package: PackageId) -> Option<OfferAnswer> {
    let Some(entry) = node.register.find(package) else {
        return is_complete(node, &package).then_some(OfferAnswer::Answer(Answer::Have));
    };
    // Whoever offers it may not know, or not know any more, what we said about it.
    Some(match again::say(node, &entry) {
        Ok(()) => OfferAnswer::Answer(Answer::Have),
        Err(error) => {
            tracing::error!(%error, "what was said about a package cannot be read");
            OfferAnswer::Decline("what was said about it cannot be read now".into())
        }
    })
}

fn offered(
    node: &Arc<Node>,
    peer: &Peer,
    (signed, accepted): (Signed, Option<Signed>),
    inline: &[u8],
    arrived: mpsc::UnboundedSender<PackageId>,
) -> OfferAnswer {
    let package = PackageId(Digest::of(&signed.body));
    if let Some(answer) = had(node, package) {
        return answer;
    }
    // Every gateway on the way passes a refusal on to the sender, and to nobody else.
    let claimed = UntrustedManifest::parse(signed.clone());
    let to = claimed.map_or_else(|_| peer.hop.party.clone(), |it| it.sender().clone());
    let (manifest, accepted_at) = match judge(node, peer, signed, accepted) {
        Ok(judged) => judged,
        Err(Unjudged::Refused((reason, article, why))) => {
            return refuse(node, &to, package, reason, article, why);
        }
        Err(Unjudged::NotNow(why)) => return put_off(node, peer, package, why),
    };
    match cancel::is_cancelled(node, &manifest) {
        Ok(false) => {}
        Ok(true) => {
            let (reason, why) = (Reason::Cancelled, cancel::WHY);
            return refuse(node, &to, package, reason, String::new(), why.to_owned());
        }
        Err(error) => {
            tracing::error!(%error, "an offer cannot be judged now");
            return OfferAnswer::Decline("it cannot be judged now".into());
        }
    }
    let mut arriving = match Arriving::begin(node, &manifest, accepted_at) {
        Ok(arriving) => arriving,
        Err(error) => {
            tracing::error!(%error, "an offer cannot be taken now");
            return OfferAnswer::Decline("it cannot be kept now".into());
        }
    };
    if inline.is_empty() {
        let held = arriving.held();
        return OfferAnswer::Take(Box::new(Transfer {
            node: node.clone(),
            manifest,
            held,
            arriving: Some(arriving),
            arrived,
        }));
    }
    match arriving
        .write_inline(inline)
        .and_then(|()| arriving.finish())
    {
        Ok(()) => {
            let _ = arrived.send(package);
            OfferAnswer::Answer(Answer::Have)
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let (reason, why) = (Reason::Digest, error.to_string());
            refuse(node, &to, package, reason, String::new(), why)
        }
        Err(error) => {
            tracing::error!(%error, "an offer cannot be taken now");
            OfferAnswer::Decline("it cannot be kept now".into())
        }
    }
}

type Refusal = (Reason, String, String);

/// Why an offered package is not taken.
enum Unjudged {
    /// It is refused for good.
    Refused(Refusal),
    /// It would be, by a clock that is not believed.
    NotNow(String),
}

impl From<Refusal> for Unjudged {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

type Judged = (VerifiedManifest, Option<Timestamp>);

fn judge(
    node: &Node,
    peer: &Peer,
    signed: Signed,
    accepted: Option<Signed>,
) -> Result<Judged, Unjudged> {
    let plain = |reason, why: &dyn ToString| (reason, String::new(), why.to_string());
    let untrusted =
        UntrustedManifest::parse(signed).map_err(|error| plain(Reason::Malformed, &error))?;
    let directory = node.directory();
    let signer = untrusted.signer();
    let key = directory
        .signing_key(untrusted.sender(), &signer)
        .ok_or_else(|| plain(Reason::SignerUnknown, &Denial::SignerUnknown(signer)))?;
    let manifest = untrusted
        .verify(&key.key)
        .map_err(|error| plain(Reason::Signature, &error))?;
    let moment = node.host_clock.moment();
    let now = moment.wall;
    let accepted_at = accepted
        .and_then(|receipt| accepted_at(&directory, &peer.hop.party, &manifest, receipt, now));
    let facts = Facts {
        directory: &directory,
        manifest: &manifest,
        place: Place::Recipient { party: &node.party },
        first_accepted: accepted_at,
    };
    decide(&facts, now).map_err(|denial| {
        // A refusal cannot be called back: a clock that was set wrong must not be its reason.
        match node.clock.doubt(moment).filter(|_| denial.depends_on_now()) {
            Some(doubt) => Unjudged::NotNow(format!("{denial}; {doubt}")),
            None => Unjudged::Refused((
                denial.reason(),
                denial.article().to_owned(),
                denial.to_string(),
            )),
        }
    })?;
    if manifest.total_length() > node.config.limits.package_bytes_max {
        let why = "it is larger than this agent's configuration allows";
        return Err(plain(Reason::TooLarge, &why).into());
    }
    Ok((manifest, accepted_at))
}

/// Puts an offer off that cannot be judged by our clock: it is made again.
fn put_off(node: &Arc<Node>, peer: &Peer, package: PackageId, why: String) -> OfferAnswer {
    tracing::error!(package = package.short(), why, "an offer is put off");
    let what = What::Busy(v1::Busy {
        reason: BusyReason::Clock as i32,
        retry_after_ms: u64::try_from(CLOCK_RETRY.as_millis()).unwrap_or(u64::MAX),
    });
    let answer = node.answer(&peer.hop.party, package, what);
    node.tell(AgentEvent::PutOff { package, why });
    OfferAnswer::Answer(Answer::Statement(answer))
}

fn refuse(
    node: &Arc<Node>,
    sender: &PartyId,
    package: PackageId,
    reason: Reason,
    article: String,
    why: String,
) -> OfferAnswer {
    if let Err(error) = forget_unfinished(node, &package) {
        tracing::error!(%error, "an offer cannot be refused now");
        return OfferAnswer::Decline("it cannot be judged now".into());
    }
    tracing::warn!(%sender, package = package.short(), why, "an offer was refused");
    node.metrics.refused();
    let what = What::Refused(v1::Refused {
        reason: reason as i32,
        article,
        recipients: vec![node.party.to_string()],
    });
    node.tell(AgentEvent::Refused {
        package,
        reason,
        why,
    });
    OfferAnswer::Answer(Answer::Statement(node.answer(sender, package, what)))
}

/// A package whose bytes are arriving.
struct Transfer {
    node: Arc<Node>,
    manifest: VerifiedManifest,
    held: Held,
    // Away while a blocking thread has it.
    arriving: Option<Arriving>,
    arrived: mpsc::UnboundedSender<PackageId>,
}

impl Transfer {
    async fn blocking(
        &mut self,
        work: impl FnOnce(&mut Arriving) -> io::Result<()> + Send + 'static,
    ) -> Result<(), WriteError> {
        let gone = || WriteError(io::Error::other("the transfer has ended"));
        let mut arriving = self.arriving.take().ok_or_else(gone)?;
        let done = passerelle_host::blocking(move || {
            let done = work(&mut arriving);
            (arriving, done)
        });
        let (arriving, done) = done.await.map_err(|_| gone())?;
        self.arriving = Some(arriving);
        Ok(done?)
    }
}

#[async_trait]
impl Incoming for Transfer {
    fn manifest(&self) -> &VerifiedManifest {
        &self.manifest
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
        self.blocking(move |arriving| arriving.write(section, offset, &bytes))
            .await
    }

    async fn sync(&mut self) -> Result<(), WriteError> {
        self.blocking(Arriving::sync).await
    }

    async fn complete(mut self: Box<Self>) -> Option<Answer> {
        let arriving = self.arriving.take()?;
        let (arrived, package) = (self.arrived.clone(), self.manifest.id());
        let finish = move || {
            arriving.finish()?;
            // Here, since the stream may have ended by now, and nobody waits any more.
            let _ = arrived.send(package);
            Ok::<_, io::Error>(())
        };
        match passerelle_host::blocking(finish).await {
            Ok(Ok(())) => Some(Answer::Have),
            Ok(Err(error)) => {
                tracing::error!(%error, "an arrived package was not kept");
                None
            }
            Err(_) => None,
        }
    }

    async fn broken(mut self: Box<Self>, fault: Fault) -> Option<Answer> {
        let arriving = self.arriving.take()?;
        let _ = passerelle_host::blocking(move || arriving.discard()).await;
        let package = self.manifest.id();
        let (node, sender) = (self.node.clone(), self.manifest.sender().clone());
        let (reason, why) = (fault.reason(), fault.to_string());
        let signing = move || match refuse(&node, &sender, package, reason, String::new(), why) {
            OfferAnswer::Answer(answer) => Some(answer),
            _ => None,
        };
        passerelle_host::blocking(signing).await.ok()?
    }
}
