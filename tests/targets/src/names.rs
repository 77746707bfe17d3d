//! Short texts: names of files and parties, ids, times.

use passerelle_proto::{
    Digest, ENTRY_NAME_LEN_MAX, ENTRY_PART_LEN_MAX, EntryName, FlowId, KeyId, NAME_LEN_MAX,
    PackageId, PackagePrefix, PartyId, Role, Timestamp,
};

/// What is accepted is harmless, and is shown as it was written.
pub(crate) fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    entry_name(text);
    if let Ok(party) = PartyId::parse(text) {
        assert_eq!(party.to_string(), text);
        assert!(text.len() <= NAME_LEN_MAX && FlowId::parse(text).is_ok());
    }
    if let Ok(role) = text.parse::<Role>() {
        assert_eq!(role.to_string(), text);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(id) = text.parse::<KeyId>() {
        assert_eq!(id.fingerprint().replace(' ', ""), text.replace(' ', ""));
        assert_eq!(id.fingerprint().parse(), Ok(id));
    }
    if let Ok(prefix) = PackagePrefix::parse(text) {
        assert_eq!(prefix.digits(), text.trim().to_ascii_lowercase());
        if let Some(id) = prefix.whole() {
            assert!(prefix.matches(&id));
            assert_eq!(prefix.only([id, PackageId(Digest::of(data))]), Ok(id));
        }
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        assert_eq!(time.to_string().parse(), Ok(time), "{text:?}");
        assert_eq!(
            time.date().parse::<Timestamp>().map(|day| day <= time),
            Ok(true)
        );
    }
}

/// A name that is accepted stays in its directory, on every system.
fn entry_name(text: &str) {
    let Ok(name) = EntryName::parse(text) else {
        return;
    };
    assert_eq!(name.as_str(), text);
    assert!(text.len() <= ENTRY_NAME_LEN_MAX);
    let path = std::path::Path::new(text);
    assert!(path.is_relative());
    assert!(
        path.components()
            .all(|part| matches!(part, std::path::Component::Normal(_)))
    );
    let parts = text.split('/').map(str::len);
    assert!(
        parts
            .clone()
            .all(|length| (1..=ENTRY_PART_LEN_MAX).contains(&length))
    );
    assert_eq!(path.components().count(), parts.count());
}
