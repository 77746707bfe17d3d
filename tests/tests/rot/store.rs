//! The log of a gateway, and what is made from it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use passerelle_gateway::{Log, SEGMENT_LEN_ASKED};
use passerelle_proto::v1::{self, entry::Event};
use passerelle_proto::{Digest, LogSigner, read_secret_file};
use passerelle_tests::{CAF_AGENT, CAF_GATEWAY, LIMIT, Program, RunningLab, eventually, now};
use prost::Message;

use crate::harm::{Harm, Row};
use crate::scene::{LARGE, Scene};

/// Several of them hold the log, and only the newest ones are kept.
const SEGMENT_LEN: u64 = 1024 * 1024;
/// Enough for a full tile of tiles, and for a file of the index.
const ENTRIES: u64 = 66_000;
/// An entry in the middle of full tiles.
const OLD: u64 = 700;

const AGAIN: &str = "named with its file, and made again from the log";
const QUIETLY: &str = "made again";
const REFUSED: &str = "the start is refused, with the file and the remedy";

/// A gateway's directory with a long log and a package that waits, and a copy of it.
struct Store {
    lab: RunningLab,
    data: PathBuf,
    kept: PathBuf,
}

fn long_log(lab: &RunningLab, data: &Path) {
    let key = lab.party("caf21").directory.join("keys/log.secret");
    let text = read_secret_file(&key).unwrap();
    let signer = LogSigner::from_secret_text(&text).unwrap();
    let disk = passerelle_disk::system();
    let mut log = Log::open_with(&disk, &data.join("log"), signer, SEGMENT_LEN).unwrap();
    let entry = |n: u64| {
        let event = v1::RefusedEvent {
            package: Digest::of(&n.to_be_bytes()).0.to_vec(),
            reason: v1::Reason::TooOld as i32,
            ..v1::RefusedEvent::default()
        };
        let event = Some(Event::Refused(event));
        v1::Entry { at_ms: 1, event }.encode_to_vec()
    };
    let numbers: Vec<u64> = (0..ENTRIES).collect();
    for batch in numbers.chunks(250) {
        let entries: Vec<_> = batch.iter().map(|n| entry(*n)).collect();
        log.append(&entries).unwrap();
    }
    log.checkpoint(now()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let copied = Command::new("cp")
        .args(["-a", "--sparse=always"])
        .arg(from)
        .arg(to)
        .status();
    assert!(copied.unwrap().success());
}

impl Store {
    fn make() -> Self {
        let mut scene = Scene::start(&[]);
        let data = scene
            .lab
            .party("caf21")
            .gateway
            .as_ref()
            .unwrap()
            .data_dir
            .clone();
        fs::create_dir_all(&data).unwrap();
        long_log(&scene.lab, &data);
        scene.lab.set(SEGMENT_LEN_ASKED, &SEGMENT_LEN.to_string());
        scene.lab.run(CAF_GATEWAY);
        eventually("the anchor", LIMIT, || {
            scene
                .lab
                .ask(CAF_GATEWAY, &["audit", "anchor", "--without-witness"])
        });
        scene.lab.run(CAF_AGENT);
        let sealed = scene.seal(LARGE);
        scene.wait_for(&sealed, "submitted");
        for process in [CAF_AGENT, CAF_GATEWAY] {
            scene.lab.stop(process);
        }
        let kept = data.with_extension("kept");
        copy(&data, &kept);
        let lab = scene.lab;
        Self { lab, data, kept }
    }

    /// Harms a file of the directory, starts the gateway, and looks an old entry up in every way.
    /// What it has printed, and whether it serves still.
    fn starts_with(&mut self, file: &str, harm: Harm) -> (bool, String) {
        copy(&self.kept, &self.data);
        harm.to(&self.data.join(file));
        let log = self.lab.log(CAF_GATEWAY);
        let before = fs::read_to_string(&log).unwrap_or_default().len();
        self.lab.run(CAF_GATEWAY);
        let process = CAF_GATEWAY;
        let lab = &mut self.lab;
        eventually("a start, or a refusal", LIMIT, || {
            let ended = lab.process(process).ended().is_some();
            (ended || lab.ask(process, &["status"]).is_some()).then_some(())
        });
        let index = OLD.to_string();
        let found = Digest::of(&OLD.to_be_bytes()).to_string();
        let out = tempfile::tempdir().unwrap();
        let out = out.path().to_str().unwrap();
        let config = lab.config(process);
        let config = config.to_str().unwrap();
        let line = [
            "audit", "prove", "--index", &index, "--out", out, "--config", config,
        ];
        let proved = Program::Passerelle.run(line);
        lab.lines(process, &["audit", "log", "--from", &index, "--limit", "1"]);
        let package = lab.ask(process, &["package", "show", &found]);
        let queue = lab.ask(process, &["queue"]);
        let waits = queue.is_some_and(|queue| queue["items"][0]["kind"] == "package");
        let serves = package.is_some() && waits && lab.process(process).ended().is_none();
        if lab.process(process).ended().is_none() {
            lab.kill(process);
        }
        let printed = fs::read_to_string(&log).unwrap();
        let answered = String::from_utf8_lossy(&proved.stderr);
        (serves, format!("{}{answered}", &printed[before..]))
    }

    fn made_again(&mut self, file: &str, harm: Harm, named: bool) {
        let (serves, printed) = self.starts_with(file, harm);
        let name = file.rsplit('/').next().unwrap();
        assert!(serves, "{file} {harm:?}: {printed}");
        let says = printed.contains("made again") && printed.contains(name);
        assert!(says || !named, "{file} {harm:?}: {printed}");
        let [kept, now] = [&self.kept, &self.data].map(|dir| fs::read(dir.join(file)).unwrap());
        assert!(kept == now, "{file} {harm:?}");
    }

    fn quietly(&mut self, file: &str, harm: Harm) {
        let (serves, printed) = self.starts_with(file, harm);
        assert!(serves, "{file} {harm:?}: {printed}");
    }

    /// What stands behind the newest checkpoint is made again with the next one.
    fn signed_again(&mut self, file: &str, harm: Harm) {
        copy(&self.kept, &self.data);
        harm.to(&self.data.join(file));
        self.lab.run(CAF_GATEWAY);
        eventually("the anchor", LIMIT, || {
            let line = ["audit", "anchor", "--without-witness"];
            self.lab.ask(CAF_GATEWAY, &line)
        });
        let log = self.data.join("log");
        eventually(&format!("a sound log after {file} {harm:?}"), LIMIT, || {
            let line = ["audit", "verify", log.to_str()?];
            self.lab.ask(CAF_GATEWAY, &line)
        });
        self.lab.kill(CAF_GATEWAY);
    }

    fn refused(&mut self, file: &str, harm: Harm, words: &[&str]) {
        let (serves, printed) = self.starts_with(file, harm);
        assert!(!serves, "{file} {harm:?}: {printed}");
        for word in words {
            assert!(
                printed.contains(word),
                "{file} {harm:?}: {word} in {printed}"
            );
        }
    }
}

/// The newest segment, and where its last frame begins and ends.
fn newest_segment(store: &Store) -> (String, u64, u64) {
    let wal = store.kept.join("log/wal");
    let found = fs::read_dir(&wal).unwrap().map(|file| file.unwrap().path());
    let segments = found.filter(|path| path.extension().is_some_and(|end| end == "seg"));
    let newest = segments.max().unwrap();
    let bytes = fs::read(&newest).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    let magic = &bytes[128 * 1024..128 * 1024 + 4];
    let last = bytes
        .windows(4)
        .rposition(|window| window == magic)
        .unwrap() as u64;
    let name = newest.file_name().unwrap().to_str().unwrap();
    (format!("log/wal/{name}"), last, end)
}

fn tiles(store: &mut Store) -> Vec<Row> {
    let mut rows = Vec::new();
    for (kind, file) in [
        ("tile", "log/tile/0/002"),
        ("tile of tiles", "log/tile/1/000"),
        ("index of packages (`fst`)", "index/0000000000000000.fst"),
    ] {
        let length = fs::metadata(store.kept.join(file)).unwrap().len();
        let harms = [
            ("a bit", Harm::Flip(length / 2)),
            ("cut", Harm::Cut(length / 2)),
            ("gone", Harm::Gone),
        ];
        for (name, harm) in harms {
            match kind.starts_with("index") {
                // Found when it is used; the gateway stops, and the next start makes it again.
                true => store.quietly_after_a_stop(file, harm),
                false => store.made_again(file, harm, kind == "tile"),
            }
            // A tile that ends in the newest segment is written again by every start.
            let outcome = if kind == "tile of tiles" {
                QUIETLY
            } else {
                AGAIN
            };
            rows.push(Row::new(kind, name, outcome));
        }
    }
    let bundle = "log/tile/entries/002";
    for (name, harm) in [
        ("a bit", Harm::Flip(3_000)),
        ("cut", Harm::Cut(3_000)),
        ("gone", Harm::Gone),
    ] {
        let remedy = ["damaged, and what it could be made from is gone", bundle];
        store.refused(bundle, harm, &remedy);
        let outcome = "stops when it is read, with the file and the remedy: its segment is gone";
        rows.push(Row::new("bundle of old entries", name, outcome));
    }
    let newest = format!("log/tile/entries/{:03}", ENTRIES / 256 - 1);
    store.newest_bundle(&newest);
    rows.push(Row::new("bundle of new entries", "a bit", QUIETLY));
    rows
}

impl Store {
    fn quietly_after_a_stop(&mut self, file: &str, harm: Harm) {
        let filter = file.replace(".fst", ".filter");
        assert!(self.kept.join(filter).is_file());
        let (serves, printed) = self.starts_with(file, harm);
        if !serves {
            assert!(
                printed.contains("made again") && printed.contains(file),
                "{printed}"
            );
            let log = self.lab.log(CAF_GATEWAY);
            let before = fs::metadata(&log).unwrap().len();
            self.lab.run(CAF_GATEWAY);
            let found = Digest::of(&OLD.to_be_bytes()).to_string();
            eventually("the package", LIMIT, || {
                self.lab.ask(CAF_GATEWAY, &["package", "show", &found])
            });
            assert!(fs::metadata(&log).unwrap().len() > before);
            self.lab.kill(CAF_GATEWAY);
        }
        let [kept, now] = [&self.kept, &self.data].map(|dir| fs::read(dir.join(file)).unwrap());
        assert!(kept == now, "{file} {harm:?}");
    }

    /// A bundle whose segment is still there.
    fn newest_bundle(&mut self, file: &str) {
        copy(&self.kept, &self.data);
        Harm::Flip(3_000).to(&self.data.join(file));
        self.lab.run(CAF_GATEWAY);
        let from = (ENTRIES / 256 * 256 - 3).to_string();
        eventually("the entry", LIMIT, || {
            let line = ["audit", "log", "--from", &from, "--limit", "1"];
            self.lab.lines(CAF_GATEWAY, &line)
        });
        self.lab.kill(CAF_GATEWAY);
        let [kept, now] = [&self.kept, &self.data].map(|dir| fs::read(dir.join(file)).unwrap());
        assert!(kept == now, "{file}");
    }
}

fn segments(store: &mut Store) -> Vec<Row> {
    let (segment, last, end) = newest_segment(store);
    let corrupt = [
        "no torn end",
        "restore the file from a backup",
        segment.as_str(),
    ];
    let shorter = [
        "entries are missing",
        "restore the log directory from a backup",
    ];
    store.refused(&segment, Harm::Flip(20), &corrupt);
    store.refused(&segment, Harm::Flip(128 * 1024 + 60), &corrupt);
    store.refused(&segment, Harm::Flip(last + 70), &shorter);
    store.quietly(&segment, Harm::Flip(end + 5_000));
    store.refused(&segment, Harm::Cut(last + 30), &shorter);
    store.refused(&segment, Harm::Gone, &["restore the log"]);
    let kind = "segment of the log";
    vec![
        Row::new(kind, "a bit of its beginning", REFUSED),
        Row::new(kind, "a bit of a frame in its middle", REFUSED),
        Row::new(kind, "a bit of its last frame, under a checkpoint", REFUSED),
        Row::new(
            kind,
            "a bit behind its last frame",
            "nothing is there: it is cleared",
        ),
        Row::new(
            kind,
            "cut within its last frame, under a checkpoint",
            REFUSED,
        ),
        Row::new(kind, "gone", REFUSED),
    ]
}

/// Tiles and bundles that are not full, which stand behind a checkpoint until the next one.
fn partial(store: &mut Store) -> Vec<Row> {
    let mut rows = Vec::new();
    for (kind, folder) in [
        (
            "tile that is not full",
            format!("log/tile/0/{}.p", ENTRIES / 256),
        ),
        (
            "bundle that is not full",
            format!("log/tile/entries/{}.p", ENTRIES / 256),
        ),
    ] {
        let files = fs::read_dir(store.kept.join(&folder)).unwrap();
        let newest = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let newest = newest.max_by_key(|width| width.parse::<u64>().unwrap());
        let file = format!("{folder}/{}", newest.unwrap());
        for (name, harm) in [
            ("a bit", Harm::Flip(40)),
            ("cut", Harm::Cut(40)),
            ("gone", Harm::Gone),
        ] {
            store.signed_again(&file, harm);
            rows.push(Row::new(kind, name, "made again with the next checkpoint"));
        }
    }
    rows
}

fn small_files(store: &mut Store) -> Vec<Row> {
    let mut rows = Vec::new();
    let checkpoint = [
        "log/checkpoint",
        "remove it: partners and agents keep copies",
    ];
    store.refused("log/checkpoint", Harm::Flip(40), &checkpoint);
    store.refused("log/checkpoint", Harm::Cut(90), &checkpoint);
    store.quietly("log/checkpoint", Harm::Gone);
    for (name, outcome) in [
        ("a bit", REFUSED),
        ("cut", REFUSED),
        (
            "gone",
            "signed again; others' copies say whether the log is whole",
        ),
    ] {
        rows.push(Row::new("checkpoint", name, outcome));
    }
    let chain = fs::metadata(store.kept.join("chain")).unwrap().len();
    for (name, harm) in [
        ("a bit", Harm::Flip(chain / 3)),
        ("cut", Harm::Cut(chain / 3)),
        ("gone", Harm::Gone),
    ] {
        store.quietly("chain", harm);
        rows.push(Row::new("restart mark (`chain`)", name, QUIETLY));
    }
    store.refused("format", Harm::Flip(0), &["format", "update the program"]);
    rows.push(Row::new("restart mark (`format`)", "a bit", REFUSED));
    rows
}

fn database(store: &mut Store) -> Vec<Row> {
    let length = fs::metadata(store.kept.join("queue/db/db")).unwrap().len();
    for quarter in 0..4 {
        store.quietly("queue/db/db", Harm::Flip(length * quarter / 4 + 17));
    }
    store.quietly("queue/db/db", Harm::Cut(length / 2));
    store.quietly("queue/db/db", Harm::Gone);
    ["a bit, anywhere", "cut", "gone"]
        .map(|name| Row::new("queue (`sled`)", name, QUIETLY))
        .into()
}

/// All that is tried with a gateway's log and what is made from it.
pub fn rows() -> Vec<Row> {
    let mut store = Store::make();
    let mut rows = tiles(&mut store);
    rows.extend(segments(&mut store));
    rows.extend(partial(&mut store));
    rows.extend(small_files(&mut store));
    rows.extend(database(&mut store));
    rows
}
