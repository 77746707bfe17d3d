//! A laboratory that works while one of its processes dies again and again.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use passerelle_disk::CRASH_AT;
use passerelle_gateway::SEGMENT_LEN_ASKED;
use passerelle_proto::{Digest, PackageId};
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, Fact, Process, RunningLab, Witness,
    eventually, noise, quick_options, violations,
};

/// Longest wait for a process to die, or for everything to be in order again.
pub const STEP_LIMIT: Duration = Duration::from_secs(120);
/// Segments end after a few rounds; all entries of a bundle must fit into two of them.
const SEGMENT_LEN: &str = "3145728";
/// Bytes of a package that travels in chunks, and has a file of its own in the spool.
const LARGE: usize = 600_000;
/// Flow in which either party sends to the other.
const NOTICES: &str = "signalement";
/// Flow of reports, made from what was received.
const REPORTS: &str = "rapport";

/// One walk at a time: two would compete for the machine, and for the deadlines.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const PARTIES: [&str; 2] = ["caf21", "grand-dijon"];

/// A laboratory in which one process dies at one point after the other.
pub struct Walk {
    /// The laboratory.
    pub lab: RunningLab,
    witness: Witness,
    /// Who dies.
    pub process: Process,
    dropped: Vec<Fact>,
    round: usize,
}

impl Walk {
    /// Starts everything and sends a first round.
    pub fn start(process: Process) -> Self {
        let mut lab = RunningLab::make(&quick_options());
        lab.set(SEGMENT_LEN_ASKED, SEGMENT_LEN);
        for process in [CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT] {
            lab.run(process);
        }
        let witness = Witness::of(&lab, PARTIES);
        let mut walk = Self {
            lab,
            witness,
            process,
            dropped: Vec::new(),
            round: 0,
        };
        walk.drop_files();
        walk.settle("the first packages");
        walk
    }

    /// A small package each way, a large one, a report, and a word that a package was read.
    pub fn drop_files(&mut self) {
        self.round += 1;
        let round = self.round;
        let read = self.received_at_dijon();
        self.drop_file("caf21", NOTICES, &format!("small-{round}.csv"), 1_000);
        self.drop_file("grand-dijon", NOTICES, &format!("back-{round}.csv"), 1_000);
        self.drop_file("caf21", NOTICES, &format!("large-{round}.bin"), LARGE);
        if let Some(parent) = read {
            self.drop_report(&parent);
            // The agent may be down, or die of it: the next round says it again.
            let _ = self.lab.ask(DIJON_AGENT, &["ack", &parent]);
        }
    }

    /// A package that Grand Dijon has received.
    fn received_at_dijon(&self) -> Option<String> {
        let agent = &self.lab.party("grand-dijon").agent.directory;
        let days = fs::read_dir(agent.join("received")).ok()?;
        let entries = days.flat_map(|day| fs::read_dir(day.unwrap().path()).unwrap());
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        // One that is being entered has another name.
        names.filter(|name| name.parse::<PackageId>().is_ok()).min()
    }

    fn note(&mut self, party: &'static str, name: &str, bytes: &[u8]) {
        let other = |other: &&str| *other != party;
        self.dropped.push(Fact::Dropped {
            name: name.to_owned(),
            content: Digest::of(bytes),
            recipients: PARTIES.into_iter().filter(other).collect(),
        });
    }

    fn drop_file(&mut self, party: &'static str, flow: &str, name: &str, length: usize) {
        let bytes = noise(length, self.dropped.len() as u64 + 1);
        self.note(party, name, &bytes);
        self.lab.drop_file(party, flow, name, &bytes);
    }

