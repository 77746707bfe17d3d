//! The agent's directory: one place per state, and the lock that makes one daemon its owner.
//!
//! ```text
//! outbox/<flow>/x      dropped by people and programs
//! work/<job>/          ours from the claim until terminal for all recipients
//! sent/<date>/…        terminal; rejected/<date>/… with a report
//! incoming/<id>.pack   arriving; opening/<id> opened, not yet in the inbox
//! received/<date>/<id> what was received and what was said about it
//! inbox/<flow>/…       belongs to its users, never consulted
//! ```
//!
//! Every transition is one rename, so all of it must lie on one file system.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use passerelle_disk::{At, Disk, DiskError, Kind, Lock};

/// The directories of the agent, in the order of a package's way.
const DIRECTORIES: [&str; 9] = [
    "outbox", "work", "sent", "rejected", "incoming", "opening", "received", "inbox", "state",
];

/// Version of the directory's layout.
const FORMAT: &str = "1\n";

/// The agent's directory, locked by this process.
#[derive(Debug)]
pub struct Store {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    /// Held for its lock, which the system releases with the file.
    _lock: Lock,
}

/// Why the agent's directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another daemon has it.
    #[error(
        "{} is used by another agent; stop that one, or give this one a directory of its own",
        .0.display()
    )]
    Locked(PathBuf),
    /// A later program has written it.
    #[error(
        "{}: the directory has layout {found}, and this program knows 1: update the program",
        .path.display()
    )]
    Newer {
        /// Where the layout is noted.
        path: PathBuf,
        /// Which layout it has.
        found: String,
    },
    /// A part of it is mounted from elsewhere, so that no rename into it is possible.
    #[error(
        "{} lies on another file system than {}; every state of a package must be on one, \
         so that a transition is one rename: mount the whole directory instead of a part",
        .part.display(), .root.display()
    )]
    OtherFileSystem {
        /// The agent's directory.
        root: PathBuf,
        /// The part that is elsewhere.
        part: PathBuf,
    },
}

impl Store {
    /// Creates what is missing under `root`, checks it and takes its lock.
    pub fn open(disk: &Arc<dyn Disk>, root: &Path) -> Result<Store, StoreError> {
        disk.create_directories(root)?;
        let root = disk.resolve(root).at("resolve", root)?;
        let lock_path = root.join(".lock");
        let lock = match disk.lock(&lock_path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(StoreError::Locked(root));
            }
            Err(e) => return Err(DiskError::new("lock", &lock_path, e).into()),
        };
        let device = device_of(disk.as_ref(), &root)?;
        for name in DIRECTORIES {
            let part = root.join(name);
            disk.create_directories(&part)?;
            if device_of(disk.as_ref(), &part)? != device {
                return Err(StoreError::OtherFileSystem { root, part });
            }
            // What is in it by day, flow or job may be named by a process that was killed.
            disk.sync_directories(&part, 0)?;
        }
        disk.sync_directories(&root, 0)?;
        check_format(disk.as_ref(), &root.join("state/format"))?;
        Ok(Store {
            disk: disk.clone(),
            root,
            _lock: lock,
        })
    }

    /// The disk that it lies on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The agent's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where packages to be sent are dropped, one directory per flow.
    pub fn outbox(&self) -> PathBuf {
        self.root.join("outbox")
    }

    /// Jobs that are not yet terminal.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// Jobs that at least one recipient has received, by date.
    pub fn sent(&self) -> PathBuf {
        self.root.join("sent")
    }

    /// What was not sent or not delivered, by date, each with its report.
    pub fn rejected(&self) -> PathBuf {
        self.root.join("rejected")
    }

    /// Packs that are arriving.
    pub fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// Packages opened and not yet in the inbox.
    pub fn opening(&self) -> PathBuf {
        self.root.join("opening")
    }

    /// What was received, by date.
    pub fn received(&self) -> PathBuf {
        self.root.join("received")
    }

    /// What was opened, by flow. It belongs to its users.
    pub fn inbox(&self) -> PathBuf {
        self.root.join("inbox")
    }

    /// The latest statement per destination, conventions and sheets that arrived in-band.
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }
}

/// A directory of a later program is left as it is; a new one is marked as ours.
fn check_format(disk: &dyn Disk, path: &Path) -> Result<(), StoreError> {
    match disk.read(path) {
        Ok(found) if found == FORMAT.as_bytes() => Ok(()),
        Ok(found) => Err(StoreError::Newer {
            path: path.to_owned(),
            found: String::from_utf8_lossy(&found).trim().to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(disk.replace(path, FORMAT.as_bytes())?)
        }
        Err(error) => Err(DiskError::new("read", path, error).into()),
    }
}

fn device_of(disk: &dyn Disk, path: &Path) -> Result<u64, DiskError> {
    // A part may be a link to a directory.
    let place = disk.resolve(path).at("resolve", path)?;
    let found = disk.status(&place).at("inspect", path)?;
    match found.kind {
        Kind::Directory => Ok(found.device),
        Kind::File | Kind::Link | Kind::Other => Err(DiskError::new(
            "inspect",
            path,
            io::ErrorKind::NotADirectory.into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use passerelle_disk::MemoryDisk;

    use super::*;

    #[test]
    fn a_directory_that_a_killed_agent_made_is_there_after_a_power_cut_later() {
        let memory = MemoryDisk::default();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let root = Path::new("/agent");
        let flow = root.join("inbox/rapport");
        drop(Store::open(&disk, root).unwrap());
        disk.create_dir(&flow).unwrap();
        let store = Store::open(&disk, root).unwrap();
        store.disk().create_directories(&flow).unwrap();
        store.disk().replace(&flow.join("t.csv"), b"1").unwrap();
        memory.power_cut();
        assert_eq!(disk.read(&flow.join("t.csv")).unwrap(), b"1");
    }

    #[test]
    fn a_second_agent_on_the_same_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(&passerelle_disk::system(), dir.path()).unwrap();
        assert!(matches!(
            Store::open(&passerelle_disk::system(), dir.path()),
            Err(StoreError::Locked(_))
        ));
        drop(first);
        Store::open(&passerelle_disk::system(), dir.path()).unwrap();
    }

    #[test]
    fn a_file_in_the_place_of_a_state_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("work"), b"").unwrap();
        let error = Store::open(&passerelle_disk::system(), dir.path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("work"), "{error}");
    }
}
