//! What the kernel sees of a gateway and an agent, held against what the library in front of libc
//! counts, and against what goes through the one disk that faults are injected into: nothing that
//! is to last is written past either.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use passerelle_disk::LIST_IN;
use passerelle_tests::{
    BELOW, CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, LIMIT, LIST_OUTSIDE, PRELOAD,
    Process, RunningLab, eventually, noise, outside, quick_options,
};

const FLOW: &str = "signalement";
/// Every call that can change or sync a file.
const CALLS: &str = "?open,?creat,openat,openat2,write,writev,pwrite64,pwritev,pwritev2,fsync,\
                     fdatasync,sync_file_range,msync,sync,syncfs,?rename,?renameat,renameat2,\
                     ?unlink,unlinkat,?rmdir,?mkdir,mkdirat,?link,linkat,?symlink,symlinkat,\
                     truncate,ftruncate,fallocate,copy_file_range,sendfile,splice";

/// A place in a process's directory that is written past the disk, and why nothing is lost with it.
type Exception = (&'static str, &'static str);
const PAST_IN_GATEWAY: &[Exception] = &[
    (
        "queue/db",
        "the queue's database does its own I/O, and is made again from the log",
    ),
    ("lock", "a lock means nothing once its process is gone"),
    (
        "reset.secret",
        "a key of ours alone: another one is as good",
    ),
];
const PAST_IN_AGENT: &[Exception] = &[(".lock", "a lock means nothing once its process is gone")];

/// How often each operation was tried on each path: "sync /data/log/checkpoint".
type Operations = BTreeMap<String, usize>;

/// Adds an operation, if it is below a directory. A file may get its name while it is open, which
/// the kernel knows and the disk does not: both names count as one.
fn add(operations: &mut Operations, operation: &str, path: &str, below: &Path) {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    if Path::new(path).starts_with(below) {
        let names = [".tmp", ".seg"].iter();
        let name = names.fold(path, |name, end| name.strip_suffix(end).unwrap_or(name));
        *operations.entry(format!("{operation} {name}")).or_default() += 1;
    }
}

/// A list, one operation a line, of the operations below a directory.
fn listed(list: &Path, below: &Path) -> Operations {
    let mut operations = Operations::new();
    for line in fs::read_to_string(list).unwrap().lines() {
        let (operation, path) = line.split_once(' ').unwrap();
        add(&mut operations, operation, path, below);
    }
    operations
}

/// What `strace -f -y` has written, of the operations below a directory.
fn traced(trace: &Path, below: &Path) -> Operations {
    let mut operations = Operations::new();
    for line in fs::read_to_string(trace).unwrap().lines() {
        let Some((operation, path)) = operation_of(line) else {
            continue;
        };
        add(&mut operations, operation, path.to_str().unwrap(), below);
    }
    operations
}

/// The operation that a line of a trace begins; `None` for what changes nothing.
fn operation_of(line: &str) -> Option<(&'static str, PathBuf)> {
    let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
    let (name, arguments) = call.split_once('(')?;
    let changes = arguments.contains("O_CREAT") || arguments.contains("O_TRUNC");
    let operation = match name {
        "open" | "openat" | "openat2" if changes => "create",
        "creat" | "mkdir" | "mkdirat" => "create",
        "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" | "copy_file_range" => "write",
        "fsync" | "fdatasync" | "sync_file_range" => "sync",
        "rename" | "renameat" | "renameat2" => "rename",
        "unlink" | "unlinkat" | "rmdir" => "remove",
        "link" | "linkat" | "symlink" | "symlinkat" => "link",
        "ftruncate" | "truncate" => "truncate",
        "fallocate" => "allocate",
        "msync" | "sync" | "syncfs" | "sendfile" | "splice" => "other",
        _ => return None,
    };
    Some((operation, path_of(arguments)))
}

/// The first path among arguments: of an open file, `7</data/f>`, or a name, maybe in a directory,
/// `AT_FDCWD</data>, "f"`.
fn path_of(arguments: &str) -> PathBuf {
    let first = arguments.split(", ").next().unwrap_or_default();
    let open = first.split_once('<').and_then(|(_, it)| it.split_once('>'));
    let folder = Path::new(open.map_or("", |(path, _)| path));
    let is_name = first.starts_with('"') || arguments[first.len()..].starts_with(", \"/");
    let in_folder = first.starts_with("AT_FDCWD") || arguments[first.len()..].starts_with(", \"");
    let name = arguments.split('"').nth(1).unwrap_or_default();
    // What is written is never shown, so that an empty name is none.
    match is_name || (in_folder && !name.is_empty()) {
        true => folder.join(name),
        false => folder.to_owned(),
    }
}

/// What is in `all` more often than in `some`.
fn beyond(all: &Operations, some: &Operations) -> Operations {
    let more = |(operation, times): (&String, &usize)| {
        let more = times.saturating_sub(some.get(operation).copied().unwrap_or(0));
        (more > 0).then(|| (operation.clone(), more))
    };
    all.iter().filter_map(more).collect()
}

/// What is known of one process.
struct Watched {
    process: Process,
    below: PathBuf,
    trace: PathBuf,
    counted: PathBuf,
    through_disk: PathBuf,
    exceptions: &'static [Exception],
}

