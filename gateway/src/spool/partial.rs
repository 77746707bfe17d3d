//! A transfer under way: verified bytes at their final place, and a mark of what is durable.
//!
//! The mark is written after the data was synced, so it never says more than what is there. It is
//! not synced itself: an older mark only means that a little is fetched again.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use passerelle_proto::session::Held;
use passerelle_proto::v1::{self, PackLocation, Section};
use passerelle_proto::{ChunkTable, Digest, PackLayout, Timestamp, VerifiedManifest};
use prost::Message;

use super::{PARTIAL_LIFE, Spool, SpoolError, failed, remove_file};
use crate::disk;

const MARK_LEN: usize = 16;

/// Path of the mark beside a pack.
pub(super) fn mark_path(pack: &Path) -> PathBuf {
    pack.with_extension("part")
}

/// One transfer.
pub struct Partial {
    spool: Arc<Spool>,
    path: PathBuf,
    file: Arc<File>,
    mark: Arc<File>,
    manifest: VerifiedManifest,
    layout: PackLayout,
    turn: u64,
    held: Held,
    // Bytes of chunks written from the first one on; 0 while the head is missing.
    written: u64,
    head_parts: u8,
}

impl Partial {
    pub(super) fn open(
        spool: Arc<Spool>,
        path: PathBuf,
        manifest: &VerifiedManifest,
        turn: u64,
    ) -> Result<Self, SpoolError> {
        let layout = PackLayout::tight(manifest);
        let resumed = resume(&path, manifest, &layout);
        let mark_file = mark_path(&path);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(failed(&path))?;
        let mark = options.open(&mark_file).map_err(failed(&mark_file))?;
        let held = match resumed {
            Some(held) => held,
            None => {
                begin(&file, manifest, &layout).map_err(failed(&path))?;
                mark.set_len(0).map_err(failed(&mark_file))?;
                disk::sync_parent(&path).map_err(failed(&path))?;
                Held::default()
            }
        };
        Ok(Self {
            spool,
            path,
            file: Arc::new(file),
            mark: Arc::new(mark),
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
        self.file
            .write_all_at(bytes, at)
            .map_err(failed(&self.path))?;
        match section {
            Section::Chunks => self.written = offset + bytes.len() as u64,
            _ => self.head_parts += 1,
        }
        Ok(())
    }

    /// Everything written is durable when this returns. Blocks.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        self.check_turn()?;
        self.file.sync_data().map_err(failed(&self.path))?;
        let has_head = self.held.table.is_some() || self.head_parts == 3;
        if has_head {
            let mut mark = [0; MARK_LEN];
            mark[..8].copy_from_slice(&self.written.to_le_bytes());
            mark[8..].copy_from_slice(&check(&self.manifest, self.written));
            self.mark
                .write_all_at(&mark, 0)
                .map_err(failed(&self.path))?;
        }
        Ok(())
    }

    /// The package is whole: where it lies. It is not accepted before the log says so.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub fn finish(&mut self) -> Result<PackLocation, SpoolError> {
        let wanted = self.manifest.payload_length();
        let has_head = self.held.table.is_some() || self.head_parts == 3;
        if !has_head || self.written != wanted {
            return Err(SpoolError::Incomplete {
                held: self.written,
                wanted,
            });
        }
        self.sync()?;
        Ok(PackLocation {
            segment: 0,
            offset: 0,
            length: self.layout.file_len(),
        })
    }

    /// The log has accepted it: it is no transfer any more.
    ///
    /// # Errors
    /// [`SpoolError::Io`].
    pub fn accepted(self) -> Result<(), SpoolError> {
        remove_file(&mark_path(&self.path))
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
        self.spool.ended(&self.manifest.id(), self.turn);
    }
}

fn begin(file: &File, manifest: &VerifiedManifest, layout: &PackLayout) -> std::io::Result<()> {
    file.set_len(0)?;
    // The whole length at once: a full disk shows before the transfer, not in its middle.
    disk::preallocate(file, layout.file_len())?;
    file.write_all_at(&layout.header(), 0)?;
    file.write_all_at(&manifest.signed().encode_to_vec(), layout.manifest_offset())?;
    file.sync_all()
}

fn check(manifest: &VerifiedManifest, written: u64) -> [u8; 8] {
    let id = manifest.id();
    let digest = Digest::of_parts(&[id.as_bytes(), &written.to_le_bytes()]);
    let mut check = [0; 8];
    check.copy_from_slice(&digest.0[..8]);
    check
}

/// Until when a transfer that nobody goes on with is kept: a week after it was written last, and
/// not beyond its package's time. `None`: it can never be resumed.
pub(super) fn kept_until(path: &Path) -> Option<Timestamp> {
    let mut file = File::open(path).ok()?;
    let written = file.metadata().and_then(|meta| meta.modified()).ok()?;
    let written = written.duration_since(UNIX_EPOCH).ok()?;
    let (_, signed) = PackLayout::read(&mut file).ok()?;
    let manifest = v1::Manifest::decode(signed.body.as_slice()).ok()?;
    let week = Timestamp::from_ms(0).checked_add(written.saturating_add(PARTIAL_LIFE))?;
    Some(week.min(Timestamp::from_ms(manifest.not_after_ms)))
}

/// What an earlier transfer of this very package has left; `None`: begin anew.
fn resume(path: &Path, manifest: &VerifiedManifest, layout: &PackLayout) -> Option<Held> {
    let mut mark = Vec::new();
    File::open(mark_path(path))
        .ok()?
        .read_to_end(&mut mark)
        .ok()?;
    let written = u64::from_le_bytes(mark.get(..8)?.try_into().ok()?);
    if mark.get(8..MARK_LEN)? != check(manifest, written) {
        return None;
    }
    let mut file = File::open(path).ok()?;
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
    })
}
