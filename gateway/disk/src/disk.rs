//! What a disk can do, and what it promises.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A file system. Any number of threads may call it at once; operations on one path are ordered by
/// whoever calls them.
///
/// Until something is synced, a power cut may lose it, in any order: a name is durable once its
/// directory was synced, the contents of a file once the file was. A rename is never half done:
/// after a power cut the file has its old name or its new one. A process that dies loses nothing.
///
/// An operation that fails may have happened all the same. A sync that fails says nothing about
/// what is on the disk, and neither does one after it: the system may have dropped what it could
/// not write.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Makes an empty file, or empties the one that is there.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Makes an empty file where there is nothing.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the system says.
    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file that is there, to read and write.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file that is there, perhaps somebody else's, only to read.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file or a directory another name; a file that has that name is replaced.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Who has it open goes on reading and writing it.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`, or what the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the system says.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// What the system says.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable: those that are there, and that the others are gone.
    ///
    /// # Errors
    /// What the system says.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Reads a whole file.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// What is in a directory, in the order of the names.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;

    /// What has this name; a link is not followed.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn status(&self, path: &Path) -> io::Result<Status>;

    /// Bytes that can still be written where `path` is.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;

    /// The absolute path of what has this name, without links.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf>;

    /// Locks a file, which is made if it is not there, against every other process. The lock ends
    /// with the process, or with what this returns.
    ///
    /// # Errors
    /// `WouldBlock` when another process has it, or what the system says.
    fn lock(&self, path: &Path) -> io::Result<Lock>;
}

/// Holds a lock for as long as it is there.
pub type Lock = Box<dyn fmt::Debug + Send + Sync>;

/// An open file. Any number of threads may read and write it at once, at different places.
pub trait DiskFile: Send + Sync {
    /// Reads from `offset` on; fewer bytes than asked for only at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all bytes from `offset` on.
    ///
    /// # Errors
    /// What the system says, `StorageFull` among it; a part may have been written.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Reserves room up to `length` and makes the file at least so long, with zeros.
    ///
    /// # Errors
    /// `StorageFull` when there is no room.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Makes the contents and the length durable; not the name.
    ///
    /// # Errors
    /// What the system says.
    fn sync(&self) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// What the system says.
    fn length(&self) -> io::Result<u64>;
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ordinary file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A socket, a pipe, a device.
    Other,
}

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it stands for.
    pub kind: Kind,
    /// Length in bytes.
    pub length: u64,
    /// When its contents changed last.
    pub modified: SystemTime,
    /// The file system that it lies on: a rename stays within one.
    pub device: u64,
    /// Tells it from every other file of its file system.
    pub number: u64,
}

impl dyn DiskFile + '_ {
    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file is shorter, or what the system says.
    pub fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match self.read_at(bytes, offset)? == bytes.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}
