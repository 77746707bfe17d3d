//! When a gateway accepted a package, by the receipt that it gave.

use crate::v1::{Signed, statement::What};
use crate::{
    CLOCK_TOLERANCE, Directory, KeyRole, PartyId, Timestamp, UntrustedStatement, VerifiedManifest,
};

/// When the gateway of `party` accepted the package, as its own receipt says; `None` when the
/// receipt is not its word about this package, or from the future.
///
/// A key that was revoked after that does not make the receipt invalid.
pub fn accepted_at(
    directory: &Directory,
    party: &PartyId,
    manifest: &VerifiedManifest,
    receipt: Signed,
    now: Timestamp,
) -> Option<Timestamp> {
    let untrusted = UntrustedStatement::parse(receipt).ok()?;
    let key = directory.signing_key(party, &untrusted.signer())?;
    let receipt = untrusted.verify(&key.key).ok()?;
    let at = receipt.at();
    let believed = key.may(KeyRole::Gateway)
        && key.revoked.is_none_or(|revoked| revoked > at)
        && receipt.issuer() == party
        && receipt.package() == manifest.id()
        && at <= now.saturating_add(CLOCK_TOLERANCE);
    (believed && matches!(receipt.what(), What::Accepted(_))).then_some(at)
}
