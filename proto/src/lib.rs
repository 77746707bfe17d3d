//! What both ends of an exchange must agree on byte for byte.
//!
//! Keys, signed notes, the convention and the party sheets, the one function that decides, the
//! package (seal and open), statements, the Merkle log, and the session state machines.
//!
//! This crate is sans-I/O: bytes, `Read`/`Write` and `now` come in as arguments. It opens no
//! socket, starts no runtime and reads no clock.

mod accepted_at;
pub mod audit;
mod backup;
mod batch_tree;
mod checkpoint;
mod chunk;
mod cipher;
mod convention;
mod decide;
mod directory;
mod document;
mod entry_name;
pub mod envelope;
pub mod evidence;
mod expiry;
#[cfg(any(test, feature = "fixture"))]
pub mod fixture;
mod id;
pub mod kept;
mod key;
mod keyring;
mod log_entry;
mod log_files;
mod manifest;
pub mod merkle;
mod note;
mod open;
mod pack;
mod package_prefix;
mod party;
mod proof;
mod seal;
pub mod session;
mod sheet;
mod statement;
mod stored;
pub mod tile;
mod time;
mod time_stamp;
mod witness;

pub use accepted_at::accepted_at;
pub use backup::{
    BACKUP_FILES_MAX, BACKUP_LEN_MAX, BackupError, BackupFile, PASSPHRASE_LEN_MIN, open_backup,
    seal_backup,
};
pub use checkpoint::{
    CHECKPOINT_LEN_MAX, Checkpoint, CheckpointError, lines_of, with_cosignatures,
};
pub use chunk::{
    ChunkError, ChunkRecord, ChunkTable, MAX_CHUNK_PLAIN_LEN, MAX_CHUNKS, MAX_CIPHERTEXT_LEN,
    MIN_CIPHERTEXT_LEN, RECORD_LEN,
};
pub use cipher::{ChunkOpenError, delta_chunk_secret};
pub use convention::{
    Acknowledgement, CONVENTION_LEN_MAX, Convention, ConventionError, FLOWS_MAX, Flow, Obligation,
    PARTIES_MAX, Party, Retention, Roots, Territory, UnsignedConvention,
};
pub use decide::{CLOCK_TOLERANCE, Denial, Facts, Permit, Place, decide};
pub use directory::{Adopted, Directory, DirectoryError, SigningKeyEntry};
pub use document::{Document, Placed, Problem, Section};
pub use entry_name::{ENTRY_NAME_LEN_MAX, ENTRY_PART_LEN_MAX, EntryName, EntryNameError};
pub use envelope::EnvelopeError;
pub use expiry::{Ends, Expiry, WARN_AHEAD, WARN_EVERY, Warnings, expiries};
pub use id::{DIGEST_LEN, Digest, DigestError, Hasher, PackageId, SHORT_ID_DIGITS, StatementId};
pub use key::{
    COMPOSITE_ALGORITHM, KeyId, KeyIdError, KeyTextError, LOG_ALGORITHM, LogSigner, LogVerifier,
    PUBLIC_KEY_LEN, RECIPIENT_ALGORITHM, RecipientKey, RecipientSecret, SIGNATURE_LEN,
    SecretFileError, SignatureError, SigningKey, VerifyingKey, WrapError, log_epoch, log_origin,
    next_log_origin, nonce, read_secret_file, write_secret_file,
};
pub use keyring::{KEYS_HELD_MAX, RecipientKeys, SigningKeys};
pub use log_entry::{package_of, signed_objects};
pub use log_files::{TileReader, copy_log};
pub use manifest::{
    HeadPart, INDEX_LEN_MAX, LIFETIME_MS_MAX, MANIFEST_LEN_MAX, ManifestError, NONCE_LEN,
    PARENTS_MAX, PAYLOAD_LEN_MAX, RECIPIENTS_MAX, TABLE_LEN_MAX, UntrustedManifest,
    VerifiedManifest, WRAPS_LEN_MAX,
};
pub use note::{
    NOTE_LEN_MAX, NOTE_SIGNATURES_MAX, Note, NoteError, NoteSignature, composite_key_hash,
};
pub use open::{EntrySink, OpenError, Opened, open, open_description, sealed_for};
pub use pack::{
    INLINE_LEN_MAX, InlineError, InlineParts, PACK_HEADER_LEN, PackError, PackLayout, split_inline,
};
pub use package_prefix::{PackagePrefix, PrefixError};
pub use party::{FlowId, Hop, NAME_LEN_MAX, NameError, PartyId, Role, RoleError};
pub use proof::{
    INCLUSION_HASHES_MAX, LOG_PROOF_LEN_MAX, LogProof, LogProofError, PROOF_EXTRA_LEN_MAX,
};
pub use seal::{
    ENTRIES_MAX, PLAIN_LEN_MAX, SealError, SealPlan, Sealed, SourceEntry, chunk_len, seal,
};
pub use sheet::{
    KeyRole, Revocation, SHEET_ITEMS_MAX, SHEET_LEN_MAX, SHEET_LIFE_MAX, Sheet, SheetError,
    SheetKey, SheetLog, Tls, TlsName,
};
pub use statement::{
    COMMENT_LEN_MAX, INQUIRE_MAX, STATEMENT_LEN_MAX, StatementChain, StatementDraft,
    StatementError, UntrustedStatement, VerifiedStatement, busy_words, purged_words, reason_words,
    statement_name, terminal_recipients,
};
pub use stored::{Damage, SoundReader, Soundness, Stored, StoredError};
pub use time::{Timestamp, TimestampError};
pub use time_stamp::{
    TIME_AUTHORITIES_MAX, TIME_STAMP_LEN_MAX, TIME_STAMP_NONCE_LEN, TIME_STAMP_RESPONSE_LEN_MAX,
    TimeAuthorities, TimeStamp, TimeStampError, TimeStampRequest,
};
pub use witness::{WITNESS_BODY_LEN_MAX, WitnessAnswer, add_checkpoint_body, witness};

pub mod v1 {
    //! Messages and services generated from the `.proto` files.
    #![allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used)]
    tonic::include_proto!("passerelle.v1");

    /// Encoded `FileDescriptorSet` of these files, for gRPC server reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
