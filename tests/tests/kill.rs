//! Any process is killed in the middle of a package, and started again: it arrives once, the
//! transfer goes on where it was, bytes flow again soon, and the receipts are complete.
//!
//! One package takes several kills, one after the other: starting a laboratory and making a
//! package would take most of the time otherwise. What may cross again is counted per kill.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use passerelle_link::TransportChoice;
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, CountingProxy, DIJON_AGENT, DIJON_GATEWAY, LIMIT, Process, RunningLab,
    eventually, free_addresses, noise, quick_options,
};

const MIB: u64 = 1024 * 1024;
/// Bytes of the package.
const LENGTH: u64 = 256 * MIB;
/// Ways that the ciphertext takes: agent, gateway, gateway, agent.
const HOPS: u64 = 3;
/// Kills per process, half of them on each transport, unless `PASSERELLE_KILLS` says otherwise.
const KILLS: u64 = 40;
/// Kills during one package, unless `PASSERELLE_KILLS_PER_PACKAGE` says otherwise.
const KILLS_PER_PACKAGE: u64 = 10;
/// What a broken transfer may send again: what the receiver had not synced (4 MiB and a chunk),
/// and what the proxy's sockets held, which it has counted and which nobody has received.
const AGAIN_MAX: u64 = 8 * MIB;
/// Frames, the head of the package, statements and what keeps connections: percent of ciphertext.
const OVERHEAD_PERCENT: u64 = 2;
/// Of each QUIC datagram: flags, connection id (8), packet number (≤ 4) and tag (16). The bound is
/// on what the streams carry; over TCP the proxy does not see the headers of packets either.
const DATAGRAM_OVERHEAD: u64 = 1 + 8 + 4 + 16;
/// How soon bytes flow again once the process is back.
const FLOW_WITHIN: Duration = Duration::from_secs(2);
/// Bytes that are a package going on, not connections being made.
const FLOW: u64 = 512 * 1024;

/// A laboratory in which every connection goes through a proxy that counts.
struct Counted {
    lab: RunningLab,
    caf: CountingProxy,
    dijon: CountingProxy,
    transport: TransportChoice,
    over: BTreeSet<PathBuf>,
}

impl Counted {
    fn start(transport: TransportChoice) -> Self {
        let mut options = quick_options();
        options.transport = transport;
        let mut proxy = |party: &str| {
            let [near, far] = free_addresses();
            options.listen.insert(party.parse().unwrap(), far);
            options.advertised.insert(party.parse().unwrap(), near);
            CountingProxy::start(near, far, true)
        };
        let (caf, dijon) = (proxy("caf21"), proxy("grand-dijon"));
        let mut lab = RunningLab::make(&options);
        for process in [CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT] {
            lab.run(process);
        }
        Self {
            lab,
            caf,
            dijon,
            transport,
            over: BTreeSet::new(),
        }
    }

    /// Bytes on the streams so far: agent to gateway, gateway to gateway, gateway to agent. An
    /// agent dials its gateway, and gateways dial each other: the direction tells the hop.
    fn hops(&self) -> [u64; 3] {
        let (caf, dijon) = (&self.caf, &self.dijon);
        let carried = |bytes: u64, datagrams: u64| {
            // The two counters are not read in one instant.
            bytes.saturating_sub(datagrams * DATAGRAM_OVERHEAD)
        };
        let caf_back = carried(caf.backward(), caf.datagrams_backward());
        let dijon_forth = carried(dijon.forward(), dijon.datagrams_forward());
        [
            carried(caf.forward(), caf.datagrams_forward()),
            caf_back + dijon_forth,
            carried(dijon.backward(), dijon.datagrams_backward()),
        ]
    }

    fn bytes(&self) -> u64 {
        self.hops().iter().sum()
    }

