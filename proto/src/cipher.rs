//! How one chunk and one index are encrypted: one key, one message, by construction.
//!
//! Every key is derived from what it encrypts or from the package key alone, is used once, and so
//! the nonce is always zero.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

use crate::{Digest, FlowId, KeyId};

/// Length of the AEAD tag in bytes.
pub(crate) const TAG_LEN: usize = 16;
/// Length of a chunk's header: codec, plain length.
pub(crate) const CHUNK_HEADER_LEN: usize = 5;

const RAW: u8 = 0;
const ZSTD: u8 = 1;
/// Compression level, the same everywhere: level 1 keeps up with the network.
const ZSTD_LEVEL: i32 = 1;

pub(crate) type Secret = Zeroizing<[u8; 32]>;

struct Len32;

impl KeyType for Len32 {
    fn len(&self) -> usize {
        32
    }
}

/// HKDF-SHA256 (RFC 5869) of `secret` without salt; `info` parts are concatenated.
pub(crate) fn derive(secret: &[u8], info: &[&[u8]]) -> Secret {
    let mut derived = Zeroizing::new([0; 32]);
    let filled = Salt::new(HKDF_SHA256, &[])
        .extract(secret)
        .expand(info, Len32)
        .and_then(|okm| okm.fill(derived.as_mut_slice()));
    // 32 bytes are always within HKDF's limit of 255 × 32.
    debug_assert!(filled.is_ok());
    derived
}

/// Public value that binds a manifest to its key.
pub(crate) fn key_commit(key: &[u8; 32]) -> Digest {
    Digest(*derive(key, &[b"passerelle/v1 commit"]))
}

/// What chunk keys of an ordinary package come from.
pub(crate) fn chunk_secret(key: &[u8; 32]) -> Secret {
    derive(key, &[b"passerelle/v1 chunks"])
}

/// What chunk keys of a flow with delta transfer come from: the same for one flow, one set of
/// recipients and one month, so that equal chunks have equal ciphertext.
pub fn delta_chunk_secret(
    delta_seed: &[u8; 32],
    flow: &FlowId,
    recipients: &[KeyId],
    year_month: &str,
) -> Zeroizing<[u8; 32]> {
    let mut sorted: Vec<&[u8]> = recipients.iter().map(AsRef::as_ref).collect();
    sorted.sort();
    let recipients = Digest::of_parts(&sorted);
    let info = [
        flow.as_str().as_bytes(),
        &recipients.0,
        year_month.as_bytes(),
    ];
    derive(delta_seed, &info)
}

/// Content commitment: SHA-256(label ‖ salt ‖ SHA-256(description)).
pub(crate) fn content_commit(salt: &[u8], description: &[u8]) -> Digest {
    let description = Digest::of(description);
    Digest::of_parts(&[b"passerelle/v1 content", salt, &description.0])
}

fn aead(key: &Secret) -> LessSafeKey {
    // AES-256 takes any 32 bytes.
    #[allow(clippy::expect_used)]
    let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).expect("32 bytes are an AES-256 key");
    LessSafeKey::new(key)
}

fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// Encrypts a message under a key that encrypts nothing else.
pub(crate) fn seal_once(key: &Secret, mut message: Vec<u8>) -> Vec<u8> {
    // It fails only above 64 GiB.
    #[allow(clippy::expect_used)]
    aead(key)
        .seal_in_place_append_tag(zero_nonce(), Aad::empty(), &mut message)
        .expect("a message is shorter than 64 GiB");
    message
}

/// Decrypts what [`seal_once`] made; `None` when it was altered or the key is another.
pub(crate) fn open_once(key: &Secret, mut sealed: Vec<u8>) -> Option<Vec<u8>> {
    let length = aead(key)
        .open_in_place(zero_nonce(), Aad::empty(), &mut sealed)
        .ok()?
        .len();
    sealed.truncate(length);
    Some(sealed)
}

