//! Waiting for what an agent tells, with a deadline.

use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};

use crate::AgentEvent;
use crate::cli::{Exit, Failure};

/// The news of one agent, from the moment at which it was made.
pub(super) struct Watch {
    party: String,
    events: Receiver<AgentEvent>,
}

impl Watch {
    /// Follows `events` of the agent of `party`.
    pub(super) fn new(party: String, events: Receiver<AgentEvent>) -> Watch {
        Watch { party, events }
    }

    /// Waits for the first event that `wanted` makes something of. A rejection or a refusal ends
    /// the wait with its reason.
    pub(super) async fn until<T>(
        &mut self,
        what: &str,
        deadline: Instant,
        mut wanted: impl FnMut(&AgentEvent) -> Option<T>,
    ) -> Result<T, Failure> {
        loop {
            let event = match timeout_at(deadline, self.events.recv()).await {
                Ok(Ok(event)) => event,
                // Too slow to hear all of it: what is missing shows as a wait that ends late.
                Ok(Err(RecvError::Lagged(_))) => continue,
                Ok(Err(RecvError::Closed)) => {
                    return Err(late(&format!("the agent of {} has stopped", self.party)));
                }
                Err(_) => return Err(late(&format!("{}: {what}: not in time", self.party))),
            };
            if let Some(found) = wanted(&event) {
                return Ok(found);
            }
            match event {
                AgentEvent::Rejected { name, why, path } => {
                    let what = format_args!("{}: {name} was rejected: {why}", self.party);
                    let remedy = format_args!("read {}", path.display());
                    return Err(Failure::new(Exit::Data, what, remedy));
                }
                AgentEvent::Refused { why, .. } => {
                    let what = format_args!("{}: a package was refused: {why}", self.party);
                    let remedy = "see the convention's flows";
                    return Err(Failure::new(Exit::NoPermission, what, remedy));
                }
                _ => {}
            }
        }
    }

    /// A deadline from now.
    pub(super) fn within(limit: Duration) -> Instant {
        Instant::now() + limit
    }
}

/// Something did not come about in time.
pub(super) fn late(what: &str) -> Failure {
    let remedy = "try again with PASSERELLE_LOG=info on a machine that does less";
    Failure::new(Exit::Again, what, remedy)
}