impl Watched {
    /// Starts a process under strace, with the library in front of libc, and with its own list.
    fn start(
        lab: &mut RunningLab,
        process: Process,
        exceptions: &'static [Exception],
        dir: &Path,
    ) -> Self {
        let of = |what: &str| dir.join(format!("{process:?}-{what}").replace('"', ""));
        let watched = Self {
            process,
            below: lab.directory_of(process),
            trace: of("strace"),
            counted: of("counted"),
            through_disk: of("disk"),
            exceptions,
        };
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let mut strace: Vec<String> = ["strace", "-D", "-f", "-y", "-q", "-s", "0", "-o"]
            .map(str::to_owned)
            .into();
        strace.push(text(&watched.trace));
        strace.extend(["-e".to_owned(), format!("trace={CALLS}")]);
        strace.extend(["-e".to_owned(), "signal=none".to_owned()]);
        let variables = [
            (PRELOAD, text(outside())),
            (BELOW, text(&watched.below)),
            (LIST_OUTSIDE, text(&watched.counted)),
            (LIST_IN, text(&watched.through_disk)),
        ];
        for (name, value) in variables {
            strace.extend(["-E".to_owned(), format!("{name}={value}")]);
        }
        lab.run_under(process, &strace);
        watched
    }

    fn check(&self, lab: &mut RunningLab) {
        let pid = lab.process(self.process).pid().to_string();
        lab.stop(self.process);
        eventually("the end of the trace", LIMIT, || {
            let trace = fs::read_to_string(&self.trace).unwrap();
            let mut last = trace.lines().next_back()?.split_whitespace();
            let ended = last.next() == Some(&pid) && last.next() == Some("+++");
            ended.then_some(())
        });
        let kernel = traced(&self.trace, &self.below);
        let counted = listed(&self.counted, &self.below);
        let disk = listed(&self.through_disk, &self.below);
        let process = self.process;
        assert!(disk.len() > 20, "{process:?}: {disk:#?}");
        // The one call of ours that is made past libc.
        let allocates = |operation: &str| operation.starts_with("allocate ");
        let unseen = beyond(&kernel, &counted);
        assert!(
            unseen.keys().all(|it| allocates(it)),
            "{process:?}: {unseen:#?}"
        );
        let invented = beyond(&counted, &kernel);
        assert!(invented.is_empty(), "{process:?}: {invented:#?}");
        let unknown = beyond(&disk, &kernel);
        assert!(unknown.is_empty(), "{process:?}: {unknown:#?}");
        let mut past = beyond(&kernel, &disk);
        for (place, why) in self.exceptions {
            let place = self.below.join(place);
            let before = past.len();
            past.retain(|operation, _| {
                let (_, path) = operation.split_once(' ').unwrap();
                !Path::new(path).starts_with(&place)
            });
            assert!(
                past.len() < before,
                "{}: {why}; nothing is",
                place.display()
            );
        }
        assert!(past.is_empty(), "{process:?}: {past:#?}");
        let sum = |operations: &Operations| operations.values().sum::<usize>();
        let (all, ours) = (sum(&kernel), sum(&disk));
        println!("{process:?}: {all} operations, {ours} of them through the disk");
    }
}

#[test]
fn nothing_is_written_past_the_library_or_past_the_disk() {
    let version = std::process::Command::new("strace").arg("-V").output();
    version.expect("`strace` is needed to see what the kernel sees");
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let mut lab = RunningLab::make(&quick_options());
    let gateway = Watched::start(&mut lab, DIJON_GATEWAY, PAST_IN_GATEWAY, &dir);
    let agent = Watched::start(&mut lab, DIJON_AGENT, PAST_IN_AGENT, &dir);
    lab.run(CAF_GATEWAY);
    lab.run(CAF_AGENT);
    let large = noise(600_000, 3);
    lab.drop_file("caf21", FLOW, "small.csv", b"a;b\n1;2\n");
    lab.drop_file("caf21", FLOW, "large.bin", &large);
    lab.drop_file("grand-dijon", FLOW, "back.csv", b"a;b\n3;4\n");
    assert!(lab.receive("grand-dijon", FLOW, "large.bin") == large);
    lab.receive("grand-dijon", FLOW, "small.csv");
    lab.receive("caf21", FLOW, "back.csv");
    lab.sent("grand-dijon");
    agent.check(&mut lab);
    gateway.check(&mut lab);
}

#[test]
fn a_trace_is_read_as_the_library_lists() {
    let read = |line: &str| {
        let (operation, path) = operation_of(line).unwrap();
        format!("{operation} {}", path.display())
    };
    for (line, operation) in [
        ("12 write(7</d/f>, \"\"..., 12) = 12", "write /d/f"),
        (
            "12 pwrite64(7</d/f>(deleted), \"\"..., 1, 0 <unfinished ...>",
            "write /d/f",
        ),
        ("12 fdatasync(7</d/f>)    = 0", "sync /d/f"),
        (
            "12 openat(AT_FDCWD</c>, \"/d/f\", O_RDWR|O_CREAT, 0666) = 7</d/f>",
            "create /d/f",
        ),
        ("12 unlinkat(7</d>, \"f\", 0) = 0", "remove /d/f"),
        ("12 rename(\"/d/f\", \"/d/g\") = 0", "rename /d/f"),
        (
            "12 mkdir(\"/d/f\", 0777) = -1 EEXIST (File exists)",
            "create /d/f",
        ),
    ] {
        assert_eq!(read(line), operation, "{line}");
    }
    for line in [
        "12 openat(AT_FDCWD</c>, \"/d/f\", O_RDONLY|O_CLOEXEC) = 7</d/f>",
        "12 <... write resumed>)              = 12",
        "12 +++ exited with 0 +++",
    ] {
        assert_eq!(operation_of(line), None, "{line}");
    }
}
