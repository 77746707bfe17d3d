//! Who has covered the entries: keys that were replaced, one's own earlier log, an authority.

use super::*;

#[test]
fn what_was_signed_with_an_earlier_key_of_a_log_still_verifies() {
    let mut scene = Scene::delivered();
    let note = sheet_note("caf21", 2);
    let text = crate::Note::parse(&note).unwrap().text().to_owned();
    let old = scene.caf.signer.verifier().to_vkeys();
    let next = LogSigner::from_seed(&party("caf21"), &[77; 64]);
    let new = next.verifier().to_vkeys();
    let text = old
        .iter()
        .zip(&new)
        .fold(text, |text, (old, new)| text.replace(old, new));
    let sheet = crate::Sheet::parse(&text).unwrap();
    let rotated = sheet.sign(&keys("caf21").root).unwrap();
    let sheets: Vec<Vec<u8>> = PARTIES
        .map(|name| sheet_note(name, 1))
        .into_iter()
        .chain([rotated])
        .collect();
    let convention = sign_convention(&fixture::convention_text());
    scene.directory = Directory::load(&scene.roots, &[convention], &sheets).unwrap();
    // Both of caf21's logs in it: its own checkpoint, and its cosignature over the other's.
    let report = scene.verify(&scene.evidence()).unwrap();
    assert!(report.statements.iter().all(StatementReport::counts));
    assert_eq!(
        report
            .sheets
            .iter()
            .find(|sheet| sheet.0 == party("caf21"))
            .unwrap()
            .1,
        2
    );
    // A checkpoint of its new key over the same entries is as good.
    scene.caf.signer = next;
    scene.caf.cosigned.clear();
    assert!(scene.verify(&scene.evidence()).is_ok());
}

#[test]
fn nobody_is_the_partner_of_its_own_earlier_log() {
    let mut scene = Scene::delivered();
    let first = scene.caf.signer.verifier();
    let next = LogSigner::from_seed(&party("caf21"), &[78; 64]);
    let next = next.for_origin(&crate::next_log_origin(&party("caf21"), first.name()).unwrap());
    let note = sheet_note("caf21", 2);
    let text = crate::Note::parse(&note).unwrap().text().to_owned();
    let mut sheet = crate::Sheet::parse(&text).unwrap();
    sheet.log = Some(SheetLog {
        origin: next.verifier().name().to_owned(),
        vkeys: next.verifier().to_vkeys(),
    });
    let sheets: Vec<Vec<u8>> = PARTIES
        .map(|name| sheet_note(name, 1))
        .into_iter()
        .chain([sheet.sign(&keys("caf21").root).unwrap()])
        .collect();
    let convention = sign_convention(&fixture::convention_text());
    scene.directory = Directory::load(&scene.roots, &[convention], &sheets).unwrap();
    assert!(scene.verify(&scene.evidence()).is_ok());
    let now = scene.now();
    let lines = scene.caf.checkpoint().cosign(&next, now);
    scene.caf.cosigned = vec![with_cosignatures(&scene.caf.sign(now), &lines)];
    let own = scene.verify(&scene.evidence()).unwrap_err();
    assert!(matches!(own, EvidenceError::Malformed { .. }), "{own}");
}

#[test]
fn what_was_stamped_is_a_checkpoint_of_its_own_or_one_that_was_cosigned_too() {
    let mut scene = Scene::delivered();
    let stamped = |note: Vec<u8>| v1::TimeStampedEvent {
        checkpoint: note,
        token: vec![9],
    };
    let same = scene.caf.sign(scene.now());
    scene.caf.stamped = vec![stamped(same.clone()), stamped(same)];
    let excerpt = scene.caf.excerpt(scene.package, scene.now());
    let tokens = |excerpt: &v1::LogEvidence| -> Vec<usize> {
        let checkpoints = excerpt.checkpoints.iter();
        checkpoints.map(|each| each.time_stamps.len()).collect()
    };
    assert_eq!(tokens(&excerpt), [1], "under what was cosigned");
    let event = Event::Counted(v1::CountedEvent::default());
    scene.append("caf21", event);
    scene.caf.stamped = vec![stamped(scene.caf.sign(scene.now()))];
    let excerpt = scene.caf.excerpt(scene.package, scene.now());
    assert_eq!(tokens(&excerpt), [0, 1], "under a later one");
    let inclusions = excerpt.entries.iter().map(|entry| entry.inclusions.len());
    assert!(inclusions.into_iter().all(|count| count == 2));
}

