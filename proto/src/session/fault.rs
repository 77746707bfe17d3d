//! How a peer can break the protocol.

use crate::ChunkError;
use crate::v1::Reason;

/// What the peer did that it must not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A frame without content, or with a field that cannot be.
    #[error("a frame without the content that its kind needs")]
    EmptyFrame,
    /// No Hello first, a second one, or for another lane.
    #[error("Hello is the first frame, once, and for the lane of the stream")]
    Hello,
    /// No version of the protocol that both speak.
    #[error("the peer speaks protocol {} to {}, and we speak 1: update the older side", .theirs.0, .theirs.1)]
    Versions {
        /// Oldest and newest version of the peer.
        theirs: (u32, u32),
    },
    /// A number that is not on offer, or used again.
    #[error("offer number {0} is unknown or was used before")]
    Slot(u32),
    /// More offers at once than allowed.
    #[error("more offers without an answer than a stream may have")]
    TooManyOffers,
    /// More notes than there can be parties, or too long ones.
    #[error("more or longer notes than a stream may bring")]
    TooManyNotes,
    /// An empty or oversized frame of data.
    #[error("a frame of data has 1 byte to 1 MiB")]
    DataLength,
    /// Data that nobody asked for.
    #[error("data that was not asked for")]
    NotAsked,
    /// Data at another place than the next one: repeated, left out, or out of range.
    #[error(
        "data at offset {found} where {expected} comes next: repeated, left out or out of range"
    )]
    Offset {
        /// Offset found.
        found: u64,
        /// Offset expected.
        expected: u64,
    },
    /// A part of the head that is not what was signed.
    #[error("the {0} differs from its digest in the manifest")]
    HeadDigest(&'static str),
    /// A chunk, or the chunk table, that is not what was signed.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// Ranges that lie outside of the package.
    #[error("a range that lies outside of the package")]
    Range,
    /// More bytes synced than were sent, or fewer than before.
    #[error("more bytes are said to be synced than were sent")]
    Synced,
    /// Nothing was heard for ten seconds.
    #[error("nothing was heard from the peer for 10 s")]
    Idle,
}

impl Fault {
    /// The reason with which a package is refused whose bytes are wrong.
    pub fn reason(&self) -> Reason {
        match self {
            Self::HeadDigest(_) | Self::Chunk(_) => Reason::Digest,
            _ => Reason::Malformed,
        }
    }
}
