//! A gateway accepts nothing after a start until somebody shows a copy of its log that is a
//! beginning of it; one whose log was put back to an earlier state stops.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, Judges, LIMIT, Process, Program,
    RunningLab, eventually, noise, quick_options,
};
use serde_json::Value;

const FLOW: &str = "signalement";
const TABLE: &[u8] = b"code;nom\n21166;Chenove\n";
/// `EX_USAGE` and `EX_CONFIG` of sysexits.h.
const EXIT_USAGE: i32 = 64;
const EXIT_CONFIG: i32 = 78;

fn laboratory(processes: &[Process]) -> RunningLab {
    let mut lab = RunningLab::make(&quick_options());
    run(&mut lab, processes);
    lab
}

fn run(lab: &mut RunningLab, processes: &[Process]) {
    for process in processes {
        lab.run(*process);
    }
    for process in processes {
        eventually("a daemon's answer", LIMIT, || {
            lab.ask(*process, &["status"])
        });
    }
}

fn stop(lab: &mut RunningLab, processes: &[Process]) {
    for process in processes {
        lab.stop(*process);
    }
}

fn status(lab: &RunningLab, process: Process) -> Value {
    lab.ask(process, &["status"]).unwrap()
}

/// Waits until a gateway's log is anchored; by what, in words.
fn anchored(lab: &RunningLab, process: Process) -> String {
    eventually("an anchor", LIMIT, || {
        let status = lab.ask(process, &["status"])?;
        let by = status["anchored_by"].as_str()?.to_owned();
        (status["anchored"] == true).then_some(by)
    })
}

/// Waits until the sender knows that somebody has said this of the only package of that name.
fn wait_for(lab: &RunningLab, title: &str, state: &str) -> String {
    eventually(&format!("{title} {state}"), LIMIT, || {
        let jobs = lab.ask(CAF_AGENT, &["queue"])?;
        let jobs = jobs["jobs"].as_array()?;
        let job = jobs.iter().find(|job| job["title"] == title)?;
        let found = job["recipients"][0]["state"] == state;
        found.then(|| job["package"].as_str().unwrap().to_owned())
    })
}

fn log(lab: &RunningLab, from: u64) -> Vec<Value> {
    let from = from.to_string();
    lab.lines(CAF_GATEWAY, &["audit", "log", "--from", &from])
        .unwrap()
}

fn data_dir(lab: &RunningLab, party: &str) -> PathBuf {
    lab.party(party).gateway.as_ref().unwrap().data_dir.clone()
}

/// The copy of its gateway's log that an agent keeps.
fn agents_copy(lab: &RunningLab, party: &str) -> PathBuf {
    lab.party(party)
        .agent
        .directory
        .join("state/checkpoint.note")
}

fn size(lab: &RunningLab) -> u64 {
    status(lab, CAF_GATEWAY)["log_size"].as_u64().unwrap()
}

fn anchor_by_hand(lab: &RunningLab) -> Value {
    let line = ["audit", "anchor", "--without-witness"];
    lab.ask(CAF_GATEWAY, &line).unwrap()
}

fn busy(lab: &RunningLab) -> bool {
    let page = lab.metrics(CAF_GATEWAY);
    let mut lines = page
        .lines()
        .filter(|line| line.starts_with("passerelle_busy_total"));
    lines.any(|line| line.contains("unanchored"))
}

fn gauge(lab: &RunningLab, value: u8) {
    let line = format!("passerelle_anchored{{gateway=\"caf21\"}} {value}");
    eventually(&line, LIMIT, || {
        lab.metrics(CAF_GATEWAY).contains(&line).then_some(())
    });
}

/// A laboratory of the producer alone, whose log holds a package, and which nobody can vouch for.
fn nobody_knows() -> RunningLab {
    let mut lab = laboratory(&[CAF_GATEWAY, CAF_AGENT]);
    assert!(anchored(&lab, CAF_GATEWAY).contains("nobody knew anything of it"));
    lab.drop_file("caf21", FLOW, "first.csv", TABLE);
    wait_for(&lab, "first.csv", "submitted");
    stop(&mut lab, &[CAF_AGENT, CAF_GATEWAY]);
    fs::remove_file(agents_copy(&lab, "caf21")).unwrap();
    lab
}