/// Index key of a package.
pub(crate) fn index_key(key: &[u8; 32]) -> Secret {
    derive(key, &[b"passerelle/v1 index"])
}

fn chunk_key(chunk_secret: &Secret, digest: &Digest) -> Secret {
    derive(
        chunk_secret.as_slice(),
        &[b"passerelle/v1 chunk", &digest.0],
    )
}

/// An encrypted chunk, and the digest of its AEAD input that its key comes from.
pub(crate) struct SealedChunk {
    pub(crate) ciphertext: Vec<u8>,
    pub(crate) digest: Digest,
}

/// Compresses, pads and encrypts one chunk.
pub(crate) fn seal_chunk(chunk_secret: &Secret, plain: &[u8]) -> SealedChunk {
    let compressed = zstd::bulk::compress(plain, ZSTD_LEVEL).ok();
    let smaller = compressed.filter(|bytes| bytes.len() < plain.len());
    let (codec, payload) = match &smaller {
        Some(bytes) => (ZSTD, bytes.as_slice()),
        None => (RAW, plain),
    };
    seal_payload(chunk_secret, codec, plain.len() as u32, payload)
}

fn seal_payload(chunk_secret: &Secret, codec: u8, plain_len: u32, payload: &[u8]) -> SealedChunk {
    let padded = padme(CHUNK_HEADER_LEN + payload.len());
    let mut input = Vec::with_capacity(padded + TAG_LEN);
    input.push(codec);
    input.extend_from_slice(&plain_len.to_be_bytes());
    input.extend_from_slice(payload);
    input.resize(padded, 0);
    let digest = Digest::of(&input);
    SealedChunk {
        ciphertext: seal_once(&chunk_key(chunk_secret, &digest), input),
        digest,
    }
}

/// A chunk that decompresses to `plain` and declares another length.
#[cfg(any(test, feature = "fixture"))]
pub(crate) fn seal_bomb(chunk_secret: &Secret, plain: &[u8], declared: u32) -> SealedChunk {
    let payload = zstd::bulk::compress(plain, ZSTD_LEVEL).unwrap_or_default();
    seal_payload(chunk_secret, ZSTD, declared, &payload)
}

/// Why a chunk does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkOpenError {
    /// The key that the index leads to does not decrypt it.
    #[error("it does not decrypt")]
    Sealed,
    /// Codec, length or padding that no sealer writes.
    #[error("it is malformed inside")]
    Malformed,
    /// It holds more or less than it declares.
    #[error("it does not decompress to the length it declares")]
    Length,
}

/// Decrypts and decompresses one chunk to at most `limit` bytes.
pub(crate) fn open_chunk(
    chunk_secret: &Secret,
    digest: &Digest,
    ciphertext: Vec<u8>,
    limit: usize,
) -> Result<Vec<u8>, ChunkOpenError> {
    let key = chunk_key(chunk_secret, digest);
    let mut input = open_once(&key, ciphertext).ok_or(ChunkOpenError::Sealed)?;
    if Digest::of(&input) != *digest || input.len() < CHUNK_HEADER_LEN {
        return Err(ChunkOpenError::Malformed);
    }
    let plain_len = u32::from_be_bytes([input[1], input[2], input[3], input[4]]) as usize;
    if plain_len > limit {
        return Err(ChunkOpenError::Length);
    }
    match input[0] {
        RAW => {
            let payload = input.get(CHUNK_HEADER_LEN..CHUNK_HEADER_LEN + plain_len);
            if payload.is_none() || padme(CHUNK_HEADER_LEN + plain_len) != input.len() {
                return Err(ChunkOpenError::Length);
            }
            input.drain(..CHUNK_HEADER_LEN);
            input.truncate(plain_len);
            Ok(input)
        }
        ZSTD => decompress(&input[CHUNK_HEADER_LEN..], plain_len),
        _ => Err(ChunkOpenError::Malformed),
    }
}

