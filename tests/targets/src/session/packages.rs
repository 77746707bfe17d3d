//! Packages as a stream sees them: what their parts mean does not matter.

use std::sync::LazyLock;

use bytes::Bytes;
use passerelle_proto::v1::{Section, Signed};
use passerelle_proto::{ChunkRecord, ChunkTable, Digest, VerifiedManifest};

use crate::parts::manifest_of;

/// A package that fits inside an offer, one with an empty head part and one chunk of every length
/// there is at the edges, and one that is longer than the window.
pub(super) static PACKAGES: LazyLock<Vec<Package>> = LazyLock::new(|| {
    vec![
        package(100, 200, &[300, 22]),
        package(0, 0, &[22, 23, 70_000, 1_048_576, 5]),
        package(1000, 100_000, &[1_048_576; 11]),
        package(1000, 50, &[passerelle_proto::MAX_CIPHERTEXT_LEN; 3]),
        package(10, 10, &[]),
    ]
});

/// One package.
pub(super) struct Package {
    pub(super) manifest: VerifiedManifest,
    pub(super) table: ChunkTable,
    /// Wraps, chunk table, index, chunks.
    parts: [Bytes; 4],
}

impl Package {
    pub(super) fn at(number: u8) -> &'static Self {
        &PACKAGES[usize::from(number) % PACKAGES.len()]
    }

    /// The package of this manifest.
    pub(super) fn of(manifest: &Signed) -> Option<&'static Self> {
        PACKAGES
            .iter()
            .find(|package| package.manifest.signed() == manifest)
    }

    pub(super) fn part(&self, section: Section) -> &Bytes {
        match section {
            Section::Unspecified => panic!("no part of a package"),
            section => &self.parts[section as usize - 1],
        }
    }

    pub(super) fn payload_length(&self) -> u64 {
        self.table.payload_length()
    }

    /// The whole package, when it may travel inside its offer.
    pub(super) fn inline(&self) -> Bytes {
        let whole = self.parts.iter().map(Bytes::len).sum::<usize>() as u64;
        match whole <= passerelle_proto::INLINE_LEN_MAX {
            true => self.parts.concat().into(),
            false => Bytes::new(),
        }
    }
}

fn package(wraps: usize, index: usize, chunks: &[u32]) -> Package {
    let chunks: Vec<Vec<u8>> = chunks
        .iter()
        .zip(1u8..)
        .map(|(length, fill)| {
            vec![fill; (*length).max(passerelle_proto::MIN_CIPHERTEXT_LEN) as usize]
        })
        .collect();
    let records = chunks.iter().map(|chunk| ChunkRecord {
        length: chunk.len() as u32,
        sha256: Digest::of(chunk),
    });
    let table = ChunkTable::new(records.collect()).unwrap();
    let (wraps, index) = (vec![0xa; wraps], vec![0xb; index]);
    let encoded = table.encode();
    let manifest = manifest_of(&[&wraps, &encoded, &index], table.payload_length()).unwrap();
    Package {
        manifest,
        table,
        parts: [
            wraps.into(),
            encoded.into(),
            index.into(),
            chunks.concat().into(),
        ],
    }
}
