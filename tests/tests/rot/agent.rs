//! What an agent keeps: packages that arrive and packages that leave, and its register.

use std::fs;
use std::path::{Path, PathBuf};

use passerelle_disk::CRASH_AT;
use passerelle_proto::v1::Section;
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, LIMIT, Process, eventually,
};

use crate::harm::{Harm, Row};
use crate::scene::{FLOW, LARGE, SMALL, Scene, Sealed};

const ARRIVED: &str = "package that has arrived and is not opened";
const SEALED: &str = "sealed package of the sender's agent";
const AGAIN: &str = "named with its file, collected again, arrives once";
const HELD: &str = "offered to nobody; `queue` names the file and the remedy";
const DROP: &str = "not sent: the report names the file, what was dropped lies beside it";
const GOES_ON: &str = "named with its file; the agent starts, and exchanges";

fn incoming(scene: &Scene, sealed: &Sealed) -> PathBuf {
    let agent = &scene.lab.party("grand-dijon").agent.directory;
    agent.join(format!("incoming/{}.pack", sealed.manifest.id()))
}

/// A package arrives, its agent dies before it opens it, and its file rots meanwhile.
fn rots_before_it_is_opened(scene: &mut Scene, length: usize, harm: impl Fn(&Sealed) -> Harm) {
    scene
        .lab
        .run_with(DIJON_AGENT, &[(CRASH_AT, "arrive.complete")]);
    let sealed = scene.seal(length);
    let lab = &mut scene.lab;
    eventually("the death of the agent", LIMIT, || {
        lab.process(DIJON_AGENT).ended()
    });
    let file = incoming(scene, &sealed);
    assert!(file.is_file());
    harm(&sealed).to(&file);
    scene.lab.run(DIJON_AGENT);
    scene.arrives(&sealed);
    let said = ["an arrived package is damaged", file.to_str().unwrap()];
    scene.says(DIJON_AGENT, &said);
    eventually("the end of its file", LIMIT, || {
        (!file.exists()).then_some(())
    });
    scene.lab.stop(DIJON_AGENT);
}

fn arrived(scene: &mut Scene) -> Vec<Row> {
    type Place = fn(&Sealed) -> Harm;
    let harms: [(&str, Place); 7] = [
        ("a bit of the header", |_| Harm::Flip(20)),
        ("a bit of the manifest", |_| Harm::Flip(90)),
        ("a bit of the manifest's signature", |it| {
            Harm::Flip(it.at(Section::Wraps) - 9)
        }),
        ("a bit of the wraps", |it| {
            Harm::Flip(it.at(Section::Wraps) + 5)
        }),
        ("a bit of a chunk", |it| Harm::Flip(it.length() - 9)),
        ("cut", |it| Harm::Cut(it.length() - 1_000)),
        ("gone", |_| Harm::Gone),
    ];
    let mut rows = Vec::new();
    for (name, harm) in harms {
        rots_before_it_is_opened(scene, LARGE, harm);
        rows.push(Row::new(ARRIVED, name, AGAIN));
    }
    rots_before_it_is_opened(scene, SMALL, |it| Harm::Flip(it.length() - 9));
    rows
}

/// What an agent has sealed rots before its gateway has it.
fn sealed(scene: &mut Scene) -> Vec<Row> {
    scene.lab.stop(CAF_GATEWAY);
    type Place = fn(&Sealed) -> Harm;
    let harms: [(&str, usize, Place); 5] = [
        ("a bit of the header", SMALL, |_| Harm::Flip(20)),
        ("a bit of the index", LARGE, |it| {
            Harm::Flip(it.at_sender(Section::Index) + 5)
        }),
        ("a bit of a chunk", LARGE, |it| {
            Harm::Flip(it.at_sender(Section::Chunks) + 300_000)
        }),
        ("a bit of a small one", SMALL, |it| {
            Harm::Flip(it.at_sender(Section::Chunks) + 5)
        }),
        ("cut", LARGE, |it| {
            Harm::Cut(it.at_sender(Section::Chunks) + 300_000)
        }),
    ];
    let packages = harms.map(|(_, length, _)| scene.seal(length));
    let whole = scene.seal(SMALL);
    scene.lab.stop(CAF_AGENT);
    for ((_, _, harm), sealed) in harms.iter().zip(&packages) {
        harm(sealed).to(&sealed.job.join("package"));
    }
    for process in [CAF_GATEWAY, CAF_AGENT, DIJON_AGENT] {
        scene.lab.run(process);
    }
    scene.arrives(&whole);
    for sealed in &packages {
        let file = sealed.job.join("package");
        let detail = eventually("the package to be held", LIMIT, || {
            let job = scene.job(sealed).filter(|job| job["state"] == "damaged")?;
            Some(job["recipients"][0]["detail"].as_str()?.to_owned())
        });
        assert!(detail.contains(file.to_str().unwrap()), "{detail}");
        assert!(detail.contains("drop what lies in"), "{detail}");
        assert!(
            scene
                .lab
                .received("grand-dijon", FLOW, &sealed.name)
                .is_empty()
        );
    }
    let status = scene.lab.ask(CAF_AGENT, &["status"]).unwrap();
    assert_eq!(status["damaged_packages"], packages.len());
    harms.map(|(name, ..)| Row::new(SEALED, name, HELD)).into()
}

