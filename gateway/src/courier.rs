//! Handing over what waits: packages and statements, one lease at a time.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use passerelle_disk::crash_point;
use passerelle_host::{jitter, monotonic};
use passerelle_link::{Outbound, Outgoing, Peer, Room};
use passerelle_proto::session::Answer;
use passerelle_proto::v1::{self, Lane, Section, Signed, entry::Event, statement::What};
use passerelle_proto::{
    Damage, Hop, INLINE_LEN_MAX, KeyRole, Role, SoundReader, StoredError, UntrustedStatement,
    VerifiedManifest, VerifiedStatement, busy_words,
};
use prost::Message;
use tonic::async_trait;

use crate::breaker::{FIRST_RETRY, RETRY_MAX};
use crate::damage;
use crate::log::Fatal;
use crate::metrics::Counter;
use crate::node::Node;
use crate::own_statement::OwnStatement;
use crate::queue::{Class, Item, ItemKey, Lease, LeaseToken, Settle};
use crate::sequencer::SubmitError;
use crate::spool::{PackReader, SpoolError};

/// A lease of a statement that is on its way.
pub(crate) struct StatementLease {
    pub(crate) token: LeaseToken,
    pub(crate) key: ItemKey,
}

/// Waits for something to hand over on a stream.
pub(crate) async fn next(
    node: &Arc<Node>,
    peer: &Peer,
    lane: Lane,
    room: Room,
    leased: impl Fn(&Signed, StatementLease),
) -> Outgoing {
    let mut classes = Vec::new();
    if room.statement {
        classes.push(Class::Statement);
    }
    if room.package {
        classes.push(match lane {
            Lane::Control => Class::Small,
            Lane::Bulk | Lane::Unspecified => Class::Bulk,
        });
    }
    let mut changed = node.queue.changed();
    let mut circuits = node.circuits.changed();
    let mut asked = node.inquiries.changed();
    loop {
        changed.mark_unchanged();
        asked.mark_unchanged();
        circuits.mark_unchanged();
        if room.statement
            && let Some(signed) = node.inquiries.pop(&peer.hop)
        {
            return Outgoing::Statement(signed);
        }
        let mut wake: Option<Instant> = None;
        for class in &classes {
            if let Some(outgoing) = claim(node, peer, *class, &leased) {
                return outgoing;
            }
            wake = [wake, later(node, &peer.hop, *class)]
                .into_iter()
                .flatten()
                .min();
        }
        let wake = wake.map(|at| at.max(monotonic() + Duration::from_millis(10)));
        let sleep = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = changed.changed() => {}
            () = circuits.changed() => {}
            () = asked.changed() => {}
            () = sleep => {}
        }
    }
}

/// When there may be something to claim that cannot be claimed now.
fn later(node: &Node, hop: &Hop, class: Class) -> Option<Instant> {
    let now = monotonic();
    let queued = node.queue.next_attempt(hop, class, now)?;
    match class {
        Class::Statement => Some(queued),
        // While a probe is under way its end is waited for.
        Class::Small | Class::Bulk if node.circuits.is_free(hop, now) => Some(queued),
        Class::Small | Class::Bulk => {
            let free = node.circuits.next_attempt(hop, now)?;
            Some(free.max(queued))
        }
    }
}

fn claim(
    node: &Arc<Node>,
    peer: &Peer,
    class: Class,
    leased: &impl Fn(&Signed, StatementLease),
) -> Option<Outgoing> {
    let package = class != Class::Statement;
    let now = monotonic();
    if package && !node.circuits.is_free(&peer.hop, now) {
        return None;
    }
    let claimed = node.queue.claim(&peer.hop, class, 1, now);
    let lease = match claimed {
        Ok(mut leases) => leases.pop()?,
        Err(error) => {
            node.fail(error.to_string());
            return None;
        }
    };
    let token = lease.token;
    let item = lease.item.clone();
    let outgoing = match class {
        Class::Statement => statement(node, &lease).map(|signed| {
            let key = lease.key;
            leased(&signed, StatementLease { token, key });
            Outgoing::Statement(signed)
        }),
        Class::Small | Class::Bulk => {
            let mut handing = Handing::new(node, peer, lease);
            if let Ok(handing) = &mut handing
                && !node.circuits.begin(&peer.hop)
            {
                handing.settle(Settle::Return);
                return None;
            }
            handing.map(|handing| Outgoing::Package(Box::new(handing)))
        }
    };
    match outgoing {
        Ok(outgoing) => Some(outgoing),
        Err(unreadable) => {
            node.queue
                .settle(token, put_off(node, item, unreadable, now));
            None
        }
    }
}

