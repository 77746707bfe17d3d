//! The network between the programs: it delays, loses, cuts and partitions.
//!
//! Frames of one direction of one lane arrive in their order, as a transport sees to it; between
//! lanes, directions and connections there is none. What a transport cannot repair ends the whole
//! connection. Where nothing gets through, frames wait, and each side finds out by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::StreamExt;
use passerelle_gateway::simulation::{Cosign, Partner};
use passerelle_host::Signal;
use passerelle_link::{
    Carry, Dial, Exchange, FRAMES_IN_FLIGHT, Inbound, Peer, SessionError, Transport, run_session,
};
use passerelle_proto::v1::{
    AddCheckpointRequest, AddCheckpointResponse, Frame, Lane, frame::Frame as Kind,
};
use passerelle_proto::{Hop, Role};
use passerelle_tests::Process;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tonic::{Status, async_trait};

use crate::clock::pass;
use crate::dice::Dice;
use crate::power::Life;
use crate::story::Story;

/// How long somebody who dials waits for an answer.
const DIAL_MAX: Duration = Duration::from_secs(5);
/// Of so many frames one finds the connection broken, while the network is rough.
const BREAKS_ONE_IN: u64 = 150;
/// Of so many frames one is late, while the network is rough.
const LATE_ONE_IN: u64 = 12;
/// Longest delay of a frame that is late, in milliseconds.
const LATE_MS_MAX: u64 = 4_000;
/// Longest delay of any other.
const DELAY_MS_MAX: u64 = 30;

/// A program that can be dialled.
#[derive(Clone)]
pub struct Station {
    /// Its side of every stream.
    pub exchange: Arc<dyn Exchange>,
    /// Its streams, and when they are to end in order.
    pub streams: (TaskTracker, CancellationToken),
    /// Answers partners that ask for a cosignature.
    pub cosign: Cosign,
}

struct State {
    dice: Dice,
    rough: bool,
    lives: BTreeMap<Process, Life>,
    stations: BTreeMap<Process, Station>,
    // From the first to the second nothing gets through.
    blocked: BTreeSet<(Process, Process)>,
    connections: Vec<(Process, Process, CancellationToken)>,
    // Programs of a later version, which speak a later protocol as well.
    later: BTreeSet<Process>,
}

/// The network. A clone is the same one.
#[derive(Clone)]
pub struct Network {
    state: Arc<Mutex<State>>,
    unblocked: Arc<Signal>,
    story: Story,
}

/// Where a program is in the convention.
pub fn hop_of(process: Process) -> Hop {
    match process {
        Process::Gateway(party) => Hop::gateway(party.parse().unwrap()),
        Process::Agent(party) => Hop::agent(party.parse().unwrap()),
    }
}

/// How a program is called in a story.
pub fn name_of(process: Process) -> String {
    hop_of(process).to_string()
}

fn peer_of(process: Process) -> Peer {
    Peer {
        hop: hop_of(process),
        tls_name: format!("{}.test", name_of(process).replace('/', ".")),
        transport: Transport::Quic,
        address: ([127, 0, 0, 1], 4433).into(),
        post_quantum: true,
    }
}

