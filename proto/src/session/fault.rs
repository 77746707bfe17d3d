//! How a peer can break the protocol.

use super::{PROTOCOL_MAX, PROTOCOL_MIN};
use crate::ChunkError;
use crate::v1::Reason;

/// What the peer did that it must not do. The text is what the peer is told.
///
/// [`Fault::is_of_package`] separates what concerns one package, which is refused while the stream
/// goes on, from what ends the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A frame without content, or with a field that cannot be.
    #[error("a frame without the content that its kind needs")]
    EmptyFrame,
    /// No Hello first, a second one, or for another lane.
    #[error("Hello is the first frame, once, and for the lane of the stream")]
    Hello,
    /// No version of the protocol that both speak.
    #[error(
        "the peer speaks protocol {} to {}, and we speak {PROTOCOL_MIN} to {PROTOCOL_MAX}: \
         update the older side", .theirs.0, .theirs.1
    )]
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
    /// More statements at once than allowed.
    #[error("more statements without an acknowledgement than a stream may have")]
    TooManyStatements,
    /// More notes than there can be parties.
    #[error("more notes than a stream may bring")]
    TooManyNotes,
    /// An object that is longer than its kind may be.
    #[error("a {0} that is longer than it may be")]
    TooLong(&'static str),
    /// An offer after the peer has said that it makes no more.
    #[error("an offer after Bye")]
    AfterBye,
    /// An empty or oversized frame of data.
    #[error("a frame of data has 1 byte to 1 MiB")]
    DataLength,
    /// Data before it was asked for, or after all of it came.
    #[error("data that was not asked for")]
    NotAsked,
    /// Data of another part than the one that is due.
    #[error("data of another part of the package where the {due} comes next")]
    WrongPart {
        /// Part that is due.
        due: &'static str,
    },
    /// Data far ahead of what is known to be on stable storage.
    #[error("more data than may be sent before it is synced")]
    Window,
    /// Data that was received before.
    #[error("data at offset {found} of the {part} once more, where {expected} comes next")]
    Repeated {
        /// Part of the package.
        part: &'static str,
        /// Offset found.
        found: u64,
        /// Offset expected.
        expected: u64,
    },
    /// Data behind what comes next.
    #[error(
        "data at offset {found} of the {part}, where {expected} comes next: what lies between is \
         left out or truncated"
    )]
    LeftOut {
        /// Part of the package.
        part: &'static str,
        /// Offset found.
        found: u64,
        /// Offset expected.
        expected: u64,
    },
    /// Data beyond the end of its part.
    #[error("data up to byte {end} of the {part}, which has {length}: out of range")]
    OutOfRange {
        /// Part of the package.
        part: &'static str,
        /// Where the data ends.
        end: u64,
        /// Length of the part in bytes.
        length: u64,
    },
    /// A part of the head that is not what was signed.
    #[error("the {0} differs from its digest in the manifest")]
    HeadDigest(&'static str),
    /// A chunk, or the chunk table, that is not what was signed.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// Ranges that lie outside of the package, or out of order, or asked for once more.
    #[error("a range that lies outside of the package, or is not behind what was asked for before")]
    Range,
    /// More bytes synced than were sent, or fewer than before.
    #[error("more bytes are said to be synced than were sent, or fewer than before")]
    Synced,
    /// It goes on asking, and reads nothing of what it is told.
    #[error("more frames that are to be replied to, while the replies before are not read")]
    NotRead,
    /// Nothing was heard for ten seconds.
    #[error("nothing was heard from the peer for 10 s")]
    Idle,
}

impl Fault {
    /// Whether one package is concerned, which is refused; else the stream ends.
    pub fn is_of_package(&self) -> bool {
        match self {
            Self::Repeated { .. }
            | Self::LeftOut { .. }
            | Self::OutOfRange { .. }
            | Self::WrongPart { .. }
            | Self::HeadDigest(_)
            | Self::Chunk(_) => true,
            Self::EmptyFrame
            | Self::Hello
            | Self::Versions { .. }
            | Self::Slot(_)
            | Self::TooManyOffers
            | Self::TooManyStatements
            | Self::TooManyNotes
            | Self::TooLong(_)
            | Self::AfterBye
            | Self::DataLength
            | Self::NotAsked
            | Self::Window
            | Self::Range
            | Self::Synced
            | Self::NotRead
            | Self::Idle => false,
        }
    }

    /// The reason with which a package is refused whose bytes are wrong.
    pub fn reason(&self) -> Reason {
        match self {
            Self::HeadDigest(_) | Self::Chunk(ChunkError::Digest { .. }) => Reason::Digest,
            _ => Reason::Malformed,
        }
    }
}
