//! A sender takes a package back: whoever has not opened it refuses it, whoever has keeps it.

use std::fs;

use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, CONTRACTOR_AGENT, DIJON_AGENT, DIJON_GATEWAY, Judges, LIMIT, Process,
    Program, RunningLab, eventually, quick_options,
};
use serde_json::Value;

const FLOW: &str = "observation-iris";
const TABLE: &[u8] = b"iris;foyers\n212310101;12\n";

fn laboratory(processes: &[Process]) -> RunningLab {
    let mut lab = RunningLab::make(&quick_options());
    for process in processes {
        lab.run(*process);
    }
    for process in processes {
        eventually("a daemon's answer", LIMIT, || {
            lab.ask(*process, &["status"])
        });
    }
    lab
}

/// Waits until a recipient of the only package is in a state; the whole job then.
fn wait_for(lab: &RunningLab, recipient: &str, state: &str) -> Value {
    eventually(&format!("{recipient}: {state}"), LIMIT, || {
        let jobs = lab.ask(CAF_AGENT, &["queue"])?;
        let job = jobs["jobs"].as_array()?.first()?.clone();
        let recipients = job["recipients"].as_array()?;
        let one = recipients
            .iter()
            .find(|one| one["recipient"] == recipient)?;
        (one["state"] == state).then_some(job.clone())
    })
}

fn detail(job: &Value, recipient: &str) -> String {
    let recipients = job["recipients"].as_array().unwrap();
    let one = recipients.iter().find(|one| one["recipient"] == recipient);
    one.unwrap()["detail"].as_str().unwrap().to_owned()
}

#[test]
fn a_recipient_that_has_not_opened_it_refuses_it_and_one_that_has_keeps_it() {
    let mut lab = laboratory(&[CAF_GATEWAY, CAF_AGENT, DIJON_GATEWAY, DIJON_AGENT]);
    lab.drop_file("caf21", FLOW, "t.csv", TABLE);
    let job = wait_for(&lab, "grand-dijon", "delivered");
    let job = match detail(&job, "prestataire-obs").as_str() {
        "" => wait_for(&lab, "prestataire-obs", "accepted"),
        other => panic!("{other}"),
    };
    let package = job["package"].as_str().unwrap();
    let asked = lab.ask(CAF_AGENT, &["cancel", package, "--comment", "erreur"]);
    assert_eq!(
        asked.unwrap()["asked"],
        serde_json::json!(["prestataire-obs"])
    );
    let job = wait_for(&lab, "prestataire-obs", "accepted");
    assert_eq!(detail(&job, "prestataire-obs"), "asked to let go of it");
    eventually("the request at the last gateway", LIMIT, || {
        let items = lab.ask(DIJON_GATEWAY, &["queue"])?;
        let items = items["items"].as_array()?.clone();
        let request = |item: &Value| {
            item["kind"] == "statement" && item["recipients"][0] == "prestataire-obs"
        };
        items.iter().any(request).then_some(())
    });
    // Asking twice is asking once.
    lab.ask(CAF_AGENT, &["cancel", package]).unwrap();
    lab.run(CONTRACTOR_AGENT);
    let job = wait_for(&lab, "prestataire-obs", "refused");
    assert_eq!(
        detail(&job, "prestataire-obs"),
        "by prestataire-obs: cancelled"
    );
    assert!(lab.received("prestataire-obs", FLOW, "t.csv").is_empty());
    assert_eq!(lab.receive("grand-dijon", FLOW, "t.csv"), TABLE);
    let over = lab.sent("caf21");
    assert!(over.join("report.txt").is_file(), "{}", over.display());
    let said = lab.ask(CAF_AGENT, &["package", "show", package]).unwrap();
    let said = said["statements"].as_array().unwrap();
    let requests = said.iter().filter(|one| one["kind"] == "cancel").count();
    assert_eq!(requests, 1, "{said:?}");
    let judges = Judges::of(&lab);
    for gateway in [CAF_GATEWAY, DIJON_GATEWAY] {
        judges.believe(&lab, gateway, package, &["cancel", "refused"]);
    }
    // What is over cannot be taken back.
    let config = lab.config(CAF_AGENT);
    let line = ["cancel", package, "--config", config.to_str().unwrap()];
    let output = Program::Passerelle.run(line);
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("nothing to take back"), "{error}");
}

#[test]
fn a_package_that_no_gateway_has_goes_nowhere_and_a_restart_asks_again() {
    let mut lab = RunningLab::make(&quick_options());
    lab.run(CAF_AGENT);
    lab.drop_file("caf21", FLOW, "t.csv", TABLE);
    let job = wait_for(&lab, "grand-dijon", "sealed");
    let package = job["package"].as_str().unwrap();
    let told = lab.ask(CAF_AGENT, &["cancel", package]).unwrap();
    assert_eq!(told["never_left"], true, "{told}");
    let rejected = lab.party("caf21").agent.directory.join("rejected");
    let date = fs::read_dir(rejected).unwrap().next().unwrap().unwrap();
    let job = fs::read_dir(date.path()).unwrap().next().unwrap().unwrap();
    let report = fs::read_to_string(job.path().join("report.txt")).unwrap();
    assert!(
        report.contains("Nothing has left this institution"),
        "{report}"
    );
    // One that was on its way when the agent stopped may be known to the gateway.
    lab.drop_file("caf21", FLOW, "u.csv", TABLE);
    let second = eventually("the second package", LIMIT, || {
        let jobs = lab.ask(CAF_AGENT, &["queue"])?;
        let jobs = jobs["jobs"].as_array()?.clone();
        let job = jobs.iter().find(|job| job["title"] == "u.csv")?;
        Some(job["package"].as_str()?.to_owned())
    });
    lab.kill(CAF_AGENT);
    lab.run(CAF_AGENT);
    let told = eventually("the agent", LIMIT, || {
        lab.ask(CAF_AGENT, &["cancel", &second])
    });
    assert_eq!(told["never_left"], false, "{told}");
    lab.kill(CAF_AGENT);
    for process in [
        CAF_AGENT,
        CAF_GATEWAY,
        DIJON_GATEWAY,
        DIJON_AGENT,
        CONTRACTOR_AGENT,
    ] {
        lab.run(process);
    }
    eventually("the end of the second package", LIMIT, || {
        let jobs = lab.ask(CAF_AGENT, &["queue"])?;
        let jobs = jobs["jobs"].as_array()?.clone();
        let job = jobs.iter().find(|job| job["title"] == "u.csv")?.clone();
        (job["state"] == "over").then_some(())
    });
    for party in ["grand-dijon", "prestataire-obs"] {
        assert!(lab.received(party, FLOW, "t.csv").is_empty());
    }
}
