//! The drop folder: what has become stable there, and what can never be sent.
//!
//! Polled rather than watched, because outboxes are often network shares whose servers
//! announce nothing. An entry is claimed when two looks, at least `settle` apart, see the same
//! files, lengths and times. Names that begin with a dot or end in `.tmp` or `.part` are left
//! alone: a program that writes slowly uses one of these and renames when it is done.
//!
//! What cannot be looked at, or can never be claimed where it lies, is a find of its own: it keeps
//! nothing else from being found.

mod stuck;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use passerelle_disk::{At, Disk, DiskError, Kind, Status};
use passerelle_proto::{Convention, PartyId};

pub use self::stuck::Obstacle;
pub(crate) use self::stuck::{RETRY, Stuck};
use crate::store::Store;

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
    /// Stays where it is until somebody changes that.
    Stuck(PathBuf, Obstacle),
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

/// What was seen of an entry, and since when.
type Seen = BTreeMap<PathBuf, (Shape, Instant)>;

/// Remembers the last look, to tell what has settled. Inputs: [`Outbox::look`].
#[derive(Debug)]
pub struct Outbox {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    settle: Duration,
    seen: Seen,
}

/// One look, while it is being made.
struct Round {
    now: Instant,
    seen: Seen,
    finds: Vec<Find>,
}

impl Round {
    fn stuck(&mut self, path: &Path, obstacle: Obstacle) {
        self.finds.push(Find::Stuck(path.to_owned(), obstacle));
    }

    /// Whoever dropped it may have taken it back while we looked; all else is told.
    fn failed(&mut self, path: &Path, error: &DiskError) {
        if !error.is_not_found() {
            self.stuck(path, Obstacle::of(error));
        }
    }
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
    pub fn look(&mut self, now: Instant) -> Vec<Find> {
        let mut round = Round {
            now,
            seen: BTreeMap::new(),
            finds: Vec::new(),
        };
        if let Err(error) = self.look_at_all(&mut round) {
            round.stuck(&self.directory, Obstacle::of(&error));
        }
        self.seen = round.seen;
        round.finds
    }

    /// Whether a find is still as the last look saw it, as far as that can be told.
    pub fn is_as_seen(&self, dropped: &Dropped) -> bool {
        let seen = self.seen.get(&dropped.path);
        let shape = shape_of(self.disk.as_ref(), &dropped.path);
        seen.is_some_and(|(seen, _)| shape.is_ok_and(|shape| shape == *seen))
    }

    fn look_at_all(&self, round: &mut Round) -> Result<(), DiskError> {
        let directory = &self.directory;
        let place = self.disk.resolve(directory).at("resolve", directory)?;
        let device = self.disk.status(&place).at("inspect", &place)?.device;
        for path in self.disk.entries(directory)? {
            self.look_at(&path, device, round);
        }
        Ok(())
    }

    /// Looks at what stands in the outbox itself, which lies on `device`: a flow's folder, or what
    /// nobody will ever claim.
    fn look_at(&self, path: &Path, device: u64, round: &mut Round) {
        let name = path.file_name().unwrap_or_default();
        if name.to_string_lossy().starts_with('.') {
            return;
        }
        let found = match self.disk.status(path).at("inspect", path) {
            Ok(found) => found,
            Err(error) => return round.failed(path, &error),
        };
        let obstacle = match (found.kind, name.to_str()) {
            (Kind::Directory, Some(_)) if found.device != device => Obstacle::Elsewhere,
            (Kind::Directory, Some(flow)) => return self.look_into(flow, path, round),
            (Kind::Directory, None) => Obstacle::Name,
            (Kind::Link, _) => Obstacle::Link,
            (Kind::File | Kind::Other, _) if is_unfinished(&name.to_string_lossy()) => return,
            (Kind::File | Kind::Other, _) => Obstacle::Stray,
        };
        let mut shape = Shape::default();
        count(&found, &mut shape);
        // It may be on its way to its place.
        if self.has_settled(path, shape, round) {
            round.stuck(path, obstacle);
        }
    }

    fn look_into(&self, flow: &str, folder: &Path, round: &mut Round) {
        let entries = match self.disk.entries(folder) {
            Ok(entries) => entries,
            Err(error) => return round.failed(folder, &error),
        };
        for path in entries {
            let flow = flow.to_owned();
            self.judge(Dropped { flow, path }, round);
        }
    }

