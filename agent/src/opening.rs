//! From an arrived package to the inbox: decide, open, register, rename, receipt.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use passerelle_disk::{At, Disk, DiskError, DiskFile, FileCursor, crash_point};
use passerelle_host::monotonic;
use passerelle_proto::v1::{self, Reason, statement::What};
use passerelle_proto::{
    Denial, EntryName, EntrySink, Facts, OpenError, PackError, PackLayout, PackageId, PartyId,
    Place, SoundReader, UntrustedManifest, VerifiedManifest, decide, open, sealed_for,
};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::cancel;
use crate::clock::ClockDoubt;
use crate::damage;
use crate::event::AgentEvent;
use crate::hook::Hooks;
use crate::incoming::{accepted_at, is_unfinished, pack_path, remove_accepted_at};
use crate::job::file_name_of;
use crate::node::Node;
use crate::pack_file::PackFile;
use crate::received::Entry;

/// Opens what arrives, one package at a time, until the agent stops. One that cannot be opened now
/// is put off, and holds none of the others up.
pub(crate) async fn open_arrived(node: Arc<Node>, mut arrived: UnboundedReceiver<PackageId>) {
    let hooks = Hooks::start(&node);
    let mut retried = false;
    while let Some(package) = next(&node, &mut arrived, &mut retried).await {
        let opening = node.clone();
        let opened = passerelle_host::blocking(move || open_one(&opening, package)).await;
        match opened {
            Ok(Ok(entry)) => {
                node.unopened.settled(&package);
                if let Some(entry) = entry {
                    hooks.tell_of(&entry);
                }
            }
            Ok(Err(error)) => put_off(&node, package, &error),
            Err(_) => return,
        }
        node.incoming.opened(&package);
        node.metrics.set_unopened(node.unopened.len());
    }
}

/// The next package to open: what has been put off and what has just arrived take turns, so that
/// neither keeps the other waiting. `None`: the agent stops.
async fn next(
    node: &Node,
    arrived: &mut UnboundedReceiver<PackageId>,
    retried: &mut bool,
) -> Option<PackageId> {
    loop {
        if node.stop.is_cancelled() {
            return None;
        }
        let due = node.unopened.due(monotonic());
        if let Some(package) = due.filter(|_| !std::mem::replace(retried, true)) {
            return Some(package);
        }
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return None,
            package = arrived.recv() => {
                *retried = false;
                return package;
            }
            () = node.unopened.turn() => *retried = false,
        }
    }
}

/// A package cannot be opened now. It stays where it is, and is tried again.
fn put_off(node: &Node, package: PackageId, error: &NotNow) {
    let why = error.to_string();
    let wait = node
        .unopened
        .put_off(package, &why, node.now(), monotonic());
    tracing::error!(
        package = package.short(),
        why,
        again_after = ?wait,
        "a package that has arrived cannot be opened now: it is tried again"
    );
    node.metrics.set_unopened(node.unopened.len());
    node.tell(AgentEvent::PutOff { package, why });
}

/// Whatever was left half done when the agent stopped; returns what is still to be opened. What
/// concerns one package and fails puts that one off. Blocks.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn recover(node: &Arc<Node>) -> Result<Vec<PackageId>, DiskError> {
    let disk = node.store.disk();
    for entry in node.register.all() {
        if let Err(error) = resume(node, &entry) {
            put_off(node, entry.id(), &error.into());
        }
    }
    for left in disk.entries(&node.store.opening())? {
        let name = left.file_name().unwrap_or_default().to_string_lossy();
        let id = name.parse::<PackageId>().ok();
        // What is registered and not in the inbox yet is nowhere else.
        if id.is_some_and(|id| node.unopened.find(&id).is_some()) {
            continue;
        }
        // All else that is registered has been renamed; the rest is opened again from its package.
        if let Err(error) = disk.remove_tree(&left) {
            tracing::error!(%error, "what was half opened stays until it is opened again");
        }
    }
    let mut arrived = Vec::new();
    for path in disk.entries(&node.store.incoming())? {
        match look_at(node, &path) {
            Ok(found) => arrived.extend(found),
            Err(error) => match package_at(&path) {
                Some(package) => put_off(node, package, &error.into()),
                None => tracing::error!(%error, "what is left of an arrival stays for now"),
            },
        }
    }
    Ok(arrived)
}

