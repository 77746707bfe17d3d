//! Who is connected, how, and what went wrong last: what an operator asks first.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use passerelle_link::{LinkStatus, Peer};
use passerelle_proto::{Hop, Timestamp, v1};

/// Most peers that are remembered while not connected.
const PEERS_MAX: usize = 1024;

/// What is known about one peer.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Session streams open now.
    streams: usize,
    transport: String,
    address: String,
    since: Option<Timestamp>,
    last_error: String,
    link: Option<LinkStatus>,
    bytes_sent: u64,
    bytes_received: u64,
    /// What an operator has to look at.
    attention: String,
}

/// How a peer can be reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contact {
    /// Session streams open now.
    pub(crate) streams: usize,
    /// Attempts to dial it in vain, in a row.
    pub(crate) failures: u32,
}

/// The peers of one gateway.
#[derive(Debug, Default)]
pub(crate) struct Peers(Mutex<BTreeMap<Hop, Known>>);

impl Peers {
    fn with<T>(&self, hop: &Hop, change: impl FnOnce(&mut Known) -> T) -> T {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS_MAX && !peers.contains_key(hop) {
            let idle = |known: &Known| known.streams == 0 && known.link.is_none();
            peers.retain(|_, known| !idle(known));
        }
        change(peers.entry(hop.clone()).or_default())
    }

    /// A session stream with this peer begins.
    pub(crate) fn opened(&self, peer: &Peer, now: Timestamp) {
        self.with(&peer.hop, |known| {
            known.streams += 1;
            known.transport = peer.transport.to_string();
            known.address = peer.address.to_string();
            known.since.get_or_insert(now);
        });
    }

    /// A session stream with this peer has ended; `why` is empty when that was in order.
    pub(crate) fn closed(&self, peer: &Peer, why: &str) {
        self.with(&peer.hop, |known| {
            known.streams = known.streams.saturating_sub(1);
            if known.streams == 0 {
                known.since = None;
            }
            if !why.is_empty() {
                known.last_error = why.to_owned();
            }
        });
    }

    /// What the link to a peer that we dial says about itself.
    pub(crate) fn link(&self, hop: &Hop, status: LinkStatus) {
        self.with(hop, |known| known.link = Some(status));
    }

    /// How each peer that is known can be reached now.
    pub(crate) fn contacts(&self) -> Vec<(Hop, Contact)> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let contact = |known: &Known| Contact {
            streams: known.streams,
            failures: known.link.as_ref().map_or(0, |link| link.failures),
        };
        peers
            .iter()
            .map(|(hop, known)| (hop.clone(), contact(known)))
            .collect()
    }

    /// Since when a peer has been connected; `None` while it is not.
    pub(crate) fn connected_since(&self, hop: &Hop) -> Option<Timestamp> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.get(hop)?.since
    }

    /// An operator has to look at this peer; told until the gateway stops.
    pub(crate) fn attend(&self, hop: &Hop, why: String) {
        self.with(hop, |known| known.attention = why);
    }

    /// Package bytes sent to a peer.
    pub(crate) fn sent(&self, hop: &Hop, bytes: u64) {
        self.with(hop, |known| known.bytes_sent += bytes);
    }

    /// Package bytes received from a peer.
    pub(crate) fn received(&self, hop: &Hop, bytes: u64) {
        self.with(hop, |known| known.bytes_received += bytes);
    }

    /// Why nothing can be handed to a peer now, and how often it was dialled in vain; `None` while
    /// it is connected.
    pub(crate) fn absence(&self, hop: &Hop) -> Option<(String, u32)> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = peers.get(hop);
        if known.is_some_and(|known| known.streams > 0) {
            return None;
        }
        Some(match known.and_then(|known| known.link.as_ref()) {
            Some(link) if link.last_error.is_empty() => (format!("{hop} is not connected"), 0),
            Some(link) => {
                let why = format!("{hop} is not connected: {}", link.last_error);
                (why, link.failures)
            }
            None => (format!("{hop} has not dialled in"), 0),
        })
    }

    /// All of them, by name; `waiting` says how many items wait for each.
    pub(crate) fn list(&self, waiting: &BTreeMap<Hop, u64>) -> Vec<v1::PeerStatus> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hops: Vec<&Hop> = peers.keys().chain(waiting.keys()).collect();
        hops.sort();
        hops.dedup();
        let unknown = Known::default();
        hops.into_iter()
            .map(|hop| {
                let known = peers.get(hop).unwrap_or(&unknown);
                status(hop, known, waiting.get(hop).copied().unwrap_or(0))
            })
            .collect()
    }
}

fn status(hop: &Hop, known: &Known, waiting_items: u64) -> v1::PeerStatus {
    let connected = known.streams > 0;
    let (state, error) = match (&known.link, connected) {
        (_, true) => ("connected".to_owned(), String::new()),
        (Some(link), false) => (link.state.to_string(), link.last_error.clone()),
        (None, false) => ("waiting for it to dial in".to_owned(), String::new()),
    };
    let shown = |text: &str| {
        if connected {
            text.to_owned()
        } else {
            String::new()
        }
    };
    v1::PeerStatus {
        peer: Some(hop.to_message()),
        transport: shown(&known.transport),
        address: shown(&known.address),
        state,
        last_error: if error.is_empty() {
            known.last_error.clone()
        } else {
            error
        },
        connected_since_ms: known.since.map_or(0, Timestamp::as_ms),
        waiting_items,
        bytes_sent: known.bytes_sent,
        bytes_received: known.bytes_received,
        attention: known.attention.clone(),
    }
}