impl Network {
    /// A network without anybody.
    pub fn new(dice: Dice, later: BTreeSet<Process>, story: &Story) -> Self {
        let state = State {
            dice,
            rough: false,
            lives: BTreeMap::new(),
            stations: BTreeMap::new(),
            blocked: BTreeSet::new(),
            connections: Vec::new(),
            later,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            unblocked: Arc::default(),
            story: story.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Whether frames are late and connections break.
    pub fn set_rough(&self, rough: bool) {
        self.state().rough = rough;
    }

    /// A program begins to live: it is not reached yet, but may dial. Who still knows its last
    /// life learns that it is over.
    pub fn begin(&self, process: Process, life: &Life) {
        self.cut(|one, other| one == process || other == process);
        self.state().lives.insert(process, life.clone());
    }

    /// A program can be dialled from now on.
    pub fn up(&self, process: Process, station: Station) {
        self.state().stations.insert(process, station);
    }

    /// A program is gone. Whether its peers are told, or have to find out.
    pub fn down(&self, process: Process, told: bool) {
        self.state().stations.remove(&process);
        if told {
            self.cut(|one, other| one == process || other == process);
        }
    }

    /// Ends connections.
    pub fn cut(&self, which: impl Fn(Process, Process) -> bool) {
        let mut cut = Vec::new();
        self.state().connections.retain(|(from, to, token)| {
            let ends = which(*from, *to);
            if ends {
                cut.push(token.clone());
            }
            !ends && !token.is_cancelled()
        });
        cut.iter().for_each(CancellationToken::cancel);
    }

    /// Lets nothing through from `from` to `to`, or lets it through again.
    pub fn block(&self, from: Process, to: Process, blocked: bool) {
        let way = (from, to);
        match blocked {
            true => self.state().blocked.insert(way),
            false => self.state().blocked.remove(&way),
        };
        self.unblocked.tell();
    }

    /// Lets everything through, at once and whole.
    pub fn heal(&self) {
        let mut state = self.state();
        state.blocked.clear();
        state.rough = false;
        drop(state);
        self.unblocked.tell();
    }

    fn is_blocked(&self, from: Process, to: Process) -> bool {
        self.state().blocked.contains(&(from, to))
    }

    async fn pass(&self, from: Process, to: Process) {
        let mut changes = self.unblocked.subscribe();
        while self.is_blocked(from, to) {
            changes.changed().await;
        }
    }

    fn station(&self, process: Process) -> Result<Station, String> {
        let station = self.state().stations.get(&process).cloned();
        station.ok_or_else(|| format!("{} does not answer", name_of(process)))
    }

    /// How long the next frame takes, and whether the connection breaks with it.
    fn weather(&self) -> (Duration, bool) {
        let mut state = self.state();
        let usual = state.dice.ms(1, DELAY_MS_MAX);
        if !state.rough {
            return (usual, false);
        }
        let late = state.dice.one_in(LATE_ONE_IN);
        let delay = match late {
            true => state.dice.ms(0, LATE_MS_MAX),
            false => usual,
        };
        (delay, state.dice.one_in(BREAKS_ONE_IN))
    }

    /// The dialler of one life of a program.
    pub fn dialer(&self, process: Process, life: &Life) -> Dialer {
        Dialer {
            network: self.clone(),
            from: process,
            life: life.clone(),
        }
    }
}

/// Dials over the network.
#[derive(Clone)]
pub struct Dialer {
    network: Network,
    from: Process,
    life: Life,
}

#[async_trait]
impl Dial for Dialer {
    type Connection = Connection;
    type Error = String;

    async fn dial(&self, hop: &Hop) -> Result<Connection, String> {
        // The convention's names live as long as the test.
        let known = ["caf21", "grand-dijon", "prestataire-obs"];
        let party = known.into_iter().find(|name| *name == hop.party.as_str());
        let party = party.ok_or("nobody has this address")?;
        let to = match hop.role {
            Role::Agent => Process::Agent(party),
            _ => Process::Gateway(party),
        };
        let (network, from) = (&self.network, self.from);
        let there_and_back = async {
            network.pass(from, to).await;
            pass(network.weather().0).await;
            network.pass(to, from).await;
            pass(network.weather().0).await;
        };
        let reached = tokio::time::timeout(DIAL_MAX, there_and_back).await;
        reached.map_err(|_| "no answer within 5 s".to_owned())?;
        network.station(to)?;
        if !self.life.goes_on() {
            return std::future::pending().await;
        }
        let cut = CancellationToken::new();
        let open = (from, to, cut.clone());
        network.state().connections.push(open);
        let life = network.state().lives.get(&to).cloned();
        network
            .story
            .tell(format_args!("{} reaches {}", name_of(from), name_of(to)));
        Ok(Connection {
            network: network.clone(),
            ends: [(from, self.life.clone()), (to, life.ok_or("gone")?)],
            peer: peer_of(to),
            _open: Arc::new(cut.clone().drop_guard()),
            cut,
        })
    }
}

/// A connection over the network.
#[derive(Clone)]
pub struct Connection {
    network: Network,
    ends: [(Process, Life); 2],
    peer: Peer,
    cut: CancellationToken,
    _open: Arc<DropGuard>,
}

/// One direction of one lane.
struct Way {
    network: Network,
    from: (Process, Life),
    to: Process,
    cut: CancellationToken,
}

impl Connection {
    fn way(&self, from: usize) -> Way {
        Way {
            network: self.network.clone(),
            from: self.ends[from].clone(),
            to: self.ends[1 - from].0,
            cut: self.cut.clone(),
        }
    }
}

impl Way {
    /// Carries frames until either end has no more to do with them.
    async fn carry(
        self,
        mut frames: mpsc::Receiver<Frame>,
        to: mpsc::Sender<Result<Frame, Status>>,
    ) {
        loop {
            let next = tokio::select! {
                biased;
                () = self.cut.cancelled() => None,
                () = to.closed() => return,
                frame = frames.recv() => Some(frame),
            };
            let frame = match next {
                Some(Some(frame)) => frame,
                // The sender has ended it in order.
                Some(None) if self.from.1.goes_on() => return,
                // The sender is no more, and cannot say so.
                Some(None) => {
                    tokio::select! {
                        biased;
                        () = self.cut.cancelled() => {}
                        () = to.closed() => return,
                    }
                    let _ = to.try_send(Err(Status::unavailable("the connection was reset")));
                    return;
                }
                None => {
                    let _ = to.try_send(Err(Status::unavailable("the connection was cut")));
                    return;
                }
            };
            let (delay, breaks) = self.network.weather();
            let passed = async {
                pass(delay).await;
                self.network.pass(self.from.0, self.to).await;
            };
            tokio::select! {
                biased;
                () = self.cut.cancelled() => continue,
                () = to.closed() => return,
                () = passed => {}
            }
            if breaks {
                let (from, to) = (name_of(self.from.0), name_of(self.to));
                let story = &self.network.story;
                story.tell(format_args!("the connection of {from} and {to} breaks"));
                self.cut.cancel();
                continue;
            }
            // Nothing comes from a machine that has no power.
            if self.from.1.goes_on() && to.send(Ok(self.grown(frame))).await.is_err() {
                return;
            }
        }
    }

    /// A later version says in its `Hello` that it speaks a later protocol, too.
    fn grown(&self, mut frame: Frame) -> Frame {
        if let Some(Kind::Hello(hello)) = &mut frame.frame
            && self.network.state().later.contains(&self.from.0)
        {
            hello.protocol_max += 1;
        }
        frame
    }
}

#[async_trait]
impl Carry for Connection {
    fn peer(&self) -> &Peer {
        &self.peer
    }

    async fn lane(
        &self,
        lane: Lane,
        frames: mpsc::Receiver<Frame>,
    ) -> Result<Inbound, SessionError> {
        let (to_us, inbound) = mpsc::channel(1);
        let (to_them, their_inbound) = mpsc::channel(1);
        let (sender, their_frames) = mpsc::channel(FRAMES_IN_FLIGHT);
        pass(self.network.weather().0).await;
        let to = self.ends[1].0;
        let station = self.network.station(to).map_err(SessionError::Stream)?;
        tokio::spawn(self.way(0).carry(frames, to_them));
        tokio::spawn(self.way(1).carry(their_frames, to_us));
        let (streams, stop) = station.streams.clone();
        let cut = self.cut.clone();
        let peer = peer_of(self.ends[0].0);
        streams.spawn(async move {
            let inbound = ReceiverStream::new(their_inbound);
            let stop = stop.child_token();
            let ran = run_session(inbound, sender, peer, lane, station.exchange, stop).await;
            if let Err(SessionError::Stalled | SessionError::Fault(_)) = ran {
                cut.cancel();
            }
        });
        Ok(ReceiverStream::new(inbound).boxed())
    }

    async fn closed(&mut self) -> String {
        self.cut.cancelled().await;
        "the connection was cut".to_owned()
    }

    fn close(&self) {
        self.cut.cancel();
    }
}

#[async_trait]
impl Partner for Connection {
    async fn cosign(&self, request: AddCheckpointRequest) -> Result<AddCheckpointResponse, Status> {
        let [(from, ours), (to, theirs)] = &self.ends;
        let asked = async {
            pass(self.network.weather().0).await;
            self.network.pass(*from, *to).await;
            if !ours.goes_on() {
                return std::future::pending().await;
            }
            let station = self.network.station(*to).map_err(Status::unavailable)?;
            let answer = (station.cosign)(peer_of(*from), request).await;
            pass(self.network.weather().0).await;
            self.network.pass(*to, *from).await;
            match theirs.goes_on() {
                true => answer,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cut.cancelled() => Err(Status::unavailable("the connection was cut")),
            answer = asked => answer,
        }
    }
}
