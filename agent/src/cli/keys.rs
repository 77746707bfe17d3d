//! `passerelle keys`: make keys and look at them.

use std::fmt::{self, Display};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use passerelle_proto::{
    COMPOSITE_ALGORITHM, KeyTextError, LOG_ALGORITHM, LogSigner, LogVerifier, PartyId,
    RECIPIENT_ALGORITHM, RecipientKey, RecipientSecret, SecretFileError, SigningKey, VerifyingKey,
    read_secret_file, write_secret_file,
};
use serde::Serialize;

use super::arguments::{KeyKind, NewKeyArguments};
use super::failure::{Exit, Failure};
use super::output::Output;

/// Longest public key file that is read, in bytes.
const PUBLIC_FILE_LEN_MAX: u64 = 64 * 1024;

/// A key as the command line shows it.
#[derive(Debug, Serialize)]
pub(super) struct KeyView {
    pub(super) party: String,
    pub(super) algorithm: &'static str,
    /// Full key id in groups of four hex digits; empty for a public log key, which has two ids.
    pub(super) fingerprint: String,
    public: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_file: Option<PathBuf>,
}

impl Display for KeyView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "party        {}", self.party)?;
        writeln!(f, "algorithm    {}", self.algorithm)?;
        if !self.fingerprint.is_empty() {
            writeln!(f, "fingerprint  {}", self.fingerprint)?;
        }
        if let Some(file) = &self.secret_file {
            writeln!(
                f,
                "secret key   {} (keep it from everybody)",
                file.display()
            )?;
        }
        match &self.public_file {
            Some(file) => writeln!(f, "public key   {}", file.display()),
            None => writeln!(
                f,
                "public key   {}",
                self.public.replace('\n', "\n             ")
            ),
        }
    }
}

/// Makes a key.
pub(super) fn new(arguments: &NewKeyArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let NewKeyArguments { party, kind, out } = arguments;
    let (secret, mut view) = match kind {
        KeyKind::Recipient => {
            let key = RecipientSecret::generate(party);
            (key.to_secret_text(), of_recipient(key.public()))
        }
        KeyKind::Log => {
            let key = LogSigner::generate(party);
            (key.to_secret_text(), of_log_signer(&key))
        }
        KeyKind::Root | KeyKind::Agent | KeyKind::Gateway | KeyKind::Operator => {
            let key = SigningKey::generate(party);
            (key.to_secret_text(), of_signing(key.verifying_key()))
        }
    };
    let public = out.with_extension("public");
    if &public == out {
        let what = "a secret key's file cannot be called `.public`";
        return Err(Failure::new(
            Exit::Usage,
            what,
            "choose another name with --out",
        ));
    }
    write_secret_file(out, &secret).map_err(|error| secret_failure(&error))?;
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).open(&public);
    let written = file.and_then(|mut file| {
        writeln!(file, "{}", view.public)?;
        file.sync_all()
    });
    written.map_err(|error| Failure::writing(&public, &error))?;
    view.secret_file = Some(out.clone());
    view.public_file = Some(public);
    output.answer(&view)
}

/// Shows a key.
pub(super) fn show(file: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    output.answer(&read(file)?)
}

fn of_signing(key: &VerifyingKey) -> KeyView {
    view(
        key.party(),
        COMPOSITE_ALGORITHM,
        key.id().fingerprint(),
        key.to_string(),
    )
}

fn of_recipient(key: &RecipientKey) -> KeyView {
    view(
        key.party(),
        RECIPIENT_ALGORITHM,
        key.id().fingerprint(),
        key.to_string(),
    )
}

fn of_log_signer(key: &LogSigner) -> KeyView {
    let public = key.verifier().to_vkeys().join("\n");
    view(key.party(), LOG_ALGORITHM, key.id().fingerprint(), public)
}

