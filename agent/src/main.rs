//! The `passerelle` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    passerelle_agent::cli::main(std::env::args_os())
}
