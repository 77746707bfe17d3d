//! Whoever is not who the sheets say is not let in, and the log counts how often.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use passerelle_proto::Role;
use passerelle_proto::v1::Lane;
use passerelle_tests::{CAF_GATEWAY, LIMIT, Rogue};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};

use crate::scene::Scene;

/// What a client presents: a certificate chain and its key.
type Credentials = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A certificate that the laboratory's authority of `party` has issued.
fn issued(scene: &Scene, party: &str, params: CertificateParams) -> Credentials {
    let (_, authority) = &scene.lab.party(party).authority;
    let authority = KeyPair::from_pem(&std::fs::read_to_string(authority).unwrap()).unwrap();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("{party} laboratory authority"));
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name = name;
    let key = KeyPair::generate().unwrap();
    let certificate = params
        .signed_by(&key, &Issuer::new(issuer, authority))
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    (vec![certificate.der().clone()], key)
}

fn ordinary(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

/// Connects to the producer's gateway; what the client learns.
fn connect(scene: &Scene, credentials: Option<Credentials>) -> String {
    let caf = scene.lab.party("caf21");
    let gateway = caf.gateway.as_ref().unwrap();
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(&caf.authority.0).unwrap();
    roots.add(authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match credentials {
        Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(gateway.tls_name.clone()).unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tcp = TcpStream::connect(gateway.address).unwrap();
    tcp.set_read_timeout(Some(LIMIT)).unwrap();
    // The server's first bytes tell: until then a client knows nothing of a refusal.
    let read = Stream::new(&mut tls, &mut tcp).read(&mut [0; 1]);
    read.expect_err("it was let in").to_string()
}

/// The record layer of a client that offers TLS 1.2 at most; what it is answered.
fn tls_1_2(scene: &Scene) -> [u8; 7] {
    let gateway = scene.lab.party("caf21").gateway.as_ref().unwrap();
    let mut tcp = TcpStream::connect(gateway.address).unwrap();
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session, one cipher suite, no compression; P-256, uncompressed, ECDSA with SHA-256.
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 22]);
    body.extend([0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0]);
    body.extend([0, 13, 0, 4, 0, 2, 4, 3]);
    let length = body.len() as u8;
    tcp.write_all(&[22, 3, 1, 0, length + 4, 1, 0, 0, length])
        .unwrap();
    tcp.write_all(&body).unwrap();
    let mut alert = [0; 7];
    tcp.read_exact(&mut alert).unwrap();
    alert
}

#[test]
fn strangers_are_refused_with_an_alert_of_their_own_and_counted_in_the_log() {
    let mut scene = Scene::start();
    // It listens from here on.
    drop(scene.rogue(Lane::Control));
    let agent = scene.lab.party("caf21").agent.tls_name.clone();
    let mut expired = ordinary(&agent);
    expired.not_before = date_time_ymd(2001, 1, 1);
    expired.not_after = date_time_ymd(2002, 1, 1);
    let mut servers_only = ordinary(&agent);
    servers_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let stranger = ordinary("agent.commune-21166.laboratoire.test");
    let other = issued(&scene, "grand-dijon", ordinary(&agent));
    let cases = [
        (None, "CertificateRequired", "no client certificate"),
        (Some(other), "UnknownCA", "certificate: issuer"),
        (
            Some(issued(&scene, "caf21", expired)),
            "CertificateExpired",
            "certificate: dates",
        ),
        (
            Some(issued(&scene, "caf21", stranger)),
            "AccessDenied",
            "certificate: unknown name",
        ),
        (
            Some(issued(&scene, "caf21", servers_only)),
            "UnsupportedCertificate",
            "certificate: usage",
        ),
    ];
    let mut classes = vec!["handshake: TLS version"];
    for (credentials, alert, class) in cases {
        let learnt = connect(&scene, credentials);
        assert!(learnt.contains(alert), "{class}: {learnt}");
        classes.push(class);
    }
    let alert = tls_1_2(&scene);
    assert_eq!((alert[0], alert[5], alert[6]), (21, 2, 70), "its version");
    scene.lab.stop(CAF_GATEWAY);
    scene.lab.run(CAF_GATEWAY);
    let entries = scene.entries(CAF_GATEWAY);
    for class in classes {
        let counted = |entry: &serde_json::Value| {
            entry["kind"] == "counted" && entry["says"].as_str().unwrap().contains(class)
        };
        assert!(entries.iter().any(counted), "{class}: {entries:?}");
    }
    scene.expect_only_an_honest_package_arrives(&mut scene.rogue(Lane::Control));
}

#[test]
fn a_peer_of_the_wrong_role_or_of_another_gateway_has_no_exchange_here() {
    let scene = Scene::start();
    let peers = [
        ("prestataire-obs", Role::Agent),
        ("grand-dijon", Role::Agent),
    ];
    for (party, role) in peers {
        let mut rogue = Rogue::dial(&scene.lab, party, role, "caf21", Lane::Control);
        let why = rogue.ended();
        let words = format!("{party}/{role} has no exchange with the gateway of caf21");
        assert!(why.contains(&words), "{why}");
        let says = format!("{party}/{role} was refused: role");
        scene.audited_saying(CAF_GATEWAY, "refused", "", &says);
    }
    scene.expect_only_an_honest_package_arrives(&mut scene.rogue(Lane::Control));
}
