//! Where work is done that blocks.

use std::thread;

use tokio::task::JoinHandle;

/// Threads that do blocking work at once; what is more waits for one of them. An export, an
/// evidence file or a backup has one until it is read.
pub const BLOCKING_THREADS_MAX: usize = 512;

/// Does blocking work beside the runtime. It is done whether or not anybody waits for it.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    #[cfg(feature = "simulation")]
    if crate::simulation::is_simulated() {
        return tokio::spawn(async move {
            crate::simulation::pass_time().await;
            work()
        });
    }
    tokio::task::spawn_blocking(work)
}

/// Whether all work on this thread is done in place: there is to be no other thread.
#[must_use]
pub fn is_in_place() -> bool {
    #[cfg(feature = "simulation")]
    if crate::simulation::is_simulated() {
        return true;
    }
    false
}

/// Work that goes on for as long as its program.
#[derive(Debug)]
pub enum Worker {
    /// In a thread of its own.
    Thread(thread::JoinHandle<()>),
    /// In a task, where [`is_in_place`].
    Task(JoinHandle<()>),
}

impl Worker {
    /// Waits for the end of a thread, and blocks meanwhile; a task ends by itself.
    ///
    /// # Errors
    /// What the thread panicked with.
    pub fn join(self) -> thread::Result<()> {
        match self {
            Self::Thread(thread) => thread.join(),
            Self::Task(_) => Ok(()),
        }
    }
}
