//! A copy of a gateway's directory while the gateway works: `passerelle backup`.
//!
//! The log is taken as it stands at one moment, under a checkpoint of that moment; packages come
//! after it, so that every one that the log has accepted is there. What a start makes again from
//! the log is left out, and so are keys, which lie where the configuration says. A package that is
//! purged meanwhile is not missed; one that came later is swept by the start.
//!
//! A copy that was put back is older than what others know as soon as anything was cosigned after
//! it. The gateway finds that out, stops, and `passerelle audit reconcile` leads on.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use passerelle_disk::{DiskFile, Kind};
use passerelle_proto::v1::FilePiece;
use tonic::Status;

use crate::export::{PIECE_LEN_MAX, Pieces, Snapshot, send, unavailable};
use crate::node::Node;

/// What a start makes again, what means nothing once the process is gone, and a key of ours alone.
const LEFT_OUT: [&str; 7] = [
    "queue",
    "index",
    "chain",
    "sequences",
    "lock",
    "reset.secret",
    LOG,
];
/// Taken for itself.
const LOG: &str = "log";
/// A directory without it is not complete: it comes last.
const FORMAT: &str = "format";
/// Ends of names that are not in their place yet.
const UNFINISHED: [&str; 2] = ["tmp", "part"];

/// The directory, piece by piece. Blocks.
pub(crate) fn backup(node: &Node, to: &Pieces) -> Result<(), Status> {
    let snapshot = Snapshot::take(node)?;
    let held = node.sequencer.ledger().log.hold().map_err(unavailable)?;
    let put = |path: &str, bytes: &[u8]| send(to, &format!("{LOG}/{path}"), bytes);
    let mut copied = BTreeSet::new();
    snapshot.copy_files(node, |path, bytes| {
        copied.insert(path.to_owned());
        put(path, bytes)
    })?;
    // Where nothing may be signed the log has grown beyond its checkpoint.
    for path in held.full_files().filter(|path| !copied.contains(path)) {
        put(&path, &held.read(&path).map_err(unavailable)?)?;
    }
    for segment in held.segments() {
        let name = segment.path().file_name().unwrap_or_default();
        let bytes = segment.read().map_err(unavailable)?;
        put(&format!("wal/{}", name.to_string_lossy()), &bytes)?;
    }
    put("checkpoint", &snapshot.checkpoint)?;
    for path in node.disk.list(&node.data_dir).map_err(unavailable)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !LEFT_OUT.contains(&name.as_ref()) && name != FORMAT {
            copy(node, &path, to)?;
        }
    }
    copy(node, &node.data_dir.join(FORMAT), to)
}

/// A file, or a directory with all that is in it. What is gone by now was not needed any more.
fn copy(node: &Node, path: &Path, to: &Pieces) -> Result<(), Status> {
    let failed = |error: std::io::Error| unavailable(format_args!("{}: {error}", path.display()));
    let kind = match node.disk.status(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        status => status.map_err(failed)?.kind,
    };
    if path
        .extension()
        .is_some_and(|end| UNFINISHED.iter().any(|unfinished| end == *unfinished))
    {
        return Ok(());
    }
    match kind {
        Kind::Directory => {
            for path in node.disk.list(path).map_err(failed)? {
                copy(node, &path, to)?;
            }
            Ok(())
        }
        Kind::File => match node.disk.open_to_read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            file => send_file(node, path, file.map_err(failed)?.as_ref(), to),
        },
        // The operators' socket.
        Kind::Link | Kind::Other => Ok(()),
    }
}

/// An open file, as long as it is now.
fn send_file(node: &Node, path: &Path, file: &dyn DiskFile, to: &Pieces) -> Result<(), Status> {
    let failed = |error: std::io::Error| unavailable(format_args!("{}: {error}", path.display()));
    let below = path.strip_prefix(&node.data_dir).map_err(unavailable)?;
    let below = below.to_string_lossy().into_owned();
    let length = file.length().map_err(failed)?;
    let mut offset = 0;
    loop {
        let mut bytes = vec![0; (length - offset).min(PIECE_LEN_MAX as u64) as usize];
        file.read_exact_at(&mut bytes, offset).map_err(failed)?;
        offset += bytes.len() as u64;
        let path = below.clone();
        let piece = FilePiece { path, bytes };
        let sent = to.blocking_send(Ok(piece));
        sent.map_err(|_| Status::cancelled("nobody takes the files any more"))?;
        if offset == length {
            return Ok(());
        }
    }
}
