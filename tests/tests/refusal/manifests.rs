//! Manifests that are broken, and manifests that the convention or the sheets do not allow.

use std::time::Duration;

use passerelle_proto::v1::{self, Lane, Reason, frame};
use passerelle_proto::{
    FlowId, KeyRole, PartyId, Revocation, Role, SealPlan, Sheet, SheetKey, SigningKey, Timestamp,
};
use passerelle_tests::{CAF_GATEWAY, LIMIT, Rogue, eventually, now};
use prost::Message;

use crate::scene::{Offer, Scene, expect_refused};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is offered, how it is called here, why it is refused, and what an operator reads.
type Case = (&'static str, Offer, Reason, &'static str);

fn expect_all_refused(scene: &Scene, rogue: &mut Rogue, cases: &[Case]) {
    for (name, offer, reason, words) in cases {
        let slot = rogue.offer(offer.manifest.clone(), offer.inline.clone());
        expect_refused(&rogue.outcome(slot), *reason, name);
        scene.audited(CAF_GATEWAY, &offer.id());
        scene.printed(CAF_GATEWAY, &[&offer.id()[..12], words]);
    }
}

fn broken_signatures(scene: &Scene) -> Vec<Case> {
    let good = scene.small(&scene.plan(), &scene.key);
    let altered = |alter: &dyn Fn(&mut v1::Signed)| {
        let mut offer = good.clone();
        alter(&mut offer.manifest);
        offer
    };
    let flip = |signed: &mut v1::Signed| {
        let mut body = v1::Manifest::decode(signed.body.as_slice()).unwrap();
        body.nonce[0] ^= 1;
        signed.body = body.encode_to_vec();
    };
    let last = good.manifest.sig.len() - 1;
    // One body has one id, and one refusal is told from the next by it.
    let other = scene.small(&scene.plan(), &scene.key);
    let mut classical = other;
    classical.manifest.sig[last] ^= 1;
    vec![
        (
            "a flipped bit",
            altered(&flip),
            Reason::Signature,
            "neither",
        ),
        (
            "a broken half, ML-DSA",
            altered(&|signed| signed.sig[0] ^= 1),
            Reason::Signature,
            "post-quantum part (ML-DSA-65)",
        ),
        (
            "a broken half, Ed25519",
            classical,
            Reason::Signature,
            "classical part (Ed25519)",
        ),
    ]
}

fn malformed(scene: &Scene) -> Vec<Case> {
    let mut junk = scene.small(&scene.plan(), &scene.key);
    // Field 999, a varint: nothing that this version of the format knows.
    junk.manifest.body.extend_from_slice(&[0xb8, 0x3e, 1]);
    junk.manifest = scene.sign(junk.manifest.body);
    let mut flipped = scene.small(&scene.plan(), &scene.key);
    *flipped.inline.last_mut().unwrap() ^= 1;
    let mut short = scene.small(&scene.plan(), &scene.key);
    short.inline.pop();
    vec![
        ("junk fields", junk, Reason::Malformed, "canonical"),
        (
            "a flipped bit in a chunk",
            flipped,
            Reason::Digest,
            "differs from its digest",
        ),
        (
            "a truncated chunk",
            short,
            Reason::Digest,
            "the manifest says",
        ),
    ]
}

fn against_the_convention(scene: &Scene) -> Vec<Case> {
    let manifest = |alter: &dyn Fn(&mut v1::Manifest)| scene.altered(alter);
    let tomorrow = now().saturating_add(DAY / 2).as_ms();
    let huge = |body: &mut v1::Manifest| {
        body.flow = "signalement".into();
        body.payload_length = 2 << 30;
        body.chunk_table.as_mut().unwrap().length = 36 * 1024;
    };
    vec![
        (
            "a flow that there is not",
            manifest(&|body| body.flow = "rumeurs".into()),
            Reason::FlowUnknown,
            "no flow rumeurs",
        ),
        (
            "a flow of the partner",
            manifest(&|body| body.flow = "rapport".into()),
            Reason::FlowSender,
            "may not send on flow rapport",
        ),
        (
            "a party that the flow does not name",
            manifest(&|body| body.recipients = vec!["commune-21166".into()]),
            Reason::FlowRecipient,
            "commune-21166 may not receive",
        ),
        (
            "made tomorrow",
            manifest(&|body| body.created_ms = tomorrow),
            Reason::FromFuture,
            "check both clocks",
        ),
        (
            "over before it came",
            manifest(&|body| body.not_after_ms = body.created_ms + 1),
            Reason::Expired,
            "may not be opened after",
        ),
        (
            "under a convention that nobody knows",
            manifest(&|body| body.convention = vec![7; 32]),
            Reason::ConventionUnknown,
            "convention",
        ),
        (
            "above the size limit",
            manifest(&huge),
            Reason::TooLarge,
            "send it in parts",
        ),
    ]
}

#[test]
fn broken_manifests_and_what_the_convention_does_not_allow_are_refused() {
    let scene = Scene::start();
    let mut rogue = scene.rogue(Lane::Control);
    expect_all_refused(&scene, &mut rogue, &broken_signatures(&scene));
    expect_all_refused(&scene, &mut rogue, &malformed(&scene));
    expect_all_refused(&scene, &mut rogue, &against_the_convention(&scene));
    scene.expect_only_an_honest_package_arrives(&mut rogue);
}

