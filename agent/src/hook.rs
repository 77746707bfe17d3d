//! The `on_receive` command: told of every received package at least once.
//!
//! It runs after the receipt is signed, so that its failure loses nothing. A file `hooked` in
//! the register's entry says that it has ended well; without it the command runs again at the
//! next start.

use std::process::Stdio;
use std::time::Duration;

use passerelle_disk::DiskError;
use tokio::process::Command;

use crate::received::Entry;

/// Longest run of the command; it is killed after that.
pub const HOOK_TIME_MAX: Duration = Duration::from_secs(600);

/// Last bytes of the command's error output that are reported.
const OUTPUT_MAX: usize = 2_000;

/// What the command is told, as environment variables.
#[derive(Debug, Clone)]
pub struct HookFacts {
    /// `PASSERELLE_FLOW`.
    pub flow: String,
    /// `PASSERELLE_SENDER`.
    pub sender: String,
    /// `PASSERELLE_TITLE`.
    pub title: String,
    /// `PASSERELLE_PATH`: the directory in the inbox.
    pub path: std::path::PathBuf,
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
        status: std::process::ExitStatus,
        /// The end of its error output.
        output: String,
    },
    /// It did not end.
    #[error("{0} did not end within {HOOK_TIME_MAX:?} and was killed")]
    TooLong(String),
    /// It ended well, and that could not be noted.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Whether the command has ended well for this entry.
pub fn has_run(entry: &Entry) -> bool {
    entry.directory().join("hooked").is_file()
}

/// Runs `command` (program and arguments) with the package id as its last argument.
pub async fn run(command: &[String], entry: &Entry, facts: &HookFacts) -> Result<(), HookError> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    let child = Command::new(program)
        .args(arguments)
        .arg(entry.id().to_string())
        .env("PASSERELLE_PACKAGE", entry.id().to_string())
        .env("PASSERELLE_FLOW", &facts.flow)
        .env("PASSERELLE_SENDER", &facts.sender)
        .env("PASSERELLE_TITLE", &facts.title)
        .env("PASSERELLE_PATH", &facts.path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| HookError::Start {
            command: program.clone(),
            source,
        })?;
    let ended = tokio::time::timeout(HOOK_TIME_MAX, child.wait_with_output()).await;
    let output = match ended {
        Err(_) => return Err(HookError::TooLong(program.clone())),
        Ok(Err(source)) => {
            return Err(HookError::Start {
                command: program.clone(),
                source,
            });
        }
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        let start = output.stderr.len().saturating_sub(OUTPUT_MAX);
        let text = String::from_utf8_lossy(&output.stderr[start..])
            .trim()
            .to_owned();
        let (command, status) = (program.clone(), output.status);
        return Err(HookError::Failed {
            command,
            status,
            output: text,
        });
    }
    entry
        .disk()
        .replace(&entry.directory().join("hooked"), b"")?;
    Ok(())
}
