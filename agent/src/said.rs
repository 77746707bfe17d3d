//! What this party has said about one package, until its gateway has it, and after.
//!
//! ```text
//! unacked/<id>     statements that the gateway has not committed yet
//! acked/<id>       … and those that it has: one rename per statement
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use passerelle_disk::{At, Disk, DiskError, crash_point};
use passerelle_proto::{Digest, StatementId, v1};
use prost::Message;

/// The statements below one directory.
#[derive(Debug, Clone)]
pub struct Said {
    disk: Arc<dyn Disk>,
    unacked: PathBuf,
    acked: PathBuf,
}

impl Said {
    /// What was said, below `directory`.
    pub fn below(disk: &Arc<dyn Disk>, directory: &Path) -> Said {
        Said {
            disk: disk.clone(),
            unacked: directory.join("unacked"),
            acked: directory.join("acked"),
        }
    }

    /// Stores a statement of ours. On return it is durable, to be sent until it is acked.
    pub fn store(&self, id: StatementId, signed: &v1::Signed) -> Result<(), DiskError> {
        let name = id.to_string();
        let stored = |place: &Path| self.disk.is_file(&place.join(&name));
        if stored(&self.acked) || stored(&self.unacked) {
            return Ok(());
        }
        self.disk.create_directories(&self.unacked)?;
        let path = self.unacked.join(name);
        self.disk.replace(&path, &signed.encode_to_vec())
    }

    /// The gateway has committed this one. `false` if it was not waiting.
    pub fn acked(&self, id: StatementId) -> Result<bool, DiskError> {
        let name = id.to_string();
        let from = self.unacked.join(&name);
        if !self.disk.is_file(&from) {
            return Ok(false);
        }
        self.disk.create_directories(&self.acked)?;
        let to = self.acked.join(name);
        self.disk.rename_synced(&from, &to)?;
        crash_point!("say.acknowledged");
        Ok(true)
    }

    /// Those that are to be sent.
    pub fn unacked(&self) -> Result<Vec<v1::Signed>, DiskError> {
        statements_in(self.disk.as_ref(), &self.unacked)
    }

    /// All of them.
    pub fn all(&self) -> Result<Vec<v1::Signed>, DiskError> {
        let mut all = statements_in(self.disk.as_ref(), &self.acked)?;
        all.extend(self.unacked()?);
        Ok(all)
    }
}

fn statements_in(disk: &dyn Disk, directory: &Path) -> Result<Vec<v1::Signed>, DiskError> {
    let paths = disk.entries(directory)?;
    let whole = paths.iter().filter(|p| p.extension().is_none());
    let mut statements = Vec::new();
    for path in whole {
        let bytes = disk.read(path).at("read", path)?;
        let signed = v1::Signed::decode(bytes.as_slice());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match signed {
            Ok(signed) if name == Digest::of(&signed.body).to_string() => statements.push(signed),
            // What it said is said again where that is still owed.
            _ => tracing::error!(file = %path.display(), "a statement of ours is damaged"),
        }
    }
    Ok(statements)
}
