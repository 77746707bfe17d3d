//! What a disk does to a file in the course of time.

use std::fmt;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// One way to rot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// A bit is another one, so many bytes behind the file's beginning.
    Flip(u64),
    /// The file ends after so many bytes.
    Cut(u64),
    /// The file is gone.
    Gone,
}

impl Harm {
    /// Harms a file.
    pub fn to(self, path: &Path) {
        match self {
            Self::Flip(at) => {
                let file = fs::File::options().read(true).write(true).open(path);
                let file = file.unwrap();
                let mut byte = [0];
                file.read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 4], at).unwrap();
            }
            Self::Cut(length) => {
                let file = fs::File::options().write(true).open(path).unwrap();
                assert!(length < file.metadata().unwrap().len());
                file.set_len(length).unwrap();
            }
            Self::Gone => fs::remove_file(path).unwrap(),
        }
    }
}

/// A line of the matrix.
#[derive(Clone, Debug)]
pub struct Row {
    /// Kind of file.
    pub kind: &'static str,
    /// What happened to it.
    pub harm: String,
    /// What came of it.
    pub outcome: &'static str,
}

impl Row {
    /// A line.
    pub fn new(kind: &'static str, harm: impl ToString, outcome: &'static str) -> Self {
        Self {
            kind,
            harm: harm.to_string(),
            outcome,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} | {} | {} |", self.kind, self.harm, self.outcome)
    }
}
