//! Where a test lets an agent die, in the order of a package's way.

use passerelle_disk::CrashPoint;

/// Every [`passerelle_disk::crash_point`] of an agent.
/// None of them is in release builds.
pub const CRASH_POINTS: [CrashPoint; 33] = [
    at("start.locked", "the agent's directory is locked"),
    at("start.loaded", "the register is read"),
    at("start.recovered", "what was half done is done"),
    at("start.resumed", "claimed jobs are sealed"),
    at("claim.prepared", "a job is made"),
    at("claim.claimed", "what was dropped is in it"),
    at("seal.written", "the sealed package is durable"),
    at("seal.described", "its manifest and description too"),
    at("seal.sealed", "it has its name"),
    at("statement.verified", "a statement has come"),
    at("statement.stored", "it is durable"),
    at("finish.reported", "the report is written"),
    at("finish.moved", "a job that is over is moved"),
    at("finish.freed", "its ciphertext is gone"),
    at("reject.prepared", "a place for what cannot be sent is made"),
    at("reject.moved", "it lies there"),
    at("arrive.begun", "a package's file is made"),
    at("arrive.synced", "bytes of a package are durable"),
    at("arrive.marked", "the mark says so"),
    at("arrive.whole", "all bytes are durable"),
    at("arrive.complete", "the mark is gone"),
    at("damage.said", "it is kept that a package is damaged"),
    at("damage.forgotten", "the damaged package is gone"),
    at("open.written", "a package is opened and durable"),
    at("open.renamed", "it counts as opened"),
    at("enter.written", "its entry is written, without a name"),
    at("open.entered", "the register has it"),
    at("open.placed", "it is in the inbox"),
    at("say.kept", "a receipt of ours is durable"),
    at("say.noted", "the sequence of statements goes on after it"),
    at("open.receipted", "the package is receipted"),
    at("open.done", "its file is gone"),
    at(
        "say.acknowledged",
        "our gateway has a statement of ours, and the register knows",
    ),
];

const fn at(name: &'static str, after: &'static str) -> CrashPoint {
    CrashPoint { name, after }
}
