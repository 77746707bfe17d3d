//! Texts that people write and sign: notes, conventions, sheets, keys, configurations.

use std::path::Path;

use passerelle_proto::{
    CONVENTION_LEN_MAX, Digest, Document, FLOWS_MAX, LogSigner, NOTE_LEN_MAX, NOTE_SIGNATURES_MAX,
    Note, PARTIES_MAX, PUBLIC_KEY_LEN, RecipientKey, RecipientSecret, SHEET_ITEMS_MAX,
    SHEET_LEN_MAX, SHEET_LIFE_MAX, Sheet, SigningKey, UnsignedConvention, VerifyingKey,
};

/// A note is written again byte for byte, and its text alone is a note to be signed.
pub(crate) fn note(data: &[u8]) {
    let Ok(note) = Note::parse(data) else { return };
    assert!(data.len() <= NOTE_LEN_MAX);
    assert!((1..=NOTE_SIGNATURES_MAX).contains(&note.signatures().len()));
    assert!(note.text().ends_with('\n'));
    assert_eq!(note.to_bytes(), data, "a note has one form");
    assert_eq!(note.digest(), Digest::of(note.text().as_bytes()));
    let unsigned = Note::unsigned(note.text()).unwrap();
    assert_eq!(unsigned.text(), note.text());
}

/// A convention within its limits, whose durations and dates can be computed with.
pub(crate) fn convention(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(unsigned) = UnsignedConvention::parse(text) else {
        return;
    };
    assert_eq!(unsigned.text(), text);
    let convention = unsigned.draft();
    assert!(text.len() <= CONVENTION_LEN_MAX);
    assert_eq!(convention.digest(), Digest::of(data));
    assert!(convention.parties().len() <= PARTIES_MAX && convention.flows().len() <= FLOWS_MAX);
    assert!(convention.valid_from() < convention.valid_until());
    assert!(convention.valid_until() <= convention.wind_down_until());
    for party in convention.parties() {
        let gateway = convention.gateway_of(&party.id).unwrap();
        assert!(convention.party(gateway).unwrap().via.is_none());
    }
    for flow in convention.flows() {
        assert_eq!(convention.flow(&flow.id), Some(flow));
        assert!(flow.not_after() > std::time::Duration::ZERO);
        assert!(flow.age_max() > std::time::Duration::ZERO);
        let recipients = flow.default_recipients(&flow.from[0]);
        assert!(recipients.is_sorted_by(|a, b| a < b) && !recipients.contains(&flow.from[0]));
    }
}

/// A sheet says the same after it was written and read again.
pub(crate) fn sheet(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(sheet) = Sheet::parse(text) else {
        return;
    };
    assert!(text.len() <= SHEET_LEN_MAX);
    assert!(sheet.keys.len() <= SHEET_ITEMS_MAX && sheet.seq > 0);
    assert!(sheet.not_after.since(sheet.issued) <= SHEET_LIFE_MAX);
    let written = sheet.to_text().unwrap();
    if written.len() <= SHEET_LEN_MAX {
        assert_eq!(Sheet::parse(&written).as_ref(), Ok(&sheet), "{written}");
    }
    for revocation in &sheet.revocations {
        assert!(sheet.revoked(&revocation.key).unwrap() <= revocation.at);
    }
}

/// Every form of key: what is read is written again, but for blanks around it.
pub(crate) fn key_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(key) = text.parse::<VerifyingKey>() {
        assert_eq!(key.to_string(), text.trim());
        assert_eq!(key.as_bytes().len(), PUBLIC_KEY_LEN);
    }
    if let Ok(key) = text.parse::<RecipientKey>() {
        assert_eq!(key.to_string(), text.trim());
        // A key that came in a sheet may be no key at all; that is an error, not the end.
        let _ = key.wrap(b"info", &[0; 32]);
    }
    let secret = |read: Option<String>| {
        if let Some(read) = read {
            assert_eq!(read, text.trim());
        }
    };
    secret(
        SigningKey::from_secret_text(text)
            .ok()
            .map(|key| key.to_secret_text().to_string()),
    );
    secret(
        RecipientSecret::from_secret_text(text)
            .ok()
            .map(|key| key.to_secret_text().to_string()),
    );
    secret(
        LogSigner::from_secret_text(text)
            .ok()
            .map(|key| key.to_secret_text().to_string()),
    );
}

/// Every problem of a configuration names a line that is there.
pub(crate) fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let path = Path::new("agent.toml");
    let (mut document, mut root) = Document::parse(path, text);
    let mut section = document.section(&mut root, "gateway");
    let name = document.required(&mut section, "name", "\"caf21\"");
    document.parsed::<passerelle_proto::PartyId>("name", name, "\"caf21\"");
    document.number(&mut section, "connections_max", 4, 1);
    document.list(&mut section, "addresses", "[]");
    let keys = document.section(&mut root, "keys");
    document.texts(keys);
    document.close(section);
    document.close(root);
    let lines = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
    for problem in document.into_problems() {
        assert!(
            problem.line.is_none_or(|line| (1..=lines).contains(&line)),
            "{problem}"
        );
        assert!(!problem.what.is_empty() && !problem.remedy.is_empty());
    }
}
