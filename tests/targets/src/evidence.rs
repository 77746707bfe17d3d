//! Evidence files, judged from the very roots that they name themselves: what a forger would wish.

use std::sync::LazyLock;

use passerelle_proto::evidence::{EVIDENCE_LEN_MAX, UntrustedEvidence};
use passerelle_proto::{Note, PartyId, Roots, SigningKey, TimeAuthorities, UnsignedConvention, v1};
use prost::Message;

/// Roots that have signed nothing.
static STRANGERS: LazyLock<Roots> = LazyLock::new(|| {
    let root = |party: &str| {
        let party = PartyId::parse(party).unwrap();
        let key = SigningKey::from_seed(&party, &[9; 64]);
        (party, key.id())
    };
    ["caf21", "grand-dijon"].map(root).into()
});

/// It has one encoding, strangers' roots make nothing of it, and what verifies is about its
/// package.
pub(crate) fn evidence(data: &[u8]) {
    let Ok(evidence) = UntrustedEvidence::parse(data) else {
        return;
    };
    assert!(data.len() <= EVIDENCE_LEN_MAX);
    let message = v1::Evidence::decode(data).unwrap();
    assert_eq!(message.encode_to_vec(), data, "evidence has one form");
    assert!(
        evidence
            .verify(&STRANGERS, None, &TimeAuthorities::default())
            .is_err()
    );
    let Ok(report) = evidence.verify(&named(&message), None, &TimeAuthorities::default()) else {
        return;
    };
    assert_eq!(report.package, evidence.package());
    assert!(report.logs.len() == message.logs.len() && !report.sheets.is_empty());
    for said in &report.statements {
        assert_eq!(said.statement.package(), report.package);
        assert!(!said.standings.is_empty(), "it stands in no log");
    }
    if let Some(manifest) = &report.manifest {
        assert_eq!(manifest.manifest.id(), report.package);
        assert!(!manifest.standings.is_empty(), "nobody has accepted it");
    }
}

/// The roots of all parties of the conventions in a file.
fn named(message: &v1::Evidence) -> Roots {
    let mut roots = Roots::new();
    for note in &message.conventions {
        let text = Note::parse(note).ok().map(|note| note.text().to_owned());
        let convention = text.and_then(|text| UnsignedConvention::parse(&text).ok());
        let Some(draft) = convention.map(|convention| convention.draft()) else {
            continue;
        };
        for party in draft.parties() {
            if let Some(root) = &party.root {
                roots.entry(party.id.clone()).or_insert(root.id());
            }
        }
    }
    roots
}
