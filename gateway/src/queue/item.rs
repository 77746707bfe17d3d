//! One unfinished piece of work: a package or a statement on its way to one next hop.

use std::time::Duration;

use passerelle_proto::v1::PurgedPart;
use passerelle_proto::{Digest, FlowId, Hop, INLINE_LEN_MAX, PackageId, PartyId, Timestamp, v1};
use prost::Message;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Length of an encoded [`ItemKey`] in bytes.
pub(crate) const ITEM_KEY_LEN: usize = 9;

/// Route of what is kept of a package that is over. An `accepted` entry has fewer routes.
const RETAINED_ROUTE: u8 = u8::MAX;

/// Names an item: the entry that made it, and which of the entry's routes it is.
///
/// Keys sort by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemKey {
    /// Log index of the `accepted` or `statement` entry.
    pub index: u64,
    /// Position among the routes of an `accepted` entry; 0 for a statement; 255 for what is kept of
    /// a package that was over with this entry.
    pub route: u8,
}

impl ItemKey {
    /// The key of what is kept of a package that was over with the entry at `index`.
    #[must_use]
    pub fn retained(index: u64) -> Self {
        Self {
            index,
            route: RETAINED_ROUTE,
        }
    }

    /// Whether it names what is kept of a package that is over.
    #[must_use]
    pub fn is_retained(self) -> bool {
        self.route == RETAINED_ROUTE
    }

    pub(crate) fn to_bytes(self) -> [u8; ITEM_KEY_LEN] {
        let mut bytes = [0; ITEM_KEY_LEN];
        bytes[..8].copy_from_slice(&self.index.to_be_bytes());
        bytes[8] = self.route;
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; ITEM_KEY_LEN] = bytes.try_into().ok()?;
        let (index, route) = bytes.split_first_chunk::<8>()?;
        Some(Self {
            index: u64::from_be_bytes(*index),
            route: route[0],
        })
    }
}

/// What is handed out together: each class of a peer has its own line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A statement; travels on the control lane.
    Statement,
    /// A package that fits into its offer (64 KiB); travels on the control lane.
    Small,
    /// Any other package; travels on a bulk lane.
    Bulk,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 3] = [Self::Statement, Self::Small, Self::Bulk];
}

/// Where an item stands, as far as the log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemState {
    /// To be handed to the next hop.
    Waiting,
    /// An operator, or the gateway itself, holds it back.
    Held,
    /// The next hop has it; a terminal statement is awaited for somebody behind it.
    Forwarded,
    /// The copy here is damaged; the hop that it came from is asked for it again.
    Damaged,
    /// It is over for everybody; its bytes are kept for a time.
    Retained,
}

/// What is to become of the bytes of a package that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retained {
    /// When it was over for its last recipient.
    pub over: Timestamp,
    /// What goes next.
    pub part: PurgedPart,
    /// When it goes.
    pub due: Timestamp,
    /// Log index of the decision that it goes now.
    pub decided: Option<u64>,
}

/// An unfinished item, as the log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The line it stands in; a package that is over stands in none any more.
    pub class: Class,
    /// The package, or the package a statement is about.
    pub package: PackageId,
    /// Whom it goes to.
    pub next_hop: Hop,
    /// Whom it came from; `None` for what this gateway says itself.
    pub previous_hop: Option<Hop>,
    /// Flow of a package; `None` for a statement.
    pub flow: Option<FlowId>,
    /// Sender of a package, issuer of a statement.
    pub sender: PartyId,
    /// Recipients behind the next hop, of whom no terminal statement is known yet; for a
    /// statement its destination.
    pub recipients: Vec<PartyId>,
    /// When the package expires; `None` for a statement, which never does.
    pub deadline: Option<Timestamp>,
    /// Whether it is a test package.
    pub test: bool,
    /// Where a package lies in the spool.
    pub pack: Option<v1::PackLocation>,
    /// Whether the next hop has it.
    pub forwarded: bool,
    /// Whether it is held back.
    pub held: bool,
    /// Whether the copy here is damaged.
    pub damaged: bool,
    /// How long its bytes are kept once the package is over.
    pub retention: v1::RetentionDays,
    /// What becomes of the bytes of a package that is over; `None` for all others.
    pub retained: Option<Retained>,
    /// Log index of the entry that changed it last.
    pub changed: u64,
}

