//! A peer with good credentials and bad intentions: it says every frame by hand.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::time::Duration;

use passerelle_link::{Connection, Dialer, Identity, TransportChoice};
use passerelle_proto::session::{PROTOCOL_MAX, PROTOCOL_MIN};
use passerelle_proto::v1::{self, Frame, Lane, Signed, frame, statement::What};
use passerelle_proto::{Digest, Directory, Hop, Role, Roots, SigningKey, read_secret_file};
use prost::Message;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::metadata::MetadataValue;

use crate::laboratory::{LIMIT, RunningLab, now};

/// How often it says that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Frames that wait for the transport.
const FRAMES_MAX: usize = 128;

/// What became of an offer.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A statement answers it.
    Said(What),
    /// It was taken without a statement.
    Have,
    /// The other side wants these bytes.
    Need(v1::Need),
    /// The other side gives it up, and why.
    Withdrawn(String),
}

/// A stream of our own making to a gateway of a laboratory.
pub struct Rogue {
    runtime: Runtime,
    /// The connection below.
    pub connection: Connection,
    to: mpsc::Sender<Frame>,
    from: mpsc::UnboundedReceiver<Result<Frame, String>>,
    /// What was heard and not yet asked for, by offer.
    outcomes: BTreeMap<u32, VecDeque<Outcome>>,
    /// Statements that came outside of any offer.
    statements: Vec<What>,
    slots: u32,
    directory: Directory,
}

impl RunningLab {
    /// Everything that the laboratory's notes say.
    pub fn directory(&self) -> Directory {
        let roots: Roots = ["caf21", "grand-dijon"]
            .map(|name| {
                let id = self.party(name).id.clone();
                (id, self.root_key(name).id())
            })
            .into();
        let convention = fs::read(&self.lab.convention).unwrap();
        let sheets = fs::read_dir(&self.lab.sheets).unwrap();
        let sheets: Vec<_> = sheets
            .map(|note| fs::read(note.unwrap().path()).unwrap())
            .collect();
        Directory::load(&roots, &[convention], &sheets).unwrap()
    }

    /// The offline root key of a party.
    pub fn root_key(&self, party: &str) -> SigningKey {
        let text = read_secret_file(&self.party(party).root_key).unwrap();
        SigningKey::from_secret_text(&text).unwrap()
    }

    /// A signing key of a party's agent or gateway.
    pub fn signing_key(&self, party: &str, role: Role) -> SigningKey {
        let file = format!("keys/{role}.secret");
        let text = read_secret_file(&self.party(party).directory.join(file)).unwrap();
        SigningKey::from_secret_text(&text).unwrap()
    }

    /// The TLS identity of a party's agent or gateway.
    pub fn identity(&self, party: &str, role: Role) -> Identity {
        let stem = self.party(party).directory.join("tls").join(role.as_str());
        Identity::load(&stem.with_extension("pem"), &stem.with_extension("key")).unwrap()
    }
}

impl Rogue {
    /// Dials the gateway of `to` with the identity of `party` and opens one lane.
    pub fn dial(lab: &RunningLab, party: &str, role: Role, to: &str, lane: Lane) -> Self {
        Self::dial_over(lab, party, role, to, lane, TransportChoice::Auto)
    }

    /// The same over a chosen transport.
    pub fn dial_over(
        lab: &RunningLab,
        party: &str,
        role: Role,
        to: &str,
        lane: Lane,
        transport: TransportChoice,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let directory = lab.directory();
        let hop = Hop::gateway(lab.party(to).id.clone());
        let identity = lab.identity(party, role);
        let connection = runtime.block_on(connect(identity, &directory, &hop, transport));
        let (to, sent) = mpsc::channel(FRAMES_MAX);
        let (heard, from) = mpsc::unbounded_channel();
        runtime.spawn(speak(connection.clone(), lane, sent, heard));
        let mut rogue = Self {
            runtime,
            connection,
            to,
            from,
            outcomes: BTreeMap::new(),
            statements: Vec::new(),
            slots: 0,
            directory,
        };
        rogue.say(frame::Frame::Hello(rogue.hello(lane)));
        rogue.keep_alive();
        rogue
    }

    fn keep_alive(&self) {
        let to = self.to.clone();
        self.runtime.spawn(async move {
            let mut every = tokio::time::interval(KEEP_ALIVE);
            loop {
                every.tick().await;
                let alive = frame::Frame::KeepAlive(v1::KeepAlive {});
                if to.send(Frame { frame: Some(alive) }).await.is_err() {
                    return;
                }
            }
        });
    }

    /// How it introduces itself.
    pub fn hello(&self, lane: Lane) -> v1::Hello {
        hello(&self.directory, lane)
    }

