//! The `passerelle` command: what it is told, and what it answers.
//!
//! It never writes the state of a daemon: it drops into the outbox, or asks over a Unix socket.

mod arguments;
mod audit;
mod backup;
mod cancel;
mod configured;
mod convention;
mod endpoint;
mod evidence;
mod expiry;
mod export;
mod failure;
mod gateway_backup;
mod keys;
mod laboratory;
mod letter;
mod next_sheet;
mod notes;
mod output;
mod passphrase;
mod ping;
mod progress;
mod quantity;
mod queue;
mod reconcile;
mod send;
mod serve;
mod sheet;
mod show;
mod stamps;
mod status;
mod table;
mod verification;
mod wording;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use passerelle_host::BLOCKING_THREADS_MAX;
use tokio::runtime::{Builder, Runtime};

pub use self::arguments::DemoArguments;
use self::arguments::{
    AgentCommand, AuditCommand, Command, CommandLine, ConventionCommand, EvidenceCommand,
    KeysCommand, PackageCommand, PkiCommand, SheetCommand,
};
pub(crate) use self::configured::Configured;
pub(crate) use self::endpoint::{channel, refused};
pub use self::failure::{Exit, Failure};
pub(crate) use self::laboratory::failure as lab_failure;
pub use self::output::Output;
pub(crate) use self::progress::Steps;
pub(crate) use self::quantity::{Bytes, Elapsed, now_ms};
pub(crate) use self::send::{Parcel, drop_into};
pub(crate) use self::serve::{listen, start_failure};
pub(crate) use self::verification::{Judge, LogVerdict, verify_log_directory};

/// Threads that run tasks; file and signature work has threads of its own.
const WORKER_THREADS: usize = 2;
/// Longest wait for what an agent still seals or opens, once it has stopped.
const LEAVING_MAX: Duration = Duration::from_secs(5);

/// Runs one command and says how it went, by the statuses of BSD `sysexits.h`.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let line = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) => {
            // Help and the version are answers, everything else is a wrong command line.
            let _ = error.print();
            return match error.use_stderr() {
                true => ExitCode::from(Exit::Usage as u8),
                false => ExitCode::SUCCESS,
            };
        }
    };
    let mut stdout = io::stdout().lock();
    let mut output = Output::new(&mut stdout, line.json);
    let Err(failure) = dispatch(line.command, &mut output) else {
        return ExitCode::SUCCESS;
    };
    if !failure.is_quiet() {
        let text = match line.json {
            true => format!("{:#}", failure.to_json()),
            false => failure.to_string(),
        };
        // Nothing is left to tell it to when standard error is closed.
        let _ = writeln!(io::stderr(), "{text}");
    }
    ExitCode::from(failure.status())
}

fn dispatch(command: Command, output: &mut Output<'_>) -> Result<(), Failure> {
    match command {
        Command::Agent {
            command: AgentCommand::Run(run),
        } => {
            let runtime = runtime()?;
            let ended = runtime.block_on(serve::run(&run, output));
            leave(runtime, LEAVING_MAX);
            ended
        }
        Command::Send(send) => send::run(&send, output),
        Command::Status(daemon) => runtime()?.block_on(status::run(&daemon, output)),
        Command::Queue(queue) => runtime()?.block_on(queue::run(&queue, output)),
        Command::Package {
            command: PackageCommand::Show(show),
        } => runtime()?.block_on(show::run(&show, output)),
        Command::Cancel(line) => runtime()?.block_on(cancel::run(&line, output)),
        Command::Ack(ack) => runtime()?.block_on(show::acknowledge(&ack, output)),
        Command::Ping(ping) => runtime()?.block_on(ping::run(&ping, output)),
        Command::Audit { command } => match command {
            AuditCommand::Log(log) => runtime()?.block_on(audit::log(&log, output)),
            AuditCommand::Verify(verify) => audit::verify(&verify, output),
            AuditCommand::Prove(prove) => runtime()?.block_on(export::prove(&prove, output)),
            AuditCommand::Export(all) => runtime()?.block_on(export::log(&all, output)),
            AuditCommand::Anchor(anchor) => runtime()?.block_on(audit::anchor(&anchor, output)),
            AuditCommand::Reconcile(reconcile) => reconcile::run(&reconcile, output),
        },
        Command::Evidence { command } => match command {
            EvidenceCommand::Export(export) => {
                runtime()?.block_on(export::evidence(&export, output))
            }
            EvidenceCommand::Verify(verify) => evidence::verify(&verify, output),
        },
        Command::Backup(backup) => runtime()?.block_on(gateway_backup::run(&backup, output)),
        Command::Keys { command } => match command {
            KeysCommand::New(new) => keys::new(&new, output),
            KeysCommand::Show { file } => keys::show(&file, output),
            KeysCommand::Letter(letter) => letter::print(&letter, output),
            KeysCommand::Backup(backup) => backup::backup(&backup, output),
            KeysCommand::Restore(restore) => backup::restore(&restore, output),
        },
        Command::Convention { command } => match command {
            ConventionCommand::Show { file } => convention::show(&file, output),
            ConventionCommand::Check(check) => convention::check(&check, output),
            ConventionCommand::Sign(sign) => convention::sign(&sign, output),
        },
        Command::Sheet { command } => match command {
            SheetCommand::New(new) => sheet::new(&new, output),
            SheetCommand::Next(next) => next_sheet::next(&next, output),
            SheetCommand::Revoke(revoke) => next_sheet::revoke(&revoke, output),
            SheetCommand::Show { file } => sheet::show(&file, output),
            SheetCommand::Sign(sign) => sheet::sign(&sign, output),
        },
        Command::Pki {
            command: PkiCommand::Lab { dir },
        } => laboratory::make(&dir, output),
        Command::Demo(demo) => runtime()?.block_on(crate::demo::run(&demo, output)),
    }
}

/// Ends a runtime without waiting longer for what blocks in it: what the end of the process breaks
/// off goes on after the next start.
fn leave(runtime: Runtime, within: Duration) {
    runtime.shutdown_timeout(within);
}

fn runtime() -> Result<Runtime, Failure> {
    let mut builder = Builder::new_multi_thread();
    let built = builder
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build();
    built.map_err(|error| {
        let what = format_args!("the runtime does not start: {error}");
        Failure::new(
            Exit::Again,
            what,
            "check the limits of processes and files (ulimit -a)",
        )
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn the_end_of_an_agent_does_not_wait_for_what_it_seals_or_opens() {
        let (sealed, seals) = channel::<()>();
        let (told, left) = channel();
        std::thread::spawn(move || {
            let runtime = runtime().unwrap();
            runtime.spawn_blocking(move || seals.recv());
            leave(runtime, Duration::from_millis(1));
            told.send(())
        });
        left.recv_timeout(Duration::from_secs(60)).unwrap();
        drop(sealed);
    }
}
