//! Agents whose state does not go on from where it was.
//!
//! A restored agent may send a second time what it had sent since the backup, and knows nothing of
//! what it received since; of two that run the same state, each gets half of what comes. Neither
//! notices it itself. Nothing is refused for it: a person has to look.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use passerelle_link::Peer;
use passerelle_proto::v1::{self, AgentRun, entry::Event};
use passerelle_proto::{PartyId, kept};
use prost::Message;

use crate::metrics::Counter;
use crate::node::Node;

/// Longest value that an agent may choose, in bytes.
const VALUE_MAX: usize = 32;

/// What is wrong with the state of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// It is the state of an earlier run than the last one.
    Earlier { number: u64, before: u64 },
    /// It is another one.
    Other,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Earlier { number, before } => write!(
                f,
                "its state is of run {number}, and run {before} has been here: it was restored \
                 from a backup, or two machines run it; stop one of two, and compare what a \
                 restored one sends"
            ),
            Self::Other => f.write_str(
                "it has another state than before: what the old one had in its work folder is \
                 there and not here",
            ),
        }
    }
}

fn compare(before: Option<&AgentRun>, run: &AgentRun) -> Option<Found> {
    let before = before?;
    if before.state != run.state {
        return Some(Found::Other);
    }
    let same = before.run == run.run;
    (run.number < before.number || (run.number == before.number && !same)).then_some(
        Found::Earlier {
            number: run.number,
            before: before.number,
        },
    )
}

/// Compares the state of an agent that has just connected with the one it had before.
pub(crate) async fn look(node: &Arc<Node>, peer: &Peer, run: &AgentRun) {
    if run.state.is_empty() || run.state.len() > VALUE_MAX || run.run.len() > VALUE_MAX {
        return;
    }
    let (looking, party, said) = (node.clone(), peer.hop.party.clone(), run.clone());
    let looked = passerelle_host::blocking(move || keep(&looking, &party, &said)).await;
    let Ok(Some((found, before))) = looked else {
        return;
    };
    let attention = found.to_string();
    tracing::error!(%peer, "{attention}");
    node.metrics.add(Counter::AgentStates, &[], 1);
    node.peers.attend(&peer.hop, attention);
    let event = Event::AgentState(v1::AgentStateEvent {
        agent: Some(peer.hop.to_message()),
        number: run.number,
        number_before: before.number,
        other: found == Found::Other,
    });
    let node = node.clone();
    tokio::spawn(async move {
        node.anchor.wait().await;
        if let Err(error) = node.sequencer.commit(event).await {
            tracing::warn!(%error, "that an agent has another state was not recorded");
        }
    });
}

/// Keeps the newest run of an agent, and compares it with the one before. Blocks.
fn keep(node: &Node, party: &PartyId, run: &AgentRun) -> Option<(Found, AgentRun)> {
    let path = path(node, party);
    let bytes = node.read_if_there(&path);
    let before = parse(&bytes);
    if before.is_none() && !bytes.is_empty() {
        let path = path.display();
        tracing::error!(
            %path,
            "what is kept of an agent's runs is damaged: it is made again, and whether its state \
             goes on from there cannot be told this time"
        );
    }
    if before.as_ref() == Some(run) {
        return None;
    }
    if let Err(error) = node.replace(&path, &kept::with_digest(&run.encode_to_vec())) {
        tracing::warn!(%error, "the run of an agent was not kept");
    }
    Some((compare(before.as_ref(), run)?, before?))
}

fn parse(kept: &[u8]) -> Option<AgentRun> {
    let run = AgentRun::decode(kept::sound(kept)?).ok();
    run.filter(|run| !run.state.is_empty())
}

fn path(node: &Node, party: &PartyId) -> PathBuf {
    node.data_dir.join("agents").join(format!("{party}.run"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(state: u8, number: u64, run: u8) -> AgentRun {
        AgentRun {
            state: vec![state; 16],
            number,
            run: vec![run; 16],
        }
    }

    #[test]
    fn a_state_that_goes_on_is_in_order_and_one_that_was_put_back_or_is_run_twice_is_not() {
        let last = run(1, 5, 9);
        assert_eq!(compare(None, &last), None);
        assert_eq!(compare(Some(&last), &last), None, "connected again");
        assert_eq!(compare(Some(&last), &run(1, 6, 3)), None, "started again");
        assert_eq!(compare(Some(&last), &run(1, 9, 3)), None, "often");
        let earlier = |number| Some(Found::Earlier { number, before: 5 });
        assert_eq!(compare(Some(&last), &run(1, 4, 3)), earlier(4));
        assert_eq!(compare(Some(&last), &run(1, 5, 3)), earlier(5), "its twin");
        assert_eq!(compare(Some(&last), &run(2, 6, 3)), Some(Found::Other));
    }
}
