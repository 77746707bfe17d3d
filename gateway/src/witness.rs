//! Partners' logs: cosigning theirs, and having ours cosigned.

mod epoch;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use passerelle_disk::crash_point;
use passerelle_link::{Carry, Connection, Peer, peer_of};
use passerelle_proto::v1::witness_client::WitnessClient;
use passerelle_proto::v1::witness_server::Witness;
use passerelle_proto::v1::{
    self, AddCheckpointRequest, AddCheckpointResponse, Entry, entry::Event,
};
use passerelle_proto::{
    Checkpoint, CheckpointError, LogVerifier, PartyId, Role, Timestamp, add_checkpoint_body,
    lines_of, with_cosignatures, witness,
};
use prost::Message;
use tokio::time::Instant;
use tonic::{Request, Response, Status, async_trait};

use crate::freshness::renewal;
use crate::log::Log;
use crate::metrics::Gauge;
use crate::node::Node;

/// Shortest time between two checkpoints.
pub(crate) const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for a witness.
const WITNESS_TIMEOUT: Duration = Duration::from_secs(10);
/// After this time a new link, or a request that failed, is reason enough to ask again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Entries looked at to see whether there is anything new to cosign.
const LOOK_BACK_MAX: u64 = 4096;

/// The keys that sign a party's log now, from its sheet.
pub(crate) fn log_of(node: &Node, party: &PartyId) -> Option<LogVerifier> {
    node.directory().log(party).cloned()
}

/// Serves `Witness.AddCheckpoint`.
pub(crate) struct WitnessService(pub(crate) Arc<Node>);

#[async_trait]
impl Witness for WitnessService {
    async fn add_checkpoint(
        &self,
        request: Request<AddCheckpointRequest>,
    ) -> Result<Response<AddCheckpointResponse>, Status> {
        let peer = peer_of(&request)?;
        let answer = self.answer(peer, request.into_inner()).await;
        answer.map(Response::new)
    }
}

impl WitnessService {
    /// Answers a peer that asks for a cosignature.
    pub(crate) async fn answer(
        &self,
        peer: Peer,
        request: AddCheckpointRequest,
    ) -> Result<AddCheckpointResponse, Status> {
        if peer.hop.role != Role::Gateway {
            return Err(Status::permission_denied(
                "only gateways have a log to cosign",
            ));
        }
        if !self.0.anchor.soon().await {
            return Err(Status::unavailable(
                "nobody has shown a copy of our own log since our start: ask again",
            ));
        }
        let (node, party) = (self.0.clone(), peer.hop.party);
        let body = request.body;
        epoch::follow(&node, &party, &body)
            .await
            .map_err(Status::unavailable)?;
        let (answer, seen) = {
            let (node, party) = (node.clone(), party.clone());
            let work = move || cosign(&node, &party, &body);
            let done = passerelle_host::blocking(work).await;
            done.map_err(|_| Status::unavailable("stopping"))??
        };
        if let Some(checkpoint) = seen {
            let event = Event::Cosigned(v1::CosignedEvent {
                party: party.to_string(),
                ours: false,
                checkpoint,
            });
            let committed = node.sequencer.commit(event).await;
            committed.map_err(|error| Status::unavailable(error.to_string()))?;
        }
        Ok(answer)
    }
}

type Cosigned = (AddCheckpointResponse, Option<Vec<u8>>);

/// The last checkpoint of a partner's log that we have cosigned; nothing when there is none that
/// can be believed.
pub(crate) fn kept(node: &Node, party: &PartyId) -> Vec<u8> {
    let path = node.witnessed_path(party);
    let kept = node.read_if_there(&path);
    if kept.is_empty() {
        return kept;
    }
    match Checkpoint::verify_any(&kept, node.directory().log_keys(party)) {
        Ok(_) => kept,
        Err(error) => {
            let why = unbelievable(&path, &error);
            tracing::error!(%party, why, "the checkpoint kept of a partner's log is damaged");
            Vec::new()
        }
    }
}

fn unbelievable(path: &Path, error: &CheckpointError) -> String {
    format!(
        "{}: {error}: remove it, or restore it from a backup; without it the partner's log is \
         believed as it stands next",
        path.display()
    )
}

fn cosign(node: &Node, party: &PartyId, body: &[u8]) -> Result<Cosigned, Status> {
    let log = log_of(node, party).ok_or_else(|| Status::not_found("your sheet names no log"))?;
    let path = node.witnessed_path(party);
    // One request at a time: two must never be answered for one size with two roots.
    let ledger = node.sequencer.ledger();
    let kept = node.read_if_there(&path);
    let known = match kept.is_empty() {
        true => None,
        false => Some(
            Checkpoint::verify_any(&kept, node.directory().log_keys(party)).map_err(|error| {
                let why = unbelievable(&path, &error);
                tracing::error!(%party, why, "a partner's log cannot be cosigned");
                Status::internal("what is kept of your log here is damaged")
            })?,
        ),
    };
    let answer = witness(body, &log, known.as_ref(), ledger.log.signer(), node.now());
    let mut seen = None;
    if answer.seen.is_some() {
        let note = with_cosignatures(note_of(body), &answer.body);
        // What others have written under it would make our log unverifiable for good.
        let note = lines_of(&note, &[&log, ledger.log.signer().verifier()]);
        let note = note.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let kept = node.replace(&path, &note);
        kept.map_err(|error| Status::unavailable(error.to_string()))?;
        crash_point!("witness.kept");
        seen = Some(note);
    }
    let answer = AddCheckpointResponse {
        status: answer.status,
        body: answer.body,
    };
    Ok((answer, seen))
}

