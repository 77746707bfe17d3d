//! Packages and statements over real connections.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use passerelle_link::{
    Connection, ExchangeService, Link, LinkStatus, Peer, SessionError, Transport, TransportChoice,
    run_session,
};
use passerelle_proto::fixture::{keys, sheet, world};
use passerelle_proto::session::Answer;
use passerelle_proto::v1::{self, Frame, Lane, Signed, frame};
use passerelle_proto::{Adopted, Digest, Role, StatementId};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::IntervalStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::lab::{DEADLINE, Lab, Serving, gateway};
use crate::memory::{Behaviour, Events, Happened, MemoryExchange, Package, SOON, statement, until};

const BOTH: [(TransportChoice, Transport); 2] = [
    (TransportChoice::Quic, Transport::Quic),
    (TransportChoice::Tcp, Transport::Tcp),
];

fn id(signed: &Signed) -> StatementId {
    StatementId(Digest::of(&signed.body))
}

fn routes(exchange: Arc<MemoryExchange>, stop: CancellationToken) -> Routes {
    Routes::new(ExchangeService::new(exchange, stop, TaskTracker::new()))
}

/// A gateway that keeps another one connected.
struct Pair {
    serving: Serving,
    near: Arc<MemoryExchange>,
    near_events: Events,
    far: Arc<MemoryExchange>,
    far_events: Events,
    far_stop: CancellationToken,
    link: Link,
    keeper: JoinHandle<()>,
    stop: CancellationToken,
    connections: mpsc::UnboundedReceiver<Connection>,
}

impl Pair {
    async fn new(choice: TransportChoice) -> Self {
        let (far, far_events) = MemoryExchange::new();
        Self::with(choice, far, far_events).await
    }

    async fn with(choice: TransportChoice, far: Arc<MemoryExchange>, far_events: Events) -> Self {
        let mut lab = Lab::new();
        let far_stop = CancellationToken::new();
        let serving = lab
            .serve("grand-dijon", routes(far.clone(), far_stop.clone()))
            .await;
        let dialer = lab.dialer(lab.identity("caf21", Role::Gateway), choice);
        let (near, near_events) = MemoryExchange::new();
        let stop = CancellationToken::new();
        let (connected, connections) = mpsc::unbounded_channel();
        let (link, keeper) = Link::maintain(
            dialer,
            gateway("grand-dijon"),
            near.clone(),
            stop.clone(),
            move |connection| drop(connected.send(connection)),
        );
        let keeper = tokio::spawn(keeper);
        Self {
            serving,
            near,
            near_events,
            far,
            far_events,
            far_stop,
            link,
            keeper,
            stop,
            connections,
        }
    }

    async fn status(&self, wanted: impl Fn(&LinkStatus) -> bool) -> LinkStatus {
        status(self.link.status(), wanted).await
    }
}

async fn status(
    mut status: watch::Receiver<LinkStatus>,
    wanted: impl Fn(&LinkStatus) -> bool,
) -> LinkStatus {
    let found = tokio::time::timeout(DEADLINE, status.wait_for(wanted)).await;
    found
        .expect("the link does not come to this state")
        .unwrap()
        .clone()
}

