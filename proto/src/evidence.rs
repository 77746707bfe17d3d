//! Evidence: one file that proves what happened to one package, and needs no server.
//!
//! It holds, for the log of each gateway that was asked, every entry that speaks of the package,
//! with proofs of inclusion under the log's checkpoints and what partners have cosigned of them;
//! and the convention and the sheets under which the signatures are judged. It is verified from
//! the two root fingerprints alone.
//!
//! What it says is true of what it holds. That something was left out cannot always be seen:
//! [`Missing`] tells what can.

mod covers;
mod decision;
mod excerpt;
mod meaning;
mod missing;
mod report;
#[cfg(test)]
mod tests;
mod verify;

use crate::envelope::{EnvelopeError, decode_exact};
use crate::v1;
use crate::{
    Checkpoint, CheckpointError, DirectoryError, KeyId, Note, PackageId, PartyId, TimeStampError,
};

pub use covers::Covers;
pub use excerpt::{ExcerptError, assemble, excerpt, log_proofs};
pub use meaning::{MEANINGS, Meaning, meaning};
pub use missing::Missing;
pub use report::{
    CosignedAt, Doubt, EvidenceReport, LogCheckpoints, ManifestReport, OtherEvent, StampedAt,
    Standing, StatementReport,
};

/// Longest evidence file in bytes.
pub const EVIDENCE_LEN_MAX: usize = 32 * 1024 * 1024;
/// Most versions of the convention in one file.
pub const EVIDENCE_CONVENTIONS_MAX: usize = 64;
/// Most sheets in one file.
pub const EVIDENCE_SHEETS_MAX: usize = 1024;
/// Most logs in one file.
pub const EVIDENCE_LOGS_MAX: usize = 16;
/// Most checkpoints of one log in one file.
pub const EVIDENCE_CHECKPOINTS_MAX: usize = 32;
/// Most time-stamps over one checkpoint in one file.
pub const EVIDENCE_TIME_STAMPS_MAX: usize = 4;
/// Most entries of one log in one file.
pub const EVIDENCE_ENTRIES_MAX: usize = 4096;

/// First field of every evidence file of this version.
const FORMAT: &str = "passerelle/v1 evidence";

/// Why a file proves nothing. Whoever made or carried the file is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Longer than any evidence.
    #[error("the file has {bytes} bytes; evidence has at most {EVIDENCE_LEN_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not an encoding of evidence.
    #[error("this is no evidence file: {0}")]
    Encoding(EnvelopeError),
    /// Of another kind or version.
    #[error("the file says that it is {found:?}, and {FORMAT:?} is read here")]
    Format {
        /// What it says.
        found: String,
    },
    /// A part that no program of ours writes like this.
    #[error("{place}: {problem}")]
    Malformed {
        /// Which part.
        place: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The convention or a sheet.
    #[error("the convention or a sheet in the file does not hold: {0}")]
    Trust(#[from] DirectoryError),
    /// Nothing says with which keys a log is signed.
    #[error("no sheet in the file says with which keys {party} signs its log")]
    LogKeys {
        /// Whose log.
        party: PartyId,
    },
    /// A checkpoint, or a cosignature under it.
    #[error("{place}: {error}")]
    Checkpoint {
        /// Which one.
        place: String,
        /// What is wrong with it.
        error: CheckpointError,
    },
    /// A time-stamp under a checkpoint.
    #[error("{place}: a time-stamp (RFC 3161) does not hold: {error}")]
    TimeStamp {
        /// Which checkpoint.
        place: String,
        /// What is wrong with it.
        error: TimeStampError,
    },
    /// Two checkpoints that are not of one history.
    #[error(
        "the log of {party} was signed with {smaller} and with {larger} entries, and the proof \
         does not show that the one is the beginning of the other"
    )]
    History {
        /// Whose log.
        party: PartyId,
        /// Size of the one.
        smaller: u64,
        /// Size of the other.
        larger: u64,
    },
    /// An entry that no checkpoint covers.
    #[error(
        "{place} is under no checkpoint in the file: the newest one covers {size} entries, so \
         nobody has signed that this entry is in the log"
    )]
    Uncovered {
        /// Which entry.
        place: String,
        /// Entries under the newest checkpoint.
        size: u64,
    },
    /// The hashes do not lead from an entry to the signed root.
    #[error(
        "{place}: the proof does not lead to the root of the checkpoint of {size} entries: the \
         entry, the proof or its place was altered, or it is the proof of another entry"
    )]
    NotIncluded {
        /// Which entry.
        place: String,
        /// Entries under the checkpoint.
        size: u64,
    },
    /// An entry that has no part in this evidence.
    #[error("{place} speaks of another package, or of none")]
    OtherPackage {
        /// Which entry.
        place: String,
    },
    /// A signing key that its party never listed.
    #[error("{place}: no sheet of {party} in the file lists its signing key {key}")]
    Signer {
        /// Which object.
        place: String,
        /// Who claims to have signed.
        party: PartyId,
        /// With which key.
        key: KeyId,
    },
    /// A key that may not say this.
    #[error("{place}: the sheet of {party} does not let its signing key {key} say this")]
    Role {
        /// Which object.
        place: String,
        /// Who has signed.
        party: PartyId,
        /// With which key.
        key: KeyId,
    },
    /// A manifest or a statement that does not hold.
    #[error("{place}: {reason}")]
    Object {
        /// Which one.
        place: String,
        /// What is wrong with it, either half of the signature included.
        reason: String,
    },
    /// Two things in the file that cannot both be.
    #[error("{place}: {problem}")]
    Contradiction {
        /// Where.
        place: String,
        /// What contradicts what.
        problem: String,
    },
}

