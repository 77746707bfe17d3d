//! One running agent: what is started in which order, and how it ends.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use passerelle_disk::{Disk, DiskError, crash_point};
use passerelle_host::{Clock, HostClock, monotonic};
use passerelle_link::{Dial, Dialer, Identity, Link, LinkStatus, TrustSource, TrustStore};
use passerelle_proto::v1::agent_server::AgentServer;
use passerelle_proto::{Hop, KeyId, KeyRole, PackageId, PartyId, Problem, VerifiedStatement};
use tokio::net::UnixListener;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::again;
use crate::clock::{self, GatewayClock};
use crate::config::{AgentConfig, ConfigError};
use crate::damage;
use crate::event::{AgentEvent, EVENTS_MAX};
use crate::exchange::AgentExchange;
use crate::incoming::Incoming;
use crate::metrics::{self, AgentMetrics};
use crate::node::{Node, read_chain};
use crate::outbox::make_folders;
use crate::outgoing::Outgoing;
use crate::received::Register;
use crate::renewal::{self, Keys, problem};
use crate::socket::SocketService;
use crate::store::{Store, StoreError};
use crate::unopened::Unopened;
use crate::{leftovers, opening, retention, run, sealing};

/// How often gauges are set.
const GAUGES_EVERY: Duration = Duration::from_secs(5);

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration or something that it names.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The agent's directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file below it.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A socket.
    #[error("{path}: {why}", path = .path.display())]
    Path {
        /// Which path.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Keys, certificate and trust of one agent; they belong together.
pub(crate) struct Materials {
    identity: Identity,
    keys: Keys,
    trust: TrustStore,
}

/// An agent that runs.
pub struct Agent {
    node: Arc<Node>,
    metrics: Option<SocketAddr>,
    tasks: TaskTracker,
}

impl Agent {
    /// Reads everything that a configuration names, and opens nothing.
    ///
    /// # Errors
    /// Every problem at once.
    pub fn check(config: &AgentConfig) -> Result<(), ConfigError> {
        load(&passerelle_disk::system(), config).map(drop)
    }

    /// Starts an agent in this tokio runtime: lock, recovery, link, outbox.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(config: AgentConfig) -> Result<Self, StartError> {
        let disk = passerelle_disk::system();
        let materials = load(&disk, &config)?;
        let clock = Arc::new(HostClock);
        let ground = Ground { disk, clock };
        let prepared = move || prepare(&ground, config, materials);
        let prepared = passerelle_host::blocking(prepared).await;
        let interrupted = |_| StartError::Path {
            path: PathBuf::from("agent"),
            why: "the start was interrupted".into(),
        };
        let (node, arrived) = prepared.map_err(interrupted)??;
        let tasks = TaskTracker::new();
        serve_socket(&node, &tasks)?;
        let metrics = serve_metrics(&node, &tasks).await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        for package in arrived {
            let _ = sender.send(package);
        }
        tasks.spawn(opening::open_arrived(node.clone(), receiver));
        let exchange = AgentExchange::new(node.clone(), sender);
        start_link(&node, &tasks, exchange)?;
        tasks.spawn(sealing::watch_outbox(node.clone()));
        tasks.spawn(gauges(node.clone()));
        tasks.spawn(retention::keep_pruning(node.clone()));
        tasks.spawn(leftovers::keep_tidy(node.clone()));
        tasks.spawn(renewal::keep_current(node.clone()));
        tracing::info!(party = %node.party, "the agent runs");
        Ok(Self {
            node,
            metrics,
            tasks,
        })
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

    /// Follows what the agent does.
    pub fn events(&self) -> broadcast::Receiver<AgentEvent> {
        self.node.events.subscribe()
    }

    /// Follows the connection to the gateway.
    pub fn link(&self) -> watch::Receiver<LinkStatus> {
        self.node.link.subscribe()
    }

    /// Whose agent this is.
    pub fn party(&self) -> &PartyId {
        &self.node.party
    }

    /// Says that a person or a system has taken note of a received package.
    ///
    /// # Errors
    /// Why it was not said, in words.
    pub async fn acknowledge(&self, package: PackageId, comment: &str) -> Result<(), String> {
        let (node, comment) = (self.node.clone(), comment.to_owned());
        let said = passerelle_host::blocking(move || {
            crate::socket::acknowledge(&node, &package.to_string(), comment)
        });
        let said = said.await.map_err(|error| error.to_string())?;
        said.map(drop).map_err(|status| status.message().to_owned())
    }

    /// Verified statements about a package of ours. Blocks for reading them.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn statements_about(
        &self,
        package: PackageId,
    ) -> Result<Vec<VerifiedStatement>, DiskError> {
        let outgoing = &self.node.outgoing;
        let job = outgoing.find(&package).map(|sent| sent.job);
        match job.or_else(|| outgoing.find_finished(&package)) {
            Some(job) => crate::outgoing::statements(&job),
            None => Ok(Vec::new()),
        }
    }

    /// The command line's socket.
    pub fn socket(&self) -> &Path {
        &self.node.config.socket
    }

    /// Where `/metrics` is served.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// The agent's directory.
    pub fn directory(&self) -> &Path {
        self.node.store.root()
    }

    /// Stops in good order: open transfers get the grace period, and go on at the next start.
    pub async fn stop(self) {
        self.node.stop.cancel();
        self.tasks.close();
        let grace = self.node.config.grace;
        if tokio::time::timeout(grace, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("transfers were broken off; they go on after the next start");
        }
        let _ = fs::remove_file(self.socket());
        tracing::info!(party = %self.node.party, "the agent has stopped");
    }
}

