//! The drop folder: what has become stable there, and what can never be sent.
//!
//! Polled rather than watched, because outboxes are often network shares whose servers
//! announce nothing. An entry is claimed when two looks, at least `settle` apart, see the same
//! files, lengths and times. Names that begin with a dot or end in `.tmp` or `.part` are left
//! alone: a program that writes slowly uses one of these and renames when it is done.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use passerelle_disk::{At, Disk, DiskError, Kind, Status};

/// Entries that one drop may hold, directories included; more is refused when it is claimed.
pub const ENTRIES_MAX: usize = 8_192;

/// Directories inside one another that one drop may hold.
pub const DEPTH_MAX: usize = 32;

/// Endings of names that are still being written.
const UNFINISHED: [&str; 3] = [".tmp", ".part", ".partial"];

/// What the outbox holds that can be acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Find {
    /// Has not changed for the settling time.
    Stable(Dropped),
    /// Can never be sent, whatever time passes.
    Unfit(Dropped, Unfit),
}

/// One entry of `outbox/<flow>/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Name of the directory it was dropped in.
    pub flow: String,
    /// Where it lies.
    pub path: PathBuf,
}

/// Why a dropped entry can never be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A link may point anywhere.
    #[error("it is a symbolic link; drop the file itself")]
    Link,
    /// A socket, pipe or device.
    #[error("it is neither a file nor a directory; drop a file or a directory")]
    Special,
    /// Not UTF-8, or with control characters.
    #[error("its name is not readable text; rename it (UTF-8, no control characters)")]
    Name,
    /// More entries or levels than a package may have.
    #[error("it holds more than {ENTRIES_MAX} entries or {DEPTH_MAX} levels; split it, or zip it")]
    TooMany,
}

/// What two looks at an entry must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shape {
    /// Files found.
    pub files: usize,
    /// Their lengths together, in bytes.
    pub bytes: u64,
    entries: usize,
    newest: Duration,
    inodes: u64,
}

/// Remembers the last look, to tell what has settled. Inputs: [`Outbox::look`].
#[derive(Debug)]
pub struct Outbox {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    settle: Duration,
    seen: BTreeMap<PathBuf, (Shape, Instant)>,
}

impl Outbox {
    /// Looks at `directory`; an entry must not change for `settle`.
    pub fn new(disk: &Arc<dyn Disk>, directory: PathBuf, settle: Duration) -> Self {
        Outbox {
            disk: disk.clone(),
            directory,
            settle,
            seen: BTreeMap::new(),
        }
    }

    /// Looks once. Reads names and sizes only, no contents.
    pub fn look(&mut self, now: Instant) -> Result<Vec<Find>, DiskError> {
        let mut finds = Vec::new();
        let mut seen = BTreeMap::new();
        for flow in self.disk.entries(&self.directory)? {
            let Some(name) = flow.file_name().and_then(|n| n.to_str()) else {
                continue;
            };
            if name.starts_with('.') || !self.disk.is_dir(&flow) {
                continue;
            }
            for path in self.disk.entries(&flow)? {
                let dropped = Dropped {
                    flow: name.to_owned(),
                    path,
                };
                if let Some(find) = self.judge(dropped, now, &mut seen)? {
                    finds.push(find);
                }
            }
        }
        self.seen = seen;
        Ok(finds)
    }

    /// Whether something lies there that has not settled yet.
    pub fn is_settling(&self) -> bool {
        !self.seen.is_empty()
    }

    fn judge(
        &self,
        dropped: Dropped,
        now: Instant,
        seen: &mut BTreeMap<PathBuf, (Shape, Instant)>,
    ) -> Result<Option<Find>, DiskError> {
        let name = dropped.path.file_name().unwrap_or_default();
        if is_unfinished(&name.to_string_lossy()) {
            return Ok(None);
        }
        let shape = match shape_of(self.disk.as_ref(), &dropped.path) {
            // Whoever dropped it has taken it back, or a file in it, while we looked.
            Err(Look::Disk(e)) if e.is_not_found() => return Ok(None),
            Err(Look::Disk(e)) => return Err(e),
            Err(Look::Unfit(unfit)) => return Ok(Some(Find::Unfit(dropped, unfit))),
            Ok(shape) => shape,
        };
        if !name.to_str().is_some_and(is_readable) {
            return Ok(Some(Find::Unfit(dropped, Unfit::Name)));
        }
        // An empty directory is one that is about to be filled.
        if shape.files == 0 {
            return Ok(None);
        }
        let since = match self.seen.get(&dropped.path) {
            Some((before, since)) if *before == shape => *since,
            _ => now,
        };
        seen.insert(dropped.path.clone(), (shape, since));
        let settled = now.saturating_duration_since(since) >= self.settle;
        let again = self.seen.contains_key(&dropped.path);
        Ok((settled && again).then_some(Find::Stable(dropped)))
    }
}

/// Whether a name says that its file is still being written, or is none of ours.
pub fn is_unfinished(name: &str) -> bool {
    name.starts_with('.') || UNFINISHED.iter().any(|end| name.ends_with(end))
}

fn is_readable(name: &str) -> bool {
    !name.chars().any(char::is_control)
}

/// Why a shape could not be told.
#[derive(Debug)]
pub enum Look {
    /// The file system failed.
    Disk(DiskError),
    /// There is something in it that can never be sent.
    Unfit(Unfit),
}

