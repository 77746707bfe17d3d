//! `passerelle cancel`: take a package back.

use std::fmt::{self, Display};

use passerelle_proto::v1::{CancelRequest, CancelState};
use serde::Serialize;

use super::arguments::CancelArguments;
use super::endpoint::{Daemon, refused};
use super::failure::Failure;
use super::output::Output;

#[derive(Debug, Serialize)]
struct Asked {
    package: String,
    never_left: bool,
    asked: Vec<String>,
}

impl Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.never_left {
            writeln!(f, "{} was cancelled: nothing had left", self.package)?;
            return writeln!(f, "  its files lie in rejected/");
        }
        if self.asked.is_empty() {
            return writeln!(f, "{}: everybody has answered already", self.package);
        }
        writeln!(f, "asked to let go of it: {}", self.asked.join(", "))?;
        writeln!(f, "  whoever opens it before the request comes keeps it")?;
        writeln!(
            f,
            "  follow it with `passerelle package show {}`",
            self.package
        )
    }
}

/// Has the agent take a package back.
pub(super) async fn run(
    arguments: &CancelArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let why = "only the agent that sent a package takes it back";
    let mut agent = Daemon::agent(&arguments.daemon, why).await?;
    let request = CancelRequest {
        id: arguments.id.clone(),
        comment: arguments.comment.clone(),
    };
    let answer = agent.cancel(request).await;
    let answer = answer.map_err(|status| refused(&status))?.into_inner();
    output.answer(&Asked {
        package: arguments.id.clone(),
        never_left: answer.state() == CancelState::NeverLeft,
        asked: answer.recipients,
    })
}
