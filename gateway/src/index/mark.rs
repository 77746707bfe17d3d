//! What is looked up in a log besides packages: who has covered its entries.

use passerelle_proto::v1::{self, entry::Event};
use passerelle_proto::{Digest, PackageId};

/// First bytes of what stands in the place of a package id; no digest is likely to have them.
const PREFIX: [u8; 16] = [0xff; 16];

/// A kind of entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// This partner has cosigned our log.
    CosignedBy(String),
    /// An authority has stamped it.
    TimeStamped,
}

impl Mark {
    /// The mark of an entry, where it has one.
    pub(super) fn of(entry: &v1::Entry) -> Option<Self> {
        match entry.event.as_ref()? {
            Event::Cosigned(event) if event.ours => Some(Self::CosignedBy(event.party.clone())),
            Event::TimeStamped(_) => Some(Self::TimeStamped),
            _ => None,
        }
    }

    /// What stands in the index in the place of a package id.
    pub(super) fn id(&self) -> PackageId {
        let name = match self {
            Self::CosignedBy(party) => format!("cosigned by {party}"),
            Self::TimeStamped => "time-stamped".to_owned(),
        };
        let mut id = Digest::of(name.as_bytes());
        id.0[..PREFIX.len()].copy_from_slice(&PREFIX);
        PackageId(id)
    }
}

/// Whether an id of the index is no package's.
pub(super) fn is_mark(id: &PackageId) -> bool {
    id.as_bytes().starts_with(&PREFIX)
}
