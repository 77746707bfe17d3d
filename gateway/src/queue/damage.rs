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

/// Our copy is whole again, and lies where `pack` says.
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
    Ok(whole.into_iter().map(into_retry).collect())
}
