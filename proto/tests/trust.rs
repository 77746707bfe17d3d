//! What a party may do to the trust of others, and what outlives a restart.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use passerelle_proto::fixture::{self, NOW, keys, party, plan, seal_files, sign_convention, world};
use passerelle_proto::v1::Reason;
use passerelle_proto::{
    Adopted, Convention, Directory, DirectoryError, Facts, Hop, KeyRole, LogSigner, Note, Place,
    Revocation, Roots, Sheet, SheetKey, SheetLog, SigningKey, Timestamp, UnsignedConvention,
    decide,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn newer(directory: &Directory, note: &[u8]) -> Directory {
    match directory.adopt_note(note).unwrap() {
        Adopted::Newer(directory) => directory,
        other => panic!("{other:?}"),
    }
}

fn new_root(name: &str) -> SigningKey {
    SigningKey::from_seed(&party(name), &[77; 64])
}

/// The second version: `edit` is applied to the first text, and the roots of the first sign.
fn amendment(edit: impl Fn(String) -> String) -> Vec<u8> {
    let first = fixture::convention_text();
    let digest = passerelle_proto::Digest::of(first.as_bytes());
    let next = format!("version = 2\nsupersedes = \"{digest}\"");
    sign_convention(&edit(first.replace("version = 1", &next)))
}

/// The text with a new root key for both signatories.
fn with_new_roots(text: String) -> String {
    ["caf21", "grand-dijon"]
        .iter()
        .fold(text, |text, name: &&str| {
            let old = keys(name).root.verifying_key().to_string();
            text.replace(&old, &new_root(name).verifying_key().to_string())
        })
}

/// The first text without the contractor.
fn without_contractor(text: String) -> String {
    let start = text.find("[[party]]\nid = \"prestataire-obs\"").unwrap();
    let end = text.find("[[flow]]").unwrap();
    let text = format!("{}{}", &text[..start], &text[end..]);
    text.replace(
        r#"to = ["grand-dijon", "prestataire-obs"]"#,
        r#"to = ["grand-dijon"]"#,
    )
}

fn second_sheet(name: &str) -> Sheet {
    Sheet {
        seq: 2,
        ..fixture::sheet(name)
    }
}

/// What the gateway of `caf21` says to a package that its agent signs with `signer`.
fn judged(directory: &Directory, signer: &SigningKey) -> Result<(), Reason> {
    judged_under(directory.convention(), directory, signer)
}

/// The same, of a package that names this version of the convention.
fn judged_under(
    convention: &Convention,
    directory: &Directory,
    signer: &SigningKey,
) -> Result<(), Reason> {
    let plan = plan(convention);
    let manifest = seal_files(&plan, signer, &[("a", vec![1])]).0.manifest;
    let facts = Facts {
        directory,
        manifest: &manifest,
        place: Place::Gateway {
            party: &party("caf21"),
            peer: &Hop::agent(party("caf21")),
        },
        first_accepted: None,
    };
    let permit = decide(&facts, NOW).map_err(|denial| denial.reason())?;
    assert!(!permit.routes.is_empty());
    Ok(())
}

#[test]
fn no_party_can_take_the_key_of_another_by_listing_it() {
    let world = world();
    let text = keys("caf21").agent.verifying_key().to_string();
    let stolen = text.replacen("caf21+", "prestataire-obs+", 1);
    let mut sheet = second_sheet("prestataire-obs");
    sheet.keys.push(SheetKey {
        key: stolen.parse().unwrap(),
        roles: vec![KeyRole::Agent],
        not_before: "2026-01-01".parse().unwrap(),
        not_after: "2026-12-01".parse().unwrap(),
    });
    let note = sheet.sign(&keys("prestataire-obs").root).unwrap();
    let directory = newer(&world.directory, &note);
    assert_eq!(judged(&directory, &keys("caf21").agent), Ok(()));
    // Nor can it keep the holder from listing it later.
    let note = second_sheet("caf21").sign(&keys("caf21").root).unwrap();
    let directory = newer(&directory, &note);
    assert_eq!(judged(&directory, &keys("caf21").agent), Ok(()));
}

#[test]
fn an_amendment_that_drops_a_party_does_not_prevent_the_next_start() {
    let world = world();
    let note = amendment(without_contractor);
    let running = newer(&world.directory, &note);
    assert_eq!(running.convention().version(), 2);
    let notes = [world.convention_note.clone(), note];
    let started = Directory::load(&world.roots, &notes, &world.sheet_notes).unwrap();
    // Packages of the first version, signed by the dropped party, still verify.
    let (dropped, id) = (party("prestataire-obs"), keys("prestataire-obs").agent.id());
    assert!(running.signing_key(&dropped, &id).is_some());
    assert!(started.signing_key(&dropped, &id).is_some());
    // What was sealed for it, and for others, before the amendment goes its way.
    let (first, agent) = (world.directory.convention(), &keys("caf21").agent);
    for directory in [&running, &started] {
        assert_eq!(judged_under(first, directory, agent), Ok(()));
    }
    // A new sheet of a party that is none any more is not taken over.
    let next = second_sheet("prestataire-obs");
    let next = next.sign(&keys("prestataire-obs").root).unwrap();
    let refused = started.adopt_note(&next).unwrap_err();
    assert!(
        matches!(refused, DirectoryError::UnknownParty(_)),
        "{refused}"
    );
}

#[test]
fn root_keys_change_by_an_amendment_that_the_old_roots_have_signed() {
    let world = world();
    let note = amendment(with_new_roots);
    let running = newer(&world.directory, &note);
    let notes = [note, world.convention_note.clone()];
    let started = Directory::load(&world.roots, &notes, &world.sheet_notes).unwrap();
    for directory in [running, started] {
        assert_eq!(directory.convention().version(), 2);
        let by_old = second_sheet("caf21").sign(&keys("caf21").root).unwrap();
        assert!(
            directory.adopt_note(&by_old).is_err(),
            "the old root is void"
        );
        let by_new = second_sheet("caf21").sign(&new_root("caf21")).unwrap();
        newer(&directory, &by_new);
        // Nor do they after a restart, where the note lies beside one of the new root.
        let late = Sheet {
            seq: 9,
            ..fixture::sheet("caf21")
        };
        let late = late.sign(&keys("caf21").root).unwrap();
        let conventions = [amendment(with_new_roots), world.convention_note.clone()];
        let sheets = [world.sheet_notes.clone(), vec![by_new, late]].concat();
        let again = Directory::load(&world.roots, &conventions, &sheets).unwrap();
        assert_eq!(again.sheet(&party("caf21")).unwrap().seq, 2);
        // Nor do the old roots amend anything any more.
        let digest = directory.convention().digest();
        let next = format!("version = 3\nsupersedes = \"{digest}\"");
        let third = fixture::convention_text().replace("version = 1", &next);
        let refused = directory.adopt_note(&sign_convention(&third)).unwrap_err();
        let refused = refused.to_string();
        assert!(refused.contains("signature of caf21"), "{refused}");
    }
}

#[test]
fn new_pins_start_from_the_version_that_names_them() {
    let world = world();
    let note = amendment(with_new_roots);
    let roots: Roots = ["caf21", "grand-dijon"]
        .map(|name| (party(name), new_root(name).id()))
        .into();
    // The second version is signed by the old roots alone: the new pins do not make it bind.
    let only = Directory::load(&roots, std::slice::from_ref(&note), &[]);
    assert!(only.is_err());
    // With signatures by the new roots too it does, and the version before is left aside.
    let mut both = Note::parse(&note).unwrap();
    both.sign_with(&new_root("caf21")).unwrap();
    both.sign_with(&new_root("grand-dijon")).unwrap();
    let notes = [world.convention_note, both.to_bytes()];
    let started = Directory::load(&roots, &notes, &[]).unwrap();
    assert_eq!(started.convention().version(), 2);
}

#[test]
fn an_amendment_names_the_text_that_it_replaces() {
    let world = world();
    let other = passerelle_proto::Digest::of(b"another text");
    let next = format!("version = 2\nsupersedes = \"{other}\"");
    let text = fixture::convention_text().replace("version = 1", &next);
    let refused = world.directory.adopt_note(&sign_convention(&text));
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("supersedes"), "{refused}");
}

