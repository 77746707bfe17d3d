//! Two gateways and three agents on machines of their own.

mod disks;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use passerelle_agent::lab::{LabOptions, Laboratory};
use passerelle_agent::simulation::SimulatedAgent;
use passerelle_agent::{AgentConfig, AgentEvent, Job};
use passerelle_disk::{Disk, MemoryDisk};
use passerelle_gateway::Config;
use passerelle_gateway::simulation::{LogReader, Machine as GatewayMachine, SimulatedGateway};
use passerelle_host::Signal;
use passerelle_proto::fixture::{NOW, seeded};
use passerelle_proto::v1::{Entry, Signed, Statement};
use passerelle_proto::{
    Directory, Hop, PackageId, Retention, Role, Roots, Timestamp, statement_name,
};
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, CONTRACTOR_AGENT, DIJON_AGENT, DIJON_GATEWAY, Fact, Keeping, Place,
    Process, Witness,
};
use prost::Message;

use crate::clock::VirtualClock;
use crate::network::{Network, Station, name_of};
use crate::power::{BadPlaces, Death, Life};
use crate::story::Story;

/// Everybody, gateways first.
pub const EVERYBODY: [Process; 5] = [
    CAF_GATEWAY,
    DIJON_GATEWAY,
    CAF_AGENT,
    DIJON_AGENT,
    CONTRACTOR_AGENT,
];

/// Length of the logs' segments in bytes: 256 entries as long as they get here, since the bundle
/// that is not full may reach back into one segment and not further.
const SEGMENT_LEN: u64 = 256 * 8 * 1024;
/// The keys of all parties follow from this, so that a seed means the same in every process.
const KEYS_SEED: u64 = 21;
/// Laboratory and convention are so old when a simulation begins.
const LABORATORY_AGE: Duration = Duration::from_secs(10 * 24 * 3600);
/// Packages for the partner are refused above this many bytes.
pub const PARTNER_BYTES_MAX: u64 = 1_500_000;
/// How long a program that is asked to stop may take.
const GRACE: Duration = Duration::from_secs(20);

/// Whose agents there are.
const PARTIES: [&str; 3] = ["caf21", "grand-dijon", "prestataire-obs"];

fn has_gateway(party: &&'static str) -> bool {
    EVERYBODY.contains(&Process::Gateway(party))
}

/// Keys, notes and configurations on the real disk; nothing of it changes.
struct Paper {
    directory: Directory,
    notes: Vec<(PathBuf, Vec<u8>)>,
    gateways: BTreeMap<&'static str, Config>,
    agents: BTreeMap<&'static str, AgentConfig>,
    logs: BTreeMap<&'static str, LogReader>,
    _dir: tempfile::TempDir,
}

fn paper() -> &'static Paper {
    static PAPER: OnceLock<Paper> = OnceLock::new();
    PAPER.get_or_init(|| {
        let _seeded = seeded(KEYS_SEED);
        let dir = tempfile::tempdir().unwrap();
        let today = Timestamp::from_ms(NOW.as_ms() - LABORATORY_AGE.as_millis() as i64);
        let options = LabOptions {
            settle_ms: 500,
            poll_ms: 400,
            metrics: false,
            // What is over goes as soon as it is cosigned, but for what stands before the chunks.
            retention: Some(Retention {
                payload: 0,
                ..Retention::default()
            }),
            ..LabOptions::new(today)
        };
        let lab = Laboratory::create(&dir.path().join("lab"), &options).unwrap();
        let mut notes = vec![lab.convention.clone()];
        let sheets = std::fs::read_dir(&lab.sheets).unwrap();
        notes.extend(sheets.map(|entry| entry.unwrap().path()));
        notes.sort();
        let read = |path: PathBuf| (path.clone(), std::fs::read(path).unwrap());
        let notes: Vec<_> = notes.into_iter().map(read).collect();
        let with_gateway = PARTIES.iter().filter(|party| has_gateway(party));
        let gateways = with_gateway.map(|party| (*party, gateway_of(&lab, party)));
        let gateways: BTreeMap<_, _> = gateways.collect();
        let log = |(party, config): (&&'static str, _)| (*party, LogReader::of(config).unwrap());
        Paper {
            directory: directory(&lab, &notes),
            logs: gateways.iter().map(log).collect(),
            agents: PARTIES.map(|party| (party, agent_of(&lab, party))).into(),
            gateways,
            notes,
            _dir: dir,
        }
    })
}

