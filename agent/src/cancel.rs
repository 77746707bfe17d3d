//! A sender takes a package back. Whoever has not opened it yet refuses it then; whoever has keeps
//! it: the request has come too late, and its `Delivered` says so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use passerelle_disk::{At, Disk, DiskError};
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
    let taking = node.outgoing.taking.lock();
    let _one = taking.unwrap_or_else(|poisoned| poisoned.into_inner());
    let Some(sent) = node.outgoing.find(&package) else {
        let why = "that package is over, or was received: there is nothing to take back";
        return Err(Status::failed_precondition(why));
    };
    {
        // Who goes on with jobs after the disk has failed does not meet one that is taken back.
        let _one = node.sealing();
        if let Some(sent) = node.outgoing.withdraw(&package) {
            return never_left(node, sent).map_err(disk);
        }
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
    let job = sent
        .job
        .finish(&place, Some(package), &title, &report, node.now())?;
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
    if !node.store.disk().is_file(&path) {
        if node.clock.doubt(node.host_clock.moment()).is_none() {
            prune(node)?;
        }
        let disk = node.store.disk();
        if disk.entries(&folder)?.len() >= KEPT_MAX {
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
/// [`DiskError`] when what is kept cannot be read.
pub(crate) fn is_cancelled(node: &Node, manifest: &VerifiedManifest) -> Result<bool, DiskError> {
    let path = kept_in(&node.store).join(manifest.id().to_string());
    let request = read(node.store.disk().as_ref(), &path)?;
    Ok(request.is_some_and(|request| {
        // Whoever else asks has no say in it.
        request.issuer() == manifest.sender() && request.package() == manifest.id()
    }))
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Option<VerifiedStatement>, DiskError> {
    let bytes = match disk.read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.at("read", path)?,
    };
    let signed = Signed::decode(bytes.as_slice())
        .map_err(std::io::Error::other)
        .at("read", path)?;
    let parsed = UntrustedStatement::parse(signed);
    let parsed = parsed.map_err(std::io::Error::other).at("read", path)?;
    Ok(Some(parsed.verified_before()))
}

/// Removes requests about packages that nobody can offer any more, at a clock that is believed.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn prune(node: &Node) -> Result<(), DiskError> {
    let disk = node.store.disk();
    for path in disk.entries(&kept_in(&node.store))? {
        let over = |at: Timestamp| node.now() > at.saturating_add(KEPT_FOR);
        if read(disk.as_ref(), &path)?.is_none_or(|request| over(request.at())) {
            disk.remove_synced(&path)?;
        }
    }
    Ok(())
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