/// What becomes of an item that cannot be handed over now.
fn put_off(node: &Arc<Node>, item: Item, unreadable: Unreadable, now: Instant) -> Settle {
    let error = match unreadable {
        Unreadable::Never(error) => {
            // One bad item must not stop the others: an operator sees it parked.
            tracing::error!(%error, "an item cannot be read and is parked");
            return Settle::Park { error };
        }
        Unreadable::Later(error) => {
            tracing::warn!(%error, "an item cannot be read now");
            error
        }
        Unreadable::Log(fatal) => {
            node.fail(fatal.to_string());
            fatal.to_string()
        }
        Unreadable::Damaged(damage) => {
            let (node, error) = (node.clone(), damage.to_string());
            tokio::spawn(async move { damage::found(&node, &item, &damage).await });
            error
        }
    };
    Settle::Retry {
        at: now + RETRY_MAX,
        progress: false,
        error,
    }
}

fn statement(node: &Node, lease: &Lease) -> Result<Signed, Unreadable> {
    let bytes = node.sequencer.ledger().log.entry(lease.key.index);
    let bytes = bytes.map_err(Unreadable::Log)?;
    let entry = v1::Entry::decode(bytes.as_slice()).map_err(|error| error.to_string())?;
    match entry.event {
        Some(Event::Statement(event)) => Ok(event.statement.ok_or("no statement".to_owned())?),
        _ => Err("the log entry is no statement".to_owned().into()),
    }
}

/// Why an item cannot be handed over.
enum Unreadable {
    /// Our copy of a package is damaged.
    Damaged(Damage),
    /// The log cannot be read: the gateway must stop.
    Log(Fatal),
    /// The system says why, "too many open files": another time it may go.
    Later(String),
    /// It is not what it must be, and does not become it.
    Never(String),
}

impl From<String> for Unreadable {
    fn from(why: String) -> Self {
        Self::Never(why)
    }
}

impl From<StoredError> for Unreadable {
    fn from(error: StoredError) -> Self {
        match error {
            StoredError::Damaged(damage) => Self::Damaged(damage),
            StoredError::Io(error) => Self::Later(error.to_string()),
        }
    }
}

/// A package that is being handed over.
struct Handing {
    node: Arc<Node>,
    peer: Peer,
    lease: Lease,
    manifest: VerifiedManifest,
    receipt: Option<Signed>,
    // Away while a blocking thread has it.
    reader: Option<SoundReader<PackReader>>,
    inline: Bytes,
    /// Whether the peer has asked for data.
    progress: bool,
    settled: bool,
}

