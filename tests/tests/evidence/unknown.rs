//! Logs that their own gateway's keys have signed, with entries that nobody may write or can know:
//! the program that has no code of ours believes none of them, and says which number it is.

use std::fs;
use std::path::PathBuf;

use passerelle_gateway::Log;
use passerelle_proto::v1::{self, Signed, entry::Event, statement::What};
use passerelle_proto::{
    Checkpoint, Digest, LogSigner, PackageId, Role, StatementDraft, envelope, read_secret_file,
    statement_name, with_cosignatures,
};
use passerelle_tests::{Judges, RunningLab, now, printed, quick_options, refused};
use prost::Message;
use serde_json::Value;

/// Enough for the few entries of each log, and quickly made.
const SEGMENT_LEN: u64 = 1024 * 1024;
/// A number that no version of the product has given to anything.
const UNKNOWN: u8 = 120;

/// A laboratory of which nothing runs, and its producer's log as often as it is made up.
struct Scene {
    lab: RunningLab,
    judges: Judges,
    logs: usize,
}

impl Scene {
    fn make() -> Self {
        let lab = RunningLab::make(&quick_options());
        let judges = Judges::of(&lab);
        Self {
            lab,
            judges,
            logs: 0,
        }
    }

    fn log_signer(&self, party: &str) -> LogSigner {
        let key = self.lab.party(party).directory.join("keys/log.secret");
        LogSigner::from_secret_text(&read_secret_file(&key).unwrap()).unwrap()
    }

    /// A log of these entries, with the notes that it is judged under.
    fn log(&mut self, entries: &[Vec<u8>]) -> PathBuf {
        self.logs += 1;
        let folder = self.judges.path(&format!("log-{}", self.logs));
        let disk = passerelle_disk::system();
        let mut log =
            Log::open_with(&disk, &folder, self.log_signer("caf21"), SEGMENT_LEN).unwrap();
        log.append(entries).unwrap();
        log.checkpoint(now()).unwrap();
        fs::create_dir(folder.join("conventions")).unwrap();
        fs::copy(&self.lab.lab.convention, folder.join("conventions/1.note")).unwrap();
        fs::create_dir(folder.join("sheets")).unwrap();
        for note in fs::read_dir(&self.lab.lab.sheets).unwrap() {
            let note = note.unwrap().path();
            let name = note.file_name().unwrap();
            fs::copy(&note, folder.join("sheets").join(name)).unwrap();
        }
        folder
    }

    fn is_refused(&mut self, entries: &[Vec<u8>], words: &str) {
        let folder = self.log(entries);
        let why = refused(&self.judges.theirs("log", &folder, &[]), 1);
        assert!(why.contains(words), "{words}: {why}");
    }

    fn draft(&self, what: &What) -> StatementDraft {
        StatementDraft {
            issuer: self.lab.party("caf21").id.clone(),
            destination: self.lab.party("grand-dijon").id.clone(),
            package: PackageId(Digest::of(b"package")),
            at: now(),
            what: what.clone(),
        }
    }

    /// An entry with a statement by a key of this role.
    fn said(&self, role: Role, what: &What) -> Vec<u8> {
        let key = self.lab.signing_key("caf21", role);
        statement(self.draft(what).sign_unnumbered(&key))
    }

    /// An entry that says that this checkpoint of our own log was cosigned.
    fn cosigned(&self, checkpoint: &Checkpoint) -> Vec<u8> {
        let note = checkpoint.sign(&self.log_signer("caf21"), now()).unwrap();
        let lines = checkpoint.cosign(&self.log_signer("grand-dijon"), now());
        entry(Event::Cosigned(v1::CosignedEvent {
            party: "grand-dijon".into(),
            ours: true,
            checkpoint: with_cosignatures(&note, &lines),
        }))
    }
}

fn entry(event: Event) -> Vec<u8> {
    let event = Some(event);
    v1::Entry { at_ms: 1, event }.encode_to_vec()
}

fn statement(signed: Signed) -> Vec<u8> {
    entry(Event::Statement(v1::StatementEvent {
        statement: Some(signed),
        ..v1::StatementEvent::default()
    }))
}

/// A field of an unknown number, with nothing in it.
fn unknown() -> [u8; 3] {
    let tag = u16::from(UNKNOWN) << 3 | 2;
    [tag as u8 & 0x7f | 0x80, (tag >> 7) as u8, 0]
}

