//! Dial and listen: gRPC over HTTP/3 and HTTP/2, mutual TLS 1.3, one identity per peer.
//!
//! Everything between the sockets and the [`Exchange`] that a program implements: key exchange,
//! certificates, both transports on one port number, and the driver that runs the protocol's
//! state machine over a stream. It knows no queue, no spool and no inbox.

mod alert;
mod clock;
mod connection;
mod dial;
mod dialer;
mod driver;
mod exchange;
mod h3_streams;
mod identity;
mod kx;
mod link;
mod listener;
mod notes;
mod peer;
mod quic;
mod quic_server;
mod refusal;
mod reset_key;
mod service;
mod serving;
mod tcp;
mod tcp_server;
mod tls;
mod told;
mod trust;
mod verifier;
mod window;

pub use clock::{Belief, CLOCK_DIFFERENCE_MAX};
pub use connection::{Channel, Connection};
pub use dial::{Carry, Dial, Inbound};
pub use dialer::{DialError, Dialer};
pub use driver::{FRAMES_IN_FLIGHT, SessionError, run_session};
pub use exchange::{
    Exchange, Incoming, LaneError, OfferAnswer, Outbound, Outgoing, Room, WriteError,
};
pub use identity::{Identity, IdentityError};
pub use link::{Link, LinkStatus};
pub use listener::{ListenError, Listener};
pub use notes::{NOTE_WAIT_MAX, wait_to_judge_offer, wait_to_judge_statement};
pub use peer::{Peer, Transport, TransportChoice, TransportChoiceError, Trust};
pub use reset_key::reset_key;
pub use service::{ExchangeService, peer_of};
pub use serving::RefusalSink;
pub use trust::{AdoptError, TrustSource, TrustStore};
pub use verifier::CertificateRefusal;
