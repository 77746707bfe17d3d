//! Packages that a sender has signed and sealed for us, whatever is inside them.
//!
//! Wraps, keys, digests and commitments are made here, as any sender can make them, so that what
//! is behind them is reached: the index, the names, the chunks and what they decompress to.

use std::collections::BTreeSet;
use std::io::{self, Cursor};
use std::sync::LazyLock;

use passerelle_proto::{
    ChunkRecord, ChunkTable, Digest, EntryName, EntrySink, OpenError, PartyId, RecipientSecret,
    VerifiedManifest, open, open_description, v1,
};
use prost::Message;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};

use crate::parts::{manifest_body, manifest_from};

/// The package key of every package made here.
const KEY: [u8; 32] = [7; 32];
/// Bytes that are added somewhere at most.
const LENGTH_MAX: usize = 1000;

static RECIPIENT: LazyLock<RecipientSecret> =
    LazyLock::new(|| RecipientSecret::from_seed(&PartyId::parse("grand-dijon").unwrap(), &[7; 32]));

/// What a hostile sender puts into a package. A message, so that seeds can be written.
#[derive(Clone, PartialEq, Message)]
pub struct Inside {
    /// What the description says of the files.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
    /// The chunks.
    #[prost(message, repeated, tag = "2")]
    pub chunks: Vec<Chunk>,
    /// Bytes instead of the description.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub description: Option<Vec<u8>>,
    /// Bytes instead of the whole index.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub index: Option<Vec<u8>>,
    /// Bytes that the salt lacks or has too many of.
    #[prost(sint32, tag = "5")]
    pub salt_off: i32,
    /// Bytes that the digests of the chunks have too many of.
    #[prost(uint32, tag = "6")]
    pub digests_off: u32,
}

/// What the description says of one file.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// Its name, good or bad.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its length, true or not.
    #[prost(uint64, tag = "2")]
    pub length: u64,
    /// Whether its digest is another one than that of the bytes at its place.
    #[prost(bool, tag = "3")]
    pub forged: bool,
}

/// One chunk.
#[derive(Clone, PartialEq, Message)]
pub struct Chunk {
    /// 0 raw, 1 zstd, and others.
    #[prost(uint32, tag = "1")]
    pub codec: u32,
    /// What it should decompress to; raw chunks are this alone.
    #[prost(bytes = "vec", tag = "2")]
    pub plain: Vec<u8>,
    /// Its payload, unless it is raw and honest.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub payload: Option<Vec<u8>>,
    /// Length that it declares, unless it is the true one.
    #[prost(uint32, optional, tag = "4")]
    pub declared: Option<u32>,
    /// Zeros behind it, unless they are as many as an honest sealer writes.
    #[prost(uint32, optional, tag = "5")]
    pub padding: Option<u32>,
}

/// Opens it: what comes out is what was declared, in files that do not stand in each other's way.
pub(crate) fn opening(data: &[u8]) {
    let Ok(inside) = Inside::decode(data) else {
        return;
    };
    let Some((manifest, mut pack)) = package(&inside) else {
        return;
    };
    let mut folder = Folder::default();
    match open(&manifest, &RECIPIENT, &mut pack, &mut folder) {
        Ok(opened) => {
            assert!(folder.finished);
            let described = open_description(&manifest, &RECIPIENT, &mut pack);
            assert_eq!(described.unwrap(), opened.description);
            let entries = &opened.description.entries;
            assert_eq!(folder.files.len(), entries.len());
            for (entry, (name, bytes)) in entries.iter().zip(&folder.files) {
                assert_eq!(entry.name, name.as_str());
                assert_eq!(entry.length, bytes.len() as u64);
                assert_eq!(Digest::of(bytes).0.as_slice(), entry.sha256);
            }
        }
        // Reading and writing work here: whatever is wrong is the package's fault, and refused.
        Err(OpenError::Io { what, source }) => panic!("{what}: {source}"),
        Err(error) => assert!(error.reason().is_some(), "{error}"),
    }
}

/// A folder in memory, in which a file is no directory.
#[derive(Default)]
struct Folder {
    files: Vec<(EntryName, Vec<u8>)>,
    directories: BTreeSet<String>,
    announced: u64,
    finished: bool,
}

impl EntrySink for Folder {
    fn begin(&mut self, name: &EntryName, length: u64) -> io::Result<()> {
        if let Some((before, bytes)) = self.files.last() {
            assert_eq!(
                bytes.len() as u64,
                self.announced,
                "{before} is not complete"
            );
        }
        self.announced = length;
        let taken = |path: &str| self.files.iter().any(|(file, _)| file.as_str() == path);
        let name_str = name.as_str();
        let parents = name_str.match_indices('/').map(|(at, _)| &name_str[..at]);
        let clash = parents.clone().any(taken) || taken(name_str);
        if clash || self.directories.contains(name_str) {
            return Err(io::Error::other(format!(
                "{name}: a file and a directory as well"
            )));
        }
        self.directories.extend(parents.map(str::to_owned));
        self.files.push((name.clone(), Vec::new()));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (name, file) = self.files.last_mut().unwrap();
        file.extend_from_slice(bytes);
        assert!(
            file.len() as u64 <= self.announced,
            "{name} is longer than announced"
        );
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.finished = true;
        Ok(())
    }
}

