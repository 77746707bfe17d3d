//! Peers that do not read, or speak one byte a second: they lose their stream, and cost nobody
//! else anything.

use std::convert::Infallible;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame as Data;
use http_body_util::{BodyExt, StreamBody};
use passerelle_link::{Connection, TransportChoice};
use passerelle_proto::Role;
use passerelle_proto::v1::{self, Frame, Lane, frame};
use passerelle_tests::{CAF_GATEWAY, Rogue};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tower::Service;

use crate::scene::Scene;

/// How fast a slow peer speaks: one byte in this time.
const BYTE_EVERY: Duration = Duration::from_secs(1);
/// Within this time it has lost its place: the longest limit is 10 s, and a margin.
const ENDED_WITHIN: Duration = Duration::from_secs(20);
/// Offers of the peer that does not read: their answers fill every window many times over.
const OFFERS: u32 = 20_000;
/// Most memory that the gateway may have used meanwhile, in bytes.
const MEMORY_MAX: u64 = 128 << 20;
/// What is said of a peer whose answers wait.
const UNREAD: &str = "offers without an answer";

#[test]
fn one_byte_a_second_before_the_handshake_loses_the_connection() {
    let scene = Scene::start();
    let mut rogue = scene.rogue(Lane::Control);
    let address = scene.lab.party("caf21").gateway.as_ref().unwrap().address;
    let mut slow = TcpStream::connect(address).unwrap();
    slow.set_read_timeout(Some(BYTE_EVERY)).unwrap();
    let begun = Instant::now();
    // The beginning of a long TLS record.
    let mut hello = [22, 3, 1, 0x3f, 0xff]
        .into_iter()
        .chain(std::iter::repeat(1));
    loop {
        assert!(begun.elapsed() < ENDED_WITHIN, "it still has its place");
        if slow.write_all(&[hello.next().unwrap()]).is_err() {
            break;
        }
        match slow.read(&mut [0; 64]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(1..) => {}
            Ok(0) | Err(_) => break,
        }
    }
    scene.printed(CAF_GATEWAY, &["handshake: too slow"]);
    scene.expect_only_an_honest_package_arrives(&mut rogue);
}

/// A frame as gRPC sends it: not compressed, its length, itself.
fn grpc(frame: frame::Frame) -> Vec<u8> {
    let frame = Frame { frame: Some(frame) }.encode_to_vec();
    let length = (frame.len() as u32).to_be_bytes();
    [[0].as_slice(), &length, &frame].concat()
}

/// Opens a control lane whose bytes are said by hand; its answers are for the caller to read.
async fn by_hand(connection: &Connection, bytes: mpsc::Receiver<Bytes>) -> Body {
    let said = ReceiverStream::new(bytes).map(|bytes| Ok::<_, Infallible>(Data::data(bytes)));
    let origin = connection.origin();
    let request = http::Request::post(format!("{origin}passerelle.v1.Exchange/Session"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("passerelle-lane", "control")
        .body(Body::new(StreamBody::new(said)))
        .unwrap();
    let mut channel = connection.channel();
    let ready = std::future::poll_fn(|context| channel.poll_ready(context));
    ready.await.unwrap();
    channel.call(request).await.unwrap().into_body()
}

fn dial(scene: &Scene, transport: TransportChoice) -> Rogue {
    Rogue::dial_over(
        &scene.lab,
        "caf21",
        Role::Agent,
        "caf21",
        Lane::Control,
        transport,
    )
}

const BOTH: [TransportChoice; 2] = [TransportChoice::Quic, TransportChoice::Tcp];

/// Says one byte a second until nobody listens any more.
async fn whisper(connection: &Connection, hello: Vec<u8>, slowly: Vec<u8>) {
    let (say, said) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut every = tokio::time::interval(BYTE_EVERY);
        let _ = say.send(hello.into()).await;
        for byte in slowly {
            every.tick().await;
            if say.send(Bytes::from(vec![byte])).await.is_err() {
                return;
            }
        }
    });
    let mut heard = by_hand(connection, said).await;
    while let Some(Ok(_)) = heard.frame().await {}
}

#[test]
fn one_byte_a_second_within_a_stream_ends_the_stream() {
    let scene = Scene::start();
    for transport in BOTH {
        let rogue = dial(&scene, transport);
        let hello = grpc(frame::Frame::Hello(rogue.hello(Lane::Control)));
        let slowly = grpc(offer(&scene, 1));
        let whispering = whisper(&rogue.connection, hello, slowly);
        let ended = rogue.block_on(async { tokio::time::timeout(ENDED_WITHIN, whispering).await });
        ended.expect("it is still listened to");
    }
    scene.printed(CAF_GATEWAY, &["a stream has ended", "nothing was heard"]);
    scene.expect_only_an_honest_package_arrives(&mut scene.rogue(Lane::Control));
}

fn offer(scene: &Scene, slot: u32) -> frame::Frame {
    let mut offer = scene.small(&scene.plan(), &scene.key);
    offer.manifest.sig[0] ^= 1;
    frame::Frame::Offer(v1::Offer {
        slot,
        manifest: Some(offer.manifest),
        inline: offer.inline.into(),
        accepted: None,
    })
}

/// Says one offer after the other and never reads an answer.
async fn shout(connection: Connection, hello: Vec<u8>, mut offer: v1::Offer) {
    let (say, said) = mpsc::channel(1);
    let (_unread, _) = tokio::join!(by_hand(&connection, said), say.send(hello.into()));
    for slot in 1..=OFFERS {
        offer.slot = slot;
        let offer = grpc(frame::Frame::Offer(offer.clone()));
        if say.send(offer.into()).await.is_err() {
            break;
        }
    }
    std::future::pending().await
}

#[test]
fn a_peer_that_reads_nothing_loses_its_connection_and_fills_no_memory() {
    let mut scene = Scene::start();
    for transport in BOTH {
        let rogue = dial(&scene, transport);
        let hello = grpc(frame::Frame::Hello(rogue.hello(Lane::Control)));
        let frame::Frame::Offer(offer) = offer(&scene, 1) else {
            unreachable!();
        };
        let mut connection = rogue.connection.clone();
        let shouting = shout(connection.clone(), hello, offer);
        rogue.block_on(async {
            tokio::select! {
                () = shouting => unreachable!(),
                ended = tokio::time::timeout(ENDED_WITHIN, connection.closed()) => {
                    ended.expect("it still has its connection");
                }
            }
        });
    }
    scene.printed(CAF_GATEWAY, &["a stream has ended", UNREAD]);
    let peak = scene.lab.process(CAF_GATEWAY).peak_resident_bytes();
    assert!(peak < MEMORY_MAX, "{peak} bytes");
    scene.expect_only_an_honest_package_arrives(&mut scene.rogue(Lane::Control));
}
