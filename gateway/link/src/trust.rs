//! The convention and the sheets that are in force, and how newer ones are kept.
//!
//! What is configured is where trust starts. Notes that arrive in-band are written beside the
//! program's data before they count, so that a restart never goes back to an older one.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use passerelle_disk::{Disk, DiskError};
use passerelle_proto::{
    Adopted, Digest, Directory, DirectoryError, NOTE_LEN_MAX, PartyId, Placed, Problem, Roots,
};
use tokio::sync::watch;

/// Most notes that one folder may hold.
const NOTES_MAX: usize = 4096;

/// Where trust starts, as a configuration names it.
#[derive(Clone, Debug)]
pub struct TrustSource {
    /// The configuration file, for messages.
    pub file: PathBuf,
    /// The convention's signed note.
    pub convention: PathBuf,
    /// Folder of party sheets (signed notes).
    pub sheets: PathBuf,
    /// Root key fingerprint of each signatory, as compared on paper.
    pub roots: Vec<(PartyId, Placed<String>)>,
    /// Folder where newer notes are kept.
    pub kept: PathBuf,
}

/// Everything that is believed about parties, and the folder where newer notes are kept.
pub struct TrustStore {
    disk: Arc<dyn Disk>,
    source: TrustSource,
    current: watch::Sender<Directory>,
    // Digests of configured notes that were looked at, taken over or not.
    looked: Mutex<BTreeSet<Digest>>,
    // One note is taken over at a time: read, decide, write, publish.
    adopting: Mutex<()>,
}

/// Why a note was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It is not valid, or contradicts one that is known.
    #[error(transparent)]
    Note(#[from] DirectoryError),
    /// It could not be written.
    #[error("the note could not be kept: {0}; make room or mend the disk, it is sent again")]
    Write(#[from] DiskError),
}

impl AdoptError {
    /// Whether somebody has signed two texts under one number: nothing may go on then.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Note(DirectoryError::Conflict { .. }))
    }
}

