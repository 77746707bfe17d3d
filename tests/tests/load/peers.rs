//! Two hundred agents of as many parties, connected to one gateway at the same time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use passerelle_link::{Identity, TransportChoice};
use passerelle_proto::v1::{self, Frame, Lane, frame};
use passerelle_proto::{Directory, Hop, Note, PartyId, Role, SigningKey, Tls, TlsName};
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, LIMIT, RunningLab, connect, eventually,
    hello, quick_options, speak,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tokio::sync::{Barrier, mpsc};

use crate::enrolled;

/// Parties behind one gateway, each with an agent.
const PEERS: usize = 200;
/// Recipients of one package.
const RECIPIENTS: usize = 25;
/// Flow to all of them.
const FLOW: &str = "diffusion";
/// Flow between the two signatories.
const NOTICES: &str = "signalement";
/// How often a peer says that it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Frames that wait for the transport.
const FRAMES_MAX: usize = 16;
/// Resident bytes of the gateway.
const MEMORY_MAX: u64 = 256 * 1024 * 1024;

struct Peer {
    party: PartyId,
    root: SigningKey,
}

fn peers() -> Vec<Peer> {
    let peer = |number| {
        let party: PartyId = format!("abonne-{number:03}").parse().unwrap();
        let root = SigningKey::generate(&party);
        Peer { party, root }
    };
    (0..PEERS).map(peer).collect()
}

/// Adds the parties, and a flow to them, to the laboratory's convention; both signatories sign it.
fn agree(lab: &RunningLab, peers: &[Peer]) {
    let mut text = fs::read_to_string(lab.lab.dir.join("convention.toml")).unwrap();
    for Peer { party, root } in peers {
        let root = root.verifying_key();
        text += &format!(
            "\n[[party]]\nid = \"{party}\"\nname = \"{party}\"\nrole = \"subscriber\"\n\
             via = \"grand-dijon\"\nroot = \"{root}\"\n"
        );
    }
    let to: Vec<String> = peers.iter().map(|it| format!("\"{}\"", it.party)).collect();
    text += &format!(
        "\n[[flow]]\nid = \"{FLOW}\"\narticle = \"article 1\"\ntitle = \"Diffusion\"\n\
         kind = \"table\"\nfrom = [\"grand-dijon\"]\nto = [{}]\nonward = \"free\"\n\
         acknowledgement = \"none\"\n\
         retention = {{ payload = 30, metadata = 730, evidence = 3650 }}\n\
         size_max = 1048576\nage_max_days = 7\nnot_after_days = 30\n",
        to.join(", ")
    );
    let mut note = Note::unsigned(&text).unwrap();
    for signatory in ["caf21", "grand-dijon"] {
        note.sign_with(&lab.root_key(signatory)).unwrap();
    }
    fs::write(&lab.lab.convention, note.to_bytes()).unwrap();
}

/// Certificates, keys and sheets of all of them; what each shows when it connects.
fn enrol(lab: &RunningLab, peers: &[Peer], dir: &Path) -> BTreeMap<PartyId, Identity> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let enrol = |Peer { party, root }: &Peer| {
        let name = format!("agent.{party}.test");
        let mut params = CertificateParams::new(vec![name.clone()]).unwrap();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let [pem, secret] = ["pem", "key"].map(|end| dir.join(format!("{party}.{end}")));
        fs::write(&pem, certificate.pem()).unwrap();
        passerelle_proto::write_secret_file(&secret, &key.serialize_pem()).unwrap();
        let tls = Tls {
            anchors: vec![authority.pem()],
            pins: Vec::new(),
            names: vec![TlsName {
                name,
                role: Role::Agent,
            }],
        };
        enrolled::enrol(lab, party, root, tls);
        (party.clone(), Identity::load(&pem, &secret).unwrap())
    };
    peers.iter().map(enrol).collect()
}

