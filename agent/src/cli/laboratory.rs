//! `passerelle pki lab`: a complete laboratory on loopback.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};

use passerelle_proto::Timestamp;
use serde::Serialize;

use super::failure::{Exit, Failure};
use super::output::Output;
use super::quantity::now_ms;
use crate::lab::{LabError, LabOptions, LabParty, Laboratory};

#[derive(Debug, Serialize)]
struct LabPartyView {
    party: String,
    gateway_config: Option<PathBuf>,
    gateway_socket: Option<PathBuf>,
    gateway_address: Option<String>,
    agent_config: PathBuf,
    agent_socket: PathBuf,
    agent_directory: PathBuf,
}

impl LabPartyView {
    fn of(party: &LabParty) -> LabPartyView {
        let gateway = party.gateway.as_ref();
        LabPartyView {
            party: party.id.to_string(),
            gateway_config: gateway.map(|gateway| gateway.config.clone()),
            gateway_socket: gateway.map(|gateway| gateway.socket.clone()),
            gateway_address: gateway.map(|gateway| gateway.address.to_string()),
            agent_config: party.agent.config.clone(),
            agent_socket: party.agent.socket.clone(),
            agent_directory: party.agent.directory.clone(),
        }
    }
}

#[derive(Debug, Serialize)]
struct Made {
    dir: PathBuf,
    convention: PathBuf,
    sheets: PathBuf,
    parties: Vec<LabPartyView>,
    commands: Vec<String>,
    example: String,
}

impl Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "A laboratory was made in {}", self.dir.display())?;
        writeln!(
            f,
            "Its convention is valid from today, and nobody has agreed to it. The secret"
        )?;
        writeln!(
            f,
            "keys of all parties lie together there: it is for trying things out only.\n"
        )?;
        writeln!(f, "Start every program in a terminal of its own:\n")?;
        for command in &self.commands {
            writeln!(f, "  {command}")?;
        }
        writeln!(
            f,
            "\nThen send something, and look where it is:\n\n{}",
            self.example
        )
    }
}

/// Makes a laboratory and prints how to start it.
pub(super) fn make(dir: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let options = LabOptions::new(Timestamp::from_ms(now_ms()));
    let laboratory = Laboratory::create(dir, &options).map_err(|error| failure(&error))?;
    let example = laboratory.parties.first().map_or(String::new(), |party| {
        let config = party.agent.config.display();
        format!(
            "  passerelle send FILE --flow observation-iris --config {config}\n  \
             passerelle queue --config {config}"
        )
    });
    output.answer(&Made {
        parties: laboratory.parties.iter().map(LabPartyView::of).collect(),
        commands: laboratory.commands(),
        convention: laboratory.convention,
        sheets: laboratory.sheets,
        dir: laboratory.dir,
        example,
    })
}

/// Why a laboratory could not be made, as a failure of the command.
pub(crate) fn failure(error: &LabError) -> Failure {
    let (exit, remedy) = match error {
        LabError::Exists(_) | LabError::LongPath(_) => {
            (Exit::CannotCreate, "name another directory")
        }
        LabError::Io { .. } | LabError::Secret(_) => (
            Exit::CannotCreate,
            "check the path, its permissions and the disk",
        ),
        LabError::Port(_) => (Exit::Again, "try again when fewer programs run"),
        _ => (Exit::Software, "report this fault"),
    };
    Failure::new(exit, error, remedy)
}
