//! The signed envelope: one composite signature over a batch of 1 to 1,024 objects.
//!
//! Each object is a leaf `type ‖ body` of an RFC 6962 tree. What is signed is
//! `passerelle/v1 batch` ‖ key id ‖ size (u32, big endian) ‖ root, and every object carries its
//! index and inclusion path: a burst costs one post-quantum signature.

use prost::Message;

use crate::batch_tree::{BatchTree, leaf_hash, root_of_path};
use crate::v1::{ObjectType, Signed};
use crate::{Digest, KeyId, SIGNATURE_LEN, SignatureError, SigningKey, VerifyingKey};

/// Most objects that one signature covers.
pub const BATCH_MAX: usize = 1024;

/// Longest inclusion path: log2 of [`BATCH_MAX`].
pub const PATH_MAX: usize = 10;

/// More than everything in an encoded [`Signed`] besides its body, in bytes.
pub const ENVELOPE_OVERHEAD_MAX: usize = SIGNATURE_LEN + PATH_MAX * 34 + 64;

const BATCH_LABEL: &[u8] = b"passerelle/v1 batch";

/// Why an envelope is not accepted. The peer that made it is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The bytes are no protobuf message of this type.
    #[error("the bytes are no {message}: {reason}")]
    Undecodable {
        /// Name of the message type.
        message: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// Decoded and encoded again, the bytes differ: unknown fields or another encoding.
    #[error("the {message} is not in canonical form (unknown fields, or encoded otherwise)")]
    NotCanonical {
        /// Name of the message type.
        message: &'static str,
    },
    /// The type is unknown or not the one wanted here.
    #[error("object type {found} where {wanted:?} is wanted")]
    Type {
        /// Type wanted.
        wanted: ObjectType,
        /// Number found.
        found: i32,
    },
    /// The body is empty or above its limit.
    #[error("the body has {bytes} bytes; 1 to {limit} are allowed")]
    BodyLength {
        /// Length found.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Index, size and path length do not fit together.
    #[error("position {index} of {size} with a path of {path} nodes is impossible")]
    Position {
        /// Index claimed.
        index: u32,
        /// Batch size claimed.
        size: u32,
        /// Nodes in the path.
        path: usize,
    },
    /// The body names another key than the one it is verified with.
    #[error("the body names key {named}, not {given}")]
    Signer {
        /// Key id in the body.
        named: KeyId,
        /// Id of the key that was given.
        given: KeyId,
    },
    /// The signature does not verify.
    #[error("the signature does not verify: {0}")]
    Signature(#[from] SignatureError),
}

/// The caller wants to sign a batch that no envelope can hold. A fault of our own program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a batch has 1 to {BATCH_MAX} objects, not {objects}")]
pub struct BatchSizeError {
    /// Objects given.
    pub objects: usize,
}

/// Signs one object alone.
pub fn sign_one(key: &SigningKey, object: ObjectType, body: Vec<u8>) -> Signed {
    let root = leaf_hash(object as u8, &body);
    let sig = key.sign(&batch_message(&key.id(), 1, &root));
    Signed {
        r#type: object as i32,
        body,
        index: 0,
        size: 1,
        path: Vec::new(),
        sig,
    }
}

/// Signs 1 to [`BATCH_MAX`] objects with one signature; the results are in the order given.
///
/// # Errors
/// [`BatchSizeError`] when there are none or too many.
pub fn sign_batch(
    key: &SigningKey,
    objects: Vec<(ObjectType, Vec<u8>)>,
) -> Result<Vec<Signed>, BatchSizeError> {
    let count = objects.len();
    if count == 0 || count > BATCH_MAX {
        return Err(BatchSizeError { objects: count });
    }
    let leaves = objects
        .iter()
        .map(|(object, body)| leaf_hash(*object as u8, body))
        .collect();
    let tree = BatchTree::new(leaves);
    let size = count as u32;
    let sig = key.sign(&batch_message(&key.id(), size, &tree.root()));
    let signed = objects
        .into_iter()
        .zip(0..)
        .map(|((object, body), index)| Signed {
            r#type: object as i32,
            body,
            index,
            size,
            path: tree
                .path(index as usize)
                .iter()
                .map(|node| node.0.to_vec())
                .collect(),
            sig: sig.clone(),
        });
    Ok(signed.collect())
}

/// Verifies path and signature with `key`. Says nothing about the body's content.
///
/// # Errors
/// [`EnvelopeError`] names what is wrong; nothing may be believed of the object then.
pub fn verify(signed: &Signed, key: &VerifyingKey) -> Result<(), EnvelopeError> {
    let root = batch_root(signed)?;
    Ok(key.verify(&batch_message(&key.id(), signed.size, &root), &signed.sig)?)
}

/// Checks type, body length and position before anything is decoded or verified.
pub(crate) fn check_shape(
    signed: &Signed,
    wanted: ObjectType,
    limit: usize,
) -> Result<(), EnvelopeError> {
    if signed.r#type != wanted as i32 {
        return Err(EnvelopeError::Type {
            wanted,
            found: signed.r#type,
        });
    }
    if signed.body.is_empty() || signed.body.len() > limit {
        return Err(EnvelopeError::BodyLength {
            bytes: signed.body.len(),
            limit,
        });
    }
    if signed.sig.len() != SIGNATURE_LEN {
        return Err(EnvelopeError::Signature(SignatureError::Length));
    }
    batch_root(signed).map(drop)
}

/// Decodes a message whose bytes must be exactly what our encoder makes of it.
///
/// Signed bytes are digested as they stand, so two encodings of one meaning must not exist.
///
/// # Errors
/// [`EnvelopeError::Undecodable`] and [`EnvelopeError::NotCanonical`].
pub fn decode_exact<M: Message + Default>(bytes: &[u8]) -> Result<M, EnvelopeError> {
    let message = short_type_name::<M>();
    let decoded = M::decode(bytes).map_err(|error| EnvelopeError::Undecodable {
        message,
        reason: error.to_string(),
    })?;
    if decoded.encoded_len() != bytes.len() || decoded.encode_to_vec() != bytes {
        return Err(EnvelopeError::NotCanonical { message });
    }
    Ok(decoded)
}

fn short_type_name<M>() -> &'static str {
    let name = std::any::type_name::<M>();
    name.rsplit("::").next().unwrap_or(name)
}

fn batch_root(signed: &Signed) -> Result<Digest, EnvelopeError> {
    let refuse = || EnvelopeError::Position {
        index: signed.index,
        size: signed.size,
        path: signed.path.len(),
    };
    let object = u8::try_from(signed.r#type).map_err(|_| EnvelopeError::Type {
        wanted: ObjectType::Manifest,
        found: signed.r#type,
    })?;
    if signed.size as usize > BATCH_MAX || signed.path.len() > PATH_MAX {
        return Err(refuse());
    }
    let path: Result<Vec<Digest>, _> = signed
        .path
        .iter()
        .map(|node| Digest::from_slice(node))
        .collect();
    let path = path.map_err(|_| refuse())?;
    let leaf = leaf_hash(object, &signed.body);
    root_of_path(leaf, signed.index as usize, signed.size as usize, &path).ok_or_else(refuse)
}

fn batch_message(key: &KeyId, size: u32, root: &Digest) -> Vec<u8> {
    [BATCH_LABEL, &key.0, &size.to_be_bytes(), &root.0].concat()
}
