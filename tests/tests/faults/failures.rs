//! Operations of a real process's disk fail: it stops or goes on, and after a start without faults
//! nothing is lost, doubled, altered or left behind. That each operation may fail is shown where
//! the parts of gateway and agent are tested without processes; here the whole program answers.

use passerelle_disk::FAIL_AT;
use passerelle_tests::{DIJON_AGENT, DIJON_GATEWAY, Faults, Process, Walk};

/// From one operation that fails to the next, unless `PASSERELLE_FAULT_STRIDE` says otherwise.
const STRIDE: u64 = 61;

fn fail_some(process: Process) {
    let stride = std::env::var("PASSERELLE_FAULT_STRIDE");
    let faults = Faults {
        variable: FAIL_AT,
        environment: &[],
        stride: stride.map_or(STRIDE, |value| value.parse().unwrap()),
    };
    let failed = Walk::start(process).fail_some(&faults);
    assert!(failed > 1, "no operation was reached");
}

#[test]
fn a_gateway_whose_disk_fails_stops_or_goes_on_and_loses_nothing() {
    fail_some(DIJON_GATEWAY);
}

#[test]
fn an_agent_whose_disk_fails_stops_or_goes_on_and_loses_nothing() {
    fail_some(DIJON_AGENT);
}
