//! `package.toml` in a dropped directory: what its sender wants beyond the flow's defaults.
//!
//! ```toml
//! title = "Allocataires par IRIS, décembre 2016"
//! period = "2016-12"
//! recipients = ["grand-dijon", "prestataire-obs"]   # default: all that the flow allows
//! parents = ["<package id>"]                        # what it was made from
//! supersedes = "<package id>"                       # what it replaces
//! ```
//!
//! The file itself does not travel: its fields do, sealed or signed.

use std::path::Path;

use passerelle_disk::{At, Disk, DiskError, Kind};
use serde::Deserialize;

/// Name of the file in a dropped directory.
pub const INSTRUCTIONS: &str = "package.toml";

/// Largest `package.toml`, in bytes.
pub const INSTRUCTIONS_MAX: u64 = 64 * 1024;

/// Longest title or period, in bytes.
pub const TITLE_MAX: usize = 256;

/// What the sender wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instructions {
    /// Shown to people on both sides; default: the dropped name. Travels sealed.
    #[serde(default)]
    pub title: Option<String>,
    /// The period that the data is about, as the partners write it. Travels sealed.
    #[serde(default)]
    pub period: Option<String>,
    /// Party names; default: all that the flow allows.
    #[serde(default)]
    pub recipients: Vec<String>,
    /// Ids of the packages that this one was made from, in full (64 hex digits).
    #[serde(default)]
    pub parents: Vec<String>,
    /// Id of the package that this one replaces, in full.
    #[serde(default)]
    pub supersedes: Option<String>,
}

/// Why a `package.toml` cannot be followed. Unless it was the disk, the sender has to change it.
#[derive(Debug, thiserror::Error)]
pub enum InstructionsError {
    /// It could not be read; perhaps later: nothing is wrong with what it says.
    #[error(transparent)]
    Read(#[from] DiskError),
    /// A directory, or something else that is not read.
    #[error("{INSTRUCTIONS} is no file; give it another name, or write instructions into a file")]
    NoFile,
    /// Larger than anything it can usefully hold.
    #[error(
        "{INSTRUCTIONS} has more than {INSTRUCTIONS_MAX} bytes; is it really the instructions?"
    )]
    TooLong,
    /// Not TOML, an unknown field, a field of another type.
    #[error("{INSTRUCTIONS}: {0}")]
    Syntax(String),
    /// Too long for a title or period.
    #[error(
        "{INSTRUCTIONS}: `{0}` is empty, too long (more than {TITLE_MAX} bytes) or has \
             control characters; shorten it to one line"
    )]
    Text(&'static str),
}

impl Instructions {
    /// Reads the file in `directory`; the default if there is none.
    pub fn read(disk: &dyn Disk, directory: &Path) -> Result<Instructions, InstructionsError> {
        let path = directory.join(INSTRUCTIONS);
        match disk.status(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(DiskError::new("inspect", &path, e).into()),
            Ok(found) if found.kind != Kind::File => return Err(InstructionsError::NoFile),
            Ok(found) if found.length > INSTRUCTIONS_MAX => return Err(InstructionsError::TooLong),
            Ok(_) => {}
        }
        let bytes = disk.read(&path).at("read", &path)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| InstructionsError::Syntax("it is not UTF-8; save it as UTF-8".into()))?;
        Self::parse(&text)
    }

    /// Parses the text of a `package.toml`.
    pub fn parse(text: &str) -> Result<Instructions, InstructionsError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let read: Instructions = toml::from_str(text)
            .map_err(|e| InstructionsError::Syntax(e.to_string().trim_end().to_owned()))?;
        for (field, value) in [("title", &read.title), ("period", &read.period)] {
            if value.as_deref().is_some_and(|v| !is_one_line(v)) {
                return Err(InstructionsError::Text(field));
            }
        }
        Ok(read)
    }
}

fn is_one_line(text: &str) -> bool {
    !text.is_empty() && text.len() <= TITLE_MAX && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_instructions_gets_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            Instructions::read(&passerelle_disk::HostDisk, dir.path()).unwrap(),
            Instructions::default()
        );
    }

    #[test]
    fn a_directory_in_the_place_of_the_instructions_is_no_trouble_of_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(INSTRUCTIONS)).unwrap();
        let read = Instructions::read(&passerelle_disk::HostDisk, dir.path());
        assert!(matches!(read, Err(InstructionsError::NoFile)), "{read:?}");
    }

    #[test]
    fn an_unknown_field_is_named_with_its_line() {
        let error = Instructions::parse("title = \"a\"\nrecipient = \"b\"\n").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("line 2") && text.contains("recipient"),
            "{text}"
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_error() {
        let read = Instructions::parse("\u{feff}title = \"a\"").unwrap();
        assert_eq!(read.title.as_deref(), Some("a"));
    }

    #[test]
    fn a_title_of_two_lines_is_refused() {
        let error = Instructions::parse("title = \"a\\nb\"").unwrap_err();
        assert!(matches!(error, InstructionsError::Text("title")), "{error}");
    }
}
