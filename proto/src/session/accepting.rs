//! One package that we take: every part is verified on arrival, and only then written.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops;

use bytes::{Bytes, BytesMut};

use super::offering::RANGES_MAX;
use super::{Fault, SYNC_EVERY, UNSYNCED_MAX};
use crate::v1::{Range, Section};
use crate::{ChunkTable, Digest, VerifiedManifest};

/// What of a package is on stable storage already, from an earlier transfer, or of a copy that is
/// to be repaired.
#[derive(Debug, Clone, Default)]
pub struct Held {
    /// The chunk table, when the whole head is there.
    pub table: Option<ChunkTable>,
    /// Bytes of chunks from the first one on; cut down to whole chunks.
    pub chunks: u64,
    /// Numbers of the chunks behind those bytes that are missing, ascending; empty: all of them.
    pub lacks: Vec<usize>,
}

enum Stage {
    /// Wraps, chunk table, index, one after the other.
    Head {
        part: usize,
        buffer: BytesMut,
    },
    /// Chunks, in order: numbers of those that are still to come, and the first bytes of the next.
    Chunks {
        left: VecDeque<ops::Range<usize>>,
        buffer: BytesMut,
    },
    Done,
}

/// Position in one transfer.
pub(super) struct Accepting {
    parts: [Part; 3],
    payload: u64,
    held: u64,
    lacks: Vec<usize>,
    table: Option<ChunkTable>,
    stage: Stage,
    writes: Vec<(Section, u64, Bytes)>,
    need: Option<Vec<Range>>,
    // Bytes of this transfer: arrived, asked to be synced, and synced.
    received: u64,
    sync_asked: u64,
    synced: u64,
}

impl Accepting {
    /// A transfer that starts from what is held.
    ///
    /// Parts without any bytes are verified at once.
    pub(super) fn new(manifest: &VerifiedManifest, held: Held) -> Result<Self, Fault> {
        let part = |section, name, part: crate::HeadPart| (section, name, part.length, part.sha256);
        let mut accepting = Self {
            parts: [
                part(Section::Wraps, "wraps part", manifest.wraps()),
                part(Section::ChunkTable, "chunk table", manifest.chunk_table()),
                part(Section::Index, "index", manifest.index()),
            ],
            payload: manifest.payload_length(),
            held: held.chunks,
            lacks: held.lacks,
            table: None,
            stage: Stage::Head {
                part: 0,
                buffer: BytesMut::new(),
            },
            writes: Vec::new(),
            need: None,
            received: 0,
            sync_asked: 0,
            synced: 0,
        };
        let fits = |table: &ChunkTable| table.payload_length() == accepting.payload;
        match held.table.filter(fits) {
            Some(table) => accepting.begin_chunks(table),
            None => {
                accepting.held = 0;
                accepting.lacks.clear();
                accepting.need = Some(accepting.parts.iter().filter_map(head_range).collect());
                accepting.finish_parts()?;
            }
        }
        Ok(accepting)
    }

    fn begin_chunks(&mut self, table: ChunkTable) {
        // A chunk that is held in part is fetched again from its beginning.
        let first = table.locate(self.held).unwrap_or(table.len());
        let lacks = std::mem::take(&mut self.lacks);
        let left = match lacks.is_empty() {
            true => std::iter::once(first..table.len()).collect(),
            false => runs(
                lacks
                    .into_iter()
                    .filter(|chunk| (first..table.len()).contains(chunk)),
            ),
        };
        let need = left.iter().filter_map(|run| chunk_range(&table, run));
        let need: Vec<Range> = need.collect();
        self.table = Some(table);
        if need.is_empty() {
            self.stage = Stage::Done;
            self.need = None;
            return;
        }
        self.stage = Stage::Chunks {
            left,
            buffer: BytesMut::new(),
        };
        self.need = Some(need);
    }

    /// Whether the peer may send so many bytes before more is synced.
    pub(super) fn check_window(&self, bytes: u64) -> Result<(), Fault> {
        match self.received + bytes - self.synced > UNSYNCED_MAX {
            true => Err(Fault::Window),
            false => Ok(()),
        }
    }

