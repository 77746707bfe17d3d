//! From the outbox to a sealed package: claim, check, seal, commit.

mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use passerelle_disk::{At, Disk, DiskError, FileCursor, Kind as FileKind, crash_point};
use passerelle_proto::v1::{Description, Kind};
use passerelle_proto::{
    Denial, EntryName, Facts, FlowId, PackageId, PackagePrefix, PartyId, Place, RecipientKey,
    SealError, SealPlan, SourceEntry, Timestamp, decide, seal,
};
use prost::Message;

pub(crate) use self::watch::watch_outbox;
use crate::clock::ClockDoubt;
use crate::event::AgentEvent;
use crate::instructions::{INSTRUCTIONS, Instructions, InstructionsError};
use crate::job::{Job, JobKind, JobRecord};
use crate::node::Node;
use crate::outbox::DEPTH_MAX;
use crate::outgoing::read_manifest;

/// Why a job cannot be sealed: for a person to read.
#[derive(Debug, thiserror::Error)]
enum Unsealable {
    /// What was dropped is at fault, or the convention does not allow it.
    #[error("{0}")]
    Rejected(String),
    /// The disk; it is tried again.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

fn rejected(why: impl ToString) -> Unsealable {
    Unsealable::Rejected(why.to_string())
}

impl From<InstructionsError> for Unsealable {
    fn from(error: InstructionsError) -> Self {
        match error {
            InstructionsError::Read(error) => Self::Disk(error),
            wrong => rejected(wrong),
        }
    }
}

/// What was not read or not written says nothing about what was dropped.
fn not_sealed(dropped: &Path, error: SealError) -> Unsealable {
    match error {
        SealError::Io { what, source } => {
            let why = io::Error::new(source.kind(), format!("{what}: {source}"));
            Unsealable::Disk(DiskError::new("seal", dropped, why))
        }
        wrong => rejected(wrong),
    }
}

fn report(name: &str, why: &str) -> String {
    format!("{name} was not sent.\n\n{why}\n\nNothing has left this institution.\n")
}

/// Seals a claimed job; one that cannot be sealed goes to `rejected/` with a report. Blocks.
pub(crate) fn seal_job(node: &Arc<Node>, job: Job) -> Result<(), DiskError> {
    let Some(record) = job.record()? else {
        let (name, why) = unknown(&job)?;
        return reject(node, job, name, why);
    };
    match seal_claimed(node, &job, &record) {
        Ok(()) => Ok(()),
        Err(Unsealable::Disk(error)) => {
            // Where the disk is full, what was sealed of it is in the way.
            let _ = node.store.disk().remove_if_there(&job.unfinished_package());
            Err(error)
        }
        Err(Unsealable::Rejected(why)) => reject(node, job, record.name, why),
    }
}

/// Of a job of which nobody knows any more what it was dropped for: its name, and what helps.
fn unknown(job: &Job) -> Result<(String, String), DiskError> {
    let dropped = job.dropped()?;
    let name = dropped.as_deref().and_then(Path::file_name);
    let name = name.unwrap_or_default().to_string_lossy().into_owned();
    let file = job.record_file();
    let why = format!(
        "{}, which said for which flow it was dropped, is damaged or gone: drop what lies in the \
         folder `source` beside this report once more.",
        file.display()
    );
    Ok((name, why))
}

fn reject(node: &Arc<Node>, job: Job, name: String, why: String) -> Result<(), DiskError> {
    let report = report(&name, &why);
    tracing::warn!(name, why, "rejected");
    // An attempt before this one may have come as far as its manifest.
    job.discard_seal()?;
    let job = job.finish(&node.store.rejected(), None, &name, &report, node.now())?;
    let path = job.directory().to_owned();
    node.metrics.rejected();
    node.tell(AgentEvent::Rejected { name, why, path });
    Ok(())
}

fn seal_claimed(node: &Arc<Node>, job: &Job, record: &JobRecord) -> Result<(), Unsealable> {
    let dropped = job
        .dropped()?
        .ok_or_else(|| rejected("there is nothing to send"))?;
    let disk = node.store.disk();
    let instructions = match disk.is_dir(&dropped) {
        true => Instructions::read(disk.as_ref(), &dropped)?,
        false => Instructions::default(),
    };
    let title = instructions
        .title
        .clone()
        .unwrap_or_else(|| record.name.clone());
    let (entries, paths) = entries(disk.as_ref(), &dropped)?;
    let plan = plan(node, record, &instructions, title)?;
    let unfinished = job.unfinished_package();
    let file = disk.create(&unfinished).at("create", &unfinished)?;
    let mut file = FileCursor::new(file);
    let open = |entry: usize| disk.open_to_read(&paths[entry]).map(FileCursor::new);
    let sealed = seal(
        &plan,
        &node.signing_key(),
        &entries,
        open,
        &mut file,
        |_| {},
    );
    let sealed = sealed.map_err(|error| not_sealed(&dropped, error))?;
    let directory = node.directory();
    let facts = Facts {
        directory: &directory,
        manifest: &sealed.manifest,
        place: Place::Sealing,
        first_accepted: None,
    };
    decide(&facts, node.now()).map_err(|denial: Denial| rejected(denial))?;
    file.file().sync().at("sync", &unfinished)?;
    drop(file);
    crash_point!("seal.written");
    disk.replace(&job.manifest(), &sealed.manifest.signed().encode_to_vec())?;
    Ok(commit(node, job, sealed.description)?)
}

/// Writes what is to be known of the job when its package is gone, and commits the package.
fn commit(node: &Node, job: &Job, described: Description) -> Result<(), DiskError> {
    let disk = node.store.disk();
    disk.replace(&job.description(), &described.encode_to_vec())?;
    crash_point!("seal.described");
    job.commit_package()?;
    crash_point!("seal.sealed");
    let manifest = node.outgoing.sealed(job.clone())?;
    node.tell(AgentEvent::Sealed {
        job: job.name(),
        package: manifest.id(),
        plain_bytes: described.entries.iter().map(|entry| entry.length).sum(),
        title: described.title,
        sealed_bytes: manifest.payload_length(),
        recipients: manifest
            .recipients()
            .iter()
            .map(ToString::to_string)
            .collect(),
    });
    tracing::info!(package = manifest.id().short(), flow = %manifest.flow(), "sealed");
    node.news.notify_waiters();
    Ok(())
}

fn plan(
    node: &Node,
    record: &JobRecord,
    instructions: &Instructions,
    title: String,
) -> Result<SealPlan, Unsealable> {
    let directory = node.directory();
    let convention = directory.convention();
    let flow_id: FlowId = record.flow.parse().map_err(rejected)?;
    let flow = convention.flow(&flow_id).ok_or_else(|| {
        let known: Vec<&str> = convention
            .flows()
            .iter()
            .map(|flow| flow.id.as_str())
            .collect();
        rejected(format!(
            "the convention has no flow {flow_id}: the outbox may have {}",
            known.join(", ")
        ))
    })?;
    let named = match record.recipients.is_empty() {
        true => &instructions.recipients,
        false => &record.recipients,
    };
    let recipients: Vec<PartyId> = match named.is_empty() {
        true => flow.default_recipients(&node.party),
        false => named
            .iter()
            .map(|name| name.parse())
            .collect::<Result<_, _>>()
            .map_err(rejected)?,
    };
    let key = |party: &PartyId| -> Result<RecipientKey, Unsealable> {
        let key = directory.recipient_key(party).cloned();
        key.ok_or_else(|| {
            rejected(format!(
                "no sheet of {party} with a recipient key is known: ask for it"
            ))
        })
    };
    let created = node.now();
    let parents = instructions
        .parents
        .iter()
        .map(|text| find_package(node, text));
    let supersedes = instructions
        .supersedes
        .as_ref()
        .map(|text| find_package(node, text));
    Ok(SealPlan {
        flow: flow_id,
        kind: match record.kind {
            JobKind::Data => Kind::Data,
            JobKind::Test => Kind::Test,
        },
        recipients: recipients.iter().map(key).collect::<Result<_, _>>()?,
        convention: convention.digest(),
        created,
        not_after: created.saturating_add(flow.not_after()),
        parents: parents.collect::<Result<_, _>>()?,
        supersedes: supersedes.transpose()?,
        title,
        period: instructions.period.clone().unwrap_or_default(),
    })
}

/// A package id in full, or the beginning of one that was received or sent here.
fn find_package(node: &Node, text: &str) -> Result<PackageId, Unsealable> {
    let prefix = PackagePrefix::parse(text).map_err(rejected)?;
    if let Some(id) = prefix.whole() {
        return Ok(id);
    }
    prefix.only(node.packages()).map_err(rejected)
}

/// Files below what was dropped, by name, but for the instructions.
fn entries(
    disk: &dyn Disk,
    dropped: &Path,
) -> Result<(Vec<SourceEntry>, Vec<PathBuf>), Unsealable> {
    let mut paths = Vec::new();
    let is_dir = disk.is_dir(dropped);
    if is_dir {
        collect(disk, dropped, 0, &mut paths)?;
        paths.retain(|path| path != &dropped.join(INSTRUCTIONS));
    } else {
        paths.push(dropped.to_owned());
    }
    paths.sort();
    let base = match is_dir {
        true => dropped,
        false => dropped.parent().unwrap_or(dropped),
    };
    let mut entries = Vec::new();
    for path in &paths {
        let relative = path.strip_prefix(base).unwrap_or(path);
        let name = relative.to_str().ok_or_else(|| {
            rejected(format!(
                "{}: the name is not UTF-8: rename the file",
                relative.display()
            ))
        })?;
        let name = EntryName::parse(name)
            .map_err(|why| rejected(format!("{name:?} cannot travel: {why}: rename the file")))?;
        let length = disk.status(path).at("inspect", path)?.length;
        entries.push(SourceEntry {
            name,
            length,
            media_type: String::new(),
        });
    }
    Ok((entries, paths))
}

fn collect(
    disk: &dyn Disk,
    directory: &Path,
    depth: usize,
    paths: &mut Vec<PathBuf>,
) -> Result<(), Unsealable> {
    if depth > DEPTH_MAX {
        return Err(rejected(format!(
            "directories are nested deeper than {DEPTH_MAX}"
        )));
    }
    for path in disk.entries(directory)? {
        match disk.status(&path).at("inspect", &path)?.kind {
            FileKind::Directory => collect(disk, &path, depth + 1, paths)?,
            FileKind::File => paths.push(path),
            FileKind::Link | FileKind::Other => {
                return Err(rejected(format!("{} is no ordinary file", path.display())));
            }
        }
    }
    Ok(())
}

/// Makes and seals a test package for one party. Blocks.
///
/// # Errors
/// Why it was not made, in words.
pub(crate) fn ping(
    node: &Arc<Node>,
    recipient: &PartyId,
    at: Timestamp,
) -> Result<PackageId, String> {
    let directory = node.directory();
    let flows = directory.convention().flows();
    let joins = |flow: &&passerelle_proto::Flow| {
        let ours = flow.from.contains(&node.party) || flow.to.contains(&node.party);
        let theirs = flow.from.contains(recipient) || flow.to.contains(recipient);
        ours && theirs
    };
    let flow = flows.iter().find(joins).ok_or_else(|| {
        format!(
            "no flow of the convention joins {} and {recipient}",
            node.party
        )
    })?;
    if let Some(doubt @ ClockDoubt::Differs { .. }) = node.clock.doubt(node.host_clock.moment()) {
        return Err(doubt.to_string());
    }
    let _one = node.sealing();
    let job = Job::test(&node.store, flow.id.as_str(), recipient.as_str(), at);
    let job = job.map_err(|error| error.to_string())?;
    let record = job.record().map_err(|error| error.to_string())?;
    let record = record.ok_or("what was just written of it is damaged")?;
    match seal_claimed(node, &job, &record) {
        Ok(()) => {
            let manifest = read_manifest(&job);
            manifest
                .map(|manifest| manifest.id())
                .ok_or_else(|| "its manifest is gone".into())
        }
        Err(why) => {
            let _ = node.store.disk().remove_tree(job.directory());
            Err(why.to_string())
        }
    }
}
