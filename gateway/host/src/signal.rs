//! Telling any number of waiters that something has changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Shared {
    version: AtomicU64,
    notify: Notify,
}

/// Tells of changes. Waiters are woken in the order in which they began to wait: the same events
/// then lead to the same history, which the channels of tokio do not promise.
#[derive(Debug, Default)]
pub struct Signal(Arc<Shared>);

impl Signal {
    /// Something has changed.
    pub fn tell(&self) {
        self.0.version.fetch_add(1, Ordering::SeqCst);
        self.0.notify.notify_waiters();
    }

    /// Follows changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> Changes {
        Changes {
            seen: self.0.version.load(Ordering::SeqCst),
            shared: self.0.clone(),
        }
    }
}

/// Follows a [`Signal`].
#[derive(Debug)]
pub struct Changes {
    shared: Arc<Shared>,
    seen: u64,
}

impl Changes {
    fn is_new(&self) -> bool {
        self.shared.version.load(Ordering::SeqCst) != self.seen
    }

    /// Takes note of all changes until now.
    pub fn mark_unchanged(&mut self) {
        self.seen = self.shared.version.load(Ordering::SeqCst);
    }

    /// Waits until there was a change that was not yet taken note of, and takes note of it.
    pub async fn changed(&mut self) {
        let shared = self.shared.clone();
        loop {
            let told = shared.notify.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if self.is_new() {
                return self.mark_unchanged();
            }
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll(future: impl Future<Output = ()>) -> Poll<()> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_change_is_told_once_to_everybody_who_follows() {
        let signal = Signal::default();
        let (mut one, mut other) = (signal.subscribe(), signal.subscribe());
        assert_eq!(poll(one.changed()), Poll::Pending);
        signal.tell();
        signal.tell();
        for changes in [&mut one, &mut other] {
            assert_eq!(poll(changes.changed()), Poll::Ready(()));
            assert_eq!(poll(changes.changed()), Poll::Pending);
        }
        signal.tell();
        one.mark_unchanged();
        assert_eq!(poll(one.changed()), Poll::Pending);
        assert_eq!(poll(signal.subscribe().changed()), Poll::Pending);
    }
}
