//! Opening: from a pack to files, verifying everything before it is believed.
//!
//! Order: the caller has verified the envelope and has a permit; then key commitment, index, every
//! chunk, content commitment. The files come out into a place of the caller's choice, who renames
//! it only when all of it is whole.

use std::io::{self, Read, Seek, SeekFrom};

use crate::cipher::{self, ChunkOpenError, Secret};
use crate::envelope::decode_exact;
use crate::seal::{ENTRIES_MAX, PLAIN_LEN_MAX, wrap_info};
use crate::v1::{self, Reason, Section};
use crate::{
    ChunkError, ChunkTable, Digest, EntryName, EntryNameError, Hasher, KeyId, PackError,
    PackLayout, RecipientSecret, VerifiedManifest, WrapError,
};

/// Threads that decrypt and decompress.
const WORKERS: usize = 2;
/// Ciphertext that is read before it is handed to the workers, in bytes: what bounds memory.
const BATCH_LEN: usize = 8 * 1024 * 1024;

/// Where the files of a package come out.
pub trait EntrySink {
    /// Begins a file; the one before is complete.
    ///
    /// # Errors
    /// What the system says.
    fn begin(&mut self, name: &EntryName, length: u64) -> io::Result<()>;

    /// Appends to the file begun last.
    ///
    /// # Errors
    /// What the system says.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// All files are complete and verified; they are on stable storage when this returns.
    ///
    /// # Errors
    /// What the system says.
    fn finish(&mut self) -> io::Result<()>;
}

/// What was in the package.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Names, lengths and digests of the files, title and period.
    pub description: v1::Description,
    /// The content commitment as recomputed: equal to the manifest's.
    pub content_commit: Digest,
}

/// Why a package does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// None of our keys is among the wraps.
    #[error(
        "the package is not sealed for our recipient key {0}: has the sender our newest sheet?"
    )]
    NoWrap(KeyId),
    /// Our wrap does not open.
    #[error(transparent)]
    Wrap(#[from] WrapError),
    /// A part of the head is not what was signed.
    #[error("the {0} differs from its digest in the manifest")]
    Head(&'static str),
    /// The key is not the one that the sender has committed to.
    #[error("the package key differs from the manifest's commitment: the sender sealed it wrongly")]
    KeyCommitment,
    /// The index does not open, or is malformed.
    #[error("the index {0}")]
    Index(&'static str),
    /// The description is not the one that the sender has committed to.
    #[error("the content differs from the manifest's commitment")]
    ContentCommitment,
    /// A name that must not reach a file system.
    #[error("entry {entry}: its name is refused: {reason}")]
    Name {
        /// Number of the entry, from 0.
        entry: usize,
        /// Why.
        reason: EntryNameError,
    },
    /// Two entries with one name, or one inside the other.
    #[error("entry {entry}: its name is used twice, or lies inside of another file")]
    NameTwice {
        /// Number of the entry, from 0.
        entry: usize,
    },
    /// The table or a chunk as ciphertext.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// A chunk inside.
    #[error("chunk {chunk}: {reason}")]
    ChunkInside {
        /// Number of the chunk, from 0.
        chunk: usize,
        /// Why.
        reason: ChunkOpenError,
    },
    /// The chunks hold more or less than the entries declare.
    #[error("the chunks hold {found} bytes, the entries declare {declared}")]
    Lengths {
        /// Bytes found.
        found: u64,
        /// Bytes declared.
        declared: u64,
    },
    /// A file with another content.
    #[error("entry {entry} differs from its digest in the index")]
    EntryDigest {
        /// Number of the entry, from 0.
        entry: usize,
    },
    /// Reading the pack or writing the files; the package itself may be fine.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl OpenError {
    /// The reason as a signed refusal gives it; `None`: nothing is said about the package, and
    /// opening is tried again.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::NoWrap(_) | Self::Wrap(_) | Self::KeyCommitment => Some(Reason::Key),
            Self::Head(_) | Self::Chunk(_) => Some(Reason::Digest),
            Self::Name { .. } | Self::NameTwice { .. } => Some(Reason::EntryName),
            Self::Index(_)
            | Self::ContentCommitment
            | Self::ChunkInside { .. }
            | Self::Lengths { .. }
            | Self::EntryDigest { .. } => Some(Reason::Content),
            Self::Io { .. } => None,
        }
    }
}