/// Files, lengths and times under `path`, without following links.
pub fn shape_of(disk: &dyn Disk, path: &Path) -> Result<Shape, Look> {
    let mut shape = Shape::default();
    add(disk, path, &mut shape, 0)?;
    Ok(shape)
}

fn add(disk: &dyn Disk, path: &Path, shape: &mut Shape, depth: usize) -> Result<(), Look> {
    let found = disk.status(path).at("inspect", path).map_err(Look::Disk)?;
    if shape.entries >= ENTRIES_MAX || depth > DEPTH_MAX {
        return Err(Look::Unfit(Unfit::TooMany));
    }
    count(&found, shape);
    match found.kind {
        Kind::Link => return Err(Look::Unfit(Unfit::Link)),
        Kind::Other => return Err(Look::Unfit(Unfit::Special)),
        Kind::File => {
            shape.files += 1;
            shape.bytes = shape.bytes.saturating_add(found.length);
            return Ok(());
        }
        Kind::Directory => {}
    }
    for entry in disk.entries(path).map_err(Look::Disk)? {
        add(disk, &entry, shape, depth + 1)?;
    }
    Ok(())
}

fn count(found: &Status, shape: &mut Shape) {
    let since = found.modified.duration_since(UNIX_EPOCH);
    shape.entries += 1;
    shape.newest = shape.newest.max(since.unwrap_or_default());
    // A file that was replaced by another of the same length and time is another file.
    shape.inodes = shape.inodes.wrapping_mul(31).wrapping_add(found.number);
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SETTLE: Duration = Duration::from_secs(2);

    fn outbox() -> (tempfile::TempDir, Outbox, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let flow = dir.path().join("observation-iris");
        fs::create_dir(&flow).unwrap();
        let outbox = Outbox::new(&passerelle_disk::system(), dir.path().to_owned(), SETTLE);
        (dir, outbox, flow)
    }

    #[test]
    fn a_file_is_found_once_it_has_not_changed_for_the_settling_time() {
        let (_dir, mut outbox, flow) = outbox();
        let start = Instant::now();
        fs::write(flow.join("t.csv"), b"a").unwrap();
        assert_eq!(outbox.look(start).unwrap(), vec![]);
        fs::write(flow.join("t.csv"), b"ab").unwrap();
        assert_eq!(outbox.look(start + SETTLE).unwrap(), vec![], "it grew");
        let found = outbox.look(start + 2 * SETTLE).unwrap();
        let path = flow.join("t.csv");
        let flow = "observation-iris".to_owned();
        assert_eq!(found, vec![Find::Stable(Dropped { flow, path })]);
    }

    #[test]
    fn one_look_is_never_enough() {
        let (dir, _, flow) = outbox();
        let mut outbox = Outbox::new(
            &passerelle_disk::system(),
            dir.path().to_owned(),
            Duration::ZERO,
        );
        fs::write(flow.join("t.csv"), b"a").unwrap();
        let now = Instant::now();
        assert_eq!(outbox.look(now).unwrap(), vec![]);
        assert_eq!(outbox.look(now).unwrap().len(), 1);
    }

    #[test]
    fn names_of_unfinished_files_and_empty_directories_are_left_alone() {
        let (_dir, mut outbox, flow) = outbox();
        for name in [".hidden", "t.csv.tmp", "t.csv.part", "t.partial"] {
            fs::write(flow.join(name), b"a").unwrap();
        }
        fs::create_dir(flow.join("empty")).unwrap();
        let start = Instant::now();
        for turn in 0..3 {
            assert_eq!(outbox.look(start + turn * SETTLE).unwrap(), vec![]);
        }
    }

    #[test]
    fn links_pipes_and_unreadable_names_are_unfit() {
        let (_dir, mut outbox, flow) = outbox();
        std::os::unix::fs::symlink("/etc/passwd", flow.join("link")).unwrap();
        fs::create_dir(flow.join("tree")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", flow.join("tree/deep")).unwrap();
        fs::write(flow.join("bell\u{7}"), b"").unwrap();
        let socket = std::os::unix::net::UnixListener::bind(flow.join("socket")).unwrap();
        let finds = outbox.look(Instant::now()).unwrap();
        let reasons: Vec<_> = finds
            .into_iter()
            .map(|f| match f {
                Find::Unfit(d, unfit) => (d.path.file_name().unwrap().to_owned(), unfit),
                Find::Stable(d) => panic!("{d:?}"),
            })
            .collect();
        let expected = [
            ("bell\u{7}", Unfit::Name),
            ("link", Unfit::Link),
            ("socket", Unfit::Special),
            ("tree", Unfit::Link),
        ];
        assert_eq!(reasons, expected.map(|(n, u)| (n.into(), u)));
        drop(socket);
    }

    #[test]
    fn a_replaced_file_of_the_same_length_settles_anew() {
        let (_dir, mut outbox, flow) = outbox();
        let start = Instant::now();
        fs::write(flow.join("t.csv"), b"a").unwrap();
        outbox.look(start).unwrap();
        fs::write(flow.join(".new"), b"b").unwrap();
        fs::rename(flow.join(".new"), flow.join("t.csv")).unwrap();
        assert_eq!(outbox.look(start + SETTLE).unwrap(), vec![]);
        assert_eq!(outbox.look(start + 2 * SETTLE).unwrap().len(), 1);
    }
}