    fn send(&self, name: &str, bytes: &[u8]) {
        let caf = self.lab.party("caf21");
        let outbox = caf.agent.directory.join("outbox/observation-iris");
        eventually("the outbox", LIMIT, || outbox.is_dir().then_some(()));
        let folder = outbox.join(format!(".{name}"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
        let recipients = "recipients = [\"grand-dijon\"]\n";
        std::fs::write(folder.join("package.toml"), recipients).unwrap();
        std::fs::rename(&folder, outbox.join(format!("package-{name}"))).unwrap();
    }

    fn arrived(&self, name: &str) -> Vec<PathBuf> {
        self.lab.received("grand-dijon", "observation-iris", name)
    }

    /// Kills and restarts a process; how long until bytes flow, counted from when it is ready.
    fn kill_and_restart(&mut self, process: Process, name: &str) -> Duration {
        let ready = self.lab.starts(process);
        self.lab.kill(process);
        self.lab.run(process);
        eventually("the process to be ready", LIMIT, || {
            (self.lab.starts(process) > ready).then_some(())
        });
        let (at, back) = (self.bytes(), Instant::now());
        eventually("bytes to flow again", LIMIT, || {
            // What others had left to do may have been done while this process was down.
            (self.bytes() >= at + FLOW || !self.arrived(name).is_empty()).then_some(())
        });
        back.elapsed()
    }

    /// Waits until everything is said about the newest package, and checks that nothing else is.
    /// Returns the length of its ciphertext.
    fn check_receipts(&mut self) -> u64 {
        let complete = [
            "accepted by caf21",
            "accepted by grand-dijon",
            "delivered by grand-dijon",
        ];
        let job = eventually("the package to be over", LIMIT, || {
            let mut jobs = self.lab.all_sent("caf21");
            jobs.retain(|job| !self.over.contains(job));
            assert!(jobs.len() <= 1, "one package at a time: {jobs:?}");
            jobs.pop()
        });
        // The last word may overtake the one before it.
        eventually("complete receipts", LIMIT, || {
            let mut said = self.lab.statements(&job);
            said.retain(|said| !said.starts_with("forwarded"));
            (said == complete).then_some(())
        });
        let ciphertext = self.lab.ciphertext(&job);
        self.over.insert(job);
        ciphertext
    }
}

/// Sends a package and kills `process` whenever such a share of all bytes has crossed.
fn one_package(counted: &mut Counted, process: Process, shares: &[f64], seed: u64) {
    let transport = counted.transport;
    let name = format!("noise-{seed}.bin");
    let bytes = noise(LENGTH as usize, seed);
    let before = counted.hops();
    let start = before.iter().sum::<u64>();
    counted.send(&name, &bytes);
    for share in shares {
        let until = start + (share * (HOPS * LENGTH) as f64) as u64;
        eventually("the middle of the transfer", LIMIT, || {
            (counted.bytes() >= until).then_some(())
        });
        let none = Vec::<PathBuf>::new();
        assert_eq!(counted.arrived(&name), none, "it is still on its way");
        let waited = counted.kill_and_restart(process, &name);
        println!("{process:?} {transport:?} {seed} at {share:.3}: flows after {waited:?}");
        assert!(
            waited <= FLOW_WITHIN,
            "{process:?} {transport:?} {seed} at {share:.3}: bytes flow after {waited:?} only"
        );
    }
    let arrived = counted
        .lab
        .receive("grand-dijon", "observation-iris", &name);
    assert!(arrived == bytes, "what arrived is what was sent");
    let ciphertext = counted.check_receipts();
    let now = counted.hops();
    let crossed: Vec<u64> = (0..3).map(|hop| now[hop] - before[hop]).collect();
    let surplus: Vec<i64> = crossed
        .iter()
        .map(|crossed| crossed.cast_signed() - ciphertext.cast_signed())
        .collect();
    let kills = shares.len() as u64;
    println!("{process:?} {transport:?} {seed}: {kills} kills, beyond the ciphertext {surplus:?}");
    let total: u64 = crossed.iter().sum();
    let allowed = HOPS * ciphertext * (100 + OVERHEAD_PERCENT) / 100 + kills * AGAIN_MAX;
    assert!(
        total <= allowed,
        "{process:?} {transport:?} {seed} at {shares:.3?}: {total} bytes crossed, {allowed} \
         allowed; beyond the ciphertext by hop: {surplus:?}"
    );
}

/// Which part of the way a process has something to do with the bytes.
fn own_part(process: Process) -> (f64, f64) {
    match process {
        CAF_AGENT => (0.0, 1.0 / 3.0),
        CAF_GATEWAY => (0.0, 2.0 / 3.0),
        DIJON_GATEWAY => (1.0 / 3.0, 1.0),
        _ => (2.0 / 3.0, 1.0),
    }
}

/// Instants spread over the way, the same every time: of four, three where the process is at work.
fn share(process: Process, number: u64) -> f64 {
    let place = (0.13 + number as f64 * 0.618_034).fract();
    let (from, to) = match number % 4 {
        3 => (0.0, 1.0),
        _ => own_part(process),
    };
    // Not in the last instant, when nothing is left to flow.
    (from + place * (to - from)).clamp(0.002, 0.93)
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Two laboratories at a time: more would compete for the machine, and for the deadlines.
static LANES: [Mutex<()>; 2] = [Mutex::new(()), Mutex::new(())];

fn kills(process: Process) {
    let sends = [CAF_AGENT, CAF_GATEWAY].contains(&process);
    let lane = LANES[usize::from(sends)].lock();
    let _lane = lane.unwrap_or_else(PoisonError::into_inner);
    let each = setting("PASSERELLE_KILLS", KILLS).div_ceil(2);
    let per_package = setting("PASSERELLE_KILLS_PER_PACKAGE", KILLS_PER_PACKAGE);
    for transport in [TransportChoice::Quic, TransportChoice::Tcp] {
        let mut counted = Counted::start(transport);
        let first = u64::from(transport == TransportChoice::Tcp) * each;
        let mut numbers: Vec<u64> = (first..first + each).collect();
        while !numbers.is_empty() {
            let rest = numbers.split_off(numbers.len().min(per_package as usize));
            let mut shares: Vec<f64> = numbers.iter().map(|n| share(process, *n)).collect();
            shares.sort_by(f64::total_cmp);
            let began = Instant::now();
            one_package(&mut counted, process, &shares, numbers[0] + 1);
            println!("one package took {:?}", began.elapsed());
            numbers = rest;
        }
    }
}

#[test]
fn the_sending_agent_may_be_killed() {
    kills(CAF_AGENT);
}

#[test]
fn the_first_gateway_may_be_killed() {
    kills(CAF_GATEWAY);
}

#[test]
fn the_last_gateway_may_be_killed() {
    kills(DIJON_GATEWAY);
}

#[test]
fn the_receiving_agent_may_be_killed() {
    kills(DIJON_AGENT);
}