/// Opens a pack into `sink`.
///
/// # Errors
/// [`OpenError`]; what came out of the sink is worthless then.
pub fn open(
    manifest: &VerifiedManifest,
    secret: &RecipientSecret,
    pack: &mut (impl Read + Seek),
    sink: &mut impl EntrySink,
) -> Result<Opened, OpenError> {
    let (layout, signed) = read_layout(pack)?;
    if &signed != manifest.signed() {
        return Err(OpenError::Head("manifest in the file"));
    }
    let key = package_key(manifest, secret, &layout, pack)?;
    let index = head_part(
        &layout,
        pack,
        Section::Index,
        "index",
        manifest.index().sha256,
    )?;
    let (index, description) = open_index(manifest, &key, index)?;
    let names = check_entries(&description)?;
    let part = manifest.chunk_table().sha256;
    let table = head_part(&layout, pack, Section::ChunkTable, "chunk table", part)?;
    let table = ChunkTable::parse(&table, manifest.payload_length())?;
    if index.chunk_digests.len() != table.len() * 32 {
        return Err(OpenError::Index(
            "names another number of chunks than the table",
        ));
    }
    let start = layout.offset_of(Section::Chunks).unwrap_or(0);
    pack.seek(SeekFrom::Start(start)).map_err(reading_failed)?;
    let secret = cipher::chunk_secret(&key);
    let mut files = Files::new(&description, &names, sink)?;
    let mut next = 0;
    while next < table.len() {
        let batch = read_batch(pack, &table, next)?;
        let count = batch.len();
        for plain in open_batch(&secret, &index.chunk_digests, next, batch)? {
            files.write(&plain)?;
        }
        next += count;
    }
    files.finish()?;
    Ok(Opened {
        content_commit: manifest.content_commit(),
        description,
    })
}

/// The keys that a pack is sealed for: whoever holds several opens it with one of these.
///
/// # Errors
/// As [`open`], as far as the wraps.
pub fn sealed_for(
    manifest: &VerifiedManifest,
    pack: &mut (impl Read + Seek),
) -> Result<Vec<KeyId>, OpenError> {
    let (layout, _) = read_layout(pack)?;
    let wraps = wraps(manifest, &layout, pack)?.wraps.into_iter();
    Ok(wraps
        .filter_map(|wrap| KeyId::from_slice(&wrap.key).ok())
        .collect())
}

/// Reads the description alone: what a recipient is shown before the files are opened.
///
/// # Errors
/// As [`open`], as far as the index.
pub fn open_description(
    manifest: &VerifiedManifest,
    secret: &RecipientSecret,
    pack: &mut (impl Read + Seek),
) -> Result<v1::Description, OpenError> {
    let (layout, _) = read_layout(pack)?;
    let key = package_key(manifest, secret, &layout, pack)?;
    let index = head_part(
        &layout,
        pack,
        Section::Index,
        "index",
        manifest.index().sha256,
    )?;
    let (_, description) = open_index(manifest, &key, index)?;
    Ok(description)
}

fn wraps(
    manifest: &VerifiedManifest,
    layout: &PackLayout,
    pack: &mut (impl Read + Seek),
) -> Result<v1::Wraps, OpenError> {
    let digest = manifest.wraps().sha256;
    let wraps = head_part(layout, pack, Section::Wraps, "wraps part", digest)?;
    decode_exact(&wraps).map_err(|_| OpenError::Head("encoding of the wraps"))
}

