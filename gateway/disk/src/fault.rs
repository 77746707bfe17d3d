//! One operation of many that fails, for tests.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::io::Errno;

use crate::disk::{Disk, DiskFile, Lock, Status};

/// Environment variable that names an operation of this process which fails, in builds with debug
/// assertions: `17:eio:lost` is the 17th one that changes or syncs anything, with an I/O error, and
/// it does not happen; `17:enospc:persisted` fails for want of room, and happens all the same.
pub const FAIL_AT: &str = "PASSERELLE_FAIL_AT";

/// Environment variable that names a file to which each operation that changes or syncs anything is
/// appended before it is tried, as "sync /data/log/checkpoint"; in builds with debug assertions.
pub const LIST_IN: &str = "PASSERELLE_LIST_OPERATIONS";

/// Whether a failed operation has happened all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// It has not.
    Lost,
    /// It has.
    Persisted,
}

/// Which operation fails, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its number among all that change or sync anything, from 1.
    pub operation: u64,
    /// Whether it fails for want of room (ENOSPC) rather than with an I/O error (EIO).
    pub full: bool,
    /// Whether it happens.
    pub flavour: Flavour,
}

impl Fault {
    fn error(self) -> io::Error {
        match self.full {
            true => Errno::NOSPC.into(),
            false => Errno::IO.into(),
        }
    }
}

/// Not a fault in the form "17:eio:lost".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no fault: write NUMBER:eio or enospc:lost or persisted, as in 17:eio:lost")]
pub struct FaultParseError(pub String);

impl FromStr for Fault {
    type Err = FaultParseError;

    fn from_str(text: &str) -> Result<Self, FaultParseError> {
        let failed = || FaultParseError(text.to_owned());
        let parts: Vec<&str> = text.split(':').collect();
        let &[number, error, flavour] = parts.as_slice() else {
            return Err(failed());
        };
        Ok(Self {
            operation: number.parse().map_err(|_| failed())?,
            full: match error {
                "eio" => false,
                "enospc" => true,
                _ => return Err(failed()),
            },
            flavour: match flavour {
                "lost" => Flavour::Lost,
                "persisted" => Flavour::Persisted,
                _ => return Err(failed()),
            },
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = if self.full { "enospc" } else { "eio" };
        let flavour = match self.flavour {
            Flavour::Lost => "lost",
            Flavour::Persisted => "persisted",
        };
        write!(f, "{}:{error}:{flavour}", self.operation)
    }
}

#[derive(Debug)]
struct Counter {
    fault: Option<Fault>,
    done: AtomicU64,
    failed: AtomicBool,
    /// Says on standard error what has failed, for whoever reads the output of a process.
    tells: bool,
    /// Where operations are listed.
    list: Option<File>,
}

impl Counter {
    fn run<T>(
        &self,
        operation: &str,
        path: &Path,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let number = self.done.fetch_add(1, Ordering::SeqCst) + 1;
        self.list(operation, path);
        let Some(fault) = self.fault.filter(|fault| fault.operation == number) else {
            return work();
        };
        self.failed.store(true, Ordering::SeqCst);
        if fault.flavour == Flavour::Persisted {
            let _ = work();
        }
        if self.tells {
            let path = path.display();
            eprintln!("operation {number}, {operation} {path}, fails, as {FAIL_AT} says");
        }
        Err(fault.error())
    }

    fn list(&self, operation: &str, path: &Path) {
        let Some(mut list) = self.list.as_ref() else {
            return;
        };
        // One call, so that the lines of two threads do not mix.
        let line = format!("{operation} {}\n", path.display());
        if let Err(error) = list.write_all(line.as_bytes()) {
            eprintln!("{LIST_IN}: {error}");
        }
    }
}

/// A disk that counts what changes or syncs anything, and makes one such operation fail.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    below: Arc<dyn Disk>,
    counter: Arc<Counter>,
}

impl FaultyDisk {
    /// Stands in front of `below`; without a fault it only counts.
    pub fn new(below: Arc<dyn Disk>, fault: Option<Fault>) -> Self {
        Self::telling(below, fault, false, None)
    }

    fn telling(
        below: Arc<dyn Disk>,
        fault: Option<Fault>,
        tells: bool,
        list: Option<File>,
    ) -> Self {
        let counter = Counter {
            fault,
            done: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            tells,
            list,
        };
        let counter = Arc::new(counter);
        Self { below, counter }
    }

