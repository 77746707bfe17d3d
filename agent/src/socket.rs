//! What the command line asks, over a Unix socket that only the agent's user can open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use passerelle_disk::DiskError;
use passerelle_proto::v1::agent_server::Agent as AgentRpc;
use passerelle_proto::v1::statement::What;
use passerelle_proto::v1::{
    AcknowledgeRequest, AcknowledgeResponse, Acknowledged, AgentStatusRequest, AgentStatusResponse,
    CancelRequest, Cancelled, JobsRequest, JobsResponse, PingRequest, PingResponse, RecipientState,
    ShowRequest, ShowResponse, Signed,
};
use passerelle_proto::{
    COMMENT_LEN_MAX, PackageId, PackagePrefix, PartyId, PrefixError, VerifiedManifest,
    reason_words, v1,
};
use prost::Message;
use tonic::{Request, Response, Status, async_trait};

use crate::cancel;
use crate::clock::ClockDoubt;
use crate::event::AgentEvent;
use crate::exchange::software;
use crate::incoming::{arrived_manifest, pack_path};
use crate::job::Job;
use crate::node::Node;
use crate::outgoing::{read_manifest, statements};
use crate::receipts::{progress_of, title_of};
use crate::received::Entry;
use crate::sealing;
use crate::unopened::Waiting;

/// Jobs listed at most.
const JOBS_MAX: usize = 1_000;
/// Stuck drops that a status names; it counts all of them.
const STUCK_MAX: usize = 20;
/// Longest wait for the receipts of a ping.
const PING_MAX: Duration = Duration::from_secs(300);

const SENT_NOT_RECEIVED: &str =
    "this party has sent that package: only its recipients acknowledge it";

/// What became of a package that was taken back before any gateway had it.
const NEVER_LEFT: &str = "cancelled before it left";

/// Serves `Agent`.
pub(crate) struct SocketService(pub(crate) Arc<Node>);