/// What a dropped file is for rots before it is sealed.
fn claimed(scene: &mut Scene) -> Vec<Row> {
    scene.lab.stop(CAF_AGENT);
    let agent = scene.lab.party("caf21").agent.directory.clone();
    let harms = [
        ("a bit", Harm::Flip(32)),
        ("cut", Harm::Cut(40)),
        ("gone", Harm::Gone),
    ];
    let mut rows = Vec::new();
    for (name, harm) in harms {
        scene
            .lab
            .run_with(CAF_AGENT, &[(CRASH_AT, "claim.claimed")]);
        let file = format!("claimed-{name}.csv");
        scene.lab.drop_file("caf21", FLOW, &file, name.as_bytes());
        let lab = &mut scene.lab;
        eventually("the death of the agent", LIMIT, || {
            lab.process(CAF_AGENT).ended()
        });
        let jobs = fs::read_dir(agent.join("work")).unwrap();
        let mut jobs = jobs.map(|job| job.unwrap().path());
        let job = jobs.find(|job| job.join("source").join(&file).is_file());
        let record = job.unwrap().join("job.toml");
        harm.to(&record);
        scene.lab.run(CAF_AGENT);
        let rejected = rejected(&agent, &file);
        let report = fs::read_to_string(rejected.join("report.txt")).unwrap();
        for words in [record.to_str().unwrap(), "drop what lies in"] {
            assert!(report.contains(words), "{words}: {report}");
        }
        let dropped = fs::read(rejected.join("source").join(&file)).unwrap();
        assert_eq!(dropped, name.as_bytes());
        scene.lab.stop(CAF_AGENT);
        rows.push(Row::new(
            "what a file was dropped for (`job.toml`)",
            name,
            DROP,
        ));
    }
    scene.lab.run(CAF_AGENT);
    rows
}

/// The job that was rejected of a file that was dropped under this name.
fn rejected(agent: &Path, file: &str) -> PathBuf {
    eventually("the rejected job", LIMIT, || {
        let dates = fs::read_dir(agent.join("rejected")).ok()?;
        let mut jobs = dates.flat_map(|date| fs::read_dir(date.unwrap().path()).unwrap());
        jobs.find_map(|job| {
            let job = job.unwrap().path();
            job.join("source").join(file).is_file().then_some(job)
        })
    })
}

/// What a gateway keeps of the runs of its agent rots.
fn runs(scene: &mut Scene) -> Vec<Row> {
    let gateway = scene.lab.party("caf21").gateway.as_ref().unwrap();
    let file = gateway.data_dir.join("agents/caf21.run");
    let harms = [
        ("a bit", Harm::Flip(40)),
        ("cut", Harm::Cut(40)),
        ("gone", Harm::Gone),
    ];
    let mut rows = Vec::new();
    for (name, harm) in harms {
        let kept = fs::read(&file).unwrap();
        scene.lab.stop(CAF_GATEWAY);
        harm.to(&file);
        scene.lab.run(CAF_GATEWAY);
        eventually("the record", LIMIT, || {
            (fs::read(&file).ok()? == kept).then_some(())
        });
        let outcome = match harm {
            Harm::Gone => "made again",
            _ => {
                scene.says(CAF_GATEWAY, &[file.to_str().unwrap(), "it is made again"]);
                "named with its file, and made again"
            }
        };
        rows.push(Row::new(
            "what a gateway keeps of its agent's runs",
            name,
            outcome,
        ));
    }
    let sealed = scene.seal(SMALL);
    scene.arrives(&sealed);
    let line = ["audit", "log", "--kind", "agent-state"];
    let accused = scene.lab.lines(CAF_GATEWAY, &line).unwrap();
    assert!(accused.is_empty(), "an agent in order: {accused:?}");
    rows
}

