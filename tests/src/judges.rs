//! Who judges what leaves a gateway: our own command, and a program of nothing but the
//! specifications. Both have the files and the two root fingerprints, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use passerelle_proto::tile::{TILE_WIDTH, decode_entries};
use passerelle_proto::{signed_objects, statement_name, v1};
use prost::Message;
use serde_json::Value;

use crate::{LIMIT, Process, Program, RunningLab, eventually};

/// `EX_DATAERR` of sysexits.h: our own command has looked, and does not believe it.
const EXIT_DATA: i32 = 65;
/// The other program has looked, and does not believe it.
const EXIT_REFUSED: i32 = 1;

/// Both programs, and the fingerprints.
pub struct Judges {
    roots: Vec<String>,
    out: tempfile::TempDir,
}

impl Judges {
    /// With the root keys with which a laboratory began.
    pub fn of(lab: &RunningLab) -> Self {
        let root = |party| format!("--root={party}={}", lab.root_key(party).id().fingerprint());
        Self {
            roots: ["caf21", "grand-dijon"].map(root).into(),
            out: tempfile::tempdir().unwrap(),
        }
    }

    /// The two fingerprints, as arguments.
    pub fn roots(&self) -> &[String] {
        &self.roots
    }

    /// A path in a folder of its own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.out.path().join(name)
    }

    /// Runs our command.
    pub fn ours(&self, arguments: &[&str]) -> Output {
        let roots = self.roots.iter().map(String::as_str);
        Program::Passerelle.run(arguments.iter().copied().chain(roots))
    }

    /// Runs the program that has no code of ours.
    pub fn theirs(&self, what: &str, path: &Path, more: &[&str]) -> Output {
        let python = std::env::var("PASSERELLE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/verify_log.py");
        let mut command = Command::new(python);
        command.arg(script).arg(what).arg(path).args(more);
        command.args(&self.roots).output().unwrap()
    }

    /// Both of what follows: these statements, about a package, in a gateway's log.
    pub fn believe(&self, lab: &RunningLab, gateway: Process, package: &str, statements: &[&str]) {
        self.believe_evidence(lab, gateway, package, statements);
        self.believe_log(lab, gateway, statements);
    }

    /// Has a running gateway export its log as soon as these statements are in it. Both believe
    /// it, and count the same; neither does with a bit of one of the statements altered.
    pub fn believe_log(&self, lab: &RunningLab, gateway: Process, statements: &[&str]) {
        let mut tries = 0..;
        let what = format!("{gateway:?}: a log with {statements:?}");
        let folder = eventually(&what, LIMIT, || {
            let folder = self.path(&format!("{gateway:?}-{}", tries.next()?));
            lab.ask(gateway, &["audit", "export", folder.to_str()?])?;
            let told = self.agree_on_log(&folder);
            let said = told["statements"].as_object().unwrap();
            let all = statements.iter().all(|kind| said.contains_key(*kind));
            all.then_some(folder)
        });
        for kind in statements {
            self.refuse_log(&folder, kind);
        }
    }

    /// Both believe an exported log, and tell the same of it; what the other program tells.
    pub fn agree_on_log(&self, folder: &Path) -> Value {
        let path = folder.to_str().unwrap();
        let ours = told(&self.ours(&["audit", "verify", path, "--signatures", "--json"]));
        let theirs = told(&self.theirs("log", folder, &[]));
        assert_eq!(ours["party"], theirs["log"]);
        for what in ["size", "signatures"] {
            assert_eq!(ours[what], theirs[what], "{what}: {ours} {theirs}");
        }
        for cosigned in ours["cosigned"].as_array().unwrap() {
            let partner = cosigned["partner"].as_str().unwrap();
            assert_eq!(theirs["cosigned"][partner], cosigned["size"], "{theirs}");
        }
        theirs
    }

    /// Neither believes an exported log with a bit of a statement of this kind altered.
    fn refuse_log(&self, folder: &Path, kind: &str) {
        let bundles = files(&folder.join("tile/entries"));
        let holding = bundles.iter().find_map(|bundle| {
            let bytes = fs::read(bundle).unwrap();
            let entries = decode_entries(&bytes, width(bundle)).unwrap();
            let at = within(&bytes, entries.into_iter(), kind)?;
            Some((bundle, bytes, at))
        });
        let (bundle, bytes, at) = holding.unwrap_or_else(|| panic!("no {kind} in {folder:?}"));
        fs::write(bundle, flipped(&bytes, at)).unwrap();
        let line = ["audit", "verify", folder.to_str().unwrap(), "--signatures"];
        let (ours, theirs) = (self.ours(&line), self.theirs("log", folder, &[]));
        fs::write(bundle, bytes).unwrap();
        refused(&ours, EXIT_DATA);
        refused(&theirs, EXIT_REFUSED);
    }

    /// Has a running gateway export evidence about a package as soon as these statements are in
    /// it. Both believe it, and tell the same; neither does with a bit of one of them altered.
    pub fn believe_evidence(
        &self,
        lab: &RunningLab,
        gateway: Process,
        package: &str,
        statements: &[&str],
    ) {
        let mut tries = 0..;
        let what = format!("{gateway:?}: evidence with {statements:?}");
        let file = eventually(&what, LIMIT, || {
            let name = format!("{gateway:?}-{}-{package}.evidence", tries.next()?);
            let file = self.path(&name);
            let line = ["evidence", "export", package, "--out", file.to_str()?];
            lab.ask(gateway, &line)?;
            let told = self.agree_on_evidence(&file);
            let said: BTreeSet<&str> = told["statements"]
                .as_array()?
                .iter()
                .filter_map(|one| one["kind"].as_str())
                .collect();
            let all = statements.iter().all(|kind| said.contains(kind));
            all.then_some(file)
        });
        for kind in statements {
            self.refuse_evidence(&file, kind);
        }
    }

    /// Both believe evidence, and tell the same of it; what our own command tells.
    pub fn agree_on_evidence(&self, file: &Path) -> Value {
        let path = file.to_str().unwrap();
        let ours = told(&self.ours(&["evidence", "verify", path, "--json"]));
        let theirs = told(&self.theirs("evidence", file, &[]));
        assert_eq!(ours["package"], theirs["package"]);
        assert_eq!(kinds(&ours), kinds(&theirs), "{ours} {theirs}");
        assert_eq!(counted(&ours), counted(&theirs), "{ours} {theirs}");
        ours
    }

    /// Neither believes evidence with a bit of a statement of this kind altered.
    fn refuse_evidence(&self, file: &Path, kind: &str) {
        let bytes = fs::read(file).unwrap();
        let evidence = v1::Evidence::decode(bytes.as_slice()).unwrap();
        let entries = evidence.logs.iter().flat_map(|log| &log.entries);
        let at = within(&bytes, entries.map(|entry| entry.entry.as_slice()), kind);
        let altered = file.with_extension("altered");
        fs::write(&altered, flipped(&bytes, at.unwrap())).unwrap();
        let ours = self.ours(&["evidence", "verify", altered.to_str().unwrap()]);
        refused(&ours, EXIT_DATA);
        refused(&self.theirs("evidence", &altered, &[]), EXIT_REFUSED);
    }
}

