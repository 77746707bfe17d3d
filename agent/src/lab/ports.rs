//! Free ports of 127.0.0.1, all different.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// Ports tried before it is given up that one is free for UDP and TCP.
const TRIES_MAX: usize = 64;

/// Ports handed out so far; they stay taken until this is dropped, so that none is given twice.
#[derive(Debug, Default)]
pub(super) struct Ports {
    held: Vec<(TcpListener, Option<UdpSocket>)>,
}

impl Ports {
    /// A port that is free for both UDP and TCP.
    pub(super) fn both(&mut self) -> io::Result<SocketAddr> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..TRIES_MAX {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let address = tcp.local_addr()?;
            match UdpSocket::bind(address) {
                Ok(udp) => {
                    self.held.push((tcp, Some(udp)));
                    return Ok(address);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A TCP port for `/metrics`, if `wanted`.
    pub(super) fn metrics(&mut self, wanted: bool) -> io::Result<Option<SocketAddr>> {
        if !wanted {
            return Ok(None);
        }
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = tcp.local_addr()?;
        self.held.push((tcp, None));
        Ok(Some(address))
    }
}
