//! Keys of an audit log: Ed25519 and ML-DSA-44 together, as C2SP notes and cosignatures use them.
//!
//! One pair of keys signs the log's own checkpoints and cosigns those of partners. The name is the
//! log's origin. Verifier keys are C2SP vkeys, `name+hash+base64(type ‖ key)`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ml_dsa::{KeyExport, Keypair, MlDsa44};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::text::{self, KeyTextError};
use crate::checkpoint::ORIGIN_LEN_MAX;
use crate::note::key_hash;
use crate::{KeyId, PartyId};

/// Name of the pair of algorithms in key texts.
pub const LOG_ALGORITHM: &str = "log-ed25519-mldsa44";

/// C2SP signature type: Ed25519 over a note.
pub(crate) const TYPE_ED25519: u8 = 0x01;
/// C2SP signature type: Ed25519 cosignature.
pub(crate) const TYPE_ED25519_COSIGNATURE: u8 = 0x04;
/// C2SP signature type: ML-DSA-44 cosignature.
pub(crate) const TYPE_MLDSA44: u8 = 0x06;

const SEED_LEN: usize = 64;
const MLDSA_PUBLIC_LEN: usize = 1312;
const MLDSA_SIGNATURE_LEN: usize = 2420;

/// The secret keys of one log.
pub struct LogSigner {
    seed: Zeroizing<[u8; SEED_LEN]>,
    party: PartyId,
    classical: Ed25519KeyPair,
    post_quantum: ml_dsa::SigningKey<MlDsa44>,
    public: LogVerifier,
}

/// Origin line of the first log of a party's gateway.
pub fn log_origin(party: &PartyId) -> String {
    format!("{party}.passerelle/log")
}

/// Number of the log whose origin line this is, from 1: a gateway whose log is lost begins the
/// next one, and never goes on with a lost one. `None`: no log of `party`.
pub fn log_epoch(party: &PartyId, origin: &str) -> Option<u32> {
    let rest = origin.strip_prefix(&log_origin(party))?;
    if rest.is_empty() {
        return Some(1);
    }
    let digits = rest.strip_prefix('/')?;
    let epoch: u32 = digits.parse().ok()?;
    (epoch > 1 && epoch.to_string() == digits).then_some(epoch)
}

/// Origin line of the log that comes after the one of this origin line; `None`: the given one is
/// of no log of `party`.
pub fn next_log_origin(party: &PartyId, origin: &str) -> Option<String> {
    let next = log_epoch(party, origin)?.checked_add(1)?;
    Some(format!("{}/{next}", log_origin(party)))
}

impl LogSigner {
    /// New keys for the log of `party`.
    pub fn generate(party: &PartyId) -> Self {
        let seed = Zeroizing::new(super::random::<SEED_LEN>());
        Self::from_seed(party, &seed)
    }

    /// The keys that these 64 bytes stand for: 32 for Ed25519, then 32 for ML-DSA-44.
    pub fn from_seed(party: &PartyId, seed: &[u8; SEED_LEN]) -> Self {
        let (first, second) = seed.split_at(32);
        // Every 32 bytes are an Ed25519 seed (RFC 8032, 5.1.5).
        #[allow(clippy::expect_used)]
        let classical = Ed25519KeyPair::from_seed_unchecked(first).expect("32 bytes are a seed");
        let mut mldsa_seed = ml_dsa::Seed::default();
        mldsa_seed.copy_from_slice(second);
        let post_quantum = ml_dsa::SigningKey::<MlDsa44>::from_seed(&mldsa_seed);
        let public = LogVerifier {
            name: log_origin(party),
            classical: classical.public_key().as_ref().to_vec(),
            post_quantum: post_quantum.verifying_key().to_bytes().to_vec(),
        };
        Self {
            seed: Zeroizing::new(*seed),
            party: party.clone(),
            classical,
            post_quantum,
            public,
        }
    }

    /// Reads the text form, `passerelle-secret+party+log-ed25519-mldsa44+check+base64`.
    ///
    /// # Errors
    /// [`KeyTextError`], also when the check digits belong to another key.
    pub fn from_secret_text(text: &str) -> Result<Self, KeyTextError> {
        let parts = text::parse_secret(text, LOG_ALGORITHM)?;
        let seed: &[u8; SEED_LEN] = parts
            .bytes
            .as_slice()
            .try_into()
            .map_err(|_| KeyTextError::Bytes("not 64 bytes"))?;
        let signer = Self::from_seed(&parts.party, seed);
        parts.confirm(&signer.id())?;
        Ok(signer)
    }

