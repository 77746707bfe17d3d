//! `passerelle package show` and `passerelle ack`: one package and what was said about it.

use std::fmt::{self, Display};

use passerelle_proto::purged_words;
use passerelle_proto::v1::{
    self, AcknowledgeRequest, LogRecord, PackageRequest, PackageResponse, ShowRequest,
    ShowResponse, entry::Event, statement::What,
};
use prost::Message;
use serde::Serialize;

use super::arguments::{AckArguments, ShowArguments};
use super::endpoint::{Daemon, refused};
use super::failure::{Exit, Failure};
use super::output::Output;
use super::quantity::{Bytes, When, hex, one_line};
use super::queue::{ItemView, Items, JobView};
use super::wording::{EntryView, StatementView};

/// Asks the daemon and shows its answer.
pub(super) async fn run(arguments: &ShowArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let id = arguments.id.clone();
    match Daemon::connect(&arguments.daemon).await? {
        Daemon::Agent(mut agent) => {
            let answer = agent.show(ShowRequest { id }).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            output.answer(&AgentsPackage::of(answer)?)
        }
        Daemon::Gateway(mut gateway) => {
            let answer = gateway.package(PackageRequest { id }).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            output.answer(&GatewaysPackage::of(answer))
        }
    }
}

/// Has the agent sign an acknowledgement.
pub(super) async fn acknowledge(
    arguments: &AckArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let why = "only the agent that received a package acknowledges it";
    let mut agent = Daemon::agent(&arguments.daemon, why).await?;
    let AckArguments { id, comment, .. } = arguments;
    let request = AcknowledgeRequest {
        id: id.clone(),
        comment: comment.clone(),
    };
    let answer = agent.acknowledge(request).await;
    let answer = answer.map_err(|status| refused(&status))?.into_inner();
    let statement = answer.statement.as_ref().and_then(StatementView::of);
    output.answer(&Acknowledged {
        statement: statement.ok_or_else(unreadable)?,
    })
}

fn unreadable() -> Failure {
    let remedy = "use the command and the daemon of one version";
    Failure::new(Exit::Protocol, "the daemon's answer cannot be read", remedy)
}

#[derive(Debug, Serialize)]
struct Acknowledged {
    statement: StatementView,
}

impl Display for Acknowledged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statement = &self.statement;
        let id = statement.package.get(..12).unwrap_or_default();
        writeln!(
            f,
            "signed, and on its way to {}: {}",
            statement.destination, statement.says
        )?;
        writeln!(f, "  package {id}, statement {}", statement.id)
    }
}

#[derive(Debug, Serialize)]
struct FileView {
    name: String,
    bytes: u64,
    sha256: String,
}

#[derive(Debug, Serialize)]
struct AgentsPackage {
    #[serde(flatten)]
    job: JobView,
    manifest_signer: String,
    parents: Vec<String>,
    not_after_ms: i64,
    period: String,
    files: Vec<FileView>,
    statements: Vec<StatementView>,
}

impl AgentsPackage {
    fn of(answer: ShowResponse) -> Result<AgentsPackage, Failure> {
        let job = answer.job.ok_or_else(unreadable)?;
        let signed = answer.manifest.ok_or_else(unreadable)?;
        let manifest = passerelle_proto::v1::Manifest::decode(signed.body.as_slice());
        let manifest = manifest.map_err(|_| unreadable())?;
        let description = answer.description.unwrap_or_default();
        let files = description.entries.iter().map(|entry| FileView {
            name: entry.name.clone(),
            bytes: entry.length,
            sha256: hex(&entry.sha256),
        });
        Ok(AgentsPackage {
            job: JobView::of(job),
            manifest_signer: hex(&manifest.signer),
            parents: manifest.parents.iter().map(|parent| hex(parent)).collect(),
            not_after_ms: manifest.not_after_ms,
            period: description.period.clone(),
            files: files.collect(),
            statements: StatementView::all(&answer.statements),
        })
    }
}

