//! The parts of a package that are read before any key is: chunk table, pack, inline package.

use std::io::Cursor;

use passerelle_proto::v1::{self, Kind, ObjectType, Part, Section, Signed};
use passerelle_proto::{
    ChunkTable, Digest, INLINE_LEN_MAX, MAX_CHUNKS, MAX_CIPHERTEXT_LEN, MIN_CIPHERTEXT_LEN,
    PACK_HEADER_LEN, PackLayout, RECORD_LEN, SIGNATURE_LEN, UntrustedManifest, VerifiedManifest,
    split_inline,
};
use prost::Message;

/// A table is written again byte for byte, adds up, and finds every byte of the payload.
pub(crate) fn chunk_table(data: &[u8]) {
    let sum = data.chunks(RECORD_LEN).fold(0u64, |sum, record| {
        let length = record
            .first_chunk()
            .map_or(0, |bytes| u32::from_be_bytes(*bytes));
        sum.wrapping_add(u64::from(length))
    });
    assert!(
        ChunkTable::parse(data, sum ^ 1).is_err(),
        "a table that does not add up"
    );
    let Ok(table) = ChunkTable::parse(data, sum) else {
        return;
    };
    assert_eq!(table.encode(), data);
    assert!(table.len() <= MAX_CHUNKS);
    let mut end = 0;
    for (chunk, record) in table.records().iter().enumerate() {
        assert!((MIN_CIPHERTEXT_LEN..=MAX_CIPHERTEXT_LEN).contains(&record.length));
        let range = table.range_of(chunk).unwrap();
        assert_eq!(
            (range.start, range.end - range.start),
            (end, u64::from(record.length))
        );
        assert_eq!(table.locate(range.start), Some(chunk));
        assert_eq!(table.locate(range.end - 1), Some(chunk));
        assert!(
            table
                .verify(chunk, &data[..data.len().min(RECORD_LEN)])
                .is_err()
        );
        end = range.end;
    }
    assert_eq!((table.locate(end), table.payload_length()), (None, end));
}

/// A header is written again byte for byte, and its parts lie one behind the other.
pub(crate) fn pack(data: &[u8]) {
    let mut bytes = data.to_vec();
    if let Some(header) = bytes.first_chunk_mut::<{ PACK_HEADER_LEN as usize }>() {
        // A fuzzer does not find digests; damage to them has a test of its own.
        let check = Digest::of(&header[..56]);
        header[56..].copy_from_slice(&check.0[..8]);
        let Ok(layout) = PackLayout::parse(header) else {
            return;
        };
        assert_eq!(&layout.header(), header, "a header has one form");
        let mut end = layout.manifest_offset() + layout.manifest_len();
        for section in [
            Section::Wraps,
            Section::ChunkTable,
            Section::Index,
            Section::Chunks,
        ] {
            let offset = layout.offset_of(section).unwrap();
            assert!(offset == end || section == Section::Chunks && offset > end);
            end = offset + layout.length_of(section);
        }
        assert_eq!(layout.file_len(), end);
    }
    let mut pack = Cursor::new(bytes.as_slice());
    let Ok((layout, signed)) = PackLayout::read(&mut pack) else {
        return;
    };
    for section in [
        Section::Wraps,
        Section::ChunkTable,
        Section::Index,
        Section::Chunks,
    ] {
        if let Ok(part) = layout.read_section(&mut pack, section) {
            assert_eq!(part.len() as u64, layout.length_of(section));
            assert!(part.len() <= bytes.len());
        }
    }
    if let Ok(manifest) = UntrustedManifest::parse(signed) {
        let tight = PackLayout::tight(&manifest.verified_before());
        assert_eq!(PackLayout::parse(&tight.header()).unwrap(), tight);
    }
}

/// A package inside its offer: cut by the manifest's lengths, and every byte of it digested.
pub(crate) fn inline(data: &[u8]) {
    // Lengths of the parts, then the parts; whatever the lengths say.
    let Some((lengths, bytes)) = data.split_at_checked(8) else {
        return;
    };
    let length = |at: usize| usize::from(u16::from_le_bytes([lengths[at], lengths[at + 1]]));
    let mut rest = bytes;
    let mut head = [0, 2, 4].map(|at| {
        let part;
        (part, rest) = rest.split_at(length(at).min(rest.len()));
        part
    });
    // The table that these chunks would have, so that a fuzzer need not find digests.
    let chunks: Vec<&[u8]> = rest
        .chunks(length(6).max(MIN_CIPHERTEXT_LEN as usize))
        .collect();
    let records = chunks.iter().flat_map(|chunk| {
        let length = (chunk.len() as u32).to_be_bytes();
        [length.as_slice(), &Digest::of(chunk).0].concat()
    });
    let table: Vec<u8> = records.collect();
    if head[1].is_empty() {
        head[1] = &table;
    }
    let Some(manifest) = manifest_of(&head, rest.len() as u64) else {
        return;
    };
    let whole = [head[0], head[1], head[2], rest].concat();
    if let Ok(parts) = split_inline(&manifest, &whole) {
        assert!(whole.len() as u64 <= INLINE_LEN_MAX);
        assert_eq!(
            [parts.wraps, parts.table, parts.index, parts.chunks].concat(),
            whole
        );
    }
    if let Some((_, shorter)) = whole.split_first() {
        assert!(split_inline(&manifest, shorter).is_err());
        let mut flipped = whole.clone();
        let at = usize::from(lengths[7]) * whole.len() / 256;
        flipped[at] ^= 1;
        assert!(
            split_inline(&manifest, &flipped).is_err(),
            "byte {at} counts for nothing"
        );
    }
}

/// A well-formed manifest of a package with these parts of its head; nobody has signed it.
pub(crate) fn manifest_of(head: &[&[u8]; 3], payload_length: u64) -> Option<VerifiedManifest> {
    let mut body = manifest_body(head);
    body.payload_length = payload_length;
    manifest_from(&body)
}

/// The body of a manifest with these parts of its head.
pub(crate) fn manifest_body(head: &[&[u8]; 3]) -> v1::Manifest {
    let [wraps, chunk_table, index] = head.map(|part| {
        Some(Part {
            length: part.len() as u64,
            sha256: Digest::of(part).0.to_vec(),
        })
    });
    v1::Manifest {
        signer: vec![1; 32],
        nonce: vec![2; 16],
        flow: "observation-iris".into(),
        kind: Kind::Data as i32,
        sender: "caf21".into(),
        recipients: vec!["grand-dijon".into()],
        convention: vec![3; 32],
        created_ms: 1_780_272_000_000,
        not_after_ms: 1_780_358_400_000,
        no_foreign_data: true,
        key_commit: vec![4; 32],
        content_commit: vec![5; 32],
        wraps,
        chunk_table,
        index,
        ..v1::Manifest::default()
    }
}

/// The manifest with this body, as if its signature had been verified.
pub(crate) fn manifest_from(body: &v1::Manifest) -> Option<VerifiedManifest> {
    let signed = Signed {
        r#type: ObjectType::Manifest as i32,
        body: body.encode_to_vec(),
        index: 0,
        size: 1,
        path: Vec::new(),
        sig: vec![0; SIGNATURE_LEN],
    };
    Some(UntrustedManifest::parse(signed).ok()?.verified_before())
}