#[test]
fn packages_are_put_off_and_nothing_is_appended_or_signed_until_an_operator_answers_for_the_log() {
    let mut lab = nobody_knows();
    let checkpoint = data_dir(&lab, "caf21").join("log/checkpoint");
    let before = fs::read(&checkpoint).unwrap();
    run(&mut lab, &[CAF_GATEWAY, CAF_AGENT]);
    let first = status(&lab, CAF_GATEWAY);
    assert_eq!(
        (&first["anchored"], &first["serving"]),
        (&false.into(), &true.into())
    );
    let start = size(&lab);
    lab.drop_file("caf21", FLOW, "second.csv", TABLE);
    lab.drop_file("caf21", FLOW, "large.bin", &noise(1_000_000, 5));
    eventually("an offer that is put off", LIMIT, || {
        busy(&lab).then_some(())
    });
    wait_for(&lab, "second.csv", "sealed");
    gauge(&lab, 0);
    assert_eq!(size(&lab), start);
    assert_eq!(fs::read(&checkpoint).unwrap(), before);
    let config = lab.config(CAF_GATEWAY);
    let line = ["audit", "anchor", "--config", config.to_str().unwrap()];
    assert_eq!(
        Program::Passerelle.run(line).status.code(),
        Some(EXIT_USAGE)
    );
    let told = anchor_by_hand(&lab);
    assert_eq!(told["before"], false, "{told}");
    wait_for(&lab, "second.csv", "submitted");
    wait_for(&lab, "large.bin", "submitted");
    gauge(&lab, 1);
    let entries = log(&lab, start);
    assert_eq!(
        (&entries[0]["kind"], &entries[1]["kind"]),
        (&"operator".into(), &"started".into())
    );
    let says = entries[0]["says"].as_str().unwrap();
    assert!(says.contains("audit anchor --without-witness"), "{says}");
    let told = anchor_by_hand(&lab);
    assert_eq!(told["before"], true, "{told}");
    assert_eq!(lab.received("grand-dijon", FLOW, "second.csv").len(), 0);
}

#[test]
fn the_copy_that_our_own_agent_keeps_anchors_the_log() {
    let mut lab = laboratory(&[CAF_GATEWAY, CAF_AGENT]);
    lab.drop_file("caf21", FLOW, "first.csv", TABLE);
    wait_for(&lab, "first.csv", "submitted");
    assert!(agents_copy(&lab, "caf21").is_file());
    let start = size(&lab);
    lab.kill(CAF_GATEWAY);
    lab.run(CAF_GATEWAY);
    let by = anchored(&lab, CAF_GATEWAY);
    assert!(by.ends_with("that caf21/agent keeps"), "{by}");
    lab.drop_file("caf21", FLOW, "second.csv", TABLE);
    wait_for(&lab, "second.csv", "submitted");
    let entries = log(&lab, start);
    assert_eq!(entries[0]["kind"], "started", "{entries:?}");
    let says = entries[0]["says"].as_str().unwrap();
    assert!(says.contains("caf21/agent keeps a copy"), "{says}");
}

#[test]
fn a_log_of_nothing_but_starts_is_nobodys_and_needs_no_copy() {
    let mut lab = laboratory(&[CAF_GATEWAY]);
    stop(&mut lab, &[CAF_GATEWAY]);
    run(&mut lab, &[CAF_GATEWAY]);
    assert!(anchored(&lab, CAF_GATEWAY).contains("nobody knew anything of it"));
    let kinds: Vec<Value> = log(&lab, 0).iter().map(|e| e["kind"].clone()).collect();
    assert_eq!(kinds, ["started", "stopped", "started"]);
}

#[test]
fn two_gateways_that_start_at_once_anchor_each_other() {
    let everything = [CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT];
    let mut lab = laboratory(&everything);
    lab.drop_file("caf21", FLOW, "first.csv", TABLE);
    lab.receive("grand-dijon", FLOW, "first.csv");
    for (gateway, party) in [(CAF_GATEWAY, "caf21"), (DIJON_GATEWAY, "grand-dijon")] {
        eventually("a cosignature", LIMIT, || {
            let status = lab.ask(gateway, &["status"])?;
            (!status["cosigned"].as_array()?.is_empty()).then_some(())
        });
        assert!(agents_copy(&lab, party).is_file());
    }
    for process in everything {
        lab.kill(process);
    }
    run(&mut lab, &[CAF_GATEWAY, DIJON_GATEWAY]);
    for (gateway, partner) in [(CAF_GATEWAY, "grand-dijon"), (DIJON_GATEWAY, "caf21")] {
        let by = anchored(&lab, gateway);
        assert!(
            by.ends_with(&format!("that {partner}/gateway keeps")),
            "{by}"
        );
    }
    run(&mut lab, &[CAF_AGENT, DIJON_AGENT]);
    lab.drop_file("caf21", FLOW, "second.csv", TABLE);
    assert_eq!(lab.receive("grand-dijon", FLOW, "second.csv"), TABLE);
}