async fn taken(events: &mut Events, package: &Package) {
    let event = until(events, |event| matches!(event, Happened::Taken(..))).await;
    let Happened::Taken(id, parts) = event else {
        unreachable!();
    };
    assert_eq!(id, package.id());
    // Not `assert_eq`: it would print both.
    assert!(parts == package.parts(), "the bytes differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn small_and_large_packages_go_both_ways_over_both_transports() {
    for (choice, transport) in BOTH {
        let mut pair = Pair::new(choice).await;
        let connected = pair.status(|status| status.transport.is_some()).await;
        assert_eq!(connected.transport, Some(transport));
        assert_eq!(connected.address, pair.serving.address.to_string());
        for length in [1000, 9 * 1024 * 1024 / 10] {
            let package = Package::of_noise(length);
            pair.near.send(&package);
            taken(&mut pair.far_events, &package).await;
            let answered = Happened::Answered(package.id(), Answer::Have);
            until(&mut pair.near_events, |event| *event == answered).await;
            pair.far.send(&package);
            taken(&mut pair.near_events, &package).await;
            until(&mut pair.far_events, |event| *event == answered).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_is_acknowledged_after_it_is_committed() {
    for (choice, _) in BOTH {
        let mut pair = Pair::new(choice).await;
        let sent = statement(1);
        pair.far.send_statement(sent.clone());
        let arrived = Happened::Statement(id(&sent));
        until(&mut pair.near_events, |event| *event == arrived).await;
        let acked = Happened::Acked(vec![id(&sent)]);
        until(&mut pair.far_events, |event| *event == acked).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_cannot_be_committed_at_once_is_tried_again_on_the_same_stream() {
    let late = Behaviour {
        commits_after: 2,
        ..Behaviour::default()
    };
    let (far, far_events) = MemoryExchange::behaving(late);
    let mut pair = Pair::with(TransportChoice::Quic, far, far_events).await;
    let sent = statement(4);
    pair.near.send_statement(sent.clone());
    let acked = Happened::Acked(vec![id(&sent)]);
    until(&mut pair.near_events, |event| {
        assert!(!matches!(event, Happened::Ended(..)), "{event:?}");
        *event == acked
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_acknowledged_is_given_back_when_the_connection_is_cut() {
    for (choice, _) in BOTH {
        let deaf = Behaviour {
            commits_nothing: true,
            ..Behaviour::default()
        };
        let (far, far_events) = MemoryExchange::behaving(deaf);
        let mut pair = Pair::with(choice, far, far_events).await;
        let sent = statement(2);
        pair.near.send_statement(sent.clone());
        until(&mut pair.far_events, |event| {
            matches!(event, Happened::Statement(_))
        })
        .await;
        pair.connections.recv().await.unwrap().close();
        let back = until(&mut pair.near_events, |event| {
            matches!(event, Happened::Ended(Lane::Control, ..))
        });
        let Happened::Ended(_, unacked, why) = back.await else {
            unreachable!();
        };
        assert_eq!(unacked, [id(&sent)]);
        assert!(!why.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_under_way_is_put_back_and_offered_again_on_the_next_connection() {
    for (choice, _) in BOTH {
        let stuck = Behaviour {
            never_syncs: true,
            ..Behaviour::default()
        };
        let (far, far_events) = MemoryExchange::behaving(stuck);
        let mut pair = Pair::with(choice, far, far_events).await;
        let package = Package::of_noise(500_000);
        pair.near.send(&package);
        until(&mut pair.far_events, |event| *event == Happened::Syncing).await;
        pair.connections.recv().await.unwrap().close();
        let put_back = Happened::PutBack(package.id());
        until(&mut pair.near_events, |event| *event == put_back).await;
        until(&mut pair.far_events, |event| *event == Happened::Syncing).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn why_the_peer_refuses_is_shown_at_this_side() {
    let refuses = Behaviour {
        refuses: Some("the convention has ended".into()),
        ..Behaviour::default()
    };
    let future = Behaviour {
        from_the_future: true,
        ..Behaviour::default()
    };
    for (choice, _) in BOTH {
        for (behaviour, wanted) in [
            (&refuses, "the convention has ended"),
            (&future, "speaks protocol"),
        ] {
            let (far, far_events) = MemoryExchange::behaving(behaviour.clone());
            let pair = Pair::with(choice, far, far_events).await;
            let told = |status: &LinkStatus| status.last_error.contains(wanted);
            assert!(pair.status(told).await.since.is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_all_lanes_in_order_on_both_sides() {
    for (choice, _) in BOTH {
        let mut pair = Pair::new(choice).await;
        let greeted = Happened::Greeted(Lane::Control);
        until(&mut pair.near_events, |event| *event == greeted).await;
        pair.stop.cancel();
        tokio::time::timeout(DEADLINE, &mut pair.keeper)
            .await
            .unwrap()
            .unwrap();
        let ended = until(&mut pair.near_events, |event| {
            matches!(event, Happened::Ended(Lane::Control, ..))
        });
        assert_eq!(
            ended.await,
            Happened::Ended(Lane::Control, vec![], String::new())
        );
        let ended = until(&mut pair.far_events, |event| {
            matches!(event, Happened::Ended(Lane::Control, ..))
        });
        let Happened::Ended(_, _, why) = ended.await else {
            unreachable!();
        };
        assert!(why.contains("stopping"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_stops_ends_its_streams_in_order() {
    for (choice, _) in BOTH {
        let mut pair = Pair::new(choice).await;
        let greeted = Happened::Greeted(Lane::Control);
        until(&mut pair.far_events, |event| *event == greeted).await;
        pair.serving.stop.cancel();
        pair.far_stop.cancel();
        let told = |status: &LinkStatus| status.last_error.contains("stopping");
        pair.status(told).await;
        (&mut pair.serving.done).await.unwrap();
    }
}

/// A gateway in a runtime of its own, which can be killed as a process is.
fn start_process(lab: &Lab, address: std::net::SocketAddr) -> (Runtime, Arc<MemoryExchange>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (exchange, _) = MemoryExchange::new();
    let routes = routes(exchange.clone(), CancellationToken::new());
    let identity = lab.identity("grand-dijon", Role::Gateway);
    runtime.block_on(lab.serve_at(address, identity, routes));
    (runtime, exchange)
}

#[test]
fn bytes_flow_again_within_two_seconds_of_the_restart_of_a_killed_peer() {
    for choice in [
        TransportChoice::Quic,
        TransportChoice::Tcp,
        TransportChoice::Auto,
    ] {
        let local = Runtime::new().unwrap();
        let mut lab = Lab::new();
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let free = std::net::TcpListener::bind(any).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        lab.announce("grand-dijon", &[address]);
        let (process, _) = start_process(&lab, address);
        let (near, mut events) = MemoryExchange::new();
        let (link, _stop) = local.block_on(async {
            let dialer = lab.dialer(lab.identity("caf21", Role::Gateway), choice);
            let stop = CancellationToken::new();
            let hop = gateway("grand-dijon");
            let (link, keeper) = Link::maintain(dialer, hop, near.clone(), stop.clone(), |_| {});
            tokio::spawn(keeper);
            until(&mut events, |event| {
                *event == Happened::Greeted(Lane::Control)
            })
            .await;
            (link, stop)
        });
        process.shutdown_background();
        // Down for long enough that attempts are under way when it comes back.
        local.block_on(async {
            let down = tokio::time::timeout(Duration::from_secs(3), async {
                status(link.status(), |status| status.transport.is_none()).await
            });
            let noticed = down.await.is_ok();
            assert!(
                noticed || choice != TransportChoice::Tcp,
                "TCP notices at once"
            );
        });
        let restarted = Instant::now();
        let (_process, far) = start_process(&lab, address);
        let sent = statement(3);
        far.send_statement(sent.clone());
        let arrived = Happened::Statement(id(&sent));
        local.block_on(until(&mut events, |event| *event == arrived));
        assert!(
            restarted.elapsed() < SOON,
            "{choice:?}: {:?}",
            restarted.elapsed()
        );
    }
}

fn peer() -> Peer {
    Peer {
        hop: gateway("grand-dijon"),
        tls_name: "gateway.grand-dijon.test".into(),
        transport: Transport::Tcp,
        address: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
        post_quantum: true,
    }
}

#[tokio::test]
async fn a_peer_that_reads_nothing_for_ten_seconds_loses_its_stream() {
    let (exchange, mut events) = MemoryExchange::new();
    for number in 0..20 {
        exchange.send_statement(statement(number));
    }
    let hello = v1::Hello {
        protocol_min: 1,
        protocol_max: 1,
        lane: Lane::Control as i32,
        ..v1::Hello::default()
    };
    let wrap = |frame| Ok(Frame { frame: Some(frame) });
    // It goes on speaking, and never reads.
    let alive = IntervalStream::new(tokio::time::interval(SOON))
        .map(move |_| wrap(frame::Frame::KeepAlive(v1::KeepAlive {})));
    let inbound = futures::stream::iter([wrap(frame::Frame::Hello(hello))]).chain(alive);
    let (sender, _never_read) = mpsc::channel(1);
    let begun = Instant::now();
    let stop = CancellationToken::new();
    let run = run_session(
        Box::pin(inbound),
        sender,
        peer(),
        Lane::Control,
        exchange,
        stop,
    );
    let error = tokio::time::timeout(DEADLINE, run)
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, SessionError::Stalled), "{error}");
    assert!(begun.elapsed() >= Duration::from_secs(9));
    let ended = until(&mut events, |event| matches!(event, Happened::Ended(..))).await;
    let Happened::Ended(_, unacked, _) = ended else {
        unreachable!();
    };
    assert_eq!(unacked.len(), 20, "statements are lost with the stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_does_not_exchange_packages() {
    let mut lab = Lab::new();
    let (exchange, _events) = MemoryExchange::new();
    let service = routes(exchange, CancellationToken::new());
    let _serving = lab.serve("grand-dijon", service).await;
    let operator = lab.identity("caf21", Role::Operator);
    let dialer = lab.dialer(operator, TransportChoice::Tcp);
    let connection = dialer.dial(&gateway("grand-dijon")).await.unwrap();
    let status = connection.exchange().session(tokio_stream::empty()).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sheet_that_comes_into_force_is_told_at_once_on_open_connections() {
    for (choice, _) in BOTH {
        let world = world();
        let (trust, _) = watch::channel(world.directory);
        let (far, far_events) = MemoryExchange::behaving(Behaviour {
            trust: Some(trust.subscribe()),
            ..Behaviour::default()
        });
        let mut pair = Pair::with(choice, far, far_events).await;
        let told = |note: &[u8]| Happened::Noted(note.to_vec());
        for note in [world.convention_note].iter().chain(&world.sheet_notes) {
            until(&mut pair.near_events, |event| *event == told(note)).await;
        }
        let mut second = sheet("caf21");
        second.seq = 2;
        let note = second.sign(&keys("caf21").root).unwrap();
        let Adopted::Newer(directory) = trust.borrow().adopt_note(&note).unwrap() else {
            panic!("the sheet is newer");
        };
        trust.send_replace(directory);
        until(&mut pair.near_events, |event| *event == told(&note)).await;
    }
}
