//! Small records that a program keeps for itself: their digest, and then they. One rotten bit of a
//! well-formed record would be another well-formed record.

use crate::{DIGEST_LEN, Digest};

/// A record as it is kept.
pub fn with_digest(record: &[u8]) -> Vec<u8> {
    [Digest::of(record).0.as_slice(), record].concat()
}

/// The record in what was kept; `None` when that is damaged.
pub fn sound(kept: &[u8]) -> Option<&[u8]> {
    let (digest, record) = kept.split_at_checked(DIGEST_LEN)?;
    (Digest::of(record).0 == digest).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let kept = with_digest(b"a record");
        assert_eq!(sound(&kept), Some(&b"a record"[..]));
        for bit in 0..kept.len() * 8 {
            let mut rotten = kept.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(sound(&rotten), None, "bit {bit}");
        }
        for length in 0..kept.len() {
            assert_eq!(sound(&kept[..length]), None, "{length} bytes");
        }
        assert_eq!(sound(&with_digest(b"")), Some(&b""[..]));
    }
}
