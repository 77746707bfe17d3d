//! The Merkle tree of the audit log: RFC 6962 hashing and proofs over hashes that are stored.
//!
//! A complete subtree has a coordinate (level, index): it covers the 2^level leaves from
//! index × 2^level on. What is stored are the hashes at levels 0, 8, 16 …, as tiles hold them;
//! everything else is computed from those.

use crate::Digest;

/// Levels between two stored ones: a tile holds 2^8 hashes.
pub const TILE_HEIGHT: u8 = 8;

/// Leaf hash of an entry: SHA-256(0x00 ‖ entry).
pub fn leaf_hash(entry: &[u8]) -> Digest {
    Digest::of_parts(&[&[0], entry])
}

/// Hash of two subtrees: SHA-256(0x01 ‖ left ‖ right).
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    Digest::of_parts(&[&[1], &left.0, &right.0])
}

/// Root of a tree without entries: SHA-256 of nothing.
pub fn empty_root() -> Digest {
    Digest::of(b"")
}

/// Stored hashes at levels that are multiples of [`TILE_HEIGHT`].
pub trait StoredHashes {
    /// What reading can fail with.
    type Error;

    /// Hash of the complete subtree at this coordinate.
    ///
    /// # Errors
    /// When it is not stored or cannot be read.
    fn stored(&self, level: u8, index: u64) -> Result<Digest, Self::Error>;
}

fn subtree<S: StoredHashes>(store: &S, level: u8, index: u64) -> Result<Digest, S::Error> {
    if level.is_multiple_of(TILE_HEIGHT) {
        return store.stored(level, index);
    }
    let left = subtree(store, level - 1, index * 2)?;
    let right = subtree(store, level - 1, index * 2 + 1)?;
    Ok(node_hash(&left, &right))
}

/// Hash of the leaves from `start` to `end`, a range that the tree has as a (sub)tree.
fn range_hash<S: StoredHashes>(store: &S, start: u64, end: u64) -> Result<Digest, S::Error> {
    let length = end - start;
    if length.is_power_of_two() {
        let level = length.trailing_zeros() as u8;
        return subtree(store, level, start >> level);
    }
    let split = start + largest_power_below(length);
    let left = range_hash(store, start, split)?;
    let right = range_hash(store, split, end)?;
    Ok(node_hash(&left, &right))
}

/// Largest power of two that is smaller than `length`, which is at least 2.
fn largest_power_below(length: u64) -> u64 {
    1 << (63 - (length - 1).leading_zeros())
}

/// Root of the first `size` entries.
///
/// # Errors
/// What the store says.
pub fn root<S: StoredHashes>(store: &S, size: u64) -> Result<Digest, S::Error> {
    match size {
        0 => Ok(empty_root()),
        size => range_hash(store, 0, size),
    }
}