#[test]
fn a_restart_knows_the_keys_and_revocations_of_earlier_sheets() {
    let world = world();
    let caf = keys("caf21");
    let mut second = second_sheet("caf21");
    second.revocations.push(Revocation {
        key: caf.gateway.id(),
        at: NOW,
        reason: "lost".into(),
    });
    second.keys.clear();
    second.issued = NOW;
    let third = Sheet {
        seq: 3,
        keys: Vec::new(),
        issued: NOW,
        ..fixture::sheet("caf21")
    };
    let notes = [second, third].map(|sheet| sheet.sign(&caf.root).unwrap());
    let running = newer(&newer(&world.directory, &notes[0]), &notes[1]);
    let mut all = notes.to_vec();
    all.extend(world.sheet_notes.clone());
    let conventions = [world.convention_note.clone()];
    let started = Directory::load(&world.roots, &conventions, &all).unwrap();
    for directory in [running, started] {
        assert_eq!(judged(&directory, &caf.agent), Ok(()));
        let revoked = directory.signing_key(&party("caf21"), &caf.gateway.id());
        let revoked = revoked.unwrap().revoked;
        assert_eq!(revoked, Some(NOW));
    }
}

#[test]
fn a_key_that_the_newer_sheet_leaves_out_signs_nothing_made_after_it() {
    let world = world();
    let caf = keys("caf21");
    let mut sheet = second_sheet("caf21");
    sheet
        .keys
        .retain(|listed| listed.key.id() != caf.agent.id());
    sheet.issued = NOW;
    let before = newer(&world.directory, &sheet.sign(&caf.root).unwrap());
    assert_eq!(judged(&before, &caf.agent), Ok(()));
    sheet.seq = 3;
    sheet.issued = NOW.saturating_sub(DAY);
    let after = newer(&before, &sheet.sign(&caf.root).unwrap());
    assert_eq!(judged(&after, &caf.agent), Err(Reason::SignerExpired));
}