/// The checkpoint in a request: it stands behind the first empty line.
fn note_of(body: &[u8]) -> &[u8] {
    let start = body.windows(2).position(|pair| pair == b"\n\n");
    &body[start.map_or(0, |at| at + 2)..]
}

/// A connection to a gateway that cosigns our log.
#[async_trait]
pub trait Partner: Send + Sync {
    /// Asks for a cosignature.
    ///
    /// # Errors
    /// What the partner or the connection says.
    async fn cosign(&self, request: AddCheckpointRequest) -> Result<AddCheckpointResponse, Status>;
}

#[async_trait]
impl Partner for Connection {
    async fn cosign(&self, request: AddCheckpointRequest) -> Result<AddCheckpointResponse, Status> {
        let mut client = WitnessClient::with_origin(self.channel(), self.origin());
        let answer = client.add_checkpoint(Request::new(request)).await;
        answer.map(Response::into_inner)
    }
}

/// Has our log cosigned by a partner for as long as a connection to it lives.
pub(crate) async fn keep_cosigned(node: Arc<Node>, mut connection: impl Carry + Partner) {
    let party = connection.peer().hop.party.clone();
    let mut size = node.sequencer.size();
    tokio::select! {
        biased;
        () = node.anchor.wait() => {}
        _ = connection.closed() => return,
        () = node.stop.cancelled() => return,
    }
    let every = renewal(&node.limits);
    let mut due_at = Instant::now() + not_due_for(&node, &party, every);
    loop {
        let due = Instant::now() >= due_at;
        match ask(&node, &party, &connection, due).await {
            Ok(true) => due_at = Instant::now() + every,
            Ok(false) => {}
            Err(why) => {
                tracing::warn!(partner = %party, why, "our log was not cosigned");
                due_at = Instant::now() + every.min(ASK_AGAIN_AFTER);
            }
        }
        tokio::select! {
            biased;
            _ = connection.closed() => return,
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep(CHECKPOINT_EVERY) => {}
        }
        tokio::select! {
            biased;
            changed = size.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(due_at) => {}
            _ = connection.closed() => return,
            () = node.stop.cancelled() => return,
        }
    }
}

/// For how long a new link needs no new cosignature if nothing was appended since the last one.
fn not_due_for(node: &Node, party: &PartyId, every: Duration) -> Duration {
    let fresh_for = every.min(ASK_AGAIN_AFTER);
    let age = cosigned(node, party).map(|(_, at)| node.now().since(at));
    fresh_for.saturating_sub(age.unwrap_or(fresh_for))
}

/// Asks for a cosignature if there is anything new, or if one is `due`; whether there is one.
async fn ask(
    node: &Arc<Node>,
    party: &PartyId,
    partner: &impl Partner,
    due: bool,
) -> Result<bool, String> {
    let prepared = {
        let (node, party) = (node.clone(), party.clone());
        let work = move || prepare(&node, &party, due);
        passerelle_host::blocking(work)
            .await
            .map_err(|error| error.to_string())??
    };
    let Some((note, mut body)) = prepared else {
        return Ok(false);
    };
    for _ in 0..2 {
        let request = AddCheckpointRequest { body: body.clone() };
        let answered = tokio::time::timeout(WITNESS_TIMEOUT, partner.cosign(request)).await;
        let answer = answered.map_err(|_| "no answer within 10 s".to_owned())?;
        let answer = answer.map_err(|status| status.message().to_owned())?;
        match answer.status {
            200 => return keep(node, party, &note, &answer.body).await.map(|()| true),
            // The partner knows another size than we thought: prove from there.
            409 => {
                let text = String::from_utf8_lossy(&answer.body);
                let old: u64 = text
                    .trim()
                    .parse()
                    .map_err(|_| format!("the partner refuses (409): {}", text.trim()))?;
                body = proof_body(node, old, &note)?;
            }
            status => {
                let why = String::from_utf8_lossy(&answer.body).trim().to_owned();
                return Err(format!("the partner refuses ({status}): {why}"));
            }
        }
    }
    Err("the partner's size keeps changing".into())
}

type Prepared = Option<(Vec<u8>, Vec<u8>)>;

