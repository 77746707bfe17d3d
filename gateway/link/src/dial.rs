//! What a link is kept over: anything that reaches a gateway and carries lanes to it.

use std::fmt;

use futures::StreamExt;
use futures::stream::BoxStream;
use passerelle_proto::Hop;
use passerelle_proto::v1::{Frame, Lane};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, async_trait};

use crate::connection::Connection;
use crate::dialer::{DialError, Dialer};
use crate::driver::SessionError;
use crate::peer::Peer;
use crate::service::LANE_HEADER;

/// Frames that the peer sends.
pub type Inbound = BoxStream<'static, Result<Frame, Status>>;

/// Reaches gateways.
#[async_trait]
pub trait Dial: Send + Sync + 'static {
    /// What it makes.
    type Connection: Carry;
    /// Why a gateway was not reached, for people.
    type Error: fmt::Display + Send;

    /// Reaches the gateway of a party.
    ///
    /// # Errors
    /// Why it was not reached.
    async fn dial(&self, hop: &Hop) -> Result<Self::Connection, Self::Error>;
}

/// A connection to an authenticated peer; a clone is the same connection.
#[async_trait]
pub trait Carry: Clone + Send + Sync + 'static {
    /// Who is at the other end.
    fn peer(&self) -> &Peer;

    /// Opens a lane. What `frames` yields is sent on it.
    ///
    /// # Errors
    /// [`SessionError::Stream`].
    async fn lane(
        &self,
        lane: Lane,
        frames: mpsc::Receiver<Frame>,
    ) -> Result<Inbound, SessionError>;

    /// Waits until the connection has ended, and says why.
    async fn closed(&mut self) -> String;

    /// Ends the connection at once, for everybody who holds it.
    fn close(&self);
}

#[async_trait]
impl Dial for Dialer {
    type Connection = Connection;
    type Error = DialError;

    async fn dial(&self, hop: &Hop) -> Result<Connection, DialError> {
        Self::dial(self, hop).await
    }
}

#[async_trait]
impl Carry for Connection {
    fn peer(&self) -> &Peer {
        Self::peer(self)
    }

    async fn lane(
        &self,
        lane: Lane,
        frames: mpsc::Receiver<Frame>,
    ) -> Result<Inbound, SessionError> {
        let mut request = Request::new(ReceiverStream::new(frames));
        let name = match lane {
            Lane::Control => "control",
            _ => "bulk",
        };
        request
            .metadata_mut()
            .insert(LANE_HEADER, MetadataValue::from_static(name));
        let response = self.exchange().session(request).await;
        let broken = |status: Status| SessionError::Stream(status.message().to_owned());
        Ok(response.map_err(broken)?.into_inner().boxed())
    }

    async fn closed(&mut self) -> String {
        Self::closed(self).await
    }

    fn close(&self) {
        Self::close(self);
    }
}
