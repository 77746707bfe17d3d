//! An agent without sockets and without a host, for simulations.
//!
//! Everything else is the program's own: how it starts, recovers, claims, seals, offers, opens and
//! receipts. The caller brings what is below that: a disk, a clock, and whatever carries frames.

use std::sync::Arc;
use std::time::Duration;

use passerelle_disk::Disk;
use passerelle_host::Clock;
use passerelle_link::{Dial, Exchange};
use passerelle_proto::PackageId;
use passerelle_proto::v1::CancelState;
use tokio::sync::{broadcast, mpsc};
use tokio_util::task::TaskTracker;

use crate::config::AgentConfig;
use crate::daemon::{Ground, StartError, keep_link, load, prepare};
use crate::event::AgentEvent;
use crate::exchange::AgentExchange;
use crate::node::Node;
use crate::{cancel, leftovers, opening, retention, sealing};

/// An agent that runs in a simulation.
pub struct SimulatedAgent {
    node: Arc<Node>,
    exchange: Arc<AgentExchange>,
    tasks: TaskTracker,
}

impl SimulatedAgent {
    /// Starts it in the order in which the program does.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        config: AgentConfig,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        dialer: impl Dial,
    ) -> Result<Self, StartError> {
        let materials = load(&disk, &config)?;
        let ground = Ground { disk, clock };
        let (node, arrived) = prepare(&ground, config, materials)?;
        let tasks = TaskTracker::new();
        let (sender, receiver) = mpsc::unbounded_channel();
        for package in arrived {
            let _ = sender.send(package);
        }
        tasks.spawn(opening::open_arrived(node.clone(), receiver));
        let exchange = AgentExchange::new(node.clone(), sender);
        if let Some(gateway) = node.gateway() {
            keep_link(&node, &tasks, exchange.clone(), dialer, gateway);
        }
        tasks.spawn(sealing::watch_outbox(node.clone()));
        tasks.spawn(retention::keep_pruning(node.clone()));
        tasks.spawn(leftovers::keep_tidy(node.clone()));
        Ok(Self {
            node,
            exchange,
            tasks,
        })
    }

    /// Its side of every stream.
    pub fn exchange(&self) -> Arc<dyn Exchange> {
        self.exchange.clone()
    }

    /// Follows what it does.
    pub fn events(&self) -> broadcast::Receiver<AgentEvent> {
        self.node.events.subscribe()
    }

    /// Packages of its own that are not over, with the names under which they were dropped.
    pub fn outgoing(&self) -> Vec<(PackageId, String)> {
        let sent = self.node.outgoing.all().into_iter();
        sent.map(|sent| {
            let record = sent.job.record().ok().flatten();
            let name = record.map(|record| record.name);
            (sent.manifest.id(), name.unwrap_or_default())
        })
        .collect()
    }

    /// Takes a package back, as the command line does.
    ///
    /// # Errors
    /// Why it was not asked, in words.
    pub fn cancel(&self, package: PackageId) -> Result<CancelState, String> {
        let asked = cancel::ask(&self.node, package, "");
        let asked = asked.map_err(|status| status.message().to_owned())?;
        Ok(asked.state())
    }

    /// Stops in good order.
    pub async fn stop(self, grace: Duration) {
        self.node.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(grace, self.tasks.wait()).await;
    }

    /// Its machine has no power: nothing that it still does can be seen by anybody.
    pub fn abandon(self) {
        self.node.stop.cancel();
    }
}
