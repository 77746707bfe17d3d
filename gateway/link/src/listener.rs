//! Listening on one port number, by UDP and by TCP, and knowing who is there.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming as Body;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use passerelle_proto::{Hop, read_secret_file, write_secret_file};
use quinn::crypto::rustls::QuicServerConfig;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::NamedGroup;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower::ServiceExt;

use crate::dialer::{CONNECTION_WINDOW, STREAM_WINDOW, deepest};
use crate::h3_server;
use crate::identity::Identity;
use crate::peer::{Peer, Transport, Trust};
use crate::tls;
use crate::verifier::leaf_name;

/// Longest handshake: a peer that sends one byte a second does not hold a place.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Connections are renewed after this, so that new certificates come into use.
const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Streams that one connection may have open.
const STREAMS_MAX: u32 = 16;
/// Longest list of request headers in bytes.
const HEADERS_LEN_MAX: u32 = 16 * 1024;
/// Attempts to find a port that is free for UDP and TCP, when any port will do.
const BIND_ATTEMPTS: usize = 20;

/// Is told about connections that were refused before a peer was known.
pub trait RefusalSink: Send + Sync + 'static {
    /// `class` is one of few, and nothing in it was chosen by the peer; `why` is for people.
    fn refused(&self, class: &'static str, address: SocketAddr, why: &str);
}

/// Why a listener does not start.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address cannot be bound.
    #[error("{address} ({transport}): {source}: is another program listening there?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Which of the two sockets.
        transport: Transport,
        /// What the system says.
        source: std::io::Error,
    },
    /// Our own TLS configuration does not work.
    #[error("our own TLS configuration: {0}")]
    Tls(String),
}

/// Both sockets, bound and not yet served.
pub struct Listener {
    tcp: TcpListener,
    quic: quinn::Endpoint,
    acceptor: TlsAcceptor,
    trust: Trust,
    places: Arc<Semaphore>,
    address: SocketAddr,
}

impl Listener {
    /// Binds UDP and TCP on one port number; port 0 finds a free one.
    ///
    /// `reset_key` is kept over restarts, so that peers notice at once that a process was killed.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn bind(
        address: SocketAddr,
        identity: &Identity,
        trust: Trust,
        reset_key: &[u8; 64],
        connections_max: usize,
    ) -> Result<Self, ListenError> {
        let local = |error: String| ListenError::Tls(error);
        let tcp_config = tls::server_config(identity, trust.clone(), Transport::Tcp)
            .map_err(|error| local(error.to_string()))?;
        let quic_config = tls::server_config(identity, trust.clone(), Transport::Quic)
            .map_err(|error| local(error.to_string()))?;
        let quic_config =
            QuicServerConfig::try_from(quic_config).map_err(|error| local(error.to_string()))?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(quic_config));
        server.transport_config(transport_config());
        let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reset_key);
        let endpoint = quinn::EndpointConfig::new(Arc::new(reset));
        let (tcp, udp) = bind_both(address).await?;
        let failed = |source| ListenError::Bind {
            address,
            transport: Transport::Quic,
            source,
        };
        let bound = tcp.local_addr().map_err(failed)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let quic = quinn::Endpoint::new(endpoint, Some(server), udp, runtime).map_err(failed)?;
        Ok(Self {
            tcp,
            quic,
            acceptor: TlsAcceptor::from(Arc::new(tcp_config)),
            trust,
            places: Arc::new(Semaphore::new(connections_max)),
            address: bound,
        })
    }

    /// The address that is bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`; then open connections are given up by whoever runs their streams.
    pub async fn serve(
        self,
        routes: Routes,
        refusals: Arc<dyn RefusalSink>,
        stop: CancellationToken,
    ) {
        let serving = Serving {
            routes,
            refusals,
            trust: self.trust,
            stop: stop.clone(),
        };
        let serving = Arc::new(serving);
        let tcp = accept_tcp(
            self.tcp,
            self.acceptor,
            self.places.clone(),
            serving.clone(),
        );
        let quic = accept_quic(self.quic.clone(), self.places, serving);
        tokio::select! {
            () = stop.cancelled() => {}
            () = tcp => {}
            () = quic => {}
        }
        self.quic.set_server_config(None);
    }
}