/// Finishes what was registered and not yet said, and has what was said sent.
fn resume(node: &Arc<Node>, entry: &Entry) -> Result<(), DiskError> {
    let body = entry.sound_manifest()?;
    if let Some(body) = body
        && entry.terminal()?.is_none()
    {
        // Whoever gave it its name may not have lived to make that durable.
        let disk = node.store.disk();
        disk.sync_parent(entry.directory())?;
        disk.sync_directories(entry.directory(), 1)?;
        match entry.was_opened() {
            true => finish(node, entry, &body)?,
            false => refuse_again(node, entry, &body)?,
        }
    }
    for signed in entry.unacked()? {
        let id = passerelle_proto::StatementId(passerelle_proto::Digest::of(&signed.body));
        node.outgoing.statement(entry.id(), id, signed);
    }
    Ok(())
}

/// The package whose pack this is.
fn package_at(path: &Path) -> Option<PackageId> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".pack")?.parse().ok()
}

/// Tidies up one file of `incoming/` at a start; the package, where it is one that is to be opened.
fn look_at(node: &Arc<Node>, path: &Path) -> Result<Option<PackageId>, DiskError> {
    let disk = node.store.disk();
    let Some(id) = package_at(path) else {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // A note beside a pack that is gone already; nothing else would ever remove it.
        let beside = name.ends_with(".part") || name.ends_with(".accepted");
        if beside && !disk.is_file(&path.with_extension("pack")) {
            disk.remove_synced(path)?;
        }
        lost(node, path)?;
        return Ok(None);
    };
    if node.unopened.find(&id).is_some() {
        return Ok(None);
    }
    if node.register.find(id).is_some() {
        disk.remove_synced(&path.with_extension("part"))?;
        forget(node, path)?;
        return Ok(None);
    }
    let is_whole = !is_unfinished(node, &id);
    Ok((is_whole && node.incoming.tell(id)).then_some(id))
}

/// A package of which only the time of its acceptance is left has arrived, and is gone.
fn lost(node: &Arc<Node>, path: &Path) -> Result<(), DiskError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(id) = name.strip_suffix(".accepted") else {
        return Ok(());
    };
    let disk = node.store.disk();
    let left = |ending: &str| disk.is_file(&path.with_extension(ending));
    match id.parse::<PackageId>() {
        Ok(package) if !left("pack") && !left("part") => match node.register.find(package) {
            None => damage::found(node, package, "the file is gone"),
            Some(_) => disk.remove_synced(path),
        },
        _ => Ok(()),
    }
}

/// Opens an arrived package; `None` when nothing came of it that a person can use.
pub(crate) fn open_one(node: &Arc<Node>, package: PackageId) -> Result<Option<Entry>, NotNow> {
    let path = pack_path(node, &package);
    if let Some(entry) = node.register.find(package) {
        // An attempt before this one may have come no further than the entry.
        resume(node, &entry)?;
        forget(node, &path)?;
        return Ok(Some(entry));
    }
    if is_unfinished(node, &package) {
        // It was let go of since, and is being fetched again.
        return Ok(None);
    }
    let opened = match node.store.disk().open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Unopened::Damaged("the file is gone".into()))
        }
        opened => {
            let mut file = FileCursor::new(opened.at("open", &path)?);
            let manifest = read_manifest(node, &mut file, package);
            manifest.and_then(|manifest| open_file(node, &manifest, file, &path))
        }
    };
    let entry = match opened {
        Ok(entry) => entry,
        // Our own file is not what has arrived: it is fetched again.
        Err(Unopened::Damaged(why)) => {
            damage::found(node, package, &why)?;
            return Ok(None);
        }
        Err(Unopened::NotNow(error)) => return Err(error),
    };
    forget(node, &path)?;
    crash_point!("open.done");
    Ok(entry)
}

/// Removes an arrived package that is registered, refused, or damaged.
pub(crate) fn forget(node: &Node, pack: &Path) -> Result<(), DiskError> {
    let disk = node.store.disk();
    remove_accepted_at(disk.as_ref(), pack)?;
    disk.remove_synced(pack)
}

/// Whether an arrived package may be opened; one that may not is refused for good.
fn may_be_opened(
    node: &Arc<Node>,
    manifest: &VerifiedManifest,
    path: &Path,
) -> Result<bool, Unopened> {
    let directory = node.directory();
    let facts = Facts {
        directory: &directory,
        manifest,
        place: Place::Recipient { party: &node.party },
        first_accepted: accepted_at(node.store.disk().as_ref(), path),
    };
    let moment = node.host_clock.moment();
    if let Err(denial) = decide(&facts, moment.wall) {
        if let Some(doubt) = node.clock.doubt(moment).filter(|_| denial.depends_on_now()) {
            return Err(NotNow::Clock(denial, doubt).into());
        }
        let (reason, article) = (denial.reason(), denial.article());
        refuse(node, manifest, reason, article, &denial.to_string())?;
        return Ok(false);
    }
    if cancel::is_cancelled(node, manifest)? {
        refuse(node, manifest, Reason::Cancelled, "", cancel::WHY)?;
        return Ok(false);
    }
    Ok(true)
}

