//! What takes more than one operation: each says what is durable on return.
//!
//! A directory's names are data of their own: a rename is durable only once the directories on
//! both sides have been synced, so nobody renames what must last without these.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, Kind};

/// An operation on the disk that failed, with the place where it failed.
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
        Self {
            operation,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether there was no room, or no more is allowed.
    pub fn is_full(&self) -> bool {
        let kind = self.source.kind();
        matches!(
            kind,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }

    /// Whether the file was simply not there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

impl From<DiskError> for io::Error {
    /// The same kind of error, with operation and place in its words.
    fn from(error: DiskError) -> Self {
        Self::new(error.source.kind(), error)
    }
}

/// Names `operation` and `path` in an I/O error.
pub trait At<T> {
    /// The same result, with a place.
    ///
    /// # Errors
    /// The error that it had.
    fn at(self, operation: &'static str, path: &Path) -> Result<T, DiskError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T, DiskError> {
        self.map_err(|error| DiskError::new(operation, path, error))
    }
}

/// `path` with `suffix` appended to its last component.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

/// The directory that holds the name `path`; the current one for a bare name.
fn parent(path: &Path) -> Option<&Path> {
    path.parent().map(|parent| match parent.as_os_str() {
        empty if empty.is_empty() => Path::new("."),
        _ => parent,
    })
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

impl dyn Disk + '_ {
    /// Whether there is a file of this name.
    pub fn is_file(&self, path: &Path) -> bool {
        self.status(path).is_ok_and(|it| it.kind == Kind::File)
    }

    /// Whether there is a directory of this name.
    pub fn is_dir(&self, path: &Path) -> bool {
        self.status(path).is_ok_and(|it| it.kind == Kind::Directory)
    }

    /// Puts a whole file at `path`, in a directory that is there, and replaces what stood there. On
    /// return `path` durably holds `bytes`; a crash before leaves what was there, never a part.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        let unfinished = beside(path, ".tmp");
        let written = self.write_synced(&unfinished, bytes);
        let renamed = written.and_then(|()| self.rename_synced(&unfinished, path));
        renamed.inspect_err(|_| {
            // It is in nobody's way: the next attempt empties it.
            let _ = self.remove(&unfinished);
        })
    }

    fn write_synced(&self, path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
        let file = self.create(path).at("create", path)?;
        file.write_at(bytes, 0).at("write", path)?;
        file.sync().at("sync", path)
    }

    /// Makes a directory and those above it. On return those that were made are durable.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn create_directories(&self, path: &Path) -> Result<(), DiskError> {
        if path.as_os_str().is_empty() || self.is_dir(path) {
            return Ok(());
        }
        if let Some(above) = path.parent() {
            self.create_directories(above)?;
        }
        let made = match self.create_dir(path) {
            // Another thread was faster, or it is a link to one.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return self.sync_parent(path);
            }
            made => made.at("create", path),
        };
        let made = made.and_then(|()| self.sync_parent(path));
        made.inspect_err(|_| {
            // It may have been made all the same. Found there, it would be taken for durable: the
            // next attempt makes it anew.
            let _ = self.remove_dir(path);
        })
    }

    /// Makes the names durable that are in a directory, and in those down to so many levels below.
    ///
    /// For a start: a process that made a directory may not have lived to make its name durable,
    /// and `create_directories` finds it there from then on.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn sync_directories(&self, root: &Path, levels: u32) -> Result<(), DiskError> {
        self.sync_dir(root).at("sync", root)?;
        if levels == 0 {
            return Ok(());
        }
        for path in self.list(root).at("list", root)? {
            if self.is_dir(&path) {
                self.sync_directories(&path, levels - 1)?;
            }
        }
        Ok(())
    }

    /// Renames. On return that is durable on both sides.
    ///
    /// # Errors
    /// [`DiskError`]; it may have been renamed all the same.
    pub fn rename_synced(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.rename(from, to).at("rename", from)?;
        self.sync_parent(to)?;
        match from.parent() == to.parent() {
            true => Ok(()),
            false => self.sync_parent(from),
        }
    }

    /// Makes the names durable that are in the directory which holds `path`.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn sync_parent(&self, path: &Path) -> Result<(), DiskError> {
        match parent(path) {
            Some(parent) => self.sync_dir(parent).at("sync", parent),
            None => Ok(()),
        }
    }

    /// Makes everything under `root` durable, and `root` itself; not its name.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn sync_tree(&self, root: &Path) -> Result<(), DiskError> {
        match self.status(root).at("inspect", root)?.kind {
            Kind::Directory => {
                for path in self.list(root).at("list", root)? {
                    self.sync_tree(&path)?;
                }
                self.sync_dir(root).at("sync", root)
            }
            Kind::File => {
                // It may be somebody else's, who lets us only read it.
                let file = self.open_to_read(root).at("open", root)?;
                file.sync().at("sync", root)
            }
            Kind::Link | Kind::Other => Ok(()),
        }
    }

    /// Removes a file if it is there. A power cut may bring it back.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn remove_if_there(&self, path: &Path) -> Result<(), DiskError> {
        let removed = self.remove(path).or_else(absent_is_fine);
        removed.at("remove", path)
    }

    /// Removes a file if it is there. On return its absence is durable.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn remove_synced(&self, path: &Path) -> Result<(), DiskError> {
        match self.remove(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed.at("remove", path)?,
        }
        self.sync_parent(path)
    }

    /// Removes a file, or a directory and all in it, if it is there. On return its absence is
    /// durable.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn remove_tree(&self, path: &Path) -> Result<(), DiskError> {
        match self.status(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.at("inspect", path)?,
        };
        self.remove_all(path)?;
        self.sync_parent(path)
    }

    fn remove_all(&self, path: &Path) -> Result<(), DiskError> {
        if !self.is_dir(path) {
            return self.remove_if_there(path);
        }
        for inner in self.list(path).at("list", path)? {
            self.remove_all(&inner)?;
        }
        let removed = self.remove_dir(path).or_else(absent_is_fine);
        removed.at("remove", path)
    }

    /// What is in a directory, in the order of the names; nothing if it is not there.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn entries(&self, path: &Path) -> Result<Vec<PathBuf>, DiskError> {
        match self.list(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed.at("list", path),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Fault, FaultyDisk, Flavour, HostDisk, MemoryDisk};

    /// The same on the machine's file system and on the one in memory.
    fn on_both(check: impl Fn(&dyn Disk, &Path)) {
        let dir = tempfile::tempdir().unwrap();
        check(&HostDisk, dir.path());
        check(&MemoryDisk::default(), Path::new("/"));
    }

    #[test]
    fn directories_are_durable_once_they_are_made_whatever_failed_before() {
        let path = Path::new("/a/b/c");
        for operation in 1.. {
            let memory = MemoryDisk::default();
            let fault = Fault {
                operation,
                full: false,
                flavour: Flavour::Persisted,
            };
            let faulty = FaultyDisk::new(Arc::new(memory.clone()), Some(fault));
            let disk: &dyn Disk = &faulty;
            let failed = disk.create_directories(path).is_err();
            disk.create_directories(path).unwrap();
            memory.power_cut();
            let disk: &dyn Disk = &memory;
            assert!(disk.is_dir(path), "{fault}");
            if !failed {
                assert!(operation > 5, "only {operation} operations");
                break;
            }
        }
    }

    #[test]
    fn a_replaced_file_leaves_nothing_beside_it() {
        on_both(|disk, dir| {
            let path = dir.join("a/b");
            disk.create_directories(&dir.join("a")).unwrap();
            disk.replace(&path, b"longer").unwrap();
            disk.replace(&path, b"two").unwrap();
            assert_eq!(disk.read(&path).unwrap(), b"two");
            assert_eq!(disk.entries(&dir.join("a")).unwrap(), [path]);
        });
    }

    #[test]
    fn a_replacement_that_fails_leaves_nothing_either() {
        on_both(|disk, dir| {
            let taken = dir.join("taken");
            disk.create_directories(&taken.join("full")).unwrap();
            let error = disk.replace(&taken, b"x").unwrap_err();
            assert!(error.to_string().starts_with("cannot rename "), "{error}");
            assert!(!disk.is_file(&dir.join("taken.tmp")));
        });
    }

    #[test]
    fn errors_name_the_operation_and_the_place() {
        on_both(|disk, dir| {
            let renamed = disk.rename_synced(&dir.join("absent"), &dir.join("x"));
            let error = renamed.unwrap_err();
            assert!(error.is_not_found());
            assert!(error.to_string().starts_with("cannot rename "), "{error}");
            assert!(error.to_string().contains("absent"), "{error}");
        });
    }

    #[test]
    fn a_tree_is_synced_and_removed_as_a_whole_and_twice() {
        on_both(|disk, dir| {
            let tree = dir.join("tree");
            disk.create_directories(&tree.join("deep/er")).unwrap();
            disk.replace(&tree.join("deep/er/file"), b"1").unwrap();
            disk.sync_tree(&tree).unwrap();
            disk.remove_tree(&tree).unwrap();
            disk.remove_tree(&tree).unwrap();
            disk.remove_synced(&tree.join("deep/er/file")).unwrap();
            assert!(!disk.is_dir(&tree));
            assert_eq!(disk.entries(&tree).unwrap(), Vec::<PathBuf>::new());
        });
    }
}
