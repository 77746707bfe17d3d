//! Writes the seeds that are made of the product's own vectors and fixtures.
//!
//! ```text
//! cargo run -p passerelle-targets --example seeds -- tests/fuzz/seeds
//! ```
//!
//! Most of `session_accepting` and `session_offering` are not among them: libFuzzer has found
//! them, and they are the fewest that reach every line that it has reached
//! (`-set_cover_merge=1 -use_counters=0`).

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use passerelle_proto::envelope::{sign_batch, sign_one};
use passerelle_proto::evidence::{Covers, assemble, excerpt};
use passerelle_proto::fixture::{
    NOW, convention_text, keys, party, plan, seal_files, sheet, sign_convention, world,
};
use passerelle_proto::merkle::leaf_hash;
use passerelle_proto::session::{Answer, Event, PROTOCOL_MAX, Session};
use passerelle_proto::tile::{encode_tile, push_entry, tile_path};
use passerelle_proto::v1::statement::What;
use passerelle_proto::v1::{self, Lane, ObjectType, Section};
use passerelle_proto::{
    Checkpoint, Digest, Directory, Hop, LogSigner, PackLayout, PackageId, Sealed, SheetLog,
    StatementChain, StatementDraft, TileReader, UntrustedManifest, add_checkpoint_body,
    with_cosignatures,
};
use passerelle_targets::{Chunk, Entry, Inside};
use prost::Message;

const CHECKPOINT_VECTORS: &str = include_str!("../../../proto/vectors/checkpoint.json");
const CONVENTION: &str = include_str!("../../../deploy/convention-2016-2017.toml");

/// A zstd frame of 300 times `1`.
const ZSTD: [u8; 19] = [
    0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x2c, 0x00, 0x4d, 0x00, 0x00, 0x10, 0x31, 0x31, 0x01, 0x00, 0x27,
    0x2a, 0xc0, 0x02,
];

struct Seeds(PathBuf);

impl Seeds {
    fn put(&self, target: &str, name: &str, bytes: impl AsRef<[u8]>) {
        let folder = self.0.join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    }
}

fn main() {
    let folder = std::env::args().nth(1).expect("the folder of the seeds");
    let seeds = Seeds(folder.into());
    let (sealed, pack) = package();
    signed(&seeds, &sealed);
    parts(&seeds, &sealed, &pack);
    texts(&seeds);
    logs(&seeds);
    seeds.put("evidence", "accepted", evidence(&sealed));
    time_stamps(&seeds);
    for lane in [Lane::Bulk, Lane::Control] {
        seeds.put(
            "session_frames",
            &format!("{lane:?}"),
            transcript(lane, &sealed, &pack),
        );
    }
    noises(&seeds);
    insides(&seeds);
    sessions(&seeds);
}

fn package() -> (Sealed, Vec<u8>) {
    let plan = plan(world().directory.convention());
    let files = [
        ("table.csv", vec![b'1'; 3000]),
        ("2016/notes.txt", b"notes".to_vec()),
    ];
    seal_files(&plan, &keys("caf21").agent, &files)
}

fn signed(seeds: &Seeds, sealed: &Sealed) {
    let manifest = sealed.manifest.signed();
    seeds.put("manifest", "signed", manifest.encode_to_vec());
    seeds.put("manifest", "body", &manifest.body);
    seeds.put("envelope", "manifest", manifest.encode_to_vec());
    let gateway = keys("grand-dijon").gateway;
    let objects = (0..5)
        .map(|n| (ObjectType::Statement, vec![n; 40]))
        .collect();
    let batch = sign_batch(&gateway, objects).unwrap();
    seeds.put("envelope", "batch", batch[4].encode_to_vec());
    seeds.put(
        "envelope",
        "alone",
        sign_one(&gateway, ObjectType::Manifest, vec![1]).encode_to_vec(),
    );
    let recipient = || "grand-dijon".to_owned();
    let said = [
        (
            "delivered",
            What::Delivered(v1::Delivered {
                recipient: recipient(),
                content_commit: vec![7; 32],
            }),
        ),
        (
            "acknowledged",
            What::Acknowledged(v1::Acknowledged {
                recipient: recipient(),
                comment: "reçu".into(),
            }),
        ),
        (
            "refused",
            What::Refused(v1::Refused {
                reason: v1::Reason::Digest as i32,
                recipients: vec![recipient()],
                ..v1::Refused::default()
            }),
        ),
        (
            "accepted",
            What::Accepted(v1::Accepted {
                recipients: vec![recipient()],
                ..v1::Accepted::default()
            }),
        ),
        ("busy", What::Busy(v1::Busy::default())),
    ];
    for (name, what) in said {
        let draft = StatementDraft {
            issuer: party("grand-dijon"),
            destination: party("caf21"),
            package: sealed.manifest.id(),
            at: NOW,
            what,
        };
        let signed = draft.sign_unnumbered(&gateway);
        seeds.put("statement", name, &signed.body);
        if name == "delivered" {
            seeds.put("statement", "signed", signed.encode_to_vec());
        }
    }
}