/// Connects, says that it is there, waits for all others, takes one package, and stays.
async fn collect(
    identity: Identity,
    directory: Directory,
    transport: TransportChoice,
    all_there: Arc<Barrier>,
) -> v1::Offer {
    let hop = Hop::gateway("grand-dijon".parse().unwrap());
    let connection = connect(identity, &directory, &hop, transport).await;
    let (to, sent) = mpsc::channel(FRAMES_MAX);
    let (heard, mut from) = mpsc::unbounded_channel();
    tokio::spawn(speak(connection.clone(), Lane::Control, sent, heard));
    let say = |frame| {
        let to = to.clone();
        async move { to.send(Frame { frame: Some(frame) }).await.unwrap() }
    };
    // It has all sheets already, as an agent that was there yesterday.
    let sheets = directory.sheets().map(|sheet| v1::SheetState {
        party: sheet.party.to_string(),
        seq: sheet.seq,
    });
    let hello = v1::Hello {
        sheets: sheets.collect(),
        ..hello(&directory, Lane::Control)
    };
    say(frame::Frame::Hello(hello)).await;
    all_there.wait().await;
    let mut alive = tokio::time::interval(KEEP_ALIVE);
    loop {
        tokio::select! {
            _ = alive.tick() => say(frame::Frame::KeepAlive(v1::KeepAlive {})).await,
            frame = from.recv() => match frame.unwrap().unwrap().frame {
                Some(frame::Frame::Offer(offer)) => {
                    say(frame::Frame::Have(v1::Have { slot: offer.slot })).await;
                    // The others are there as well, until the last has what it waits for.
                    all_there.wait().await;
                    return offer;
                }
                Some(frame::Frame::Bye(bye)) => panic!("{}", bye.why),
                _ => {}
            }
        }
    }
}

fn send(lab: &RunningLab, number: usize, recipients: &[Peer]) {
    let outbox = lab.party("grand-dijon").agent.directory.join("outbox");
    let outbox = outbox.join(FLOW);
    eventually("the outbox", LIMIT, || outbox.is_dir().then_some(()));
    let folder = outbox.join(format!(".package-{number}"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("table.csv"), b"iris;foyers\n").unwrap();
    let names = recipients.iter().map(|it| format!("\"{}\"", it.party));
    let names: Vec<String> = names.collect();
    let text = format!("recipients = [{}]\n", names.join(", "));
    fs::write(folder.join("package.toml"), text).unwrap();
    fs::rename(&folder, outbox.join(format!("package-{number}"))).unwrap();
}

#[test]
fn two_hundred_peers_at_once_each_collect_their_package() {
    let peers = peers();
    let mut lab = RunningLab::make(&quick_options());
    let dir = tempfile::tempdir().unwrap();
    agree(&lab, &peers);
    let identities = enrol(&lab, &peers, dir.path());
    for process in [CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT, DIJON_AGENT] {
        lab.run(process);
    }
    eventually("a gateway's answer", LIMIT, || {
        lab.ask(DIJON_GATEWAY, &["status"])
    });
    let before = lab.process(DIJON_GATEWAY).peak_resident_bytes();
    println!("{PEERS} parties, {} MiB at most", before >> 20);
    let directory = lab.directory();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let all_there = Arc::new(Barrier::new(PEERS + 1));
    let transports = [TransportChoice::Quic, TransportChoice::Tcp].into_iter();
    let collecting: Vec<_> = identities
        .into_values()
        .zip(transports.cycle())
        .map(|(identity, transport)| {
            let (directory, all_there) = (directory.clone(), all_there.clone());
            runtime.spawn(collect(identity, directory, transport, all_there))
        })
        .collect();
    runtime.block_on(async {
        tokio::time::timeout(LIMIT, all_there.wait())
            .await
            .expect("not all peers are connected");
    });
    for (number, recipients) in peers.chunks(RECIPIENTS).enumerate() {
        send(&lab, number, recipients);
    }
    lab.drop_file("caf21", NOTICES, "notice.csv", b"notice");
    assert_eq!(lab.receive("grand-dijon", NOTICES, "notice.csv"), b"notice");
    let status = lab.ask(DIJON_GATEWAY, &["status"]).unwrap();
    let found = status["peers"].as_array().unwrap().iter();
    let connected = found.filter(|peer| peer["state"] == "connected");
    assert!(connected.count() >= PEERS, "{status}");
    runtime.block_on(async {
        tokio::time::timeout(LIMIT, all_there.wait())
            .await
            .expect("not all peers have their package");
    });
    let offers = collecting
        .into_iter()
        .map(|it| runtime.block_on(it).unwrap());
    let packages: std::collections::BTreeSet<Vec<u8>> =
        offers.map(|offer| offer.manifest.unwrap().body).collect();
    assert_eq!(packages.len(), PEERS / RECIPIENTS);
    let peak = lab.process(DIJON_GATEWAY).peak_resident_bytes();
    println!("{PEERS} peers at once, {} MiB at most", peak >> 20);
    assert!(peak < MEMORY_MAX, "{peak}");
}
