//! Who is refused, and what both operators read.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use passerelle_link::{ExchangeService, Identity, TransportChoice};
use passerelle_proto::Role;
use passerelle_proto::v1::exchange_client::ExchangeClient;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};
use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{default_provider, kx_group};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::lab::{DEADLINE, Lab, gateway, ordinary};
use crate::memory::MemoryExchange;

const BOTH: [TransportChoice; 2] = [TransportChoice::Quic, TransportChoice::Tcp];

/// Dials as `identity`; the words of the dialler, and the class and words of the listener.
async fn refused_dialler(
    identity: impl Fn(&Lab) -> Identity,
    choice: TransportChoice,
) -> (String, &'static str, String) {
    let mut lab = Lab::new();
    let mut serving = lab.serve("grand-dijon", Routes::default()).await;
    let dialer = lab.dialer(identity(&lab), choice);
    let error = dialer.dial(&gateway("grand-dijon")).await.err();
    let (class, why) = serving.refusal().await;
    (error.expect("it was let in").to_string(), class, why)
}

/// Dials a gateway that has `identity`; the words of the dialler.
async fn refused_listener(identity: impl Fn(&Lab) -> Identity, choice: TransportChoice) -> String {
    let mut lab = Lab::new();
    let identity = identity(&lab);
    let _serving = lab
        .serve_as("grand-dijon", identity, Routes::default())
        .await;
    let dialer = lab.dialer(lab.identity("caf21", Role::Gateway), choice);
    let error = dialer.dial(&gateway("grand-dijon")).await.err();
    error.expect("it was believed").to_string()
}

fn with_usage(name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = ordinary(name);
    params.extended_key_usages = vec![usage];
    params
}

