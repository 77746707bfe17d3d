//! What is signed or secret, and read at a start; and what gateways keep of each other's logs.

use std::fs;
use std::path::PathBuf;

use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, LIMIT, Process, Program, eventually,
};

use crate::harm::{Harm, Row};
use crate::scene::{SMALL, Scene};

const REFUSED: &str = "the start is refused, with the file";

/// Starts a process with a harmed file, which it must refuse; the file is put back.
fn refused(scene: &Scene, process: Process, file: &PathBuf, harm: Harm) {
    let kept = fs::read(file).unwrap();
    let permissions = fs::metadata(file).unwrap().permissions();
    harm.to(file);
    let config = scene.lab.config(process);
    let config = config.to_str().unwrap();
    let output = match process {
        Process::Gateway(_) => Program::Gateway.run(["--check", "--config", config]),
        Process::Agent(_) => {
            Program::Passerelle.run(["agent", "run", "--check", "--config", config])
        }
    };
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{file:?} {harm:?}: {said}");
    // Of a sheet that is gone its party is named.
    let name = match harm {
        Harm::Gone => file.file_stem(),
        _ => file.file_name(),
    };
    let name = name.unwrap().to_str().unwrap();
    assert!(said.contains(name), "{file:?} {harm:?}: {said}");
    fs::write(file, kept).unwrap();
    fs::set_permissions(file, permissions).unwrap();
}

fn tried(scene: &Scene, process: Process, file: &PathBuf) {
    let length = fs::metadata(file).unwrap().len();
    for quarter in 0..4 {
        refused(scene, process, file, Harm::Flip(length * quarter / 4 + 3));
    }
    refused(scene, process, file, Harm::Cut(length / 2));
    refused(scene, process, file, Harm::Gone);
}

fn starts(scene: &Scene) -> Vec<Row> {
    let caf = scene.lab.party("caf21");
    let files = [
        (
            "secret signing key",
            CAF_GATEWAY,
            caf.directory.join("keys/gateway.secret"),
        ),
        (
            "secret log key",
            CAF_GATEWAY,
            caf.directory.join("keys/log.secret"),
        ),
        (
            "secret recipient key",
            CAF_AGENT,
            caf.directory.join("keys/recipient.secret"),
        ),
        (
            "secret key of a certificate",
            CAF_GATEWAY,
            caf.directory.join("tls/gateway.key"),
        ),
        ("convention", CAF_GATEWAY, scene.lab.lab.convention.clone()),
        ("party sheet", CAF_GATEWAY, caf.sheet.clone()),
    ];
    let mut rows = certificate(scene);
    for (kind, process, file) in &files {
        tried(scene, *process, file);
        for harm in ["a bit, anywhere", "cut", "gone"] {
            rows.push(Row::new(kind, harm, REFUSED));
        }
    }
    rows
}

/// The certificate that a gateway shows: of a bit of its signature only others can tell.
fn certificate(scene: &Scene) -> Vec<Row> {
    let file = scene.lab.party("caf21").directory.join("tls/gateway.pem");
    let text = fs::read_to_string(&file).unwrap();
    let line = |number: usize| {
        let before = text.lines().take(number);
        before.map(|line| line.len() as u64 + 1).sum::<u64>()
    };
    let harms = [
        ("a bit of its frame", Harm::Flip(8)),
        ("a bit of its beginning", Harm::Flip(line(1))),
        ("cut", Harm::Cut(line(3))),
        ("gone", Harm::Gone),
    ];
    let tried = harms.map(|(name, harm)| {
        refused(scene, CAF_GATEWAY, &file, harm);
        Row::new("certificate", name, REFUSED)
    });
    tried.into()
}

/// What a gateway keeps of its partner's log.
fn witnessed(scene: &mut Scene) -> Vec<Row> {
    for process in [CAF_GATEWAY, CAF_AGENT, DIJON_GATEWAY, DIJON_AGENT] {
        scene.lab.run(process);
    }
    let first = scene.seal(SMALL);
    scene.arrives(&first);
    let data = scene
        .lab
        .party("caf21")
        .gateway
        .as_ref()
        .unwrap()
        .data_dir
        .clone();
    let files = [
        (
            "witness record",
            data.join("witness/grand-dijon.note"),
            true,
        ),
        (
            "own checkpoint that a partner has cosigned",
            data.join("log/cosigned/grand-dijon.note"),
            false,
        ),
    ];
    let mut rows = Vec::new();
    for (kind, file, named) in files {
        eventually("the cosignature", LIMIT, || file.is_file().then_some(()));
        for (name, harm) in [
            ("a bit", Harm::Flip(40)),
            ("cut", Harm::Cut(60)),
            ("gone", Harm::Gone),
        ] {
            scene.lab.stop(CAF_GATEWAY);
            let kept = fs::read(&file).unwrap();
            harm.to(&file);
            scene.lab.run(CAF_GATEWAY);
            let sealed = scene.seal(SMALL);
            scene.arrives(&sealed);
            let outcome = match (named, harm) {
                (true, Harm::Gone) => "the partner's log is believed as it stands next",
                (true, _) => {
                    scene.says(CAF_GATEWAY, &[file.to_str().unwrap(), "remove it"]);
                    "named with its file and the remedy; nothing is cosigned, packages go on"
                }
                (false, _) => "made again with the next cosignature",
            };
            rows.push(Row::new(kind, name, outcome));
            fs::write(&file, kept).unwrap();
        }
    }
    rows
}

/// All that is tried with notes, keys and witnesses' records.
pub fn rows() -> Vec<Row> {
    let mut scene = Scene::start(&[]);
    let mut rows = starts(&scene);
    rows.extend(witnessed(&mut scene));
    rows
}
