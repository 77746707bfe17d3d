//! What the `passerelle` command says and with which status it ends, as people and scripts see it.
//!
//! The golden files hold a command line, its status, and what it writes. `GOLDEN=write` writes
//! them anew, to be reviewed as a change of the product.

#![allow(clippy::unwrap_used)]

mod amendment;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use passerelle_proto::Timestamp;

/// Runs the command in `dir`.
fn passerelle(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_passerelle"));
    command
        .current_dir(dir)
        .args(arguments)
        .env_remove("PASSERELLE_LOG")
        .output()
        .unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Compares a run in `dir` with `tests/golden/<name>.txt`.
fn golden(name: &str, dir: &Path, arguments: &[&str]) {
    let output = passerelle(dir, arguments);
    let found = format!(
        "$ passerelle {}\nstatus {}\n--- stdout\n{}--- stderr\n{}",
        arguments.join(" "),
        status(&output),
        stdout(&output),
        stderr(&output)
    );
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let file = folder.join(format!("{name}.txt"));
    if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
        fs::write(&file, &found).unwrap();
    }
    let wanted = fs::read_to_string(&file).unwrap();
    assert_eq!(found, wanted, "{} differs", file.display());
}

fn workplace() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn help_lists_all_commands_and_ends_with_an_example() {
    golden("help", workplace().path(), &["--help"]);
    golden("help-send", workplace().path(), &["send", "--help"]);
}

