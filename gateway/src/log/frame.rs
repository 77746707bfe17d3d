//! One append as bytes: what is committed together or not at all.
//!
//! ```text
//! magic u32 ‖ length u32 ‖ first index u64 ‖ root before (32) ‖ SHA-256 of the rest (32) ‖ rest
//! rest: (length u32 ‖ entry) …
//! ```
//!
//! All numbers are little endian. The digest covers index and root before as well.

use passerelle_proto::Digest;

/// Length of everything in front of the entries.
pub(super) const HEADER_LEN: usize = 80;

const MAGIC: u32 = 0x4c53_5350;
/// Longest rest of a frame in bytes.
const REST_LEN_MAX: usize = super::BATCH_LEN_MAX + 4 * super::BATCH_ENTRIES_MAX;

pub(super) fn encode(first: u64, root_before: &Digest, entries: &[Vec<u8>]) -> Vec<u8> {
    let length: usize = entries.iter().map(|entry| entry.len() + 4).sum();
    let mut frame = Vec::with_capacity(HEADER_LEN + length);
    frame.extend_from_slice(&MAGIC.to_le_bytes());
    frame.extend_from_slice(&(length as u32).to_le_bytes());
    frame.extend_from_slice(&first.to_le_bytes());
    frame.extend_from_slice(&root_before.0);
    frame.extend_from_slice(&[0; 32]);
    for entry in entries {
        frame.extend_from_slice(&(entry.len() as u32).to_le_bytes());
        frame.extend_from_slice(entry);
    }
    let digest = Digest::of_parts(&[&frame[4..48], &frame[HEADER_LEN..]]);
    frame[48..HEADER_LEN].copy_from_slice(&digest.0);
    frame
}

/// A frame whose digest holds.
pub(super) struct Frame<'a> {
    pub(super) first: u64,
    pub(super) root_before: Digest,
    pub(super) entries: Vec<&'a [u8]>,
    pub(super) len: usize,
}

/// The frame at the beginning of `bytes`; `None` when there is none that holds.
pub(super) fn decode(bytes: &[u8]) -> Option<Frame<'_>> {
    let header = bytes.get(..HEADER_LEN)?;
    let word = |at: usize| {
        let word = header.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(word))
    };
    let length = word(4)? as usize;
    if word(0)? != MAGIC || length > REST_LEN_MAX {
        return None;
    }
    let rest = bytes.get(HEADER_LEN..HEADER_LEN + length)?;
    let entries = entries(rest)?;
    let digest = Digest::of_parts(&[&header[4..48], rest]);
    if digest.0[..] != header[48..HEADER_LEN] {
        return None;
    }
    Some(Frame {
        first: u64::from_le_bytes(header[8..16].try_into().ok()?),
        root_before: Digest::from_slice(&header[16..48]).ok()?,
        entries,
        len: HEADER_LEN + length,
    })
}

/// The entries in the rest of a frame; `None` when they do not fill it, or are above a limit.
///
/// It is cheap and comes before the digest: entries hold bytes of others, who could write what
/// looks like the beginnings of many long frames, and looking for an intact one would digest all.
fn entries(mut rest: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_at_checked(4)?;
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        if length > super::ENTRY_LEN_MAX || entries.len() == super::BATCH_ENTRIES_MAX {
            return None;
        }
        let (entry, after) = after.split_at_checked(length)?;
        entries.push(entry);
        rest = after;
    }
    Some(entries)
}

/// Whether an intact frame begins anywhere in `bytes`.
pub(super) fn any_intact(bytes: &[u8]) -> bool {
    let magic = MAGIC.to_le_bytes();
    let mut at = 0;
    while let Some(found) = find(&bytes[at..], &magic) {
        if decode(&bytes[at + found..]).is_some() {
            return true;
        }
        at += found + 1;
    }
    false
}

fn find(bytes: &[u8], magic: &[u8; 4]) -> Option<usize> {
    bytes.windows(4).position(|window| window == magic)
}

#[cfg(test)]
mod tests {
    use super::super::{BATCH_ENTRIES_MAX, ENTRY_LEN_MAX};
    use super::*;

    fn holds(entries: &[Vec<u8>]) -> bool {
        let frame = encode(7, &Digest::of(b"before"), entries);
        let decoded = decode(&frame);
        decoded.is_some_and(|decoded| decoded.entries == entries && decoded.len == frame.len())
    }

    #[test]
    fn a_frame_holds_up_to_its_limits_and_not_above() {
        assert!(holds(&vec![vec![1; 3]; BATCH_ENTRIES_MAX]));
        assert!(!holds(&vec![vec![1; 3]; BATCH_ENTRIES_MAX + 1]));
        assert!(holds(&[vec![], vec![1; ENTRY_LEN_MAX]]));
        assert!(!holds(&[vec![1; ENTRY_LEN_MAX + 1]]));
    }

    #[test]
    fn an_altered_frame_does_not_hold_and_an_intact_one_is_found_behind_it() {
        let frame = encode(
            7,
            &Digest::of(b"before"),
            &[b"one".to_vec(), b"two".to_vec()],
        );
        for at in 0..frame.len() {
            let mut altered = frame.clone();
            altered[at] ^= 1;
            assert!(decode(&altered).is_none(), "byte {at}");
            assert!(!any_intact(&altered));
            assert!(any_intact(&[altered, frame.clone()].concat()));
        }
    }
}
