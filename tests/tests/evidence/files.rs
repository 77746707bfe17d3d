//! Proof that leaves a gateway: evidence, logs and proofs verify without any server, by our own
//! command and by a program of nothing but the specifications; altered ones do not.

use std::fs;
use std::path::{Path, PathBuf};

use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, Judges, LIMIT, Process, Program,
    RunningLab, eventually, kinds, printed, quick_options, refused,
};
use serde_json::Value;

pub const FLOW: &str = "signalement";
pub const TABLE: &[u8] = b"code;nom\n21166;Chenove\n";
/// `EX_DATAERR` and `EX_CANTCREAT` of sysexits.h.
pub const EXIT_DATA: i32 = 65;
const EXIT_CANNOT_CREATE: i32 = 73;

/// A laboratory, and who judges what is exported.
pub struct Scene {
    pub lab: RunningLab,
    pub judges: Judges,
}

impl Scene {
    /// Nobody runs yet.
    pub fn make() -> Self {
        let lab = RunningLab::make(&quick_options());
        let judges = Judges::of(&lab);
        Self { lab, judges }
    }

    fn start(processes: &[Process]) -> Self {
        let mut scene = Self::make();
        scene.run(processes);
        scene
    }

    /// Runs these until they answer.
    pub fn run(&mut self, processes: &[Process]) {
        for process in processes {
            self.lab.run(*process);
        }
        for process in processes {
            eventually("a daemon's answer", LIMIT, || {
                self.lab.ask(*process, &["status"])
            });
        }
    }

    /// Adds to the configuration of one that does not run yet.
    pub fn configure(&self, process: Process, more: &str) {
        let config = self.lab.config(process);
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text + more).unwrap();
    }

    /// Both sides, and a package that was delivered and cosigned; its id.
    fn delivered() -> (Self, String) {
        Self::delivered_with(CAF_GATEWAY, "")
    }

    /// The same, with more in the configuration of one of them.
    pub fn delivered_with(process: Process, more: &str) -> (Self, String) {
        let mut scene = Self::make();
        scene.configure(process, more);
        scene.run(&[CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT]);
        scene.lab.drop_file("caf21", FLOW, "table.csv", TABLE);
        let package = scene.package("delivered");
        for gateway in [CAF_GATEWAY, DIJON_GATEWAY] {
            eventually("cosignatures over everything", LIMIT, || {
                let evidence = scene.export(gateway, &package, "probe.evidence");
                let told = scene.verified(&evidence)?;
                fs::remove_file(evidence).unwrap();
                let said = told["statements"].as_array()?;
                let kinds: Vec<&Value> = said.iter().map(|one| &one["kind"]).collect();
                let whole = kinds.contains(&&Value::from("delivered"));
                (whole && said.iter().all(|one| one["counts"] == true)).then_some(())
            });
        }
        (scene, package)
    }

    /// Waits until the only package that was sent has come so far; its id.
    pub fn package(&self, state: &str) -> String {
        eventually(state, LIMIT, || {
            let jobs = self.lab.ask(CAF_AGENT, &["queue"])?;
            let job = jobs["jobs"].as_array()?.first()?.clone();
            let found = job["recipients"][0]["state"] == state;
            found.then(|| job["package"].as_str().unwrap().to_owned())
        })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.judges.path(name)
    }

    fn log_dir(&self, party: &str) -> PathBuf {
        let gateway = self.lab.party(party).gateway.as_ref().unwrap();
        gateway.data_dir.join("log")
    }

    fn stop(&mut self) {
        for process in [CAF_AGENT, DIJON_AGENT, CAF_GATEWAY, DIJON_GATEWAY] {
            self.lab.stop(process);
        }
    }

    /// Asks a running gateway for evidence.
    pub fn export(&self, gateway: Process, package: &str, name: &str) -> PathBuf {
        let file = self.path(name);
        let line = [
            "evidence",
            "export",
            package,
            "--out",
            file.to_str().unwrap(),
        ];
        let written = self.lab.ask(gateway, &line).unwrap();
        assert!(written["package"].as_str().unwrap().starts_with(package));
        file
    }

    /// What a file proves, by our own command; `None` when it is refused.
    pub fn verified(&self, file: &Path) -> Option<Value> {
        self.verified_with(file, &[])
    }

    /// The same, told more.
    pub fn verified_with(&self, file: &Path, more: &[&str]) -> Option<Value> {
        let line = ["evidence", "verify", file.to_str().unwrap(), "--json"];
        let output = self.judges.ours(&[&line[..], more].concat());
        let told = output.status.success().then_some(output.stdout)?;
        Some(serde_json::from_slice(&told).unwrap())
    }
}

