//! Certificates are renewed while everything runs, and their end is announced.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use passerelle_link::TransportChoice;
use passerelle_proto::Digest;
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, LIMIT, Process, eventually,
};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};

use crate::scene::{ALL, Scene};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Issues another certificate of a program and writes it and its key over the old files; SHA-256
/// of the new public key.
fn renew(scene: &Scene, party: &str, role: &str) -> Digest {
    let lab = scene.lab.party(party);
    let authority = fs::read_to_string(&lab.authority.1).unwrap();
    let named = |name: &str| {
        let mut distinguished = DistinguishedName::new();
        distinguished.push(DnType::CommonName, name);
        distinguished
    };
    let mut of_authority = CertificateParams::new(Vec::new()).unwrap();
    of_authority.distinguished_name = named(&format!("{party} laboratory authority"));
    let issuer = Issuer::new(of_authority, KeyPair::from_pem(&authority).unwrap());
    let name = format!("{role}.{party}.laboratoire.test");
    let mut params = CertificateParams::new(vec![name.clone()]).unwrap();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.distinguished_name = named(&name);
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + 20 * DAY).into();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let stem = lab.directory.join("tls").join(role);
    // One after the other: in between they do not belong together.
    let key_file = stem.with_extension("key");
    fs::write(&key_file, key.serialize_pem()).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(stem.with_extension("pem"), certificate.pem()).unwrap();
    Digest::of(&key.subject_public_key_info())
}

/// Since when a gateway is connected with its partner's.
fn connected_since(scene: &Scene, gateway: Process, partner: &str) -> i64 {
    eventually("a connection between the gateways", LIMIT, || {
        let status = scene.lab.ask(gateway, &["status"])?;
        let peers = status["peers"].as_array().unwrap();
        let peer = peers.iter().find(|peer| peer["peer"] == partner)?;
        let since = peer["connected_since_ms"].as_i64().unwrap();
        (peer["transport"] != "" && since > 0).then_some(since)
    })
}

#[test]
fn a_renewed_certificate_is_presented_without_a_restart_and_open_connections_live_on() {
    let scene = Scene::start(TransportChoice::Auto);
    scene.send("first.csv");
    scene.receive("first.csv");
    let before = connected_since(&scene, CAF_GATEWAY, "grand-dijon/gateway");
    let pins = ["gateway", "agent"].map(|role| renew(&scene, "caf21", role));
    for process in [CAF_GATEWAY, CAF_AGENT] {
        scene.printed(process, &["new connections present the new certificate"]);
        // It is good for 20 days only, which is said at once.
        scene.printed(
            process,
            &["WARN", "the certificate of caf21 ends in 19 days"],
        );
        let left = eventually("the end on the metrics page", LIMIT, || {
            let page = scene.lab.metrics(process);
            let of = |line: &&str| {
                line.contains("expiry_seconds{") && line.contains("of=\"certificate\"")
            };
            let line = page.lines().find(of)?;
            let left: f64 = line.rsplit(' ').next()?.parse().unwrap();
            (left < 20.0 * DAY.as_secs_f64()).then_some(left)
        });
        assert!(left > 19.0 * DAY.as_secs_f64(), "{left}");
        let status = scene.lab.ask(process, &["status"]).unwrap();
        let first = &status["expiries"][0];
        assert_eq!(
            (&first["what"], &first["owner"]),
            (&"certificate".into(), &"caf21".into())
        );
    }
    let after = connected_since(&scene, CAF_GATEWAY, "grand-dijon/gateway");
    assert_eq!(before, after, "the connection was not broken");

    // From now on only the new keys are believed: whoever connects again shows them.
    let note = scene.publish("caf21", |sheet| sheet.tls.pins = pins.to_vec());
    scene.in_force(&ALL, &note);
    scene.send("second.csv");
    scene.receive("second.csv");
    let pinned = ["gateway.caf21.laboratoire.test", "not among those pinned"];
    scene.printed(DIJON_GATEWAY, &pinned);
    for process in [DIJON_GATEWAY, DIJON_AGENT] {
        assert!(scene.lab.ask(process, &["status"]).is_some());
    }
}

#[test]
fn a_certificate_that_does_not_fit_its_key_changes_nothing_and_is_complained_about() {
    let mut scene = Scene::make(TransportChoice::Auto);
    scene.lab.run(CAF_GATEWAY);
    scene.printed(CAF_GATEWAY, &["the gateway runs"]);
    let tls = scene.lab.party("caf21").directory.join("tls");
    fs::copy(tls.join("agent.pem"), tls.join("gateway.pem")).unwrap();
    scene.lab.process(CAF_GATEWAY).hang_up();
    scene.printed(
        CAF_GATEWAY,
        &["the certificate stays as it was", "gateway.pem"],
    );
    assert_eq!(scene.lab.process(CAF_GATEWAY).ended(), None);
}
