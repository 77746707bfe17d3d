//! One package that we take: every part is verified on arrival, and only then written.

use bytes::{Bytes, BytesMut};

use super::{Fault, SYNC_EVERY};
use crate::v1::{Range, Section};
use crate::{ChunkTable, Digest, VerifiedManifest};

/// What of a package is on stable storage already, from an earlier transfer.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// The chunk table, when the whole head is there.
    pub table: Option<ChunkTable>,
    /// Bytes of chunks from the first one on; cut down to whole chunks.
    pub chunks: u64,
}

enum Stage {
    /// Wraps, chunk table, index, one after the other.
    Head {
        part: usize,
        buffer: BytesMut,
    },
    /// Chunks, in order.
    Chunks {
        next: usize,
        buffer: BytesMut,
    },
    Done,
}

/// Position in one transfer.
pub struct Accepting {
    parts: [(Section, &'static str, u64, Digest); 3],
    payload: u64,
    held: u64,
    table: Option<ChunkTable>,
    stage: Stage,
    writes: Vec<(Section, u64, Bytes)>,
    need: Option<Vec<Range>>,
    received: u64,
    sync_asked: u64,
}

impl Accepting {
    /// A transfer that starts from what is held.
    pub(super) fn new(manifest: &VerifiedManifest, held: Held) -> Self {
        let part = |section, name, part: crate::HeadPart| (section, name, part.length, part.sha256);
        let mut accepting = Self {
            parts: [
                part(Section::Wraps, "wraps part", manifest.wraps()),
                part(Section::ChunkTable, "chunk table", manifest.chunk_table()),
                part(Section::Index, "index", manifest.index()),
            ],
            payload: manifest.payload_length(),
            held: held.chunks,
            table: None,
            stage: Stage::Head {
                part: 0,
                buffer: BytesMut::new(),
            },
            writes: Vec::new(),
            need: None,
            received: 0,
            sync_asked: 0,
        };
        match held.table {
            Some(table) => accepting.begin_chunks(table),
            None => {
                accepting.held = 0;
                let range = |(section, _, length, _): &(Section, _, u64, _)| Range {
                    section: *section as i32,
                    offset: 0,
                    length: *length,
                };
                accepting.need = Some(accepting.parts.iter().map(range).collect());
            }
        }
        accepting
    }

    fn begin_chunks(&mut self, table: ChunkTable) {
        // A chunk that is held in part is fetched again from its beginning.
        let next = table.locate(self.held).unwrap_or(table.len());
        let offset = table
            .range_of(next)
            .map_or(self.payload, |range| range.start);
        self.table = Some(table);
        if offset == self.payload {
            self.stage = Stage::Done;
            return;
        }
        self.stage = Stage::Chunks {
            next,
            buffer: BytesMut::new(),
        };
        self.need = Some(vec![Range {
            section: Section::Chunks as i32,
            offset,
            length: self.payload - offset,
        }]);
    }

    /// Bytes have arrived.
    pub(super) fn on_data(
        &mut self,
        section: Section,
        offset: u64,
        bytes: &Bytes,
    ) -> Result<(), Fault> {
        self.received += bytes.len() as u64;
        match &mut self.stage {
            Stage::Head { .. } => self.on_head(section, offset, bytes),
            Stage::Chunks { .. } => self.on_chunks(section, offset, bytes),
            Stage::Done => Err(Fault::NotAsked),
        }
    }

    fn on_head(&mut self, section: Section, offset: u64, bytes: &Bytes) -> Result<(), Fault> {
        let Stage::Head { part, buffer } = &mut self.stage else {
            return Err(Fault::NotAsked);
        };
        let (wanted, _, length, _) = self.parts[*part];
        if section != wanted {
            return Err(Fault::NotAsked);
        }
        let expected = buffer.len() as u64;
        if offset != expected || expected + bytes.len() as u64 > length {
            return Err(Fault::Offset {
                found: offset,
                expected,
            });
        }
        buffer.extend_from_slice(bytes);
        match (buffer.len() as u64) < length {
            true => Ok(()),
            false => self.finish_parts(),
        }
    }

    /// Verifies the part that is whole, and every part after it that has no bytes at all.
    fn finish_parts(&mut self) -> Result<(), Fault> {
        while let Stage::Head { part, buffer } = &mut self.stage {
            let Some((section, name, length, digest)) = self.parts.get(*part).copied() else {
                break;
            };
            if (buffer.len() as u64) < length {
                return Ok(());
            }
            let whole = std::mem::take(buffer).freeze();
            *part += 1;
            if Digest::of(&whole) != digest {
                return Err(Fault::HeadDigest(name));
            }
            if section == Section::ChunkTable {
                self.table = Some(ChunkTable::parse(&whole, self.payload)?);
            }
            self.writes.push((section, 0, whole));
        }
        if let Some(table) = self.table.take() {
            self.begin_chunks(table);
        }
        Ok(())
    }

    fn on_chunks(&mut self, section: Section, offset: u64, bytes: &Bytes) -> Result<(), Fault> {
        let (Stage::Chunks { next, buffer }, Some(table)) = (&mut self.stage, &self.table) else {
            return Err(Fault::NotAsked);
        };
        let start = table
            .range_of(*next)
            .map_or(self.payload, |range| range.start);
        let expected = start + buffer.len() as u64;
        let inside = expected + bytes.len() as u64 <= self.payload;
        if section != Section::Chunks || offset != expected || !inside {
            return Err(Fault::Offset {
                found: offset,
                expected,
            });
        }
        buffer.extend_from_slice(bytes);
        while let Some(range) = table.range_of(*next) {
            let length = (range.end - range.start) as usize;
            if buffer.len() < length {
                break;
            }
            let chunk = buffer.split_to(length).freeze();
            table.verify(*next, &chunk)?;
            self.writes.push((Section::Chunks, range.start, chunk));
            *next += 1;
        }
        if *next == table.len() {
            self.stage = Stage::Done;
        }
        Ok(())
    }

    /// Verified bytes to write.
    pub(super) fn take_writes(&mut self) -> Vec<(Section, u64, Bytes)> {
        std::mem::take(&mut self.writes)
    }

    /// Bytes of this transfer to be made durable now, every [`SYNC_EVERY`] and at the end.
    pub(super) fn take_sync(&mut self) -> Option<u64> {
        let buffered = match &self.stage {
            Stage::Head { buffer, .. } | Stage::Chunks { buffer, .. } => buffer.len() as u64,
            Stage::Done => 0,
        };
        let verified = self.received - buffered;
        let due = verified >= self.sync_asked + SYNC_EVERY;
        let last = self.is_complete() && verified > self.sync_asked;
        if !due && !last {
            return None;
        }
        self.sync_asked = verified;
        Some(verified)
    }

    /// Ranges to ask for, once.
    pub(super) fn take_need(&mut self) -> Option<Vec<Range>> {
        self.need.take()
    }

    /// Whether every byte is verified.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }
}