fn parts(seeds: &Seeds, sealed: &Sealed, pack: &[u8]) {
    let mut reader = Cursor::new(pack);
    let sections = [
        Section::Wraps,
        Section::ChunkTable,
        Section::Index,
        Section::Chunks,
    ];
    let [wraps, table, index, chunks] =
        sections.map(|section| sealed.layout.read_section(&mut reader, section).unwrap());
    seeds.put("wraps", "two", &wraps);
    seeds.put("chunk_table", "one", &table);
    let record = [&23u32.to_be_bytes()[..], &[0xaa; 32]].concat();
    seeds.put("chunk_table", "many", record.repeat(20));
    let tight = PackLayout::tight(&sealed.manifest);
    let signed = sealed.manifest.signed().encode_to_vec();
    let parts = [
        &tight.header()[..],
        &signed,
        &wraps,
        &table,
        &index,
        &chunks,
    ];
    seeds.put("pack", "tight", parts.concat());
    let room = usize::try_from(sealed.layout.offset_of(Section::Chunks).unwrap()).unwrap();
    seeds.put("pack", "reserved", &pack[..room.min(8192)]);
    let small = [&[10, 0, 0, 0, 20, 0, 30, 0][..], &[5; 100]].concat();
    seeds.put("inline", "small", small);
}