#[test]
fn two_texts_under_an_earlier_number_stop_as_well() {
    let world = world();
    let note = second_sheet("caf21").sign(&keys("caf21").root).unwrap();
    let directory = newer(&world.directory, &note);
    let mut fork = fixture::sheet("caf21");
    fork.addresses = vec!["127.0.0.1:1".into()];
    let fork = fork.sign(&keys("caf21").root).unwrap();
    let refused = directory.adopt_note(&fork).unwrap_err();
    assert!(
        matches!(refused, DirectoryError::Conflict { .. }),
        "{refused}"
    );
}

#[test]
fn a_key_counts_no_longer_than_the_sheet_that_lists_it() {
    let world = world();
    let mut sheet = second_sheet("caf21");
    sheet.not_after = NOW.saturating_sub(DAY);
    let note = sheet.sign(&keys("caf21").root).unwrap();
    let directory = newer(&world.directory, &note);
    let denied = judged(&directory, &keys("caf21").agent);
    assert_eq!(denied, Err(Reason::SignerExpired));
}

#[test]
fn nothing_is_sealed_for_a_revoked_key() {
    let mut sheet = second_sheet("grand-dijon");
    let gone = sheet.recipients[0].id();
    let fresh = passerelle_proto::RecipientSecret::from_seed(&party("grand-dijon"), &[78; 32]);
    sheet.recipients.push(fresh.public().clone());
    sheet.revocations.push(Revocation {
        key: gone,
        at: NOW,
        reason: "lost".into(),
    });
    let note = sheet.sign(&keys("grand-dijon").root).unwrap();
    let directory = newer(&world().directory, &note);
    let used = directory.recipient_key(&party("grand-dijon")).unwrap();
    assert_eq!(used.id(), fresh.public().id());
}

