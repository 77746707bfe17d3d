//! The operators' commands, asked of real processes: what they print, and with which status.

use std::fs;
use std::path::Path;
use std::process::Output;

use passerelle_link::TransportChoice;
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, Judges, LIMIT, Process, Program,
    RunningLab, eventually, quick_options,
};
use serde_json::Value;

const FLOW: &str = "observation-iris";
const TABLE: &[u8] = b"code;nom\n21166;Chenove\n";
/// SHA-256 of [`TABLE`].
const TABLE_SHA256: &str = "bf830ab884f434022b9f28391df2856f27f10ad8f7f7a9e875a2517bff6c0567";

/// Statuses of sysexits.h.
const USAGE: i32 = 64;
const NO_INPUT: i32 = 66;
const UNAVAILABLE: i32 = 69;
const NO_PERMISSION: i32 = 77;

/// A laboratory whose daemons answer.
fn laboratory(processes: &[Process]) -> RunningLab {
    let mut lab = RunningLab::make(&quick_options());
    for process in processes {
        lab.run(*process);
    }
    for process in processes {
        eventually("a daemon's answer", LIMIT, || {
            lab.ask(*process, &["status"])
        });
    }
    lab
}

fn whole() -> RunningLab {
    laboratory(&[CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT])
}

fn command(lab: &RunningLab, process: Process, arguments: &[&str]) -> Output {
    let config = lab.config(process);
    let mut all = arguments.to_vec();
    all.extend(["--config", config.to_str().unwrap()]);
    Program::Passerelle.run(&all)
}

