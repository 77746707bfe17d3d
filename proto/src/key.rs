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

mod composite;
mod id;
mod log;
mod recipient;
mod secret_file;
mod text;

pub use composite::{
    COMPOSITE_ALGORITHM, PUBLIC_KEY_LEN, SIGNATURE_LEN, SignatureError, SigningKey, VerifyingKey,
};
pub use id::{KeyId, KeyIdError};
pub use log::{LOG_ALGORITHM, LogSigner, LogVerifier, log_origin};
pub(crate) use log::{TYPE_ED25519, TYPE_ED25519_COSIGNATURE, TYPE_MLDSA44};
pub use recipient::{RECIPIENT_ALGORITHM, RecipientKey, RecipientSecret, WrapError};
pub use secret_file::{SecretFileError, read_secret_file, write_secret_file};
pub use text::KeyTextError;

/// Fills an array from the system's random source.
///
/// # Panics
/// When the system has no random source: nothing may be signed or sealed then.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    use ring::rand::SecureRandom;
    let mut bytes = [0; N];
    // Without randomness there is no safe way on; getrandom does not fail on a running Linux.
    assert!(
        ring::rand::SystemRandom::new().fill(&mut bytes).is_ok(),
        "the system's random source failed"
    );
    bytes
}
