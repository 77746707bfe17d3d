//! Named places at which a test lets a process die.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Environment variable that names where this process dies, in builds with debug assertions:
/// `accept.spooled` the first time that point is reached, `accept.spooled:2` the second time.
pub const CRASH_AT: &str = "PASSERELLE_CRASH_AT";

/// A place in a program at which it may die; each program lists its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPoint {
    /// How it is called, "accept.spooled".
    pub name: &'static str,
    /// What has just happened, for people.
    pub after: &'static str,
}

/// Where this process is to die.
struct Armed {
    point: String,
    /// How often it is still passed, and once more to die.
    left: AtomicU64,
}

fn armed() -> Option<&'static Armed> {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    let armed = ARMED.get_or_init(|| {
        let asked = std::env::var(CRASH_AT).ok()?;
        let (point, times) = match asked.split_once(':') {
            Some((point, times)) => (point.to_owned(), times.parse().ok()?),
            None => (asked, 1),
        };
        let left = AtomicU64::new(times);
        Some(Armed { point, left })
    });
    armed.as_ref()
}

/// Dies here if [`CRASH_AT`] says so, as by SIGKILL: nothing is flushed and nothing is told.
/// Called by [`crate::crash_point`] only.
pub fn reached(point: &str) {
    let Some(armed) = armed().filter(|armed| armed.point == point) else {
        return;
    };
    if armed.left.fetch_sub(1, Ordering::SeqCst) != 1 {
        return;
    }
    eprintln!("dies at {point}, as {CRASH_AT} says");
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // The signal is on its way.
    std::process::abort();
}

/// A place at which a test may let this process die; nothing in release builds.
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        if cfg!(debug_assertions) {
            $crate::reached($name);
        }
    };
}
