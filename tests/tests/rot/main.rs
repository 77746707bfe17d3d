//! Every kind of file rots in every way, and nobody believes what has: it is made again, fetched
//! again, or refused with the remedy. What was found stands in `ROT.md`.

mod agent;
mod harm;
mod notes;
mod scene;
mod spool;
mod store;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::harm::Row;

/// Where the matrix stands, below the crate.
const TABLE: &str = "ROT.md";

/// What each kind of file is tried by.
const KINDS: [fn() -> Vec<Row>; 4] = [spool::rows, store::rows, agent::rows, notes::rows];

#[test]
fn whatever_rots_is_repaired_or_refused_and_the_matrix_says_so() {
    let begun = Instant::now();
    let rows: Vec<Row> = std::thread::scope(|scope| {
        let tried = KINDS.map(|kind| scope.spawn(kind));
        let rows = tried.into_iter().map(|kind| kind.join().unwrap());
        rows.flatten().collect()
    });
    let found: BTreeSet<String> = rows.iter().map(ToString::to_string).collect();
    let matrix: Vec<&str> = found.iter().map(String::as_str).collect();
    println!("{}", matrix.join("\n"));
    println!("{} rows in {:?}", rows.len(), begun.elapsed());
    let table = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE)).unwrap();
    let cells = table.lines().filter(|line| line.starts_with("| "));
    // The first line is the heading.
    let stands: BTreeSet<String> = cells.skip(1).map(str::to_owned).collect();
    let differ: Vec<_> = stands.symmetric_difference(&found).collect();
    assert!(
        differ.is_empty(),
        "{TABLE} and what is found differ: {differ:#?}"
    );
}
