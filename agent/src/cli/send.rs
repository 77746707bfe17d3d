//! `passerelle send`: put a copy into the outbox, whole or not at all.
//!
//! The agent claims what stands in `outbox/<flow>/`. A copy grows under a name that it leaves
//! alone, is synced, and gets its real name by one rename.

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};

use passerelle_disk::At;
use passerelle_proto::{Directory, FlowId, PartyId};
use serde::Serialize;

use super::arguments::SendArguments;
use super::configured::{self, Configured};
use super::failure::{Exit, Failure};
use super::output::Output;
use crate::instructions::INSTRUCTIONS;
use crate::outbox::is_unfinished;

/// Names tried before it is given up that one is free.
const NAMES_MAX: u32 = 1_000;

#[derive(Debug, Serialize)]
struct Dropped {
    flow: String,
    outbox: PathBuf,
    recipients: Vec<String>,
}

impl Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "in the outbox: {}", self.outbox.display())?;
        match self.recipients.as_slice() {
            [] => writeln!(f, "  for everybody whom the flow {} allows", self.flow)?,
            names => writeln!(f, "  for {}", names.join(", "))?,
        }
        writeln!(
            f,
            "  the agent claims it in a moment; follow it with `passerelle queue`"
        )
    }
}

/// What `package.toml` says, where anything was said.
#[derive(Debug, Serialize)]
struct Instructed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    period: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    recipients: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    parents: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    supersedes: Option<&'a str>,
}

/// Something to send, and what its sender wants beyond the flow's defaults.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parcel {
    /// File or directory.
    pub(crate) source: PathBuf,
    /// Flow of the convention.
    pub(crate) flow: String,
    /// Recipients; none: everybody whom the flow allows.
    pub(crate) recipients: Vec<String>,
    /// Title that people see.
    pub(crate) title: Option<String>,
    /// Period that the data is about.
    pub(crate) period: Option<String>,
    /// Ids of the packages that it was made from.
    pub(crate) parents: Vec<String>,
    /// Id of the package that it replaces.
    pub(crate) supersedes: Option<String>,
}

/// Drops what the command line names.
pub(super) fn run(arguments: &SendArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let config = configured::agent(&arguments.config)?;
    if !arguments.to.is_empty() {
        let trusted = Configured::Agent(Box::new(config.clone())).trust()?;
        check_recipients(&trusted, &arguments.flow, &arguments.to)?;
    }
    let parcel = Parcel {
        source: arguments.file.clone(),
        flow: arguments.flow.to_string(),
        recipients: arguments.to.iter().map(PartyId::to_string).collect(),
        title: arguments.title.clone(),
        period: arguments.period.clone(),
        parents: arguments.parent.iter().map(ToString::to_string).collect(),
        supersedes: arguments.supersedes.as_ref().map(ToString::to_string),
    };
    let outbox = drop_into(&config.directory.join("outbox"), &parcel)?;
    output.answer(&Dropped {
        flow: parcel.flow,
        outbox,
        recipients: parcel.recipients,
    })
}

/// What the agent would refuse later, when nobody stands at the keyboard any more. A flow that the
/// convention does not have is told by the outbox.
fn check_recipients(trusted: &Directory, flow: &FlowId, to: &[PartyId]) -> Result<(), Failure> {
    let Some(flow) = trusted.convention().flow(flow) else {
        return Ok(());
    };
    for party in to {
        if !flow.to.contains(party) {
            let (flow_id, article) = (&flow.id, &flow.article);
            let what = format_args!("{party} may not receive on flow {flow_id} ({article})");
            let allowed: Vec<&str> = flow.to.iter().map(PartyId::as_str).collect();
            let remedy = format_args!("send to one of: {}", allowed.join(", "));
            return Err(Failure::new(Exit::NoPermission, what, remedy));
        }
        if trusted.recipient_key(party).is_none() {
            let what = format_args!("no sheet of {party} with a recipient key is known");
            let remedy = format_args!("ask {party} for its sheet, and put it beside the others");
            return Err(Failure::new(Exit::NoInput, what, remedy));
        }
    }
    Ok(())
}

/// Copies a parcel into an agent's outbox; says under which name it stands there.
///
/// On return the copy is durable, and the agent sees all of it or nothing.
pub(crate) fn drop_into(outbox: &Path, parcel: &Parcel) -> Result<PathBuf, Failure> {
    let flow = outbox.join(&parcel.flow);
    if !flow.is_dir() {
        return Err(unknown_flow(outbox, &parcel.flow));
    }
    let source = &parcel.source;
    let metadata = fs::metadata(source).map_err(|error| Failure::reading(source, &error))?;
    if !metadata.is_file() && !metadata.is_dir() {
        let what = format_args!("{} is neither a file nor a directory", source.display());
        return Err(Failure::new(
            Exit::NoInput,
            what,
            "name a file or a directory",
        ));
    }
    let name = name_of(source)?;
    let text = instructions(parcel)?;
    // Names that begin with a dot are left alone by the agent.
    let growing = flow.join(format!(".{name}.{}.part", std::process::id()));
    let copied = copy(source, &growing, metadata.is_dir(), &name, text.as_deref());
    let placed = copied.and_then(|()| place(&growing, &flow, &name));
    placed.inspect_err(|_| {
        // What was not placed is nobody's; the failure that is told is the first one.
        let _ = fs::remove_dir_all(&growing).or_else(|_| fs::remove_file(&growing));
    })
}

