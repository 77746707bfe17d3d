//! Each part of a file, altered: refused in its own words.

use super::*;

/// Why evidence is refused when `alter` has changed it.
fn refused(scene: &Scene, alter: impl FnOnce(&mut v1::Evidence)) -> EvidenceError {
    let mut message = v1::Evidence::decode(scene.evidence().as_slice()).unwrap();
    alter(&mut message);
    scene.verify(&message.encode_to_vec()).unwrap_err()
}

fn flip(bytes: &mut [u8], at: usize) {
    bytes[at] ^= 1;
}

/// Changes what a log entry holds.
fn entry(evidence: &mut v1::EvidenceEntry, change: impl FnOnce(&mut Event)) {
    let mut entry = Entry::decode(evidence.entry.as_slice()).unwrap();
    change(entry.event.as_mut().unwrap());
    evidence.entry = entry.encode_to_vec();
}

#[test]
fn one_flipped_bit_anywhere_is_refused() {
    let scene = Scene::delivered();
    let evidence = scene.evidence();
    assert!(scene.verify(&evidence).is_ok());
    let lines = evidence.len() / 150;
    for at in (0..evidence.len()).step_by(lines.max(1)) {
        let mut altered = evidence.clone();
        flip(&mut altered, at);
        assert!(
            scene.verify(&altered).is_err(),
            "byte {at} of {}",
            evidence.len()
        );
    }
}

#[test]
fn a_file_that_is_cut_extended_or_of_another_version_is_no_evidence() {
    let scene = Scene::delivered();
    let evidence = scene.evidence();
    for length in [0, 1, 24, evidence.len() / 2, evidence.len() - 1] {
        assert!(scene.verify(&evidence[..length]).is_err(), "{length}");
    }
    // Field 15, which no version has, empty.
    let unknown = [evidence.as_slice(), &[0x7a, 0]].concat();
    assert!(matches!(
        scene.verify(&unknown),
        Err(EvidenceError::Encoding(_))
    ));
    let version = refused(&scene, |file| file.format = "passerelle/v2 evidence".into());
    assert!(matches!(version, EvidenceError::Format { .. }), "{version}");
    let long = vec![0; EVIDENCE_LEN_MAX + 1];
    assert!(matches!(
        scene.verify(&long),
        Err(EvidenceError::TooLong { .. })
    ));
    let none = refused(&scene, |file| file.logs.clear());
    assert_eq!(none.to_string(), "the logs: there are none");
    let order = refused(&scene, |file| file.logs.reverse());
    assert!(matches!(order, EvidenceError::Malformed { .. }), "{order}");
}

#[test]
fn an_altered_manifest_or_statement_is_refused_also_with_a_proof_of_its_own() {
    let scene = Scene::delivered();
    let altered = refused(&scene, |file| {
        entry(&mut file.logs[0].entries[0], |event| {
            let Event::Accepted(accepted) = event else {
                panic!()
            };
            accepted.deadline_ms += 1;
        });
    });
    let words = altered.to_string();
    assert!(
        matches!(altered, EvidenceError::NotIncluded { .. }),
        "{words}"
    );
    assert!(
        words.starts_with("entry 1 of the log of caf21: the proof"),
        "{words}"
    );
}

/// A log that itself holds what its signer never signed.
fn forged(change: impl Fn(&mut Signed)) -> EvidenceError {
    let mut scene = Scene::delivered();
    let last = scene.caf.entries.last_mut().unwrap();
    let mut entry = Entry::decode(last.as_slice()).unwrap();
    let Some(Event::Statement(event)) = &mut entry.event else {
        panic!();
    };
    change(event.statement.as_mut().unwrap());
    *last = entry.encode_to_vec();
    scene.cosign();
    scene.verify(&scene.evidence()).unwrap_err()
}

#[test]
fn either_half_of_a_composite_signature_alone_is_refused() {
    // ML-DSA-65 has 3,309 bytes; Ed25519 follows.
    for (at, half) in [(100, "post-quantum part"), (3309 + 10, "classical part")] {
        let words = forged(|signed| flip(&mut signed.sig, at)).to_string();
        assert!(
            words.starts_with("the statement in entry 3 of the log of caf21"),
            "{words}"
        );
        assert!(words.contains(half), "{words}");
    }
}

#[test]
fn a_statement_that_its_signer_never_made_is_refused() {
    let words = forged(|signed| {
        let mut body = v1::Statement::decode(signed.body.as_slice()).unwrap();
        body.at_ms += 1;
        signed.body = body.encode_to_vec();
    });
    assert!(matches!(words, EvidenceError::Object { .. }), "{words}");
    // Signed by a key that no sheet lists, and by one that may not say it.
    let stranger = crate::SigningKey::from_seed(&party("grand-dijon"), &[99; 64]);
    for (key, unknown) in [(stranger, true), (keys("grand-dijon").gateway, false)] {
        let refused = forged(|signed| {
            let mut body = v1::Statement::decode(signed.body.as_slice()).unwrap();
            body.signer = key.id().0.to_vec();
            let body = body.encode_to_vec();
            *signed = crate::envelope::sign_one(&key, v1::ObjectType::Statement, body);
        });
        let right = match refused {
            EvidenceError::Signer { .. } => unknown,
            EvidenceError::Role { .. } => !unknown,
            _ => false,
        };
        assert!(right, "{refused}");
    }
}

