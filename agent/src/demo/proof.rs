//! What the demonstration claims, checked against the files alone.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use passerelle_proto::TimeAuthorities;

use super::site::gateway_of;
use crate::cli::{Configured, Exit, Failure, Judge, LogVerdict, verify_log_directory};
use crate::lab::LabParty;

/// Bytes compared at once.
const BLOCK_LEN: usize = 64 * 1024;

/// Compares every file that was sent with the one of the same name that was received. Says how
/// many files and bytes they are.
pub(super) fn same_files(sent: &Path, received: &Path) -> Result<(u64, u64), Failure> {
    let ours = files(sent, sent)?;
    let theirs = files(received, received)?;
    if ours != theirs {
        let what = format_args!("{} holds other files than were sent", received.display());
        return Err(Failure::new(
            Exit::Software,
            what,
            "compare the directories, and report it",
        ));
    }
    let mut bytes = 0;
    for name in &ours {
        let (from, to) = (sent.join(name), received.join(name));
        let same = compare(&from, &to).map_err(|error| Failure::reading(&to, &error))?;
        let Some(length) = same else {
            let what = format_args!("{} differs from {}", to.display(), from.display());
            return Err(Failure::new(
                Exit::Software,
                what,
                "keep both files, and report it",
            ));
        };
        bytes += length;
    }
    Ok((ours.len() as u64, bytes))
}

/// Names of all files below `dir`, relative to `root`, in order.
fn files(root: &Path, dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let listed = passerelle_disk::system()
        .entries(dir)
        .map_err(|error| Failure::reading(dir, &error.source))?;
    for path in listed {
        if path.is_dir() {
            found.extend(files(root, &path)?);
        } else if let Ok(name) = path.strip_prefix(root) {
            found.push(name.to_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// The common length, or `None` if the files differ.
fn compare(a: &Path, b: &Path) -> io::Result<Option<u64>> {
    let (mut a, mut b) = (
        BufReader::new(File::open(a)?),
        BufReader::new(File::open(b)?),
    );
    let (mut left, mut right) = (vec![0; BLOCK_LEN], vec![0; BLOCK_LEN]);
    let mut length = 0;
    loop {
        let (n, m) = (fill(&mut a, &mut left)?, fill(&mut b, &mut right)?);
        if left[..n] != right[..m] {
            return Ok(None);
        }
        if n == 0 {
            return Ok(Some(length));
        }
        length += n as u64;
    }
}

fn fill(from: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match from.read(&mut block[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// Verifies a party's log with the copy that its partner keeps; at least `size` entries must be
/// cosigned, both by the partner's lines in our copy and in its own.
pub(super) fn believe_log(
    owner: &LabParty,
    partner: &LabParty,
    size: u64,
) -> Result<LogVerdict, Failure> {
    let ours = gateway_of(owner)?;
    let theirs = gateway_of(partner)?;
    let directory = Configured::load(&ours.config)?.trust()?;
    let kept = theirs
        .data_dir
        .join("witness")
        .join(format!("{}.note", owner.id));
    let judge = Judge {
        directory: &directory,
        witnessed: &[kept],
        signatures: true,
        authorities: &TimeAuthorities::default(),
    };
    let verdict = verify_log_directory(&ours.data_dir.join("log"), &judge)?;
    let covered = verdict.cosigned.iter().filter(|c| c.size >= size).count();
    if covered < 2 {
        let what = format_args!("{} has not cosigned the first {size} entries", partner.id);
        return Err(Failure::new(
            Exit::Software,
            what,
            "look at both gateways' messages",
        ));
    }
    Ok(verdict)
}
