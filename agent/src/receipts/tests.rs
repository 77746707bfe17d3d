//! What comes of words that come late.

use std::fs;

use passerelle_proto::v1::{Delivered, Reason, Refused};
use passerelle_proto::{PartyId, StatementDraft};

use super::*;
use crate::node::tests::{RECIPIENT, SENDER, Scene, gateway_of, seal};

fn delivered() -> What {
    What::Delivered(Delivered {
        recipient: RECIPIENT.into(),
        content_commit: vec![0; 32],
    })
}

fn says(recipient: &Node, package: PackageId, what: What) -> Signed {
    let draft = StatementDraft {
        issuer: recipient.party.clone(),
        destination: PartyId::parse(SENDER).unwrap(),
        package,
        at: recipient.now(),
        what,
    };
    draft.sign_unnumbered(&recipient.signing_key())
}

#[test]
fn a_package_that_was_delivered_after_all_does_not_stay_among_the_rejected() {
    let scene = Scene::make();
    let (sender, recipient) = (scene.start(SENDER), scene.start(RECIPIENT));
    let sent = seal(&sender, "t.csv");
    let package = sent.manifest.id();
    let refused = What::Refused(Refused {
        reason: Reason::Other as i32,
        recipients: vec![RECIPIENT.into()],
        ..Refused::default()
    });
    let takes = |what: &What| {
        let signed = says(&recipient, package, what.clone());
        let taken = take(&sender, &gateway_of(&sender), signed).unwrap();
        if let Taken::Refused(why) = taken {
            panic!("{why}");
        }
        let job = sender.outgoing.find_finished(&package).unwrap();
        let report = fs::read_to_string(job.directory().join(REPORT)).unwrap();
        (job, report)
    };
    let (rejected, report) = takes(&refused);
    assert!(rejected.directory().starts_with(sender.store.rejected()));
    assert!(report.contains("grand-dijon: refused"), "{report}");
    let (job, report) = takes(&delivered());
    assert!(job.directory().starts_with(sender.store.sent()));
    assert!(report.contains("grand-dijon: delivered"), "{report}");
    assert!(!rejected.directory().exists());
    // What is said again changes nothing any more.
    assert_eq!(takes(&refused), (job, report));
}

#[test]
fn the_report_of_a_package_that_is_over_says_what_was_said_last() {
    let scene = Scene::make();
    let (sender, recipient) = (scene.start(SENDER), scene.start(RECIPIENT));
    let package = seal(&sender, "t.csv").manifest.id();
    let acknowledged = What::Acknowledged(passerelle_proto::v1::Acknowledged {
        recipient: RECIPIENT.into(),
        comment: "lu".into(),
    });
    for what in [delivered(), acknowledged] {
        let signed = says(&recipient, package, what);
        let taken = take(&sender, &gateway_of(&sender), signed).unwrap();
        assert!(matches!(taken, Taken::Stored));
    }
    let job = sender.outgoing.find_finished(&package).unwrap();
    let report = fs::read_to_string(job.directory().join(REPORT)).unwrap();
    assert!(report.contains("grand-dijon: acknowledged"), "{report}");
}
