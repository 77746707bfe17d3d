//! A new log in the place of one that is lost: `passerelle audit reconcile`.
//!
//! A log that others know more of, or other of, is never gone on with. What is left of it is put
//! aside, whole, with the queue and the packages that followed from it, and a new log begins, under
//! the origin line that the party's next sheet names. Its first entry holds the last checkpoint of
//! the lost log that is known. Neighbours keep every package until it is receipted: when they see
//! the new log they offer again what is open, and resend what was said about it.
//!
//! ```text
//! epoch-<n>/{log,queue,index,chain,spool,forked.note}   what was put aside, n from 1
//! log.next                                              the new log, until it is in its place
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use passerelle_disk::{Disk, DiskError};
use passerelle_host::{Clock, HostClock};
use passerelle_proto::v1::{self, entry::Event};
use passerelle_proto::{Checkpoint, Digest, Directory, Note, PartyId, log_epoch};
use prost::Message;

use crate::config::{Config, ConfigError};
use crate::gateway::{StartError, lock_directory};
use crate::log::{AppendError, Fatal, Log, LogKeys};
use crate::materials::Materials;

/// The checkpoint of ours that contradicted our log when it was last compared.
pub(crate) const FORKED: &str = "forked.note";
/// The new log, until it is in its place.
const NEXT: &str = "log.next";
const LOG: &str = "log";
/// What follows from a log, and goes with it. The log is the last to go.
const FOLLOWING: [&str; 7] = ["queue", "index", "chain", "sequences", "spool", FORKED, LOG];

/// What was done.
#[derive(Clone, Debug)]
pub struct Reconciled {
    /// Whose log.
    pub party: PartyId,
    /// Origin line of the new log.
    pub origin: String,
    /// Entries and root under the last known checkpoint of the lost log; `None`: none is known.
    pub last: Option<(u64, Digest)>,
    /// Entries that could still be read, and their root; `None`: the log cannot be opened.
    pub found: Option<(u64, Digest)>,
    /// Where what is left of the lost log was put.
    pub aside: PathBuf,
}

/// Why no new log was begun. Nothing is lost; it may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The configuration or something that it names.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another process uses the directory, or it is of another program.
    #[error(transparent)]
    Start(Box<StartError>),
    /// The sheet names the log that is here.
    #[error(
        "the newest sheet of {party} still names the log {origin}, and a new log needs a name that \
         the party's root key has signed"
    )]
    SameLog {
        /// Whose log.
        party: PartyId,
        /// Its origin line.
        origin: String,
    },
    /// There is no log, and nobody has shown a checkpoint of one.
    #[error("{path}: there is no log here and no checkpoint of one", path = .path.display())]
    Nothing {
        /// Where a log would be.
        path: PathBuf,
    },
    /// A checkpoint of a log that is not this party's.
    #[error("{path}: {origin:?} is no log of {party}", path = .path.display())]
    Origin {
        /// Which file.
        path: PathBuf,
        /// Whose log was expected.
        party: PartyId,
        /// What was found.
        origin: String,
    },
    /// The new log could not be written.
    #[error("the new log: {0}")]
    Log(#[from] AppendError),
    /// A file or directory.
    #[error(
        "{path}: cannot {operation}: {source}",
        path = .0.path.display(), operation = .0.operation, source = .0.source
    )]
    Disk(#[from] DiskError),
}

impl From<StartError> for ReconcileError {
    fn from(error: StartError) -> Self {
        Self::Start(Box::new(error))
    }
}

impl From<Fatal> for ReconcileError {
    fn from(fatal: Fatal) -> Self {
        Self::Log(fatal.into())
    }
}

/// Whether a new log was begun and is not in its place yet: nothing else may be done then.
pub(crate) fn is_unfinished(disk: &dyn Disk, dir: &Path) -> bool {
    disk.is_dir(&dir.join(NEXT))
}

/// Begins a new log for a gateway that is stopped. Repeated after an interruption, it goes on.
///
/// # Errors
/// [`ReconcileError`].
pub fn reconcile(config: &Config) -> Result<Reconciled, ReconcileError> {
    let disk = passerelle_disk::system();
    let materials = Materials::load(&disk, config)?;
    let dir = &config.data_dir;
    let _lock = lock_directory(disk.as_ref(), dir)?;
    let directory = materials.trust.directory();
    let lost = Lost::find(disk.as_ref(), config, &directory)?;
    let next = materials.log_keys.origin().to_owned();
    if lost.origin == next {
        let (party, origin) = (config.party.clone(), next);
        return Err(ReconcileError::SameLog { party, origin });
    }
    let aside = lost.aside(config);
    // The log is the last to go aside: then the new one is whole.
    let begun = disk.is_dir(&aside.join(LOG)) && is_unfinished(disk.as_ref(), dir);
    let old = if begun {
        aside.join(LOG)
    } else {
        dir.join(LOG)
    };
    let found = lost.entries_left(&disk, &old, &materials.log_keys);
    if !begun {
        begin(&disk, config, materials.log_keys, &lost, found)?;
    }
    put_in_place(disk.as_ref(), dir, &aside)?;
    Ok(Reconciled {
        party: config.party.clone(),
        origin: next,
        last: lost.last.as_ref().map(|(last, _)| (last.size, last.root)),
        found,
        aside,
    })
}

