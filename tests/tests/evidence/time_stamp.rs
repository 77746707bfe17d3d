//! Time-stamps of an outside authority, `openssl ts`: in the log, in evidence, and judged by
//! others; an authority that is away or says something else stops nothing.

use std::fs;
use std::path::Path;

use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, LIMIT, Manner, Program, TimeAuthority, eventually, openssl, printed,
    refused,
};
use serde_json::Value;

use super::files::{EXIT_DATA, FLOW, Scene, TABLE};

/// What the producer's gateway says of its time-stamps.
fn told(scene: &Scene) -> Option<(Value, String)> {
    let status = scene.lab.ask(CAF_GATEWAY, &["status"])?;
    let warning = status["time_stamp_warning"].as_str()?.to_owned();
    Some((status["stamped"].clone(), warning))
}

fn metric(scene: &Scene, series: &str) {
    eventually(series, LIMIT, || {
        let page = scene.lab.metrics(CAF_GATEWAY);
        page.lines()
            .any(|line| line.starts_with(series))
            .then_some(())
    });
}

#[test]
fn a_package_is_proven_to_have_been_there_by_the_clock_of_an_outside_authority() {
    let authority = TimeAuthority::start();
    let (mut scene, package) = Scene::delivered_with(CAF_GATEWAY, &authority.config(1));
    let root = authority.root();
    let root = root.to_str().unwrap();
    let named = ["--time-authority", root];
    let evidence = eventually("evidence that is stamped throughout", LIMIT, || {
        let evidence = scene.export(CAF_GATEWAY, &package, "stamped.evidence");
        let told = scene.verified_with(&evidence, &named)?;
        let said = told["statements"].as_array()?;
        let stamped = |said: &Value| {
            let stamped = said["standings"][0]["stamped"].as_array();
            stamped.is_some_and(|all| all.len() == 1 && all[0]["doubt"] == Value::Null)
        };
        match said.iter().all(stamped) {
            true => Some(evidence),
            false => {
                fs::remove_file(&evidence).unwrap();
                None
            }
        }
    });
    let file = evidence.to_str().unwrap();
    let words =
        printed(
            &scene
                .judges
                .ours(&["evidence", "verify", file, "--time-authority", root]),
        );
    for part in [
        "time-stamped (RFC 3161) with the first",
        "by the clock of CN=authority, who has no part in this exchange (give or take 1000 ms)",
        "by an authority's clock (RFC 3161): somebody without a part in it has signed",
        "by a partner's clock: another institution",
    ] {
        assert!(words.contains(part), "{part} in\n{words}");
    }
    who_is_believed_is_the_readers_word(&scene, &evidence, &named);
    a_token_that_was_altered_is_refused(&scene, &evidence);
    the_log_tells_the_same(&mut scene, root);
}

fn who_is_believed_is_the_readers_word(scene: &Scene, evidence: &Path, named: &[&str]) {
    let file = evidence.to_str().unwrap();
    // Without a word about whom to believe, and with another authority's certificate.
    let unnamed = printed(&scene.judges.ours(&["evidence", "verify", file]));
    assert!(
        unnamed.contains("NOT BELIEVED: nobody here has said that CN=authority"),
        "{unnamed}"
    );
    assert!(
        unnamed.contains("until its certificate is named with --time-authority"),
        "{unnamed}"
    );
    assert!(unnamed.contains("it counts as evidence"), "{unnamed}");
    let other = TimeAuthority::start();
    let other = other.root();
    let other = [
        "evidence",
        "verify",
        file,
        "--time-authority",
        other.to_str().unwrap(),
    ];
    let other = printed(&scene.judges.ours(&other));
    assert!(
        other.contains("NOT BELIEVED: no authority that is trusted here"),
        "{other}"
    );
    let whole = scene.judges.theirs("evidence", evidence, named);
    let whole: Value = serde_json::from_str(&printed(&whole)).unwrap();
    let all = whole["statements"].as_array().unwrap();
    assert!(
        all.iter()
            .all(|one| one["stamped"] == serde_json::json!(["CN=authority"])),
        "{whole}"
    );
}

fn a_token_that_was_altered_is_refused(scene: &Scene, evidence: &Path) {
    let bytes = fs::read(evidence).unwrap();
    // Where the token says what it is: id-ct-TSTInfo, whose content follows.
    let oid = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 0x10, 1, 4];
    let at = bytes
        .windows(oid.len())
        .position(|part| part == oid)
        .unwrap();
    let altered = scene.path("restamped.evidence");
    let mut changed = bytes.clone();
    changed[at + oid.len() + 60] ^= 1;
    fs::write(&altered, &changed).unwrap();
    let why = refused(
        &scene
            .judges
            .ours(&["evidence", "verify", altered.to_str().unwrap()]),
        EXIT_DATA,
    );
    assert!(
        why.contains("a time-stamp (RFC 3161) does not hold"),
        "{why}"
    );
    let why = refused(&scene.judges.theirs("evidence", &altered, &[]), 1);
    assert!(why.starts_with("refused: a time-stamp"), "{why}");
}

