//! The file system of this machine.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

use crate::disk::{Disk, DiskFile, Kind, Lock, Status};
use crate::fault::FaultyDisk;

/// The file system of this machine (ext4 or xfs).
#[derive(Clone, Copy, Debug, Default)]
pub struct HostDisk;

/// The disk of this process: the host's. In builds with debug assertions the environment may ask
/// for a fault or a list, see [`crate::FAIL_AT`] and [`crate::LIST_IN`]; operations are then
/// counted over the whole process.
pub fn system() -> Arc<dyn Disk> {
    static SYSTEM: OnceLock<Arc<dyn Disk>> = OnceLock::new();
    let made = || -> Arc<dyn Disk> {
        match FaultyDisk::from_environment(Arc::new(HostDisk)) {
            Some(faulty) => Arc::new(faulty),
            None => Arc::new(HostDisk),
        }
    };
    SYSTEM.get_or_init(made).clone()
}

fn boxed(file: File) -> Box<dyn DiskFile> {
    Box::new(HostFile(file))
}

fn writable() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

impl Disk for HostDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let opened = writable().create(true).truncate(true).open(path);
        opened.map(boxed)
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        writable().create_new(true).open(path).map(boxed)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        writable().open(path).map(boxed)
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        File::open(path).map(boxed)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(path)?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    }

    fn status(&self, path: &Path) -> io::Result<Status> {
        let found = fs::symlink_metadata(path)?;
        let kind = match found.file_type() {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_symlink() => Kind::Link,
            _ => Kind::Other,
        };
        Ok(Status {
            kind,
            length: found.len(),
            modified: found.modified()?,
            device: found.dev(),
            number: found.ino(),
        })
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(path)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        path.canonicalize()
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        let file = File::create(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }
}

struct HostFile(File);

impl DiskFile for HostFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.0.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match fallocate(&self.0, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            // A file system without it: the length is set, and a full disk shows while writing.
            Err(rustix::io::Errno::OPNOTSUPP) => self.0.set_len(length.max(self.length()?)),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}