fn directory(lab: &Laboratory, notes: &[(PathBuf, Vec<u8>)]) -> Directory {
    let is_convention = |(path, _): &&(PathBuf, Vec<u8>)| *path == lab.convention;
    let only = |wanted: bool| -> Vec<Vec<u8>> {
        let notes = notes.iter().filter(|note| is_convention(note) == wanted);
        notes.map(|(_, note)| note.clone()).collect()
    };
    let pin = |name: &str| {
        let party = lab.party(name).unwrap();
        let text = passerelle_proto::read_secret_file(&party.root_key).unwrap();
        let key = passerelle_proto::SigningKey::from_secret_text(&text).unwrap();
        (party.id.clone(), key.id())
    };
    let roots = Roots::from(["caf21", "grand-dijon"].map(pin));
    Directory::load(&roots, &only(true), &only(false)).unwrap()
}

enum Program {
    Gateway(SimulatedGateway),
    Agent(SimulatedAgent),
}

/// One machine and the program that runs on it, if it does.
struct Machine {
    memory: MemoryDisk,
    bad: BadPlaces,
    clock: Arc<VirtualClock>,
    life: Option<Life>,
    program: Option<Program>,
}

/// Everybody, and what connects them.
pub struct World {
    machines: BTreeMap<Process, Machine>,
    network: Network,
    story: Story,
    /// Told when a life has ended at an operation of its disk.
    pub ended: Arc<Signal>,
    // Verifies each signature once.
    witness: RefCell<Witness>,
}

impl World {
    /// Everybody's machine, switched off.
    pub fn new(network: Network, story: &Story) -> Self {
        let machine = |process| {
            let memory = MemoryDisk::default();
            let disk: &dyn Disk = &memory;
            for (path, note) in &paper().notes {
                disk.create_directories(path.parent().unwrap()).unwrap();
                disk.replace(path, note).unwrap();
            }
            let machine = Machine {
                memory,
                bad: BadPlaces::default(),
                clock: Arc::new(VirtualClock::right()),
                life: None,
                program: None,
            };
            (process, machine)
        };
        Self {
            machines: EVERYBODY.into_iter().map(machine).collect(),
            network,
            story: story.clone(),
            ended: Arc::default(),
            witness: RefCell::new(Witness::believing(paper().directory.clone())),
        }
    }

    fn machine(&self, process: Process) -> &Machine {
        &self.machines[&process]
    }

    /// Whether a program runs, as far as is known.
    pub fn runs(&self, process: Process) -> bool {
        self.machine(process).program.is_some()
    }

    /// The life of a program that runs.
    pub fn life(&self, process: Process) -> Option<Life> {
        self.machine(process).life.clone()
    }

    /// A machine's clock.
    pub fn clock(&self, process: Process) -> Arc<VirtualClock> {
        self.machine(process).clock.clone()
    }

    /// Starts a program. Its life may be over after so many operations of its disk.
    ///
    /// # Errors
    /// Why it does not start, although its life goes on.
    pub async fn start(
        &mut self,
        process: Process,
        ends: Option<(u64, Death)>,
    ) -> Result<(), String> {
        let machine = self.machines.get_mut(&process).unwrap();
        let life = Life::begin(&machine.memory, &machine.bad, &self.ended);
        if let Some((operations, death)) = ends {
            life.end_after(operations, death);
        }
        machine.life = Some(life.clone());
        self.network.begin(process, &life);
        self.story.tell(format_args!("{} starts", name_of(process)));
        let started = match process {
            Process::Gateway(party) => self.start_gateway(process, party, &life).await,
            Process::Agent(party) => self.start_agent(process, party, &life),
        };
        match started {
            Err(why) if life.goes_on() => {
                Err(format!("{} does not start: {why}", name_of(process)))
            }
            // It has died on the way; whoever looks after it will see.
            Err(_) | Ok(()) => Ok(()),
        }
    }

