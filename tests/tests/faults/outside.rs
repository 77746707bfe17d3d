//! Any operation of a process below its directory fails, also those of the queue's database, which
//! no disk of ours sees.

use passerelle_tests::{
    BELOW, DIJON_AGENT, DIJON_GATEWAY, FAIL_OUTSIDE, Faults, PRELOAD, Process, Walk, outside,
};

/// From one operation that fails to the next, unless `PASSERELLE_OUTSIDE_STRIDE` says otherwise.
const STRIDE: u64 = 61;

fn fail_some(process: Process) {
    let stride = std::env::var("PASSERELLE_OUTSIDE_STRIDE");
    let mut walk = Walk::start(process);
    let below = walk.lab.directory_of(process);
    let library = outside().to_str().unwrap();
    let faults = Faults {
        variable: FAIL_OUTSIDE,
        environment: &[(PRELOAD, library), (BELOW, below.to_str().unwrap())],
        stride: stride.map_or(STRIDE, |value| value.parse().unwrap()),
    };
    let failed = walk.fail_some(&faults);
    assert!(failed > 1, "no operation was reached");
}

#[test]
fn a_gateway_loses_nothing_whatever_fails_below_its_directory() {
    fail_some(DIJON_GATEWAY);
}

#[test]
fn an_agent_loses_nothing_whatever_fails_below_its_directory() {
    fail_some(DIJON_AGENT);
}