impl Item {
    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> ItemState {
        match self {
            Self {
                retained: Some(_), ..
            } => ItemState::Retained,
            Self { held: true, .. } => ItemState::Held,
            Self {
                forwarded: true, ..
            } => ItemState::Forwarded,
            Self { damaged: true, .. } => ItemState::Damaged,
            _ => ItemState::Waiting,
        }
    }

    /// A statement that waits for `next_hop`, since the entry at `changed`.
    pub(crate) fn statement(
        package: PackageId,
        next_hop: Hop,
        previous_hop: Option<Hop>,
        issuer: PartyId,
        destination: PartyId,
        changed: u64,
    ) -> Self {
        Self {
            class: Class::Statement,
            package,
            next_hop,
            previous_hop,
            flow: None,
            sender: issuer,
            recipients: vec![destination],
            deadline: None,
            test: false,
            pack: None,
            forwarded: false,
            held: false,
            damaged: false,
            retention: v1::RetentionDays::default(),
            retained: None,
            changed,
        }
    }

    /// Whether it is a package on its way: no statement, and not over.
    #[must_use]
    pub fn is_package(&self) -> bool {
        self.class != Class::Statement && self.retained.is_none()
    }

    /// Where the whole package lies; `None` once its chunks are gone.
    #[must_use]
    pub fn whole(&self) -> Option<v1::PackLocation> {
        let part = self.retained.map(|retained| retained.part);
        self.pack.filter(|_| part != Some(PurgedPart::Head))
    }

    /// What is kept of the package when it is over with the entry at `index`, appended at `over`;
    /// `None` when nothing of it lies in the spool.
    pub(super) fn over(&self, index: u64, over: Timestamp) -> Option<Self> {
        let part = match self.pack?.segment {
            // The chunks stand last in a file of its own.
            0 if self.retention.metadata > self.retention.payload => PurgedPart::Chunks,
            _ => PurgedPart::Whole,
        };
        let retained = Retained {
            over,
            part,
            due: over.saturating_add(DAY * self.retention.payload),
            decided: None,
        };
        Some(Self {
            recipients: Vec::new(),
            deadline: None,
            forwarded: false,
            held: false,
            damaged: false,
            retained: Some(retained),
            changed: index,
            ..self.clone()
        })
    }

    /// What is kept once this part is gone; `None`: nothing.
    pub(super) fn without(mut self, part: PurgedPart) -> Option<Self> {
        let retained = self.retained.filter(|_| part == PurgedPart::Chunks)?;
        self.retained = Some(Retained {
            part: PurgedPart::Head,
            due: retained.over.saturating_add(DAY * self.retention.metadata),
            decided: None,
            ..retained
        });
        Some(self)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let names = |parties: &[PartyId]| parties.iter().map(ToString::to_string).collect();
        Record {
            class: self.class as u32,
            package: self.package.as_bytes().to_vec(),
            next_hop: Some(self.next_hop.to_message()),
            previous_hop: self.previous_hop.as_ref().map(Hop::to_message),
            flow: self
                .flow
                .as_ref()
                .map_or(String::new(), ToString::to_string),
            sender: self.sender.to_string(),
            recipients: names(&self.recipients),
            deadline_ms: self.deadline.map(Timestamp::as_ms),
            test: self.test,
            pack: self.pack,
            forwarded: self.forwarded,
            held: self.held,
            damaged: self.damaged,
            changed: self.changed,
            retention: Some(self.retention),
            retained: self.retained.map(|retained| RetainedRecord {
                over_ms: retained.over.as_ms(),
                part: retained.part as i32,
                due_ms: retained.due.as_ms(),
                decided: retained.decided,
            }),
        }
        .encode_to_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let record = Record::decode(bytes).ok()?;
        let class = Class::ALL
            .into_iter()
            .find(|class| *class as u32 == record.class)?;
        let flow = match record.flow.as_str() {
            "" => None,
            name => Some(name.parse().ok()?),
        };
        Some(Self {
            class,
            package: PackageId::from_slice(&record.package).ok()?,
            next_hop: Hop::from_message(&record.next_hop?)?,
            previous_hop: match record.previous_hop {
                Some(hop) => Some(Hop::from_message(&hop)?),
                None => None,
            },
            flow,
            sender: record.sender.parse().ok()?,
            recipients: parse_parties(&record.recipients)?,
            deadline: record.deadline_ms.map(Timestamp::from_ms),
            test: record.test,
            pack: record.pack,
            forwarded: record.forwarded,
            held: record.held,
            damaged: record.damaged,
            changed: record.changed,
            retention: record.retention.unwrap_or_default(),
            retained: match record.retained {
                Some(retained) => Some(retained.decode()?),
                None => None,
            },
        })
    }
}

