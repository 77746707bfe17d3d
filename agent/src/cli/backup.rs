//! `passerelle keys backup` and `keys restore`: the secret keys of a program in one sealed file.

use std::fmt::{self, Display};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use passerelle_proto::{
    BACKUP_LEN_MAX, BackupError, BackupFile, EntryName, open_backup, read_secret_file, seal_backup,
};
use serde::Serialize;
use zeroize::Zeroizing;

use super::arguments::{BackupArguments, RestoreArguments};
use super::configured::Configured;
use super::failure::{Exit, Failure};
use super::keys::secret_failure;
use super::output::Output;
use super::passphrase;

/// Longest certificate file that is backed up, in bytes.
const FILE_LEN_MAX: u64 = 256 * 1024;

#[derive(Debug, Serialize)]
struct Kept {
    file: PathBuf,
    holds: Vec<String>,
}

impl Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sealed into {}:", self.file.display())?;
        for name in &self.holds {
            writeln!(f, "  {name}")?;
        }
        writeln!(
            f,
            "keep it away from this machine, and the passphrase away from it;\n\
             make a new one whenever a key changes"
        )
    }
}

/// Seals the keys that a configuration names.
pub(super) fn backup(arguments: &BackupArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let configured = Configured::load(&arguments.config)?;
    let base = arguments.config.parent().unwrap_or(Path::new(""));
    let mut files: Vec<BackupFile> = Vec::new();
    let (secrets, certificate) = configured.key_files();
    for path in secrets.iter().chain([&certificate]) {
        let content = match *path == certificate {
            true => read_certificate(path)?,
            false => read_secret(path)?,
        };
        let name = name_of(path, base)?;
        if files.iter().any(|(known, _)| *known == name) {
            let what = format_args!("two key files are called {}", name.as_str());
            let remedy = "put them below the folder of the configuration";
            return Err(Failure::new(Exit::Config, what, remedy));
        }
        files.push((name, content));
    }
    let passphrase = passphrase::chosen(arguments.passphrase_file.as_deref())?;
    let sealed = seal_backup(&files, &passphrase);
    let sealed = sealed.map_err(|error| failure(&arguments.out, &error))?;
    write_new(&arguments.out, &sealed).map_err(|error| Failure::writing(&arguments.out, &error))?;
    output.answer(&Kept {
        file: arguments.out.clone(),
        holds: names(&files),
    })
}

#[derive(Debug, Serialize)]
struct Restored {
    files: Vec<PathBuf>,
}

impl Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for file in &self.files {
            writeln!(f, "restored {}", file.display())?;
        }
        Ok(())
    }
}

/// Writes the keys of a backup; a file that is there already stops it before anything is written.
pub(super) fn restore(
    arguments: &RestoreArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let file = &arguments.file;
    let length = fs::metadata(file).map_err(|error| Failure::reading(file, &error))?;
    if length.len() > BACKUP_LEN_MAX {
        return Err(failure(file, &BackupError::Form));
    }
    let sealed = fs::read(file).map_err(|error| Failure::reading(file, &error))?;
    let passphrase = passphrase::known(arguments.passphrase_file.as_deref())?;
    let files = open_backup(&sealed, &passphrase).map_err(|error| failure(file, &error))?;
    let place = |name: &EntryName| arguments.into.join(name.as_str());
    if let Some((name, _)) = files.iter().find(|(name, _)| place(name).exists()) {
        let there = place(name);
        let what = format_args!("{} exists already", there.display());
        let remedy = "nothing was written: move it away, or restore into another directory";
        return Err(Failure::new(Exit::CannotCreate, what, remedy));
    }
    let mut written = Vec::new();
    for (name, content) in &files {
        let path = place(name);
        let folder = path.parent().unwrap_or(Path::new("."));
        let made = fs::create_dir_all(folder).and_then(|()| write_new(&path, content));
        made.map_err(|error| Failure::writing(&path, &error))?;
        written.push(path);
    }
    output.answer(&Restored { files: written })
}

fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let text = read_secret_file(path).map_err(|error| secret_failure(&error))?;
    Ok(Zeroizing::new(text.as_bytes().to_vec()))
}

fn read_certificate(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let length = fs::metadata(path).map_err(|error| Failure::reading(path, &error))?;
    if length.len() > FILE_LEN_MAX {
        let what = format_args!("{}: too long for a certificate", path.display());
        return Err(Failure::new(Exit::Data, what, "name the right file"));
    }
    let content = fs::read(path).map_err(|error| Failure::reading(path, &error))?;
    Ok(Zeroizing::new(content))
}

/// Where a file stands below the configuration, or its own name when it is elsewhere.
fn name_of(path: &Path, base: &Path) -> Result<EntryName, Failure> {
    let relative = path
        .strip_prefix(base)
        .ok()
        .or(path.file_name().map(Path::new));
    let text = relative.and_then(Path::to_str).unwrap_or_default();
    EntryName::parse(text).map_err(|error| {
        let what = format_args!("{} cannot be backed up: {error}", path.display());
        Failure::new(Exit::Data, what, "rename the file")
    })
}

fn names(files: &[BackupFile]) -> Vec<String> {
    files
        .iter()
        .map(|(name, _)| name.as_str().to_owned())
        .collect()
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn failure(file: &Path, error: &BackupError) -> Failure {
    let (exit, remedy) = match error {
        BackupError::Passphrase => (Exit::NoPermission, "try again; nothing was written"),
        BackupError::Short(_) => (Exit::Usage, "nothing was written"),
        _ => (Exit::Data, "nothing was written"),
    };
    Failure::new(exit, format_args!("{}: {error}", file.display()), remedy)
}
