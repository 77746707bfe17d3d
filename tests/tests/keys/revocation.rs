//! A key is revoked: nothing more is taken from it, on open connections either, and what was
//! accepted before stays valid.

use std::time::{Duration, Instant};

use passerelle_link::TransportChoice;
use passerelle_proto::fixture::seal_files;
use passerelle_proto::v1::{BusyReason, Kind, Lane, Reason, Section, statement::What};
use passerelle_proto::{Digest, FlowId, PartyId, Revocation, Role, SealPlan};
use passerelle_tests::{
    CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, Judges, LIMIT, Outcome, Rogue, eventually, now,
};
use serde_json::Value;

use crate::scene::{EFFECTIVE, FLOW, Scene};

/// What is said of a package that has arrived: accepted by both gateways, forwarded, delivered.
const WORDS: usize = 4;

/// A small package of the producer's agent for Grand Dijon, as its key signs it now.
fn package(scene: &Scene, name: &str) -> (passerelle_proto::v1::Signed, Vec<u8>) {
    let directory = scene.lab.directory();
    let recipient: PartyId = "grand-dijon".parse().unwrap();
    let plan = SealPlan {
        flow: FlowId::parse(FLOW).unwrap(),
        kind: Kind::Data,
        recipients: vec![directory.recipient_key(&recipient).unwrap().clone()],
        convention: directory.convention().digest(),
        created: now(),
        not_after: now().saturating_add(Duration::from_secs(24 * 3600)),
        parents: Vec::new(),
        supersedes: None,
        title: name.into(),
        period: String::new(),
    };
    let key = scene.lab.signing_key("caf21", Role::Agent);
    let (sealed, pack) = seal_files(&plan, &key, &[(name, b"a;b\n".to_vec())]);
    let mut inline = Vec::new();
    for section in [
        Section::Wraps,
        Section::ChunkTable,
        Section::Index,
        Section::Chunks,
    ] {
        let start = sealed.layout.offset_of(section).unwrap() as usize;
        inline.extend_from_slice(&pack[start..start + sealed.layout.length_of(section) as usize]);
    }
    (sealed.manifest.signed().clone(), inline)
}

/// Offers a package until something final is said about it.
fn offer(rogue: &mut Rogue, (manifest, inline): &(passerelle_proto::v1::Signed, Vec<u8>)) -> What {
    eventually("an answer", LIMIT, || {
        let slot = rogue.offer(manifest.clone(), inline.clone());
        match rogue.outcome(slot) {
            Outcome::Said(What::Busy(busy)) => {
                assert_eq!(busy.reason(), BusyReason::Unanchored);
                None
            }
            Outcome::Said(what) => Some(what),
            answer => panic!("{answer:?}"),
        }
    })
}

fn revoked_key(transport: TransportChoice) {
    let mut scene = Scene::make(transport);
    scene.lab.run(CAF_GATEWAY);
    scene.lab.run(DIJON_GATEWAY);
    // Whoever has the agent's machine has its certificate and its key.
    let dial = |scene: &Scene, role, to| {
        Rogue::dial_over(&scene.lab, "caf21", role, to, Lane::Control, transport)
    };
    let mut thief = dial(&scene, Role::Agent, "caf21");
    let before = package(&scene, "before.csv");
    let said = offer(&mut thief, &before);
    assert!(matches!(said, What::Accepted(_)), "{said:?}");
    scene.printed(DIJON_GATEWAY, &["accepted", "caf21/gateway"]);

    let began = Instant::now();
    let key = scene
        .lab
        .signing_key("caf21", Role::Agent)
        .verifying_key()
        .id();
    let note = scene.publish("caf21", |sheet| {
        sheet.revocations.push(Revocation {
            key,
            at: now(),
            reason: "stolen laptop".into(),
        });
    });
    let mut open = thief.connection.clone();
    let closed = thief.block_on(async { tokio::time::timeout(EFFECTIVE, open.closed()).await });
    closed.expect("the thief's connection is still open");
    scene.in_force(&[CAF_GATEWAY, DIJON_GATEWAY], &note);
    assert!(began.elapsed() < EFFECTIVE, "{:?}", began.elapsed());
    scene.printed(DIJON_GATEWAY, &["revokes its key"]);

    for (role, to) in [(Role::Agent, "caf21"), (Role::Gateway, "grand-dijon")] {
        let mut thief = dial(&scene, role, to);
        let said = offer(&mut thief, &package(&scene, "after.csv"));
        let What::Refused(refused) = said else {
            panic!("{to}: {said:?}");
        };
        assert_eq!(refused.reason(), Reason::SignerRevoked, "{to}");
    }

    // Its institution's gateway had accepted it in time.
    scene.lab.run(DIJON_AGENT);
    scene.in_force(&[DIJON_AGENT], &note);
    scene.receive("before.csv");
    assert!(
        scene
            .lab
            .received("grand-dijon", FLOW, "after.csv")
            .is_empty()
    );
    scene.verify_log(CAF_GATEWAY);
    scene.verify_log(DIJON_GATEWAY);
    lost_before_it_was_cosigned(&scene, &Digest::of(&before.0.body).to_string());
}

/// What a key has signed counts no more when it was lost before anybody had cosigned that.
fn lost_before_it_was_cosigned(scene: &Scene, package: &str) {
    let judges = Judges::of(&scene.lab);
    let mut tries = 0..;
    // Everything that is said about the package, once all of it has come to the sender's gateway.
    let mut exported = || {
        let file = judges.path(&format!("{}.evidence", tries.next()?));
        let line = ["evidence", "export", package, "--out", file.to_str()?];
        scene.lab.ask(CAF_GATEWAY, &line)?;
        let said = judges.agree_on_evidence(&file)["statements"]
            .as_array()?
            .clone();
        (said.len() == WORDS).then_some(said)
    };
    // Nobody takes the recipient's word any more once its key is void.
    eventually("the recipient's word", LIMIT, &mut exported);
    let key = scene.lab.signing_key("grand-dijon", Role::Agent);
    let key = key.verifying_key().id();
    let note = scene.publish("grand-dijon", |sheet| {
        sheet.revocations.push(Revocation {
            key,
            at: now().saturating_sub(EFFECTIVE * 60),
            reason: "found out late".into(),
        });
    });
    scene.in_force(&[CAF_GATEWAY], &note);
    let doubted = eventually("evidence that is cosigned", LIMIT, || {
        let said = exported()?;
        let is_cosigned = |one: &Value| {
            let mut standings = one["standings"].as_array().unwrap().iter();
            standings.any(|standing| standing["cosigned"] != Value::Array(Vec::new()))
        };
        said.iter().all(is_cosigned).then(|| {
            let doubted = said.iter().filter(|one| one["counts"] == false);
            doubted.count()
        })
    });
    assert_eq!(doubted, 1, "the word of the agent whose key was lost");
}

#[test]
fn a_revoked_key_is_void_within_a_minute_over_quic() {
    revoked_key(TransportChoice::Quic);
}

#[test]
fn a_revoked_key_is_void_within_a_minute_over_tcp() {
    revoked_key(TransportChoice::Tcp);
}
