//! `audit prove`, `audit export` and `evidence export`: proof that leaves the gateway, asked of one
//! that runs or made from a log's directory.

use std::fmt::{self, Display};
use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::sync::LazyLock;

use indicatif::ProgressBar;
use passerelle_proto::audit::AuditError;
use passerelle_proto::evidence::{EVIDENCE_LEN_MAX, assemble, excerpt, log_proofs};
use passerelle_proto::v1::{self, EvidenceRequest, ExportRequest, FilePiece, ProveRequest};
use passerelle_proto::{
    Directory, PackageId, PackagePrefix, PartyId, TileReader, TimeAuthorities, copy_log, package_of,
};
use prost::Message;
use serde::Serialize;
use tonic::Streaming;

use super::arguments::{EvidenceExportArguments, ExportArguments, ProveArguments};
use super::configured::Configured;
use super::endpoint::{Daemon, refused};
use super::failure::{Exit, Failure};
use super::output::Output;
use super::progress::moving_bytes;
use super::quantity::Bytes;
use super::verification::{Judge, ReadLog, read_log_directory};
use super::wording::count;

const WHY_A_GATEWAY: &str = "the log is kept by gateways";

/// Files that were written.
#[derive(Debug, Serialize)]
pub(super) struct Written {
    /// What was written: "proof", "evidence", "log" or "backup".
    kind: &'static str,
    /// The file, or the folder.
    path: PathBuf,
    files: u64,
    bytes: u64,
    /// Package that it is about, hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    package: Option<String>,
}

impl Written {
    /// The same, in another place.
    pub(super) fn at(self, path: &Path) -> Self {
        let path = path.to_owned();
        Self { path, ..self }
    }
}

impl Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, bytes) = (self.path.display(), Bytes(self.bytes));
        match self.kind {
            "evidence" => {
                writeln!(f, "{path}: evidence, {bytes}")?;
                writeln!(
                    f,
                    "  what it proves: passerelle evidence verify {path} --root …"
                )
            }
            "log" => {
                let files = count(self.files, "file", "files");
                writeln!(f, "{path}: the whole log, {files}, {bytes}")?;
                writeln!(
                    f,
                    "  whether it holds: passerelle audit verify {path} --root …"
                )
            }
            "backup" => {
                let files = count(self.files, "file", "files");
                writeln!(f, "{path}: the gateway's directory, {files}, {bytes}")?;
                writeln!(
                    f,
                    "  keys and configuration are not in it: passerelle keys backup"
                )?;
                writeln!(
                    f,
                    "  to restore: stop the gateway, put this where its data_dir is, start it"
                )
            }
            _ => writeln!(f, "{path}: a proof, {bytes}"),
        }
    }
}

/// Writes proofs of entries.
pub(super) async fn prove(
    arguments: &ProveArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let id = arguments.id.as_deref().map(prefix).transpose()?;
    let proofs = match &arguments.log {
        Some(dir) => {
            let directory = Configured::load(&arguments.daemon.config)?.trust()?;
            let wanted = |index: u64, entry: &[u8]| match &id {
                Some(prefix) => about(entry).is_some_and(|package| prefix.matches(&package)),
                None => Some(index) == arguments.index,
            };
            let mut read = read_log_directory(dir, &plainly(&directory), &wanted)?;
            if let Some(prefix) = &id {
                let package = only(prefix, [&read])?;
                read.entries
                    .retain(|(_, entry)| about(entry) == Some(package));
            }
            let excerpt = excerpt_of(dir, read)?;
            let proofs = log_proofs(&excerpt).into_iter();
            proofs
                .map(|proof| (proof.index, proof.to_bytes()))
                .collect()
        }
        None => ask_for_proofs(arguments).await?,
    };
    let folder = &arguments.out;
    passerelle_disk::system()
        .create_directories(folder)
        .map_err(|error| Failure::writing(folder, &error.source))?;
    for (index, proof) in proofs {
        let path = folder.join(format!("entry-{index}.tlog-proof"));
        write_new(&path, &proof)?;
        output.item(&Written {
            kind: "proof",
            path,
            files: 1,
            bytes: proof.len() as u64,
            package: None,
        })?;
    }
    Ok(())
}

