//! Digests and the ids that are digests.

use std::fmt;
use std::str::FromStr;

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

/// Length of a SHA-256 digest in bytes.
pub const DIGEST_LEN: usize = 32;

/// Digits of [`PackageId::short`]: the shortest prefix that people are shown.
pub const SHORT_ID_DIGITS: usize = 12;

/// A SHA-256 digest (FIPS 180-4). Shown and read as 64 lowercase hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; DIGEST_LEN]);

impl Digest {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_parts(&[bytes])
    }

    /// SHA-256 of the concatenation of `parts`.
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = Hasher::new();
        for part in parts {
            hasher.update(part);
        }
        hasher.finish()
    }

    /// Takes exactly 32 bytes, as they stand in a message field.
    ///
    /// # Errors
    /// [`DigestError`] when the length is another one.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, DigestError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| DigestError::Length { bytes: bytes.len() })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; DIGEST_LEN] {
        &self.0
    }
}

/// SHA-256 over bytes that arrive piece by piece.
#[derive(Clone)]
pub struct Hasher(Context);

impl Hasher {
    /// Starts a digest of nothing.
    pub fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Appends `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything appended.
    pub fn finish(self) -> Digest {
        let mut digest = [0; DIGEST_LEN];
        digest.copy_from_slice(self.0.finish().as_ref());
        Digest(digest)
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

/// A text or a field that is no SHA-256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// A field of another length.
    #[error("{bytes} bytes where a SHA-256 digest has 32")]
    Length {
        /// Length that was found.
        bytes: usize,
    },
    /// A text of another length, or with other characters.
    #[error("{text:?} is not a digest: write all 64 lowercase hexadecimal digits")]
    Text {
        /// The text, cut at 80 characters.
        text: String,
    },
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let refuse = || DigestError::Text {
            text: text.chars().take(80).collect(),
        };
        if text.len() != 2 * DIGEST_LEN {
            return Err(refuse());
        }
        let mut digest = [0; DIGEST_LEN];
        for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let high = hex_digit(pair[0]).ok_or_else(refuse)?;
            let low = hex_digit(pair[1]).ok_or_else(refuse)?;
            *byte = high << 4 | low;
        }
        Ok(Self(digest))
    }
}

fn hex_digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// Takes exactly 32 bytes, as they stand in a message field.
            ///
            /// # Errors
            /// [`DigestError`] when the length is another one.
            pub fn from_slice(bytes: &[u8]) -> Result<Self, DigestError> {
                Digest::from_slice(bytes).map(Self)
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; DIGEST_LEN] {
                self.0.as_bytes()
            }

            /// First 12 hexadecimal digits: what people are shown.
            pub fn short(&self) -> String {
                self.0.to_string().chars().take(SHORT_ID_DIGITS).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                self.0.as_ref()
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map(Self)
            }
        }
    };
}

digest_id! {
    /// Id of a package: SHA-256 of its manifest's body.
    PackageId
}

digest_id! {
    /// Id of a statement: SHA-256 of its body.
    StatementId
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_digest_is_sha_256_and_shown_in_lowercase_hex() {
        assert_eq!(Digest::of(b"abc").to_string(), ABC);
        assert_eq!(Digest::of_parts(&[b"a", b"", b"bc"]).to_string(), ABC);
    }

    #[test]
    fn only_the_full_lowercase_form_is_read() {
        assert_eq!(ABC.parse::<Digest>(), Ok(Digest::of(b"abc")));
        for text in [
            &ABC[..12],
            &ABC.to_uppercase(),
            &ABC.replace('b', "g"),
            "",
            "é",
        ] {
            assert!(text.parse::<PackageId>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_short_form_has_twelve_digits() {
        assert_eq!(PackageId(Digest::of(b"abc")).short(), "ba7816bf8f01");
    }

    #[test]
    fn a_field_of_another_length_is_no_digest() {
        assert_eq!(
            Digest::from_slice(&[0; 31]),
            Err(DigestError::Length { bytes: 31 })
        );
    }
}