fn package_key(
    manifest: &VerifiedManifest,
    secret: &RecipientSecret,
    layout: &PackLayout,
    pack: &mut (impl Read + Seek),
) -> Result<Secret, OpenError> {
    let wraps = wraps(manifest, layout, pack)?;
    let ours = wraps.wraps.iter().find(|wrap| wrap.key == secret.id().0);
    let ours = ours.ok_or(OpenError::NoWrap(secret.id()))?;
    let key = secret.open_wrap(ours, &wrap_info(manifest.body()))?;
    match cipher::key_commit(&key) == manifest.key_commit() {
        true => Ok(key),
        false => Err(OpenError::KeyCommitment),
    }
}

fn head_part(
    layout: &PackLayout,
    pack: &mut (impl Read + Seek),
    section: Section,
    name: &'static str,
    digest: Digest,
) -> Result<Vec<u8>, OpenError> {
    let bytes = layout.read_section(pack, section).map_err(reading_failed)?;
    match Digest::of(&bytes) == digest {
        true => Ok(bytes),
        false => Err(OpenError::Head(name)),
    }
}

fn open_index(
    manifest: &VerifiedManifest,
    key: &Secret,
    sealed: Vec<u8>,
) -> Result<(v1::Index, v1::Description), OpenError> {
    let plain = cipher::open_once(&cipher::index_key(key), sealed);
    let plain = plain.ok_or(OpenError::Index("does not decrypt"))?;
    let malformed = |_| OpenError::Index("is malformed");
    let index: v1::Index = decode_exact(&plain).map_err(malformed)?;
    let commit = cipher::content_commit(&index.salt, &index.description);
    if index.salt.len() != 32 || commit != manifest.content_commit() {
        return Err(OpenError::ContentCommitment);
    }
    let description = decode_exact(&index.description).map_err(malformed)?;
    Ok((index, description))
}

fn check_entries(description: &v1::Description) -> Result<Vec<EntryName>, OpenError> {
    let entries = &description.entries;
    if entries.is_empty() || entries.len() > ENTRIES_MAX {
        return Err(OpenError::Index("names no files, or more than 4,096"));
    }
    let mut names = Vec::with_capacity(entries.len());
    for (entry, described) in entries.iter().enumerate() {
        let parsed = EntryName::parse(&described.name);
        names.push(parsed.map_err(|reason| OpenError::Name { entry, reason })?);
        if described.sha256.len() != 32 {
            return Err(OpenError::Index("holds a file digest that is not 32 bytes"));
        }
    }
    let total = entries
        .iter()
        .map(|entry| entry.length)
        .fold(0, u64::saturating_add);
    if total > PLAIN_LEN_MAX {
        return Err(OpenError::Index("declares more than 64 GiB"));
    }
    match EntryName::in_the_way(&names.iter().collect::<Vec<_>>()) {
        Some(entry) => Err(OpenError::NameTwice { entry }),
        None => Ok(names),
    }
}

fn read_batch(
    pack: &mut impl Read,
    table: &ChunkTable,
    first: usize,
) -> Result<Vec<Vec<u8>>, OpenError> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    for record in &table.records()[first..] {
        if !batch.is_empty() && bytes + record.length as usize > BATCH_LEN {
            break;
        }
        bytes += record.length as usize;
        let mut chunk = vec![0; record.length as usize];
        pack.read_exact(&mut chunk).map_err(reading_failed)?;
        table.verify(first + batch.len(), &chunk)?;
        batch.push(chunk);
    }
    Ok(batch)
}

fn open_batch(
    secret: &Secret,
    digests: &[u8],
    first: usize,
    batch: Vec<Vec<u8>>,
) -> Result<Vec<Vec<u8>>, OpenError> {
    let share = batch.len().div_ceil(WORKERS).max(1);
    let mut numbered: Vec<(usize, Vec<u8>)> = (first..).zip(batch).collect();
    let mut shares = Vec::new();
    while !numbered.is_empty() {
        let rest = numbered.split_off(share.min(numbered.len()));
        shares.push(std::mem::replace(&mut numbered, rest));
    }
    let opened = std::thread::scope(|scope| {
        let open = |share: Vec<(usize, Vec<u8>)>| {
            move || {
                let opened = share
                    .into_iter()
                    .map(|(chunk, ciphertext)| open_one(secret, digests, chunk, ciphertext));
                opened.collect::<Result<Vec<_>, _>>()
            }
        };
        let workers: Vec<_> = shares
            .into_iter()
            .map(|share| scope.spawn(open(share)))
            .collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.collect::<Result<Vec<_>, _>>()
    });
    let opened = opened.map_err(|_| reading_failed(io::Error::other("a worker thread failed")))?;
    let mut plain = Vec::new();
    for share in opened {
        plain.extend(share?);
    }
    Ok(plain)
}