fn open_file(
    node: &Arc<Node>,
    manifest: &VerifiedManifest,
    mut file: FileCursor,
    path: &Path,
) -> Result<Option<Entry>, Unopened> {
    let package = manifest.id();
    if !may_be_opened(node, manifest, path)? {
        return Ok(None);
    }
    node.tell(AgentEvent::Arrived {
        package,
        sender: manifest.sender().to_string(),
    });
    let unfinished = node.store.opening().join(format!("{package}.tmp"));
    node.store.disk().remove_tree(&unfinished)?;
    let mut sink = Files::new(node.store.disk(), &unfinished);
    let opened = sealed_for(manifest, &mut file).and_then(|keys| {
        let secret = node.recipients.choose(&keys);
        open(manifest, &secret, &mut file, &mut sink)
    });
    if opened.is_err() {
        node.store.disk().remove_tree(&unfinished)?;
        // It was whole when it came: what is wrong now tells whose fault it is.
        check_sound(manifest, file, path)?;
    }
    let opened = match opened {
        Ok(opened) => opened,
        Err(OpenError::Io { source, .. }) => {
            return Err(DiskError::new("open", path, source).into());
        }
        Err(error) => {
            let reason = error.reason().unwrap_or(Reason::Other);
            refuse(node, manifest, reason, "", &error.to_string())?;
            return Ok(None);
        }
    };
    crash_point!("open.written");
    let title = opened.description.title.clone();
    let place = (!manifest.is_test()).then(|| inbox_place(node, manifest, &title));
    let whole = node.store.opening().join(package.to_string());
    if place.is_some() {
        node.store.disk().remove_tree(&whole)?;
        node.store.disk().rename_synced(&unfinished, &whole)?;
        crash_point!("open.renamed");
    } else {
        node.store.disk().remove_tree(&unfinished)?;
    }
    let description = &opened.description;
    let (place, now) = (place.as_deref(), node.now());
    let hook = place.is_some() && !node.config.on_receive.is_empty();
    let entry = node
        .register
        .enter(manifest.signed(), description, place, hook, now)?;
    crash_point!("open.entered");
    finish(node, &entry, manifest.body())?;
    Ok(Some(entry))
}

/// Renames into the inbox, unless that has happened. On return it is durable either way: whoever
/// renamed may not have lived to see to that.
fn put(node: &Node, whole: &Path, place: &Path) -> Result<(), DiskError> {
    let disk = node.store.disk();
    if disk.is_dir(whole) {
        if let Some(parent) = place.parent() {
            disk.create_directories(parent)?;
            if !disk.is_dir(parent) {
                let why = "something else is in its place: move it away";
                let error = io::Error::new(io::ErrorKind::NotADirectory, why);
                return Err(DiskError::new("create", parent, error));
            }
        }
        return disk.rename_synced(whole, place);
    }
    // The directories belong to the users of the inbox: they may be gone by now.
    if place.parent().is_some_and(|parent| disk.is_dir(parent)) {
        disk.sync_parent(place)?;
    }
    disk.sync_parent(whole)
}

/// Puts a package into the inbox and signs the receipt.
fn finish(node: &Arc<Node>, entry: &Entry, manifest: &v1::Manifest) -> Result<(), DiskError> {
    let whole = node.store.opening().join(entry.id().to_string());
    let place = entry.place()?;
    if let Some(place) = &place {
        put(node, &whole, place)?;
        crash_point!("open.placed");
    }
    let sender = sender_of(entry, manifest)?;
    let what = What::Delivered(v1::Delivered {
        recipient: node.party.to_string(),
        content_commit: manifest.content_commit.clone(),
    });
    node.say(entry, &sender, what)?;
    crash_point!("open.receipted");
    let title = entry
        .description()?
        .map_or(String::new(), |description| description.title);
    node.metrics.received(&manifest.flow);
    tracing::info!(package = entry.id().short(), from = %sender, "received");
    node.tell(AgentEvent::Received {
        package: entry.id(),
        sender: sender.to_string(),
        flow: manifest.flow.clone(),
        title,
        path: place,
    });
    Ok(())
}

/// What was said about a package that was refused has rotted: that it was refused is said again.
fn refuse_again(node: &Arc<Node>, entry: &Entry, manifest: &v1::Manifest) -> Result<(), DiskError> {
    let package = entry.id().short();
    tracing::error!(
        package,
        "a refusal has rotted: it is said again, without its reason"
    );
    let what = What::Refused(v1::Refused {
        reason: Reason::Other as i32,
        article: String::new(),
        recipients: vec![node.party.to_string()],
    });
    node.say(entry, &sender_of(entry, manifest)?, what)?;
    Ok(())
}

