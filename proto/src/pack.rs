//! The pack: a whole package in one file, in the agent and in the gateway's spool alike.
//!
//! ```text
//! 0    magic "PASSPK01"
//! 8    length of the encoded Signed manifest, u32 little endian, then 4 zero bytes
//! 16   lengths of wraps, chunk table, index, u64 each
//! 40   offset of the first chunk, length of all chunks, u64 each
//! 56   first 8 bytes of SHA-256 of the 56 bytes before
//! 64   Signed manifest ‖ wraps ‖ chunk table ‖ index ‖ zeros ‖ chunks
//! ```
//!
//! The sealer writes chunks before it knows the head and reserves room for it; a receiver knows
//! all lengths from the manifest and leaves no gap.

use std::io::{self, Read, Seek, SeekFrom};

use prost::Message;

use crate::v1::{Section, Signed};
use crate::{Digest, VerifiedManifest};

/// Length of the header in bytes.
pub const PACK_HEADER_LEN: u64 = 64;
/// Longest package that travels inside its offer: head and chunks, in bytes.
pub const INLINE_LEN_MAX: u64 = 64 * 1024;

const MAGIC: &[u8; 8] = b"PASSPK01";
/// Lengths and offsets stay below, so that no sum of them overflows (256 TiB).
const LENGTH_LIMIT: u64 = 1 << 48;
/// Longest encoded `Signed` manifest in bytes: body, signature, path.
const SIGNED_LEN_MAX: u32 = 16 * 1024;

/// Why a file is no pack.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Another kind of file, or another version.
    #[error("this is no package file of this version")]
    Magic,
    /// The header was altered or only half written.
    #[error("the package file's header is damaged")]
    Header,
    /// The manifest in the file cannot be read.
    #[error("the manifest in the package file is damaged")]
    Manifest,
    /// The lengths in the header are not those of the manifest.
    #[error("the package file's lengths differ from its manifest")]
    Lengths,
    /// Reading failed.
    #[error("reading the package file: {0}")]
    Io(#[from] io::Error),
}

/// Where each part of a package lies within a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackLayout {
    signed: u32,
    wraps: u64,
    table: u64,
    index: u64,
    chunks_offset: u64,
    payload: u64,
}

impl PackLayout {
    /// The layout without gaps, from the lengths in the manifest.
    pub fn tight(manifest: &VerifiedManifest) -> Self {
        let mut layout = Self {
            signed: manifest.signed().encoded_len() as u32,
            wraps: manifest.wraps().length,
            table: manifest.chunk_table().length,
            index: manifest.index().length,
            chunks_offset: 0,
            payload: manifest.payload_length(),
        };
        layout.chunks_offset = layout.head_end();
        layout
    }

    /// The layout of a sealer that has reserved everything before `chunks_offset`.
    ///
    /// `None` when the head does not fit.
    pub fn reserved(manifest: &VerifiedManifest, chunks_offset: u64) -> Option<Self> {
        let tight = Self::tight(manifest);
        (tight.head_end() <= chunks_offset).then_some(Self {
            chunks_offset,
            ..tight
        })
    }

    fn head_end(&self) -> u64 {
        PACK_HEADER_LEN + u64::from(self.signed) + self.wraps + self.table + self.index
    }

    /// The header's bytes.
    pub fn header(&self) -> [u8; PACK_HEADER_LEN as usize] {
        let mut header = [0; PACK_HEADER_LEN as usize];
        header[..8].copy_from_slice(MAGIC);
        header[8..12].copy_from_slice(&self.signed.to_le_bytes());
        let fields = [
            self.wraps,
            self.table,
            self.index,
            self.chunks_offset,
            self.payload,
        ];
        for (at, field) in (16..).step_by(8).zip(fields) {
            header[at..at + 8].copy_from_slice(&field.to_le_bytes());
        }
        let check = Digest::of(&header[..56]);
        header[56..].copy_from_slice(&check.0[..8]);
        header
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`PackError::Magic`] and [`PackError::Header`].
    pub fn parse(header: &[u8; PACK_HEADER_LEN as usize]) -> Result<Self, PackError> {
        if &header[..8] != MAGIC {
            return Err(PackError::Magic);
        }
        if Digest::of(&header[..56]).0[..8] != header[56..] {
            return Err(PackError::Header);
        }
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let layout = Self {
            signed: u32::from_le_bytes([header[8], header[9], header[10], header[11]]),
            wraps: number(16),
            table: number(24),
            index: number(32),
            chunks_offset: number(40),
            payload: number(48),
        };
        let lengths = [
            layout.wraps,
            layout.table,
            layout.index,
            layout.payload,
            layout.chunks_offset,
        ];
        let small = lengths.iter().all(|length| *length < LENGTH_LIMIT);
        if !small
            || header[12..16] != [0; 4]
            || layout.signed > SIGNED_LEN_MAX
            || layout.chunks_offset < layout.head_end()
        {
            return Err(PackError::Header);
        }
        Ok(layout)
    }

    /// Offset of the encoded Signed manifest.
    pub fn manifest_offset(&self) -> u64 {
        PACK_HEADER_LEN
    }

    /// Length of the encoded Signed manifest.
    pub fn manifest_len(&self) -> u64 {
        u64::from(self.signed)
    }