fn disk(error: DiskError) -> Status {
    Status::internal(error.to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let done = passerelle_host::blocking(work).await;
    done.unwrap_or_else(|_| Err(Status::unavailable("the agent is stopping")))
}

fn status(node: &Node) -> AgentStatusResponse {
    let directory = node.directory();
    let link = node.link.borrow().clone();
    let today = node.now().date();
    let count = |place: std::path::PathBuf| {
        node.store
            .disk()
            .entries(&place.join(&today))
            .map_or(0, |found| found.len() as u64)
    };
    let disk = node.store.disk();
    let days = disk.entries(&node.store.rejected()).unwrap_or_default();
    let rejected = days.iter().filter_map(|day| disk.entries(day).ok());
    let incoming = node
        .store
        .disk()
        .entries(&node.store.incoming())
        .unwrap_or_default();
    let packs = incoming
        .iter()
        .filter(|path| path.extension().is_some_and(|e| e == "pack"));
    AgentStatusResponse {
        party: node.party.to_string(),
        software: software(),
        started_ms: node.started.as_ms(),
        gateway: node.gateway().map_or(String::new(), |hop| hop.to_string()),
        gateway_address: link.address,
        transport: link
            .transport
            .map_or(String::new(), |transport| transport.to_string()),
        state: link.state.to_owned(),
        last_error: link.last_error,
        convention_id: directory.convention().id().to_owned(),
        convention_version: directory.convention().version(),
        damaged_packages: node.outgoing.damaged() as u64,
        unopened_packages: node.unopened.len() as u64,
        stuck_drops: node.outgoing.stuck.len() as u64,
        stuck: stuck_drops(node),
        clock_warning: clock_warning(node),
        outgoing: node.outgoing.all().len() as u64,
        incoming: packs.count() as u64,
        sent_today: count(node.store.sent()),
        received_today: count(node.store.received()),
        rejected: rejected.map(|day| day.len() as u64).sum(),
        expiries: node.expiry_messages(),
    }
}

fn stuck_drops(node: &Node) -> Vec<v1::StuckDrop> {
    let stuck = node.outgoing.stuck.all().into_iter();
    let first = stuck.take(STUCK_MAX).map(|(path, why)| v1::StuckDrop {
        path: path.display().to_string(),
        why,
    });
    first.collect()
}

/// That nothing is sealed, and nothing refused for its time, where the clocks do not agree.
fn clock_warning(node: &Node) -> String {
    match node.clock.doubt(node.host_clock.moment()) {
        Some(doubt @ ClockDoubt::Differs { .. }) => {
            format!("nothing is sealed, and nothing is refused for its time: {doubt}")
        }
        Some(ClockDoubt::Unheard) | None => String::new(),
    }
}

fn out_job(node: &Node, job: &Job, manifest: &VerifiedManifest) -> Result<v1::Job, Status> {
    let mut states = progress_of(node, job, manifest).map_err(disk)?;
    let asked = cancel::asked(job).map_err(disk)?;
    for state in states.iter_mut().filter(|state| !state.stage.is_terminal()) {
        if asked.contains(&state.recipient) {
            state.detail = "asked to let go of it".to_owned();
        }
    }
    let damage = node
        .outgoing
        .find(&manifest.id())
        .and_then(|sent| sent.damage);
    if let Some(why) = &damage {
        for state in states.iter_mut().filter(|state| !state.stage.is_terminal()) {
            state.detail.clone_from(why);
        }
    }
    let is_finished = node.outgoing.find(&manifest.id()).is_none();
    // Nobody has said anything about what was taken back before it left.
    let never_left = is_finished && job.named_statements().map_err(disk)?.is_empty();
    let over = is_finished || states.iter().all(|state| state.stage.is_terminal());
    let recipients = states.iter().map(|state| RecipientState {
        recipient: state.recipient.clone(),
        state: match never_left {
            true => NEVER_LEFT.to_owned(),
            false => state.stage.word().to_owned(),
        },
        at_ms: state.at_ms,
        detail: state.detail.clone(),
    });
    let names: Vec<&str> = states
        .iter()
        .map(|state| state.recipient.as_str())
        .collect();
    let ended = if never_left { NEVER_LEFT } else { "over" };
    Ok(v1::Job {
        direction: "out".into(),
        package: manifest.id().as_bytes().to_vec(),
        flow: manifest.flow().to_string(),
        title: title_of(job).unwrap_or_default(),
        partner: names.join(", "),
        state: match (over, damage, job.removed()) {
            (false, Some(_), _) => "damaged".to_owned(),
            (false, None, _) => "on its way".to_owned(),
            (true, _, None) => ended.to_owned(),
            (true, _, Some(at)) => {
                format!("{ended}; what was dropped was removed on {}", at.date())
            }
        },
        path: job.directory().display().to_string(),
        bytes: manifest.payload_length(),
        at_ms: manifest.created().as_ms(),
        recipients: recipients.collect(),
        test: manifest.is_test(),
    })
}

/// How late what a recipient says comes on the way of a package: they are kept by their ids.
fn step_of(what: &What) -> u8 {
    match what {
        What::Acknowledged(_) => 2,
        What::Delivered(_) | What::Refused(_) => 1,
        _ => 0,
    }
}

fn in_job(entry: &Entry) -> Result<v1::Job, Status> {
    let (_, manifest) = entry.manifest().map_err(disk)?;
    let description = entry.description().map_err(disk)?;
    let said = entry.statements().map_err(disk)?;
    let unacked = entry.unacked().map_err(disk)?.len();
    let said = said
        .iter()
        .filter_map(|signed| v1::Statement::decode(signed.body.as_slice()).ok()?.what);
    let last = said.max_by_key(step_of);
    let state = last.map_or("arrived", |what| passerelle_proto::statement_name(&what));
    let state = match unacked {
        0 => state.to_owned(),
        _ => format!("{state}, receipt on its way"),
    };
    Ok(v1::Job {
        direction: "in".into(),
        package: entry.id().as_bytes().to_vec(),
        flow: manifest.flow,
        title: description.map_or(String::new(), |description| description.title),
        partner: manifest.sender,
        state,
        path: entry
            .place()
            .map_err(disk)?
            .map_or(String::new(), |p| p.display().to_string()),
        bytes: manifest.payload_length,
        at_ms: manifest.created_ms,
        recipients: Vec::new(),
        test: manifest.kind == v1::Kind::Test as i32,
    })
}

/// A package that has arrived and cannot be opened now; of what cannot be read of it nothing is
/// said.
fn unopened_job(node: &Node, package: PackageId, waiting: &Waiting) -> v1::Job {
    let manifest = arrived_manifest(node, &package);
    let body = manifest.and_then(|signed| v1::Manifest::decode(signed.body.as_slice()).ok());
    let body = body.unwrap_or_default();
    v1::Job {
        direction: "in".into(),
        package: package.as_bytes().to_vec(),
        flow: body.flow,
        title: String::new(),
        partner: body.sender,
        state: format!("not opened yet: {}", waiting.why),
        path: pack_path(node, &package).display().to_string(),
        bytes: body.payload_length,
        at_ms: match body.created_ms {
            0 => waiting.since.as_ms(),
            created => created,
        },
        recipients: Vec::new(),
        test: body.kind == v1::Kind::Test as i32,
    }
}

fn all_jobs(node: &Node, limit: usize) -> Result<Vec<v1::Job>, Status> {
    let mut found = Vec::new();
    for sent in node.outgoing.all() {
        found.push(out_job(node, &sent.job, &sent.manifest)?);
    }
    for job in node.outgoing.all_finished() {
        if let Some(manifest) = read_manifest(&job) {
            found.push(out_job(node, &job, &manifest)?);
        }
    }
    let unopened = node.unopened.all();
    for (package, waiting) in &unopened {
        found.push(unopened_job(node, *package, waiting));
    }
    let waits = |id: PackageId| unopened.iter().any(|(waiting, _)| *waiting == id);
    for entry in node.register.all().iter().filter(|it| !waits(it.id())) {
        // One that has rotted does not hide the others.
        match in_job(entry) {
            Ok(job) => found.push(job),
            Err(status) => tracing::error!(why = status.message(), "an entry cannot be shown"),
        }
    }
    found.sort_by_key(|job| std::cmp::Reverse(job.at_ms));
    found.truncate(limit);
    Ok(found)
}

fn find(node: &Node, id: &str) -> Result<PackageId, Status> {
    let prefix = PackagePrefix::parse(id);
    let found = prefix.and_then(|prefix| prefix.only(node.packages()));
    found.map_err(|error| match error {
        PrefixError::Unknown(_) => Status::not_found(format!("{error} to this agent")),
        _ => Status::invalid_argument(error.to_string()),
    })
}

fn show(node: &Node, id: &str) -> Result<ShowResponse, Status> {
    let package = find(node, id)?;
    if let Some(waiting) = node.unopened.find(&package) {
        return Ok(ShowResponse {
            job: Some(unopened_job(node, package, &waiting)),
            manifest: Some(arrived_manifest(node, &package).unwrap_or_default()),
            ..ShowResponse::default()
        });
    }
    if let Some(entry) = node.register.find(package) {
        let (manifest, _) = entry.manifest().map_err(disk)?;
        return Ok(ShowResponse {
            job: Some(in_job(&entry)?),
            manifest: Some(manifest),
            statements: entry.statements().map_err(disk)?,
            description: entry.description().map_err(disk)?,
        });
    }
    let job = match node.outgoing.find(&package) {
        Some(sent) => Some(sent.job),
        None => node.outgoing.find_finished(&package),
    };
    // It may have been moved between the two questions.
    let unknown = || Status::unavailable("the package is being moved: ask again");
    let job = job.ok_or_else(unknown)?;
    let manifest = read_manifest(&job).ok_or_else(unknown)?;
    let description = job.disk().read(&job.description()).ok();
    let mut statements = stored(&job)?;
    statements.extend(job.said().all().map_err(disk)?);
    Ok(ShowResponse {
        job: Some(out_job(node, &job, &manifest)?),
        manifest: Some(manifest.signed().clone()),
        statements,
        description: description.and_then(|bytes| Message::decode(bytes.as_slice()).ok()),
    })
}

fn stored(job: &Job) -> Result<Vec<Signed>, Status> {
    let said = statements(job).map_err(disk)?;
    Ok(said
        .iter()
        .map(|statement| statement.signed().clone())
        .collect())
}

/// Signs and keeps an acknowledgement of a received package. Blocks.
pub(crate) fn acknowledge(node: &Node, id: &str, comment: String) -> Result<Signed, Status> {
    if comment.len() > COMMENT_LEN_MAX {
        let why = format!("a comment has at most {COMMENT_LEN_MAX} bytes");
        return Err(Status::invalid_argument(why));
    }
    let package = find(node, id)?;
    if let Some(waiting) = node.unopened.find(&package) {
        let why = format!("that package is not opened yet: {}", waiting.why);
        return Err(Status::failed_precondition(why));
    }
    let entry = node
        .register
        .find(package)
        .ok_or_else(|| Status::invalid_argument(SENT_NOT_RECEIVED))?;
    if let Some(why) = refusal(&entry).map_err(disk)? {
        let why =
            format!("that package was refused here ({why}): its sender knows, and nobody has it");
        return Err(Status::failed_precondition(why));
    }
    let (_, manifest) = entry.manifest().map_err(disk)?;
    let sender: PartyId = manifest
        .sender
        .parse()
        .map_err(|_| Status::internal("the sender is no party"))?;
    let what = What::Acknowledged(Acknowledged {
        recipient: node.party.to_string(),
        comment,
    });
    let id = node.say(&entry, &sender, what).map_err(disk)?;
    let said = entry.statements().map_err(disk)?;
    let same = |signed: &Signed| passerelle_proto::Digest::of(&signed.body) == id.0;
    said.into_iter()
        .find(same)
        .ok_or_else(|| Status::internal("it was not stored"))
}

/// Why a package that has arrived was refused; `None` where it was opened.
fn refusal(entry: &Entry) -> Result<Option<&'static str>, DiskError> {
    if entry.was_opened() {
        return Ok(None);
    }
    let said = entry.terminal()?;
    let said = said.and_then(|said| v1::Statement::decode(said.body.as_slice()).ok());
    Ok(Some(match said.and_then(|said| said.what) {
        Some(What::Refused(refused)) => reason_words(refused.reason()),
        _ => "why is not known any more",
    }))
}