impl EvidenceError {
    /// What whoever holds the file can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::TooLong { .. } | Self::Encoding(_) => {
                "name a file that `passerelle evidence export` has written"
            }
            Self::Format { .. } => "verify it with the version of passerelle that has written it",
            Self::Malformed { .. } | Self::NotIncluded { .. } | Self::OtherPackage { .. } => {
                "the file was altered: ask for it again, and keep this copy"
            }
            Self::Trust(_) => {
                "compare the root fingerprints with the signed letters; if they are right, the \
                 file was made under other roots"
            }
            Self::LogKeys { .. } | Self::Signer { .. } => {
                "ask for the file again from a gateway that has this party's sheets"
            }
            Self::Checkpoint { .. }
            | Self::TimeStamp { .. }
            | Self::Role { .. }
            | Self::Object { .. } => {
                "the file was altered, or its signer never signed this: ask for it again, and \
                 keep this copy"
            }
            Self::Uncovered { .. } => "export it again: a checkpoint is signed at every export",
            Self::History { .. } | Self::Contradiction { .. } => {
                "keep the file: if both signatures hold, the signer has told two histories"
            }
        }
    }
}

/// A file that has the form of evidence. Nothing in it is verified.
#[derive(Debug, Clone, PartialEq)]
pub struct UntrustedEvidence {
    package: PackageId,
    message: v1::Evidence,
}

impl UntrustedEvidence {
    /// Reads a file; checks its form and its limits and nothing else.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EvidenceError> {
        if bytes.len() > EVIDENCE_LEN_MAX {
            return Err(EvidenceError::TooLong { bytes: bytes.len() });
        }
        let message: v1::Evidence = decode_exact(bytes).map_err(EvidenceError::Encoding)?;
        if message.format != FORMAT {
            let found: String = message.format.chars().take(80).collect();
            return Err(EvidenceError::Format { found });
        }
        let package = PackageId::from_slice(&message.package)
            .map_err(|_| malformed("the package id", "it is not 32 bytes"))?;
        check_count(
            "conventions",
            &message.conventions,
            EVIDENCE_CONVENTIONS_MAX,
        )?;
        check_count("sheets", &message.sheets, EVIDENCE_SHEETS_MAX)?;
        check_count("logs", &message.logs, EVIDENCE_LOGS_MAX)?;
        for log in &message.logs {
            check_log(log)?;
        }
        if !message
            .logs
            .is_sorted_by(|one, next| one.party < next.party)
        {
            return Err(malformed("the logs", "they are not by party, ascending"));
        }
        Ok(Self { package, message })
    }

    /// Package that it is about.
    pub fn package(&self) -> PackageId {
        self.package
    }
}

fn check_count<T>(place: &str, items: &[T], limit: usize) -> Result<(), EvidenceError> {
    match items.len() {
        0 => Err(malformed(&format!("the {place}"), "there are none")),
        count if count > limit => Err(malformed(&format!("the {place}"), "there are too many")),
        _ => Ok(()),
    }
}

fn check_log(log: &v1::LogEvidence) -> Result<(), EvidenceError> {
    let party =
        PartyId::parse(&log.party).map_err(|_| malformed("a log", "its party is no party id"))?;
    let name = |what: &str| format!("{what} of the log of {party}");
    check_count(
        &name("checkpoints"),
        &log.checkpoints,
        EVIDENCE_CHECKPOINTS_MAX,
    )?;
    check_count(&name("entries"), &log.entries, EVIDENCE_ENTRIES_MAX)?;
    let most = log.checkpoints.iter().map(|each| each.time_stamps.len());
    if most.max().unwrap_or(0) > EVIDENCE_TIME_STAMPS_MAX {
        let place = name("the time-stamps under a checkpoint");
        return Err(malformed(&place, "there are too many"));
    }
    if !log.entries.is_sorted_by(|one, next| one.index < next.index) {
        return Err(malformed(
            &name("the entries"),
            "they are not by index, ascending",
        ));
    }
    let consistencies = log.checkpoints.iter().map(|each| &each.consistency);
    let inclusions = log.entries.iter().flat_map(|entry| &entry.inclusions);
    let mut hashes = consistencies
        .chain(inclusions.map(|each| &each.hashes))
        .flatten();
    match hashes.all(|hash| hash.len() == crate::DIGEST_LEN) {
        true => Ok(()),
        false => Err(malformed(&name("a proof"), "a hash is not 32 bytes")),
    }
}

fn malformed(place: &str, problem: &'static str) -> EvidenceError {
    EvidenceError::Malformed {
        place: place.to_owned(),
        problem,
    }
}

/// What a checkpoint note says before anybody's signature has been looked at.
fn claimed_checkpoint(note: &[u8]) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::parse(Note::parse(note)?.text())
}
