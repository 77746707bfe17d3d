//! Reaching a peer: QUIC first, TCP when UDP does not get through.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h3_util::client::{H3Channel, H3Connector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use passerelle_proto::Hop;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::body::Body;

use crate::connection::{Carrier, Channel, Connection};
use crate::identity::Identity;
use crate::peer::{Peer, Transport, TransportChoice, Trust};
use crate::tls;

/// Head start of the transport that is tried first.
const HEAD_START: Duration = Duration::from_millis(300);
/// Longest time for a connection to be made, by either transport.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long TCP is tried first after QUIC did not get through.
const TCP_REMEMBERED: Duration = Duration::from_secs(600);
/// Window of one HTTP/2 stream, in bytes.
pub(crate) const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// Window of one HTTP/2 connection, in bytes: above the sum of the streams that we open.
pub(crate) const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// Why a peer was not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// No sheet says where it listens, or under which name.
    #[error("the sheet of {0} names no gateway address, or no TLS name: ask for a newer sheet")]
    NoRoute(Hop),
    /// The address does not resolve.
    #[error("{address} does not resolve: {why}")]
    Resolve {
        /// The address in the sheet.
        address: String,
        /// What the system says.
        why: String,
    },
    /// It was not reached, or refused us.
    #[error("{transport} to {address}: {why}")]
    Failed {
        /// How it was tried.
        transport: Transport,
        /// Where.
        address: SocketAddr,
        /// What happened, in words.
        why: String,
    },
    /// Our own configuration does not work.
    #[error("our own TLS configuration: {0}")]
    Local(String),
}

/// A QUIC connection that is made already, for an HTTP/3 client that wants to make one.
#[derive(Clone)]
pub(crate) struct Established(Arc<Mutex<Option<quinn::Connection>>>);

impl H3Connector for Established {
    type CONN = h3_quinn::Connection;
    type OS = h3_quinn::OpenStreams;
    type SS = h3_quinn::SendStream<Bytes>;
    type RS = h3_quinn::RecvStream;
    type BS = h3_quinn::BidiStream<Bytes>;

    async fn connect(&self) -> Result<Self::CONN, h3_util::Error> {
        let made = self
            .0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .take();
        let made = made.ok_or("the connection has ended")?;
        Ok(h3_quinn::Connection::new(made))
    }
}

/// Dials peers with one identity.
#[derive(Clone)]
pub struct Dialer {
    identity: Identity,
    trust: Trust,
    choice: TransportChoice,
    endpoint: quinn::Endpoint,
    tcp_until: Arc<Mutex<HashMap<Hop, Instant>>>,
}

impl Dialer {
    /// Binds a UDP socket of its own for outgoing QUIC.
    ///
    /// # Errors
    /// What the system says about the socket.
    pub fn new(identity: Identity, trust: Trust, choice: TransportChoice) -> std::io::Result<Self> {
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        Ok(Self {
            identity,
            trust,
            choice,
            endpoint: quinn::Endpoint::client(any)?,
            tcp_until: Arc::default(),
        })
    }

