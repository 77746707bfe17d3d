//! Passphrases: from a file that only its owner can read, or asked for at the terminal.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use passerelle_proto::read_secret_file;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use super::keys::secret_failure;

/// The passphrase of something that exists.
pub(super) fn known(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    match file {
        Some(file) => from_file(file),
        None => ask("Passphrase: "),
    }
}

/// A passphrase for something new: at the terminal it is asked for twice.
pub(super) fn chosen(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    if let Some(file) = file {
        return from_file(file);
    }
    let first = ask("Passphrase: ")?;
    let second = ask("The same again: ")?;
    match *first == *second {
        true => Ok(first),
        false => Err(Failure::new(
            Exit::Usage,
            "the two passphrases differ",
            "try again",
        )),
    }
}

fn from_file(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let text = read_secret_file(file).map_err(|error| secret_failure(&error))?;
    let line = text.lines().next().unwrap_or_default();
    Ok(Zeroizing::new(line.to_owned()))
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    read_hidden(prompt).map_err(|error| {
        let what = format_args!("no passphrase can be asked for: {error}");
        let remedy = "run it at a terminal, or name a file with --passphrase-file";
        Failure::new(Exit::Usage, what, remedy)
    })
}

fn read_hidden(prompt: &str) -> io::Result<Zeroizing<String>> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    let hidden = Hidden::begin(terminal.try_clone()?)?;
    write!(terminal, "{prompt}")?;
    terminal.flush()?;
    let mut line = Zeroizing::new(String::new());
    BufReader::new(terminal.try_clone()?).read_line(&mut line)?;
    drop(hidden);
    writeln!(terminal)?;
    Ok(Zeroizing::new(
        line.trim_end_matches(['\r', '\n']).to_owned(),
    ))
}

/// While this lives, the terminal does not show what is typed.
struct Hidden {
    terminal: File,
    before: Termios,
}

impl Hidden {
    fn begin(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Flush, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Nobody is left to tell when the terminal is gone.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}
