//! Packages that arrive: `incoming/<id>.pack`, complete when its mark `<id>.part` is gone.
//!
//! The mark says how much is durable; it is written after the data was synced, so it never says
//! more than what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use passerelle_disk::{At, Disk, DiskError, DiskFile, FileCursor, crash_point};
use passerelle_proto::session::Held;
use passerelle_proto::v1::{Section, Signed};
use passerelle_proto::{
    ChunkTable, Digest, PackLayout, PackageId, Timestamp, VerifiedManifest, split_inline,
};
use prost::Message;

use crate::node::Node;

const MARK_LEN: usize = 16;

/// Which transfer of a package is the newest: an older one ends.
#[derive(Default)]
pub(crate) struct Incoming {
    turns: Mutex<BTreeMap<PackageId, u64>>,
    // Held while a transfer becomes whole, or is let go of: nothing that is whole is removed.
    ending: Mutex<()>,
    // Arrived packages that whoever opens them has been told of, and is not done with.
    told: Mutex<BTreeSet<PackageId>>,
}

/// One transfer.
pub(crate) struct Arriving {
    turns: Arc<Node>,
    turn: u64,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    mark: Box<dyn DiskFile>,
    manifest: VerifiedManifest,
    layout: PackLayout,
    held: Held,
    written: u64,
    head_parts: u8,
}

/// Path of an arriving or arrived package.
pub(crate) fn pack_path(node: &Node, package: &PackageId) -> PathBuf {
    node.store.incoming().join(format!("{package}.pack"))
}

/// Whether every byte of a package is here.
pub(crate) fn is_complete(node: &Node, package: &PackageId) -> bool {
    let path = pack_path(node, package);
    let disk = node.store.disk();
    disk.is_file(&path) && !disk.is_file(&mark_path(&path))
}

/// Makes durable that a package has arrived whole: whoever dropped its mark may have failed to.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn sync_complete(node: &Node, package: &PackageId) -> Result<(), DiskError> {
    node.store.disk().sync_parent(&pack_path(node, package))
}

/// The manifest of a package that is arriving or has arrived, as far as its file can be read: it
/// was verified before the first byte of it was written.
pub(crate) fn arrived_manifest(node: &Node, package: &PackageId) -> Option<Signed> {
    let file = node.store.disk().open(&pack_path(node, package)).ok()?;
    let (_, signed) = PackLayout::read(&mut FileCursor::new(file)).ok()?;
    (PackageId(Digest::of(&signed.body)) == *package).then_some(signed)
}

/// Whether bytes of a package are still missing.
pub(crate) fn is_unfinished(node: &Node, package: &PackageId) -> bool {
    let mark = mark_path(&pack_path(node, package));
    node.store.disk().is_file(&mark)
}

fn mark_path(pack: &Path) -> PathBuf {
    pack.with_extension("part")
}

/// Notes when our gateway accepted a package that is arriving: its sender's key may be revoked
/// before it is opened.
///
/// Not synced: after a crash it may be missing, and the package is judged as of then.
fn keep_accepted_at(disk: &dyn Disk, pack: &Path, at: Option<Timestamp>) -> io::Result<()> {
    match at {
        Some(at) => {
            let file = disk.create(&accepted_path(pack))?;
            file.write_at(at.as_ms().to_string().as_bytes(), 0)
        }
        None => Ok(remove_accepted_at(disk, pack)?),
    }
}

/// When our gateway accepted an arrived package, where that is known.
pub(crate) fn accepted_at(disk: &dyn Disk, pack: &Path) -> Option<Timestamp> {
    let text = String::from_utf8(disk.read(&accepted_path(pack)).ok()?).ok()?;
    text.parse().ok().map(Timestamp::from_ms)
}

/// Forgets when a package was accepted.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn remove_accepted_at(disk: &dyn Disk, pack: &Path) -> Result<(), DiskError> {
    disk.remove_if_there(&accepted_path(pack))
}

fn accepted_path(pack: &Path) -> PathBuf {
    pack.with_extension("accepted")
}

/// Forgets what has come of a package that is refused for good, so that it will never be whole.
/// A transfer of it that still runs ends. Blocks.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn forget_unfinished(node: &Node, package: &PackageId) -> Result<(), DiskError> {
    let path = pack_path(node, package);
    let mark = mark_path(&path);
    let disk = node.store.disk();
    let _one = node.incoming.ending();
    node.incoming.ended(package);
    if disk.is_file(&mark) {
        remove_accepted_at(disk.as_ref(), &path)?;
        // In this order, and durably: a pack without a mark counts as complete.
        disk.remove_synced(&path)?;
        disk.remove_synced(&mark)?;
    }
    Ok(())
}

impl Incoming {
    fn ending(&self) -> MutexGuard<'_, ()> {
        self.ending
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn told(&self) -> MutexGuard<'_, BTreeSet<PackageId>> {
        self.told
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whoever opens packages is to be told of one that has arrived: `true` the first time.
    pub(crate) fn tell(&self, package: PackageId) -> bool {
        self.told().insert(package)
    }

    /// Whoever opens packages is done with one for now.
    pub(crate) fn opened(&self, package: &PackageId) {
        self.told().remove(package);
    }

    fn next_turn(&self, package: &PackageId) -> u64 {
        let mut turns = self
            .turns
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let turn = turns.entry(*package).or_default();
        *turn += 1;
        *turn
    }

