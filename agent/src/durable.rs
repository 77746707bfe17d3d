//! Files that are still there after a power cut: each function says what is durable on return.
//!
//! A directory's entries are data of their own: a rename is only durable once the directories
//! on both sides have been synced, so no caller renames by itself.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file-system operation of the agent that failed, with the place where it failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct DiskError {
    /// What was tried, as an infinitive: "rename", "sync".
    pub operation: &'static str,
    /// The file or directory it was tried on.
    pub path: PathBuf,
    /// What the system answered.
    #[source]
    pub source: io::Error,
}

impl DiskError {
    /// An error of `operation` on `path`.
    pub fn new(operation: &'static str, path: &Path, source: io::Error) -> Self {
        DiskError {
            operation,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the file was simply not there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Names `operation` and `path` in an I/O error.
pub(crate) trait At<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, DiskError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, DiskError> {
        self.map_err(|e| DiskError::new(operation, path, e))
    }
}

/// On return the entries of `directory` (not their contents) are durable.
pub fn sync_directory(directory: &Path) -> Result<(), DiskError> {
    File::open(directory)
        .and_then(|d| d.sync_all())
        .at("sync", directory)
}

/// Creates `directory` with its parents. On return those that were created are durable.
pub fn create_directory(directory: &Path) -> Result<(), DiskError> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_directory(parent)?;
    }
    match fs::create_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
        other => other.at("create", directory)?,
    }
    parent.map_or(Ok(()), sync_directory)
}

/// Renames `from` to `to`. On return the rename is durable on both sides.
pub fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    fs::rename(from, to).at("rename", from)?;
    if let Some(parent) = to.parent() {
        sync_directory(parent)?;
    }
    match from.parent() {
        Some(parent) if Some(parent) != to.parent() => sync_directory(parent),
        _ => Ok(()),
    }
}

/// Puts a whole file at `path`, replacing what stood there. On return `path` durably holds
/// `bytes`; a crash before leaves what was there before, never a part.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let temporary = beside(path, ".tmp");
    let mut file = File::create(&temporary).at("create", &temporary)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .at("write", &temporary)?;
    rename(&temporary, path)
}

/// Syncs every file and directory under `root`, and `root` itself. On return the whole tree is
/// durable (its own name in its parent is not).
pub fn sync_tree(root: &Path) -> Result<(), DiskError> {
    if root.is_dir() {
        for entry in fs::read_dir(root).at("list", root)? {
            sync_tree(&entry.at("list", root)?.path())?;
        }
        return sync_directory(root);
    }
    File::open(root).and_then(|f| f.sync_all()).at("sync", root)
}

/// Removes a file if it is there. On return its absence is durable.
pub fn remove_file(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.at("remove", path)?,
    }
    path.parent().map_or(Ok(()), sync_directory)
}

/// Removes a directory and all in it, if it is there.
pub fn remove_tree(path: &Path) -> Result<(), DiskError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.at("remove", path)?,
    }
    path.parent().map_or(Ok(()), sync_directory)
}

/// The entries of `directory`, in the order of their names; none if it does not exist.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>, DiskError> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("list", directory)?,
    };
    let mut paths = entries
        .map(|entry| entry.map(|e| e.path()))
        .collect::<io::Result<Vec<_>>>()
        .at("list", directory)?;
    paths.sort();
    Ok(paths)
}

/// `path` with `suffix` appended to its last component.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_file_replaces_the_one_before_and_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_directory(path.parent().unwrap()).unwrap();
        write_file(&path, b"one").unwrap();
        write_file(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(list(path.parent().unwrap()).unwrap(), vec![path]);
    }

    #[test]
    fn errors_name_the_operation_and_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let error = rename(&dir.path().join("absent"), &dir.path().join("x")).unwrap_err();
        assert!(error.is_not_found());
        assert!(error.to_string().starts_with("cannot rename "), "{error}");
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
