//! A package whose time is over before anybody fetches it: both gateways say so, each of what it
//! knows itself, and anybody believes them.

use std::fs;

use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, CLOCK, DIJON_GATEWAY, Judges, PRELOAD, RunningLab, outside,
    quick_options,
};

use crate::reconcile::{FLOW, TABLE, held, run, wait_for};

/// Seconds: the life of a package, and a little more than the time for which a word is waited for.
const LATER: &str = "2593860\n";

#[test]
fn what_nobody_fetches_in_time_is_said_by_either_gateway_and_believed_by_anybody() {
    let mut lab = RunningLab::make(&quick_options());
    let dir = tempfile::tempdir().unwrap();
    let clock = dir.path().join("clock");
    fs::write(&clock, "0\n").unwrap();
    lab.set(PRELOAD, outside().to_str().unwrap());
    lab.set(CLOCK, clock.to_str().unwrap());
    run(&mut lab, &[CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT]);
    lab.drop_file("caf21", FLOW, "late.csv", TABLE);
    let package = wait_for(&lab, CAF_AGENT, "late.csv", "accepted");
    held(&lab, DIJON_GATEWAY, &package);
    for process in [CAF_AGENT, CAF_GATEWAY, DIJON_GATEWAY] {
        lab.stop(process);
    }
    fs::write(&clock, LATER).unwrap();
    // While the partner is away, its word cannot have come before ours is due.
    run(&mut lab, &[CAF_GATEWAY, CAF_AGENT]);
    let judges = Judges::of(&lab);
    judges.believe_evidence(&lab, CAF_GATEWAY, &package, &["not-receipted"]);
    run(&mut lab, &[DIJON_GATEWAY]);
    let both = ["not-receipted", "not-collected"];
    judges.believe(&lab, CAF_GATEWAY, &package, &both);
    judges.believe(&lab, DIJON_GATEWAY, &package, &["not-collected"]);
}
