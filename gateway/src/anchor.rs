//! Whether our log is known to be the one that others know; until then nothing is appended or
//! signed.
//!
//! A disk that was put back to an earlier state looks in order to its gateway: only a copy that
//! somebody else keeps can tell. So a start is unanchored until a peer's `Hello` brings a
//! checkpoint of ours that is a prefix of the log, or an operator answers for it. A log that nobody
//! can have seen anything of needs no anchor.

use std::fmt;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use passerelle_disk::crash_point;
use passerelle_host::Signal;
use passerelle_proto::v1::{self, Entry, entry::Event};
use passerelle_proto::{Hop, PartyId, Role};
use prost::Message;
use tokio::sync::Mutex;

use crate::exchange::software;
use crate::log::{AppendError, Fatal, Log};
use crate::node::Node;
use crate::sequencer::SubmitError;

/// How long an offer waits for the `Hello` that came with it to be looked at.
pub(crate) const ANCHOR_WAIT: Duration = Duration::from_secs(1);
/// Entries of a log that may be about nothing but its own starts.
const LONELY_MAX: u64 = 256;

/// What holds a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Nobody can know anything of this log.
    Fresh,
    /// This peer keeps a checkpoint of its first entries.
    Copy(Hop, u64),
    /// An operator answers for it.
    Operator,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fresh => f.write_str("itself: nobody knew anything of it before"),
            Self::Copy(hop, 1) => write!(f, "a copy of its first entry that {hop} keeps"),
            Self::Copy(hop, size) => {
                write!(f, "a copy of its first {size} entries that {hop} keeps")
            }
            Self::Operator => f.write_str("an operator, without a witness"),
        }
    }
}

#[derive(Clone, Debug)]
enum State {
    Unanchored,
    Held(Hold),
    /// Another history is known: nothing is appended any more, until the next start.
    Forked,
}

/// The gate in front of everything that appends or signs.
pub struct Anchor {
    state: std::sync::Mutex<State>,
    changed: Signal,
    // Whoever appends the first entries of a start.
    lifting: Mutex<()>,
}

impl Anchor {
    /// A gate that is closed.
    pub(crate) fn closed() -> Arc<Self> {
        Arc::new(Self {
            state: std::sync::Mutex::new(State::Unanchored),
            changed: Signal::default(),
            lifting: Mutex::default(),
        })
    }

