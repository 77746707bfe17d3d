//! A next hop that keeps its connections and reads nothing.

use std::path::Path;

use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, CONTRACTOR_AGENT, DIJON_AGENT, DIJON_GATEWAY, LIMIT, RunningLab,
    eventually, noise, quick_options,
};

const FLOW: &str = "observation-iris";
/// Packages of the test; were each to wait for the stuck hop, no deadline would be kept.
const PACKAGES: u64 = 60;
/// Each travels in chunks; all together are more than the windows of a connection hold.
const LENGTH: usize = 600_000;

fn name(number: u64) -> String {
    format!("table-{number}.bin")
}

#[test]
fn a_next_hop_that_takes_nothing_does_not_hold_up_the_others() {
    let mut lab = RunningLab::start(&quick_options());
    let first = noise(1_000, 1);
    lab.drop_file("caf21", FLOW, "first.csv", &first);
    for recipient in ["grand-dijon", "prestataire-obs"] {
        assert_eq!(lab.receive(recipient, FLOW, "first.csv"), first);
    }
    // It is connected, and is not told that it stands still.
    lab.process(CONTRACTOR_AGENT).pause();
    for number in 0..PACKAGES {
        lab.drop_file("caf21", FLOW, &name(number), &noise(LENGTH, number + 2));
    }
    for number in 0..PACKAGES {
        let received = lab.receive("grand-dijon", FLOW, &name(number));
        assert!(received == noise(LENGTH, number + 2), "{number}");
    }
    lab.drop_file("grand-dijon", "signalement", "back.csv", &first);
    assert_eq!(lab.receive("caf21", "signalement", "back.csv"), first);
    let waits = |number| {
        lab.received("prestataire-obs", FLOW, &name(number))
            .is_empty()
    };
    assert!((0..PACKAGES).all(waits), "it stands still");
    lab.process(CONTRACTOR_AGENT).resume();
    for number in 0..PACKAGES {
        let received = lab.receive("prestataire-obs", FLOW, &name(number));
        assert!(received == noise(LENGTH, number + 2), "{number}");
    }
    // The sender hears from both, and each package is over.
    eventually("all receipts", LIMIT, || {
        (lab.all_sent("caf21").len() as u64 > PACKAGES).then_some(())
    });
    let complete = |job: &Path| {
        let said = lab.statements(job);
        let delivered = said.iter().filter(|said| said.starts_with("delivered"));
        delivered.count() == 2
    };
    assert!(lab.all_sent("caf21").iter().all(|job| complete(job)));
    for process in [CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT] {
        lab.stop(process);
    }
}
