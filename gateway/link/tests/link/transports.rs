//! How a peer is reached.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use passerelle_link::{DialError, Transport, TransportChoice};
use passerelle_proto::Role;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tonic::service::Routes;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::lab::{CONNECTIONS_MAX, DEADLINE, Lab, gateway};

/// Connections that a listener takes from one peer.
const PEER_CONNECTIONS_MAX: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn both_transports_carry_a_call_on_one_port() {
    let mut lab = Lab::new();
    let serving = lab.serve("grand-dijon", Routes::default()).await;
    for (choice, transport) in [
        (TransportChoice::Quic, Transport::Quic),
        (TransportChoice::Tcp, Transport::Tcp),
        (TransportChoice::Auto, Transport::Quic),
    ] {
        let dialer = lab.dialer(lab.identity("caf21", Role::Gateway), choice);
        let connection = dialer.dial(&gateway("grand-dijon")).await.unwrap();
        let peer = connection.peer();
        assert_eq!(peer.transport, transport);
        assert_eq!(peer.hop, gateway("grand-dijon"));
        assert_eq!(peer.tls_name, "gateway.grand-dijon.test");
        assert_eq!(peer.address, serving.address);
        assert!(peer.post_quantum);
        let mut health = HealthClient::with_origin(connection.channel(), connection.origin());
        let service = String::new();
        health.check(HealthCheckRequest { service }).await.unwrap();
    }
}

/// Passes TCP on to `to`; its UDP port swallows everything.
async fn without_udp(to: SocketAddr) -> (SocketAddr, UdpSocket) {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = tcp.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, udp)
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_udp_is_replaced_by_tcp_within_two_seconds_and_remembered() {
    let mut lab = Lab::new();
    let serving = lab.serve("grand-dijon", Routes::default()).await;
    let (address, _udp) = without_udp(serving.address).await;
    lab.announce("grand-dijon", &[address]);
    let dialer = lab.dialer(lab.identity("caf21", Role::Gateway), TransportChoice::Auto);
    let begun = Instant::now();
    let connection = dialer.dial(&gateway("grand-dijon")).await.unwrap();
    let first = begun.elapsed();
    assert_eq!(connection.peer().transport, Transport::Tcp);
    assert!(first < Duration::from_secs(2), "{first:?}");
    assert!(first > Duration::from_millis(250), "QUIC had no head start");
    let begun = Instant::now();
    dialer.dial(&gateway("grand-dijon")).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(250), "forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn quic_alone_waits_and_says_why() {
    let mut lab = Lab::new();
    let serving = lab.serve("grand-dijon", Routes::default()).await;
    let (address, _udp) = without_udp(serving.address).await;
    lab.announce("grand-dijon", &[address]);
    let dialer = lab.dialer(lab.identity("caf21", Role::Gateway), TransportChoice::Quic);
    let error = dialer.dial(&gateway("grand-dijon")).await.err().unwrap();
    let text = error.to_string();
    assert!(
        matches!(
            error,
            DialError::Failed {
                transport: Transport::Quic,
                ..
            }
        ),
        "{text}"
    );
    assert!(text.contains("UDP is blocked on the way"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_peer_is_reported_with_both_transports() {
    let mut lab = Lab::new();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    lab.announce("grand-dijon", &[free.local_addr().unwrap()]);
    drop(free);
    let dialer = lab.dialer(lab.identity("caf21", Role::Gateway), TransportChoice::Auto);
    let begun = Instant::now();
    let text = dialer
        .dial(&gateway("grand-dijon"))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(text.contains("quic") && text.contains("tcp"), "{text}");
    assert!(text.contains("refused"), "{text}");
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "a restarted peer would be found late"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_party_without_an_address_is_no_route() {
    let lab = Lab::new();
    let dialer = lab.dialer(lab.identity("caf21", Role::Gateway), TransportChoice::Auto);
    let error = dialer.dial(&gateway("grand-dijon")).await.err().unwrap();
    assert_eq!(error, DialError::NoRoute(gateway("grand-dijon")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_listener_refuses_until_the_last_holder_of_a_connection_lets_go() {
    for choice in [TransportChoice::Quic, TransportChoice::Tcp] {
        let mut lab = Lab::new();
        let mut serving = lab.serve("grand-dijon", Routes::default()).await;
        let dialer = lab.dialer(lab.identity("caf21", Role::Gateway), choice);
        let hop = gateway("grand-dijon");
        let mut held = Vec::new();
        // Those of one peer are limited as well, so that it leaves places to the others.
        let other = lab.dialer(lab.identity("prestataire-obs", Role::Agent), choice);
        while held.len() < PEER_CONNECTIONS_MAX {
            held.push(other.dial(&hop).await.unwrap());
        }
        assert!(other.dial(&hop).await.is_err());
        let (class, why) = serving.refusal().await;
        assert_eq!(class, "too many connections of one peer", "{why}");
        while held.len() < CONNECTIONS_MAX {
            held.push(dialer.dial(&hop).await.unwrap());
        }
        assert!(dialer.dial(&hop).await.is_err());
        assert_eq!(serving.refusal().await.0, "too many connections");
        let clone = held[0].channel();
        held.remove(0);
        assert!(dialer.dial(&hop).await.is_err());
        drop(clone);
        let reached = async { while dialer.dial(&hop).await.is_err() {} };
        tokio::time::timeout(DEADLINE, reached).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_closed_ends_for_everybody() {
    let mut lab = Lab::new();
    let _serving = lab.serve("grand-dijon", Routes::default()).await;
    for choice in [TransportChoice::Quic, TransportChoice::Tcp] {
        let dialer = lab.dialer(lab.identity("caf21", Role::Gateway), choice);
        let mut connection = dialer.dial(&gateway("grand-dijon")).await.unwrap();
        let other = connection.clone();
        assert_eq!(connection.closed_because(), None);
        other.close();
        let closed = tokio::time::timeout(DEADLINE, connection.closed()).await;
        assert_eq!(closed.unwrap(), "closed on our side");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sheet_without_the_name_ends_the_connection_on_both_sides() {
    for choice in [TransportChoice::Quic, TransportChoice::Tcp] {
        for loser in ["caf21", "grand-dijon"] {
            let mut lab = Lab::new();
            let _serving = lab.serve("grand-dijon", Routes::default()).await;
            let dialer = lab.dialer(lab.identity("caf21", Role::Gateway), choice);
            let mut connection = dialer.dial(&gateway("grand-dijon")).await.unwrap();
            lab.publish(None);
            assert_eq!(connection.closed_because(), None);
            lab.publish(Some(loser));
            let closed = tokio::time::timeout(DEADLINE, connection.closed()).await;
            let why = closed.expect("a name that is withdrawn keeps its connection");
            assert!(
                loser == "caf21" || why.contains("no party's sheet"),
                "{why}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_the_connections_of_its_party_which_may_connect_again() {
    for choice in [TransportChoice::Quic, TransportChoice::Tcp] {
        for loser in ["caf21", "grand-dijon"] {
            let mut lab = Lab::new();
            let _serving = lab.serve("grand-dijon", Routes::default()).await;
            let dialer = lab.dialer(lab.identity("caf21", Role::Gateway), choice);
            let mut connection = dialer.dial(&gateway("grand-dijon")).await.unwrap();
            lab.revoke_key(loser);
            let closed = tokio::time::timeout(DEADLINE, connection.closed()).await;
            let why = closed.expect("the connection lives on");
            assert!(loser == "caf21" || why.contains("revokes its key"), "{why}");
            dialer.dial(&gateway("grand-dijon")).await.unwrap();
        }
    }
}