pub(crate) fn load(disk: &Arc<dyn Disk>, config: &AgentConfig) -> Result<Materials, ConfigError> {
    let mut problems = Vec::new();
    let keys = Keys::load(config)
        .map_err(|error| problems.extend(error.problems))
        .ok();
    let identity = Identity::load(&config.tls_certificate, &config.tls_key)
        .map_err(|error| {
            let remedy = "name a certificate of this agent and its key in [tls]";
            problems.push(problem(&config.tls_certificate, error.to_string(), remedy));
        })
        .ok();
    let source = TrustSource {
        file: config.file.clone(),
        convention: config.convention.clone(),
        sheets: config.sheets.clone(),
        roots: config.roots.clone(),
        kept: config.directory.join("state").join("trust"),
    };
    let trust = TrustStore::open(disk, &source)
        .map_err(|found| problems.extend(found))
        .ok();
    if let (Some(keys), Some(identity), Some(trust)) = (keys, identity, trust) {
        let materials = Materials {
            identity,
            keys,
            trust,
        };
        check(config, &materials, &mut problems);
        if problems.is_empty() {
            return Ok(materials);
        }
    }
    Err(ConfigError { problems })
}

/// Whether the party's own sheet lists what this agent is to use.
fn check(config: &AgentConfig, materials: &Materials, problems: &mut Vec<Problem>) {
    let party = &config.party;
    let directory = materials.trust.directory();
    // Others may wait for the sheet that will list them.
    let ids = materials.keys.signing.ids();
    let listed = |id: &KeyId| {
        let key = directory.signing_key(party, id);
        key.is_some_and(|key| key.may(KeyRole::Agent))
    };
    if !ids.iter().any(listed) {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let what = format!(
            "key {} is no agent key in the sheet of {party}",
            ids.join(" or ")
        );
        let remedy = "name the key of this agent, or sign a sheet that lists it";
        problems.push(problem(first(&config.agent_keys), what, remedy));
    }
    if !materials.keys.recipients.is_listed(&directory, party) {
        let what = format!("this recipient key is not in the sheet of {party}");
        let remedy = "name the recipient key of this party, or sign a sheet that lists it";
        problems.push(problem(first(&config.recipient_keys), what, remedy));
    }
    let name = materials.identity.name();
    let found = directory
        .tls_name(name)
        .map(|(party, role)| Hop { party, role });
    if found != Some(Hop::agent(party.clone())) {
        let what = format!("the sheet of {party} does not list {name} as its agent");
        let remedy = "name the agent's certificate, or sign a sheet that lists its name";
        problems.push(problem(&config.tls_certificate, what, remedy));
    }
    if directory.convention().gateway_of(party).is_none() {
        let what = format!("{party} is no party of the convention");
        let remedy = "write the party's id as the convention has it";
        problems.push(problem(&config.file, what, remedy));
    }
}

fn first(paths: &[PathBuf]) -> &Path {
    paths.first().map_or(Path::new(""), PathBuf::as_path)
}

pub(crate) type Prepared = (Arc<Node>, Vec<PackageId>);

/// What an agent runs on.
pub(crate) struct Ground {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
}

pub(crate) fn prepare(
    ground: &Ground,
    config: AgentConfig,
    materials: Materials,
) -> Result<Prepared, StartError> {
    let store = Store::open(&ground.disk, &config.directory)?;
    crash_point!("start.locked");
    let kept = materials.trust.keep_in_force();
    kept.map_err(|error| StartError::Path {
        path: config.directory.clone(),
        why: error.to_string(),
    })?;
    let directory = materials.trust.directory();
    make_folders(&store, directory.convention(), &config.party)?;
    let register = Register::load(&store)?;
    let outgoing = Outgoing::load(&store)?;
    again::recover(&store, &outgoing);
    let run = run::begin(&store)?;
    let chain = read_chain(&store, &register, &outgoing)?;
    let node = Arc::new(Node {
        party: config.party.clone(),
        metrics: AgentMetrics::new(config.party.as_str()),
        register,
        identity: materials.identity,
        trust: materials.trust,
        keys: materials.keys.signing,
        recipients: materials.keys.recipients,
        outgoing,
        sealing: Mutex::default(),
        incoming: Incoming::default(),
        unopened: Unopened::default(),
        chain: Mutex::new(chain),
        events: broadcast::Sender::new(EVENTS_MAX),
        link: watch::Sender::new(LinkStatus::default()),
        news: Notify::new(),
        stop: CancellationToken::new(),
        started: ground.clock.now(),
        began: monotonic(),
        host_clock: ground.clock.clone(),
        clock: GatewayClock::default(),
        store,
        config,
        run,
    });
    crash_point!("start.loaded");
    let arrived = opening::recover(&node)?;
    damage::recover(&node)?;
    crash_point!("start.recovered");
    for job in node.outgoing.jobs() {
        for signed in job.said().unacked()? {
            if let Some(package) = crate::cancel::package_of(&signed) {
                let id = crate::cancel::id_of(&signed);
                node.outgoing.statement(package, id, signed);
            }
        }
    }
    for sent in node.outgoing.all() {
        crate::receipts::close_if_over(&node, sent.job, &sent.manifest)?;
    }
    Ok((node, arrived))
}

