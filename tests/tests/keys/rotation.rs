//! Keys are replaced, root keys too, and nothing stops for it.

use std::fs;

use passerelle_link::TransportChoice;
use passerelle_proto::v1::{Manifest, Signed};
use passerelle_proto::{
    Digest, KeyRole, LogSigner, Note, PartyId, RecipientSecret, Sheet, SheetKey, SigningKey,
    write_secret_file,
};
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, Judges, LIMIT, eventually, now,
};
use prost::Message;

use crate::scene::{ALL, Scene, edit};

/// New keys of one party, in files beside the old ones.
struct Successors {
    agent: SigningKey,
    gateway: SigningKey,
    log: LogSigner,
    recipient: RecipientSecret,
}

impl Successors {
    /// Makes them, and names them in both configurations before the old ones.
    fn configure(scene: &Scene, party: &str) -> Self {
        let id: PartyId = party.parse().unwrap();
        let made = Self {
            agent: SigningKey::generate(&id),
            gateway: SigningKey::generate(&id),
            log: LogSigner::generate(&id),
            recipient: RecipientSecret::generate(&id),
        };
        let own = scene.lab.party(party).directory.clone();
        for (name, text) in [
            ("agent", made.agent.to_secret_text()),
            ("gateway", made.gateway.to_secret_text()),
            ("log", made.log.to_secret_text()),
            ("recipient", made.recipient.to_secret_text()),
        ] {
            write_secret_file(&own.join(format!("keys/new-{name}.secret")), &text).unwrap();
            let config = match name {
                "gateway" | "log" => own.join("gateway.toml"),
                _ => own.join("agent.toml"),
            };
            let old = format!("{name} = \"keys/{name}.secret\"");
            let both = format!("{name} = [\"keys/new-{name}.secret\", \"keys/{name}.secret\"]");
            edit(&config, |text| text.replace(&old, &both));
        }
        made
    }

    /// Lists them, and gives the old ones their end.
    fn list(&self, sheet: &mut Sheet) {
        let until = sheet.not_after;
        let now = now();
        for old in &mut sheet.keys {
            old.not_after = now;
        }
        for (key, role) in [
            (&self.agent, KeyRole::Agent),
            (&self.gateway, KeyRole::Gateway),
        ] {
            sheet.keys.push(SheetKey {
                key: key.verifying_key().clone(),
                roles: vec![role],
                not_before: now,
                not_after: until,
            });
        }
        let log = sheet.log.as_mut().unwrap();
        let before = std::mem::take(&mut log.vkeys);
        log.vkeys = [self.log.verifier().to_vkeys(), before].concat();
        sheet.recipients.insert(0, self.recipient.public().clone());
    }
}

/// The manifest of the package with this title that the producer has sent to its end.
fn sent(scene: &Scene, title: &str) -> Manifest {
    eventually("a sent package", LIMIT, || {
        let jobs = scene.lab.all_sent("caf21").into_iter();
        let named = |job: &std::path::PathBuf| {
            let name = job.file_name().unwrap().to_string_lossy().into_owned();
            name.contains(title)
        };
        let job = jobs.into_iter().find(named)?;
        let bytes = fs::read(job.join("manifest")).ok()?;
        let signed = Signed::decode(bytes.as_slice()).unwrap();
        Some(Manifest::decode(signed.body.as_slice()).unwrap())
    })
}

/// Evidence from before holds to whoever knows the new keys; so do both logs.
fn all_is_proof_still(scene: &Scene, judges: &Judges, before: &str, id: &str) {
    let line = ["evidence", "verify", before];
    let told = scene
        .lab
        .ask(DIJON_AGENT, &line)
        .expect("old evidence holds");
    assert_eq!(told["package"], id);
    for gateway in [CAF_GATEWAY, DIJON_GATEWAY] {
        scene.verify_log(gateway);
        judges.believe(&scene.lab, gateway, id, &["delivered"]);
    }
}