    /// Offset of the first byte of a section; `None` for no section.
    pub fn offset_of(&self, section: Section) -> Option<u64> {
        let wraps = PACK_HEADER_LEN + u64::from(self.signed);
        match section {
            Section::Wraps => Some(wraps),
            Section::ChunkTable => Some(wraps + self.wraps),
            Section::Index => Some(wraps + self.wraps + self.table),
            Section::Chunks => Some(self.chunks_offset),
            Section::Unspecified => None,
        }
    }

    /// Length of a section in bytes.
    pub fn length_of(&self, section: Section) -> u64 {
        match section {
            Section::Wraps => self.wraps,
            Section::ChunkTable => self.table,
            Section::Index => self.index,
            Section::Chunks => self.payload,
            Section::Unspecified => 0,
        }
    }

    /// Length of the whole file in bytes.
    pub fn file_len(&self) -> u64 {
        self.chunks_offset + self.payload
    }

    /// Reads the header and the manifest of a pack; the manifest's signature is not verified.
    ///
    /// # Errors
    /// [`PackError`].
    pub fn read(pack: &mut (impl Read + Seek)) -> Result<(Self, Signed), PackError> {
        pack.seek(SeekFrom::Start(0))?;
        let mut header = [0; PACK_HEADER_LEN as usize];
        pack.read_exact(&mut header)?;
        let layout = Self::parse(&header)?;
        let mut signed = vec![0; layout.signed as usize];
        pack.read_exact(&mut signed)?;
        let signed = Signed::decode(signed.as_slice()).map_err(|_| PackError::Manifest)?;
        Ok((layout, signed))
    }

    /// Reads a section whole.
    ///
    /// # Errors
    /// What the reader says, also when the file is too short.
    pub fn read_section(
        &self,
        pack: &mut (impl Read + Seek),
        section: Section,
    ) -> io::Result<Vec<u8>> {
        let offset = self.offset_of(section).unwrap_or(PACK_HEADER_LEN);
        pack.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        let length = self.length_of(section);
        pack.take(length).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }
}

/// The parts of a package that travelled inside its offer, each verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InlineParts<'a> {
    /// The wraps.
    pub wraps: &'a [u8],
    /// The chunk table.
    pub table: &'a [u8],
    /// The sealed index.
    pub index: &'a [u8],
    /// All chunks.
    pub chunks: &'a [u8],
}

/// Why an inline package is not what its manifest says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InlineError {
    /// Another length.
    #[error("the offer carries {found} bytes, the manifest says {wanted}")]
    Length {
        /// Length found.
        found: u64,
        /// Length in the manifest.
        wanted: u64,
    },
    /// A part of the head with another digest.
    #[error("the {0} in the offer differs from its digest in the manifest")]
    Digest(&'static str),
    /// The chunk table or a chunk.
    #[error(transparent)]
    Chunk(#[from] crate::ChunkError),
}

/// Takes apart and verifies a package that travelled inside its offer.
///
/// # Errors
/// [`InlineError`] names the part that is not what was signed.
pub fn split_inline<'a>(
    manifest: &VerifiedManifest,
    bytes: &'a [u8],
) -> Result<InlineParts<'a>, InlineError> {
    let (found, wanted) = (bytes.len() as u64, manifest.total_length());
    if found != wanted || wanted > INLINE_LEN_MAX {
        return Err(InlineError::Length { found, wanted });
    }
    let heads = [
        ("wraps part", manifest.wraps()),
        ("chunk table", manifest.chunk_table()),
        ("index", manifest.index()),
    ];
    let mut parts = [&bytes[..0]; 3];
    let mut rest = bytes;
    for (part, (name, head)) in parts.iter_mut().zip(heads) {
        // The sum of all lengths is the length found, so every split is inside.
        (*part, rest) = rest.split_at(head.length as usize);
        if Digest::of(part) != head.sha256 {
            return Err(InlineError::Digest(name));
        }
    }
    let [wraps, table, index] = parts;
    let records = crate::ChunkTable::parse(table, manifest.payload_length())?;
    for chunk in 0..records.len() {
        let range = records.range_of(chunk).unwrap_or(0..0);
        records.verify(chunk, &rest[range.start as usize..range.end as usize])?;
    }
    Ok(InlineParts {
        wraps,
        table,
        index,
        chunks: rest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> PackLayout {
        PackLayout {
            signed: 100,
            wraps: 10,
            table: 36,
            index: 20,
            chunks_offset: 300,
            payload: 400,
        }
    }

    /// A header with these bytes at a place, and the digest that belongs to it.
    fn header_with(at: usize, bytes: &[u8]) -> [u8; PACK_HEADER_LEN as usize] {
        let mut header = layout().header();
        header[at..at + bytes.len()].copy_from_slice(bytes);
        let check = Digest::of(&header[..56]);
        header[56..].copy_from_slice(&check.0[..8]);
        header
    }

    #[test]
    fn a_header_reads_back_and_has_one_form() {
        assert_eq!(PackLayout::parse(&layout().header()).unwrap(), layout());
        let refused = PackLayout::parse(&header_with(12, &[0, 0, 1, 0]));
        assert!(matches!(refused, Err(PackError::Header)));
    }

    #[test]
    fn no_length_and_no_offset_is_so_large_that_sums_overflow() {
        for at in [16, 24, 32, 40, 48] {
            for number in [u64::MAX, u64::MAX - 400, 1 << 48] {
                let refused = PackLayout::parse(&header_with(at, &number.to_le_bytes()));
                assert!(
                    matches!(refused, Err(PackError::Header)),
                    "{number} at {at}"
                );
            }
        }
    }
}
