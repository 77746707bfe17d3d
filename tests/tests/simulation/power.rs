//! A disk whose machine may lose its power, or whose program may die, at any operation.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use passerelle_disk::{Disk, DiskFile, Lock, MemoryDisk, Status};
use passerelle_host::Signal;

/// What the system says where a sector has failed.
const EIO: i32 = 5;
/// What it says to a process that has too many files open.
const EMFILE: i32 = 24;

/// How a program ends without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The process dies: what it has written stays.
    Killed,
    /// The machine has no power: what was not synced is lost.
    PowerCut,
}

/// Places of a disk at which something is wrong. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct BadPlaces(Arc<Mutex<Bad>>);

#[derive(Debug, Default)]
struct Bad {
    places: Vec<PathBuf>,
    // By file: the bytes before this one.
    sectors: BTreeMap<PathBuf, u64>,
    crowded: Vec<PathBuf>,
}

impl BadPlaces {
    /// From now on nothing can be opened, read or written at these places, and at no others.
    pub fn set(&self, places: &[PathBuf]) {
        self.0.lock().unwrap().places = places.to_vec();
    }

    /// From now on none of the bytes that a file has can be read; those that are appended to it
    /// can, and so can a new file of the same name.
    pub fn wear_out(&self, path: &Path, length: u64) {
        let mut bad = self.0.lock().unwrap();
        bad.sectors.insert(path.to_owned(), length);
    }

    /// From now on nothing can be opened below these, since too many files are open.
    pub fn crowd(&self, places: &[PathBuf]) {
        self.0.lock().unwrap().crowded = places.to_vec();
    }

    fn check(&self, path: &Path) -> io::Result<()> {
        let bad = self.0.lock().unwrap();
        let within = |places: &[PathBuf]| places.iter().any(|place| path.starts_with(place));
        if within(&bad.crowded) {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        match within(&bad.places) {
            true => Err(io::Error::from_raw_os_error(EIO)),
            false => Ok(()),
        }
    }

    fn check_read(&self, path: &Path, offset: u64) -> io::Result<()> {
        let bad = self.0.lock().unwrap();
        match bad.sectors.get(path).is_some_and(|end| offset < *end) {
            true => Err(io::Error::from_raw_os_error(EIO)),
            false => Ok(()),
        }
    }

    fn made_anew(&self, path: &Path) {
        self.0.lock().unwrap().sectors.remove(path);
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
            false => Err(io::Error::from_raw_os_error(EIO)),
        }
    }

    fn opened(&self, path: &Path, below: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        let (life, path) = (self.clone(), path.to_owned());
        Box::new(OpenFile { below, life, path })
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
        Ok(self.opened(path, self.0.memory.create(path)?))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.change()?;
        let made = self.0.memory.create_new(path)?;
        self.0.bad.made_anew(path);
        Ok(self.opened(path, made))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.look()?;
        self.0.bad.check(path)?;
        Ok(self.opened(path, self.0.memory.open(path)?))
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
    path: PathBuf,
}

impl DiskFile for OpenFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.life.look()?;
        self.life.0.bad.check_read(&self.path, offset)?;
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
