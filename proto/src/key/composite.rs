//! Composite signatures: ML-DSA-65 (FIPS 204) and Ed25519 (RFC 8032), both must verify.
//!
//! `id-MLDSA65-Ed25519-SHA512` of draft-ietf-lamps-pq-composite-sigs, with the context
//! `passerelle/v1`. Both parts sign M' = prefix ‖ label ‖ len(ctx) ‖ ctx ‖ SHA-512(M); ML-DSA
//! signs it under its own context, the label. Public key and signature are the concatenation of
//! the two parts, ML-DSA first.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ml_dsa::{KeyExport, Keypair, MlDsa65};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::text::{self, KeyTextError};
use crate::{KeyId, PartyId};

/// Name of the algorithm in key texts, sheets and notes.
pub const COMPOSITE_ALGORITHM: &str = "mldsa65-ed25519";

/// Length of a public key in bytes: ML-DSA-65, then Ed25519.
pub const PUBLIC_KEY_LEN: usize = MLDSA_PUBLIC_LEN + 32;
/// Length of a signature in bytes: ML-DSA-65, then Ed25519.
pub const SIGNATURE_LEN: usize = MLDSA_SIGNATURE_LEN + 64;

const MLDSA_PUBLIC_LEN: usize = 1952;
const MLDSA_SIGNATURE_LEN: usize = 3309;
const SEED_LEN: usize = 64;

const PREFIX: &[u8] = b"CompositeAlgorithmSignatures2025";
const LABEL: &[u8] = b"COMPSIG-MLDSA65-Ed25519-SHA512";
const CONTEXT: &[u8] = b"passerelle/v1";

/// Which part of a composite signature does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not 3,373 bytes long.
    #[error("the signature has another length than ML-DSA-65 and Ed25519 together")]
    Length,
    /// The ML-DSA-65 part.
    #[error("the post-quantum part (ML-DSA-65) does not verify")]
    PostQuantum,
    /// The Ed25519 part.
    #[error("the classical part (Ed25519) does not verify")]
    Classical,
    /// Both parts.
    #[error("neither part (ML-DSA-65, Ed25519) verifies")]
    Both,
}

/// A secret signing key of a party. Wiped from memory when dropped.
pub struct SigningKey {
    seed: Zeroizing<[u8; SEED_LEN]>,
    post_quantum: ml_dsa::SigningKey<MlDsa65>,
    classical: Ed25519KeyPair,
    public: VerifyingKey,
}

impl SigningKey {
    /// A new key for `party`, from the system's random source.
    pub fn generate(party: &PartyId) -> Self {
        let seed = Zeroizing::new(super::random::<SEED_LEN>());
        Self::from_seed(party, &seed)
    }

    /// The key that these 64 bytes stand for: 32 for ML-DSA-65, then 32 for Ed25519.
    pub fn from_seed(party: &PartyId, seed: &[u8; SEED_LEN]) -> Self {
        let (first, second) = seed.split_at(32);
        let mut mldsa_seed = ml_dsa::Seed::default();
        mldsa_seed.copy_from_slice(first);
        let post_quantum = ml_dsa::SigningKey::<MlDsa65>::from_seed(&mldsa_seed);
        let classical = Ed25519KeyPair::from_seed_unchecked(second);
        // Every 32 bytes are an Ed25519 seed (RFC 8032, 5.1.5).
        #[allow(clippy::expect_used)]
        let classical = classical.expect("32 bytes are an Ed25519 seed");
        let mldsa_public = post_quantum.verifying_key();
        let bytes = [
            mldsa_public.to_bytes().as_slice(),
            classical.public_key().as_ref(),
        ]
        .concat();
        let public = VerifyingKey::assemble(party.clone(), bytes, mldsa_public);
        Self {
            seed: Zeroizing::new(*seed),
            post_quantum,
            classical,
            public,
        }
    }

    /// Reads the text form, `passerelle-secret+party+mldsa65-ed25519+check+base64`.
    ///
    /// # Errors
    /// [`KeyTextError`], also when the check digits belong to another key.
    pub fn from_secret_text(text: &str) -> Result<Self, KeyTextError> {
        let parts = text::parse_secret(text, COMPOSITE_ALGORITHM)?;
        let seed: &[u8; SEED_LEN] = parts
            .bytes
            .as_slice()
            .try_into()
            .map_err(|_| KeyTextError::Bytes("not 64 bytes"))?;
        let key = Self::from_seed(&parts.party, seed);
        parts.confirm(&key.id())?;
        Ok(key)
    }

