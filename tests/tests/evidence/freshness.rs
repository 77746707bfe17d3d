//! A gateway asks for cosignatures also when nothing happens; one that no partner cosigns any more
//! warns first, and then puts packages off until one does.

use std::fs;
use std::path::PathBuf;

use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, LIMIT, RunningLab, eventually,
    quick_options,
};
use serde_json::Value;

const FLOW: &str = "signalement";
const TABLE: &[u8] = b"code;nom\n21166;Chenove\n";
/// The producer's gateway is given seconds where the default is hours and days.
const LIMITS: &str = "\n[limits]\ncosignature_age_alert_s = 4\ncosignature_age_stop_s = 8\n";

fn laboratory() -> RunningLab {
    let mut lab = RunningLab::make(&quick_options());
    let config = lab.config(CAF_GATEWAY);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text + LIMITS).unwrap();
    for process in [CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT] {
        lab.run(process);
    }
    lab
}

fn wait_for(lab: &RunningLab, title: &str, state: &str) {
    eventually(&format!("{title} {state}"), LIMIT, || {
        let jobs = lab.ask(CAF_AGENT, &["queue"])?;
        let jobs = jobs["jobs"].as_array()?;
        let job = jobs.iter().find(|job| job["title"] == title)?;
        (job["recipients"][0]["state"] == state).then_some(())
    });
}

/// Waits until the producer's gateway says so of the age of its cosignatures.
fn warning(lab: &RunningLab, says: impl Fn(&str) -> bool) -> String {
    eventually("a word about cosignatures", LIMIT, || {
        let status = lab.ask(CAF_GATEWAY, &["status"])?;
        let words = status["cosignature_warning"].as_str()?.to_owned();
        says(&words).then_some(words)
    })
}

fn cosigned_at(lab: &RunningLab) -> Option<i64> {
    let status: Value = lab.ask(CAF_GATEWAY, &["status"])?;
    status["cosigned"][0]["at_ms"].as_i64()
}

fn metric(lab: &RunningLab, series: &str) {
    eventually(series, LIMIT, || {
        lab.metrics(CAF_GATEWAY)
            .lines()
            .any(|line| line.starts_with(series))
            .then_some(())
    });
}

/// What the partner keeps of the last checkpoint that it has cosigned.
fn partners_copy(lab: &RunningLab) -> PathBuf {
    let gateway = lab.party("grand-dijon").gateway.as_ref().unwrap();
    gateway.data_dir.join("witness/caf21.note")
}

#[test]
fn packages_are_put_off_while_a_partner_that_can_be_reached_does_not_cosign() {
    let lab = laboratory();
    lab.drop_file("caf21", FLOW, "first.csv", TABLE);
    wait_for(&lab, "first.csv", "delivered");
    let first = eventually("a cosignature", LIMIT, || cosigned_at(&lab));
    // Nothing happens, and it stays fresh.
    eventually("newer cosignatures over nothing new", LIMIT, || {
        cosigned_at(&lab).filter(|at| *at >= first + 8_000)
    });
    assert_eq!(warning(&lab, str::is_empty), "");
    // The partner cannot tell any more what it has cosigned, so it cosigns nothing.
    let copy = partners_copy(&lab);
    let whole = fs::read(&copy).unwrap();
    fs::write(&copy, b"unreadable\n").unwrap();
    let late = warning(&lab, |words| !words.is_empty());
    assert!(
        late.starts_with("grand-dijon has not cosigned our log"),
        "{late}"
    );
    metric(
        &lab,
        r#"passerelle_cosignature_late{gateway="caf21",partner="grand-dijon"} 1"#,
    );
    warning(&lab, |words| words.contains("packages are put off"));
    metric(&lab, r#"passerelle_uncosigned{gateway="caf21"} 1"#);
    lab.drop_file("caf21", FLOW, "second.csv", TABLE);
    metric(
        &lab,
        r#"passerelle_busy_total{gateway="caf21",reason="uncosigned"}"#,
    );
    wait_for(&lab, "second.csv", "sealed");
    let printed = fs::read_to_string(lab.log(CAF_GATEWAY)).unwrap();
    assert!(
        printed.contains("grand-dijon has not cosigned our log"),
        "{printed}"
    );
    fs::write(&copy, whole).unwrap();
    wait_for(&lab, "second.csv", "delivered");
    assert_eq!(warning(&lab, str::is_empty), "");
    metric(&lab, r#"passerelle_uncosigned{gateway="caf21"} 0"#);
}
