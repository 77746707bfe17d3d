//! Texts and signed notes as files.

use std::fs;
use std::path::Path;

use passerelle_proto::{NOTE_LEN_MAX, Note, NoteError};

use super::failure::{Exit, Failure};

/// Reads a signed note, or a plain text as a note without signatures.
pub(super) fn read(file: &Path) -> Result<Note, Failure> {
    let length = fs::metadata(file)
        .map_err(|error| Failure::reading(file, &error))?
        .len();
    if length > NOTE_LEN_MAX as u64 {
        let what = format_args!("{}: {length} bytes are too many for a note", file.display());
        return Err(Failure::new(Exit::Data, what, "name the right file"));
    }
    let bytes = fs::read(file).map_err(|error| Failure::reading(file, &error))?;
    match Note::parse(&bytes) {
        Ok(note) => Ok(note),
        // A plain text has no signature block; anything else is a note that is damaged.
        Err(_) if !has_signature_line(&bytes) => {
            let text = std::str::from_utf8(&bytes).map_err(|_| {
                unreadable(
                    file,
                    &"it is not UTF-8, and nobody signs what cannot be read",
                )
            })?;
            Note::unsigned(text).map_err(|error| unreadable(file, &error))
        }
        Err(error) => Err(unreadable(file, &error)),
    }
}

/// Writes a note; a file that is there is replaced only if it is one of the same text.
pub(super) fn write(file: &Path, note: &Note) -> Result<(), Failure> {
    if file.exists() {
        let same = read(file).is_ok_and(|there| there.text() == note.text());
        if !same {
            let what = format_args!("{} exists and is another text", file.display());
            let remedy = "nothing was overwritten; choose another name with --out";
            return Err(Failure::new(Exit::CannotCreate, what, remedy));
        }
    }
    // The folder is synced too, and a bare file name does not tell it.
    let absolute = std::path::absolute(file).map_err(|error| Failure::writing(file, &error))?;
    let written = passerelle_disk::system().replace(&absolute, &note.to_bytes());
    written.map_err(|error| Failure::writing(file, &error.source))
}

/// What is wrong with a text that the proto crate refuses.
pub(super) fn unreadable(file: &Path, error: &dyn std::fmt::Display) -> Failure {
    let what = format_args!("{}: {error}", file.display());
    Failure::new(
        Exit::Data,
        what,
        "correct the text, or ask its author for it again",
    )
}

/// Names of those whose signature lines a note carries, verified or not.
pub(super) fn signers(note: &Note) -> Vec<String> {
    note.signatures()
        .iter()
        .map(|line| line.name.clone())
        .collect()
}

/// One word on whether a key's signature holds.
pub(super) fn verdict(result: &Result<(), NoteError>) -> &'static str {
    match result {
        Ok(()) => "signed",
        Err(NoteError::Missing { .. }) => "not signed",
        Err(_) => "WRONG SIGNATURE",
    }
}

fn has_signature_line(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).contains("\n\n\u{2014} ")
}