/// A fresh checkpoint and the request for it; `None` when there is nothing new and none is `due`.
fn prepare(node: &Node, party: &PartyId, due: bool) -> Result<Prepared, String> {
    let known = cosigned_size(node, party);
    let mut ledger = node.sequencer.ledger();
    let size = ledger.log.size();
    if size == known && !due {
        return Ok(None);
    }
    if !has_news(&ledger.log, known)? && !due {
        return Ok(None);
    }
    let note = ledger
        .log
        .checkpoint(node.now())
        .map_err(|error| error.to_string())?;
    drop(ledger);
    let body = proof_body(node, known, &note)?;
    Ok(Some((note, body)))
}

/// Whether entries from `known` on say anything but that the log was cosigned or stamped: that
/// alone need not be cosigned or stamped itself, or it never ends.
pub(crate) fn has_news(log: &Log, known: u64) -> Result<bool, String> {
    let size = log.size();
    let look_from = known.max(size.saturating_sub(LOOK_BACK_MAX));
    let entries = log.entries(look_from, size);
    let entries = entries.map_err(|error| error.to_string())?;
    Ok(entries.iter().any(|bytes| {
        let entry = Entry::decode(bytes.as_slice());
        !entry.is_ok_and(|entry| {
            matches!(
                entry.event,
                Some(Event::Cosigned(_) | Event::TimeStamped(_))
            )
        })
    }))
}

fn proof_body(node: &Node, old: u64, note: &[u8]) -> Result<Vec<u8>, String> {
    let ledger = node.sequencer.ledger();
    let checkpoint = ledger.log.verify(note).map_err(|error| error.to_string())?;
    if old > checkpoint.size {
        return Err(format!(
            "the partner knows {old} entries, and we have {}",
            checkpoint.size
        ));
    }
    let proof = ledger.log.consistency_proof(old, checkpoint.size);
    let proof = proof.map_err(|error| error.to_string())?;
    Ok(add_checkpoint_body(old, &proof, note))
}

/// Entries of our log that a partner has cosigned.
pub(crate) fn cosigned_size(node: &Node, party: &PartyId) -> u64 {
    cosigned(node, party).map_or(0, |(size, _)| size)
}

/// Entries of our log that a partner has cosigned, and when.
pub(crate) fn cosigned(node: &Node, party: &PartyId) -> Option<(u64, Timestamp)> {
    let note = node.read_if_there(&node.cosigned_path(party));
    let directory = node.directory();
    let partner = directory.log_keys(party);
    let (checkpoint, at) = Checkpoint::verify_cosigned_any(&note, partner).ok()?;
    Some((checkpoint.size, at))
}

async fn keep(node: &Arc<Node>, party: &PartyId, note: &[u8], lines: &[u8]) -> Result<(), String> {
    let cosigned = with_cosignatures(note, lines);
    let partner = log_of(node, party).ok_or("its sheet names no log")?;
    let verified = Checkpoint::verify_cosigned(&cosigned, &partner);
    let (checkpoint, at) = verified.map_err(|error| error.to_string())?;
    let own = node.sequencer.ledger().log.signer().verifier().clone();
    let cosigned = lines_of(&cosigned, &[&own, &partner]).map_err(|error| error.to_string())?;
    // It says what the partner's clock shows, at least every hour; a greeting may be a day old.
    node.clock.heard(at, node.host_clock.moment());
    let path = node.cosigned_path(party);
    let kept = node.replace(&path, &cosigned);
    kept.map_err(|error| error.to_string())?;
    crash_point!("witness.cosigned");
    let label = party.to_string();
    let size = checkpoint.size as f64;
    node.metrics
        .set(Gauge::CosignedEntries, &[("partner", &label)], size);
    let event = Event::Cosigned(v1::CosignedEvent {
        party: party.to_string(),
        ours: true,
        checkpoint: cosigned,
    });
    let committed = node.sequencer.commit(event).await;
    committed.map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use passerelle_proto::LogSigner;
    use passerelle_proto::fixture::party;

    use super::*;

    #[test]
    fn that_a_log_was_cosigned_or_stamped_is_no_news_and_all_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let signer = LogSigner::from_seed(&party("caf21"), &[1; 64]);
        let mut log = Log::open(&passerelle_disk::system(), dir.path(), signer).unwrap();
        let mut append = |event: Event| {
            let event = Some(event);
            let entry = Entry { at_ms: 1, event }.encode_to_vec();
            log.append(&[entry]).unwrap();
            [0, 2].map(|known| has_news(&log, known).unwrap())
        };
        let cosigned = Event::Cosigned(v1::CosignedEvent::default());
        let stamped = Event::TimeStamped(v1::TimeStampedEvent::default());
        assert_eq!(append(cosigned), [false, false]);
        assert_eq!(append(stamped.clone()), [false, false]);
        let started = Event::Started(v1::StartedEvent::default());
        assert_eq!(append(started), [true, true]);
        assert_eq!(append(stamped), [true, true]);
        assert!(!has_news(&log, 3).unwrap());
    }
}