    fn drop_report(&mut self, parent: &str) {
        let name = format!("report-{}.txt", self.round);
        self.note("grand-dijon", &name, name.as_bytes());
        let outbox = self.lab.party("grand-dijon").agent.directory.join("outbox");
        let outbox = outbox.join(REPORTS);
        let folder = outbox.join(".unfinished-report");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(&name), &name).unwrap();
        let parents = format!("parents = [\"{parent}\"]\n");
        fs::write(folder.join("package.toml"), parents).unwrap();
        fs::rename(&folder, outbox.join(format!("report-{}", self.round))).unwrap();
    }

    /// Something that no agent sends: it is moved aside, with a report.
    pub fn drop_link(&mut self) {
        for party in PARTIES {
            let outbox = self.lab.party(party).agent.directory.join("outbox");
            let link = outbox.join(NOTICES).join(format!("link-{}", self.round));
            std::os::unix::fs::symlink("/nowhere", link).unwrap();
        }
    }

    /// What waits for Dijon's agent rots in the spool of its gateway.
    pub fn rot_spooled(&mut self) {
        self.lab.kill(DIJON_AGENT);
        self.drop_files();
        let gateway = self.lab.party("grand-dijon").gateway.as_ref().unwrap();
        let spool = gateway.data_dir.join("spool");
        let process = self.process;
        let lab = &mut self.lab;
        let pack = eventually("a package that waits, or a death", STEP_LIMIT, || {
            let whole = |pack: &PathBuf| !pack.with_extension("part").exists();
            match lab.process(process).ended() {
                Some(_) => Some(None),
                None => pack_in(&spool).filter(whole).map(Some),
            }
        });
        if let Some(pack) = pack {
            rot(&pack);
        }
        self.lab.run(DIJON_AGENT);
    }

    /// What has come to Dijon's agent rots before the agent opens it: it dies in between.
    pub fn rot_arrived(&mut self) {
        self.lab
            .run_with(DIJON_AGENT, &[(CRASH_AT, "arrive.complete")]);
        self.drop_files();
        let lab = &mut self.lab;
        eventually("the death of the agent", STEP_LIMIT, || {
            lab.process(DIJON_AGENT).ended()
        });
        let incoming = self
            .lab
            .party("grand-dijon")
            .agent
            .directory
            .join("incoming");
        rot(&pack_in(&incoming).unwrap());
    }

    /// Whether all files have arrived and nobody has anything left to do; quick to tell.
    pub fn is_quiet(&self) -> bool {
        let empty = |dir: PathBuf| fs::read_dir(dir).is_ok_and(|mut it| it.next().is_none());
        let mut arrived = 0;
        for party in PARTIES {
            let agent = &self.lab.party(party).agent.directory;
            if !["work", "opening", "incoming"]
                .iter()
                .all(|place| empty(agent.join(place)))
            {
                return false;
            }
            arrived += files_below(&agent.join("inbox"));
        }
        arrived >= self.dropped.len()
    }

    /// Waits until all is in order: a history without violations.
    pub fn settle(&mut self, after: &str) {
        let start = Instant::now();
        let mut found = vec!["packages are on their way".to_owned()];
        eventually(after, STEP_LIMIT, || {
            if self.is_quiet() {
                let mut facts = self.dropped.clone();
                facts.extend(self.witness.facts(&self.lab));
                found = violations(&facts);
            }
            let late = start.elapsed() + Duration::from_secs(1) > STEP_LIMIT;
            assert!(!late, "{:?} after {after}: {found:#?}", self.process);
            found.is_empty().then_some(())
        });
    }

    /// Waits until the process has died, or everything is done without that.
    pub fn dies(&mut self) -> bool {
        eventually("a death, or a quiet end", STEP_LIMIT, || {
            match self.lab.process(self.process).ended() {
                Some(_) => Some(true),
                None => self.is_quiet().then_some(false),
            }
        })
    }
}

/// A package that lies in a directory.
fn pack_in(directory: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(directory).ok()?;
    let mut paths = files.map(|file| file.unwrap().path());
    paths.find(|path| path.extension().is_some_and(|end| end == "pack"))
}

/// A bit near the end of a file is another one.
fn rot(file: &Path) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let at = file.metadata().unwrap().len() - 9;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

fn files_below(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let count = |path: PathBuf| match path.is_dir() {
        true => files_below(&path),
        false => 1,
    };
    entries.map(|entry| count(entry.path())).sum()
}
