//! A laboratory of real processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use passerelle_agent::lab::{LabOptions, LabParty, Laboratory};
use passerelle_proto::Timestamp;
use serde_json::Value;

use crate::{Program, Running, eventually};

/// Longest wait for what a running laboratory does.
pub const LIMIT: Duration = Duration::from_secs(120);

/// One of the laboratory's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Process {
    /// The gateway of a party.
    Gateway(&'static str),
    /// The agent of a party.
    Agent(&'static str),
}

/// The producer's gateway.
pub const CAF_GATEWAY: Process = Process::Gateway("caf21");
/// The producer's agent.
pub const CAF_AGENT: Process = Process::Agent("caf21");
/// The partner's gateway.
pub const DIJON_GATEWAY: Process = Process::Gateway("grand-dijon");
/// The partner's agent.
pub const DIJON_AGENT: Process = Process::Agent("grand-dijon");
/// The contractor's agent.
pub const CONTRACTOR_AGENT: Process = Process::Agent("prestataire-obs");

/// A laboratory in a temporary directory, with what runs of it.
pub struct RunningLab {
    /// What was made.
    pub lab: Laboratory,
    running: BTreeMap<Process, Running>,
    environment: Vec<(String, String)>,
    dir: tempfile::TempDir,
}

/// Options that claim drops quickly.
pub fn quick_options() -> LabOptions {
    LabOptions {
        settle_ms: 100,
        poll_ms: 50,
        ..LabOptions::new(now())
    }
}

/// The wall clock.
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_ms(since.unwrap().as_millis() as i64)
}

impl RunningLab {
    /// Makes a laboratory and starts nothing.
    pub fn make(options: &LabOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lab = Laboratory::create(&dir.path().join("lab"), options).unwrap();
        Self {
            lab,
            running: BTreeMap::new(),
            environment: Vec::new(),
            dir,
        }
    }

    /// Makes a laboratory and starts all five programs.
    pub fn start(options: &LabOptions) -> Self {
        let mut lab = Self::make(options);
        for process in [
            CAF_GATEWAY,
            DIJON_GATEWAY,
            CAF_AGENT,
            DIJON_AGENT,
            CONTRACTOR_AGENT,
        ] {
            lab.run(process);
        }
        lab
    }

    /// A party.
    pub fn party(&self, name: &str) -> &LabParty {
        self.lab.party(name).unwrap()
    }

    /// Configuration of a process.
    pub fn config(&self, process: Process) -> PathBuf {
        match process {
            Process::Gateway(party) => self.party(party).gateway.as_ref().unwrap().config.clone(),
            Process::Agent(party) => self.party(party).agent.config.clone(),
        }
    }

    /// The directory of what a process keeps.
    pub fn directory_of(&self, process: Process) -> PathBuf {
        match process {
            Process::Gateway(party) => self.party(party).gateway.as_ref().unwrap().data_dir.clone(),
            Process::Agent(party) => self.party(party).agent.directory.clone(),
        }
    }

    /// Where what a process prints goes.
    pub fn log(&self, process: Process) -> PathBuf {
        let name = match process {
            Process::Gateway(party) => format!("{party}-gateway.log"),
            Process::Agent(party) => format!("{party}-agent.log"),
        };
        self.dir.path().join(name)
    }

    /// Sets a variable in the environment of every process that is started from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts a process.
    pub fn run(&mut self, process: Process) {
        self.run_with(process, &[]);
    }

    /// Starts a process with more in its environment.
    pub fn run_with(&mut self, process: Process, more: &[(&str, &str)]) {
        self.launch(process, &[], more);
    }

    /// Starts a process by way of another program: its name and the arguments before ours.
    pub fn run_under(&mut self, process: Process, runner: &[String]) {
        self.launch(process, runner, &[]);
    }

    fn launch(&mut self, process: Process, runner: &[String], more: &[(&str, &str)]) {
        let config = self.config(process);
        let config = config.to_str().unwrap();
        let log = self.log(process);
        let set = |(name, value): &(String, String)| (name.clone(), value.clone());
        let mut environment: Vec<_> = self.environment.iter().map(set).collect();
        let more = more
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        environment.extend(more);
        let running = match process {
            Process::Gateway(_) => {
                let arguments = ["--config", config];
                Program::Gateway.start_under(runner, &environment, arguments, &log)
            }
            Process::Agent(_) => {
                let arguments = ["agent", "run", "--config", config];
                Program::Passerelle.start_under(runner, &environment, arguments, &log)
            }
        };
        self.running.insert(process, running);
    }

    /// A running process.
    pub fn process(&mut self, process: Process) -> &mut Running {
        self.running.get_mut(&process).unwrap()
    }

    /// Kills a process (SIGKILL).
    pub fn kill(&mut self, process: Process) {
        self.running.remove(&process).unwrap().kill();
    }

    /// Asks a process to stop in good order, and does not wait.
    pub fn ask_to_stop(&mut self, process: Process) {
        self.process(process).ask_to_stop();
    }

    /// Stops a process in good order.
    pub fn stop(&mut self, process: Process) {
        assert_eq!(
            self.running.remove(&process).unwrap().terminate(),
            0,
            "{process:?}"
        );
    }