#[test]
fn every_command_has_json_and_an_example() {
    let commands: [&[&str]; 23] = [
        &["agent", "run"],
        &["send"],
        &["status"],
        &["queue"],
        &["package", "show"],
        &["ack"],
        &["ping"],
        &["audit", "log"],
        &["audit", "verify"],
        &["audit", "anchor"],
        &["backup"],
        &["keys", "new"],
        &["keys", "show"],
        &["keys", "letter"],
        &["keys", "backup"],
        &["keys", "restore"],
        &["convention", "check"],
        &["convention", "sign"],
        &["sheet", "new"],
        &["sheet", "next"],
        &["sheet", "revoke"],
        &["pki", "lab"],
        &["demo"],
    ];
    for command in commands {
        let output = passerelle(Path::new("."), &[command, &["--help"]].concat());
        let text = stdout(&output);
        assert_eq!(status(&output), 0, "{command:?}");
        assert!(text.contains("--json"), "{command:?}");
        let example = format!("Example:\n  passerelle {}", command.join(" "));
        assert!(text.contains(&example), "{command:?}:\n{text}");
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    golden("usage", workplace().path(), &["frobnicate"]);
    golden(
        "usage-flow",
        workplace().path(),
        &["send", "x", "--flow", "Not A Flow"],
    );
}

#[test]
fn all_mistakes_of_a_configuration_are_told_at_once_with_line_and_remedy() {
    let dir = workplace();
    let text = "party = \"CAF 21\"\ndirectory = \"agent\"\ncolour = \"blue\"\n\n[tls]\n\
                certificate = \"agent.pem\"\n\n[keys]\nagent = 3\n";
    fs::write(dir.path().join("agent.toml"), text).unwrap();
    golden(
        "config",
        dir.path(),
        &["agent", "run", "--config", "agent.toml"],
    );
    golden(
        "config-json",
        dir.path(),
        &["--json", "status", "--config", "agent.toml"],
    );
    golden(
        "config-missing",
        dir.path(),
        &["status", "--config", "nowhere.toml"],
    );
}

#[test]
fn a_daemon_that_does_not_run_is_unavailable() {
    golden(
        "no-daemon",
        workplace().path(),
        &["queue", "--socket", "agent.sock"],
    );
}

#[test]
fn a_key_is_shown_with_its_fingerprint_and_never_overwritten() {
    let dir = workplace();
    let new = [
        "keys",
        "new",
        "--party",
        "caf21",
        "--kind",
        "root",
        "--out",
        "root.secret",
    ];
    assert_eq!(status(&passerelle(dir.path(), &new)), 0);
    let secret = fs::read(dir.path().join("root.secret")).unwrap();
    let again = passerelle(dir.path(), &new);
    assert_eq!(status(&again), 73, "{}", stderr(&again));
    assert_eq!(fs::read(dir.path().join("root.secret")).unwrap(), secret);

    let of_secret = passerelle(dir.path(), &["keys", "show", "root.secret"]);
    let of_public = passerelle(dir.path(), &["keys", "show", "root.public"]);
    assert_eq!(stdout(&of_secret), stdout(&of_public));
    let fingerprint = stdout(&of_public);
    let fingerprint = fingerprint
        .lines()
        .find(|line| line.starts_with("fingerprint"))
        .unwrap();
    let first = fingerprint.split_whitespace().nth(1).unwrap();
    let letter = stdout(&passerelle(dir.path(), &["keys", "letter", "root.public"]));
    assert!(
        letter.contains(first) && letter.contains("caf21"),
        "{letter}"
    );
}

#[test]
fn a_secret_key_that_others_can_read_is_refused_with_the_remedy() {
    let dir = workplace();
    let new = [
        "keys", "new", "--party", "caf21", "--kind", "agent", "--out", "a.secret",
    ];
    assert_eq!(status(&passerelle(dir.path(), &new)), 0);
    let file = dir.path().join("a.secret");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let shown = passerelle(dir.path(), &["keys", "show", "a.secret"]);
    assert_eq!(status(&shown), 77);
    assert!(
        stderr(&shown).contains("chmod 600 a.secret"),
        "{}",
        stderr(&shown)
    );
}

#[test]
fn an_altered_public_key_is_refused() {
    let dir = workplace();
    let new = [
        "keys", "new", "--party", "caf21", "--kind", "agent", "--out", "a.secret",
    ];
    assert_eq!(status(&passerelle(dir.path(), &new)), 0);
    let file = dir.path().join("a.public");
    let text = fs::read_to_string(&file).unwrap();
    let check = text.split('+').nth(2).unwrap();
    let other = if check.starts_with('0') { "1" } else { "0" };
    let altered = text.replacen(check, &format!("{other}{}", &check[1..]), 1);
    fs::write(&file, altered).unwrap();
    let shown = passerelle(dir.path(), &["keys", "show", "a.public"]);
    assert_eq!(status(&shown), 65);
    assert!(stderr(&shown).contains("fingerprint"), "{}", stderr(&shown));
}

#[test]
fn a_convention_binds_only_with_both_signatures() {
    let dir = workplace();
    assert_eq!(status(&passerelle(dir.path(), &["pki", "lab", "lab"])), 0);
    let sign = |file: &str, who: &str| {
        let key = format!("lab/roots/{who}.secret");
        let arguments = ["convention", "sign", file, "--key", &key, "--out", "c.note"];
        status(&passerelle(dir.path(), &arguments))
    };
    let check = || {
        let arguments = [
            "convention",
            "check",
            "c.note",
            "--config",
            "lab/caf21/agent.toml",
        ];
        passerelle(dir.path(), &arguments)
    };
    assert_eq!(sign("lab/convention.toml", "caf21"), 0);
    let half = check();
    assert_eq!(status(&half), 65);
    assert!(
        stderr(&half).contains("without the signature of grand-dijon"),
        "{}",
        stderr(&half)
    );
    assert_eq!(sign("c.note", "prestataire-obs"), 77);
    assert_eq!(sign("c.note", "grand-dijon"), 0);
    let whole = check();
    assert_eq!(status(&whole), 0, "{}", stderr(&whole));
}

#[test]
fn a_sheet_is_written_signed_and_shown() {
    let dir = workplace();
    for (kind, name) in [("root", "root"), ("agent", "agent"), ("recipient", "opens")] {
        let out = format!("{name}.secret");
        let new = [
            "keys", "new", "--party", "dijon", "--kind", kind, "--out", &out,
        ];
        assert_eq!(status(&passerelle(dir.path(), &new)), 0);
    }
    let new = "sheet new --party dijon --key agent=agent.public --recipient opens.public \
               --tls-name agent=agent.dijon.example --out dijon.toml";
    let new: Vec<&str> = new.split_whitespace().collect();
    let written = passerelle(dir.path(), &new);
    assert_eq!(status(&written), 0, "{}", stderr(&written));
    let sign = [
        "sheet",
        "sign",
        "dijon.toml",
        "--key",
        "root.secret",
        "--out",
        "dijon.note",
    ];
    assert_eq!(status(&passerelle(dir.path(), &sign)), 0);
    let shown = stdout(&passerelle(dir.path(), &["sheet", "show", "dijon.note"]));
    assert!(shown.contains("agent.dijon.example (agent)"), "{shown}");
    assert!(shown.contains("a signature line by dijon"), "{shown}");
}

#[test]
fn sending_drops_a_whole_copy_and_refuses_a_flow_that_the_party_does_not_have() {
    let dir = workplace();
    assert_eq!(status(&passerelle(dir.path(), &["pki", "lab", "lab"])), 0);
    let flow = dir.path().join("lab/caf21/agent/outbox/observation-iris");
    fs::create_dir_all(&flow).unwrap();
    fs::write(dir.path().join("t.csv"), b"a;b\n1;2\n").unwrap();
    let send = |flow: &str, more: &[&str]| {
        let config = "lab/caf21/agent.toml";
        let first = ["send", "t.csv", "--flow", flow, "--config", config];
        passerelle(dir.path(), &[&first, more].concat())
    };
    assert_eq!(status(&send("observation-iris", &[])), 0);
    assert_eq!(
        status(&send(
            "observation-iris",
            &["--to", "grand-dijon", "--title", "T"]
        )),
        0
    );
    assert_eq!(fs::read(flow.join("t.csv")).unwrap(), b"a;b\n1;2\n");
    assert_eq!(fs::read(flow.join("t.csv-2/t.csv")).unwrap(), b"a;b\n1;2\n");
    let instructions = fs::read_to_string(flow.join("t.csv-2/package.toml")).unwrap();
    assert_eq!(
        instructions,
        "title = \"T\"\nrecipients = [\"grand-dijon\"]\n"
    );
    assert_eq!(
        fs::read_dir(&flow).unwrap().count(),
        2,
        "nothing half-made is left"
    );

    let refused = send("rapport", &[]);
    assert_eq!(status(&refused), 77);
    assert!(
        stderr(&refused).contains("observation-iris"),
        "{}",
        stderr(&refused)
    );
}

/// Makes a key; its fingerprint.
fn new_key(dir: &Path, kind: &str, out: &str) -> String {
    let new = [
        "keys", "new", "--json", "--party", "caf21", "--kind", kind, "--out", out,
    ];
    let made = passerelle(dir, &new);
    assert_eq!(status(&made), 0, "{}", stderr(&made));
    let key: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    key["fingerprint"].as_str().unwrap().to_owned()
}

fn show_sheet(dir: &Path, file: &str) -> serde_json::Value {
    let shown = passerelle(dir, &["sheet", "show", "--json", file]);
    assert_eq!(status(&shown), 0, "{}", stderr(&shown));
    serde_json::from_slice::<serde_json::Value>(&shown.stdout).unwrap()["sheet"].clone()
}

#[test]
fn the_next_sheet_takes_new_keys_beside_the_old_ones() {
    let dir = workplace();
    assert_eq!(status(&passerelle(dir.path(), &["pki", "lab", "lab"])), 0);
    let before = show_sheet(dir.path(), "lab/sheets/caf21.note");
    let agent = new_key(dir.path(), "agent", "agent.secret");
    let opens = new_key(dir.path(), "recipient", "opens.secret");
    new_key(dir.path(), "log", "log.secret");
    let old = passerelle(
        dir.path(),
        &["keys", "show", "--json", "lab/caf21/keys/agent.secret"],
    );
    let old: serde_json::Value = serde_json::from_slice(&old.stdout).unwrap();
    let retired = old["fingerprint"].as_str().unwrap();
    let next = [
        "sheet",
        "next",
        "lab/sheets/caf21.note",
        "--key",
        "agent=agent.public",
        "--recipient",
        "opens.public",
        "--log",
        "log.public",
        "--retire",
        retired,
        "--out",
        "next.toml",
    ];
    let written = passerelle(dir.path(), &next);
    assert_eq!(status(&written), 0, "{}", stderr(&written));
    for part in [
        &agent,
        &opens,
        "and nothing after that",
        "passerelle sheet sign",
    ] {
        let plain = part.replace(' ', "");
        let text = stdout(&written);
        assert!(
            text.contains(part) || text.contains(&plain),
            "{part} in {text}"
        );
    }
    let after = show_sheet(dir.path(), "next.toml");
    assert_eq!(after["seq"], 2);
    let count = |sheet: &serde_json::Value, what: &str| sheet[what].as_array().unwrap().len();
    assert_eq!(count(&after, "key"), count(&before, "key") + 1);
    assert_eq!(after["recipients"][1], before["recipients"][0]);
    assert_eq!(after["log"]["vkeys"].as_array().unwrap().len(), 4);
    assert_eq!(after["log"]["vkeys"][2], before["log"]["vkeys"][0]);
    let time =
        |value: &serde_json::Value| -> Timestamp { value.as_str().unwrap().parse().unwrap() };
    let (issued, end) = (time(&after["issued"]), time(&after["key"][0]["not_after"]));
    let days = end.since(issued).as_secs() / (24 * 3600);
    // It signs until this sheet is in force, and that must count.
    assert_eq!(days, 30, "the retired key has its end");
}

#[test]
fn the_next_sheet_revokes_a_key_with_reason_and_time_and_says_what_is_missing_then() {
    let dir = workplace();
    assert_eq!(status(&passerelle(dir.path(), &["pki", "lab", "lab"])), 0);
    let key = passerelle(
        dir.path(),
        &["keys", "show", "--json", "lab/caf21/keys/agent.secret"],
    );
    let key: serde_json::Value = serde_json::from_slice(&key.stdout).unwrap();
    let key = key["fingerprint"].as_str().unwrap();
    let revoke = |key: &str, more: &[&str]| {
        let first = ["sheet", "revoke", "lab/sheets/caf21.note", "--key", key];
        let rest = ["--reason", "stolen laptop", "--out", "next.toml"];
        passerelle(dir.path(), &[&first, &rest[..], more].concat())
    };
    let other = "00".repeat(32);
    let unknown = revoke(&other, &[]);
    assert_eq!(status(&unknown), 65);
    assert!(
        stderr(&unknown).contains("has no key"),
        "{}",
        stderr(&unknown)
    );
    let written = revoke(key, &["--at", "2026-11-01T08:00:00Z"]);
    assert_eq!(status(&written), 0, "{}", stderr(&written));
    assert!(
        stdout(&written).contains("no agent key is left"),
        "{}",
        stdout(&written)
    );
    let sheet = show_sheet(dir.path(), "next.toml");
    let revoked = &sheet["revocation"][0];
    assert_eq!(revoked["reason"], "stolen laptop");
    assert_eq!(revoked["at"], "2026-11-01T08:00:00Z");
    assert_eq!(revoked["key"], key.replace(' ', ""));
    let sign = [
        "sheet",
        "sign",
        "next.toml",
        "--key",
        "lab/roots/caf21.secret",
        "--out",
        "next.note",
    ];
    assert_eq!(status(&passerelle(dir.path(), &sign)), 0);
}

#[test]
fn the_letter_is_one_page_with_both_institutions_and_the_fingerprint() {
    let dir = workplace();
    assert_eq!(status(&passerelle(dir.path(), &["pki", "lab", "lab"])), 0);
    let letter = [
        "keys",
        "letter",
        "lab/roots/caf21.secret",
        "--convention",
        "lab/convention.note",
        "--to",
        "grand-dijon",
    ];
    let printed = passerelle(dir.path(), &letter);
    let text = stdout(&printed);
    assert_eq!(status(&printed), 0, "{}", stderr(&printed));
    assert!(
        text.contains("Caisse") && text.contains("« grand-dijon »"),
        "{text}"
    );
    assert!(text.lines().count() <= 60 && text.lines().all(|line| line.chars().count() <= 80));
}

fn write_private(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn keys_come_back_from_a_backup_as_they_were() {
    let dir = workplace();
    assert_eq!(status(&passerelle(dir.path(), &["pki", "lab", "lab"])), 0);
    write_private(
        &dir.path().join("passphrase"),
        "agrafe correct cheval pile\n",
    );
    write_private(&dir.path().join("other"), "agrafe correct cheval piles\n");
    let backup = [
        "keys",
        "backup",
        "--config",
        "lab/caf21/agent.toml",
        "--out",
        "agent.backup",
        "--passphrase-file",
        "passphrase",
    ];
    let made = passerelle(dir.path(), &backup);
    assert_eq!(status(&made), 0, "{}", stderr(&made));
    assert_eq!(
        status(&passerelle(dir.path(), &backup)),
        73,
        "it is not written over"
    );
    let restore = |file: &str, passphrase: &str| {
        let first = ["keys", "restore", file, "--into", "restored"];
        passerelle(
            dir.path(),
            &[&first[..], &["--passphrase-file", passphrase]].concat(),
        )
    };
    let wrong = restore("agent.backup", "other");
    assert_eq!(status(&wrong), 77, "{}", stderr(&wrong));
    assert!(stderr(&wrong).contains("passphrase"), "{}", stderr(&wrong));

    let mut bytes = fs::read(dir.path().join("agent.backup")).unwrap();
    bytes[100] ^= 1;
    fs::write(dir.path().join("altered.backup"), bytes).unwrap();
    let altered = restore("altered.backup", "passphrase");
    assert_eq!(status(&altered), 65);
    assert!(
        stderr(&altered).contains("damaged or was altered"),
        "{}",
        stderr(&altered)
    );
    assert!(!dir.path().join("restored").exists(), "nothing was written");

    let restored = restore("agent.backup", "passphrase");
    assert_eq!(status(&restored), 0, "{}", stderr(&restored));
    for name in [
        "keys/agent.secret",
        "keys/recipient.secret",
        "tls/agent.key",
        "tls/agent.pem",
    ] {
        let before = fs::read(dir.path().join("lab/caf21").join(name)).unwrap();
        let file = dir.path().join("restored").join(name);
        assert_eq!(fs::read(&file).unwrap(), before, "{name}");
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{name}");
    }
    let again = restore("agent.backup", "passphrase");
    assert_eq!(status(&again), 73);
    assert!(
        stderr(&again).contains("exists already"),
        "{}",
        stderr(&again)
    );
}

#[test]
fn without_a_terminal_a_passphrase_comes_from_a_file() {
    let dir = workplace();
    assert_eq!(status(&passerelle(dir.path(), &["pki", "lab", "lab"])), 0);
    let command = format!(
        "{} keys backup --config lab/caf21/agent.toml --out agent.backup",
        env!("CARGO_BIN_EXE_passerelle")
    );
    // A session of its own has no terminal.
    let asked = Command::new("setsid")
        .args(["--wait", "sh", "-c", &command])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(status(&asked), 64, "{}", stderr(&asked));
    assert!(
        stderr(&asked).contains("--passphrase-file"),
        "{}",
        stderr(&asked)
    );
    assert!(!dir.path().join("agent.backup").exists());
}

#[test]
fn sending_to_whom_the_flow_does_not_allow_is_refused_while_somebody_stands_there() {
    let dir = workplace();
    assert_eq!(status(&passerelle(dir.path(), &["pki", "lab", "lab"])), 0);
    let flow = dir.path().join("lab/caf21/agent/outbox/observation-iris");
    fs::create_dir_all(&flow).unwrap();
    fs::write(dir.path().join("t.csv"), b"a;b\n1;2\n").unwrap();
    let send = |party: &str| {
        let config = "lab/caf21/agent.toml";
        let flow = "observation-iris";
        let line = [
            "send", "t.csv", "--flow", flow, "--to", party, "--config", config,
        ];
        passerelle(dir.path(), &line)
    };
    let refused = send("commune-21166");
    assert_eq!(status(&refused), 77);
    let says = stderr(&refused);
    let words = "commune-21166 may not receive on flow observation-iris (article 1)";
    assert!(says.contains(words), "{says}");
    assert!(says.contains("grand-dijon, prestataire-obs"), "{says}");
    fs::remove_file(dir.path().join("lab/sheets/prestataire-obs.note")).unwrap();
    let unknown = send("prestataire-obs");
    assert_eq!(status(&unknown), 66, "{}", stderr(&unknown));
    assert!(stderr(&unknown).contains("no sheet of prestataire-obs"));
    assert_eq!(fs::read_dir(&flow).unwrap().count(), 0);
}
