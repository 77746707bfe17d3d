//! A disk in memory that loses, on a power cut, everything that was never synced.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::disk::{Disk, DiskFile, Kind, Lock, Status};

/// Bytes that are free unless it is full.
const FREE_BYTES: u64 = 1 << 50;

type NodeId = usize;
type Names = BTreeMap<String, NodeId>;

/// The root directory.
const ROOT: NodeId = 0;

/// A disk in memory; a clone is the same disk.
///
/// It is as forgetful as a disk may be: a power cut undoes every change of names in directories
/// that were not synced since, and all that was written to files that were not. A rename that is
/// undone is undone on both sides.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    nodes: Vec<Node>,
    /// Changes of names that are not durable yet, oldest first.
    pending: Vec<Change>,
    /// Goes on with every write: times differ, and are the same in every run.
    ticks: u64,
    /// Whether no file can grow.
    full: bool,
}

#[derive(Clone, Debug)]
enum Node {
    Directory { names: Names, durable: Names },
    File(Contents),
}

#[derive(Clone, Debug, Default)]
struct Contents {
    // Copied when they are changed and somebody else has them: a disk of its own costs little.
    bytes: Arc<Vec<u8>>,
    durable: Arc<Vec<u8>>,
    /// From where to where both may differ, but for their lengths.
    unsynced: Range<usize>,
    modified: u64,
}

impl Contents {
    fn changed(&mut self, part: Range<usize>) {
        self.unsynced = match self.unsynced.is_empty() {
            true => part,
            false => self.unsynced.start.min(part.start)..self.unsynced.end.max(part.end),
        };
    }

    /// A long file of which a little has changed costs a little.
    fn sync(&mut self) {
        let part = std::mem::take(&mut self.unsynced);
        if part.is_empty() && self.durable.len() == self.bytes.len() {
            return;
        }
        let durable = Arc::make_mut(&mut self.durable);
        durable.resize(self.bytes.len(), 0);
        let part = part.start.min(self.bytes.len())..part.end.min(self.bytes.len());
        durable[part.clone()].copy_from_slice(&self.bytes[part]);
    }

    fn power_cut(&mut self) {
        self.bytes = self.durable.clone();
        self.unsynced = 0..0;
    }
}

type Name = (NodeId, String);

/// A node gets a name, loses one, or both.
#[derive(Clone, Debug)]
struct Change {
    node: NodeId,
    removed: Option<Name>,
    added: Option<Name>,
}

impl Change {
    fn touches(&self, directory: NodeId) -> bool {
        let names = [&self.removed, &self.added];
        let mut names = names.into_iter().flatten();
        names.any(|(holder, _)| *holder == directory)
    }
}

impl Default for State {
    fn default() -> Self {
        Self {
            nodes: vec![directory()],
            pending: Vec::new(),
            ticks: 0,
            full: false,
        }
    }
}

