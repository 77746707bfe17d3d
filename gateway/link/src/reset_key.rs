//! What lets a peer notice that a process was killed: QUIC's stateless resets, over restarts.

use std::path::Path;
use std::time::Duration;

use passerelle_disk::{Disk, DiskError, beside};
use passerelle_proto::{read_secret_file, write_secret_file};
use quinn::{ConnectionId, ConnectionIdGenerator};
use ring::rand::{SecureRandom, SystemRandom};

/// Length of the ids of QUIC connections in bytes.
const ID_LEN: usize = 8;

/// Random ids of connections; every id may be one of an earlier process.
pub(crate) struct AnyId;

impl ConnectionIdGenerator for AnyId {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_LEN];
        // Without randomness no handshake succeeds either; an id is no secret.
        let _ = SystemRandom::new().fill(&mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The key of stateless resets, made at the first start and kept.
///
/// # Errors
/// What is wrong with the file.
pub fn reset_key(disk: &dyn Disk, path: &Path) -> Result<[u8; 64], String> {
    if !disk.is_file(path) {
        let mut key = [0; 64];
        let filled = SystemRandom::new().fill(&mut key);
        filled.map_err(|_| "the system's random source failed".to_owned())?;
        let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        // Under its name only when it is whole: half a key would be in the way of every start.
        let unfinished = beside(path, ".tmp");
        let failed = |error: DiskError| error.to_string();
        disk.remove_if_there(&unfinished).map_err(failed)?;
        write_secret_file(&unfinished, &text).map_err(|error| error.to_string())?;
        disk.rename_synced(&unfinished, path).map_err(failed)?;
    }
    let text = read_secret_file(path).map_err(|error| error.to_string())?;
    let digits = text.trim().as_bytes();
    let mut key = [0; 64];
    let damaged = || format!("{}: damaged; remove it, a new one is made", path.display());
    if digits.len() != 128 {
        return Err(damaged());
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| damaged())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| damaged())?;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_was_being_made_when_the_process_died_is_made_anew_and_then_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reset.secret");
        std::fs::write(beside(&path, ".tmp"), b"half").unwrap();
        let disk = passerelle_disk::system();
        let key = reset_key(disk.as_ref(), &path).unwrap();
        assert_eq!(reset_key(disk.as_ref(), &path).unwrap(), key);
        assert_eq!(disk.list(dir.path()).unwrap(), [path]);
    }
}