    /// The text form, for a file that only its owner can read.
    pub fn to_secret_text(&self) -> Zeroizing<String> {
        let seed = self.seed.as_slice();
        text::secret_text(self.party(), COMPOSITE_ALGORITHM, &self.id(), seed)
    }

    /// Signs `message`; the ML-DSA part is randomised ("hedged", FIPS 204, 3.4).
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signed = representative(message);
        let expanded = self.post_quantum.expanded_key();
        let signature = expanded.sign_randomized(&signed, LABEL, &mut super::Random);
        // It fails without randomness or with a label above 255 bytes, and neither can be.
        #[allow(clippy::expect_used)]
        let signature = signature.expect("the system has randomness and the label is short");
        self.with_classical(signature.encode().as_slice(), &signed)
    }

    /// Signs `message` without randomness, so that a test vector can be made again.
    #[cfg(any(test, feature = "fixture"))]
    pub fn sign_deterministic(&self, message: &[u8]) -> Vec<u8> {
        let signed = representative(message);
        let expanded = self.post_quantum.expanded_key();
        #[allow(clippy::expect_used)]
        let signature = expanded
            .sign_deterministic(&signed, LABEL)
            .expect("the label is short");
        self.with_classical(signature.encode().as_slice(), &signed)
    }

    fn with_classical(&self, post_quantum: &[u8], signed: &[u8]) -> Vec<u8> {
        [post_quantum, self.classical.sign(signed).as_ref()].concat()
    }

    /// The public half.
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.public
    }

    /// Id of the public half.
    pub fn id(&self) -> KeyId {
        self.public.id()
    }

    /// Party whose key this is.
    pub fn party(&self) -> &PartyId {
        self.public.party()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, secret)", self.public.id())
    }
}

/// A public key that verifies what a party signed. Cheap to clone.
#[derive(Clone)]
pub struct VerifyingKey(Arc<Public>);

struct Public {
    party: PartyId,
    id: KeyId,
    bytes: Vec<u8>,
    post_quantum: ml_dsa::VerifyingKey<MlDsa65>,
}

impl VerifyingKey {
    fn assemble(
        party: PartyId,
        bytes: Vec<u8>,
        post_quantum: ml_dsa::VerifyingKey<MlDsa65>,
    ) -> Self {
        Self(Arc::new(Public {
            id: KeyId::of(COMPOSITE_ALGORITHM, &bytes),
            party,
            bytes,
            post_quantum,
        }))
    }

    /// Takes the 1,984 bytes of a public key.
    ///
    /// # Errors
    /// [`KeyTextError::Bytes`] when the length is another one.
    pub fn from_bytes(party: PartyId, bytes: &[u8]) -> Result<Self, KeyTextError> {
        if bytes.len() != PUBLIC_KEY_LEN {
            return Err(KeyTextError::Bytes("not 1984 bytes"));
        }
        let mut encoded = ml_dsa::EncodedVerifyingKey::<MlDsa65>::default();
        encoded.copy_from_slice(&bytes[..MLDSA_PUBLIC_LEN]);
        let post_quantum = ml_dsa::VerifyingKey::<MlDsa65>::decode(&encoded);
        Ok(Self::assemble(party, bytes.to_vec(), post_quantum))
    }

    /// Verifies both parts of `signature` over `message`.
    ///
    /// # Errors
    /// [`SignatureError`] names the part that does not hold.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        if signature.len() != SIGNATURE_LEN {
            return Err(SignatureError::Length);
        }
        let signed = representative(message);
        let (first, second) = signature.split_at(MLDSA_SIGNATURE_LEN);
        let post_quantum = post_quantum_holds(&self.0.post_quantum, &signed, LABEL, first);
        let ed25519 = UnparsedPublicKey::new(&ED25519, &self.0.bytes[MLDSA_PUBLIC_LEN..]);
        let classical = ed25519.verify(&signed, second).is_ok();
        match (post_quantum, classical) {
            (true, true) => Ok(()),
            (false, true) => Err(SignatureError::PostQuantum),
            (true, false) => Err(SignatureError::Classical),
            (false, false) => Err(SignatureError::Both),
        }
    }

    /// Id of this key.
    pub fn id(&self) -> KeyId {
        self.0.id
    }

    /// Party whose key this is, as its text says.
    pub fn party(&self) -> &PartyId {
        &self.0.party
    }

    /// ML-DSA-65 public key, then Ed25519 public key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.bytes
    }
}

