//! What an entry of the log does to the unfinished items. Pure, and the only way they change.
//!
//! Monotone per item: an entry no newer than the one that changed an item last does nothing to
//! it, so a batch that was applied in part before a crash is applied again without harm.

use passerelle_proto::v1::{self, PurgedPart, entry::Event, statement::What};
use passerelle_proto::{Hop, PackageId, PartyId, Timestamp, terminal_recipients};
use prost::Message;

use super::damage;
use super::item::{Item, ItemKey, class_of, package_of, parse_parties};
use super::store::StoreError;

/// What the fold may ask about the items before the entry.
pub trait Items {
    /// Items of the package and of statements about it, oldest first.
    ///
    /// # Errors
    /// [`StoreError`] when they cannot be read.
    fn of_package(&self, package: &PackageId) -> Result<Vec<(ItemKey, Item)>, StoreError>;
    /// Whether the package has this item.
    fn holds(&self, package: &PackageId, key: ItemKey) -> bool;
    /// One item.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    fn item(&self, key: ItemKey) -> Result<Option<Item>, StoreError>;
}

/// What an entry does to one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The item is there from here on, or replaces the one under this key.
    Put(ItemKey, Item),
    /// As [`Change::Put`], and whatever delays it ends: an operator wants it tried now.
    Retry(ItemKey, Item),
    /// The item is finished.
    Remove(ItemKey),
}

/// Why an entry cannot be folded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// A field of our own log that this software would not have written.
    #[error("log entry {index}: {what} cannot be read; is this software older than the log?")]
    Entry {
        /// Index of the entry.
        index: u64,
        /// The field.
        what: &'static str,
    },
    /// The items cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What `entry`, which stands at `index` of the log, changes.
///
/// # Errors
/// [`FoldError`] when a field that the queue needs, or an item, cannot be read.
pub fn fold(items: &impl Items, index: u64, entry: &v1::Entry) -> Result<Vec<Change>, FoldError> {
    let refuse = |what| FoldError::Entry { index, what };
    match &entry.event {
        Some(Event::Accepted(event)) => accepted(items, index, event),
        Some(Event::Forwarded(event)) => {
            let package = package_id(&event.package).ok_or(refuse("forwarded package"))?;
            let hop = hop(event.next_hop.as_ref()).ok_or(refuse("forwarded next hop"))?;
            let set = |item: &mut Item| item.forwarded = true;
            change(items, index, &package, Some(&hop), set)
        }
        Some(Event::Statement(event)) => statement(items, index, entry.at_ms, event),
        Some(Event::Held(event)) => {
            let (package, hop) = hold(event).ok_or(refuse("held package"))?;
            let set = |item: &mut Item| item.held = true;
            change(items, index, &package, hop.as_ref(), set)
        }
        Some(Event::Released(event)) => {
            let (package, hop) = hold(event).ok_or(refuse("released package"))?;
            let set = |item: &mut Item| item.held = false;
            change(items, index, &package, hop.as_ref(), set)
        }
        Some(Event::Retried(event)) => {
            let (package, hop) = hold(event).ok_or(refuse("retried package"))?;
            let set = |item: &mut Item| item.forwarded = false;
            let changes = change(items, index, &package, hop.as_ref(), set)?;
            Ok(changes.into_iter().map(into_retry).collect())
        }
        Some(Event::Repaired(event)) => {
            let package = package_id(&event.package).ok_or(refuse("repaired package"))?;
            damage::repaired(items, index, &package, event.pack)
        }
        Some(Event::HandedOver(event)) => {
            let hop = hop(event.next_hop.as_ref()).ok_or(refuse("handed-over next hop"))?;
            Ok(handed_over(items, &hop, &event.log_index)?)
        }
        Some(Event::Resent(event)) => resent(items, index, event),
        Some(Event::PurgeDecided(event)) => {
            let package = package_id(&event.package).ok_or(refuse("package to be purged"))?;
            Ok(purge_decided(items, index, &package, event.part())?)
        }
        Some(
            Event::Refused(_)
            | Event::Started(_)
            | Event::Stopped(_)
            | Event::Configured(_)
            | Event::Cosigned(_)
            | Event::Counted(_)
            | Event::Epoch(_)
            | Event::AgentState(_)
            | Event::TimeStamped(_)
            | Event::Operator(_),
        ) => Ok(Vec::new()),
        None => Err(refuse("event")),
    }
}

