//! A sender takes a package back. Whoever has not opened it yet refuses it then; whoever has keeps
//! it: the request has come too late, and its `Delivered` says so.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use passerelle_disk::{At, DiskError, beside};
use passerelle_proto::v1::{self, CancelState, Cancelled, Signed, statement::What};
use passerelle_proto::{
    COMMENT_LEN_MAX, PackageId, PartyId, StatementId, Timestamp, UntrustedStatement,
    VerifiedManifest, VerifiedStatement,
};
use prost::Message;
use tonic::Status;

use crate::job::Job;
use crate::node::Node;
use crate::outgoing::Sent;
use crate::receipts::progress_of;
use crate::store::Store;

/// Why a package that was taken back is refused, for people.
pub(crate) const WHY: &str = "its sender has taken it back";
/// Requests of others that are kept at a time.
const KEPT_MAX: usize = 10_000;
/// How long one is kept: no package lives longer than 90 days after it was made.
const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 3_600);
/// What a request has behind its name that has rotted.
const DAMAGED: &str = ".damaged";

/// Asks every recipient that has not answered yet to let go of a package. Blocks.
pub(crate) fn ask(
    node: &Arc<Node>,
    package: PackageId,
    comment: &str,
) -> Result<Cancelled, Status> {
    let disk = |error: DiskError| Status::internal(error.to_string());
    if comment.len() > COMMENT_LEN_MAX {
        let why = format!("a comment has at most {COMMENT_LEN_MAX} bytes");
        return Err(Status::invalid_argument(why));
    }
    // Who goes on with jobs after the disk has failed does not meet one that is taken back. A seal
    // may take minutes: neither statements nor those who cannot take it back any more wait for it.
    let may_be_here = |sent: Sent| !sent.tried;
    let here = node.outgoing.find(&package).is_some_and(may_be_here);
    let _sealing = here.then(|| node.sealing());
    let taking = node.outgoing.taking.lock();
    let _one = taking.unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some(sent) = node.outgoing.find(&package) else {
        let why = "that package is over, or was received: there is nothing to take back";
        return Err(Status::failed_precondition(why));
    };
    if here && let Some(sent) = node.outgoing.withdraw(&package) {
        return never_left(node, sent).map_err(disk);
    }
    let states = progress_of(node, &sent.job, &sent.manifest).map_err(disk)?;
    let waiting = states.iter().filter(|state| !state.stage.is_terminal());
    let waiting: Vec<String> = waiting.map(|state| state.recipient.clone()).collect();
    let asked = asked(&sent.job).map_err(disk)?;
    for name in waiting.iter().filter(|name| !asked.contains(*name)) {
        let recipient: PartyId = name.parse().map_err(|_| Status::internal("no party"))?;
        let what = What::Cancel(v1::Cancel {
            recipient: name.clone(),
            comment: comment.to_owned(),
        });
        node.say_of_sent(&sent, &recipient, what).map_err(disk)?;
    }
    Ok(Cancelled {
        state: CancelState::Asked as i32,
        recipients: waiting,
    })
}

/// A package that no gateway has: it goes to `rejected/`, and nobody hears of it.
fn never_left(node: &Arc<Node>, sent: Sent) -> Result<Cancelled, DiskError> {
    let package = sent.manifest.id();
    let title = crate::receipts::title_of(&sent.job).unwrap_or_else(|| "package".into());
    let report = format!(
        "{title}\npackage {package}\n\nIt was cancelled here. Nothing has left this institution.\n"
    );
    let place = node.store.rejected();
    let finished = sent
        .job
        .clone()
        .finish(&place, Some(package), &title, &report, node.now());
    let job = match finished {
        Ok(job) => job,
        Err(error) => {
            // It is where it was, and can be taken back once more.
            node.outgoing.sealed(sent.job)?;
            return Err(error);
        }
    };
    node.outgoing.finished(&package, &job);
    tracing::info!(package = package.short(), "cancelled before it left");
    Ok(Cancelled {
        state: CancelState::NeverLeft as i32,
        recipients: Vec::new(),
    })
}

/// Recipients that have been asked before.
pub(crate) fn asked(job: &Job) -> Result<Vec<String>, DiskError> {
    let said = job.said().all()?;
    let recipients = said.iter().filter_map(|signed| {
        let body = v1::Statement::decode(signed.body.as_slice()).ok()?;
        match body.what? {
            What::Cancel(cancel) => Some(cancel.recipient),
            _ => None,
        }
    });
    Ok(recipients.collect())
}