fn package(inside: &Inside) -> Option<(VerifiedManifest, Cursor<Vec<u8>>)> {
    let secret = derive(&KEY, &[b"passerelle/v1 chunks"]);
    let sealed: Vec<(Digest, Vec<u8>)> = inside
        .chunks
        .iter()
        .map(|chunk| seal_chunk(&secret, chunk))
        .collect();
    let plain = inside
        .chunks
        .iter()
        .flat_map(|chunk| chunk.plain.iter().copied());
    let plain: Vec<u8> = plain.collect();
    let salt = vec![
        9;
        usize::try_from(32 + i64::from(inside.salt_off))
            .ok()?
            .min(LENGTH_MAX)
    ];
    let description = inside.description.clone();
    let description =
        description.unwrap_or_else(|| describe(&inside.entries, &plain).encode_to_vec());
    let mut digests: Vec<u8> = sealed.iter().flat_map(|(digest, _)| digest.0).collect();
    digests.resize(
        digests.len() + LENGTH_MAX.min(inside.digests_off as usize),
        0,
    );
    let index = v1::Index {
        description: description.clone(),
        salt: salt.clone(),
        chunk_digests: digests,
    };
    let index = inside
        .index
        .clone()
        .unwrap_or_else(|| index.encode_to_vec());
    let index = seal(&derive(&KEY, &[b"passerelle/v1 index"]), index);
    let records = sealed.iter().map(|(_, ciphertext)| ChunkRecord {
        length: ciphertext.len() as u32,
        sha256: Digest::of(ciphertext),
    });
    let table = ChunkTable::new(records.collect()).ok()?;
    let mut body = manifest_body(&[&[], &table.encode(), &index]);
    body.payload_length = table.payload_length();
    body.key_commit = derive(&KEY, &[b"passerelle/v1 commit"]).to_vec();
    let parts: [&[u8]; 3] = [b"passerelle/v1 content", &salt, &Digest::of(&description).0];
    body.content_commit = Digest::of_parts(&parts).0.to_vec();
    let (manifest, wraps) = wrap(body)?;
    let layout = passerelle_proto::PackLayout::tight(&manifest);
    let chunks = sealed
        .into_iter()
        .map(|(_, ciphertext)| ciphertext)
        .collect::<Vec<_>>()
        .concat();
    let signed = manifest.signed().encode_to_vec();
    let pack = [
        &layout.header()[..],
        &signed,
        &wraps,
        &table.encode(),
        &index,
        &chunks,
    ]
    .concat();
    Some((manifest, Cursor::new(pack)))
}

/// Wraps the key for us, bound to the body without its wraps.
fn wrap(mut body: v1::Manifest) -> Option<(VerifiedManifest, Vec<u8>)> {
    let wraps = body.wraps.take();
    let info = [
        b"passerelle/v1 wrap".as_slice(),
        &Digest::of(&body.encode_to_vec()).0,
    ]
    .concat();
    body.wraps = wraps;
    let wrap = RECIPIENT.public().wrap(&info, &KEY).unwrap();
    let wraps = v1::Wraps { wraps: vec![wrap] }.encode_to_vec();
    body.wraps = Some(v1::Part {
        length: wraps.len() as u64,
        sha256: Digest::of(&wraps).0.to_vec(),
    });
    Some((manifest_from(&body)?, wraps))
}

fn describe(entries: &[Entry], plain: &[u8]) -> v1::Description {
    let mut at = 0;
    let described = entries.iter().map(|entry| {
        let rest = plain.len() - at;
        let end = at + usize::try_from(entry.length).map_or(rest, |length| length.min(rest));
        let bytes = &plain[at..end];
        at = end;
        let digest = Digest::of(if entry.forged { b"others" } else { bytes });
        v1::EntryDescription {
            name: entry.name.clone(),
            length: entry.length,
            sha256: digest.0.to_vec(),
            media_type: String::new(),
        }
    });
    v1::Description {
        entries: described.collect(),
        title: "t".into(),
        period: "p".into(),
    }
}

fn seal_chunk(secret: &[u8; 32], chunk: &Chunk) -> (Digest, Vec<u8>) {
    let plain_len = chunk.declared.unwrap_or(chunk.plain.len() as u32);
    let mut input = vec![chunk.codec as u8];
    input.extend_from_slice(&plain_len.to_be_bytes());
    input.extend_from_slice(chunk.payload.as_ref().unwrap_or(&chunk.plain));
    let padded = match chunk.padding {
        None => padme(input.len()),
        Some(padding) => input.len() + LENGTH_MAX.min(padding as usize),
    };
    input.resize(padded, 0);
    let digest = Digest::of(&input);
    let key = derive(secret, &[b"passerelle/v1 chunk", &digest.0]);
    (digest, seal(&key, input))
}

/// Padmé (PURBs, section 4).
fn padme(length: usize) -> usize {
    let exponent = length.ilog2();
    let mask = (1 << (exponent - (exponent.ilog2() + 1).min(exponent))) - 1;
    (length + mask) & !mask
}

struct Len32;

impl KeyType for Len32 {
    fn len(&self) -> usize {
        32
    }
}

fn derive(secret: &[u8], info: &[&[u8]]) -> [u8; 32] {
    let mut derived = [0; 32];
    let prk = Salt::new(HKDF_SHA256, &[]).extract(secret);
    prk.expand(info, Len32).unwrap().fill(&mut derived).unwrap();
    derived
}

fn seal(key: &[u8; 32], mut message: Vec<u8>) -> Vec<u8> {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    key.seal_in_place_append_tag(nonce, Aad::empty(), &mut message)
        .unwrap();
    message
}