    /// What [`FAIL_AT`] and [`LIST_IN`] ask for; `None` when they ask for nothing, and in release
    /// builds.
    pub(crate) fn from_environment(below: Arc<dyn Disk>) -> Option<Self> {
        if !cfg!(debug_assertions) {
            return None;
        }
        let fault = std::env::var(FAIL_AT).ok().and_then(|asked| {
            let parsed = asked.parse();
            parsed
                .inspect_err(|error| eprintln!("{FAIL_AT}: {error}"))
                .ok()
        });
        let list = std::env::var_os(LIST_IN).and_then(|path| {
            let opened = File::options().create(true).append(true).open(path);
            opened
                .inspect_err(|error| eprintln!("{LIST_IN}: {error}"))
                .ok()
        });
        let asked = fault.is_some() || list.is_some();
        asked.then(|| Self::telling(below, fault, true, list))
    }

    /// How many operations were counted so far.
    pub fn operations(&self) -> u64 {
        self.counter.done.load(Ordering::SeqCst)
    }

    /// Whether the operation that was to fail has been reached.
    pub fn has_failed(&self) -> bool {
        self.counter.failed.load(Ordering::SeqCst)
    }

    fn file(
        &self,
        operation: &str,
        path: &Path,
        open: impl FnOnce() -> io::Result<Box<dyn DiskFile>>,
    ) -> io::Result<Box<dyn DiskFile>> {
        let below = self.counter.run(operation, path, open)?;
        Ok(self.wrapped(path, below))
    }

    fn wrapped(&self, path: &Path, below: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FaultyFile {
            below,
            path: path.to_owned(),
            counter: self.counter.clone(),
        })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file("create", path, || self.below.create(path))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file("create", path, || self.below.create_new(path))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrapped(path, self.below.open(path)?))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrapped(path, self.below.open_to_read(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let work = || self.below.rename(from, to);
        self.counter.run("rename", from, work)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.counter.run("remove", path, || self.below.remove(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let work = || self.below.create_dir(path);
        self.counter.run("create", path, work)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let work = || self.below.remove_dir(path);
        self.counter.run("remove", path, work)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let work = || self.below.sync_dir(path);
        self.counter.run("sync", path, work)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.below.read(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.below.list(path)
    }

    fn status(&self, path: &Path) -> io::Result<Status> {
        self.below.status(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.below.free_bytes(path)
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.below.resolve(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.below.lock(path)
    }
}

struct FaultyFile {
    below: Box<dyn DiskFile>,
    path: PathBuf,
    counter: Arc<Counter>,
}

impl DiskFile for FaultyFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.below.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let work = || self.below.write_at(bytes, offset);
        self.counter.run("write", &self.path, work)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        let work = || self.below.allocate(length);
        self.counter.run("allocate", &self.path, work)
    }

    fn sync(&self) -> io::Result<()> {
        let work = || self.below.sync();
        self.counter.run("sync", &self.path, work)
    }

    fn length(&self) -> io::Result<u64> {
        self.below.length()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDisk;

    fn replaced(fault: &str) -> (MemoryDisk, FaultyDisk, Result<(), io::Error>) {
        let below = MemoryDisk::default();
        let faulty = FaultyDisk::new(Arc::new(below.clone()), Some(fault.parse().unwrap()));
        let disk: &dyn Disk = &faulty;
        let done = disk.replace(Path::new("/f"), b"new");
        (below, faulty, done.map_err(|error| error.source))
    }

    #[test]
    fn each_operation_of_many_can_fail_and_the_next_run_reaches_one_more() {
        // Create, write, sync, rename, sync of the directory; a failure takes the file away again.
        for operation in 1..=5 {
            let (_, faulty, done) = replaced(&format!("{operation}:eio:lost"));
            assert_eq!(done.unwrap_err().raw_os_error(), Some(5));
            assert!(faulty.has_failed());
            assert_eq!(faulty.operations(), operation + 1);
        }
        let (_, faulty, done) = replaced("6:eio:lost");
        done.unwrap();
        assert!(!faulty.has_failed());
    }

    #[test]
    fn a_failed_operation_has_happened_or_not() {
        let (below, _, done) = replaced("4:enospc:lost");
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(below.read(Path::new("/f")).is_err());
        let (below, _, done) = replaced("4:enospc:persisted");
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(below.read(Path::new("/f")).unwrap(), b"new");
    }

    #[test]
    fn a_fault_is_written_as_it_is_read() {
        for text in ["1:eio:lost", "17:enospc:persisted"] {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
        for text in ["", "x:eio:lost", "1:eio", "1:eperm:lost", "1:eio:half"] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }
}
