//! What a stream gives its driver to do.

use bytes::Bytes;

use super::Fault;
use crate::StatementId;
use crate::v1::{self, Section, Signed};

/// What came of an offer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// Accepted, refused or busy, signed.
    Statement(Signed),
    /// Every byte is durable at the receiver; a statement follows later.
    Have,
}

/// Work for the driver, and news for its caller.
#[derive(Debug)]
pub enum Event {
    /// The peer has introduced itself.
    Greeted(v1::Hello),
    /// The peer sends a convention or a sheet.
    Note(Vec<u8>),
    /// The peer offers a package: call `accept`, `refuse` or `answer`.
    Offered {
        /// Number of the offer.
        slot: u32,
        /// Its manifest; nothing is verified.
        manifest: Signed,
        /// The whole package, when it is small; else empty.
        inline: Bytes,
        /// The receipt of the peer that has accepted it for us; nothing is verified.
        accepted: Option<Signed>,
    },
    /// Read this part of an offered package, then call `on_read`.
    Read {
        /// Which of our offers.
        slot: u32,
        /// Part of the package.
        section: Section,
        /// Offset within the part.
        offset: u64,
        /// Bytes wanted.
        length: u64,
    },
    /// Write these verified bytes.
    Write {
        /// Which of the peer's offers.
        slot: u32,
        /// Part of the package.
        section: Section,
        /// Offset within the part.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Sync all that was to be written, then call `on_synced` with this count.
    Sync {
        /// Which of the peer's offers.
        slot: u32,
        /// Bytes of this transfer that are durable then.
        received: u64,
    },
    /// Everything is there and synced: commit, then call `answer`.
    Complete {
        /// Which of the peer's offers.
        slot: u32,
    },
    /// The bytes of this offer are wrong: refuse the package with a signed statement, `answer`.
    Broken {
        /// Which of the peer's offers.
        slot: u32,
        /// What is wrong.
        fault: Fault,
    },
    /// The peer has answered one of our offers.
    Answered {
        /// Which of our offers.
        slot: u32,
        /// How.
        answer: Answer,
    },
    /// The peer gives up an offer.
    Withdrawn {
        /// Its number.
        slot: u32,
        /// Whether it was one of ours.
        ours: bool,
        /// Why, in words.
        why: String,
    },
    /// The peer sends a statement: commit it, then call `ack`.
    Statement(Signed),
    /// Our statements with these ids are committed at the peer.
    Acked(Vec<StatementId>),
    /// The peer wants to end the stream.
    Bye(String),
}