/// What an agent keeps of its own runs rots: it is another agent then, and everybody is told.
fn own_run(scene: &mut Scene) -> Vec<Row> {
    let agent = &scene.lab.party("caf21").agent.directory;
    let file = agent.join("state/run");
    let harms = [
        ("a bit", Harm::Flip(40)),
        ("cut", Harm::Cut(40)),
        ("gone", Harm::Gone),
    ];
    let mut rows = Vec::new();
    for (accused, (name, harm)) in (1..).zip(harms) {
        scene.lab.stop(CAF_AGENT);
        harm.to(&file);
        scene.lab.run(CAF_AGENT);
        eventually("the gateway's word about it", LIMIT, || {
            let line = ["audit", "log", "--kind", "agent-state"];
            let told = scene.lab.lines(CAF_GATEWAY, &line)?;
            (told.len() == accused).then_some(())
        });
        let outcome = match harm {
            Harm::Gone => "the gateway logs that this is another agent",
            _ => {
                scene.says(CAF_AGENT, &[file.to_str().unwrap(), "has rotted"]);
                "named with its file; the gateway logs that this is another agent"
            }
        };
        rows.push(Row::new(
            "what an agent keeps of its own runs",
            name,
            outcome,
        ));
    }
    let sealed = scene.seal(SMALL);
    scene.arrives(&sealed);
    rows
}

/// The only entry of a register, or a file in it.
fn entry(scene: &Scene) -> PathBuf {
    let received = scene
        .lab
        .party("grand-dijon")
        .agent
        .directory
        .join("received");
    let days = fs::read_dir(received).unwrap();
    let entries = days.flat_map(|day| fs::read_dir(day.unwrap().path()).unwrap());
    entries.map(|entry| entry.unwrap().path()).min().unwrap()
}

fn restarts(scene: &mut Scene, process: Process, file: &PathBuf, harm: Harm) {
    let kept = fs::read(file).unwrap();
    scene.lab.stop(process);
    harm.to(file);
    scene.lab.run(process);
    let sealed = scene.seal(SMALL);
    scene.arrives(&sealed);
    if harm != Harm::Gone {
        scene.says(
            process,
            &[file.file_name().unwrap().to_str().unwrap(), "damaged"],
        );
    }
    fs::write(file, kept).unwrap();
}

fn records(scene: &mut Scene) -> Vec<Row> {
    let mut rows = Vec::new();
    let entry = entry(scene);
    let manifest = entry.join("manifest");
    restarts(scene, DIJON_AGENT, &manifest, Harm::Flip(60));
    restarts(scene, DIJON_AGENT, &manifest, Harm::Cut(60));
    let acked = fs::read_dir(entry.join("acked")).unwrap();
    let receipt = acked.map(|file| file.unwrap().path()).min().unwrap();
    restarts(scene, DIJON_AGENT, &receipt, Harm::Flip(80));
    for (file, harm) in [
        ("manifest", "a bit"),
        ("manifest", "cut"),
        ("receipt", "a bit"),
    ] {
        let kind = match file {
            "manifest" => "entry of the register: manifest",
            _ => "entry of the register: receipt",
        };
        rows.push(Row::new(kind, harm, GOES_ON));
    }
    let state = scene.lab.party("grand-dijon").agent.directory.join("state");
    let checkpoint = state.join("checkpoint.note");
    let chain = state.join("chain");
    let lost = "named with its file; a newer one is kept instead";
    restarts(scene, DIJON_AGENT, &checkpoint, Harm::Flip(40));
    restarts(scene, DIJON_AGENT, &checkpoint, Harm::Cut(40));
    restarts(scene, DIJON_AGENT, &checkpoint, Harm::Gone);
    for harm in ["a bit", "cut", "gone"] {
        rows.push(Row::new("copy of the gateway's checkpoint", harm, lost));
    }
    for harm in [Harm::Flip(60), Harm::Cut(60), Harm::Gone] {
        restarts(scene, DIJON_AGENT, &chain, harm);
    }
    for harm in ["a bit", "cut", "gone"] {
        let again = "made again from what was said";
        rows.push(Row::new("sequence of an agent's statements", harm, again));
    }
    rows
}

/// All that is tried with agents.
pub fn rows() -> Vec<Row> {
    let mut scene = Scene::start(&[CAF_GATEWAY, CAF_AGENT, DIJON_GATEWAY]);
    let mut rows = claimed(&mut scene);
    rows.extend(arrived(&mut scene));
    rows.extend(sealed(&mut scene));
    rows.extend(records(&mut scene));
    rows.extend(runs(&mut scene));
    rows.extend(own_run(&mut scene));
    rows
}