#[test]
fn statements_are_kept_by_their_sender_while_the_log_is_not_anchored() {
    let everything = [CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT];
    let mut lab = laboratory(&everything);
    lab.drop_file("caf21", FLOW, "first.csv", TABLE);
    let package = wait_for(&lab, "first.csv", "delivered");
    let witnessed = data_dir(&lab, "grand-dijon").join("witness/caf21.note");
    eventually("a cosignature", LIMIT, || witnessed.is_file().then_some(()));
    stop(&mut lab, &everything);
    fs::remove_file(agents_copy(&lab, "caf21")).unwrap();
    fs::remove_file(witnessed).unwrap();
    run(&mut lab, &everything);
    let by = anchored(&lab, DIJON_GATEWAY);
    assert!(by.contains("keeps"), "{by}");
    let start = size(&lab);
    lab.ask(DIJON_AGENT, &["ack", &package, "--comment", "vu"])
        .unwrap();
    let waiting = |lab: &RunningLab| {
        let queue = lab.ask(DIJON_GATEWAY, &["queue"])?;
        let items = queue["items"].as_array()?.clone();
        let one = |item: &Value| item["package"] == package && item["kind"] == "statement";
        items.into_iter().find(one)
    };
    // On its way, and not acknowledged.
    eventually("a statement that is sent", LIMIT, || {
        waiting(&lab).filter(|item| item["state"] == "leased")
    });
    lab.drop_file("caf21", FLOW, "second.csv", TABLE);
    eventually("an offer that is put off", LIMIT, || {
        busy(&lab).then_some(())
    });
    assert!(waiting(&lab).is_some());
    assert_eq!(size(&lab), start);
    anchor_by_hand(&lab);
    wait_for(&lab, "first.csv", "acknowledged");
    eventually("nothing that waits", LIMIT, || {
        waiting(&lab).is_none().then_some(())
    });
    assert_eq!(lab.receive("grand-dijon", FLOW, "second.csv"), TABLE);
}

#[test]
fn a_transfer_that_was_begun_goes_on_while_the_log_is_not_anchored() {
    let mut lab = nobody_knows();
    run(&mut lab, &[CAF_GATEWAY, CAF_AGENT]);
    anchor_by_hand(&lab);
    let length = 192 * 1024 * 1024;
    lab.drop_file("caf21", FLOW, "large.bin", &noise(length as usize, 9));
    let before = eventually("the middle of the transfer", LIMIT, || {
        received(&lab).filter(|bytes| *bytes > 4 * 1024 * 1024)
    });
    fs::remove_file(agents_copy(&lab, "caf21")).unwrap();
    lab.kill(CAF_GATEWAY);
    assert!(before < length, "all of it was there at once");
    lab.run(CAF_GATEWAY);
    // What was synced before is not sent again, and what was not yet looked at may be more.
    eventually("the bytes that were missing", LIMIT, || {
        let status = lab.ask(CAF_GATEWAY, &["status"])?;
        assert_eq!(status["anchored"], false, "{status}");
        let busy = busy(&lab);
        received(&lab).filter(|bytes| *bytes > 0 && busy)
    });
    let start = size(&lab);
    wait_for(&lab, "large.bin", "sealed");
    let held = received(&lab);
    anchor_by_hand(&lab);
    wait_for(&lab, "large.bin", "submitted");
    assert_eq!(received(&lab), held, "no byte is sent again");
    assert!(held.unwrap() < length * 102 / 100, "{before} and {held:?}");
    assert!(size(&lab) > start);
}

