//! Evidence about one package, from the logs of both gateways, and every way to tamper with it.

mod covering;
mod purge;
mod tampering;

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message;

use super::*;
use crate::fixture::{self, NOW, PARTIES, keys, party, plan, seal_files, sign_convention};
use crate::merkle::{Frontier, leaf_hash};
use crate::tile::{TILE_WIDTH, encode_tile, tile_path};
use crate::v1::entry::Event;
use crate::v1::statement::What;
use crate::v1::{Entry, Signed};
use crate::{
    Digest, Directory, LogSigner, Roots, SheetLog, StatementChain, StatementDraft, TileReader,
    TimeAuthorities, Timestamp, with_cosignatures,
};

/// Two gateways with their logs, and a package that went from one to the other.
struct Scene {
    roots: Roots,
    directory: Directory,
    package: PackageId,
    caf: Log,
    dijon: Log,
    chains: BTreeMap<(&'static str, bool), StatementChain>,
    minutes: u64,
}

struct Log {
    party: PartyId,
    signer: LogSigner,
    entries: Vec<Vec<u8>>,
    cosigned: Vec<Vec<u8>>,
    stamped: Vec<v1::TimeStampedEvent>,
}

fn log_signer(name: &str) -> LogSigner {
    let seed = PARTIES.iter().position(|party| *party == name).unwrap() as u8;
    LogSigner::from_seed(&party(name), &[seed + 100; 64])
}

fn sheet_note(name: &str, seq: u64) -> Vec<u8> {
    let mut sheet = fixture::sheet(name);
    sheet.seq = seq;
    if name != "prestataire-obs" {
        let signer = log_signer(name);
        sheet.log = Some(SheetLog {
            origin: signer.verifier().name().to_owned(),
            vkeys: signer.verifier().to_vkeys(),
        });
    }
    sheet.sign(&keys(name).root).unwrap()
}

fn directory(roots: &Roots) -> Directory {
    let convention = sign_convention(&fixture::convention_text());
    let sheets = PARTIES.map(|name| sheet_note(name, 1));
    Directory::load(roots, &[convention], &sheets).unwrap()
}

impl Log {
    fn new(name: &str) -> Self {
        let entries = vec![
            Entry {
                at_ms: NOW.as_ms(),
                event: Some(Event::Started(v1::StartedEvent::default())),
            }
            .encode_to_vec(),
        ];
        Self {
            party: party(name),
            signer: log_signer(name),
            entries,
            cosigned: Vec::new(),
            stamped: Vec::new(),
        }
    }

    fn checkpoint(&self) -> Checkpoint {
        let mut frontier = Frontier::default();
        let leaves = self.entries.iter().map(|entry| leaf_hash(entry));
        leaves.for_each(|leaf| frontier.push(leaf));
        Checkpoint {
            origin: self.signer.verifier().name().to_owned(),
            size: frontier.size(),
            root: frontier.root(),
        }
    }

    fn sign(&self, at: Timestamp) -> Vec<u8> {
        self.checkpoint().sign(&self.signer, at).unwrap()
    }

    /// The files of the log, which has no full tile.
    fn files(&self) -> impl Fn(&str) -> Option<Vec<u8>> + use<> {
        let hashes: Vec<Digest> = self.entries.iter().map(|entry| leaf_hash(entry)).collect();
        assert!((hashes.len() as u64) < TILE_WIDTH);
        let path = tile_path(0, 0, hashes.len() as u64);
        move |asked: &str| (asked == path).then(|| encode_tile(&hashes))
    }

    fn excerpt(&self, package: PackageId, at: Timestamp) -> v1::LogEvidence {
        let about = |entry: &&Vec<u8>| {
            let entry = Entry::decode(entry.as_slice()).unwrap();
            crate::package_of(&entry) == Some(package)
        };
        let entries = (0..).zip(&self.entries).filter(|(_, entry)| about(entry));
        let entries = entries
            .map(|(index, entry)| (index, entry.clone()))
            .collect();
        let files = self.files();
        let tiles = TileReader::new(&files, self.entries.len() as u64);
        let mut covers = Covers::default();
        covers.cosigned.clone_from(&self.cosigned);
        covers.stamped.clone_from(&self.stamped);
        excerpt(&tiles, &self.party, &self.sign(at), &covers, entries).unwrap()
    }
}

impl Scene {
    /// The package is sealed by `caf21` for both others, and is accepted nowhere yet.
    fn new() -> (Self, Signed) {
        let roots: Roots = ["caf21", "grand-dijon"]
            .map(|name| (party(name), keys(name).root.id()))
            .into();
        let directory = directory(&roots);
        let plan = plan(directory.convention());
        let (sealed, _) = seal_files(&plan, &keys("caf21").agent, &[("a.csv", vec![7; 100])]);
        let manifest = sealed.manifest.signed().clone();
        let scene = Self {
            roots,
            directory,
            package: PackageId(Digest::of(&manifest.body)),
            caf: Log::new("caf21"),
            dijon: Log::new("grand-dijon"),
            chains: BTreeMap::new(),
            minutes: 0,
        };
        (scene, manifest)
    }

