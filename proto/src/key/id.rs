//! Key ids, and the form in which people compare them on paper.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Digest, DigestError};

/// Id of a key: SHA-256(`passerelle/v1 key` ‖ algorithm name ‖ 0x00 ‖ public key bytes).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 32]);

/// A text or a field that is no key id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}: copy all 16 groups of 4 digits from the signed letter")]
pub struct KeyIdError(#[from] DigestError);

impl KeyId {
    /// Id of the public key with these bytes.
    pub fn of(algorithm: &str, public: &[u8]) -> Self {
        let parts = [b"passerelle/v1 key", algorithm.as_bytes(), &[0], public];
        Self(Digest::of_parts(&parts).0)
    }

    /// Takes exactly 32 bytes, as they stand in a message field.
    ///
    /// # Errors
    /// [`KeyIdError`] when the length is another one.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, KeyIdError> {
        Ok(Self(Digest::from_slice(bytes)?.0))
    }

    /// 16 groups of 4 hexadecimal digits: what two people read to each other.
    pub fn fingerprint(&self) -> String {
        let groups = self.0.chunks_exact(2);
        let groups: Vec<String> = groups
            .map(|pair| format!("{:02x}{:02x}", pair[0], pair[1]))
            .collect();
        groups.join(" ")
    }

    /// First 8 hexadecimal digits: the check in a key's text form.
    pub(crate) fn check_digits(&self) -> String {
        self.0[..4]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Digest(self.0), f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl AsRef<[u8]> for KeyId {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    /// Reads the plain form and the grouped one.
    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let plain: String = text.chars().filter(|c| *c != ' ').collect();
        Ok(Self(plain.parse::<Digest>()?.0))
    }
}

impl Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_on_paper_reads_back() {
        let id = KeyId::of("x", b"public");
        let paper = id.fingerprint();
        assert_eq!(paper.len(), 16 * 4 + 15);
        assert_eq!(paper.parse::<KeyId>(), Ok(id));
        assert_eq!(id.to_string().parse::<KeyId>(), Ok(id));
        assert!(paper[1..].parse::<KeyId>().is_err());
    }

    #[test]
    fn one_key_has_another_id_under_another_algorithm() {
        assert_ne!(KeyId::of("a", b"bc"), KeyId::of("ab", b"c"));
    }
}
