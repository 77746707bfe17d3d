//! One running gateway: what is started in which order, and how it ends.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use passerelle_disk::{Disk, DiskError, Lock, crash_point};
use passerelle_host::Worker;
use passerelle_link::{Dial, Dialer, ExchangeService, Link, ListenError, RefusalSink, reset_key};
use passerelle_proto::Hop;
use passerelle_proto::v1::admin_server::{Admin, AdminServer};
use passerelle_proto::v1::witness_server::WitnessServer;
use passerelle_proto::v1::{self, entry::Event};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::admin::AdminService;
use crate::anchor::{self, Hold};
use crate::config::{Config, ConfigError};
use crate::exchange::GatewayExchange;
use crate::expiry::{EXPIRY_EVERY, clear_partials, expire};
use crate::freshness::{self, FRESHNESS_EVERY};
use crate::gauges;
use crate::inquiry::{self, GAPS_EVERY};
use crate::log::{AppendError, Fatal};
use crate::materials::Materials;
use crate::metrics::{self, Counter, Metrics};
use crate::node::{Failure, Node};
use crate::opening::{Ground, open, open_queue};
use crate::purge;
use crate::refusals::WINDOW;
use crate::renewal;
use crate::room;
use crate::sequencer::OpenError;
use crate::spool::SpoolError;
use crate::time_stamp;
use crate::witness::{self, CHECKPOINT_EVERY, Partner, WitnessService};

/// Exit code for a configuration, or a log, that cannot be used (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;
/// Exit code when a gateway stopped by itself and may be started again (`EX_SOFTWARE`).
pub const EXIT_STOPPED: u8 = 70;

/// Version of the data directory's layout.
const FORMAT: &str = "1\n";
/// How often gauges are set.
const GAUGES_EVERY: Duration = Duration::from_secs(5);

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration or something that it names.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log cannot be believed: a person has to look.
    #[error("log: {0}")]
    Log(#[from] Fatal),
    /// Queue or index.
    #[error(transparent)]
    Sequencer(OpenError),
    /// The queue's database.
    #[error("queue: {0}")]
    Queue(String),
    /// The spool.
    #[error("spool: {0}")]
    Spool(#[from] SpoolError),
    /// The listeners.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The data directory or a socket.
    #[error("{path}: {why}", path = .path.display())]
    Path {
        /// Which path.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl StartError {
    /// What the process says with its exit code: [`EXIT_CONFIG`] when a person has to look, else
    /// [`EXIT_STOPPED`]: the next start may find the disk in order.
    pub fn exit(&self) -> u8 {
        match self {
            Self::Config(_) => EXIT_CONFIG,
            Self::Log(fatal) if !matches!(fatal, Fatal::Io { .. }) => EXIT_CONFIG,
            _ => EXIT_STOPPED,
        }
    }
}

impl From<DiskError> for StartError {
    fn from(error: DiskError) -> Self {
        let why = format!("cannot {}: {}", error.operation, error.source);
        let path = error.path;
        Self::Path { path, why }
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Log(fatal) => Self::Log(fatal),
            other => Self::Sequencer(other),
        }
    }
}

fn path_error(path: &Path) -> impl FnOnce(std::io::Error) -> StartError + '_ {
    |error| StartError::Path {
        path: path.to_owned(),
        why: error.to_string(),
    }
}

/// A gateway that runs.
pub struct Gateway {
    node: Arc<Node>,
    address: SocketAddr,
    admin_socket: PathBuf,
    metrics: Option<SocketAddr>,
    failure: watch::Receiver<Option<Failure>>,
    grace: Duration,
    tasks: TaskTracker,
    streams: TaskTracker,
    committer: Option<Worker>,
    // One gateway at a time uses a directory; the lock ends with the process.
    _lock: Lock,
}

