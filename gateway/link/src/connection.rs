//! One connection to a peer that we dialled, for any number of gRPC clients.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use h3_util::client::H3Channel;
use http::{Request, Response};
use hyper::client::conn::http2::SendRequest;
use passerelle_proto::v1::exchange_client::ExchangeClient;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::body::Body;
use tower::Service;
use webpki::KeyUsage;

use crate::peer::{Peer, Trust};
use crate::quic::Established;
use crate::verifier::distrusted;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A cloneable service that tonic's clients call through.
#[derive(Clone)]
pub struct Channel {
    carrier: Carrier,
    /// The connection ends with the last holder.
    _open: Arc<DropGuard>,
}

#[derive(Clone)]
pub(crate) enum Carrier {
    H2(SendRequest<Body>),
    H3(H3Channel<Established, Body>),
}

/// Why a connection has ended, in words.
pub(crate) struct Ended(pub(crate) String);

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<Body>, Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match &mut self.carrier {
            Carrier::H2(sender) => Pin::new(sender).poll_ready(context).map_err(Into::into),
            Carrier::H3(channel) => channel.poll_ready(context),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match &mut self.carrier {
            Carrier::H2(sender) => {
                let answer = sender.send_request(request);
                Box::pin(async move { Ok(answer.await?.map(Body::new)) })
            }
            Carrier::H3(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { Ok(answer.await?.map(Body::new)) })
            }
        }
    }
}

/// An authenticated connection.
///
/// It ends when the last clone of it and of its channels is dropped, whatever streams are open,
/// and when a new sheet no longer lets the peer's certificate speak for it.
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
    peer: Peer,
    closed: watch::Receiver<Option<String>>,
    close: CancellationToken,
}

impl Connection {
    /// `ended` carries the connection; dropping it closes the connection.
    pub(crate) fn begin(
        carrier: Carrier,
        peer: Peer,
        trust: Trust,
        chain: Vec<CertificateDer<'static>>,
        ended: impl Future<Output = Ended> + Send + 'static,
    ) -> Self {
        let close = CancellationToken::new();
        let (closed, closed_receiver) = watch::channel(None);
        let closing = close.clone();
        let distrusted = distrusted(trust, chain, KeyUsage::server_auth, peer.hop.clone());
        tokio::spawn(async move {
            let why = tokio::select! {
                Ended(why) = ended => why,
                refusal = distrusted => refusal.to_string(),
                () = closing.cancelled() => "closed on our side".to_owned(),
            };
            closed.send_replace(Some(why));
        });
        let open = Arc::new(close.clone().drop_guard());
        Self {
            channel: Channel {
                carrier,
                _open: open,
            },
            peer,
            closed: closed_receiver,
            close,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The service for gRPC clients.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Origin of requests on this connection, for clients of generated services.
    pub fn origin(&self) -> http::Uri {
        let origin = format!("https://{}", self.peer.tls_name).parse();
        origin.unwrap_or_default()
    }

    /// A client of the peer's session service.
    pub fn exchange(&self) -> ExchangeClient<Channel> {
        ExchangeClient::with_origin(self.channel(), self.origin())
    }

    /// Why the connection has ended; `None` while it lives.
    pub fn closed_because(&self) -> Option<String> {
        self.closed.borrow().clone()
    }

    /// Waits until the connection has ended, and says why.
    pub async fn closed(&mut self) -> String {
        match self.closed.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => "the connection is gone".to_owned(),
        }
    }

    /// Ends the connection at once, for everybody who holds it.
    pub fn close(&self) {
        self.close.cancel();
    }
}
