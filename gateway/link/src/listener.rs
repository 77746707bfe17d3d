//! Listening on one port number, by UDP and by TCP.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::identity::Identity;
use crate::peer::{Transport, Trust};
use crate::quic::{endpoint_config, make_roomy, transport_config};
use crate::reset_key::AnyId;
use crate::serving::{HANDSHAKES_MAX, RefusalSink, Serving};
use crate::{quic_server, tcp_server, tls};

/// Attempts to find a port that is free for UDP and TCP, when any port will do.
const BIND_ATTEMPTS: usize = 20;

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
    identity: Identity,
    trust: Trust,
    connections_max: usize,
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
        let server = quic_config(identity, &trust).map_err(ListenError::Tls)?;
        tls::server_config(identity, trust.clone(), Transport::Tcp)
            .map_err(|error| ListenError::Tls(error.to_string()))?;
        let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reset_key);
        let mut endpoint = endpoint_config();
        endpoint.reset_key(Arc::new(reset));
        // A packet with an id that cannot be ours gets no reset, and the usual ids are recognised
        // by the process only that made them.
        endpoint.cid_generator(|| Box::new(AnyId));
        let (tcp, udp) = bind_both(address).await?;
        make_roomy(&udp);
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
            identity: identity.clone(),
            trust,
            connections_max,
            address: bound,
        })
    }

    /// The address that is bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`. Connections that are open then have 30 s to finish their streams,
    /// which whoever runs these streams is to end.
    pub async fn serve(
        self,
        routes: Routes,
        refusals: Arc<dyn RefusalSink>,
        stop: CancellationToken,
    ) {
        let serving = Arc::new(Serving {
            routes,
            refusals,
            identity: self.identity,
            trust: self.trust,
            stop: stop.clone(),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            connections: Arc::new(Semaphore::new(self.connections_max)),
            peers: Arc::default(),
        });
        tokio::select! {
            () = stop.cancelled() => {}
            () = tcp_server::accept(self.tcp, serving.clone()) => {}
            () = quic_server::accept(&self.quic, serving) => {}
        }
        self.quic.set_server_config(None);
    }
}

/// What the endpoint starts a connection with; a configuration of its own follows for each.
fn quic_config(identity: &Identity, trust: &Trust) -> Result<quinn::ServerConfig, String> {
    let (config, _) = tls::server_config(identity, trust.clone(), Transport::Quic)
        .map_err(|error| error.to_string())?;
    let config = QuicServerConfig::try_from(config).map_err(|error| error.to_string())?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(config));
    server.transport_config(transport_config());
    Ok(server)
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
