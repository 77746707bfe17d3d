//! The copy of an accepted package that has rotted, while it is made whole again.
//!
//! What is sound stays; verified bytes are written over the rest. A pack is mended in place: it is
//! believed again only when the log says so, and a crash before that leaves it no worse. Where the
//! disk does not give some of it any more, the pack gets a new file, and everything is lacking. A
//! package in a shared segment is written anew at the segments' end.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use passerelle_disk::{At, DiskError, DiskFile};
use passerelle_proto::session::Held;
use passerelle_proto::v1::{PackLocation, Section};
use passerelle_proto::{PackLayout, SoundReader, Soundness, VerifiedManifest, split_inline};
use prost::Message;

use super::{PackReader, Spool, SpoolError, failed};

/// One repair.
pub(crate) struct Mending {
    spool: Arc<Spool>,
    place: Place,
    manifest: VerifiedManifest,
    layout: PackLayout,
    turn: u64,
    held: Held,
}

enum Place {
    /// Kept in memory until it is whole, and then in a segment that many share.
    Memory(Vec<u8>),
    Own {
        path: PathBuf,
        file: Arc<dyn DiskFile>,
    },
}

impl Spool {
    /// Begins to repair a package, instead of whoever was at it. `lies` says, once nobody else is,
    /// where it lies if it still is damaged. Blocks for reading what is there.
    ///
    /// # Errors
    /// [`SpoolError`]; [`SpoolError::Committed`] when there is nothing to repair any more.
    pub(crate) fn mend(
        self: &Arc<Self>,
        manifest: &VerifiedManifest,
        lies: impl FnOnce() -> Option<PackLocation>,
    ) -> Result<Mending, SpoolError> {
        let id = manifest.id();
        let layout = PackLayout::tight(manifest);
        let _opening = self.opening();
        let (turn, new) = self.reserve(&id, layout.file_len())?;
        let opened = match lies() {
            None => Err(SpoolError::Committed),
            Some(location) => self.open_damaged(manifest, &layout, &location),
        };
        let (place, held) = opened.inspect_err(|_| {
            self.ended(&id, turn);
            if new && !self.disk.is_file(&self.pack_path(&id)) {
                self.forget(&id);
            }
        })?;
        Ok(Mending {
            spool: self.clone(),
            place,
            manifest: manifest.clone(),
            layout,
            turn,
            held,
        })
    }

    fn open_damaged(
        &self,
        manifest: &VerifiedManifest,
        layout: &PackLayout,
        location: &PackLocation,
    ) -> Result<(Place, Held), SpoolError> {
        if location.segment != 0 {
            self.shared.leave_if_gone(location.segment);
            let length = usize::try_from(manifest.total_length()).unwrap_or(0);
            return Ok((Place::Memory(vec![0; length]), Held::default()));
        }
        let path = self.pack_path(&manifest.id());
        let sound = match self.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Soundness::default(),
            opened => {
                let file = opened.map_err(failed(&path))?.into();
                let reader = PackReader {
                    path: path.clone(),
                    file,
                    layout: *layout,
                    start: 0,
                };
                let sound = SoundReader::new(manifest, reader).examine();
                sound.map_err(failed(&path))?
            }
        };
        if sound.unreadable {
            // What fails once may fail again, also when it is written.
            self.disk.remove_if_there(&path)?;
        }
        let new = sound.unreadable || !self.disk.is_file(&path);
        let file: Arc<dyn DiskFile> = self.complete(manifest, layout, &path)?.into();
        if new {
            return Ok((Place::Own { path, file }, Held::default()));
        }
        let whole = sound.damage.is_none();
        let held = Held {
            table: sound.table,
            chunks: if whole { manifest.payload_length() } else { 0 },
            lacks: sound.lacks,
        };
        Ok((Place::Own { path, file }, held))
    }

    /// The pack at its full length, with what stands in front of head and chunks.
    fn complete(
        &self,
        manifest: &VerifiedManifest,
        layout: &PackLayout,
        path: &std::path::Path,
    ) -> Result<Box<dyn DiskFile>, DiskError> {
        let (file, new) = match self.disk.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                (self.disk.create_new(path).at("create", path)?, true)
            }
            opened => (opened.at("open", path)?, false),
        };
        if file.length().at("measure", path)? < layout.file_len() {
            file.allocate(layout.file_len()).at("allocate", path)?;
        }
        file.write_at(&layout.header(), 0).at("write", path)?;
        let signed = manifest.signed().encode_to_vec();
        let written = file.write_at(&signed, layout.manifest_offset());
        written.at("write", path)?;
        file.sync().at("sync", path)?;
        if new {
            self.disk.sync_parent(path)?;
        }
        Ok(file)
    }
}

impl Mending {
    /// What is sound of it.
    pub(crate) fn held(&self) -> Held {
        self.held.clone()
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
    pub(crate) fn write(
        &mut self,
        section: Section,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), SpoolError> {
        self.check_turn()?;
        let at = self.layout.offset_of(section).unwrap_or(0) + offset;
        match &mut self.place {
            Place::Memory(pack) => {
                let start = at - super::partial::head_start(&self.layout);
                let place = usize::try_from(start).ok().and_then(|start| {
                    let end = start.checked_add(bytes.len())?;
                    pack.get_mut(start..end)
                });
                place.ok_or(SpoolError::Outside)?.copy_from_slice(bytes);
                Ok(())
            }
            Place::Own { path, file } => file.write_at(bytes, at).map_err(failed(path)),
        }
    }

    /// Takes a package that travelled inside its offer. Blocks.
    ///
    /// # Errors
    /// [`SpoolError`], also when the bytes are not what the manifest says.
    pub(crate) fn write_inline(&mut self, inline: &[u8]) -> Result<(), SpoolError> {
        let parts = split_inline(&self.manifest, inline)?;
        self.write(Section::Wraps, 0, parts.wraps)?;
        self.write(Section::ChunkTable, 0, parts.table)?;
        self.write(Section::Index, 0, parts.index)?;
        self.write(Section::Chunks, 0, parts.chunks)
    }

    /// Everything written is durable when this returns; in memory only when it is whole. Blocks.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub(crate) fn sync(&mut self) -> Result<(), SpoolError> {
        self.check_turn()?;
        match &self.place {
            Place::Memory(_) => Ok(()),
            Place::Own { path, file } => file.sync().map_err(failed(path)),
        }
    }

    /// Every byte is there: where the package lies. Until this repair is dropped no other one of
    /// the package begins. Blocks.
    ///
    /// # Errors
    /// [`SpoolError`].
    pub(crate) fn finish(&mut self) -> Result<PackLocation, SpoolError> {
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
}

impl Drop for Mending {
    fn drop(&mut self) {
        let id = self.manifest.id();
        if matches!(self.place, Place::Memory(_)) && self.spool.is_current(&id, self.turn) {
            self.spool.forget(&id);
        }
        self.spool.ended(&id, self.turn);
    }
}
