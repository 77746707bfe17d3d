//! What the fuzz targets do with their bytes: one plain function for each parser that sees bytes
//! of others.
//!
//! Not one of them may panic, and each asserts what must hold of whatever it accepts: that it is
//! written again as it was read, and that its limits hold. `tests/fuzz` runs them under libFuzzer;
//! the tests here feed them every seed and every input that once broke something.

mod evidence;
mod frames;
mod lines;
mod logs;
mod names;
mod opening;
mod parts;
mod session;
mod signed;
mod stamps;
mod texts;

pub use opening::{Chunk, Entry, Inside};

/// One target.
pub struct Target {
    /// Its name, and the folder of its corpus.
    pub name: &'static str,
    /// What it does with the bytes; it panics when a promise is broken.
    pub run: fn(&[u8]),
}

/// Every target there is.
pub const TARGETS: &[Target] = &[
    target("envelope", signed::envelope),
    target("manifest", signed::manifest),
    target("statement", signed::statement),
    target("wraps", signed::wraps),
    target("note", texts::note),
    target("convention", texts::convention),
    target("sheet", texts::sheet),
    target("key_text", texts::key_text),
    target("configuration", texts::configuration),
    target("checkpoint", lines::checkpoint),
    target("proof", lines::proof),
    target("evidence", evidence::evidence),
    target("time_stamp", stamps::time_stamp),
    target("witness_request", lines::witness_request),
    target("vkey", lines::vkey),
    target("names", names::names),
    target("chunk_table", parts::chunk_table),
    target("pack", parts::pack),
    target("inline", parts::inline),
    target("opening", opening::opening),
    target("tiles", logs::tiles),
    target("tile_path", logs::tile_path),
    target("log_frames", frames::log_frames),
    target("session_accepting", session::accepting),
    target("session_offering", session::offering),
    target("session_frames", session::frames),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// Runs one target.
///
/// # Panics
/// When there is no target of this name, or a promise is broken.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("there is no fuzz target {name:?}"));
    (target.run)(data);
}
