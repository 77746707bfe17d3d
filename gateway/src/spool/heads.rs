//! What stands before the chunks of packages whose chunks are gone: header, manifest, wraps, chunk
//! table and sealed index, in a small file for each package.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use passerelle_disk::Disk;
use passerelle_proto::PackageId;

use super::{SpoolError, failed};

const EXTENSION: &str = ".head";

/// The files, and how long they are.
pub(super) struct Heads {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    lengths: Mutex<Lengths>,
}

#[derive(Default)]
struct Lengths {
    packages: BTreeMap<PackageId, u64>,
    /// Of all of them.
    total: u64,
}

impl Lengths {
    fn insert(&mut self, package: PackageId, length: u64) {
        self.remove(&package);
        self.packages.insert(package, length);
        self.total += length;
    }

    fn remove(&mut self, package: &PackageId) {
        self.total -= self.packages.remove(package).unwrap_or(0);
    }
}

impl Heads {
    pub(super) fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Self, SpoolError> {
        disk.create_directories(dir)?;
        let mut lengths = Lengths::default();
        for path in disk.list(dir).map_err(failed(dir))? {
            if let Some(id) = head_id(&path) {
                let length = disk.status(&path).map_err(failed(&path))?.length;
                lengths.insert(id, length);
            }
        }
        Ok(Self {
            disk: disk.clone(),
            dir: dir.to_owned(),
            lengths: Mutex::new(lengths),
        })
    }

    fn lengths(&self) -> MutexGuard<'_, Lengths> {
        self.lengths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn path(&self, package: &PackageId) -> PathBuf {
        self.dir.join(format!("{package}{EXTENSION}"))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.lengths().total
    }

    /// Keeps a head; durable when this returns.
    pub(super) fn keep(&self, package: &PackageId, head: &[u8]) -> Result<(), SpoolError> {
        self.disk.replace(&self.path(package), head)?;
        self.lengths().insert(*package, head.len() as u64);
        Ok(())
    }

    pub(super) fn remove(&self, package: &PackageId) -> Result<(), SpoolError> {
        self.disk.remove_if_there(&self.path(package))?;
        self.lengths().remove(package);
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), SpoolError> {
        self.disk.sync_dir(&self.dir).map_err(failed(&self.dir))
    }

    /// Removes what is not `wanted`, and what was being written when a process died.
    pub(super) fn sweep(&self, wanted: &BTreeSet<PackageId>) -> Result<(), SpoolError> {
        for path in self.disk.list(&self.dir).map_err(failed(&self.dir))? {
            let id = head_id(&path);
            if id.is_some_and(|id| wanted.contains(&id)) {
                continue;
            }
            self.disk.remove_if_there(&path)?;
            if let Some(id) = id {
                self.lengths().remove(&id);
            }
        }
        Ok(())
    }
}

fn head_id(path: &Path) -> Option<PackageId> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(EXTENSION)?.parse().ok()
}
