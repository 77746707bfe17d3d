//! An exchange whose queue, spool and inbox are in memory.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use passerelle_link::{
    Exchange, Incoming, LaneError, OfferAnswer, Outbound, Outgoing, Peer, Room, Trust, WriteError,
};
use passerelle_proto::fixture::{keys, plan, seal_files, world};
use passerelle_proto::session::{Answer, Fault, Held, PROTOCOL_MAX, PROTOCOL_MIN};
use passerelle_proto::v1::{self, Lane, ObjectType, Section, Signed};
use passerelle_proto::{
    Digest, INLINE_LEN_MAX, PackageId, Sealed, StatementId, UntrustedManifest, envelope,
    split_inline,
};
use tokio::sync::{Notify, mpsc};
use tonic::async_trait;

use crate::lab::DEADLINE;

/// What happens at one side, in order.
#[derive(Debug, PartialEq)]
pub enum Happened {
    Greeted(Lane),
    Noted(Vec<u8>),
    Statement(StatementId),
    Acked(Vec<StatementId>),
    /// All parts of a package, one after the other, are there.
    Taken(PackageId, Vec<u8>),
    Broken(Fault),
    Syncing,
    Answered(PackageId, Answer),
    /// An offer was dropped without an answer.
    PutBack(PackageId),
    Ended(Lane, Vec<StatementId>, String),
}

pub type Events = mpsc::UnboundedReceiver<Happened>;

/// Waits for the first event that `wanted` accepts.
pub async fn until(events: &mut Events, wanted: impl Fn(&Happened) -> bool) -> Happened {
    let found = async {
        loop {
            let event = events.recv().await.expect("the exchange is gone");
            if wanted(&event) {
                return event;
            }
        }
    };
    let found = tokio::time::timeout(DEADLINE, found).await;
    found.expect("it has not happened within the deadline")
}

/// A package with all its parts.
#[derive(Clone)]
pub struct Package {
    pub sealed: Arc<Sealed>,
    pub pack: Bytes,
}

impl Package {
    /// One with `length` bytes of noise.
    pub fn of_noise(length: usize) -> Self {
        let noise = (0..length.div_ceil(32) as u32)
            .flat_map(|n| Digest::of(&n.to_be_bytes()).0)
            .take(length)
            .collect();
        let plan = plan(world().directory.convention());
        let (sealed, pack) = seal_files(&plan, &keys("caf21").agent, &[("a.csv", noise)]);
        Self {
            sealed: Arc::new(sealed),
            pack: pack.into(),
        }
    }

    pub fn id(&self) -> PackageId {
        self.sealed.manifest.id()
    }

    fn read(&self, section: Section, offset: u64, length: u64) -> Bytes {
        let start = (self.sealed.layout.offset_of(section).unwrap() + offset) as usize;
        self.pack.slice(start..start + length as usize)
    }

    /// Wraps, chunk table, index and chunks, one after the other.
    pub fn parts(&self) -> Vec<u8> {
        let sections = [
            Section::Wraps,
            Section::ChunkTable,
            Section::Index,
            Section::Chunks,
        ];
        let read = |section| self.read(section, 0, self.sealed.layout.length_of(section));
        sections.map(read).concat()
    }
}

#[derive(Clone, Default)]
pub struct Behaviour {
    /// The hello names a protocol that nobody speaks.
    pub from_the_future: bool,
    /// Nobody is exchanged with, for this reason.
    pub refuses: Option<String>,
    /// Syncing takes for ever.
    pub never_syncs: bool,
    /// Statements are not committed.
    pub commits_nothing: bool,
    /// What the peer is told.
    pub trust: Option<Trust>,
    /// So many statements are not committed, and then all are.
    pub commits_after: u32,
}

pub struct MemoryExchange {
    packages: Arc<Mutex<VecDeque<Package>>>,
    statements: Mutex<VecDeque<Signed>>,
    more: Arc<Notify>,
    events: mpsc::UnboundedSender<Happened>,
    behaviour: Behaviour,
    asked_to_commit: AtomicU32,
}

impl MemoryExchange {
    pub fn new() -> (Arc<Self>, Events) {
        Self::behaving(Behaviour::default())
    }

    pub fn behaving(behaviour: Behaviour) -> (Arc<Self>, Events) {
        let (events, receiver) = mpsc::unbounded_channel();
        let exchange = Self {
            packages: Arc::default(),
            statements: Mutex::default(),
            more: Arc::default(),
            events,
            behaviour,
            asked_to_commit: AtomicU32::new(0),
        };
        (Arc::new(exchange), receiver)
    }

    pub fn send(&self, package: &Package) {
        self.packages.lock().unwrap().push_back(package.clone());
        self.more.notify_waiters();
        self.more.notify_one();
    }

    pub fn send_statement(&self, signed: Signed) {
        self.statements.lock().unwrap().push_back(signed);
        self.more.notify_waiters();
        self.more.notify_one();
    }

    fn happened(&self, event: Happened) {
        // A test that has seen enough has dropped its end.
        let _ = self.events.send(event);
    }

    fn take(&self, lane: Lane, room: Room) -> Option<Outgoing> {
        if room.statement
            && let Some(signed) = self.statements.lock().unwrap().pop_front()
        {
            return Some(Outgoing::Statement(signed));
        }
        let mut packages = self.packages.lock().unwrap();
        let small = |package: &Package| package.sealed.manifest.total_length() <= INLINE_LEN_MAX;
        let fits = |package: &Package| small(package) == (lane == Lane::Control);
        let at = packages.iter().position(fits).filter(|_| room.package)?;
        let package = packages.remove(at)?;
        Some(Outgoing::Package(Box::new(Offered {
            inline: small(&package),
            package,
            home: Some(self.packages.clone()),
            more: self.more.clone(),
            events: self.events.clone(),
        })))
    }
}

