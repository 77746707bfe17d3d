//! Statements that have not come are asked for, and those that a partner asks for are sent again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use passerelle_host::{Changes, Signal, monotonic};
use passerelle_proto::v1::{self, Inquire, Signed, entry::Event, statement::What};
use passerelle_proto::{Hop, INQUIRE_MAX, PartyId, Role, VerifiedStatement};
use prost::Message;

use crate::metrics::Gauge;
use crate::node::Node;
use crate::own_statement::OwnStatement;
use crate::sequences::{Gap, Sequence, place_of};

/// How often it is looked at what is missing.
pub(crate) const GAPS_EVERY: Duration = Duration::from_secs(5);
/// How long a statement may come later than one behind it: they travel on several streams.
const GAP_GRACE: Duration = Duration::from_secs(10);
/// Wait until the same statements are asked for once more; doubled every time.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Longest wait between two inquiries about the same.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(6 * 3600);
/// Shortest time between two answers to one peer; what is asked sooner is asked again later.
const ANSWER_EVERY: Duration = Duration::from_secs(5);
/// Entries, from the newest back, among which the statements asked for are looked for.
const LOOK_BACK_MAX: u64 = 1_000_000;
/// Entries read at once.
const READ_AT_ONCE: u64 = 1024;
/// Peers for which answers wait.
const PEERS_MAX: usize = 1024;

struct Watched {
    first: u64,
    since: Instant,
    asked: u32,
    // When it is asked for next.
    next: Instant,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Signed>,
    answered: Option<Instant>,
}

