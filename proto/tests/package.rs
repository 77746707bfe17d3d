//! What a package promises: it opens to what was sealed, and to nothing else.

// What a test prepares fails as loudly as the test itself.
#![allow(clippy::unwrap_used)]

use std::io::{self, Cursor};

use passerelle_proto::fixture::{self, NOW, keys, plan, seal_files, world};
use passerelle_proto::v1::{Reason, Section};
use passerelle_proto::{
    EntryName, EntrySink, OpenError, Sealed, SignatureError, UntrustedManifest, chunk_len, open,
    split_inline,
};

#[derive(Default)]
struct Memory {
    files: Vec<(String, Vec<u8>)>,
    finished: bool,
}

impl EntrySink for Memory {
    fn begin(&mut self, name: &EntryName, _: u64) -> io::Result<()> {
        self.files.push((name.to_string(), Vec::new()));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.files.last_mut().unwrap().1.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.finished = true;
        Ok(())
    }
}

fn sealed(files: &[(&str, Vec<u8>)]) -> (Sealed, Vec<u8>) {
    seal_files(
        &plan(world().directory.convention()),
        &keys("caf21").agent,
        files,
    )
}

fn opened(sealed: &Sealed, pack: Vec<u8>) -> Result<Memory, OpenError> {
    let mut sink = Memory::default();
    let secret = keys("grand-dijon").recipient;
    open(&sealed.manifest, &secret, &mut Cursor::new(pack), &mut sink).map(|_| sink)
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn every_recipient_opens_exactly_what_was_sealed() {
    let files = [
        ("empty.csv", Vec::new()),
        (
            "décembre/table.csv",
            b"iris;foyers\n212310101;12\n".repeat(40_000),
        ),
        ("noise.bin", noise(700_000)),
        ("last-empty", Vec::new()),
    ];
    let (sealed, pack) = sealed(&files);
    for name in ["grand-dijon", "prestataire-obs"] {
        let mut sink = Memory::default();
        let mut pack = Cursor::new(pack.clone());
        let secret = keys(name).recipient;
        let opened = open(&sealed.manifest, &secret, &mut pack, &mut sink).unwrap();
        assert!(sink.finished);
        assert_eq!(opened.description.title, "Décembre 2025");
        for ((name, bytes), (want_name, want)) in sink.files.iter().zip(&files) {
            assert_eq!((name.as_str(), bytes), (*want_name, want));
        }
        assert_eq!(sink.files.len(), files.len());
    }
    let stranger = keys("caf21").recipient;
    let refused = open(
        &sealed.manifest,
        &stranger,
        &mut Cursor::new(pack),
        &mut Memory::default(),
    );
    assert_eq!(refused.unwrap_err().reason(), Some(Reason::Key));
}

#[test]
fn a_flipped_bit_anywhere_in_head_or_chunks_is_refused() {
    let (sealed, pack) = sealed(&[("noise.bin", noise(300_000))]);
    let sections = [
        Section::Wraps,
        Section::ChunkTable,
        Section::Index,
        Section::Chunks,
    ];
    for section in sections {
        let start = sealed.layout.offset_of(section).unwrap() as usize;
        let length = sealed.layout.length_of(section) as usize;
        for at in [start, start + length / 2, start + length - 1] {
            let mut altered = pack.clone();
            altered[at] ^= 1;
            let refused = opened(&sealed, altered).map(|_| ()).unwrap_err();
            assert_eq!(
                refused.reason(),
                Some(Reason::Digest),
                "{section:?}: {refused}"
            );
        }
    }
    let mut short = pack.clone();
    short.truncate(pack.len() - 1);
    let refused = opened(&sealed, short).map(|_| ()).unwrap_err();
    assert!(
        refused.to_string().contains("reading the package"),
        "{refused}"
    );
}

#[test]
fn each_broken_half_of_the_signature_and_each_junk_field_is_refused() {
    let (sealed, _) = sealed(&[("a", vec![1])]);
    let key = keys("caf21").agent;
    let verify = |signed| {
        UntrustedManifest::parse(signed)?
            .verify(key.verifying_key())
            .map_err(passerelle_proto::ManifestError::Envelope)
    };
    let good = sealed.manifest.signed().clone();
    verify(good.clone()).unwrap();
    let last = good.sig.len() - 1;
    for (at, half) in [
        (0, SignatureError::PostQuantum),
        (last, SignatureError::Classical),
    ] {
        let mut broken = good.clone();
        broken.sig[at] ^= 1;
        let refused = verify(broken).unwrap_err().to_string();
        assert!(refused.contains(&half.to_string()), "{refused}");
    }
    let mut junk = good.clone();
    junk.body.extend_from_slice(&[0xf8, 0x3f, 1]);
    let refused = verify(junk).unwrap_err().to_string();
    assert!(refused.contains("canonical"), "{refused}");
    let mut flipped = good;
    let middle = flipped.body.len() / 2;
    flipped.body[middle] ^= 1;
    assert!(verify(flipped).is_err());
}

#[test]
fn a_small_package_travels_inside_its_offer() {
    let (sealed, pack) = sealed(&[("a", noise(10_000))]);
    let at = |section| {
        let start = sealed.layout.offset_of(section).unwrap() as usize;
        &pack[start..start + sealed.layout.length_of(section) as usize]
    };
    let sections = [
        Section::Wraps,
        Section::ChunkTable,
        Section::Index,
        Section::Chunks,
    ];
    let inline = sections.map(at).concat();
    let parts = split_inline(&sealed.manifest, &inline).unwrap();
    assert_eq!(parts.chunks, at(Section::Chunks));
    for flip in [0, inline.len() / 2, inline.len() - 1] {
        let mut altered = inline.clone();
        altered[flip] ^= 1;
        assert!(split_inline(&sealed.manifest, &altered).is_err());
    }
    assert!(split_inline(&sealed.manifest, &inline[1..]).is_err());
}

#[test]
fn chunks_grow_with_the_package_and_stay_within_their_bounds() {
    assert_eq!(chunk_len(0), 256 * 1024);
    assert_eq!(chunk_len(1 << 30), 256 * 1024);
    assert_eq!(chunk_len(64 << 30), 4 * 1024 * 1024);
    assert_eq!(chunk_len(10 << 30), 1024 * 1024);
}

#[test]
fn a_source_that_changes_while_it_is_sealed_stops_the_sealing() {
    let plan = plan(&fixture::draft());
    let entry = passerelle_proto::SourceEntry {
        name: EntryName::parse("a").unwrap(),
        length: 10,
        media_type: String::new(),
    };
    for actual in [9, 11] {
        let mut pack = Cursor::new(Vec::new());
        let open = |_| Ok(Cursor::new(vec![0; actual]));
        let entries = [entry.clone()];
        let key = keys("caf21").agent;
        let refused = passerelle_proto::seal(&plan, &key, &entries, open, &mut pack, |_| {});
        assert!(refused.unwrap_err().to_string().contains("changed"));
    }
    assert!(
        NOW > plan
            .created
            .saturating_sub(std::time::Duration::from_secs(1))
    );
}
