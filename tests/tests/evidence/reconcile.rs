//! A gateway whose log is lost begins a new one, and no package is lost with the old one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use passerelle_disk::FAIL_AT;
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, Judges, LIMIT, Process, Program,
    RunningLab, eventually, noise, quick_options,
};
use serde_json::Value;

pub(super) const FLOW: &str = "signalement";
pub(super) const TABLE: &[u8] = b"code;nom\n21166;Chenove\n";
/// Large enough for a pack file of its own.
pub(super) const LARGE: usize = 1_000_000;
pub(super) const ALL: [Process; 4] = [CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT];
/// Every so many operations one fails; next to each other they are much alike.
const STRIDE: usize = 7;
/// `EX_DATAERR` and `EX_CONFIG` of sysexits.h.
const EXIT_DATA: i32 = 65;
const EXIT_CONFIG: i32 = 78;

pub(super) fn run(lab: &mut RunningLab, processes: &[Process]) {
    for process in processes {
        lab.run(*process);
    }
    for process in processes {
        eventually("a daemon's answer", LIMIT, || {
            lab.ask(*process, &["status"])
        });
    }
}

/// Waits until the sender's agent knows that the package of this name is so far.
pub(super) fn wait_for(lab: &RunningLab, sender: Process, title: &str, state: &str) -> String {
    eventually(&format!("{title} {state}"), LIMIT, || {
        let jobs = lab.ask(sender, &["queue"])?;
        let jobs = jobs["jobs"].as_array()?;
        let job = jobs.iter().find(|job| job["title"] == title)?;
        let found = job["recipients"][0]["state"] == state;
        found.then(|| job["package"].as_str().unwrap().to_owned())
    })
}

