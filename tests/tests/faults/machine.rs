//! What the machine does to a gateway and an agent: no room, no file descriptors, a disk that can
//! only be read, two processes on one directory, a directory of a later program.
//!
//! Room is bounded with a file system in memory of a known size, in a mount namespace of its own:
//! the test runs itself once more inside one, as its own superuser where it is not one already.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, LIMIT, Process, Program, RunningLab,
    eventually, noise, quick_options,
};
use serde_json::Value;

const FLOW: &str = "signalement";
const MIB: usize = 1024 * 1024;
const EXIT_CONFIG: i32 = 78;
const EXIT_STOPPED: i32 = 70;
/// Set in the run that is inside the namespace.
const INSIDE: &str = "PASSERELLE_TEST_INSIDE";

/// Runs the test of this name in a mount namespace of its own; `false`: this is that run.
fn is_outside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let (_, module) = module_path!().split_once("::").unwrap();
    let this = std::env::current_exe().unwrap();
    let mut inside = Command::new("unshare");
    inside.args(["--user", "--map-root-user", "--mount", "--"]);
    inside
        .arg(this)
        .args([&format!("{module}::{test}"), "--exact", "--nocapture"]);
    let output = inside.env(INSIDE, "1").stdin(Stdio::null()).output();
    let output = output.expect("`unshare` (util-linux) is needed to bound a file system");
    let printed = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    // A name that is no test's would run nothing, successfully.
    let ran = printed.contains("test result: ok. 1 passed;");
    assert!(
        ran,
        "inside the namespace: {}\n{printed}{told}",
        output.status
    );
    true
}

/// Puts a file system of this size where a directory is to be.
fn bound(dir: &Path, bytes: usize) {
    fs::create_dir_all(dir).unwrap();
    let size = format!("size={bytes}");
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", &size, "passerelle"])
        .arg(dir);
    assert!(mount.status().unwrap().success(), "{}", dir.display());
}

fn data_dir(lab: &RunningLab, party: &str) -> PathBuf {
    lab.party(party).gateway.as_ref().unwrap().data_dir.clone()
}

fn start(lab: &mut RunningLab, processes: &[Process]) {
    for process in processes {
        lab.run(*process);
    }
    for process in processes {
        eventually("a daemon's answer", LIMIT, || {
            lab.ask(*process, &["status"])
        });
    }
}

/// Fills a file system but for so many bytes.
fn fill(dir: &Path, leave: u64) -> PathBuf {
    let free = rustix::fs::statvfs(dir).unwrap();
    let free = free.f_bavail * free.f_frsize;
    let filler = dir.join("filler");
    let file = fs::File::create(&filler).unwrap();
    let flags = rustix::fs::FallocateFlags::empty();
    rustix::fs::fallocate(&file, flags, 0, free.saturating_sub(leave)).unwrap();
    filler
}

fn metric(lab: &RunningLab, process: Process, name: &str, label: &str) -> f64 {
    let page = lab.metrics(process);
    let of = |line: &&str| line.starts_with(name) && line.contains(label);
    let line = page.lines().find(of);
    line.map_or(0.0, |line| {
        line.rsplit(' ').next().unwrap().parse().unwrap()
    })
}

fn sent_state(lab: &RunningLab, title: &str) -> Option<Value> {
    let jobs = lab.ask(CAF_AGENT, &["queue"])?;
    let jobs = jobs["jobs"].as_array()?.clone();
    jobs.into_iter().find(|job| job["title"] == title)
}

#[test]
fn a_full_disk_puts_packages_off_lets_statements_pass_and_loses_nothing() {
    if is_outside("a_full_disk_puts_packages_off_lets_statements_pass_and_loses_nothing") {
        return;
    }
    let mut lab = RunningLab::make(&quick_options());
    let data = data_dir(&lab, "grand-dijon");
    bound(&data, 400 * MIB);
    start(
        &mut lab,
        &[CAF_GATEWAY, CAF_AGENT, DIJON_GATEWAY, DIJON_AGENT],
    );
    lab.drop_file("caf21", FLOW, "before.csv", b"a;b\n1;2\n");
    lab.receive("grand-dijon", FLOW, "before.csv");
    let filler = fill(&data, 8 * MIB as u64);
    let large = noise(20 * MIB, 3);
    lab.drop_file("caf21", FLOW, "small.csv", b"a;b\n3;4\n");
    lab.drop_file("caf21", FLOW, "large.bin", &large);
    // The partner's gateway says so, signed; ours keeps what it has accepted, and tries again.
    eventually("packages that are put off", LIMIT, || {
        let busy = "passerelle_busy_total";
        (metric(&lab, DIJON_GATEWAY, busy, "reason=\"disk\"") >= 2.0).then_some(())
    });
    let waits = sent_state(&lab, "small.csv").unwrap();
    assert!(waits.to_string().contains("submitted"), "{waits}");
    // What is small and final still passes: the acknowledgement of what was delivered before.
    let before = sent_state(&lab, "before.csv").unwrap();
    let package = before["package"].as_str().unwrap();
    lab.ask(DIJON_AGENT, &["ack", package, "--comment", "vu"])
        .unwrap();
    eventually("the acknowledgement", LIMIT, || {
        let job = sent_state(&lab, "before.csv")?;
        job.to_string().contains("acknowledged").then_some(())
    });
    assert!(lab.received("grand-dijon", FLOW, "small.csv").is_empty());
    fs::remove_file(filler).unwrap();
    assert!(lab.receive("grand-dijon", FLOW, "large.bin") == large);
    assert_eq!(lab.receive("grand-dijon", FLOW, "small.csv"), b"a;b\n3;4\n");
}

