//! `passerelle-gateway`: one gateway, until it is told to stop.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use passerelle_gateway::{Config, EXIT_CONFIG, EXIT_STOPPED, Gateway};
use passerelle_host::BLOCKING_THREADS_MAX;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Threads that run tasks; file and signature work has threads of its own.
const WORKER_THREADS: usize = 2;

/// A partner data-exchange gateway: accepts, queues, forwards, receipts and audits packages that
/// it cannot open.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Example:
  passerelle-gateway --config /etc/passerelle/gateway.toml

A new certificate, and new notes where the configuration names them, are taken over within seconds.
SIGHUP takes them over at once, and reads the keys again that the configuration names."
)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only check the configuration and everything it names, then exit (0, or 78).
    #[arg(long)]
    check: bool,
    /// Write the log as JSON lines, for programs.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging(arguments.json);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(error) => Err(format!("the runtime does not start: {error}")),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("passerelle-gateway: {error}");
            ExitCode::from(EXIT_STOPPED)
        }
    }
}

fn logging(json: bool) {
    let filter = EnvFilter::try_from_env("PASSERELLE_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,h3=warn,quinn=warn,h3_util=off,sled=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).init();
    }
}

async fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => return Ok(refuse(&error.to_string())),
    };
    if arguments.check {
        return Ok(match Gateway::check(&config) {
            Ok(()) => {
                println!("{}: everything it names is in order", config.file.display());
                ExitCode::SUCCESS
            }
            Err(error) => refuse(&error.to_string()),
        });
    }
    let gateway = match Gateway::start(config).await {
        Ok(gateway) => gateway,
        Err(error) if error.exit() == EXIT_CONFIG => return Ok(refuse(&error.to_string())),
        Err(error) => return Err(error.to_string()),
    };
    let failed = |error: std::io::Error| format!("signals cannot be received: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    // Nothing listens when no service manager runs this; that is no failure.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => if let Err(error) = gateway.reload().await {
                tracing::error!("the keys stay as they were: {error}");
            },
            failure = gateway.failed() => {
                gateway.stop().await;
                eprintln!("passerelle-gateway: {}", failure.why);
                return Ok(ExitCode::from(failure.exit));
            }
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    gateway.stop().await;
    Ok(ExitCode::SUCCESS)
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(EXIT_CONFIG)
}