/// Package bytes that the producer's gateway has got from its agent since its start.
fn received(lab: &RunningLab) -> Option<u64> {
    let status = lab.ask(CAF_GATEWAY, &["status"])?;
    let peers = status["peers"].as_array()?;
    let agent = peers.iter().find(|peer| peer["peer"] == "caf21/agent")?;
    agent["bytes_received"].as_u64()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

/// A log that is put back to an earlier state is found out by `witness`, who has seen more of it.
fn rolled_back(witness: Process, names: &str) {
    let everything = [CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT];
    let mut lab = laboratory(&everything);
    lab.drop_file("caf21", FLOW, "first.csv", TABLE);
    lab.receive("grand-dijon", FLOW, "first.csv");
    lab.stop(CAF_GATEWAY);
    let data = data_dir(&lab, "caf21");
    let backup = data.with_extension("backup");
    copy(&data, &backup);
    run(&mut lab, &[CAF_GATEWAY]);
    let restored = size(&lab);
    lab.drop_file("caf21", FLOW, "second.csv", TABLE);
    lab.receive("grand-dijon", FLOW, "second.csv");
    eventually("a later cosignature", LIMIT, || {
        let cosigned = status(&lab, CAF_GATEWAY)["cosigned"][0]["size"].as_u64()?;
        (cosigned > restored).then_some(())
    });
    stop(&mut lab, &everything);
    fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    lab.run(witness);
    lab.run(CAF_GATEWAY);
    let ended = eventually("the end of the gateway", LIMIT, || {
        lab.process(CAF_GATEWAY).ended()
    });
    let printed = lab.process(CAF_GATEWAY).printed();
    assert_eq!(ended, EXIT_CONFIG, "{printed}");
    let why = printed
        .lines()
        .rfind(|line| line.contains("our first"))
        .unwrap();
    assert!(
        why.contains(&format!("the checkpoint that {names} keeps")),
        "{why}"
    );
    let number = |before: &str| -> u64 {
        let after = why.split(before).nth(1).unwrap();
        after.split(' ').next().unwrap().parse().unwrap()
    };
    assert!(number("our first ") < number("keeps covers "), "{why}");
    let roots = why.split("the root ").skip(1).map(|rest| &rest[..64]);
    let roots: std::collections::BTreeSet<&str> = roots.collect();
    assert_eq!(roots.len(), 2, "{why}");
    // It has not added to its history on the way out.
    let kept = |dir: &Path| fs::read(dir.join("log/checkpoint")).unwrap();
    assert_eq!(kept(&data), kept(&backup));
}

#[test]
fn a_log_that_was_put_back_is_found_out_by_the_partner() {
    rolled_back(DIJON_GATEWAY, "grand-dijon/gateway");
}

#[test]
fn a_log_that_was_put_back_is_found_out_by_our_own_agent() {
    rolled_back(CAF_AGENT, "caf21/agent");
}

#[test]
fn an_agent_that_was_put_back_to_an_earlier_state_is_noticed_by_its_gateway() {
    let mut lab = laboratory(&[CAF_GATEWAY, CAF_AGENT]);
    lab.drop_file("caf21", FLOW, "first.csv", TABLE);
    wait_for(&lab, "first.csv", "submitted");
    let noticed = |lab: &RunningLab| {
        let status = status(lab, CAF_GATEWAY);
        let peers = status["peers"].as_array().unwrap().clone();
        let agent = peers.iter().find(|peer| peer["peer"] == "caf21/agent");
        agent.map_or(String::new(), |agent| {
            agent["attention"].as_str().unwrap().to_owned()
        })
    };
    lab.stop(CAF_AGENT);
    let directory = lab.party("caf21").agent.directory.clone();
    let backup = directory.with_extension("backup");
    copy(&directory, &backup);
    run(&mut lab, &[CAF_AGENT]);
    lab.drop_file("caf21", FLOW, "second.csv", TABLE);
    wait_for(&lab, "second.csv", "submitted");
    assert_eq!(noticed(&lab), "", "a start is in order");
    lab.stop(CAF_AGENT);
    fs::remove_dir_all(&directory).unwrap();
    copy(&backup, &directory);
    run(&mut lab, &[CAF_AGENT]);
    let why = eventually("a notice", LIMIT, || {
        Some(noticed(&lab)).filter(|why| !why.is_empty())
    });
    assert!(
        why.contains("restored from a backup, or two machines"),
        "{why}"
    );
    let entry = eventually("an entry of the log", LIMIT, || {
        log(&lab, 0)
            .into_iter()
            .find(|entry| entry["kind"] == "agent-state")
    });
    assert!(
        entry["says"].as_str().unwrap().contains("caf21/agent"),
        "{entry}"
    );
    Judges::of(&lab).believe_log(&lab, CAF_GATEWAY, &["accepted"]);
}