fn accepted(
    items: &impl Items,
    index: u64,
    event: &v1::AcceptedEvent,
) -> Result<Vec<Change>, FoldError> {
    let refuse = |what| FoldError::Entry { index, what };
    let signed = event.manifest.as_ref().ok_or(refuse("manifest"))?;
    let manifest =
        v1::Manifest::decode(signed.body.as_slice()).map_err(|_| refuse("manifest body"))?;
    let package = package_of(signed);
    let mut changes = Vec::new();
    for (route, to) in event.routes.iter().enumerate() {
        let route = u8::try_from(route).map_err(|_| refuse("number of routes"))?;
        let key = ItemKey { index, route };
        if items.holds(&package, key) {
            continue;
        }
        let item = Item {
            class: class_of(&manifest),
            package,
            next_hop: hop(to.next_hop.as_ref()).ok_or(refuse("next hop"))?,
            previous_hop: hop(event.previous_hop.as_ref()),
            flow: Some(manifest.flow.parse().map_err(|_| refuse("flow"))?),
            sender: manifest.sender.parse().map_err(|_| refuse("sender"))?,
            recipients: parse_parties(&to.recipients).ok_or(refuse("recipients"))?,
            deadline: Some(Timestamp::from_ms(event.deadline_ms)),
            test: event.test,
            pack: event.pack,
            forwarded: false,
            held: false,
            damaged: false,
            retention: event.retention.unwrap_or_default(),
            retained: None,
            changed: index,
        };
        changes.push(Change::Put(key, item));
    }
    Ok(changes)
}

fn statement(
    items: &impl Items,
    index: u64,
    at_ms: i64,
    event: &v1::StatementEvent,
) -> Result<Vec<Change>, FoldError> {
    let refuse = |what| FoldError::Entry { index, what };
    let signed = event.statement.as_ref().ok_or(refuse("statement"))?;
    let body =
        v1::Statement::decode(signed.body.as_slice()).map_err(|_| refuse("statement body"))?;
    let package = package_id(&body.package).ok_or(refuse("package of the statement"))?;
    let from = hop(event.from.as_ref());
    let ended = Ended::by(&body, from.as_ref()).ok_or(refuse("issuer"))?;
    let mut changes = match (&body.what, &from) {
        (Some(What::Damaged(_)), from) => damage::said(items, index, &package, from.as_ref())?,
        (Some(What::Purged(said)), None) => purged(items, index, &package, said.part())?,
        _ => settle(items, (index, at_ms), &package, &ended)?,
    };
    let key = ItemKey { index, route: 0 };
    if event.next_hop.is_some() && !items.holds(&package, key) {
        let destination = body.destination.parse();
        let item = Item::statement(
            package,
            hop(event.next_hop.as_ref()).ok_or(refuse("next hop"))?,
            from,
            body.issuer.parse().map_err(|_| refuse("issuer"))?,
            destination.map_err(|_| refuse("destination"))?,
            index,
        );
        changes.push(Change::Put(key, item));
    }
    Ok(changes)
}

/// For whom a statement ends the way of its package.
enum Ended {
    /// For nobody.
    Nobody,
    /// For these recipients.
    These(Vec<PartyId>),
    /// For all behind this next hop, or for all when it is our own word.
    Behind(Option<Hop>),
}

impl Ended {
    /// `None` when the issuer is no party.
    fn by(body: &v1::Statement, from: Option<&Hop>) -> Option<Self> {
        let issuer: PartyId = body.issuer.parse().ok()?;
        let Some(what) = &body.what else {
            return Some(Self::Nobody);
        };
        // Our own word that nothing came back closes what expired here; another's does not.
        if let (What::NotReceipted(said), None) = (what, from) {
            return Some(Self::These(vec![said.recipient.parse().ok()?]));
        }
        Some(match terminal_recipients(what) {
            None => Self::Nobody,
            // A refusal that names nobody speaks for all behind its issuer. When the neighbour
            // only relays it, that is the issuer alone.
            Some(named) if named.is_empty() => match from {
                Some(hop) if hop.party != issuer => Self::These(vec![issuer]),
                hop => Self::Behind(hop.cloned()),
            },
            Some(named) => Self::These(named),
        })
    }
}

