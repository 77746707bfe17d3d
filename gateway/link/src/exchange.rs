//! What a program does with the packages and statements that cross a stream.
//!
//! The driver runs the protocol; a gateway and an agent implement [`Exchange`] and decide what is
//! taken, what is offered, and when something is durable.

use std::io;

use bytes::Bytes;
use passerelle_proto::session::{Answer, Held};
use passerelle_proto::v1::{self, Lane, Section, Signed};
use passerelle_proto::{StatementId, VerifiedManifest};
use tonic::async_trait;

use crate::peer::{Peer, Trust};

/// Why a stream is not begun or must end, in words for the peer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LaneError(pub String);

/// Why bytes of a package could not be kept: this transfer ends, and is tried again later.
#[derive(Debug, thiserror::Error)]
#[error("keeping the package: {0}")]
pub struct WriteError(#[from] pub io::Error);

/// What may be sent on a stream now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Another package may be offered.
    pub package: bool,
    /// Another statement may be sent.
    pub statement: bool,
}

/// What is to be sent next.
pub enum Outgoing {
    /// A package to offer.
    Package(Box<dyn Outbound>),
    /// A statement to send until it is acknowledged.
    Statement(Signed),
}

/// What becomes of a package that a peer offers.
pub enum OfferAnswer {
    /// Answered at once: accepted before, refused, or busy.
    Answer(Answer),
    /// Its bytes are wanted.
    Take(Box<dyn Incoming>),
    /// Nothing is said about it on this stream.
    Decline(String),
}

/// Both ends of every stream, as a program sees them.
#[async_trait]
pub trait Exchange: Send + Sync + 'static {
    /// What we say of ourselves at the beginning of a stream.
    fn hello(&self, peer: &Peer, lane: Lane) -> v1::Hello;

    /// What is believed about parties, as it changes; the peer is told what it lacks of it. `None`:
    /// it is told nothing.
    fn trust(&self) -> Option<Trust>;

    /// The peer has introduced itself.
    ///
    /// # Errors
    /// [`LaneError`] ends the stream: nothing is exchanged with this peer.
    async fn greeted(&self, peer: &Peer, hello: &v1::Hello) -> Result<(), LaneError>;

    /// The peer sends a convention or a sheet.
    async fn note(&self, peer: &Peer, note: Vec<u8>);

    /// The peer offers a package; `inline` is the whole of it, when it is small. `accepted` is the
    /// receipt of the peer that accepted it for us; nothing of it is verified.
    async fn offered(
        &self,
        peer: &Peer,
        manifest: Signed,
        inline: Bytes,
        accepted: Option<Signed>,
    ) -> OfferAnswer;

    /// The peer sends a statement. It is committed, or refused for good and audited, when this
    /// returns true; false: the peer keeps it and sends it again.
    async fn statement(&self, peer: &Peer, signed: Signed) -> bool;

    /// Waits for something to send. Nothing is taken out of a queue before this is ready: it may
    /// be dropped at any time while it waits.
    async fn next(&self, peer: &Peer, lane: Lane, room: Room) -> Outgoing;

    /// Statements of ours are committed at the peer.
    async fn acked(&self, peer: &Peer, ids: Vec<StatementId>);

    /// A stream has ended; these statements of ours were sent on it and not acknowledged.
    fn ended(&self, peer: &Peer, lane: Lane, unacked: Vec<StatementId>, why: &str);
}

/// A package that is being taken.
#[async_trait]
pub trait Incoming: Send {
    /// Its manifest.
    fn manifest(&self) -> &VerifiedManifest;

    /// What is durable of it already.
    fn held(&self) -> Held;

    /// Keeps verified bytes; they are durable only after [`Incoming::sync`].
    ///
    /// # Errors
    /// [`WriteError`] ends this transfer.
    async fn write(
        &mut self,
        section: Section,
        offset: u64,
        bytes: Bytes,
    ) -> Result<(), WriteError>;

    /// Everything written is on stable storage when this returns.
    ///
    /// # Errors
    /// [`WriteError`] ends this transfer.
    async fn sync(&mut self) -> Result<(), WriteError>;

    /// Every byte is there and synced: commits and answers. `None`: not now, nothing is said.
    async fn complete(self: Box<Self>) -> Option<Answer>;

    /// The peer sent wrong bytes: what is signed about that, if anything is.
    async fn broken(self: Box<Self>, fault: passerelle_proto::session::Fault) -> Option<Answer>;
}

/// A package that is being offered. Dropping it without an answer puts it back.
#[async_trait]
pub trait Outbound: Send {
    /// Its manifest.
    fn manifest(&self) -> &VerifiedManifest;

    /// The whole package, when it is small; else empty.
    fn inline(&self) -> Bytes;

    /// The receipt with which it was accepted: here, for its recipient's agent; or by the peer
    /// itself, when that is a gateway that is offered it again.
    fn accepted(&self) -> Option<Signed> {
        None
    }

    /// Reads a part of it.
    ///
    /// # Errors
    /// The offer is withdrawn, and the program says why.
    async fn read(&mut self, section: Section, offset: u64, length: u64) -> io::Result<Bytes>;

    /// The peer has answered.
    async fn answered(self: Box<Self>, answer: Answer);
}
