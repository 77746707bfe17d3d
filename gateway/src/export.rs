//! What leaves the gateway as proof: of entries, of a package, and the whole log.
//!
//! A checkpoint of everything is signed first, unless nobody has shown yet that the log is the one
//! that others know: then what was signed before is all there is. The files are read without
//! holding up the log, which may grow meanwhile.

use std::fs;
use std::path::PathBuf;

use passerelle_proto::audit::AuditError;
use passerelle_proto::evidence::{assemble, excerpt, log_proofs};
use passerelle_proto::tile::TILE_WIDTH;
use passerelle_proto::v1::{EntryProof, FilePiece, LogEvidence};
use passerelle_proto::{Checkpoint, Directory, PackageId, TileReader, copy_log};
use tokio::sync::mpsc;
use tonic::Status;

use crate::node::Node;
use crate::witness::log_of;

/// Longest piece of a file in one message, in bytes.
pub(crate) const PIECE_LEN_MAX: usize = 1024 * 1024;

/// Where pieces of files go.
pub(crate) type Pieces = mpsc::Sender<Result<FilePiece, Status>>;

/// Which entries are wanted.
pub(crate) enum Wanted {
    /// The one at this index.
    Entry(u64),
    /// All that speak of this package.
    About(PackageId),
}

/// The log as it was signed at one moment.
pub(crate) struct Snapshot {
    dir: PathBuf,
    size: u64,
    pub(crate) checkpoint: Vec<u8>,
    // By path below the log.
    cosigned: Vec<(String, Vec<u8>)>,
    directory: Directory,
}

impl Snapshot {
    pub(crate) fn take(node: &Node) -> Result<Self, Status> {
        let mut ledger = node.sequencer.ledger();
        let log = &mut ledger.log;
        let path = log.dir().join("checkpoint");
        let checkpoint = match node.anchor.is_held() && log.signed() < log.size() {
            true => log.checkpoint(node.now()).map_err(unavailable)?,
            false => fs::read(&path).map_err(|error| {
                let path = path.display();
                Status::unavailable(format!("{path}: {error}: no checkpoint is signed yet"))
            })?,
        };
        let signed = Checkpoint::verify(&checkpoint, log.signer().verifier());
        let size = signed.map_err(unavailable)?.size;
        let dir = log.dir().to_owned();
        drop(ledger);
        let directory = node.directory();
        let mut cosigned = Vec::new();
        for sheet in directory.sheets() {
            let note = node.read_if_there(&node.cosigned_path(&sheet.party));
            let partner = log_of(node, &sheet.party);
            let signed = partner.and_then(|partner| {
                let verified = Checkpoint::verify_cosigned(&note, &partner);
                verified.ok().filter(|(signed, _)| signed.size <= size)
            });
            if signed.is_some() {
                cosigned.push((format!("cosigned/{}.note", sheet.party), note));
            }
        }
        Ok(Self {
            dir,
            size,
            checkpoint,
            cosigned,
            directory,
        })
    }

    /// What partners have cosigned of it, and every tile and bundle, by path below the log. What
    /// has rotted is made again, or named, before it is copied.
    pub(crate) fn copy_files(
        &self,
        node: &Node,
        mut put: impl FnMut(&str, &[u8]) -> Result<(), Status>,
    ) -> Result<(), Status> {
        for (path, note) in &self.cosigned {
            put(path, note)?;
        }
        for first in (0..self.size).step_by(TILE_WIDTH as usize) {
            let ledger = node.sequencer.ledger();
            let proof = ledger.log.inclusion_proof(first, self.size);
            proof.map_err(unavailable)?;
            ledger.log.entry(first).map_err(unavailable)?;
        }
        let read = |path: &str| fs::read(self.dir.join(path)).ok();
        copy_log(&read, self.size, |path, bytes| {
            put(path, &bytes).map_err(Stopped::Status)
        })
        .map_err(Status::from)
    }

