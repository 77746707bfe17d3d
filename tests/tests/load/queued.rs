//! A year of packages for each of the 24 communes, and not one commune that collects them.

use std::time::{Duration, Instant};

use passerelle_proto::fixture::seal_files;
use passerelle_proto::v1::{
    self, BusyReason, Kind, Lane, ObjectType, Section, Signed, statement::What,
};
use passerelle_proto::{
    Directory, FlowId, PackageId, PartyId, RecipientSecret, Role, SealPlan, SigningKey, Tls,
    envelope, read_secret_file,
};
use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, LIMIT, Outcome, Rogue, RunningLab,
    eventually, now, quick_options,
};
use prost::Message;

use crate::enrolled;

/// Packages, unless `PASSERELLE_LOAD_PACKAGES` says otherwise; a night's run has 41,667, which are
/// a million items.
const PACKAGES: u32 = 1_000;
/// Flow from Grand Dijon to every commune.
const FLOW: &str = "mise-a-disposition";
/// Flow between the two signatories.
const NOTICES: &str = "signalement";
/// Communes of the convention.
const COMMUNES: usize = 24;
/// Offers without an answer that a stream may have.
const UNANSWERED_MAX: u32 = 64;
/// Resident bytes of a gateway, whatever is queued, and for each item that is.
const MEMORY_MAX: u64 = 256 * 1024 * 1024;
const MEMORY_PER_ITEM_MAX: u64 = 1024;
/// What an operator asks is answered within this time, and a package of others' is there.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn packages() -> u32 {
    let asked = std::env::var("PASSERELLE_LOAD_PACKAGES");
    asked.map_or(PACKAGES, |asked| asked.parse().unwrap())
}

fn communes(directory: &Directory) -> Vec<PartyId> {
    let flow = FlowId::parse(FLOW).unwrap();
    let flow = directory.convention().flow(&flow).unwrap();
    flow.to.clone()
}

/// Has each commune sign a first sheet; none of them runs anything.
fn enrol(lab: &RunningLab, communes: &[PartyId]) -> Vec<RecipientSecret> {
    let enrol = |party: &PartyId| {
        let root = lab.lab.dir.join("roots").join(format!("{party}.secret"));
        let root = SigningKey::from_secret_text(&read_secret_file(&root).unwrap()).unwrap();
        enrolled::enrol(lab, party, &root, Tls::default())
    };
    communes.iter().map(enrol).collect()
}

/// A small package for every commune, as it is offered.
struct Template {
    body: v1::Manifest,
    inline: Vec<u8>,
    key: SigningKey,
}

impl Template {
    fn seal(lab: &RunningLab, recipients: &[RecipientSecret]) -> Self {
        let key = lab.signing_key("grand-dijon", Role::Agent);
        let plan = SealPlan {
            flow: FlowId::parse(FLOW).unwrap(),
            kind: Kind::Data,
            recipients: recipients.iter().map(|it| it.public().clone()).collect(),
            convention: lab.directory().convention().digest(),
            created: now(),
            not_after: now().saturating_add(7 * DAY),
            parents: vec![PackageId(passerelle_proto::Digest::of(b"a parent"))],
            supersedes: None,
            title: "Tableaux".into(),
            period: "2016".into(),
        };
        let files = [("table.csv", b"iris;foyers\n212310101;12\n".to_vec())];
        let (sealed, pack) = seal_files(&plan, &key, &files);
        let sections = [
            Section::Wraps,
            Section::ChunkTable,
            Section::Index,
            Section::Chunks,
        ];
        let inline = sections.into_iter().flat_map(|section| {
            let start = sealed.layout.offset_of(section).unwrap() as usize;
            &pack[start..start + sealed.layout.length_of(section) as usize]
        });
        Self {
            body: v1::Manifest::decode(sealed.manifest.signed().body.as_slice()).unwrap(),
            inline: inline.copied().collect(),
            key,
        }
    }

    /// The same content under another id: gateways look at no more than that.
    fn manifest(&self, number: u32) -> Signed {
        let mut body = self.body.clone();
        body.nonce[..4].copy_from_slice(&number.to_be_bytes());
        envelope::sign_one(&self.key, ObjectType::Manifest, body.encode_to_vec())
    }
}

