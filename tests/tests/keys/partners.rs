//! A partner that is heard of while everything runs.

use std::fs;
use std::path::PathBuf;

use passerelle_link::TransportChoice;
use passerelle_proto::Digest;
use passerelle_tests::{CAF_GATEWAY, DIJON_GATEWAY, LIMIT, eventually};

use crate::scene::Scene;

/// When the partner has cosigned the producer's log last.
fn cosigned_at(scene: &Scene) -> Option<i64> {
    let status = scene.lab.ask(CAF_GATEWAY, &["status"])?;
    status["cosigned"][0]["at_ms"].as_i64()
}

/// How often the producer's gateway has made a connection to its partner's.
fn connections(scene: &Scene) -> usize {
    let printed = fs::read_to_string(scene.lab.log(CAF_GATEWAY)).unwrap();
    let made = |line: &&str| line.contains(" connected ") && line.contains("grand-dijon/gateway");
    printed.lines().filter(made).count()
}

#[test]
fn a_partner_whose_sheet_comes_after_the_start_is_dialled_once_and_cosigns() {
    let mut scene = Scene::make(TransportChoice::Auto);
    let own = scene.lab.party("caf21").directory.join("own-sheets");
    let of_partner = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("grand-dijon")
    };
    let mut notes = fs::read_dir(&own).unwrap().map(|note| note.unwrap().path());
    let sheet = notes.find(of_partner).unwrap();
    let aside = own.with_file_name("aside.note");
    fs::rename(&sheet, &aside).unwrap();
    for gateway in [CAF_GATEWAY, DIJON_GATEWAY] {
        scene.lab.run(gateway);
    }
    for gateway in [CAF_GATEWAY, DIJON_GATEWAY] {
        scene.printed(gateway, &["the gateway runs"]);
    }
    assert_eq!((connections(&scene), cosigned_at(&scene)), (0, None));
    fs::rename(&aside, &sheet).unwrap();
    scene.in_force(&[CAF_GATEWAY], &Digest::of(&fs::read(&sheet).unwrap()));
    let first = eventually("a cosignature", LIMIT, || cosigned_at(&scene));
    // A newer sheet is followed by the link that is there.
    let note = scene.publish("grand-dijon", |_| {});
    scene.in_force(&[CAF_GATEWAY], &note);
    eventually("a newer cosignature", LIMIT, || {
        cosigned_at(&scene).filter(|at| *at > first)
    });
    assert_eq!(connections(&scene), 1);
}