#[test]
fn a_sender_whose_way_does_not_lead_here_is_refused() {
    let scene = Scene::start();
    let stranger = SigningKey::generate(scene.key.party());
    let mut plan = scene.plan();
    plan.flow = FlowId::parse("signalement").unwrap();
    let caf: PartyId = "caf21".parse().unwrap();
    plan.recipients = vec![scene.directory.recipient_key(&caf).unwrap().clone()];
    let partner = scene.lab.signing_key("grand-dijon", Role::Agent);
    let gateway = scene.lab.signing_key("caf21", Role::Gateway);
    let cases = [
        (
            "a key that no sheet lists",
            scene.small(&scene.plan(), &stranger),
            Reason::SignerUnknown,
            "in no sheet",
        ),
        (
            "a gateway's key",
            scene.small(&scene.plan(), &gateway),
            Reason::Role,
            "not an agent key",
        ),
        (
            "a package of another party",
            scene.small(&plan, &partner),
            Reason::Route,
            "may not offer a package of grand-dijon",
        ),
    ];
    let mut rogue = scene.rogue(Lane::Control);
    expect_all_refused(&scene, &mut rogue, &cases);
    scene.expect_only_an_honest_package_arrives(&mut rogue);
}

/// The newest sheet of the producer, to be altered.
fn next_sheet(scene: &Scene, seq: u64, keys: Vec<(&SigningKey, [Timestamp; 2])>) -> Sheet {
    let mut sheet = scene.directory.sheet(scene.key.party()).unwrap().clone();
    sheet.seq = seq;
    sheet.issued = now();
    sheet
        .keys
        .extend(keys.into_iter().map(|(key, [first, last])| SheetKey {
            key: key.verifying_key().clone(),
            roles: vec![KeyRole::Agent],
            not_before: first,
            not_after: last,
        }));
    sheet
}

/// Sends a note and waits until the gateway says this about it.
fn send_note(scene: &Scene, rogue: &mut Rogue, text: Vec<u8>, words: &str) {
    rogue.say(frame::Frame::Note(v1::Note { text }));
    scene.printed(CAF_GATEWAY, &[words]);
}

#[test]
fn keys_that_have_expired_or_are_revoked_or_stand_in_an_older_sheet_are_refused() {
    let scene = Scene::start();
    let root = scene.lab.root_key("caf21");
    let party = scene.key.party();
    let [expired, revoked, old, retired] = [0; 4].map(|_| SigningKey::generate(party));
    let before = now().saturating_sub(300 * DAY);
    let past = [before, before.saturating_add(DAY)];
    let always = [before, now().saturating_add(DAY)];
    let all = vec![
        (&expired, past),
        (&revoked, always),
        (&old, always),
        (&retired, always),
    ];
    let second = next_sheet(&scene, 2, all.clone()).sign(&root).unwrap();
    let mut third = next_sheet(&scene, 3, all[..3].to_vec());
    third.revocations.push(Revocation {
        key: revoked.verifying_key().id(),
        at: now(),
        reason: "lost".into(),
    });
    let third = third.sign(&root).unwrap();
    let mut rogue = scene.rogue(Lane::Control);
    let by = |key: &SigningKey| scene.small(&scene.plan(), key);
    let adopted = |note: &[u8]| passerelle_proto::Digest::of(note).to_string();
    send_note(&scene, &mut rogue, second.clone(), &adopted(&second));
    send_note(&scene, &mut rogue, third.clone(), &adopted(&third));
    // A revocation ends the party's connections; it may come again, and is judged anew.
    let mut rogue = scene.rogue(Lane::Control);
    // An older sheet changes nothing.
    rogue.say(frame::Frame::Note(v1::Note { text: second }));
    let outside = "outside the dates of its signing key";
    let early = SealPlan {
        created: now().saturating_sub(2 * DAY),
        ..scene.plan()
    };
    let early = scene.small(&early, &old);
    let cases = [
        ("expired", by(&expired), Reason::SignerExpired, outside),
        ("revoked", by(&revoked), Reason::SignerRevoked, "revoked"),
        ("retired", by(&retired), Reason::SignerExpired, outside),
        (
            "made before the convention",
            early,
            Reason::ConventionDates,
            "convention",
        ),
    ];
    expect_all_refused(&scene, &mut rogue, &cases);
    scene.expect_only_an_honest_package_arrives(&mut rogue);
}

#[test]
fn an_amendment_with_one_signature_binds_nobody_and_is_audited() {
    let scene = Scene::start();
    let convention = scene.directory.convention();
    let text = std::fs::read_to_string(scene.lab.lab.dir.join("convention.toml")).unwrap();
    let next = format!("version = 2\nsupersedes = \"{}\"", convention.digest());
    let text = text.replacen("version = 1", &next, 1);
    let mut note = passerelle_proto::Note::unsigned(&text).unwrap();
    note.sign_with(&scene.lab.root_key("caf21")).unwrap();
    let amended = passerelle_proto::Digest::of(text.as_bytes());
    let mut rogue = scene.rogue(Lane::Control);
    let missing = "signature of grand-dijon";
    send_note(&scene, &mut rogue, note.to_bytes(), missing);
    eventually("an entry about the note", LIMIT, || {
        let mut entries = scene.entries(CAF_GATEWAY).into_iter();
        entries.find(|entry| entry["kind"] == "refused" && entry["package"] == "")
    });
    let under = scene.altered(|body| body.convention = amended.0.to_vec());
    let case = ("under it", under, Reason::ConventionUnknown, "convention");
    expect_all_refused(&scene, &mut rogue, &[case]);
    scene.expect_only_an_honest_package_arrives(&mut rogue);
}
