//! A start on a disk that is nearly full: nothing is opened, and the gateway says why it waits.
//!
//! Recovering the log copies the end of it, and no word of ours can be kept without room. So a
//! start first looks whether there is enough. Where there is not, health is answered with
//! NOT_SERVING, operators are told the reason, and the disk is looked at again until there is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use passerelle_disk::Disk;
use passerelle_host::{Clock, HostClock};
use passerelle_link::{Identity, ListenError, Listener, RefusalSink, Trust};
use passerelle_proto::v1::admin_server::Admin;
use passerelle_proto::v1::{
    AnchorRequest, AnchorResponse, BackupRequest, EntryProof, EvidenceRequest, ExportRequest,
    FilePiece, LogRecord, LogRequest, PackageRequest, PackageResponse, ProveRequest, QueueRequest,
    QueueResponse, StatusRequest, StatusResponse,
};
use passerelle_proto::{PartyId, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::{Request, Response, Status, async_trait};

use crate::config::Config;
use crate::exchange::software;
use crate::gateway::{StartError, serve_admin, serve_metrics};
use crate::log::SEGMENT_LEN;
use crate::materials::Materials;
use crate::metrics::{Gauge, Metrics};
use crate::spool::FREE_BYTES_MIN;

/// Free bytes that a start needs: what is never used up, and a copy of the log's last segment.
pub const START_BYTES_MIN: u64 = FREE_BYTES_MIN + SEGMENT_LEN;
/// How often the disk is looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often the sockets are tried that another gateway may still hold.
const BIND_EVERY: Duration = Duration::from_millis(100);
/// How long what answered meanwhile may take to end.
const END_MAX: Duration = Duration::from_secs(2);

/// Why the gateway waits; `None` when there is room.
///
/// # Errors
/// What the system says about the directory.
fn shortage(disk: &dyn Disk, dir: &Path) -> Result<Option<String>, StartError> {
    let free = disk.free_bytes(dir).map_err(|error| StartError::Path {
        path: dir.to_owned(),
        why: format!("how much room there is cannot be told: {error}"),
    })?;
    let lack = free < START_BYTES_MIN;
    Ok(lack.then(|| words(dir, free)))
}

fn words(dir: &Path, free: u64) -> String {
    let mib = |bytes: u64| bytes / (1024 * 1024);
    format!(
        "the disk of {} is nearly full: {} MiB are free, and a start needs {} MiB: make room, and \
         the gateway goes on by itself",
        dir.display(),
        mib(free),
        mib(START_BYTES_MIN)
    )
}

/// Returns once there is room for a start. Meanwhile nothing is opened, and whoever asks is told.
///
/// # Errors
/// [`StartError`] when it cannot be told how much room there is.
pub(crate) async fn wait(
    disk: &Arc<dyn Disk>,
    config: &Config,
    materials: &Materials,
) -> Result<(), StartError> {
    let Some(reason) = shortage(disk.as_ref(), &config.data_dir)? else {
        return Ok(());
    };
    tracing::error!(reason, "the gateway waits");
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let waiting = Waiting {
        party: config.party.clone(),
        since: HostClock.now(),
        disk: disk.clone(),
        dir: config.data_dir.clone(),
    };
    if let Err(error) = answer(&waiting, config, materials, &stop, &tasks).await {
        tracing::warn!(%error, "nobody is told why the gateway waits");
    }
    while shortage(disk.as_ref(), &config.data_dir)?.is_some() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    stop.cancel();
    tasks.close();
    let _ = tokio::time::timeout(END_MAX, tasks.wait()).await;
    tracing::info!("there is room again: the gateway starts");
    Ok(())
}

/// Answers health, operators and metrics until `stop`.
async fn answer(
    waiting: &Waiting,
    config: &Config,
    materials: &Materials,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<(), StartError> {
    serve_admin(waiting.clone(), stop, tasks, &config.admin_socket)?;
    let metrics = Metrics::new(config.party.as_str());
    metrics.set(Gauge::Serving, &[], 0.0);
    serve_metrics(metrics, stop, tasks, config.metrics_listen).await?;
    // Nobody has a connection with this process yet: any key will do.
    let mut reset = [0; 64];
    let _ = SystemRandom::new().fill(&mut reset);
    let trust = materials.trust.subscribe();
    let connections = config.limits.connections_max;
    let identity = &materials.identity;
    let listener = Listener::bind(config.listen, identity, trust, &reset, connections).await?;
    let (health, service) = tonic_health::server::health_reporter();
    let not_serving = tonic_health::ServingStatus::NotServing;
    health.set_service_status("", not_serving).await;
    let routes = Routes::new(service);
    tasks.spawn(listener.serve(routes, Arc::new(waiting.clone()), stop.clone()));
    Ok(())
}

/// Binds the gateway's sockets. Those of a gateway that has waited for room may take a moment to
/// be let go of.
///
/// # Errors
/// [`ListenError`] when they are not free in the end.
pub(crate) async fn bind(
    config: &Config,
    identity: &Identity,
    trust: Trust,
    reset_key: &[u8; 64],
    connections_max: usize,
) -> Result<Listener, ListenError> {
    let begun = Instant::now();
    loop {
        let trust = trust.clone();
        let bound = Listener::bind(config.listen, identity, trust, reset_key, connections_max);
        match bound.await {
            Err(_) if begun.elapsed() < END_MAX => tokio::time::sleep(BIND_EVERY).await,
            bound => return bound,
        }
    }
}

/// What a call answers with that has many answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A gateway that waits for room.
#[derive(Clone)]
struct Waiting {
    party: PartyId,
    since: Timestamp,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
}

impl Waiting {
    fn reason(&self) -> String {
        match shortage(self.disk.as_ref(), &self.dir) {
            Ok(Some(reason)) => reason,
            Ok(None) => "there is room again: the gateway is about to start".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    fn unavailable<T>(&self) -> Result<Response<T>, Status> {
        Err(Status::unavailable(self.reason()))
    }
}

impl RefusalSink for Waiting {
    // There is no log to count it in.
    fn refused(&self, class: &'static str, address: SocketAddr, why: &str) {
        tracing::info!(class, %address, why, "refused while the gateway waits for room");
    }
}

#[async_trait]
impl Admin for Waiting {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse {
            party: self.party.to_string(),
            software: software(),
            started_ms: self.since.as_ms(),
            serving: false,
            reason: self.reason(),
            ..StatusResponse::default()
        }))
    }

    async fn queue(&self, _: Request<QueueRequest>) -> Result<Response<QueueResponse>, Status> {
        self.unavailable()
    }

    async fn package(
        &self,
        _: Request<PackageRequest>,
    ) -> Result<Response<PackageResponse>, Status> {
        self.unavailable()
    }

    type ProveStream = Answers<EntryProof>;

    async fn prove(&self, _: Request<ProveRequest>) -> Result<Response<Self::ProveStream>, Status> {
        self.unavailable()
    }

    type EvidenceStream = Answers<FilePiece>;

    async fn evidence(
        &self,
        _: Request<EvidenceRequest>,
    ) -> Result<Response<Self::EvidenceStream>, Status> {
        self.unavailable()
    }

    type ExportStream = Answers<FilePiece>;

    async fn export(
        &self,
        _: Request<ExportRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        self.unavailable()
    }

    type BackupStream = Answers<FilePiece>;

    async fn backup(
        &self,
        _: Request<BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        self.unavailable()
    }

    type LogStream = Answers<LogRecord>;

    async fn log(&self, _: Request<LogRequest>) -> Result<Response<Self::LogStream>, Status> {
        self.unavailable()
    }

    async fn anchor(&self, _: Request<AnchorRequest>) -> Result<Response<AnchorResponse>, Status> {
        self.unavailable()
    }
}
