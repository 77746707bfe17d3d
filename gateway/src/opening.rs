//! What a start makes of a gateway's directory, before anybody can reach it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use passerelle_disk::{Disk, crash_point};
use passerelle_host::{Clock, HostClock, Worker, monotonic};
use passerelle_link::Belief;
use passerelle_proto::v1::{PackLocation, PurgedPart};
use passerelle_proto::{PackageId, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::anchor::Anchor;
use crate::breaker::Circuits;
use crate::config::Config;
use crate::gateway::StartError;
use crate::inquiry::Inquiries;
use crate::log::{self, Log};
use crate::materials::Materials;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::peers::Peers;
use crate::queue::{ItemKey, ItemView, PAGE_MAX, Queue, QueueError, SledQueue};
use crate::reconcile::is_unfinished;
use crate::refusals::RefusalBudget;
use crate::sequencer::{Sequencer, Signer};
use crate::spool::Spool;
use crate::time_stamp::Stamps;

pub(crate) type Opened = (Arc<Node>, Worker);

/// Levels of directories below the data directory that a start makes durable: down to those of the
/// log's tiles.
const LEVELS: u32 = 4;

/// What a gateway runs on.
pub(crate) struct Ground {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) segment_len: u64,
}

impl Ground {
    /// This machine.
    pub(crate) fn host(disk: &Arc<dyn Disk>) -> Self {
        Self {
            disk: disk.clone(),
            clock: Arc::new(HostClock),
            segment_len: log::segment_len(),
        }
    }
}

/// Makes the directory, and refuses one in which only half was done.
fn prepare(disk: &dyn Disk, dir: &Path) -> Result<(), StartError> {
    if is_unfinished(disk, dir) {
        return Err(StartError::Path {
            path: dir.to_owned(),
            why: "a new log was begun here and is not in its place yet: repeat `passerelle audit \
                  reconcile`"
                .into(),
        });
    }
    disk.create_directories(dir)?;
    // Some may be named by a process that was killed.
    Ok(disk.sync_directories(dir, LEVELS)?)
}

/// Brings everything that is derived up to the log; nothing runs yet but the committer.
pub(crate) fn open(
    ground: &Ground,
    config: &Config,
    materials: Materials,
    open_queue: impl FnOnce(&Ground, &Path) -> Result<Arc<dyn Queue>, StartError>,
) -> Result<Opened, StartError> {
    let (disk, clock) = (&ground.disk, ground.clock.clone());
    let dir = &config.data_dir;
    prepare(disk.as_ref(), dir)?;
    let log = dir.join("log");
    let log = Log::open_with(disk, &log, materials.log_keys, ground.segment_len)?;
    crash_point!("start.log");
    let queue = open_queue(ground, &dir.join("queue"))?;
    crash_point!("start.queue");
    let anchor = Anchor::closed();
    let keys = Arc::new(materials.keys.signing);
    let trust = Arc::new(materials.trust);
    trust.keep_in_force().map_err(|error| StartError::Path {
        path: dir.clone(),
        why: error.to_string(),
    })?;
    let (signing, signing_trust) = (keys.clone(), trust.clone());
    let signing_clock = clock.clone();
    let signer: Signer =
        Arc::new(move || signing.current(&signing_trust.directory(), signing_clock.now()));
    let log_clock = clock.clone();
    let now = move || log_clock.now();
    let (sequencer, committer) =
        Sequencer::start(disk, log, queue.clone(), signer, dir, anchor.clone(), now)?;
    crash_point!("start.caught-up");
    let spool = Spool::open(disk, &dir.join("spool"), config.limits)?;
    sweep(queue.as_ref(), &spool, clock.now())?;
    crash_point!("start.swept");
    let (failure, _) = watch::channel(None);
    let node = Arc::new(Node {
        disk: disk.clone(),
        party: config.party.clone(),
        data_dir: dir.clone(),
        limits: config.limits,
        config_file: config.file.clone(),
        identity: materials.identity,
        keys,
        log_signers: RwLock::new(materials.keys.log),
        trust,
        metrics: Metrics::new(config.party.as_str()),
        peers: Peers::default(),
        circuits: Circuits::default(),
        started: clock.now(),
        host_clock: clock,
        inquiries: Inquiries::default(),
        clock: Belief::default(),
        freshness: Mutex::default(),
        stamps: Stamps::default(),
        refusals: Mutex::new(RefusalBudget::new(monotonic())),
        stop: CancellationToken::new(),
        failure,
        anchor,
        sequencer,
        queue,
        spool,
    });
    Ok((node, committer))
}

/// Opens the queue; one that cannot be opened is moved aside and made again from the log.
pub(crate) fn open_queue(ground: &Ground, dir: &Path) -> Result<Arc<dyn Queue>, StartError> {
    let disk = &ground.disk;
    let first = match SledQueue::open(disk, dir) {
        Ok(queue) => return Ok(Arc::new(queue)),
        Err(error) => error,
    };
    let aside = dir.with_extension(format!("unreadable-{}", ground.clock.now().as_ms()));
    tracing::warn!(error = %first, aside = %aside.display(), "the queue is made again");
    disk.rename_synced(dir, &aside)?;
    let again = SledQueue::open(disk, dir).map_err(|error| StartError::Queue(error.to_string()))?;
    Ok(Arc::new(again))
}

pub(crate) fn sweep(queue: &dyn Queue, spool: &Spool, now: Timestamp) -> Result<(), StartError> {
    let kept = kept(queue).map_err(|error| StartError::Queue(error.to_string()))?;
    Ok(spool.sweep(&kept.live, &kept.heads, now)?)
}

/// What the spool is to hold.
#[derive(Default)]
pub(crate) struct Kept {
    /// Where packages lie; one for several next hops more than once.
    pub(crate) live: Vec<(PackageId, PackLocation)>,
    /// Packages of which what stands before their chunks is kept.
    heads: BTreeSet<PackageId>,
}

/// What the spool is to hold for those who are in the queue, or over and kept.
pub(crate) fn kept(queue: &dyn Queue) -> Result<Kept, QueueError> {
    let pages = [
        |queue: &dyn Queue, after| queue.page(after, PAGE_MAX),
        |queue: &dyn Queue, after| queue.retained_page(after, PAGE_MAX),
    ];
    let mut kept = Kept::default();
    for next in pages {
        let mut after: Option<ItemKey> = None;
        loop {
            let page = next(queue, after)?;
            let Some(last) = page.last() else { break };
            after = Some(last.key);
            for ItemView { item, .. } in page {
                let part = item.retained.map(|retained| retained.part);
                if matches!(part, Some(PurgedPart::Chunks | PurgedPart::Head)) {
                    kept.heads.insert(item.package);
                }
                kept.live
                    .extend(item.whole().map(|pack| (item.package, pack)));
            }
        }
    }
    Ok(kept)
}