    /// The text form, for a file that only its owner can read.
    pub fn to_secret_text(&self) -> Zeroizing<String> {
        text::secret_text(&self.party, LOG_ALGORITHM, &self.id(), self.seed.as_slice())
    }

    /// Id of the pair.
    pub fn id(&self) -> KeyId {
        self.public.id()
    }

    /// The public half.
    pub fn verifier(&self) -> &LogVerifier {
        &self.public
    }

    /// The same keys, for the log of this origin line: the sheet says which log they sign.
    #[must_use]
    pub fn for_origin(&self, origin: &str) -> Self {
        let mut named = Self::from_seed(&self.party, &self.seed);
        named.public = named.public.for_origin(origin);
        named
    }

    /// Party whose log this is.
    pub fn party(&self) -> &PartyId {
        &self.party
    }

    pub(crate) fn sign_classical(&self, message: &[u8]) -> Vec<u8> {
        self.classical.sign(message).as_ref().to_vec()
    }

    pub(crate) fn sign_post_quantum(&self, message: &[u8]) -> Vec<u8> {
        let signature =
            self.post_quantum
                .expanded_key()
                .sign_randomized(message, b"", &mut super::Random);
        // It fails without randomness, or with a context above 255 bytes.
        #[allow(clippy::expect_used)]
        let signature = signature.expect("the system has randomness");
        signature.encode().to_vec()
    }
}

impl fmt::Debug for LogSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogSigner({}, secret)", self.public.name)
    }
}

/// The public keys of one log.
#[derive(Clone, PartialEq, Eq)]
pub struct LogVerifier {
    name: String,
    classical: Vec<u8>,
    post_quantum: Vec<u8>,
}

impl LogVerifier {
    /// Reads all pairs of vkeys of a sheet: the first signs now, the others have signed before.
    ///
    /// # Errors
    /// [`KeyTextError`] when one of a pair is missing, malformed, or of another name.
    pub fn all_from_vkeys(origin: &str, vkeys: &[String]) -> Result<Vec<Self>, KeyTextError> {
        let pairs = vkeys.chunks(2);
        pairs.map(|pair| Self::from_vkeys(origin, pair)).collect()
    }

    /// Reads the pair of vkeys that signs now, the first two of a sheet, in any order.
    ///
    /// # Errors
    /// [`KeyTextError`] when one is missing, malformed, or of another name.
    pub fn from_vkeys(origin: &str, vkeys: &[String]) -> Result<Self, KeyTextError> {
        let mut verifier = Self {
            name: origin.to_owned(),
            classical: Vec::new(),
            post_quantum: Vec::new(),
        };
        // What is cosigned says the length of a name in one byte.
        if origin.is_empty() || origin.len() > ORIGIN_LEN_MAX {
            return Err(KeyTextError::Form);
        }
        for vkey in vkeys.iter().take(2) {
            let (name, kind, key) = parse_vkey(vkey)?;
            match kind {
                _ if name != origin => return Err(KeyTextError::Form),
                TYPE_ED25519 if key.len() == 32 => verifier.classical = key,
                TYPE_MLDSA44 if key.len() == MLDSA_PUBLIC_LEN => verifier.post_quantum = key,
                _ => return Err(KeyTextError::Bytes("unknown type or length")),
            }
        }
        match verifier.classical.is_empty() || verifier.post_quantum.is_empty() {
            true => Err(KeyTextError::Form),
            false => Ok(verifier),
        }
    }

    /// The two vkeys, for a sheet.
    pub fn to_vkeys(&self) -> Vec<String> {
        let vkey = |kind: u8, key: &[u8]| {
            let bytes = [&[kind], key].concat();
            let hash = key_hash(&self.name, &bytes);
            format!("{}+{hash:08x}+{}", self.name, STANDARD.encode(bytes))
        };
        vec![
            vkey(TYPE_ED25519, &self.classical),
            vkey(TYPE_MLDSA44, &self.post_quantum),
        ]
    }