impl Gateway {
    /// Reads everything that a configuration names, and opens nothing.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn check(config: &Config) -> Result<(), ConfigError> {
        Materials::load(&passerelle_disk::system(), config).map(drop)
    }

    /// Starts a gateway in this tokio runtime: lock, log, queue, sweep, then it listens.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let disk = passerelle_disk::system();
        let mut materials = Materials::load(&disk, &config)?;
        let time_stamps = materials.time_stamps.take();
        let lock = lock_directory(disk.as_ref(), &config.data_dir)?;
        crash_point!("start.locked");
        room::wait(&disk, &config, &materials).await?;
        let (node, committer) = open_node(&disk, &config, materials).await?;
        let lonely = anchor::is_lonely(&node.sequencer.ledger().log)?;
        if lonely && let Err(error) = anchor::lift(&node, Hold::Fresh).await {
            node.fail(format!("the start was not recorded: {error}"));
        }
        let exchange = GatewayExchange::new(node.clone());
        let reset = config.data_dir.join("reset.secret");
        let reset = reset_key(disk.as_ref(), &reset)
            .map_err(|why| StartError::Path { path: reset, why })?;
        let trust = node.trust.subscribe();
        let connections = config.limits.connections_max;
        let listener =
            room::bind(&config, &node.identity, trust.clone(), &reset, connections).await?;
        let address = listener.address();
        let (tasks, streams) = (TaskTracker::new(), TaskTracker::new());
        let (health, health_service) = tonic_health::server::health_reporter();
        health
            .set_service_status("", tonic_health::ServingStatus::Serving)
            .await;
        let service = ExchangeService::new(exchange.clone(), node.stop.clone(), streams.clone());
        let routes = Routes::new(service)
            .add_service(WitnessServer::new(WitnessService(node.clone())))
            .add_service(health_service);
        let refusals: Arc<dyn RefusalSink> = node.clone();
        tasks.spawn(listener.serve(routes, refusals, node.stop.clone()));
        let dialer = Dialer::new(node.identity.clone(), trust, config.transport)
            .map_err(path_error(&config.data_dir))?;
        tasks.spawn(keep_linked(node.clone(), tasks.clone(), dialer, exchange));
        let admin = AdminService(node.clone());
        serve_admin(admin, &node.stop, &tasks, &config.admin_socket)?;
        let page = node.metrics.clone();
        let metrics = serve_metrics(page, &node.stop, &tasks, config.metrics_listen).await?;
        spawn_keepers(&node, &tasks);
        if let (Some(authority), Some(stamping)) = (time_stamps, &config.time_stamp) {
            tasks.spawn(time_stamp::keep_stamped(
                node.clone(),
                authority,
                stamping.every,
            ));
        }
        crash_point!("start.listening");
        tracing::info!(party = %node.party, %address, "the gateway runs");
        if !node.anchor.is_held() {
            tracing::info!("packages are put off until somebody shows a copy of the log");
        }
        let failure = node.failure.subscribe();
        Ok(Self {
            node,
            address,
            admin_socket: config.admin_socket,
            metrics,
            failure,
            grace: config.grace,
            tasks,
            streams,
            committer: Some(committer),
            _lock: lock,
        })
    }

    /// Where it listens, by UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The operators' socket.
    pub fn admin_socket(&self) -> &Path {
        &self.admin_socket
    }

    /// Where `/metrics` is served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// Takes over at once what has changed on the disk: certificate, notes, and the keys that the
    /// configuration names. Certificate and notes are looked at every few seconds anyway.
    ///
    /// # Errors
    /// Every problem with the configuration or the keys; these stay as they are then.
    pub async fn reload(&self) -> Result<(), ConfigError> {
        renewal::look(&self.node).await;
        renewal::reload_keys(&self.node).await
    }

    /// Waits until the gateway must not go on, and says why.
    pub async fn failed(&self) -> Failure {
        let mut failure = self.failure.clone();
        let found = failure.wait_for(Option::is_some).await;
        match found.ok().and_then(|failure| failure.clone()) {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// Stops in good order: streams finish what is open within the grace period, then the log gets
    /// its last checkpoint.
    pub async fn stop(mut self) {
        wind_up(&self.node, &self.streams, self.grace, self.committer.take()).await;
        self.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(2), self.tasks.wait()).await;
        let _ = fs::remove_file(&self.admin_socket);
        tracing::info!(party = %self.node.party, "the gateway has stopped");
    }
}

/// Ends in good order what a gateway does beside its listeners.
pub(crate) async fn wind_up(
    node: &Arc<Node>,
    streams: &TaskTracker,
    grace: Duration,
    committer: Option<Worker>,
) {
    node.stop.cancel();
    streams.close();
    if tokio::time::timeout(grace, streams.wait()).await.is_err() {
        tracing::warn!("transfers were broken off; they go on after the next start");
    }
    let failure = node.failure.borrow().clone();
    record_counts(node).await;
    let stopped = Event::Stopped(v1::StoppedEvent {
        why: failure.map_or(String::new(), |failure| failure.why),
    });
    let _ = node.sequencer.commit(stopped).await;
    crash_point!("stop.recorded");
    node.sequencer.stop();
    let node = node.clone();
    let ended = passerelle_host::blocking(move || {
        if let Err(error) = node.checkpoint() {
            tracing::error!(%error, "there is no last checkpoint");
        }
        crash_point!("stop.checkpointed");
        if let Some(committer) = committer {
            let _ = committer.join();
        }
        if let Err(error) = node.queue.close() {
            tracing::warn!(%error, "the queue is made again at the next start");
        }
    });
    let _ = ended.await;
    crash_point!("stop.closed");
}