/// What is missing here, and what is to be sent again. In memory: whoever lacks something still
/// asks again.
#[derive(Default)]
pub(crate) struct Inquiries {
    watched: Mutex<BTreeMap<Sequence, Watched>>,
    lines: Mutex<BTreeMap<Hop, Line>>,
    changed: Signal,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inquiries {
    /// The next statement that this peer has asked for.
    pub(crate) fn pop(&self, hop: &Hop) -> Option<Signed> {
        locked(&self.lines).get_mut(hop)?.waiting.pop_front()
    }

    /// Changes when something is to be sent again.
    pub(crate) fn changed(&self) -> Changes {
        self.changed.subscribe()
    }

    /// Whether an answer to this peer may be begun now.
    fn admit(&self, hop: &Hop, now: Instant) -> bool {
        let mut lines = locked(&self.lines);
        if lines.len() >= PEERS_MAX && !lines.contains_key(hop) {
            return false;
        }
        let line = lines.entry(hop.clone()).or_default();
        let early = line
            .answered
            .is_some_and(|at| now.saturating_duration_since(at) < ANSWER_EVERY);
        if early || !line.waiting.is_empty() {
            return false;
        }
        line.answered = Some(now);
        true
    }

    fn put(&self, hop: &Hop, statements: Vec<Signed>) {
        let mut lines = locked(&self.lines);
        lines
            .entry(hop.clone())
            .or_default()
            .waiting
            .extend(statements);
        drop(lines);
        self.changed.tell();
    }

    /// Notes what is missing now; the gaps that are to be asked for, and those that show.
    fn watch(&self, gaps: Vec<Gap>, now: Instant) -> (Vec<Gap>, Vec<Gap>) {
        let mut watched = locked(&self.watched);
        watched.retain(|sequence, known| {
            let still = |gap: &&Gap| gap.sequence == *sequence && gap.first == known.first;
            gaps.iter().any(|gap| still(&gap))
        });
        let (mut due, mut late) = (Vec::new(), Vec::new());
        for gap in gaps {
            let known = watched.entry(gap.sequence.clone()).or_insert(Watched {
                first: gap.first,
                since: now,
                asked: 0,
                next: now + GAP_GRACE,
            });
            if now.saturating_duration_since(known.since) < GAP_GRACE {
                continue;
            }
            if now >= known.next {
                let wait = ASK_AGAIN.saturating_mul(1 << known.asked.min(16));
                known.next = now + wait.min(ASK_AGAIN_MAX);
                known.asked = known.asked.saturating_add(1);
                due.push(gap.clone());
            }
            late.push(gap);
        }
        (due, late)
    }
}

/// What is missing of what is said to parties that we serve.
fn gaps(node: &Node) -> Vec<Gap> {
    let directory = node.directory();
    let convention = directory.convention();
    let ours = |party: &PartyId| convention.gateway_of(party) == Some(&node.party);
    let gaps = node.sequencer.ledger().sequences.gaps();
    gaps.into_iter()
        .filter(|gap| ours(&gap.sequence.destination))
        .collect()
}

/// The gaps that have lasted too long, in words; empty: there are none.
pub(crate) fn words(node: &Node) -> String {
    let watched = locked(&node.inquiries.watched);
    let late = |gap: &Gap| {
        let known = watched.get(&gap.sequence);
        known.is_some_and(|known| known.since.elapsed() >= GAP_GRACE)
    };
    let gaps = gaps(node);
    let late: Vec<String> = gaps.iter().filter(|gap| late(gap)).map(one).collect();
    late.join("; ")
}

fn one(gap: &Gap) -> String {
    let Gap {
        sequence,
        first,
        last,
        ..
    } = gap;
    let (numbers, have) = match first == last {
        true => (format!("statement {first}"), "has"),
        false => (format!("statements {first} to {last}"), "have"),
    };
    let Sequence {
        issuer,
        role,
        destination,
    } = sequence;
    format!("{numbers} of {issuer}/{role} to {destination} {have} not come")
}

/// Looks at what is missing, and asks for it.
pub(crate) async fn look(node: &Arc<Node>) {
    let now = monotonic();
    let (due, late) = node.inquiries.watch(gaps(node), now);
    let missing: u64 = late.iter().map(|gap| gap.last - gap.first + 1).sum();
    node.metrics
        .set(Gauge::MissingStatements, &[], missing as f64);
    for gap in due {
        let what = one(&gap);
        tracing::error!(
            what,
            "a sequence of statements has a gap: a word was dropped on its way"
        );
        if let Err(error) = ask(node, gap).await {
            tracing::warn!(%error, "it is asked for later");
        }
    }
}

async fn ask(node: &Arc<Node>, gap: Gap) -> Result<(), crate::sequencer::SubmitError> {
    let directory = node.directory();
    let gateway = directory.convention().gateway_of(&gap.sequence.issuer);
    // An agent that we serve keeps what it has handed to nobody but us.
    let Some(gateway) = gateway.filter(|gateway| **gateway != node.party).cloned() else {
        return Ok(());
    };
    let asked = Inquire {
        issuer: gap.sequence.issuer.to_string(),
        role: gap.sequence.role.to_string(),
        destination: gap.sequence.destination.to_string(),
        first: gap.first,
        last: gap.last.min(gap.first + INQUIRE_MAX - 1),
    };
    let next_hop = Some(Hop::gateway(gateway.clone()));
    let words = move |_| Ok(What::Inquire(asked));
    let statement = OwnStatement::new(node.party.clone(), gateway, gap.package, next_hop, words);
    node.sequencer.accept(statement).await.map(drop)
}

/// Whether a peer may ask this: statements of parties that we serve, to parties that it serves.
pub(crate) fn may_ask(
    node: &Node,
    by: &Hop,
    statement: &VerifiedStatement,
    asked: &Inquire,
) -> bool {
    let directory = node.directory();
    let convention = directory.convention();
    let served = |party: &str, gateway: &PartyId| {
        let party = party.parse::<PartyId>().ok();
        party.is_some_and(|party| convention.gateway_of(&party) == Some(gateway))
    };
    by.role == Role::Gateway
        && statement.issuer() == &by.party
        && statement.destination() == &node.party
        && served(&asked.issuer, &node.party)
        && served(&asked.destination, &by.party)
}

/// Sends again what a peer has asked for, as far as it is stored here.
pub(crate) async fn answer(node: Arc<Node>, by: Hop, asked: Inquire) {
    if !node.inquiries.admit(&by, monotonic()) {
        tracing::info!(%by, "it asks too often: its inquiry is left aside");
        return;
    }
    let reading = node.clone();
    let wanted = asked.clone();
    let found = passerelle_host::blocking(move || stored(&reading, &wanted)).await;
    match found {
        Ok(Ok(statements)) => {
            let (count, first, last) = (statements.len(), asked.first, asked.last);
            tracing::info!(%by, first, last, count, "statements are sent again that it lacks");
            node.inquiries.put(&by, statements);
        }
        Ok(Err(fatal)) => node.fail(fatal.to_string()),
        Err(_) => {}
    }
}

/// The statements asked for, ascending. Blocks for reading the log.
fn stored(node: &Node, asked: &Inquire) -> Result<Vec<Signed>, crate::log::Fatal> {
    let mut found: BTreeMap<u64, Signed> = BTreeMap::new();
    let wanted = asked.last.saturating_sub(asked.first) + 1;
    let mut end = node.sequencer.ledger().log.size();
    let oldest = end.saturating_sub(LOOK_BACK_MAX);
    while end > oldest && (found.len() as u64) < wanted {
        let first = end.saturating_sub(READ_AT_ONCE).max(oldest);
        // The lock is held for one page: commits go on in between.
        let entries = node.sequencer.ledger().log.entries(first, end - first)?;
        for bytes in entries {
            let entry = v1::Entry::decode(bytes.as_slice()).ok();
            let Some((signed, from)) = entry.and_then(|entry| spoken(entry.event?)) else {
                continue;
            };
            let Ok(body) = v1::Statement::decode(signed.body.as_slice()) else {
                continue;
            };
            let place = place_of(&body, from.as_ref());
            if let Some((sequence, seq)) = place
                && is_of(&sequence, asked)
                && (asked.first..=asked.last).contains(&seq)
            {
                found.insert(seq, signed);
            }
        }
        end = first;
    }
    Ok(found.into_values().collect())
}

fn is_of(sequence: &Sequence, asked: &Inquire) -> bool {
    sequence.issuer.as_str() == asked.issuer
        && sequence.role.as_str() == asked.role
        && sequence.destination.as_str() == asked.destination
}

/// The statement in an entry, and whom it came from.
fn spoken(event: Event) -> Option<(Signed, Option<Hop>)> {
    match event {
        Event::Accepted(event) => Some((event.receipt?, None)),
        Event::Statement(event) => {
            let from = event.from.as_ref().and_then(Hop::from_message);
            Some((event.statement?, from))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use passerelle_proto::fixture::party;
    use passerelle_proto::{Digest, PackageId};

    use super::*;

    fn gap(first: u64) -> Gap {
        Gap {
            sequence: Sequence {
                issuer: party("grand-dijon"),
                role: Role::Agent,
                destination: party("caf21"),
            },
            first,
            last: first + 1,
            package: PackageId(Digest::of(b"")),
        }
    }

    #[test]
    fn a_gap_is_asked_for_when_it_lasts_and_ever_less_often_and_forgotten_when_it_is_filled() {
        let inquiries = Inquiries::default();
        let start = Instant::now();
        let mut asked = Vec::new();
        for second in 0..400 {
            let now = start + Duration::from_secs(second);
            let (due, late) = inquiries.watch(vec![gap(3)], now);
            assert_eq!(late.len(), usize::from(second >= 10));
            asked.extend(due.iter().map(|_| second));
        }
        assert_eq!(asked, [10, 70, 190]);
        let now = start + Duration::from_secs(400);
        assert_eq!(inquiries.watch(Vec::new(), now), (Vec::new(), Vec::new()));
        assert_eq!(inquiries.watch(vec![gap(3)], now).1, []);
    }

    #[test]
    fn one_peer_is_answered_once_in_a_while_and_the_others_all_the_same() {
        let inquiries = Inquiries::default();
        let (one, other) = (
            Hop::gateway(party("caf21")),
            Hop::gateway(party("grand-dijon")),
        );
        let now = Instant::now();
        assert!(inquiries.admit(&one, now));
        assert!(!inquiries.admit(&one, now + ANSWER_EVERY / 2));
        assert!(inquiries.admit(&other, now));
        assert!(inquiries.admit(&one, now + ANSWER_EVERY));
        inquiries.put(&one, vec![Signed::default()]);
        assert!(
            !inquiries.admit(&one, now + 2 * ANSWER_EVERY),
            "it has not taken the first"
        );
        assert!(inquiries.pop(&one).is_some() && inquiries.pop(&one).is_none());
        assert!(inquiries.admit(&one, now + 2 * ANSWER_EVERY));
    }
}
