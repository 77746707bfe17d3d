//! Sealing: from files to a pack, in one pass, in bounded memory.
//!
//! Chunks are written first, behind room that is reserved for the head; the head follows when all
//! digests are known. Nothing is held that grows with the package but 68 bytes per chunk.

#[cfg(any(test, feature = "fixture"))]
pub(crate) mod forgery;
use std::io::{self, Read, Seek, SeekFrom, Write};

use prost::Message;
use zeroize::Zeroizing;

use crate::cipher::{self, Secret};
use crate::manifest::{INDEX_LEN_MAX, NONCE_LEN, RECIPIENTS_MAX};
use crate::v1::{self, Kind, ObjectType, Section};
use crate::{
    ChunkRecord, ChunkTable, Digest, EntryName, FlowId, Hasher, ManifestError, PackLayout,
    PackageId, RecipientKey, SigningKey, Timestamp, UntrustedManifest, VerifiedManifest, WrapError,
    envelope,
};

/// Most files in one package.
pub const ENTRIES_MAX: usize = 4096;
/// Most bytes of plaintext in one package: 64 GiB.
pub const PLAIN_LEN_MAX: u64 = 64 << 30;

const CHUNK_LEN_MIN: u64 = 256 * 1024;
const CHUNK_LEN_MAX: u64 = 4 * 1024 * 1024;
/// Chunks that the plaintext is cut into at most, as long as they stay below their limit.
const CHUNKS_WANTED: u64 = 16_384;
/// Plaintext that is read before it is handed to the workers, in bytes: what bounds memory.
const BATCH_LEN: u64 = 8 * 1024 * 1024;
/// Threads that compress and encrypt.
const WORKERS: usize = 2;
/// The first chunk begins at a multiple of this, so that the pack's file system blocks align.
const CHUNKS_ALIGN: u64 = 4096;

/// One file that goes into a package.
#[derive(Debug, Clone)]
pub struct SourceEntry {
    /// Its name inside the package.
    pub name: EntryName,
    /// Its length in bytes.
    pub length: u64,
    /// Its media type, or empty.
    pub media_type: String,
}

/// What the sender decides about a package.
#[derive(Debug, Clone)]
pub struct SealPlan {
    /// The flow.
    pub flow: FlowId,
    /// Data, or a test.
    pub kind: Kind,
    /// Keys of the recipients, one per party.
    pub recipients: Vec<RecipientKey>,
    /// Digest of the convention.
    pub convention: Digest,
    /// When it is made.
    pub created: Timestamp,
    /// Last instant at which it may be opened.
    pub not_after: Timestamp,
    /// Packages it is made from.
    pub parents: Vec<PackageId>,
    /// Package it replaces.
    pub supersedes: Option<PackageId>,
    /// Title, for people; sealed.
    pub title: String,
    /// Period that the data describes; sealed.
    pub period: String,
}

/// What came out: the signed manifest, and where its parts lie in the pack.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// The manifest.
    pub manifest: VerifiedManifest,
    /// Where its parts lie.
    pub layout: PackLayout,
    /// What its recipients will read about it: names, lengths and digests of its files.
    pub description: v1::Description,
}

/// Why a package was not made.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Too many files, or none.
    #[error("a package holds 1 to {ENTRIES_MAX} files, not {0}")]
    Entries(usize),
    /// Two files with one name.
    #[error("two files are called {0:?}")]
    NameTwice(String),
    /// More than 64 GiB.
    #[error("the files have {bytes} bytes together; at most {PLAIN_LEN_MAX} fit")]
    TooLarge {
        /// Sum of all lengths.
        bytes: u64,
    },
    /// Too many recipients, none, or one twice.
    #[error("a package has 1 to {RECIPIENTS_MAX} different recipients")]
    Recipients,
    /// A source changed while it was read.
    #[error("{name:?} changed while it was being sealed: it had {expected} bytes; drop it again")]
    Changed {
        /// Which file.
        name: String,
        /// Bytes that it had before.
        expected: u64,
    },
    /// The description of the files is longer than an index may be.
    #[error("the names of the files are too long together: at most 8 MiB")]
    IndexTooLong,
    /// A recipient key is unusable.
    #[error(transparent)]
    Wrap(#[from] WrapError),
    /// The plan contradicts itself.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Reading a source, or writing the pack.
    #[error("{what}: {source}")]
    Io {
        /// Which file.
        what: String,
        /// What the system says.
        source: io::Error,
    },
}

/// Random values of one package.
pub(crate) struct Randomness {
    pub(crate) key: Zeroizing<[u8; 32]>,
    pub(crate) salt: [u8; 32],
    pub(crate) nonce: [u8; NONCE_LEN],
}

