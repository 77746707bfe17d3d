//! Reads a TOML file key by key and remembers everything that is wrong with it.
//!
//! The configurations of the gateway and of the agent are read with this, so that both report
//! every mistake at once, with its line and a remedy.

use std::fmt::{self, Display};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use toml::de::{DeTable, DeValue};

/// One thing that is wrong with the configuration, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file that is wrong: the configuration, or one that it names.
    pub file: PathBuf,
    /// Line within `file`, from 1, where one is to blame.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.what)?,
            None => write!(f, "{}: {}", self.file.display(), self.what)?,
        }
        write!(f, "\n    {}", self.remedy)
    }
}

/// A value together with the line it stands on, so that a later check can point at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Line in the configuration file, from 1.
    pub line: usize,
}

/// A table that is being read; keys are taken out of it until none is left.
pub struct Section<'i> {
    name: &'static str,
    line: usize,
    keys: Vec<&'static str>,
    table: DeTable<'i>,
}

/// The file, and every problem found in it so far.
pub struct Document<'i> {
    file: &'i Path,
    text: &'i str,
    problems: Vec<Problem>,
}

impl<'i> Document<'i> {
    /// Parses `text`; errors of TOML itself become problems and reading goes on.
    pub fn parse(file: &'i Path, text: &'i str) -> (Self, Section<'i>) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut document = Self {
            file,
            text,
            problems: Vec::new(),
        };
        for error in errors {
            let line = error.span().map(|span| document.line(&span));
            document.add(
                line,
                error.message(),
                "correct the TOML syntax of this line",
            );
        }
        let section = Section {
            name: "",
            line: 1,
            keys: Vec::new(),
            table: root.into_inner(),
        };
        (document, section)
    }

    /// Takes a sub-table; a missing one is empty, so that its required keys are reported.
    pub fn section(&mut self, of: &mut Section<'i>, name: &'static str) -> Section<'i> {
        of.keys.push(name);
        let empty = |line| Section {
            name,
            line,
            keys: Vec::new(),
            table: DeTable::new(),
        };
        let Some(value) = of.table.remove(name) else {
            return empty(of.line);
        };
        let line = self.line(&value.span());
        match value.into_inner() {
            DeValue::Table(table) => Section {
                table,
                ..empty(line)
            },
            other => {
                let what = format!("{name} is a {}, not a table", other.type_str());
                self.add(Some(line), what, format!("write a section [{name}]"));
                empty(line)
            }
        }
    }

    /// A text that must be there.
    pub fn required(
        &mut self,
        of: &mut Section<'i>,
        key: &'static str,
        example: &str,
    ) -> Option<Placed<String>> {
        let line = of.line;
        let missing = !of.table.contains_key(key);
        let value = self.optional(of, key, example);
        if missing {
            let what = format!("{} is missing", of.path(key));
            self.add(Some(line), what, format!("add: {key} = {example}"));
        }
        value
    }

    /// A text that may be absent.
    pub fn optional(
        &mut self,
        of: &mut Section<'i>,
        key: &'static str,
        example: &str,
    ) -> Option<Placed<String>> {
        of.keys.push(key);
        let value = of.table.remove(key)?;
        let line = self.line(&value.span());
        match value.into_inner() {
            DeValue::String(text) => Some(Placed {
                value: text.into_owned(),
                line,
            }),
            other => {
                let what = format!("{} is a {}, not a text", of.path(key), other.type_str());
                self.add(Some(line), what, format!("write: {key} = {example}"));
                None
            }
        }
    }

    /// A whole number of at least `least`, or `default` when the key is absent.
    pub fn number(
        &mut self,
        of: &mut Section<'i>,
        key: &'static str,
        default: u64,
        least: u64,
    ) -> u64 {
        of.keys.push(key);
        let Some(value) = of.table.remove(key) else {
            return default;
        };
        let line = self.line(&value.span());
        let found = match value.get_ref() {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        match found.filter(|number| *number >= least) {
            Some(number) => number,
            None => {
                let what = format!("{} is not a whole number of at least {least}", of.path(key));
                self.add(Some(line), what, format!("write: {key} = {default}"));
                default
            }
        }
    }

    /// Turns a text into what it stands for.
    pub fn parsed<T>(
        &mut self,
        key: &str,
        text: Option<Placed<String>>,
        example: &str,
    ) -> Option<Placed<T>>
    where
        T: FromStr,
        T::Err: Display,
    {
        let Placed { value, line } = text?;
        match value.parse() {
            Ok(value) => Some(Placed { value, line }),
            Err(error) => {
                let what = format!("{key} = {value:?}: {error}");
                self.add(Some(line), what, format!("write: {key} = {example}"));
                None
            }
        }
    }

    /// A list of texts, empty when the key is absent.
    pub fn list(&mut self, of: &mut Section<'i>, key: &'static str, example: &str) -> Vec<String> {
        of.keys.push(key);
        let Some(value) = of.table.remove(key) else {
            return Vec::new();
        };
        let line = self.line(&value.span());
        let texts = match value.into_inner() {
            DeValue::Array(values) => values
                .into_iter()
                .map(|item| match item.into_inner() {
                    DeValue::String(text) => Some(text.into_owned()),
                    _ => None,
                })
                .collect::<Option<Vec<_>>>(),
            _ => None,
        };
        texts.unwrap_or_else(|| {
            let what = format!("{} is not a list of texts", of.path(key));
            self.add(Some(line), what, format!("write: {key} = {example}"));
            Vec::new()
        })
    }

    /// One text, or a list of at least one and at most `most`, that must be there.
    pub fn required_some(
        &mut self,
        of: &mut Section<'i>,
        key: &'static str,
        most: usize,
        example: &str,
    ) -> Vec<String> {
        let value = of.table.get(key);
        let is_list = value.is_some_and(|value| matches!(value.get_ref(), DeValue::Array(_)));
        if !is_list {
            let one = self.required(of, key, example);
            return one.into_iter().map(|text| text.value).collect();
        }
        let line = value.map(|value| self.line(&value.span()));
        let before = self.problems.len();
        let texts = self.list(of, key, example);
        if self.problems.len() == before && !(1..=most).contains(&texts.len()) {
            let what = format!("{} lists {}, not 1 to {most}", of.path(key), texts.len());
            self.add(line, what, format!("write: {key} = {example}"));
        }
        texts
    }

    /// All remaining keys with a text value, whatever their names.
    pub fn texts(&mut self, mut of: Section<'i>) -> Vec<(String, Placed<String>)> {
        let mut found = Vec::new();
        for (key, value) in std::mem::take(&mut of.table) {
            let line = self.line(&value.span());
            match value.into_inner() {
                DeValue::String(text) => {
                    let value = text.into_owned();
                    found.push((key.into_inner().into_owned(), Placed { value, line }));
                }
                other => {
                    let path = of.path(key.get_ref());
                    let what = format!("{path} is a {}, not a text", other.type_str());
                    self.add(Some(line), what, "put the value in quotes");
                }
            }
        }
        found
    }

    /// Reports every key that nobody asked for.
    pub fn close(&mut self, section: Section<'i>) {
        for key in section.table.keys() {
            let line = self.line(&key.span());
            let what = format!("{} is not a known key", section.path(key.get_ref()));
            let remedy = format!("remove it, or use one of: {}", section.keys.join(", "));
            self.add(Some(line), what, remedy);
        }
    }

    /// Remembers a problem of this file.
    pub fn add(&mut self, line: Option<usize>, what: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(Problem {
            file: self.file.to_path_buf(),
            line,
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    /// Every problem found, in the order of their lines.
    pub fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.line);
        self.problems
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().iter().take(span.start);
        before.filter(|byte| **byte == b'\n').count() + 1
    }
}

impl Section<'_> {
    /// Line of the section's header.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The key as messages name it.
    fn path(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("[{}] {key}", self.name)
        }
    }
}
