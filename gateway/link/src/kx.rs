//! X25519MLKEM768: the hybrid key exchange of draft-ietf-tls-ecdhe-mlkem, for rustls.
//!
//! The share is the ML-KEM-768 part, then the X25519 part, in both directions and in the secret.

use ml_kem::kem::Decapsulate;
use ml_kem::ml_kem_768::{Ciphertext, DecapsulationKey, EncapsulationKey};
use ml_kem::{B32, KeyExport, Seed};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::crypto::ring::kx_group::X25519;
use rustls::crypto::{
    ActiveKeyExchange, CompletedKeyExchange, CryptoProvider, SharedSecret, SupportedKxGroup,
};
use rustls::ffdhe_groups::FfdheGroup;
use rustls::{Error, NamedGroup, PeerMisbehaved, ProtocolVersion};
use zeroize::Zeroizing;

const ENCAPSULATION_KEY_LEN: usize = 1184;
const CIPHERTEXT_LEN: usize = 1088;

/// Cryptography of QUIC connections: the hybrid group alone.
pub(crate) fn quic_provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![&Hybrid],
        ..rustls::crypto::ring::default_provider()
    }
}

/// Cryptography of TCP connections: ordinary gRPC clients may ask for health with X25519 alone.
pub(crate) fn tcp_provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![&Hybrid, X25519],
        ..rustls::crypto::ring::default_provider()
    }
}

#[derive(Debug)]
struct Hybrid;

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Error> {
    let mut bytes = Zeroizing::new([0; N]);
    let filled = SystemRandom::new().fill(bytes.as_mut_slice());
    filled.map_err(|_| Error::FailedToGetRandomBytes)?;
    Ok(bytes)
}

fn invalid() -> Error {
    PeerMisbehaved::InvalidKeyShare.into()
}

impl SupportedKxGroup for Hybrid {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let classical = X25519.start()?;
        let seed = Seed::from(*random::<64>()?);
        let post_quantum = DecapsulationKey::from_seed(seed);
        let encapsulation = post_quantum.encapsulation_key().to_bytes();
        let share = [encapsulation.as_slice(), classical.pub_key()].concat();
        Ok(Box::new(ActiveHybrid {
            classical,
            post_quantum,
            share,
        }))
    }

    fn start_and_complete(&self, client: &[u8]) -> Result<CompletedKeyExchange, Error> {
        let (first, second) = client
            .split_at_checked(ENCAPSULATION_KEY_LEN)
            .ok_or_else(invalid)?;
        let classical = X25519.start_and_complete(second)?;
        let encoded = first.try_into().map_err(|_| invalid())?;
        // Checks the modulus, as FIPS 203, 7.2 demands of whoever encapsulates.
        let key = EncapsulationKey::new(encoded).map_err(|_| invalid())?;
        let message = B32::from(*random::<32>()?);
        let (ciphertext, secret) = key.encapsulate_deterministic(&message);
        let both = Zeroizing::new([secret.as_slice(), classical.secret.secret_bytes()].concat());
        Ok(CompletedKeyExchange {
            group: self.name(),
            pub_key: [ciphertext.as_slice(), &classical.pub_key].concat(),
            secret: SharedSecret::from(both.as_slice()),
        })
    }

    fn ffdhe_group(&self) -> Option<FfdheGroup<'static>> {
        None
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }

    fn usable_for_version(&self, version: ProtocolVersion) -> bool {
        version == ProtocolVersion::TLSv1_3
    }
}

struct ActiveHybrid {
    classical: Box<dyn ActiveKeyExchange>,
    post_quantum: DecapsulationKey,
    share: Vec<u8>,
}

impl ActiveKeyExchange for ActiveHybrid {
    fn complete(self: Box<Self>, server: &[u8]) -> Result<SharedSecret, Error> {
        let (first, second) = server
            .split_at_checked(CIPHERTEXT_LEN)
            .ok_or_else(invalid)?;
        let classical = self.classical.complete(second)?;
        let ciphertext: &Ciphertext = first.try_into().map_err(|_| invalid())?;
        let secret = self.post_quantum.decapsulate(ciphertext);
        let both = Zeroizing::new([secret.as_slice(), classical.secret_bytes()].concat());
        Ok(SharedSecret::from(both.as_slice()))
    }

    fn hybrid_component(&self) -> Option<(NamedGroup, &[u8])> {
        Some((self.classical.group(), self.classical.pub_key()))
    }

    fn complete_hybrid_component(self: Box<Self>, server: &[u8]) -> Result<SharedSecret, Error> {
        self.classical.complete(server)
    }

    fn pub_key(&self) -> &[u8] {
        &self.share
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519MLKEM768
    }
}

#[cfg(test)]
mod vectors;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_come_to_one_secret_and_a_short_share_is_refused() {
        let client = Hybrid.start().unwrap();
        let server = Hybrid.start_and_complete(client.pub_key()).unwrap();
        assert_eq!(client.pub_key().len(), ENCAPSULATION_KEY_LEN + 32);
        assert_eq!(server.pub_key.len(), CIPHERTEXT_LEN + 32);
        let secret = client.complete(&server.pub_key).unwrap();
        assert_eq!(secret.secret_bytes(), server.secret.secret_bytes());
        assert_eq!(secret.secret_bytes().len(), 64);
        assert!(Hybrid.start_and_complete(&[0; 100]).is_err());
        assert!(
            Hybrid
                .start()
                .unwrap()
                .complete(&server.pub_key[1..])
                .is_err()
        );
        let out_of_range = [[0xff; ENCAPSULATION_KEY_LEN].as_slice(), &[9; 32]].concat();
        assert!(Hybrid.start_and_complete(&out_of_range).is_err());
    }
}
