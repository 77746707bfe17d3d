//! Waiting for what another process does.

use std::time::{Duration, Instant};

/// How often the condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Returns what `look` finds, as soon as it finds something.
///
/// # Panics
///
/// When nothing was found within `limit`; the message names what was waited for.
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            start.elapsed() < limit,
            "waited {limit:?} in vain for: {what}"
        );
        pause();
    }
}

/// The one pause of the tests: between two looks at a condition that has a deadline.
#[allow(clippy::disallowed_methods)]
fn pause() {
    std::thread::sleep(LOOK_EVERY);
}