impl Handing {
    fn new(node: &Arc<Node>, peer: &Peer, lease: Lease) -> Result<Self, Unreadable> {
        let (manifest, event) = node
            .manifest_at(lease.key.index)
            .ok_or_else(|| format!("log entry {} accepts no package", lease.key.index))?;
        // The entry says where it lay at first; after a repair it may lie elsewhere.
        let location = lease.item.pack;
        let location = location.ok_or_else(|| "no place in the spool is known".to_owned())?;
        let opened = node.spool.reader(&manifest, &location);
        let opened = opened.map_err(|error| match error {
            SpoolError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Unreadable::Damaged(Damage::Gone)
            }
            error => Unreadable::Later(error.to_string()),
        })?;
        let mut reader = SoundReader::new(&manifest, opened);
        let inline = match manifest.total_length() <= INLINE_LEN_MAX {
            true => reader.inline()?,
            false => Bytes::new(),
        };
        Ok(Self {
            node: node.clone(),
            peer: peer.clone(),
            lease,
            receipt: match peer.hop.role {
                Role::Agent => event.receipt,
                // Without the one that it gave, the hop might refuse for good what it had taken.
                Role::Gateway | Role::Operator => node
                    .receipt_of(&manifest.id(), &peer.hop)
                    .map_err(Unreadable::Log)?,
            },
            manifest,
            reader: Some(reader),
            inline,
            progress: false,
            settled: false,
        })
    }

    /// Our copy is damaged: nothing of it is sent until it is repaired.
    async fn damaged(&mut self, damage: Damage) -> io::Error {
        let error = damage.to_string();
        self.retry(RETRY_MAX, error.clone());
        damage::found(&self.node, &self.lease.item, &damage).await;
        io::Error::other(error)
    }

    fn settle(&mut self, settle: Settle) {
        self.settled = true;
        self.node.queue.settle(self.lease.token, settle);
    }

    fn retry(&mut self, after: Duration, error: String) {
        self.settle(Settle::Retry {
            at: monotonic() + after,
            progress: self.progress,
            error,
        });
    }

    /// Tells the sender that its recipient's agent has every byte.
    async fn say_forwarded(&self) -> Result<(), SubmitError> {
        let sender = self.manifest.sender();
        for recipient in &self.lease.item.recipients {
            let said = v1::Forwarded {
                recipient: recipient.to_string(),
                tls_name: self.peer.tls_name.clone(),
            };
            let statement = OwnStatement::new(
                self.node.party.clone(),
                sender.clone(),
                self.manifest.id(),
                self.node.way_to(sender),
                move |_| Ok(What::Forwarded(said)),
            );
            self.node.sequencer.accept(statement).await?;
        }
        Ok(())
    }

    /// The peer has the package: an agent has taken it, or a gateway has signed for it.
    async fn handed_over(&mut self, receipt: Option<VerifiedStatement>) {
        crash_point!("forward.answered");
        if self.peer.hop.role == Role::Agent
            && let Err(error) = self.say_forwarded().await
        {
            return self.retry(FIRST_RETRY, error.to_string());
        }
        crash_point!("forward.said");
        let next_hop = Some(self.peer.hop.to_message());
        let mut events = vec![Event::Forwarded(v1::ForwardedEvent {
            package: self.manifest.id().as_bytes().to_vec(),
            next_hop: next_hop.clone(),
            receipt: None,
            tls_name: self.peer.tls_name.clone(),
        })];
        if let Some(receipt) = receipt {
            events.push(Event::Statement(v1::StatementEvent {
                statement: Some(receipt.signed().clone()),
                from: next_hop,
                next_hop: self
                    .node
                    .way_to(self.manifest.sender())
                    .map(|hop| hop.to_message()),
            }));
        }
        // The receipt first: a restart in between then offers again, and gets the same one.
        for event in events.into_iter().rev() {
            if let Err(error) = self.node.sequencer.commit(event).await {
                return self.retry(FIRST_RETRY, error.to_string());
            }
            crash_point!("forward.recorded");
        }
        crash_point!("forward.done");
        let label = self.peer.hop.to_string();
        self.node
            .metrics
            .add(Counter::Forwarded, &[("peer", &label)], 1);
        let package = self.manifest.id().short();
        tracing::info!(package, to = %self.peer.hop, "handed over");
        self.settle(Settle::Return);
    }

    async fn refused(&mut self, refusal: &VerifiedStatement) {
        let event = Event::Statement(v1::StatementEvent {
            statement: Some(refusal.signed().clone()),
            from: Some(self.peer.hop.to_message()),
            next_hop: self
                .node
                .way_to(self.manifest.sender())
                .map(|hop| hop.to_message()),
        });
        if let Err(error) = self.node.sequencer.commit(event).await {
            return self.retry(FIRST_RETRY, error.to_string());
        }
        let package = self.manifest.id();
        tracing::warn!(package = package.short(), by = %self.peer.hop, "refused by the next hop");
        self.settle(Settle::Return);
    }

    /// A statement of this very peer about this very package.
    fn verify(&self, signed: Signed) -> Result<VerifiedStatement, String> {
        let untrusted = UntrustedStatement::parse(signed).map_err(|error| error.to_string())?;
        let directory = self.node.directory();
        let key = directory
            .signing_key(&self.peer.hop.party, &untrusted.signer())
            .ok_or("its key is in no sheet of the peer that sent it")?;
        let role = match self.peer.hop.role {
            Role::Gateway => KeyRole::Gateway,
            Role::Agent | Role::Operator => KeyRole::Agent,
        };
        if !key.may(role) || key.revoked.is_some_and(|at| at <= self.node.now()) {
            return Err("its key is not one of the peer that sent it".into());
        }
        let statement = untrusted
            .verify(&key.key)
            .map_err(|error| error.to_string())?;
        match statement.package() == self.manifest.id() {
            true => Ok(statement),
            false => Err("it speaks of another package".into()),
        }
    }
}