pub(crate) fn lock_directory(disk: &dyn Disk, dir: &Path) -> Result<Lock, StartError> {
    disk.create_directories(dir)?;
    let permissions = fs::Permissions::from_mode(0o700);
    fs::set_permissions(dir, permissions).map_err(path_error(dir))?;
    let path = dir.join("lock");
    let file = match disk.lock(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            return Err(StartError::Path {
                path: dir.to_owned(),
                why: "another gateway uses this directory: stop it first".into(),
            });
        }
        locked => locked.map_err(path_error(&path))?,
    };
    let format = dir.join("format");
    match disk.read(&format) {
        Ok(found) if found == FORMAT.as_bytes() => Ok(file),
        Ok(found) => Err(StartError::Path {
            path: format,
            why: format!(
                "the directory has layout {}, and this program knows 1: update the program",
                String::from_utf8_lossy(&found).trim()
            ),
        }),
        Err(_) => {
            disk.replace(&format, FORMAT.as_bytes())?;
            Ok(file)
        }
    }
}

/// Opens log, queue and spool, on a thread that may block.
async fn open_node(
    disk: &Arc<dyn Disk>,
    config: &Config,
    materials: Materials,
) -> Result<(Arc<Node>, Worker), StartError> {
    let (ground, config) = (Ground::host(disk), config.clone());
    let open = move || open(&ground, &config, materials, open_queue);
    let opened = passerelle_host::blocking(open).await;
    opened.map_err(|_| StartError::Queue("the start was interrupted".into()))?
}

/// What a gateway does by itself, from its start to its end.
fn spawn_keepers(node: &Arc<Node>, tasks: &TaskTracker) {
    tasks.spawn(housekeeping(node.clone()));
    tasks.spawn(purge::keep_purging(node.clone()));
    tasks.spawn(renewal::keep_current(node.clone()));
}

/// Dials every partner from the moment on at which the notes in force say where it listens, until
/// the gateway stops. No partner is ever dialled twice: a link follows newer addresses by itself.
pub(crate) async fn keep_linked<D>(
    node: Arc<Node>,
    tasks: TaskTracker,
    dialer: D,
    exchange: Arc<GatewayExchange>,
) where
    D: Dial + Clone,
    D::Connection: Partner,
{
    let mut trust = node.trust.subscribe();
    let mut linked = BTreeSet::new();
    loop {
        for hop in partners(&node) {
            if linked.insert(hop.clone()) {
                spawn_link(&node, &tasks, &dialer, hop, exchange.clone());
            }
        }
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            changed = trust.changed() => if changed.is_err() { return },
        }
    }
}

/// Gateways of other parties that can be dialled.
fn partners(node: &Node) -> Vec<Hop> {
    let directory = node.directory();
    let parties = directory.convention().parties().iter();
    parties
        .filter(|party| party.via.is_none() && party.id != node.party)
        .filter(|party| {
            let sheet = directory.sheet(&party.id);
            sheet.is_some_and(|sheet| !sheet.addresses.is_empty())
        })
        .map(|party| Hop::gateway(party.id.clone()))
        .collect()
}

fn spawn_link<D>(
    node: &Arc<Node>,
    tasks: &TaskTracker,
    dialer: &D,
    hop: Hop,
    exchange: Arc<GatewayExchange>,
) where
    D: Dial + Clone,
    D::Connection: Partner,
{
    let (cosigning, cosign_tasks) = (node.clone(), tasks.clone());
    let connected = move |connection| {
        cosign_tasks.spawn(witness::keep_cosigned(cosigning.clone(), connection));
    };
    let stop = node.stop.clone();
    let (link, run) = Link::maintain(dialer.clone(), hop.clone(), exchange, stop, connected);
    tasks.spawn(run);
    let (node, mut status) = (node.clone(), link.status());
    tasks.spawn(async move {
        let label = hop.to_string();
        let mut failures = 0;
        loop {
            let now = status.borrow_and_update().clone();
            let more = u64::from(now.failures.saturating_sub(failures));
            failures = now.failures;
            let labels = [("peer", label.as_str())];
            node.metrics.add(Counter::DialFailures, &labels, more);
            node.peers.link(&hop, now);
            tokio::select! {
                biased;
                changed = status.changed() => if changed.is_err() { return },
                () = node.stop.cancelled() => return,
            }
        }
    });
}