fn view(party: &PartyId, algorithm: &'static str, fingerprint: String, public: String) -> KeyView {
    let party = party.to_string();
    KeyView {
        party,
        algorithm,
        fingerprint,
        public,
        secret_file: None,
        public_file: None,
    }
}

/// Reads a secret or public key of any kind.
pub(super) fn read(file: &Path) -> Result<KeyView, Failure> {
    let text = read_public(file)?;
    if let Ok(key) = text.parse::<VerifyingKey>() {
        return Ok(of_signing(&key));
    }
    if let Ok(key) = text.parse::<RecipientKey>() {
        return Ok(of_recipient(&key));
    }
    if let Ok(log) = log_verifier(&text) {
        let party = log.name().split('.').next().unwrap_or_default().to_owned();
        let public = log.to_vkeys().join("\n");
        return Ok(KeyView {
            party,
            algorithm: LOG_ALGORITHM,
            fingerprint: String::new(),
            public,
            secret_file: None,
            public_file: None,
        });
    }
    // What is no public key has to be a secret one, with a secret one's permissions.
    match text.parse::<VerifyingKey>() {
        Err(KeyTextError::SecretGiven) => {}
        Err(error) => return Err(damaged(file, &error)),
        Ok(_) => {}
    }
    drop(text);
    let text = read_secret_file(file).map_err(|error| secret_failure(&error))?;
    let signing = SigningKey::from_secret_text(&text);
    if let Ok(key) = &signing {
        return Ok(of_signing(key.verifying_key()));
    }
    if let Ok(key) = RecipientSecret::from_secret_text(&text) {
        return Ok(of_recipient(key.public()));
    }
    match (LogSigner::from_secret_text(&text), signing) {
        (Ok(key), _) => Ok(of_log_signer(&key)),
        (Err(_), Err(error)) | (Err(error), Ok(_)) => Err(damaged(file, &error)),
    }
}

/// Reads a log's two public keys, one per line.
pub(super) fn log_verifier(text: &str) -> Result<LogVerifier, KeyTextError> {
    let vkeys: Vec<String> = text.lines().map(str::to_owned).collect();
    let origin = text.split('+').next().unwrap_or_default();
    LogVerifier::from_vkeys(origin, &vkeys)
}

/// Reads the text of a public key file, trimmed.
pub(super) fn read_public(file: &Path) -> Result<String, Failure> {
    let length = fs::metadata(file)
        .map_err(|error| Failure::reading(file, &error))?
        .len();
    if length > PUBLIC_FILE_LEN_MAX {
        let what = format_args!("{}: {length} bytes are too many for a key", file.display());
        return Err(Failure::new(Exit::Data, what, "name the right file"));
    }
    let text = fs::read_to_string(file).map_err(|error| Failure::reading(file, &error))?;
    Ok(text.trim().to_owned())
}

/// Reads a secret signing key.
pub(super) fn read_signing(file: &Path) -> Result<SigningKey, Failure> {
    let text = read_secret_file(file).map_err(|error| secret_failure(&error))?;
    SigningKey::from_secret_text(&text).map_err(|error| damaged(file, &error))
}

/// A key text that cannot be used.
pub(super) fn damaged(file: &Path, error: &KeyTextError) -> Failure {
    let what = format_args!("{}: {error}", file.display());
    Failure::new(
        Exit::Data,
        what,
        "name the right file, or copy the key again from its source",
    )
}

/// A secret file that is not used.
pub(super) fn secret_failure(error: &SecretFileError) -> Failure {
    let (exit, remedy) = match error {
        SecretFileError::Mode { .. } => (Exit::NoPermission, "make the file its owner's alone"),
        SecretFileError::Exists { .. } => (Exit::CannotCreate, "nothing was overwritten"),
        SecretFileError::TooLong { .. } => (Exit::Data, "name the right file"),
        SecretFileError::Io { .. } => (Exit::NoInput, "check the path"),
    };
    Failure::new(exit, error, remedy)
}
