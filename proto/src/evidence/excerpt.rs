//! Making evidence from logs.

use std::collections::BTreeSet;

use prost::Message;

use super::{
    Covers, EVIDENCE_CHECKPOINTS_MAX, EVIDENCE_TIME_STAMPS_MAX, EvidenceError, FORMAT,
    UntrustedEvidence, claimed_checkpoint,
};
use crate::merkle::{StoredHashes, consistency_proof, inclusion_proof};
use crate::v1::{self, entry::Event};
use crate::{
    CheckpointError, Digest, Directory, LogProof, Note, PackageId, PartyId, signed_objects,
};

/// Why no excerpt of a log can be made.
#[derive(Debug, thiserror::Error)]
pub enum ExcerptError<E> {
    /// A checkpoint that cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(E),
    /// An entry that the newest checkpoint does not cover.
    #[error("entry {index} is behind the checkpoint of {size} entries: sign a newer one")]
    Behind {
        /// Which entry.
        index: u64,
        /// Entries under the checkpoint.
        size: u64,
    },
}

/// The excerpt of one log: these entries, with proofs under every checkpoint that covers one.
///
/// `newest` is the log's own newest checkpoint. It is left out where what partners have cosigned
/// covers every entry. `store` must hold the hashes of that many entries.
///
/// # Errors
/// [`ExcerptError`].
pub fn excerpt<S: StoredHashes>(
    store: &S,
    party: &PartyId,
    newest: &[u8],
    covers: &Covers,
    entries: Vec<(u64, Vec<u8>)>,
) -> Result<v1::LogEvidence, ExcerptError<S::Error>> {
    let first = entries.iter().map(|(index, _)| *index).min().unwrap_or(0);
    let last = entries.iter().map(|(index, _)| *index).max().unwrap_or(0);
    let size = claimed_checkpoint(newest)?.size;
    let notes = notes(newest, size, covers, first, last)?;
    if last >= size || notes.iter().any(|(covered, _)| *covered > size) {
        return Err(ExcerptError::Behind { index: last, size });
    }
    let mut checkpoints = Vec::new();
    let mut before = 0;
    for (size, note) in &notes {
        let consistency = match before {
            0 => Vec::new(),
            old => consistency_proof(store, old, *size).map_err(ExcerptError::Log)?,
        };
        checkpoints.push(v1::EvidenceCheckpoint {
            note: note.clone(),
            consistency: consistency.iter().map(|hash| hash.0.to_vec()).collect(),
            time_stamps: tokens(note, &covers.stamped),
        });
        before = *size;
    }
    let sizes: Vec<u64> = notes.iter().map(|(size, _)| *size).collect();
    let entries = entries.into_iter().map(|(index, entry)| {
        let mut inclusions = Vec::new();
        for size in sizes.iter().filter(|size| **size > index) {
            let hashes = inclusion_proof(store, index, *size).map_err(ExcerptError::Log)?;
            let hashes = hashes.iter().map(|hash| hash.0.to_vec()).collect();
            inclusions.push(v1::EvidenceInclusion { hashes });
        }
        Ok(v1::EvidenceEntry {
            index,
            entry,
            inclusions,
        })
    });
    Ok(v1::LogEvidence {
        party: party.to_string(),
        checkpoints,
        entries: entries.collect::<Result<_, ExcerptError<S::Error>>>()?,
    })
}

/// The checkpoints that an excerpt needs, by size.
fn notes(
    newest: &[u8],
    size: u64,
    covers: &Covers,
    first: u64,
    last: u64,
) -> Result<Vec<(u64, Vec<u8>)>, CheckpointError> {
    let mut notes = Vec::new();
    for note in &covers.cosigned {
        notes.push((claimed_checkpoint(note)?.size, note.clone()));
    }
    notes.retain(|(size, _)| *size > first);
    if notes.iter().all(|(covered, _)| *covered <= last) {
        notes.push((size, newest.to_vec()));
    }
    for event in &covers.stamped {
        let text = |note: &[u8]| Note::parse(note).map(|note| note.text().to_owned());
        let stamped = text(&event.checkpoint)?;
        // A partner has cosigned just what was stamped, or it needs a checkpoint of its own.
        let there = notes
            .iter()
            .any(|(_, note)| text(note).as_ref() == Ok(&stamped));
        let covered = claimed_checkpoint(&event.checkpoint)?.size;
        if !there && covered > first {
            notes.push((covered, event.checkpoint.clone()));
        }
    }
    notes.sort();
    notes.dedup();
    Ok(fewer(notes, &covers.cosigned))
}

