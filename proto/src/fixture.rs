//! A small world of trust in memory, for tests: three parties, keys from seeds, a signed
//! convention and sheets.

#![allow(clippy::expect_used, clippy::unwrap_used)]

pub(crate) mod chance;

use std::io::Cursor;

pub use self::chance::{Seeded, seeded};
pub use crate::seal::forgery::{Flaw, forge};
use crate::v1::Kind;
use crate::{
    Convention, Directory, EntryName, FlowId, KeyRole, Note, PartyId, RecipientSecret, Role, Roots,
    SealPlan, Sealed, Sheet, SheetKey, SigningKey, SourceEntry, Timestamp, Tls, TlsName,
    UnsignedConvention, seal,
};

/// The time in this world: 2026-06-01T00:00:00Z.
pub const NOW: Timestamp = Timestamp::from_ms(1_780_272_000_000);

/// Keys of one party.
pub struct Keys {
    /// Signs convention and sheets.
    pub root: SigningKey,
    /// Signs manifests and receipts.
    pub agent: SigningKey,
    /// Signs hop receipts.
    pub gateway: SigningKey,
    /// Opens packages.
    pub recipient: RecipientSecret,
}

/// The world.
pub struct World {
    /// Pinned fingerprints of the two signatories.
    pub roots: Roots,
    /// The signed convention.
    pub convention_note: Vec<u8>,
    /// The signed sheets, by party as in [`PARTIES`].
    pub sheet_notes: Vec<Vec<u8>>,
    /// All of it, verified.
    pub directory: Directory,
}

/// The parties: two signatories, and a contractor behind the second one's gateway.
pub const PARTIES: [&str; 3] = ["caf21", "grand-dijon", "prestataire-obs"];

/// A party's name.
pub fn party(name: &str) -> PartyId {
    PartyId::parse(name).unwrap()
}

/// The keys of a party, the same every time.
pub fn keys(name: &str) -> Keys {
    let id = party(name);
    let seed = PARTIES.iter().position(|party| *party == name).unwrap() as u8 * 10;
    Keys {
        root: SigningKey::from_seed(&id, &[seed + 1; 64]),
        agent: SigningKey::from_seed(&id, &[seed + 2; 64]),
        gateway: SigningKey::from_seed(&id, &[seed + 3; 64]),
        recipient: RecipientSecret::from_seed(&id, &[seed + 4; 32]),
    }
}

/// The text of the convention.
pub fn convention_text() -> String {
    let root = |name| keys(name).root.verifying_key().to_string();
    format!(
        r#"id = "fixture"
version = 1
valid_from = "2026-01-01"
valid_until = "2026-12-31"
wind_down_days = 90
signatories = ["caf21", "grand-dijon"]

[territory]
name = "Grand Dijon"
epci = "242100410"
vintage = 2016
communes = ["21231"]

[[party]]
id = "caf21"
name = "CAF de la Côte-d'Or"
role = "producer"
root = "{}"

[[party]]
id = "grand-dijon"
name = "Grand Dijon"
role = "partner"
root = "{}"

[[party]]
id = "prestataire-obs"
name = "Prestataire"
role = "contractor"
via = "grand-dijon"
root = "{}"

[[flow]]
id = "observation-iris"
article = "article 3"
title = "Tables"
kind = "table"
from = ["caf21"]
to = ["grand-dijon", "prestataire-obs"]
onward = "with-opinion"
acknowledgement = "none"
retention = {{ payload = 30, metadata = 365, evidence = 3650 }}
size_max = 1048576
age_max_days = 7
not_after_days = 30

[[flow]]
id = "rapport"
article = "article 4"
title = "Reports"
kind = "report"
from = ["grand-dijon"]
to = ["caf21"]
onward = "free"
acknowledgement = "required"
retention = {{ payload = 30, metadata = 365, evidence = 3650 }}
size_max = 1048576
age_max_days = 7
not_after_days = 30
parents_required = true
after_term = true
"#,
        root(PARTIES[0]),
        root(PARTIES[1]),
        root(PARTIES[2])
    )
}

