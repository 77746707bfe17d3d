//! The few operations that make something durable.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Replaces a file: written beside it, synced, renamed, and its directory synced.
///
/// # Errors
/// What the system says; the old file is still there then.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        create_dirs(parent)?;
    }
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".tmp");
    let unfinished = Path::new(&unfinished);
    let mut file = File::create(unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    rename_synced(unfinished, path)
}

/// Creates a directory and those above it, each synced into the one that holds it.
///
/// # Errors
/// What the system says.
pub(crate) fn create_dirs(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        create_dirs(parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_parent(dir),
    }
}

/// Renames within one directory and syncs the directory.
///
/// # Errors
/// What the system says.
pub(crate) fn rename_synced(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(to)
}

/// Syncs the directory that a path is in.
///
/// # Errors
/// What the system says.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Reserves room for a whole file, filled with zeros.
///
/// # Errors
/// `StorageFull` when there is no room.
pub(crate) fn preallocate(file: &File, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(()),
        // A file system without it: the length is set, and a full disk shows while writing.
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(len),
        Err(error) => Err(error.into()),
    }
}

/// Free bytes of the file system that holds `path`.
///
/// # Errors
/// What the system says.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
