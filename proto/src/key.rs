//! Keys, their ids and their text forms.
//!
//! Everything anyone signs carries a composite of ML-DSA-65 and Ed25519; packages are sealed for
//! X-Wing recipient keys. Every key has a text form that names its party and its algorithm:
//!
//! ```text
//! caf21+mldsa65-ed25519+1f2e3d4c+<base64 of the public key>
//! passerelle-secret+caf21+mldsa65-ed25519+1f2e3d4c+<base64 of the seed>
//! ```
//!
//! The eight digits are the beginning of the key's id: a text that was damaged, or put together
//! from two, is refused.
//!
//! # Ed25519 at its edges
//!
//! Implementations of Ed25519 agree on what an honest signer makes, and differ at the edges.
//! `ring`, which composite and log signatures are verified with, decides like this:
//!
//! - `S` is below the order of the group, or the signature is refused: nobody can make a second
//!   signature out of a first.
//! - `R` is compared with `S·B − k·A` byte for byte, without multiplying by the cofactor. An `R`
//!   that is not in canonical form, or differs by a point of small order, is refused.
//! - `A` may be any bytes that decode to a point: one of small order, one that differs from an
//!   honest key by a point of small order, one not in canonical form.
//!
//! The last one is what an owner can misuse. By an `A` of small order signatures hold that anybody
//! can make, and by an `A` of mixed order it depends on the message whether one holds that a
//! verifier with cofactor always takes. It gains nothing here:
//!
//! - Every signature has a post-quantum part as well (ML-DSA-65 in composites, ML-DSA-44 under
//!   checkpoints), over the same message, and both must hold. ML-DSA signs the digest of its own
//!   public key with the message, so a signature belongs to one key and one message whatever its
//!   classical part is worth. Who lists such an `A` weakens the classical half of their own
//!   signatures alone.
//! - Keys stand in sheets and conventions that were signed, and are named by the digest of their
//!   bytes: two encodings of one point are two keys, and only the listed one verifies.
//! - Every program of this exchange verifies with the same code, one signature at a time and never
//!   in batches, so all come to the same answer. Who checks a log with another implementation can
//!   come to another one only for keys of this kind, which no honest program makes.

use std::convert::Infallible;

use hpke::rand_core::{TryCryptoRng, TryRng};

mod composite;
mod id;
mod log;
mod recipient;
mod secret_file;
mod text;

#[cfg(test)]
mod edge_cases;

pub use composite::{
    COMPOSITE_ALGORITHM, PUBLIC_KEY_LEN, SIGNATURE_LEN, SignatureError, SigningKey, VerifyingKey,
};
pub use id::{KeyId, KeyIdError};
pub use log::{LOG_ALGORITHM, LogSigner, LogVerifier, log_epoch, log_origin, next_log_origin};
pub(crate) use log::{TYPE_ED25519, TYPE_ED25519_COSIGNATURE, TYPE_MLDSA44};
pub use recipient::{RECIPIENT_ALGORITHM, RecipientKey, RecipientSecret, WrapError};
pub use secret_file::{SecretFileError, read_secret_file, write_secret_file};
pub use text::KeyTextError;

/// Fills an array from the system's random source.
///
/// # Panics
/// When the system has no random source: nothing may be signed or sealed then.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill_random(&mut bytes);
    bytes
}

/// 16 random bytes, to tell one thing from another.
///
/// # Panics
/// When the system has no random source: nothing may be signed or sealed then.
pub fn nonce() -> [u8; 16] {
    random()
}

fn fill_random(bytes: &mut [u8]) {
    use ring::rand::SecureRandom;
    #[cfg(any(test, feature = "fixture"))]
    if crate::fixture::chance::fill(bytes) {
        return;
    }
    // Without randomness there is no safe way on; getrandom does not fail on a running Linux.
    assert!(
        ring::rand::SystemRandom::new().fill(bytes).is_ok(),
        "the system's random source failed"
    );
}

/// The source of [`random`], for those who draw from it themselves.
pub(crate) struct Random;

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(random()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(random()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        fill_random(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Random {}
