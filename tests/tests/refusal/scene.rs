//! Both gateways, the receiving agent, and a sender that misbehaves.

use std::fs;
use std::time::Duration;

use passerelle_proto::fixture::seal_files;
use passerelle_proto::v1::{
    self, BusyReason, Kind, Lane, ObjectType, Reason, Section, Signed, statement::What,
};
use passerelle_proto::{
    Digest, Directory, FlowId, PartyId, Role, SealPlan, Sealed, SigningKey, envelope,
};
use passerelle_tests::{
    CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, LIMIT, Outcome, Process, Program, Rogue, RunningLab,
    eventually, noise, now, quick_options,
};
use prost::Message;
use serde_json::Value;

/// The parts of a package, in the order in which they are inlined.
pub const SECTIONS: [Section; 4] = [
    Section::Wraps,
    Section::ChunkTable,
    Section::Index,
    Section::Chunks,
];
/// The flow that all of this is tried on.
pub const FLOW: &str = "observation-iris";

/// A laboratory in which the producer's agent is somebody else's.
pub struct Scene {
    pub lab: RunningLab,
    pub directory: Directory,
    /// The key of the producer's agent.
    pub key: SigningKey,
}

/// An offer: the manifest, and all bytes of the package.
#[derive(Clone)]
pub struct Offer {
    pub manifest: Signed,
    pub inline: Vec<u8>,
}

impl Offer {
    pub fn id(&self) -> String {
        Digest::of(&self.manifest.body).to_string()
    }
}

impl Scene {
    pub fn start() -> Self {
        let mut lab = RunningLab::make(&quick_options());
        for process in [CAF_GATEWAY, DIJON_GATEWAY, DIJON_AGENT] {
            lab.run(process);
        }
        let directory = lab.directory();
        let key = lab.signing_key("caf21", Role::Agent);
        Self {
            lab,
            directory,
            key,
        }
    }

    /// A stream of the producer's agent to its gateway.
    pub fn rogue(&self, lane: Lane) -> Rogue {
        Rogue::dial(&self.lab, "caf21", Role::Agent, "caf21", lane)
    }

    /// A plan that nobody objects to, for Grand Dijon.
    pub fn plan(&self) -> SealPlan {
        let recipient: PartyId = "grand-dijon".parse().unwrap();
        SealPlan {
            flow: FlowId::parse(FLOW).unwrap(),
            kind: Kind::Data,
            recipients: vec![self.directory.recipient_key(&recipient).unwrap().clone()],
            convention: self.directory.convention().digest(),
            created: now(),
            not_after: now().saturating_add(Duration::from_secs(24 * 3600)),
            parents: Vec::new(),
            supersedes: None,
            title: "Décembre".into(),
            period: "2025-12".into(),
        }
    }

    /// A small package.
    pub fn small(&self, plan: &SealPlan, key: &SigningKey) -> Offer {
        let table = b"iris;foyers\n212310101;12\n".to_vec();
        offer(&seal_files(plan, key, &[("table.csv", table)]))
    }

    /// A package of several chunks.
    pub fn large(&self, seed: u64) -> (Sealed, Vec<u8>) {
        let files = [("noise.bin", noise(700_000, seed))];
        seal_files(&self.plan(), &self.key, &files)
    }

    /// A small package whose manifest is altered before it is signed.
    pub fn altered(&self, alter: impl FnOnce(&mut v1::Manifest)) -> Offer {
        let mut offer = self.small(&self.plan(), &self.key);
        let mut body = v1::Manifest::decode(offer.manifest.body.as_slice()).unwrap();
        alter(&mut body);
        offer.manifest = self.sign(body.encode_to_vec());
        offer
    }

    /// Signs a manifest as the producer's agent does.
    pub fn sign(&self, body: Vec<u8>) -> Signed {
        envelope::sign_one(&self.key, ObjectType::Manifest, body)
    }

    /// Entries of a gateway's log; `None` while it does not answer.
    pub fn try_entries(&self, gateway: Process) -> Option<Vec<Value>> {
        let config = self.lab.config(gateway);
        let config = config.to_str().unwrap();
        let output = Program::Passerelle.run(["audit", "log", "--json", "--config", config]);
        let printed = String::from_utf8(output.stdout).unwrap();
        let entries = printed
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        output.status.success().then(|| entries.collect())
    }

    /// Entries of a gateway's log.
    pub fn entries(&self, gateway: Process) -> Vec<Value> {
        eventually("a gateway's log", LIMIT, || self.try_entries(gateway))
    }

    /// Waits for the entry that this package was refused.
    pub fn audited(&self, gateway: Process, package: &str) {
        self.audited_saying(gateway, "refused", package, "was refused");
    }

    /// Waits for an entry of this kind about this package that says this.
    pub fn audited_saying(&self, gateway: Process, kind: &str, package: &str, words: &str) {
        let what = format!("an entry {kind} about {package}");
        let wanted = |entry: &Value| {
            entry["kind"] == kind
                && entry["package"] == package
                && entry["says"].as_str().unwrap().contains(words)
        };
        eventually(&what, LIMIT, || {
            self.entries(gateway)
                .iter()
                .find(|entry| wanted(entry))
                .map(drop)
        });
    }

    /// Waits until a process prints a line with all these words.
    pub fn printed(&self, process: Process, words: &[&str]) {
        eventually(&format!("{words:?}"), LIMIT, || {
            let text = fs::read_to_string(self.lab.log(process)).unwrap();
            let all = |line: &&str| words.iter().all(|word| line.contains(word));
            text.lines().find(all).map(drop)
        });
    }

    /// Nothing came out anywhere but the package that is sent now, by the same stream.
    pub fn expect_only_an_honest_package_arrives(&self, rogue: &mut Rogue) {
        let honest = self.small(&self.plan(), &self.key);
        eventually("the honest package to be accepted", LIMIT, || {
            let slot = rogue.offer(honest.manifest.clone(), honest.inline.clone());
            match rogue.outcome(slot) {
                Outcome::Said(What::Accepted(_)) => Some(()),
                // A gateway that was started a moment ago has not heard its partner yet.
                Outcome::Said(What::Busy(busy)) if busy.reason() == BusyReason::Unanchored => None,
                answer => panic!("{answer:?}"),
            }
        });
        self.lab.receive("grand-dijon", FLOW, "table.csv");
        let inbox = self.lab.party("grand-dijon").agent.directory.join("inbox");
        let packages = fs::read_dir(inbox.join(FLOW)).unwrap().count();
        assert_eq!(packages, 1, "only the honest package");
    }
}

/// What is offered of a sealed package.
pub fn offer((sealed, pack): &(Sealed, Vec<u8>)) -> Offer {
    let mut inline = Vec::new();
    for section in SECTIONS {
        inline.extend_from_slice(part(sealed, pack, section));
    }
    Offer {
        manifest: sealed.manifest.signed().clone(),
        inline,
    }
}

/// One part of a sealed package.
pub fn part<'a>(sealed: &Sealed, pack: &'a [u8], section: Section) -> &'a [u8] {
    let start = sealed.layout.offset_of(section).unwrap() as usize;
    &pack[start..start + sealed.layout.length_of(section) as usize]
}

/// A refusal with this reason.
pub fn expect_refused(outcome: &Outcome, reason: Reason, context: &str) {
    let Outcome::Said(What::Refused(refused)) = outcome else {
        panic!("{context}: {outcome:?}");
    };
    assert_eq!(refused.reason(), reason, "{context}");
}
