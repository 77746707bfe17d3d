//! The demonstration, and what `passerelle audit verify` makes of a log that was tampered with.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use passerelle_agent::lab::{LabOptions, Laboratory, PRODUCER};
use passerelle_gateway::{Config, Gateway};
use passerelle_proto::Timestamp;

fn passerelle(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_passerelle"));
    command
        .args(arguments)
        .env_remove("PASSERELLE_LOG")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_demonstration_ends_well_when_everything_is_verified() {
    let output = passerelle(&["demo", "--once", "--json"]);
    let (told, errors) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{told}\n{errors}");
    let last: serde_json::Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!(last["verified"], true);
    assert_eq!(last["received"].as_array().unwrap().len(), 3);
    let dir = last["dir"].as_str().unwrap();
    assert!(!Path::new(dir).exists(), "{dir} was to be removed");
}

#[test]
fn a_demonstration_of_a_file_that_is_not_there_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let keep = dir.path().join("kept");
    let arguments = [
        "demo",
        "nowhere.csv",
        "--once",
        "--keep",
        keep.to_str().unwrap(),
    ];
    let output = passerelle(&arguments);
    assert_eq!(output.status.code(), Some(66), "{}", text(&output.stderr));
    assert!(!keep.exists());
}

/// A laboratory whose first gateway has run once, so that there is a log.
fn with_a_log() -> (tempfile::TempDir, Laboratory) {
    let dir = tempfile::tempdir().unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let options = LabOptions::new(Timestamp::from_ms(i64::try_from(now).unwrap()));
    let laboratory = Laboratory::create(&dir.path().join("lab"), &options).unwrap();
    let gateway = laboratory.party(PRODUCER).unwrap().gateway.clone().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let config = Config::load(&gateway.config).unwrap();
        Gateway::start(config).await.unwrap().stop().await;
    });
    (dir, laboratory)
}

#[test]
fn a_log_is_believed_until_one_bit_of_it_changes() {
    let (_dir, laboratory) = with_a_log();
    let party = laboratory.party(PRODUCER).unwrap();
    let log = party.gateway.as_ref().unwrap().data_dir.join("log");
    let verify = || {
        let (log, config) = (log.to_str().unwrap(), party.agent.config.to_str().unwrap());
        passerelle(&["audit", "verify", log, "--config", config, "--signatures"])
    };
    let believed = verify();
    assert_eq!(
        believed.status.code(),
        Some(0),
        "{}",
        text(&believed.stderr)
    );
    assert!(text(&believed.stdout).contains("nobody has cosigned it"));

    let mut tampered = 0;
    let mut folders = vec![log.join("tile")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let original = fs::read(&path).unwrap();
            let mut altered = original.clone();
            *altered.last_mut().unwrap() ^= 1;
            fs::write(&path, altered).unwrap();
            let refused = verify();
            // A tile of an earlier, smaller tree is not read any more.
            if refused.status.code() == Some(65) {
                assert!(text(&refused.stderr).contains("cannot be believed"));
                tampered += 1;
            }
            fs::write(&path, original).unwrap();
        }
    }
    assert!(tampered >= 2, "the entries and their tile, at least");
    assert_eq!(verify().status.code(), Some(0));
}
