//! The counting proxy counts and passes on: the other tests lean on it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};

use passerelle_tests::{CountingProxy, free_addresses};

#[test]
fn the_proxy_counts_what_crosses_over_tcp_in_both_directions() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let [address] = free_addresses();
    let proxy = CountingProxy::start(address, upstream.local_addr().unwrap(), false);
    let mut near = TcpStream::connect(address).unwrap();
    let (mut far, _) = upstream.accept().unwrap();

    near.write_all(&[7; 1000]).unwrap();
    let mut got = [0; 1000];
    far.read_exact(&mut got).unwrap();
    far.write_all(&got[..10]).unwrap();
    near.read_exact(&mut got[..10]).unwrap();

    assert_eq!(got, [7; 1000]);
    assert_eq!((proxy.forward(), proxy.backward()), (1000, 10));
}

#[test]
fn the_proxy_counts_what_crosses_over_udp_in_both_directions() {
    let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
    let [address] = free_addresses();
    let proxy = CountingProxy::start(address, upstream.local_addr().unwrap(), true);
    let near = UdpSocket::bind("127.0.0.1:0").unwrap();
    near.connect(address).unwrap();

    near.send(&[7; 900]).unwrap();
    let mut got = [0; 2000];
    let (length, from) = upstream.recv_from(&mut got).unwrap();
    upstream.send_to(&got[..30], from).unwrap();
    let back = near.recv(&mut got).unwrap();

    assert_eq!((length, back), (900, 30));
    assert_eq!((proxy.forward(), proxy.backward()), (900, 30));
}
