//! Accepting QUIC connections: HTTP/3, into the same services as HTTP/2.
//!
//! An accept loop of our own: every request carries the peer of its connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h3::server::RequestResolver;
use h3_util::server_body::{H3IncomingServer, send_h3_server_body};
use http::Response;
use quinn::crypto::rustls::QuicServerConfig;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::body::Body;
use tower::ServiceExt;

use crate::h3_streams::{H3Connection, H3Stream};
use crate::peer::{Peer, Transport};
use crate::quic::{CloseOnDrop, chain, transport_config};
use crate::refusal::Refused;
use crate::serving::{Ending, HANDSHAKE_MAX, HANDSHAKES_MAX, Serving};
use crate::tls;
use crate::window::HEADERS_LEN_MAX;

/// How long a peer may take to answer on a connection that it seems to have replaced.
const ANSWER_MAX: Duration = Duration::from_millis(500);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Takes connections for as long as it is polled.
pub(crate) async fn accept(endpoint: &quinn::Endpoint, serving: Arc<Serving>) {
    while let Some(incoming) = endpoint.accept().await {
        let address = incoming.remote_address();
        // Under pressure, whoever connects shows first that its address is its own.
        let pressed = serving.handshakes.available_permits() < HANDSHAKES_MAX / 2;
        if pressed && !incoming.remote_address_validated() {
            if let Err(error) = incoming.retry() {
                tracing::debug!(%error, "a connection could not be put off");
            }
            continue;
        }
        let place = match serving.handshake_place() {
            Ok(place) => place,
            Err(refused) => {
                incoming.refuse();
                serving.refused(address, &refused);
                continue;
            }
        };
        let serving = serving.clone();
        tokio::spawn(async move {
            if let Err(refused) = serve(incoming, address, &serving, place).await {
                serving.refused(address, &refused);
            }
        });
    }
}

async fn serve(
    incoming: quinn::Incoming,
    address: SocketAddr,
    serving: &Arc<Serving>,
    handshake: OwnedSemaphorePermit,
) -> Result<(), Refused> {
    let connection = shake_hands(incoming, serving).await?;
    let closing = CloseOnDrop(connection.clone());
    let chain = chain(&connection);
    let peer = serving.peer(&chain, Transport::Quic, address, true)?;
    let mut place = serving.connection_place(&peer.hop)?;
    drop(handshake);
    let ending = serving.ending(&peer.hop, chain);
    let _ended = ending.cut.clone().drop_guard();
    let cut = ending.cut.clone();
    let requests = requests(connection.clone(), peer.clone(), serving, ending);
    tokio::select! {
        ended = requests => if let Err(error) = ended {
            tracing::debug!(%address, %error, "a connection has ended");
        },
        () = cut.cancelled() => {}
        () = superseded(&connection, &mut place.newer) => {
            tracing::info!(%peer, "a connection has ended: the peer is silent and has a newer one");
        }
    }
    drop(closing);
    Ok(())
}

/// Waits until the peer has connected again and is silent here: it was killed, and what is on its
/// way to it is to go over the newer connection at once rather than after the idle timeout.
async fn superseded(connection: &quinn::Connection, newer: &mut watch::Receiver<()>) {
    while newer.changed().await.is_ok() {
        let heard = connection.stats().udp_rx.datagrams;
        // Whoever is there acknowledges it. Without room for it, other packets are unanswered.
        let _ = connection.send_datagram(Bytes::new());
        tokio::time::sleep(ANSWER_MAX).await;
        if connection.stats().udp_rx.datagrams == heard {
            return;
        }
    }
    std::future::pending().await
}

async fn shake_hands(
    incoming: quinn::Incoming,
    serving: &Serving,
) -> Result<quinn::Connection, Refused> {
    let local = |error: &dyn std::fmt::Display| Refused::new("local", error.to_string());
    let trust = serving.trust.clone();
    let (config, reason) = tls::server_config(&serving.identity, trust, Transport::Quic)
        .map_err(|error| local(&error))?;
    let config = QuicServerConfig::try_from(config).map_err(|error| local(&error))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(config));
    config.transport_config(transport_config());
    let connecting = incoming
        .accept_with(Arc::new(config))
        .map_err(|error| Refused::quic(&error, &reason))?;
    match tokio::time::timeout(HANDSHAKE_MAX, connecting).await {
        Ok(outcome) => outcome.map_err(|error| Refused::quic(&error, &reason)),
        Err(_) => Err(Refused::new(
            "handshake: too slow",
            "the handshake took longer than 5 s",
        )),
    }
}

/// Serves requests until the connection ends or is to end.
async fn requests(
    connection: quinn::Connection,
    peer: Peer,
    serving: &Arc<Serving>,
    ending: Ending,
) -> Result<(), Error> {
    let mut connection: h3::server::Connection<H3Connection, Bytes> = h3::server::builder()
        .max_field_section_size(HEADERS_LEN_MAX.into())
        .build(H3Connection::new(connection))
        .await?;
    let mut draining = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted?,
            () = ending.drain.cancelled(), if !draining => {
                draining = true;
                connection.shutdown(0).await?;
                continue;
            }
        };
        let Some(resolver) = accepted else {
            return Ok(());
        };
        ending.used.cancel();
        let (serving, peer, ending) = (serving.clone(), peer.clone(), ending.clone());
        tokio::spawn(async move {
            if let Err(error) = answer(resolver, peer, ending, &serving).await {
                tracing::debug!(%error, "a request has ended");
            }
        });
    }
}

async fn answer(
    resolver: RequestResolver<H3Connection, Bytes>,
    peer: Peer,
    ending: Ending,
    serving: &Serving,
) -> Result<(), Error> {
    let (request, stream) = resolver.resolve_request().await?;
    let (mut send, receive) = stream.split();
    let mut request = request.map(|()| Body::new(H3IncomingServer::new(receive)));
    request.extensions_mut().insert(peer);
    request.extensions_mut().insert(ending);
    let response: Response<Body> = serving.routes.clone().oneshot(request).await?;
    let (parts, body) = response.into_parts();
    send.send_response(Response::from_parts(parts, ())).await?;
    send_h3_server_body::<_, H3Stream>(&mut send, body).await
}
