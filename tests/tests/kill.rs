//! Any process is killed in the middle of a package, and started again: it arrives once, the
//! transfer goes on where it was, and the receipts are complete.

use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;
use std::time::Duration;

use passerelle_link::TransportChoice;
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, CountingProxy, DIJON_AGENT, DIJON_GATEWAY, LIMIT, Process, RunningLab,
    eventually, noise, quick_options,
};

/// Bytes of the package.
const LENGTH: usize = 96 * 1024 * 1024;
/// Kills per process and transport, unless `PASSERELLE_KILLS` says otherwise.
const KILLS: u64 = 1;
/// What a broken transfer may send again: its window, and what the proxy's own sockets held, which
/// it has counted and which nobody has received.
const AGAIN_MAX: u64 = (8 + 8) * 1024 * 1024;
/// Ways that the ciphertext takes: agent, gateway, gateway, agent.
const HOPS: u64 = 3;

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

struct Counted {
    lab: RunningLab,
    proxies: Vec<CountingProxy>,
}

impl Counted {
    /// A laboratory in which every connection goes through a proxy that counts.
    fn start(transport: TransportChoice) -> Self {
        let mut options = quick_options();
        options.transport = transport;
        let mut proxies = Vec::new();
        for party in ["caf21", "grand-dijon"] {
            let (near, far) = (free_address(), free_address());
            options.listen.insert(party.parse().unwrap(), far);
            options.advertised.insert(party.parse().unwrap(), near);
            proxies.push(CountingProxy::start(near, far, true));
        }
        let mut lab = RunningLab::make(&options);
        for process in [CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT] {
            lab.run(process);
        }
        Self { lab, proxies }
    }

    fn bytes(&self) -> u64 {
        self.proxies
            .iter()
            .map(|proxy| proxy.forward() + proxy.backward())
            .sum()
    }
}

/// Sends a package to one recipient and kills `process` after `share` of all bytes have crossed.
fn kill_in_the_middle(process: Process, transport: TransportChoice, share: f64, seed: u64) {
    let mut counted = Counted::start(transport);
    let bytes = noise(LENGTH, seed);
    let outbox = counted
        .lab
        .party("caf21")
        .agent
        .directory
        .join("outbox/observation-iris");
    eventually("the outbox", LIMIT, || outbox.is_dir().then_some(()));
    let folder = outbox.join(".package");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("noise.bin"), &bytes).unwrap();
    std::fs::write(
        folder.join("package.toml"),
        "recipients = [\"grand-dijon\"]\n",
    )
    .unwrap();
    let before = counted.bytes();
    std::fs::rename(&folder, outbox.join("package")).unwrap();
    let until = before + (share * (HOPS * LENGTH as u64) as f64) as u64;
    eventually("the middle of the transfer", LIMIT, || {
        (counted.bytes() >= until).then_some(())
    });
    counted.lab.kill(process);
    let at_kill = counted.bytes();
    counted.lab.run(process);
    let restarted = std::time::Instant::now();
    let received = counted
        .lab
        .receive("grand-dijon", "observation-iris", "noise.bin");
    assert!(received == bytes, "what arrived is what was sent");
    let complete = [
        "accepted by caf21",
        "accepted by grand-dijon",
        "delivered by grand-dijon",
    ];
    // The last word may overtake the one before it.
    eventually("complete receipts", LIMIT, || {
        let mut said = counted.lab.statements(&counted.lab.sent("caf21"));
        said.retain(|said| !said.starts_with("forwarded"));
        (said == complete).then_some(())
    });
    let crossed = counted.bytes() - before;
    let allowed = HOPS * LENGTH as u64 * 102 / 100 + AGAIN_MAX;
    let context = format!("{process:?} {transport:?} at {share:.2} (killed after {at_kill})");
    // Over UDP the proxy also counts headers, and what QUIC sends again for reasons of its own.
    if transport == TransportChoice::Tcp {
        assert!(
            crossed <= allowed,
            "{context}: {crossed} bytes crossed, {allowed} allowed"
        );
    }
    assert!(restarted.elapsed() < Duration::from_secs(60), "{context}");
}

/// One laboratory at a time: two would compete for the machine, and for the deadlines.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn kills(process: Process) {
    let _one = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|failed| failed.into_inner());
    let kills = std::env::var("PASSERELLE_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    for seed in 0..kills {
        for transport in [TransportChoice::Quic, TransportChoice::Tcp] {
            // Instants spread over the whole way, the same every time.
            let spread = (seed * 2 + u64::from(transport == TransportChoice::Tcp)) as f64;
            let share = (0.13 + spread * 0.618_034).fract() * 0.9;
            kill_in_the_middle(process, transport, share, seed + 1);
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