/// The class of a package with this manifest.
pub(crate) fn class_of(manifest: &v1::Manifest) -> Class {
    let parts = [&manifest.wraps, &manifest.chunk_table, &manifest.index];
    let head: u64 = parts.into_iter().flatten().map(|part| part.length).sum();
    if head.saturating_add(manifest.payload_length) <= INLINE_LEN_MAX {
        Class::Small
    } else {
        Class::Bulk
    }
}

pub(crate) fn parse_parties(names: &[String]) -> Option<Vec<PartyId>> {
    names.iter().map(|name| name.parse().ok()).collect()
}

/// Id of the object with this body.
pub(crate) fn package_of(manifest: &v1::Signed) -> PackageId {
    PackageId(Digest::of(&manifest.body))
}

/// How an item is stored. Never leaves this gateway: it can be rebuilt from the log.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(uint32, tag = "1")]
    class: u32,
    #[prost(bytes = "vec", tag = "2")]
    package: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    next_hop: Option<v1::Hop>,
    #[prost(message, optional, tag = "4")]
    previous_hop: Option<v1::Hop>,
    #[prost(string, tag = "5")]
    flow: String,
    #[prost(string, tag = "6")]
    sender: String,
    #[prost(string, repeated, tag = "7")]
    recipients: Vec<String>,
    #[prost(int64, optional, tag = "8")]
    deadline_ms: Option<i64>,
    #[prost(bool, tag = "9")]
    test: bool,
    #[prost(message, optional, tag = "10")]
    pack: Option<v1::PackLocation>,
    #[prost(bool, tag = "11")]
    forwarded: bool,
    #[prost(bool, tag = "12")]
    held: bool,
    #[prost(uint64, tag = "13")]
    changed: u64,
    #[prost(bool, tag = "14")]
    damaged: bool,
    #[prost(message, optional, tag = "15")]
    retention: Option<v1::RetentionDays>,
    #[prost(message, optional, tag = "16")]
    retained: Option<RetainedRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct RetainedRecord {
    #[prost(int64, tag = "1")]
    over_ms: i64,
    #[prost(int32, tag = "2")]
    part: i32,
    #[prost(int64, tag = "3")]
    due_ms: i64,
    #[prost(uint64, optional, tag = "4")]
    decided: Option<u64>,
}

impl RetainedRecord {
    fn decode(&self) -> Option<Retained> {
        Some(Retained {
            over: Timestamp::from_ms(self.over_ms),
            part: self.part.try_into().ok()?,
            due: Timestamp::from_ms(self.due_ms),
            decided: self.decided,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_age_in_memory_and_as_bytes() {
        let old = ItemKey {
            index: 255,
            route: 7,
        };
        let new = ItemKey {
            index: 256,
            route: 0,
        };
        assert!(old < new && old.to_bytes() < new.to_bytes());
        assert_eq!(ItemKey::from_bytes(&new.to_bytes()), Some(new));
        assert_eq!(ItemKey::from_bytes(&[0; 8]), None);
    }
}