fn open_one(
    secret: &Secret,
    digests: &[u8],
    chunk: usize,
    ciphertext: Vec<u8>,
) -> Result<Vec<u8>, OpenError> {
    let mut digest = [0; 32];
    digest.copy_from_slice(&digests[chunk * 32..chunk * 32 + 32]);
    let limit = crate::MAX_CHUNK_PLAIN_LEN;
    cipher::open_chunk(secret, &Digest(digest), ciphertext, limit)
        .map_err(|reason| OpenError::ChunkInside { chunk, reason })
}

fn read_layout(pack: &mut (impl Read + Seek)) -> Result<(PackLayout, v1::Signed), OpenError> {
    PackLayout::read(pack).map_err(|error| match error {
        PackError::Io(source) => reading_failed(source),
        other => reading_failed(io::Error::new(io::ErrorKind::InvalidData, other)),
    })
}

fn reading_failed(source: io::Error) -> OpenError {
    OpenError::Io {
        what: "reading the package",
        source,
    }
}

fn writing_failed(source: io::Error) -> OpenError {
    OpenError::Io {
        what: "writing the files of the package",
        source,
    }
}

/// Cuts the stream of plaintext into files again and digests each.
struct Files<'a, S> {
    description: &'a v1::Description,
    names: &'a [EntryName],
    sink: &'a mut S,
    entry: usize,
    left: u64,
    hasher: Hasher,
    found: u64,
}

impl<'a, S: EntrySink> Files<'a, S> {
    fn new(
        description: &'a v1::Description,
        names: &'a [EntryName],
        sink: &'a mut S,
    ) -> Result<Self, OpenError> {
        let mut files = Self {
            description,
            names,
            sink,
            entry: 0,
            left: 0,
            hasher: Hasher::new(),
            found: 0,
        };
        files.begin()?;
        Ok(files)
    }

    /// Begins the entry at `self.entry`, and finishes empty ones at once.
    fn begin(&mut self) -> Result<(), OpenError> {
        while let Some(entry) = self.description.entries.get(self.entry) {
            let name = &self.names[self.entry];
            self.sink
                .begin(name, entry.length)
                .map_err(writing_failed)?;
            self.left = entry.length;
            self.hasher = Hasher::new();
            if self.left > 0 {
                break;
            }
            self.end()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), OpenError> {
        let entry = self.entry;
        let hasher = std::mem::take(&mut self.hasher);
        if hasher.finish().0 != self.description.entries[entry].sha256.as_slice() {
            return Err(OpenError::EntryDigest { entry });
        }
        self.entry += 1;
        Ok(())
    }

    fn write(&mut self, mut plain: &[u8]) -> Result<(), OpenError> {
        self.found += plain.len() as u64;
        while !plain.is_empty() {
            if self.left == 0 {
                return Err(self.lengths());
            }
            let take = plain
                .len()
                .min(usize::try_from(self.left).unwrap_or(usize::MAX));
            let (now, later) = plain.split_at(take);
            self.hasher.update(now);
            self.sink.write(now).map_err(writing_failed)?;
            self.left -= take as u64;
            plain = later;
            if self.left == 0 {
                self.end()?;
                self.begin()?;
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<(), OpenError> {
        if self.entry < self.description.entries.len() {
            return Err(self.lengths());
        }
        self.sink.finish().map_err(writing_failed)
    }

    fn lengths(&self) -> OpenError {
        OpenError::Lengths {
            found: self.found,
            declared: self
                .description
                .entries
                .iter()
                .map(|entry| entry.length)
                .sum(),
        }
    }
}
