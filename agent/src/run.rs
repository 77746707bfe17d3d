//! Which run of which state of the agent this is; its gateway compares it with the run before.
//!
//! A directory that was restored from a backup, or copied to a second machine, looks in order to
//! its agent. The gateway sees that it does not go on from where it was.

use passerelle_disk::{Disk, DiskError};
use passerelle_proto::v1::AgentRun;
use passerelle_proto::{kept, nonce};
use prost::Message;

use crate::store::Store;

/// Counts one more run of this state, or makes a new one. On return that is durable.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn begin(store: &Store) -> Result<AgentRun, DiskError> {
    let (disk, path): (&dyn Disk, _) = (store.disk().as_ref(), store.state().join("run"));
    let kept = disk.read(&path).ok();
    let before = kept.as_deref().and_then(kept::sound);
    // What cannot be read is as good as gone: the gateway is told of another state.
    let before = before.and_then(|bytes| AgentRun::decode(bytes).ok());
    if before.is_none() && kept.is_some() {
        tracing::error!(
            path = %path.display(),
            "what says which state this is has rotted: it is made anew, and the gateway will take \
             this agent for another one"
        );
    }
    let (state, number) = match before {
        Some(before) => (before.state, before.number),
        None => (nonce().to_vec(), 0),
    };
    let run = AgentRun {
        state,
        number: number.saturating_add(1),
        run: nonce().to_vec(),
    };
    disk.replace(&path, &kept::with_digest(&run.encode_to_vec()))?;
    Ok(run)
}