pub(crate) fn serve_admin(
    admin: impl Admin,
    stop: &CancellationToken,
    tasks: &TaskTracker,
    path: &Path,
) -> Result<(), StartError> {
    // The directory is locked by us: a socket that is left over is of a process that is gone.
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(path_error(path))?;
    let permissions = fs::Permissions::from_mode(0o600);
    fs::set_permissions(path, permissions).map_err(path_error(path))?;
    let descriptors = passerelle_proto::v1::DESCRIPTORS;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let why = |error: tonic_reflection::server::Error| StartError::Path {
        path: path.to_owned(),
        why: format!("reflection: {error}"),
    };
    let server = tonic::transport::Server::builder()
        .add_service(AdminServer::new(admin))
        .add_service(reflection().build_v1().map_err(why)?)
        .add_service(reflection().build_v1alpha().map_err(why)?);
    let stop = stop.clone();
    tasks.spawn(async move {
        let incoming = UnixListenerStream::new(listener);
        let stopped = stop.cancelled_owned();
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped).await {
            tracing::error!(%error, "the operators' socket has ended");
        }
    });
    Ok(())
}

pub(crate) async fn serve_metrics(
    page: Arc<Metrics>,
    stop: &CancellationToken,
    tasks: &TaskTracker,
    listen: Option<SocketAddr>,
) -> Result<Option<SocketAddr>, StartError> {
    let Some(listen) = listen else {
        return Ok(None);
    };
    let failed = |error: std::io::Error| StartError::Path {
        path: PathBuf::from(listen.to_string()),
        why: format!("metrics: {error}"),
    };
    let listener = metrics::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tasks.spawn(metrics::serve(listener, page, stop.clone()));
    Ok(Some(address))
}

/// Gauges, counted refusals, and an end when nothing can be committed any more.
pub(crate) async fn housekeeping(node: Arc<Node>) {
    let mut fatal = node.sequencer.fatal();
    let mut gauges = tokio::time::interval(GAUGES_EVERY);
    let mut minute = tokio::time::interval(WINDOW);
    let mut checkpoints = tokio::time::interval(CHECKPOINT_EVERY);
    let mut deadlines = tokio::time::interval(EXPIRY_EVERY);
    let mut ages = tokio::time::interval(FRESHNESS_EVERY);
    let mut gaps = tokio::time::interval(GAPS_EVERY);
    // What waits for the log to be anchored is done once then, not once for every time missed.
    let timers = [
        &mut gauges,
        &mut minute,
        &mut checkpoints,
        &mut deadlines,
        &mut ages,
        &mut gaps,
    ];
    for every in timers {
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    // Whether it was told that the log has no room.
    let mut full = false;
    let mut hops = BTreeSet::new();
    loop {
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            _ = gauges.tick() => gauges::set(&node, &mut hops).await,
            _ = checkpoints.tick() => keep_checkpoint(&node, &mut full).await,
            // Before that nothing can be recorded, and nothing is taken away.
            _ = minute.tick(), if node.anchor.is_held() => {
                record_counts(&node).await;
                clear_partials(&node).await;
            }
            _ = ages.tick() => {
                let looking = node.clone();
                let _ = passerelle_host::blocking(move || freshness::look(&looking)).await;
            }
            _ = gaps.tick(), if node.anchor.is_held() => inquiry::look(&node).await,
            _ = deadlines.tick(), if node.anchor.is_held() => expire(&node).await,
            why = first(&mut fatal) => return node.fail(why),
        }
    }
}

/// Signs a checkpoint when the log has grown: agents keep the newest one that they are shown.
/// On a full disk it is tried again, and the log goes on meanwhile; `full` says that it was told.
async fn keep_checkpoint(node: &Arc<Node>, full: &mut bool) {
    let signing = node.clone();
    let sign = move || {
        let grown = {
            let ledger = signing.sequencer.ledger();
            ledger.log.size() > ledger.log.signed()
        };
        if grown { signing.checkpoint() } else { Ok(()) }
    };
    match passerelle_host::blocking(sign).await {
        Ok(Err(AppendError::Fatal(fatal))) => node.fail(fatal.to_string()),
        Ok(Err(error @ AppendError::Full)) => {
            if !std::mem::replace(full, true) {
                tracing::error!(%error, "no checkpoint is signed until then");
            }
        }
        Ok(Ok(())) => *full = false,
        Err(_) => {}
    }
}

/// Waits for the first reason.
async fn first(fatal: &mut watch::Receiver<Option<String>>) -> String {
    match fatal.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or_default(),
        Err(_) => "the sequencer has ended".to_owned(),
    }
}

async fn record_counts(node: &Node) {
    let counts = {
        let mut budget = node.refusals.lock().unwrap_or_else(|p| p.into_inner());
        budget.take()
    };
    for counted in counts {
        let event = Event::Counted(v1::CountedEvent {
            class: counted.class,
            count: counted.count,
        });
        if let Err(error) = node.sequencer.commit(event).await {
            tracing::warn!(%error, "counted refusals were not recorded");
        }
    }
}