#[test]
fn a_start_without_room_waits_says_why_and_goes_on_by_itself() {
    if is_outside("a_start_without_room_waits_says_why_and_goes_on_by_itself") {
        return;
    }
    let mut lab = RunningLab::make(&quick_options());
    let data = data_dir(&lab, "caf21");
    bound(&data, 400 * MIB);
    start(&mut lab, &[CAF_GATEWAY, CAF_AGENT]);
    lab.drop_file("caf21", FLOW, "first.csv", b"a;b\n1;2\n");
    eventually("a package that is accepted", LIMIT, || {
        sent_state(&lab, "first.csv")?
            .to_string()
            .contains("submitted")
            .then_some(())
    });
    lab.stop(CAF_GATEWAY);
    let filler = fill(&data, 8 * MIB as u64);
    lab.run(CAF_GATEWAY);
    let status = eventually("why it waits", LIMIT, || lab.ask(CAF_GATEWAY, &["status"]));
    assert_eq!(status["serving"], false, "{status}");
    let reason = status["reason"].as_str().unwrap();
    assert!(
        reason.contains("nearly full") && reason.contains("make room"),
        "{reason}"
    );
    assert_eq!(metric(&lab, CAF_GATEWAY, "passerelle_serving", ""), 0.0);
    fs::remove_file(filler).unwrap();
    eventually("the gateway to go on", LIMIT, || {
        let status = lab.ask(CAF_GATEWAY, &["status"])?;
        (status["serving"] == true && status["anchored"] == true).then_some(())
    });
    start(&mut lab, &[DIJON_GATEWAY, DIJON_AGENT]);
    lab.receive("grand-dijon", FLOW, "first.csv");
}

#[test]
fn an_agent_without_room_seals_and_opens_when_there_is_room_again() {
    if is_outside("an_agent_without_room_seals_and_opens_when_there_is_room_again") {
        return;
    }
    let mut lab = RunningLab::make(&quick_options());
    for party in ["caf21", "grand-dijon"] {
        let directory = lab.party(party).agent.directory.clone();
        bound(&directory, 100 * MIB);
    }
    start(
        &mut lab,
        &[CAF_GATEWAY, CAF_AGENT, DIJON_GATEWAY, DIJON_AGENT],
    );
    let large = noise(20 * MIB, 5);
    lab.drop_file("caf21", FLOW, "large.bin", &large);
    let sender = lab.party("caf21").agent.directory.clone();
    let recipient = lab.party("grand-dijon").agent.directory.clone();
    // Room for the source, and not for what is made of it.
    let full = [
        fill(&sender, 4 * MIB as u64),
        fill(&recipient, 4 * MIB as u64),
    ];
    let log = lab.log(CAF_AGENT);
    eventually("a word about the full disk", LIMIT, || {
        let text = fs::read_to_string(&log).unwrap();
        text.contains("No space left").then_some(())
    });
    fs::remove_file(&full[0]).unwrap();
    eventually("the package to be sent", LIMIT, || {
        sent_state(&lab, "large.bin")?
            .to_string()
            .contains("accepted")
            .then_some(())
    });
    assert!(lab.received("grand-dijon", FLOW, "large.bin").is_empty());
    fs::remove_file(&full[1]).unwrap();
    assert!(lab.receive("grand-dijon", FLOW, "large.bin") == large);
}

