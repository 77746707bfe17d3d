//! One connection to a peer that we dialled, for any number of gRPC clients.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use h3_util::client::H3Channel;
use http::{Request, Response};
use hyper::client::conn::http2::SendRequest;
use passerelle_proto::v1::exchange_client::ExchangeClient;
use tokio::sync::watch;
use tonic::body::Body;
use tower::Service;

use crate::dialer::Established;
use crate::peer::Peer;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A cloneable service that tonic's clients call through.
#[derive(Clone)]
pub struct Channel(Carrier);

#[derive(Clone)]
pub(crate) enum Carrier {
    H2(SendRequest<Body>),
    H3(H3Channel<Established, Body>),
}

impl Channel {
    pub(crate) fn new(carrier: Carrier) -> Self {
        Self(carrier)
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<Body>, Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match &mut self.0 {
            Carrier::H2(sender) => Pin::new(sender).poll_ready(context).map_err(Into::into),
            Carrier::H3(channel) => channel.poll_ready(context),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match &mut self.0 {
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
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
    peer: Peer,
    closed: watch::Receiver<Option<String>>,
    quic: Option<quinn::Connection>,
}

impl Connection {
    pub(crate) fn new(
        channel: Channel,
        peer: Peer,
        closed: watch::Receiver<Option<String>>,
        quic: Option<quinn::Connection>,
    ) -> Self {
        Self {
            channel,
            peer,
            closed,
            quic,
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

    /// Ends the connection at once.
    pub fn close(&self) {
        if let Some(quic) = &self.quic {
            quic.close(0u32.into(), b"done");
        }
    }
}