    /// The same, accepted by both gateways, delivered at Grand Dijon, and cosigned both ways.
    fn delivered() -> Self {
        let (mut scene, manifest) = Self::new();
        scene.accept("caf21", &manifest, crate::Hop::agent(party("caf21")));
        let receipt = scene.accept(
            "grand-dijon",
            &manifest,
            crate::Hop::gateway(party("caf21")),
        );
        scene.append(
            "caf21",
            Event::Forwarded(v1::ForwardedEvent {
                package: scene.package.as_bytes().to_vec(),
                next_hop: Some(crate::Hop::gateway(party("grand-dijon")).to_message()),
                receipt: Some(receipt),
                tls_name: String::new(),
            }),
        );
        let commit = v1::Manifest::decode(manifest.body.as_slice())
            .unwrap()
            .content_commit;
        let recipient = "grand-dijon".to_owned();
        scene.says(
            "grand-dijon",
            true,
            What::Delivered(v1::Delivered {
                recipient,
                content_commit: commit,
            }),
        );
        scene.cosign();
        scene
    }

    fn log(&mut self, name: &str) -> &mut Log {
        match name {
            "caf21" => &mut self.caf,
            _ => &mut self.dijon,
        }
    }

    fn now(&self) -> Timestamp {
        NOW.saturating_add(Duration::from_secs(60 * self.minutes))
    }

    fn append(&mut self, log: &str, event: Event) {
        self.minutes += 1;
        let at_ms = self.now().as_ms();
        let event = Some(event);
        self.log(log)
            .entries
            .push(Entry { at_ms, event }.encode_to_vec());
    }

    fn statement(&mut self, issuer: &'static str, agent: bool, what: What) -> Signed {
        let keys = keys(issuer);
        let draft = StatementDraft {
            issuer: party(issuer),
            destination: party("caf21"),
            package: self.package,
            at: self.now(),
            what,
        };
        let chain = self.chains.entry((issuer, agent)).or_default();
        let key = if agent { &keys.agent } else { &keys.gateway };
        draft.sign(key, chain)
    }

    fn accept(&mut self, by: &'static str, manifest: &Signed, from: crate::Hop) -> Signed {
        let log_index = self.log(by).entries.len() as u64;
        let what = What::Accepted(v1::Accepted {
            log_index,
            recipients: vec!["grand-dijon".into(), "prestataire-obs".into()],
        });
        let receipt = self.statement(by, false, what);
        self.append(
            by,
            Event::Accepted(v1::AcceptedEvent {
                manifest: Some(manifest.clone()),
                receipt: Some(receipt.clone()),
                previous_hop: Some(from.to_message()),
                ..v1::AcceptedEvent::default()
            }),
        );
        receipt
    }

    /// A statement that stands in both logs.
    fn says(&mut self, issuer: &'static str, agent: bool, what: What) {
        let statement = Some(self.statement(issuer, agent, what));
        for log in ["grand-dijon", "caf21"] {
            let event = v1::StatementEvent {
                statement: statement.clone(),
                ..v1::StatementEvent::default()
            };
            self.append(log, Event::Statement(event));
        }
    }

    /// Each gateway cosigns the other's log as it stands.
    fn cosign(&mut self) {
        self.minutes += 1;
        let now = self.now();
        let lines = self.caf.checkpoint().cosign(&self.dijon.signer, now);
        self.caf.cosigned = vec![with_cosignatures(&self.caf.sign(now), &lines)];
        let lines = self.dijon.checkpoint().cosign(&self.caf.signer, now);
        self.dijon.cosigned = vec![with_cosignatures(&self.dijon.sign(now), &lines)];
    }

    fn evidence(&self) -> Vec<u8> {
        let logs = [&self.caf, &self.dijon];
        let logs = logs.map(|log| log.excerpt(self.package, self.now())).into();
        assemble(self.package, &self.directory, logs).unwrap()
    }

