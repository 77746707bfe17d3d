//! Reading a package where it is stored: no byte is given out before what holds it is verified.
//!
//! A part of the head is verified against the manifest, a chunk against the chunk table. What was
//! whole once and is not any more has rotted: that is nobody's fault on the wire.

use std::io;

use bytes::Bytes;

use crate::v1::Section;
use crate::{ChunkError, ChunkTable, Digest, HeadPart, VerifiedManifest};

/// Where a package is stored.
pub trait Stored {
    /// Reads so many bytes of a part of the package.
    ///
    /// # Errors
    /// `UnexpectedEof` when there are fewer, `NotFound` when there is no file, `InvalidData` when
    /// the disk cannot give them any more, or what the system says.
    fn read(&self, section: Section, offset: u64, length: u64) -> io::Result<Bytes>;
}

/// What is wrong with a stored package.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file is not there.
    #[error("the file is gone")]
    Gone,
    /// The file is too short.
    #[error("the file ends within the {0}")]
    Short(&'static str),
    /// The disk does not give the bytes any more, as where a sector has failed.
    #[error("the disk cannot read the {0}")]
    Unreadable(&'static str),
    /// A part of the head has other bytes.
    #[error("the {0} differs from its digest in the manifest")]
    Head(&'static str),
    /// The chunk table or a chunk has other bytes.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
}

/// Why a stored package cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// It has rotted.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The system says why; the bytes may be there.
    #[error(transparent)]
    Io(io::Error),
}

/// What of a stored package is what it must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Soundness {
    /// The first thing that is wrong; `None`: the package is whole.
    pub damage: Option<Damage>,
    /// The chunk table, when the whole head is sound.
    pub table: Option<ChunkTable>,
    /// Numbers of the chunks that are damaged, ascending; empty without a sound head.
    pub lacks: Vec<usize>,
    /// Whether the disk does not give some of it: that place is not to be written again.
    pub unreadable: bool,
}