fn sender_of(entry: &Entry, manifest: &v1::Manifest) -> Result<PartyId, DiskError> {
    let sender = manifest.sender.parse().map_err(io::Error::other);
    sender.at("read", entry.directory())
}

/// Refuses an arrived package for good, with a signed statement.
fn refuse(
    node: &Arc<Node>,
    manifest: &VerifiedManifest,
    reason: Reason,
    article: &str,
    why: &str,
) -> Result<(), DiskError> {
    tracing::warn!(package = manifest.id().short(), why, "refused");
    node.metrics.refused();
    let refused = v1::Refused {
        reason: reason as i32,
        article: article.to_owned(),
        recipients: vec![node.party.to_string()],
    };
    node.enter_refused(manifest, refused)?;
    node.tell(AgentEvent::Refused {
        package: manifest.id(),
        reason,
        why: why.to_owned(),
    });
    Ok(())
}

/// Why an arrived package is not opened.
enum Unopened {
    /// It has rotted.
    Damaged(String),
    /// It is tried again.
    NotNow(NotNow),
}

impl<E: Into<NotNow>> From<E> for Unopened {
    fn from(error: E) -> Self {
        Self::NotNow(error.into())
    }
}

/// Why an arrived package is put off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotNow {
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// It would be refused for good, by a clock that is not believed.
    #[error("{0}; {1}")]
    Clock(Denial, ClockDoubt),
}

/// Whether an arrived package is still what its manifest says. Blocks for reading it.
fn check_sound(manifest: &VerifiedManifest, file: FileCursor, path: &Path) -> Result<(), Unopened> {
    let stored = PackFile {
        file: file.into_file().into(),
        layout: PackLayout::tight(manifest),
    };
    let examined = SoundReader::new(manifest, stored).examine();
    match examined.at("read", path)?.damage {
        Some(damage) => Err(Unopened::Damaged(damage.to_string())),
        None => Ok(()),
    }
}

/// The manifest in an arrived package: it was verified before the first byte of it was taken, and
/// has to be what it was then.
fn read_manifest(
    node: &Node,
    file: &mut FileCursor,
    package: PackageId,
) -> Result<VerifiedManifest, Unopened> {
    let path = pack_path(node, &package);
    let damaged = |error: &dyn ToString| Unopened::Damaged(error.to_string());
    let (layout, signed) = PackLayout::read(file).map_err(|error| match error {
        PackError::Io(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
            DiskError::new("read", &path, source).into()
        }
        error => damaged(&error),
    })?;
    let manifest = UntrustedManifest::parse(signed).map_err(|error| damaged(&error))?;
    let directory = node.directory();
    let key = directory.signing_key(manifest.sender(), &manifest.signer());
    let manifest = match key {
        Some(key) => manifest.verify(&key.key).map_err(|error| damaged(&error))?,
        // Nobody takes a package from a signer that no sheet lists.
        None => manifest.verified_before(),
    };
    match manifest.id() == package && layout == PackLayout::tight(&manifest) {
        true => Ok(manifest),
        false => Err(damaged(&"the manifest is another one than has arrived")),
    }
}

fn inbox_place(node: &Node, manifest: &VerifiedManifest, title: &str) -> PathBuf {
    let flow = node.store.inbox().join(manifest.flow().as_str());
    let (date, id) = (node.now().date(), manifest.id().short());
    flow.join(format!("{date}-{id}-{}", file_name_of(title)))
}

/// Files below a directory, synced as a whole.
struct Files {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    current: Option<Current>,
}

/// The file that is being written.
struct Current {
    file: Box<dyn DiskFile>,
    length: u64,
}

impl Files {
    fn new(disk: &Arc<dyn Disk>, root: &Path) -> Self {
        Self {
            disk: disk.clone(),
            root: root.to_owned(),
            current: None,
        }
    }
}

impl EntrySink for Files {
    fn begin(&mut self, name: &EntryName, _: u64) -> io::Result<()> {
        let path = self.root.join(name.as_str());
        if let Some(parent) = path.parent() {
            self.disk.create_directories(parent)?;
        }
        let file = self.disk.create_new(&path)?;
        self.current = Some(Current { file, length: 0 });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let current = self.current.as_mut().ok_or(io::ErrorKind::InvalidInput)?;
        current.file.write_at(bytes, current.length)?;
        current.length += bytes.len() as u64;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.current = None;
        Ok(self.disk.sync_tree(&self.root)?)
    }
}
