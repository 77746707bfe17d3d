//! The real programs, built once and run as processes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::eventually;

/// How long a process may take to end after SIGTERM: its own grace period and a margin.
const STOP_LIMIT: Duration = Duration::from_secs(45);

/// A program of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `passerelle`, the agent and the operator's command.
    Passerelle,
    /// `passerelle-gateway`.
    Gateway,
}

/// Path of a program, built in the profile of the running test.
pub fn binary(program: Program) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(build);
    folder.join(match program {
        Program::Passerelle => "passerelle",
        Program::Gateway => "passerelle-gateway",
    })
}

/// Cargo does not build another package's programs for a test: this does, once.
fn build() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let folder = this.parent().unwrap().parent().unwrap().to_path_buf();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--workspace", "--bins"]);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    cargo.arg("--target-dir").arg(folder.parent().unwrap());
    // What cargo says of this package to its tests would have build scripts of others run again.
    let ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
        cargo.env_remove(name);
    }
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap());
    assert!(
        cargo.status().unwrap().success(),
        "the programs do not build"
    );
    folder
}

impl Program {
    /// Runs the program to its end.
    pub fn run<A: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = A>) -> Output {
        Command::new(binary(self))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Starts the program; its output goes to `log`, appended.
    pub fn start<A: AsRef<OsStr>>(
        self,
        arguments: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Running {
        self.start_in(&[], arguments, log)
    }

    /// The same, with more in its environment.
    pub fn start_in<A: AsRef<OsStr>>(
        self,
        environment: &[(String, String)],
        arguments: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Running {
        self.start_under(&[], environment, arguments, log)
    }

    /// The same, run by another program: its name and the arguments before ours.
    pub fn start_under<A: AsRef<OsStr>>(
        self,
        runner: &[String],
        environment: &[(String, String)],
        arguments: impl IntoIterator<Item = A>,
        log: &Path,
    ) -> Running {
        let more = environment.iter().map(|(name, value)| (name, value));
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let program = binary(self);
        let mut command = match runner {
            [] => Command::new(program),
            [runner, before @ ..] => {
                let mut command = Command::new(runner);
                command.args(before).arg(program);
                command
            }
        };
        let child = command
            .args(arguments)
            .envs(more)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Running {
            child,
            log: log.to_path_buf(),
        }
    }
}

/// A process of the product, killed when dropped.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, without waiting for anything.
    pub fn ask_to_stop(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// SIGTERM, and wait for the end; exit code.
    pub fn terminate(&mut self) -> i32 {
        self.ask_to_stop();
        let child = &mut self.child;
        let status = eventually("the process to end after SIGTERM", STOP_LIMIT, || {
            child.try_wait().unwrap()
        });
        status.code().unwrap_or(-1)
    }

    /// SIGHUP: it looks at its files again.
    pub fn hang_up(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    /// SIGSTOP: it does nothing more, and nobody is told.
    pub fn pause(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    }

    /// SIGCONT: it goes on.
    pub fn resume(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    }

    /// Exit code, if it has ended by itself.
    pub fn ended(&mut self) -> Option<i32> {
        self.child
            .try_wait()
            .unwrap()
            .map(|status| status.code().unwrap_or(-1))
    }

    /// All it has printed so far.
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Largest resident set so far, in bytes (`VmHWM`).
    pub fn peak_resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
