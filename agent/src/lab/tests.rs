//! What everybody may rely on in a laboratory.

use std::os::unix::fs::PermissionsExt;

use passerelle_gateway::{Config, Gateway};
use passerelle_proto::{Directory, FlowId, Hop, KeyId, Roots};

use super::*;

fn now() -> Timestamp {
    "2026-06-01T10:00:00Z".parse().unwrap()
}

fn made() -> (tempfile::TempDir, Laboratory) {
    let dir = tempfile::tempdir().unwrap();
    let laboratory = Laboratory::create(dir.path(), &LabOptions::new(now())).unwrap();
    (dir, laboratory)
}

#[test]
fn a_laboratorys_convention_is_the_committed_one_with_new_dates_and_keys_and_says_so() {
    let text = laboratory_convention(&BTreeMap::new(), midnight(now()), None);
    assert!(text.starts_with("# LABORATORY."), "{text}");
    let derived = UnsignedConvention::parse(&text).unwrap().draft();
    let template = UnsignedConvention::parse(TEMPLATE).unwrap().draft();
    assert_eq!(derived.parties(), template.parties());
    assert_eq!(derived.flows(), template.flows());
    assert_eq!(derived.territory(), template.territory());
    assert_eq!(derived.id(), format!("laboratoire-{}", template.id()));
    assert_eq!(derived.valid_from(), midnight(now()));
    let retention = Retention {
        payload: 0,
        metadata: 1,
        evidence: 2,
    };
    let text = laboratory_convention(&BTreeMap::new(), midnight(now()), Some(retention));
    let derived = UnsignedConvention::parse(&text).unwrap().draft();
    assert!(
        derived
            .flows()
            .iter()
            .all(|flow| flow.retention == retention)
    );
    assert_eq!(template.parties().len(), 27);
    assert_eq!(template.territory().communes.len(), 24);
}

#[test]
fn the_committed_convention_lets_the_producer_send_tables_to_the_partner_and_the_contractor() {
    let convention = UnsignedConvention::parse(TEMPLATE).unwrap().draft();
    let flow = convention
        .flow(&FlowId::parse("observation-iris").unwrap())
        .unwrap();
    let recipients = flow.default_recipients(&PartyId::parse(PRODUCER).unwrap());
    let names: Vec<_> = recipients.iter().map(PartyId::as_str).collect();
    assert_eq!(names, [PARTNER, CONTRACTOR]);
    assert!(
        convention
            .flows()
            .iter()
            .all(|flow| flow.article == "article 1")
    );
    assert_eq!(convention.valid_from().date(), "2016-01-01");
}

#[test]
fn every_flow_of_the_committed_convention_says_how_long_its_traces_are_kept() {
    let flows = TEMPLATE.matches("[[flow]]").count();
    let said = "retention = { payload = 30, metadata = 730, evidence = 3650 }";
    assert_eq!(TEMPLATE.matches(said).count(), flows);
    let convention = UnsignedConvention::parse(TEMPLATE).unwrap().draft();
    let default = |flow: &passerelle_proto::Flow| flow.retention == Retention::default();
    assert!(convention.flows().iter().all(default), "the text says so");
}

#[test]
fn its_notes_hold_under_the_pins_of_its_configurations() {
    let (_dir, laboratory) = made();
    let gateway = laboratory.party(PARTNER).unwrap().gateway.as_ref().unwrap();
    let config = Config::load(&gateway.config).unwrap();
    let pins = config.roots.iter();
    let roots: Roots = pins
        .map(|(party, pin)| (party.clone(), pin.value.parse::<KeyId>().unwrap()))
        .collect();
    let convention = fs::read(&laboratory.convention).unwrap();
    let sheets = laboratory
        .parties
        .iter()
        .map(|party| fs::read(&party.sheet).unwrap());
    let directory = Directory::load(&roots, &[convention], &sheets.collect::<Vec<_>>()).unwrap();
    for party in &laboratory.parties {
        let agent = directory.tls_name(&party.agent.tls_name).unwrap();
        assert_eq!(agent, (party.id.clone(), Role::Agent));
    }
    let contractor = PartyId::parse(CONTRACTOR).unwrap();
    let caf = PartyId::parse(PRODUCER).unwrap();
    let hop = directory.next_hop(&caf, &contractor).unwrap();
    assert_eq!(hop, Hop::gateway(PartyId::parse(PARTNER).unwrap()));
}

#[test]
fn both_gateways_find_everything_that_their_configurations_name() {
    let (_dir, laboratory) = made();
    for name in [PRODUCER, PARTNER] {
        let gateway = laboratory.party(name).unwrap().gateway.as_ref().unwrap();
        Gateway::check(&Config::load(&gateway.config).unwrap()).unwrap();
    }
    assert_eq!(laboratory.commands().len(), 5);
}

#[test]
fn every_secret_belongs_to_its_owner_alone() {
    let (dir, laboratory) = made();
    let mut secrets = 0;
    let mut folders = vec![laboratory.dir.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let ending = path.extension().unwrap_or_default();
            if path.is_dir() {
                folders.push(path);
            } else if ending == "secret" || ending == "key" {
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                assert_eq!(mode & 0o077, 0, "{}", path.display());
                secrets += 1;
            }
        }
    }
    // 27 roots; two keys per agent, two more per gateway; 3 authorities and 5 certificates.
    assert_eq!(secrets, 27 + 3 * 2 + 2 * 2 + 3 + 5);
    let again = Laboratory::create(dir.path(), &LabOptions::new(now()));
    assert!(matches!(again, Err(LabError::Exists(_))));
}
