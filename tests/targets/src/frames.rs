//! Frames of the gateway's log segments.
//!
//! Their codec is private to the gateway, and stays so: its source is compiled here once more.

use passerelle_proto::Digest;

/// As in the gateway; a test compares them.
pub(crate) const ENTRY_LEN_MAX: usize = 60 * 1024;
/// As in the gateway; a test compares them.
pub(crate) const BATCH_LEN_MAX: usize = 4 * 1024 * 1024;
/// As in the gateway; a test compares them.
pub(crate) const BATCH_ENTRIES_MAX: usize = 256;

#[path = "../../../gateway/src/log/frame.rs"]
mod frame;

/// A frame that holds is written again byte for byte; one that is cut or altered does not hold.
pub(crate) fn log_frames(data: &[u8]) {
    if let Some(decoded) = frame::decode(data) {
        let entries: Vec<Vec<u8>> = decoded.entries.iter().map(|entry| entry.to_vec()).collect();
        let encoded = frame::encode(decoded.first, &decoded.root_before, &entries);
        assert_eq!(encoded, &data[..decoded.len]);
        assert!(frame::any_intact(data));
    }
    // The bytes as entries: a length each, then the entry.
    let mut entries = Vec::new();
    let mut rest = data;
    while let Some((length, after)) = rest.split_first()
        && entries.len() < BATCH_ENTRIES_MAX
    {
        let (entry, after) = after.split_at(usize::from(*length).min(after.len()));
        entries.push(entry.to_vec());
        rest = after;
    }
    let root = Digest::of(data);
    let mut frame = frame::encode(7, &root, &entries);
    let decoded = frame::decode(&frame).expect("a frame that was just made");
    assert_eq!(
        (decoded.first, decoded.root_before, decoded.len),
        (7, root, frame.len())
    );
    assert_eq!(decoded.entries, entries);
    let behind_others = [data, &frame].concat();
    assert!(
        frame::any_intact(&behind_others),
        "found wherever it begins"
    );
    let cut = frame.len() - 1 - data.len() % frame.len();
    assert!(
        frame::decode(&frame[..cut]).is_none(),
        "a frame that is cut does not hold"
    );
    frame[cut] ^= 1;
    assert!(
        frame::decode(&frame).is_none(),
        "a frame that was altered does not hold"
    );
}
