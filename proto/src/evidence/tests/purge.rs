//! What was purged, and the decision that it names.

use super::*;

/// Grand Dijon purges what it has delivered, by this decision; the scene, and what it says then.
fn purged(
    decide: impl FnOnce(&mut v1::PurgeDecidedEvent),
    say: impl FnOnce(&mut v1::Purged),
) -> Result<EvidenceReport, EvidenceError> {
    let mut scene = Scene::delivered();
    let decided_index = scene.dijon.entries.len() as u64;
    let mut decided = v1::PurgeDecidedEvent {
        package: scene.package.as_bytes().to_vec(),
        part: v1::PurgedPart::Chunks.into(),
        over_index: decided_index - 1,
        due_ms: scene.now().as_ms(),
        early: false,
        cosigned_by: "caf21".to_owned(),
        cosigned_size: decided_index,
    };
    decide(&mut decided);
    scene.append("grand-dijon", Event::PurgeDecided(decided));
    let mut said = v1::Purged {
        part: v1::PurgedPart::Chunks.into(),
        decided_index,
        early: false,
    };
    say(&mut said);
    scene.says("grand-dijon", false, What::Purged(said));
    scene.cosign();
    scene.verify(&scene.evidence())
}

#[test]
fn a_purge_is_held_against_the_decision_in_its_log() {
    let report = purged(|_| {}, |_| {}).unwrap();
    assert_eq!(report.missing, []);
    let set_back = purged(|it| it.due_ms += 200_000, |_| {});
    assert!(set_back.is_ok(), "within what clocks may differ");
    let refused = |decide: fn(&mut v1::PurgeDecidedEvent), say: fn(&mut v1::Purged)| {
        let error = purged(decide, say).unwrap_err();
        assert!(
            matches!(error, EvidenceError::Contradiction { .. }),
            "{error}"
        );
        error.to_string()
    };
    for (told, why) in [
        (
            "another part",
            refused(|it| it.part = v1::PurgedPart::Whole.into(), |_| {}),
        ),
        ("it was early", refused(|it| it.early = true, |_| {})),
        (
            "not due yet",
            refused(|it| it.due_ms += 1_000_000_000, |_| {}),
        ),
        ("not over yet", refused(|it| it.over_index = 900, |_| {})),
        (
            "nobody had cosigned",
            refused(|it| it.cosigned_size = it.over_index, |_| {}),
        ),
        (
            "a statement stands there",
            refused(|_| {}, |it| it.decided_index -= 1),
        ),
    ] {
        assert!(why.contains(told), "{told} in {why}");
    }
    // A decision that nobody has put into the file is missed.
    let report = purged(|_| {}, |it| it.decided_index += 50).unwrap();
    let log = party("grand-dijon");
    let missed =
        |missing: &Missing| matches!(missing, Missing::Entry { log: of, .. } if *of == log);
    assert!(report.missing.iter().any(missed), "{:?}", report.missing);
}
