//! Statements that have been sent and are not acknowledged yet, with their leases.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use passerelle_proto::StatementId;

use crate::courier::StatementLease;

/// The log may have the same statement more than once: it came on two streams at the same time, or
/// came again after a restart. Each has a lease of its own, and none is lost.
#[derive(Default)]
pub(crate) struct OnTheWay(Mutex<HashMap<StatementId, Vec<StatementLease>>>);

impl OnTheWay {
    /// A statement is sent.
    pub(crate) fn put(&self, id: StatementId, lease: StatementLease) {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        leases.entry(id).or_default().push(lease);
    }

    /// What became of these statements is known: their leases.
    pub(crate) fn take(&self, ids: &[StatementId]) -> Vec<StatementLease> {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = ids.iter().filter_map(|id| leases.remove(id));
        taken.flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use passerelle_proto::Digest;

    use super::*;
    use crate::queue::{ItemKey, LeaseToken};

    #[test]
    fn a_statement_that_the_log_has_twice_keeps_both_leases() {
        let on_the_way = OnTheWay::default();
        let id = StatementId(Digest::of(b"said"));
        for index in [4, 9] {
            let (token, key) = (LeaseToken(index), ItemKey { index, route: 0 });
            on_the_way.put(id, StatementLease { token, key });
        }
        let taken = on_the_way.take(&[id]);
        let taken: Vec<u64> = taken.iter().map(|lease| lease.key.index).collect();
        assert_eq!(taken, [4, 9]);
        assert!(on_the_way.take(&[id]).is_empty());
    }
}
