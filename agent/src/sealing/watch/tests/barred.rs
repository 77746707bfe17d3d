//! A disk that does not let everything be done.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use passerelle_disk::{Disk, DiskFile, HostDisk, Lock, Status};

type Bar = Box<dyn Fn(&str, &Path) -> io::Result<()> + Send>;

/// The host's, behind a bar that is asked before each operation that opens, reads, lists, creates
/// or renames anything.
#[derive(Default)]
pub(super) struct BarredDisk {
    bar: Mutex<Option<Bar>>,
    mounted: Mutex<Option<PathBuf>>,
}

impl BarredDisk {
    /// `bar` is asked with the name of an operation and its path.
    pub(super) fn bar(&self, bar: impl Fn(&str, &Path) -> io::Result<()> + Send + 'static) {
        *self.bar.lock().unwrap() = Some(Box::new(bar));
    }

    /// Another file system is mounted there.
    pub(super) fn mount(&self, place: Option<&Path>) {
        *self.mounted.lock().unwrap() = place.map(Path::to_owned);
    }

    fn ask(&self, operation: &str, path: &Path) -> io::Result<()> {
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        bar.as_ref().map_or(Ok(()), |bar| bar(operation, path))
    }
}

impl fmt::Debug for BarredDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BarredDisk")
    }
}

impl Disk for BarredDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.ask("create", path)?;
        HostDisk.create(path)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.ask("create", path)?;
        HostDisk.create_new(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        HostDisk.open(path)
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.ask("open", path)?;
        HostDisk.open_to_read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask("rename", from)?;
        HostDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        HostDisk.remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        HostDisk.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        HostDisk.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        HostDisk.sync_dir(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.ask("read", path)?;
        HostDisk.read(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.ask("list", path)?;
        HostDisk.list(path)
    }

    fn status(&self, path: &Path) -> io::Result<Status> {
        let found = HostDisk.status(path)?;
        let mounted = self.mounted.lock().unwrap();
        let elsewhere = mounted.as_ref().is_some_and(|at| path.starts_with(at));
        let device = found.device + u64::from(elsewhere);
        Ok(Status { device, ..found })
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        HostDisk.free_bytes(path)
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        HostDisk.resolve(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        HostDisk.lock(path)
    }
}
