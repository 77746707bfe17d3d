//! Packages in a gateway's spool.

use std::path::PathBuf;

use passerelle_proto::v1::Section;
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, Judges, LIMIT, Process, eventually,
};

use crate::harm::{Harm, Row};
use crate::scene::{LARGE, MIDDLING, SMALL, Scene, Sealed};

const OWN: &str = "package in a file of its own";
const SHARED: &str = "package in a shared segment";
const AGAIN: &str = "named with its file, fetched again from the hop before, arrives once";
/// What a gateway logs of a package that has rotted.
const SAID: &str = "a stored package is damaged";

fn spool(scene: &Scene, party: &str) -> PathBuf {
    let gateway = scene.lab.party(party).gateway.as_ref().unwrap();
    gateway.data_dir.join("spool")
}

fn own(scene: &Scene, party: &str, sealed: &Sealed) -> PathBuf {
    spool(scene, party).join(format!("{}.pack", sealed.manifest.id()))
}

/// The newest shared segment, and where a package lies in it.
fn shared(scene: &Scene, party: &str, sealed: &Sealed) -> (PathBuf, u64) {
    let found = std::fs::read_dir(spool(scene, party).join("shared")).unwrap();
    let segment = found.map(|file| file.unwrap().path()).max().unwrap();
    let bytes = std::fs::read(&segment).unwrap();
    let at = bytes
        .windows(64)
        .position(|window| window == sealed.beginning());
    (segment, at.unwrap() as u64)
}

fn repairs(scene: &Scene, gateway: Process) -> usize {
    let log = scene
        .lab
        .lines(gateway, &["audit", "log", "--kind", "repaired"]);
    log.map_or(0, |entries| entries.len())
}

/// Nothing is damaged any more, and everything that was has been repaired.
fn is_whole_again(scene: &Scene, gateway: Process, damaged: usize) {
    eventually("every repair", LIMIT, || {
        (repairs(scene, gateway) == damaged).then_some(())
    });
    let status = scene.lab.ask(gateway, &["status"]).unwrap();
    assert_eq!(status["damaged_packages"], 0);
}

/// A file of its own, harmed in each part.
fn own_files(scene: &mut Scene) -> Vec<Row> {
    type Place = fn(&Sealed) -> u64;
    type Way = fn(u64) -> Harm;
    let harms: [(&str, Way, Place); 7] = [
        ("a bit of the wraps", Harm::Flip, |it| {
            it.at(Section::Wraps) + 5
        }),
        ("a bit of the chunk table", Harm::Flip, |it| {
            it.at(Section::ChunkTable) + 5
        }),
        ("a bit of the index", Harm::Flip, |it| {
            it.at(Section::Index) + 5
        }),
        ("a bit of the first chunk", Harm::Flip, |it| {
            it.at(Section::Chunks) + 5
        }),
        ("a bit of the last chunk", Harm::Flip, |it| it.length() - 9),
        ("cut within the chunks", Harm::Cut, |it| {
            it.at(Section::Chunks) + 300_000
        }),
        ("cut to nothing", Harm::Cut, |_| 0),
    ];
    let mut rows = Vec::new();
    let mut sent = Vec::new();
    for (name, harm, place) in harms {
        let sealed = scene.seal(LARGE);
        scene.wait_for(&sealed, "submitted");
        harm(place(&sealed)).to(&own(scene, "caf21", &sealed));
        rows.push(Row::new(OWN, name, AGAIN));
        sent.push(sealed);
    }
    let gone = scene.seal(LARGE);
    scene.wait_for(&gone, "submitted");
    Harm::Gone.to(&own(scene, "caf21", &gone));
    rows.push(Row::new(OWN, "gone", AGAIN));
    sent.push(gone);
    deliver(scene, &sent);
    is_whole_again(scene, CAF_GATEWAY, sent.len());
    rows
}

