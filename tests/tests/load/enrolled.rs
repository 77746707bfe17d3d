//! Parties that have signed a first sheet, and of which perhaps nothing runs.

use std::fs;
use std::time::Duration;

use passerelle_proto::{
    KeyRole, PartyId, RecipientSecret, Sheet, SheetKey, SigningKey, Timestamp, Tls,
};
use passerelle_tests::{RunningLab, now};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Signs the first sheet of a party that a gateway of another serves, and puts it where all look;
/// the key that opens what is sent to it.
pub fn enrol(lab: &RunningLab, party: &PartyId, root: &SigningKey, tls: Tls) -> RecipientSecret {
    let today = Timestamp::from_ms(now().as_ms() / 86_400_000 * 86_400_000);
    let until = today.saturating_add(300 * DAY);
    let recipient = RecipientSecret::generate(party);
    let sheet = Sheet {
        party: party.clone(),
        seq: 1,
        issued: today,
        not_after: until,
        addresses: Vec::new(),
        recipients: vec![recipient.public().clone()],
        tls,
        log: None,
        keys: vec![SheetKey {
            key: SigningKey::generate(party).verifying_key().clone(),
            roles: vec![KeyRole::Agent],
            not_before: today,
            not_after: until,
        }],
        revocations: Vec::new(),
    };
    let note = lab.lab.sheets.join(format!("{party}.note"));
    fs::write(note, sheet.sign(root).unwrap()).unwrap();
    recipient
}
