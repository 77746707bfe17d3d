//! The gRPC service that a listener serves: streams of peers that connect to us.

use std::sync::Arc;

use futures::future::OptionFuture;
use passerelle_proto::Role;
use passerelle_proto::v1::exchange_server::{Exchange as ExchangeRpc, ExchangeServer};
use passerelle_proto::v1::{Frame, Lane};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::driver::{FRAMES_IN_FLIGHT, SessionError, run_session};
use crate::exchange::Exchange;
use crate::peer::Peer;
use crate::serving::Ending;

/// Name of the request header that says which lane a stream is.
pub(crate) const LANE_HEADER: &str = "passerelle-lane";

/// The peer of a request, as the listener has authenticated it.
///
/// # Errors
/// `UNAUTHENTICATED` when the request did not come through a listener of this crate;
/// `FAILED_PRECONDITION` over a key exchange that a quantum computer could break.
pub fn peer_of<T>(request: &Request<T>) -> Result<Peer, Status> {
    let peer = request.extensions().get::<Peer>();
    let peer = peer.ok_or_else(|| Status::unauthenticated("no client certificate"))?;
    match peer.post_quantum {
        true => Ok(peer.clone()),
        false => Err(Status::failed_precondition(
            "this connection was agreed on without X25519MLKEM768, and only health is answered \
             over it: use a TLS library that offers the hybrid group",
        )),
    }
}

/// Serves `Exchange.Session` for an [`Exchange`].
#[derive(Clone)]
pub struct ExchangeService {
    exchange: Arc<dyn Exchange>,
    stop: CancellationToken,
    streams: TaskTracker,
}

impl ExchangeService {
    /// Streams end in order when `stop` is cancelled; `streams` tells when they have.
    pub fn new(
        exchange: Arc<dyn Exchange>,
        stop: CancellationToken,
        streams: TaskTracker,
    ) -> ExchangeServer<Self> {
        ExchangeServer::new(Self {
            exchange,
            stop,
            streams,
        })
    }
}

#[async_trait]
impl ExchangeRpc for ExchangeService {
    type SessionStream = futures::stream::Map<ReceiverStream<Frame>, fn(Frame) -> FrameResult>;

    async fn session(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        use futures::StreamExt;
        let peer = peer_of(&request)?;
        if peer.hop.role == Role::Operator {
            let why = "packages are exchanged by gateways and agents; this is an operator's name";
            return Err(Status::permission_denied(why));
        }
        let ending = request.extensions().get::<Ending>().cloned();
        let lane = match request
            .metadata()
            .get(LANE_HEADER)
            .map(|value| value.as_bytes())
        {
            Some(b"control") => Lane::Control,
            Some(b"bulk") => Lane::Bulk,
            _ => {
                return Err(Status::invalid_argument(
                    "the header passerelle-lane is missing",
                ));
            }
        };
        let (sender, receiver) = mpsc::channel(FRAMES_IN_FLIGHT);
        let stream = Stream {
            peer,
            lane,
            exchange: self.exchange.clone(),
            stop: self.stop.child_token(),
            ending,
        };
        self.streams.spawn(stream.run(request.into_inner(), sender));
        let frames: fn(Frame) -> FrameResult = Ok;
        Ok(Response::new(ReceiverStream::new(receiver).map(frames)))
    }
}

struct Stream {
    peer: Peer,
    lane: Lane,
    exchange: Arc<dyn Exchange>,
    stop: CancellationToken,
    ending: Option<Ending>,
}

impl Stream {
    /// Runs it until it ends, in order also when its connection is to end.
    async fn run(self, inbound: Streaming<Frame>, sender: mpsc::Sender<Frame>) {
        let peer = self.peer.clone();
        let (exchange, stop) = (self.exchange, self.stop.clone());
        let session = run_session(inbound, sender, self.peer, self.lane, exchange, stop);
        let mut session = std::pin::pin!(session);
        let drained = self.ending.as_ref().map(|ending| ending.drain.cancelled());
        let outcome = tokio::select! {
            outcome = &mut session => outcome,
            Some(()) = OptionFuture::from(drained) => {
                self.stop.cancel();
                session.await
            }
        };
        let Err(error) = outcome else {
            return;
        };
        tracing::info!(%peer, %error, "a stream has ended");
        let at_fault = matches!(error, SessionError::Stalled | SessionError::Fault(_));
        if let (true, Some(ending)) = (at_fault, &self.ending) {
            // What waits for a peer that does not read is freed with the connection only, and one
            // that breaks the protocol, and was told so, may not be reading either.
            ending.cut.cancel();
        }
    }
}

type FrameResult = Result<Frame, Status>;
