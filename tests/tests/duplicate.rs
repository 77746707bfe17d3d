//! A duplicate offer gets the same receipt bytes, and nothing happens twice.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, LIMIT, RunningLab, eventually, noise,
    quick_options,
};
use serde_json::Value;

const FLOW: &str = "observation-iris";

/// The sender's job while it is on its way.
fn job(lab: &RunningLab) -> PathBuf {
    let work = lab.party("caf21").agent.directory.join("work");
    eventually("the job", LIMIT, || {
        let mut jobs = fs::read_dir(&work).ok()?;
        Some(jobs.next()?.unwrap().path()).filter(|job| job.join("package").is_file())
    })
}

/// Statements that are stored with a job, by file name.
fn stored(job: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(files) = fs::read_dir(job.join("statements")) else {
        return BTreeMap::new();
    };
    let paths = files.map(|file| file.unwrap().path());
    // A name with an ending is of a file that is being written.
    let whole = paths.filter(|path| path.extension().is_none());
    whole
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

fn duplicates(lab: &RunningLab) -> u64 {
    let page = lab.metrics(CAF_GATEWAY);
    let name = "passerelle_duplicate_offers_total{";
    let line = page.lines().find(|line| line.starts_with(name));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

fn accepted(lab: &RunningLab) -> Vec<Value> {
    let log = lab.lines(CAF_GATEWAY, &["audit", "log", "--kind", "accepted"]);
    log.unwrap()
}

/// The sending agent forgets its receipt and offers once more.
fn offered_twice(bytes: &[u8]) {
    let mut lab = RunningLab::make(&quick_options());
    lab.run(CAF_GATEWAY);
    lab.run(CAF_AGENT);
    lab.drop_file("caf21", FLOW, "twice.bin", bytes);
    let job = job(&lab);
    let receipt = || Some(stored(&job)).filter(|stored| stored.len() == 1);
    let first = eventually("the first receipt", LIMIT, receipt);
    assert_eq!(duplicates(&lab), 0);
    let before = accepted(&lab);
    lab.stop(CAF_AGENT);
    for name in first.keys() {
        fs::remove_file(job.join("statements").join(name)).unwrap();
    }
    assert!(stored(&job).is_empty());
    lab.run(CAF_AGENT);
    let again = eventually("the receipt anew", LIMIT, receipt);
    assert!(again == first, "the same bytes under the same name");
    assert_eq!(duplicates(&lab), 1);
    assert_eq!(accepted(&lab), before);
    assert_eq!(before.len(), 1);
    lab.run(DIJON_GATEWAY);
    lab.run(DIJON_AGENT);
    assert!(lab.receive("grand-dijon", FLOW, "twice.bin") == bytes);
    let queue = |process| lab.ask(process, &["queue"]);
    eventually("nothing that waits for Dijon's agent", LIMIT, || {
        let queue = queue(DIJON_GATEWAY)?;
        let agent = "grand-dijon/agent";
        let items = queue["items"].as_array()?;
        items
            .iter()
            .all(|item| item["next_hop"] != agent)
            .then_some(())
    });
    assert_eq!(lab.received("grand-dijon", FLOW, "twice.bin").len(), 1);
}

#[test]
fn a_small_package_that_is_offered_twice_gets_the_same_receipt_and_arrives_once() {
    offered_twice(b"code;nom\n21166;Chenove\n");
}

#[test]
fn a_large_package_that_is_offered_twice_gets_the_same_receipt_and_arrives_once() {
    offered_twice(&noise(1_000_000, 11));
}
