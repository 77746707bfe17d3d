//! Reaching a peer: QUIC first, TCP when UDP does not get through.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use passerelle_proto::Hop;
use rustls::pki_types::CertificateDer;
use tonic::Code;

use crate::connection::Connection;
use crate::identity::Identity;
use crate::peer::{Peer, Transport, TransportChoice, Trust};
use crate::verifier::leaf_name;
use crate::{quic, tcp};

/// Head start of the transport that is tried first.
const HEAD_START: Duration = Duration::from_millis(300);
/// Longest time for a connection to be made, by either transport.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer one transport is waited for when the other has failed.
const LAST_CHANCE: Duration = Duration::from_secs(2);
/// How long TCP is tried first after QUIC did not get through.
const TCP_REMEMBERED: Duration = Duration::from_secs(600);
/// Why a peer was not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// No sheet says where it listens, or under which name.
    #[error("the sheet of {0} names no gateway address, or no TLS name: ask for a newer sheet")]
    NoRoute(Hop),
    /// The address does not resolve.
    #[error("{address} does not resolve: {why}")]
    Resolve {
        /// The address in the sheet.
        address: String,
        /// What the system says.
        why: String,
    },
    /// It was not reached, or refused us.
    #[error("{transport} to {address}: {why}")]
    Failed {
        /// How it was tried.
        transport: Transport,
        /// Where.
        address: SocketAddr,
        /// What happened, in words.
        why: String,
    },
    /// Our own configuration does not work.
    #[error("our own TLS configuration: {0}")]
    Local(String),
}

/// Who is dialled, where, and by whom.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) trust: &'a Trust,
    pub(crate) hop: &'a Hop,
    pub(crate) name: &'a str,
    pub(crate) address: SocketAddr,
}

impl Target<'_> {
    pub(crate) fn origin(&self) -> http::Uri {
        let origin = format!("https://{}", self.name).parse();
        origin.unwrap_or_default()
    }

    /// The peer that has presented this chain, verified.
    pub(crate) fn peer(&self, chain: &[CertificateDer<'_>], transport: Transport) -> Peer {
        let name = chain.first().and_then(|leaf| leaf_name(leaf).ok());
        Peer {
            hop: self.hop.clone(),
            tls_name: name.unwrap_or_else(|| self.name.to_owned()),
            transport,
            address: self.address,
            post_quantum: true,
        }
    }
}

/// Dials peers with one identity.
#[derive(Clone)]
pub struct Dialer {
    identity: Identity,
    trust: Trust,
    choice: TransportChoice,
    endpoint: quinn::Endpoint,
    tcp_until: Arc<Mutex<HashMap<Hop, Instant>>>,
}

impl Dialer {
    /// Binds a UDP socket of its own for outgoing QUIC.
    ///
    /// # Errors
    /// What the system says about the socket.
    pub fn new(identity: Identity, trust: Trust, choice: TransportChoice) -> std::io::Result<Self> {
        Ok(Self {
            identity,
            trust,
            choice,
            endpoint: quic::client_endpoint()?,
            tcp_until: Arc::default(),
        })
    }

