//! Files that hold secret keys: mode 0600, or refused.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Longest secret file that is read, in bytes.
const SECRET_FILE_LEN_MAX: u64 = 64 * 1024;

/// Why a secret file is not used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// Others than its owner may read or write it.
    #[error(
        "{path}: others can read or write this secret key (mode {mode:04o}): \
         run `chmod 600 {path}`, and replace the key if it may have been read"
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is longer than any key.
    #[error("{path}: {bytes} bytes are too many for a secret key: name the right file")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// A file that must not be written over is there.
    #[error("{path} exists already: a key is never written over; move it away first")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error("{path}: {source}: check that it exists and belongs to this user")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Reads a file that only its owner may read.
///
/// The permission is looked at on the open file, so that it cannot change in between.
///
/// # Errors
/// [`SecretFileError`] names the file and the remedy.
pub fn read_secret_file(path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
    let failed = |source| SecretFileError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    if metadata.len() > SECRET_FILE_LEN_MAX {
        return Err(SecretFileError::TooLong {
            path: path.to_owned(),
            bytes: metadata.len(),
        });
    }
    let mut text = Zeroizing::new(String::with_capacity(SECRET_FILE_LEN_MAX as usize));
    let mut limited = file.take(SECRET_FILE_LEN_MAX);
    limited.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes a new file that only its owner may read, and syncs it.
///
/// # Errors
/// [`SecretFileError::Exists`] when there is one already.
pub fn write_secret_file(path: &Path, text: &str) -> Result<(), SecretFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists => SecretFileError::Exists {
            path: path.to_owned(),
        },
        _ => SecretFileError::Io {
            path: path.to_owned(),
            source,
        },
    };
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    file.sync_all().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_the_group_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.secret");
        write_secret_file(&path, "secret\n").unwrap();
        assert_eq!(read_secret_file(&path).unwrap().as_str(), "secret\n");
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let refused = read_secret_file(&path).unwrap_err().to_string();
            assert!(refused.contains("chmod 600"), "{refused}");
        }
    }

    #[test]
    fn a_key_is_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.secret");
        write_secret_file(&path, "first").unwrap();
        let again = write_secret_file(&path, "second");
        assert!(matches!(again, Err(SecretFileError::Exists { .. })));
        assert_eq!(read_secret_file(&path).unwrap().as_str(), "first");
    }
}