    /// Reaches the gateway of a party, at the addresses in its sheet.
    ///
    /// # Errors
    /// [`DialError`]; where both transports were tried, what TCP said, and what QUIC said.
    pub async fn dial(&self, hop: &Hop) -> Result<Connection, DialError> {
        let (name, addresses) = {
            let directory = self.trust.borrow();
            let name = directory.tls_name_of(hop).map(str::to_owned);
            let sheet = directory.sheet(&hop.party);
            (
                name,
                sheet.map_or(Vec::new(), |sheet| sheet.addresses.clone()),
            )
        };
        let name = name.filter(|_| !addresses.is_empty());
        let name = name.ok_or_else(|| DialError::NoRoute(hop.clone()))?;
        let mut last = DialError::NoRoute(hop.clone());
        for address in addresses {
            let resolved = tokio::net::lookup_host(&address).await;
            let resolved: Vec<SocketAddr> = match resolved.map(Iterator::collect) {
                Ok(resolved) => resolved,
                Err(error) => {
                    let why = error.to_string();
                    last = DialError::Resolve {
                        address: address.clone(),
                        why,
                    };
                    continue;
                }
            };
            for address in resolved {
                match self.dial_address(hop, &name, address).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }

    async fn dial_address(
        &self,
        hop: &Hop,
        name: &str,
        address: SocketAddr,
    ) -> Result<Connection, DialError> {
        let by = |transport| self.attempt(hop, name, address, transport);
        match self.choice {
            TransportChoice::Quic => by(Transport::Quic).await,
            TransportChoice::Tcp => by(Transport::Tcp).await,
            TransportChoice::Auto => {
                let tcp_first = {
                    let until = self.tcp_until.lock().unwrap_or_else(|p| p.into_inner());
                    until.get(hop).is_some_and(|until| *until > Instant::now())
                };
                let (first, second) = match tcp_first {
                    true => (Transport::Tcp, Transport::Quic),
                    false => (Transport::Quic, Transport::Tcp),
                };
                let connection = race(by(first), by(second)).await?;
                self.remember(hop, connection.peer().transport);
                Ok(connection)
            }
        }
    }

    fn remember(&self, hop: &Hop, transport: Transport) {
        let mut until = self.tcp_until.lock().unwrap_or_else(|p| p.into_inner());
        match transport {
            Transport::Quic => until.remove(hop),
            Transport::Tcp if until.contains_key(hop) => None,
            Transport::Tcp => until.insert(hop.clone(), Instant::now() + TCP_REMEMBERED),
        };
        until.retain(|_, until| *until > Instant::now());
    }

    async fn attempt(
        &self,
        hop: &Hop,
        name: &str,
        address: SocketAddr,
        transport: Transport,
    ) -> Result<Connection, DialError> {
        let failed = |why: String| DialError::Failed {
            transport,
            address,
            why,
        };
        let dialled = async {
            let connection = match transport {
                Transport::Quic => self.quic(hop, name, address).await,
                Transport::Tcp => self.tcp(hop, name, address).await,
            }?;
            confirm(connection).await
        };
        match tokio::time::timeout(DIAL_TIMEOUT, dialled).await {
            Ok(outcome) => outcome.map_err(failed),
            Err(_) => Err(failed(match transport {
                Transport::Quic => {
                    "no answer: UDP is blocked on the way, or nothing listens".into()
                }
                Transport::Tcp => "no answer: nothing listens, or a firewall drops it".into(),
            })),
        }
    }

    async fn quic(&self, hop: &Hop, name: &str, address: SocketAddr) -> Result<Connection, String> {
        let config = tls::client_config(&self.identity, self.trust.clone(), hop, Transport::Quic)
            .map_err(|error| error.to_string())?;
        let config = QuicClientConfig::try_from(config).map_err(|error| error.to_string())?;
        let mut config = quinn::ClientConfig::new(Arc::new(config));
        config.transport_config(crate::listener::transport_config());
        let connecting = self.endpoint.connect_with(config, address, name);
        let connection = connecting.map_err(|error| error.to_string())?;
        let connection = connection.await.map_err(|error| error.to_string())?;
        let (closed, closed_receiver) = watch::channel(None);
        let watched = connection.clone();
        tokio::spawn(async move {
            let why = watched.closed().await.to_string();
            closed.send_replace(Some(why));
        });
        let origin = format!("https://{name}").parse().unwrap_or_default();
        let established = Established(Arc::new(Mutex::new(Some(connection.clone()))));
        let channel: H3Channel<Established, Body> = H3Channel::new(established, origin, None);
        let peer = self.peer(hop, name, address, Transport::Quic);
        let channel = Channel::new(Carrier::H3(channel));
        Ok(Connection::new(
            channel,
            peer,
            closed_receiver,
            Some(connection),
        ))
    }

    async fn tcp(&self, hop: &Hop, name: &str, address: SocketAddr) -> Result<Connection, String> {
        let config = tls::client_config(&self.identity, self.trust.clone(), hop, Transport::Tcp)
            .map_err(|error| error.to_string())?;
        let server = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| error.to_string())?;
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector
            .connect(server, stream)
            .await
            .map_err(|error| deepest(&error))?;
        let group = stream.get_ref().1.negotiated_key_exchange_group();
        let post_quantum =
            group.is_some_and(|group| group.name() == rustls::NamedGroup::X25519MLKEM768);
        if !post_quantum {
            return Err("the peer does not offer X25519MLKEM768".into());
        }
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(64 * 1024)
            .keep_alive_interval(Duration::from_secs(3))
            .keep_alive_timeout(Duration::from_secs(7))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| deepest(&error))?;
        let (closed, closed_receiver) = watch::channel(None);
        tokio::spawn(async move {
            let why = match connection.await {
                Ok(()) => "the peer has closed the connection".to_owned(),
                Err(error) => deepest(&error),
            };
            closed.send_replace(Some(why));
        });
        let peer = self.peer(hop, name, address, Transport::Tcp);
        let channel = Channel::new(Carrier::H2(sender));
        Ok(Connection::new(channel, peer, closed_receiver, None))
    }

    fn peer(&self, hop: &Hop, name: &str, address: SocketAddr, transport: Transport) -> Peer {
        Peer {
            hop: hop.clone(),
            tls_name: name.to_owned(),
            transport,
            address,
            post_quantum: true,
        }
    }
}

/// In TLS 1.3 a client learns that it was refused only after its own handshake: an answer to the
/// first request shows that it was not.
async fn confirm(mut connection: Connection) -> Result<Connection, String> {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    let origin = connection.origin();
    let mut client = HealthClient::with_origin(connection.channel(), origin);
    let request = HealthCheckRequest {
        service: String::new(),
    };
    match client.check(request).await {
        Ok(_) => Ok(connection),
        Err(status) => {
            // The alert arrives just after the broken request.
            let ended = tokio::time::timeout(Duration::from_millis(500), connection.closed());
            Err(ended.await.unwrap_or_else(|_| status.to_string()))
        }
    }
}

/// The first that succeeds; the second begins after a head start or when the first fails.
async fn race(
    first: impl Future<Output = Result<Connection, DialError>>,
    second: impl Future<Output = Result<Connection, DialError>>,
) -> Result<Connection, DialError> {
    let mut first = std::pin::pin!(first);
    let early = tokio::select! {
        outcome = &mut first => Some(outcome),
        () = tokio::time::sleep(HEAD_START) => None,
    };
    let mut second = std::pin::pin!(second);
    match early {
        Some(Ok(connection)) => Ok(connection),
        Some(Err(first)) => second.await.map_err(|second| both(&first, &second)),
        None => tokio::select! {
            outcome = &mut first => match outcome {
                Ok(connection) => Ok(connection),
                Err(first) => second.await.map_err(|second| both(&first, &second)),
            },
            outcome = &mut second => match outcome {
                Ok(connection) => Ok(connection),
                Err(second) => first.await.map_err(|first| both(&first, &second)),
            },
        },
    }
}

fn both(first: &DialError, second: &DialError) -> DialError {
    match (first, second) {
        (
            DialError::Failed {
                transport,
                address,
                why,
            },
            DialError::Failed {
                transport: other,
                why: other_why,
                ..
            },
        ) => DialError::Failed {
            transport: *transport,
            address: *address,
            why: format!("{why}; {other}: {other_why}"),
        },
        _ => second.clone(),
    }
}

/// The innermost cause of an error: an alert, a reset, a refusal.
pub(crate) fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
