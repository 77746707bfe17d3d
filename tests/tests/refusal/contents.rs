//! Packages that only their recipient can see through: both gateways carry them, its agent
//! refuses them, and its word comes back.

use passerelle_proto::ENTRY_NAME_LEN_MAX;
use passerelle_proto::fixture::{Flaw, forge};
use passerelle_proto::v1::{Lane, Reason, statement::What};
use passerelle_tests::{CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, Judges, Outcome};

use crate::scene::{Scene, offer};

/// Bytes that a bomb decompresses to.
const BOMB_LEN: usize = 64 << 20;

fn flaws() -> Vec<(Flaw, Reason, &'static str)> {
    let name = |name: &str| Flaw::Name(name.to_owned());
    let long = "x".repeat(ENTRY_NAME_LEN_MAX + 1);
    vec![
        (name("../table.csv"), Reason::EntryName, "`..`"),
        (name("/etc/cron.d/table"), Reason::EntryName, "absolute"),
        (name("table\0.csv"), Reason::EntryName, "control character"),
        (name(&long), Reason::EntryName, "longer than"),
        (Flaw::Commitment, Reason::Content, "manifest's commitment"),
        (Flaw::Bomb(BOMB_LEN), Reason::Content, "decompress"),
    ]
}

#[test]
fn names_contents_and_bombs_are_refused_by_the_recipient_and_the_sender_learns_why() {
    let scene = Scene::start();
    let mut rogue = scene.rogue(Lane::Control);
    for (flaw, reason, words) in flaws() {
        let forged = forge(&scene.plan(), &scene.key, &flaw);
        let id = forged.0.manifest.id().to_string();
        let forged = offer(&forged);
        let slot = rogue.offer(forged.manifest, forged.inline);
        let answer = rogue.outcome(slot);
        let accepted = matches!(answer, Outcome::Said(What::Accepted(_)));
        assert!(accepted, "a gateway sees nothing of it: {answer:?}");
        let refused = loop {
            // The gateways' words about the same package come as well.
            if let What::Refused(refused) = rogue.statement() {
                break refused;
            }
        };
        assert_eq!(refused.reason(), reason, "{words}");
        assert_eq!(refused.recipients, ["grand-dijon"], "{words}");
        for gateway in [CAF_GATEWAY, DIJON_GATEWAY] {
            scene.audited_saying(gateway, "statement", &id, "refused");
        }
        scene.printed(DIJON_AGENT, &[&id[..12], words]);
    }
    scene.expect_only_an_honest_package_arrives(&mut rogue);
    let judges = Judges::of(&scene.lab);
    judges.believe_log(&scene.lab, DIJON_GATEWAY, &["refused"]);
}