/// Every statement that a verdict on evidence tells of, `kind by issuer`, sorted.
pub fn kinds(told: &Value) -> Vec<String> {
    let said = told["statements"].as_array().unwrap();
    let kind = |one: &Value| format!("{} by {}", one["kind"], one["issuer"]).replace('"', "");
    let mut kinds: Vec<String> = said.iter().map(kind).collect();
    kinds.sort();
    kinds
}

/// How many of the statements count as evidence.
fn counted(told: &Value) -> usize {
    let said = told["statements"].as_array().unwrap();
    said.iter().filter(|one| one["counts"] == true).count()
}

/// What a program has printed that believes what it was given.
pub fn printed(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn told(output: &Output) -> Value {
    serde_json::from_str(&printed(output)).unwrap()
}

/// The message of a program that must refuse what it was given, and not fail for another reason.
pub fn refused(output: &Output, status: i32) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{error}");
    error
}

/// Entries in a bundle, as its path says.
fn width(bundle: &Path) -> u64 {
    let parts: Vec<&str> = bundle.iter().filter_map(|part| part.to_str()).collect();
    match parts[..] {
        [.., folder, width] if folder.ends_with(".p") => width.parse().unwrap(),
        _ => TILE_WIDTH,
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// Where the middle of the first statement of this kind lies in a file that holds these entries.
fn within<'e>(
    file: &[u8],
    mut entries: impl Iterator<Item = &'e [u8]>,
    kind: &str,
) -> Option<usize> {
    entries.find_map(|entry| {
        let event = v1::Entry::decode(entry).unwrap().event?;
        let body = signed_objects(&event).into_iter().find_map(|signed| {
            let statement = v1::Statement::decode(signed.body.as_slice()).ok()?;
            let said = statement_name(statement.what.as_ref()?);
            (signed.r#type == v1::ObjectType::Statement as i32 && said == kind)
                .then(|| signed.body.clone())
        })?;
        let at = file.windows(body.len()).position(|part| part == body)?;
        Some(at + body.len() / 2)
    })
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}
