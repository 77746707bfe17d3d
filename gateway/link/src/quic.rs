//! Dialling by QUIC, and what both ends of a QUIC connection are configured with.

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h3_util::client::{H3Channel, H3Connector};
use quinn::SendDatagramError;
use quinn::crypto::rustls::QuicClientConfig;
use rustix::net::sockopt;
use rustls::pki_types::CertificateDer;
use tonic::body::Body;

use crate::connection::{Carrier, Connection, Ended};
use crate::dialer::Target;
use crate::h3_streams::{H3Connection, H3Opener, H3Receiving, H3Stream};
use crate::peer::Transport;
use crate::refusal::Refused;
use crate::tls;
use crate::window::{CONNECTION_WINDOW, SEND_WINDOW, STREAM_WINDOW, STREAMS_MAX};

/// Silence after which a keep-alive is sent. Shorter than the session's own: a peer that was
/// killed and started again answers the next packet with a reset, and that is how it is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How often a peer is asked whether it is there, after its keep-alive is overdue.
const PROBE_EVERY: Duration = Duration::from_millis(600);
/// Silence that ends a connection.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Round trip assumed before one is measured: the first retransmission comes after three of them,
/// while a peer that is just starting is looked for.
const ROUND_TRIP_ASSUMED: Duration = Duration::from_millis(100);

/// Largest UDP payload that is tried, in bytes, where a path has room for more than the usual 1452.
///
/// quinn hands over up to ten at once, and one send of more than 65 507 bytes (RFC 768) fails
/// without a word: larger datagrams are all lost, which looks like a path that swallows them.
const DATAGRAM_MAX: u16 = 6550;
/// Bytes that the system may hold of a socket in each direction.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// A QUIC connection that is made already, for an HTTP/3 client that wants to make one.
#[derive(Clone)]
pub(crate) struct Established(Arc<Mutex<Option<quinn::Connection>>>);

impl H3Connector for Established {
    type CONN = H3Connection;
    type OS = H3Opener;
    type SS = h3_quinn::SendStream<Bytes>;
    type RS = H3Receiving;
    type BS = H3Stream;

    async fn connect(&self) -> Result<Self::CONN, h3_util::Error> {
        let made = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let made = made.ok_or("the connection has ended")?;
        Ok(H3Connection::new(made))
    }
}

/// A socket for outgoing connections, for both families where the system has both.
pub(crate) fn client_endpoint() -> std::io::Result<quinn::Endpoint> {
    let any = SocketAddr::from(([0_u16; 8], 0));
    let any_v4 = SocketAddr::from(([0_u8; 4], 0));
    let socket = both_families(any).or_else(|_| UdpSocket::bind(any_v4))?;
    make_roomy(&socket);
    let runtime = Arc::new(quinn::TokioRuntime);
    quinn::Endpoint::new(endpoint_config(), None, socket, runtime)
}

fn both_families(any: SocketAddr) -> std::io::Result<UdpSocket> {
    let family = rustix::net::AddressFamily::INET6;
    let socket = rustix::net::socket(family, rustix::net::SocketType::DGRAM, None)?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    rustix::net::bind(&socket, &any)?;
    Ok(UdpSocket::from(socket))
}

/// Room for what arrives while this process does not run for a moment: the system's usual 200 KiB
/// are full after 2 ms of a fast path, and everything lost is sent again.
pub(crate) fn make_roomy(socket: &UdpSocket) {
    let receive = sockopt::set_socket_recv_buffer_size(socket, SOCKET_BUFFER);
    let send = sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER);
    // It works with less: what the system allows is a setting of the machine.
    if let Err(error) = receive.and(send) {
        tracing::warn!(%error, "the UDP socket keeps its small buffers");
    }
}

/// What both kinds of endpoint say about their datagrams.
pub(crate) fn endpoint_config() -> quinn::EndpointConfig {
    let mut config = quinn::EndpointConfig::default();
    // The constant is within what the setting takes: 1200 to 65527.
    let _ = config.max_udp_payload_size(DATAGRAM_MAX);
    config
}

/// Makes a connection; the peer has not yet said whether it takes it.
pub(crate) async fn dial(
    endpoint: &quinn::Endpoint,
    target: Target<'_>,
) -> Result<Connection, Refused> {
    let local = |error: &dyn std::fmt::Display| Refused::new("local", error.to_string());
    let trust = target.trust.clone();
    let (config, reason) = tls::client_config(target.identity, trust, target.hop, Transport::Quic)
        .map_err(|error| local(&error))?;
    let config = QuicClientConfig::try_from(config).map_err(|error| local(&error))?;
    let mut config = quinn::ClientConfig::new(Arc::new(config));
    config.transport_config(transport_config());
    let connecting = endpoint.connect_with(config, target.address, target.name);
    let connection = connecting.map_err(|error| local(&error))?;
    let connection = connection
        .await
        .map_err(|error| Refused::quic(&error, &reason))?;
    let established = Established(Arc::new(Mutex::new(Some(connection.clone()))));
    let channel: H3Channel<Established, Body> = H3Channel::new(established, target.origin(), None);
    let chain = chain(&connection);
    let ended = async move {
        let guard = CloseOnDrop(connection);
        let error = tokio::select! {
            error = guard.0.closed() => error,
            error = probe(&guard.0) => error,
        };
        Ended(Refused::quic(&error, &reason).why)
    };
    let peer = target.peer(&chain, Transport::Quic);
    Ok(Connection::begin(
        Carrier::H3(channel),
        peer,
        target.trust.clone(),
        chain,
        ended,
    ))
}

/// Asks a silent peer again and again: one that was killed answers with a reset as soon as it is
/// back, while QUIC's own probes come at ever longer intervals.
async fn probe(connection: &quinn::Connection) -> quinn::ConnectionError {
    let mut heard = 0;
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        let received = connection.stats().udp_rx.datagrams;
        let silent = std::mem::replace(&mut heard, received) == received;
        if silent
            && let Err(SendDatagramError::ConnectionLost(error)) =
                connection.send_datagram(Bytes::new())
        {
            return error;
        }
    }
}

/// Certificates that the other side has presented, leaf first.
pub(crate) fn chain(connection: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    let identity = connection.peer_identity();
    let chain = identity.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    chain.map_or_else(Vec::new, |chain| *chain)
}

/// Closes a connection that others still hold handles of.
pub(crate) struct CloseOnDrop(pub(crate) quinn::Connection);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close(0u32.into(), b"done");
    }
}

/// Timers, windows and congestion control of every QUIC connection.
pub(crate) fn transport_config() -> Arc<quinn::TransportConfig> {
    let mut config = quinn::TransportConfig::default();
    config.keep_alive_interval(Some(KEEP_ALIVE));
    config.max_idle_timeout(quinn::IdleTimeout::try_from(IDLE_MAX).ok());
    config.initial_rtt(ROUND_TRIP_ASSUMED);
    config.congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default()));
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(DATAGRAM_MAX);
    config.mtu_discovery_config(Some(discovery));
    config.stream_receive_window(STREAM_WINDOW.into());
    config.receive_window(CONNECTION_WINDOW.into());
    config.send_window(SEND_WINDOW.into());
    config.max_concurrent_bidi_streams(STREAMS_MAX.into());
    config.max_concurrent_uni_streams(STREAMS_MAX.into());
    Arc::new(config)
}
