//! The RFC 6962 tree (section 2.1) over the at most 1,024 objects of one envelope.

use crate::Digest;

const LEAF: u8 = 0;
const NODE: u8 = 1;

/// Leaf hash of an object: SHA-256(0x00 ‖ type ‖ body).
pub(crate) fn leaf_hash(object: u8, body: &[u8]) -> Digest {
    Digest::of_parts(&[&[LEAF, object], body])
}

fn node_hash(left: &Digest, right: &Digest) -> Digest {
    Digest::of_parts(&[&[NODE], &left.0, &right.0])
}

/// All levels of the tree; a last node without sibling moves up unchanged, which is the same
/// tree as the recursive split at the largest power of two.
pub(crate) struct BatchTree {
    levels: Vec<Vec<Digest>>,
}

impl BatchTree {
    /// Builds the tree over at least one leaf hash.
    pub(crate) fn new(leaves: Vec<Digest>) -> Self {
        let mut levels = vec![leaves];
        while let Some(level) = levels.last().filter(|level| level.len() > 1) {
            let next = level.chunks(2).map(|pair| match pair {
                [left, right] => node_hash(left, right),
                _ => pair[0],
            });
            levels.push(next.collect());
        }
        Self { levels }
    }

    /// Hash of the whole tree; for no leaves SHA-256 of nothing (RFC 6962).
    pub(crate) fn root(&self) -> Digest {
        self.levels
            .last()
            .and_then(|level| level.first())
            .copied()
            .unwrap_or(Digest::of(b""))
    }

    /// Inclusion path of leaf `index`, leaf to root.
    pub(crate) fn path(&self, mut index: usize) -> Vec<Digest> {
        let mut path = Vec::new();
        for level in &self.levels {
            path.extend(level.get(index ^ 1));
            index >>= 1;
        }
        path
    }
}

/// Root that leaf `index` of `size` and its path lead to; `None` when they do not fit together.
pub(crate) fn root_of_path(
    leaf: Digest,
    index: usize,
    size: usize,
    path: &[Digest],
) -> Option<Digest> {
    if index >= size {
        return None;
    }
    let (mut node, mut index, mut last) = (leaf, index, size - 1);
    let mut path = path.iter();
    while last > 0 {
        if index & 1 == 1 {
            node = node_hash(path.next()?, &node);
        } else if index < last {
            node = node_hash(&node, path.next()?);
        }
        index >>= 1;
        last >>= 1;
    }
    path.next().is_none().then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 6962, section 2.1, word for word.
    fn defined(leaves: &[Digest]) -> Digest {
        if let [leaf] = leaves {
            return *leaf;
        }
        let split = leaves.len().next_power_of_two() / 2;
        node_hash(&defined(&leaves[..split]), &defined(&leaves[split..]))
    }

    fn leaves(count: usize) -> Vec<Digest> {
        (0..count).map(|i| leaf_hash(1, &i.to_be_bytes())).collect()
    }

    #[test]
    fn the_root_is_the_one_rfc_6962_defines() {
        for count in 1..=70 {
            assert_eq!(
                BatchTree::new(leaves(count)).root(),
                defined(&leaves(count)),
                "{count}"
            );
        }
    }

    #[test]
    fn every_path_leads_to_the_root_and_no_other_position_does() {
        for count in 1..=33 {
            let leaves = leaves(count);
            let tree = BatchTree::new(leaves.clone());
            for (index, leaf) in leaves.iter().enumerate() {
                let path = tree.path(index);
                assert_eq!(root_of_path(*leaf, index, count, &path), Some(tree.root()));
                let other = root_of_path(*leaf, (index + 1) % count, count, &path);
                assert!(
                    count == 1 || other != Some(tree.root()),
                    "{index} of {count}"
                );
                let longer = [path, vec![*leaf]].concat();
                assert_eq!(root_of_path(*leaf, index, count, &longer), None);
            }
        }
    }

    #[test]
    fn an_index_outside_the_batch_has_no_root() {
        let leaf = leaf_hash(1, b"x");
        assert_eq!(root_of_path(leaf, 0, 0, &[]), None);
        assert_eq!(root_of_path(leaf, 1, 1, &[]), None);
        assert_eq!(root_of_path(leaf, 0, 2, &[]), None);
    }
}