/// Inclusion proof of entry `index` in the first `size` entries (RFC 6962, 2.1.1), leaf to root.
///
/// # Errors
/// What the store says. `index` must be below `size`.
pub fn inclusion_proof<S: StoredHashes>(
    store: &S,
    index: u64,
    size: u64,
) -> Result<Vec<Digest>, S::Error> {
    let mut proof = Vec::new();
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let split = start + largest_power_below(end - start);
        if index < split {
            proof.push(range_hash(store, split, end)?);
            end = split;
        } else {
            proof.push(range_hash(store, start, split)?);
            start = split;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Consistency proof between the first `old` and the first `new` entries (RFC 6962, 2.1.2).
///
/// # Errors
/// What the store says. `old` must not be above `new`.
pub fn consistency_proof<S: StoredHashes>(
    store: &S,
    old: u64,
    new: u64,
) -> Result<Vec<Digest>, S::Error> {
    let mut proof = Vec::new();
    if old == 0 || old == new {
        return Ok(proof);
    }
    let (mut start, mut end) = (0, new);
    let mut whole = true;
    while end != old {
        let split = start + largest_power_below(end - start);
        if old <= split {
            proof.push(range_hash(store, split, end)?);
            end = split;
        } else {
            proof.push(range_hash(store, start, split)?);
            start = split;
            whole = false;
        }
    }
    if !whole {
        proof.push(range_hash(store, start, end)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Whether a proof shows that `leaf` is entry `index` of the tree with this size and root.
pub fn verify_inclusion(
    leaf: &Digest,
    index: u64,
    size: u64,
    proof: &[Digest],
    root: &Digest,
) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node % 2 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node % 2 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether a proof shows that the smaller tree is the beginning of the larger one
/// (RFC 9162, 2.1.4.2).
pub fn verify_consistency(
    old: u64,
    old_root: &Digest,
    new: u64,
    new_root: &Digest,
    proof: &[Digest],
) -> bool {
    if old > new || (old == 0 && *old_root != empty_root()) {
        return false;
    }
    if old == 0 || old == new {
        return proof.is_empty() && (old == 0 || old_root == new_root);
    }
    let mut rest = proof.iter();
    let (mut node, mut last) = (old - 1, new - 1);
    while node % 2 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let first = match old.is_power_of_two() {
        true => Some(old_root),
        false => rest.next(),
    };
    let Some(first) = first else { return false };
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if node % 2 == 1 || node == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while node % 2 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}

/// The root of a growing tree, in as many hashes as its size has bits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    // Roots of the complete subtrees, largest first.
    peaks: Vec<Digest>,
}

impl Frontier {
    /// Number of entries.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf hash.
    pub fn push(&mut self, leaf: Digest) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            // As many peaks as trailing ones are of growing size, the smallest last.
            let Some(left) = self.peaks.pop() else { break };
            hash = node_hash(&left, &hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The root.
    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else {
            return empty_root();
        };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }

    /// The complete subtrees, largest first.
    pub fn peaks(&self) -> &[Digest] {
        &self.peaks
    }

    /// A frontier as it was stored; `None` when the number of peaks does not fit the size.
    pub fn from_peaks(size: u64, peaks: Vec<Digest>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct All(Vec<Digest>);

    impl StoredHashes for All {
        type Error = ();

        fn stored(&self, level: u8, index: u64) -> Result<Digest, ()> {
            let width = 1_usize << level;
            let from = index as usize * width;
            let mut row = self.0.get(from..from + width).ok_or(())?.to_vec();
            while row.len() > 1 {
                row = row
                    .chunks(2)
                    .map(|pair| node_hash(&pair[0], &pair[1]))
                    .collect();
            }
            Ok(row[0])
        }
    }

    fn leaves(count: u64) -> All {
        All((0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect())
    }

    #[test]
    fn roots_and_proofs_agree_with_another_implementation() {
        use tlog_tiles::tlog;
        let mut stored: Vec<tlog::Hash> = Vec::new();
        let store = leaves(300);
        let mut frontier = Frontier::default();
        for n in 0..300_u64 {
            let hashes = tlog::stored_hashes(n, &n.to_be_bytes(), &stored_reader(&stored));
            stored.extend(hashes.unwrap());
            frontier.push(store.0[n as usize]);
            let theirs = tlog::tree_hash(n + 1, &stored_reader(&stored)).unwrap();
            assert_eq!(theirs.0, root(&store, n + 1).unwrap().0, "{n}");
            assert_eq!(theirs.0, frontier.root().0, "{n}");
        }
    }

    fn stored_reader(stored: &[tlog_tiles::tlog::Hash]) -> Reader<'_> {
        Reader(stored)
    }

    struct Reader<'a>(&'a [tlog_tiles::tlog::Hash]);

    impl tlog_tiles::tlog::HashReader for Reader<'_> {
        fn read_hashes(
            &self,
            indexes: &[u64],
        ) -> Result<Vec<tlog_tiles::tlog::Hash>, tlog_tiles::tlog::Error> {
            Ok(indexes
                .iter()
                .map(|index| self.0[*index as usize])
                .collect())
        }
    }

    #[test]
    fn every_proof_verifies_and_no_altered_one_does() {
        let store = leaves(40);
        for size in 1..=40_u64 {
            let root_now = root(&store, size).unwrap();
            for index in 0..size {
                let proof = inclusion_proof(&store, index, size).unwrap();
                let leaf = &store.0[index as usize];
                assert!(verify_inclusion(leaf, index, size, &proof, &root_now));
                assert!(!verify_inclusion(
                    &root_now,
                    index,
                    size + 1,
                    &proof,
                    &root_now
                ));
                if let Some((_, short)) = proof.split_first() {
                    assert!(!verify_inclusion(leaf, index, size, short, &root_now));
                }
            }
            for old in 0..=size {
                let old_root = root(&store, old).unwrap();
                let proof = consistency_proof(&store, old, size).unwrap();
                assert!(
                    verify_consistency(old, &old_root, size, &root_now, &proof),
                    "{old} {size}"
                );
                let wrong = leaf_hash(b"wrong");
                assert!(!verify_consistency(old, &wrong, size, &root_now, &proof));
                if old > 0 && old < size {
                    assert!(!verify_consistency(old, &old_root, size, &wrong, &proof));
                    assert!(!verify_consistency(
                        old,
                        &old_root,
                        size,
                        &root_now,
                        &proof[1..]
                    ));
                }
            }
        }
    }
}