/// As many of these checkpoints, in their order, as one log in evidence may have: the first ones
/// show how early the first entries were there, the last covers them all, and so does the largest
/// that a partner has cosigned of all that are cosigned at all.
fn fewer(notes: Vec<(u64, Vec<u8>)>, cosigned: &[Vec<u8>]) -> Vec<(u64, Vec<u8>)> {
    let excess = notes.len().saturating_sub(EVIDENCE_CHECKPOINTS_MAX);
    let last = notes.len().saturating_sub(1);
    let best = notes.iter().rposition(|(_, note)| cosigned.contains(note));
    let spare = (0..last).rev().filter(|at| Some(*at) != best);
    let left_out: BTreeSet<usize> = spare.take(excess).collect();
    let kept = notes.into_iter().enumerate();
    let kept = kept.filter(|(at, _)| !left_out.contains(at));
    kept.map(|(_, note)| note).collect()
}

/// The tokens over the text of a checkpoint.
fn tokens(note: &[u8], stamped: &[v1::TimeStampedEvent]) -> Vec<Vec<u8>> {
    let text = |note: &[u8]| Note::parse(note).ok().map(|note| note.text().to_owned());
    let wanted = text(note);
    let over = stamped
        .iter()
        .filter(|event| text(&event.checkpoint) == wanted);
    let tokens: BTreeSet<Vec<u8>> = over.map(|event| event.token.clone()).collect();
    tokens.into_iter().take(EVIDENCE_TIME_STAMPS_MAX).collect()
}

/// The proof of each entry of an excerpt as a text of its own, the entry as its extra data.
///
/// Each is under the smallest cosigned checkpoint that covers its entry, or where there is none
/// under the smallest one.
pub fn log_proofs(excerpt: &v1::LogEvidence) -> Vec<LogProof> {
    let proof = |entry: &v1::EvidenceEntry| {
        // The inclusions are under the last checkpoints: those that cover the entry.
        let first = excerpt
            .checkpoints
            .len()
            .checked_sub(entry.inclusions.len())?;
        let covering = excerpt.checkpoints.get(first..)?;
        let chosen = covering.iter().position(|each| is_cosigned(&each.note));
        let chosen = chosen.unwrap_or(0);
        let hashes = entry.inclusions.get(chosen)?.hashes.iter();
        Some(LogProof {
            index: entry.index,
            hashes: hashes
                .filter_map(|hash| Digest::from_slice(hash).ok())
                .collect(),
            extra: Some(entry.entry.clone()),
            checkpoint: covering.get(chosen)?.note.clone(),
        })
    };
    excerpt.entries.iter().filter_map(proof).collect()
}

/// Whether anybody but its own log has a line under a checkpoint.
fn is_cosigned(note: &[u8]) -> bool {
    let origin = claimed_checkpoint(note).map(|checkpoint| checkpoint.origin);
    let (Ok(origin), Ok(note)) = (origin, Note::parse(note)) else {
        return false;
    };
    note.signatures().iter().any(|line| line.name != origin)
}

/// The evidence file of these excerpts, with the convention and the sheets that they need.
///
/// # Errors
/// [`EvidenceError`] when there is too much, or nothing, to put into one file.
pub fn assemble(
    package: PackageId,
    directory: &Directory,
    mut logs: Vec<v1::LogEvidence>,
) -> Result<Vec<u8>, EvidenceError> {
    logs.sort_by(|one, next| one.party.cmp(&next.party));
    let sheets = concerned(directory, &logs)
        .iter()
        .flat_map(|party| directory.sheet_notes(party))
        .map(|(_, note)| note.to_vec())
        .collect();
    let conventions = directory.convention_notes();
    let evidence = v1::Evidence {
        format: FORMAT.to_owned(),
        package: package.as_bytes().to_vec(),
        conventions: conventions.map(|(_, note)| note.to_vec()).collect(),
        sheets,
        logs,
    };
    let bytes = evidence.encode_to_vec();
    UntrustedEvidence::parse(&bytes).map(|_| bytes)
}

/// Everybody whose keys are needed: whose logs these are, whoever may have cosigned them, and
/// whoever speaks or is spoken of.
fn concerned(directory: &Directory, logs: &[v1::LogEvidence]) -> BTreeSet<PartyId> {
    // Also of those who have had one: what they cosigned then is in the file.
    let with_log = directory.sheets();
    let with_log = with_log.filter(|sheet| !directory.log_keys(&sheet.party).is_empty());
    let mut parties: BTreeSet<PartyId> = with_log.map(|sheet| sheet.party.clone()).collect();
    let mut name = |text: &str| parties.extend(PartyId::parse(text));
    for entry in logs.iter().flat_map(|log| &log.entries) {
        let event = v1::Entry::decode(entry.entry.as_slice())
            .ok()
            .and_then(|entry| entry.event);
        if let Some(Event::Accepted(accepted)) = &event
            && let Some(manifest) = &accepted.manifest
            && let Ok(manifest) = v1::Manifest::decode(manifest.body.as_slice())
        {
            name(&manifest.sender);
            manifest.recipients.iter().for_each(|party| name(party));
        }
        for signed in event.iter().flat_map(signed_objects) {
            if let Ok(statement) = v1::Statement::decode(signed.body.as_slice()) {
                name(&statement.issuer);
                name(&statement.destination);
            }
        }
    }
    parties
}
