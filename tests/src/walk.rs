//! A laboratory that works while one of its processes dies, or its disk fails, again and again.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use passerelle_agent::lab::LabOptions;
use passerelle_disk::{CRASH_AT, Fault, Flavour};
use passerelle_gateway::{EXIT_STOPPED, SEGMENT_LEN_ASKED};
use passerelle_proto::{Digest, PackageId, Retention};

use crate::deadline::eventually;
use crate::facts::Witness;
use crate::history::{Fact, violations};
use crate::laboratory::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, Process, RunningLab, noise, quick_options,
    write_synced,
};

/// Longest wait for a process to die, or for everything to be in order again.
pub const STEP_LIMIT: Duration = Duration::from_secs(120);
/// Segments end after a few rounds.
const SEGMENT_LEN: &str = "3145728";
/// Operations of a start and one round are fewer than this.
const OPERATIONS_MAX: u64 = 8_000;
/// How long a process that goes on has to come to terms with a failure before it is started again.
const PATIENCE: Duration = Duration::from_secs(15);
/// Lines of what a process has printed that are shown when something is wrong.
const TOLD_LINES: usize = 40;
/// Bytes of a package that travels in chunks, and has a file of its own in the spool.
const LARGE: usize = 600_000;
/// Flow in which either party sends to the other.
const NOTICES: &str = "signalement";
/// Flow of reports, made from what was received.
const REPORTS: &str = "rapport";

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
        Self::start_after(process, |_| {})
    }

    /// The same; before anything starts, `prepare` may change what was made.
    pub fn start_after(process: Process, prepare: impl FnOnce(&RunningLab)) -> Self {
        // What is over goes as soon as it is cosigned, and what stands before the chunks stays.
        let retention = Retention {
            payload: 0,
            ..Retention::default()
        };
        let mut lab = RunningLab::make(&LabOptions {
            retention: Some(retention),
            ..quick_options()
        });
        prepare(&lab);
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
        eventually("the outbox", STEP_LIMIT, || outbox.is_dir().then_some(()));
        let folder = outbox.join(format!(".unfinished-{}", self.round));
        fs::create_dir(&folder).unwrap();
        write_synced(&folder.join(&name), name.as_bytes());
        let parents = format!("parents = [\"{parent}\"]\n");
        write_synced(&folder.join("package.toml"), parents.as_bytes());
        fs::File::open(&folder).unwrap().sync_all().unwrap();
        fs::rename(&folder, outbox.join(format!("report-{}", self.round))).unwrap();
        fs::File::open(&outbox).unwrap().sync_all().unwrap();
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
        let gateway = self.lab.party("grand-dijon").gateway.as_ref().unwrap();
        let spool = gateway.data_dir.join("spool");
        // What is over, and kept until that is cosigned, is sent to nobody any more.
        let over = packs_in(&spool);
        self.drop_files();
        let process = self.process;
        let lab = &mut self.lab;
        let pack = eventually("a package that waits, or a death", STEP_LIMIT, || {
            let waits =
                |pack: &PathBuf| !over.contains(pack) && !pack.with_extension("part").exists();
            match lab.process(process).ended() {
                Some(_) => Some(None),
                None => packs_in(&spool).into_iter().find(waits).map(Some),
            }
        });
        if let Some(pack) = &pack {
            rot(pack);
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
        // What is not whole yet would be compared with the rest when that comes.
        let whole = |pack: &&PathBuf| !pack.with_extension("part").exists();
        rot(packs_in(&incoming).iter().find(whole).unwrap());
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
                found = self.violations();
            }
            if start.elapsed() + Duration::from_secs(2) > STEP_LIMIT {
                let (process, found, told) = (self.process, self.violations(), self.told());
                panic!("{process:?} after {after}: {found:#?}; it said last: {told}");
            }
            found.is_empty().then_some(())
        });
    }

    /// What is wrong with what all parties hold now, also what is only not over yet.
    pub fn violations(&mut self) -> Vec<String> {
        let mut facts = self.dropped.clone();
        facts.extend(self.witness.facts(&self.lab));
        violations(&facts)
    }

    /// The last that the process has printed.
    fn told(&self) -> String {
        let printed = fs::read_to_string(self.lab.log(self.process)).unwrap();
        let lines: Vec<&str> = printed.lines().collect();
        lines[lines.len().saturating_sub(TOLD_LINES)..].join("\n")
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

/// Faults of a kind, one of them in one operation of a process.
#[derive(Clone, Copy, Debug)]
pub struct Faults<'f> {
    /// The environment variable that asks for one, and that its failure is told by.
    pub variable: &'f str,
    /// What else must be in the environment.
    pub environment: &'f [(&'f str, &'f str)],
    /// From one operation that fails to the next.
    pub stride: u64,
}

impl Walk {
    /// Has one operation fail after the other, each after a start of its own, and starts the
    /// process without faults each time; how many have failed.
    ///
    /// # Panics
    ///
    /// When anything is lost, doubled, altered or left.
    pub fn fail_some(&mut self, faults: &Faults<'_>) -> u64 {
        let kinds = [
            (false, Flavour::Lost),
            (true, Flavour::Lost),
            (false, Flavour::Persisted),
            (true, Flavour::Persisted),
        ];
        let operations = (1..OPERATIONS_MAX).step_by(faults.stride as usize);
        let chosen = operations.zip(kinds.into_iter().cycle());
        for (failed, (operation, (full, flavour))) in (0..).zip(chosen) {
            let fault = Fault {
                operation,
                full,
                flavour,
            };
            if !self.fail(&fault, faults) {
                return failed;
            }
        }
        panic!("one round has no end");
    }

    /// Starts the process with a fault to come; whether it came.
    fn fail(&mut self, fault: &Fault, faults: &Faults<'_>) -> bool {
        self.lab.kill(self.process);
        let printed = self.printed(faults);
        let asked = fault.to_string();
        let mut environment = faults.environment.to_vec();
        environment.push((faults.variable, &asked));
        self.lab.run_with(self.process, &environment);
        self.drop_files();
        let begun = Instant::now();
        let ended = eventually("an end, or quiet, or patience", STEP_LIMIT, || {
            let ended = self.lab.process(self.process).ended();
            let enough = self.is_quiet() || begun.elapsed() > PATIENCE;
            (ended.is_some() || enough).then_some(ended)
        });
        let failed = self.printed(faults) > printed;
        if let (Some(code), Process::Gateway(_)) = (ended, self.process) {
            assert!(failed, "it ended for no reason with {code}");
            assert_eq!(code, i32::from(EXIT_STOPPED), "{fault}");
        }
        let went_on = ended.is_none();
        if went_on {
            self.lab.kill(self.process);
        }
        self.lab.run(self.process);
        self.settle(&asked);
        println!(
            "{:?} {fault}: failed {failed}, went on {went_on}, all in order after {:?}",
            self.process,
            begun.elapsed()
        );
        failed
    }

    /// How often an operation has failed.
    fn printed(&self, faults: &Faults<'_>) -> usize {
        let printed = fs::read_to_string(self.lab.log(self.process)).unwrap();
        let says = format!("fails, as {} says", faults.variable);
        printed.matches(&says).count()
    }
}

/// Packages that lie in a directory, each in a file of its own.
fn packs_in(directory: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(directory).into_iter().flatten();
    let paths = files.map(|file| file.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|end| end == "pack"))
        .collect()
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