async fn ping(node: Arc<Node>, party: PartyId, timeout: Duration) -> Result<PingResponse, Status> {
    let mut events = node.events.subscribe();
    let begun = Instant::now();
    let package = {
        let node = node.clone();
        blocking(move || {
            sealing::ping(&node, &party, node.now()).map_err(Status::failed_precondition)
        })
        .await?
    };
    let mut answer = PingResponse {
        package: package.as_bytes().to_vec(),
        ..PingResponse::default()
    };
    let until = tokio::time::Instant::now() + timeout.min(PING_MAX);
    loop {
        let event = match tokio::time::timeout_at(until, events.recv()).await {
            Ok(Ok(event)) => event,
            Ok(Err(tokio::sync::broadcast::error::RecvError::Lagged(_))) => continue,
            Ok(Err(_)) => return Err(Status::unavailable("the agent is stopping")),
            Err(_) => {
                answer.error = unanswered(&node, timeout, answer.accepted_ms > 0);
                break;
            }
        };
        let elapsed = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        match event {
            AgentEvent::Stated {
                package: about,
                what,
                ..
            } if about == package => match what {
                What::Accepted(_) if answer.accepted_ms == 0 => answer.accepted_ms = elapsed.max(1),
                What::Delivered(_) => answer.delivered_ms = elapsed.max(1),
                What::Refused(refused) => {
                    answer.error = format!("refused: {}", reason_words(refused.reason()));
                }
                _ => {}
            },
            AgentEvent::Finished { package: about, .. } if about == package => break,
            _ => {}
        }
    }
    let job = node.outgoing.find(&package).map(|sent| sent.job);
    let job = job.or_else(|| node.outgoing.find_finished(&package));
    if let Some(job) = job {
        answer.statements = blocking(move || stored(&job)).await?;
    }
    Ok(answer)
}