async fn ask_for_proofs(arguments: &ProveArguments) -> Result<Vec<(u64, Vec<u8>)>, Failure> {
    let mut gateway = Daemon::gateway(&arguments.daemon, WHY_A_GATEWAY).await?;
    let request = ProveRequest {
        id: arguments.id.clone().unwrap_or_default(),
        index: arguments.index.unwrap_or(0),
    };
    let stream = gateway.prove(request).await;
    let mut stream = stream.map_err(|status| refused(&status))?.into_inner();
    let mut proofs = Vec::new();
    while let Some(proof) = stream.message().await.map_err(|status| refused(&status))? {
        proofs.push((proof.index, proof.proof));
    }
    Ok(proofs)
}

/// Writes the evidence file of a package.
pub(super) async fn evidence(
    arguments: &EvidenceExportArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let prefix = prefix(&arguments.id)?;
    let file = match arguments.log.is_empty() {
        true => ask_for_evidence(arguments).await?,
        false => {
            let directory = Configured::load(&arguments.daemon.config)?.trust()?;
            evidence_from(&arguments.log, &prefix, &directory)?
        }
    };
    let package = v1::Evidence::decode(file.as_slice()).ok();
    let package = package.and_then(|file| PackageId::from_slice(&file.package).ok());
    let package = package.ok_or_else(|| {
        let what = "the gateway has answered with something that is no evidence";
        Failure::new(Exit::Protocol, what, "look at the gateway's own messages")
    })?;
    let default = || PathBuf::from(format!("{}.evidence", package.short()));
    let path = arguments.out.clone().unwrap_or_else(default);
    write_new(&path, &file)?;
    output.answer(&Written {
        kind: "evidence",
        path,
        files: 1,
        bytes: file.len() as u64,
        package: Some(package.to_string()),
    })
}

async fn ask_for_evidence(arguments: &EvidenceExportArguments) -> Result<Vec<u8>, Failure> {
    let mut gateway = Daemon::gateway(&arguments.daemon, WHY_A_GATEWAY).await?;
    let id = arguments.id.clone();
    let stream = gateway.evidence(EvidenceRequest { id }).await;
    let mut stream = stream.map_err(|status| refused(&status))?.into_inner();
    let mut file = Vec::new();
    while let Some(piece) = stream.message().await.map_err(|status| refused(&status))? {
        file.extend_from_slice(&piece.bytes);
        if file.len() > EVIDENCE_LEN_MAX {
            let what = format_args!("the gateway sends more than {EVIDENCE_LEN_MAX} bytes");
            let remedy = "look at the gateway's own messages";
            return Err(Failure::new(Exit::Protocol, what, remedy));
        }
    }
    Ok(file)
}

/// Evidence about a package from the logs in these folders.
fn evidence_from(
    dirs: &[PathBuf],
    prefix: &PackagePrefix,
    directory: &Directory,
) -> Result<Vec<u8>, Failure> {
    let wanted = |_: u64, entry: &[u8]| about(entry).is_some_and(|found| prefix.matches(&found));
    let mut logs = Vec::new();
    for dir in dirs {
        logs.push((dir, read_log_directory(dir, &plainly(directory), &wanted)?));
    }
    let package = only(prefix, logs.iter().map(|(_, read)| read))?;
    let mut excerpts = Vec::new();
    for (dir, mut read) in logs {
        read.entries
            .retain(|(_, entry)| about(entry) == Some(package));
        if !read.entries.is_empty() {
            excerpts.push(excerpt_of(dir, read)?);
        }
    }
    assemble(package, directory, excerpts)
        .map_err(|error| Failure::new(Exit::Data, error, "name each log once, and fewer of them"))
}

