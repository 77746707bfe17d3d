//! Real processes exchange packages: what is received is what was sent, and all is receipted.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use passerelle_link::TransportChoice;
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, CONTRACTOR_AGENT, CountingProxy, DIJON_AGENT, DIJON_GATEWAY, LIMIT,
    Program, RunningLab, eventually, free_addresses, noise, quick_options,
};
use serde_json::Value;

const FLOW: &str = "observation-iris";
const COMPLETE: [&str; 4] = [
    "accepted by caf21",
    "accepted by grand-dijon",
    "delivered by grand-dijon",
    "delivered by prestataire-obs",
];

/// Waits for one receipt of each kind from each party, and no other.
fn expect_complete_receipts(lab: &RunningLab) {
    // The last word may overtake the one before it; the last gateway also says that it has handed
    // over every byte.
    eventually("complete receipts", LIMIT, || {
        let mut said = lab.statements(&lab.sent("caf21"));
        said.retain(|said| !said.starts_with("forwarded"));
        (said == COMPLETE).then_some(())
    });
}

/// Real tables where the workplace has them, else tables in the encodings that they come in.
fn tables() -> Vec<(String, Vec<u8>)> {
    let own = vec![
        (
            "cp1252.csv".to_owned(),
            b"code;nom\r\n21166;Chen\xf4ve\r\n".to_vec(),
        ),
        (
            "bom.csv".to_owned(),
            "\u{feff}code;nom\n21166;Chenôve\n".as_bytes().to_vec(),
        ),
        ("empty.csv".to_owned(), Vec::new()),
    ];
    let Ok(folder) = std::env::var("PASSERELLE_TEST_TABLES") else {
        return own;
    };
    let mut found = own;
    let mut folders = vec![Path::new(&folder).to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                    found.push((name, fs::read(path).unwrap()));
                }
            }
        }
    }
    found.sort();
    found.dedup_by(|a, b| a.0 == b.0);
    found
}

#[test]
fn tables_arrive_unchanged_in_one_package_with_one_receipt_each() {
    let lab = RunningLab::start(&quick_options());
    let tables = tables();
    let outbox = lab.party("caf21").agent.directory.join("outbox").join(FLOW);
    eventually("the outbox", LIMIT, || outbox.is_dir().then_some(()));
    let folder = outbox.join(".tables");
    fs::create_dir(&folder).unwrap();
    for (name, bytes) in &tables {
        fs::write(folder.join(name), bytes).unwrap();
    }
    fs::rename(&folder, outbox.join("tables")).unwrap();
    for (name, bytes) in &tables {
        for party in ["grand-dijon", "prestataire-obs"] {
            assert!(
                &lab.receive(party, FLOW, name) == bytes,
                "{name} at {party}"
            );
        }
    }
    expect_complete_receipts(&lab);
}

#[test]
fn one_ciphertext_crosses_for_two_recipients_and_both_logs_verify() {
    let mut lab = RunningLab::start(&quick_options());
    let bytes = noise(6_000_000, 1);
    lab.drop_file("caf21", FLOW, "noise.bin", &bytes);
    for party in ["grand-dijon", "prestataire-obs"] {
        assert!(lab.receive(party, FLOW, "noise.bin") == bytes);
    }
    expect_complete_receipts(&lab);
    let status = lab.ask(CAF_GATEWAY, &["status"]).unwrap();
    let peers = status["peers"].as_array().unwrap();
    let sent: u64 = peers
        .iter()
        .filter(|peer| peer["peer"].to_string().contains("grand-dijon"))
        .map(|peer| peer["bytes_sent"].as_u64().unwrap())
        .sum();
    assert!(
        (6_000_000..6_400_000).contains(&sent),
        "{sent} bytes for two recipients"
    );
    for process in [
        CAF_AGENT,
        DIJON_AGENT,
        CONTRACTOR_AGENT,
        CAF_GATEWAY,
        DIJON_GATEWAY,
    ] {
        lab.stop(process);
    }
    for party in ["caf21", "grand-dijon"] {
        let gateway = lab.party(party).gateway.as_ref().unwrap();
        let log = gateway.data_dir.join("log");
        let verify = || {
            let (log, config) = (log.to_str().unwrap(), gateway.config.to_str().unwrap());
            Program::Passerelle.run(["audit", "verify", log, "--config", config])
        };
        let verified = verify();
        let printed = String::from_utf8_lossy(&verified.stdout).into_owned();
        assert!(verified.status.success(), "{printed}{:?}", verified.stderr);
        let bundle = log.join("tile/entries");
        let bundle = first_file(&bundle);
        let mut altered = fs::read(&bundle).unwrap();
        let middle = altered.len() / 2;
        altered[middle] ^= 1;
        fs::write(&bundle, altered).unwrap();
        assert_eq!(
            verify().status.code(),
            Some(65),
            "an altered log is refused"
        );
    }
}