fn texts(seeds: &Seeds) {
    let world = world();
    seeds.put("note", "convention", &world.convention_note);
    seeds.put("note", "sheet", &world.sheet_notes[2]);
    seeds.put("note", "short", "a text\n\n\u{2014} caf21 AAAAAAE=\n");
    seeds.put("convention", "fixture", convention_text());
    seeds.put("convention", "2016", CONVENTION);
    seeds.put(
        "sheet",
        "fixture",
        sheet("prestataire-obs").to_text().unwrap(),
    );
    let mut short = sheet("caf21");
    (short.keys, short.recipients) = (Vec::new(), Vec::new());
    seeds.put("sheet", "short", short.to_text().unwrap());
    let keys = keys("caf21");
    let log = LogSigner::from_seed(&party("caf21"), &[1; 64]);
    seeds.put(
        "key_text",
        "signing",
        keys.agent.verifying_key().to_string(),
    );
    seeds.put(
        "key_text",
        "signing-secret",
        keys.agent.to_secret_text().as_str(),
    );
    seeds.put("key_text", "recipient", keys.recipient.public().to_string());
    seeds.put(
        "key_text",
        "recipient-secret",
        keys.recipient.to_secret_text().as_str(),
    );
    seeds.put("key_text", "log-secret", log.to_secret_text().as_str());
    let text = "[gateway]\nname = \"caf21\"\nconnections_max = 0x10\naddresses = [\"a:1\"]\n\
                other = 1\n[keys]\nroot = \"x\"\n";
    seeds.put("configuration", "small", text);
    for (name, text) in [
        ("entry", "2016/décembre/table.csv"),
        ("party", "grand-dijon"),
        (
            "digest",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        ("prefix", " BA7816BF8F01 "),
        (
            "fingerprint",
            "ba78 16bf 8f01 cfea 4141 40de 5dae 2223 b003 61a3 9617 7a9c b410 ff61 f200 15ad",
        ),
        ("time", "2016-01-31T08:00:00.123+01:00"),
        ("date", "2016-02-29"),
        ("role", "operator"),
    ] {
        seeds.put("names", name, text);
    }
}

fn logs(seeds: &Seeds) {
    let vectors: serde_json::Value = serde_json::from_str(CHECKPOINT_VECTORS).unwrap();
    let cosigned = vectors["cosigned"].as_str().unwrap();
    seeds.put("checkpoint", "cosigned", cosigned);
    let text: String = cosigned
        .lines()
        .take(3)
        .map(|line| format!("{line}\n"))
        .collect();
    seeds.put("checkpoint", "text", text);
    seeds.put("proof", "entry", vectors["proof"].as_str().unwrap());
    let request = add_checkpoint_body(0, &[], cosigned.as_bytes());
    seeds.put("witness_request", "first", request);
    let request = add_checkpoint_body(3, &[Digest::of(b"a")], cosigned.as_bytes());
    seeds.put("witness_request", "next", request);
    let vkeys = vectors["log"]["vkeys"].as_array().unwrap().iter();
    let vkeys: Vec<&str> = vkeys.map(|vkey| vkey.as_str().unwrap()).collect();
    seeds.put("vkey", "log", vkeys.join("\n"));
    let mut bundle = vec![3, 0];
    for entry in [b"one".as_slice(), b"", b"three"] {
        push_entry(&mut bundle, entry).unwrap();
    }
    seeds.put("tiles", "bundle", bundle);
    let tile = encode_tile(&[Digest::of(b"a"), Digest::of(b"b")]);
    seeds.put("tiles", "tile", [&[2, 0], tile.as_slice()].concat());
    seeds.put("tile_path", "small", [0, 67, 64, 18, 0, 0, 0, 0, 2, 6]);
    seeds.put("tile_path", "large", [0xff; 10]);
    seeds.put("log_frames", "entries", [3, 1, 2, 3, 0, 2, 9, 9]);
    seeds.put("log_frames", "frame", frame());
}

/// Evidence from the log of a gateway that has accepted a package, which its partner has cosigned.
fn evidence(sealed: &Sealed) -> Vec<u8> {
    let log = |name: &str, seed| LogSigner::from_seed(&party(name), &[seed; 64]);
    let (caf, dijon) = (log("caf21", 100), log("grand-dijon", 101));
    let sheets = [
        ("caf21", Some(&caf)),
        ("grand-dijon", Some(&dijon)),
        ("prestataire-obs", None),
    ];
    let sheets = sheets.map(|(name, log)| {
        let mut sheet = sheet(name);
        sheet.log = log.map(|log| SheetLog {
            origin: log.verifier().name().to_owned(),
            vkeys: log.verifier().to_vkeys(),
        });
        sheet.sign(&keys(name).root).unwrap()
    });
    let convention = sign_convention(&convention_text());
    let directory = Directory::load(&world().roots, &[convention], &sheets).unwrap();
    let manifest = sealed.manifest.signed().clone();
    let package = PackageId(Digest::of(&manifest.body));
    let receipt = StatementDraft {
        issuer: party("caf21"),
        destination: party("caf21"),
        package,
        at: NOW,
        what: What::Accepted(v1::Accepted {
            log_index: 0,
            recipients: vec!["grand-dijon".into(), "prestataire-obs".into()],
        }),
    };
    let entry = v1::Entry {
        at_ms: NOW.as_ms(),
        event: Some(v1::entry::Event::Accepted(v1::AcceptedEvent {
            manifest: Some(manifest),
            receipt: Some(receipt.sign(&keys("caf21").gateway, &mut StatementChain::default())),
            previous_hop: Some(Hop::agent(party("caf21")).to_message()),
            ..v1::AcceptedEvent::default()
        })),
    };
    let entry = entry.encode_to_vec();
    let leaf = leaf_hash(&entry);
    let checkpoint = Checkpoint {
        origin: caf.verifier().name().to_owned(),
        size: 1,
        root: leaf,
    };
    let signed = checkpoint.sign(&caf, NOW).unwrap();
    let cosigned = with_cosignatures(&signed, &checkpoint.cosign(&dijon, NOW));
    let tile = |path: &str| (path == tile_path(0, 0, 1)).then(|| encode_tile(&[leaf]));
    let tiles = TileReader::new(&tile, 1);
    let mut covers = Covers::default();
    covers.cosigned.push(cosigned);
    let excerpt = excerpt(&tiles, &party("caf21"), &signed, &covers, vec![(0, entry)]);
    assemble(package, &directory, vec![excerpt.unwrap()]).unwrap()
}

/// Answers of an authority, and the token of one.
fn time_stamps(seeds: &Seeds) {
    let answers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto/vectors/time_stamp");
    for name in ["rsa", "rsa_sha512", "ecdsa", "sha1"] {
        let answer = fs::read(answers.join(name).with_extension("tsr")).unwrap();
        // The token stands behind the nine bytes that grant it.
        seeds.put("time_stamp", &format!("token-{name}"), &answer[9..]);
        seeds.put("time_stamp", name, answer);
    }
}

/// A frame of the log with one entry, written down once more.
fn frame() -> Vec<u8> {
    let rest = [&5u32.to_le_bytes()[..], b"entry"].concat();
    let mut head = (rest.len() as u32).to_le_bytes().to_vec();
    head.extend_from_slice(&7u64.to_le_bytes());
    head.extend_from_slice(&[0xcc; 32]);
    let digest = Digest::of_parts(&[&head, &rest]);
    [b"PSSL", head.as_slice(), &digest.0, &rest].concat()
}

/// Inputs of the target that reads lengths out of whatever bytes there are.
fn noises(seeds: &Seeds) {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut noise = |length: usize| {
        let bytes = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        });
        bytes.take(length).collect::<Vec<u8>>()
    };
    for length in [64, 300, 1500, 4000] {
        seeds.put("inline", &format!("noise-{length}"), noise(length));
    }
}