fn with_dates(name: &str, first: i32, last: i32) -> CertificateParams {
    let mut params = ordinary(name);
    params.not_before = date_time_ymd(first, 1, 1);
    params.not_after = date_time_ymd(last, 1, 1);
    params
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_another_authority_is_refused_with_words_for_both_sides() {
    for choice in BOTH {
        let other = |lab: &Lab| lab.identity_from("grand-dijon", ordinary("gateway.caf21.test"));
        let (told, class, why) = refused_dialler(other, choice).await;
        assert!(
            told.contains("the peer knows no authority of ours"),
            "{choice:?}: {told}"
        );
        assert_eq!(class, "certificate: issuer");
        assert!(
            why.contains("gateway.caf21.test is not issued by an authority"),
            "{why}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_name_is_in_no_sheet_is_refused() {
    for choice in BOTH {
        let unknown = |lab: &Lab| lab.identity_from("caf21", ordinary("other.caf21.test"));
        let (told, class, why) = refused_dialler(unknown, choice).await;
        assert!(
            told.contains("finds the name in our certificate in no sheet"),
            "{told}"
        );
        assert_eq!(class, "certificate: unknown name");
        assert!(
            why.contains("other.caf21.test is in no party's sheet"),
            "{why}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_of_tomorrow_is_refused() {
    for choice in BOTH {
        let early = |lab: &Lab| {
            let params = with_dates("gateway.caf21.test", 4000, 4001);
            lab.identity_from("caf21", params)
        };
        let (told, class, why) = refused_dialler(early, choice).await;
        assert!(told.contains("outside of its dates"), "{told}");
        assert_eq!(class, "certificate: dates");
        assert!(why.contains("not valid yet"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_made_for_servers_only_does_not_dial() {
    for choice in BOTH {
        let server = |lab: &Lab| {
            let params = with_usage("gateway.caf21.test", ExtendedKeyUsagePurpose::ServerAuth);
            lab.identity_from("caf21", params)
        };
        let (told, class, _) = refused_dialler(server, choice).await;
        assert!(told.contains("not made for TLS clients"), "{told}");
        assert_eq!(class, "certificate: usage");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_believed_only_as_the_very_hop_that_was_dialled() {
    for choice in BOTH {
        let agent = |lab: &Lab| lab.identity("grand-dijon", Role::Agent);
        let told = refused_listener(agent, choice).await;
        let wanted = "is that of grand-dijon/agent, and grand-dijon/gateway was dialled";
        assert!(told.contains(wanted), "{told}");

        let other_party = |lab: &Lab| lab.identity("prestataire-obs", Role::Gateway);
        let told = refused_listener(other_party, choice).await;
        assert!(
            told.contains("is that of prestataire-obs/gateway"),
            "{told}"
        );

        let name = "gateway.grand-dijon.test";
        let other_authority = |lab: &Lab| lab.identity_from("caf21", ordinary(name));
        let told = refused_listener(other_authority, choice).await;
        assert!(
            told.contains("is not issued by an authority in its party's sheet"),
            "{told}"
        );

        let client = |lab: &Lab| {
            let params = with_usage(name, ExtendedKeyUsagePurpose::ClientAuth);
            lab.identity_from("grand-dijon", params)
        };
        let told = refused_listener(client, choice).await;
        assert!(
            told.contains("is not made for TLS clients and servers"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn an_identity_that_nobody_would_believe_is_not_loaded() {
    let lab = Lab::new();
    let authority = &lab.authorities["caf21"];
    let name = "gateway.caf21.test";
    let refusal = |params: CertificateParams, key: KeyPair| {
        let (certificate, key) = authority.issue(params, &key);
        lab.load(&certificate, &key).unwrap_err().to_string()
    };
    let key = || KeyPair::generate().unwrap();
    let expired = refusal(with_dates(name, 2001, 2002), key());
    assert!(
        expired.contains("has expired on") && expired.contains("renew"),
        "{expired}"
    );
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let wrong_key = refusal(ordinary(name), ed25519);
    assert!(wrong_key.contains("ECDSA P-256 or RSA"), "{wrong_key}");
    let two_names = CertificateParams::new(vec![name.to_owned(), "b.test".into()]).unwrap();
    assert!(refusal(two_names, key()).contains("exactly one DNS name"));
    assert!(refusal(ordinary("*.caf21.test"), key()).contains("no wildcard"));
    let mut only_cn = ordinary(name);
    only_cn.subject_alt_names.clear();
    only_cn.distinguished_name.push(DnType::CommonName, name);
    assert!(refusal(only_cn, key()).contains("exactly one DNS name"));
    let (certificate, _) = authority.issue(ordinary(name), &key());
    let foreign = lab.load(&certificate, &key().serialize_pem()).unwrap_err();
    assert!(
        foreign
            .to_string()
            .contains("name the key of this certificate"),
        "{foreign}"
    );
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_up_and_one_of_another_name_is_not() {
    let lab = Lab::new();
    let identity = lab.identity("caf21", Role::Gateway);
    let before = identity.not_after_s();
    assert!(!identity.reload_if_changed().unwrap());
    lab.identity_from("caf21", with_dates("gateway.caf21.test", 2020, 2050));
    assert!(identity.reload_if_changed().unwrap());
    assert_ne!(identity.not_after_s(), before);
    assert!(!identity.reload_if_changed().unwrap());
    lab.identity_from("caf21", ordinary("agent.caf21.test"));
    let error = identity.reload().unwrap_err().to_string();
    assert!(error.contains("is for agent.caf21.test"), "{error}");
    assert_eq!(identity.name(), "gateway.caf21.test");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_is_answered_with_its_alert() {
    let mut lab = Lab::new();
    let mut serving = lab.serve("grand-dijon", Routes::default()).await;
    let mut stream = TcpStream::connect(serving.address).await.unwrap();
    stream.write_all(&client_hello_1_2()).await.unwrap();
    let mut alert = [0; 7];
    stream.read_exact(&mut alert).await.unwrap();
    // An alert record: fatal, protocol_version.
    assert_eq!((alert[0], alert[5], alert[6]), (21, 2, 70));
    let (class, why) = serving.refusal().await;
    assert_eq!(class, "handshake: TLS version", "{why}");
}

/// What a client of 2012 says: TLS 1.2, one cipher suite, P-256, ECDSA with SHA-256.
fn client_hello_1_2() -> Vec<u8> {
    let extensions = [
        [0, 10, 0, 4, 0, 2, 0, 23].as_slice(),
        &[0, 11, 0, 2, 1, 0],
        &[0, 13, 0, 4, 0, 2, 4, 3],
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut handshake = vec![1, 0];
    handshake.extend((body.len() as u16).to_be_bytes());
    handshake.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend((handshake.len() as u16).to_be_bytes());
    record.extend(handshake);
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_is_refused() {
    let mut lab = Lab::new();
    let mut serving = lab.serve("grand-dijon", Routes::default()).await;
    let stranger = client_config(default_provider()).with_no_client_auth();
    let mut stream = shake_hands(stranger, serving.address).await.unwrap();
    let error = stream.read_u8().await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    let (class, why) = serving.refusal().await;
    assert_eq!(class, "handshake: no client certificate");
    assert!(why.contains("peers are known by theirs"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_classical_key_exchange_only_health_is_answered() {
    let mut lab = Lab::new();
    let (exchange, _events) = MemoryExchange::new();
    let service = ExchangeService::new(exchange, CancellationToken::new(), TaskTracker::new());
    let serving = lab.serve("grand-dijon", Routes::new(service)).await;
    let classical = CryptoProvider {
        kx_groups: vec![kx_group::X25519],
        ..default_provider()
    };
    let config = lab_client(&lab, ordinary("gateway.caf21.test"), classical);
    let stream = shake_hands(config, serving.address).await.unwrap();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .handshake::<_, Body>(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let channel = tower::service_fn(move |request| sender.clone().send_request(request));
    let origin: http::Uri = "https://gateway.grand-dijon.test".parse().unwrap();
    let mut health = HealthClient::with_origin(channel.clone(), origin.clone());
    let service = String::new();
    health.check(HealthCheckRequest { service }).await.unwrap();
    let mut client = ExchangeClient::with_origin(channel, origin);
    let status = client.session(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("X25519MLKEM768"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_client_certificate_is_refused() {
    let mut lab = Lab::new();
    let mut serving = lab.serve("grand-dijon", Routes::default()).await;
    let expired = with_dates("gateway.caf21.test", 2001, 2002);
    let config = lab_client(&lab, expired, default_provider());
    let mut stream = shake_hands(config, serving.address).await.unwrap();
    let error = stream.read_u8().await.unwrap_err();
    assert!(error.to_string().contains("CertificateExpired"), "{error}");
    let (class, why) = serving.refusal().await;
    assert_eq!(class, "certificate: dates");
    assert!(why.contains("gateway.caf21.test has expired"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_nothing_loses_the_connection() {
    let mut lab = Lab::new();
    let mut serving = lab.serve("grand-dijon", Routes::default()).await;
    let mut silent = TcpStream::connect(serving.address).await.unwrap();
    let config = lab_client(&lab, ordinary("gateway.caf21.test"), default_provider());
    let mut unused = shake_hands(config, serving.address).await.unwrap();
    let closed = async {
        assert_eq!(silent.read(&mut [0; 16]).await.unwrap(), 0);
        let mut settings = Vec::new();
        // The end is an abrupt one; what came before it is the server's greeting.
        let _ = unused.read_to_end(&mut settings).await;
    };
    let closed = tokio::time::timeout(DEADLINE, closed).await;
    closed.expect("a place is held by somebody who says nothing");
    let (class, _) = serving.refusal().await;
    assert_eq!(class, "handshake: too slow");
}

/// A client of `caf21` with a certificate that its own authority has issued.
fn lab_client(lab: &Lab, params: CertificateParams, provider: CryptoProvider) -> ClientConfig {
    let key = KeyPair::generate().unwrap();
    let (certificate, key) = lab.authorities["caf21"].issue(params, &key);
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    client_config(provider)
        .with_client_auth_cert(chain, key)
        .unwrap()
}

fn client_config(provider: CryptoProvider) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let provider = Arc::new(provider);
    ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
}

async fn shake_hands(
    mut config: ClientConfig,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("gateway.grand-dijon.test").unwrap();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
}

/// Believes every server: these clients are strangers with tools of their own.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
