//! Which log entries speak of a package: immutable maps on disk, and the newest in memory.
//!
//! Keys are package id ‖ log index. One file covers 65,536 entries; what is newer is read from the
//! log at the start.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use fst::{IntoStreamer, Set, SetBuilder, Streamer};
use passerelle_proto::v1::{self, entry::Event};
use passerelle_proto::{Digest, PackageId};

use crate::disk;

/// Log entries that one file covers.
pub const INDEX_SPAN: u64 = 65_536;
/// Entries of one package that are looked up at most.
const FOUND_MAX: usize = 1024;
const KEY_LEN: usize = 40;

/// The index of one log.
pub(crate) struct PackageIndex {
    dir: PathBuf,
    files: Vec<Set<Vec<u8>>>,
    tail: BTreeSet<[u8; KEY_LEN]>,
    next: u64,
}

impl PackageIndex {
    /// Opens the files; entries from [`PackageIndex::next`] on are to be added.
    ///
    /// # Errors
    /// What the system says; a damaged file is removed and made again.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut index = Self {
            dir: dir.to_owned(),
            files: Vec::new(),
            tail: BTreeSet::new(),
            next: 0,
        };
        loop {
            let path = index.file_path(index.next);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(index),
                Err(error) => return Err(error),
            };
            match Set::new(bytes).and_then(|set| set.as_fst().verify().map(|()| set)) {
                Ok(set) => index.files.push(set),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "made again from the log");
                    fs::remove_file(&path)?;
                    return Ok(index);
                }
            }
            index.next += INDEX_SPAN;
        }
    }

    fn file_path(&self, first: u64) -> PathBuf {
        self.dir.join(format!("{first:016}.fst"))
    }

    /// Log index of the first entry that is not in the index.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Adds the entry at [`PackageIndex::next`].
    ///
    /// # Errors
    /// What the system says, when a file became due and could not be written.
    pub(crate) fn push(&mut self, entry: &v1::Entry) -> io::Result<()> {
        if let Some(package) = package_of(entry) {
            self.tail.insert(key(&package, self.next));
        }
        self.next += 1;
        if self.next.is_multiple_of(INDEX_SPAN) {
            self.write_file()?;
        }
        Ok(())
    }

    fn write_file(&mut self) -> io::Result<()> {
        let path = self.file_path(self.next - INDEX_SPAN);
        let unfinished = path.with_extension("tmp");
        let mut builder = SetBuilder::new(BufWriter::new(File::create(&unfinished)?))
            .map_err(io::Error::other)?;
        for key in &self.tail {
            builder.insert(key).map_err(io::Error::other)?;
        }
        let mut writer = builder.into_inner().map_err(io::Error::other)?;
        writer.flush()?;
        writer.get_ref().sync_all()?;
        disk::rename_synced(&unfinished, &path)?;
        self.files
            .push(Set::new(fs::read(&path)?).map_err(io::Error::other)?);
        self.tail.clear();
        Ok(())
    }

    /// Log indices of the entries about a package, ascending.
    pub(crate) fn find(&self, package: &PackageId) -> Vec<u64> {
        let (from, to) = (key(package, 0), key(package, u64::MAX));
        self.range(&from, &to)
            .into_iter()
            .map(|(_, index)| index)
            .collect()
    }

    /// Packages whose id begins with these hexadecimal digits; at most two are looked for.
    pub(crate) fn find_prefix(&self, digits: &str) -> Vec<PackageId> {
        let padded = |with: char| {
            let text: String = digits
                .chars()
                .chain(std::iter::repeat(with))
                .take(64)
                .collect();
            text.parse::<PackageId>().ok()
        };
        let (Some(from), Some(to)) = (padded('0'), padded('f')) else {
            return Vec::new();
        };
        let mut found: Vec<PackageId> = self
            .range(&key(&from, 0), &key(&to, u64::MAX))
            .into_iter()
            .map(|(package, _)| package)
            .collect();
        found.dedup();
        found.truncate(2);
        found
    }

    fn range(&self, from: &[u8; KEY_LEN], to: &[u8; KEY_LEN]) -> Vec<(PackageId, u64)> {
        let mut found = Vec::new();
        for set in &self.files {
            let mut stream = set.range().ge(from).le(to).into_stream();
            while let Some(key) = stream.next() {
                found.extend(parse(key));
                if found.len() >= FOUND_MAX {
                    break;
                }
            }
        }
        found.extend(
            self.tail
                .range(*from..=*to)
                .filter_map(|key| parse(key))
                .take(FOUND_MAX),
        );
        found.sort();
        found
    }
}

fn key(package: &PackageId, index: u64) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    key[..32].copy_from_slice(package.as_bytes());
    key[32..].copy_from_slice(&index.to_be_bytes());
    key
}

fn parse(key: &[u8]) -> Option<(PackageId, u64)> {
    let (package, index) = key.split_at_checked(32)?;
    let index = u64::from_be_bytes(index.try_into().ok()?);
    Some((PackageId::from_slice(package).ok()?, index))
}

/// The package that an entry speaks of.
pub(crate) fn package_of(entry: &v1::Entry) -> Option<PackageId> {
    use prost::Message;
    let id = |bytes: &[u8]| PackageId::from_slice(bytes).ok();
    match entry.event.as_ref()? {
        Event::Accepted(event) => Some(PackageId(Digest::of(&event.manifest.as_ref()?.body))),
        Event::Forwarded(event) => id(&event.package),
        Event::Statement(event) => {
            let body = &event.statement.as_ref()?.body;
            id(&v1::Statement::decode(body.as_slice()).ok()?.package)
        }
        Event::Refused(event) => id(&event.package),
        Event::Held(event) | Event::Released(event) | Event::Retried(event) => id(&event.package),
        Event::Operator(event) => id(&event.package),
        Event::Started(_)
        | Event::Stopped(_)
        | Event::Configured(_)
        | Event::Cosigned(_)
        | Event::Counted(_)
        | Event::HandedOver(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(package: u64) -> v1::Entry {
        let package = Digest::of(&package.to_be_bytes()).0.to_vec();
        v1::Entry {
            at_ms: 0,
            event: Some(Event::Refused(v1::RefusedEvent {
                package,
                ..v1::RefusedEvent::default()
            })),
        }
    }

    #[test]
    fn entries_are_found_in_files_and_in_memory_and_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = PackageIndex::open(dir.path()).unwrap();
        for number in 0..INDEX_SPAN + 10 {
            index.push(&refused(number % 40_000)).unwrap();
        }
        let package = |number: u64| PackageId(Digest::of(&number.to_be_bytes()));
        assert_eq!(index.find(&package(3)), [3, 40_003]);
        let last = (INDEX_SPAN + 5) % 40_000;
        assert_eq!(index.find(&package(last)), [last, INDEX_SPAN + 5]);
        assert_eq!(index.find(&package(99_999)), []);
        assert_eq!(index.find_prefix(&package(3).short()), [package(3)]);
        assert_eq!(index.find_prefix("").len(), 2);
        let mut again = PackageIndex::open(dir.path()).unwrap();
        assert_eq!(again.next(), INDEX_SPAN);
        for number in INDEX_SPAN..INDEX_SPAN + 10 {
            again.push(&refused(number % 40_000)).unwrap();
        }
        assert_eq!(again.find(&package(last)), [last, INDEX_SPAN + 5]);
    }
}
