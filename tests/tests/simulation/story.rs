//! What has happened in a simulation, in its order.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use passerelle_proto::Digest;
use tokio::time::Instant;

/// Events that a failure shows.
const SHOWN: usize = 80;

/// All events so far, each with its virtual time. A clone tells the same story.
#[derive(Clone)]
pub struct Story {
    start: Instant,
    events: Arc<Mutex<Vec<String>>>,
}

impl Story {
    /// A story that begins now.
    pub fn begin() -> Self {
        Self {
            start: Instant::now(),
            events: Arc::default(),
        }
    }

    fn events(&self) -> MutexGuard<'_, Vec<String>> {
        self.events.lock().unwrap()
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Something has happened.
    pub fn tell(&self, what: impl std::fmt::Display) {
        let at = self.elapsed().as_secs_f64();
        self.events().push(format!("{at:10.3} {what}"));
    }

    /// Digest of all that has happened.
    pub fn digest(&self) -> Digest {
        Digest::of(self.events().join("\n").as_bytes())
    }

    /// All of it.
    pub fn lines(&self) -> Vec<String> {
        self.events().clone()
    }

    /// The end of it, or all of it.
    pub fn told(&self, whole: bool) -> String {
        let events = self.events();
        let shown = if whole { usize::MAX } else { SHOWN };
        let from = events.len().saturating_sub(shown);
        let before = match from {
            0 => String::new(),
            more => format!("({more} events before)\n"),
        };
        before + &events[from..].join("\n")
    }
}