pub(super) fn data_dir(lab: &RunningLab, party: &str) -> PathBuf {
    lab.party(party).gateway.as_ref().unwrap().data_dir.clone()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

pub(super) fn kinds(lab: &RunningLab, gateway: Process) -> Vec<String> {
    let log = lab.lines(gateway, &["audit", "log"]).unwrap();
    let kind = |entry: &Value| entry["kind"].as_str().unwrap().to_owned();
    log.iter().map(kind).collect()
}

pub(super) fn passerelle(line: &[&str], more: &[(&str, &str)]) -> Output {
    let mut command = Command::new(passerelle_tests::binary(Program::Passerelle));
    command.args(line).envs(more.iter().copied());
    command.output().unwrap()
}

fn answer(line: &[&str]) -> Value {
    let output = passerelle(line, &[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line:?}: {told}");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Signs the producer's next sheet, which names a new log.
fn name_a_new_log(lab: &RunningLab) {
    let party = lab.party("caf21");
    let text = party.directory.join("next.toml");
    let note = lab.lab.sheets.join("caf21-next.note");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let (sheet, text, note) = (path(&party.sheet), path(&text), path(&note));
    let root = path(&party.root_key);
    answer(&[
        "--json",
        "sheet",
        "next",
        &sheet,
        "--new-log",
        "--out",
        &text,
    ]);
    answer(&[
        "--json", "sheet", "sign", &text, "--key", &root, "--out", &note,
    ]);
}

/// Waits until a gateway's queue has something of this package.
pub(super) fn held(lab: &RunningLab, gateway: Process, package: &str) {
    eventually("a gateway with the package", LIMIT, || {
        let queue = lab.ask(gateway, &["queue"])?;
        let items = queue["items"].as_array()?.clone();
        items.into_iter().find(|item| item["package"] == package)
    });
}

/// Starts the producer's gateway and waits until it has found out that its log is not the one that
/// its partner knows.
pub(super) fn found_out(lab: &mut RunningLab) {
    lab.run(CAF_GATEWAY);
    let ended = eventually("the end of the gateway", LIMIT, || {
        lab.process(CAF_GATEWAY).ended()
    });
    let printed = lab.process(CAF_GATEWAY).printed();
    assert_eq!(ended, EXIT_CONFIG, "{printed}");
    assert!(printed.contains("passerelle audit reconcile"), "{printed}");
}

/// Begins the new log; what the command answers.
pub(super) fn reconcile(lab: &RunningLab) -> Value {
    let config = lab.config(CAF_GATEWAY);
    let line = ["--json", "audit", "reconcile", "--config"];
    let line = [&line[..], &[config.to_str().unwrap()]].concat();
    let refused = passerelle(&line, &[]);
    assert_eq!(refused.status.code(), Some(EXIT_DATA));
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("--new-log"), "{told}");
    name_a_new_log(lab);
    answer(&line)
}

/// Begins the new log although operations on the disk fail, each in a run of its own: the command
/// is repeated and goes on.
fn reconcile_on_a_bad_disk(lab: &RunningLab) {
    let config = lab.config(CAF_GATEWAY);
    let line = ["--json", "audit", "reconcile", "--config"];
    let line = [&line[..], &[config.to_str().unwrap()]].concat();
    let data = data_dir(lab, "caf21");
    let before = data.with_extension("before");
    copy(&data, &before);
    let mut seen = 0;
    for number in (1..).step_by(STRIDE) {
        let fault = format!("{number}:eio:{}", ["lost", "persisted"][seen % 2]);
        let output = passerelle(&line, &[(FAIL_AT, &fault)]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let failed = told.contains("fails, as");
        match output.status.success() {
            true if !failed => break,
            // It could do without.
            true => {
                fs::remove_dir_all(&data).unwrap();
                copy(&before, &data);
            }
            false => assert!(failed && told.contains("os error 5"), "{number}: {told}"),
        }
        seen += 1;
    }
    assert!(seen > 5, "only {seen} operations were failed");
    for name in ["log", "epoch-1/log", "epoch-1/spool"] {
        assert!(data.join(name).is_dir(), "{name}");
    }
    assert!(!data.join("log.next").exists());
}

#[test]
fn a_disk_that_fails_on_the_way_to_a_new_log_costs_a_repetition() {
    let mut lab = RunningLab::make(&quick_options());
    run(&mut lab, &[CAF_GATEWAY, CAF_AGENT]);
    lab.drop_file("caf21", FLOW, "one.csv", TABLE);
    wait_for(&lab, CAF_AGENT, "one.csv", "submitted");
    lab.stop(CAF_GATEWAY);
    name_a_new_log(&lab);
    reconcile_on_a_bad_disk(&lab);
    run(&mut lab, &[CAF_GATEWAY, DIJON_GATEWAY, DIJON_AGENT]);
    wait_for(&lab, CAF_AGENT, "one.csv", "delivered");
    assert_eq!(kinds(&lab, CAF_GATEWAY)[0], "epoch");
}

pub(super) fn verified(lab: &RunningLab, log: &Path) {
    let config = lab.config(CAF_GATEWAY);
    let (log, config) = (log.to_str().unwrap(), config.to_str().unwrap());
    answer(&["--json", "audit", "verify", log, "--config", config]);
}

#[test]
fn what_a_gateway_accepted_after_its_backup_is_offered_to_its_new_log_again() {
    let mut lab = RunningLab::make(&quick_options());
    run(&mut lab, &ALL);
    lab.drop_file("caf21", FLOW, "before.csv", TABLE);
    wait_for(&lab, CAF_AGENT, "before.csv", "delivered");
    lab.stop(CAF_GATEWAY);
    let data = data_dir(&lab, "caf21");
    copy(&data, &data.with_extension("backup"));
    run(&mut lab, &[CAF_GATEWAY]);
    lab.drop_file("caf21", FLOW, "after.csv", TABLE);
    wait_for(&lab, CAF_AGENT, "after.csv", "delivered");
    lab.stop(DIJON_AGENT);
    lab.drop_file("caf21", FLOW, "at-partner.csv", TABLE);
    let package = wait_for(&lab, CAF_AGENT, "at-partner.csv", "accepted");
    held(&lab, DIJON_GATEWAY, &package);
    lab.stop(DIJON_GATEWAY);
    let large = noise(LARGE, 3);
    lab.drop_file("caf21", FLOW, "at-ours.bin", &large);
    wait_for(&lab, CAF_AGENT, "at-ours.bin", "submitted");
    lab.stop(CAF_AGENT);
    lab.stop(CAF_GATEWAY);
    fs::remove_dir_all(&data).unwrap();
    copy(&data.with_extension("backup"), &data);
    run(&mut lab, &[DIJON_GATEWAY]);
    found_out(&mut lab);
    let told = reconcile(&lab);
    assert_eq!(told["origin"], "caf21.passerelle/log/2", "{told}");
    let size = |tree: &str| told[tree]["size"].as_u64().unwrap();
    assert!(size("found") < size("last"), "{told}");
    run(&mut lab, &[CAF_GATEWAY, CAF_AGENT, DIJON_AGENT]);
    for name in ["at-partner.csv", "at-ours.bin"] {
        wait_for(&lab, CAF_AGENT, name, "delivered");
    }
    assert_eq!(lab.receive("grand-dijon", FLOW, "at-ours.bin"), large);
    for name in ["before.csv", "after.csv", "at-partner.csv", "at-ours.bin"] {
        assert_eq!(lab.received("grand-dijon", FLOW, name).len(), 1, "{name}");
    }
    assert_eq!(kinds(&lab, CAF_GATEWAY)[0], "epoch");
    assert!(kinds(&lab, DIJON_GATEWAY).contains(&"epoch".to_owned()));
    let judges = Judges::of(&lab);
    for gateway in [CAF_GATEWAY, DIJON_GATEWAY] {
        judges.believe(&lab, gateway, &package, &["accepted", "delivered"]);
    }
    for process in ALL {
        lab.stop(process);
    }
    verified(&lab, &data.join("log"));
    let lost = data.join("epoch-1/log");
    verified(&lab, &lost);
    let folder = judges.path("lost");
    let line = [
        "audit",
        "export",
        folder.to_str().unwrap(),
        "--log",
        lost.to_str().unwrap(),
    ];
    lab.ask(CAF_GATEWAY, &line).unwrap();
    judges.agree_on_log(&folder);
}

#[test]
fn what_waits_in_a_gateway_that_is_lost_whole_comes_again_from_its_partner() {
    let mut lab = RunningLab::make(&quick_options());
    run(&mut lab, &ALL);
    lab.drop_file("caf21", FLOW, "before.csv", TABLE);
    wait_for(&lab, CAF_AGENT, "before.csv", "delivered");
    lab.drop_file("grand-dijon", FLOW, "known.csv", TABLE);
    wait_for(&lab, DIJON_AGENT, "known.csv", "delivered");
    lab.stop(CAF_AGENT);
    lab.drop_file("grand-dijon", FLOW, "to-us.csv", TABLE);
    let package = wait_for(&lab, DIJON_AGENT, "to-us.csv", "accepted");
    held(&lab, CAF_GATEWAY, &package);
    lab.stop(CAF_GATEWAY);
    fs::remove_dir_all(data_dir(&lab, "caf21")).unwrap();
    found_out(&mut lab);
    reconcile(&lab);
    run(&mut lab, &[CAF_GATEWAY, CAF_AGENT]);
    wait_for(&lab, DIJON_AGENT, "to-us.csv", "delivered");
    for name in ["known.csv", "to-us.csv"] {
        assert_eq!(lab.received("caf21", FLOW, name).len(), 1, "{name}");
    }
    // Its gateway's numbers began anew with the log: both receipts of it stand in the other's.
    Judges::of(&lab).believe(&lab, DIJON_GATEWAY, &package, &["accepted", "delivered"]);
    let first: BTreeSet<String> = kinds(&lab, CAF_GATEWAY).into_iter().take(2).collect();
    assert_eq!(first, ["epoch", "started"].map(str::to_owned).into());
}

#[test]
fn an_agent_that_is_shown_the_new_log_before_the_sheet_that_names_it_offers_again() {
    let mut lab = RunningLab::make(&quick_options());
    // What its gateway is given it hears of over the wire only, after the greeting.
    let own = lab.party("caf21").directory.join("own-sheets");
    copy(&lab.lab.sheets, &own);
    let config = lab.config(CAF_AGENT);
    let quoted = |path: &Path| format!("\"{}\"", path.display());
    let text = fs::read_to_string(&config).unwrap();
    let edited = text.replace(&quoted(&lab.lab.sheets), &quoted(&own));
    assert_ne!(edited, text);
    fs::write(&config, edited).unwrap();
    run(&mut lab, &ALL);
    lab.drop_file("caf21", FLOW, "before.csv", TABLE);
    wait_for(&lab, CAF_AGENT, "before.csv", "delivered");
    lab.stop(DIJON_GATEWAY);
    lab.drop_file("caf21", FLOW, "open.csv", TABLE);
    wait_for(&lab, CAF_AGENT, "open.csv", "submitted");
    lab.kill(CAF_GATEWAY);
    fs::remove_dir_all(data_dir(&lab, "caf21")).unwrap();
    lab.run(DIJON_GATEWAY);
    found_out(&mut lab);
    reconcile(&lab);
    lab.run(CAF_GATEWAY);
    wait_for(&lab, CAF_AGENT, "open.csv", "delivered");
    assert_eq!(lab.received("grand-dijon", FLOW, "open.csv").len(), 1);
}