    /// A gate that is open.
    #[must_use]
    pub fn open() -> Arc<Self> {
        let anchor = Self::closed();
        anchor.hold(Hold::Fresh);
        anchor
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether entries may be appended.
    pub(crate) fn is_held(&self) -> bool {
        matches!(*self.state(), State::Held(_))
    }

    /// Whether the first entries of a start may be appended.
    pub(crate) fn may_begin(&self) -> bool {
        !matches!(*self.state(), State::Forked)
    }

    /// What holds the log.
    pub(crate) fn held_by(&self) -> Option<Hold> {
        match &*self.state() {
            State::Held(hold) => Some(hold.clone()),
            State::Unanchored | State::Forked => None,
        }
    }

    /// Waits until the log is held; for ever when it turns out to be forked.
    pub(crate) async fn wait(&self) {
        let mut changes = self.changed.subscribe();
        while !self.is_held() {
            changes.changed().await;
        }
    }

    /// Waits a moment for the first `Hello`; whether the log is held.
    pub(crate) async fn soon(&self) -> bool {
        let _ = tokio::time::timeout(ANCHOR_WAIT, self.wait()).await;
        self.is_held()
    }

    /// Another history is known: closes for good.
    pub(crate) fn forked(&self) {
        *self.state() = State::Forked;
    }

    fn hold(&self, hold: Hold) {
        let mut state = self.state();
        if matches!(*state, State::Unanchored) {
            *state = State::Held(hold);
        }
        drop(state);
        self.changed.tell();
    }
}

/// Whether a peer's copy of our checkpoint counts: a witness's, or one of our own party's agent.
pub(crate) fn counts(peer: &Hop, party: &PartyId) -> bool {
    match peer.role {
        Role::Gateway => &peer.party != party,
        Role::Agent => &peer.party == party,
        Role::Operator => false,
    }
}

/// Whether a log speaks of nothing but its own starts, so that nobody can have relied on it.
///
/// # Errors
/// [`Fatal`] when it cannot be read.
pub(crate) fn is_lonely(log: &Log) -> Result<bool, Fatal> {
    let party = log.signer().party();
    if log.size() > LONELY_MAX {
        return Ok(false);
    }
    let entries = log.entries(0, LONELY_MAX)?;
    Ok(entries.iter().all(|bytes| {
        let event = Entry::decode(bytes.as_slice())
            .ok()
            .and_then(|entry| entry.event);
        match event {
            Some(Event::Started(_) | Event::Stopped(_) | Event::Counted(_)) => true,
            // The first entry of a log that has taken the place of a lost one.
            Some(Event::Epoch(epoch)) => epoch.party == party.as_str(),
            // That we have cosigned a partner's log shows nobody anything of ours.
            Some(Event::Cosigned(cosigned)) => !cosigned.ours,
            _ => false,
        }
    }))
}

/// Opens the gate: appends what a start appends first, and signs a checkpoint of it. `false`: it
/// is open already.
///
/// # Errors
/// [`SubmitError`]; the gate is still closed then, and this may be tried again.
pub(crate) async fn lift(node: &Arc<Node>, hold: Hold) -> Result<bool, SubmitError> {
    let anchor = &node.anchor;
    let _one = anchor.lifting.lock().await;
    if anchor.is_held() {
        return Ok(false);
    }
    if hold == Hold::Operator {
        let act = v1::OperatorEvent {
            act: "audit anchor --without-witness".to_owned(),
            ..v1::OperatorEvent::default()
        };
        node.sequencer.begin(Event::Operator(act)).await?;
    }
    let (anchored_by, anchored_size) = match &hold {
        Hold::Copy(hop, size) => (Some(hop.to_message()), *size),
        Hold::Fresh | Hold::Operator => (None, 0),
    };
    let started = v1::StartedEvent {
        software: software(),
        convention: node.directory().convention().digest().0.to_vec(),
        anchored_by,
        anchored_size,
    };
    node.sequencer.begin(Event::Started(started)).await?;
    crash_point!("start.anchored");
    tracing::info!(by = %hold, "the log is anchored");
    anchor.hold(hold);
    let signing = node.clone();
    let signed = passerelle_host::blocking(move || signing.checkpoint()).await;
    match signed {
        Ok(Err(AppendError::Fatal(fatal))) => node.fail(fatal.to_string()),
        Ok(Err(error @ AppendError::Full)) => tracing::warn!(%error, "it is signed later"),
        Ok(Ok(())) | Err(_) => {}
    }
    Ok(true)
}

/// As [`lift`], for whoever can only try: a full disk is met again by the next one.
pub(crate) async fn try_lift(node: &Arc<Node>, hold: Hold) {
    if let Err(error) = lift(node, hold).await {
        tracing::warn!(%error, "the log could not be anchored");
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use passerelle_proto::LogSigner;
    use passerelle_proto::fixture::party;

    use super::*;

    fn log(dir: &std::path::Path) -> Log {
        Log::open(
            &passerelle_disk::system(),
            dir,
            LogSigner::from_seed(&party("caf21"), &[1; 64]),
        )
        .unwrap()
    }

    fn entry(event: Event) -> Vec<u8> {
        let event = Some(event);
        Entry { at_ms: 1, event }.encode_to_vec()
    }

    #[test]
    fn a_log_of_nothing_but_starts_needs_no_anchor_and_any_other_does() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path());
        assert!(is_lonely(&log).unwrap());
        let started = entry(Event::Started(v1::StartedEvent::default()));
        let stopped = entry(Event::Stopped(v1::StoppedEvent::default()));
        log.append(&[started.clone(), stopped, started.clone()])
            .unwrap();
        assert!(is_lonely(&log).unwrap());
        let cosigned = |ours| {
            entry(Event::Cosigned(v1::CosignedEvent {
                ours,
                ..v1::CosignedEvent::default()
            }))
        };
        log.append(&[cosigned(false)]).unwrap();
        assert!(is_lonely(&log).unwrap());
        log.append(&[cosigned(true)]).unwrap();
        assert!(!is_lonely(&log).unwrap());
    }

    #[test]
    fn a_log_of_too_many_starts_needs_an_anchor() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path());
        let started = entry(Event::Started(v1::StartedEvent::default()));
        for _ in 0..=LONELY_MAX {
            log.append(std::slice::from_ref(&started)).unwrap();
        }
        assert!(!is_lonely(&log).unwrap());
    }

    #[test]
    fn copies_of_witnesses_and_of_our_own_agents_count() {
        let ours = party("grand-dijon");
        assert!(counts(&Hop::gateway(party("caf21")), &ours));
        assert!(counts(&Hop::agent(ours.clone()), &ours));
        assert!(!counts(&Hop::agent(party("prestataire-obs")), &ours));
        assert!(!counts(&Hop::gateway(ours.clone()), &ours));
    }

    #[test]
    fn a_fork_closes_the_gate_for_good() {
        let anchor = Anchor::closed();
        assert!(anchor.wait().now_or_never().is_none());
        anchor.hold(Hold::Operator);
        assert!(anchor.wait().now_or_never().is_some());
        anchor.forked();
        anchor.hold(Hold::Fresh);
        assert!(!anchor.is_held() && !anchor.may_begin());
    }
}