impl Display for AgentsPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let job = &self.job;
        writeln!(f, "package {}", job.package)?;
        let way = if job.direction == "out" { "to" } else { "from" };
        writeln!(f, "  {way:<12} {}", job.partner)?;
        writeln!(
            f,
            "  flow         {}{}",
            job.flow,
            if job.test { " (test)" } else { "" }
        )?;
        writeln!(f, "  title        {}", one_line(&job.title))?;
        if !self.period.is_empty() {
            writeln!(f, "  period       {}", one_line(&self.period))?;
        }
        writeln!(
            f,
            "  made         {}, good until {}",
            When(job.at_ms),
            When(self.not_after_ms)
        )?;
        writeln!(f, "  size         {}", Bytes(job.bytes))?;
        writeln!(f, "  where        {}", job.path)?;
        for parent in &self.parents {
            writeln!(f, "  made from    {parent}")?;
        }
        for file in &self.files {
            writeln!(f, "  file         {} ({})", file.name, Bytes(file.bytes))?;
            if !file.sha256.is_empty() {
                writeln!(f, "               SHA-256 {}", file.sha256)?;
            }
        }
        writeln!(f, "  state        {}", job.state)?;
        for state in &job.recipients {
            let detail = match state.detail.as_str() {
                "" => String::new(),
                detail => format!(" ({})", one_line(detail)),
            };
            writeln!(f, "    {:<18} {}{detail}", state.recipient, state.state)?;
        }
        write_statements(f, &self.statements)
    }
}

fn write_statements(f: &mut fmt::Formatter<'_>, statements: &[StatementView]) -> fmt::Result {
    if statements.is_empty() {
        return writeln!(f, "  nobody has said anything about it yet");
    }
    writeln!(f, "  said about it")?;
    for statement in statements {
        writeln!(
            f,
            "    {}  {:<13} {}",
            When(statement.at_ms),
            statement.kind,
            statement.says
        )?;
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct GatewaysPackage {
    package: String,
    entries: Vec<EntryView>,
    /// What this gateway has removed of it.
    purged: Vec<PurgedView>,
    #[serde(flatten)]
    items: Items,
}

/// Bytes of a package that are gone.
#[derive(Debug, Serialize)]
struct PurgedView {
    at_ms: i64,
    what: &'static str,
    early: bool,
}

impl PurgedView {
    /// The gateway's own word in an entry of its log.
    fn of(record: &LogRecord) -> Option<PurgedView> {
        let entry = v1::Entry::decode(record.entry.as_slice()).ok()?;
        let Some(Event::Statement(event)) = entry.event else {
            return None;
        };
        // What others say of their own copies comes from somebody.
        let signed = event.statement.filter(|_| event.from.is_none())?;
        let statement = v1::Statement::decode(signed.body.as_slice()).ok()?;
        match statement.what? {
            What::Purged(said) => Some(PurgedView {
                at_ms: entry.at_ms,
                what: purged_words(said.part()),
                early: said.early,
            }),
            _ => None,
        }
    }
}

impl GatewaysPackage {
    fn of(answer: PackageResponse) -> GatewaysPackage {
        GatewaysPackage {
            package: hex(&answer.package),
            entries: answer.records.iter().map(EntryView::of).collect(),
            purged: answer.records.iter().filter_map(PurgedView::of).collect(),
            items: Items {
                items: answer.items.into_iter().map(ItemView::of).collect(),
            },
        }
    }
}

impl Display for GatewaysPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "package {}", self.package)?;
        for entry in &self.entries {
            writeln!(f, "  {entry}")?;
        }
        for purged in &self.purged {
            let early = if purged.early {
                ", early for want of room"
            } else {
                ""
            };
            writeln!(f, "  PURGED {}: {}{early}", When(purged.at_ms), purged.what)?;
        }
        if !self.items.items.is_empty() {
            write!(f, "\n{}", self.items)?;
        }
        Ok(())
    }
}
