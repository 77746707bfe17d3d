//! HTTP/3 over quinn: the adapter of `h3-quinn`, whose streams may be dropped at any time.
//!
//! There, telling the peer to stop sending panics while a read is under way, which is the usual
//! state of a stream that waits for the next frame. Here the stream is just let go of in that
//! case; quinn then tells the peer by itself.

use std::task::{Context, Poll};

use bytes::Bytes;
use h3::error::Code;
use h3::quic::{
    BidiStream, Connection, ConnectionErrorIncoming, OpenStreams, RecvStream, SendStream,
    StreamErrorIncoming, StreamId, WriteBuf,
};

type Sending = h3_quinn::SendStream<Bytes>;
type StreamResult<T> = Poll<Result<T, StreamErrorIncoming>>;

/// A connection.
pub(crate) struct H3Connection(h3_quinn::Connection);

/// What opens streams on a connection.
#[derive(Clone)]
pub(crate) struct H3Opener(h3_quinn::OpenStreams);

/// Both halves of a stream.
pub(crate) struct H3Stream {
    send: Sending,
    receive: H3Receiving,
}

/// The receiving half of a stream.
pub(crate) struct H3Receiving {
    stream: h3_quinn::RecvStream,
    id: StreamId,
    reading: bool,
}

impl H3Connection {
    pub(crate) fn new(connection: quinn::Connection) -> Self {
        Self(h3_quinn::Connection::new(connection))
    }
}

impl H3Receiving {
    fn new(stream: h3_quinn::RecvStream) -> Self {
        Self {
            id: stream.recv_id(),
            stream,
            reading: false,
        }
    }
}

impl H3Stream {
    fn new(stream: h3_quinn::BidiStream<Bytes>) -> Self {
        let (send, receive) = stream.split();
        Self {
            send,
            receive: H3Receiving::new(receive),
        }
    }
}

impl Connection<Bytes> for H3Connection {
    type RecvStream = H3Receiving;
    type OpenStreams = H3Opener;

    fn poll_accept_recv(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<H3Receiving, ConnectionErrorIncoming>> {
        let accepted = Connection::<Bytes>::poll_accept_recv(&mut self.0, context);
        accepted.map_ok(H3Receiving::new)
    }

    fn poll_accept_bidi(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<H3Stream, ConnectionErrorIncoming>> {
        self.0.poll_accept_bidi(context).map_ok(H3Stream::new)
    }

    fn opener(&self) -> H3Opener {
        H3Opener(Connection::<Bytes>::opener(&self.0))
    }
}

impl OpenStreams<Bytes> for H3Connection {
    type BidiStream = H3Stream;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, context: &mut Context<'_>) -> StreamResult<H3Stream> {
        self.0.poll_open_bidi(context).map_ok(H3Stream::new)
    }

    fn poll_open_send(&mut self, context: &mut Context<'_>) -> StreamResult<Sending> {
        self.0.poll_open_send(context)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        OpenStreams::<Bytes>::close(&mut self.0, code, reason);
    }
}

impl OpenStreams<Bytes> for H3Opener {
    type BidiStream = H3Stream;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, context: &mut Context<'_>) -> StreamResult<H3Stream> {
        self.0.poll_open_bidi(context).map_ok(H3Stream::new)
    }

    fn poll_open_send(&mut self, context: &mut Context<'_>) -> StreamResult<Sending> {
        self.0.poll_open_send(context)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        OpenStreams::<Bytes>::close(&mut self.0, code, reason);
    }
}

impl RecvStream for H3Receiving {
    type Buf = Bytes;

    fn poll_data(&mut self, context: &mut Context<'_>) -> StreamResult<Option<Bytes>> {
        let polled = self.stream.poll_data(context);
        self.reading = polled.is_pending();
        polled
    }

    fn stop_sending(&mut self, code: u64) {
        if !self.reading {
            self.stream.stop_sending(code);
        }
    }

    fn recv_id(&self) -> StreamId {
        self.id
    }
}

impl RecvStream for H3Stream {
    type Buf = Bytes;

    fn poll_data(&mut self, context: &mut Context<'_>) -> StreamResult<Option<Bytes>> {
        self.receive.poll_data(context)
    }

    fn stop_sending(&mut self, code: u64) {
        self.receive.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.receive.recv_id()
    }
}

impl SendStream<Bytes> for H3Stream {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> StreamResult<()> {
        self.send.poll_ready(context)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> StreamResult<()> {
        self.send.poll_finish(context)
    }

    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl BidiStream<Bytes> for H3Stream {
    type SendStream = Sending;
    type RecvStream = H3Receiving;

    fn split(self) -> (Sending, H3Receiving) {
        (self.send, self.receive)
    }
}
