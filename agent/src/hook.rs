//! The `on_receive` command: told of every received package at least once.
//!
//! It runs after the receipt is signed, so that its failure loses nothing, and beside the opening
//! of others, so that one that hangs holds up none of them. A file `hook` in the register's entry
//! says that it is still to run; it goes once the command has ended well. Until then it is run
//! again, after a while and after each start.

use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use passerelle_disk::DiskError;
use passerelle_host::monotonic;
use passerelle_proto::PackageId;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::event::AgentEvent;
use crate::instructions::TITLE_MAX;
use crate::node::Node;
use crate::received::Entry;

/// Longest run of the command; it is killed after that.
pub const HOOK_TIME_MAX: Duration = Duration::from_secs(600);
/// Commands that run at once.
const HOOKS_MAX: usize = 4;
/// Packages of which the command is to be told, in memory; the others are found at the next start.
const HOOKS_WAITING_MAX: usize = 65_536;
/// Wait before the command is told again that failed; it doubles with every failure.
const RETRY: Duration = Duration::from_secs(60);
/// Longest wait before a command is told again that failed.
const RETRY_MAX: Duration = Duration::from_secs(3_600);
/// Last bytes of the command's error output that are reported.
const OUTPUT_MAX: usize = 2_000;
/// How long the error output is read after the command has ended: what it has left running may
/// hold it open for ever.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// What the command is told, as environment variables.
#[derive(Debug, Clone)]
pub struct HookFacts {
    /// `PASSERELLE_FLOW`.
    pub flow: String,
    /// `PASSERELLE_SENDER`.
    pub sender: String,
    /// `PASSERELLE_TITLE`: one line, cut to 256 bytes.
    pub title: String,
    /// `PASSERELLE_PATH`: the directory in the inbox.
    pub path: std::path::PathBuf,
}

impl HookFacts {
    /// Of an entry of the register; `None`: it is nothing that a command is told of.
    fn of(entry: &Entry) -> Result<Option<Self>, DiskError> {
        let Some(path) = entry.place()? else {
            return Ok(None);
        };
        let manifest = entry.manifest()?.1;
        let description = entry.description()?;
        Ok(Some(Self {
            flow: manifest.flow,
            sender: manifest.sender,
            title: description.map_or(String::new(), |description| description.title),
            path,
        }))
    }
}

/// A title as it fits into an environment variable: no program starts with one that holds a NUL or
/// is too long, and nobody but its sender has looked at it.
fn one_line(title: &str) -> String {
    let plain = title.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut line = String::new();
    for c in plain {
        if line.len() + c.len_utf8() > TITLE_MAX {
            break;
        }
        line.push(c);
    }
    line
}

/// Why the command counts as failed.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It could not be started.
    #[error("cannot start {command}: {source}")]
    Start {
        /// Its program.
        command: String,
        /// What the system answered.
        source: std::io::Error,
    },
    /// It ended badly.
    #[error("{command} ended with {status}: {output}")]
    Failed {
        /// Its program.
        command: String,
        /// Exit code or signal.
        status: ExitStatus,
        /// The end of its error output.
        output: String,
    },
    /// It did not end.
    #[error("{0} did not end within {HOOK_TIME_MAX:?} and was killed")]
    TooLong(String),
    /// What it is to be told could not be read, or that it ended well could not be noted.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Where it is told of what has been received.
pub(crate) struct Hooks(Option<Sender<PackageId>>);

impl Hooks {
    /// Tells the command of everything that it has not been told of, until the agent stops; does
    /// nothing where none is configured.
    pub(crate) fn start(node: &Arc<Node>) -> Self {
        if node.config.on_receive.is_empty() {
            return Self(None);
        }
        let (sender, receiver) = channel(HOOKS_WAITING_MAX);
        let hooks = Self(Some(sender));
        for entry in node.register.all() {
            hooks.tell_of(&entry);
        }
        tokio::spawn(run_all(node.clone(), receiver));
        hooks
    }

