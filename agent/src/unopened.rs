//! Arrived packages that cannot be opened now: which, why, and when each is tried again.
//!
//! In memory; what it holds is found again in `incoming/` and `received/` at the next start.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use passerelle_proto::{PackageId, Timestamp};
use tokio::sync::Notify;

/// Wait before a package is tried again for the first time; it doubles with every attempt.
const RETRY: Duration = Duration::from_secs(10);
/// Longest wait between two attempts to open a package.
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Why a package waits, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// What the last attempt met, for people.
    pub(crate) why: String,
    /// When the first attempt failed.
    pub(crate) since: Timestamp,
    attempts: u32,
    again: Instant,
}

/// All packages that wait.
#[derive(Debug, Default)]
pub(crate) struct Unopened {
    waiting: Mutex<BTreeMap<PackageId, Waiting>>,
    hurried: Notify,
}

impl Unopened {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<PackageId, Waiting>> {
        // The map is whole at every step: a panic elsewhere does not spoil it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A package could not be opened at `now`, which is `at` by the wall clock. Returns the wait
    /// before it is tried again.
    pub(crate) fn put_off(
        &self,
        package: PackageId,
        why: &str,
        at: Timestamp,
        now: Instant,
    ) -> Duration {
        let mut all = self.waiting();
        let waiting = all.entry(package).or_insert_with(|| Waiting {
            why: String::new(),
            since: at,
            attempts: 0,
            again: now,
        });
        let wait = RETRY.saturating_mul(1 << waiting.attempts.min(16));
        let wait = wait.min(RETRY_MAX);
        why.clone_into(&mut waiting.why);
        waiting.attempts = waiting.attempts.saturating_add(1);
        waiting.again = now + wait;
        wait
    }

    /// A package does not wait any more.
    pub(crate) fn settled(&self, package: &PackageId) {
        self.waiting().remove(package);
    }

    /// Whether a package waits, and why.
    pub(crate) fn find(&self, package: &PackageId) -> Option<Waiting> {
        self.waiting().get(package).cloned()
    }

    /// All that wait, in the order of their ids.
    pub(crate) fn all(&self) -> Vec<(PackageId, Waiting)> {
        let all = self.waiting();
        all.iter()
            .map(|(id, waiting)| (*id, waiting.clone()))
            .collect()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting().len()
    }

    /// The package that is to be tried next, and when.
    fn next(&self) -> Option<(Instant, PackageId)> {
        let all = self.waiting();
        all.iter()
            .map(|(id, waiting)| (waiting.again, *id))
            .min_by_key(|(again, _)| *again)
    }

    /// The package whose turn it is at `now`, if it is any's. It waits on until it is settled.
    pub(crate) fn due(&self, now: Instant) -> Option<PackageId> {
        let (again, package) = self.next()?;
        (again <= now).then_some(package)
    }

    /// What stood in the way may be over: it is the turn of all.
    pub(crate) fn hurry(&self, now: Instant) {
        for waiting in self.waiting().values_mut() {
            waiting.again = waiting.again.min(now);
        }
        self.hurried.notify_one();
    }

    /// Waits until it is the turn of a package.
    pub(crate) async fn turn(&self) {
        loop {
            let sleep = async {
                match self.next() {
                    Some((again, _)) => tokio::time::sleep_until(again.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.hurried.notified() => {}
                () = sleep => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use passerelle_proto::Digest;

    use super::*;

    const AT: Timestamp = Timestamp::from_ms(1_480_000_000_000);

    fn package(number: u8) -> PackageId {
        PackageId(Digest([number; 32]))
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit_and_begins_anew_once_it_is_settled() {
        let (unopened, now) = (Unopened::default(), Instant::now());
        let put_off = || unopened.put_off(package(1), "EIO", AT, now).as_secs();
        let waits: Vec<u64> = (0..40).map(|_| put_off()).collect();
        assert_eq!(waits[..7], [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(waits[39], RETRY_MAX.as_secs());
        unopened.settled(&package(1));
        assert_eq!(unopened.find(&package(1)), None);
        assert_eq!(put_off(), RETRY.as_secs());
    }

    #[test]
    fn whoever_has_waited_longest_is_tried_first_and_nobody_before_the_wait_is_over() {
        let (unopened, now) = (Unopened::default(), Instant::now());
        unopened.put_off(package(2), "EIO", AT, now);
        unopened.put_off(package(1), "EIO", AT, now + Duration::from_secs(1));
        assert_eq!(unopened.due(now + RETRY - Duration::from_secs(1)), None);
        assert_eq!(unopened.due(now + 2 * RETRY), Some(package(2)));
        unopened.put_off(package(2), "EIO", AT, now + 2 * RETRY);
        assert_eq!(unopened.due(now + 2 * RETRY), Some(package(1)));
        assert_eq!(unopened.len(), 2);
    }
}
