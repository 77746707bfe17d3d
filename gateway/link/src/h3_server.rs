//! HTTP/3 over one QUIC connection, into the same services as HTTP/2.
//!
//! An accept loop of our own: every request carries the peer of its connection.

use std::sync::Arc;

use bytes::Bytes;
use h3::server::RequestResolver;
use h3_util::server_body::{H3IncomingServer, send_h3_server_body};
use http::Response;
use tonic::body::Body;
use tower::ServiceExt;

use crate::listener::Serving;
use crate::peer::Peer;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Serves requests until the connection ends or the listener stops.
pub(crate) async fn serve(
    connection: quinn::Connection,
    peer: Peer,
    serving: Arc<Serving>,
) -> Result<(), Error> {
    let mut connection: h3::server::Connection<h3_quinn::Connection, Bytes> = h3::server::builder()
        .build(h3_quinn::Connection::new(connection))
        .await?;
    let mut stopping = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted?,
            () = serving.stop.cancelled(), if !stopping => {
                stopping = true;
                connection.shutdown(0).await?;
                continue;
            }
        };
        let Some(resolver) = accepted else {
            return Ok(());
        };
        let (serving, peer) = (serving.clone(), peer.clone());
        tokio::spawn(async move {
            if let Err(error) = answer(resolver, peer, &serving).await {
                tracing::debug!(%error, "a request has ended");
            }
        });
    }
}

async fn answer(
    resolver: RequestResolver<h3_quinn::Connection, Bytes>,
    peer: Peer,
    serving: &Serving,
) -> Result<(), Error> {
    let (request, stream) = resolver.resolve_request().await?;
    let (mut send, receive) = stream.split();
    let mut request = request.map(|()| Body::new(H3IncomingServer::new(receive)));
    request.extensions_mut().insert(peer);
    let response: Response<Body> = serving.routes.clone().oneshot(request).await?;
    let (parts, body) = response.into_parts();
    send.send_response(Response::from_parts(parts, ())).await?;
    send_h3_server_body::<_, h3_quinn::BidiStream<Bytes>>(&mut send, body).await
}
