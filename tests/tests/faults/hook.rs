//! The `on_receive` command of an agent: told of every package at least once, whatever becomes of
//! the command or of the agent, and nobody waits for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, LIMIT, RunningLab, eventually,
    quick_options,
};

const FLOW: &str = "signalement";

/// A laboratory whose recipient runs this shell script; the folder that the script is told.
fn laboratory(script: &str) -> (RunningLab, tempfile::TempDir) {
    let mut lab = RunningLab::make(&quick_options());
    let dir = tempfile::tempdir().unwrap();
    let command = dir.path().join("hook.sh");
    let told = dir.path().display();
    fs::write(&command, format!("#!/bin/sh\ncd {told}\n{script}\n")).unwrap();
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755)).unwrap();
    let config = lab.config(DIJON_AGENT);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        format!("{text}\n[hooks]\non_receive = [{command:?}]\n"),
    )
    .unwrap();
    for process in [CAF_GATEWAY, CAF_AGENT, DIJON_GATEWAY, DIJON_AGENT] {
        lab.run(process);
    }
    (lab, dir)
}

fn lines(dir: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn wait_for(dir: &Path, name: &str, count: usize) -> Vec<String> {
    eventually(&format!("{count} lines in {name}"), LIMIT, || {
        let lines = lines(dir, name);
        (lines.len() >= count).then_some(lines)
    })
}

/// Entries of the register that the command has still to be told of.
fn due(lab: &RunningLab) -> Vec<PathBuf> {
    let received = lab.directory_of(DIJON_AGENT).join("received");
    let days = fs::read_dir(received)
        .unwrap()
        .map(|day| day.unwrap().path());
    let entries = days.flat_map(|day| fs::read_dir(day).unwrap());
    let entries = entries.map(|entry| entry.unwrap().path().join("hook"));
    entries.filter(|hook| hook.is_file()).collect()
}

#[test]
fn a_command_that_hangs_holds_nothing_up_and_is_told_again_after_the_agent_was_killed() {
    let script = "echo $PASSERELLE_TITLE >>told\n\
                  [ $PASSERELLE_TITLE != hangs.csv ] || [ -e free ] || exec sleep 1000\n\
                  echo $PASSERELLE_TITLE >>done";
    let (mut lab, dir) = laboratory(script);
    lab.drop_file("caf21", FLOW, "hangs.csv", b"1");
    wait_for(dir.path(), "told", 1);
    lab.drop_file("caf21", FLOW, "goes.csv", b"2");
    assert_eq!(wait_for(dir.path(), "done", 1), ["goes.csv"]);
    eventually("the one that hangs", LIMIT, || {
        (due(&lab).len() == 1).then_some(())
    });
    lab.kill(DIJON_AGENT);
    fs::write(dir.path().join("free"), b"").unwrap();
    lab.run(DIJON_AGENT);
    assert_eq!(wait_for(dir.path(), "done", 2), ["goes.csv", "hangs.csv"]);
    eventually("nothing is due", LIMIT, || {
        due(&lab).is_empty().then_some(())
    });
    let told = lines(dir.path(), "told");
    assert_eq!(
        told,
        ["hangs.csv", "goes.csv", "hangs.csv"],
        "at least once each"
    );
}

#[test]
fn a_command_that_fails_says_so_and_stays_due() {
    let (lab, dir) = laboratory("echo told >>told; echo no database >&2; exit 1");
    lab.drop_file("caf21", FLOW, "t.csv", b"1");
    wait_for(dir.path(), "told", 1);
    eventually("a word about it", LIMIT, || {
        let printed = fs::read_to_string(lab.log(DIJON_AGENT)).ok()?;
        let words = ["on_receive failed", "no database", "again_after"];
        let mut lines = printed.lines();
        let found = lines.any(|line| words.iter().all(|word| line.contains(word)));
        found.then_some(())
    });
    assert_eq!(due(&lab).len(), 1);
}

#[test]
fn a_command_is_told_of_nothing_that_is_not_in_the_inbox_yet() {
    let script = "[ -d \"$PASSERELLE_PATH\" ] && echo there >>told || echo missing >>told";
    let (mut lab, dir) = laboratory(script);
    let inbox = lab.directory_of(DIJON_AGENT).join("inbox");
    eventually("the inbox", LIMIT, || inbox.is_dir().then_some(()));
    let in_the_way = inbox.join(FLOW);
    fs::write(&in_the_way, b"somebody's notes").unwrap();
    lab.drop_file("caf21", FLOW, "t.csv", b"1");
    let unopened = |lab: &RunningLab| {
        eventually("a package that waits", LIMIT, || {
            let status = lab.ask(DIJON_AGENT, &["status"])?;
            (status["unopened_packages"] == 1).then_some(())
        });
    };
    unopened(&lab);
    // A start finds it in the register.
    lab.kill(DIJON_AGENT);
    lab.run(DIJON_AGENT);
    unopened(&lab);
    fs::remove_file(&in_the_way).unwrap();
    assert_eq!(wait_for(dir.path(), "told", 1), ["there"]);
    eventually("nothing is due", LIMIT, || {
        due(&lab).is_empty().then_some(())
    });
    assert_eq!(lines(dir.path(), "told"), ["there"]);
}