fn flip(file: &Path, at: usize) -> Vec<u8> {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    bytes
}

/// Everything that is said about a package on its way.
const WAY: [&str; 4] = [
    "accepted by caf21",
    "accepted by grand-dijon",
    "delivered by grand-dijon",
    "forwarded by grand-dijon",
];

#[test]
fn evidence_says_what_it_proves_without_any_server_and_another_program_agrees() {
    let (mut scene, package) = Scene::delivered();
    let one = scene.export(CAF_GATEWAY, &package[..12], "one.evidence");
    scene.stop();
    let both = scene.path("both.evidence");
    let (caf, dijon) = (scene.log_dir("caf21"), scene.log_dir("grand-dijon"));
    let line = [
        "evidence",
        "export",
        &package,
        "--log",
        caf.to_str().unwrap(),
        "--log",
        dijon.to_str().unwrap(),
        "--out",
        both.to_str().unwrap(),
    ];
    scene.lab.ask(CAF_GATEWAY, &line).unwrap();
    for (file, logs) in [(&one, 1), (&both, 2)] {
        let told = scene.verified(file).unwrap();
        assert_eq!(kinds(&told), WAY);
        let said = told["statements"].as_array().unwrap();
        assert!(said.iter().all(|one| one["counts"] == true), "{told:#}");
        assert_eq!(told["logs"].as_array().unwrap().len(), logs);
        assert_eq!(told["recipients"][0]["state"], "delivered");
        assert_eq!(told["manifest"]["denied"], Value::Null);
        let theirs = printed(&scene.judges.theirs("evidence", file, &[]));
        let theirs: Value = serde_json::from_str(&theirs).unwrap();
        assert_eq!(kinds(&theirs), WAY);
        let all = theirs["statements"].as_array().unwrap();
        assert!(
            all.iter()
                .all(|one| one["cosigned"] != Value::Array(vec![])),
            "{theirs}"
        );
    }
    let words = printed(
        &scene
            .judges
            .ours(&["evidence", "verify", both.to_str().unwrap()]),
    );
    for part in [
        "every signature and every proof in this file holds",
        "from caf21 to grand-dijon",
        "flow signalement, ",
        "for grand-dijon: delivered",
        "it does not prove: that a person read it",
        "cosigned by caf21 with the first",
        "cosigned by grand-dijon with the first",
        "by its own clock",
        "it counts as evidence",
    ] {
        assert!(words.contains(part), "{part} in\n{words}");
    }
    // Another institution's own configuration says the same.
    let line = ["evidence", "verify", one.to_str().unwrap()];
    assert_eq!(kinds(&scene.lab.ask(DIJON_AGENT, &line).unwrap()), WAY);
    tampered_evidence_is_refused(&scene, &both);
}

/// One bit in many places, by both programs; other roots; a file that is there already.
fn tampered_evidence_is_refused(scene: &Scene, file: &Path) {
    let length = fs::metadata(file).unwrap().len() as usize;
    let altered = scene.path("altered.evidence");
    for part in 0..12 {
        let at = length * (2 * part + 1) / 24;
        fs::write(&altered, flip(file, at)).unwrap();
        let ours = scene
            .judges
            .ours(&["evidence", "verify", altered.to_str().unwrap()]);
        let why = refused(&ours, EXIT_DATA);
        assert!(
            why.contains("proves nothing") && why.contains("what to do"),
            "{why}"
        );
        let theirs = refused(&scene.judges.theirs("evidence", &altered, &[]), 1);
        assert!(theirs.starts_with("refused: "), "byte {at}: {theirs}");
    }
    let roots = scene.judges.roots();
    let swapped = [
        roots[0].replace("caf21", "grand-dijon"),
        roots[1].replace("grand-dijon", "caf21"),
    ];
    let line = ["evidence", "verify", file.to_str().unwrap()];
    let swapped = swapped.iter().map(String::as_str);
    let output = Program::Passerelle.run(line.into_iter().chain(swapped));
    let why = refused(&output, EXIT_DATA);
    assert!(why.contains("compare the root fingerprints"), "{why}");
    let log = scene.log_dir("caf21");
    let config = scene.lab.config(CAF_GATEWAY);
    let told = scene.verified(file).unwrap();
    let output = Program::Passerelle.run([
        "evidence",
        "export",
        told["package"].as_str().unwrap(),
        "--log",
        log.to_str().unwrap(),
        "--config",
        config.to_str().unwrap(),
        "--out",
        file.to_str().unwrap(),
    ]);
    let why = refused(&output, EXIT_CANNOT_CREATE);
    assert!(why.contains("nothing was overwritten"), "{why}");
}

