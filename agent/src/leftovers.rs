//! What has come of packages that will never be whole: partial transfers that nobody will go on
//! with are removed, at a start and while the agent runs. A pack that is whole is none of them,
//! whatever has become of its package: whoever opens it decides.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use passerelle_disk::{At, DiskError};
use passerelle_host::monotonic;
use passerelle_proto::{PackageId, UntrustedManifest};

use crate::cancel;
use crate::incoming::{arrived_manifest, forget_unfinished, is_unfinished};
use crate::node::Node;

/// How often what is arriving is looked through.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Longest time that a partial transfer is kept without any progress: it begins anew after that.
const IDLE_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

/// How far each transfer had come when it was last seen to go on.
type Progress = BTreeMap<PackageId, (Vec<u8>, Instant)>;

/// Removes what will never be whole, as long as the agent runs.
pub(crate) async fn keep_tidy(node: Arc<Node>) {
    let mut progress = Progress::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            _ = look.tick() => {}
        }
        let tidying = node.clone();
        let work = move || {
            if let Err(error) = tidy(&tidying, &mut progress) {
                tracing::warn!(%error, "what is arriving is looked through again");
            }
            progress
        };
        match passerelle_host::blocking(work).await {
            Ok(back) => progress = back,
            Err(_) => return,
        }
    }
}

/// Looks through everything once. What cannot be read or removed stays, and holds nothing up.
fn tidy(node: &Arc<Node>, progress: &mut Progress) -> Result<(), DiskError> {
    let mut arriving = Vec::new();
    for mark in node.store.disk().entries(&node.store.incoming())? {
        let Some(package) = package_of(&mark) else {
            continue;
        };
        arriving.push(package);
        match tidy_one(node, package, &mark, progress) {
            Ok(None) => {}
            Ok(Some(why)) => {
                let package = package.short();
                tracing::info!(package, why, "what had come of it is removed");
            }
            Err(error) => tracing::warn!(%error, "what has come of a package stays for now"),
        }
    }
    progress.retain(|package, _| arriving.contains(package));
    Ok(())
}

fn package_of(mark: &Path) -> Option<PackageId> {
    let name = mark.file_name()?.to_str()?;
    name.strip_suffix(".part")?.parse().ok()
}

/// Removes one partial transfer if nothing more can come of it; why it was removed.
fn tidy_one(
    node: &Arc<Node>,
    package: PackageId,
    mark: &Path,
    progress: &mut Progress,
) -> Result<Option<&'static str>, DiskError> {
    let why = match over(node, package)? {
        Some(why) => why,
        None if is_idle(node, package, mark, progress)? => "nothing has come of it for 7 days",
        None => return Ok(None),
    };
    // It may be whole by now.
    if !is_unfinished(node, &package) {
        return Ok(None);
    }
    forget_unfinished(node, &package)?;
    Ok(Some(why))
}

/// Why a package is over for us, if it is. What says so is durable, or holds for everybody.
fn over(node: &Arc<Node>, package: PackageId) -> Result<Option<&'static str>, DiskError> {
    if node.register.find(package).is_some() {
        return Ok(Some("it was received or refused"));
    }
    let signed = arrived_manifest(node, &package);
    let parsed = signed.and_then(|signed| UntrustedManifest::parse(signed).ok());
    let Some(manifest) = parsed.map(UntrustedManifest::verified_before) else {
        return Ok(None);
    };
    if cancel::is_cancelled(node, &manifest)? {
        return Ok(Some(cancel::WHY));
    }
    // What is removed has to come again if our clock was wrong.
    let moment = node.host_clock.moment();
    let expired = moment.wall > manifest.not_after() && node.clock.doubt(moment).is_none();
    Ok(expired.then_some("it may not be opened any more"))
}

/// Whether nothing more has come of a package for too long, as far as this process has seen.
fn is_idle(
    node: &Node,
    package: PackageId,
    mark: &Path,
    progress: &mut Progress,
) -> Result<bool, DiskError> {
    let come = node.store.disk().read(mark).at("read", mark)?;
    let now = monotonic();
    let seen = progress.entry(package).or_insert((Vec::new(), now));
    if seen.0 != come {
        *seen = (come, now);
    }
    Ok(now.saturating_duration_since(seen.1) > IDLE_MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use passerelle_host::{Clock, HostClock};
    use passerelle_proto::Digest;

    use super::*;
    use crate::config::AgentConfig;
    use crate::daemon::{Ground, load, prepare};
    use crate::lab::{LabOptions, Laboratory};

    fn node(dir: &Path) -> Arc<Node> {
        // Certificates are judged by the clock of this machine.
        let options = LabOptions::new(HostClock.now());
        let lab = Laboratory::create(&dir.join("lab"), &options).unwrap();
        let agent = &lab.party("caf21").unwrap().agent;
        let config = AgentConfig::load(&agent.config).unwrap();
        let disk = passerelle_disk::system();
        let materials = load(&disk, &config).unwrap();
        let clock = Arc::new(HostClock);
        let (node, arrived) = prepare(&Ground { disk, clock }, config, materials).unwrap();
        assert_eq!(arrived, []);
        node
    }

    #[tokio::test(start_paused = true)]
    async fn a_partial_transfer_that_does_not_go_on_stays_a_week_and_a_whole_pack_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let node = node(dir.path());
        let [partial, whole] = [1, 2].map(|number| PackageId(Digest([number; 32])));
        let file = |package: PackageId, end: &str| {
            let incoming = node.store.incoming();
            incoming.join(format!("{package}.{end}"))
        };
        for path in [file(partial, "pack"), file(whole, "pack")] {
            fs::write(path, b"no header is durable yet").unwrap();
        }
        let mut progress = Progress::new();
        for come in ["some", "more"] {
            fs::write(file(partial, "part"), come).unwrap();
            tidy(&node, &mut progress).unwrap();
            tokio::time::advance(IDLE_MAX).await;
        }
        tidy(&node, &mut progress).unwrap();
        assert!(file(partial, "pack").exists(), "it has gone on meanwhile");
        tokio::time::advance(LOOK_EVERY).await;
        tidy(&node, &mut progress).unwrap();
        assert!(!file(partial, "pack").exists());
        assert!(!file(partial, "part").exists());
        assert!(file(whole, "pack").exists());
    }
}
