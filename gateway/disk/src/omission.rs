//! Syncs that are left out, for tests: what nobody misses after a power cut is needless, or nobody
//! looks.

use std::backtrace::Backtrace;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile, Status};
use crate::memory::MemoryDisk;

/// Called before each sync once one has been left out, or before every one when none is: what a
/// power cut leaves changes with syncs only.
pub type Look = Box<dyn Fn(&MemoryDisk) + Send + Sync>;

/// A disk in memory that leaves out every sync which is called at one site, and says that it did
/// it.
///
/// A site is a chain of functions, from the sync to the first one outside this crate:
/// `sync_parent < rename_synced < job::commit_package`. It is read from the stack: the build must
/// have line numbers in it.
#[derive(Clone)]
pub struct OmittingDisk(Arc<Omission>);

struct Omission {
    below: MemoryDisk,
    /// The site whose syncs are left out.
    site: Option<String>,
    look: Look,
    seen: Mutex<Seen>,
}

struct Seen {
    sites: BTreeSet<String>,
    looks: bool,
}

impl Omission {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let cwd = std::env::current_dir()?;
        let site = site_of(&Backtrace::force_capture().to_string(), &cwd);
        if self.seen().looks {
            (self.look)(&self.below);
        }
        let omit = self.site.as_ref() == Some(&site);
        let mut seen = self.seen();
        seen.sites.insert(site);
        seen.looks |= omit;
        if omit { Ok(()) } else { work() }
    }
}

/// The chain of functions above a sync, from a printed stack; `cwd` is what `.` in it stands for.
///
/// Functions that were inlined have no path in their names, so the files tell whose they are.
fn site_of(stack: &str, cwd: &Path) -> String {
    let mut chain: Vec<String> = Vec::new();
    let mut name = "";
    for line in stack.lines().map(str::trim_start) {
        let Some(place) = line.strip_prefix("at ") else {
            name = line.split_once(": ").map_or("", |(_, name)| name);
            continue;
        };
        let file = place.split(':').next().unwrap_or_default();
        let file = cwd.join(file.trim_start_matches("./"));
        let text = file.to_string_lossy();
        if OTHERS.iter().any(|folder| text.contains(folder)) || text.ends_with(THIS) {
            continue;
        }
        let function = function_of(name);
        let same = chain.last() == Some(&function);
        match text.contains(DISK) {
            // A closure is called by a function that has a name.
            _ if function.is_empty() || same => {}
            true => chain.push(function),
            false => {
                let module = file.file_stem().unwrap_or_default().to_string_lossy();
                chain.push(format!("{module}::{function}"));
                break;
            }
        }
    }
    chain.join(" < ")
}

/// Files of the standard library, and of crates from elsewhere.
const OTHERS: [&str; 2] = ["/rustc/", "/registry/"];
/// This file.
const THIS: &str = "disk/src/omission.rs";
/// The files of this crate.
const DISK: &str = "disk/src/";

/// The name of a function without what it is in and what it is for; empty for a closure.
fn function_of(name: &str) -> String {
    let mut depth = 0_usize;
    let mut plain = String::new();
    for letter in name.chars() {
        match letter {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(letter),
            _ => {}
        }
    }
    let named = |part: &&str| !part.is_empty() && !part.starts_with('{') && !is_hash(part);
    let last = plain.split("::").filter(named).last();
    last.unwrap_or_default().to_owned()
}

/// What older symbols end with, `h0123456789abcdef`.
fn is_hash(part: &str) -> bool {
    let digits = part.strip_prefix('h').unwrap_or_default();
    digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl OmittingDisk {
    /// Stands in front of `below`, leaves out the syncs of `site`, and from the first of them on
    /// has `look` look at what is there before each other one.
    pub fn new(below: MemoryDisk, site: Option<String>, look: Look) -> Self {
        let seen = Seen {
            sites: BTreeSet::new(),
            looks: site.is_none(),
        };
        Self(Arc::new(Omission {
            below,
            site,
            look,
            seen: Mutex::new(seen),
        }))
    }

    /// Every site that has called a sync so far.
    pub fn sites(&self) -> BTreeSet<String> {
        self.0.seen().sites.clone()
    }

    fn file(&self, opened: io::Result<Box<dyn DiskFile>>) -> io::Result<Box<dyn DiskFile>> {
        let below = opened?;
        let omission = self.0.clone();
        Ok(Box::new(OmittingFile { below, omission }))
    }
}

impl fmt::Debug for OmittingDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let site = self.0.site.as_deref().unwrap_or("nothing");
        write!(f, "a disk that leaves out {site}")
    }
}

impl Disk for OmittingDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(self.0.below.create(path))
    }

    fn create_new(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(self.0.below.create_new(path))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(self.0.below.open(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.below.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.below.remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.below.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.below.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync(|| self.0.below.sync_dir(path))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.below.read(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.below.list(path)
    }

    fn status(&self, path: &Path) -> io::Result<Status> {
        self.0.below.status(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.0.below.free_bytes(path)
    }
}

struct OmittingFile {
    below: Box<dyn DiskFile>,
    omission: Arc<Omission>,
}

impl DiskFile for OmittingFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        self.below.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.below.write_at(bytes, offset)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.below.allocate(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.omission.sync(|| self.below.sync())
    }

    fn length(&self) -> io::Result<u64> {
        self.below.length()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn the_syncs_of_a_site_are_left_out_and_no_others() {
        let memory = MemoryDisk::default();
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = looks.clone();
        let look = move |_: &MemoryDisk| {
            counted.fetch_add(1, Ordering::SeqCst);
        };
        let replace = |site: Option<String>| {
            let look = look.clone();
            let omitting = OmittingDisk::new(memory.clone(), site, Box::new(look));
            let disk: &dyn Disk = &omitting;
            disk.replace(Path::new("/f"), b"new").unwrap();
            omitting.sites()
        };
        // One of the contents, one of the directory.
        let sites = replace(None);
        assert_eq!(sites.len(), 2, "{sites:?}");
        assert_eq!(looks.load(Ordering::SeqCst), 2);
        let contents = sites.iter().find(|site| site.starts_with("write_synced"));
        replace(Some(contents.unwrap().clone()));
        // After the sync that was none, before that of the directory.
        assert_eq!(looks.load(Ordering::SeqCst), 2 + 1);
        memory.power_cut();
        assert_eq!(memory.read(Path::new("/f")).unwrap(), b"");
    }

    #[test]
    fn a_site_ends_with_the_first_function_that_is_none_of_the_disk() {
        let stack = "   0: std::backtrace::Backtrace::force_capture
             at /rustc/1/library/std/src/backtrace.rs:1:2
   1: <passerelle_disk::omission::OmittingFile as passerelle_disk::disk::DiskFile>::sync
             at /w/gateway/disk/src/omission.rs:1:2
   2: {closure#0}
             at /w/gateway/disk/src/durable.rs:1:2
   3: passerelle_disk::durable::<impl dyn passerelle_disk::disk::Disk>::sync_parent
             at /w/gateway/disk/src/durable.rs:1:2
   4: map_err<(), std::io::error::Error>
             at /rustc/1/library/core/src/result.rs:1:2
   5: {closure#0}
             at ./src/log/segment.rs:1:2
   6: begin::<passerelle_gateway::log::Log>
             at ./src/log/segment.rs:1:2
   7: passerelle_gateway::log::Log::append
             at ./src/log.rs:1:2";
        let site = site_of(stack, Path::new("/w/gateway"));
        assert_eq!(site, "sync_parent < segment::begin");
    }
}
