//! Recipient keys: what a package's key is wrapped for.
//!
//! HPKE base mode (RFC 9180) with X-Wing (KEM 0x647a), HKDF-SHA256 and AES-256-GCM.

use std::fmt;
use std::str::FromStr;

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::text::{self, KeyTextError};
use crate::{KeyId, PartyId, v1};

/// Name of the algorithm in key texts and sheets.
pub const RECIPIENT_ALGORITHM: &str = "x-wing";

const SEED_LEN: usize = 32;
/// ML-KEM-768 encapsulation key and X25519 public key.
const PUBLIC_LEN: usize = 1184 + 32;

/// Why a wrap was not made or not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// The recipient's public key is no point of its curve.
    #[error("the recipient key {0} cannot be used: ask its party for a new sheet")]
    Key(KeyId),
    /// The wrap is for another key.
    #[error("the wrap is for key {found}, not for our key {ours}")]
    OtherKey {
        /// Key named in the wrap.
        found: String,
        /// Our key.
        ours: KeyId,
    },
    /// It does not open.
    #[error("the wrap does not open with our key: it was altered, or bound to another manifest")]
    Sealed,
}

/// A secret recipient key. Wiped from memory when dropped.
pub struct RecipientSecret {
    seed: Zeroizing<[u8; SEED_LEN]>,
    secret: <XWing as Kem>::PrivateKey,
    public: RecipientKey,
}

impl RecipientSecret {
    /// A new key for `party`, from the system's random source.
    pub fn generate(party: &PartyId) -> Self {
        let seed = Zeroizing::new(super::random::<SEED_LEN>());
        Self::from_seed(party, &seed)
    }

    /// The key that these 32 bytes stand for: the X-Wing decapsulation key.
    pub fn from_seed(party: &PartyId, seed: &[u8; SEED_LEN]) -> Self {
        // An X-Wing decapsulation key is any 32 bytes.
        #[allow(clippy::expect_used)]
        let secret = <XWing as Kem>::PrivateKey::from_bytes(seed).expect("32 bytes are a key");
        let bytes = XWing::sk_to_pk(&secret).to_bytes().to_vec();
        let public = RecipientKey {
            party: party.clone(),
            id: KeyId::of(RECIPIENT_ALGORITHM, &bytes),
            bytes,
        };
        Self {
            seed: Zeroizing::new(*seed),
            secret,
            public,
        }
    }

    /// Reads the text form, `passerelle-secret+party+x-wing+check+base64`.
    ///
    /// # Errors
    /// [`KeyTextError`], also when the check digits belong to another key.
    pub fn from_secret_text(text: &str) -> Result<Self, KeyTextError> {
        let parts = text::parse_secret(text, RECIPIENT_ALGORITHM)?;
        let seed: &[u8; SEED_LEN] = parts
            .bytes
            .as_slice()
            .try_into()
            .map_err(|_| KeyTextError::Bytes("not 32 bytes"))?;
        let key = Self::from_seed(&parts.party, seed);
        parts.confirm(&key.id())?;
        Ok(key)
    }

    /// The text form, for a file that only its owner can read.
    pub fn to_secret_text(&self) -> Zeroizing<String> {
        let Self { seed, public, .. } = self;
        text::secret_text(
            &public.party,
            RECIPIENT_ALGORITHM,
            &public.id,
            seed.as_slice(),
        )
    }

    /// The public half.
    pub fn public(&self) -> &RecipientKey {
        &self.public
    }

    /// Id of the public half.
    pub fn id(&self) -> KeyId {
        self.public.id
    }

    /// Unwraps a package key that was wrapped for this key under the same `info`.
    ///
    /// # Errors
    /// [`WrapError`] when the wrap is for another key, was altered, or `info` differs.
    pub fn open_wrap(
        &self,
        wrap: &v1::Wrap,
        info: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, WrapError> {
        if wrap.key != self.public.id.0 {
            let found = wrap
                .key
                .iter()
                .take(32)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            return Err(WrapError::OtherKey {
                found,
                ours: self.public.id,
            });
        }
        let enc = <XWing as Kem>::EncappedKey::from_bytes(&wrap.enc);
        let enc = enc.map_err(|_| WrapError::Sealed)?;
        let opened = hpke::single_shot_open::<AesGcm256, HkdfSha256, XWing>(
            &OpModeR::Base,
            &self.secret,
            &enc,
            info,
            &wrap.ciphertext,
            &[],
        );
        let opened = Zeroizing::new(opened.map_err(|_| WrapError::Sealed)?);
        let key: [u8; 32] = opened
            .as_slice()
            .try_into()
            .map_err(|_| WrapError::Sealed)?;
        Ok(Zeroizing::new(key))
    }
}

impl fmt::Debug for RecipientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecipientSecret({}, secret)", self.public.id)
    }
}

