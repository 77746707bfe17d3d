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
use passerelle_link::Connection;
use passerelle_proto::v1::{self, Frame, Lane, frame};
use passerelle_tests::{CAF_GATEWAY, LIMIT};
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
    connection
        .channel()
        .call(request)
        .await
        .unwrap()
        .into_body()
}

#[test]
fn one_byte_a_second_within_a_stream_ends_the_stream() {
    let scene = Scene::start();
    let mut rogue = scene.rogue(Lane::Control);
    let hello = grpc(frame::Frame::Hello(rogue.hello(Lane::Control)));
    let offer = scene.small(&scene.plan(), &scene.key);
    let slowly = grpc(frame::Frame::Offer(v1::Offer {
        slot: 1,
        manifest: Some(offer.manifest),
        inline: offer.inline.into(),
    }));
    let connection = rogue.connection.clone();
    let ended = async {
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
        let mut heard = by_hand(&connection, said).await;
        while let Some(Ok(_)) = heard.frame().await {}
    };
    let ended = rogue.block_on(async { tokio::time::timeout(ENDED_WITHIN, ended).await });
    ended.expect("it is still listened to");
    scene.printed(CAF_GATEWAY, &["a stream has ended", "nothing was heard"]);
    scene.expect_only_an_honest_package_arrives(&mut rogue);
}

#[test]
fn a_peer_that_reads_nothing_loses_its_stream_and_fills_no_memory() {
    let mut scene = Scene::start();
    let rogue = scene.rogue(Lane::Control);
    let hello = grpc(frame::Frame::Hello(rogue.hello(Lane::Control)));
    let mut offer = scene.small(&scene.plan(), &scene.key);
    offer.manifest.sig[0] ^= 1;
    let connection = rogue.connection.clone();
    let ended = async {
        let (say, said) = mpsc::channel(1);
        let (opened, ()) = tokio::join!(by_hand(&connection, said), async {
            let _ = say.send(hello.into()).await;
        });
        for slot in 1..=OFFERS {
            let offer = grpc(frame::Frame::Offer(v1::Offer {
                slot,
                manifest: Some(offer.manifest.clone()),
                inline: offer.inline.clone().into(),
            }));
            if say.send(offer.into()).await.is_err() {
                break;
            }
        }
        say.closed().await;
        // Nobody has read a byte of it.
        drop(opened);
    };
    let ended = rogue.block_on(async { tokio::time::timeout(LIMIT, ended).await });
    ended.expect("it still has its stream");
    scene.printed(CAF_GATEWAY, &["a stream has ended"]);
    let peak = scene.lab.process(CAF_GATEWAY).peak_resident_bytes();
    assert!(peak < MEMORY_MAX, "{peak} bytes");
    drop(rogue);
    let mut rogue = scene.rogue(Lane::Control);
    scene.expect_only_an_honest_package_arrives(&mut rogue);
}