/// Whatever can be said, with the role that may say it and one that may not.
fn everything() -> Vec<(What, Option<Role>, Option<Role>)> {
    use Role::{Agent, Gateway};
    let (gateways, agents) = ((Some(Gateway), Some(Agent)), (Some(Agent), Some(Gateway)));
    let inquire = v1::Inquire {
        first: 1,
        last: 256,
        ..v1::Inquire::default()
    };
    let all = [
        (What::Accepted(v1::Accepted::default()), gateways),
        (What::Forwarded(v1::Forwarded::default()), gateways),
        (What::Delivered(v1::Delivered::default()), agents),
        (What::Acknowledged(v1::Acknowledged::default()), agents),
        (What::Refused(v1::Refused::default()), (Some(Agent), None)),
        (What::Refused(v1::Refused::default()), (Some(Gateway), None)),
        (What::Busy(v1::Busy::default()), (None, Some(Gateway))),
        (What::NotCollected(v1::NotCollected::default()), gateways),
        (What::NotReceipted(v1::NotReceipted::default()), gateways),
        (What::Cancel(v1::Cancel::default()), agents),
        (What::Damaged(v1::Damaged {}), (Some(Agent), None)),
        (What::Damaged(v1::Damaged {}), (Some(Gateway), None)),
        (What::Inquire(inquire), gateways),
        (What::Purged(v1::Purged::default()), gateways),
    ];
    let flat = all.into_iter().map(|(what, (may, not))| (what, may, not));
    flat.collect()
}

#[test]
fn each_statement_is_believed_of_whom_may_say_it_and_refused_of_whom_may_not() {
    let mut scene = Scene::make();
    let may = everything().into_iter();
    let may: Vec<(Role, What)> = may
        .filter_map(|(what, may, _)| Some((may?, what)))
        .collect();
    let entries: Vec<_> = may
        .iter()
        .map(|(role, what)| scene.said(*role, what))
        .collect();
    let folder = scene.log(&entries);
    let told: Value =
        serde_json::from_str(&printed(&scene.judges.theirs("log", &folder, &[]))).unwrap();
    assert_eq!(told["signatures"], may.len());
    for (_, what) in &may {
        let name = statement_name(what);
        let times = may
            .iter()
            .filter(|(_, other)| statement_name(other) == name);
        assert_eq!(told["statements"][name], times.count(), "{told}");
    }
    for (what, _, not) in everything() {
        if let Some(role) = not {
            let said = scene.said(role, &what);
            let words = format!("may not say this: {}", statement_name(&what));
            scene.is_refused(&[said], &words);
        }
    }
}

#[test]
fn what_is_not_known_is_refused_by_its_number() {
    let mut scene = Scene::make();
    let known = entry(Event::Stopped(v1::StoppedEvent::default()));
    let number = format!("number {UNKNOWN}, which is unknown");
    let alone = [
        &v1::Entry {
            at_ms: 1,
            event: None,
        }
        .encode_to_vec()[..],
        &unknown(),
    ]
    .concat();
    scene.is_refused(&[known.clone(), alone], &format!("an entry holds {number}"));
    let besides = [&known[..], &unknown()].concat();
    scene.is_refused(&[besides], &format!("an entry holds {number}"));

    let key = scene.lab.signing_key("caf21", Role::Gateway);
    let body = scene
        .draft(&What::Damaged(v1::Damaged {}))
        .body_unnumbered(&key.id());
    let bare = v1::Statement {
        what: None,
        ..v1::Statement::decode(body.as_slice()).unwrap()
    };
    for known in [body, bare.encode_to_vec()] {
        let body = [&known[..], &unknown()].concat();
        let signed = envelope::sign_one(&key, v1::ObjectType::Statement, body);
        scene.is_refused(&[statement(signed)], &format!("a statement holds {number}"));
    }
}

#[test]
fn a_checkpoint_that_an_entry_quotes_is_of_this_history() {
    let mut scene = Scene::make();
    let first = entry(Event::Stopped(v1::StoppedEvent::default()));
    let folder = scene.log(std::slice::from_ref(&first));
    let note = fs::read(folder.join("checkpoint")).unwrap();
    let signer = scene.log_signer("caf21");
    let checkpoint = Checkpoint::verify(&note, signer.verifier()).unwrap();
    let sound = [first.clone(), scene.cosigned(&checkpoint)];
    let folder = scene.log(&sound);
    printed(&scene.judges.theirs("log", &folder, &[]));
    let forked = Checkpoint {
        root: Digest::of(b"another history"),
        ..checkpoint.clone()
    };
    let forked = [first.clone(), scene.cosigned(&forked)];
    scene.is_refused(&forked, "another history of 1 entries");
    // Also of a log whose place this one has taken, or a partner's: its signature must hold.
    let altered = String::from_utf8(note.clone()).unwrap();
    let altered = altered.replacen("\n1\n", "\n2\n", 1).into_bytes();
    for (last, words) in [
        (altered, "does not verify"),
        (note, "no older log was lost"),
    ] {
        let epoch = entry(Event::Epoch(v1::EpochEvent {
            party: "caf21".into(),
            last,
            ..v1::EpochEvent::default()
        }));
        scene.is_refused(std::slice::from_ref(&epoch), words);
        scene.is_refused(&[first.clone(), epoch], "begins a log that has begun");
    }
}
