//! Power cuts on a real file system: what a gateway or an agent keeps lies on ext4 on a loop
//! device, the process is killed at moments that a seed chooses, and it starts again on a copy of
//! the device's image, which holds only what had been written back.
//!
//! ```text
//! sudo cargo run -p passerelle-tests --example power_cut -- --rounds 20 --seed 7
//! ```
//!
//! Needs Linux, the superuser, `unshare`, `mount`, `losetup` (util-linux), `mkfs.ext4` (e2fsprogs)
//! and `cp`. First it has all syncs left out, to see that their absence is found.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use passerelle_tests::{
    BELOW, DIJON_AGENT, DIJON_GATEWAY, KILL_AT, LIST_OUTSIDE, OMIT_SYNCS, PRELOAD, Process,
    STEP_LIMIT, Walk, eventually, noise, outside,
};

/// Set in the run that is inside a mount namespace of its own.
const INSIDE: &str = "PASSERELLE_TEST_INSIDE";
/// Bytes of a device. The gateway wants 64 MiB of room, and its log takes some.
const DEVICE_LEN: u64 = 512 * 1024 * 1024;
/// Nothing is written back but what is synced: no commit by time, no flush before a rename.
const MOUNT: &str = "loop,commit=86400,noauto_da_alloc";
/// What has not come by then after a power cut is lost.
const COMES_YET: Duration = Duration::from_secs(45);
/// Cuts for each process, unless `--rounds` says otherwise.
const ROUNDS: u64 = 20;

/// A directory that is a file system on a device.
struct Device {
    at: PathBuf,
    image: PathBuf,
    cuts: u64,
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let status = status.unwrap_or_else(|error| panic!("`{program}` is needed: {error}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Device {
    /// Makes a file system and mounts it where a process will keep what it keeps.
    fn make(images: &Path, at: PathBuf) -> Self {
        let image = images.join("0.img");
        File::create(&image).unwrap().set_len(DEVICE_LEN).unwrap();
        run("mkfs.ext4", &["-q", "-F", text(&image)]);
        std::fs::create_dir_all(&at).unwrap();
        let device = Self { at, image, cuts: 0 };
        device.mount();
        device
    }

    fn mount(&self) {
        run("mount", &["-o", MOUNT, text(&self.image), text(&self.at)]);
    }

    /// The power goes: what was not written back is lost, and what was is mounted.
    fn cut(&mut self) {
        self.cuts += 1;
        let copy = self.image.with_file_name(format!("{}.img", self.cuts));
        run("cp", &["--sparse=always", text(&self.image), text(&copy)]);
        run("umount", &[text(&self.at)]);
        std::fs::remove_file(&self.image).unwrap();
        self.image = copy;
        self.mount();
    }
}

/// A laboratory in which the power of one process goes again and again.
struct Cuts {
    walk: Walk,
    device: Device,
    images: tempfile::TempDir,
}

impl Cuts {
    fn start(process: Process) -> Self {
        let images = tempfile::tempdir().unwrap();
        let mut device = None;
        let walk = Walk::start_after(process, |lab| {
            device = Some(Device::make(images.path(), lab.directory_of(process)));
        });
        let device = device.unwrap();
        Self {
            walk,
            device,
            images,
        }
    }

    /// Starts the process again with the library in front of it, and has something to do for it.
    fn again_with(&mut self, more: &[(&str, &str)]) {
        let process = self.walk.process;
        self.walk.lab.kill(process);
        let below = self.device.at.clone();
        let mut environment = vec![(PRELOAD, text(outside())), (BELOW, text(&below))];
        environment.extend(more);
        self.walk.lab.run_with(process, &environment);
        self.walk.drop_files();
    }

    /// How many operations a start and a round take.
    fn operations(&mut self) -> u64 {
        let list = self.images.path().join("operations");
        self.again_with(&[(LIST_OUTSIDE, text(&list))]);
        self.walk.settle("a round that is counted");
        let listed = std::fs::read_to_string(&list).unwrap();
        listed.lines().count() as u64
    }

    /// The process dies before an operation, or after all of them, and the power goes.
    fn cut_at(&mut self, operation: u64) {
        self.again_with(&[(KILL_AT, &operation.to_string())]);
        let died = self.walk.dies();
        let process = self.walk.process;
        self.walk.lab.kill(process);
        self.device.cut();
        self.walk.lab.run(process);
        // What was there before may look well: it must also go on from there.
        self.walk.drop_files();
        let what = format!("a power cut before operation {operation}");
        self.walk.settle(&what);
        println!("{process:?}: {what}, died {died}: nothing lost, doubled or left");
    }

    /// Without its syncs it loses something, and that is found.
    fn cut_without_syncs(mut self, path: &str) {
        self.again_with(&[(OMIT_SYNCS, path)]);
        self.walk.settle("a round without syncs");
        let process = self.walk.process;
        self.walk.lab.kill(process);
        self.device.cut();
        self.walk.lab.run(process);
        // What was there before may look well: it must also go on from there.
        self.walk.drop_files();
        let begun = Instant::now();
        let found = eventually("the loss", STEP_LIMIT, || {
            let ended = self.walk.lab.process(process).ended();
            if let Some(code) = ended {
                return Some(vec![format!("it stopped with exit code {code}")]);
            }
            let settled = self.walk.is_quiet();
            let found = self.walk.violations();
            assert!(!(settled && found.is_empty()), "nobody misses the syncs");
            (begun.elapsed() > COMES_YET).then_some(found)
        });
        println!("{process:?} without syncs of {path}: {}", found.join("; "));
    }
}

/// The value of an option, `--rounds 20`.
fn option(name: &str, otherwise: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    let value = arguments.nth(1);
    value.map_or(otherwise, |value| value.parse().unwrap())
}

fn main() -> ExitCode {
    if std::env::var_os(INSIDE).is_none() {
        let mut inside = Command::new("unshare");
        inside.args(["--mount", "--propagation", "private", "--"]);
        inside.arg(std::env::current_exe().unwrap());
        inside.args(std::env::args_os().skip(1)).env(INSIDE, "1");
        let status = inside.stdin(Stdio::null()).status();
        let status = status.expect("`unshare` (util-linux) is needed to mount a device");
        return ExitCode::from(u8::from(!status.success()));
    }
    let (rounds, seed) = (option("--rounds", ROUNDS), option("--seed", 1));
    println!("seed {seed}, {rounds} power cuts for each process");
    for (process, log) in [(DIJON_GATEWAY, "/log/wal/"), (DIJON_AGENT, "/")] {
        Cuts::start(process).cut_without_syncs(log);
        let mut cuts = Cuts::start(process);
        let operations = cuts.operations();
        let moments = noise(8 * rounds as usize, seed);
        for moment in moments.chunks_exact(8) {
            let moment = u64::from_le_bytes(moment.try_into().unwrap());
            cuts.cut_at(1 + moment % operations);
        }
    }
    ExitCode::SUCCESS
}
