//! What becomes of packages that are over, with real processes: their bytes go when they are due
//! and cosigned, everybody can see that they did, and nobody is asked for them again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use passerelle_agent::lab::LabOptions;
use passerelle_proto::Retention;
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, Judges, LIMIT, Process, Program,
    RunningLab, eventually, noise, quick_options,
};
use serde_json::Value;

const FLOW: &str = "signalement";

/// A laboratory whose gateways keep chunks for no day at all.
fn lab() -> RunningLab {
    let retention = Retention {
        payload: 0,
        ..Retention::default()
    };
    RunningLab::make(&LabOptions {
        retention: Some(retention),
        ..quick_options()
    })
}

fn spool(lab: &RunningLab, party: &str) -> PathBuf {
    let gateway = lab.party(party).gateway.as_ref().unwrap();
    gateway.data_dir.join("spool")
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_file()).collect()
}

fn shown(lab: &RunningLab, process: Process, package: &str) -> Option<Value> {
    lab.ask(process, &["package", "show", package])
}

/// Waits until a gateway has let go of chunks of a package; what it shows of it.
fn purged(lab: &RunningLab, process: Process, package: &str) -> Value {
    eventually("a purge", LIMIT, || {
        let shown = shown(lab, process, package)?;
        let purged = shown["purged"].as_array()?.len();
        (purged == 1).then_some(shown)
    })
}

fn kinds(shown: &Value) -> Vec<&str> {
    let entries = shown["entries"].as_array().unwrap();
    entries
        .iter()
        .map(|entry| entry["kind"].as_str().unwrap())
        .collect()
}

/// Id of the only package that the producer has sent.
fn package(lab: &RunningLab) -> String {
    let jobs = lab.ask(CAF_AGENT, &["queue"]).unwrap();
    jobs["jobs"][0]["package"].as_str().unwrap().to_owned()
}

#[test]
fn chunks_go_once_cosigned_and_both_gateways_agents_and_evidence_say_so() {
    let mut lab = lab();
    for process in [CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT] {
        lab.run(process);
    }
    let bytes = noise(600_000, 3);
    lab.drop_file("caf21", FLOW, "large.bin", &bytes);
    assert!(lab.receive("grand-dijon", FLOW, "large.bin") == bytes);
    let job = lab.sent("caf21");
    let package = package(&lab);
    for (process, party) in [(CAF_GATEWAY, "caf21"), (DIJON_GATEWAY, "grand-dijon")] {
        let shown = purged(&lab, process, &package);
        let kinds = kinds(&shown);
        let at = |kind| kinds.iter().position(|it| *it == kind).unwrap();
        assert!(at("purge-decided") > at("accepted"), "{kinds:?}");
        assert_eq!(shown["purged"][0]["what"], "its chunks");
        assert_eq!(shown["items"][0]["state"], "kept", "{shown}");
        let spool = spool(&lab, party);
        assert!(files(&spool).is_empty(), "{party}");
        let heads = files(&spool.join("heads"));
        assert_eq!(heads.len(), 1, "{party}");
        assert!(heads[0].metadata().unwrap().len() < 64 * 1024);
        let queue = lab.ask(process, &["queue"]).unwrap();
        let mut items = queue["items"].as_array().unwrap().iter();
        assert!(items.all(|item| item["kind"] == "statement"), "{queue}");
        let status = lab.ask(process, &["status"]).unwrap();
        assert_eq!(status["kept"]["packages"], 0, "{status}");
        assert_eq!(status["kept"]["heads"], 1, "{status}");
    }
    let told = ["purged by caf21", "purged by grand-dijon"];
    eventually("both words at the sender", LIMIT, || {
        let said = lab.statements(&job);
        told.iter()
            .all(|told| said.iter().any(|it| it == told))
            .then_some(())
    });
    let page = lab.metrics(DIJON_GATEWAY);
    let counted = "passerelle_purged_total{gateway=\"grand-dijon\",early=\"no\"} 1";
    assert!(page.contains(counted), "{page}");
    evidence(&lab, &package);
    let judges = Judges::of(&lab);
    for gateway in [CAF_GATEWAY, DIJON_GATEWAY] {
        judges.believe(&lab, gateway, &package, &["purged"]);
    }
}