#[test]
fn a_statement_that_was_left_out_shows_where_its_log_or_its_sequence_speaks_of_it() {
    let mut scene = Scene::delivered();
    // Grand Dijon's own entry: the receipt in the other log still names it.
    let mut message = v1::Evidence::decode(scene.evidence().as_slice()).unwrap();
    message.logs[1].entries.remove(0);
    let report = scene.verify(&message.encode_to_vec()).unwrap();
    let left_out = Missing::Entry {
        log: party("grand-dijon"),
        index: 1,
        anew: false,
    };
    assert_eq!(report.missing, [left_out]);
    // A statement in the middle of what an agent has said.
    for comment in ["one", "two"] {
        let recipient = "grand-dijon".to_owned();
        let comment = comment.to_owned();
        let what = What::Acknowledged(v1::Acknowledged { recipient, comment });
        scene.says("grand-dijon", true, what);
    }
    scene.cosign();
    assert_eq!(scene.verify(&scene.evidence()).unwrap().missing, []);
    let mut message = v1::Evidence::decode(scene.evidence().as_slice()).unwrap();
    message.logs[0].entries.remove(3);
    message.logs[1].entries.remove(2);
    let report = scene.verify(&message.encode_to_vec()).unwrap();
    let hole = Missing::Between {
        issuer: party("grand-dijon"),
        destination: party("caf21"),
        after: 1,
        before: 3,
    };
    assert_eq!(report.missing, [hole]);
}

#[test]
fn two_statements_under_one_number_are_refused() {
    let mut scene = Scene::delivered();
    scene.chains.remove(&("grand-dijon", true));
    let comment = "again the first".to_owned();
    let recipient = "grand-dijon".to_owned();
    let what = What::Acknowledged(v1::Acknowledged { recipient, comment });
    scene.says("grand-dijon", true, what);
    scene.cosign();
    let refused = scene.verify(&scene.evidence()).unwrap_err();
    assert!(
        refused.to_string().contains("told two sequences"),
        "{refused}"
    );
}

#[test]
fn a_proof_of_another_entry_and_an_entry_of_another_package_are_refused() {
    let scene = Scene::delivered();
    let other = refused(&scene, |file| {
        let inclusions = file.logs[0].entries[1].inclusions.clone();
        file.logs[0].entries[0].inclusions = inclusions;
    });
    assert!(
        matches!(other, EvidenceError::NotIncluded { .. }),
        "{other}"
    );
    let none = refused(&scene, |file| file.logs[0].entries[0].inclusions.clear());
    assert!(matches!(none, EvidenceError::Malformed { .. }), "{none}");
    let foreign = refused(&scene, |file| file.package = vec![1; 32]);
    assert!(
        matches!(foreign, EvidenceError::OtherPackage { .. }),
        "{foreign}"
    );
}

#[test]
fn an_older_checkpoint_does_not_carry_newer_entries() {
    let scene = Scene::delivered();
    let mut older = Log::new("caf21");
    older.entries = scene.caf.entries[..2].to_vec();
    let note = older.sign(NOW);
    let refused = refused(&scene, |file| {
        file.logs[0].checkpoints[0].note = note.clone()
    });
    assert!(
        matches!(refused, EvidenceError::NotIncluded { .. }),
        "{refused}"
    );
    let mut message = v1::Evidence::decode(scene.evidence().as_slice()).unwrap();
    message.logs[0].checkpoints[0].note = note;
    message.logs[0].entries.remove(0);
    let refused = scene.verify(&message.encode_to_vec()).unwrap_err();
    assert!(
        matches!(refused, EvidenceError::Uncovered { .. }),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("covers 2 entries"),
        "{refused}"
    );
}

#[test]
fn two_checkpoints_that_are_not_one_history_are_refused() {
    let mut scene = Scene::delivered();
    let mut fork = Log::new("caf21");
    fork.entries = scene.caf.entries.clone();
    fork.entries[0].push(0);
    let forked = with_cosignatures(
        &fork.sign(NOW),
        &fork.checkpoint().cosign(&scene.dijon.signer, NOW),
    );
    scene.caf.cosigned.push(forked);
    let refused = scene.verify(&scene.evidence()).unwrap_err();
    assert!(
        matches!(refused, EvidenceError::History { .. }),
        "{refused}"
    );
}