/// What every connection needs.
pub(crate) struct Serving {
    pub(crate) routes: Routes,
    refusals: Arc<dyn RefusalSink>,
    trust: Trust,
    pub(crate) stop: CancellationToken,
}

impl Serving {
    /// Who the owner of this verified chain is; the sheets may have changed since the handshake.
    fn peer(
        &self,
        chain: Option<&[CertificateDer<'_>]>,
        transport: Transport,
        address: SocketAddr,
        post_quantum: bool,
    ) -> Option<Peer> {
        let name = leaf_name(chain?.first()?).ok()?;
        let (party, role) = self.trust.borrow().tls_name(&name)?;
        Some(Peer {
            hop: Hop { party, role },
            tls_name: name,
            transport,
            address,
            post_quantum,
        })
    }

    fn refused(&self, address: SocketAddr, why: &str) {
        let class = match why {
            why if why.contains("no certificates") || why.contains("CertificateRequired") => {
                "handshake: no client certificate"
            }
            why if why.contains("xpired") || why.contains("NotValidYet") => "certificate: dates",
            why if why.contains("UnknownIssuer") => "certificate: issuer",
            why if why.contains("no party's sheet") || why.contains("UnknownName") => {
                "certificate: unknown name"
            }
            why if why.contains("ertificate") => "certificate: refused",
            why if why.contains("rotocol") || why.contains("ersion") => "handshake: TLS version",
            _ => "handshake: broken",
        };
        tracing::info!(%address, class, why, "a connection was refused");
        self.refusals.refused(class, address, why);
    }
}

async fn bind_both(address: SocketAddr) -> Result<(TcpListener, std::net::UdpSocket), ListenError> {
    let failed = |transport| {
        move |source| ListenError::Bind {
            address,
            transport,
            source,
        }
    };
    let mut attempts = 0;
    loop {
        attempts += 1;
        let tcp = TcpListener::bind(address)
            .await
            .map_err(failed(Transport::Tcp))?;
        let bound = tcp.local_addr().map_err(failed(Transport::Tcp))?;
        match std::net::UdpSocket::bind(bound) {
            Ok(udp) => return Ok((tcp, udp)),
            Err(_) if address.port() == 0 && attempts < BIND_ATTEMPTS => {}
            Err(error) => return Err(failed(Transport::Quic)(error)),
        }
    }
}

async fn accept_tcp(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    places: Arc<Semaphore>,
    serving: Arc<Serving>,
) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: others end, and it goes on.
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            serving.refused(address, "too many connections");
            continue;
        };
        let (acceptor, serving) = (acceptor.clone(), serving.clone());
        tokio::spawn(async move {
            if let Err(why) = serve_tcp(stream, address, acceptor, &serving, place).await {
                serving.refused(address, &why);
            }
        });
    }
}

async fn serve_tcp(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    serving: &Serving,
    _place: OwnedSemaphorePermit,
) -> Result<(), String> {
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    let handshake = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream));
    let stream = match handshake.await {
        Ok(outcome) => outcome.map_err(|error| describe(&error))?,
        Err(_) => return Err("the handshake took longer than 5 s".into()),
    };
    let tls = stream.get_ref().1;
    let group = tls.negotiated_key_exchange_group();
    let hybrid = group.is_some_and(|group| group.name() == NamedGroup::X25519MLKEM768);
    let peer = serving
        .peer(tls.peer_certificates(), Transport::Tcp, address, hybrid)
        .ok_or("the certificate's name is in no party's sheet any more")?;
    let routes = serving.routes.clone();
    let service = tower::service_fn(move |mut request: Request<Body>| {
        request.extensions_mut().insert(peer.clone());
        routes.clone().oneshot(request)
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(64 * 1024)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_LEN_MAX)
        .keep_alive_interval(Duration::from_secs(3))
        .keep_alive_timeout(Duration::from_secs(7))
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = tokio::time::sleep(CONNECTION_LIFE_MAX) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = serving.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, error = deepest(&error), "a connection has ended");
    }
    Ok(())
}

