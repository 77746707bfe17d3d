//! A gateway's directory is copied while it works. A copy that was put back goes on where nobody
//! knows more; where others do, a new log begins and no package is lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use passerelle_gateway::SEGMENT_LEN_ASKED;
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, LIMIT, RunningLab, eventually, noise,
    quick_options,
};

use super::reconcile::{
    ALL, FLOW, LARGE, TABLE, data_dir, found_out, held, kinds, passerelle, reconcile, run,
    verified, wait_for,
};

/// Packages whose entries fill more than a tile of the log.
const MANY: usize = 48;
/// The log lies in more than two segments, and so does a bundle of it.
const SEGMENT_LEN: &str = "327680";
/// `EX_CANTCREAT` of sysexits.h.
const EXIT_CANNOT_CREATE: i32 = 73;

fn backup(lab: &RunningLab, to: &Path) -> Output {
    let config = lab.config(CAF_GATEWAY);
    let line = ["--json", "backup", to.to_str().unwrap(), "--config"];
    passerelle(&[&line[..], &[config.to_str().unwrap()]].concat(), &[])
}

/// Makes a copy, and checks that it is one: a log that verifies by itself, and nothing that a start
/// makes again.
fn whole_backup(lab: &RunningLab, name: &str) -> PathBuf {
    let place = data_dir(lab, "caf21").with_extension(name);
    // As a shell completes it.
    let output = backup(lab, &place.join(""));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    verified(lab, &place.join("log"));
    let names = fs::read_dir(&place).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let wanted = ["agents", "format", "log", "spool", "trust", "witness"];
    assert_eq!(names, wanted);
    let mode = fs::metadata(&place).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "as the gateway's own directory");
    let unfinished = passerelle_disk::beside(&place, ".unfinished");
    assert!(!unfinished.exists());
    place
}

/// Puts a copy in the place of what a gateway that has died has left.
fn put_back(lab: &RunningLab, copy: &Path) {
    let data = data_dir(lab, "caf21");
    fs::remove_dir_all(&data).unwrap();
    fs::rename(copy, &data).unwrap();
}

fn drop_many(lab: &RunningLab, name: &str) {
    for number in 0..MANY {
        lab.drop_file("caf21", FLOW, &format!("{name}-{number}.csv"), TABLE);
    }
}

fn all_arrived_once(lab: &RunningLab, name: &str) {
    for number in 0..MANY {
        let file = format!("{name}-{number}.csv");
        assert_eq!(lab.receive("grand-dijon", FLOW, &file), TABLE);
    }
}

#[test]
fn a_copy_of_a_working_gateway_goes_on_where_nobody_knows_more() {
    let mut lab = RunningLab::make(&quick_options());
    lab.set(SEGMENT_LEN_ASKED, SEGMENT_LEN);
    run(&mut lab, &ALL);
    drop_many(&lab, "before");
    all_arrived_once(&lab, "before");
    lab.stop(DIJON_AGENT);
    lab.stop(DIJON_GATEWAY);
    let large = noise(LARGE, 5);
    lab.drop_file("caf21", FLOW, "large.bin", &large);
    lab.drop_file("caf21", FLOW, "small.csv", TABLE);
    for name in ["large.bin", "small.csv"] {
        wait_for(&lab, CAF_AGENT, name, "submitted");
    }
    // It keeps the newest checkpoint, which must not be newer than the copy.
    lab.stop(CAF_AGENT);
    let copy = whole_backup(&lab, "copy");
    let again = backup(&lab, &copy);
    assert_eq!(again.status.code(), Some(EXIT_CANNOT_CREATE));
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing was overwritten"));
    lab.kill(CAF_GATEWAY);
    put_back(&lab, &copy);
    run(&mut lab, &ALL);
    for name in ["large.bin", "small.csv"] {
        wait_for(&lab, CAF_AGENT, name, "delivered");
    }
    assert_eq!(lab.receive("grand-dijon", FLOW, "large.bin"), large);
    all_arrived_once(&lab, "before");
    drop_many(&lab, "after");
    all_arrived_once(&lab, "after");
    assert!(!kinds(&lab, CAF_GATEWAY).contains(&"epoch".to_owned()));
    for process in ALL {
        lab.stop(process);
    }
    verified(&lab, &data_dir(&lab, "caf21").join("log"));
}

#[test]
fn a_copy_that_was_made_while_packages_came_and_went_leads_to_a_new_log() {
    let mut lab = RunningLab::make(&quick_options());
    lab.set(SEGMENT_LEN_ASKED, SEGMENT_LEN);
    run(&mut lab, &ALL);
    drop_many(&lab, "during");
    eventually("the first of many packages", LIMIT, || {
        (!lab.all_sent("caf21").is_empty()).then_some(())
    });
    let copies: Vec<PathBuf> = ["first", "second", "third"]
        .map(|name| whole_backup(&lab, name))
        .into();
    all_arrived_once(&lab, "during");
    lab.stop(DIJON_AGENT);
    lab.drop_file("caf21", FLOW, "open.csv", TABLE);
    let package = wait_for(&lab, CAF_AGENT, "open.csv", "accepted");
    held(&lab, DIJON_GATEWAY, &package);
    lab.kill(CAF_GATEWAY);
    put_back(&lab, &copies[1]);
    found_out(&mut lab);
    let told = reconcile(&lab);
    let size = |tree: &str| told[tree]["size"].as_u64().unwrap();
    assert!(size("found") < size("last"), "{told}");
    run(&mut lab, &[CAF_GATEWAY, DIJON_AGENT]);
    wait_for(&lab, CAF_AGENT, "open.csv", "delivered");
    all_arrived_once(&lab, "during");
    for process in ALL {
        lab.stop(process);
    }
    let data = data_dir(&lab, "caf21");
    verified(&lab, &data.join("log"));
    verified(&lab, &data.join("epoch-1/log"));
}

#[test]
fn a_copy_is_asked_of_a_gateway_that_runs() {
    let mut lab = RunningLab::make(&quick_options());
    let place = data_dir(&lab, "caf21").with_extension("copy");
    let output = backup(&lab, &place);
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("start the daemon"), "{told}");
    assert!(!place.exists());
    lab.run(CAF_AGENT);
    eventually("the agent's answer", LIMIT, || {
        lab.ask(CAF_AGENT, &["status"])
    });
    let config = lab.config(CAF_AGENT);
    let line = ["backup", place.to_str().unwrap(), "--config"];
    let output = passerelle(&[&line[..], &[config.to_str().unwrap()]].concat(), &[]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("keys backup"), "{told}");
}
