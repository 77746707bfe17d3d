//! Time-stamps of an outside authority over our log, where one is configured (RFC 3161).
//!
//! Partners' clocks say in their cosignatures when entries were there; an authority that has no
//! part in the exchange says it too, for whoever trusts neither. Nothing waits for it: packages
//! flow while it is away, and operators are told.

mod authority;
mod config;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use passerelle_proto::v1::{self, Entry, entry::Event};
use passerelle_proto::{
    Checkpoint, CheckpointError, Note, TimeStamp, TimeStampRequest, Timestamp, nonce,
};
use prost::Message;
use tokio::time::Instant;

use crate::index::Mark;
use crate::metrics::Gauge;
use crate::node::Node;
use crate::witness::has_news;

pub(crate) use authority::Authority;
pub use config::TimeStampConfig;

/// How often it is looked at whether a time-stamp is due; more often where they are configured to
/// be more frequent.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Longest wait before an authority that gave none is asked again.
const RETRY_MAX: Duration = Duration::from_secs(600);

/// What is known of time-stamps over this log.
#[derive(Debug, Default)]
pub(crate) struct Stamps(Mutex<Known>);

#[derive(Debug, Default, Clone)]
struct Known {
    newest: Option<Newest>,
    /// Since when there has been none though one was due, and why.
    failing: Option<(Timestamp, String)>,
}

/// The newest time-stamp.
#[derive(Debug, Clone)]
pub(crate) struct Newest {
    pub(crate) size: u64,
    pub(crate) stamp: TimeStamp,
    /// When it was asked for, by our clock.
    asked: Timestamp,
}

impl Stamps {
    fn known(&self) -> Known {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest time-stamp; `None`: there is none.
    pub(crate) fn newest(&self) -> Option<Newest> {
        self.known().newest
    }

    /// What an operator has to know, in a sentence, or empty.
    pub(crate) fn words(&self) -> String {
        match self.known().failing {
            None => String::new(),
            Some((since, why)) => format!("no time-stamp over our log since {since}: {why}"),
        }
    }

    /// The authority gave none; whether that is new.
    fn failed(&self, at: Timestamp, why: &str) -> bool {
        self.change(|known| {
            let before = known.failing.take();
            let is_new = before.as_ref().is_none_or(|(_, known)| known != why);
            let since = before.map_or(at, |(since, _)| since);
            known.failing = Some((since, why.to_owned()));
            is_new
        })
    }

    fn stamped(&self, newest: Newest) {
        let was_failing = self.change(|known| {
            known.newest = Some(newest);
            known.failing.take().is_some()
        });
        if was_failing {
            tracing::info!("the time-stamping authority answers again");
        }
    }
}

/// What a time-stamp in the log says. Whether its authority is believed, its reader decides.
pub(crate) fn read(
    event: &v1::TimeStampedEvent,
    authority: &passerelle_proto::TimeAuthorities,
) -> Result<(Checkpoint, TimeStamp), String> {
    let note = Note::parse(&event.checkpoint).map_err(|error| error.to_string())?;
    let checkpoint = Checkpoint::parse(note.text());
    let checkpoint = checkpoint.map_err(|error: CheckpointError| error.to_string())?;
    let stamp = TimeStamp::verify(&event.token, note.text().as_bytes(), authority);
    Ok((checkpoint, stamp.map_err(|error| error.to_string())?))
}

/// Has our log stamped for as long as the gateway runs.
pub(crate) async fn keep_stamped(node: Arc<Node>, authority: Authority, every: Duration) {
    tokio::select! {
        biased;
        () = node.anchor.wait() => {}
        () = node.stop.cancelled() => return,
    }
    recall(&node, &authority).await;
    let look_every = LOOK_EVERY.min(every);
    let mut wait = look_every;
    let mut next = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
        }
        let stamped = tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            stamped = stamp(&node, &authority, every) => stamped,
        };
        wait = match stamped {
            Ok(()) => look_every,
            Err(why) => {
                if node.stamps.failed(node.now(), &why) {
                    tracing::warn!(why, "our log was not stamped");
                }
                (wait * 2).min(RETRY_MAX).max(look_every)
            }
        };
        measure(&node);
        next = Instant::now() + wait;
    }
}

fn measure(node: &Node) {
    let known = node.stamps.known();
    let failing = f64::from(known.failing.is_some());
    node.metrics.set(Gauge::TimeStampLate, &[], failing);
    if let Some(newest) = known.newest {
        let age = node.now().since(newest.stamp.at).as_secs_f64();
        node.metrics.set(Gauge::TimeStampAgeSeconds, &[], age);
    }
}

