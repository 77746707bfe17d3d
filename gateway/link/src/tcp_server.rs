//! Accepting TCP connections: TLS 1.3, then HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming as Body;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::NamedGroup;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;

use crate::peer::{Peer, Transport};
use crate::refusal::Refused;
use crate::serving::{Ending, HANDSHAKE_MAX, Serving};
use crate::tcp::deepest;
use crate::tls;
use crate::window::{
    CONNECTION_WINDOW, FRAME_LEN_MAX, HEADERS_LEN_MAX, PING_AFTER, PONG_MAX, STREAM_WINDOW,
    STREAMS_MAX,
};

/// Pause when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes connections for as long as it is polled.
pub(crate) async fn accept(listener: TcpListener, serving: Arc<Serving>) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: others end, and it goes on.
                tracing::warn!(%error, "a connection could not be taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = match serving.handshake_place() {
            Ok(place) => place,
            Err(refused) => {
                serving.refused(address, &refused);
                continue;
            }
        };
        let serving = serving.clone();
        tokio::spawn(async move {
            if let Err(refused) = serve(stream, address, &serving, place).await {
                serving.refused(address, &refused);
            }
        });
    }
}

async fn serve(
    stream: TcpStream,
    address: SocketAddr,
    serving: &Serving,
    handshake: OwnedSemaphorePermit,
) -> Result<(), Refused> {
    let stream = shake_hands(stream, serving).await?;
    let tls = stream.get_ref().1;
    let group = tls.negotiated_key_exchange_group();
    let hybrid = group.is_some_and(|group| group.name() == NamedGroup::X25519MLKEM768);
    let chain: Vec<CertificateDer<'static>> = tls
        .peer_certificates()
        .unwrap_or_default()
        .iter()
        .map(|certificate| certificate.clone().into_owned())
        .collect();
    let peer = serving.peer(&chain, Transport::Tcp, address, hybrid)?;
    let _place = serving.connection_place(&peer.hop)?;
    drop(handshake);
    let ending = serving.ending(&peer.hop, chain);
    let _ended = ending.cut.clone().drop_guard();
    if let Err(error) = requests(stream, peer, serving, ending).await {
        tracing::debug!(%address, error = deepest(&error), "a connection has ended");
    }
    Ok(())
}

async fn shake_hands(
    stream: TcpStream,
    serving: &Serving,
) -> Result<TlsStream<TcpStream>, Refused> {
    let trust = serving.trust.clone();
    let (config, reason) = tls::server_config(&serving.identity, trust, Transport::Tcp)
        .map_err(|error| Refused::new("local", error.to_string()))?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let accepted = async {
        stream.set_nodelay(true)?;
        acceptor.accept(stream).await
    };
    match tokio::time::timeout(HANDSHAKE_MAX, accepted).await {
        Ok(outcome) => outcome.map_err(|error| Refused::tcp(&error, &reason)),
        Err(_) => Err(Refused::new(
            "handshake: too slow",
            "the handshake took longer than 5 s",
        )),
    }
}

async fn requests(
    stream: TlsStream<TcpStream>,
    peer: Peer,
    serving: &Serving,
    ending: Ending,
) -> Result<(), hyper::Error> {
    let routes = serving.routes.clone();
    let shared = ending.clone();
    let service = tower::service_fn(move |mut request: Request<Body>| {
        shared.used.cancel();
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(shared.clone());
        routes.clone().oneshot(request)
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_LEN_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_LEN_MAX)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PONG_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        () = ending.cut.cancelled() => return Ok(()),
        () = ending.drain.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => ended,
        () = ending.cut.cancelled() => Ok(()),
    }
}