fn post_quantum_holds(
    key: &ml_dsa::VerifyingKey<MlDsa65>,
    message: &[u8],
    context: &[u8],
    signature: &[u8],
) -> bool {
    let signature = ml_dsa::Signature::<MlDsa65>::try_from(signature);
    signature.is_ok_and(|signature| key.verify_with_context(message, context, &signature))
}

/// M' of the draft: what both parts sign.
fn representative(message: &[u8]) -> Vec<u8> {
    let digest = ring::digest::digest(&ring::digest::SHA512, message);
    let context_length = [CONTEXT.len() as u8];
    [PREFIX, LABEL, &context_length, CONTEXT, digest.as_ref()].concat()
}

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.party == other.0.party && self.0.bytes == other.0.bytes
    }
}

impl Eq for VerifyingKey {}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Public {
            party, id, bytes, ..
        } = self.0.as_ref();
        f.write_str(&text::public_text(party, COMPOSITE_ALGORITHM, id, bytes))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({}, {})", self.0.party, self.0.id)
    }
}

impl FromStr for VerifyingKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        let parts = text::parse_public(text, COMPOSITE_ALGORITHM)?;
        let key = Self::from_bytes(parts.party.clone(), &parts.bytes)?;
        parts.confirm(&key.id())?;
        Ok(key)
    }
}

impl Serialize for VerifyingKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for VerifyingKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod vectors;

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_seed(&PartyId::parse("caf21").unwrap(), &[7; 64])
    }

    #[test]
    fn a_signature_verifies_and_its_broken_half_is_named() {
        let key = key();
        let signature = key.sign(b"message");
        let verify = |message: &[u8], signature: &[u8]| key.public.verify(message, signature);
        assert_eq!(verify(b"message", &signature), Ok(()));
        assert_eq!(verify(b"massage", &signature), Err(SignatureError::Both));
        let mut broken = signature.clone();
        broken[100] ^= 1;
        assert_eq!(
            verify(b"message", &broken),
            Err(SignatureError::PostQuantum)
        );
        let mut broken = signature.clone();
        broken[SIGNATURE_LEN - 1] ^= 1;
        assert_eq!(verify(b"message", &broken), Err(SignatureError::Classical));
        assert_eq!(
            verify(b"message", &signature[1..]),
            Err(SignatureError::Length)
        );
    }

    #[test]
    fn signing_is_randomised() {
        assert_ne!(key().sign(b"message"), key().sign(b"message"));
    }

    #[test]
    fn both_text_forms_read_back() {
        let key = key();
        let again = SigningKey::from_secret_text(&key.to_secret_text()).unwrap();
        assert_eq!(again.id(), key.id());
        let text = key.verifying_key().to_string();
        assert!(text.starts_with("caf21+mldsa65-ed25519+"));
        assert_eq!(&text.parse::<VerifyingKey>().unwrap(), key.verifying_key());
    }

    #[test]
    fn a_text_whose_fingerprint_does_not_match_is_refused() {
        let text = key().verifying_key().to_string();
        let altered = text
            .replacen("ed25519+", "ed25519+0", 1)
            .replacen("0", "", 0);
        assert!(matches!(
            altered.parse::<VerifyingKey>(),
            Err(KeyTextError::Fingerprint { .. })
        ));
        let other = SigningKey::from_seed(&PartyId::parse("caf21").unwrap(), &[8; 64]);
        let (head, _) = text.rsplit_once('+').unwrap();
        let spliced = other.verifying_key().to_string();
        let check = head.rsplit('+').next().unwrap();
        let parts: Vec<&str> = spliced.splitn(4, '+').collect();
        let spliced = format!("{}+{}+{check}+{}", parts[0], parts[1], parts[3]);
        assert!(spliced.parse::<VerifyingKey>().is_err());
    }

    #[test]
    fn secret_and_public_texts_are_not_mistaken_for_each_other() {
        let key = key();
        assert_eq!(
            key.to_secret_text().parse::<VerifyingKey>(),
            Err(KeyTextError::SecretGiven)
        );
        let public = key.verifying_key().to_string();
        assert_eq!(
            SigningKey::from_secret_text(&public).map(|_| ()),
            Err(KeyTextError::PublicGiven)
        );
        let unknown = public.replace("mldsa65-ed25519", "rsa");
        assert!(matches!(
            unknown.parse::<VerifyingKey>(),
            Err(KeyTextError::Algorithm { .. })
        ));
    }
}