/// Everything that one side sends: a package, a statement, a note, the end.
fn transcript(lane: Lane, sealed: &Sealed, pack: &[u8]) -> Vec<u8> {
    let hello = v1::Hello {
        protocol_min: 1,
        protocol_max: PROTOCOL_MAX,
        lane: lane as i32,
        ..v1::Hello::default()
    };
    let now = Duration::from_secs(1);
    let mut near = Session::new(hello.clone(), now);
    let mut far = Session::new(hello, now);
    let mut sent = vec![if lane == Lane::Bulk { 0 } else { 1 }];
    let mut step = 0;
    while step < 3 || near.has_frame() || far.has_frame() {
        while let Some(frame) = near.poll_frame(now) {
            sent.extend(frame.encode_length_delimited_to_vec());
            far.on_frame(frame, now).unwrap();
        }
        take(&mut far, sealed);
        while let Some(frame) = far.poll_frame(now) {
            near.on_frame(frame, now).unwrap();
        }
        give(&mut near, sealed, pack);
        match step {
            0 => drop(near.offer(&sealed.manifest, Bytes::new())),
            1 => near.send_statement(sealed.manifest.signed().clone()),
            2 => near.send_note(b"a note\n".to_vec()),
            _ => near.bye("done"),
        }
        step += 1;
        if step > 20 {
            break;
        }
    }
    sent
}

fn take(far: &mut Session, sealed: &Sealed) {
    while let Some(event) = far.poll_event() {
        match event {
            Event::Offered { slot, manifest, .. } => {
                let manifest = UntrustedManifest::parse(manifest)
                    .unwrap()
                    .verified_before();
                assert_eq!(manifest.id(), sealed.manifest.id());
                far.accept(slot, &manifest, passerelle_proto::session::Held::default());
            }
            Event::Sync { slot, received } => far.on_synced(slot, received),
            Event::Complete { slot } => far.answer(slot, Answer::Have),
            _ => {}
        }
    }
}

fn give(near: &mut Session, sealed: &Sealed, pack: &[u8]) {
    while let Some(event) = near.poll_event() {
        if let Event::Read {
            slot,
            section,
            offset,
            length,
        } = event
        {
            let start = sealed.layout.offset_of(section).unwrap() + offset;
            let bytes = &pack[start as usize..(start + length) as usize];
            near.on_read(slot, section, offset, Bytes::copy_from_slice(bytes));
        }
    }
}