    async fn start_gateway(
        &mut self,
        process: Process,
        party: &str,
        life: &Life,
    ) -> Result<(), String> {
        let clock = self.clock(process);
        let disk: Arc<dyn Disk> = Arc::new(life.clone());
        let dialer = self.network.dialer(process, life);
        let machine = GatewayMachine {
            disk,
            clock,
            segment_len: SEGMENT_LEN,
        };
        let gateway = SimulatedGateway::start(gateway_config(party).clone(), machine, dialer).await;
        let gateway = gateway.map_err(|error| error.to_string())?;
        let station = Station {
            exchange: gateway.exchange(),
            streams: gateway.streams(),
            cosign: gateway.cosign(),
        };
        self.network.up(process, station);
        self.machines.get_mut(&process).unwrap().program = Some(Program::Gateway(gateway));
        Ok(())
    }

    fn start_agent(&mut self, process: Process, party: &str, life: &Life) -> Result<(), String> {
        let clock = self.clock(process);
        let disk: Arc<dyn Disk> = Arc::new(life.clone());
        let dialer = self.network.dialer(process, life);
        let agent = SimulatedAgent::start(agent_config(party).clone(), disk, clock, dialer);
        let agent = agent.map_err(|error| error.to_string())?;
        let (mut events, story) = (agent.events(), self.story.clone());
        let (name, life) = (name_of(process), life.clone());
        tokio::spawn(async move {
            while let Ok(event) = events.recv().await {
                if life.goes_on() {
                    story.tell(format_args!("{name} {}", words(&event)));
                }
            }
        });
        self.machines.get_mut(&process).unwrap().program = Some(Program::Agent(agent));
        Ok(())
    }

    /// Buries the programs whose lives have ended; who they were.
    pub fn bury(&mut self, told: bool) -> Vec<Process> {
        let mut dead = Vec::new();
        for (process, machine) in &mut self.machines {
            if machine.life.as_ref().is_none_or(Life::goes_on) {
                continue;
            }
            machine.life = None;
            match machine.program.take() {
                Some(Program::Gateway(gateway)) => gateway.abandon(),
                Some(Program::Agent(agent)) => agent.abandon(),
                None => {}
            }
            self.network.down(*process, told);
            self.story
                .tell(format_args!("{} is dead", name_of(*process)));
            dead.push(*process);
        }
        dead
    }

    /// Asks a program to stop, and waits.
    pub async fn stop(&mut self, process: Process) {
        let machine = self.machines.get_mut(&process).unwrap();
        self.story
            .tell(format_args!("{} is asked to stop", name_of(process)));
        match machine.program.take() {
            Some(Program::Gateway(gateway)) => gateway.stop(GRACE).await,
            Some(Program::Agent(agent)) => agent.stop(GRACE).await,
            None => {}
        }
        if let Some(life) = machine.life.take() {
            life.end(Death::Killed);
        }
        self.network.down(process, true);
    }

    /// Why a gateway has given up, although its machine is in order.
    pub fn failure(&self) -> Option<String> {
        self.machines.iter().find_map(|(process, machine)| {
            let Some(Program::Gateway(gateway)) = &machine.program else {
                return None;
            };
            let failure = gateway.failure()?;
            let alive = machine.life.as_ref().is_some_and(Life::goes_on);
            alive.then(|| format!("{} stops by itself: {}", name_of(*process), failure.why))
        })
    }

    /// What is not over anywhere, in words; empty: all is said.
    pub fn unfinished(&self) -> String {
        let mut words = Vec::new();
        for (process, machine) in &self.machines {
            let name = name_of(*process);
            match &machine.program {
                Some(Program::Gateway(gateway)) => {
                    for (hop, counts) in gateway.waiting() {
                        words.push(format!("{name} has for {hop}: {counts:?}"));
                    }
                }
                Some(Program::Agent(agent)) => {
                    for (package, dropped) in agent.outgoing() {
                        words.push(format!("{name} waits for {dropped} ({})", package.short()));
                    }
                }
                None => words.push(format!("{name} does not run")),
            }
        }
        words.join("; ")
    }

    /// Statements that a gateway has for the agent of a party.
    pub fn statements_for(&self, gateway: Process, party: &str) -> u64 {
        let Some(Program::Gateway(gateway)) = &self.machine(gateway).program else {
            return 0;
        };
        let agent = |hop: &Hop| hop.role == Role::Agent && hop.party.as_str() == party;
        let waiting = gateway.waiting().into_iter();
        waiting
            .filter(|(hop, _)| agent(hop))
            .map(|(_, counts)| counts.statements)
            .sum()
    }