    fn is_current(&self, package: &PackageId, turn: u64) -> bool {
        let turns = self
            .turns
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        turns.get(package) == Some(&turn)
    }

    fn ended(&self, package: &PackageId) {
        let mut turns = self
            .turns
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        turns.remove(package);
    }
}

impl Arriving {
    /// Begins or resumes a transfer. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn begin(
        node: &Arc<Node>,
        manifest: &VerifiedManifest,
        accepted_at: Option<Timestamp>,
    ) -> io::Result<Self> {
        let path = pack_path(node, &manifest.id());
        let turn = node.incoming.next_turn(&manifest.id());
        let layout = PackLayout::tight(manifest);
        let disk = node.store.disk().as_ref();
        let mark_file = mark_path(&path);
        let (file, mark, held) = match resume(disk, &path, manifest, &layout) {
            Some(held) => (disk.open(&path)?, disk.open(&mark_file)?, held),
            None => {
                // The mark first: a pack without one counts as complete.
                let mark = disk.create(&mark_file)?;
                // An older one must not come back and speak for a new pack.
                mark.sync()?;
                disk.sync_parent(&mark_file)?;
                let file = begin(disk, &path, manifest, &layout)?;
                (file, mark, Held::default())
            }
        };
        // Alone, without pack and mark, it says that the pack was lost.
        keep_accepted_at(disk, &path, accepted_at)?;
        crash_point!("arrive.begun");
        Ok(Self {
            turns: node.clone(),
            turn,
            path,
            file,
            mark,
            manifest: manifest.clone(),
            layout,
            written: held.chunks,
            head_parts: 0,
            held,
        })
    }

    /// What was durable when the transfer began.
    pub(crate) fn held(&self) -> Held {
        self.held.clone()
    }

    fn check_turn(&self) -> io::Result<()> {
        match self
            .turns
            .incoming
            .is_current(&self.manifest.id(), self.turn)
        {
            true => Ok(()),
            false => Err(io::Error::other(
                "another stream has taken over this package",
            )),
        }
    }

    /// Writes verified bytes. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn write(&mut self, section: Section, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_turn()?;
        let at = self.layout.offset_of(section).unwrap_or(0) + offset;
        self.file.write_at(bytes, at)?;
        match section {
            Section::Chunks => self.written = offset + bytes.len() as u64,
            _ => self.head_parts += 1,
        }
        Ok(())
    }

    /// Everything written is durable when this returns. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.check_turn()?;
        self.file.sync()?;
        crash_point!("arrive.synced");
        if self.held.table.is_some() || self.head_parts == 3 {
            let mut mark = [0; MARK_LEN];
            mark[..8].copy_from_slice(&self.written.to_le_bytes());
            mark[8..].copy_from_slice(&check(&self.manifest, self.written));
            self.mark.write_at(&mark, 0)?;
            crash_point!("arrive.marked");
        }
        Ok(())
    }

    /// Takes a package that travelled inside its offer. Blocks.
    ///
    /// # Errors
    /// `InvalidData` when the bytes are not what the manifest says.
    pub(crate) fn write_inline(&mut self, inline: &[u8]) -> io::Result<()> {
        let parts = split_inline(&self.manifest, inline)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.write(Section::Wraps, 0, parts.wraps)?;
        self.write(Section::ChunkTable, 0, parts.table)?;
        self.write(Section::Index, 0, parts.index)?;
        self.write(Section::Chunks, 0, parts.chunks)
    }

    /// Every byte is there: syncs and drops the mark. On return the package is complete. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.sync()?;
        crash_point!("arrive.whole");
        let _one = self.turns.incoming.ending();
        self.check_turn()?;
        let disk = self.turns.store.disk();
        disk.remove_synced(&mark_path(&self.path))?;
        crash_point!("arrive.complete");
        self.turns.incoming.ended(&self.manifest.id());
        Ok(())
    }

    /// The bytes are wrong: nothing of it is kept. Blocks.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn discard(self) -> io::Result<()> {
        self.check_turn()?;
        self.turns.incoming.ended(&self.manifest.id());
        let disk = self.turns.store.disk();
        remove_accepted_at(disk.as_ref(), &self.path)?;
        // In this order, and durably: a pack without a mark counts as complete.
        disk.remove_synced(&self.path)?;
        Ok(disk.remove_synced(&mark_path(&self.path))?)
    }
}

/// A new file, not the old one emptied: an older transfer may still be writing to that.
fn begin(
    disk: &dyn Disk,
    path: &Path,
    manifest: &VerifiedManifest,
    layout: &PackLayout,
) -> Result<Box<dyn DiskFile>, DiskError> {
    disk.remove_if_there(path)?;
    let file = disk.create_new(path).at("create", path)?;
    // The whole length at once: a full disk shows before the transfer, not in its middle.
    file.allocate(layout.file_len()).at("allocate", path)?;
    file.write_at(&layout.header(), 0).at("write", path)?;
    let signed = manifest.signed().encode_to_vec();
    let written = file.write_at(&signed, layout.manifest_offset());
    written.at("write", path)?;
    file.sync().at("sync", path)?;
    disk.sync_parent(path)?;
    Ok(file)
}

fn check(manifest: &VerifiedManifest, written: u64) -> [u8; 8] {
    let id = manifest.id();
    let digest = Digest::of_parts(&[id.as_bytes(), &written.to_le_bytes()]);
    let mut check = [0; 8];
    check.copy_from_slice(&digest.0[..8]);
    check
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
