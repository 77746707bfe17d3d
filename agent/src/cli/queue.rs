//! `passerelle queue`: an agent's packages, or what waits at a gateway.

use std::fmt::{self, Display};

use passerelle_proto::v1::{Job, JobsRequest, QueueItem, QueueRequest};
use serde::Serialize;

use super::arguments::QueueArguments;
use super::endpoint::{Daemon, refused};
use super::failure::Failure;
use super::output::Output;
use super::quantity::{Bytes, When, hex};
use super::table::Table;
use super::wording::hop;

/// Asks the daemon and shows its answer.
pub(super) async fn run(
    arguments: &QueueArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let limit = arguments.limit;
    match Daemon::connect(&arguments.daemon).await? {
        Daemon::Agent(mut agent) => {
            let answer = agent.jobs(JobsRequest { limit }).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            let jobs = answer.jobs.into_iter().map(JobView::of).collect();
            output.answer(&Jobs { jobs })
        }
        Daemon::Gateway(mut gateway) => {
            let answer = gateway
                .queue(QueueRequest {
                    limit,
                    after_index: 0,
                })
                .await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            let items = answer.items.into_iter().map(ItemView::of).collect();
            output.answer(&Items { items })
        }
    }
}

/// How far a package has come towards one recipient.
#[derive(Debug, Serialize)]
pub(super) struct RecipientView {
    pub(super) recipient: String,
    pub(super) state: String,
    pub(super) at_ms: i64,
    pub(super) detail: String,
}

/// A package as an agent knows it.
#[derive(Debug, Serialize)]
pub(super) struct JobView {
    pub(super) package: String,
    pub(super) direction: String,
    pub(super) flow: String,
    pub(super) title: String,
    pub(super) partner: String,
    pub(super) state: String,
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) at_ms: i64,
    pub(super) test: bool,
    pub(super) recipients: Vec<RecipientView>,
}

impl JobView {
    /// From the agent's answer.
    pub(super) fn of(job: Job) -> JobView {
        let recipients = job.recipients.into_iter().map(|state| RecipientView {
            recipient: state.recipient,
            state: state.state,
            at_ms: state.at_ms,
            detail: state.detail,
        });
        JobView {
            package: hex(&job.package),
            recipients: recipients.collect(),
            direction: job.direction,
            flow: job.flow,
            title: job.title,
            partner: job.partner,
            state: job.state,
            path: job.path,
            bytes: job.bytes,
            at_ms: job.at_ms,
            test: job.test,
        }
    }

    fn progress(&self) -> String {
        if self.recipients.is_empty() {
            return self.state.clone();
        }
        let states = self
            .recipients
            .iter()
            .map(|r| format!("{}: {}", r.recipient, r.state));
        states.collect::<Vec<_>>().join(", ")
    }
}

#[derive(Debug, Serialize)]
struct Jobs {
    jobs: Vec<JobView>,
}

impl Display for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.jobs.is_empty() {
            return writeln!(f, "nothing was sent or received yet");
        }
        let mut table = Table::new(["PACKAGE", "", "WHEN", "FLOW", "SIZE", "STATE", "TITLE"]);
        for job in &self.jobs {
            let arrow = if job.direction == "out" { "→" } else { "←" };
            let flow = if job.test {
                format!("{} (test)", job.flow)
            } else {
                job.flow.clone()
            };
            let state = match job.direction.as_str() {
                "in" => format!("from {}: {}", job.partner, job.state),
                _ => job.progress(),
            };
            let id = job.package.get(..12).unwrap_or_default();
            table.row([
                &id,
                &arrow,
                &When(job.at_ms),
                &flow,
                &Bytes(job.bytes),
                &state,
                &job.title,
            ]);
        }
        write!(f, "{table}")
    }
}

/// An item of a gateway's queue.
#[derive(Debug, Serialize)]
pub(super) struct ItemView {
    log_index: u64,
    package: String,
    kind: String,
    flow: String,
    sender: String,
    recipients: Vec<String>,
    next_hop: String,
    state: String,
    attempts: u32,
    deadline_ms: i64,
    last_error: String,
}

impl ItemView {
    /// From the gateway's answer.
    pub(super) fn of(item: QueueItem) -> ItemView {
        ItemView {
            log_index: item.log_index,
            package: hex(&item.package),
            next_hop: hop(&item.next_hop),
            kind: item.kind,
            flow: item.flow,
            sender: item.sender,
            recipients: item.recipients,
            state: item.state,
            attempts: item.attempts,
            deadline_ms: item.deadline_ms,
            last_error: item.last_error,
        }
    }
}

/// Items of a gateway's queue.
#[derive(Debug, Serialize)]
pub(super) struct Items {
    pub(super) items: Vec<ItemView>,
}

impl Display for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.items.is_empty() {
            return writeln!(f, "nothing waits");
        }
        let mut table = Table::new([
            "ENTRY", "PACKAGE", "KIND", "NEXT HOP", "STATE", "ATTEMPTS", "UNTIL", "REASON",
        ]);
        for item in &self.items {
            let id = item.package.get(..12).unwrap_or_default();
            table.row([
                &item.log_index,
                &id,
                &item.kind,
                &item.next_hop,
                &item.state,
                &item.attempts,
                &When(item.deadline_ms),
                &item.last_error,
            ]);
        }
        write!(f, "{table}")
    }
}
