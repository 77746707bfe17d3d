//! A gateway without sockets and without a host, for simulations.
//!
//! Everything else is the program's own: how it starts, recovers, accepts, commits, hands over,
//! expires, purges, has its log cosigned, and stops. The caller brings what is below that: a disk,
//! a clock, and whatever carries frames.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use passerelle_disk::Disk;
use passerelle_host::{Clock, Worker};
use passerelle_link::{Dial, Exchange, Peer};
use passerelle_proto::Hop;
use passerelle_proto::v1::{AddCheckpointRequest, AddCheckpointResponse};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::anchor::{self, Hold};
use crate::config::Config;
use crate::exchange::GatewayExchange;
use crate::gateway::{StartError, housekeeping, keep_linked, wind_up};
use crate::log::{Fatal, Log, LogKeys};
use crate::materials::Materials;
use crate::node::{Failure, Node};
use crate::opening::{Ground, kept, open};
use crate::purge;
use crate::queue::{Counts, MemQueue, Queue, QueueError};
pub use crate::witness::Partner;
use crate::witness::WitnessService;

/// A gateway that runs in a simulation.
pub struct SimulatedGateway {
    node: Arc<Node>,
    exchange: Arc<GatewayExchange>,
    tasks: TaskTracker,
    streams: TaskTracker,
    committer: Option<Worker>,
}

/// Answers a partner that asks for a cosignature.
pub type Cosign = Arc<
    dyn Fn(Peer, AddCheckpointRequest) -> BoxFuture<'static, Result<AddCheckpointResponse, Status>>
        + Send
        + Sync,
>;

/// What a simulated gateway runs on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Where everything is that it keeps, and the notes that its configuration names.
    pub disk: Arc<dyn Disk>,
    /// Its clock.
    pub clock: Arc<dyn Clock>,
    /// Length of the log's segments in bytes.
    pub segment_len: u64,
}

impl SimulatedGateway {
    /// Starts it in the order in which the program does.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start<D>(config: Config, machine: Machine, dialer: D) -> Result<Self, StartError>
    where
        D: Dial + Clone,
        D::Connection: Partner,
    {
        let materials = Materials::load(&machine.disk, &config)?;
        let ground = Ground {
            disk: machine.disk,
            clock: machine.clock,
            segment_len: machine.segment_len,
        };
        let no_database = |_: &Ground, _: &Path| {
            let queue: Arc<dyn Queue> = Arc::new(MemQueue::new());
            Ok(queue)
        };
        let (node, committer) = open(&ground, &config, materials, no_database)?;
        let lonely = anchor::is_lonely(&node.sequencer.ledger().log)?;
        if lonely && let Err(error) = anchor::lift(&node, Hold::Fresh).await {
            node.fail(format!("the start was not recorded: {error}"));
        }
        let exchange = GatewayExchange::new(node.clone());
        let (tasks, streams) = (TaskTracker::new(), TaskTracker::new());
        let linked = keep_linked(node.clone(), tasks.clone(), dialer, exchange.clone());
        tasks.spawn(linked);
        tasks.spawn(housekeeping(node.clone()));
        tasks.spawn(purge::keep_purging(node.clone()));
        Ok(Self {
            node,
            exchange,
            tasks,
            streams,
            committer: Some(committer),
        })
    }

    /// Its side of every stream.
    pub fn exchange(&self) -> Arc<dyn Exchange> {
        self.exchange.clone()
    }

    /// Streams of peers that dial it: they end in order when it stops.
    pub fn streams(&self) -> (TaskTracker, CancellationToken) {
        (self.streams.clone(), self.node.stop.clone())
    }

    /// Answers partners that ask for a cosignature, as the service does.
    pub fn cosign(&self) -> Cosign {
        let node = self.node.clone();
        Arc::new(move |peer, request| {
            let service = WitnessService(node.clone());
            async move { service.answer(peer, request).await }.boxed()
        })
    }

    /// Why it must not go on, once that is so.
    pub fn failure(&self) -> Option<Failure> {
        self.node.failure.borrow().clone()
    }

    /// What is not over, by next hop.
    pub fn waiting(&self) -> BTreeMap<Hop, Counts> {
        self.node.queue.counts()
    }

    /// Whether it keeps packages that are over until a time to come: after its clock was ahead, the
    /// time of its log is.
    pub fn keeps(&self) -> bool {
        let due = self.node.queue.retention().due;
        due.is_some_and(|due| due > self.node.now())
    }

    /// Bytes in the segments of its spool that belong to no package which is kept, and yet keep the
    /// segments.
    ///
    /// # Errors
    /// What the queue says.
    pub fn astray(&self) -> Result<u64, QueueError> {
        let kept = kept(self.node.queue.as_ref())?;
        let shared = kept.live.iter().filter(|(_, pack)| pack.segment != 0);
        let places = shared.map(|(_, pack)| ((pack.segment, pack.offset), pack.length));
        let live: u64 = places.collect::<BTreeMap<_, _>>().values().sum();
        Ok(self.node.spool.shared_bytes().saturating_sub(live))
    }

    /// Entries of its log.
    pub fn log_size(&self) -> u64 {
        *self.node.sequencer.size().borrow()
    }

    /// Stops in good order.
    pub async fn stop(mut self, grace: std::time::Duration) {
        wind_up(&self.node, &self.streams, grace, self.committer.take()).await;
        self.tasks.close();
    }

    /// Its machine has no power: nothing that it still does can be seen by anybody.
    pub fn abandon(self) {
        self.node.stop.cancel();
        self.node.sequencer.stop();
    }
}

/// Opens logs as a start does, to see what it would find.
pub struct LogReader {
    keys: LogKeys,
    dir: PathBuf,
}

impl LogReader {
    /// For the log of a gateway, whose configuration and keys are on this machine.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn of(config: &Config) -> Result<Self, StartError> {
        let materials = Materials::load(&passerelle_disk::system(), config)?;
        Ok(Self {
            keys: materials.log_keys,
            dir: config.data_dir.join("log"),
        })
    }

    /// The bytes of all entries that a start on `disk` would find; it writes there as a start does.
    ///
    /// # Errors
    /// [`Fatal`]: it would not start.
    pub fn entries(&self, disk: &Arc<dyn Disk>, segment_len: u64) -> Result<Vec<Vec<u8>>, Fatal> {
        let log = Log::open_with(disk, &self.dir, self.keys.clone(), segment_len)?;
        log.entries(0, log.size())
    }
}
