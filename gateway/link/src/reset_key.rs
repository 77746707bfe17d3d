//! The key of QUIC's stateless resets, kept over restarts.

use std::path::Path;

use passerelle_proto::{read_secret_file, write_secret_file};
use ring::rand::{SecureRandom, SystemRandom};

/// The key of stateless resets, made at the first start and kept.
///
/// # Errors
/// What is wrong with the file.
pub fn reset_key(path: &Path) -> Result<[u8; 64], String> {
    if !path.exists() {
        let mut key = [0; 64];
        let filled = SystemRandom::new().fill(&mut key);
        filled.map_err(|_| "the system's random source failed".to_owned())?;
        let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        write_secret_file(path, &text).map_err(|error| error.to_string())?;
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