#[test]
fn a_checkpoint_or_a_cosignature_with_one_half_only_is_refused() {
    let scene = Scene::delivered();
    // Text of three lines, an empty one; the log's two lines, then the partner's two.
    for (line, name) in [
        (4, "caf21.passerelle/log"),
        (5, "caf21.passerelle/log"),
        (6, "grand-dijon.passerelle/log"),
        (7, "grand-dijon.passerelle/log"),
    ] {
        let refused = refused(&scene, |file| {
            let note = &mut file.logs[0].checkpoints[0].note;
            let text = String::from_utf8(note.clone()).unwrap();
            let mut lines: Vec<&str> = text.lines().collect();
            lines.remove(line);
            *note = (lines.join("\n") + "\n").into_bytes();
        });
        let words = refused.to_string();
        let missing = format!("signature of {name} is missing");
        assert!(words.contains(&missing), "{words}");
        assert!(
            words.starts_with("checkpoint 1 of the log of caf21"),
            "{words}"
        );
    }
}

#[test]
fn a_cosignature_under_another_name_is_refused() {
    let scene = Scene::delivered();
    let refused = refused(&scene, |file| {
        let note = &mut file.logs[0].checkpoints[0].note;
        let text = String::from_utf8(note.clone()).unwrap();
        let renamed = text.replace("\u{2014} grand-dijon.", "\u{2014} grand-dijom.");
        *note = renamed.into_bytes();
    });
    assert!(
        matches!(refused, EvidenceError::Malformed { .. }),
        "{refused}"
    );
}

#[test]
fn a_sheet_of_another_root_and_another_convention_are_refused() {
    let scene = Scene::delivered();
    let foreign = crate::SigningKey::from_seed(&party("caf21"), &[77; 64]);
    let note = fixture::sheet("caf21").sign(&foreign).unwrap();
    let sheet = refused(&scene, |file| file.sheets[0] = note);
    assert!(matches!(sheet, EvidenceError::Trust(_)), "{sheet}");
    let gone = refused(&scene, |file| {
        file.sheets.remove(0);
    });
    assert!(matches!(gone, EvidenceError::LogKeys { .. }), "{gone}");
    let text = fixture::convention_text().replace("article 3", "article 9");
    let other = sign_convention(&text);
    let convention = refused(&scene, |file| file.conventions[0] = other);
    assert!(
        convention.to_string().contains("is not in the file"),
        "{convention}"
    );
    let mut roots = scene.roots.clone();
    roots.insert(party("caf21"), foreign.id());
    let parsed = UntrustedEvidence::parse(&scene.evidence()).unwrap();
    let pinned = parsed
        .verify(&roots, None, &TimeAuthorities::default())
        .unwrap_err();
    assert!(matches!(pinned, EvidenceError::Trust(_)), "{pinned}");
    assert!(pinned.remedy().contains("signed letters"));
}

#[test]
fn a_gateway_that_puts_a_receipt_at_another_place_contradicts_itself() {
    let (mut scene, manifest) = Scene::new();
    let event = Event::Held(v1::HoldEvent {
        package: scene.package.as_bytes().to_vec(),
        ..v1::HoldEvent::default()
    });
    scene.accept("caf21", &manifest, crate::Hop::agent(party("caf21")));
    scene.append("caf21", event);
    scene.caf.entries.swap(1, 2);
    scene.cosign();
    let logs = vec![scene.caf.excerpt(scene.package, scene.now())];
    let evidence = assemble(scene.package, &scene.directory, logs).unwrap();
    let refused = scene.verify(&evidence).unwrap_err();
    assert!(
        matches!(refused, EvidenceError::Contradiction { .. }),
        "{refused}"
    );
}

#[test]
fn a_time_stamp_that_does_not_hold_is_refused_whoever_is_trusted() {
    let scene = Scene::delivered();
    let add = |tokens: Vec<Vec<u8>>| {
        refused(&scene, |file| {
            file.logs[0].checkpoints[0].time_stamps = tokens
        })
    };
    let garbage = add(vec![vec![0x30, 0]]);
    assert!(
        matches!(garbage, EvidenceError::TimeStamp { .. }),
        "{garbage}"
    );
    let words = garbage.to_string();
    assert!(
        words.starts_with("checkpoint 1 of the log of caf21: a time-stamp"),
        "{words}"
    );
    assert!(garbage.remedy().contains("ask for it again"));
    // One of another text: behind the nine bytes of its status, an answer holds a token.
    let answer = include_bytes!("../../../vectors/time_stamp/ecdsa.tsr");
    let elsewhere = add(vec![answer[9..].to_vec()]);
    let error = TimeStampError::Imprint;
    let place = "checkpoint 1 of the log of caf21".to_owned();
    assert_eq!(elsewhere, EvidenceError::TimeStamp { place, error });
    let many = add(vec![vec![]; EVIDENCE_TIME_STAMPS_MAX + 1]);
    assert!(matches!(many, EvidenceError::Malformed { .. }), "{many}");
}
