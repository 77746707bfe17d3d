//! What one connection may hold in memory, and how it is kept alive: alike for both transports.

use std::time::Duration;

/// Window of one stream in bytes.
pub(crate) const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// Window of one connection in bytes: above the sum of the five lanes that a peer may open.
pub(crate) const CONNECTION_WINDOW: u32 = 12 * 1024 * 1024;
/// Bytes sent on a QUIC connection and not yet acknowledged.
pub(crate) const SEND_WINDOW: u32 = 8 * 1024 * 1024;
/// Streams that a peer may have open on one connection.
pub(crate) const STREAMS_MAX: u32 = 16;
/// Longest list of headers in bytes.
pub(crate) const HEADERS_LEN_MAX: u32 = 16 * 1024;
/// Longest HTTP/2 frame in bytes.
pub(crate) const FRAME_LEN_MAX: u32 = 64 * 1024;
/// Silence after which an HTTP/2 ping is sent.
pub(crate) const PING_AFTER: Duration = Duration::from_secs(3);
/// Wait for the answer to a ping; with [`PING_AFTER`], 10 s of silence end a connection.
pub(crate) const PONG_MAX: Duration = Duration::from_secs(7);
/// Connections are renewed after this, so that new certificates come into use.
pub(crate) const CONNECTION_LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
