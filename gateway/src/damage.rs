//! A stored package that has rotted: it is not sent, operators hear of it, and the hop that it came
//! from, which keeps it until it is over, is asked for it again.

use std::path::Path;
use std::sync::Arc;

use passerelle_disk::crash_point;
use passerelle_proto::v1::{self, statement::What};
use passerelle_proto::{Damage, Hop, PackageId};

use crate::metrics::Counter;
use crate::node::Node;
use crate::own_statement::OwnStatement;
use crate::queue::{Item, ItemState, ItemView};
use crate::sequencer::SubmitError;

/// Says that our copy of a package is damaged, unless that has been said and it is not repaired.
pub(crate) async fn found(node: &Arc<Node>, item: &Item, damage: &Damage) {
    let package = item.package;
    let Some(previous) = item.previous_hop.clone() else {
        return;
    };
    let file = file_of(node, item);
    let short = package.short();
    let asked = &previous;
    tracing::error!(package = short, file, %damage, %asked, "a stored package is damaged");
    node.metrics.add(Counter::Damages, &[], 1);
    let (queue, pack) = (node.queue.clone(), item.pack);
    let words = move |_| {
        let items = queue.find(&package).unwrap_or_default();
        let unsaid = |view: &ItemView| {
            // What was read while it was repaired may have been removed under whoever read it.
            view.item.is_package() && !view.item.damaged && view.item.pack == pack
        };
        match items.iter().any(unsaid) {
            true => Ok(What::Damaged(v1::Damaged {})),
            false => Err("it is over, asked for already, or lies elsewhere now".to_owned()),
        }
    };
    let (issuer, to) = (node.party.clone(), previous.party.clone());
    let statement = OwnStatement::new(issuer, to, package, Some(previous), words);
    match node.sequencer.accept(statement).await {
        Ok(_) => crash_point!("damage.said"),
        Err(SubmitError::Denied(why)) => tracing::info!(package = short, why, "nothing is asked"),
        Err(error) => tracing::warn!(%error, "it is asked for when it is offered the next time"),
    }
}

/// Why a package whose copy here is damaged waits, and what helps.
pub(crate) fn words(node: &Node, item: &Item) -> Option<String> {
    if item.state() != ItemState::Damaged {
        return None;
    }
    let previous = item.previous_hop.as_ref().map(Hop::to_string);
    let (file, previous) = (file_of(node, item), previous.unwrap_or_default());
    Some(format!(
        "{file} is damaged: {previous} is asked to offer the package again; if it has none, its \
         sender must send it anew"
    ))
}

/// Packages whose copy here is damaged, and that wait for a whole one.
pub(crate) fn count(node: &Node) -> u64 {
    let counts = node.queue.counts();
    counts.values().map(|counts| counts.damaged).sum()
}

/// Whether something still waits for our copy of a package, and it is damaged.
pub(crate) fn is_damaged(node: &Node, package: &PackageId) -> bool {
    let items = match node.queue.find(package) {
        Ok(items) => items,
        Err(error) => {
            node.fail(error.to_string());
            return false;
        }
    };
    let damaged = |view: &ItemView| view.item.is_package() && view.item.damaged;
    items.iter().any(damaged)
}

fn file_of(node: &Node, item: &Item) -> String {
    let path = item
        .pack
        .map(|pack| node.spool.path_of(&item.package, &pack));
    let path = path.as_deref().unwrap_or(Path::new("the spool"));
    path.display().to_string()
}