/// Why a request is not kept.
pub(crate) enum Unkept {
    /// It is not for us, or there are too many: sending it again changes nothing.
    Refused(&'static str),
    /// It must be sent again.
    Disk(DiskError),
}

impl From<DiskError> for Unkept {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

fn kept_in(store: &Store) -> PathBuf {
    store.state().join("cancels")
}

/// Keeps a partner's request. Blocks; on return it is durable.
pub(crate) fn keep(node: &Node, statement: &VerifiedStatement) -> Result<(), Unkept> {
    if statement.destination() != &node.party {
        return Err(Unkept::Refused("it asks somebody else"));
    }
    let folder = kept_in(&node.store);
    let path = folder.join(statement.package().to_string());
    if kept(node, &statement.package())?.is_none() {
        let disk = node.store.disk();
        let is_full = || Ok::<_, DiskError>(disk.entries(&folder)?.len() >= KEPT_MAX);
        if is_full()? && node.clock.doubt(node.host_clock.moment()).is_none() {
            prune(node)?;
        }
        if is_full()? {
            return Err(Unkept::Refused("too many requests to cancel are kept"));
        }
        disk.create_directories(&folder)?;
        disk.replace(&path, &statement.signed().encode_to_vec())?;
    }
    let (package, from) = (statement.package(), statement.issuer());
    match node.register.find(package) {
        Some(_) => tracing::info!(package = package.short(), %from, "asked to cancel, too late"),
        None => tracing::info!(package = package.short(), %from, "asked to cancel"),
    }
    Ok(())
}

/// Whether the sender of a package has taken it back.
///
/// # Errors
/// [`DiskError`] when what is kept cannot be read; what has rotted is not believed.
pub(crate) fn is_cancelled(node: &Node, manifest: &VerifiedManifest) -> Result<bool, DiskError> {
    let request = kept(node, &manifest.id())?;
    // Whoever else asks has no say in it.
    Ok(request.is_some_and(|request| request.issuer() == manifest.sender()))
}

/// The request that is kept about a package. One that has rotted is put aside, and people are told.
fn kept(node: &Node, package: &PackageId) -> Result<Option<VerifiedStatement>, DiskError> {
    let disk = node.store.disk();
    let path = kept_in(&node.store).join(package.to_string());
    let bytes = match disk.read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.at("read", &path)?,
    };
    let sound = sound(node, package, &bytes);
    if sound.is_none() {
        let aside = beside(&path, DAMAGED);
        tracing::error!(
            file = %path.display(),
            aside = %aside.display(),
            "a request to cancel is damaged and put aside: its sender may be asked to cancel again"
        );
        disk.rename_synced(&path, &aside)?;
    }
    Ok(sound)
}

/// What is kept about a package, if it is what was verified once.
fn sound(node: &Node, package: &PackageId, bytes: &[u8]) -> Option<VerifiedStatement> {
    let signed = Signed::decode(bytes).ok()?;
    let parsed = UntrustedStatement::parse(signed).ok()?;
    let directory = node.directory();
    let request = match directory.signing_key(parsed.issuer(), &parsed.signer()) {
        Some(key) => parsed.verify(&key.key).ok()?,
        // It was verified before it was kept, with a key that is in no sheet any more.
        None => parsed.verified_before(),
    };
    (request.package() == *package).then_some(request)
}

/// Removes requests about packages that nobody can offer any more, at a clock that is believed.
/// What cannot be read stays, and holds nothing up.
///
/// # Errors
/// [`DiskError`] when none of it can be listed.
pub(crate) fn prune(node: &Node) -> Result<(), DiskError> {
    let disk = node.store.disk();
    for path in disk.entries(&kept_in(&node.store))? {
        let pruned = is_over(node, &path).and_then(|over| match over {
            true => disk.remove_synced(&path),
            false => Ok(()),
        });
        if let Err(error) = pruned {
            tracing::warn!(%error, "a request to cancel stays");
        }
    }
    Ok(())
}

/// Whether a file among what is kept says nothing any more about a package that could be offered.
fn is_over(node: &Node, path: &Path) -> Result<bool, DiskError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let request = match name.parse() {
        Ok(package) => kept(node, &package)?,
        Err(_) => None,
    };
    let since = match request {
        Some(request) => request.at(),
        // Half a file of a process that was killed, or one that was put aside. Another thread may
        // be about to give the former its name.
        None => match node.store.disk().status(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            status => modified_at(status.at("look at", path)?.modified),
        },
    };
    Ok(node.now() > since.saturating_add(KEPT_FOR))
}

fn modified_at(modified: SystemTime) -> Timestamp {
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Package that a statement speaks of.
pub(crate) fn package_of(signed: &Signed) -> Option<PackageId> {
    let body = v1::Statement::decode(signed.body.as_slice()).ok()?;
    PackageId::from_slice(&body.package).ok()
}

/// Id of a statement that this party has signed.
pub(crate) fn id_of(signed: &Signed) -> StatementId {
    StatementId(passerelle_proto::Digest::of(&signed.body))
}

#[cfg(test)]
mod tests;
