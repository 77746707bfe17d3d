//! Verifying a whole log from nothing but its files.

use crate::merkle::{Frontier, leaf_hash, node_hash};
use crate::tile::{TILE_WIDTH, decode_entries, decode_tile, entries_path, tile_path};
use crate::{Checkpoint, CheckpointError, Digest, LogVerifier, Timestamp};

/// What was found to be true of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogReport {
    /// Which log.
    pub origin: String,
    /// Entries under the checkpoint.
    pub size: u64,
    /// Their root.
    pub root: Digest,
}

/// What a partner has cosigned of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CosignedReport {
    /// Name of the partner's log.
    pub partner: String,
    /// Entries under the cosignature.
    pub size: u64,
    /// When it was cosigned.
    pub at: Timestamp,
}

/// Why a log cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// A file is missing or cannot be read.
    #[error("{path}: missing or unreadable: restore it from a backup of the log directory")]
    Missing {
        /// Path within the log directory.
        path: String,
    },
    /// A file is damaged.
    #[error("{path}: damaged: its length or form is wrong")]
    Damaged {
        /// Path within the log directory.
        path: String,
    },
    /// A checkpoint.
    #[error("{path}: {error}")]
    Checkpoint {
        /// Path within the log directory.
        path: String,
        /// What is wrong.
        error: CheckpointError,
    },
    /// An entry whose hash is not the one in the tile.
    #[error("entry {index} was altered: it differs from its hash in {path}")]
    Entry {
        /// Which entry.
        index: u64,
        /// Path of the tile.
        path: String,
    },
    /// A tile that does not follow from the entries.
    #[error("{path}: differs from what the entries hash to")]
    Tile {
        /// Path within the log directory.
        path: String,
    },
    /// The entries do not lead to the signed root.
    #[error("the entries hash to {found}, and the checkpoint of {size} entries says {signed}")]
    Root {
        /// Size of the checkpoint.
        size: u64,
        /// Root found.
        found: Digest,
        /// Root signed.
        signed: Digest,
    },
}

/// Reads files of a log directory, by path; `None` when there is none.
pub trait LogFiles {
    /// The bytes of a file.
    fn read(&self, path: &str) -> Option<Vec<u8>>;
}

impl<F: Fn(&str) -> Option<Vec<u8>>> LogFiles for F {
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        self(path)
    }
}

/// Verifies checkpoint, every entry and every tile; hands each entry over in order.
///
/// `roots_at` names sizes whose roots are wanted as well, ascending; cosigned checkpoints are
/// compared with them.
///
/// # Errors
/// The first [`AuditError`].
pub fn verify_log(
    files: &impl LogFiles,
    log: &LogVerifier,
    roots_at: &[u64],
    mut entry: impl FnMut(u64, &[u8]),
) -> Result<(LogReport, Vec<Digest>), AuditError> {
    let path = "checkpoint".to_owned();
    let note = files
        .read(&path)
        .ok_or(AuditError::Missing { path: path.clone() })?;
    let checkpoint =
        Checkpoint::verify(&note, log).map_err(|error| AuditError::Checkpoint { path, error })?;
    let mut frontier = Frontier::default();
    let mut levels: Vec<Vec<Digest>> = vec![Vec::new()];
    let mut roots = Vec::new();
    let mut wanted = roots_at.iter().peekable();
    let mut note_root = |frontier: &Frontier| {
        while wanted.next_if(|size| **size == frontier.size()).is_some() {
            roots.push(frontier.root());
        }
    };
    note_root(&frontier);
    for bundle in 0..checkpoint.size.div_ceil(TILE_WIDTH) {
        let width = TILE_WIDTH.min(checkpoint.size - bundle * TILE_WIDTH);
        let path = entries_path(bundle, width);
        let bytes = files
            .read(&path)
            .ok_or(AuditError::Missing { path: path.clone() })?;
        let entries = decode_entries(&bytes, width).ok_or(AuditError::Damaged { path })?;
        let path = tile_path(0, bundle, width);
        let tile = files
            .read(&path)
            .ok_or(AuditError::Missing { path: path.clone() })?;
        let tile =
            decode_tile(&tile, width).ok_or_else(|| AuditError::Damaged { path: path.clone() })?;
        for (at, (bytes, stored)) in entries.iter().zip(&tile).enumerate() {
            let index = bundle * TILE_WIDTH + at as u64;
            let hash = leaf_hash(bytes);
            if hash != *stored {
                return Err(AuditError::Entry { index, path });
            }
            frontier.push(hash);
            push_up(&mut levels, 0, hash);
            entry(index, bytes);
            note_root(&frontier);
        }
    }
    if frontier.root() != checkpoint.root {
        return Err(AuditError::Root {
            size: checkpoint.size,
            found: frontier.root(),
            signed: checkpoint.root,
        });
    }
    check_upper_tiles(files, &levels)?;
    Ok((
        LogReport {
            origin: checkpoint.origin,
            size: checkpoint.size,
            root: checkpoint.root,
        },
        roots,
    ))
}

/// Compares a partner's cosigned copy of a checkpoint with the log's own root at that size.
///
/// # Errors
/// [`AuditError::Checkpoint`] or [`AuditError::Root`].
pub fn verify_cosigned(
    path: &str,
    note: &[u8],
    log: &LogVerifier,
    partner: &LogVerifier,
    root_at_size: impl Fn(u64) -> Option<Digest>,
) -> Result<CosignedReport, AuditError> {
    let refuse = |error| AuditError::Checkpoint {
        path: path.to_owned(),
        error,
    };
    let own = Checkpoint::verify(note, log).map_err(refuse)?;
    let (cosigned, at) = Checkpoint::verify_cosigned(note, partner).map_err(refuse)?;
    let found = root_at_size(own.size).unwrap_or_else(crate::merkle::empty_root);
    if found != cosigned.root {
        return Err(AuditError::Root {
            size: own.size,
            found,
            signed: cosigned.root,
        });
    }
    Ok(CosignedReport {
        partner: partner.name().to_owned(),
        size: cosigned.size,
        at,
    })
}

/// Keeps all hashes of the levels that tiles store.
fn push_up(levels: &mut Vec<Vec<Digest>>, level: usize, hash: Digest) {
    if levels.len() == level {
        levels.push(Vec::new());
    }
    levels[level].push(hash);
    let full = levels[level].len();
    if full.is_multiple_of(TILE_WIDTH as usize) {
        let mut row = levels[level][full - TILE_WIDTH as usize..].to_vec();
        while row.len() > 1 {
            row = row
                .chunks(2)
                .map(|pair| node_hash(&pair[0], &pair[1]))
                .collect();
        }
        push_up(levels, level + 1, row[0]);
    }
}

fn check_upper_tiles(files: &impl LogFiles, levels: &[Vec<Digest>]) -> Result<(), AuditError> {
    for (level, hashes) in levels.iter().enumerate().skip(1) {
        for (index, row) in hashes.chunks(TILE_WIDTH as usize).enumerate() {
            let path = tile_path(level as u8, index as u64, row.len() as u64);
            let tile = files
                .read(&path)
                .ok_or(AuditError::Missing { path: path.clone() })?;
            let tile = decode_tile(&tile, row.len() as u64);
            if tile.as_deref() != Some(row) {
                return Err(AuditError::Tile { path });
            }
        }
    }
    Ok(())
}
