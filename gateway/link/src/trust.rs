//! The convention and the sheets that are in force, and how newer ones are kept.
//!
//! What is configured is where trust starts. Notes that arrive in-band are written beside the
//! program's data before they count, so that a restart never goes back to an older one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    // What came of each configured note that was looked at.
    looked: Mutex<BTreeMap<Digest, Came>>,
    // One note is taken over at a time: read, decide, write, publish. How many were.
    adopting: Mutex<u64>,
}

/// What came of a note when it was looked at last.
#[derive(Debug)]
enum Came {
    /// It is known now, or never will be.
    Settled,
    /// It does not hold under what was in force after so many notes were taken over: the next one
    /// may name the root key that has signed it, or its party.
    Refused { why: String, adopted: u64 },
    /// It could not be written, and nothing is wrong with it.
    Unkept { why: String },
}

impl Came {
    fn of(result: &Result<Option<Digest>, AdoptError>, adopted: u64) -> Self {
        match result {
            Err(error) if error.is_conflict() => Self::Settled,
            Err(error @ AdoptError::Note(_)) => Self::Refused {
                why: error.to_string(),
                adopted,
            },
            Err(error @ AdoptError::Write(_)) => Self::Unkept {
                why: error.to_string(),
            },
            Ok(_) => Self::Settled,
        }
    }

    /// Whether something else may come of it once `now` notes were taken over.
    fn may_change(&self, now: u64) -> bool {
        match self {
            Self::Settled => false,
            Self::Refused { adopted, .. } => *adopted != now,
            Self::Unkept { .. } => true,
        }
    }

