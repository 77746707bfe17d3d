//! Packages that have rotted: one that has arrived here and is not opened yet is fetched once more,
//! and one of ours is offered once more to a gateway whose copy has rotted.
//!
//! What was said about the former lies in `state/damaged/<package>/`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use passerelle_disk::{DiskError, crash_point};
use passerelle_proto::v1::{self, Signed, statement::What};
use passerelle_proto::{Digest, PackageId, StatementId, Timestamp, VerifiedStatement};
use prost::Message;

use crate::incoming::pack_path;
use crate::node::Node;
use crate::outgoing::read_manifest;
use crate::receipts::{Taken, store};
use crate::said::Said;
use crate::store::Store;

/// How long it is kept what was said: no package lives longer than 90 days after it was made.
const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 3_600);

fn kept_in(store: &Store) -> PathBuf {
    store.state().join("damaged")
}

fn said(store: &Store, package: &PackageId) -> Said {
    Said::below(store.disk(), &kept_in(store).join(package.to_string()))
}

/// An arrived package has rotted: says so to our gateway, which offers it again, and lets go of
/// what is left of it. Blocks.
///
/// # Errors
/// [`DiskError`]: it is found again then.
pub(crate) fn found(node: &Arc<Node>, package: PackageId, why: &str) -> Result<(), DiskError> {
    let file = pack_path(node, &package);
    let shown = file.display();
    tracing::error!(package = package.short(), file = %shown, why, "an arrived package is damaged");
    node.metrics.damaged();
    let said = said(&node.store, &package);
    // An attempt before this one may have said so, and come no further.
    let is_new = said.unacked()?.is_empty();
    if let Some(gateway) = node.gateway().filter(|_| is_new) {
        let what = What::Damaged(v1::Damaged {});
        node.say_damaged(package, &gateway.party, what, |id, signed| {
            said.store(id, signed)
        })?;
        crash_point!("damage.said");
    }
    // Whole or not, it would be taken for arrived when it is offered again: it goes before our
    // gateway hears of it.
    crate::opening::forget(node, &file)?;
    crash_point!("damage.forgotten");
    send(node, package, &said)
}

/// Sends what our gateway does not have yet of what was said about a package.
fn send(node: &Node, package: PackageId, said: &Said) -> Result<(), DiskError> {
    for signed in said.unacked()? {
        let id = StatementId(Digest::of(&signed.body));
        node.outgoing.statement(package, id, signed);
    }
    node.news.notify_waiters();
    Ok(())
}

/// Whether our gateway has still to hear that what is here of a package is damaged.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn is_to_be_told(node: &Node, package: &PackageId) -> Result<bool, DiskError> {
    Ok(!said(&node.store, package).unacked()?.is_empty())
}

/// What was said and our gateway does not have yet goes on its way. Blocks.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn recover(node: &Node) -> Result<(), DiskError> {
    let disk = node.store.disk();
    for path in disk.entries(&kept_in(&node.store))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Ok(package) = name.parse::<PackageId>() else {
            continue;
        };
        send(node, package, &said(&node.store, &package))?;
    }
    Ok(())
}

/// Removes what was said about packages that nobody can offer any more and our gateway has, at a
/// clock that is believed. Blocks.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn prune(node: &Node) -> Result<(), DiskError> {
    let disk = node.store.disk();
    for path in disk.entries(&kept_in(&node.store))? {
        let said = Said::below(disk, &path);
        let over = |signed: &Signed| {
            let body = v1::Statement::decode(signed.body.as_slice()).unwrap_or_default();
            node.now() > Timestamp::from_ms(body.at_ms).saturating_add(KEPT_FOR)
        };
        if said.unacked()?.is_empty() && said.all()?.iter().all(over) {
            disk.remove_tree(&path)?;
        }
    }
    Ok(())
}

/// All that was said about one damaged package.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn said_about(store: &Store, package: &PackageId) -> Result<Vec<Signed>, DiskError> {
    said(store, package).all()
}

/// All that was said about damaged packages.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn all_said(store: &Store) -> Result<Vec<Signed>, DiskError> {
    let mut all = Vec::new();
    for path in store.disk().entries(&kept_in(store))? {
        all.extend(Said::below(store.disk(), &path).all()?);
    }
    Ok(all)
}

/// Our gateway has what we said about a damaged package. `false`: it is another statement.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn acked(node: &Node, package: &PackageId, id: StatementId) -> Result<bool, DiskError> {
    said(&node.store, package).acked(id)
}

/// Our gateway's copy of a package of ours is damaged: it is offered again. Blocks.
///
/// # Errors
/// [`DiskError`]: the statement must come again.
pub(crate) fn asked(node: &Arc<Node>, statement: &VerifiedStatement) -> Result<Taken, DiskError> {
    let gateway = node.gateway().map(|hop| hop.party);
    if statement.destination() != &node.party || gateway.as_ref() != Some(statement.issuer()) {
        return Ok(Taken::Refused("it is not our gateway's word to us".into()));
    }
    let package = statement.package();
    let taking = node.outgoing.taking.lock();
    let _one = taking.unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(sent) = node.outgoing.find(&package) {
        store(node, &sent.job, &sent.manifest, statement)?;
        tracing::warn!(
            package = package.short(),
            "our gateway's copy is damaged: offered again"
        );
        node.outgoing.offer_again(&package);
        node.news.notify_waiters();
        return Ok(Taken::Stored);
    }
    let Some(job) = node.outgoing.find_finished(&package) else {
        return Ok(Taken::Refused("it is about no package of ours".into()));
    };
    if let Some(manifest) = read_manifest(&job) {
        store(node, &job, &manifest, statement)?;
    }
    let package = package.short();
    tracing::warn!(
        package,
        "our gateway's copy is damaged of a package that is over here"
    );
    Ok(Taken::Stored)
}
