//! The agent's side of every stream with its gateway.

mod offer;
mod transfer;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use passerelle_host::monotonic;
use passerelle_link::{
    Exchange, LaneError, OfferAnswer, Outgoing, Peer, Room, Trust, wait_to_judge_offer,
    wait_to_judge_statement,
};
use passerelle_proto::session::{PROTOCOL_MAX, PROTOCOL_MIN};
use passerelle_proto::v1::{self, Lane, Signed};
use passerelle_proto::{
    Checkpoint, INLINE_LEN_MAX, PackageId, PartyId, Role, StatementId, Timestamp, VerifiedManifest,
    log_epoch,
};
use tokio::sync::{RwLock, mpsc};
use tonic::async_trait;

pub(crate) use self::offer::offered;
use crate::again;
use crate::event::AgentEvent;
use crate::handing::{Handing, RETRY_MAX, hold_back};
use crate::node::Node;
use crate::receipts::{self, Taken};
use crate::renewal;

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
        let trust = self.node.trust.subscribe();
        if !wait_to_judge_offer(trust, &self.node.stop, &manifest).await {
            return OfferAnswer::Decline("the agent is stopping".into());
        }
        drop(self.storing.write().await);
        let (node, peer) = (self.node.clone(), peer.clone());
        let arrived = self.arrived.clone();
        let offer = (manifest, accepted);
        let work = move || offered(&node, &peer, offer, &inline, arrived);
        let done = passerelle_host::blocking(work).await;
        done.unwrap_or_else(|_| OfferAnswer::Decline("the agent is stopping".into()))
    }

    async fn statement(&self, peer: &Peer, signed: Signed) -> bool {
        let trust = self.node.trust.subscribe();
        if !wait_to_judge_statement(trust, &self.node.stop, &signed).await {
            return false;
        }
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

#[cfg(test)]
mod tests;
