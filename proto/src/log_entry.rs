//! What an entry of an audit log speaks of, and what is signed in it.

use prost::Message;

use crate::v1::{self, entry::Event};
use crate::{Digest, PackageId};

/// The package that an entry speaks of; `None` when it speaks of none.
pub fn package_of(entry: &v1::Entry) -> Option<PackageId> {
    let id = |bytes: &[u8]| PackageId::from_slice(bytes).ok();
    match entry.event.as_ref()? {
        Event::Accepted(event) => Some(PackageId(Digest::of(&event.manifest.as_ref()?.body))),
        Event::Forwarded(event) => id(&event.package),
        Event::Statement(event) => {
            let body = &event.statement.as_ref()?.body;
            id(&v1::Statement::decode(body.as_slice()).ok()?.package)
        }
        Event::Refused(event) => id(&event.package),
        Event::Held(event) | Event::Released(event) | Event::Retried(event) => id(&event.package),
        Event::Operator(event) => id(&event.package),
        Event::Resent(event) => id(&event.package),
        Event::Repaired(event) => id(&event.package),
        Event::PurgeDecided(event) => id(&event.package),
        Event::Started(_)
        | Event::Stopped(_)
        | Event::Configured(_)
        | Event::Cosigned(_)
        | Event::Counted(_)
        | Event::Epoch(_)
        | Event::AgentState(_)
        | Event::TimeStamped(_)
        | Event::HandedOver(_) => None,
    }
}

/// The manifest and the statements in an entry, unverified.
pub fn signed_objects(event: &Event) -> Vec<&v1::Signed> {
    match event {
        Event::Accepted(event) => event.manifest.iter().chain(&event.receipt).collect(),
        Event::Forwarded(event) => event.receipt.iter().collect(),
        Event::Statement(event) => event.statement.iter().collect(),
        _ => Vec::new(),
    }
}
