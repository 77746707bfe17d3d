//! A transfer under way: verified bytes at their final place, and a mark of what is durable.
//!
//! The mark is written after the data was synced, so it never says more than what is there. It is
//! not synced itself: an older mark only means that a little is fetched again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use passerelle_disk::{At, Disk, DiskError, DiskFile, FileCursor, crash_point};
use passerelle_proto::session::Held;
use passerelle_proto::v1::{self, PackLocation, Section};
use passerelle_proto::{ChunkTable, Digest, PackLayout, Timestamp, VerifiedManifest};
use prost::Message;

use super::{PARTIAL_LIFE, SHARED_LEN_MAX, Spool, SpoolError, failed};

const MARK_LEN: usize = 16;

/// Path of the mark beside a pack.
pub(super) fn mark_path(pack: &Path) -> PathBuf {
    pack.with_extension("part")
}

/// One transfer.
pub struct Partial {
    spool: Arc<Spool>,
    place: Place,
    manifest: VerifiedManifest,
    layout: PackLayout,
    turn: u64,
    held: Held,
    // Bytes of chunks written from the first one on; 0 while the head is missing.
    written: u64,
    head_parts: u8,
}

enum Place {
    /// Small: kept in memory until it is whole, and then in a segment that many share.
    Memory(Vec<u8>),
    Own {
        path: PathBuf,
        file: Box<dyn DiskFile>,
        mark: Box<dyn DiskFile>,
    },
}

impl Partial {
    pub(super) fn open(
        spool: Arc<Spool>,
        manifest: &VerifiedManifest,
        turn: u64,
    ) -> Result<Self, SpoolError> {
        let layout = PackLayout::tight(manifest);
        let path = spool.pack_path(&manifest.id());
        let (place, held) =
            if manifest.total_length() <= SHARED_LEN_MAX && !spool.disk.is_file(&path) {
                let length = usize::try_from(manifest.total_length()).unwrap_or(0);
                (Place::Memory(vec![0; length]), Held::default())
            } else {
                own(spool.disk.as_ref(), path, manifest, &layout)?
            };
        Ok(Self {
            spool,
            place,
            manifest: manifest.clone(),
            layout,
            turn,
            written: held.chunks,
            head_parts: 0,
            held,
        })
    }

    /// What was durable when the transfer began.
    pub fn held(&self) -> Held {
        self.held.clone()
    }

    /// The package.
    pub fn manifest(&self) -> &VerifiedManifest {
        &self.manifest
    }

    fn check_turn(&self) -> Result<(), SpoolError> {
        match self.spool.is_current(&self.manifest.id(), self.turn) {
            true => Ok(()),
            false => Err(SpoolError::TakenOver),
        }
    }

    /// Writes verified bytes. Blocks.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn write(&mut self, section: Section, offset: u64, bytes: &[u8]) -> Result<(), SpoolError> {
        self.check_turn()?;
        let at = self.layout.offset_of(section).unwrap_or(0) + offset;
        match &mut self.place {
            Place::Memory(pack) => {
                // The session asks for what the manifest announces, and for nothing else.
                let start = at - head_start(&self.layout);
                let place = usize::try_from(start).ok().and_then(|start| {
                    let end = start.checked_add(bytes.len())?;
                    pack.get_mut(start..end)
                });
                place.ok_or(SpoolError::Outside)?.copy_from_slice(bytes);
            }
            Place::Own { path, file, .. } => file.write_at(bytes, at).map_err(failed(path))?,
        }
        match section {
            Section::Chunks => self.written = offset + bytes.len() as u64,
            _ => self.head_parts += 1,
        }
        Ok(())
    }

    /// Everything written is durable when this returns; a small package is only when it is whole.
    /// Blocks.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        self.check_turn()?;
        let has_head = self.has_head();
        let Place::Own { path, file, mark } = &self.place else {
            return Ok(());
        };
        file.sync().map_err(failed(path))?;
        crash_point!("transfer.synced");
        if has_head {
            let mut bytes = [0; MARK_LEN];
            bytes[..8].copy_from_slice(&self.written.to_le_bytes());
            bytes[8..].copy_from_slice(&check(&self.manifest, self.written));
            mark.write_at(&bytes, 0).map_err(failed(path))?;
            crash_point!("transfer.marked");
        }
        Ok(())
    }

    fn has_head(&self) -> bool {
        self.held.table.is_some() || self.head_parts == 3
    }

    /// The package is whole: where it lies. It is not accepted before the log says so; until this
    /// transfer is dropped no other one of the package begins.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn finish(&mut self) -> Result<PackLocation, SpoolError> {
        let wanted = self.manifest.payload_length();
        if !self.has_head() || self.written != wanted {
            return Err(SpoolError::Incomplete {
                held: self.written,
                wanted,
            });
        }
        self.spool.finishing(&self.manifest.id(), self.turn)?;
        self.sync()?;
        match &self.place {
            Place::Memory(pack) => self.spool.shared.append(pack),
            Place::Own { .. } => Ok(PackLocation {
                segment: 0,
                offset: 0,
                length: self.layout.file_len(),
            }),
        }
    }

    /// The log has accepted it: it is no transfer any more.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn accepted(self) -> Result<(), SpoolError> {
        match &self.place {
            Place::Memory(_) => Ok(()),
            Place::Own { path, .. } => {
                let removed = self.spool.disk.remove_if_there(&mark_path(path));
                Ok(removed?)
            }
        }
    }

    /// The package is refused: nothing of it is kept.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn discard(self) -> Result<(), SpoolError> {
        self.check_turn()?;
        self.spool
            .remove(&self.manifest.id(), &PackLocation::default())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let id = self.manifest.id();
        // A small one has left nothing, or lies in a segment now.
        if matches!(self.place, Place::Memory(_)) && self.spool.is_current(&id, self.turn) {
            self.spool.forget(&id);
        }
        self.spool.ended(&id, self.turn);
    }
}