fn first_file(folder: &Path) -> std::path::PathBuf {
    let path = fs::read_dir(folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    if path.is_dir() {
        first_file(&path)
    } else {
        path
    }
}

/// An agent of the producer whose way to its gateway has no UDP; the proxy and a silent socket.
fn without_udp(
    transport: TransportChoice,
    silent: bool,
) -> (RunningLab, CountingProxy, Option<UdpSocket>) {
    let [near, far] = free_addresses();
    let mut options = quick_options();
    options.transport = transport;
    options.listen.insert("caf21".parse().unwrap(), far);
    options.advertised.insert("caf21".parse().unwrap(), near);
    let socket = silent.then(|| UdpSocket::bind(near).unwrap());
    let proxy = CountingProxy::start(near, far, false);
    let mut lab = RunningLab::make(&options);
    lab.run(CAF_GATEWAY);
    let gateway = lab.party("caf21").gateway.as_ref().unwrap().socket.clone();
    eventually("the gateway", LIMIT, || gateway.exists().then_some(()));
    lab.run(CAF_AGENT);
    (lab, proxy, socket)
}

#[test]
fn tcp_is_in_use_within_two_seconds_when_udp_is_unavailable() {
    for silent in [false, true] {
        let (lab, _proxy, _socket) = without_udp(TransportChoice::Auto, silent);
        let socket = lab.party("caf21").agent.socket.clone();
        eventually("the agent", LIMIT, || socket.exists().then_some(()));
        let begun = Instant::now();
        let status = eventually("a connection", LIMIT, || {
            lab.ask(CAF_AGENT, &["status"])
                .filter(|status| status["transport"] != "")
        });
        assert_eq!(status["transport"], "tcp", "{status}");
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
}

#[test]
fn quic_alone_waits_and_says_why() {
    let (lab, _proxy, _socket) = without_udp(TransportChoice::Quic, true);
    let why = eventually("a reason", LIMIT, || {
        let status = lab.ask(CAF_AGENT, &["status"])?;
        Some(status["last_error"].to_string()).filter(|why| why.len() > 2)
    });
    assert!(why.contains("quic") && why.contains("UDP"), "{why}");
    let status = lab.ask(CAF_AGENT, &["status"]).unwrap();
    assert_eq!(status["transport"], "", "{status}");
}

/// What waits in CAF's gateway, without what only this process has tried.
fn items(lab: &RunningLab) -> Vec<Value> {
    let Some(found) = lab.ask(CAF_GATEWAY, &["queue"]) else {
        return Vec::new();
    };
    let mut items = items_of(&found);
    for item in &mut items {
        for field in ["attempts", "last_error"] {
            item.as_object_mut().unwrap().remove(field);
        }
    }
    items
}

/// Waits for so many items of a kind in a state, and returns everything that waits.
fn items_with(lab: &RunningLab, kind: &str, state: &str, number: usize) -> Vec<Value> {
    eventually(&format!("{number} {kind}s {state}"), LIMIT, || {
        let items = items(lab);
        let like = |item: &&Value| item["kind"] == kind && item["state"] == state;
        (items.iter().filter(like).count() == number).then_some(items)
    })
}

/// Stops CAF's gateway, deletes its queue and starts it again.
fn lose_the_queue(lab: &mut RunningLab) {
    lab.stop(CAF_GATEWAY);
    let gateway = lab.party("caf21").gateway.as_ref().unwrap();
    fs::remove_dir_all(gateway.data_dir.join("queue")).unwrap();
    lab.run(CAF_GATEWAY);
}

#[test]
fn a_deleted_queue_is_made_again_with_the_same_items() {
    const PACKAGES: usize = 5;
    let mut lab = RunningLab::make(&quick_options());
    lab.run(CAF_GATEWAY);
    lab.run(CAF_AGENT);
    for number in 0..PACKAGES {
        lab.drop_file("caf21", FLOW, &format!("{number}.csv"), b"a;b\n1;2\n");
    }
    items_with(&lab, "package", "waiting", PACKAGES);
    lab.stop(CAF_AGENT);
    let before = items(&lab);
    let deadline = before[0]["deadline_ms"].as_i64();
    assert!(deadline.is_some_and(|at| at > 0), "{before:?}");
    lose_the_queue(&mut lab);
    items_with(&lab, "package", "waiting", PACKAGES);
    assert_eq!(items(&lab), before);
    // One of two recipients receives everything, and the sender's agent is away.
    lab.run(CAF_AGENT);
    lab.run(DIJON_GATEWAY);
    items_with(&lab, "package", "forwarded", PACKAGES);
    lab.stop(CAF_AGENT);
    lab.run(DIJON_AGENT);
    for number in 0..PACKAGES {
        lab.receive("grand-dijon", FLOW, &format!("{number}.csv"));
    }
    // Per package: every byte is with the recipient's agent; it is delivered.
    let before = items_with(&lab, "statement", "waiting", 2 * PACKAGES);
    lab.stop(DIJON_AGENT);
    lab.stop(DIJON_GATEWAY);
    let contractor = serde_json::json!(["prestataire-obs"]);
    let forwarded = before.iter().filter(|item| item["state"] == "forwarded");
    assert!(
        forwarded
            .clone()
            .all(|item| item["recipients"] == contractor)
    );
    assert_eq!(forwarded.count(), PACKAGES);
    lose_the_queue(&mut lab);
    items_with(&lab, "statement", "waiting", 2 * PACKAGES);
    assert_eq!(items(&lab), before);
}

fn items_of(found: &Value) -> Vec<Value> {
    let items = found.as_array().or_else(|| found["items"].as_array());
    items.unwrap().clone()
}