#[test]
fn nothing_is_sealed_under_a_sheet_that_no_longer_counts() {
    let mut sheet = second_sheet("grand-dijon");
    sheet.not_after = NOW;
    let note = sheet.sign(&keys("grand-dijon").root).unwrap();
    let directory = newer(&world().directory, &note);
    let plan = plan(directory.convention());
    let signer = keys("caf21").agent;
    let manifest = seal_files(&plan, &signer, &[("a", vec![1])]).0.manifest;
    let sealing = |now| {
        let facts = Facts {
            directory: &directory,
            manifest: &manifest,
            place: Place::Sealing,
            first_accepted: None,
        };
        decide(&facts, now).map_err(|denial| denial.reason())
    };
    assert!(sealing(NOW).is_ok());
    let later = NOW.saturating_add(Duration::from_millis(1));
    assert_eq!(sealing(later), Err(Reason::Key));
}

#[test]
fn a_sheet_names_no_log_but_its_own_partys_with_keys_that_can_be_read() {
    let signed = |origin: &str, vkeys: Vec<String>| {
        let mut sheet = second_sheet("prestataire-obs");
        let origin = origin.to_owned();
        sheet.log = Some(SheetLog { origin, vkeys });
        let signed = sheet.sign(&keys("prestataire-obs").root);
        signed.map(drop).map_err(|error| error.to_string())
    };
    let key = LogSigner::from_seed(&party("prestataire-obs"), &[5; 64]);
    let own = key.verifier().name();
    let vkeys = |origin: &str| key.for_origin(origin).verifier().to_vkeys().to_vec();
    assert_eq!(signed(own, vkeys(own)), Ok(()));
    // It would pass for whoever has cosigned.
    let foreign = "grand-dijon.passerelle/log";
    let refused = signed(foreign, vkeys(foreign)).unwrap_err();
    assert!(
        refused.contains("is no log of prestataire-obs"),
        "{refused}"
    );
    for vkeys in [vkeys(own)[..1].to_vec(), vkeys(foreign), Vec::new()] {
        let refused = signed(own, vkeys).unwrap_err();
        assert!(refused.contains("its log"), "{refused}");
    }
}

#[test]
fn a_damaged_sheet_is_called_a_sheet() {
    let text = second_sheet("caf21").to_text().unwrap();
    let text = text.replacen("seq = 2", "seq = 2\ncolour = \"red\"", 1);
    let mut note = Note::unsigned(&text).unwrap();
    note.sign_with(&keys("caf21").root).unwrap();
    let refused = world().directory.adopt_note(&note.to_bytes()).unwrap_err();
    let refused = refused.to_string();
    assert!(
        refused.starts_with("sheet") && refused.contains("colour"),
        "{refused}"
    );
}

#[test]
fn a_convention_says_days_and_known_rules() {
    let good = fixture::convention_text();
    let wrong = [
        (r#"onward = "free""#, r#"onward = "fre""#, "onward"),
        (
            r#""2026-12-31""#,
            r#""2026-12-31T12:00:00Z""#,
            "valid_until",
        ),
    ];
    for (from, to, named) in wrong {
        let text = good.replace(from, to);
        assert_ne!(text, good);
        let refused = UnsignedConvention::parse(&text).unwrap_err().to_string();
        assert!(refused.contains(named), "{refused}");
    }
    let _: Timestamp = UnsignedConvention::parse(&good)
        .unwrap()
        .draft()
        .valid_until();
}
