//! `passerelle ping`: a test package along the whole path.

use std::fmt::{self, Display};
use std::time::Duration;

use passerelle_proto::v1::PingRequest;
use serde::Serialize;

use super::arguments::PingArguments;
use super::endpoint::{Daemon, refused};
use super::failure::{Exit, Failure};
use super::output::Output;
use super::quantity::{Elapsed, hex};
use super::wording::StatementView;

#[derive(Debug, Serialize)]
struct Answered {
    party: String,
    package: String,
    accepted_ms: u64,
    delivered_ms: u64,
    statements: Vec<StatementView>,
}

impl Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elapsed = |ms| Elapsed(Duration::from_millis(ms));
        let (accepted, delivered) = (elapsed(self.accepted_ms), elapsed(self.delivered_ms));
        writeln!(
            f,
            "{} is reached: opened there after {delivered}",
            self.party
        )?;
        writeln!(f, "  first gateway's receipt after {accepted}")?;
        for statement in &self.statements {
            writeln!(f, "  {:<10} {}", statement.kind, statement.says)?;
        }
        writeln!(f, "  package {}", self.package)
    }
}

/// Sends the package and waits for its receipts.
pub(super) async fn run(arguments: &PingArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let why = "only an agent sends packages";
    let mut agent = Daemon::agent(&arguments.daemon, why).await?;
    let request = PingRequest {
        party: arguments.party.to_string(),
        timeout_ms: arguments.timeout_s.saturating_mul(1000),
    };
    let answer = agent
        .ping(request)
        .await
        .map_err(|status| refused(&status))?
        .into_inner();
    if !answer.error.is_empty() {
        let package = hex(&answer.package);
        let what = format_args!(
            "{} was not reached: {} (package {package})",
            arguments.party, answer.error
        );
        let remedy = "see `passerelle status` of the agent and of its gateway, then ask the \
                      partner's operator with the package id; a later receipt is kept";
        return Err(Failure::new(Exit::Unavailable, what, remedy));
    }
    output.answer(&Answered {
        party: arguments.party.to_string(),
        package: hex(&answer.package),
        accepted_ms: answer.accepted_ms,
        delivered_ms: answer.delivered_ms,
        statements: StatementView::all(&answer.statements),
    })
}
