//! A disk that is slow to sync, and a wall clock that is a day off: packages go on, and nothing
//! expires that has not.

use std::fs;
use std::time::Duration;

use passerelle_agent::lab::LabOptions;
use passerelle_proto::Timestamp;
use passerelle_tests::{
    BELOW, CAF_AGENT, CAF_GATEWAY, CLOCK, DIJON_AGENT, DIJON_GATEWAY, LIMIT, PRELOAD, RunningLab,
    SYNC_MS, eventually, now, outside, quick_options,
};

const FLOW: &str = "signalement";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// One package each way, received once.
fn exchange(lab: &RunningLab, name: &str) {
    let there = format!("{name}-there.csv");
    let back = format!("{name}-back.csv");
    lab.drop_file("caf21", FLOW, &there, there.as_bytes());
    lab.drop_file("grand-dijon", FLOW, &back, back.as_bytes());
    assert_eq!(lab.receive("grand-dijon", FLOW, &there), there.as_bytes());
    assert_eq!(lab.receive("caf21", FLOW, &back), back.as_bytes());
}

#[test]
fn a_disk_that_takes_a_second_to_sync_delays_packages_and_loses_none() {
    let mut lab = RunningLab::make(&quick_options());
    for process in [CAF_GATEWAY, CAF_AGENT, DIJON_GATEWAY, DIJON_AGENT] {
        lab.run(process);
    }
    exchange(&lab, "quick");
    lab.stop(DIJON_GATEWAY);
    let below = lab.directory_of(DIJON_GATEWAY);
    let library = outside().to_str().unwrap();
    let slow = [
        (PRELOAD, library),
        (BELOW, below.to_str().unwrap()),
        (SYNC_MS, "1000"),
    ];
    lab.run_with(DIJON_GATEWAY, &slow);
    exchange(&lab, "slow");
}

/// Valid since some days before today.
pub fn options() -> LabOptions {
    LabOptions {
        today: Timestamp::from_ms(now().as_ms() - 3 * DAY.as_millis() as i64),
        ..quick_options()
    }
}

#[test]
fn a_wall_clock_that_is_a_day_off_refuses_and_expires_nothing() {
    let mut lab = RunningLab::make(&options());
    let dir = tempfile::tempdir().unwrap();
    let clock = dir.path().join("clock");
    fs::write(&clock, "0\n").unwrap();
    let library = outside().to_str().unwrap();
    let wrong = [(PRELOAD, library), (CLOCK, clock.to_str().unwrap())];
    for process in [CAF_GATEWAY, CAF_AGENT, DIJON_AGENT] {
        lab.run(process);
    }
    lab.run_with(DIJON_GATEWAY, &wrong);
    exchange(&lab, "right");
    // Longer than before, so that a look at it never finds a part of each.
    fs::write(&clock, "86400\n").unwrap();
    exchange(&lab, "ahead");
    // To a clock that is behind, a package is from the future: it is put off, and never refused.
    fs::write(&clock, "-86400\n").unwrap();
    for party in ["caf21", "grand-dijon"] {
        lab.drop_file(party, FLOW, "early.csv", party.as_bytes());
    }
    eventually("packages that are put off", LIMIT, || {
        let page = lab.metrics(DIJON_GATEWAY);
        let line = page.lines().find(|line| is_clock(line))?;
        let times: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        (times >= 2.0).then_some(())
    });
    fs::write(&clock, "0\n").unwrap();
    assert_eq!(lab.receive("grand-dijon", FLOW, "early.csv"), b"caf21");
    assert_eq!(lab.receive("caf21", FLOW, "early.csv"), b"grand-dijon");
    exchange(&lab, "again");
}

fn is_clock(line: &str) -> bool {
    line.starts_with("passerelle_busy_total") && line.contains("reason=\"clock\"")
}
