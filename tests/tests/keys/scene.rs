//! A laboratory in which each signatory has notes of its own: what one is given, the other gets
//! over the connection between them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use passerelle_agent::lab::LabOptions;
use passerelle_link::TransportChoice;
use passerelle_proto::{Digest, Note, Sheet, SigningKey};
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, LIMIT, Process, RunningLab, eventually,
    now, quick_options,
};

/// The flow that all of this is tried on.
pub const FLOW: &str = "observation-iris";
/// How soon a sheet counts everywhere.
pub const EFFECTIVE: Duration = Duration::from_secs(60);
/// The programs of the two signatories.
pub const ALL: [Process; 4] = [CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT];

pub struct Scene {
    pub lab: RunningLab,
}

impl Scene {
    pub fn make(transport: TransportChoice) -> Self {
        let lab = RunningLab::make(&LabOptions {
            transport,
            ..quick_options()
        });
        for party in ["caf21", "grand-dijon"] {
            let own = lab.party(party).directory.clone();
            let sheets = own.join("own-sheets");
            fs::create_dir(&sheets).unwrap();
            for note in fs::read_dir(&lab.lab.sheets).unwrap() {
                let note = note.unwrap().path();
                fs::copy(&note, sheets.join(note.file_name().unwrap())).unwrap();
            }
            let convention = own.join("own-convention.note");
            fs::copy(&lab.lab.convention, &convention).unwrap();
            let replaced = [
                (lab.lab.sheets.as_path(), sheets.as_path()),
                (&lab.lab.convention, &convention),
            ];
            for config in ["agent.toml", "gateway.toml"] {
                edit(&own.join(config), |text| {
                    replaced.iter().fold(text, |text, (from, to)| {
                        let quoted = |path: &Path| format!("\"{}\"", path.display());
                        text.replace(&quoted(from), &quoted(to))
                    })
                });
            }
        }
        Self { lab }
    }

    pub fn start(transport: TransportChoice) -> Self {
        let mut scene = Self::make(transport);
        ALL.iter().for_each(|process| scene.lab.run(*process));
        // What is changed from here on was not there when they started.
        for process in ALL {
            eventually("a daemon's answer", LIMIT, || {
                scene.lab.ask(process, &["status"])
            });
        }
        scene
    }

    fn own(&self, party: &str, file: &str) -> PathBuf {
        self.lab.party(party).directory.join(file)
    }

    /// The newest sheet that a party has signed.
    pub fn sheet(&self, party: &str) -> Sheet {
        let sheets = fs::read_dir(self.own(party, "own-sheets")).unwrap();
        let sheets = sheets.map(|note| {
            let note = Note::parse(&fs::read(note.unwrap().path()).unwrap()).unwrap();
            Sheet::parse(note.text()).unwrap()
        });
        let own = sheets.filter(|sheet| sheet.party.as_str() == party);
        own.max_by_key(|sheet| sheet.seq).unwrap()
    }

    /// Signs a party's next sheet and gives it to that party's programs alone; its digest.
    pub fn publish(&self, party: &str, edit: impl FnOnce(&mut Sheet)) -> Digest {
        self.publish_by(party, &self.lab.root_key(party), edit)
    }

    pub fn publish_by(
        &self,
        party: &str,
        root: &SigningKey,
        edit: impl FnOnce(&mut Sheet),
    ) -> Digest {
        let mut sheet = self.sheet(party);
        sheet.seq += 1;
        sheet.issued = now();
        edit(&mut sheet);
        let note = sheet.sign(root).unwrap();
        let file = format!("own-sheets/{party}-{}.note", sheet.seq);
        put(&self.own(party, &file), &note);
        Digest::of(&note)
    }

    /// Replaces the convention that a party's programs are configured with.
    pub fn amend(&self, party: &str, note: &[u8]) -> Digest {
        put(&self.own(party, "own-convention.note"), note);
        Digest::of(note)
    }

    /// Waits until all these processes have taken a note over.
    pub fn in_force(&self, processes: &[Process], note: &Digest) {
        for process in processes {
            self.printed(*process, &["a newer note is in force", &note.to_string()]);
        }
    }

    /// Waits until a process prints a line with all these words.
    pub fn printed(&self, process: Process, words: &[&str]) {
        eventually(&format!("{process:?}: {words:?}"), EFFECTIVE, || {
            let text = fs::read_to_string(self.lab.log(process)).unwrap_or_default();
            let all = |line: &&str| words.iter().all(|word| line.contains(word));
            text.lines().find(all).map(drop)
        });
    }

    /// Sends a file from the producer to the partner alone.
    pub fn send(&self, name: &str) {
        let caf = self.lab.party("caf21");
        let outbox = caf.agent.directory.join("outbox").join(FLOW);
        eventually("the outbox", LIMIT, || outbox.is_dir().then_some(()));
        let folder = outbox.join(format!(".{name}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(name), b"iris;foyers\n").unwrap();
        let recipients = "recipients = [\"grand-dijon\"]\n";
        fs::write(folder.join("package.toml"), recipients).unwrap();
        fs::rename(&folder, outbox.join(format!("package-{name}"))).unwrap();
    }

    pub fn receive(&self, name: &str) {
        self.lab.receive("grand-dijon", FLOW, name);
    }

    /// Verifies the log of a gateway with every signature in it.
    pub fn verify_log(&self, process: Process) {
        let Process::Gateway(party) = process else {
            panic!("agents keep no log");
        };
        let gateway = self.lab.party(party).gateway.as_ref().unwrap();
        let log = gateway.data_dir.join("log");
        let arguments = ["audit", "verify", log.to_str().unwrap(), "--signatures"];
        let verdict = self.lab.ask(process, &arguments);
        let verdict = verdict.expect("the log is not believed");
        assert!(verdict["signatures"].as_u64().unwrap() > 0, "{verdict}");
    }
}

/// Changes a text file.
pub fn edit(file: &Path, change: impl FnOnce(String) -> String) {
    let before = fs::read_to_string(file).unwrap();
    let after = change(before.clone());
    assert_ne!(after, before, "{}", file.display());
    fs::write(file, after).unwrap();
}

/// Puts a file in place in one step.
fn put(file: &Path, bytes: &[u8]) {
    let unfinished = file.with_extension("tmp");
    fs::write(&unfinished, bytes).unwrap();
    fs::rename(unfinished, file).unwrap();
}
