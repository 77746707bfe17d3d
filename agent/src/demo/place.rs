//! The directory of the demonstration.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::cli::Failure;

/// Where the laboratory is, and whether it stays.
pub(super) enum Place {
    Kept(PathBuf),
    Temporary(TempDir),
}

impl Place {
    pub(super) fn create(keep: Option<&Path>) -> Result<Place, Failure> {
        if let Some(dir) = keep {
            return Ok(Place::Kept(dir.to_owned()));
        }
        let made = tempfile::Builder::new()
            .prefix("passerelle-demo-")
            .tempdir();
        made.map(Place::Temporary)
            .map_err(|error| Failure::writing(&std::env::temp_dir(), &error))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Place::Kept(path) => path,
            Place::Temporary(dir) => dir.path(),
        }
    }

    pub(super) fn keep(self) -> PathBuf {
        match self {
            Place::Kept(path) => path,
            Place::Temporary(dir) => dir.keep(),
        }
    }

    pub(super) fn end(self) {
        drop(self);
    }
}