impl Randomness {
    fn fresh() -> Self {
        Self {
            key: Zeroizing::new(crate::key::random()),
            salt: crate::key::random(),
            nonce: crate::key::random(),
        }
    }
}

/// Length of the chunks that `total` bytes of plaintext are cut into.
pub fn chunk_len(total: u64) -> u64 {
    let wanted = total.div_ceil(CHUNKS_WANTED).max(1).next_power_of_two();
    wanted.clamp(CHUNK_LEN_MIN, CHUNK_LEN_MAX)
}

/// Seals `entries` into `pack`, which is empty and readable and writable at any place.
///
/// `open` is called once per entry, in order; `progress` is told the bytes of plaintext sealed so
/// far. Nothing is synced here: that is the caller's commit point.
///
/// # Errors
/// [`SealError`]; what was written to `pack` is worthless then.
pub fn seal<R: Read>(
    plan: &SealPlan,
    signer: &SigningKey,
    entries: &[SourceEntry],
    open: impl FnMut(usize) -> io::Result<R>,
    pack: &mut (impl Write + Seek),
    progress: impl FnMut(u64),
) -> Result<Sealed, SealError> {
    let randomness = Randomness::fresh();
    Sealing::new(plan, signer, entries, &randomness)?.run(open, pack, progress)
}

pub(crate) struct Sealing<'a> {
    plan: &'a SealPlan,
    signer: &'a SigningKey,
    entries: &'a [SourceEntry],
    randomness: &'a Randomness,
    chunk_secret: Secret,
    chunk_len: u64,
    recipients: Vec<&'a RecipientKey>,
    records: Vec<ChunkRecord>,
    digests: Vec<u8>,
}

impl<'a> Sealing<'a> {
    pub(crate) fn new(
        plan: &'a SealPlan,
        signer: &'a SigningKey,
        entries: &'a [SourceEntry],
        randomness: &'a Randomness,
    ) -> Result<Self, SealError> {
        if entries.is_empty() || entries.len() > ENTRIES_MAX {
            return Err(SealError::Entries(entries.len()));
        }
        let names: Vec<&EntryName> = entries.iter().map(|entry| &entry.name).collect();
        if let Some(entry) = EntryName::in_the_way(&names) {
            return Err(SealError::NameTwice(names[entry].to_string()));
        }
        let total = entries
            .iter()
            .map(|entry| entry.length)
            .fold(0, u64::saturating_add);
        if total > PLAIN_LEN_MAX {
            return Err(SealError::TooLarge { bytes: total });
        }
        let mut recipients: Vec<&RecipientKey> = plan.recipients.iter().collect();
        recipients.sort_by(|a, b| a.party().cmp(b.party()));
        let twice = recipients
            .windows(2)
            .any(|pair| pair[0].party() == pair[1].party());
        if twice || recipients.is_empty() || recipients.len() > RECIPIENTS_MAX {
            return Err(SealError::Recipients);
        }
        Ok(Self {
            plan,
            signer,
            entries,
            randomness,
            chunk_secret: cipher::chunk_secret(&randomness.key),
            chunk_len: chunk_len(total),
            recipients,
            records: Vec::new(),
            digests: Vec::new(),
        })
    }

    pub(crate) fn run<R: Read>(
        mut self,
        open: impl FnMut(usize) -> io::Result<R>,
        pack: &mut (impl Write + Seek),
        mut progress: impl FnMut(u64),
    ) -> Result<Sealed, SealError> {
        let room = self.head_room();
        pack.seek(SeekFrom::Start(room)).map_err(writing)?;
        let mut plain = Plaintext::new(self.entries, open);
        let mut done = 0;
        loop {
            let chunks = plain.read_chunks(self.chunk_len)?;
            if chunks.is_empty() {
                break;
            }
            done += chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
            self.write_chunks(&chunks, pack)?;
            progress(done);
        }
        let description = self.description(&plain.digests);
        let encoded = description.encode_to_vec();
        let (manifest, layout) = self.write_head(&encoded, &encoded, room, pack)?;
        Ok(Sealed {
            manifest,
            layout,
            description,
        })
    }

    /// Bytes kept free in front of the chunks: more than any head of these entries needs.
    fn head_room(&self) -> u64 {
        let total: u64 = self.entries.iter().map(|entry| entry.length).sum();
        let chunks = total.div_ceil(self.chunk_len);
        let names: usize = self
            .entries
            .iter()
            .map(|entry| entry.name.as_str().len() + entry.media_type.len() + 128)
            .sum();
        let texts = (names + self.plan.title.len() + self.plan.period.len()) as u64;
        let manifest = 16 * 1024;
        let wraps = self.recipients.len() as u64 * 1280;
        (manifest + wraps + texts + 4096 + chunks * 68).next_multiple_of(CHUNKS_ALIGN)
    }

