//! Trouble of an agent's own, on its disk or with its clock: it says what waits and why, and goes
//! on by itself once that is over.

use std::fs;
use std::path::{Path, PathBuf};

use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, CLOCK, DIJON_AGENT, DIJON_GATEWAY, LIMIT, PRELOAD, Process, Program,
    RunningLab, eventually, outside, quick_options,
};
use serde_json::Value;

use crate::weather::options;

const IN_TROUBLE: &str = "observation-iris";
const WELL: &str = "signalement";
const TABLE: &[u8] = b"iris;foyers\n212310101;12\n";

/// What an agent says about itself, once that is so.
fn status(lab: &RunningLab, process: Process, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually("a status", LIMIT, || {
        lab.ask(process, &["status"]).filter(&is_so)
    })
}

fn says(lab: &RunningLab, process: Process, words: &[&str]) {
    eventually(&format!("{words:?}"), LIMIT, || {
        let printed = fs::read_to_string(lab.log(process)).ok()?;
        let mut lines = printed.lines();
        let found = lines.any(|line| words.iter().all(|word| line.contains(word)));
        found.then_some(())
    });
}

#[test]
fn status_queue_log_and_metric_say_which_package_is_not_opened_and_why() {
    let mut lab = RunningLab::make(&quick_options());
    for process in [CAF_GATEWAY, CAF_AGENT, DIJON_GATEWAY, DIJON_AGENT] {
        lab.run(process);
    }
    status(&lab, DIJON_AGENT, |_| true);
    let agent = &lab.party("grand-dijon").agent.directory;
    let in_the_way = agent.join("inbox").join(IN_TROUBLE);
    fs::write(&in_the_way, b"somebody's notes").unwrap();
    lab.drop_file("caf21", IN_TROUBLE, "t.csv", TABLE);
    let waits = |status: &Value| status["unopened_packages"] == 1;
    status(&lab, DIJON_AGENT, waits);
    lab.drop_file("caf21", WELL, "u.csv", b"u");
    assert_eq!(lab.receive("grand-dijon", WELL, "u.csv"), b"u");
    let jobs = lab.ask(DIJON_AGENT, &["queue"]).unwrap();
    let jobs = jobs["jobs"].as_array().unwrap();
    let state = |job: &&Value| job["state"].as_str().unwrap().to_owned();
    let job = jobs
        .iter()
        .find(|job| state(job).contains("not opened yet"));
    let job = job.unwrap_or_else(|| panic!("{jobs:?}"));
    let named = in_the_way.to_str().unwrap();
    assert!(state(&job).contains(named), "{job}");
    let package = job["package"].as_str().unwrap();
    let shown = lab.ask(DIJON_AGENT, &["package", "show", package]).unwrap();
    assert_eq!(shown["state"], job["state"]);
    says(
        &lab,
        DIJON_AGENT,
        &["cannot be opened now", &package[..12], named],
    );
    let page = lab.metrics(DIJON_AGENT);
    let line = "passerelle_agent_unopened_packages{party=\"grand-dijon\"} 1";
    assert!(page.contains(line), "{page}");
    // Also at a start.
    lab.stop(DIJON_AGENT);
    lab.run(DIJON_AGENT);
    status(&lab, DIJON_AGENT, waits);
    fs::remove_file(&in_the_way).unwrap();
    assert_eq!(lab.receive("grand-dijon", IN_TROUBLE, "t.csv"), TABLE);
    status(&lab, DIJON_AGENT, |status| status["unopened_packages"] == 0);
}

