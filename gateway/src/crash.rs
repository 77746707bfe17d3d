//! Where a test lets a gateway die, in the order of a package's way.

use passerelle_disk::CrashPoint;

/// Every [`passerelle_disk::crash_point`] of a gateway.
/// None of them is in release builds.
pub const CRASH_POINTS: [CrashPoint; 46] = [
    at("start.locked", "the data directory is locked"),
    at(
        "start.copied",
        "the end of the log is copied, and not yet believed",
    ),
    at("start.log", "the log is open"),
    at("start.queue", "the queue is open"),
    at("start.caught-up", "queue and index follow the log"),
    at("start.swept", "the spool is swept"),
    at("start.listening", "partners and agents can dial"),
    at("start.anchored", "the start is in the log"),
    at("transfer.begun", "a package's file is made"),
    at("transfer.synced", "bytes of a package are durable"),
    at("transfer.marked", "the mark says so"),
    at("accept.kept", "a whole package is durable"),
    at("commit.signed", "receipts are signed"),
    at("commit.written", "entries are written, not synced"),
    at("commit.appended", "entries are durable"),
    at("commit.applied", "the queue follows"),
    at("accept.committed", "a package is accepted"),
    at("accept.unmarked", "its mark is gone"),
    at("forward.answered", "the next hop has a package"),
    at("forward.said", "its sender will be told"),
    at("forward.recorded", "a word of the next hop is in the log"),
    at("forward.done", "all of them are"),
    at("statement.verified", "a statement has come"),
    at("statement.committed", "it is in the log"),
    at(
        "statement.handed-over",
        "that the next hop has it is in the log",
    ),
    at("damage.said", "a damaged package will be asked for again"),
    at("repair.written", "what was damaged is whole and durable"),
    at("repair.recorded", "the log says so"),
    at("purge.decided", "that bytes of packages go is in the log"),
    at(
        "purge.headed",
        "what stands before a package's chunks has a file of its own",
    ),
    at("purge.removed", "the bytes are gone"),
    at("purge.synced", "they cannot come back"),
    at("purge.said", "our word that they are gone is in the log"),
    at(
        "witness.kept",
        "a partner's checkpoint is kept, not yet cosigned",
    ),
    at("witness.cosigned", "a partner's cosignature is kept"),
    at("checkpoint.tiles", "tiles that are not full are written"),
    at("checkpoint.written", "a checkpoint is signed"),
    at("segment.reserved", "the next segment has its room"),
    at("segment.taken", "the reserved segment is taken"),
    at("segment.filled", "it has its beginning"),
    at("segment.begun", "it has its name"),
    at("segment.removed", "an old segment is gone"),
    at("tile.written", "a full tile is written"),
    at("stop.recorded", "the stop is in the log"),
    at("stop.checkpointed", "the last checkpoint is signed"),
    at("stop.closed", "the queue is closed"),
];

const fn at(name: &'static str, after: &'static str) -> CrashPoint {
    CrashPoint { name, after }
}