/// Offers every package until it is accepted.
fn submit(lab: &RunningLab, template: &Template, packages: u32) {
    let mut rogue = Rogue::dial(
        lab,
        "grand-dijon",
        Role::Agent,
        "grand-dijon",
        Lane::Control,
    );
    let mut waiting = std::collections::VecDeque::new();
    let mut numbers = 1..=packages;
    let mut again = Vec::new();
    loop {
        while waiting.len() < UNANSWERED_MAX as usize {
            let Some(number) = again.pop().or_else(|| numbers.next()) else {
                break;
            };
            let slot = rogue.offer(template.manifest(number), template.inline.clone());
            waiting.push_back((slot, number));
        }
        let Some((slot, number)) = waiting.pop_front() else {
            return;
        };
        match rogue.outcome(slot) {
            Outcome::Said(What::Accepted(_)) => {}
            // A gateway that was started a moment ago has not heard its partner yet.
            Outcome::Said(What::Busy(busy)) if busy.reason() == BusyReason::Unanchored => {
                again.push(number);
            }
            answer => panic!("package {number}: {answer:?}"),
        }
    }
}

/// Nobody who has nothing to do with the communes notices them.
fn others_go_on(lab: &RunningLab, name: &str) {
    let begun = Instant::now();
    for (from, to) in [("grand-dijon", "caf21"), ("caf21", "grand-dijon")] {
        let file = format!("{name}-from-{from}.csv");
        lab.drop_file(from, NOTICES, &file, file.as_bytes());
        assert_eq!(lab.receive(to, NOTICES, &file), file.as_bytes());
    }
    println!("{name}: one package each way in {:?}", begun.elapsed());
    assert!(begun.elapsed() < ANSWER_WITHIN, "{name}");
}

/// What an operator asks is answered, and every item is there.
fn answers(lab: &RunningLab, items: u64) {
    for line in [&["status"][..], &["queue", "--limit", "20"]] {
        let begun = Instant::now();
        let answer = lab.ask(DIJON_GATEWAY, line).unwrap();
        println!("{line:?} is answered after {:?}", begun.elapsed());
        assert!(begun.elapsed() < ANSWER_WITHIN, "{line:?}");
        if line == ["status"] {
            // Statements to the sender may be on their way.
            let waiting = answer["waiting_items"].as_u64().unwrap();
            assert!(waiting >= items, "{waiting} of {items}");
        }
    }
}

#[test]
fn a_million_items_that_nobody_collects_hold_up_nobody_else() {
    let packages = packages();
    let mut lab = RunningLab::make(&quick_options());
    let communes = communes(&lab.directory());
    assert_eq!(communes.len(), COMMUNES);
    let recipients = enrol(&lab, &communes);
    let template = Template::seal(&lab, &recipients);
    for process in [CAF_GATEWAY, DIJON_GATEWAY, CAF_AGENT] {
        lab.run(process);
    }
    let begun = Instant::now();
    submit(&lab, &template, packages);
    println!("{packages} packages accepted in {:?}", begun.elapsed());
    lab.run(DIJON_AGENT);
    let items = u64::from(packages) * COMMUNES as u64;
    answers(&lab, items);
    others_go_on(&lab, "queued");
    let peak = lab.process(DIJON_GATEWAY).peak_resident_bytes();
    println!("{items} items, {} MiB at most", peak >> 20);
    assert!(peak < MEMORY_MAX + items * MEMORY_PER_ITEM_MAX, "{peak}");
    lab.kill(DIJON_GATEWAY);
    let begun = Instant::now();
    lab.run(DIJON_GATEWAY);
    eventually("the gateway's answer", 3 * LIMIT, || {
        lab.ask(DIJON_GATEWAY, &["status"])
    });
    println!("after a kill it answers in {:?}", begun.elapsed());
    others_go_on(&lab, "again");
    answers(&lab, items);
    let peak = lab.process(DIJON_GATEWAY).peak_resident_bytes();
    println!("after the start {} MiB at most", peak >> 20);
    assert!(peak < MEMORY_MAX + items * MEMORY_PER_ITEM_MAX, "{peak}");
}
