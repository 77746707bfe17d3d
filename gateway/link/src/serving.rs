//! What all connections of a listener share, and how each of them ends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use passerelle_proto::Hop;
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use webpki::KeyUsage;

use crate::identity::Identity;
use crate::peer::{Peer, Transport, Trust};
use crate::refusal::Refused;
use crate::verifier::{CertificateRefusal, distrusted, verify_chain};
use crate::window::CONNECTION_LIFE_MAX;

/// Longest handshake: a peer that sends one byte a second does not hold a place.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Handshakes at once, so that strangers do not take the places of peers.
pub(crate) const HANDSHAKES_MAX: usize = 128;
/// Connections of one peer: those that it has lost without our knowing are among them.
const PEER_CONNECTIONS_MAX: usize = 8;
/// Wait for the first request on a connection.
const FIRST_REQUEST_MAX: Duration = Duration::from_secs(10);
/// How long streams may take to end in order on a connection that is to end.
const DRAIN_MAX: Duration = Duration::from_secs(30);

/// Is told about connections that were refused before a peer was known.
pub trait RefusalSink: Send + Sync + 'static {
    /// `class` is one of few, and nothing in it was chosen by the peer; `why` is for people.
    fn refused(&self, class: &'static str, address: SocketAddr, why: &str);
}

/// What every connection needs.
pub(crate) struct Serving {
    pub(crate) routes: Routes,
    pub(crate) refusals: Arc<dyn RefusalSink>,
    pub(crate) identity: Identity,
    pub(crate) trust: Trust,
    pub(crate) stop: CancellationToken,
    pub(crate) handshakes: Arc<Semaphore>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) peers: Peers,
}

/// Open connections by peer.
pub(crate) type Peers = Arc<Mutex<HashMap<Hop, OpenConnections>>>;

/// How many connections a peer has.
#[derive(Default)]
pub(crate) struct OpenConnections {
    count: usize,
    /// Changes whenever there is one more.
    newer: watch::Sender<()>,
}

impl Serving {
    /// The authenticated owner of this chain; the sheets may have changed since the handshake.
    pub(crate) fn peer(
        &self,
        chain: &[CertificateDer<'_>],
        transport: Transport,
        address: SocketAddr,
        post_quantum: bool,
    ) -> Result<Peer, CertificateRefusal> {
        let (leaf, intermediates) = chain.split_first().ok_or(CertificateRefusal::Malformed)?;
        let directory = self.trust.borrow().clone();
        let usage = KeyUsage::client_auth();
        let now = UnixTime::now();
        let (tls_name, hop) = verify_chain(&directory, leaf, intermediates, usage, now)?;
        Ok(Peer {
            hop,
            tls_name,
            transport,
            address,
            post_quantum,
        })
    }

    /// A place for the handshake of a stranger.
    pub(crate) fn handshake_place(&self) -> Result<OwnedSemaphorePermit, Refused> {
        let place = self.handshakes.clone().try_acquire_owned();
        place.map_err(|_| Refused::new("too many handshakes", "too many handshakes at once"))
    }

    /// A place for a peer.
    pub(crate) fn connection_place(&self, hop: &Hop) -> Result<ConnectionPlace, Refused> {
        let place = self.connections.clone().try_acquire_owned();
        let place = place
            .map_err(|_| Refused::new("too many connections", "too many connections at once"))?;
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let open = peers.entry(hop.clone()).or_default();
        if open.count >= PEER_CONNECTIONS_MAX {
            let why = format!("{hop} has {PEER_CONNECTIONS_MAX} connections already");
            return Err(Refused::new("too many connections of one peer", why));
        }
        open.count += 1;
        open.newer.send_replace(());
        Ok(ConnectionPlace {
            newer: open.newer.subscribe(),
            peers: self.peers.clone(),
            hop: hop.clone(),
            _place: place,
        })
    }

    pub(crate) fn refused(&self, address: SocketAddr, refused: &Refused) {
        let Refused { class, why } = refused;
        tracing::info!(%address, class, why, "a connection was refused");
        self.refusals.refused(class, address, why);
    }

    /// How a connection of this peer ends, for itself and for its requests.
    pub(crate) fn ending(&self, hop: &Hop, chain: Vec<CertificateDer<'static>>) -> Ending {
        let distrusted = distrusted(
            self.trust.clone(),
            chain,
            KeyUsage::client_auth,
            hop.clone(),
        );
        let ending = Ending {
            drain: self.stop.child_token(),
            cut: CancellationToken::new(),
            used: CancellationToken::new(),
        };
        let limits = ending.clone().limits(distrusted);
        tokio::spawn(limits);
        ending
    }
}

/// A connection's share of what the listener and its peer may have.
pub(crate) struct ConnectionPlace {
    /// Changes when the same peer opens another connection.
    pub(crate) newer: watch::Receiver<()>,
    peers: Peers,
    hop: Hop,
    _place: OwnedSemaphorePermit,
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = peers.get_mut(&self.hop) {
            open.count -= 1;
            if open.count == 0 {
                peers.remove(&self.hop);
            }
        }
    }
}

/// When a connection ends: each request has a copy among its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    /// Streams are to end in order.
    pub(crate) drain: CancellationToken,
    /// The connection is to be closed now.
    pub(crate) cut: CancellationToken,
    /// A request has been seen.
    pub(crate) used: CancellationToken,
}

impl Ending {
    /// Ends a connection that is never used, too old, drained for too long, or no longer trusted.
    async fn limits(self, distrusted: impl Future<Output = CertificateRefusal>) {
        let begun = Instant::now();
        let aged = async {
            let used = tokio::time::timeout(FIRST_REQUEST_MAX, self.used.cancelled()).await;
            if used.is_err() {
                return self.cut.cancel();
            }
            tokio::select! {
                () = self.drain.cancelled() => {}
                () = tokio::time::sleep_until(begun + CONNECTION_LIFE_MAX) => self.drain.cancel(),
            }
            tokio::time::sleep(DRAIN_MAX).await;
        };
        tokio::select! {
            () = aged => {}
            refusal = distrusted => {
                tracing::warn!(%refusal, "a connection is closed: the sheets have changed");
            }
            // The connection has ended by itself.
            () = self.cut.cancelled() => {}
        }
        self.cut.cancel();
    }
}
