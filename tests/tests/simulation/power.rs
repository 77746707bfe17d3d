//! A disk whose machine may lose its power, or whose program may die, at any operation.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use passerelle_disk::{Disk, DiskFile, Lock, MemoryDisk, Status};
use passerelle_host::Signal;

/// How a program ends without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The process dies: what it has written stays.
    Killed,
    /// The machine has no power: what was not synced is lost.
    PowerCut,
}

/// Places of a disk at which nothing can be read or written, as where a sector has failed. A clone
/// is the same.
#[derive(Clone, Debug, Default)]
pub struct BadPlaces(Arc<Mutex<Vec<PathBuf>>>);

impl BadPlaces {
    /// From now on these are, and no others.
    pub fn set(&self, places: &[PathBuf]) {
        *self.0.lock().unwrap() = places.to_vec();
    }

    fn check(&self, path: &Path) -> io::Result<()> {
        let places = self.0.lock().unwrap();
        match places.iter().any(|place| path.starts_with(place)) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    }
}

/// One life of a program on a disk in memory. Once it has ended, nothing that the program still
/// does reaches the disk; the next life has the disk as this one has left it.
#[derive(Clone)]
pub struct Life(Arc<State>);

struct State {
    memory: MemoryDisk,
    bad: BadPlaces,
    over: AtomicBool,
    operations: AtomicU64,
    // Before which operation it ends, and how.
    ends_at: AtomicU64,
    power_cut: AtomicBool,
    ended: Arc<Signal>,
}

impl Life {
    /// Begins one; `ended` is told of its end.
    pub fn begin(memory: &MemoryDisk, bad: &BadPlaces, ended: &Arc<Signal>) -> Self {
        Self(Arc::new(State {
            memory: memory.clone(),
            bad: bad.clone(),
            over: AtomicBool::new(false),
            operations: AtomicU64::new(0),
            ends_at: AtomicU64::new(u64::MAX),
            power_cut: AtomicBool::new(false),
            ended: ended.clone(),
        }))
    }

    /// Whether it goes on.
    pub fn goes_on(&self) -> bool {
        !self.0.over.load(Ordering::SeqCst)
    }

    /// It ends before so many more operations that change or sync anything.
    pub fn end_after(&self, operations: u64, death: Death) {
        let cut = death == Death::PowerCut;
        self.0.power_cut.store(cut, Ordering::SeqCst);
        let done = self.0.operations.load(Ordering::SeqCst);
        self.0.ends_at.store(done + operations, Ordering::SeqCst);
    }

    /// It goes on for as long as its program.
    pub fn end_never(&self) {
        self.0.ends_at.store(u64::MAX, Ordering::SeqCst);
    }

    /// It ends now.
    pub fn end(&self, death: Death) {
        self.end_after(0, death);
        let _ = self.change();
    }

    /// Whether the next operation that changes or syncs anything happens.
    fn change(&self) -> io::Result<()> {
        self.look()?;
        let number = self.0.operations.fetch_add(1, Ordering::SeqCst);
        if number < self.0.ends_at.load(Ordering::SeqCst) {
            return Ok(());
        }
        if self.0.power_cut.load(Ordering::SeqCst) {
            self.0.memory.power_cut();
        }
        self.0.over.store(true, Ordering::SeqCst);
        self.0.ended.tell();
        self.look()
    }

    fn look(&self) -> io::Result<()> {
        match self.goes_on() {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(5)),
        }
    }

    fn opened(&self, below: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        let life = self.clone();
        Box::new(OpenFile { below, life })
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Life")
    }
}

impl Disk for Life {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.change()?;
        Ok(self.opened(self.0.memory.create(path)?))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.change()?;
        Ok(self.opened(self.0.memory.create_new(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.look()?;
        self.0.bad.check(path)?;
        Ok(self.opened(self.0.memory.open(path)?))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change()?;
        self.0.bad.check(to)?;
        self.0.memory.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.0.memory.remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.0.bad.check(path)?;
        self.0.memory.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.0.memory.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.change()?;
        self.0.memory.sync_dir(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.look()?;
        self.0.bad.check(path)?;
        self.0.memory.read(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.look()?;
        self.0.memory.list(path)
    }

    fn status(&self, path: &Path) -> io::Result<Status> {
        self.look()?;
        self.0.memory.status(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.look()?;
        self.0.memory.free_bytes(path)
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.look()?;
        self.0.memory.resolve(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.look()?;
        self.0.memory.lock(path)
    }
}

struct OpenFile {
    below: Box<dyn DiskFile>,
    life: Life,
}

impl DiskFile for OpenFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.life.look()?;
        self.below.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.life.change()?;
        self.below.write_at(bytes, offset)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.life.change()?;
        self.below.allocate(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.life.change()?;
        self.below.sync()
    }

    fn length(&self) -> io::Result<u64> {
        self.life.look()?;
        self.below.length()
    }
}