    /// Reaches the gateway of a party, at the addresses in its sheet.
    ///
    /// # Errors
    /// [`DialError`]; where both transports were tried, what TCP said, and what QUIC said.
    pub async fn dial(&self, hop: &Hop) -> Result<Connection, DialError> {
        let (name, addresses) = {
            let directory = self.trust.borrow();
            let name = directory.tls_name_of(hop).map(str::to_owned);
            let sheet = directory.sheet(&hop.party);
            (
                name,
                sheet.map_or(Vec::new(), |sheet| sheet.addresses.clone()),
            )
        };
        let name = name.filter(|_| !addresses.is_empty());
        let name = name.ok_or_else(|| DialError::NoRoute(hop.clone()))?;
        let mut last = DialError::NoRoute(hop.clone());
        for address in addresses {
            let resolved = match resolve(&address).await {
                Ok(resolved) => resolved,
                Err(why) => {
                    last = DialError::Resolve { address, why };
                    continue;
                }
            };
            for address in resolved {
                match Box::pin(self.dial_address(hop, &name, address)).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }

    async fn dial_address(
        &self,
        hop: &Hop,
        name: &str,
        address: SocketAddr,
    ) -> Result<Connection, DialError> {
        let target = Target {
            identity: &self.identity,
            trust: &self.trust,
            hop,
            name,
            address,
        };
        // A future of this size is not carried around by value.
        let by = |transport| Box::pin(self.attempt(target, transport));
        match self.choice {
            TransportChoice::Quic => by(Transport::Quic).await,
            TransportChoice::Tcp => by(Transport::Tcp).await,
            TransportChoice::Auto => {
                let tcp_first = {
                    let until = self
                        .tcp_until
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    until.get(hop).is_some_and(|until| *until > Instant::now())
                };
                let (first, second) = match tcp_first {
                    true => (Transport::Tcp, Transport::Quic),
                    false => (Transport::Quic, Transport::Tcp),
                };
                let silent = failed(first, address, silence(first).into());
                let connection = Box::pin(race(by(first), by(second), silent)).await?;
                self.remember(hop, connection.peer().transport);
                Ok(connection)
            }
        }
    }

    fn remember(&self, hop: &Hop, transport: Transport) {
        let mut until = self
            .tcp_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match transport {
            Transport::Quic => until.remove(hop),
            Transport::Tcp if until.contains_key(hop) => None,
            Transport::Tcp => until.insert(hop.clone(), Instant::now() + TCP_REMEMBERED),
        };
        until.retain(|_, until| *until > Instant::now());
    }

    async fn attempt(
        &self,
        target: Target<'_>,
        transport: Transport,
    ) -> Result<Connection, DialError> {
        let failed = |why| failed(transport, target.address, why);
        let dialled = async {
            let connection = match transport {
                Transport::Quic => quic::dial(&self.endpoint, target).await,
                Transport::Tcp => tcp::dial(target).await,
            };
            confirm(connection.map_err(|refused| refused.why)?).await
        };
        match tokio::time::timeout(DIAL_TIMEOUT, dialled).await {
            Ok(outcome) => outcome.map_err(failed),
            Err(_) => Err(failed(silence(transport).into())),
        }
    }
}

async fn resolve(address: &str) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::time::timeout(DIAL_TIMEOUT, tokio::net::lookup_host(address)).await;
    let found = found.map_err(|_| "the name server does not answer".to_owned())?;
    Ok(found.map_err(|error| error.to_string())?.collect())
}

fn failed(transport: Transport, address: SocketAddr, why: String) -> DialError {
    DialError::Failed {
        transport,
        address,
        why,
    }
}

fn silence(transport: Transport) -> &'static str {
    match transport {
        Transport::Quic => "no answer: UDP is blocked on the way, or nothing listens",
        Transport::Tcp => "no answer: nothing listens, or a firewall drops it",
    }
}

/// In TLS 1.3 a client learns that it was refused only after its own handshake: an answer to the
/// first request shows that it was not.
async fn confirm(mut connection: Connection) -> Result<Connection, String> {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    let origin = connection.origin();
    let mut client = HealthClient::with_origin(connection.channel(), origin);
    let request = HealthCheckRequest {
        service: String::new(),
    };
    match client.check(request).await {
        Ok(_) => Ok(connection),
        // An answer, from a program that does not tell its health.
        Err(status) if matches!(status.code(), Code::Unimplemented | Code::NotFound) => {
            Ok(connection)
        }
        Err(status) => {
            // The alert arrives just after the broken request.
            let ended = tokio::time::timeout(Duration::from_millis(500), connection.closed());
            Err(ended.await.unwrap_or_else(|_| status.to_string()))
        }
    }
}

/// The first that succeeds; the second begins after a head start or when the first fails. Where
/// one has failed, the other has a little longer and no more: a new attempt starts with both.
async fn race(
    first: impl Future<Output = Result<Connection, DialError>>,
    second: impl Future<Output = Result<Connection, DialError>>,
    first_is_silent: DialError,
) -> Result<Connection, DialError> {
    let mut first = std::pin::pin!(first);
    let early = tokio::time::timeout(HEAD_START, &mut first).await;
    let mut second = std::pin::pin!(second);
    match early {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(first)) => second.await.map_err(|second| both(&first, &second)),
        Err(_) => tokio::select! {
            outcome = &mut first => match outcome {
                Ok(connection) => Ok(connection),
                Err(first) => second.await.map_err(|second| both(&first, &second)),
            },
            outcome = &mut second => match outcome {
                Ok(connection) => Ok(connection),
                Err(second) => match tokio::time::timeout(LAST_CHANCE, first).await {
                    Ok(outcome) => outcome.map_err(|first| both(&first, &second)),
                    Err(_) => Err(both(&first_is_silent, &second)),
                },
            },
        },
    }
}

fn both(first: &DialError, second: &DialError) -> DialError {
    match (first, second) {
        (
            DialError::Failed {
                transport,
                address,
                why,
            },
            DialError::Failed {
                transport: other,
                why: other_why,
                ..
            },
        ) => DialError::Failed {
            transport: *transport,
            address: *address,
            why: format!("{why}; {other}: {other_why}"),
        },
        _ => second.clone(),
    }
}