    fn why(&self) -> Option<&str> {
        match self {
            Self::Settled => None,
            Self::Refused { why, .. } | Self::Unkept { why } => Some(why),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a note was not taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// It is not valid, or contradicts one that is known.
    #[error(transparent)]
    Note(#[from] DirectoryError),
    /// It could not be written.
    #[error("the note could not be kept: {0}; make room or mend the disk, it is tried again")]
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
        let looked = looked.map(|note| (Digest::of(note), Came::Settled));
        let looked = looked.collect();
        Ok(Self {
            disk: disk.clone(),
            source: config.clone(),
            current: watch::Sender::new(directory),
            looked: Mutex::new(looked),
            adopting: Mutex::new(0),
        })
    }

    /// Takes over what has been put where the configuration says since it was looked at last.
    /// Blocks.
    ///
    /// A file that cannot be read and a note that cannot be kept are looked at again the next time,
    /// and a note that was refused once another one has been taken over.
    ///
    /// Returns what came of each note, with its file; of the same failure only once.
    pub fn look(&self) -> Vec<(PathBuf, Result<Option<Digest>, AdoptError>)> {
        // The convention first: it may name the root keys that sign the sheets.
        let mut paths = vec![self.source.convention.clone()];
        paths.extend(note_paths(self.disk.as_ref(), &self.source.sheets).unwrap_or_default());
        let mut looked = locked(&self.looked);
        let mut found = Vec::new();
        for path in paths {
            let Ok(note) = read_note(self.disk.as_ref(), &path) else {
                continue;
            };
            let (digest, adopted) = (Digest::of(&note), *locked(&self.adopting));
            let before = looked.get(&digest);
            if before.is_some_and(|came| !came.may_change(adopted)) {
                continue;
            }
            let result = self.adopt(&note);
            let came = Came::of(&result, adopted);
            let told = before.and_then(Came::why);
            if told.is_none() || told != came.why() {
                found.push((path, result));
            }
            looked.insert(digest, came);
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
        notes.try_for_each(|note| self.keep("sheets", note))
    }

    /// Keeps a note, unless it is kept already.
    fn keep(&self, kind: &str, note: &[u8]) -> Result<(), AdoptError> {
        match self.disk.is_file(&self.kept_path(kind, &Digest::of(note))) {
            true => Ok(()),
            false => self.write(kind, note).map(drop),
        }
    }

    /// Writes a note that is to be kept; its digest. What an attempt that failed has left of it is
    /// written once more: that file may not be durable.
    fn write(&self, kind: &str, note: &[u8]) -> Result<Digest, AdoptError> {
        let digest = Digest::of(note);
        self.disk.create_directories(&self.source.kept.join(kind))?;
        self.disk.replace(&self.kept_path(kind, &digest), note)?;
        Ok(digest)
    }

    fn kept_path(&self, kind: &str, digest: &Digest) -> PathBuf {
        self.source.kept.join(kind).join(format!("{digest}.note"))
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
        let mut adopted = locked(&self.adopting);
        let Adopted::Newer(directory) = self.directory().adopt_note(note)? else {
            return Ok(None);
        };
        let kind = match directory.convention_note() == note {
            true => "conventions",
            false => "sheets",
        };
        let digest = self.write(kind, note)?;
        self.current.send_replace(directory);
        *adopted += 1;
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

#[cfg(test)]
mod tests {
    use passerelle_disk::{Fault, FaultyDisk, Flavour};
    use passerelle_proto::SigningKey;
    use passerelle_proto::fixture::{
        PARTIES, convention_text, keys, party, sheet, sign_convention,
    };

    use super::*;

    /// A folder with the notes of the fixture, as a configuration names them.
    struct Scene {
        dir: tempfile::TempDir,
        source: TrustSource,
    }

    impl Scene {
        fn make() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            fs::create_dir(at("sheets")).unwrap();
            fs::write(at("convention.note"), sign_convention(&convention_text())).unwrap();
            let root = |name: &str| {
                let value = keys(name).root.id().to_string();
                (party(name), Placed { value, line: 1 })
            };
            let source = TrustSource {
                file: at("gateway.toml"),
                convention: at("convention.note"),
                sheets: at("sheets"),
                roots: ["caf21", "grand-dijon"].map(root).into(),
                kept: at("kept"),
            };
            let scene = Self { dir, source };
            for name in PARTIES {
                scene.put(name, 1, &keys(name).root);
            }
            scene
        }

        /// Signs a sheet of a party and puts it where the configuration says; its digest.
        fn put(&self, name: &str, seq: u64, root: &SigningKey) -> Digest {
            let mut sheet = sheet(name);
            sheet.seq = seq;
            let note = sheet.sign(root).unwrap();
            let file = self.source.sheets.join(format!("{name}-{seq}.note"));
            fs::write(file, &note).unwrap();
            Digest::of(&note)
        }

        fn open(&self, disk: &Arc<dyn Disk>) -> TrustStore {
            TrustStore::open(disk, &self.source).unwrap()
        }
    }

    fn seq(store: &TrustStore, name: &str) -> u64 {
        store.directory().sheet(&party(name)).unwrap().seq
    }

    /// What one look has found: digests of what was taken over, and why others were not.
    fn look(store: &TrustStore) -> Vec<Result<Option<Digest>, String>> {
        let found = store.look().into_iter();
        found
            .map(|(_, result)| result.map_err(|error| error.to_string()))
            .collect()
    }

    #[test]
    fn a_note_that_cannot_be_kept_is_told_once_and_taken_over_when_it_can() {
        let scene = Scene::make();
        let store = scene.open(&passerelle_disk::system());
        assert_eq!(look(&store), []);
        // Where it is to be kept there is no room for a folder.
        fs::write(&scene.source.kept, b"in the way").unwrap();
        let note = scene.put("caf21", 2, &keys("caf21").root);
        let told = look(&store);
        let why = told[0].as_ref().unwrap_err();
        assert!(why.contains("the note could not be kept"), "{told:?}");
        assert_eq!((told.len(), look(&store)), (1, vec![]));
        assert_eq!(seq(&store, "caf21"), 1);
        fs::remove_file(&scene.source.kept).unwrap();
        assert_eq!(look(&store), [Ok(Some(note))]);
        assert_eq!((seq(&store, "caf21"), look(&store)), (2, vec![]));
    }

    #[test]
    fn a_note_is_durable_once_it_counts_whatever_failed_before() {
        for flavour in [Flavour::Lost, Flavour::Persisted] {
            for operation in 1.. {
                let scene = Scene::make();
                let full = true;
                let fault = Some(Fault {
                    operation,
                    full,
                    flavour,
                });
                let faulty = Arc::new(FaultyDisk::new(passerelle_disk::system(), fault));
                let disk: Arc<dyn Disk> = faulty.clone();
                let store = scene.open(&disk);
                let note = scene.put("caf21", 2, &keys("caf21").root);
                let first = look(&store);
                if !faulty.has_failed() {
                    assert!(operation > 5, "only {operation} operations");
                    break;
                }
                assert!(first[0].is_err(), "{operation} {flavour:?}: {first:?}");
                assert_eq!(seq(&store, "caf21"), 1);
                let before = faulty.operations();
                assert_eq!(look(&store), [Ok(Some(note))], "{operation} {flavour:?}");
                // Written, synced, named, and the name synced.
                assert!(faulty.operations() >= before + 5, "{operation} {flavour:?}");
            }
        }
    }

    #[test]
    fn a_sheet_that_comes_before_the_amendment_that_names_its_root_key_counts_with_it() {
        let scene = Scene::make();
        let store = scene.open(&passerelle_disk::system());
        let root = SigningKey::from_seed(&party("caf21"), &[99; 64]);
        let sheet = scene.put("caf21", 2, &root);
        let told = look(&store);
        assert!(told.len() == 1 && told[0].is_err(), "{told:?}");
        // Whatever else is taken over, the same failure is not told again.
        let other = scene.put("grand-dijon", 2, &keys("grand-dijon").root);
        assert_eq!(look(&store), [Ok(Some(other))]);
        assert_eq!(look(&store), []);
        let before = Digest::of(convention_text().as_bytes());
        let next = format!("version = 2\nsupersedes = \"{before}\"");
        let text = convention_text().replacen("version = 1", &next, 1);
        let old = keys("caf21").root.verifying_key().to_string();
        let text = text.replace(&old, &root.verifying_key().to_string());
        let amendment = sign_convention(&text);
        fs::write(&scene.source.convention, &amendment).unwrap();
        let expected = [Ok(Some(Digest::of(&amendment))), Ok(Some(sheet))];
        assert_eq!(look(&store), expected);
        assert_eq!(look(&store), []);
        assert!(scene.dir.path().join("kept/conventions").is_dir());
    }
}