/// One file proves it, to whoever has the two fingerprints.
fn evidence(lab: &RunningLab, package: &str) {
    let config = lab.config(DIJON_GATEWAY);
    let file = config.with_extension("evidence");
    let (config, out) = (config.to_str().unwrap(), file.to_str().unwrap());
    let cosigned = || {
        let _ = fs::remove_file(&file);
        let export = [
            "evidence", "export", package, "--config", config, "--out", out,
        ];
        let exported = Program::Passerelle.run(export);
        exported.status.success().then_some(())?;
        let verified = Program::Passerelle.run(["evidence", "verify", out, "--config", config]);
        let printed = String::from_utf8_lossy(&verified.stdout).into_owned();
        (verified.status.success() && printed.contains("no copy is left")).then_some(printed)
    };
    let printed = eventually("evidence of it", LIMIT, cosigned);
    for part in ["purged, signed by grand-dijon", "has removed its chunks"] {
        assert!(printed.contains(part), "{part} in\n{printed}");
    }
}

/// Statements that are stored with a job, by file name.
fn stored(job: &Path) -> BTreeMap<String, Vec<u8>> {
    let whole = files(&job.join("statements")).into_iter();
    let whole = whole.filter(|path| path.extension().is_none());
    let named = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.to_owned();
        Some((name, fs::read(path).ok()?))
    };
    whole.filter_map(named).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, target).unwrap()),
        }
    }
}

/// Package bytes that the producer's gateway has got from its agent.
fn received(lab: &RunningLab) -> u64 {
    let page = lab.metrics(CAF_GATEWAY);
    let line = |line: &&str| {
        let counts = line.starts_with("passerelle_bytes_total{");
        counts && line.contains("caf21/agent") && line.contains("\"received\"")
    };
    let number = |line: &str| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    page.lines().filter(line).map(number).sum()
}

#[test]
fn a_purged_package_that_is_offered_again_gets_the_same_receipt_and_no_bytes_are_asked_for() {
    let mut lab = lab();
    lab.run(CAF_GATEWAY);
    lab.run(CAF_AGENT);
    lab.drop_file("caf21", FLOW, "again.bin", &noise(900_000, 5));
    let work = lab.party("caf21").agent.directory.join("work");
    let (job, first) = eventually("the first receipt", LIMIT, || {
        let job = fs::read_dir(&work).ok()?.next()?.unwrap().path();
        let stored = stored(&job);
        (stored.len() == 1).then_some((job, stored))
    });
    lab.stop(CAF_AGENT);
    // As after the agent's disk was put back to this moment.
    let aside = lab.party("caf21").directory.join("aside");
    copy(&job, &aside);
    for process in [CAF_AGENT, DIJON_GATEWAY, DIJON_AGENT] {
        lab.run(process);
    }
    let sent = lab.sent("caf21");
    let package = package(&lab);
    purged(&lab, CAF_GATEWAY, &package);
    lab.stop(CAF_AGENT);
    fs::remove_dir_all(&sent).unwrap();
    fs::remove_dir_all(aside.join("statements")).unwrap();
    fs::rename(&aside, &job).unwrap();
    let before = received(&lab);
    lab.run(CAF_AGENT);
    let again = eventually("the receipt anew", LIMIT, || {
        // What ended it comes right behind, and it is moved.
        let mut places = [&job, &sent].into_iter().map(|place| stored(place));
        places.find(|stored| first.keys().all(|name| stored.contains_key(name)))
    });
    for (name, bytes) in &first {
        assert_eq!(again[name], *bytes, "the same bytes");
    }
    assert_eq!(received(&lab), before, "no byte of it has crossed again");
    let shown = shown(&lab, CAF_GATEWAY, &package).unwrap();
    let accepted = kinds(&shown).into_iter().filter(|kind| *kind == "accepted");
    assert_eq!(accepted.count(), 1);
    assert!(files(&spool(&lab, "caf21")).is_empty());
    // Also what ended it comes once more: it is over again.
    assert_eq!(lab.sent("caf21").file_name(), sent.file_name());
}