    fn excerpt(&self, node: &Node, wanted: &Wanted) -> Result<LogEvidence, Status> {
        let entries = {
            let ledger = node.sequencer.ledger();
            let indices = match wanted {
                Wanted::Entry(index) => vec![*index],
                Wanted::About(package) => ledger.find(package).map_err(unavailable)?,
            };
            if indices.iter().any(|index| *index >= self.size) && !node.anchor.is_held() {
                return Err(Status::unavailable(
                    "nobody has shown a copy of the log since its start, so its newest entries \
                     are not signed yet",
                ));
            }
            // What was appended since the checkpoint was signed is for the next export.
            let signed = indices.into_iter().filter(|index| *index < self.size);
            let entry = |index| {
                // Whoever reads the files next finds those sound that lead to this entry.
                ledger.log.inclusion_proof(index, self.size)?;
                Ok((index, ledger.log.entry(index)?))
            };
            let entries = signed.map(entry).collect::<Result<Vec<_>, crate::Fatal>>();
            entries.map_err(unavailable)?
        };
        if entries.is_empty() {
            let size = self.size;
            let what = format!("the {size} entries under the newest checkpoint hold none of it");
            return Err(Status::not_found(what));
        }
        let cosigned: Vec<Vec<u8>> = self.cosigned.iter().map(|(_, note)| note.clone()).collect();
        let read = |path: &str| fs::read(self.dir.join(path)).ok();
        let tiles = TileReader::new(&read, self.size);
        let made = excerpt(&tiles, &node.party, &self.checkpoint, &cosigned, entries);
        made.map_err(unavailable)
    }
}

/// Proofs of entries. Blocks.
pub(crate) fn prove(node: &Node, wanted: &Wanted) -> Result<Vec<EntryProof>, Status> {
    let excerpt = Snapshot::take(node)?.excerpt(node, wanted)?;
    let proofs = log_proofs(&excerpt).into_iter();
    let message = |proof: passerelle_proto::LogProof| EntryProof {
        index: proof.index,
        proof: proof.to_bytes(),
    };
    Ok(proofs.map(message).collect())
}

/// The evidence file of a package, piece by piece. Blocks.
pub(crate) fn evidence(node: &Node, package: PackageId, to: &Pieces) -> Result<(), Status> {
    let snapshot = Snapshot::take(node)?;
    let excerpt = snapshot.excerpt(node, &Wanted::About(package))?;
    let file = assemble(package, &snapshot.directory, vec![excerpt]);
    let file = file.map_err(|error| Status::out_of_range(error.to_string()))?;
    send(to, &format!("{}.evidence", package.short()), &file)
}

/// The whole log, piece by piece. Blocks.
pub(crate) fn export(node: &Node, to: &Pieces) -> Result<(), Status> {
    let snapshot = Snapshot::take(node)?;
    for (path, note) in snapshot.directory.note_files() {
        send(to, &path, note)?;
    }
    snapshot.copy_files(node, |path, bytes| send(to, path, bytes))?;
    // Last: a folder without it is not complete.
    send(to, "checkpoint", &snapshot.checkpoint)
}

/// Why a copy of the log stopped.
enum Stopped {
    Audit(AuditError),
    Status(Status),
}

impl From<AuditError> for Stopped {
    fn from(error: AuditError) -> Self {
        Self::Audit(error)
    }
}

impl From<Stopped> for Status {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Audit(error) => unavailable(error),
            Stopped::Status(status) => status,
        }
    }
}

pub(crate) fn send(to: &Pieces, path: &str, bytes: &[u8]) -> Result<(), Status> {
    // An empty file is a piece too.
    let pieces = bytes.chunks(PIECE_LEN_MAX);
    let empty: &[u8] = &[];
    for bytes in pieces.chain(bytes.is_empty().then_some(empty)) {
        let piece = FilePiece {
            path: path.to_owned(),
            bytes: bytes.to_vec(),
        };
        let sent = to.blocking_send(Ok(piece));
        sent.map_err(|_| Status::cancelled("nobody takes the files any more"))?;
    }
    Ok(())
}

pub(crate) fn unavailable(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}