async fn accept_quic(endpoint: quinn::Endpoint, places: Arc<Semaphore>, serving: Arc<Serving>) {
    while let Some(incoming) = endpoint.accept().await {
        let address = incoming.remote_address();
        let Ok(place) = places.clone().try_acquire_owned() else {
            incoming.refuse();
            serving.refused(address, "too many connections");
            continue;
        };
        let serving = serving.clone();
        tokio::spawn(async move {
            if let Err(why) = serve_quic(incoming, address, &serving, place).await {
                serving.refused(address, &why);
            }
        });
    }
}

async fn serve_quic(
    incoming: quinn::Incoming,
    address: SocketAddr,
    serving: &Arc<Serving>,
    _place: OwnedSemaphorePermit,
) -> Result<(), String> {
    let connection = match tokio::time::timeout(HANDSHAKE_MAX, incoming).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string())?,
        Err(_) => return Err("the handshake took longer than 5 s".into()),
    };
    let peer = {
        let identity = connection.peer_identity();
        let chain = identity.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        serving
            .peer(
                chain.as_deref().map(Vec::as_slice),
                Transport::Quic,
                address,
                true,
            )
            .ok_or("the certificate's name is in no party's sheet any more")?
    };
    let served = h3_server::serve(connection.clone(), peer, serving.clone());
    tokio::select! {
        ended = served => if let Err(error) = ended {
            tracing::debug!(%address, %error, "a connection has ended");
        },
        () = tokio::time::sleep(CONNECTION_LIFE_MAX) => {}
    }
    connection.close(0u32.into(), b"done");
    Ok(())
}

fn describe(error: &std::io::Error) -> String {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(error) => format!("{error} ({error:?})"),
        None => error.to_string(),
    }
}

/// Timers, windows and congestion control of every QUIC connection.
pub(crate) fn transport_config() -> Arc<quinn::TransportConfig> {
    let mut config = quinn::TransportConfig::default();
    // Shorter than the session's own keep-alive: a peer that was killed and started again answers
    // the next packet with a reset, and that is how it is noticed.
    config.keep_alive_interval(Some(Duration::from_secs(1)));
    config.max_idle_timeout(quinn::IdleTimeout::try_from(Duration::from_secs(10)).ok());
    config.congestion_controller_factory(Arc::new(quinn::congestion::BbrConfig::default()));
    config.stream_receive_window(STREAM_WINDOW.into());
    config.receive_window(CONNECTION_WINDOW.into());
    config.send_window(CONNECTION_WINDOW.into());
    config.max_concurrent_bidi_streams(STREAMS_MAX.into());
    config.max_concurrent_uni_streams(STREAMS_MAX.into());
    Arc::new(config)
}

/// The key of stateless resets, made at the first start and kept.
///
/// # Errors
/// What is wrong with the file.
pub fn reset_key(path: &Path) -> Result<[u8; 64], String> {
    if !path.exists() {
        let mut key = [0; 64];
        let filled = SystemRandom::new().fill(&mut key);
        filled.map_err(|_| "the system's random source failed".to_owned())?;
        let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        write_secret_file(path, &text).map_err(|error| error.to_string())?;
    }
    let text = read_secret_file(path).map_err(|error| error.to_string())?;
    let digits = text.trim().as_bytes();
    let mut key = [0; 64];
    let damaged = || format!("{}: damaged; remove it, a new one is made", path.display());
    if digits.len() != 128 {
        return Err(damaged());
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| damaged())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| damaged())?;
    }
    Ok(key)
}
