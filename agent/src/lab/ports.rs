//! Free ports of 127.0.0.1, all different.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use ring::rand::{SecureRandom, SystemRandom};

/// Where ports are looked for: below those that systems give to outgoing connections (from 32768
/// on Linux, from 49152 by RFC 6335), which could take them before the laboratory is started.
const RANGE: Range<u16> = 10_000..30_000;
/// Ports that this process has given to laboratories: one whose program is dead at the moment looks
/// free, and is not.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
/// So many at most; then they may be given again.
const GIVEN_MAX: usize = 10_000;
/// Ports tried before it is given up that one is free for UDP and TCP.
const TRIES_MAX: usize = 256;

/// Ports handed out so far; they stay taken until this is dropped, so that none is given twice.
#[derive(Debug, Default)]
pub struct Ports {
    held: Vec<(TcpListener, UdpSocket)>,
}

impl Ports {
    /// A port that is free for both UDP and TCP.
    ///
    /// # Errors
    /// What the system says about the last one that was tried.
    pub fn both(&mut self) -> io::Result<SocketAddr> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..TRIES_MAX {
            // At random: laboratories that are made at the same time are not to meet.
            let mut random = [0; 2];
            let filled = SystemRandom::new().fill(&mut random);
            filled.map_err(|_| io::Error::other("the system gives no random bytes"))?;
            let port = RANGE.start + u16::from_be_bytes(random) % (RANGE.end - RANGE.start);
            if !is_new(port) {
                continue;
            }
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let bound = TcpListener::bind(address)
                .and_then(|tcp| UdpSocket::bind(address).map(|udp| (tcp, udp)));
            match bound {
                Ok(sockets) => {
                    self.held.push(sockets);
                    return Ok(address);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A port for `/metrics`, if `wanted`.
    pub(super) fn metrics(&mut self, wanted: bool) -> io::Result<Option<SocketAddr>> {
        wanted.then(|| self.both()).transpose()
    }
}

/// Whether a port was not given before; it is now.
fn is_new(port: u16) -> bool {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    if given.len() >= GIVEN_MAX {
        given.clear();
    }
    given.insert(port)
}
