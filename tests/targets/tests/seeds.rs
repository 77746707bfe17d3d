//! Every seed, every input that once broke something, and small damage to each of them, through
//! the very functions that the fuzzers run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use passerelle_targets::TARGETS;

/// All seeds and regressions together, in bytes: they are cloned by everybody.
const CORPUS_LEN_MAX: u64 = 2 * 1024 * 1024;
/// Damaged copies of each seed that are tried.
const DAMAGES: usize = 48;
/// Longest seed that is damaged.
const DAMAGED_LEN_MAX: usize = 32 * 1024;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect();
    files.sort();
    files
}

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    files(&fuzz_folder().join("seeds").join(target))
}

/// Says which input it was when a target panics.
struct Running<'a>(&'a str, &'a Path, &'a str);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(target, path, damage) = self;
            eprintln!("target {target}, input {}{damage}", path.display());
        }
    }
}

#[test]
fn every_target_keeps_its_promises_for_every_seed() {
    for target in TARGETS {
        let seeds = seeds(target.name);
        assert!(!seeds.is_empty(), "no seeds for {}", target.name);
        for (path, bytes) in &seeds {
            let _running = Running(target.name, path, "");
            (target.run)(bytes);
        }
    }
}

#[test]
fn what_once_broke_something_breaks_nothing_any_more() {
    let mut ran = 0;
    for target in TARGETS {
        for (path, bytes) in files(&fuzz_folder().join("regressions").join(target.name)) {
            let _running = Running(target.name, &path, "");
            (target.run)(&bytes);
            ran += 1;
        }
    }
    assert!(
        ran > 0,
        "no regressions were found: is the folder in its place?"
    );
}

#[test]
fn every_target_keeps_its_promises_for_damaged_seeds() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % below.max(1)
    };
    for target in TARGETS {
        for (path, bytes) in seeds(target.name) {
            if bytes.is_empty() || bytes.len() > DAMAGED_LEN_MAX {
                continue;
            }
            for damage in 0..DAMAGES {
                let mut damaged = bytes.clone();
                let (at, other) = (random(bytes.len()), random(bytes.len()));
                match damage % 6 {
                    0 => damaged.truncate(at),
                    1 => damaged[at] ^= 1 << (other % 8),
                    2 => damaged[at] = [0, 0xff, b'\n', b'+', b' ', 0x7f][other % 6],
                    3 => damaged.insert(at, bytes[other]),
                    4 => drop(damaged.drain(at.min(other)..at.max(other))),
                    _ => damaged.extend_from_slice(&bytes[at..]),
                }
                let words = format!(", damage {damage} at {at} and {other}");
                let _running = Running(target.name, &path, &words);
                (target.run)(&damaged);
            }
        }
    }
}

#[test]
fn the_corpus_is_small_and_every_target_has_its_program() {
    let folder = fuzz_folder();
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    let mut total = 0;
    for kind in ["seeds", "regressions"] {
        for entry in fs::read_dir(folder.join(kind)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(
                names.contains(name.as_str()),
                "{kind}/{name} is of no target"
            );
            total += files(&path)
                .iter()
                .map(|(_, bytes)| bytes.len() as u64)
                .sum::<u64>();
        }
    }
    assert!(total <= CORPUS_LEN_MAX, "the corpus has {total} bytes");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let programs = files(&folder.join("fuzz_targets"));
    assert_eq!(programs.len(), names.len());
    for (path, source) in programs {
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(names.contains(name), "{name} is no target");
        let source = String::from_utf8(source).unwrap();
        assert!(
            source.contains(&format!("run(\"{name}\", data)")),
            "{name} runs another target"
        );
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} is not built"
        );
    }
}

#[test]
fn limits_of_the_log_are_the_gateways() {
    let gateway = include_str!("../../../gateway/src/log.rs");
    let copied = include_str!("../src/frames.rs");
    for limit in [
        "const ENTRY_LEN_MAX: usize = 60 * 1024;",
        "const BATCH_LEN_MAX: usize = 4 * 1024 * 1024;",
        "const BATCH_ENTRIES_MAX: usize = 256;",
    ] {
        assert!(gateway.contains(limit) && copied.contains(limit), "{limit}");
    }
}
