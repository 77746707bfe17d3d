//! Backups of secret keys: one file, opened by a passphrase.
//!
//! ```text
//! passerelle-keys-backup/v1 LF
//! u32 memory in KiB ‖ u32 passes ‖ u32 lanes        of Argon2id (RFC 9106), big endian
//! 16 bytes salt ‖ 16 bytes check of the passphrase
//! AES-256-GCM(files)                                 under the derived key, nonce 0
//! 32 bytes SHA-256 of everything before
//! files = u32 count, then each: u32 length ‖ name ‖ u32 length ‖ content
//! ```
//!
//! Argon2id gives 64 bytes: the key, and what the check is made from. A fresh salt makes every key
//! new, so each encrypts one message. The digest at the end keeps damage apart from a wrong
//! passphrase; whoever alters a file on purpose fails at the encryption.

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use crate::cipher::{self, Secret};
use crate::{DIGEST_LEN, Digest, EntryName};

/// Longest backup in bytes.
pub const BACKUP_LEN_MAX: u64 = 4 * 1024 * 1024;
/// Files in one backup.
pub const BACKUP_FILES_MAX: usize = 64;
/// Shortest passphrase in characters.
pub const PASSPHRASE_LEN_MIN: usize = 12;

const MAGIC: &[u8] = b"passerelle-keys-backup/v1\n";
const SALT_LEN: usize = 16;
const CHECK_LEN: usize = 16;
const HEADER_LEN: usize = MAGIC.len() + 12 + SALT_LEN + CHECK_LEN;
/// Memory that new backups take to open, in KiB: the second choice of RFC 9106, section 4.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// What a file may demand of whoever opens it.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

/// A file in a backup: its path, relative, and its content.
pub type BackupFile = (EntryName, Zeroizing<Vec<u8>>);

/// Why a backup is not made or not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// Not a file that this program has written.
    #[error("this is no backup of keys: name the file that `passerelle keys backup` has written")]
    Form,
    /// Its bytes are not those that were written.
    #[error("the backup is damaged or was altered: use another copy of it")]
    Damaged,
    /// The passphrase is another one.
    #[error("the passphrase is not the one that the backup was made with")]
    Passphrase,
    /// A passphrase that can be guessed.
    #[error(
        "the passphrase has {0} characters; at least {PASSPHRASE_LEN_MIN} are needed: take several \
         words that do not belong together"
    )]
    Short(usize),
    /// More than a backup holds.
    #[error("{0}: back up fewer or shorter files")]
    TooMuch(&'static str),
    /// It demands more work than any backup of this program.
    #[error("the backup demands more memory or time to open than this program gives it")]
    Cost,
}

/// Seals files under a passphrase.
///
/// # Errors
/// [`BackupError::Short`] and [`BackupError::TooMuch`].
pub fn seal_backup(files: &[BackupFile], passphrase: &str) -> Result<Vec<u8>, BackupError> {
    let length = passphrase.chars().count();
    if length < PASSPHRASE_LEN_MIN {
        return Err(BackupError::Short(length));
    }
    if files.len() > BACKUP_FILES_MAX {
        return Err(BackupError::TooMuch("too many files for a backup"));
    }
    let mut plain = Zeroizing::new(Vec::new());
    put_len(&mut plain, files.len());
    for (name, content) in files {
        put_len(&mut plain, name.as_str().len());
        plain.extend_from_slice(name.as_str().as_bytes());
        put_len(&mut plain, content.len());
        plain.extend_from_slice(content);
    }
    if plain.len() as u64 > BACKUP_LEN_MAX / 2 {
        return Err(BackupError::TooMuch("too many bytes for a backup"));
    }
    let salt = crate::key::random::<SALT_LEN>();
    let (key, check) = derive(passphrase, &salt, MEMORY_KIB, PASSES, LANES)?;
    let mut backup = MAGIC.to_vec();
    for cost in [MEMORY_KIB, PASSES, LANES] {
        backup.extend_from_slice(&cost.to_be_bytes());
    }
    backup.extend_from_slice(&salt);
    backup.extend_from_slice(&check);
    backup.extend_from_slice(&cipher::seal_once(&key, plain.to_vec()));
    let digest = Digest::of(&backup);
    backup.extend_from_slice(&digest.0);
    Ok(backup)
}

/// Opens a backup; nothing of it is given out unless all of it is as it was written.
///
/// # Errors
/// [`BackupError`].
pub fn open_backup(backup: &[u8], passphrase: &str) -> Result<Vec<BackupFile>, BackupError> {
    if !backup.starts_with(MAGIC) {
        return Err(BackupError::Form);
    }
    let at = backup.len().saturating_sub(DIGEST_LEN);
    let (signed, digest) = backup.split_at(at);
    if signed.len() < HEADER_LEN || Digest::of(signed).0 != digest {
        return Err(BackupError::Damaged);
    }
    let (header, sealed) = signed.split_at(HEADER_LEN);
    let mut header = &header[MAGIC.len()..];
    let (memory, passes, lanes) = (
        take_len(&mut header)?,
        take_len(&mut header)?,
        take_len(&mut header)?,
    );
    if memory > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
        return Err(BackupError::Cost);
    }
    let (salt, check) = header.split_at(SALT_LEN);
    let (key, found) = derive(passphrase, salt, memory, passes, lanes)?;
    if !bool::from(subtle::ConstantTimeEq::ct_eq(found.as_slice(), check)) {
        return Err(BackupError::Passphrase);
    }
    let plain = cipher::open_once(&key, sealed.to_vec()).ok_or(BackupError::Damaged)?;
    files(&Zeroizing::new(plain))
}

