//! `passerelle backup`: a copy of a gateway's directory, while the gateway works.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use passerelle_proto::v1::BackupRequest;

use super::arguments::GatewayBackupArguments;
use super::endpoint::{Daemon, refused};
use super::export::Folder;
use super::failure::{Exit, Failure};
use super::output::Output;

const WHY_A_GATEWAY: &str = "a gateway's directory is copied; an agent's keys by `keys backup`";
/// End of the folder's name until all of it is there.
const UNFINISHED: &str = ".unfinished";

/// Writes the copy beside its place, syncs it, and puts it there.
pub(super) async fn run(
    arguments: &GatewayBackupArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let place = std::path::absolute(&arguments.folder)
        .map_err(|error| Failure::writing(&arguments.folder, &error))?;
    // With a slash at its end, as shells complete it, nothing would stand beside it.
    let place: PathBuf = place.components().collect();
    if place.symlink_metadata().is_ok() {
        let what = format_args!("{} exists", place.display());
        let remedy = "nothing was overwritten; name a folder that is not there yet";
        return Err(Failure::new(Exit::CannotCreate, what, remedy));
    }
    let unfinished = passerelle_disk::beside(&place, UNFINISHED);
    let disk = passerelle_disk::system();
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: passerelle_disk::DiskError| Failure::writing(&path, &error.source)
    };
    let mut gateway = Daemon::gateway(&arguments.daemon, WHY_A_GATEWAY).await?;
    // What was left by one that broke off.
    disk.remove_tree(&unfinished).map_err(failed(&unfinished))?;
    let mut folder = Folder::new(&unfinished, "backup")?;
    // As the gateway's own: it tells who sends what to whom, and when.
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o700))
        .map_err(|error| Failure::writing(&unfinished, &error))?;
    let stream = gateway.backup(BackupRequest {}).await;
    let stream = stream.map_err(|status| refused(&status))?;
    folder.take(stream.into_inner()).await?;
    let written = folder.finish()?;
    let named = disk.rename_synced(&unfinished, &place);
    named.map_err(failed(&place))?;
    output.answer(&written.at(&place))
}