/// Finds the newest time-stamp that is in the log already.
async fn recall(node: &Arc<Node>, authority: &Authority) {
    let (node, trusted) = (node.clone(), authority.trusted().clone());
    let found = passerelle_host::blocking(move || {
        let entry = {
            let ledger = node.sequencer.ledger();
            let index = ledger.index.last(&Mark::TimeStamped)?;
            let bytes = ledger.log.entry(index).ok()?;
            Entry::decode(bytes.as_slice()).ok()?
        };
        let Some(Event::TimeStamped(event)) = &entry.event else {
            return None;
        };
        let (checkpoint, stamp) = read(event, &trusted).ok()?;
        node.stamps.stamped(Newest {
            size: checkpoint.size,
            stamp,
            asked: Timestamp::from_ms(entry.at_ms),
        });
        Some(())
    });
    // Where it cannot be found, the log is stamped at once.
    let _ = found.await;
}

/// Whether a time-stamp is due. One that was asked for in the future was so by a clock that was
/// wrong: it does not put the next one off until then.
fn is_due(asked: Option<Timestamp>, now: Timestamp, every: Duration) -> bool {
    asked.is_none_or(|asked| now.since(asked).max(asked.since(now)) >= every)
}

/// Has the log stamped if that is due and there is anything new in it.
async fn stamp(node: &Arc<Node>, authority: &Authority, every: Duration) -> Result<(), String> {
    let newest = node.stamps.newest();
    let asked = newest.as_ref().map(|newest| newest.asked);
    if !is_due(asked, node.now(), every) {
        return Ok(());
    }
    let known = newest.map_or(0, |newest| newest.size);
    let preparing = node.clone();
    let prepared = passerelle_host::blocking(move || {
        let mut ledger = preparing.sequencer.ledger();
        if !has_news(&ledger.log, known)? {
            return Ok(None);
        }
        let note = ledger.log.checkpoint(preparing.now());
        note.map(Some).map_err(|error| error.to_string())
    });
    let prepared = prepared.await.map_err(|error| error.to_string())??;
    let Some(note) = prepared else { return Ok(()) };
    let parsed = Note::parse(&note).map_err(|error| error.to_string())?;
    let checkpoint = Checkpoint::parse(parsed.text()).map_err(|error| error.to_string())?;
    let request = TimeStampRequest::new(parsed.text().as_bytes(), nonce());
    let request = request.map_err(|error| error.to_string())?;
    let asked = node.now();
    let (token, stamp) = authority.ask(&request).await?;
    if let Some(doubt) = &stamp.doubt {
        return Err(format!(
            "{doubt}: name its certificate in [time_stamp] authority"
        ));
    }
    // It says what time it is now: the answer repeats our random number.
    node.clock.heard(stamp.at, node.host_clock.moment());
    let event = Event::TimeStamped(v1::TimeStampedEvent {
        checkpoint: note,
        token,
    });
    let committed = node.sequencer.commit(event).await;
    committed.map_err(|error| error.to_string())?;
    let size = checkpoint.size;
    tracing::info!(size, at = %stamp.at, by = %stamp.authority, "our log was stamped");
    node.stamps.stamped(Newest { size, stamp, asked });
    Ok(())
}

#[cfg(test)]
mod tests {
    use passerelle_proto::fixture::NOW;

    use super::*;

    #[test]
    fn a_time_stamp_is_due_after_its_time_and_after_a_clock_that_was_wrong() {
        let every = Duration::from_secs(3600);
        let (second, year) = (Duration::from_secs(1), every * 24 * 365);
        assert!(is_due(None, NOW, every));
        for (asked, due) in [
            (NOW, false),
            (NOW.saturating_sub(every - second), false),
            (NOW.saturating_sub(every), true),
            (NOW.saturating_add(second), false),
            (NOW.saturating_add(year), true),
        ] {
            assert_eq!(is_due(Some(asked), NOW, every), due, "{asked}");
        }
    }

    #[test]
    fn what_fails_is_told_once_with_its_beginning_until_it_ends() {
        let stamps = Stamps::default();
        assert_eq!(stamps.words(), "");
        assert!(stamps.failed(NOW, "away"));
        let later = NOW.saturating_add(Duration::from_secs(60));
        assert!(!stamps.failed(later, "away"));
        assert!(stamps.failed(later, "refused"));
        assert_eq!(
            stamps.words(),
            format!("no time-stamp over our log since {NOW}: refused")
        );
    }
}