#[test]
fn a_disk_that_turns_read_only_stops_the_gateway_and_the_next_start_goes_on() {
    if is_outside("a_disk_that_turns_read_only_stops_the_gateway_and_the_next_start_goes_on") {
        return;
    }
    let mut lab = RunningLab::make(&quick_options());
    let data = data_dir(&lab, "caf21");
    bound(&data, 400 * MIB);
    start(&mut lab, &[CAF_GATEWAY, CAF_AGENT]);
    let remount = |options: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-o", options]).arg(&data);
        mount.status().unwrap().success()
    };
    // Files that are open for writing keep a file system writable: the gateway is between starts.
    lab.stop(CAF_GATEWAY);
    assert!(remount("remount,ro"));
    lab.run(CAF_GATEWAY);
    let ended = eventually("its end", LIMIT, || lab.process(CAF_GATEWAY).ended());
    let printed = lab.process(CAF_GATEWAY).printed();
    assert!(
        [EXIT_STOPPED, EXIT_CONFIG].contains(&ended),
        "{ended}: {printed}"
    );
    assert!(printed.contains("Read-only file system"), "{printed}");
    assert!(remount("remount,rw"));
    lab.drop_file("caf21", FLOW, "first.csv", b"a;b\n1;2\n");
    start(&mut lab, &[CAF_GATEWAY, DIJON_GATEWAY, DIJON_AGENT]);
    lab.receive("grand-dijon", FLOW, "first.csv");
}

#[test]
fn two_processes_never_use_one_directory() {
    let mut lab = RunningLab::make(&quick_options());
    start(&mut lab, &[CAF_GATEWAY, CAF_AGENT]);
    let second = |program: Program, line: &[&str]| {
        let output = program.run(line);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), error)
    };
    let gateway = lab.config(CAF_GATEWAY);
    let (code, error) = second(Program::Gateway, &["--config", gateway.to_str().unwrap()]);
    assert_eq!(code, Some(EXIT_STOPPED), "{error}");
    assert!(
        error.contains("another gateway uses this directory"),
        "{error}"
    );
    let agent = lab.config(CAF_AGENT);
    let line = ["agent", "run", "--config", agent.to_str().unwrap()];
    let (code, error) = second(Program::Passerelle, &line);
    assert_ne!(code, Some(0));
    assert!(error.contains("another agent"), "{error}");
    // The first ones go on.
    assert_eq!(lab.ask(CAF_GATEWAY, &["status"]).unwrap()["serving"], true);
    assert!(lab.ask(CAF_AGENT, &["status"]).is_some());
}

#[test]
fn an_older_program_leaves_a_newer_directory_alone() {
    let mut lab = RunningLab::make(&quick_options());
    start(&mut lab, &[CAF_GATEWAY, CAF_AGENT]);
    lab.stop(CAF_AGENT);
    lab.stop(CAF_GATEWAY);
    let gateway = data_dir(&lab, "caf21").join("format");
    let agent = lab.party("caf21").agent.directory.join("state/format");
    for (process, format) in [(CAF_GATEWAY, gateway), (CAF_AGENT, agent)] {
        let before = fs::read(&format).unwrap();
        fs::write(&format, "7\n").unwrap();
        lab.run(process);
        let ended = eventually("its end", LIMIT, || lab.process(process).ended());
        let printed = lab.process(process).printed();
        assert_ne!(ended, 0, "{printed}");
        assert!(printed.contains("update the program"), "{printed}");
        assert_eq!(fs::read(&format).unwrap(), b"7\n");
        fs::write(&format, before).unwrap();
        start(&mut lab, &[process]);
    }
}

/// File descriptors that each process may have.
const DESCRIPTORS: u64 = 48;

#[test]
fn a_gateway_out_of_file_descriptors_loses_nothing_and_goes_on() {
    let mut lab = RunningLab::make(&quick_options());
    start(
        &mut lab,
        &[CAF_GATEWAY, CAF_AGENT, DIJON_GATEWAY, DIJON_AGENT],
    );
    let pid = lab.process(CAF_GATEWAY).pid();
    let limit = |soft: u64| {
        let nofile = format!("--nofile={soft}:");
        let mut prlimit = Command::new("prlimit");
        prlimit.args(["--pid", &pid.to_string(), &nofile]);
        assert!(prlimit.status().unwrap().success());
    };
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    limit(open.min(DESCRIPTORS));
    let address = lab.party("caf21").gateway.as_ref().unwrap().address;
    let strangers: Vec<_> = (0..DESCRIPTORS)
        .filter_map(|_| std::net::TcpStream::connect(address).ok())
        .collect();
    for number in 0..5 {
        lab.drop_file("caf21", FLOW, &format!("{number}.csv"), b"a;b\n1;2\n");
    }
    let bulk = noise(3 * MIB, 11);
    lab.drop_file("caf21", FLOW, "bulk.bin", &bulk);
    drop(strangers);
    limit(1024);
    if lab.process(CAF_GATEWAY).ended().is_some() {
        // It may have stopped rather than gone on without knowing what was written.
        start(&mut lab, &[CAF_GATEWAY]);
    }
    for number in 0..5 {
        lab.receive("grand-dijon", FLOW, &format!("{number}.csv"));
    }
    assert!(lab.receive("grand-dijon", FLOW, "bulk.bin") == bulk);
}
