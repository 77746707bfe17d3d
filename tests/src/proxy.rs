//! A proxy that counts bytes, for TCP and UDP on one port number.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use passerelle_agent::lab::Ports;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// Largest datagram that is passed on, in bytes.
const DATAGRAM_MAX: usize = 65_535;
/// Bytes that a UDP socket may hold in each direction, as far as the system allows.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
const COPY_BUFFER: usize = 64 * 1024;

/// Bytes that crossed, by direction; payload of TCP and of UDP, without their headers.
#[derive(Default)]
struct Counters {
    forward: AtomicU64,
    backward: AtomicU64,
    datagrams_forward: AtomicU64,
    datagrams_backward: AtomicU64,
}

/// Addresses of 127.0.0.1 that are free for UDP and TCP, all different.
pub fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let mut ports = Ports::default();
    std::array::from_fn(|_| ports.both().unwrap())
}

/// Stands where a gateway is dialled and passes everything on; ends when dropped.
pub struct CountingProxy {
    counters: Arc<Counters>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl CountingProxy {
    /// Listens on `address` over TCP and, when `udp`, over UDP; passes on to `upstream`.
    pub fn start(address: SocketAddr, upstream: SocketAddr, udp: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let counters = Arc::new(Counters::default());
        runtime.block_on(async {
            let tcp = TcpListener::bind(address).await.unwrap();
            tokio::spawn(serve_tcp(tcp, upstream, counters.clone()));
            if udp {
                let socket = roomy(address);
                tokio::spawn(serve_udp(Arc::new(socket), upstream, counters.clone()));
            }
        });
        Self {
            counters,
            runtime: Some(runtime),
        }
    }

    /// Bytes from the dialling side so far.
    pub fn forward(&self) -> u64 {
        self.counters.forward.load(Ordering::Relaxed)
    }

    /// Bytes to the dialling side so far.
    pub fn backward(&self) -> u64 {
        self.counters.backward.load(Ordering::Relaxed)
    }

    /// Datagrams from the dialling side so far.
    pub fn datagrams_forward(&self) -> u64 {
        self.counters.datagrams_forward.load(Ordering::Relaxed)
    }

    /// Datagrams to the dialling side so far.
    pub fn datagrams_backward(&self) -> u64 {
        self.counters.datagrams_backward.load(Ordering::Relaxed)
    }
}

impl Drop for CountingProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve_tcp(listener: TcpListener, upstream: SocketAddr, counters: Arc<Counters>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let counters = counters.clone();
        connections.spawn(async move {
            let Ok(far) = TcpStream::connect(upstream).await else {
                return;
            };
            let _ = near.set_nodelay(true);
            let _ = far.set_nodelay(true);
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            // One side gone is the connection gone, as with a killed process.
            tokio::select! {
                () = copy(near_in, far_out, &counters.forward) => {}
                () = copy(far_in, near_out, &counters.backward) => {}
            }
        });
    }
}

async fn copy(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    counter: &AtomicU64,
) {
    let mut buffer = vec![0; COPY_BUFFER];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        counter.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// A socket that loses nothing while this thread does not run for a moment.
fn roomy(address: SocketAddr) -> UdpSocket {
    use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
    let socket = std::net::UdpSocket::bind(address).unwrap();
    set_socket_recv_buffer_size(&socket, SOCKET_BUFFER).unwrap();
    set_socket_send_buffer_size(&socket, SOCKET_BUFFER).unwrap();
    socket.set_nonblocking(true).unwrap();
    UdpSocket::from_std(socket).unwrap()
}

async fn serve_udp(near: Arc<UdpSocket>, upstream: SocketAddr, counters: Arc<Counters>) {
    let mut flows: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut returns = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let Ok((length, client)) = near.recv_from(&mut buffer).await else {
            continue;
        };
        counters.forward.fetch_add(length as u64, Ordering::Relaxed);
        counters.datagrams_forward.fetch_add(1, Ordering::Relaxed);
        let far = match flows.get(&client) {
            Some(far) => far.clone(),
            None => {
                let far = Arc::new(roomy(SocketAddr::from(([127, 0, 0, 1], 0))));
                far.connect(upstream).await.unwrap();
                flows.insert(client, far.clone());
                returns.spawn(return_udp(
                    near.clone(),
                    far.clone(),
                    client,
                    counters.clone(),
                ));
                far
            }
        };
        // An upstream that is down answers with an ICMP error; the datagram is lost, as on a wire.
        let _ = far.send(&buffer[..length]).await;
    }
}

async fn return_udp(
    near: Arc<UdpSocket>,
    far: Arc<UdpSocket>,
    client: SocketAddr,
    counters: Arc<Counters>,
) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let Ok(length) = far.recv(&mut buffer).await else {
            continue;
        };
        counters
            .backward
            .fetch_add(length as u64, Ordering::Relaxed);
        counters.datagrams_backward.fetch_add(1, Ordering::Relaxed);
        let _ = near.send_to(&buffer[..length], client).await;
    }
}