/// Gives out the bytes of one stored package.
#[derive(Debug)]
pub struct SoundReader<S> {
    stored: S,
    head: [(Section, &'static str, HeadPart); 3],
    payload: u64,
    table: Option<ChunkTable>,
    // The part or chunk that was verified last, and where it begins.
    piece: Option<(Section, u64, Bytes)>,
}

impl<S: Stored> SoundReader<S> {
    /// A reader of the package with this manifest.
    pub fn new(manifest: &VerifiedManifest, stored: S) -> Self {
        Self {
            stored,
            head: [
                (Section::Wraps, "wraps part", manifest.wraps()),
                (Section::ChunkTable, "chunk table", manifest.chunk_table()),
                (Section::Index, "index", manifest.index()),
            ],
            payload: manifest.payload_length(),
            table: None,
            piece: None,
        }
    }

    /// Where the package is stored.
    pub fn stored(&self) -> &S {
        &self.stored
    }

    /// Reads a part of the package, or some of it.
    ///
    /// # Errors
    /// [`StoredError`]; no byte of a damaged part or chunk is given out.
    pub fn read(
        &mut self,
        section: Section,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, StoredError> {
        let mut bytes = Vec::new();
        let mut at = offset;
        let end = offset.saturating_add(length);
        while at < end {
            let (start, piece) = self.piece_at(section, at)?;
            let from = (at - start) as usize;
            let to = piece.len().min((end - start) as usize);
            if from == 0 && to == piece.len() && at == offset && start + to as u64 == end {
                return Ok(piece);
            }
            bytes.extend_from_slice(&piece[from..to]);
            at = start + to as u64;
        }
        Ok(bytes.into())
    }

    /// The whole package as it travels inside an offer.
    ///
    /// # Errors
    /// As [`SoundReader::read`].
    pub fn inline(&mut self) -> Result<Bytes, StoredError> {
        let mut whole = Vec::new();
        for (section, _, part) in self.head {
            whole.extend_from_slice(&self.read(section, 0, part.length)?);
        }
        whole.extend_from_slice(&self.read(Section::Chunks, 0, self.payload)?);
        Ok(whole.into())
    }

    /// Reads everything, and says what of it is sound.
    ///
    /// # Errors
    /// What the system says, where it says nothing of the bytes.
    pub fn examine(&mut self) -> io::Result<Soundness> {
        let mut sound = Soundness::default();
        (self.table, self.piece) = (None, None);
        for (section, _, part) in self.head {
            if part.length > 0 {
                damage(self.piece_at(section, 0), &mut sound)?;
            }
        }
        if sound.damage.is_some() {
            return Ok(sound);
        }
        let table = match self.table() {
            Ok(table) => table.clone(),
            Err(error) => {
                damage::<()>(Err(error), &mut sound)?;
                return Ok(sound);
            }
        };
        for chunk in 0..table.len() {
            let start = table.range_of(chunk).map_or(0, |range| range.start);
            if damage(self.piece_at(Section::Chunks, start), &mut sound)? {
                sound.lacks.push(chunk);
            }
        }
        sound.table = Some(table);
        Ok(sound)
    }

    /// The verified part or chunk that holds this byte, and where it begins.
    fn piece_at(&mut self, section: Section, at: u64) -> Result<(u64, Bytes), StoredError> {
        if let Some((kept, start, bytes)) = &self.piece
            && *kept == section
            && (*start..start + bytes.len() as u64).contains(&at)
        {
            return Ok((*start, bytes.clone()));
        }
        let (start, bytes) = match section {
            Section::Chunks => self.chunk_at(at)?,
            _ => (0, self.part(section, at)?),
        };
        self.piece = Some((section, start, bytes.clone()));
        Ok((start, bytes))
    }

    fn part(&self, section: Section, at: u64) -> Result<Bytes, StoredError> {
        let mut head = self.head.iter();
        let found = head.find(|(found, _, part)| *found == section && at < part.length);
        let (_, name, part) = found.ok_or_else(outside)?;
        let bytes = self.bytes(section, name, 0, part.length)?;
        match Digest::of(&bytes) == part.sha256 {
            true => Ok(bytes),
            false => Err(Damage::Head(name).into()),
        }
    }

    fn chunk_at(&mut self, at: u64) -> Result<(u64, Bytes), StoredError> {
        let table = self.table()?;
        let chunk = table.locate(at).ok_or_else(outside)?;
        let range = table.range_of(chunk).ok_or_else(outside)?;
        let length = range.end - range.start;
        let bytes = self.bytes(Section::Chunks, "chunks", range.start, length)?;
        self.table()?.verify(chunk, &bytes).map_err(Damage::from)?;
        Ok((range.start, bytes))
    }

    fn table(&mut self) -> Result<&ChunkTable, StoredError> {
        if self.table.is_none() {
            let length = self.head[1].2.length;
            let bytes = match length {
                0 => Bytes::new(),
                _ => self.part(Section::ChunkTable, 0)?,
            };
            self.table = Some(ChunkTable::parse(&bytes, self.payload).map_err(Damage::from)?);
        }
        self.table.as_ref().ok_or_else(outside)
    }

    fn bytes(
        &self,
        section: Section,
        name: &'static str,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, StoredError> {
        let read = self.stored.read(section, offset, length);
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Damage::Short(name).into(),
            io::ErrorKind::NotFound => Damage::Gone.into(),
            io::ErrorKind::InvalidData => Damage::Unreadable(name).into(),
            _ => StoredError::Io(error),
        })
    }
}

fn outside() -> StoredError {
    let why = "bytes outside of the package";
    StoredError::Io(io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// Notes what is damaged, and says whether it is.
fn damage<T>(read: Result<T, StoredError>, sound: &mut Soundness) -> io::Result<bool> {
    match read {
        Ok(_) => Ok(false),
        Err(StoredError::Damaged(found)) => {
            sound.unreadable |= matches!(found, Damage::Unreadable(_));
            sound.damage.get_or_insert(found);
            Ok(true)
        }
        Err(StoredError::Io(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{keys, plan, seal_files, world};
    use crate::{MAX_CHUNKS, PackLayout};

    struct File(PackLayout, Option<Vec<u8>>);

    /// As a file, with a byte of the chunks that the disk does not give.
    struct BadSector(File, u64);

    impl Stored for BadSector {
        fn read(&self, section: Section, offset: u64, length: u64) -> io::Result<Bytes> {
            let bad = section == Section::Chunks && (offset..offset + length).contains(&self.1);
            match bad {
                true => Err(io::ErrorKind::InvalidData.into()),
                false => self.0.read(section, offset, length),
            }
        }
    }

    impl Stored for File {
        fn read(&self, section: Section, offset: u64, length: u64) -> io::Result<Bytes> {
            let file = self.1.as_ref().ok_or(io::ErrorKind::NotFound)?;
            let at = (self.0.offset_of(section).unwrap() + offset) as usize;
            let bytes = file.get(at..at + length as usize);
            let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
            Ok(Bytes::copy_from_slice(bytes))
        }
    }

    fn package() -> (VerifiedManifest, PackLayout, Vec<u8>) {
        let noise: Vec<u8> = (0..30_000_u32)
            .flat_map(|n| Digest::of(&n.to_be_bytes()).0)
            .collect();
        let plan = plan(world().directory.convention());
        let (sealed, pack) = seal_files(&plan, &keys("caf21").agent, &[("a", noise)]);
        (sealed.manifest, sealed.layout, pack)
    }

    fn at(layout: &PackLayout, section: Section) -> usize {
        layout.offset_of(section).unwrap() as usize
    }

    #[test]
    fn a_whole_package_reads_back_in_any_pieces() {
        let (manifest, layout, pack) = package();
        let chunks = &pack[at(&layout, Section::Chunks)..];
        let mut reader = SoundReader::new(&manifest, File(layout, Some(pack.clone())));
        assert_eq!(reader.examine().unwrap().damage, None);
        for (offset, length) in [(0, 10), (262_000, 5_000), (1, chunks.len() - 1), (7, 0)] {
            let read = reader.read(Section::Chunks, offset as u64, length as u64);
            assert_eq!(read.unwrap(), chunks[offset..offset + length]);
        }
        let outside = reader.read(Section::Chunks, chunks.len() as u64, 1);
        assert!(matches!(outside, Err(StoredError::Io(_))));
    }

    #[test]
    fn no_byte_of_a_damaged_part_is_given_out_and_the_others_are() {
        let (manifest, layout, pack) = package();
        let flipped = |place: usize| {
            let mut pack = pack.clone();
            pack[place] ^= 4;
            SoundReader::new(&manifest, File(layout, Some(pack)))
        };
        for (section, name) in [
            (Section::Wraps, "wraps part"),
            (Section::ChunkTable, "chunk table"),
            (Section::Index, "index"),
        ] {
            let mut reader = flipped(at(&layout, section) + 9);
            let read = reader.read(section, 0, 1);
            let damaged =
                |error| matches!(error, StoredError::Damaged(Damage::Head(n)) if n == name);
            assert!(damaged(read.unwrap_err()));
            let sound = reader.examine().unwrap();
            assert_eq!(sound.damage, Some(Damage::Head(name)));
            assert_eq!((sound.table, sound.lacks.as_slice()), (None, [].as_slice()));
        }
        let second = 300_000;
        let mut reader = flipped(at(&layout, Section::Chunks) + second);
        assert!(reader.read(Section::Chunks, 0, 1_000).is_ok());
        let read = reader.read(Section::Chunks, 1_000, 350_000).unwrap_err();
        assert!(matches!(read, StoredError::Damaged(Damage::Chunk(_))));
        let sound = reader.examine().unwrap();
        let chunk = sound.table.unwrap().locate(second as u64).unwrap();
        assert_eq!(sound.lacks, [chunk]);
    }

    #[test]
    fn a_short_file_and_none_are_damage_and_not_a_failure_of_the_disk() {
        let (manifest, layout, pack) = package();
        let cut = pack[..pack.len() - 1].to_vec();
        let mut short = SoundReader::new(&manifest, File(layout, Some(cut)));
        let sound = short.examine().unwrap();
        assert_eq!(sound.damage, Some(Damage::Short("chunks")));
        assert_eq!(sound.lacks.len(), 1);
        let mut gone = SoundReader::new(&manifest, File(layout, None));
        let sound = gone.examine().unwrap();
        assert_eq!(sound.damage, Some(Damage::Gone));
        assert!(sound.lacks.len() < MAX_CHUNKS && sound.table.is_none());
    }

    #[test]
    fn what_the_disk_does_not_give_is_damage_that_is_told_from_other_bytes() {
        let (manifest, layout, mut pack) = package();
        pack[at(&layout, Section::Chunks)] ^= 1;
        let second = 300_000;
        let stored = BadSector(File(layout, Some(pack)), second);
        let mut reader = SoundReader::new(&manifest, stored);
        let read = reader.read(Section::Chunks, second, 1).unwrap_err();
        let StoredError::Damaged(damage) = read else {
            panic!("{read}")
        };
        assert_eq!(damage, Damage::Unreadable("chunks"));
        let sound = reader.examine().unwrap();
        assert!(matches!(sound.damage, Some(Damage::Chunk(_))) && sound.unreadable);
        let chunk = sound.table.unwrap().locate(second).unwrap();
        assert_eq!(sound.lacks, [0, chunk]);
    }
}