    /// Drops a file into a party's outbox.
    pub fn drop_file(&self, party: &str, flow: &str, name: &str, bytes: &[u8]) {
        let outbox = self.party(party).agent.directory.join("outbox").join(flow);
        eventually("the outbox", LIMIT, || outbox.is_dir().then_some(()));
        let unfinished = outbox.join(".unfinished");
        write_synced(&unfinished, bytes);
        fs::rename(unfinished, outbox.join(name)).unwrap();
        fs::File::open(outbox).unwrap().sync_all().unwrap();
    }

    /// Files called `name` in a party's inbox.
    pub fn received(&self, party: &str, flow: &str, name: &str) -> Vec<PathBuf> {
        let inbox = self.party(party).agent.directory.join("inbox").join(flow);
        let Ok(packages) = fs::read_dir(inbox) else {
            return Vec::new();
        };
        let files = packages.map(|package| package.unwrap().path().join(name));
        files.filter(|file| file.is_file()).collect()
    }

    /// Waits for exactly one file called `name`, and reads it.
    pub fn receive(&self, party: &str, flow: &str, name: &str) -> Vec<u8> {
        let what = format!("{name} at {party}; see {}", self.dir.path().display());
        let files = eventually(&what, LIMIT, || {
            Some(self.received(party, flow, name)).filter(|files| !files.is_empty())
        });
        assert_eq!(files.len(), 1, "it arrives once: {files:?}");
        fs::read(&files[0]).unwrap()
    }

    /// Asks a daemon with the real command; `None` while it does not answer.
    pub fn ask(&self, process: Process, arguments: &[&str]) -> Option<Value> {
        let config = self.config(process);
        let mut all = arguments.to_vec();
        all.extend(["--json", "--config", config.to_str().unwrap()]);
        let output = Program::Passerelle.run(&all);
        match output.status.success() {
            true => Some(serde_json::from_slice(&output.stdout).unwrap()),
            false => None,
        }
    }

    /// As [`Self::ask`], for a command that prints JSON lines.
    pub fn lines(&self, process: Process, arguments: &[&str]) -> Option<Vec<Value>> {
        let config = self.config(process);
        let mut all = arguments.to_vec();
        all.extend(["--json", "--config", config.to_str().unwrap()]);
        let output = Program::Passerelle.run(&all);
        let printed = output.status.success().then_some(output.stdout)?;
        let lines = String::from_utf8(printed).unwrap();
        let line = |line| serde_json::from_str(line).unwrap();
        Some(lines.lines().map(line).collect())
    }

    /// The metrics page of a process.
    pub fn metrics(&self, process: Process) -> String {
        use std::io::{Read, Write};
        let address = match process {
            Process::Gateway(party) => self.party(party).gateway.as_ref().unwrap().metrics,
            Process::Agent(party) => self.party(party).agent.metrics,
        };
        let address = address.unwrap();
        // A process that has just been started may not listen yet.
        let mut stream = eventually("a metrics page", LIMIT, || {
            std::net::TcpStream::connect(address).ok()
        });
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    }

    /// How often a process has said that it is ready.
    pub fn starts(&self, process: Process) -> usize {
        let ready = match process {
            Process::Gateway(_) => "the gateway runs",
            Process::Agent(_) => "the agent runs",
        };
        let printed = fs::read_to_string(self.log(process)).unwrap_or_default();
        printed.matches(ready).count()
    }

    /// The directory of the only package that a party has sent to its end.
    pub fn sent(&self, party: &str) -> PathBuf {
        eventually("a package that is over", LIMIT, || {
            self.all_sent(party).pop()
        })
    }

    /// The directories of all packages that a party has sent to their end.
    pub fn all_sent(&self, party: &str) -> Vec<PathBuf> {
        let sent = self.party(party).agent.directory.join("sent");
        let Ok(dates) = fs::read_dir(&sent) else {
            return Vec::new();
        };
        let jobs = dates.flat_map(|date| fs::read_dir(date.unwrap().path()).unwrap());
        jobs.map(|job| job.unwrap().path()).collect()
    }

    /// What was said about a package, as `kind` by `issuer`, sorted.
    pub fn statements(&self, job: &Path) -> Vec<String> {
        use prost::Message;
        let mut said = Vec::new();
        for file in fs::read_dir(job.join("statements")).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            let signed = passerelle_proto::v1::Signed::decode(bytes.as_slice()).unwrap();
            let body = passerelle_proto::v1::Statement::decode(signed.body.as_slice()).unwrap();
            let kind = passerelle_proto::statement_name(body.what.as_ref().unwrap());
            said.push(format!("{kind} by {}", body.issuer));
        }
        said.sort();
        said
    }

    /// Bytes of a sent package besides its manifest: head and padded chunks.
    pub fn ciphertext(&self, job: &Path) -> u64 {
        use prost::Message;
        let bytes = fs::read(job.join("manifest")).unwrap();
        let signed = passerelle_proto::v1::Signed::decode(bytes.as_slice()).unwrap();
        let body = passerelle_proto::v1::Manifest::decode(signed.body.as_slice()).unwrap();
        let head = [body.wraps, body.chunk_table, body.index];
        let head: u64 = head.into_iter().map(|part| part.unwrap().length).sum();
        head + body.payload_length
    }
}

/// Writes a file as a careful program does: what an agent finds in its outbox after a power cut is
/// what whoever dropped it had synced.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    let mut file = fs::File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

/// Bytes that do not compress, the same every time.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