    /// Packages of a party that are not over, with the names under which they were dropped.
    pub fn outgoing(&self, process: Process) -> Vec<(PackageId, String)> {
        match &self.machine(process).program {
            Some(Program::Agent(agent)) => agent.outgoing(),
            _ => Vec::new(),
        }
    }

    /// Has a party take a package back.
    pub fn cancel(&self, process: Process, package: PackageId) {
        if let Some(Program::Agent(agent)) = &self.machine(process).program {
            let asked = agent.cancel(package);
            let (name, id) = (name_of(process), package.short());
            self.story
                .tell(format_args!("{name} takes {id} back: {asked:?}"));
        }
    }

    /// A person drops files in a folder of their own, durably.
    pub fn drop_folder(
        &self,
        party: &'static str,
        flow: &str,
        name: &str,
        files: &[(&str, &[u8])],
    ) {
        let disk: &dyn Disk = &self.machine(Process::Agent(party)).memory;
        let outbox = agent_config(party).directory.join("outbox").join(flow);
        let unfinished = outbox.join(format!(".{name}"));
        disk.create_directories(&unfinished).unwrap();
        for (file, bytes) in files {
            disk.replace(&unfinished.join(file), bytes).unwrap();
        }
        disk.rename_synced(&unfinished, &outbox.join(name)).unwrap();
        self.story
            .tell(format_args!("{party} drops {name} into {flow}"));
    }

    /// Whether an agent has a part of a package.
    pub fn is_arriving(&self, party: &'static str) -> bool {
        let memory = &self.machine(Process::Agent(party)).memory;
        let incoming = agent_config(party).directory.join("incoming");
        let mut inside = memory.list(&incoming).into_iter().flatten();
        inside.any(|path| path.extension().is_some_and(|end| end == "part"))
    }

    /// Nothing can be read or written at these places of an agent's directory; `[]`: all is well.
    pub fn spoil(&self, party: &'static str, places: &[&str]) {
        let root = &agent_config(party).directory;
        let places: Vec<PathBuf> = places.iter().map(|place| root.join(place)).collect();
        self.machine(Process::Agent(party)).bad.set(&places);
        self.story
            .tell(format_args!("{party}: the disk fails at {places:?}"));
    }

    /// The same of a gateway's directory.
    pub fn spoil_gateway(&self, party: &'static str, places: &[&str]) {
        let root = &gateway_config(party).data_dir;
        let places: Vec<PathBuf> = places.iter().map(|place| root.join(place)).collect();
        self.machine(Process::Gateway(party)).bad.set(&places);
        self.story.tell(format_args!(
            "{party}/gateway: the disk fails at {places:?}"
        ));
    }

    /// Entries of a gateway's log; none while it does not run.
    pub fn log_size(&self, gateway: Process) -> u64 {
        match &self.machine(gateway).program {
            Some(Program::Gateway(gateway)) => gateway.log_size(),
            _ => 0,
        }
    }

    /// What lies in a directory of an agent, by name.
    pub fn names_in(&self, party: &'static str, directory: &str) -> Vec<String> {
        let memory = &self.machine(Process::Agent(party)).memory;
        let found = memory.list(&agent_config(party).directory.join(directory));
        let found = found.into_iter().flatten();
        let name = |path: PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        found.filter_map(name).collect()
    }

