//! What was dropped and cannot be taken or sealed now: which, why, and when each is tried again.
//!
//! In memory; a look at the outbox and at `work/` finds it again.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use passerelle_disk::DiskError;

/// Wait before a drop is tried again for the first time; it doubles with every attempt.
pub(crate) const RETRY: Duration = Duration::from_secs(10);
/// Longest wait between two attempts at one drop.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Why something stays where it was dropped, or claimed, until somebody changes that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// A file where only the folders of flows are.
    #[error("it lies in no flow's folder, and is for nobody: move it into one of them")]
    Stray,
    /// A link may lead anywhere, also out of the agent's directory.
    #[error(
        "it is a link, and nothing in it is looked at: put a directory with the name of the flow \
         in its place"
    )]
    Link,
    /// No rename leads from there into `work/`.
    #[error(
        "it lies on another file system than the agent's directory, and nothing can be claimed \
         out of it: put an ordinary directory in its place, or mount the whole of the agent's \
         directory instead of a part"
    )]
    Elsewhere,
    /// The folder of a flow is named after it, in UTF-8.
    #[error("its name is not readable text: rename it (UTF-8), or take it away")]
    Name,
    /// The disk, or whoever owns what lies there, does not let us.
    #[error("{words}: {}", remedy(*.kind))]
    Disk {
        /// What was tried.
        operation: &'static str,
        /// What the system answered.
        kind: ErrorKind,
        /// Both of them, with the place.
        words: String,
    },
}

impl Obstacle {
    /// An operation that has failed.
    pub fn of(error: &DiskError) -> Self {
        Self::Disk {
            operation: error.operation,
            kind: error.source.kind(),
            words: error.to_string(),
        }
    }

    /// Whether nothing new is to be told: the place may be another one in every attempt.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Disk {
                    operation, kind, ..
                },
                Self::Disk {
                    operation: before,
                    kind: kind_before,
                    ..
                },
            ) => (operation, kind) == (before, kind_before),
            _ => self == other,
        }
    }
}

fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::PermissionDenied => {
            "let the agent's user own it, or read it and write to it and to the folder it lies in \
             (also to every directory inside)"
        }
        ErrorKind::CrossesDevices => {
            "mount the whole of the agent's directory on one file system, not a part of it"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "make room; it is tried again by itself"
        }
        ErrorKind::ReadOnlyFilesystem => "mount the agent's directory so that it can be written",
        _ => "look at the disk and at the log of the system; it is tried again by itself",
    }
}

#[derive(Debug)]
struct Waiting {
    obstacle: Obstacle,
    attempts: u32,
    again: Instant,
}

/// Everything that is stuck, by its place.
#[derive(Debug, Default)]
pub(crate) struct Stuck {
    waiting: Mutex<BTreeMap<PathBuf, Waiting>>,
}

impl Stuck {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Waiting>> {
        // The map is whole at every step: a panic elsewhere does not spoil it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What lies at `path` cannot be taken or sealed at `now`. The log says so when it is new, or
    /// when something else is the matter than before.
    pub(crate) fn put_off(&self, path: &Path, obstacle: Obstacle, now: Instant) {
        let mut all = self.waiting();
        let before = all.get(path);
        if !before.is_some_and(|before| before.obstacle.is_like(&obstacle)) {
            let (path, why) = (path.display(), obstacle.to_string());
            tracing::warn!(%path, why, "what was dropped is stuck, and the others go on");
        }
        let attempts = before.map_or(0, |before| before.attempts);
        let wait = RETRY.saturating_mul(1 << attempts.min(16)).min(RETRY_MAX);
        let waiting = Waiting {
            obstacle,
            attempts: attempts.saturating_add(1),
            again: now + wait,
        };
        all.insert(path.to_owned(), waiting);
    }

    /// What lies, or lay, at `path` is not stuck any more.
    pub(crate) fn settled(&self, path: &Path) {
        self.keep_only(|other| other != path);
    }

    /// Of everything else it is known by now that it is not stuck any more.
    pub(crate) fn keep_only(&self, is_stuck: impl Fn(&Path) -> bool) {
        self.waiting().retain(|path, _| {
            let stays = is_stuck(path);
            if !stays {
                tracing::info!(path = %path.display(), "what was dropped is not stuck any more");
            }
            stays
        });
    }

    /// Whether it is too early at `now` to try again what lies at `path`.
    pub(crate) fn waits(&self, path: &Path, now: Instant) -> bool {
        let all = self.waiting();
        all.get(path).is_some_and(|waiting| waiting.again > now)
    }

    /// Where something is stuck, and why, with what helps; in the order of the places.
    pub(crate) fn all(&self) -> Vec<(PathBuf, String)> {
        let all = self.waiting();
        all.iter()
            .map(|(path, waiting)| (path.clone(), waiting.obstacle.to_string()))
            .collect()
    }

    /// In how many places.
    pub(crate) fn len(&self) -> usize {
        self.waiting().len()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn denied(path: &str) -> Obstacle {
        let error = io::Error::from(ErrorKind::PermissionDenied);
        Obstacle::of(&DiskError::new("rename", Path::new(path), error))
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit_and_begins_anew_once_it_is_settled() {
        let (stuck, now) = (Stuck::default(), Instant::now());
        let path = Path::new("/outbox/f/t.csv");
        let mut waits = Vec::new();
        for _ in 0..40 {
            stuck.put_off(path, Obstacle::Link, now);
            let again = stuck.waiting()[path].again;
            waits.push((again - now).as_secs());
        }
        assert_eq!(waits[..4], [10, 20, 40, 60]);
        assert_eq!(waits[39], RETRY_MAX.as_secs());
        assert!(stuck.waits(path, now + RETRY_MAX - Duration::from_secs(1)));
        assert!(!stuck.waits(path, now + RETRY_MAX));
        stuck.settled(path);
        stuck.put_off(path, Obstacle::Link, now);
        assert!(!stuck.waits(path, now + RETRY));
    }

    #[test]
    fn an_obstacle_names_operation_place_reason_and_remedy() {
        let words = denied("/outbox/f/t.csv").to_string();
        let parts = ["cannot rename /outbox/f/t.csv: ", "permission", "own it"];
        assert!(parts.iter().all(|part| words.contains(part)), "{words}");
    }

    #[test]
    fn the_same_error_in_another_place_of_ours_is_not_told_again() {
        assert!(denied("/srv/agent/claimed-1").is_like(&denied("/srv/agent/claimed-2")));
        assert!(!denied("/srv/agent/claimed-1").is_like(&Obstacle::Link));
        let full = DiskError::new(
            "rename",
            Path::new("/srv/agent/claimed-1"),
            ErrorKind::StorageFull.into(),
        );
        assert!(!denied("/srv/agent/claimed-1").is_like(&Obstacle::of(&full)));
    }
}