/// The text of the convention, signed by both signatories.
pub fn sign_convention(text: &str) -> Vec<u8> {
    let mut note = Note::unsigned(text).unwrap();
    note.sign_with(&keys("caf21").root).unwrap();
    note.sign_with(&keys("grand-dijon").root).unwrap();
    note.to_bytes()
}

/// The first sheet of a party.
pub fn sheet(name: &str) -> Sheet {
    let keys = keys(name);
    let year = std::time::Duration::from_secs(360 * 24 * 3600);
    let key = |key: &SigningKey, role| SheetKey {
        key: key.verifying_key().clone(),
        roles: vec![role],
        not_before: "2026-01-01".parse().unwrap(),
        not_after: "2026-12-01".parse().unwrap(),
    };
    let name_of = |role: Role| TlsName {
        name: format!("{role}.{name}.test"),
        role,
    };
    Sheet {
        party: party(name),
        seq: 1,
        issued: "2026-01-01".parse().unwrap(),
        not_after: "2026-01-01"
            .parse::<Timestamp>()
            .unwrap()
            .saturating_add(year),
        addresses: vec!["127.0.0.1:7443".into()],
        recipients: vec![keys.recipient.public().clone()],
        tls: Tls {
            names: vec![name_of(Role::Gateway), name_of(Role::Agent)],
            ..Tls::default()
        },
        log: None,
        keys: vec![
            key(&keys.agent, KeyRole::Agent),
            key(&keys.gateway, KeyRole::Gateway),
        ],
        revocations: Vec::new(),
    }
}

/// The whole world.
pub fn world() -> World {
    let convention_note = sign_convention(&convention_text());
    let sheet_notes: Vec<Vec<u8>> = PARTIES
        .iter()
        .map(|name| sheet(name).sign(&keys(name).root).unwrap())
        .collect();
    let roots: Roots = ["caf21", "grand-dijon"]
        .map(|name| (party(name), keys(name).root.id()))
        .into();
    let directory =
        Directory::load(&roots, std::slice::from_ref(&convention_note), &sheet_notes).unwrap();
    World {
        roots,
        convention_note,
        sheet_notes,
        directory,
    }
}

/// A plan for a package of `caf21` to both recipients.
pub fn plan(convention: &Convention) -> SealPlan {
    let recipients = ["prestataire-obs", "grand-dijon"];
    SealPlan {
        flow: FlowId::parse("observation-iris").unwrap(),
        kind: Kind::Data,
        recipients: recipients
            .map(|name| keys(name).recipient.public().clone())
            .into(),
        convention: convention.digest(),
        created: NOW,
        not_after: NOW.saturating_add(std::time::Duration::from_secs(24 * 3600)),
        parents: Vec::new(),
        supersedes: None,
        title: "Décembre 2025".into(),
        period: "2025-12".into(),
    }
}

/// Seals files in memory, signed by the sender's agent key.
pub fn seal_files(
    plan: &SealPlan,
    signer: &SigningKey,
    files: &[(&str, Vec<u8>)],
) -> (Sealed, Vec<u8>) {
    let entries: Vec<SourceEntry> = files
        .iter()
        .map(|(name, bytes)| SourceEntry {
            name: EntryName::parse(name).unwrap(),
            length: bytes.len() as u64,
            media_type: String::new(),
        })
        .collect();
    let mut pack = Cursor::new(Vec::new());
    let open = |entry: usize| Ok(Cursor::new(files[entry].1.clone()));
    let sealed = seal(plan, signer, &entries, open, &mut pack, |_| {}).unwrap();
    (sealed, pack.into_inner())
}

/// A draft of the convention without signatures.
pub fn draft() -> Convention {
    UnsignedConvention::parse(&convention_text())
        .unwrap()
        .draft()
}