    /// The command is to be told of this entry, if it has not been and its receipt is signed: what
    /// is only registered is not in the inbox yet, and is told of when it is.
    pub(crate) fn tell_of(&self, entry: &Entry) {
        let is_received = || matches!(entry.terminal(), Ok(Some(_)));
        let sender = self.0.as_ref();
        let Some(sender) = sender.filter(|_| entry.hook_is_due() && is_received()) else {
            return;
        };
        if sender.try_send(entry.id()).is_err() {
            let package = entry.id().short();
            tracing::warn!(package, "on_receive is told of it after the next start");
        }
    }
}

/// One that is to be told again.
struct Again {
    package: PackageId,
    failures: u32,
    at: Instant,
}

async fn run_all(node: Arc<Node>, mut received: Receiver<PackageId>) {
    let mut running = JoinSet::new();
    let mut again: VecDeque<Again> = VecDeque::new();
    loop {
        let free = running.len() < HOOKS_MAX;
        let next = again.iter().map(|again| again.at).min();
        let (package, failures) = tokio::select! {
            biased;
            // What runs is killed with this task, and is run again after the next start.
            () = node.stop.cancelled() => return,
            Some(ended) = running.join_next() => {
                if let Ok((package, failures, Err(error))) = ended {
                    let at = failed(&node, package, failures, &error);
                    again.push_back(Again { package, failures: failures + 1, at });
                }
                continue;
            }
            () = until(next), if free => match take_due(&mut again) {
                Some(due) => (due.package, due.failures),
                None => continue,
            },
            Some(package) = received.recv(), if free => (package, 0),
        };
        let node = node.clone();
        running.spawn(async move { (package, failures, tell(&node, package).await) });
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn take_due(again: &mut VecDeque<Again>) -> Option<Again> {
    let now = monotonic();
    let due = again.iter().position(|again| again.at <= now)?;
    again.remove(due)
}

/// Says that the command has failed; when it is told again.
fn failed(node: &Node, package: PackageId, failures: u32, error: &HookError) -> Instant {
    let wait = RETRY.saturating_mul(1 << failures.min(16)).min(RETRY_MAX);
    let why = error.to_string();
    let id = package.short();
    tracing::error!(package = id, why, again_after = ?wait, "on_receive failed: it is told again");
    node.tell(AgentEvent::HookFailed { package, why });
    monotonic() + wait
}

/// Tells the command of one package, and notes that it ended well.
async fn tell(node: &Node, package: PackageId) -> Result<(), HookError> {
    let Some(entry) = node.register.find(package) else {
        return Ok(());
    };
    if let Some(facts) = HookFacts::of(&entry)? {
        run(&node.config.on_receive, package, &facts).await?;
    }
    let noted = passerelle_host::blocking(move || entry.hook_is_done()).await;
    // Interrupted: it is told once more.
    Ok(noted.unwrap_or(Ok(()))?)
}

/// Runs `command` (program and arguments) with the package id as its last argument.
async fn run(command: &[String], package: PackageId, facts: &HookFacts) -> Result<(), HookError> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    let start = |source| HookError::Start {
        command: program.clone(),
        source,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .arg(package.to_string())
        .env("PASSERELLE_PACKAGE", package.to_string())
        .env("PASSERELLE_FLOW", &facts.flow)
        .env("PASSERELLE_SENDER", &facts.sender)
        .env("PASSERELLE_TITLE", one_line(&facts.title))
        .env("PASSERELLE_PATH", &facts.path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    let errors = child.stderr.take();
    let (running, ended) = oneshot::channel::<()>();
    let waiting = async {
        let status = child.wait().await;
        drop(running);
        status
    };
    let too_late = async {
        let _ = ended.await;
        tokio::time::sleep(LAST_WORDS_MAX).await;
    };
    let reading = async {
        match errors {
            Some(errors) => last_of(errors, too_late).await,
            None => Ok(Vec::new()),
        }
    };
    let ending = async { tokio::try_join!(reading, waiting) };
    let ended = tokio::time::timeout(HOOK_TIME_MAX, ending).await;
    let ended = ended.map_err(|_| HookError::TooLong(program.clone()))?;
    let (said, status) = ended.map_err(start)?;
    match status.success() {
        true => Ok(()),
        false => Err(HookError::Failed {
            command: program.clone(),
            status,
            output: String::from_utf8_lossy(&said).trim().to_owned(),
        }),
    }
}

/// Reads to the end or until it is `too_late`, and keeps the last bytes.
async fn last_of(
    mut errors: impl AsyncRead + Unpin,
    too_late: impl Future<Output = ()>,
) -> std::io::Result<Vec<u8>> {
    let (mut said, mut bytes) = (Vec::new(), [0; OUTPUT_MAX]);
    let mut too_late = std::pin::pin!(too_late);
    loop {
        let count = tokio::select! {
            biased;
            () = &mut too_late => return Ok(said),
            count = errors.read(&mut bytes) => count?,
        };
        if count == 0 {
            return Ok(said);
        }
        said.extend_from_slice(&bytes[..count]);
        let excess = said.len().saturating_sub(OUTPUT_MAX);
        said.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use passerelle_proto::Digest;

    use super::*;

    async fn told(command: &[&str]) -> Result<(), HookError> {
        told_title(command, "Été").await
    }

    async fn told_title(command: &[&str], title: &str) -> Result<(), HookError> {
        let command: Vec<String> = command.iter().map(|&part| part.to_owned()).collect();
        let facts = HookFacts {
            flow: "signalement".to_owned(),
            sender: "caf21".to_owned(),
            title: title.to_owned(),
            path: PathBuf::from("/srv/inbox/it"),
        };
        run(&command, PackageId(Digest([7; 32])), &facts).await
    }

    async fn shell(script: &str) -> Result<(), HookError> {
        told(&["/bin/sh", "-c", script, "hook"]).await
    }

    #[tokio::test]
    async fn a_title_that_no_program_can_be_told_is_made_one_short_line() {
        let title = "a\0b\nc".to_owned() + &"é".repeat(200_000);
        let script = "[ \"${PASSERELLE_TITLE%%é*}\" = 'a b c' ] && \
                      [ $(printf %s \"$PASSERELLE_TITLE\" | wc -c) -eq 255 ]";
        let command = ["/bin/sh", "-c", script, "hook"];
        told_title(&command, &title).await.unwrap();
    }

    #[tokio::test]
    async fn the_command_is_told_what_and_where_and_its_failure_in_its_last_words() {
        let script = "[ \"$1 $PASSERELLE_FLOW $PASSERELLE_SENDER $PASSERELLE_TITLE \
                    $PASSERELLE_PATH\" = \"$PASSERELLE_PACKAGE signalement caf21 Été \
                    /srv/inbox/it\" ]";
        shell(script).await.unwrap();
        let long = "yes 0123456789 | head -c 300000 >&2; echo the end >&2; exit 3";
        let why = match shell(long).await.unwrap_err() {
            HookError::Failed { status, output, .. } => {
                assert_eq!(status.code(), Some(3));
                output
            }
            other => panic!("{other}"),
        };
        assert!(
            why.ends_with("the end") && why.len() <= OUTPUT_MAX,
            "{} bytes",
            why.len()
        );
        let why = told(&["/nowhere/hook"]).await.unwrap_err().to_string();
        assert!(why.starts_with("cannot start /nowhere/hook"), "{why}");
    }

    #[tokio::test]
    async fn a_command_has_ended_although_what_it_has_begun_goes_on() {
        let there = tempfile::NamedTempFile::new().unwrap();
        let script = format!(
            "while [ -e {0} ]; do sleep 0.1; done & echo begun >&2; exit $1",
            there.path().display()
        );
        told(&["/bin/sh", "-c", &script, "hook", "0"])
            .await
            .unwrap();
        let why = told(&["/bin/sh", "-c", &script, "hook", "3"]).await;
        let why = why.unwrap_err().to_string();
        assert!(why.ends_with("exit status: 3: begun"), "{why}");
    }
}