#[test]
fn an_entry_stays_proven_by_the_first_cosignature_over_it() {
    let (mut scene, package) = Scene::delivered();
    let first_covers = |file: &Path| -> Vec<Value> {
        let told = scene.verified(file).unwrap();
        fs::remove_file(file).unwrap();
        let said = told["statements"].as_array().unwrap().clone();
        said.iter()
            .map(|one| one["standings"][0]["cosigned"][0].clone())
            .collect()
    };
    let before = first_covers(&scene.export(CAF_GATEWAY, &package, "before.evidence"));
    scene.lab.drop_file("caf21", FLOW, "second.csv", TABLE);
    let newest = |told: &Value| told["cosigned"][0]["size"].as_u64();
    let size = before.last().unwrap()["size"].as_u64();
    eventually("a newer cosignature", LIMIT, || {
        let status = scene.lab.ask(CAF_GATEWAY, &["status"])?;
        (newest(&status) > size.map(|size| size + 2)).then_some(())
    });
    let after = first_covers(&scene.export(CAF_GATEWAY, &package, "after.evidence"));
    assert_eq!(before, after);
    let file = scene.path("offline.evidence");
    let (log, out) = (scene.log_dir("caf21"), file.to_str().unwrap());
    let log = log.to_str().unwrap();
    let line = ["evidence", "export", &package, "--log", log, "--out", out];
    eventually("evidence from the files of the log", LIMIT, || {
        scene.lab.ask(CAF_GATEWAY, &line)
    });
    assert_eq!(before, first_covers(&file));
    scene.stop();
}

#[test]
fn an_exported_log_verifies_alone_and_so_does_the_proof_of_each_entry() {
    let (mut scene, package) = Scene::delivered();
    let folder = scene.path("caf21");
    let line = ["audit", "export", folder.to_str().unwrap()];
    scene.lab.ask(CAF_GATEWAY, &line).unwrap();
    let proofs = scene.path("proofs");
    let line = [
        "audit",
        "prove",
        &package,
        "--out",
        proofs.to_str().unwrap(),
    ];
    let written = scene.lab.lines(CAF_GATEWAY, &line).unwrap();
    assert!(written.len() >= 4, "{written:?}");
    scene.stop();
    let again = scene.path("again");
    let log = scene.log_dir("caf21");
    let from = ["--log", log.to_str().unwrap()];
    let line = [&["audit", "export", again.to_str().unwrap()], &from[..]].concat();
    scene.lab.ask(CAF_GATEWAY, &line).unwrap();
    for exported in [&folder, &again] {
        let path = exported.to_str().unwrap();
        let ours = scene
            .judges
            .ours(&["audit", "verify", path, "--signatures", "--json"]);
        let ours: Value = serde_json::from_str(&printed(&ours)).unwrap();
        let theirs = printed(&scene.judges.theirs("log", exported, &[]));
        let theirs: Value = serde_json::from_str(&theirs).unwrap();
        assert_eq!(
            (&ours["party"], &ours["size"]),
            (&theirs["log"], &theirs["size"])
        );
        assert_eq!(ours["signatures"], theirs["signatures"]);
        let cosigned = &ours["cosigned"][0];
        assert_eq!(theirs["cosigned"]["grand-dijon"], cosigned["size"]);
    }
    let notes = ["--notes", folder.to_str().unwrap()];
    for file in fs::read_dir(&proofs).unwrap() {
        let file = file.unwrap().path();
        let told = printed(&scene.judges.theirs("proof", &file, &notes));
        assert!(told.contains("\"cosigned\": [\"grand-dijon\"]"), "{told}");
        let text = fs::read_to_string(&file).unwrap();
        let (head, _) = text.split_once("\nindex ").unwrap();
        let altered = scene.path("altered.tlog-proof");
        fs::write(&altered, flip(&file, head.len() - 40)).unwrap();
        let why = refused(&scene.judges.theirs("proof", &altered, &notes), 1);
        assert!(why.starts_with("refused: "), "{why}");
    }
    let first = scene.path("first");
    let first_line = [
        "audit",
        "prove",
        "--index",
        "0",
        "--out",
        first.to_str().unwrap(),
    ];
    scene
        .lab
        .lines(CAF_GATEWAY, &[&first_line[..], &from].concat())
        .unwrap();
    printed(
        &scene
            .judges
            .theirs("proof", &first.join("entry-0.tlog-proof"), &notes),
    );
    tampered_logs_are_refused(&scene, &folder);
}

