//! Where answers go: tables and sentences for people, or JSON for programs.

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use super::failure::{Exit, Failure};

/// The standard output of one command.
pub struct Output<'w> {
    writer: &'w mut dyn Write,
    json: bool,
}

impl<'w> Output<'w> {
    /// Writes to `writer`, as JSON if `json`.
    pub fn new(writer: &'w mut dyn Write, json: bool) -> Self {
        Output { writer, json }
    }

    /// Whether a program reads the answer.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints one answer: its `Display` for people, else its JSON, in one document.
    pub fn answer<T: Serialize + Display>(&mut self, answer: &T) -> Result<(), Failure> {
        if self.json {
            let value = to_value(answer)?;
            self.write(format_args!("{value:#}"))
        } else {
            self.write(format_args!("{answer}"))
        }
    }

    /// Prints one of many answers: its `Display`, else its JSON on one line (JSON Lines).
    pub fn item<T: Serialize + Display>(&mut self, item: &T) -> Result<(), Failure> {
        if self.json {
            let value = to_value(item)?;
            self.write(format_args!("{value}"))
        } else {
            self.write(format_args!("{item}"))
        }
    }

    /// Prints a line for people only.
    pub fn note(&mut self, line: impl Display) -> Result<(), Failure> {
        if self.json {
            Ok(())
        } else {
            self.write(format_args!("{line}"))
        }
    }

    fn write(&mut self, text: impl Display) -> Result<(), Failure> {
        // Titles and comments are a partner's text, which must not steer the terminal.
        let printable = |c: char| if c.is_control() && c != '\n' { '·' } else { c };
        let text: String = text.to_string().chars().map(printable).collect();
        let text = text.trim_end_matches('\n');
        let written = writeln!(self.writer, "{text}").and_then(|()| self.writer.flush());
        written.map_err(|e: io::Error| Failure::output(&e))
    }
}

fn to_value<T: Serialize>(answer: &T) -> Result<Value, Failure> {
    serde_json::to_value(answer).map_err(|e| {
        let what = format_args!("cannot express the answer as JSON: {e}");
        Failure::new(
            Exit::Software,
            what,
            "leave out --json, and report this fault",
        )
    })
}
