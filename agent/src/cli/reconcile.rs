//! `passerelle audit reconcile`: a new log for a gateway whose log is lost.

use std::fmt::{self, Display};
use std::path::PathBuf;

use passerelle_gateway::{Config, ReconcileError};
use passerelle_proto::PartyId;
use serde::Serialize;

use super::arguments::ReconcileArguments;
use super::failure::{Exit, Failure};
use super::output::Output;
use super::wording::count;

#[derive(Debug, Serialize)]
struct Tree {
    size: u64,
    root: String,
}

#[derive(Debug, Serialize)]
struct Reconciled {
    party: PartyId,
    origin: String,
    /// The last known checkpoint of the lost log.
    last: Option<Tree>,
    /// What could still be read of it.
    found: Option<Tree>,
    aside: PathBuf,
}

impl Display for Reconciled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tree = |tree: &Tree| {
            let entries = count(tree.size, "entry", "entries");
            format!("{entries}, root {}", tree.root)
        };
        writeln!(f, "a new log of {} begins: {}", self.party, self.origin)?;
        match &self.last {
            Some(last) => writeln!(f, "  others know   {} of the lost one", tree(last))?,
            None => writeln!(
                f,
                "  others know   no checkpoint of the lost one that is here"
            )?,
        }
        match &self.found {
            Some(found) => writeln!(f, "  still here    {}", tree(found))?,
            None => writeln!(f, "  still here    nothing that can be opened")?,
        }
        writeln!(f, "  put aside     {}", self.aside.display())?;
        writeln!(
            f,
            "keep what was put aside: it proves what happened until then\n\
             start the gateway: partners and agents offer again what is not receipted"
        )
    }
}

/// Begins a new log.
pub(super) fn run(arguments: &ReconcileArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let config =
        Config::load(&arguments.config).map_err(|error| Failure::config(error.problems))?;
    let done = passerelle_gateway::reconcile(&config).map_err(failure)?;
    let tree = |(size, root): (u64, passerelle_proto::Digest)| Tree {
        size,
        root: root.to_string(),
    };
    output.answer(&Reconciled {
        party: done.party,
        origin: done.origin,
        last: done.last.map(tree),
        found: done.found.map(tree),
        aside: done.aside,
    })
}

fn failure(error: ReconcileError) -> Failure {
    let (exit, remedy) = match &error {
        ReconcileError::Config(_) => (Exit::Config, ""),
        ReconcileError::Start(_) => (Exit::Again, "stop the gateway, then repeat this"),
        ReconcileError::SameLog { .. } => (
            Exit::Data,
            "write the next sheet with `passerelle sheet next SHEET --new-log --out TEXT`, sign \
             it, put it where the configuration names sheets, and repeat this",
        ),
        ReconcileError::Nothing { .. } => (
            Exit::NoInput,
            "start the gateway; when a partner knows a log of it, it stops and says so",
        ),
        ReconcileError::Origin { .. } => {
            (Exit::Data, "move the file away if it does not belong here")
        }
        ReconcileError::Log(_) | ReconcileError::Disk(_) => {
            (Exit::Io, "mend the disk, then repeat this: nothing is lost")
        }
    };
    match error {
        ReconcileError::Config(error) => Failure::config(error.problems),
        error => Failure::new(exit, error, remedy),
    }
}