impl TrustStore {
    /// Reads what is configured and what was kept, and verifies all of it.
    ///
    /// # Errors
    /// Every file that cannot be used, with a remedy.
    pub fn open(disk: &Arc<dyn Disk>, config: &TrustSource) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let roots = roots(config, &mut problems);
        let folder = config.kept.clone();
        let mut conventions = Vec::new();
        match read_note(disk.as_ref(), &config.convention) {
            Ok(note) => conventions.push(note),
            Err(error) => problems.push(unreadable(
                &config.convention,
                &error,
                "name the signed convention in [trust] convention",
            )),
        }
        let mut sheets = match read_notes(disk.as_ref(), &config.sheets) {
            Ok(notes) => notes,
            Err(error) => {
                let remedy = "name the folder of signed sheets in [trust] sheets";
                problems.push(unreadable(&config.sheets, &error, remedy));
                Vec::new()
            }
        };
        for (kept, into) in [("conventions", &mut conventions), ("sheets", &mut sheets)] {
            let kept = folder.join(kept);
            match read_notes(disk.as_ref(), &kept) {
                Ok(notes) => into.extend(notes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    problems.push(unreadable(
                        &kept,
                        &error,
                        "restore the folder from a backup",
                    ));
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let directory = Directory::load(&roots, &conventions, &sheets).map_err(|error| {
            vec![Problem {
                file: match error {
                    DirectoryError::Sheet(_) => {
                        damaged_sheet(disk.as_ref(), config, &roots, &conventions)
                    }
                    _ => config.convention.clone(),
                },
                line: None,
                what: error.to_string(),
                remedy: "ask both signatories for the notes in force, and compare the root \
                         fingerprints with the signed letter"
                    .to_owned(),
            }]
        })?;
        let looked = conventions.iter().chain(&sheets);
        let looked = looked.map(|note| Digest::of(note)).collect();
        Ok(Self {
            disk: disk.clone(),
            source: config.clone(),
            current: watch::Sender::new(directory),
            looked: Mutex::new(looked),
            adopting: Mutex::new(()),
        })
    }

    /// Takes over what has been put where the configuration says since it was looked at last.
    /// Blocks.
    ///
    /// Returns what came of each new note, with its file; a file that cannot be read is looked at
    /// again the next time.
    pub fn look(&self) -> Vec<(PathBuf, Result<Option<Digest>, AdoptError>)> {
        // The convention first: it may name the root keys that sign the sheets.
        let mut paths = vec![self.source.convention.clone()];
        paths.extend(note_paths(self.disk.as_ref(), &self.source.sheets).unwrap_or_default());
        let mut looked = self
            .looked
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut found = Vec::new();
        for path in paths {
            let Ok(note) = read_note(self.disk.as_ref(), &path) else {
                continue;
            };
            if looked.insert(Digest::of(&note)) {
                let adopted = self.adopt(&note);
                found.push((path, adopted));
            }
        }
        found
    }

    /// Keeps what is in force beside the program's data: when what the configuration names is
    /// replaced, the next start needs both, each version of the convention being signed under the
    /// root keys of the one before. Blocks.
    ///
    /// # Errors
    /// [`AdoptError::Write`].
    pub fn keep_in_force(&self) -> Result<(), AdoptError> {
        let directory = self.directory();
        self.keep("conventions", directory.convention_note())?;
        let sheets = directory.sheets();
        let mut notes = sheets.filter_map(|sheet| directory.sheet_note(&sheet.party));
        notes.try_for_each(|note| self.keep("sheets", note).map(drop))
    }

    /// Keeps a note, unless it is kept already; its digest.
    fn keep(&self, kind: &str, note: &[u8]) -> Result<Digest, AdoptError> {
        let digest = Digest::of(note);
        let folder = self.source.kept.join(kind);
        let path = folder.join(format!("{digest}.note"));
        if !self.disk.is_file(&path) {
            self.disk.create_directories(&folder)?;
            self.disk.replace(&path, note)?;
        }
        Ok(digest)
    }

    /// What is in force now.
    pub fn directory(&self) -> Directory {
        self.current.borrow().clone()
    }

    /// Follows what is in force.
    pub fn subscribe(&self) -> watch::Receiver<Directory> {
        self.current.subscribe()
    }

    /// Takes over a note if it is newer than what is known; `Some` is its digest.
    ///
    /// The note is on stable storage before it counts. Blocks; call it on a blocking thread.
    ///
    /// # Errors
    /// [`AdoptError`]; nothing has changed then.
    pub fn adopt(&self, note: &[u8]) -> Result<Option<Digest>, AdoptError> {
        let _one = self
            .adopting
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let Adopted::Newer(directory) = self.directory().adopt_note(note)? else {
            return Ok(None);
        };
        let kind = match directory.convention_note() == note {
            true => "conventions",
            false => "sheets",
        };
        let digest = self.keep(kind, note)?;
        self.current.send_replace(directory);
        Ok(Some(digest))
    }
}

fn roots(config: &TrustSource, problems: &mut Vec<Problem>) -> Roots {
    let mut roots = Roots::new();
    for (party, pin) in &config.roots {
        match pin.value.parse() {
            Ok(id) => {
                roots.insert(party.clone(), id);
            }
            Err(error) => problems.push(Problem {
                file: config.file.clone(),
                line: Some(pin.line),
                what: format!("[trust.roots] {party}: {error}"),
                remedy: "copy the fingerprint from the letter that the party signed".to_owned(),
            }),
        }
    }
    roots
}

/// The sheet that does not hold, or the folder of all of them.
fn damaged_sheet(
    disk: &dyn Disk,
    config: &TrustSource,
    roots: &Roots,
    conventions: &[Vec<u8>],
) -> PathBuf {
    let fails = |path: &PathBuf| {
        let note = read_note(disk, path).unwrap_or_default();
        let loaded = Directory::load(roots, conventions, &[note]);
        matches!(loaded, Err(DirectoryError::Sheet(_)))
    };
    let paths = note_paths(disk, &config.sheets).unwrap_or_default();
    let found = paths.into_iter().find(fails);
    found.unwrap_or_else(|| config.sheets.clone())
}

fn unreadable(file: &Path, error: &io::Error, remedy: &str) -> Problem {
    Problem {
        file: file.to_owned(),
        line: None,
        what: format!("cannot be read: {error}"),
        remedy: remedy.to_owned(),
    }
}

fn read_note(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    // What is configured may be a link.
    let length = fs::metadata(path)?.len();
    if length > NOTE_LEN_MAX as u64 {
        let what = format!("{length} bytes; a note has at most {NOTE_LEN_MAX}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    disk.read(path)
}

fn read_notes(disk: &dyn Disk, folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let paths = note_paths(disk, folder)?;
    paths.iter().map(|path| read_note(disk, path)).collect()
}

fn note_paths(disk: &dyn Disk, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = disk.list(folder)?;
    paths.retain(|path| {
        let extension = path.extension();
        extension.is_some_and(|extension| extension == "note")
    });
    paths.truncate(NOTES_MAX);
    Ok(paths)
}
