//! One package that we offer: what the receiver needs is read and sent within its window.

use std::collections::VecDeque;

use super::{DATA_LEN, Fault, UNSYNCED_MAX};
use crate::VerifiedManifest;
use crate::v1::{Range, Section};

/// Ranges that one Need may name.
pub(super) const RANGES_MAX: usize = 4096;

/// Position in one offer.
pub(super) struct Offering {
    lengths: [u64; 4],
    wanted: VecDeque<(Section, u64, u64)>,
    // Where what was asked for until now ends.
    asked: (i32, u64),
    // Length of the read that is under way.
    reading: Option<u64>,
    sent: u64,
    synced: u64,
    needs: u8,
}

impl Offering {
    pub(super) fn new(manifest: &VerifiedManifest) -> Self {
        Self {
            lengths: [
                manifest.wraps().length,
                manifest.chunk_table().length,
                manifest.index().length,
                manifest.payload_length(),
            ],
            wanted: VecDeque::new(),
            asked: (0, 0),
            reading: None,
            sent: 0,
            synced: 0,
            needs: 0,
        }
    }

    /// The receiver lacks these ranges: within the package, and each behind the one before.
    pub(super) fn on_need(&mut self, ranges: &[Range]) -> Result<(), Fault> {
        self.needs += 1;
        // Once for the head and once for the chunks.
        if self.needs > 2 || ranges.len() > RANGES_MAX {
            return Err(Fault::Range);
        }
        for range in ranges {
            let section = range.section();
            let length = match section {
                Section::Wraps => self.lengths[0],
                Section::ChunkTable => self.lengths[1],
                Section::Index => self.lengths[2],
                Section::Chunks => self.lengths[3],
                Section::Unspecified => return Err(Fault::Range),
            };
            let end = range.offset.checked_add(range.length).ok_or(Fault::Range)?;
            if end > length {
                return Err(Fault::Range);
            }
            if range.length > 0 {
                let begin = (section as i32, range.offset);
                if begin < self.asked {
                    return Err(Fault::Range);
                }
                self.asked = (section as i32, end);
                self.wanted.push_back((section, range.offset, range.length));
            }
        }
        Ok(())
    }

    /// The next bytes to read, one request at a time.
    pub(super) fn poll_read(&mut self) -> Option<(Section, u64, u64)> {
        let room = UNSYNCED_MAX - (self.sent - self.synced);
        if self.reading.is_some() || room == 0 {
            return None;
        }
        let (section, offset, left) = self.wanted.front_mut()?;
        let length = (*left).min(DATA_LEN).min(room);
        let read = (*section, *offset, length);
        *offset += length;
        *left -= length;
        if *left == 0 {
            self.wanted.pop_front();
        }
        self.reading = Some(length);
        Some(read)
    }

    /// The bytes of the read that is under way; false when they are not as many as it asks for.
    pub(super) fn on_read(&mut self, bytes: u64) -> bool {
        if self.reading.take() != Some(bytes) {
            return false;
        }
        self.sent += bytes;
        true
    }

    /// So many bytes are on the receiver's stable storage.
    pub(super) fn on_synced(&mut self, bytes: u64) -> Result<(), Fault> {
        if bytes > self.sent || bytes < self.synced {
            return Err(Fault::Synced);
        }
        self.synced = bytes;
        Ok(())
    }
}