/// Writes a whole log.
pub(super) async fn log(
    arguments: &ExportArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let mut folder = Folder::new(&arguments.folder, "log")?;
    match &arguments.log {
        Some(dir) => {
            let directory = Configured::load(&arguments.daemon.config)?.trust()?;
            copy_directory(dir, &directory, &mut folder)?;
        }
        None => {
            let mut gateway = Daemon::gateway(&arguments.daemon, WHY_A_GATEWAY).await?;
            let stream = gateway.export(ExportRequest {}).await;
            let stream = stream.map_err(|status| refused(&status))?;
            folder.take(stream.into_inner()).await?;
        }
    }
    output.answer(&folder.finish()?)
}

fn copy_directory(dir: &Path, directory: &Directory, to: &mut Folder) -> Result<(), Failure> {
    let ReadLog {
        verdict,
        checkpoint,
        ..
    } = read_log_directory(dir, &plainly(directory), &|_, _| false)?;
    for (path, note) in directory.note_files() {
        to.put(&path, note)?;
    }
    for cosigned in &verdict.cosigned {
        let note = fs::read(&cosigned.note).map_err(|e| Failure::reading(&cosigned.note, &e))?;
        to.put(&format!("cosigned/{}.note", cosigned.partner), &note)?;
    }
    let read = |path: &str| fs::read(dir.join(path)).ok();
    copy_log(&read, verdict.size, |path, bytes| {
        to.put(path, &bytes).map_err(Stopped)
    })
    .map_err(|Stopped(failure)| failure)?;
    to.put("checkpoint", &checkpoint)
}

/// Why a copy stopped.
struct Stopped(Failure);

impl From<AuditError> for Stopped {
    fn from(error: AuditError) -> Self {
        let remedy = "export it again; if that fails too, verify the log with `audit verify`";
        Self(Failure::new(Exit::Data, error, remedy))
    }
}

/// The excerpt of a log that was read, with all its entries.
fn excerpt_of(dir: &Path, read: ReadLog) -> Result<v1::LogEvidence, Failure> {
    let ReadLog {
        verdict,
        checkpoint,
        entries,
        covers,
    } = read;
    if entries.is_empty() {
        let what = format_args!("the log in {} holds no such entry", dir.display());
        let remedy = "`passerelle audit log` shows what it holds";
        return Err(Failure::new(Exit::NoInput, what, remedy));
    }
    let files = |path: &str| fs::read(dir.join(path)).ok();
    let tiles = TileReader::new(&files, verdict.size);
    let party = PartyId::parse(&verdict.party)
        .map_err(|error| Failure::new(Exit::Data, error, "ask whose log this is"))?;
    excerpt(&tiles, &party, &checkpoint, &covers, entries)
        .map_err(|error| Failure::new(Exit::Data, error, "export it again"))
}

/// What is written out is judged by whoever reads it.
fn plainly(directory: &Directory) -> Judge<'_> {
    static NOBODY: LazyLock<TimeAuthorities> = LazyLock::new(TimeAuthorities::default);
    Judge {
        directory,
        witnessed: &[],
        signatures: false,
        authorities: &NOBODY,
    }
}

fn about(entry: &[u8]) -> Option<PackageId> {
    package_of(&v1::Entry::decode(entry).ok()?)
}

fn prefix(text: &str) -> Result<PackagePrefix, Failure> {
    let remedy = "look at `passerelle queue` for what is known";
    PackagePrefix::parse(text).map_err(|error| Failure::new(Exit::Usage, error, remedy))
}

/// The one package that these logs know under a prefix.
fn only<'l>(
    prefix: &PackagePrefix,
    logs: impl IntoIterator<Item = &'l ReadLog>,
) -> Result<PackageId, Failure> {
    let entries = logs.into_iter().flat_map(|read| &read.entries);
    let found = prefix.only(entries.filter_map(|(_, entry)| about(entry)));
    found.map_err(|error| {
        let what = format_args!("{error} to the log");
        Failure::new(
            Exit::NoInput,
            what,
            "`passerelle audit log` shows what it holds",
        )
    })
}