    fn verify(&self, evidence: &[u8]) -> Result<EvidenceReport, EvidenceError> {
        UntrustedEvidence::parse(evidence)?.verify(&self.roots, None, &TimeAuthorities::default())
    }
}

fn kinds(report: &EvidenceReport) -> Vec<String> {
    let word = |said: &StatementReport| {
        let name = crate::statement_name(said.what());
        let counts = if said.counts() {
            ""
        } else {
            ", does not count"
        };
        format!("{name} by {}{counts}", said.statement.issuer())
    };
    report.statements.iter().map(word).collect()
}

#[test]
fn evidence_from_both_logs_says_who_said_what_under_which_article_and_cosignature() {
    let scene = Scene::delivered();
    let report = scene.verify(&scene.evidence()).unwrap();
    let complete = [
        "accepted by caf21",
        "accepted by grand-dijon",
        "delivered by grand-dijon",
    ];
    assert_eq!(kinds(&report), complete);
    let manifest = report.manifest.as_ref().unwrap();
    assert_eq!(manifest.flow.as_ref().unwrap().article, "article 3");
    assert_eq!(manifest.denial, None);
    assert_eq!(manifest.standings.len(), 2);
    let delivered = &report.statements[2];
    let logs: Vec<&str> = delivered
        .standings
        .iter()
        .map(|one| one.log.as_str())
        .collect();
    assert_eq!(logs, ["caf21", "grand-dijon"]);
    let partners: Vec<&str> = delivered
        .cosigned()
        .map(|one| one.partner.as_str())
        .collect();
    assert_eq!(partners, ["grand-dijon", "caf21"]);
    assert_eq!(report.missing, []);
}

#[test]
fn the_same_evidence_has_the_same_bytes() {
    let scene = Scene::delivered();
    let parsed = UntrustedEvidence::parse(&scene.evidence()).unwrap();
    assert_eq!(parsed.message.encode_to_vec(), scene.evidence());
    // What everybody has cosigned needs no further checkpoint.
    assert!(
        parsed
            .message
            .logs
            .iter()
            .all(|log| log.checkpoints.len() == 1)
    );
}

#[test]
fn what_no_partner_has_cosigned_yet_is_shown_and_does_not_count() {
    let mut scene = Scene::delivered();
    let comment = "bien reçu".to_owned();
    let recipient = "grand-dijon".to_owned();
    scene.says(
        "grand-dijon",
        true,
        What::Acknowledged(v1::Acknowledged { recipient, comment }),
    );
    let evidence = scene.evidence();
    let report = scene.verify(&evidence).unwrap();
    let last = kinds(&report).pop().unwrap();
    assert_eq!(last, "acknowledged by grand-dijon, does not count");
    assert!(report.statements[..3].iter().all(StatementReport::counts));
    let logs = &report.logs;
    assert!(
        logs.iter().all(|log| log.cosigned[0].size < log.size),
        "{logs:?}"
    );
    // A cosignature of the log's own owner says nothing more than its signature.
    scene.caf.cosigned = vec![with_cosignatures(
        &scene.caf.sign(scene.now()),
        &scene
            .caf
            .checkpoint()
            .cosign(&scene.caf.signer, scene.now()),
    )];
    scene.dijon.cosigned.clear();
    let report = scene.verify(&scene.evidence()).unwrap();
    assert!(!report.statements.iter().any(StatementReport::counts));
}

#[test]
fn a_late_delivered_stands_beside_what_was_said_too_early() {
    let (mut scene, manifest) = Scene::new();
    scene.accept("caf21", &manifest, crate::Hop::agent(party("caf21")));
    let recipient = "grand-dijon".to_owned();
    scene.says(
        "caf21",
        false,
        What::NotReceipted(v1::NotReceipted {
            recipient: recipient.clone(),
            log_size: 2,
        }),
    );
    let commit = v1::Manifest::decode(manifest.body.as_slice())
        .unwrap()
        .content_commit;
    scene.says(
        "grand-dijon",
        true,
        What::Delivered(v1::Delivered {
            recipient,
            content_commit: commit,
        }),
    );
    scene.cosign();
    let report = scene.verify(&scene.evidence()).unwrap();
    let all = [
        "accepted by caf21",
        "not-receipted by caf21",
        "delivered by grand-dijon",
    ];
    assert_eq!(kinds(&report), all);
}

#[test]
fn what_is_not_its_issuers_to_say_or_about_another_content_does_not_count() {
    let (mut scene, manifest) = Scene::new();
    scene.accept("caf21", &manifest, crate::Hop::agent(party("caf21")));
    let body = v1::Manifest::decode(manifest.body.as_slice()).unwrap();
    for (recipient, content_commit) in [
        ("prestataire-obs", body.content_commit.clone()),
        ("grand-dijon", vec![7; 32]),
        ("grand-dijon", body.content_commit),
    ] {
        let recipient = recipient.to_owned();
        let said = v1::Delivered {
            recipient,
            content_commit,
        };
        scene.says("grand-dijon", true, What::Delivered(said));
    }
    scene.cosign();
    let report = scene.verify(&scene.evidence()).unwrap();
    let delivered = report.statements.iter();
    let delivered = delivered.filter(|it| matches!(it.what(), What::Delivered(_)));
    let doubts: Vec<_> = delivered.map(|it| it.doubt.clone()).collect();
    assert_eq!(
        doubts,
        [Some(Doubt::NotIts), Some(Doubt::OtherContent), None]
    );
}

/// What is known when the next sheet of Grand Dijon revokes this key, so many minutes after `NOW`.
fn knowing(scene: &Scene, key: crate::KeyId, minutes: u64) -> Directory {
    let mut sheet = fixture::sheet("grand-dijon");
    sheet.seq = 2;
    sheet.issued = NOW;
    let signer = log_signer("grand-dijon");
    sheet.log = Some(SheetLog {
        origin: signer.verifier().name().to_owned(),
        vkeys: signer.verifier().to_vkeys(),
    });
    let at = NOW.saturating_add(Duration::from_secs(60 * minutes));
    let reason = "lost".to_owned();
    sheet.revocations = vec![crate::Revocation { key, at, reason }];
    let note = sheet.sign(&keys("grand-dijon").root).unwrap();
    match scene.directory.adopt_note(&note).unwrap() {
        crate::Adopted::Newer(known) => known,
        other => panic!("it is newer: {other:?}"),
    }
}

#[test]
fn a_key_that_was_revoked_counts_only_for_what_somebody_else_saw_before() {
    let scene = Scene::delivered();
    let evidence = scene.evidence();
    for (minutes, counts) in [(0, false), (100, true)] {
        let known = knowing(&scene, keys("grand-dijon").agent.id(), minutes);
        // Whoever verifies knows more than the file.
        let parsed = UntrustedEvidence::parse(&evidence).unwrap();
        let report = parsed
            .verify(&scene.roots, Some(&known), &TimeAuthorities::default())
            .unwrap();
        assert_eq!(
            report.statements[2].counts(),
            counts,
            "{:?}",
            report.statements[2].doubt
        );
        assert!(report.statements[1].counts());
    }
}

#[test]
fn a_statement_made_outside_the_dates_of_its_key_does_not_count() {
    let (mut scene, manifest) = Scene::new();
    scene.minutes = 60 * 24 * 300;
    scene.accept("caf21", &manifest, crate::Hop::agent(party("caf21")));
    scene.cosign();
    let logs = vec![scene.caf.excerpt(scene.package, scene.now())];
    let evidence = assemble(scene.package, &scene.directory, logs).unwrap();
    let report = scene.verify(&evidence).unwrap();
    assert!(matches!(
        report.statements[0].doubt,
        Some(Doubt::Dates { .. })
    ));
    assert!(!report.statements[0].counts());
    let denial = report.manifest.unwrap().denial;
    assert!(
        denial.is_some(),
        "it was too late to accept the package then"
    );
}

#[test]
fn every_statement_has_its_meaning_in_the_table_and_busy_has_none() {
    let recipient = "grand-dijon".to_owned();
    let delivered = What::Delivered(v1::Delivered {
        recipient,
        ..v1::Delivered::default()
    });
    assert_eq!(meaning(&delivered).unwrap().not, "that a person read it");
    assert_eq!(meaning(&What::Busy(v1::Busy::default())), None);
}

#[test]
fn every_entry_of_an_excerpt_has_a_proof_of_its_own() {
    let mut scene = Scene::delivered();
    let recipient = "grand-dijon".to_owned();
    let comment = String::new();
    let what = What::Acknowledged(v1::Acknowledged { recipient, comment });
    scene.says("grand-dijon", true, what);
    let excerpt = scene.caf.excerpt(scene.package, scene.now());
    let proofs = log_proofs(&excerpt);
    assert_eq!(proofs.len(), excerpt.entries.len());
    for (proof, entry) in proofs.iter().zip(&excerpt.entries) {
        let read = crate::LogProof::parse(&proof.to_bytes()).unwrap();
        assert_eq!(
            (read.index, read.extra.as_ref()),
            (entry.index, Some(&entry.entry))
        );
        let log = scene.caf.signer.verifier();
        let checkpoint = read.verify(&entry.entry, log).unwrap();
        let partner = scene.dijon.signer.verifier();
        let cosigned = Checkpoint::verify_cosigned(&read.checkpoint, partner).is_ok();
        assert_eq!(
            cosigned,
            entry.index < 4,
            "only the last is not cosigned yet"
        );
        assert!(checkpoint.size > entry.index);
    }
}