fn derive(
    passphrase: &str,
    salt: &[u8],
    memory: u32,
    passes: u32,
    lanes: u32,
) -> Result<(Secret, [u8; CHECK_LEN]), BackupError> {
    let mut derived = Zeroizing::new([0; 64]);
    let params = Params::new(memory, passes, lanes, Some(derived.len()));
    let argon2 = Argon2::new(
        Algorithm::Argon2id,
        Version::V0x13,
        params.map_err(|_| BackupError::Cost)?,
    );
    argon2
        .hash_password_into(passphrase.as_bytes(), salt, derived.as_mut_slice())
        .map_err(|_| BackupError::Cost)?;
    let (key, rest) = derived.split_at(32);
    let mut secret: Secret = Zeroizing::new([0; 32]);
    secret.copy_from_slice(key);
    let full = cipher::derive(rest, &[b"passerelle/v1 backup check"]);
    let mut check = [0; CHECK_LEN];
    check.copy_from_slice(&full[..CHECK_LEN]);
    Ok((secret, check))
}

fn files(mut plain: &[u8]) -> Result<Vec<BackupFile>, BackupError> {
    let count = take_len(&mut plain)? as usize;
    if count > BACKUP_FILES_MAX {
        return Err(BackupError::Damaged);
    }
    let mut files = Vec::with_capacity(count);
    for _ in 0..count {
        let name = std::str::from_utf8(take(&mut plain)?).map_err(|_| BackupError::Damaged)?;
        let name = EntryName::parse(name).map_err(|_| BackupError::Damaged)?;
        files.push((name, Zeroizing::new(take(&mut plain)?.to_vec())));
    }
    match plain.is_empty() {
        true => Ok(files),
        false => Err(BackupError::Damaged),
    }
}

fn put_len(into: &mut Vec<u8>, length: usize) {
    // What is too long for it is refused before anything is encrypted.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    into.extend_from_slice(&length.to_be_bytes());
}

fn take_len(from: &mut &[u8]) -> Result<u32, BackupError> {
    let (length, rest) = from.split_first_chunk().ok_or(BackupError::Damaged)?;
    *from = rest;
    Ok(u32::from_be_bytes(*length))
}

fn take<'b>(from: &mut &'b [u8]) -> Result<&'b [u8], BackupError> {
    let length = take_len(from)? as usize;
    let (bytes, rest) = from.split_at_checked(length).ok_or(BackupError::Damaged)?;
    *from = rest;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSPHRASE: &str = "agrafe correct cheval pile";

    fn backup() -> (Vec<BackupFile>, Vec<u8>) {
        let file = |name, content: &[u8]| {
            let name = EntryName::parse(name).unwrap();
            (name, Zeroizing::new(content.to_vec()))
        };
        let files = vec![
            file("keys/agent.secret", b"secret\n"),
            file("tls/agent.key", &[0xff; 999]),
            file("empty", b""),
        ];
        let sealed = seal_backup(&files, PASSPHRASE).unwrap();
        (files, sealed)
    }

    #[test]
    fn a_backup_opens_to_the_very_bytes_with_the_passphrase_alone() {
        let (files, sealed) = backup();
        assert_eq!(open_backup(&sealed, PASSPHRASE).unwrap(), files);
        let wrong = open_backup(&sealed, "agrafe correct cheval pilE");
        assert_eq!(wrong, Err(BackupError::Passphrase));
        let again = seal_backup(&files, PASSPHRASE).unwrap();
        assert_ne!(again, sealed, "each backup has a salt of its own");
        let text = String::from_utf8_lossy(&sealed).into_owned();
        assert!(!text.contains("agent") && !text.contains("secret"));
    }

    #[test]
    fn no_altered_byte_goes_unnoticed() {
        let (_, sealed) = backup();
        for at in (0..sealed.len()).step_by(7) {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            let wanted = match at < MAGIC.len() {
                true => BackupError::Form,
                false => BackupError::Damaged,
            };
            assert_eq!(open_backup(&altered, PASSPHRASE), Err(wanted), "byte {at}");
        }
        for length in [0, 10, HEADER_LEN, sealed.len() - 1] {
            let cut = open_backup(&sealed[..length], PASSPHRASE);
            assert!(cut.is_err(), "{length}");
        }
    }

    #[test]
    fn whoever_alters_it_on_purpose_fails_at_the_encryption() {
        let (_, mut sealed) = backup();
        let at = sealed.len() - DIGEST_LEN;
        sealed[HEADER_LEN] ^= 1;
        let digest = Digest::of(&sealed[..at]);
        sealed[at..].copy_from_slice(&digest.0);
        let refused = open_backup(&sealed, PASSPHRASE);
        assert_eq!(refused, Err(BackupError::Damaged));
        // A file that asks for more memory than there is.
        sealed[MAGIC.len()] = 0xff;
        let digest = Digest::of(&sealed[..at]);
        sealed[at..].copy_from_slice(&digest.0);
        assert_eq!(open_backup(&sealed, PASSPHRASE), Err(BackupError::Cost));
    }

    #[test]
    fn a_passphrase_that_can_be_guessed_is_refused() {
        let (files, _) = backup();
        assert_eq!(seal_backup(&files, "dijon21"), Err(BackupError::Short(7)));
    }
}