/// Packages of a hostile sender, and honest ones.
fn insides(seeds: &Seeds) {
    let entry = |name: &str, length| Entry {
        name: name.into(),
        length,
        forged: false,
    };
    let raw = |plain: &[u8]| Chunk {
        plain: plain.to_vec(),
        ..Chunk::default()
    };
    let plain = [b'1'; 300];
    let zstd = Chunk {
        codec: 1,
        plain: plain.to_vec(),
        payload: Some(ZSTD.to_vec()),
        ..Chunk::default()
    };
    let bomb = Chunk {
        declared: Some(20),
        ..zstd.clone()
    };
    let inside = |entries: &[Entry], chunks: &[Chunk]| Inside {
        entries: entries.to_vec(),
        chunks: chunks.to_vec(),
        ..Inside::default()
    };
    let files = [entry("a.csv", 5), entry("empty", 0), entry("b/c.txt", 6)];
    let packages = [
        ("raw", inside(&files, &[raw(b"hello w"), raw(b"orld")])),
        ("zstd", inside(&[entry("table.csv", 300)], &[zstd])),
        ("bomb", inside(&[entry("table.csv", 20)], &[bomb])),
        ("dots", inside(&[entry("../a", 5)], &[raw(b"hello")])),
        ("longer", inside(&[entry("a", 9)], &[raw(b"hello")])),
        ("shorter", inside(&[entry("a", 2)], &[raw(b"hello")])),
        ("nothing", inside(&[], &[])),
    ];
    for (name, package) in packages {
        seeds.put("opening", name, package.encode_to_vec());
    }
    let way = [entry("a", 2), entry("a.txt", 2), entry("a/b", 1)];
    seeds.put(
        "opening",
        "in-the-way",
        inside(&way, &[raw(b"hello")]).encode_to_vec(),
    );
}

/// Steps of the session targets, by their numbers there.
const OFFER: u8 = 1;
const NEXT_DATA: u8 = 2;
const DATA: u8 = 3;
const NEED_ALL: u8 = 5;
const PEER_SYNCED_ALL: u8 = 7;
const PEER_ANSWER: u8 = 8;
const READ: u8 = 17;
const ACCEPT: u8 = 19;
const SYNC_DONE: u8 = 21;
const ANSWER: u8 = 22;
const POLL: u8 = 25;
/// How many kinds of steps there are.
const STEPS: u64 = 28;

/// A step as `arbitrary` reads it: its number out of the whole range of `u32`, then its fields.
fn step(number: u8, fields: &[u8]) -> Vec<u8> {
    let chosen = (u64::from(number) << 32).div_ceil(STEPS) as u32;
    [&chosen.to_le_bytes()[..], fields].concat()
}

/// Whole transfers of a package that is longer than the window, in either direction.
fn sessions(seeds: &Seeds) {
    // The lowest bit says which lane, the others which package is offered at once.
    let bulk = |package: u8| vec![package << 1];
    let sent = [step(READ, &[0]), step(POLL, &[9])].concat();
    let offering = [
        bulk(2),
        step(NEED_ALL, &[0, 0]),
        sent.repeat(4),
        step(PEER_SYNCED_ALL, &[0]),
        step(NEED_ALL, &[0, 1]),
        sent.repeat(50),
        step(PEER_SYNCED_ALL, &[0]),
        sent.repeat(30),
        step(PEER_ANSWER, &[0, 1]),
    ];
    seeds.put(
        "session_offering",
        "longer-than-the-window",
        offering.concat(),
    );
    let next = step(NEXT_DATA, &[&[0], &1_048_576u32.to_le_bytes()[..]].concat());
    let taken = [
        bulk(0),
        step(OFFER, &[0, 2, 0, 0, 0, 0]),
        step(ACCEPT, &[0, 0]),
        step(POLL, &[9]),
    ]
    .concat();
    let synced = [next.clone(), step(SYNC_DONE, &[]), step(POLL, &[9])].concat();
    let whole = [taken.clone(), synced.repeat(14), step(ANSWER, &[0, 1])].concat();
    seeds.put("session_accepting", "longer-than-the-window", whole);
    let data = |section: u8, offset: u32, length: u32| {
        let fields = [
            &[0, section],
            &offset.to_le_bytes()[..],
            &length.to_le_bytes(),
        ];
        step(DATA, &fields.concat())
    };
    // The head of the small package, then zeros instead of its chunks.
    let altered = [
        bulk(0),
        step(OFFER, &[0, 0, 0, 0, 0, 0]),
        step(ACCEPT, &[0, 0]),
        next.repeat(3),
        data(4, 0, 322),
    ];
    seeds.put("session_accepting", "altered", altered.concat());
    let unsynced = [taken, next.repeat(14)].concat();
    seeds.put("session_accepting", "beyond-the-window", unsynced);
}
