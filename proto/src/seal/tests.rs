//! Vectors of the package: `proto/vectors/package.json` changes when a byte of a format does.
//!
//! `VECTORS=write` writes the file anew; do that only when a format is meant to change.

use std::io::Cursor;
use std::path::Path;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::*;
use crate::fixture::{keys, plan, world};
use crate::v1::statement::What;
use crate::{EntrySink, RecipientSecret, UntrustedStatement};

const FILE: &str = "vectors/package.json";
/// Too short and too mixed to be worth compressing, so that readers need no decompressor.
const PLAIN: &[u8] = b"iris;foyers\r\n212310101;s\r\n\xff\x00\xfe";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    let digits = (0..text.len()).step_by(2);
    digits
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// The package whose random values are all fixed, but for its signature and its wraps.
fn sealed() -> (Sealed, Vec<u8>) {
    let plan = plan(world().directory.convention());
    let randomness = Randomness {
        key: Zeroizing::new([0x11; 32]),
        salt: [0x22; 32],
        nonce: [0x33; 16],
    };
    let entries = [SourceEntry {
        name: EntryName::parse("table.csv").unwrap(),
        length: PLAIN.len() as u64,
        media_type: String::new(),
    }];
    let key = keys("caf21").agent;
    let sealing = Sealing::new(&plan, &key, &entries, &randomness).unwrap();
    let mut pack = Cursor::new(Vec::new());
    let sealed = sealing
        .run(|_| Ok(Cursor::new(PLAIN.to_vec())), &mut pack, |_| {})
        .unwrap();
    (sealed, pack.into_inner())
}

fn section(sealed: &Sealed, pack: &[u8], section: Section) -> String {
    let start = sealed.layout.offset_of(section).unwrap() as usize;
    hex(&pack[start..start + sealed.layout.length_of(section) as usize])
}

fn statement(package: PackageId) -> v1::Signed {
    let key = keys("grand-dijon").agent;
    let body = v1::Statement {
        signer: key.id().0.to_vec(),
        nonce: vec![0x44; NONCE_LEN],
        issuer: "grand-dijon".into(),
        destination: "caf21".into(),
        seq: 1,
        previous: Vec::new(),
        at_ms: crate::fixture::NOW.as_ms(),
        package: package.as_bytes().to_vec(),
        what: Some(What::Delivered(v1::Delivered {
            recipient: "grand-dijon".into(),
            content_commit: vec![0x55; 32],
        })),
    };
    envelope::sign_one(&key, ObjectType::Statement, body.encode_to_vec())
}

fn vector() -> Value {
    let (sealed, pack) = sealed();
    let recipient = keys("grand-dijon").recipient;
    let said = statement(sealed.manifest.id());
    let part = |wanted| section(&sealed, &pack, wanted);
    json!({
        "signer": keys("caf21").agent.verifying_key(),
        "recipient_seed": hex(&[14; 32]),
        "recipient": recipient.public(),
        "plaintext": hex(PLAIN),
        "package_key": hex(&[0x11; 32]),
        "package_id": sealed.manifest.id(),
        "manifest": hex(&sealed.manifest.signed().body),
        "manifest_signature": hex(&sealed.manifest.signed().sig),
        "wraps": part(Section::Wraps),
        "chunk_table": part(Section::ChunkTable),
        "index": part(Section::Index),
        "chunks": part(Section::Chunks),
        "statement_signer": keys("grand-dijon").agent.verifying_key(),
        "statement": hex(&said.body),
        "statement_signature": hex(&said.sig),
    })
}

#[derive(Default)]
struct Memory(Vec<u8>);

impl EntrySink for Memory {
    fn begin(&mut self, _: &EntryName, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read_vector() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    if std::env::var("VECTORS").is_ok_and(|wish| wish == "write") {
        let text = format!("{:#}\n", vector());
        std::fs::write(&path, text).unwrap();
    }
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn what_is_sealed_today_is_what_the_vectors_hold() {
    let kept = read_vector();
    let now = vector();
    // What is random by nature: signatures, wraps, and the manifest that digests the wraps.
    for same in ["signer", "recipient", "chunk_table", "index", "chunks"] {
        assert_eq!(kept[same], now[same], "{same}");
    }
    let without_wraps = |vector: &Value| {
        let body = unhex(&vector["manifest"]);
        let manifest: v1::Manifest = Message::decode(body.as_slice()).unwrap();
        crate::manifest::digest_without_wraps(&manifest)
    };
    assert_eq!(without_wraps(&kept), without_wraps(&now));
}

#[test]
fn the_vectors_open_and_their_signatures_verify() {
    let kept = read_vector();
    let signed = |body: &str, sig: &str, object: ObjectType| v1::Signed {
        r#type: object as i32,
        body: unhex(&kept[body]),
        index: 0,
        size: 1,
        path: Vec::new(),
        sig: unhex(&kept[sig]),
    };
    let manifest = signed("manifest", "manifest_signature", ObjectType::Manifest);
    let key: crate::VerifyingKey = kept["signer"].as_str().unwrap().parse().unwrap();
    let manifest = UntrustedManifest::parse(manifest)
        .unwrap()
        .verify(&key)
        .unwrap();
    assert_eq!(manifest.id().to_string(), kept["package_id"]);
    let layout = PackLayout::tight(&manifest);
    let parts = ["wraps", "chunk_table", "index", "chunks"].map(|part| unhex(&kept[part]));
    let mut pack = layout.header().to_vec();
    pack.extend(manifest.signed().encode_to_vec());
    pack.extend(parts.concat());
    let seed: [u8; 32] = unhex(&kept["recipient_seed"]).try_into().unwrap();
    let secret = RecipientSecret::from_seed(&crate::fixture::party("grand-dijon"), &seed);
    let mut sink = Memory::default();
    crate::open(&manifest, &secret, &mut Cursor::new(pack), &mut sink).unwrap();
    assert_eq!(sink.0, PLAIN);
    let said = signed("statement", "statement_signature", ObjectType::Statement);
    let key: crate::VerifyingKey = kept["statement_signer"].as_str().unwrap().parse().unwrap();
    let said = UntrustedStatement::parse(said)
        .unwrap()
        .verify(&key)
        .unwrap();
    assert_eq!(said.package(), manifest.id());
}
