//! The gateway's side of every stream.

use std::sync::Arc;

use bytes::Bytes;
use passerelle_disk::crash_point;
use passerelle_host::monotonic;
use passerelle_link::{Exchange, LaneError, OfferAnswer, Outgoing, Peer, Room, Trust};
use passerelle_proto::session::{PROTOCOL_MAX, PROTOCOL_MIN};
use passerelle_proto::v1::{self, Lane, Reason, Signed, entry::Event};
use passerelle_proto::{Digest, Role, StatementId, Timestamp};
use tonic::async_trait;

use crate::acceptance;
use crate::agent_state;
use crate::anchor::{self, Hold};
use crate::breaker::FIRST_RETRY;
use crate::courier;
use crate::node::Node;
use crate::on_the_way::OnTheWay;
use crate::queue::Settle;
use crate::receipts;
use crate::renewal;
use crate::witness;

/// The gateway behind [`Exchange`].
pub(crate) struct GatewayExchange {
    node: Arc<Node>,
    on_the_way: OnTheWay,
}

impl GatewayExchange {
    pub(crate) fn new(node: Arc<Node>) -> Arc<Self> {
        Arc::new(Self {
            node,
            on_the_way: OnTheWay::default(),
        })
    }

    /// Whether this peer has anything to do here.
    fn admit(&self, peer: &Peer) -> Result<(), LaneError> {
        let directory = self.node.directory();
        let gateway = directory.convention().gateway_of(&peer.hop.party);
        let admitted = match peer.hop.role {
            Role::Gateway => gateway == Some(&peer.hop.party) && peer.hop.party != self.node.party,
            Role::Agent => gateway == Some(&self.node.party),
            Role::Operator => false,
        };
        if admitted {
            return Ok(());
        }
        self.node.refused(&peer.hop, None, Reason::Role, "");
        let (hop, party) = (&peer.hop, &self.node.party);
        Err(LaneError(format!(
            "{hop} has no exchange with the gateway of {party}: agents connect to the gateway \
             that the convention names for their party"
        )))
    }

    /// Compares the copy of our checkpoint that the peer keeps with our log; how many entries it
    /// covers. Without a copy nothing is proved.
    fn compare(&self, peer: &Peer, kept: &[u8]) -> Result<u64, LaneError> {
        if kept.is_empty() {
            return Ok(0);
        }
        let ledger = self.node.sequencer.ledger();
        let checkpoint = match ledger.log.verify(kept) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                let why = format!("the checkpoint of ours that you keep is not ours: {error}");
                return Err(LaneError(why));
            }
        };
        let by = format!("the checkpoint that {} keeps", peer.hop);
        match ledger.log.compare(&checkpoint, &by) {
            Ok(size) => Ok(size),
            Err(fatal) => {
                drop(ledger);
                self.node.fail_forked(&fatal, kept);
                Err(LaneError("our log is not the one that you know".into()))
            }
        }
    }
}

#[async_trait]
impl Exchange for GatewayExchange {
    fn hello(&self, peer: &Peer, lane: Lane) -> v1::Hello {
        self.node.peers.opened(peer, self.node.now());
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
            checkpoint: self
                .node
                .read_if_there(&self.node.log_dir().join("checkpoint")),
            cosigned: witness::kept(&self.node, &peer.hop.party),
            now_ms: self.node.now().as_ms(),
            software: software(),
            run: None,
        }
    }

    fn trust(&self) -> Option<Trust> {
        Some(self.node.trust.subscribe())
    }

    async fn greeted(&self, peer: &Peer, hello: &v1::Hello) -> Result<(), LaneError> {
        self.admit(peer)?;
        let size = self.compare(peer, &hello.cosigned)?;
        if size > 0 && anchor::counts(&peer.hop, &self.node.party) {
            anchor::try_lift(&self.node, Hold::Copy(peer.hop.clone(), size)).await;
        }
        let theirs = Timestamp::from_ms(hello.now_ms);
        if !self.node.clock.heard(theirs, self.node.host_clock.moment()) {
            tracing::warn!(%peer, %theirs, "the peer's clock and ours differ by over 5 minutes");
        }
        if peer.hop.role == Role::Agent
            && hello.lane() == Lane::Control
            && let Some(run) = &hello.run
        {
            agent_state::look(&self.node, peer, run).await;
        }
        self.node.circuits.woken(&peer.hop);
        self.node.queue.wake(&peer.hop);
        Ok(())
    }

    async fn note(&self, peer: &Peer, note: Vec<u8>) {
        let (node, peer) = (self.node.clone(), peer.clone());
        // It may revoke a key of the peer, which ends the stream that it came on.
        let taken = tokio::spawn(async move {
            let adopting = node.clone();
            let adopted = passerelle_host::blocking(move || adopting.trust.adopt(&note)).await;
            if let Ok(adopted) = adopted {
                renewal::note_adopted(&node, &peer.to_string(), Some(&peer.hop), adopted);
            }
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
        acceptance::offered(self.node.clone(), peer, manifest, inline, accepted).await
    }

    async fn statement(&self, peer: &Peer, signed: Signed) -> bool {
        tokio::select! {
            biased;
            () = self.node.anchor.wait() => {}
            () = self.node.stop.cancelled() => return false,
        }
        receipts::take(self.node.clone(), peer, signed).await
    }

    async fn next(&self, peer: &Peer, lane: Lane, room: Room) -> Outgoing {
        // What is handed over is to be recorded.
        self.node.anchor.wait().await;
        courier::next(&self.node, peer, lane, room, |signed, lease| {
            let id = StatementId(Digest::of(&signed.body));
            self.on_the_way.put(id, lease);
        })
        .await
    }

    async fn acked(&self, peer: &Peer, ids: Vec<StatementId>) {
        let leases = self.on_the_way.take(&ids);
        if leases.is_empty() {
            return;
        }
        let mut log_index: Vec<u64> = leases.iter().map(|lease| lease.key.index).collect();
        log_index.sort_unstable();
        let event = Event::HandedOver(v1::HandedOverEvent {
            next_hop: Some(peer.hop.to_message()),
            log_index,
        });
        let settle = match self.node.sequencer.commit(event).await {
            Ok(_) => Settle::Return,
            Err(error) => Settle::Retry {
                at: monotonic() + FIRST_RETRY,
                progress: false,
                error: error.to_string(),
            },
        };
        crash_point!("statement.handed-over");
        for lease in leases {
            self.node.queue.settle(lease.token, settle.clone());
        }
    }

    fn ended(&self, peer: &Peer, _: Lane, unacked: Vec<StatementId>, why: &str) {
        self.node.peers.closed(peer, why);
        for lease in self.on_the_way.take(&unacked) {
            self.node.queue.settle(lease.token, Settle::Return);
        }
    }
}

/// Name and version, for people.
pub(crate) fn software() -> String {
    format!("passerelle-gateway {}", env!("CARGO_PKG_VERSION"))
}