/// The log that is lost, as far as it is known.
struct Lost {
    origin: String,
    last: Option<(Checkpoint, Vec<u8>)>,
}

impl Lost {
    fn find(
        disk: &dyn Disk,
        config: &Config,
        directory: &Directory,
    ) -> Result<Self, ReconcileError> {
        let (dir, party) = (&config.data_dir, &config.party);
        let mut places = vec![dir.to_path_buf()];
        places.extend(epochs(disk, dir)?);
        let mut notes = Vec::new();
        for place in &places {
            notes.extend([place.join(FORKED), place.join(LOG).join("checkpoint")]);
            let cosigned = disk.list(&place.join(LOG).join("cosigned"));
            notes.extend(cosigned.unwrap_or_default());
        }
        let known = directory.log_keys(party);
        let mut lost: Option<Self> = None;
        for path in notes {
            let Ok(note) = disk.read(&path) else { continue };
            let Some(origin) = origin_of(&note) else {
                continue;
            };
            let Some(epoch) = log_epoch(party, &origin) else {
                let party = party.clone();
                return Err(ReconcileError::Origin {
                    path,
                    party,
                    origin,
                });
            };
            let checkpoint = Checkpoint::verify_any(&note, known).ok();
            let checkpoint = checkpoint.map(|checkpoint| (checkpoint, note));
            let newest = lost
                .as_ref()
                .and_then(|lost| log_epoch(party, &lost.origin));
            match &mut lost {
                Some(_) if newest > Some(epoch) => {}
                Some(lost) if newest == Some(epoch) => lost.keep_longer(checkpoint),
                _ => {
                    lost = Some(Self {
                        origin,
                        last: checkpoint,
                    })
                }
            }
        }
        let path = dir.join(LOG);
        lost.ok_or(ReconcileError::Nothing { path })
    }

    /// Of two checkpoints the one of more entries, or with more signatures.
    fn keep_longer(&mut self, other: Option<(Checkpoint, Vec<u8>)>) {
        let length = |last: &Option<(Checkpoint, Vec<u8>)>| {
            let last = last.as_ref();
            last.map(|(checkpoint, note)| (checkpoint.size, note.len()))
        };
        if length(&other) > length(&self.last) {
            self.last = other;
        }
    }

    fn aside(&self, config: &Config) -> PathBuf {
        let epoch = log_epoch(&config.party, &self.origin).unwrap_or(1);
        config.data_dir.join(format!("epoch-{epoch}"))
    }

    /// How many entries are left, and their root; `None` when the log cannot be opened.
    fn entries_left(
        &self,
        disk: &Arc<dyn Disk>,
        dir: &Path,
        keys: &LogKeys,
    ) -> Option<(u64, Digest)> {
        if !disk.is_dir(dir) {
            return None;
        }
        match Log::open(disk, dir, keys.for_origin(&self.origin)) {
            Ok(log) => Some((log.size(), log.root())),
            Err(fatal) => {
                tracing::warn!(%fatal, "what is left of the lost log cannot be opened");
                None
            }
        }
    }
}

/// The directories of logs that were put aside before.
fn epochs(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let mut epochs = disk.entries(dir)?;
    epochs.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with("epoch-"))
    });
    Ok(epochs)
}

fn origin_of(note: &[u8]) -> Option<String> {
    let note = Note::parse(note).ok()?;
    Some(Checkpoint::parse(note.text()).ok()?.origin)
}

/// Writes the new log, with its first entry and a checkpoint, beside the old one.
fn begin(
    disk: &Arc<dyn Disk>,
    config: &Config,
    keys: LogKeys,
    lost: &Lost,
    found: Option<(u64, Digest)>,
) -> Result<(), ReconcileError> {
    let dir = config.data_dir.join(NEXT);
    // What an interruption left half done is not gone on with.
    disk.remove_tree(&dir)?;
    let mut log = Log::open(disk, &dir, keys)?;
    let event = Event::Epoch(v1::EpochEvent {
        party: config.party.to_string(),
        last: lost.last.clone().map_or(Vec::new(), |(_, note)| note),
        found_size: found.map_or(0, |(size, _)| size),
        found_root: found.map_or(Vec::new(), |(_, root)| root.0.to_vec()),
    });
    let entry = v1::Entry {
        at_ms: HostClock.now().as_ms(),
        event: Some(event),
    };
    log.append(&[entry.encode_to_vec()])?;
    log.checkpoint(HostClock.now())?;
    Ok(())
}

/// Everything of the lost log goes aside, and the new one into its place. Each step may be
/// repeated.
fn put_in_place(disk: &dyn Disk, dir: &Path, aside: &Path) -> Result<(), ReconcileError> {
    disk.create_directories(aside)?;
    for name in FOLLOWING {
        let (from, to) = (dir.join(name), aside.join(name));
        if disk.status(&from).is_ok() {
            disk.rename_synced(&from, &to)?;
        }
    }
    disk.rename_synced(&dir.join(NEXT), &dir.join(LOG))?;
    Ok(())
}