    fn keepings(&self, disk: impl Fn(&MemoryDisk) -> MemoryDisk) -> Vec<Keeping> {
        let place = |process: Process, dir: PathBuf| {
            let disk: Arc<dyn Disk> = Arc::new(disk(&self.machine(process).memory));
            Place { disk, dir }
        };
        let keeping = |party: &'static str| Keeping {
            party,
            agent: place(Process::Agent(party), agent_config(party).directory.clone()),
            gateway: has_gateway(&party).then(|| {
                let dir = gateway_config(party).data_dir.clone();
                place(Process::Gateway(party), dir)
            }),
        };
        PARTIES.map(keeping).into()
    }

    /// What everybody holds, once all is over.
    pub fn facts(&self) -> Vec<Fact> {
        let keepings = self.keepings(MemoryDisk::clone);
        let mut facts = self.witness.borrow_mut().facts_of(&keepings);
        facts.retain(|fact| match fact {
            Fact::Left { party, path } => !(path.starts_with("spool/") && self.keeps(party)),
            _ => true,
        });
        facts
    }

    /// Whether a party's gateway keeps packages that are over until a time to come.
    fn keeps(&self, party: &'static str) -> bool {
        let program = &self.machine(Process::Gateway(party)).program;
        matches!(program, Some(Program::Gateway(gateway)) if gateway.keeps())
    }

    /// What everybody would hold if all machines lost their power at this moment.
    ///
    /// # Errors
    /// A log that does not open any more.
    pub fn facts_in_the_dark(&self) -> Result<Vec<Fact>, String> {
        let mut witness = self.witness.borrow_mut();
        let mut facts = Vec::new();
        for keeping in self.keepings(MemoryDisk::after_a_power_cut) {
            witness.held_by_agent(&keeping, &mut facts);
            let Some(gateway) = keeping.gateway else {
                continue;
            };
            let found = paper().logs[keeping.party].entries(&gateway.disk, SEGMENT_LEN);
            let found = found.map_err(|error| format!("the log of {}: {error}", keeping.party))?;
            let decoded = (0..).zip(&found);
            let decoded = decoded.map(|(index, bytes)| (index, decode(bytes)));
            witness.logged(keeping.party, decoded, &mut facts);
        }
        facts.retain(|fact| !matches!(fact, Fact::Left { .. }));
        Ok(facts)
    }

    /// What became of something that a party has dropped under this name, once it is over: who has
    /// said what about it.
    pub fn fate(&self, party: &'static str, name: &str) -> Option<Vec<(&'static str, String)>> {
        let memory = &self.machine(Process::Agent(party)).memory;
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let root = &agent_config(party).directory;
        let days = ["sent", "rejected"].map(|place| memory.list(&root.join(place)));
        let days = days.into_iter().flatten().flatten();
        let jobs = days.flat_map(|day| memory.list(&day).unwrap());
        let mut jobs = jobs.map(|directory| Job::at(&disk, directory));
        let job = jobs.find(|job| {
            let record = job.record().ok().flatten();
            record.is_some_and(|record| record.name == name)
        })?;
        let said = job.statements().unwrap().into_iter().map(|bytes| {
            let signed = Signed::decode(bytes.as_slice()).unwrap();
            let body = Statement::decode(signed.body.as_slice()).unwrap();
            (statement_name(&body.what.unwrap()), body.issuer)
        });
        Some(said.collect())
    }
}

/// An event without what differs from run to run.
fn words(event: &AgentEvent) -> String {
    use AgentEvent::*;
    match event {
        Connected { .. } => "is connected".into(),
        Disconnected { why } => format!("is not connected: {why}"),
        Claimed { name, .. } => format!("claims {name}"),
        Sealed { package, title, .. } => format!("seals {title} as {}", package.short()),
        Stated {
            package,
            issuer,
            what,
        } => {
            let (what, about) = (statement_name(what), package.short());
            format!("is told {what} by {issuer} about {about}")
        }
        Finished {
            package, delivered, ..
        } => {
            format!("is over with {}, delivered: {delivered}", package.short())
        }
        Rejected { name, why, .. } => format!("rejects {name}: {why}"),
        Arrived { package, .. } => format!("has {}", package.short()),
        Received { package, title, .. } => format!("has opened {title} ({})", package.short()),
        Refused { package, why, .. } => format!("refuses {}: {why}", package.short()),
        Acked { package } => format!("has handed over a word about {}", package.short()),
        PutOff { package, why } => format!("puts {} off: {why}", package.short()),
        HookFailed { package, why } => format!("the hook failed for {}: {why}", package.short()),
    }
}

fn decode(bytes: &[u8]) -> Entry {
    Entry::decode(bytes).unwrap()
}

fn gateway_of(lab: &Laboratory, party: &str) -> Config {
    let gateway = lab.party(party).unwrap().gateway.as_ref().unwrap();
    let mut config = Config::load(&gateway.config).unwrap();
    if party == "grand-dijon" {
        config.limits.package_bytes_max = PARTNER_BYTES_MAX;
    }
    config
}

fn agent_of(lab: &Laboratory, party: &str) -> AgentConfig {
    AgentConfig::load(&lab.party(party).unwrap().agent.config).unwrap()
}

fn gateway_config(party: &str) -> &'static Config {
    &paper().gateways[party]
}

fn agent_config(party: &str) -> &'static AgentConfig {
    &paper().agents[party]
}
