//! What a gateway is given a second time, because it has lost what it knew.
//!
//! A gateway that begins a new log knows none of the packages that its old log had accepted. The
//! agent keeps every package until it is receipted, and offers those again that are not.

use std::path::PathBuf;
use std::sync::Arc;

use passerelle_disk::DiskError;
use passerelle_proto::{Digest, StatementId};

use crate::node::Node;
use crate::outgoing::Outgoing;
use crate::received::Entry;
use crate::store::Store;

/// There while packages are to be offered again that the gateway had signed for.
fn mark(store: &Store) -> PathBuf {
    store.state().join("offer-again")
}

/// The gateway has a new log: whatever is not receipted is offered to it again. On return that is
/// durable. Blocks.
///
/// # Errors
/// [`DiskError`]; nothing is offered again then.
pub(crate) fn begin(node: &Node) -> Result<(), DiskError> {
    node.store.disk().replace(&mark(&node.store), b"")?;
    let open = node.outgoing.offer_all_again();
    tracing::warn!(
        open,
        "our gateway has begun a new log, for its old one is lost: what is open is offered again"
    );
    node.news.notify_waiters();
    end(node)
}

/// Goes on with it at a start.
pub(crate) fn recover(store: &Store, outgoing: &Outgoing) {
    if store.disk().is_file(&mark(store)) {
        outgoing.offer_all_again();
    }
}

/// Forgets about it when the gateway has signed for everything. Blocks.
///
/// # Errors
/// [`DiskError`]; all of it is offered again after the next start then.
pub(crate) fn end(node: &Node) -> Result<(), DiskError> {
    match node.outgoing.all_offered_again() {
        true => node.store.disk().remove_if_there(&mark(&node.store)),
        false => Ok(()),
    }
}

/// Sends everything that we have said about a received package once more. Blocks.
///
/// # Errors
/// [`DiskError`] when it cannot be read.
pub(crate) fn say(node: &Arc<Node>, entry: &Entry) -> Result<(), DiskError> {
    for signed in entry.statements()? {
        let id = StatementId(Digest::of(&signed.body));
        node.outgoing.statement(entry.id(), id, signed);
    }
    node.news.notify_waiters();
    Ok(())
}