fn settle(
    items: &impl Items,
    (index, at_ms): (u64, i64),
    package: &PackageId,
    ended: &Ended,
) -> Result<Vec<Change>, StoreError> {
    let mut changes = Vec::new();
    let mut last = None;
    let mut open = false;
    for (key, mut item) in items.of_package(package)? {
        if !item.is_package() {
            continue;
        }
        if index <= item.changed {
            open = true;
            continue;
        }
        let before = item.recipients.len();
        match ended {
            Ended::Nobody => {}
            Ended::These(named) => item.recipients.retain(|party| !named.contains(party)),
            Ended::Behind(Some(hop)) if *hop != item.next_hop => {}
            Ended::Behind(_) => item.recipients.clear(),
        }
        item.changed = index;
        if item.recipients.is_empty() {
            changes.push(Change::Remove(key));
            last = Some(item);
            continue;
        }
        open = true;
        if item.recipients.len() < before {
            changes.push(Change::Put(key, item));
        }
    }
    let key = ItemKey::retained(index);
    if !open
        && !items.holds(package, key)
        && let Some(kept) = last.and_then(|it| it.over(index, Timestamp::from_ms(at_ms)))
    {
        // Before the removals: cut off in between, what is removed later still ends the package.
        changes.insert(0, Change::Put(key, kept));
    }
    Ok(changes)
}

fn purge_decided(
    items: &impl Items,
    index: u64,
    package: &PackageId,
    part: PurgedPart,
) -> Result<Vec<Change>, StoreError> {
    let mut changes = Vec::new();
    for (key, mut item) in items.of_package(package)? {
        if let Some(retained) = &mut item.retained
            && retained.part == part
            && index > item.changed
        {
            retained.decided = Some(index);
            item.changed = index;
            changes.push(Change::Put(key, item));
        }
    }
    Ok(changes)
}

/// We have said that this part is gone.
fn purged(
    items: &impl Items,
    index: u64,
    package: &PackageId,
    part: PurgedPart,
) -> Result<Vec<Change>, StoreError> {
    let mut changes = Vec::new();
    for (key, mut item) in items.of_package(package)? {
        let meant = item.retained.is_some_and(|retained| retained.part == part);
        if !meant || index <= item.changed {
            continue;
        }
        item.changed = index;
        changes.push(match item.without(part) {
            Some(item) => Change::Put(key, item),
            None => Change::Remove(key),
        });
    }
    Ok(changes)
}

fn handed_over(items: &impl Items, hop: &Hop, indices: &[u64]) -> Result<Vec<Change>, StoreError> {
    let mut changes = Vec::new();
    for &index in indices {
        let key = ItemKey { index, route: 0 };
        let item = items.item(key)?;
        if item.is_some_and(|item| !item.is_package() && item.next_hop == *hop) {
            changes.push(Change::Remove(key));
        }
    }
    Ok(changes)
}

/// Statements wait for their next hop once more, under the index of the entry that holds them.
fn resent(
    items: &impl Items,
    index: u64,
    event: &v1::ResentEvent,
) -> Result<Vec<Change>, FoldError> {
    let refuse = |what| FoldError::Entry { index, what };
    let package = package_id(&event.package).ok_or(refuse("resent package"))?;
    let next_hop = hop(event.next_hop.as_ref()).ok_or(refuse("resent next hop"))?;
    let mut changes = Vec::new();
    for said in &event.statements {
        let key = ItemKey {
            index: said.log_index,
            route: 0,
        };
        if items.holds(&package, key) {
            continue;
        }
        let party = |name: &str| name.parse().map_err(|_| refuse("resent statement"));
        let item = Item::statement(
            package,
            next_hop.clone(),
            hop(said.from.as_ref()),
            party(&said.issuer)?,
            party(&said.destination)?,
            index,
        );
        changes.push(Change::Put(key, item));
    }
    Ok(changes)
}

/// Changes the package's items on the way to `hop`, or to any hop.
pub(super) fn change(
    items: &impl Items,
    index: u64,
    package: &PackageId,
    hop: Option<&Hop>,
    with: impl Fn(&mut Item),
) -> Result<Vec<Change>, FoldError> {
    let mut changes = Vec::new();
    for (key, mut item) in items.of_package(package)? {
        let meant = item.is_package() && hop.is_none_or(|hop| *hop == item.next_hop);
        if meant && index > item.changed {
            with(&mut item);
            item.changed = index;
            changes.push(Change::Put(key, item));
        }
    }
    Ok(changes)
}

pub(super) fn into_retry(change: Change) -> Change {
    match change {
        Change::Put(key, item) => Change::Retry(key, item),
        other => other,
    }
}

fn package_id(bytes: &[u8]) -> Option<PackageId> {
    PackageId::from_slice(bytes).ok()
}

fn hop(message: Option<&v1::Hop>) -> Option<Hop> {
    Hop::from_message(message?)
}

fn hold(event: &v1::HoldEvent) -> Option<(PackageId, Option<Hop>)> {
    let next_hop = match &event.next_hop {
        Some(message) => Some(Hop::from_message(message)?),
        None => None,
    };
    Some((package_id(&event.package)?, next_hop))
}