/// Wait after so many attempts in vain: doubling from 200 ms to 5 minutes.
fn backoff(attempts: u32) -> Duration {
    FIRST_RETRY
        .saturating_mul(1 << attempts.saturating_sub(1).min(11))
        .min(RETRY_MAX)
}

impl Drop for Handing {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let hop = &self.peer.hop;
        let wait = self.node.circuits.failed(hop, monotonic(), jitter());
        let wait = match self.progress {
            true => wait,
            false => wait.max(backoff(self.lease.attempts)),
        };
        self.retry(wait, "the stream ended".into());
    }
}

#[async_trait]
impl Outbound for Handing {
    fn manifest(&self) -> &VerifiedManifest {
        &self.manifest
    }

    fn inline(&self) -> Bytes {
        self.node.sent(&self.peer, self.inline.len() as u64);
        self.inline.clone()
    }

    fn accepted(&self) -> Option<Signed> {
        self.receipt.clone()
    }

    async fn read(&mut self, section: Section, offset: u64, length: u64) -> io::Result<Bytes> {
        self.node.sent(&self.peer, length);
        if !std::mem::replace(&mut self.progress, true) {
            self.node.circuits.reached(&self.peer.hop);
        }
        let gone = || io::Error::other("the package is not open any more");
        let mut reader = self.reader.take().ok_or_else(gone)?;
        let work = move || {
            let bytes = reader.read(section, offset, length);
            (reader, bytes)
        };
        let (reader, bytes) = passerelle_host::blocking(work)
            .await
            .map_err(io::Error::other)?;
        self.reader = Some(reader);
        match bytes {
            Ok(bytes) => Ok(bytes),
            Err(StoredError::Io(error)) => {
                // Not a matter of the stream, at whose end it would be offered again at once.
                self.retry(RETRY_MAX, error.to_string());
                Err(error)
            }
            Err(StoredError::Damaged(damage)) => Err(self.damaged(damage).await),
        }
    }

    async fn answered(mut self: Box<Self>, answer: Answer) {
        let signed = match answer {
            Answer::Have => {
                self.node.circuits.reached(&self.peer.hop);
                return self.handed_over(None).await;
            }
            Answer::Statement(signed) => signed,
        };
        let statement = match self.verify(signed) {
            Ok(statement) => statement,
            Err(error) => {
                tracing::error!(peer = %self.peer, %error, "an answer cannot be believed");
                let hop = &self.peer.hop;
                self.node.circuits.failed(hop, monotonic(), jitter());
                return self.retry(RETRY_MAX, error);
            }
        };
        self.node.circuits.reached(&self.peer.hop);
        match statement.what().clone() {
            What::Accepted(_) => self.handed_over(Some(statement)).await,
            What::Refused(_) => self.refused(&statement).await,
            What::Busy(busy) => {
                let after = Duration::from_millis(busy.retry_after_ms).min(RETRY_MAX);
                let why = format!("put off by it: {}", busy_words(busy.reason()));
                self.retry(after.max(FIRST_RETRY), why);
            }
            _ => self.retry(RETRY_MAX, "the answer is no answer to an offer".into()),
        }
    }
}