/// How far a ping has come that was not receipted in time.
fn unanswered(node: &Node, timeout: Duration, accepted: bool) -> String {
    let within = format!("no receipt within {} s", timeout.as_secs());
    if accepted {
        return format!("{within}; our own gateway has accepted the test package and keeps trying");
    }
    let link = node.link.borrow().clone();
    match (link.transport, link.last_error.as_str()) {
        (Some(_), _) => format!("{within}; our own gateway is connected and has not accepted it"),
        (None, "") => format!("{within}; our own gateway: {}", link.state),
        (None, why) => format!("{within}; our own gateway: {}: {why}", link.state),
    }
}

#[async_trait]
impl AgentRpc for SocketService {
    async fn status(
        &self,
        _: Request<AgentStatusRequest>,
    ) -> Result<Response<AgentStatusResponse>, Status> {
        let node = self.0.clone();
        Ok(Response::new(blocking(move || Ok(status(&node))).await?))
    }

    async fn jobs(&self, request: Request<JobsRequest>) -> Result<Response<JobsResponse>, Status> {
        let node = self.0.clone();
        let limit = match request.into_inner().limit {
            0 => JOBS_MAX,
            limit => JOBS_MAX.min(limit as usize),
        };
        let jobs = blocking(move || all_jobs(&node, limit)).await?;
        Ok(Response::new(JobsResponse { jobs }))
    }

    async fn show(&self, request: Request<ShowRequest>) -> Result<Response<ShowResponse>, Status> {
        let node = self.0.clone();
        let id = request.into_inner().id;
        Ok(Response::new(blocking(move || show(&node, &id)).await?))
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        let request = request.into_inner();
        let party: PartyId = request
            .party
            .parse()
            .map_err(|error| Status::invalid_argument(format!("{error}")))?;
        if party == self.0.party {
            let why = format!("{party} is this agent's own party: name a partner");
            return Err(Status::invalid_argument(why));
        }
        let timeout = Duration::from_millis(request.timeout_ms.max(1));
        Ok(Response::new(ping(self.0.clone(), party, timeout).await?))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<Cancelled>, Status> {
        let node = self.0.clone();
        let CancelRequest { id, comment } = request.into_inner();
        let work = move || cancel::ask(&node, find(&node, &id)?, &comment);
        Ok(Response::new(blocking(work).await?))
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeResponse>, Status> {
        let node = self.0.clone();
        let AcknowledgeRequest { id, comment } = request.into_inner();
        let statement = blocking(move || acknowledge(&node, &id, comment)).await?;
        Ok(Response::new(AcknowledgeResponse {
            statement: Some(statement),
        }))
    }
}

#[cfg(test)]
mod tests;