    /// The same keys, for the log of this origin line.
    #[must_use]
    pub fn for_origin(&self, origin: &str) -> Self {
        Self {
            name: origin.to_owned(),
            ..self.clone()
        }
    }

    /// Id of the pair; the name does not count.
    pub fn id(&self) -> KeyId {
        let Self {
            classical,
            post_quantum,
            ..
        } = self;
        let both = [classical.as_slice(), post_quantum].concat();
        KeyId::of(LOG_ALGORITHM, &both)
    }

    /// Name in signature lines: the log's origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Key hash of a signature line of this type.
    pub(crate) fn line_hash(&self, kind: u8) -> u32 {
        let key = match kind {
            TYPE_MLDSA44 => &self.post_quantum,
            _ => &self.classical,
        };
        key_hash(&self.name, &[&[kind], key.as_slice()].concat())
    }

    pub(crate) fn verify_classical(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, &self.classical);
        key.verify(message, signature).is_ok()
    }

    pub(crate) fn verify_post_quantum(&self, message: &[u8], signature: &[u8]) -> bool {
        self.post_quantum_holds(message, b"", signature)
    }

    fn post_quantum_holds(&self, message: &[u8], context: &[u8], signature: &[u8]) -> bool {
        if signature.len() != MLDSA_SIGNATURE_LEN || self.post_quantum.len() != MLDSA_PUBLIC_LEN {
            return false;
        }
        let mut encoded = ml_dsa::EncodedVerifyingKey::<MlDsa44>::default();
        encoded.copy_from_slice(&self.post_quantum);
        let key = ml_dsa::VerifyingKey::<MlDsa44>::decode(&encoded);
        ml_dsa::Signature::<MlDsa44>::try_from(signature)
            .is_ok_and(|signature| key.verify_with_context(message, context, &signature))
    }
}

impl fmt::Debug for LogVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogVerifier({})", self.name)
    }
}

fn parse_vkey(vkey: &str) -> Result<(String, u8, Vec<u8>), KeyTextError> {
    let mut parts = vkey.splitn(3, '+');
    let (Some(name), Some(hash), Some(bytes)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(KeyTextError::Form);
    };
    let bytes = STANDARD
        .decode(bytes)
        .map_err(|_| KeyTextError::Bytes("not base64"))?;
    let found = format!("{:08x}", key_hash(name, &bytes));
    if found != hash {
        return Err(KeyTextError::Fingerprint {
            claimed: hash.to_owned(),
            found,
        });
    }
    let (kind, key) = bytes.split_first().ok_or(KeyTextError::Form)?;
    Ok((name.to_owned(), *kind, key.to_vec()))
}

#[cfg(test)]
mod vectors;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_lines_count_the_logs_of_a_party() {
        let caf = PartyId::parse("caf21").unwrap();
        let first = log_origin(&caf);
        let second = next_log_origin(&caf, &first).unwrap();
        assert_eq!(second, "caf21.passerelle/log/2");
        assert_eq!(log_epoch(&caf, &first), Some(1));
        assert_eq!(log_epoch(&caf, &second), Some(2));
        let last = format!("{first}/{}", u32::MAX);
        assert_eq!(next_log_origin(&caf, &last), None);
        for other in [
            "",
            "/",
            "/1",
            "/0",
            "/02",
            "/+2",
            "/2/",
            "/-2",
            "x",
            "/4294967296",
        ] {
            assert_eq!(
                log_epoch(&caf, &format!("{first}{other}")),
                match other {
                    "" => Some(1),
                    _ => None,
                }
            );
        }
        let dijon = PartyId::parse("grand-dijon").unwrap();
        assert_eq!(log_epoch(&dijon, &first), None);
    }

    #[test]
    fn keys_keep_their_id_and_change_their_name_from_log_to_log() {
        let caf = PartyId::parse("caf21").unwrap();
        let signer = LogSigner::from_seed(&caf, &[1; 64]);
        let next = next_log_origin(&caf, signer.verifier().name()).unwrap();
        let named = signer.for_origin(&next);
        assert_eq!(named.id(), signer.id());
        assert_eq!(named.verifier().name(), next);
        assert_ne!(named.verifier(), signer.verifier());
        assert_ne!(named.verifier().to_vkeys(), signer.verifier().to_vkeys());
    }
}
