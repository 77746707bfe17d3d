//! The chunk table: length and SHA-256 of every encrypted chunk of a package.
//!
//! 36-byte records: length (u32, big endian) ‖ SHA-256 of the ciphertext. Anybody who holds the
//! table can verify a chunk on arrival without a key.

use std::ops::Range;

use crate::Digest;

/// Length of one record in bytes.
pub const RECORD_LEN: usize = 36;
/// Most chunks of one package.
pub const MAX_CHUNKS: usize = 65_536;
/// Longest plaintext of one chunk in bytes.
pub const MAX_CHUNK_PLAIN_LEN: usize = 4 * 1024 * 1024;
/// Longest ciphertext of one chunk in bytes: 4 MiB and its 5-byte header, padded, and the tag.
pub const MAX_CIPHERTEXT_LEN: u32 = 4 * 1024 * 1024 + 128 * 1024 + 16;
/// Shortest ciphertext: header, one byte, tag.
pub const MIN_CIPHERTEXT_LEN: u32 = 5 + 1 + 16;

/// A table or a chunk that is not what was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// The table is no whole number of records, or has too many.
    #[error("a chunk table of {bytes} bytes: not a number of 36-byte records up to {MAX_CHUNKS}")]
    TableLength {
        /// Length found.
        bytes: usize,
    },
    /// A record announces an impossible chunk.
    #[error(
        "chunk {chunk} announces {bytes} bytes; {MIN_CIPHERTEXT_LEN} to {MAX_CIPHERTEXT_LEN} \
         are possible"
    )]
    RecordLength {
        /// Number of the chunk, from 0.
        chunk: usize,
        /// Length announced.
        bytes: u32,
    },
    /// The chunks do not add up to the payload.
    #[error("the chunks add up to {sum} bytes, the manifest says {payload}")]
    Sum {
        /// Sum of the table.
        sum: u64,
        /// `payload_length` of the manifest.
        payload: u64,
    },
    /// There is no such chunk.
    #[error("there is no chunk {chunk}: the table has {chunks}")]
    OutOfRange {
        /// Number asked for.
        chunk: usize,
        /// Chunks in the table.
        chunks: usize,
    },
    /// A chunk of another length: truncated, or too long.
    #[error("chunk {chunk} has {found} bytes, the table says {wanted}")]
    Length {
        /// Number of the chunk, from 0.
        chunk: usize,
        /// Length found.
        found: usize,
        /// Length in the table.
        wanted: u32,
    },
    /// A chunk with other bytes.
    #[error("chunk {chunk} differs from its digest in the table")]
    Digest {
        /// Number of the chunk, from 0.
        chunk: usize,
    },
}

/// One record of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Length of the ciphertext in bytes, tag included.
    pub length: u32,
    /// SHA-256 of the ciphertext.
    pub sha256: Digest,
}

/// A table within its limits, whose chunks add up to the payload.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChunkTable {
    records: Vec<ChunkRecord>,
    /// End of each chunk within the payload.
    ends: Vec<u64>,
}

impl ChunkTable {
    /// Parses a table whose chunks must add up to `payload_length`.
    ///
    /// # Errors
    /// [`ChunkError`] names the record.
    pub fn parse(bytes: &[u8], payload_length: u64) -> Result<Self, ChunkError> {
        if !bytes.len().is_multiple_of(RECORD_LEN) || bytes.len() / RECORD_LEN > MAX_CHUNKS {
            return Err(ChunkError::TableLength { bytes: bytes.len() });
        }
        let (records, _) = bytes.as_chunks::<RECORD_LEN>();
        let table = Self::new(records.iter().map(parse_record).collect())?;
        if table.payload_length() != payload_length {
            let sum = table.payload_length();
            return Err(ChunkError::Sum {
                sum,
                payload: payload_length,
            });
        }
        Ok(table)
    }

    /// Makes a table of records.
    ///
    /// # Errors
    /// [`ChunkError::TableLength`] and [`ChunkError::RecordLength`].
    pub fn new(records: Vec<ChunkRecord>) -> Result<Self, ChunkError> {
        if records.len() > MAX_CHUNKS {
            return Err(ChunkError::TableLength {
                bytes: records.len() * RECORD_LEN,
            });
        }
        let mut ends = Vec::with_capacity(records.len());
        let mut end = 0;
        for (chunk, record) in records.iter().enumerate() {
            if !(MIN_CIPHERTEXT_LEN..=MAX_CIPHERTEXT_LEN).contains(&record.length) {
                return Err(ChunkError::RecordLength {
                    chunk,
                    bytes: record.length,
                });
            }
            end += u64::from(record.length);
            ends.push(end);
        }
        Ok(Self { records, ends })
    }

    /// The table's bytes, as they are digested and sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.records.len() * RECORD_LEN);
        for record in &self.records {
            bytes.extend_from_slice(&record.length.to_be_bytes());
            bytes.extend_from_slice(&record.sha256.0);
        }
        bytes
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are no chunks: a package of empty files.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All records, in order.
    pub fn records(&self) -> &[ChunkRecord] {
        &self.records
    }