/// Each kind of file of a log, altered and taken away, by both programs.
fn tampered_logs_are_refused(scene: &Scene, folder: &Path) {
    let below = |path: PathBuf| {
        let mut files: Vec<PathBuf> = fs::read_dir(&path)
            .unwrap()
            .map(|f| f.unwrap().path())
            .collect();
        files.sort();
        files.remove(0)
    };
    let files = [
        folder.join("checkpoint"),
        below(folder.join("tile/entries/000.p")),
        below(folder.join("tile/0/000.p")),
        folder.join("cosigned/grand-dijon.note"),
        folder.join("conventions/1.note"),
        below(folder.join("sheets")),
    ];
    let path = folder.to_str().unwrap();
    for file in files {
        let whole = fs::read(&file).unwrap();
        for altered in [Some(flip(&file, whole.len() / 3)), None] {
            match &altered {
                Some(bytes) => fs::write(&file, bytes).unwrap(),
                None => fs::remove_file(&file).unwrap(),
            }
            let ours = scene.judges.ours(&["audit", "verify", path]);
            let theirs = scene.judges.theirs("log", folder, &[]);
            fs::write(&file, &whole).unwrap();
            let gone = altered.is_none();
            // Without a partner's copy a log is believed as far as its own signature goes.
            if gone && file.ends_with("cosigned/grand-dijon.note") {
                assert!(printed(&ours).contains("nobody has cosigned it"));
                continue;
            }
            // A sheet that is not there is missed only by what it would be needed for.
            let error = String::from_utf8_lossy(&ours.stderr).into_owned();
            assert!(
                !ours.status.success(),
                "{}, gone: {gone}: {error}",
                file.display()
            );
            let why = refused(&theirs, 1);
            assert!(why.starts_with("refused: "), "{}: {why}", file.display());
        }
    }
    printed(&scene.judges.ours(&["audit", "verify", path]));
    // A folder that holds something is left as it is.
    let line = ["audit", "export", path, "--config"];
    let config = scene.lab.config(CAF_GATEWAY);
    let log = scene.log_dir("caf21");
    let from = [config.to_str().unwrap(), "--log", log.to_str().unwrap()];
    let output = Program::Passerelle.run(line.into_iter().chain(from));
    assert!(refused(&output, EXIT_CANNOT_CREATE).contains("is not empty"));
}

#[test]
fn what_no_partner_has_cosigned_yet_is_said_not_to_count() {
    let scene = Scene::start(&[CAF_GATEWAY, CAF_AGENT]);
    scene.lab.drop_file("caf21", FLOW, "table.csv", TABLE);
    let package = scene.package("submitted");
    let evidence = scene.export(CAF_GATEWAY, &package, "early.evidence");
    let told = scene.verified(&evidence).unwrap();
    assert_eq!(kinds(&told), ["accepted by caf21"]);
    assert_eq!(told["statements"][0]["counts"], false);
    let words = printed(
        &scene
            .judges
            .ours(&["evidence", "verify", evidence.to_str().unwrap()]),
    );
    for part in [
        "it DOES NOT COUNT as evidence: it is not yet cosigned",
        "cosigned by nobody",
        "for grand-dijon: nothing that counts was said",
    ] {
        assert!(words.contains(part), "{part} in\n{words}");
    }
    let theirs = printed(&scene.judges.theirs("evidence", &evidence, &[]));
    assert!(theirs.contains("\"cosigned\": []"), "{theirs}");
}
