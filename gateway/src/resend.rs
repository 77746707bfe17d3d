//! What was said about a package, once more, to a hop that offers the package again.
//!
//! A hop that has acknowledged a statement keeps it. When it offers the package all the same, what
//! it kept is lost: it was restored from a backup, or has begun a new log.

use std::collections::BTreeSet;
use std::sync::Arc;

use passerelle_host::monotonic;
use passerelle_link::Peer;
use passerelle_proto::PackageId;
use passerelle_proto::v1::{self, entry::Event};
use prost::Message;

use crate::node::Node;

/// How what is beyond a peer's budget is counted in the log.
const CLASS: &str = "statements asked for once more";

/// Has the statements about a package that `peer` has acknowledged sent to it once more; those that
/// are still on their way go on.
///
/// # Errors
/// Why the offer cannot be answered now.
pub(crate) async fn about(node: &Arc<Node>, peer: &Peer, package: PackageId) -> Result<(), String> {
    let looking = (node.clone(), peer.clone());
    let found = passerelle_host::blocking(move || find(&looking.0, &looking.1, &package)).await;
    let statements = found.map_err(|_| "the gateway is stopping".to_owned())??;
    if statements.is_empty() {
        return Ok(());
    }
    {
        // Every time is an entry of the log: nobody makes it grow without limit.
        let mut budget = node.refusals.lock().unwrap_or_else(|p| p.into_inner());
        if !budget.admit(&peer.hop, CLASS, monotonic()) {
            return Err("too much was asked for once more: ask again in a minute".into());
        }
    }
    tracing::info!(%peer, package = package.short(), "it has lost what was said about a package");
    let event = Event::Resent(v1::ResentEvent {
        package: package.as_bytes().to_vec(),
        next_hop: Some(peer.hop.to_message()),
        statements,
    });
    let committed = node.sequencer.commit(event).await;
    committed.map(drop).map_err(|error| error.to_string())
}

fn find(node: &Node, peer: &Peer, package: &PackageId) -> Result<Vec<v1::Resent>, String> {
    let open = node
        .queue
        .find(package)
        .map_err(|error| error.to_string())?;
    // What is kept of a package that is over has the index of the statement that ended it.
    let open = open.iter().filter(|view| view.item.retained.is_none());
    let open: BTreeSet<u64> = open.map(|view| view.key.index).collect();
    let entries = node.sequencer.entries_about(package);
    let entries = entries.map_err(|error| error.to_string())?;
    let to = Some(peer.hop.to_message());
    let mut said = Vec::new();
    for committed in entries {
        let Some(Event::Statement(event)) = committed.entry.event else {
            continue;
        };
        if event.next_hop != to || open.contains(&committed.index) {
            continue;
        }
        let body = event.statement.unwrap_or_default().body;
        let body = v1::Statement::decode(body.as_slice()).map_err(|error| error.to_string())?;
        said.push(v1::Resent {
            log_index: committed.index,
            issuer: body.issuer,
            destination: body.destination,
            from: event.from,
        });
    }
    Ok(said)
}
