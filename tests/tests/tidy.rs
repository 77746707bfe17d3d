//! The house rules that a reviewer should not have to check.

use std::path::{Path, PathBuf};

const LINES_PER_FUNCTION_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;
const LINES_PER_FILE_MAX: usize = 600;
/// File names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 5] = ["utils", "helpers", "common", "manager", "types"];

/// Calls that change or sync files past the disk that faults are injected into.
const PAST_THE_DISK: [&str; 13] = [
    "fs::write(",
    "fs::rename(",
    "fs::copy(",
    "fs::hard_link(",
    "fs::remove_",
    "fs::create_dir",
    "File::create",
    "File::options",
    "OpenOptions",
    "sync_all(",
    "sync_data(",
    "set_len(",
    "tokio::fs",
];
/// Sockets, which mean nothing once their process is gone.
const NOT_TO_LAST: [(&str, &str); 2] = [
    ("gateway/src/gateway.rs", "fs::remove_"),
    ("agent/src/daemon.rs", "fs::remove_"),
];
/// Commands that a person runs, and laboratories: no daemon's state.
const NO_DAEMON: [&str; 3] = ["agent/src/cli", "agent/src/demo", "agent/src/lab"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = ["proto", "gateway", "agent", "tests", "benches"]
        .iter()
        .map(|name| root().join(name))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(
        found.len() > 5,
        "the walk found too few sources: {}",
        found.len()
    );
    found
}

/// Functions longer than the limit in `text`: (first line, name line, length).
/// Formatted code closes a function with a brace in the column of its first line.
fn long_functions(text: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if !starts_function(line.trim_start()) {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        let Some(length) = lines[start..].iter().position(|l| *l == close) else {
            continue;
        };
        if length + 1 > LINES_PER_FUNCTION_MAX {
            long.push((start + 1, line.trim().to_owned(), length + 1));
        }
    }
    long
}

fn starts_function(line: &str) -> bool {
    let mut words = line.split_whitespace().skip_while(|word| {
        matches!(
            *word,
            "pub" | "async" | "const" | "unsafe" | "extern" | "\"C\""
        ) || word.starts_with("pub(")
    });
    // One-line functions and trait signatures end on their first line.
    words.next() == Some("fn") && !line.ends_with('}') && !line.ends_with(';')
}

fn report(what: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{what}:\n{}", offences.join("\n"));
}

#[test]
fn functions_have_at_most_70_lines() {
    let mut offences = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        for (line, name, length) in long_functions(&text) {
            offences.push(format!("{}:{line}: {length} lines: {name}", path.display()));
        }
    }
    report("functions over the limit", &offences);
}

#[test]
fn lines_have_at_most_100_columns() {
    let mut offences = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > COLUMNS_MAX {
                offences.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    report("lines over the limit", &offences);
}

#[test]
fn files_are_one_idea_long_and_named_by_a_noun_of_the_field() {
    let mut offences = Vec::new();
    for path in sources() {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if lines > LINES_PER_FILE_MAX {
            offences.push(format!("{}: {lines} lines", path.display()));
        }
        if EMPTY_NAMES.contains(&stem.as_str()) {
            offences.push(format!("{}: a name that says nothing", path.display()));
        }
    }
    report("files over the limit or badly named", &offences);
}

/// Calls past the disk in the part of a source that is no test.
fn past_the_disk(path: &str, text: &str) -> Vec<&'static str> {
    let names = ["tests.rs", "faults.rs", "faults/omissions.rs"];
    let test = names.iter().any(|name| path.ends_with(name)) || path.contains("/tests/");
    let in_daemon = ["gateway/src", "gateway/link/src", "agent/src"]
        .iter()
        .any(|folder| path.starts_with(folder));
    if test || !in_daemon || NO_DAEMON.iter().any(|folder| path.starts_with(folder)) {
        return Vec::new();
    }
    let product = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let found = PAST_THE_DISK.into_iter();
    found
        .filter(|call| product.contains(call) && !NOT_TO_LAST.contains(&(path, call)))
        .collect()
}

#[test]
fn what_must_last_is_written_through_the_disk() {
    let mut offences = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(root()).unwrap().display().to_string();
        let found = past_the_disk(&path, &text);
        offences.extend(found.iter().map(|call| format!("{path}: {call}")));
    }
    report("writes past the disk", &offences);
    let call = "fn f() { fs::write(path, bytes) }";
    assert_eq!(past_the_disk("agent/src/job.rs", call), ["fs::write("]);
    assert_eq!(past_the_disk("agent/src/cli/send.rs", call).len(), 0);
}

#[test]
fn the_walk_sees_a_function_that_is_too_long() {
    let body = "    let _ = 0;\n".repeat(LINES_PER_FUNCTION_MAX);
    let text = format!("pub fn endless() {{\n{body}}}\n");
    assert_eq!(long_functions(&text).len(), 1);
    assert!(long_functions("fn short() {\n    let _ = 0;\n}\n").is_empty());
}

/// The table of limits, below the root.
const LIMITS: &str = "deploy/LIMITS.md";

/// Limits that a source defines: "`NAME` | `value`".
fn limits(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap()
        .split(";\n")
    {
        let line = line.lines().skip_while(|line| !line.contains("const "));
        let words: Vec<&str> = line.flat_map(str::split_whitespace).collect();
        let line = words.join(" ");
        let Some((name, value)) = line
            .split_once("const ")
            .filter(|(before, _)| before.is_empty() || before.trim_end().starts_with("pub"))
            .and_then(|(_, rest)| rest.split_once(" = "))
        else {
            continue;
        };
        let name = name.split(':').next().unwrap();
        if ["MAX", "WINDOW", "WAITING"]
            .iter()
            .any(|end| name.contains(end))
        {
            found.push(format!("`{name}` | `{value}`"));
        }
    }
    found
}

#[test]
fn every_limit_of_the_programs_stands_in_the_table_with_its_cost() {
    let table = std::fs::read_to_string(root().join(LIMITS)).unwrap();
    let rows: Vec<&str> = table
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    let mut offences = Vec::new();
    let mut found = 0;
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(root()).unwrap().display().to_string();
        let daemon = [
            "gateway/src",
            "gateway/link/src",
            "gateway/host/src/work.rs",
            "agent/src",
        ];
        let daemon = daemon.iter().any(|folder| path.starts_with(folder));
        let other = NO_DAEMON.iter().any(|folder| path.starts_with(folder));
        if !daemon || other || path.contains("tests") || path.contains("faults") {
            continue;
        }
        for limit in limits(&text) {
            let begins = format!("| {limit} | `{path}` | ");
            let row = rows.iter().find(|row| row.starts_with(&begins));
            let cells = row.map_or(0, |row| {
                let cells = row.split(" | ").map(|cell| cell.trim_matches(['|', ' ']));
                cells.filter(|cell| !cell.is_empty()).count()
            });
            match cells {
                5 => found += 1,
                _ => offences.push(format!("{LIMITS} lacks {begins}")),
            }
        }
    }
    report("limits that the table does not have", &offences);
    assert_eq!(
        found,
        rows.len(),
        "{LIMITS} has rows that are no limits any more"
    );
    assert_eq!(
        limits("/// Most.\npub const A_MAX: u64 =\n    64;\nconst B: u8 = 1;\n"),
        ["`A_MAX` | `64`"]
    );
}
