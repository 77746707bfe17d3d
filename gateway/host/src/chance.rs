//! Chance, where nothing but timing depends on it.

use ring::rand::{SecureRandom, SystemRandom};

/// A random share from 0 to 1: peers that failed together do not try again together.
#[must_use]
pub fn jitter() -> f64 {
    f64::from(byte()) / 255.0
}

fn byte() -> u8 {
    #[cfg(feature = "simulation")]
    if let Some(byte) = crate::simulation::byte() {
        return byte;
    }
    let mut byte = [0];
    // Without randomness all peers wait alike; nothing else depends on it.
    let _ = SystemRandom::new().fill(&mut byte);
    byte[0]
}
