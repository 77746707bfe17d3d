//! Dialling by TCP: TLS 1.3, then HTTP/2.

use std::pin::Pin;
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::NamedGroup;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::AsyncBufReadExt;
use tokio::net::TcpStream;

use crate::connection::{Carrier, Connection, Ended};
use crate::dialer::Target;
use crate::peer::Transport;
use crate::refusal::Refused;
use crate::tls;
use crate::window::{CONNECTION_WINDOW, FRAME_LEN_MAX, PING_AFTER, PONG_MAX, STREAM_WINDOW};

/// Makes a connection whose peer has shown, by its first bytes, that it takes it.
pub(crate) async fn dial(target: Target<'_>) -> Result<Connection, Refused> {
    let local = |error: &dyn std::fmt::Display| Refused::new("local", error.to_string());
    let trust = target.trust.clone();
    let (config, reason) = tls::client_config(target.identity, trust, target.hop, Transport::Tcp)
        .map_err(|error| local(&error))?;
    let server = ServerName::try_from(target.name.to_owned()).map_err(|error| local(&error))?;
    let broken = |error| Refused::tcp(&error, &reason);
    let stream = TcpStream::connect(target.address).await.map_err(broken)?;
    stream.set_nodelay(true).map_err(broken)?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(server, stream).await.map_err(broken)?;
    let tls = stream.get_ref().1;
    let group = tls.negotiated_key_exchange_group();
    if group.is_none_or(|group| group.name() != NamedGroup::X25519MLKEM768) {
        let why = "the peer does not offer X25519MLKEM768: it must be updated";
        return Err(Refused::new("handshake: key exchange", why));
    }
    let chain: Vec<CertificateDer<'static>> =
        tls.peer_certificates().map_or_else(Vec::new, |chain| {
            chain.iter().map(|one| one.clone().into_owned()).collect()
        });
    // A client learns only now whether its own certificate is believed. The server speaks first
    // (SETTINGS): were anything written before, a reset could overtake the alert.
    if Pin::new(&mut stream)
        .fill_buf()
        .await
        .map_err(broken)?
        .is_empty()
    {
        let why = "the peer has closed the connection without a word";
        return Err(Refused::new("handshake: given up by the peer", why));
    }
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_LEN_MAX)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PONG_MAX)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Refused::new("handshake: broken", deepest(&error)))?;
    let ended = async move {
        Ended(match connection.await {
            Ok(()) => "the peer has closed the connection".to_owned(),
            Err(error) => deepest(&error),
        })
    };
    let peer = target.peer(&chain, Transport::Tcp);
    Ok(Connection::begin(
        Carrier::H2(sender),
        peer,
        target.trust.clone(),
        chain,
        ended,
    ))
}

/// The innermost cause of an error: an alert, a reset, a refusal.
pub(crate) fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