/// Writes a file that is not there yet.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let same = fs::read(path).is_ok_and(|there| there == bytes);
    if path.exists() && !same {
        let what = format_args!("{} exists and is something else", path.display());
        let remedy = "nothing was overwritten; choose another name with --out";
        return Err(Failure::new(Exit::CannotCreate, what, remedy));
    }
    // The folder is synced too, and a bare file name does not tell it.
    let absolute = std::path::absolute(path).map_err(|error| Failure::writing(path, &error))?;
    let written = passerelle_disk::system().replace(&absolute, bytes);
    written.map_err(|error| Failure::writing(path, &error.source))
}

/// A folder that is being filled.
pub(super) struct Folder {
    kind: &'static str,
    path: PathBuf,
    // The file whose pieces come now.
    open: Option<(String, fs::File)>,
    files: u64,
    bytes: u64,
    bar: ProgressBar,
}

impl Folder {
    /// An empty one; `kind` is what it will be: see [`Written`].
    pub(super) fn new(path: &Path, kind: &'static str) -> Result<Self, Failure> {
        let found = passerelle_disk::system()
            .entries(path)
            .map_err(|error| Failure::reading(path, &error.source))?;
        if !found.is_empty() {
            let what = format_args!("{} is not empty", path.display());
            let remedy = "nothing was overwritten; name a folder that is empty or not there yet";
            return Err(Failure::new(Exit::CannotCreate, what, remedy));
        }
        let made = passerelle_disk::system().create_directories(path);
        made.map_err(|error| Failure::writing(path, &error.source))?;
        Ok(Self {
            kind,
            path: path.to_owned(),
            open: None,
            files: 0,
            bytes: 0,
            bar: moving_bytes(),
        })
    }

    /// Writes what a gateway sends, to its end.
    pub(super) async fn take(&mut self, mut pieces: Streaming<FilePiece>) -> Result<(), Failure> {
        while let Some(piece) = pieces.message().await.map_err(|status| refused(&status))? {
            let again = self
                .open
                .as_ref()
                .is_some_and(|(path, _)| path == &piece.path);
            match again {
                true => self.append(&piece.bytes)?,
                false => self.put(&piece.path, &piece.bytes)?,
            }
        }
        Ok(())
    }

    /// Begins the next file.
    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), Failure> {
        let relative = Path::new(path);
        let inside = relative
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !inside || path.is_empty() {
            let what = format_args!("the gateway sends a file under the name {path:?}");
            let remedy = "nothing was written there; look at who answers on the socket";
            return Err(Failure::new(Exit::Protocol, what, remedy));
        }
        let file = self.path.join(relative);
        let parent = file.parent().unwrap_or(&self.path);
        fs::create_dir_all(parent).map_err(|error| Failure::writing(parent, &error))?;
        let made = fs::File::create_new(&file).map_err(|error| Failure::writing(&file, &error))?;
        self.open = Some((path.to_owned(), made));
        self.files += 1;
        self.append(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if let Some((path, file)) = &mut self.open {
            let path = self.path.join(path);
            file.write_all(bytes)
                .map_err(|error| Failure::writing(&path, &error))?;
        }
        self.bytes += bytes.len() as u64;
        self.bar.set_position(self.bytes);
        Ok(())
    }

    /// Everything is on stable storage.
    pub(super) fn finish(self) -> Result<Written, Failure> {
        let synced = passerelle_disk::system().sync_tree(&self.path);
        synced.map_err(|error| Failure::writing(&self.path, &error.source))?;
        Ok(Written {
            kind: self.kind,
            path: self.path,
            files: self.files,
            bytes: self.bytes,
            package: None,
        })
    }
}