/// The exported log: our own word, the other program's, and `openssl` on the files in it.
fn the_log_tells_the_same(scene: &mut Scene, root: &str) {
    let folder = scene.path("stamped-log");
    let path = folder.to_str().unwrap();
    scene
        .lab
        .ask(CAF_GATEWAY, &["audit", "export", path])
        .unwrap();
    let entries = scene
        .lab
        .lines(CAF_GATEWAY, &["audit", "log", "--kind", "time-stamped"]);
    let says = entries.unwrap().last().unwrap()["says"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        says.starts_with("CN=authority has stamped the first"),
        "{says}"
    );
    let verify = ["audit", "verify", path, "--time-authority", root];
    let words = printed(&scene.judges.ours(&verify));
    assert!(
        words.contains("(RFC 3161) of CN=authority, the newest over the first"),
        "{words}"
    );
    assert!(!words.contains("NOT BELIEVED"), "{words}");
    let theirs = scene
        .judges
        .theirs("log", &folder, &["--time-authority", root]);
    let theirs: Value = serde_json::from_str(&printed(&theirs)).unwrap();
    assert!(
        theirs["stamped"]["CN=authority"].as_u64().unwrap() > 0,
        "{theirs}"
    );
    let mut files: Vec<String> = fs::read_dir(folder.join("time-stamps"))
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let [token, text] = &files[..] else {
        panic!("a token, and what was stamped: {files:?}");
    };
    let line = [
        "ts",
        "-verify",
        "-token_in",
        "-in",
        token,
        "-data",
        text,
        "-CAfile",
        root,
    ];
    let told = openssl(&folder.join("time-stamps"), &line);
    assert!(told.contains("Verification: OK"), "{told}");
}

#[test]
fn an_authority_that_is_away_or_repeats_itself_is_told_and_stops_nothing() {
    let authority = TimeAuthority::start();
    let mut scene = Scene::make();
    scene.configure(CAF_GATEWAY, &authority.config(1));
    authority.set(Manner::IsAway);
    scene.run(&[CAF_GATEWAY, CAF_AGENT]);
    let away = eventually("a warning", LIMIT, || {
        told(&scene)
            .map(|told| told.1)
            .filter(|warning| !warning.is_empty())
    });
    assert!(
        away.contains("it answers 503 Service Unavailable"),
        "{away}"
    );
    metric(&scene, "passerelle_time_stamp_late{gateway=\"caf21\"} 1");
    scene.lab.drop_file("caf21", FLOW, "table.csv", TABLE);
    scene.package("submitted");
    authority.set(Manner::Stamps);
    let stamped = eventually("a time-stamp", LIMIT, || {
        told(&scene).filter(|(stamped, warning)| warning.is_empty() && stamped.is_object())
    });
    assert_eq!(stamped.0["authority"], "CN=authority");
    metric(&scene, "passerelle_time_stamp_late{gateway=\"caf21\"} 0");
    // An answer that was given before is worth nothing.
    authority.set(Manner::Repeats);
    scene.lab.drop_file("caf21", FLOW, "second.csv", TABLE);
    let repeated = eventually("a warning", LIMIT, || {
        told(&scene)
            .map(|told| told.1)
            .filter(|warning| !warning.is_empty())
    });
    assert!(
        repeated.contains("does not repeat the random number"),
        "{repeated}"
    );
    // A start remembers what is in the log.
    scene.lab.stop(CAF_GATEWAY);
    scene.lab.run(CAF_GATEWAY);
    let again = eventually("what was stamped before the start", LIMIT, || {
        told(&scene).map(|told| told.0).filter(Value::is_object)
    });
    assert!(again["size"].as_u64() >= stamped.0["size"].as_u64());
}

#[test]
fn a_configuration_that_names_no_certificate_is_refused_with_its_remedy() {
    let authority = TimeAuthority::start();
    let scene = Scene::make();
    let config = authority.config(1).replace("root.pem", "query.tsq");
    scene.configure(CAF_GATEWAY, &config);
    let config = scene.lab.config(CAF_GATEWAY);
    let line = ["--check", "--config", config.to_str().unwrap()];
    let output = Program::Gateway.run(line);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(error.contains("query.tsq"), "{error}");
    assert!(
        error.contains("certificates in PEM form in [time_stamp]"),
        "{error}"
    );
}
