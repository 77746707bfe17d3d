//! `passerelle agent run`: one agent, until it is told to stop.

use std::fmt::{self, Display};
use std::io::IsTerminal;
use std::path::PathBuf;

use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::arguments::RunArguments;
use super::configured;
use super::failure::{Exit, Failure};
use super::output::Output;
use crate::{Agent, StartError};

#[derive(Debug, Serialize)]
struct InOrder {
    config: PathBuf,
}

impl Display for InOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: everything it names is in order",
            self.config.display()
        )
    }
}

/// Runs the agent, or only checks its configuration.
pub(super) async fn run(arguments: &RunArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let config = configured::agent(&arguments.config)?;
    if arguments.check {
        Agent::check(&config).map_err(|error| Failure::config(error.problems))?;
        return output.answer(&InOrder {
            config: config.file,
        });
    }
    logging(output.is_json());
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let agent = Agent::start(config).await.map_err(start_failure)?;
    // Nothing listens when no service manager runs this; that is no failure.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => if let Err(error) = agent.reload().await {
                tracing::error!("the keys stay as they were: {error}");
            },
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    agent.stop().await;
    Ok(())
}

/// Listens for a signal.
pub(crate) fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| {
        let what = format_args!("signals cannot be received: {error}");
        Failure::new(Exit::Again, what, "try again")
    })
}

/// Why an agent does not start, as a failure of the command.
pub(crate) fn start_failure(error: StartError) -> Failure {
    match error {
        StartError::Config(error) => Failure::config(error.problems),
        error => {
            let remedy = "mend what it names, then start the agent again";
            Failure::new(Exit::CannotCreate, error, remedy)
        }
    }
}

fn logging(json: bool) {
    let filter = EnvFilter::try_from_env("PASSERELLE_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,h3=warn,quinn=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
}