#[async_trait]
impl Exchange for MemoryExchange {
    fn hello(&self, _: &Peer, lane: Lane) -> v1::Hello {
        let ahead = u32::from(self.behaviour.from_the_future) * 10;
        v1::Hello {
            protocol_min: PROTOCOL_MIN + ahead,
            protocol_max: PROTOCOL_MAX + ahead,
            lane: lane as i32,
            ..v1::Hello::default()
        }
    }

    fn trust(&self) -> Option<Trust> {
        self.behaviour.trust.clone()
    }

    async fn greeted(&self, _: &Peer, hello: &v1::Hello) -> Result<(), LaneError> {
        if let Some(why) = &self.behaviour.refuses {
            return Err(LaneError(why.clone()));
        }
        self.happened(Happened::Greeted(hello.lane()));
        Ok(())
    }

    async fn note(&self, _: &Peer, note: Vec<u8>) {
        self.happened(Happened::Noted(note));
    }

    async fn offered(
        &self,
        _: &Peer,
        manifest: Signed,
        inline: Bytes,
        _: Option<Signed>,
    ) -> OfferAnswer {
        let manifest = UntrustedManifest::parse(manifest).unwrap();
        let manifest = manifest
            .verify(keys("caf21").agent.verifying_key())
            .unwrap();
        if !inline.is_empty() {
            split_inline(&manifest, &inline).unwrap();
            self.happened(Happened::Taken(manifest.id(), inline.to_vec()));
            return OfferAnswer::Answer(Answer::Have);
        }
        OfferAnswer::Take(Box::new(Taking {
            layout: passerelle_proto::PackLayout::tight(&manifest),
            manifest,
            pack: Vec::new(),
            events: self.events.clone(),
            never_syncs: self.behaviour.never_syncs,
        }))
    }

    async fn statement(&self, _: &Peer, signed: Signed) -> bool {
        self.happened(Happened::Statement(StatementId(Digest::of(&signed.body))));
        let before = self.asked_to_commit.fetch_add(1, Ordering::SeqCst);
        !self.behaviour.commits_nothing && before >= self.behaviour.commits_after
    }

    async fn next(&self, _: &Peer, lane: Lane, room: Room) -> Outgoing {
        loop {
            let more = self.more.notified();
            if let Some(outgoing) = self.take(lane, room) {
                return outgoing;
            }
            more.await;
        }
    }

    async fn acked(&self, _: &Peer, ids: Vec<StatementId>) {
        self.happened(Happened::Acked(ids));
    }

    fn ended(&self, _: &Peer, lane: Lane, unacked: Vec<StatementId>, why: &str) {
        self.happened(Happened::Ended(lane, unacked, why.to_owned()));
    }
}

struct Offered {
    package: Package,
    inline: bool,
    home: Option<Arc<Mutex<VecDeque<Package>>>>,
    more: Arc<Notify>,
    events: mpsc::UnboundedSender<Happened>,
}

impl Drop for Offered {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            let _ = self.events.send(Happened::PutBack(self.package.id()));
            home.lock().unwrap().push_front(self.package.clone());
            self.more.notify_waiters();
        }
    }
}

#[async_trait]
impl Outbound for Offered {
    fn manifest(&self) -> &passerelle_proto::VerifiedManifest {
        &self.package.sealed.manifest
    }

    fn inline(&self) -> Bytes {
        match self.inline {
            true => self.package.parts().into(),
            false => Bytes::new(),
        }
    }

    async fn read(&mut self, section: Section, offset: u64, length: u64) -> io::Result<Bytes> {
        Ok(self.package.read(section, offset, length))
    }

    async fn answered(mut self: Box<Self>, answer: Answer) {
        self.home = None;
        let _ = self
            .events
            .send(Happened::Answered(self.package.id(), answer));
    }
}

struct Taking {
    manifest: passerelle_proto::VerifiedManifest,
    layout: passerelle_proto::PackLayout,
    pack: Vec<u8>,
    events: mpsc::UnboundedSender<Happened>,
    never_syncs: bool,
}

#[async_trait]
impl Incoming for Taking {
    fn manifest(&self) -> &passerelle_proto::VerifiedManifest {
        &self.manifest
    }

    fn held(&self) -> Held {
        Held::default()
    }

    async fn write(
        &mut self,
        section: Section,
        offset: u64,
        bytes: Bytes,
    ) -> Result<(), WriteError> {
        let start = (self.layout.offset_of(section).unwrap() + offset) as usize;
        let end = start + bytes.len();
        self.pack.resize(self.pack.len().max(end), 0);
        self.pack[start..end].copy_from_slice(&bytes);
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), WriteError> {
        let _ = self.events.send(Happened::Syncing);
        match self.never_syncs {
            true => std::future::pending().await,
            false => Ok(()),
        }
    }

    async fn complete(self: Box<Self>) -> Option<Answer> {
        let first = self.layout.offset_of(Section::Wraps).unwrap() as usize;
        let id = self.manifest.id();
        let _ = self
            .events
            .send(Happened::Taken(id, self.pack[first..].to_vec()));
        Some(Answer::Have)
    }

    async fn broken(self: Box<Self>, fault: Fault) -> Option<Answer> {
        let _ = self.events.send(Happened::Broken(fault));
        None
    }
}

/// A signed object that stands for a statement: what it says does not matter to a stream.
pub fn statement(number: u8) -> Signed {
    let body = vec![number; 40];
    envelope::sign_one(&keys("caf21").agent, ObjectType::Statement, body)
}

/// Longest wait of a test that expects something soon.
pub const SOON: Duration = Duration::from_secs(2);
