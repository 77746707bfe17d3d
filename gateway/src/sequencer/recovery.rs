//! What a start makes of the log: queue, index and the numbering of our statements follow it.

use std::path::Path;

use passerelle_disk::{Disk, DiskError};
use passerelle_proto::v1::{self, entry::Event};
use passerelle_proto::{StatementChain, Timestamp, UntrustedStatement};
use prost::Message;

use super::{Ledger, OpenError};
use crate::queue::Queue;

/// Entries read at once.
const CATCH_UP: u64 = 1024;

/// Brings queue, index and the sequence of our statements up to the log; returns the time of its
/// last entry.
pub(super) fn catch_up(
    ledger: &mut Ledger,
    queue: &dyn Queue,
    chain: &mut StatementChain,
    chain_from: u64,
) -> Result<Timestamp, OpenError> {
    let applied = queue.applied();
    // A queue that is ahead of the log, or of another log, is made again.
    let known =
        applied.size <= ledger.log.size() && ledger.log.root_at(applied.size)? == applied.root;
    if !known {
        tracing::warn!("the queue does not follow this log; it is made again from it");
        queue.reset()?;
    }
    let mut last = Timestamp::default();
    let queued = queue.applied().size;
    let mut first = queued.min(ledger.index.next()).min(chain_from);
    first = first.min(ledger.sequences.next());
    first = first.min(ledger.log.size().saturating_sub(1));
    while first < ledger.log.size() {
        let bytes = ledger.log.entries(first, CATCH_UP)?;
        let mut entries = Vec::with_capacity(bytes.len());
        for (index, bytes) in (first..).zip(&bytes) {
            let entry = v1::Entry::decode(bytes.as_slice()).map_err(|_| OpenError::Entry(index))?;
            last = last.max(Timestamp::from_ms(entry.at_ms));
            if index == ledger.index.next() {
                let failed = |source| OpenError::Io {
                    what: "index",
                    source,
                };
                ledger.index.push(&entry).map_err(failed)?;
            }
            if index == ledger.sequences.next() {
                ledger.sequences.push(&entry);
            }
            if index >= chain_from {
                follow(chain, &entry);
            }
            entries.push(entry);
        }
        let after = first + entries.len() as u64;
        if after > queued {
            let skip = queued.saturating_sub(first) as usize;
            let root = ledger.log.root_at(after)?;
            queue.apply(first + skip as u64, &entries[skip..], root)?;
        }
        first = after;
    }
    Ok(last)
}

/// Takes our own statements in an entry into the sequence.
fn follow(chain: &mut StatementChain, entry: &v1::Entry) {
    let signed = match &entry.event {
        Some(Event::Accepted(event)) => event.receipt.clone(),
        Some(Event::Statement(event)) if event.from.is_none() => event.statement.clone(),
        _ => None,
    };
    let parsed = signed.and_then(|signed| UntrustedStatement::parse(signed).ok());
    if let Some(statement) = parsed {
        // Signed here, with whichever key it was then.
        chain.seen(&statement.verified_before());
    }
}

/// The sequence of our statements as it was written last, and the size of the log then.
pub(super) fn read_chain(disk: &dyn Disk, path: &Path, log_size: u64) -> (StatementChain, u64) {
    let bytes = disk.read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let read = StatementChain::parse_text(&text);
    match read.and_then(|(size, chain)| Some((chain, size.parse().ok()?))) {
        Some((chain, size)) if size <= log_size => (chain, size),
        // It is derived: without it the log is read from its beginning.
        _ => (StatementChain::default(), 0),
    }
}

/// Writes the sequence as it stands at this size of the log; the next start is shorter for it.
///
/// # Errors
/// [`DiskError`].
pub(super) fn write_chain(
    disk: &dyn Disk,
    path: &Path,
    size: u64,
    chain: &StatementChain,
) -> Result<(), DiskError> {
    let text = chain.to_text(&size.to_string());
    disk.replace(path, text.as_bytes())
}