    fn write_chunks(&mut self, chunks: &[Vec<u8>], pack: &mut impl Write) -> Result<(), SealError> {
        let secret = &self.chunk_secret;
        let share = chunks.len().div_ceil(WORKERS);
        let sealed = std::thread::scope(|scope| {
            let workers: Vec<_> = chunks
                .chunks(share)
                .map(|share| {
                    let seal = |plain: &Vec<u8>| cipher::seal_chunk(secret, plain);
                    scope.spawn(move || share.iter().map(seal).collect::<Vec<_>>())
                })
                .collect();
            let joined = workers.into_iter().map(|worker| worker.join());
            joined.collect::<Result<Vec<_>, _>>()
        });
        let sealed = sealed.map_err(|_| writing(io::Error::other("a worker thread failed")))?;
        for chunk in sealed.into_iter().flatten() {
            pack.write_all(&chunk.ciphertext).map_err(writing)?;
            self.digests.extend_from_slice(&chunk.digest.0);
            self.records.push(ChunkRecord {
                length: chunk.ciphertext.len() as u32,
                sha256: Digest::of(&chunk.ciphertext),
            });
        }
        Ok(())
    }

    fn description(&self, digests: &[Digest]) -> v1::Description {
        let entries = self.entries.iter().zip(digests);
        v1::Description {
            entries: entries
                .map(|(entry, digest)| v1::EntryDescription {
                    name: entry.name.to_string(),
                    length: entry.length,
                    sha256: digest.0.to_vec(),
                    media_type: entry.media_type.clone(),
                })
                .collect(),
            title: self.plan.title.clone(),
            period: self.plan.period.clone(),
        }
    }

    /// `committed` is what the manifest commits to: the description, unless a test forges it.
    fn write_head(
        &self,
        description: &[u8],
        committed: &[u8],
        room: u64,
        pack: &mut (impl Write + Seek),
    ) -> Result<(VerifiedManifest, PackLayout), SealError> {
        let salt = self.randomness.salt;
        let content_commit = cipher::content_commit(&salt, committed);
        let index = v1::Index {
            description: description.to_vec(),
            salt: salt.to_vec(),
            chunk_digests: self.digests.clone(),
        };
        let key = cipher::index_key(&self.randomness.key);
        let index = cipher::seal_once(&key, index.encode_to_vec());
        if index.len() as u64 > INDEX_LEN_MAX {
            return Err(SealError::IndexTooLong);
        }
        let table = ChunkTable::new(self.records.clone()).map_err(|_| SealError::TooLarge {
            bytes: PLAIN_LEN_MAX,
        })?;
        let mut body = self.manifest(&content_commit, &table, &index);
        let wraps = self.wraps(&body)?;
        body.wraps = Some(part(&wraps));
        let key = self.signer;
        let signed = envelope::sign_one(key, ObjectType::Manifest, body.encode_to_vec());
        let manifest = UntrustedManifest::parse(signed)?
            .verify(key.verifying_key())
            .map_err(ManifestError::Envelope)?;
        let layout = PackLayout::reserved(&manifest, room).ok_or(SealError::IndexTooLong)?;
        let parts = [
            (0, layout.header().to_vec()),
            (layout.manifest_offset(), manifest.signed().encode_to_vec()),
            (layout.offset_of(Section::Wraps).unwrap_or(0), wraps),
            (
                layout.offset_of(Section::ChunkTable).unwrap_or(0),
                table.encode(),
            ),
            (layout.offset_of(Section::Index).unwrap_or(0), index),
        ];
        for (offset, bytes) in parts {
            pack.seek(SeekFrom::Start(offset)).map_err(writing)?;
            pack.write_all(&bytes).map_err(writing)?;
        }
        pack.flush().map_err(writing)?;
        Ok((manifest, layout))
    }

    fn manifest(&self, content_commit: &Digest, table: &ChunkTable, index: &[u8]) -> v1::Manifest {
        let plan = self.plan;
        let mut parents: Vec<_> = plan
            .parents
            .iter()
            .map(|id| id.as_bytes().to_vec())
            .collect();
        parents.sort();
        parents.dedup();
        v1::Manifest {
            signer: self.signer.id().0.to_vec(),
            nonce: self.randomness.nonce.to_vec(),
            flow: plan.flow.to_string(),
            kind: plan.kind as i32,
            sender: self.signer.party().to_string(),
            recipients: self
                .recipients
                .iter()
                .map(|key| key.party().to_string())
                .collect(),
            convention: plan.convention.0.to_vec(),
            created_ms: plan.created.as_ms(),
            not_after_ms: plan.not_after.as_ms(),
            no_foreign_data: parents.is_empty(),
            parents,
            supersedes: plan
                .supersedes
                .map_or(Vec::new(), |id| id.as_bytes().to_vec()),
            request: Vec::new(),
            key_commit: cipher::key_commit(&self.randomness.key).0.to_vec(),
            content_commit: content_commit.0.to_vec(),
            wraps: None,
            chunk_table: Some(part(&table.encode())),
            index: Some(part(index)),
            payload_length: table.payload_length(),
        }
    }

