//! What is permitted, and every way to be denied.

use std::time::Duration;

use passerelle_proto::fixture::{self, NOW, World, keys, party, plan, seal_files, world};
use passerelle_proto::v1::Reason;
use passerelle_proto::{
    Adopted, Denial, Directory, DirectoryError, Facts, Hop, Permit, Place, Revocation, SealPlan,
    SigningKey, Timestamp, VerifiedManifest, decide,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn manifest(plan: &SealPlan, signer: &SigningKey) -> VerifiedManifest {
    seal_files(plan, signer, &[("a", vec![1])]).0.manifest
}

fn at_gateway(
    directory: &Directory,
    manifest: &VerifiedManifest,
    gateway: &str,
    peer: Hop,
    now: Timestamp,
) -> Result<Permit, Denial> {
    let facts = Facts {
        directory,
        manifest,
        place: Place::Gateway {
            party: &party(gateway),
            peer: &peer,
        },
        first_accepted: None,
    };
    decide(&facts, now)
}

fn from_agent(world: &World, plan: &SealPlan, now: Timestamp) -> Result<Permit, Reason> {
    let manifest = manifest(plan, &keys("caf21").agent);
    let agent = Hop::agent(party("caf21"));
    at_gateway(&world.directory, &manifest, "caf21", agent, now).map_err(|denial| denial.reason())
}

#[test]
fn one_route_leads_to_both_recipients_and_fans_out_at_the_last_gateway() {
    let world = world();
    let plan = plan(world.directory.convention());
    let first = from_agent(&world, &plan, NOW).unwrap();
    let both = vec![party("grand-dijon"), party("prestataire-obs")];
    assert_eq!(
        first.routes,
        [(Hop::gateway(party("grand-dijon")), both)].into()
    );
    let manifest = manifest(&plan, &keys("caf21").agent);
    let peer = Hop::gateway(party("caf21"));
    let last = at_gateway(&world.directory, &manifest, "grand-dijon", peer, NOW).unwrap();
    let agents = ["grand-dijon", "prestataire-obs"].map(party);
    assert_eq!(
        last.routes,
        agents.map(|id| (Hop::agent(id.clone()), vec![id])).into()
    );
}

#[test]
fn times_outside_the_convention_the_flow_and_the_package_are_denied() {
    let world = world();
    let good = plan(world.directory.convention());
    let made = |created: &str| {
        let created: Timestamp = created.parse().unwrap();
        let not_after = created.saturating_add(DAY);
        SealPlan {
            created,
            not_after,
            ..good.clone()
        }
    };
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let judged = |plan: &SealPlan, now| from_agent(&world, plan, now).unwrap_err();
    let early = SealPlan {
        created: at("2025-12-31"),
        not_after: at("2026-01-31"),
        ..good.clone()
    };
    assert_eq!(judged(&early, at("2026-01-01")), Reason::SignerExpired);
    let soon = NOW.saturating_add(Duration::from_secs(301));
    let future = SealPlan {
        created: soon,
        ..good.clone()
    };
    assert_eq!(judged(&future, NOW), Reason::FromFuture);
    assert!(from_agent(&world, &future, NOW.saturating_add(Duration::from_secs(2))).is_ok());
    let long = SealPlan {
        not_after: NOW.saturating_add(DAY * 30),
        ..good.clone()
    };
    assert_eq!(judged(&long, NOW.saturating_add(DAY * 8)), Reason::TooOld);
    assert_eq!(judged(&good, NOW.saturating_add(DAY * 2)), Reason::Expired);
    assert_eq!(
        judged(&made("2026-12-15"), at("2026-12-15")),
        Reason::SignerExpired
    );
}

#[test]
fn the_convention_ends_on_its_last_day_but_for_flows_after_term() {
    let mut sheet = fixture::sheet("caf21");
    sheet.seq = 2;
    sheet.issued = "2026-06-01".parse().unwrap();
    sheet.not_after = sheet.issued.saturating_add(DAY * 400);
    sheet.keys[0].not_after = sheet.not_after;
    let world = world();
    let note = sheet.sign(&keys("caf21").root).unwrap();
    let Adopted::Newer(directory) = world.directory.adopt_note(&note).unwrap() else {
        panic!()
    };
    let world = World { directory, ..world };
    let good = plan(world.directory.convention());
    let created = |text: &str| {
        let created: Timestamp = text.parse().unwrap();
        let plan = SealPlan {
            created,
            not_after: created.saturating_add(DAY),
            ..good.clone()
        };
        (from_agent(&world, &plan, created), created)
    };
    assert!(created("2026-12-31T23:59:59Z").0.is_ok());
    assert_eq!(created("2027-01-01").0, Err(Reason::ConventionDates));
}

#[test]
fn flows_name_who_may_send_and_who_may_receive() {
    let world = world();
    let good = plan(world.directory.convention());
    let unknown = SealPlan {
        flow: "nothing".parse().unwrap(),
        ..good.clone()
    };
    assert_eq!(from_agent(&world, &unknown, NOW), Err(Reason::FlowUnknown));
    let report = SealPlan {
        flow: "rapport".parse().unwrap(),
        ..good.clone()
    };
    assert_eq!(from_agent(&world, &report, NOW), Err(Reason::FlowSender));
    let own = keys("caf21").recipient.public().clone();
    let to_self = SealPlan {
        recipients: vec![own.clone()],
        ..good.clone()
    };
    assert_eq!(
        from_agent(&world, &to_self, NOW),
        Err(Reason::FlowRecipient)
    );
    let back = SealPlan {
        flow: "rapport".parse().unwrap(),
        recipients: vec![own],
        ..good
    };
    let agent = Hop::agent(party("grand-dijon"));
    let without = manifest(&back, &keys("grand-dijon").agent);
    let denied = at_gateway(
        &world.directory,
        &without,
        "grand-dijon",
        agent.clone(),
        NOW,
    );
    assert_eq!(denied.unwrap_err().reason(), Reason::Lineage);
    let parents = vec![passerelle_proto::PackageId(passerelle_proto::Digest::of(
        b"parent",
    ))];
    let with = manifest(&SealPlan { parents, ..back }, &keys("grand-dijon").agent);
    at_gateway(&world.directory, &with, "grand-dijon", agent, NOW).unwrap();
}

#[test]
fn sizes_conventions_and_ways_are_checked() {
    let world = world();
    let good = plan(world.directory.convention());
    let agent = keys("caf21").agent;
    let caf = Hop::agent(party("caf21"));
    let digest = |n: u32| passerelle_proto::Digest::of(&n.to_be_bytes()).0;
    let noise: Vec<u8> = (0..40_000).flat_map(digest).collect();
    let large = seal_files(&good, &agent, &[("a", noise)]).0.manifest;
    assert!(large.total_length() > 1_048_576);
    let denied = at_gateway(&world.directory, &large, "caf21", caf.clone(), NOW).unwrap_err();
    assert_eq!(
        (denied.reason(), denied.article()),
        (Reason::TooLarge, "article 3")
    );
    let other = SealPlan {
        convention: passerelle_proto::Digest::of(b"other"),
        ..good.clone()
    };
    assert_eq!(
        from_agent(&world, &other, NOW),
        Err(Reason::ConventionUnknown)
    );
    let manifest = manifest(&good, &agent);
    let wrong = [
        ("caf21", Hop::agent(party("grand-dijon"))),
        ("caf21", Hop::gateway(party("grand-dijon"))),
        ("grand-dijon", caf),
        ("grand-dijon", Hop::agent(party("prestataire-obs"))),
    ];
    for (gateway, peer) in wrong {
        let denied = at_gateway(&world.directory, &manifest, gateway, peer, NOW).unwrap_err();
        assert_eq!(denied.reason(), Reason::Route, "{denied}");
    }
}

#[test]
fn keys_are_judged_by_sheet_role_and_revocation() {
    let world = world();
    let good = plan(world.directory.convention());
    let by = |key: &SigningKey| {
        let manifest = manifest(&good, key);
        let agent = Hop::agent(party("caf21"));
        let judged = at_gateway(&world.directory, &manifest, "caf21", agent, NOW);
        judged.unwrap_err().reason()
    };
    let stranger = SigningKey::from_seed(&party("caf21"), &[99; 64]);
    assert_eq!(by(&stranger), Reason::SignerUnknown);
    assert_eq!(by(&keys("caf21").gateway), Reason::Role);
    let mut sheet = fixture::sheet("caf21");
    sheet.seq = 2;
    sheet.revocations.push(Revocation {
        key: keys("caf21").agent.id(),
        at: NOW,
        reason: "lost".into(),
    });
    let note = sheet.sign(&keys("caf21").root).unwrap();
    let Adopted::Newer(directory) = world.directory.adopt_note(&note).unwrap() else {
        panic!()
    };
    let manifest = manifest(&good, &keys("caf21").agent);
    let agent = Hop::agent(party("caf21"));
    let denied = at_gateway(&directory, &manifest, "caf21", agent.clone(), NOW).unwrap_err();
    assert_eq!(denied.reason(), Reason::SignerRevoked);
    let facts = Facts {
        directory: &directory,
        manifest: &manifest,
        place: Place::Recipient {
            party: &party("grand-dijon"),
        },
        first_accepted: Some(NOW.saturating_sub(DAY)),
    };
    assert!(
        decide(&facts, NOW).is_ok(),
        "accepted before the revocation"
    );
}

#[test]
fn a_convention_binds_only_with_both_signatures_under_the_pinned_roots() {
    let world = world();
    let text = fixture::convention_text();
    let mut one = passerelle_proto::Note::unsigned(&text).unwrap();
    one.sign_with(&keys("caf21").root).unwrap();
    let load = |note: Vec<u8>| Directory::load(&world.roots, &[note], &[]).map(|_| ());
    let refused = load(one.to_bytes()).unwrap_err().to_string();
    assert!(refused.contains("signature of grand-dijon"), "{refused}");
    let mut roots = world.roots.clone();
    roots.insert(party("caf21"), keys("caf21").agent.id());
    let note = world.convention_note.clone();
    let refused = Directory::load(&roots, &[note], &[])
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("compare with the signed letter"),
        "{refused}"
    );
    assert!(matches!(
        Directory::load(&world.roots, &[], &[]),
        Err(DirectoryError::NoConvention)
    ));
}

#[test]
fn older_notes_change_nothing_and_two_texts_under_one_number_stop() {
    let world = world();
    let same = world.directory.adopt_note(&world.sheet_notes[0]).unwrap();
    assert!(matches!(same, Adopted::Same));
    let mut sheet = fixture::sheet("caf21");
    sheet.addresses = vec!["127.0.0.1:1".into()];
    let fork = sheet.sign(&keys("caf21").root).unwrap();
    let refused = world.directory.adopt_note(&fork).unwrap_err();
    assert!(
        matches!(refused, DirectoryError::Conflict { .. }),
        "{refused}"
    );
    sheet.seq = 2;
    let newer = sheet.sign(&keys("caf21").root).unwrap();
    let Adopted::Newer(directory) = world.directory.adopt_note(&newer).unwrap() else {
        panic!()
    };
    let older = directory.adopt_note(&world.sheet_notes[0]).unwrap();
    assert!(matches!(older, Adopted::Older));
    let other = fixture::sheet("caf21")
        .sign(&keys("grand-dijon").root)
        .unwrap();
    assert!(world.directory.adopt_note(&other).is_err());
}