    /// So many bytes of this transfer are on stable storage.
    pub(super) fn on_synced(&mut self, received: u64) {
        self.synced = self.synced.max(received.min(self.sync_asked));
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
        let (wanted, name, length, _) = self.parts[*part];
        if section != wanted {
            return Err(Fault::WrongPart { due: name });
        }
        check_place(name, offset, bytes, buffer.len() as u64, length)?;
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
        let (Stage::Chunks { left, buffer }, Some(table)) = (&mut self.stage, &self.table) else {
            return Err(Fault::NotAsked);
        };
        let asked = left.front().and_then(|run| chunk_range(table, run));
        let asked = asked.ok_or(Fault::NotAsked)?;
        let expected = asked.offset + buffer.len() as u64;
        if section != Section::Chunks {
            return Err(Fault::WrongPart { due: "chunks" });
        }
        check_place(
            "chunks",
            offset,
            bytes,
            expected,
            asked.offset + asked.length,
        )?;
        buffer.extend_from_slice(bytes);
        while let Some(run) = left.front_mut()
            && let Some(range) = table.range_of(run.start)
        {
            let length = (range.end - range.start) as usize;
            if buffer.len() < length {
                break;
            }
            let chunk = buffer.split_to(length).freeze();
            table.verify(run.start, &chunk)?;
            self.writes.push((Section::Chunks, range.start, chunk));
            run.start += 1;
            if run.start == run.end {
                left.pop_front();
            }
        }
        if left.is_empty() {
            self.stage = Stage::Done;
        }
        Ok(())
    }

    /// Verified bytes to write.
    pub(super) fn take_writes(&mut self) -> Vec<(Section, u64, Bytes)> {
        std::mem::take(&mut self.writes)
    }

    /// Bytes of this transfer to be made durable now: every [`SYNC_EVERY`], at the end, and before
    /// a chunk or part of the head that would not fit into the window otherwise.
    pub(super) fn take_sync(&mut self) -> Option<u64> {
        let (buffered, whole) = match (&self.stage, &self.table) {
            (Stage::Head { part, buffer }, _) => {
                let length = self.parts.get(*part).map_or(0, |(_, _, length, _)| *length);
                (buffer.len() as u64, length)
            }
            (Stage::Chunks { left, buffer }, Some(table)) => {
                let next = left.front().and_then(|run| table.range_of(run.start));
                let length = next.map_or(0, |at| at.end - at.start);
                (buffer.len() as u64, length)
            }
            (Stage::Chunks { .. }, None) | (Stage::Done, _) => (0, 0),
        };
        let verified = self.received - buffered;
        let unsynced = verified - self.sync_asked;
        let due = unsynced >= SYNC_EVERY || unsynced + whole > UNSYNCED_MAX;
        if unsynced == 0 || !(due || self.is_complete()) {
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

/// Chunks that follow each other, together. Where one request cannot name so many gaps, the last
/// one names what lies between them as well.
fn runs(chunks: impl Iterator<Item = usize>) -> VecDeque<ops::Range<usize>> {
    let mut runs: VecDeque<ops::Range<usize>> = VecDeque::new();
    for chunk in chunks {
        let full = runs.len() == RANGES_MAX;
        match runs.back_mut() {
            Some(run) if run.end == chunk || full => run.end = chunk + 1,
            _ => runs.push_back(chunk..chunk + 1),
        }
    }
    runs
}

/// What to ask for of these chunks; `None` when there is nothing.
fn chunk_range(table: &ChunkTable, run: &ops::Range<usize>) -> Option<Range> {
    let begin = table.range_of(run.start)?.start;
    let end = table.range_of(run.end.checked_sub(1)?)?.end;
    (begin < end).then_some(Range {
        section: Section::Chunks as i32,
        offset: begin,
        length: end - begin,
    })
}

type Part = (Section, &'static str, u64, Digest);

/// What to ask for of a part of the head; `None` when it has no bytes.
fn head_range((section, _, length, _): &Part) -> Option<Range> {
    (*length > 0).then_some(Range {
        section: *section as i32,
        offset: 0,
        length: *length,
    })
}

/// Whether `bytes` at `offset` are what comes next in a part of the package.
fn check_place(
    part: &'static str,
    offset: u64,
    bytes: &Bytes,
    expected: u64,
    length: u64,
) -> Result<(), Fault> {
    let end = offset.saturating_add(bytes.len() as u64);
    let found = offset;
    if end > length {
        return Err(Fault::OutOfRange { part, end, length });
    }
    match offset.cmp(&expected) {
        Ordering::Less => Err(Fault::Repeated {
            part,
            found,
            expected,
        }),
        Ordering::Greater => Err(Fault::LeftOut {
            part,
            found,
            expected,
        }),
        Ordering::Equal => Ok(()),
    }
}