    fn wraps(&self, body_without_wraps: &v1::Manifest) -> Result<Vec<u8>, SealError> {
        let info = wrap_info(body_without_wraps);
        let key = &self.randomness.key;
        let wraps = self
            .recipients
            .iter()
            .map(|recipient| recipient.wrap(&info, key));
        let wraps = v1::Wraps {
            wraps: wraps.collect::<Result<_, _>>()?,
        };
        Ok(wraps.encode_to_vec())
    }
}

/// What a wrap is bound to: the label and the manifest without its wraps.
pub(crate) fn wrap_info(body: &v1::Manifest) -> Vec<u8> {
    let digest = crate::manifest::digest_without_wraps(body);
    [b"passerelle/v1 wrap".as_slice(), &digest.0].concat()
}

fn part(bytes: &[u8]) -> v1::Part {
    v1::Part {
        length: bytes.len() as u64,
        sha256: Digest::of(bytes).0.to_vec(),
    }
}

fn writing(source: io::Error) -> SealError {
    SealError::Io {
        what: "writing the package".to_owned(),
        source,
    }
}

/// All entries one after the other, digested on the way.
struct Plaintext<'a, R, F> {
    entries: &'a [SourceEntry],
    open: F,
    current: Option<(R, Hasher, u64)>,
    next: usize,
    digests: Vec<Digest>,
}

impl<'a, R: Read, F: FnMut(usize) -> io::Result<R>> Plaintext<'a, R, F> {
    fn new(entries: &'a [SourceEntry], open: F) -> Self {
        Self {
            entries,
            open,
            current: None,
            next: 0,
            digests: Vec::new(),
        }
    }

    /// Up to [`BATCH_LEN`] bytes as chunks; only the last chunk of all is shorter.
    fn read_chunks(&mut self, chunk_len: u64) -> Result<Vec<Vec<u8>>, SealError> {
        let wanted = (BATCH_LEN / chunk_len).max(1);
        let mut chunks = Vec::new();
        for _ in 0..wanted {
            let mut chunk = vec![0; chunk_len as usize];
            let length = self.fill(&mut chunk)?;
            chunk.truncate(length);
            let last = length < chunk_len as usize;
            if length > 0 {
                chunks.push(chunk);
            }
            if last {
                break;
            }
        }
        Ok(chunks)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, SealError> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.current.is_none() && !self.begin_next()? {
                break;
            }
            let Some((reader, hasher, left)) = &mut self.current else {
                break;
            };
            let entry = &self.entries[self.next - 1];
            let room = (buffer.len() - filled).min(usize::try_from(*left).unwrap_or(usize::MAX));
            let read = reader
                .read(&mut buffer[filled..filled + room])
                .map_err(|source| reading(entry, source))?;
            if read == 0 && *left > 0 {
                return Err(changed(entry));
            }
            hasher.update(&buffer[filled..filled + read]);
            filled += read;
            *left -= read as u64;
            if *left == 0 {
                self.finish_current()?;
            }
        }
        Ok(filled)
    }

    fn begin_next(&mut self) -> Result<bool, SealError> {
        let Some(entry) = self.entries.get(self.next) else {
            return Ok(false);
        };
        let reader = (self.open)(self.next).map_err(|source| reading(entry, source))?;
        self.next += 1;
        self.current = Some((reader, Hasher::new(), entry.length));
        if entry.length == 0 {
            self.finish_current()?;
            return self.begin_next();
        }
        Ok(true)
    }

    /// The declared bytes are read: nothing may follow.
    fn finish_current(&mut self) -> Result<(), SealError> {
        let Some((mut reader, hasher, _)) = self.current.take() else {
            return Ok(());
        };
        let entry = &self.entries[self.next - 1];
        let more = reader
            .read(&mut [0; 1])
            .map_err(|source| reading(entry, source))?;
        if more > 0 {
            return Err(changed(entry));
        }
        self.digests.push(hasher.finish());
        Ok(())
    }
}

fn reading(entry: &SourceEntry, source: io::Error) -> SealError {
    SealError::Io {
        what: format!("reading {}", entry.name),
        source,
    }
}

fn changed(entry: &SourceEntry) -> SealError {
    SealError::Changed {
        name: entry.name.to_string(),
        expected: entry.length,
    }
}

#[cfg(test)]
mod tests;