fn serve_socket(node: &Arc<Node>, tasks: &TaskTracker) -> Result<(), StartError> {
    let path = node.config.socket.clone();
    let failed = |error: std::io::Error| StartError::Path {
        path: path.clone(),
        why: error.to_string(),
    };
    // The directory is locked by us: a socket that is left over is of a process that is gone.
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let server = tonic::transport::Server::builder()
        .add_service(AgentServer::new(SocketService(node.clone())));
    let stop = node.stop.clone();
    tasks.spawn(async move {
        let incoming = UnixListenerStream::new(listener);
        let stopped = stop.cancelled_owned();
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped).await {
            tracing::error!(%error, "the command line's socket has ended");
        }
    });
    Ok(())
}

async fn serve_metrics(
    node: &Arc<Node>,
    tasks: &TaskTracker,
) -> Result<Option<SocketAddr>, StartError> {
    let Some(listen) = node.config.metrics_listen else {
        return Ok(None);
    };
    let failed = |error: std::io::Error| StartError::Path {
        path: PathBuf::from(listen.to_string()),
        why: format!("metrics: {error}"),
    };
    let listener = metrics::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tasks.spawn(metrics::serve(
        listener,
        node.metrics.clone(),
        node.stop.clone(),
    ));
    Ok(Some(address))
}

fn start_link(
    node: &Arc<Node>,
    tasks: &TaskTracker,
    exchange: Arc<AgentExchange>,
) -> Result<(), StartError> {
    let Some(gateway) = node.gateway() else {
        return Ok(());
    };
    let failed = |error: std::io::Error| StartError::Path {
        path: PathBuf::from("udp socket"),
        why: error.to_string(),
    };
    let trust = node.trust.subscribe();
    let dialer =
        Dialer::new(node.identity.clone(), trust, node.config.transport).map_err(failed)?;
    keep_link(node, tasks, exchange, dialer, gateway);
    Ok(())
}

/// Keeps the gateway connected, and tells whoever listens.
pub(crate) fn keep_link(
    node: &Arc<Node>,
    tasks: &TaskTracker,
    exchange: Arc<AgentExchange>,
    dialer: impl Dial,
    gateway: Hop,
) {
    let stop = node.stop.clone();
    let connection = Arc::new(Mutex::new(None));
    let newest = connection.clone();
    let connected = move |connection| {
        *newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection);
    };
    let (link, run) = Link::maintain(dialer, gateway, exchange, stop, connected);
    tasks.spawn(run);
    tasks.spawn(clock::ask_again(node.clone(), connection));
    let (node, mut status) = (node.clone(), link.status());
    tasks.spawn(async move {
        loop {
            let now = status.borrow_and_update().clone();
            node.tell(match now.transport {
                Some(transport) => AgentEvent::Connected {
                    transport: transport.to_string(),
                    address: now.address.clone(),
                },
                None => AgentEvent::Disconnected {
                    why: now.last_error.clone(),
                },
            });
            node.link.send_replace(now);
            tokio::select! {
                biased;
                changed = status.changed() => if changed.is_err() { return },
                () = node.stop.cancelled() => return,
            }
        }
    });
}

async fn gauges(node: Arc<Node>) {
    let mut tick = tokio::time::interval(GAUGES_EVERY);
    loop {
        tokio::select! {
            biased;
            _ = tick.tick() => {
                let connected = node.link.borrow().transport.is_some();
                node.metrics.set_now(node.outgoing.all().len(), connected);
                if let Some(ahead_s) = node.clock.ahead_s(node.host_clock.moment()) {
                    node.metrics.set_clock_ahead(ahead_s);
                }
                node.metrics.set_unopened(node.unopened.len());
                node.metrics.set_stuck(node.outgoing.stuck.len());
                node.metrics.certificate_ends(node.identity.not_after_s());
            }
            () = node.stop.cancelled() => return,
        }
    }
}