fn decompress(payload: &[u8], plain_len: usize) -> Result<Vec<u8>, ChunkOpenError> {
    // What follows the frame is padding, so the frame's own length is asked for first.
    let frame = zstd::zstd_safe::find_frame_compressed_size(payload)
        .map_err(|_| ChunkOpenError::Malformed)?;
    let frame = payload.get(..frame).ok_or(ChunkOpenError::Malformed)?;
    if padme(CHUNK_HEADER_LEN + frame.len()) != CHUNK_HEADER_LEN + payload.len() {
        return Err(ChunkOpenError::Malformed);
    }
    // The output buffer is the declared length: a bomb finds no room.
    let plain = zstd::bulk::decompress(frame, plain_len).map_err(|_| ChunkOpenError::Length)?;
    match plain.len() == plain_len {
        true => Ok(plain),
        false => Err(ChunkOpenError::Length),
    }
}

/// Padmé: the length rounded up so that it tells at most O(log log n) bits of itself.
///
/// Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs",
/// PoPETs 2019, section 4. The overhead is at most 12 %, and below 3 % from 4 MiB on.
pub(crate) fn padme(length: usize) -> usize {
    if length < 2 {
        return length;
    }
    let exponent = length.ilog2();
    let kept = exponent.ilog2() + 1;
    let mask = (1usize << (exponent - kept.min(exponent))) - 1;
    (length + mask) & !mask
}

#[cfg(test)]
mod vectors;

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        chunk_secret(&[7; 32])
    }

    #[test]
    fn padme_rounds_as_published() {
        for (length, padded) in [
            (0, 0),
            (1, 1),
            (2, 2),
            (8, 8),
            (9, 10),
            (100, 104),
            (999, 1024),
        ] {
            assert_eq!(padme(length), padded, "{length}");
        }
        assert_eq!(padme(4 * 1024 * 1024 + 5), 4 * 1024 * 1024 + 128 * 1024);
    }

    #[test]
    fn chunks_open_to_what_was_sealed() {
        for plain in [
            vec![],
            vec![1],
            vec![0; 300_000],
            crate::key::random::<4096>().to_vec(),
        ] {
            let sealed = seal_chunk(&secret(), &plain);
            let opened = open_chunk(&secret(), &sealed.digest, sealed.ciphertext, plain.len());
            assert_eq!(opened.unwrap(), plain);
        }
    }

    #[test]
    fn equal_chunks_are_equal_only_under_one_secret() {
        let one = seal_chunk(&secret(), b"plain").ciphertext;
        assert_eq!(one, seal_chunk(&secret(), b"plain").ciphertext);
        assert_ne!(
            one,
            seal_chunk(&chunk_secret(&[8; 32]), b"plain").ciphertext
        );
    }

    #[test]
    fn a_chunk_that_holds_more_than_it_declares_is_refused() {
        let bomb = zstd::bulk::compress(&[0; 1_000_000], 1).unwrap();
        let mut input = vec![ZSTD, 0, 0, 0, 10];
        input.extend_from_slice(&bomb);
        input.resize(padme(input.len()), 0);
        let digest = Digest::of(&input);
        let sealed = seal_once(&chunk_key(&secret(), &digest), input);
        let opened = open_chunk(&secret(), &digest, sealed, 1 << 20);
        assert_eq!(opened, Err(ChunkOpenError::Length));
    }

    #[test]
    fn the_delta_secret_does_not_depend_on_the_order_of_recipients() {
        let flow = FlowId::parse("observation-iris").unwrap();
        let (one, two) = (KeyId([1; 32]), KeyId([2; 32]));
        let secret = |keys: &[KeyId], month| *delta_chunk_secret(&[3; 32], &flow, keys, month);
        assert_eq!(
            secret(&[one, two], "2016-01"),
            secret(&[two, one], "2016-01")
        );
        assert_ne!(
            secret(&[one, two], "2016-01"),
            secret(&[one, two], "2016-02")
        );
    }
}