/// Lets everything arrive, and stops Dijon again.
fn deliver(scene: &mut Scene, sent: &[Sealed]) {
    for process in [DIJON_GATEWAY, DIJON_AGENT] {
        scene.lab.run(process);
    }
    for sealed in sent {
        scene.arrives(sealed);
        scene.says(CAF_GATEWAY, &[SAID, &sealed.manifest.id().short(), "spool"]);
    }
    for process in [DIJON_AGENT, DIJON_GATEWAY] {
        scene.lab.stop(process);
    }
}

fn shared_segments(scene: &mut Scene) -> Vec<Row> {
    let before = repairs(scene, CAF_GATEWAY);
    let (small, middling) = (scene.seal(SMALL), scene.seal(MIDDLING));
    for sealed in [&small, &middling] {
        scene.wait_for(sealed, "submitted");
        let (segment, at) = shared(scene, "caf21", sealed);
        Harm::Flip(at + 7).to(&segment);
    }
    deliver(scene, &[small, middling]);
    let (small, middling) = (scene.seal(SMALL), scene.seal(MIDDLING));
    for sealed in [&small, &middling] {
        scene.wait_for(sealed, "submitted");
    }
    let (segment, at) = shared(scene, "caf21", &small);
    let (same, other) = shared(scene, "caf21", &middling);
    assert_eq!(segment, same);
    Harm::Cut(at.min(other) + 1).to(&segment);
    deliver(scene, &[small, middling]);
    let (small, middling) = (scene.seal(SMALL), scene.seal(MIDDLING));
    for sealed in [&small, &middling] {
        scene.wait_for(sealed, "submitted");
    }
    let (segment, _) = shared(scene, "caf21", &small);
    Harm::Gone.to(&segment);
    deliver(scene, &[small, middling]);
    is_whole_again(scene, CAF_GATEWAY, before + 6);
    ["a bit of a package", "cut", "gone"]
        .map(|name| Row::new(SHARED, name, AGAIN))
        .into()
}

/// Two gateways in a row have lost it: the first one repairs its copy before it helps the second.
fn at_the_partner(scene: &mut Scene) -> Vec<Row> {
    scene.lab.run(DIJON_GATEWAY);
    let before = repairs(scene, CAF_GATEWAY);
    let (one, both) = (scene.seal(LARGE), scene.seal(LARGE));
    for sealed in [&one, &both] {
        scene.wait_for(sealed, "accepted");
        let harm = Harm::Flip(sealed.at(Section::Chunks) + 300_000);
        harm.to(&own(scene, "grand-dijon", sealed));
    }
    Harm::Flip(both.at(Section::Chunks) + 300_001).to(&own(scene, "caf21", &both));
    scene.lab.run(DIJON_AGENT);
    for sealed in [&one, &both] {
        scene.arrives(sealed);
        let file = own(scene, "grand-dijon", sealed);
        scene.says(
            DIJON_GATEWAY,
            &[SAID, file.to_str().unwrap(), "differs from its digest"],
        );
    }
    is_whole_again(scene, DIJON_GATEWAY, 2);
    is_whole_again(scene, CAF_GATEWAY, before + 1);
    let judges = Judges::of(&scene.lab);
    for gateway in [CAF_GATEWAY, DIJON_GATEWAY] {
        let package = both.manifest.id().to_string();
        judges.believe(&scene.lab, gateway, &package, &["damaged"]);
    }
    vec![
        Row::new(OWN, "a bit, at the partner's gateway", AGAIN),
        Row::new(OWN, "a bit, at two gateways in a row", AGAIN),
    ]
}

/// All that is tried with a spool.
pub fn rows() -> Vec<Row> {
    let mut scene = Scene::start(&[CAF_GATEWAY, CAF_AGENT]);
    let mut rows = own_files(&mut scene);
    rows.extend(shared_segments(&mut scene));
    rows.extend(at_the_partner(&mut scene));
    rows
}