/// A public key that packages are sealed for.
#[derive(Clone, PartialEq, Eq)]
pub struct RecipientKey {
    party: PartyId,
    id: KeyId,
    bytes: Vec<u8>,
}

impl RecipientKey {
    /// Wraps a package key so that only the holder of the secret half can unwrap it.
    ///
    /// # Errors
    /// [`WrapError::Key`] when this public key is not a usable one.
    pub fn wrap(&self, info: &[u8], key: &[u8; 32]) -> Result<v1::Wrap, WrapError> {
        let unusable = |_| WrapError::Key(self.id);
        let public = <XWing as Kem>::PublicKey::from_bytes(&self.bytes).map_err(unusable)?;
        let sealed = hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, XWing>(
            &OpModeS::Base,
            &public,
            info,
            key,
            &[],
            &mut super::Random,
        );
        let (enc, ciphertext) = sealed.map_err(unusable)?;
        Ok(v1::Wrap {
            key: self.id.0.to_vec(),
            enc: enc.to_bytes().to_vec(),
            ciphertext,
        })
    }

    /// Id of this key.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Party whose key this is, as its text says.
    pub fn party(&self) -> &PartyId {
        &self.party
    }

    /// The X-Wing encapsulation key.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Display for RecipientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { party, id, bytes } = self;
        f.write_str(&text::public_text(party, RECIPIENT_ALGORITHM, id, bytes))
    }
}

impl fmt::Debug for RecipientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecipientKey({}, {})", self.party, self.id)
    }
}

impl FromStr for RecipientKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        let parts = text::parse_public(text, RECIPIENT_ALGORITHM)?;
        if parts.bytes.len() != PUBLIC_LEN {
            return Err(KeyTextError::Bytes("not 1216 bytes"));
        }
        let id = KeyId::of(RECIPIENT_ALGORITHM, &parts.bytes);
        parts.confirm(&id)?;
        Ok(Self {
            party: parts.party,
            id,
            bytes: parts.bytes.to_vec(),
        })
    }
}

impl Serialize for RecipientKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RecipientKey {
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

    fn secret(seed: u8) -> RecipientSecret {
        RecipientSecret::from_seed(&PartyId::parse("grand-dijon").unwrap(), &[seed; 32])
    }

    #[test]
    fn only_the_right_key_and_the_same_binding_unwrap() {
        let ours = secret(1);
        let wrap = ours.public().wrap(b"manifest", &[9; 32]).unwrap();
        assert_eq!(*ours.open_wrap(&wrap, b"manifest").unwrap(), [9; 32]);
        assert_eq!(ours.open_wrap(&wrap, b"other"), Err(WrapError::Sealed));
        assert!(matches!(
            secret(2).open_wrap(&wrap, b"manifest"),
            Err(WrapError::OtherKey { .. })
        ));
        let mut altered = wrap.clone();
        altered.ciphertext[0] ^= 1;
        assert_eq!(
            ours.open_wrap(&altered, b"manifest"),
            Err(WrapError::Sealed)
        );
        altered.enc.pop();
        assert_eq!(
            ours.open_wrap(&altered, b"manifest"),
            Err(WrapError::Sealed)
        );
    }

    #[test]
    fn both_text_forms_read_back() {
        let key = secret(1);
        let again = RecipientSecret::from_secret_text(&key.to_secret_text()).unwrap();
        assert_eq!(again.public(), key.public());
        let text = key.public().to_string();
        assert_eq!(&text.parse::<RecipientKey>().unwrap(), key.public());
        assert!(
            text.replacen("dijon", "dijo", 1)
                .parse::<RecipientKey>()
                .is_ok()
        );
        assert!(
            text.replacen("x-wing+", "x-wing+0", 1)
                .parse::<RecipientKey>()
                .is_err()
        );
    }
}