fn directory() -> Node {
    Node::Directory {
        names: Names::new(),
        durable: Names::new(),
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl State {
    fn names(&self, node: NodeId) -> io::Result<&Names> {
        match &self.nodes[node] {
            Node::Directory { names, .. } => Ok(names),
            Node::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn find(&self, path: &Path) -> io::Result<NodeId> {
        let mut node = ROOT;
        for part in path.components() {
            let Component::Normal(name) = part else {
                continue;
            };
            let names = self.names(node)?;
            node = *names.get(&*name.to_string_lossy()).ok_or_else(not_found)?;
        }
        Ok(node)
    }

    /// The directory that holds, or is to hold, a name.
    fn place(&self, path: &Path) -> io::Result<Name> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let holder = self.find(path.parent().unwrap_or(Path::new("")))?;
        self.names(holder)?;
        Ok((holder, name.to_string_lossy().into_owned()))
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.nodes, &change, false);
        self.pending.push(change);
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<NodeId> {
        let place = self.place(path)?;
        self.nodes.push(node);
        let node = self.nodes.len() - 1;
        self.change(Change {
            node,
            removed: None,
            added: Some(place),
        });
        Ok(node)
    }

    fn drop_name(&mut self, path: &Path, directory: bool) -> io::Result<()> {
        let (place, node) = (self.place(path)?, self.find(path)?);
        match (&self.nodes[node], directory) {
            (Node::Directory { names, .. }, true) if names.is_empty() => {}
            (Node::Directory { .. }, true) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
            (Node::Directory { .. }, false) => return Err(io::ErrorKind::IsADirectory.into()),
            (Node::File(_), true) => return Err(io::ErrorKind::NotADirectory.into()),
            (Node::File(_), false) => {}
        }
        self.change(Change {
            node,
            removed: Some(place),
            added: None,
        });
        Ok(())
    }

    fn contents(&mut self, node: NodeId) -> io::Result<&mut Contents> {
        match &mut self.nodes[node] {
            Node::File(contents) => Ok(contents),
            Node::Directory { .. } => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// Fails where a file has to grow, up to `length`, and cannot.
    fn has_room(&mut self, node: NodeId, length: usize) -> io::Result<()> {
        let grows = length > self.contents(node)?.bytes.len();
        match grows && self.full {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn written(&mut self, node: NodeId) -> io::Result<&mut Contents> {
        self.ticks += 1;
        let ticks = self.ticks;
        let contents = self.contents(node)?;
        contents.modified = ticks;
        Ok(contents)
    }

    /// Makes durable what has changed in a directory; of each node also what was before it.
    fn sync_dir(&mut self, directory: NodeId) {
        let last = |node| {
            let of_node = |change: &Change| change.node == node && change.touches(directory);
            self.pending.iter().rposition(of_node)
        };
        let covered: Vec<bool> = (0..self.pending.len())
            .map(|at| last(self.pending[at].node).is_some_and(|last| at <= last))
            .collect();
        let pending = std::mem::take(&mut self.pending);
        for (change, covered) in pending.into_iter().zip(covered) {
            match covered {
                true => apply(&mut self.nodes, &change, true),
                false => self.pending.push(change),
            }
        }
    }

    fn power_cut(&mut self) {
        self.pending.clear();
        for node in &mut self.nodes {
            match node {
                Node::Directory { names, durable } => names.clone_from(durable),
                Node::File(contents) => contents.power_cut(),
            }
        }
    }
}

fn apply(nodes: &mut [Node], change: &Change, durably: bool) {
    if let Some((holder, name)) = &change.removed
        && let Some(names) = names_of(nodes, *holder, durably)
        && names.get(name) == Some(&change.node)
    {
        names.remove(name);
    }
    if let Some((holder, name)) = &change.added
        && let Some(names) = names_of(nodes, *holder, durably)
    {
        names.insert(name.clone(), change.node);
    }
}

fn names_of(nodes: &mut [Node], holder: NodeId, after_a_power_cut: bool) -> Option<&mut Names> {
    match &mut nodes[holder] {
        Node::Directory { durable, .. } if after_a_power_cut => Some(durable),
        Node::Directory { names, .. } => Some(names),
        Node::File(_) => None,
    }
}

impl MemoryDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loses everything that was never synced. Files that are open write to nowhere from now on
    /// that anybody should look at: whoever had them open is gone with the power.
    pub fn power_cut(&self) {
        self.state().power_cut();
    }

    /// From now on no file can grow, or all can again: the disk is full, or there is room.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// A disk of its own, with what this one would have on it after a power cut.
    pub fn after_a_power_cut(&self) -> Self {
        let state = self.state();
        let left = |node: &Node| match node {
            Node::Directory { durable, .. } => Node::Directory {
                names: durable.clone(),
                durable: durable.clone(),
            },
            Node::File(contents) => Node::File(Contents {
                bytes: contents.durable.clone(),
                durable: contents.durable.clone(),
                unsynced: 0..0,
                modified: contents.modified,
            }),
        };
        Self(Arc::new(Mutex::new(State {
            nodes: state.nodes.iter().map(left).collect(),
            pending: Vec::new(),
            ticks: state.ticks,
            full: state.full,
        })))
    }

    /// A disk of its own, with the same on it.
    pub fn copy(&self) -> Self {
        let state = self.state();
        Self(Arc::new(Mutex::new(State {
            nodes: state.nodes.clone(),
            pending: state.pending.clone(),
            ticks: state.ticks,
            full: state.full,
        })))
    }

    fn opened(&self, node: NodeId) -> Box<dyn DiskFile> {
        let state = self.0.clone();
        Box::new(MemoryFile { state, node })
    }
}

impl Disk for MemoryDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        let node = match state.find(path) {
            Ok(node) => {
                let contents = state.written(node)?;
                contents.changed(0..contents.bytes.len());
                contents.bytes = Arc::default();
                node
            }
            Err(_) => state.add(path, Node::File(Contents::default()))?,
        };
        Ok(self.opened(node))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        if state.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = state.add(path, Node::File(Contents::default()))?;
        Ok(self.opened(node))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        let node = state.find(path)?;
        state.contents(node)?;
        Ok(self.opened(node))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let node = state.find(from)?;
        let (removed, added) = (state.place(from)?, state.place(to)?);
        if let Ok(there) = state.find(to)
            && let Node::Directory { names, .. } = &state.nodes[there]
            && (!names.is_empty() || matches!(state.nodes[node], Node::File(_)))
        {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.change(Change {
            node,
            removed: Some(removed),
            added: Some(added),
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.state().drop_name(path, false)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.add(path, directory()).map(drop)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.state().drop_name(path, true)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let node = state.find(path)?;
        state.names(node)?;
        state.sync_dir(node);
        Ok(())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let node = state.find(path)?;
        Ok(state.contents(node)?.bytes.to_vec())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.state();
        let names = state.names(state.find(path)?)?;
        Ok(names.keys().map(|name| path.join(name)).collect())
    }

    fn status(&self, path: &Path) -> io::Result<Status> {
        let state = self.state();
        let node = state.find(path)?;
        let (kind, length, ticks) = match &state.nodes[node] {
            Node::Directory { .. } => (Kind::Directory, 0, 0),
            Node::File(contents) => (Kind::File, contents.bytes.len() as u64, contents.modified),
        };
        Ok(Status {
            kind,
            length,
            modified: moment(ticks),
            device: 0,
            number: node as u64,
        })
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let state = self.state();
        let free = if state.full { 0 } else { FREE_BYTES };
        state.find(path).map(|_| free)
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.state().find(path).map(|_| path.to_owned())
    }

    /// Nobody else has this disk: the memory is one process's.
    fn lock(&self, _: &Path) -> io::Result<Lock> {
        Ok(Box::new(()))
    }
}

fn moment(ticks: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ticks)
}

struct MemoryFile {
    state: Arc<Mutex<State>>,
    node: NodeId,
}

impl MemoryFile {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index(at: u64) -> io::Result<usize> {
    usize::try_from(at).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl DiskFile for MemoryFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state();
        let whole = &state.contents(self.node)?.bytes;
        let rest = whole.get(index(offset)?..).unwrap_or_default();
        let read = rest.len().min(bytes.len());
        bytes[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        let start = index(offset)?;
        let end = start + bytes.len();
        state.has_room(self.node, end)?;
        let contents = state.written(self.node)?;
        contents.changed(start.min(contents.bytes.len())..end);
        let whole = Arc::make_mut(&mut contents.bytes);
        if whole.len() < end {
            whole.resize(end, 0);
        }
        whole[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let mut state = self.state();
        state.has_room(self.node, index(length)?)?;
        let whole = Arc::make_mut(&mut state.written(self.node)?.bytes);
        let length = index(length)?.max(whole.len());
        whole.resize(length, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.contents(self.node)?.sync();
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.state().contents(self.node)?.bytes.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> &Path {
        Path::new(text)
    }

    #[test]
    fn a_power_cut_takes_what_was_not_synced() {
        let memory = MemoryDisk::default();
        let disk: &dyn Disk = &memory;
        disk.create_directories(path("/a")).unwrap();
        disk.replace(path("/a/kept"), b"kept").unwrap();
        let file = disk.open(path("/a/kept")).unwrap();
        file.write_at(b"lost", 0).unwrap();
        disk.create(path("/a/unnamed")).unwrap().sync().unwrap();
        memory.power_cut();
        assert_eq!(disk.read(path("/a/kept")).unwrap(), b"kept");
        assert_eq!(disk.list(path("/a")).unwrap(), [path("/a/kept")]);
    }

    #[test]
    fn a_rename_is_undone_on_both_sides_or_on_none() {
        let memory = MemoryDisk::default();
        let disk: &dyn Disk = &memory;
        disk.create_directories(path("/a")).unwrap();
        disk.create_directories(path("/b")).unwrap();
        disk.replace(path("/a/f"), b"1").unwrap();
        disk.rename(path("/a/f"), path("/b/f")).unwrap();
        let cut = memory.after_a_power_cut();
        assert_eq!(cut.read(path("/a/f")).unwrap(), b"1");
        assert!(cut.read(path("/b/f")).is_err());
        disk.sync_dir(path("/b")).unwrap();
        memory.power_cut();
        assert!(disk.read(path("/a/f")).is_err());
        assert_eq!(disk.read(path("/b/f")).unwrap(), b"1");
    }

    #[test]
    fn what_was_removed_comes_back_unless_its_directory_was_synced() {
        let memory = MemoryDisk::default();
        let disk: &dyn Disk = &memory;
        disk.replace(path("/f"), b"1").unwrap();
        disk.remove_if_there(path("/f")).unwrap();
        memory.power_cut();
        assert!(disk.is_file(path("/f")));
        disk.remove_synced(path("/f")).unwrap();
        memory.power_cut();
        assert!(!disk.is_file(path("/f")));
    }
}