#[test]
fn every_key_is_replaced_while_packages_flow_and_all_that_was_signed_stays_verifiable() {
    let mut scene = Scene::start(TransportChoice::Auto);
    scene.send("first.csv");
    scene.receive("first.csv");
    let first = sent(&scene, "first");
    let id = Digest::of(&first.encode_to_vec()).to_string();
    let judges = Judges::of(&scene.lab);
    let before = judges.path("before.evidence");
    let before = before.to_str().unwrap();
    let line = ["evidence", "export", &id, "--out", before];
    scene.lab.ask(CAF_GATEWAY, &line).unwrap();
    // One that is on its way while keys change.
    scene.lab.stop(DIJON_AGENT);
    scene.send("between.csv");
    eventually("both gateways to have it", LIMIT, || {
        let queue = scene.lab.ask(DIJON_GATEWAY, &["queue"])?;
        let items = queue["items"].as_array().unwrap();
        let waits = items.iter().any(|item| item["kind"] == "package");
        waits.then_some(())
    });

    let caf = Successors::configure(&scene, "caf21");
    let dijon = Successors::configure(&scene, "grand-dijon");
    for process in [CAF_GATEWAY, CAF_AGENT, DIJON_GATEWAY] {
        scene.lab.process(process).hang_up();
    }
    scene.lab.run(DIJON_AGENT);
    scene.receive("between.csv");
    for (party, keys) in [("caf21", &caf), ("grand-dijon", &dijon)] {
        let note = scene.publish(party, |sheet| keys.list(sheet));
        scene.in_force(&ALL, &note);
    }
    scene.send("second.csv");
    scene.receive("second.csv");
    let second = sent(&scene, "second");
    assert_ne!(first.signer, second.signer);
    assert_eq!(second.signer, caf.agent.id().0);

    // With the new recipient key alone: the package is sealed for it.
    let config = scene.lab.config(DIJON_AGENT);
    edit(&config, |text| {
        text.replace(", \"keys/recipient.secret\"", "")
    });
    scene.lab.process(DIJON_AGENT).hang_up();
    scene.send("third.csv");
    scene.receive("third.csv");

    for gateway in [CAF_GATEWAY, DIJON_GATEWAY] {
        scene.verify_log(gateway);
        // The copies that partners keep are under old and new keys: they still tell our log.
        scene.lab.stop(gateway);
        scene.lab.run(gateway);
    }
    for gateway in [CAF_GATEWAY, DIJON_GATEWAY] {
        eventually("the log to be anchored", LIMIT, || {
            let status = scene.lab.ask(gateway, &["status"])?;
            (status["anchored"] == true).then_some(())
        });
    }
    scene.send("fourth.csv");
    scene.receive("fourth.csv");
    let shown = eventually("the first package", LIMIT, || {
        scene.lab.ask(CAF_AGENT, &["package", "show", &id])
    });
    assert!(shown.to_string().contains("delivered"), "{shown}");
    all_is_proof_still(&scene, &judges, before, &id);
}

/// Version 2 of the laboratory's convention, with another root key for the producer.
fn amendment(scene: &Scene, new_root: &SigningKey) -> Vec<u8> {
    let before = fs::read(&scene.lab.lab.convention).unwrap();
    let before = Note::parse(&before).unwrap();
    let digest = Digest::of(before.text().as_bytes());
    let old_root = scene.lab.root_key("caf21").verifying_key().to_string();
    let next = format!("version = 2\nsupersedes = \"{digest}\"");
    let text = before.text().replacen("version = 1", &next, 1);
    let text = text.replace(&old_root, &new_root.verifying_key().to_string());
    let mut note = Note::unsigned(&text).unwrap();
    for party in ["caf21", "grand-dijon"] {
        note.sign_with(&scene.lab.root_key(party)).unwrap();
    }
    note.to_bytes()
}

#[test]
fn a_root_key_is_replaced_by_an_amendment_and_the_pins_stay_as_they_are() {
    let mut scene = Scene::start(TransportChoice::Auto);
    let new_root = SigningKey::generate(&"caf21".parse().unwrap());
    let note = scene.amend("caf21", &amendment(&scene, &new_root));
    scene.in_force(&ALL, &note);
    let void = scene.publish("caf21", |_| {});
    scene.printed(CAF_GATEWAY, &["a note was refused"]);
    let sheet = scene.publish_by("caf21", &new_root, |_| {});
    scene.in_force(&ALL, &sheet);
    scene.send("first.csv");
    scene.receive("first.csv");
    for process in ALL {
        let text = fs::read_to_string(scene.lab.log(process)).unwrap();
        let taken = |line: &str| line.contains("in force") && line.contains(&void.to_string());
        assert!(
            !text.lines().any(taken),
            "{process:?} believes the old root"
        );
        scene.lab.stop(process);
    }
    // The operator takes away what was refused.
    let old = scene
        .lab
        .party("caf21")
        .directory
        .join("own-sheets/caf21-2.note");
    fs::remove_file(old).unwrap();
    ALL.iter().for_each(|process| scene.lab.run(*process));
    scene.send("second.csv");
    scene.receive("second.csv");
    scene.verify_log(DIJON_GATEWAY);
    Judges::of(&scene.lab).believe_log(&scene.lab, DIJON_GATEWAY, &["delivered"]);
}
