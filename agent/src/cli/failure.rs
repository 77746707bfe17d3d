//! What a command tells a person when it cannot do its work: what happened, and what to do.

use std::fmt::{self, Display};
use std::io;

use passerelle_proto::Problem;
use serde_json::{Value, json};

/// Exit statuses after BSD `sysexits.h`, so that scripts can tell causes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The command line is wrong.
    Usage = 64,
    /// A file has the wrong content: a broken signature, a malformed convention.
    Data = 65,
    /// A file that was named does not exist or cannot be read.
    NoInput = 66,
    /// The daemon that was asked does not answer.
    Unavailable = 69,
    /// A fault in this program.
    Software = 70,
    /// An output file cannot be created, or exists already.
    CannotCreate = 73,
    /// Reading or writing failed.
    Io = 74,
    /// Not now; the same command may succeed later.
    Again = 75,
    /// The other side refused or answered nonsense.
    Protocol = 76,
    /// The operation is not permitted.
    NoPermission = 77,
    /// A configuration is wrong.
    Config = 78,
}

/// Why a command stopped: what happened, and what the person at the keyboard can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    what: String,
    remedy: String,
    quiet: bool,
    problems: Vec<Problem>,
}

impl Failure {
    /// `what` happened; `remedy` is what to do about it. Both are plain sentences.
    pub fn new(exit: Exit, what: impl Display, remedy: impl Display) -> Self {
        Failure {
            exit,
            what: what.to_string(),
            remedy: remedy.to_string(),
            quiet: false,
            problems: Vec::new(),
        }
    }

    /// A configuration is wrong; all its problems are told at once.
    pub fn config(problems: Vec<Problem>) -> Self {
        let what = match problems.len() {
            1 => "the configuration has a problem".to_owned(),
            count => format!("the configuration has {count} problems"),
        };
        let remedy = "mend all of it, then try again";
        Failure {
            problems,
            ..Failure::new(Exit::Config, what, remedy)
        }
    }

    /// The same failure, with one more thing to know about it.
    pub fn and_also(mut self, known: impl Display) -> Self {
        self.remedy = format!("{}; {known}", self.remedy);
        self
    }

    /// A file could not be read.
    pub fn reading(path: &std::path::Path, error: &io::Error) -> Self {
        let (exit, remedy) = match error.kind() {
            io::ErrorKind::NotFound => (Exit::NoInput, "check the path"),
            io::ErrorKind::PermissionDenied => (
                Exit::NoPermission,
                "run the command as a user who may read it",
            ),
            _ => (Exit::Io, "check the disk and the path, then try again"),
        };
        Failure::new(
            exit,
            format_args!("cannot read {}: {error}", path.display()),
            remedy,
        )
    }

    /// A file could not be written.
    pub fn writing(path: &std::path::Path, error: &io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::AlreadyExists => {
                "nothing was overwritten; choose another name, or move the old file away"
            }
            io::ErrorKind::PermissionDenied => "run the command as a user who may write there",
            io::ErrorKind::NotFound => "create the directory first",
            _ => "check the disk and the path, then try again",
        };
        let what = format_args!("cannot write {}: {error}", path.display());
        Failure::new(Exit::CannotCreate, what, remedy)
    }

    /// The reader of our output went away, which is no error of anybody (`passerelle … | head`).
    pub fn output(error: &io::Error) -> Self {
        let quiet = error.kind() == io::ErrorKind::BrokenPipe;
        let what = format!("cannot write the answer: {error}");
        Failure {
            quiet,
            ..Failure::new(Exit::Io, what, "check where the output goes")
        }
    }

    /// The process exit status.
    pub fn status(&self) -> u8 {
        if self.quiet { 0 } else { self.exit as u8 }
    }

    /// Which class of `sysexits` this is.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Whether nothing should be printed.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        let problems = self.problems.iter().map(|problem| {
            json!({
                "file": problem.file,
                "line": problem.line,
                "what": problem.what,
                "remedy": problem.remedy,
            })
        });
        let problems = Value::Array(problems.collect());
        json!({ "error": {
            "what": self.what,
            "remedy": self.remedy,
            "status": self.status(),
            "problems": problems,
        } })
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{problem}")?;
        }
        write!(f, "error: {}\n  what to do: {}", self.what, self.remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn an_error_is_a_pair_of_what_happened_and_what_to_do() {
        let gone = io::Error::from(io::ErrorKind::NotFound);
        let failure = Failure::reading(Path::new("a.toml"), &gone);
        let text = failure.to_string();
        assert_eq!(
            text,
            "error: cannot read a.toml: entity not found\n  what to do: check the path"
        );
        assert_eq!(failure.status(), 66);
        assert_eq!(failure.to_json()["error"]["status"], 66);
    }

    #[test]
    fn a_closed_pipe_is_nobodys_error() {
        let failure = Failure::output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(failure.is_quiet());
        assert_eq!(failure.status(), 0);
        let full = Failure::output(&io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.status(), 74);
    }
}
