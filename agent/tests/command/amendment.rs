//! An amendment that replaces a root key, signed and checked from the command line.

use passerelle_proto::{Digest, Note};

use super::*;

const BEFORE: &str = "lab/convention.note";

/// Version 2 of the laboratory's convention, with another root key for the producer.
fn amended(dir: &Path) -> String {
    let before = Note::parse(&fs::read(dir.join(BEFORE)).unwrap()).unwrap();
    let digest = Digest::of(before.text().as_bytes());
    let next = format!("version = 2\nsupersedes = \"{digest}\"");
    let text = before.text().replacen("version = 1", &next, 1);
    let line = |text: &str, at: usize| text[at..].lines().next().unwrap().to_owned();
    let old = line(&text, text.find("root = \"caf21+").unwrap());
    let new = fs::read_to_string(dir.join("new-root.public")).unwrap();
    text.replace(&old, &format!("root = \"{}\"", new.trim()))
}

fn sign(dir: &Path, text: &str, key: &str, more: &[&str]) -> Output {
    let line = [
        "convention",
        "sign",
        text,
        "--key",
        key,
        "--out",
        "next.note",
    ];
    passerelle(dir, &[&line[..], more].concat())
}

#[test]
fn a_root_key_is_replaced_by_an_amendment_that_the_old_ones_sign() {
    let dir = workplace();
    let dir = dir.path();
    assert_eq!(status(&passerelle(dir, &["pki", "lab", "lab"])), 0);
    new_key(dir, "root", "new-root.secret");
    fs::write(dir.join("next.toml"), amended(dir)).unwrap();
    let (caf, dijon) = ("lab/roots/caf21.secret", "lab/roots/grand-dijon.secret");
    let refused = sign(dir, "next.toml", caf, &[]);
    assert_eq!(status(&refused), 65);
    let told = stderr(&refused);
    assert!(told.contains("--amends"), "{told}");
    let amends = ["--amends", BEFORE];
    let refused = sign(dir, "next.toml", "new-root.secret", &amends);
    assert_eq!(status(&refused), 65);
    let told = stderr(&refused);
    assert!(told.contains("root keys of the version before"), "{told}");
    let signed = sign(dir, "next.toml", caf, &amends);
    assert_eq!(status(&signed), 0, "{}", stderr(&signed));
    let told = stdout(&signed);
    assert!(told.contains("when grand-dijon has signed"), "{told}");
    let check = ["convention", "check", "next.note", "--config"];
    let check = [&check[..], &["lab/caf21/gateway.toml"]].concat();
    let with = [&check[..], &amends].concat();
    assert_eq!(
        status(&passerelle(dir, &with)),
        65,
        "one signature is missing"
    );
    let signed = sign(dir, "next.note", dijon, &amends);
    assert_eq!(status(&signed), 0, "{}", stderr(&signed));
    let checked = passerelle(dir, &with);
    assert_eq!(status(&checked), 0, "{}", stderr(&checked));
    assert!(
        stdout(&checked).contains("version 2"),
        "{}",
        stdout(&checked)
    );
    let alone = passerelle(dir, &check);
    assert_eq!(status(&alone), 65);
    assert!(stderr(&alone).contains("--amends"), "{}", stderr(&alone));
}

#[test]
fn a_text_that_does_not_follow_the_version_it_amends_is_told_what_to_write() {
    let dir = workplace();
    let dir = dir.path();
    assert_eq!(status(&passerelle(dir, &["pki", "lab", "lab"])), 0);
    new_key(dir, "root", "new-root.secret");
    let text = amended(dir).replacen("version = 2", "version = 3", 1);
    fs::write(dir.join("next.toml"), text).unwrap();
    let refused = sign(
        dir,
        "next.toml",
        "lab/roots/caf21.secret",
        &["--amends", BEFORE],
    );
    assert_eq!(status(&refused), 65);
    let told = stderr(&refused);
    assert!(told.contains("version = 2, supersedes ="), "{told}");
    assert!(!dir.join("next.note").exists());
}
