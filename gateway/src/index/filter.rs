//! Tells which file can know a package without opening it: a Bloom filter over package ids.
//!
//! An id is a digest, so its own words serve as hashes.

use passerelle_proto::{Digest, PackageId};

/// Bits per package: one stranger in about two thousand is taken for known.
const BITS_PER_PACKAGE: usize = 16;
/// Bits that each package sets; an id has no more words.
const PROBES: usize = 8;
const WORDS_MIN: usize = 16;
const CHECK_LEN: usize = 8;

/// The filter of one file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter(Vec<u64>);

impl Filter {
    /// A filter of these packages.
    pub(super) fn of<'a>(packages: impl ExactSizeIterator<Item = &'a PackageId>) -> Self {
        let words = (packages.len() * BITS_PER_PACKAGE / 64).max(WORDS_MIN);
        let mut filter = Self(vec![0; words.next_power_of_two()]);
        for package in packages {
            for (word, bit) in filter.places(package) {
                filter.0[word] |= bit;
            }
        }
        filter
    }

    /// `false`: the package is surely not in the file.
    pub(super) fn may_hold(&self, package: &PackageId) -> bool {
        self.places(package)
            .iter()
            .all(|(word, bit)| self.0[*word] & bit != 0)
    }

    fn places(&self, package: &PackageId) -> [(usize, u64); PROBES] {
        let (words, _) = package.as_bytes().as_chunks::<4>();
        let mut places = [(0, 0); PROBES];
        for (place, word) in places.iter_mut().zip(words) {
            let bit = u32::from_le_bytes(*word) as usize;
            // The number of words is a power of two.
            *place = ((bit / 64) & (self.0.len() - 1), 1 << (bit % 64));
        }
        places
    }

    /// The bytes of a file, with a check at their end.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        let check = Digest::of(&bytes);
        bytes.extend_from_slice(&check.0[..CHECK_LEN]);
        bytes
    }

    /// `None` when the file is damaged.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (bytes, check) = bytes.split_last_chunk::<CHECK_LEN>()?;
        let (words, rest) = bytes.as_chunks::<8>();
        let whole = rest.is_empty() && words.len().is_power_of_two();
        (whole && Digest::of(bytes).0[..CHECK_LEN] == *check)
            .then(|| Self(words.iter().map(|word| u64::from_le_bytes(*word)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(number: u32) -> PackageId {
        PackageId(Digest::of(&number.to_be_bytes()))
    }

    #[test]
    fn a_filter_knows_its_packages_and_hardly_any_other() {
        let packages: Vec<PackageId> = (0..20_000).map(package).collect();
        let filter = Filter::of(packages.iter());
        assert!(packages.iter().all(|package| filter.may_hold(package)));
        let strangers = (20_000..60_000).map(package);
        let taken = strangers.filter(|package| filter.may_hold(package)).count();
        assert!(taken < 100, "{taken} of 40,000");
    }

    #[test]
    fn a_damaged_filter_is_not_believed() {
        let filter = Filter::of([package(1)].iter());
        let mut bytes = filter.to_bytes();
        assert_eq!(Filter::from_bytes(&bytes), Some(filter));
        bytes[3] ^= 1;
        assert_eq!(Filter::from_bytes(&bytes), None);
        assert_eq!(Filter::from_bytes(&[]), None);
    }
}