#[test]
fn of_too_many_checkpoints_the_first_and_the_last_are_kept() {
    let mut scene = Scene::delivered();
    let mut cosigned = scene.caf.cosigned.clone();
    let first = scene.caf.entries.len() as u64;
    for _ in 0..EVIDENCE_CHECKPOINTS_MAX + 5 {
        scene.append("caf21", Event::Counted(v1::CountedEvent::default()));
        scene.cosign();
        cosigned.extend(scene.caf.cosigned.clone());
    }
    scene.caf.cosigned = cosigned;
    let excerpt = scene.caf.excerpt(scene.package, scene.now());
    let sizes: Vec<u64> = excerpt
        .checkpoints
        .iter()
        .map(|each| claimed_checkpoint(&each.note).unwrap().size)
        .collect();
    assert_eq!(sizes.len(), EVIDENCE_CHECKPOINTS_MAX);
    assert_eq!(sizes[..2], [first, first + 1]);
    assert_eq!(sizes.last(), Some(&(scene.caf.entries.len() as u64)));
    assert!(scene.verify(&scene.evidence()).is_ok());
}

#[test]
fn of_too_many_checkpoints_one_that_covers_all_and_is_cosigned_is_kept() {
    let mut scene = Scene::delivered();
    let stamped = |note: Vec<u8>| v1::TimeStampedEvent {
        checkpoint: note,
        token: vec![9],
    };
    let mut stamps = Vec::new();
    let mut cosigned = Vec::new();
    for _ in 0..EVIDENCE_CHECKPOINTS_MAX {
        scene.append("caf21", Event::Counted(v1::CountedEvent::default()));
        stamps.push(stamped(scene.caf.sign(scene.now())));
        scene.append("caf21", Event::Counted(v1::CountedEvent::default()));
        scene.cosign();
        cosigned.extend(scene.caf.cosigned.clone());
    }
    scene.append("caf21", Event::Counted(v1::CountedEvent::default()));
    stamps.push(stamped(scene.caf.sign(scene.now())));
    let best = cosigned.last().cloned();
    (scene.caf.cosigned, scene.caf.stamped) = (cosigned, stamps);
    let excerpt = scene.caf.excerpt(scene.package, scene.now());
    let notes = excerpt.checkpoints.iter().map(|each| each.note.clone());
    let notes: Vec<_> = notes.collect();
    assert_eq!(notes.len(), EVIDENCE_CHECKPOINTS_MAX);
    assert!(notes.contains(&best.unwrap()));
    // Proofs of entries are under what is cosigned, though something smaller was stamped.
    for proof in log_proofs(&excerpt) {
        let note = crate::Note::parse(&proof.checkpoint).unwrap();
        assert!(note.signatures().len() > 2, "entry {}", proof.index);
    }
}

#[test]
fn what_a_revoked_key_of_a_log_has_cosigned_counts_up_to_that_moment() {
    let scene = Scene::delivered();
    let evidence = scene.evidence();
    for (minutes, counts) in [(0, false), (100, true)] {
        let key = log_signer("grand-dijon").id();
        let known = knowing(&scene, key, minutes);
        let log = known.log(&party("grand-dijon"));
        assert_eq!(log, None, "nothing is cosigned, or believed, from now on");
        let parsed = UntrustedEvidence::parse(&evidence).unwrap();
        let authorities = TimeAuthorities::default();
        let report = parsed.verify(&scene.roots, Some(&known), &authorities);
        let report = report.unwrap();
        let said = report.statements.iter();
        let mut own = said.filter(|it| it.statement.issuer() == &party("caf21"));
        assert_eq!(own.next().unwrap().counts(), counts);
    }
}