#[test]
fn status_log_and_metric_say_what_is_stuck_in_the_outbox_and_what_helps() {
    let mut lab = RunningLab::make(&quick_options());
    for process in [CAF_GATEWAY, CAF_AGENT, DIJON_GATEWAY, DIJON_AGENT] {
        lab.run(process);
    }
    status(&lab, CAF_AGENT, |status| status["stuck_drops"] == 0);
    let agent = &lab.party("caf21").agent;
    let outbox = agent.directory.join("outbox");
    let stray = outbox.join("t.csv");
    fs::write(&stray, TABLE).unwrap();
    fs::remove_dir(outbox.join(IN_TROUBLE)).unwrap();
    std::os::unix::fs::symlink("/tmp", outbox.join(IN_TROUBLE)).unwrap();
    let told = status(&lab, CAF_AGENT, |status| status["stuck_drops"] == 2);
    let (link, file) = (&told["stuck"][0], &told["stuck"][1]);
    assert_eq!(file["path"], stray.to_str().unwrap());
    let contains = |one: &Value, words: &str| one["why"].as_str().unwrap().contains(words);
    assert!(contains(file, "move it into one of them"), "{file}");
    assert!(contains(link, "it is a link"), "{link}");
    let config = agent.config.to_str().unwrap();
    let printed = Program::Passerelle.run(["status", "--config", config]);
    let printed = String::from_utf8(printed.stdout).unwrap();
    let line = format!("{}: it lies in no flow's folder", stray.display());
    assert!(
        printed.contains("2 drops are stuck") && printed.contains(&line),
        "{printed}"
    );
    says(&lab, CAF_AGENT, &["is stuck", stray.to_str().unwrap()]);
    let line = "passerelle_agent_stuck_drops{party=\"caf21\"} 2";
    eventually(line, LIMIT, || {
        lab.metrics(CAF_AGENT).contains(line).then_some(())
    });
    fs::rename(&stray, outbox.join(WELL).join("t.csv")).unwrap();
    assert_eq!(lab.receive("grand-dijon", WELL, "t.csv"), TABLE);
    fs::remove_file(outbox.join(IN_TROUBLE)).unwrap();
    status(&lab, CAF_AGENT, |status| status["stuck_drops"] == 0);
    // People put files of their own also where packages are that are over.
    let day = lab.sent("caf21").parent().unwrap().to_owned();
    lab.stop(CAF_AGENT);
    for place in [
        &day,
        &agent_place(&lab, "rejected"),
        &agent_place(&lab, "received"),
    ] {
        fs::write(place.join(".DS_Store"), b"").unwrap();
    }
    lab.run(CAF_AGENT);
    status(&lab, CAF_AGENT, |status| status["sent_today"] != 0);
}

fn agent_place(lab: &RunningLab, name: &str) -> PathBuf {
    lab.party("caf21").agent.directory.join(name)
}

fn run_wrong(lab: &mut RunningLab, process: Process, clock: &Path) {
    let library = outside().to_str().unwrap();
    let wrong = [(PRELOAD, library), (CLOCK, clock.to_str().unwrap())];
    lab.run_with(process, &wrong);
}

#[test]
fn an_agent_whose_clock_is_a_day_off_says_both_times_and_goes_on_when_it_is_right() {
    let mut lab = RunningLab::make(&options());
    let dir = tempfile::tempdir().unwrap();
    let [ahead, behind] = ["ahead", "behind"].map(|name| dir.path().join(name));
    fs::write(&ahead, "86400\n").unwrap();
    fs::write(&behind, "-86400\n").unwrap();
    lab.run(CAF_GATEWAY);
    lab.run(DIJON_GATEWAY);
    run_wrong(&mut lab, CAF_AGENT, &ahead);
    run_wrong(&mut lab, DIJON_AGENT, &behind);
    lab.drop_file("caf21", WELL, "t.csv", TABLE);
    for process in [CAF_AGENT, DIJON_AGENT] {
        let warns = |status: &Value| status["clock_warning"] != "";
        let status = status(&lab, process, warns);
        let warning = status["clock_warning"].as_str().unwrap();
        assert!(warning.contains("our clock shows 20"), "{warning}");
        assert!(warning.contains("that of our gateway 20"), "{warning}");
    }
    let stays = ["stays in the outbox", "our clock shows"];
    says(&lab, CAF_AGENT, &stays);
    let jobs = lab.ask(CAF_AGENT, &["queue"]).unwrap();
    assert_eq!(jobs["jobs"], serde_json::json!([]));
    // As long as the file is, so that a look at it never finds a part of each.
    fs::write(&ahead, "00000\n").unwrap();
    says(
        &lab,
        DIJON_AGENT,
        &["an offer is put off", "our clock shows"],
    );
    fs::write(&behind, "-00000\n").unwrap();
    assert_eq!(lab.receive("grand-dijon", WELL, "t.csv"), TABLE);
    let said = lab.statements(&lab.sent("caf21"));
    assert!(
        !said.iter().any(|one| one.starts_with("refused")),
        "{said:?}"
    );
    for process in [CAF_AGENT, DIJON_AGENT] {
        status(&lab, process, |status| status["clock_warning"] == "");
    }
}
