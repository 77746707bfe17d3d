//! Every crash point of gateway and agent: the process dies there and starts again, and nothing is
//! lost, doubled, altered or left behind. What was found stands in `FAULTS.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

use passerelle_disk::{CRASH_AT, CrashPoint};
use passerelle_tests::{DIJON_AGENT, DIJON_GATEWAY, Process, STEP_LIMIT, Walk, eventually};

/// A point that these many rounds do not reach is never reached.
const ROUNDS_MAX: usize = 40;
/// Points in the way of what cannot be sent.
const REJECTIONS: &str = "reject.";
/// Points in the way of what has rotted.
const ROT: [&str; 2] = ["damage.", "repair."];
/// Points in the way of an orderly stop.
const STOPS: &str = "stop.";
/// Laboratories that share the points of a process: a walk waits more than it works.
const WALKS: usize = 2;
/// Where the matrix stands, below the crate.
const TABLE: &str = "FAULTS.md";

/// Lets the process die at a point and start again; what was found.
fn step(walk: &mut Walk, point: &CrashPoint) -> String {
    walk.lab.kill(walk.process);
    let rots = ROT.iter().any(|way| point.name.starts_with(way));
    if rots && walk.process == DIJON_AGENT {
        walk.rot_arrived();
    }
    walk.lab.run_with(walk.process, &[(CRASH_AT, point.name)]);
    let mut died = false;
    for _ in 0..ROUNDS_MAX {
        match walk.process {
            DIJON_GATEWAY if rots => walk.rot_spooled(),
            _ => walk.drop_files(),
        }
        if point.name.starts_with(REJECTIONS) {
            walk.drop_link();
        }
        died = walk.dies();
        if !died && point.name.starts_with(STOPS) {
            walk.lab.ask_to_stop(walk.process);
            let process = walk.process;
            let lab = &mut walk.lab;
            eventually("its end", STEP_LIMIT, || lab.process(process).ended());
            died = true;
        }
        if died {
            break;
        }
    }
    if !died {
        return "never reached".to_owned();
    }
    let printed = fs::read_to_string(walk.lab.log(walk.process)).unwrap();
    let dying = format!("dies at {},", point.name);
    if printed.lines().filter(|line| line.contains(&dying)).count() != 1 {
        let last: Vec<&str> = printed.lines().rev().take(5).collect();
        println!("{:?} ended elsewhere: {last:#?}", walk.process);
        return "ended elsewhere".to_owned();
    }
    walk.lab.run(walk.process);
    walk.settle(point.name);
    "nothing lost, doubled or left".to_owned()
}

fn program(process: Process) -> &'static str {
    match process {
        Process::Gateway(_) => "gateway",
        Process::Agent(_) => "agent",
    }
}

fn points(process: Process) -> &'static [CrashPoint] {
    match process {
        Process::Gateway(_) => &passerelle_gateway::CRASH_POINTS,
        Process::Agent(_) => &passerelle_agent::CRASH_POINTS,
    }
}

/// Rows of the matrix for one process, for its share of the points; `PASSERELLE_CRASH_POINTS` walks
/// those only that begin so.
fn walk(process: Process, share: usize) -> Vec<String> {
    let chosen = std::env::var("PASSERELLE_CRASH_POINTS").unwrap_or_default();
    let mut walk = Walk::start(process);
    let mut rows = Vec::new();
    for point in points(process).iter().skip(share).step_by(WALKS) {
        if !point.name.starts_with(&chosen) {
            continue;
        }
        let begun = Instant::now();
        let outcome = step(&mut walk, point);
        println!(
            "{process:?} {}: {outcome}, {:?}",
            point.name,
            begun.elapsed()
        );
        let (program, name, after) = (program(process), point.name, point.after);
        rows.push(format!("| {program} | `{name}` | {after} | {outcome} |"));
    }
    rows
}

#[test]
fn every_crash_point_loses_nothing_and_the_matrix_says_so() {
    let begun = Instant::now();
    let shares = [DIJON_GATEWAY, DIJON_AGENT].map(|process| (0..WALKS).map(move |n| (process, n)));
    let rows: Vec<String> = std::thread::scope(|scope| {
        let start = |(process, share)| scope.spawn(move || walk(process, share));
        let walks: Vec<_> = shares.into_iter().flatten().map(start).collect();
        let rows = walks.into_iter().map(|walk| walk.join().unwrap());
        rows.flatten().collect()
    });
    let mut matrix = String::new();
    for row in &rows {
        writeln!(matrix, "{row}").unwrap();
    }
    println!("{matrix}{} points in {:?}", rows.len(), begun.elapsed());
    let table = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE)).unwrap();
    let is_row = |line: &&str| line.starts_with("| gateway |") || line.starts_with("| agent |");
    let stands: BTreeSet<&str> = table.lines().filter(is_row).collect();
    let found: BTreeSet<&str> = rows.iter().map(String::as_str).collect();
    let missing: Vec<_> = found.difference(&stands).collect();
    assert!(missing.is_empty(), "{TABLE} does not say: {missing:#?}");
    let bad = |row: &&String| !row.ends_with("| nothing lost, doubled or left |");
    let bad: Vec<_> = rows.iter().filter(bad).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    if std::env::var_os("PASSERELLE_CRASH_POINTS").is_none() {
        assert_eq!(stands, found, "{TABLE} says more than is found");
    }
}

#[test]
fn every_listed_point_is_in_the_code_once_or_more_and_every_one_in_the_code_is_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (process, folder) in [(DIJON_GATEWAY, "gateway/src"), (DIJON_AGENT, "agent/src")] {
        let mut code = BTreeSet::new();
        let mut folders = vec![root.join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let text = fs::read_to_string(&path).unwrap();
                let found = text.split("crash_point!(\"").skip(1);
                code.extend(found.map(|rest| rest.split('"').next().unwrap().to_owned()));
            }
        }
        let listed: BTreeSet<String> = points(process)
            .iter()
            .map(|point| point.name.to_owned())
            .collect();
        assert_eq!(listed, code, "{folder}");
    }
}
