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

    /// Which of these names cannot stand beside the others in one folder: it is there twice, or
    /// lies inside of a file. `None` when all of them can.
    pub(crate) fn in_the_way(names: &[&Self]) -> Option<usize> {
        let mut order: Vec<usize> = (0..names.len()).collect();
        // Part by part, what lies inside of a name follows it at once. As plain texts `a.txt` would
        // stand between `a` and `a/b`.
        order.sort_by(|one, two| names[*one].parts().cmp(names[*two].parts()));
        let inside = |pair: &&[usize]| {
            let mut parts = names[pair[1]].parts();
            names[pair[0]]
                .parts()
                .all(|part| parts.next() == Some(part))
        };
        order.windows(2).find(inside).map(|pair| pair[1])
    }

    fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
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
    fn a_file_that_is_a_directory_as_well_is_found_whatever_stands_between() {
        let in_the_way = |names: &[&str]| {
            let parsed: Vec<_> = names
                .iter()
                .map(|name| EntryName::parse(name).unwrap())
                .collect();
            EntryName::in_the_way(&parsed.iter().collect::<Vec<_>>())
        };
        for fine in [
            &["a", "b"][..],
            &["a.txt", "a/b", "a b", "ab", "A"],
            &["a/b", "a/c/d"],
            &[],
        ] {
            assert_eq!(in_the_way(fine), None, "{fine:?}");
        }
        assert_eq!(in_the_way(&["a", "a.txt", "a/b"]), Some(2));
        assert_eq!(in_the_way(&["a/b/c", "a b", "a/b"]), Some(0));
        assert_eq!(in_the_way(&["x", "a!", "a", "a-/b", "a/b/c"]), Some(4));
        assert_eq!(in_the_way(&["a", "b", "a"]), Some(2));
    }

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