/// Where head and chunks begin within a pack; before that is what the log has as well.
pub(super) fn head_start(layout: &PackLayout) -> u64 {
    layout.manifest_offset() + layout.manifest_len()
}

/// The pack of an earlier transfer of this very package, or a new one.
fn own(
    disk: &dyn Disk,
    path: PathBuf,
    manifest: &VerifiedManifest,
    layout: &PackLayout,
) -> Result<(Place, Held), SpoolError> {
    let mark_file = mark_path(&path);
    let (file, held) = match resume(disk, &path, manifest, layout) {
        Some(held) => (disk.open(&path).map_err(failed(&path))?, held),
        None => {
            // A new file, not the old one emptied: an older transfer may still be writing to that.
            disk.remove_if_there(&mark_file)?;
            disk.remove_if_there(&path)?;
            let begun = begin(disk, &path, manifest, layout);
            let file = begun.inspect_err(|_| {
                let _ = disk.remove(&path);
            });
            (file?, Held::default())
        }
    };
    let mark = match disk.open(&mark_file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create_new(&mark_file),
        opened => opened,
    };
    let mark = mark.map_err(failed(&mark_file))?;
    disk.sync_parent(&path)?;
    crash_point!("transfer.begun");
    Ok((Place::Own { path, file, mark }, held))
}

fn begin(
    disk: &dyn Disk,
    path: &Path,
    manifest: &VerifiedManifest,
    layout: &PackLayout,
) -> Result<Box<dyn DiskFile>, DiskError> {
    let file = disk.create_new(path).at("create", path)?;
    // The whole length at once: a full disk shows before the transfer, not in its middle.
    file.allocate(layout.file_len()).at("allocate", path)?;
    file.write_at(&layout.header(), 0).at("write", path)?;
    let signed = manifest.signed().encode_to_vec();
    // Not synced: before there is a mark, nobody goes on with what is here.
    let written = file.write_at(&signed, layout.manifest_offset());
    written.at("write", path)?;
    Ok(file)
}

fn check(manifest: &VerifiedManifest, written: u64) -> [u8; 8] {
    let id = manifest.id();
    let digest = Digest::of_parts(&[id.as_bytes(), &written.to_le_bytes()]);
    let mut check = [0; 8];
    check.copy_from_slice(&digest.0[..8]);
    check
}

impl Spool {
    /// Until when a transfer that nobody goes on with is kept: a week after it was written last,
    /// and not beyond its package's time. `None`: it can never be resumed.
    pub(super) fn kept_until(&self, path: &Path) -> Option<Timestamp> {
        let written = self.disk.status(path).ok()?.modified;
        let written = written.duration_since(UNIX_EPOCH).ok()?;
        let mut file = FileCursor::new(self.disk.open(path).ok()?);
        let (_, signed) = PackLayout::read(&mut file).ok()?;
        let manifest = v1::Manifest::decode(signed.body.as_slice()).ok()?;
        let week = Timestamp::from_ms(0).checked_add(written.saturating_add(PARTIAL_LIFE))?;
        Some(week.min(Timestamp::from_ms(manifest.not_after_ms)))
    }
}

/// What an earlier transfer of this very package has left; `None`: begin anew.
fn resume(
    disk: &dyn Disk,
    path: &Path,
    manifest: &VerifiedManifest,
    layout: &PackLayout,
) -> Option<Held> {
    let mark = disk.read(&mark_path(path)).ok()?;
    let written = u64::from_le_bytes(mark.get(..8)?.try_into().ok()?);
    if mark.get(8..MARK_LEN)? != check(manifest, written) {
        return None;
    }
    let mut file = FileCursor::new(disk.open(path).ok()?);
    let (found, signed) = PackLayout::read(&mut file).ok()?;
    if found != *layout || signed != *manifest.signed() {
        return None;
    }
    let table = layout.read_section(&mut file, Section::ChunkTable).ok()?;
    if Digest::of(&table) != manifest.chunk_table().sha256 {
        return None;
    }
    Some(Held {
        table: ChunkTable::parse(&table, manifest.payload_length()).ok(),
        chunks: written,
        ..Held::default()
    })
}