    fn judge(&self, dropped: Dropped, round: &mut Round) {
        let name = dropped.path.file_name().unwrap_or_default();
        if is_unfinished(&name.to_string_lossy()) {
            return;
        }
        let shape = match shape_of(self.disk.as_ref(), &dropped.path) {
            Err(Look::Disk(error)) => return round.failed(&dropped.path, &error),
            Err(Look::Unfit(unfit)) => return round.finds.push(Find::Unfit(dropped, unfit)),
            Ok(shape) => shape,
        };
        if !name.to_str().is_some_and(is_readable) {
            return round.finds.push(Find::Unfit(dropped, Unfit::Name));
        }
        // An empty directory is one that is about to be filled.
        if shape.files > 0 && self.has_settled(&dropped.path, shape, round) {
            round.finds.push(Find::Stable(dropped));
        }
    }

    /// Whether an entry has this shape since the look before, and for long enough.
    fn has_settled(&self, path: &Path, shape: Shape, round: &mut Round) -> bool {
        let before = self.seen.get(path);
        let since = match before {
            Some((before, since)) if *before == shape => *since,
            _ => round.now,
        };
        round.seen.insert(path.to_owned(), (shape, since));
        before.is_some() && round.now.saturating_duration_since(since) >= self.settle
    }
}

/// Makes a folder for each flow on which the party sends. On return they are durable.
///
/// # Errors
/// [`DiskError`].
pub(crate) fn make_folders(
    store: &Store,
    convention: &Convention,
    party: &PartyId,
) -> Result<(), DiskError> {
    for flow in convention.flows() {
        if flow.from.contains(party) {
            let folder = store.outbox().join(flow.id.as_str());
            store.disk().create_directories(&folder)?;
        }
    }
    Ok(())
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
        assert_eq!(outbox.look(start), vec![]);
        fs::write(flow.join("t.csv"), b"ab").unwrap();
        assert_eq!(outbox.look(start + SETTLE), vec![], "it grew");
        let found = outbox.look(start + 2 * SETTLE);
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
        assert_eq!(outbox.look(now), vec![]);
        assert_eq!(outbox.look(now).len(), 1);
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
            assert_eq!(outbox.look(start + turn * SETTLE), vec![]);
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
        let finds = outbox.look(Instant::now());
        let reasons: Vec<_> = finds
            .into_iter()
            .map(|f| match f {
                Find::Unfit(d, unfit) => (d.path.file_name().unwrap().to_owned(), unfit),
                other => panic!("{other:?}"),
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
        outbox.look(start);
        fs::write(flow.join(".new"), b"b").unwrap();
        fs::rename(flow.join(".new"), flow.join("t.csv")).unwrap();
        assert_eq!(outbox.look(start + SETTLE), vec![]);
        assert_eq!(outbox.look(start + 2 * SETTLE).len(), 1);
    }

    #[test]
    fn what_nobody_will_ever_claim_is_told_once_it_has_come_to_rest() {
        let (dir, mut outbox, flow) = outbox();
        let start = Instant::now();
        let [stray, link] = ["t.csv", "signalement"].map(|name| dir.path().join(name));
        fs::write(&stray, b"a").unwrap();
        for unfinished in ["u.csv.part", ".DS_Store"] {
            fs::write(dir.path().join(unfinished), b"a").unwrap();
        }
        std::os::unix::fs::symlink(&flow, &link).unwrap();
        assert_eq!(outbox.look(start), [], "it may be on its way to its place");
        let stuck = |path: &Path, obstacle| Find::Stuck(path.to_owned(), obstacle);
        let both = [stuck(&link, Obstacle::Link), stuck(&stray, Obstacle::Stray)];
        assert_eq!(outbox.look(start + SETTLE), both);
        fs::rename(&stray, flow.join("t.csv")).unwrap();
        fs::remove_file(&link).unwrap();
        assert_eq!(outbox.look(start + SETTLE), []);
    }

    #[test]
    fn a_find_that_has_changed_since_the_look_is_not_as_it_was_seen() {
        let (_dir, mut outbox, flow) = outbox();
        let start = Instant::now();
        let path = flow.join("t.csv");
        fs::write(&path, b"a").unwrap();
        outbox.look(start);
        let found = outbox.look(start + SETTLE);
        let [Find::Stable(dropped)] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert!(outbox.is_as_seen(dropped));
        fs::write(&path, b"ab").unwrap();
        assert!(!outbox.is_as_seen(dropped));
        fs::remove_file(&path).unwrap();
        assert!(!outbox.is_as_seen(dropped));
    }
}
