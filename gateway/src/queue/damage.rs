//! What becomes of items whose package has rotted somewhere on its way.

use passerelle_proto::{Hop, PackageId, v1};

use super::fold::{Change, FoldError, Items, change, into_retry};

/// A copy of the package is damaged: ours, when nobody has sent the statement; else that of the
/// hop it came from, which is offered the package again.
pub(super) fn said(
    items: &impl Items,
    index: u64,
    package: &PackageId,
    from: Option<&Hop>,
) -> Result<Vec<Change>, FoldError> {
    let Some(hop) = from else {
        return change(items, index, package, None, |item| item.damaged = true);
    };
    let again = change(items, index, package, Some(hop), |item| {
        item.forwarded = false
    })?;
    Ok(again.into_iter().map(into_retry).collect())
}

/// Our copy is whole again, and lies where `pack` says; also when the package was over meanwhile,
/// unless it is being removed by then.
pub(super) fn repaired(
    items: &impl Items,
    index: u64,
    package: &PackageId,
    pack: Option<v1::PackLocation>,
) -> Result<Vec<Change>, FoldError> {
    let whole = change(items, index, package, None, |item| {
        item.damaged = false;
        item.pack = pack.or(item.pack);
    })?;
    let mut changes: Vec<Change> = whole.into_iter().map(into_retry).collect();
    for (key, mut item) in items.of_package(package)? {
        let stays = item.retained.is_some_and(|kept| kept.decided.is_none());
        if stays && item.whole().is_some() && index > item.changed {
            item.pack = pack.or(item.pack);
            item.changed = index;
            changes.push(Change::Put(key, item));
        }
    }
    Ok(changes)
}