/// What a command prints for people when it succeeds.
fn says(lab: &RunningLab, process: Process, arguments: &[&str]) -> String {
    let output = command(lab, process, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Status and message of a command that must fail.
fn fails(lab: &RunningLab, process: Process, arguments: &[&str]) -> (i32, String) {
    let output = command(lab, process, arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("what to do: "), "{arguments:?}: {error}");
    (output.status.code().unwrap(), error)
}

/// Sends a table with the real command; the id of its package.
fn send(lab: &RunningLab, title: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.csv");
    fs::write(&file, TABLE).unwrap();
    let mut line = vec!["send", file.to_str().unwrap(), "--flow", FLOW];
    line.extend(["--to", "grand-dijon", "--title", title]);
    let said = says(lab, CAF_AGENT, &line);
    assert!(said.contains("for grand-dijon"), "{said}");
    eventually("the package in the agent's queue", LIMIT, || {
        let jobs = lab.ask(CAF_AGENT, &["queue"])?;
        let jobs = jobs["jobs"].as_array()?;
        let job = jobs.iter().find(|job| job["title"] == title)?;
        Some(job["package"].as_str()?.to_owned())
    })
}

/// Waits until `kind` was said about a package, as its sender's agent knows it.
fn wait_for(lab: &RunningLab, package: &str, kind: &str) -> Value {
    eventually(kind, LIMIT, || {
        let shown = lab.ask(CAF_AGENT, &["package", "show", package])?;
        kinds(&shown).contains(&kind.to_owned()).then_some(shown)
    })
}

fn kinds(answer: &Value) -> Vec<String> {
    let said = answer["statements"].as_array().unwrap();
    let kind = |one: &Value| format!("{} by {}", one["kind"], one["issuer"]).replace('"', "");
    said.iter().map(kind).collect()
}

/// Files below a directory, at any depth.
fn files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let count = |path: std::path::PathBuf| if path.is_dir() { files(&path) } else { 1 };
    entries.map(|entry| count(entry.unwrap().path())).sum()
}

#[test]
fn a_ping_goes_the_whole_way_is_receipted_and_is_not_delivered() {
    let lab = whole();
    let said = says(&lab, CAF_AGENT, &["ping", "grand-dijon"]);
    assert!(
        said.starts_with("grand-dijon is reached: opened there after"),
        "{said}"
    );
    let answer = lab.ask(CAF_AGENT, &["ping", "grand-dijon"]).unwrap();
    let package = answer["package"].as_str().unwrap();
    let shown = wait_for(&lab, package, "accepted by grand-dijon");
    assert_eq!(shown["test"], true);
    let mut said = kinds(&wait_for(&lab, package, "forwarded by grand-dijon"));
    assert_eq!(said.first().unwrap(), "accepted by caf21", "{said:?}");
    said.sort();
    let complete = [
        "accepted by caf21",
        "accepted by grand-dijon",
        "delivered by grand-dijon",
        "forwarded by grand-dijon",
    ];
    assert_eq!(said, complete);
    for party in ["grand-dijon", "caf21"] {
        let inbox = lab.party(party).agent.directory.join("inbox");
        assert_eq!(files(&inbox), 0, "nothing is delivered to {party}");
    }
    let received = lab.ask(DIJON_AGENT, &["package", "show", package]).unwrap();
    assert_eq!(
        (&received["test"], &received["path"]),
        (&true.into(), &"".into())
    );
}

#[test]
fn a_ping_that_cannot_arrive_says_how_far_it_came_and_which_package_to_ask_about() {
    let mut lab = whole();
    let (status, why) = fails(&lab, CAF_AGENT, &["ping", "caf21"]);
    assert!(
        status == USAGE && why.contains("own party"),
        "{status} {why}"
    );
    let (status, why) = fails(&lab, CAF_AGENT, &["ping", "commune-21166"]);
    assert!(
        status == NO_PERMISSION && why.contains("no flow"),
        "{status} {why}"
    );
    lab.stop(DIJON_GATEWAY);
    let line = ["ping", "grand-dijon", "--timeout-s", "3"];
    let (status, why) = fails(&lab, CAF_AGENT, &line);
    assert!(
        status == UNAVAILABLE && why.contains("our own gateway has accepted"),
        "{why}"
    );
    let jobs = lab.ask(CAF_AGENT, &["queue"]).unwrap();
    let package = jobs["jobs"][0]["package"].as_str().unwrap();
    assert!(why.contains(package), "{why}");
    lab.stop(CAF_GATEWAY);
    let (status, why) = fails(
        &lab,
        CAF_AGENT,
        &["ping", "grand-dijon", "--timeout-s", "1"],
    );
    assert!(
        status == UNAVAILABLE && why.contains("our own gateway: "),
        "{why}"
    );
}

#[test]
fn a_name_that_the_outbox_passes_over_is_refused_with_the_remedy() {
    let lab = laboratory(&[CAF_AGENT]);
    let folder = tempfile::tempdir().unwrap();
    for name in ["t.csv.tmp", "t.part", "t.csv.partial", ".t.csv"] {
        let file = folder.path().join(name);
        fs::write(&file, TABLE).unwrap();
        let line = ["send", file.to_str().unwrap(), "--flow", FLOW];
        let (status, why) = fails(&lab, CAF_AGENT, &line);
        assert!(
            status == NO_INPUT && why.contains("not ending in .tmp"),
            "{name}: {status} {why}"
        );
    }
    let outbox = lab.directory_of(CAF_AGENT).join("outbox");
    assert_eq!(files(&outbox), 0);
}

#[test]
fn the_queue_shows_what_waits_for_a_partner_that_is_down_how_often_it_was_tried_and_why() {
    let mut lab = laboratory(&[CAF_GATEWAY, CAF_AGENT]);
    let package = send(&lab, "Partner is down");
    let item = eventually("an item with a reason", LIMIT, || {
        let queue = lab.ask(CAF_GATEWAY, &["queue"])?;
        let item = queue["items"].as_array()?.first()?.clone();
        (item["attempts"].as_u64()? > 0).then_some(item)
    });
    assert_eq!(item["package"], package);
    assert_eq!(item["next_hop"], "grand-dijon/gateway");
    assert_eq!(item["state"], "waiting");
    let why = item["last_error"].as_str().unwrap();
    let expected = "grand-dijon/gateway is not connected: ";
    assert!(
        why.starts_with(expected) && why.contains("refused"),
        "{why}"
    );
    let table = says(&lab, CAF_GATEWAY, &["queue"]);
    for part in [&package[..12], "grand-dijon/gateway", "REASON", expected] {
        assert!(table.contains(part), "{part} in\n{table}");
    }
    let jobs = lab.ask(CAF_AGENT, &["queue"]).unwrap();
    assert_eq!(jobs["jobs"][0]["recipients"][0]["state"], "submitted");
    lab.run(DIJON_GATEWAY);
    lab.run(DIJON_AGENT);
    wait_for(&lab, &package, "delivered by grand-dijon");
    eventually("an empty queue", LIMIT, || {
        let queue = lab.ask(CAF_GATEWAY, &["queue"])?;
        queue["items"].as_array()?.is_empty().then_some(())
    });
    assert_eq!(says(&lab, CAF_GATEWAY, &["queue"]), "nothing waits\n");
}

#[test]
fn sender_and_recipient_show_the_same_description_of_a_package() {
    let lab = whole();
    let package = send(&lab, "Description");
    wait_for(&lab, &package, "delivered by grand-dijon");
    let short = &package[..12];
    let sent = lab.ask(CAF_AGENT, &["package", "show", short]).unwrap();
    let received = lab.ask(DIJON_AGENT, &["package", "show", short]).unwrap();
    for field in [
        "package",
        "title",
        "period",
        "files",
        "manifest_signer",
        "not_after_ms",
    ] {
        assert_eq!(sent[field], received[field], "{field}");
    }
    assert_eq!(sent["files"][0]["name"], "table.csv");
    assert_eq!(sent["files"][0]["bytes"], TABLE.len());
    assert_eq!(sent["files"][0]["sha256"], TABLE_SHA256);
    let said = says(&lab, CAF_AGENT, &["package", "show", short]);
    assert!(said.contains(&format!("SHA-256 {TABLE_SHA256}")), "{said}");
    for gateway in [CAF_GATEWAY, DIJON_GATEWAY] {
        let said = says(&lab, gateway, &["package", "show", &short.to_uppercase()]);
        assert!(
            said.contains(&package) && said.contains("accepted"),
            "{said}"
        );
    }
}

#[test]
fn an_id_that_names_no_package_is_told_apart_from_one_that_is_mistyped() {
    let lab = whole();
    let package = send(&lab, "Ids");
    wait_for(&lab, &package, "accepted by caf21");
    let long = format!("{package}00");
    let cases = [
        (&package[..11], USAGE, "too short"),
        ("pas un numéro", USAGE, "no package id"),
        (&long, USAGE, "no package id"),
        ("000000000000", NO_INPUT, "no package 000000000000 is known"),
    ];
    for process in [CAF_AGENT, CAF_GATEWAY] {
        for (id, expected, part) in cases {
            let (status, why) = fails(&lab, process, &["package", "show", id]);
            assert!(
                status == expected && why.contains(part),
                "{id}: {status} {why}"
            );
        }
    }
    let output = command(
        &lab,
        CAF_AGENT,
        &["package", "show", "000000000000", "--json"],
    );
    let error: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(error["error"]["status"], NO_INPUT);
}

#[test]
fn an_acknowledgement_reaches_the_sender_with_its_comment() {
    let lab = whole();
    let package = send(&lab, "Acknowledge");
    wait_for(&lab, &package, "delivered by grand-dijon");
    let (status, why) = fails(&lab, CAF_AGENT, &["ack", &package]);
    assert!(
        status == USAGE && why.contains("only its recipients"),
        "{status} {why}"
    );
    let forged = "bien reçu\n    forged \u{1b}[2J";
    let line = ["ack", &package[..12], "--comment", forged];
    let said = says(&lab, DIJON_AGENT, &line);
    assert!(
        said.starts_with("signed, and on its way to caf21"),
        "{said}"
    );
    let shown = wait_for(&lab, &package, "acknowledged by grand-dijon");
    assert_eq!(shown["recipients"][0]["state"], "acknowledged");
    assert_eq!(shown["recipients"][0]["detail"], forged);
    assert_eq!(kinds(&shown).last().unwrap(), "acknowledged by grand-dijon");
    let said = says(&lab, CAF_AGENT, &["package", "show", &package]);
    let line = "acknowledged  grand-dijon acknowledges it: “bien reçu·    forged ·[2J”\n";
    assert!(said.contains(line), "{said}");
    assert!(
        !said.contains('\u{1b}'),
        "a partner's text does not steer the terminal"
    );
    Judges::of(&lab).believe(&lab, CAF_GATEWAY, &package, &["acknowledged"]);
}

/// Entries that `audit log` prints as JSON lines.
fn entries(lab: &RunningLab, more: &[&str]) -> Vec<Value> {
    let printed = says(
        lab,
        CAF_GATEWAY,
        &[&["audit", "log", "--json"], more].concat(),
    );
    let entry = |line: &str| serde_json::from_str(line).unwrap();
    printed.lines().map(entry).collect()
}

#[test]
fn the_log_is_shown_by_place_package_and_kind_and_verifies() {
    let mut lab = whole();
    let package = send(&lab, "Audited");
    send(&lab, "Another");
    wait_for(&lab, &package, "delivered by grand-dijon");
    let all = entries(&lab, &[]);
    assert_eq!(all[0]["kind"], "started");
    let indices: Vec<u64> = all.iter().map(|e| e["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, (0..all.len() as u64).collect::<Vec<_>>());
    let some = entries(&lab, &["--from", "2", "--limit", "2"]);
    assert_eq!(some, all[2..4]);
    let about = entries(&lab, &["--package", &package[..12]]);
    assert!(about.iter().all(|entry| entry["package"] == package) && about.len() >= 4);
    // The limit is of what is shown, not of what is looked at.
    let last = about.len().to_string();
    let limited = entries(&lab, &["--package", &package[..12], "--limit", &last]);
    assert_eq!(limited, about);
    let accepted = entries(&lab, &["--kind", "accepted", "--package", &package]);
    assert_eq!(accepted.len(), 1);
    let table = says(&lab, CAF_GATEWAY, &["audit", "log", "--kind", "accepted"]);
    assert!(
        table.contains("caf21 → grand-dijon under observation-iris"),
        "{table}"
    );
    let (status, why) = fails(&lab, CAF_GATEWAY, &["audit", "log", "--package", "zz"]);
    assert!(status == USAGE && why.contains("zz"), "{status} {why}");
    let (status, why) = fails(&lab, CAF_AGENT, &["audit", "log"]);
    assert!(
        status == USAGE && why.contains("kept by gateways"),
        "{status} {why}"
    );
    lab.stop(CAF_GATEWAY);
    let log = lab
        .party("caf21")
        .gateway
        .as_ref()
        .unwrap()
        .data_dir
        .join("log");
    let line = ["audit", "verify", log.to_str().unwrap(), "--signatures"];
    let verdict = lab.ask(CAF_GATEWAY, &line).unwrap();
    assert!(verdict["signatures"].as_u64().unwrap() >= 4, "{verdict}");
    assert!(
        verdict["size"].as_u64().unwrap() >= all.len() as u64,
        "{verdict}"
    );
    let said = says(&lab, CAF_GATEWAY, &line);
    assert!(
        said.starts_with("the log of caf21 can be believed"),
        "{said}"
    );
    assert!(said.contains("are signed as they say"), "{said}");
}

#[test]
fn bytes_of_small_and_of_large_packages_are_counted_with_every_peer() {
    let lab = whole();
    let small = send(&lab, "Small");
    wait_for(&lab, &small, "delivered by grand-dijon");
    let count = |gateway, peer: &str, field: &str| {
        let status = lab.ask(gateway, &["status"]).unwrap();
        let peers = status["peers"].as_array().unwrap();
        let found = peers.iter().find(|found| found["peer"] == peer);
        found.unwrap()[field].as_u64().unwrap()
    };
    let sizes = |payload: u64| payload..payload + 64 * 1024;
    let ways = [
        (CAF_GATEWAY, "caf21/agent", "bytes_received"),
        (CAF_GATEWAY, "grand-dijon/gateway", "bytes_sent"),
        (DIJON_GATEWAY, "caf21/gateway", "bytes_received"),
        (DIJON_GATEWAY, "grand-dijon/agent", "bytes_sent"),
    ];
    let payload = |package: &str| {
        let shown = lab.ask(CAF_AGENT, &["package", "show", package]).unwrap();
        shown["bytes"].as_u64().unwrap()
    };
    for (gateway, peer, field) in ways {
        let counted = count(gateway, peer, field);
        assert!(
            sizes(payload(&small)).contains(&counted),
            "{peer} {field} {counted}"
        );
    }
    let large = passerelle_tests::noise(1_000_000, 3);
    lab.drop_file("caf21", "signalement", "large.bin", &large);
    lab.receive("grand-dijon", "signalement", "large.bin");
    for (gateway, peer, field) in ways {
        let counted = count(gateway, peer, field);
        assert!(
            sizes(1_000_000).contains(&counted),
            "{peer} {field} {counted}"
        );
    }
    let table = says(&lab, CAF_GATEWAY, &["status"]);
    assert!(table.contains("1.0 MB"), "{table}");
}

/// A number on the metrics page of a process; `None` while it is not there.
fn number(lab: &RunningLab, process: Process, series: &str) -> Option<f64> {
    let page = lab.metrics(process);
    let line = page.lines().find_map(|line| line.strip_prefix(series))?;
    Some(line.trim().parse().unwrap())
}

#[test]
fn the_metrics_tell_a_partner_that_is_down_what_waits_for_it_and_what_will_expire() {
    let mut lab = laboratory(&[CAF_GATEWAY, CAF_AGENT]);
    send(&lab, "waiting");
    let of = |name: &str| format!("passerelle_{name}{{gateway=\"caf21\"}}");
    let peer =
        |name: &str| format!("passerelle_{name}{{gateway=\"caf21\",peer=\"grand-dijon/gateway\"}}");
    let until = |lab: &RunningLab, series: &str, holds: fn(f64) -> bool| {
        eventually(series, LIMIT, || {
            number(lab, CAF_GATEWAY, series).filter(|value| holds(*value))
        })
    };
    until(&lab, &peer("breaker_open"), |open| open == 1.0);
    until(&lab, &peer("dial_failures_total"), |failed| failed >= 5.0);
    until(&lab, &peer("queue_items"), |items| items == 1.0);
    until(&lab, &of("queue_oldest_seconds"), |age| age > 0.0);
    let days = until(&lab, &of("certificate_expiry_days"), |days| days > 0.0);
    assert!(days < 1000.0, "{days} days");
    let agent = r#"passerelle_agent_certificate_expiry_days{party="caf21"}"#;
    assert!(number(&lab, CAF_AGENT, agent).unwrap() > 0.0);
    lab.run(DIJON_GATEWAY);
    until(&lab, &peer("breaker_open"), |open| open == 0.0);
    until(&lab, &peer("sessions"), |sessions| sessions >= 1.0);
}

#[test]
fn the_log_says_of_a_peer_that_was_killed_that_it_has_been_started_again() {
    let mut options = quick_options();
    options.transport = TransportChoice::Quic;
    let mut lab = RunningLab::make(&options);
    lab.run(CAF_GATEWAY);
    lab.run(CAF_AGENT);
    let log = lab.log(CAF_AGENT);
    let printed = |words: &str| {
        eventually(words, LIMIT, || {
            let text = fs::read_to_string(&log).unwrap();
            text.contains(words).then_some(text)
        })
    };
    printed("connected peer=caf21/gateway");
    lab.kill(CAF_GATEWAY);
    lab.run(CAF_GATEWAY);
    let text = printed("the connection has ended");
    let line = text.lines().find(|line| line.contains("has ended"));
    let line = line.unwrap();
    assert!(line.contains("it has been started again"), "{line}");
}