    /// Runs something on the runtime that the connection lives on.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Says one frame.
    pub fn say(&mut self, frame: frame::Frame) {
        let sent = self.to.blocking_send(Frame { frame: Some(frame) });
        sent.expect("the stream has ended");
    }

    /// Offers a package; the number of the offer.
    pub fn offer(&mut self, manifest: Signed, inline: Vec<u8>) -> u32 {
        self.slots += 1;
        self.say(frame::Frame::Offer(v1::Offer {
            slot: self.slots,
            manifest: Some(manifest),
            inline: inline.into(),
            accepted: None,
        }));
        self.slots
    }

    /// The next thing that is said about an offer.
    pub fn outcome(&mut self, slot: u32) -> Outcome {
        loop {
            if let Some(outcome) = self.outcomes.entry(slot).or_default().pop_front() {
                return outcome;
            }
            if let Err(why) = self.listen() {
                panic!("the stream has ended before offer {slot} was answered: {why}");
            }
        }
    }

    /// The next statement that is not an answer; it is acknowledged.
    pub fn statement(&mut self) -> What {
        loop {
            if !self.statements.is_empty() {
                return self.statements.remove(0);
            }
            if let Err(why) = self.listen() {
                panic!("the stream has ended before a statement came: {why}");
            }
        }
    }

    /// Waits until the other side ends the stream, and says why.
    pub fn ended(&mut self) -> String {
        loop {
            if let Err(why) = self.listen() {
                return why;
            }
        }
    }

    fn listen(&mut self) -> Result<(), String> {
        let next = async { tokio::time::timeout(LIMIT, self.from.recv()).await };
        let next = self.runtime.block_on(next);
        let frame = next.expect("nothing was heard").ok_or("closed")??;
        match frame.frame {
            Some(frame::Frame::Answer(answer)) => {
                let signed = answer.statement.unwrap();
                let outcome = Outcome::Said(what(&signed));
                self.note(answer.slot, outcome);
            }
            Some(frame::Frame::Have(have)) => self.note(have.slot, Outcome::Have),
            Some(frame::Frame::Need(need)) => self.note(need.slot, Outcome::Need(need)),
            Some(frame::Frame::Withdraw(withdraw)) => {
                self.note(withdraw.slot, Outcome::Withdrawn(withdraw.why));
            }
            Some(frame::Frame::Statement(signed)) => {
                self.statements.push(what(&signed));
                let ids = vec![Digest::of(&signed.body).0.to_vec()];
                self.say(frame::Frame::Ack(v1::Ack { ids }));
            }
            Some(frame::Frame::Bye(bye)) => return Err(bye.why),
            _ => {}
        }
        Ok(())
    }

    fn note(&mut self, slot: u32, outcome: Outcome) {
        self.outcomes.entry(slot).or_default().push_back(outcome);
    }
}

fn what(signed: &Signed) -> What {
    let body = v1::Statement::decode(signed.body.as_slice()).unwrap();
    body.what.unwrap()
}

/// How a peer under this convention introduces itself.
pub fn hello(directory: &Directory, lane: Lane) -> v1::Hello {
    let convention = directory.convention();
    v1::Hello {
        protocol_min: PROTOCOL_MIN,
        protocol_max: PROTOCOL_MAX,
        intent: v1::Intent::Both as i32,
        lane: lane as i32,
        convention: convention.digest().0.to_vec(),
        convention_version: convention.version(),
        sheets: Vec::new(),
        checkpoint: Vec::new(),
        cosigned: Vec::new(),
        now_ms: now().as_ms(),
        software: "rogue".into(),
        run: None,
    }
}

/// Dials until it is answered.
///
/// # Panics
///
/// When nobody answers in [`LIMIT`].
pub async fn connect(
    identity: Identity,
    directory: &Directory,
    hop: &Hop,
    transport: TransportChoice,
) -> Connection {
    let trust = watch::channel(directory.clone()).1;
    let dialer = Dialer::new(identity, trust, transport).unwrap();
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        match dialer.dial(hop).await {
            Ok(connection) => return connection,
            // It may be starting still.
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
    }
}

/// One lane: says what is sent, and hands over what is heard, until either side ends it.
pub async fn speak(
    connection: Connection,
    lane: Lane,
    sent: mpsc::Receiver<Frame>,
    heard: mpsc::UnboundedSender<Result<Frame, String>>,
) {
    let mut request = Request::new(ReceiverStream::new(sent));
    let name = match lane {
        Lane::Control => "control",
        _ => "bulk",
    };
    let lane = MetadataValue::from_static(name);
    request.metadata_mut().insert("passerelle-lane", lane);
    let mut stream = match connection.exchange().session(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => {
            let _ = heard.send(Err(status.message().to_owned()));
            return;
        }
    };
    while let Some(frame) = stream.next().await {
        let _ = heard.send(frame.map_err(|status| status.message().to_owned()));
    }
}