fn unknown_flow(outbox: &Path, flow: &str) -> Failure {
    let flows = passerelle_disk::system()
        .entries(outbox)
        .unwrap_or_default();
    let names = flows.iter().filter_map(|flow| flow.file_name()?.to_str());
    let names: Vec<&str> = names.filter(|name| !name.starts_with('.')).collect();
    let what = format_args!("this party sends nothing on the flow {flow}");
    match names.as_slice() {
        [] => Failure::new(
            Exit::NoPermission,
            what,
            "start the agent once: it makes its outbox",
        ),
        names => {
            let remedy = format_args!("use one of: {}", names.join(", "));
            Failure::new(Exit::NoPermission, what, remedy)
        }
    }
}

fn name_of(source: &Path) -> Result<String, Failure> {
    // "." and ".." have a name only when they are resolved.
    let resolved = source
        .canonicalize()
        .map_err(|error| Failure::reading(source, &error))?;
    let name = resolved
        .file_name()
        .and_then(|name| name.to_str())
        .map(str::to_owned);
    let passed_over = |name: &String| is_unfinished(name) || name.chars().any(char::is_control);
    name.filter(|name| !passed_over(name)).ok_or_else(|| {
        let what = format_args!(
            "{} has a name that the outbox passes over",
            source.display()
        );
        Failure::new(
            Exit::NoInput,
            what,
            "rename it: UTF-8, not beginning with a dot, not ending in .tmp, .part or .partial",
        )
    })
}

fn instructions(parcel: &Parcel) -> Result<Option<String>, Failure> {
    let instructed = Instructed {
        title: parcel.title.as_deref(),
        period: parcel.period.as_deref(),
        recipients: &parcel.recipients,
        parents: &parcel.parents,
        supersedes: parcel.supersedes.as_deref(),
    };
    let text = toml::to_string(&instructed).map_err(|error| {
        Failure::new(Exit::Usage, error, "write titles and periods as plain text")
    })?;
    if text.is_empty() {
        return Ok(None);
    }
    // The agent would refuse it later, and then nobody stands at the keyboard any more.
    crate::Instructions::parse(&text)
        .map_err(|error| Failure::new(Exit::Usage, error, "correct the arguments"))?;
    Ok(Some(text))
}

/// Copies `source` to `growing`, with its instructions, and syncs all of it.
fn copy(
    source: &Path,
    growing: &Path,
    is_directory: bool,
    name: &str,
    instructions: Option<&str>,
) -> Result<(), Failure> {
    match (is_directory, instructions) {
        (true, _) => copy_tree(source, growing)?,
        (false, None) => copy_file(source, growing)?,
        (false, Some(_)) => {
            fs::create_dir(growing).map_err(|error| Failure::writing(growing, &error))?;
            copy_file(source, &growing.join(name))?;
        }
    }
    if let Some(text) = instructions {
        let path = growing.join(INSTRUCTIONS);
        if path.exists() {
            let what = format_args!("{} has a {INSTRUCTIONS} of its own", source.display());
            let remedy = "leave out --to, --title and the like, or remove that file";
            return Err(Failure::new(Exit::Usage, what, remedy));
        }
        fs::write(&path, text).map_err(|error| Failure::writing(&path, &error))?;
    }
    passerelle_disk::system()
        .sync_tree(growing)
        .map_err(|error| Failure::writing(growing, &error.source))
}

fn copy_tree(source: &Path, target: &Path) -> Result<(), Failure> {
    fs::create_dir(target).map_err(|error| Failure::writing(target, &error))?;
    let listed = passerelle_disk::system().entries(source);
    for path in listed.map_err(|error| Failure::reading(source, &error.source))? {
        let Some(name) = path.file_name() else {
            continue;
        };
        let metadata = fs::symlink_metadata(&path).map_err(|e| Failure::reading(&path, &e))?;
        if metadata.is_dir() {
            copy_tree(&path, &target.join(name))?;
        } else if metadata.is_file() {
            copy_file(&path, &target.join(name))?;
        } else {
            let what = format_args!("{} is neither a file nor a directory", path.display());
            return Err(Failure::new(
                Exit::NoInput,
                what,
                "take it out of the directory",
            ));
        }
    }
    Ok(())
}

fn copy_file(source: &Path, target: &Path) -> Result<(), Failure> {
    let mut from = fs::File::open(source).map_err(|error| Failure::reading(source, &error))?;
    let mut options = fs::OpenOptions::new();
    let to = options.write(true).create_new(true).open(target);
    let copied = to.and_then(|mut to| std::io::copy(&mut from, &mut to));
    copied
        .map(drop)
        .map_err(|error| Failure::writing(target, &error))
}

/// Gives the copy its real name, or the next free one like it.
fn place(growing: &Path, flow: &Path, name: &str) -> Result<PathBuf, Failure> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let (stem, ending) = match name.rsplit_once('.') {
        Some((stem, ending)) if growing.is_file() => (stem, format!(".{ending}")),
        _ => (name, String::new()),
    };
    for number in 1..=NAMES_MAX {
        let target = match number {
            1 => flow.join(name),
            _ => flow.join(format!("{stem}-{number}{ending}")),
        };
        match renameat_with(CWD, growing, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => {
                let synced = passerelle_disk::system().sync_dir(flow).at("sync", flow);
                synced.map_err(|error| Failure::writing(flow, &error.source))?;
                return Ok(target);
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(Failure::writing(&target, &error.into())),
        }
    }
    let what = format_args!("{} names like {name} are taken in the outbox", NAMES_MAX);
    Err(Failure::new(
        Exit::Again,
        what,
        "wait until the agent has claimed some, or rename it",
    ))
}
