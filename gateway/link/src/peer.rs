//! Who is at the other end of a connection, and how it is reached.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use passerelle_proto::{Directory, Hop};
use tokio::sync::watch;

/// What is believed about parties, as it changes: verifiers read the latest.
pub type Trust = watch::Receiver<Directory>;

/// How a connection is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// HTTP/3 over QUIC (UDP).
    Quic,
    /// HTTP/2 over TCP.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Transport::Quic => "quic",
            Transport::Tcp => "tcp",
        })
    }
}

/// What the configuration allows when dialling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TransportChoice {
    /// QUIC first, TCP when UDP does not get through.
    #[default]
    Auto,
    /// Only QUIC.
    Quic,
    /// Only TCP.
    Tcp,
}

/// A text that is no transport.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no transport: write auto, quic or tcp")]
pub struct TransportChoiceError(String);

impl FromStr for TransportChoice {
    type Err = TransportChoiceError;

    fn from_str(text: &str) -> Result<Self, TransportChoiceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "quic" => Ok(Self::Quic),
            "tcp" => Ok(Self::Tcp),
            other => Err(TransportChoiceError(other.chars().take(40).collect())),
        }
    }
}

/// The authenticated other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Whose program it is, and which.
    pub hop: Hop,
    /// Name in its certificate.
    pub tls_name: String,
    /// How it is connected.
    pub transport: Transport,
    /// Its address.
    pub address: SocketAddr,
    /// Whether the key exchange resists a quantum computer.
    pub post_quantum: bool,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.hop, self.transport, self.address)
    }
}