    /// Sum of all chunks in bytes.
    pub fn payload_length(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Where chunk `chunk` lies, from the first byte of the first chunk; `None` out of range.
    pub fn range_of(&self, chunk: usize) -> Option<Range<u64>> {
        let end = *self.ends.get(chunk)?;
        Some(end - u64::from(self.records[chunk].length)..end)
    }

    /// The chunk that holds the byte at `offset`; `None` past the end.
    pub fn locate(&self, offset: u64) -> Option<usize> {
        let chunk = self.ends.partition_point(|&end| end <= offset);
        (chunk < self.ends.len()).then_some(chunk)
    }

    /// Whether `bytes` are chunk `chunk`.
    ///
    /// # Errors
    /// [`ChunkError::OutOfRange`], [`ChunkError::Length`], [`ChunkError::Digest`].
    pub fn verify(&self, chunk: usize, bytes: &[u8]) -> Result<(), ChunkError> {
        let chunks = self.records.len();
        let record = self
            .records
            .get(chunk)
            .ok_or(ChunkError::OutOfRange { chunk, chunks })?;
        if bytes.len() != record.length as usize {
            return Err(ChunkError::Length {
                chunk,
                found: bytes.len(),
                wanted: record.length,
            });
        }
        if Digest::of(bytes) != record.sha256 {
            return Err(ChunkError::Digest { chunk });
        }
        Ok(())
    }
}

fn parse_record(record: &[u8; RECORD_LEN]) -> ChunkRecord {
    let [l0, l1, l2, l3, ..] = *record;
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(&record[4..]);
    ChunkRecord {
        length: u32::from_be_bytes([l0, l1, l2, l3]),
        sha256: Digest(sha256),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(chunks: &[&[u8]]) -> ChunkTable {
        let records = chunks.iter().map(|bytes| ChunkRecord {
            length: bytes.len() as u32,
            sha256: Digest::of(bytes),
        });
        ChunkTable::new(records.collect()).unwrap()
    }

    #[test]
    fn a_flipped_bit_a_truncated_a_swapped_and_an_unknown_chunk_are_told_apart() {
        let (first, second) = ([1; 40], [2; 40]);
        let table = table(&[&first, &second]);
        assert_eq!(table.verify(0, &first), Ok(()));
        let mut flipped = first;
        flipped[39] ^= 1;
        assert_eq!(
            table.verify(0, &flipped),
            Err(ChunkError::Digest { chunk: 0 })
        );
        assert_eq!(
            table.verify(1, &first),
            Err(ChunkError::Digest { chunk: 1 })
        );
        let short = ChunkError::Length {
            chunk: 1,
            found: 39,
            wanted: 40,
        };
        assert_eq!(table.verify(1, &second[..39]), Err(short));
        let unknown = ChunkError::OutOfRange {
            chunk: 2,
            chunks: 2,
        };
        assert_eq!(table.verify(2, &second), Err(unknown));
    }

    #[test]
    fn a_table_must_add_up_and_stay_within_its_limits() {
        let bytes = table(&[&[1; 40], &[2; 60]]).encode();
        assert!(ChunkTable::parse(&bytes, 100).is_ok());
        let sum = ChunkError::Sum {
            sum: 100,
            payload: 101,
        };
        assert_eq!(ChunkTable::parse(&bytes, 101), Err(sum));
        let length = ChunkError::TableLength { bytes: 71 };
        assert_eq!(ChunkTable::parse(&bytes[..71], 100), Err(length));
        let many = vec![0; RECORD_LEN * (MAX_CHUNKS + 1)];
        let length = ChunkError::TableLength { bytes: many.len() };
        assert_eq!(ChunkTable::parse(&many, 0), Err(length));
        for bytes in [0, MIN_CIPHERTEXT_LEN - 1, MAX_CIPHERTEXT_LEN + 1, u32::MAX] {
            let record = ChunkRecord {
                length: bytes,
                sha256: Digest([0; 32]),
            };
            let refusal = ChunkError::RecordLength { chunk: 0, bytes };
            assert_eq!(ChunkTable::new(vec![record]), Err(refusal));
        }
    }

    proptest! {
        #[test]
        fn a_table_survives_encoding_and_finds_every_byte(
            lengths in prop::collection::vec(MIN_CIPHERTEXT_LEN..2000, 0..50)
        ) {
            let records = lengths.iter().zip(0u32..).map(|(&length, i)| ChunkRecord {
                length,
                sha256: Digest::of(&i.to_be_bytes()),
            });
            let table = ChunkTable::new(records.collect()).unwrap();
            let payload = table.payload_length();
            prop_assert_eq!(&ChunkTable::parse(&table.encode(), payload).unwrap(), &table);
            for chunk in 0..table.len() {
                let range = table.range_of(chunk).unwrap();
                prop_assert_eq!(table.locate(range.start), Some(chunk));
                prop_assert_eq!(table.locate(range.end - 1), Some(chunk));
            }
            prop_assert_eq!(table.locate(payload), None);
            prop_assert_eq!(table.range_of(table.len()), None);
        }
    }
}
