//! The rustls configurations: TLS 1.3 only, mutual, without resumption and without early data.

use std::sync::Arc;

use passerelle_proto::Hop;
use rustls::client::Resumption;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig};

use crate::identity::Identity;
use crate::kx;
use crate::peer::{Transport, Trust};
use crate::refusal::Reason;
use crate::verifier::PartyVerifier;

fn alpn(transport: Transport) -> Vec<Vec<u8>> {
    match transport {
        Transport::Quic => vec![b"h3".to_vec()],
        Transport::Tcp => vec![b"h2".to_vec()],
    }
}

fn provider(transport: Transport) -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(match transport {
        Transport::Quic => kx::quic_provider(),
        Transport::Tcp => kx::tcp_provider(),
    })
}

fn resolver(identity: &Identity) -> Arc<SingleCertAndKey> {
    let key: Arc<CertifiedKey> = identity.certified_key();
    Arc::new(SingleCertAndKey::from(key))
}

/// What a listener presents and demands; for one connection, which leaves its reason there.
pub(crate) fn server_config(
    identity: &Identity,
    trust: Trust,
    transport: Transport,
) -> Result<(ServerConfig, Reason), Error> {
    let provider = provider(transport);
    let verifier = PartyVerifier::new(trust, None, &provider);
    let reason = verifier.reason();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver(identity));
    config.alpn_protocols = alpn(transport);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((config, reason))
}

/// What a dialler presents and demands of `hop`; for one connection.
pub(crate) fn client_config(
    identity: &Identity,
    trust: Trust,
    hop: &Hop,
    transport: Transport,
) -> Result<(ClientConfig, Reason), Error> {
    let provider = provider(transport);
    let verifier = PartyVerifier::new(trust, Some(hop.clone()), &provider);
    let reason = verifier.reason();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(resolver(identity));
    config.alpn_protocols = alpn(transport);
    config.resumption = Resumption::disabled();
    Ok((config, reason))
}
