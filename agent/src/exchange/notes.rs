//! What a peer offers or says may need a sheet or a convention that has come just before it, on
//! this lane or on another, and is not in force yet: it waits for that, and is judged then.

use std::time::Duration;

use passerelle_link::Trust;
use passerelle_proto::v1::{Manifest, Signed};
use passerelle_proto::{Digest, Directory, UntrustedManifest, UntrustedStatement};
use prost::Message;
use tokio_util::sync::CancellationToken;

/// Longest wait for a note without which a package or a statement would be refused for good.
/// Whoever sends them on has judged them by that note, and tells what its peers lack first.
pub(super) const NOTE_WAIT_MAX: Duration = Duration::from_secs(30);

/// Whether the signer of an offered package and the convention that it names are known. One that is
/// malformed waits for nothing.
pub(super) fn judges_offer(directory: &Directory, signed: &Signed) -> bool {
    let Ok(manifest) = UntrustedManifest::parse(signed.clone()) else {
        return true;
    };
    let key = directory.signing_key(manifest.sender(), &manifest.signer());
    let body = Manifest::decode(signed.body.as_slice()).unwrap_or_default();
    let convention = Digest::from_slice(&body.convention).ok();
    let convention = convention.and_then(|digest| directory.convention_by_digest(&digest));
    key.is_some() && convention.is_some()
}

/// Whether the signer of a statement is known.
pub(super) fn judges_statement(directory: &Directory, signed: &Signed) -> bool {
    UntrustedStatement::parse(signed.clone()).map_or(true, |statement| {
        let key = directory.signing_key(statement.issuer(), &statement.signer());
        key.is_some()
    })
}

/// Waits until the notes that are in force can judge something, or for as long as that may take;
/// `false`: the agent stops, and nothing is said about it.
pub(super) async fn wait(
    mut trust: Trust,
    stop: &CancellationToken,
    judges: impl Fn(&Directory) -> bool,
) -> bool {
    let known = async { drop(trust.wait_for(|directory| judges(directory)).await) };
    tokio::select! {
        biased;
        _ = tokio::time::timeout(NOTE_WAIT_MAX, known) => true,
        () = stop.cancelled() => false,
    }
}
