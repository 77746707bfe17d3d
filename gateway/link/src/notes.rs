//! What a peer offers or says may need a sheet or a convention that has come just before it, on
//! this lane or on another, and is not in force yet: it waits for that, and is judged then.

use std::time::Duration;

use passerelle_proto::v1::Signed;
use passerelle_proto::{Directory, UntrustedManifest, UntrustedStatement};
use tokio_util::sync::CancellationToken;

use crate::Trust;

/// Longest wait for a note without which a package or a statement would be refused for good.
/// Whoever sends them on has judged them by that note, and tells what its peers lack first.
pub const NOTE_WAIT_MAX: Duration = Duration::from_secs(30);

/// Waits until the signer of an offered package and the convention that it names are known, or for
/// [`NOTE_WAIT_MAX`]; `false`: the program stops, and nothing is said about it. One that is
/// malformed waits for nothing.
pub async fn wait_to_judge_offer(
    trust: Trust,
    stop: &CancellationToken,
    manifest: &Signed,
) -> bool {
    let Ok(manifest) = UntrustedManifest::parse(manifest.clone()) else {
        return true;
    };
    let judges = |directory: &Directory| {
        let key = directory.signing_key(manifest.sender(), &manifest.signer());
        key.is_some()
            && directory
                .convention_by_digest(&manifest.convention())
                .is_some()
    };
    wait(trust, stop, judges).await
}

/// Waits until the signer of a statement is known, as [`wait_to_judge_offer`] does.
pub async fn wait_to_judge_statement(
    trust: Trust,
    stop: &CancellationToken,
    statement: &Signed,
) -> bool {
    let Ok(statement) = UntrustedStatement::parse(statement.clone()) else {
        return true;
    };
    let judges = |directory: &Directory| {
        let key = directory.signing_key(statement.issuer(), &statement.signer());
        key.is_some()
    };
    wait(trust, stop, judges).await
}

async fn wait(
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
