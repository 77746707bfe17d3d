//! What leaves the gateway as proof: of entries, of a package, and the whole log.
//!
//! A checkpoint of everything is signed first, unless nobody has shown yet that the log is the one
//! that others know: then what was signed before is all there is. The files are read without
//! holding up the log, which may grow meanwhile.

use std::fs;
use std::path::PathBuf;

use passerelle_proto::audit::AuditError;
use passerelle_proto::evidence::{Covers, assemble, excerpt, log_proofs};
use passerelle_proto::tile::TILE_WIDTH;
use passerelle_proto::v1::entry::Event;
use passerelle_proto::v1::{Entry, EntryProof, FilePiece, LogEvidence};
use passerelle_proto::{Checkpoint, Directory, Note, PackageId, PartyId, TileReader, copy_log};
use prost::Message;
use tokio::sync::mpsc;
use tonic::Status;

use crate::index::Mark;
use crate::node::Node;

/// Longest piece of a file in one message, in bytes.
pub(crate) const PIECE_LEN_MAX: usize = 1024 * 1024;

/// Entries that are read to find out who has covered one of them first.
const COVERS_READ_MAX: usize = 16;

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
    // What partners have cosigned last, with who it was.
    cosigned: Vec<(PartyId, Vec<u8>)>,
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
            let keys = directory.log_keys(&sheet.party);
            let signed = Checkpoint::verify_cosigned_any(&note, keys);
            if signed.is_ok_and(|(signed, _)| signed.size <= size) {
                cosigned.push((sheet.party.clone(), note));
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
        for (party, note) in &self.cosigned {
            put(&format!("cosigned/{party}.note"), note)?;
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
        let covers = self.covers(node, entries.iter().map(|(index, _)| *index))?;
        let read = |path: &str| fs::read(self.dir.join(path)).ok();
        let tiles = TileReader::new(&read, self.size);
        let made = excerpt(&tiles, &node.party, &self.checkpoint, &covers, entries);
        made.map_err(unavailable)
    }
}

impl Snapshot {
    /// What was said soon after each of these entries, as the log has it; and what partners have
    /// cosigned last, where that is all there is.
    fn covers(&self, node: &Node, wanted: impl Iterator<Item = u64>) -> Result<Covers, Status> {
        let mut marks = vec![Mark::TimeStamped];
        let partners = self.directory.sheets().map(|sheet| sheet.party.to_string());
        marks.extend(partners.map(Mark::CosignedBy));
        let mut covers = Covers::default();
        for index in wanted {
            covers.want(index);
            for mark in &marks {
                self.first_cover(node, mark, index, &mut covers)?;
            }
        }
        for (party, note) in &self.cosigned {
            covers.newest(party.as_str(), note);
        }
        Ok(covers)
    }

    /// The newest time-stamp in the log: entries under it, what was stamped, and the token.
    fn newest_stamp(&self, node: &Node) -> Result<Option<(u64, String, Vec<u8>)>, Status> {
        let ledger = node.sequencer.ledger();
        let found = ledger.index.last(&Mark::TimeStamped);
        let Some(index) = found.filter(|index| *index < self.size) else {
            return Ok(None);
        };
        let entry = ledger.log.entry(index).map_err(unavailable)?;
        let entry = Entry::decode(entry.as_slice()).map_err(unavailable)?;
        let Some(Event::TimeStamped(event)) = entry.event else {
            return Ok(None);
        };
        let note = Note::parse(&event.checkpoint).map_err(unavailable)?;
        let checkpoint = Checkpoint::parse(note.text()).map_err(unavailable)?;
        Ok(Some((checkpoint.size, note.text().to_owned(), event.token)))
    }

    /// Looks for the first entry with this mark that covers the entry at `wanted`.
    fn first_cover(
        &self,
        node: &Node,
        mark: &Mark,
        wanted: u64,
        covers: &mut Covers,
    ) -> Result<(), Status> {
        let mut from = wanted + 1;
        // What is cosigned while entries are appended may end before them.
        for _ in 0..COVERS_READ_MAX {
            let ledger = node.sequencer.ledger();
            let found = ledger.index.first_from(mark, from).map_err(unavailable)?;
            let Some(index) = found.filter(|index| *index < ledger.log.size()) else {
                return Ok(());
            };
            let entry = ledger.log.entry(index).map_err(unavailable)?;
            let entry = Entry::decode(entry.as_slice()).map_err(unavailable)?;
            if covers.follow(&entry) {
                return Ok(());
            }
            from = index + 1;
        }
        Ok(())
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
    if let Some((size, text, token)) = snapshot.newest_stamp(node)? {
        send(to, &format!("time-stamps/{size}.txt"), text.as_bytes())?;
        send(to, &format!("time-stamps/{size}.tst"), &token)?;
    }
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
