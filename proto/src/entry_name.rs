//! Names of files inside a package: relative, and harmless in every inbox.

use std::fmt;

use unicode_normalization::is_nfc;

/// Longest name in bytes.
pub const ENTRY_NAME_LEN_MAX: usize = 1024;
/// Longest part between two slashes in bytes.
pub const ENTRY_PART_LEN_MAX: usize = 255;

/// A checked name: `/`-separated parts, none of them empty, `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryName(String);

/// Why a text is no name of a file in a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryNameError {
    /// Nothing, or an empty part.
    #[error("it is empty or has an empty part")]
    Empty,
    /// Begins with a slash.
    #[error("it is absolute")]
    Absolute,
    /// Leads out of the directory.
    #[error("it has a part `.` or `..`")]
    Dots,
    /// NUL, line feed and other characters that steer terminals and tools.
    #[error("it holds a control character or a backslash")]
    Control,
    /// Above a limit.
    #[error("it is longer than 1,024 bytes, or a part of it than 255")]
    TooLong,
    /// The same letters in another spelling.
    #[error("it is not in Unicode normal form C")]
    NotNormalised,
}

impl EntryName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`EntryNameError`].
    pub fn parse(text: &str) -> Result<Self, EntryNameError> {
        if text.starts_with('/') {
            return Err(EntryNameError::Absolute);
        }
        if text.len() > ENTRY_NAME_LEN_MAX {
            return Err(EntryNameError::TooLong);
        }
        // Marks that turn the direction of writing make one name look like another.
        let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if text.contains(|c: char| c.is_control() || c == '\\' || turns(c)) {
            return Err(EntryNameError::Control);
        }
        for part in text.split('/') {
            match part {
                "" => return Err(EntryNameError::Empty),
                "." | ".." => return Err(EntryNameError::Dots),
                part if part.len() > ENTRY_PART_LEN_MAX => return Err(EntryNameError::TooLong),
                _ => {}
            }
        }
        match is_nfc(text) {
            true => Ok(Self(text.to_owned())),
            false => Err(EntryNameError::NotNormalised),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_their_directory() {
        for good in ["table.csv", "2016/décembre/table.csv", "..a", "a b"] {
            assert_eq!(EntryName::parse(good).unwrap().as_str(), good);
        }
        for (bad, error) in [
            ("", EntryNameError::Empty),
            ("a//b", EntryNameError::Empty),
            ("a/", EntryNameError::Empty),
            ("/etc/passwd", EntryNameError::Absolute),
            ("../a", EntryNameError::Dots),
            ("a/../../b", EntryNameError::Dots),
            ("a/./b", EntryNameError::Dots),
            ("a\0b", EntryNameError::Control),
            ("a\nb", EntryNameError::Control),
            ("a\\b", EntryNameError::Control),
            ("a\u{202e}vsc", EntryNameError::Control),
            ("e\u{301}", EntryNameError::NotNormalised),
            (&"a".repeat(256), EntryNameError::TooLong),
            (&"a/".repeat(600), EntryNameError::TooLong),
        ] {
            assert_eq!(EntryName::parse(bad), Err(error), "{bad:?}");
        }
    }
}
