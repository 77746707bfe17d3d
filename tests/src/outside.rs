//! Faults of disk and clock from outside of a process: a library between it and libc, see
//! `shim/outside.c`, which sees the operations of other people's code too.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Names the library; libc's own.
pub const PRELOAD: &str = "LD_PRELOAD";
/// Names the directory below which operations are counted.
pub const BELOW: &str = "PASSERELLE_OUTSIDE_BELOW";
/// Names the operation that fails, in the form of a `Fault`.
pub const FAIL_OUTSIDE: &str = "PASSERELLE_OUTSIDE_FAIL";
/// Number of the operation before which the process is killed.
pub const KILL_AT: &str = "PASSERELLE_OUTSIDE_KILL";
/// Names the file in which operations are listed.
pub const LIST_OUTSIDE: &str = "PASSERELLE_OUTSIDE_LIST";
/// Milliseconds that each sync takes longer.
pub const SYNC_MS: &str = "PASSERELLE_OUTSIDE_SYNC_MS";
/// Part of the path of what is not synced, and said to be.
pub const OMIT_SYNCS: &str = "PASSERELLE_OUTSIDE_OMIT";
/// Names the file that says by how many seconds the wall clock is wrong.
pub const CLOCK: &str = "PASSERELLE_OUTSIDE_CLOCK";

/// The library, compiled once.
///
/// # Panics
///
/// Without a C compiler, which a build of the product needs anyway.
pub fn outside() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(compile)
}

fn compile() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let folder = this.parent().unwrap();
    let library = folder.join("passerelle-outside.so");
    let made = folder.join(format!("passerelle-outside-{}.so", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/outside.c");
    let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args([
        "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o",
    ]);
    let status = cc.arg(&made).arg(&source).status();
    let status = status.expect("a C compiler, `cc`, is needed to fail a disk from outside");
    assert!(status.success(), "{}: {status}", source.display());
    // Another test may be loading the one that is there.
    std::fs::rename(&made, &library).unwrap();
    library
}
