//! What both ends of an exchange must agree on byte for byte.
//!
//! Keys, signed notes, the convention and the party sheets, the one function that decides, the
//! package (seal and open), statements, the Merkle log, and the session state machines.
//!
//! This crate is sans-I/O: bytes, `Read`/`Write` and `now` come in as arguments. It opens no
//! socket, starts no runtime and reads no clock.

mod id;
mod key;
mod note;
mod party;
mod time;

pub use id::{DIGEST_LEN, Digest, DigestError, Hasher, PackageId, SHORT_ID_DIGITS, StatementId};
pub use key::{
    COMPOSITE_ALGORITHM, KeyId, KeyIdError, KeyTextError, PUBLIC_KEY_LEN, RECIPIENT_ALGORITHM,
    RecipientKey, RecipientSecret, SIGNATURE_LEN, SecretFileError, SignatureError, SigningKey,
    VerifyingKey, WrapError, read_secret_file, write_secret_file,
};
pub use note::{
    NOTE_LEN_MAX, NOTE_SIGNATURES_MAX, Note, NoteError, NoteSignature, composite_key_hash,
};
pub use party::{FlowId, Hop, NAME_LEN_MAX, NameError, PartyId, Role, RoleError};
pub use time::{Timestamp, TimestampError};

pub mod v1 {
    //! Messages and services generated from the `.proto` files.
    #![allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
    tonic::include_proto!("passerelle.v1");

    /// Encoded `FileDescriptorSet` of these files, for gRPC server reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
