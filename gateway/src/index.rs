//! Which log entries speak of a package: immutable maps on disk, and the newest in memory.
//!
//! Keys are package id ‖ log index. One file covers 65,536 entries; what is newer is read from the
//! log at the start. In memory each file has only a filter that says which packages it may know,
//! and the few files used last.

mod filter;
mod mark;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use fst::{IntoStreamer, Set, SetBuilder, Streamer};
use passerelle_disk::Disk;
use passerelle_proto::{PackageId, package_of, v1};

use self::filter::Filter;
pub(crate) use self::mark::Mark;

/// Log entries that one file covers.
pub const INDEX_SPAN: u64 = 65_536;
/// Entries after which a file that is due is tried again.
const TRY_EVERY: u64 = 1_024;
/// Entries of one package that are looked up at most.
const FOUND_MAX: usize = 1024;
/// Packages that are looked for which begin alike: of more than one it is said that there are
/// several.
const PREFIX_FOUND_MAX: usize = 2;
/// Files kept in memory; each has about 5 MB.
const LOADED_MAX: usize = 4;
const KEY_LEN: usize = 40;
const FILTER_EXTENSION: &str = "filter";

type Keys = Arc<Set<Vec<u8>>>;

/// The index of one log.
pub(crate) struct PackageIndex {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// One for each file, oldest first.
    filters: Vec<Filter>,
    /// Files in memory, the one used last at the end.
    loaded: Mutex<Vec<(u64, Keys)>>,
    tail: BTreeSet<[u8; KEY_LEN]>,
    next: u64,
}

impl PackageIndex {
    /// Opens the files; entries from [`PackageIndex::next`] on are to be added.
    ///
    /// # Errors
    /// What the system says; a damaged file is removed and made again.
    pub(crate) fn open(disk: &Arc<dyn Disk>, dir: &Path) -> io::Result<Self> {
        disk.create_directories(dir)?;
        let mut index = Self {
            disk: disk.clone(),
            dir: dir.to_owned(),
            filters: Vec::new(),
            loaded: Mutex::default(),
            tail: BTreeSet::new(),
            next: 0,
        };
        while disk.is_file(&index.file_path(index.next)) {
            let Some(filter) = index.open_filter(index.next)? else {
                break;
            };
            index.filters.push(filter);
            index.next += INDEX_SPAN;
        }
        Ok(index)
    }

    /// The filter of a file, read or made again; `None` when the file itself is damaged.
    fn open_filter(&self, first: u64) -> io::Result<Option<Filter>> {
        let path = self.file_path(first).with_extension(FILTER_EXTENSION);
        let bytes = self.disk.read(&path).ok();
        if let Some(filter) = bytes.as_deref().and_then(Filter::from_bytes) {
            return Ok(Some(filter));
        }
        match self.load(first) {
            Ok(keys) => {
                let filter = filter_of(all(&keys));
                self.disk.replace(&path, &filter.to_bytes())?;
                Ok(Some(filter))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(%error, "a file of the index is made again from the log");
                self.disk.remove_if_there(&self.file_path(first))?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The keys of a file.
    fn load(&self, first: u64) -> io::Result<Keys> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = loaded.iter().position(|(known, _)| *known == first) {
            let found = loaded.remove(at);
            let keys = Arc::clone(&found.1);
            loaded.push(found);
            return Ok(keys);
        }
        let keys = Arc::new(read_keys(self.disk.as_ref(), &self.file_path(first))?);
        if loaded.len() >= LOADED_MAX {
            loaded.remove(0);
        }
        loaded.push((first, Arc::clone(&keys)));
        Ok(keys)
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
    /// What the system says, when a file became due and could not be written. On a full disk its
    /// keys stay in memory meanwhile.
    pub(crate) fn push(&mut self, entry: &v1::Entry) -> io::Result<()> {
        if let Some(package) = package_of(entry) {
            self.tail.insert(key(&package, self.next));
        }
        if let Some(mark) = Mark::of(entry) {
            self.tail.insert(key(&mark.id(), self.next));
        }
        self.next += 1;
        if self.next.is_multiple_of(TRY_EVERY) {
            self.write_due()?;
        }
        Ok(())
    }

    fn write_due(&mut self) -> io::Result<()> {
        loop {
            let first = self.filters.len() as u64 * INDEX_SPAN;
            if first + INDEX_SPAN > self.next {
                return Ok(());
            }
            match self.write_file(first) {
                Err(error) if is_full(&error) => {
                    tracing::warn!(%error, "a file of the index waits until there is room");
                    return Ok(());
                }
                written => written?,
            }
        }
    }

    fn write_file(&mut self, first: u64) -> io::Result<()> {
        let path = self.file_path(first);
        let is_of_it = |key: &&[u8; KEY_LEN]| {
            parse(key.as_slice()).is_some_and(|(_, index)| index < first + INDEX_SPAN)
        };
        let mut builder = SetBuilder::memory();
        for key in self.tail.iter().filter(is_of_it) {
            builder.insert(key).map_err(io::Error::other)?;
        }
        let keys = builder.into_inner().map_err(io::Error::other)?;
        let written = self.tail.iter().filter(is_of_it);
        let filter = filter_of(written.filter_map(|key| parse(key)).collect());
        // The filter first: a file without one is read in full at every start.
        let filter_path = path.with_extension(FILTER_EXTENSION);
        self.disk.replace(&filter_path, &filter.to_bytes())?;
        self.disk.replace(&path, &keys)?;
        self.filters.push(filter);
        self.tail.retain(|key| !is_of_it(&key));
        Ok(())
    }

    /// Log indices of the entries about a package, ascending.
    ///
    /// # Errors
    /// What the system says, also when a file is damaged.
    pub(crate) fn find(&self, package: &PackageId) -> io::Result<Vec<u64>> {
        let (from, to) = (key(package, 0), key(package, u64::MAX));
        let found = self.range(&from, &to, |filter| filter.may_hold(package))?;
        Ok(found.into_iter().map(|(_, index)| index).collect())
    }

    /// Whether any entry speaks of a package.
    ///
    /// # Errors
    /// As [`PackageIndex::find`].
    pub(crate) fn holds(&self, package: &PackageId) -> io::Result<bool> {
        Ok(!mark::is_mark(package) && !self.find(package)?.is_empty())
    }

    /// A search for packages whose id begins with these hexadecimal digits, among all entries so
    /// far. Nothing is read here.
    pub(crate) fn search(&self, digits: &str) -> PrefixSearch {
        let padded = |with: char| {
            let rest = std::iter::repeat(with);
            let text: String = digits.chars().chain(rest).take(64).collect();
            text.parse::<PackageId>().ok()
        };
        let mut search = PrefixSearch {
            disk: self.disk.clone(),
            files: Vec::new(),
            range: None,
            found: BTreeSet::new(),
        };
        if let (Some(from), Some(to)) = (padded('0'), padded('f')) {
            let (from, to) = (key(&from, 0), key(&to, u64::MAX));
            let newest = self.tail.range(from..=to);
            newest.for_each(|key| search.take(key));
            let firsts = (0..).step_by(INDEX_SPAN as usize);
            let files = firsts.zip(&self.filters);
            search.files = files.map(|(first, _)| self.file_path(first)).collect();
            search.range = Some((from, to));
        }
        search
    }

    /// Log index of the first entry with a mark, from `from` on.
    ///
    /// # Errors
    /// As [`PackageIndex::find`].
    pub(crate) fn first_from(&self, mark: &Mark, from: u64) -> io::Result<Option<u64>> {
        let id = mark.id();
        let (from_key, to_key) = (key(&id, from), key(&id, u64::MAX));
        for (first, filter) in (0..).step_by(INDEX_SPAN as usize).zip(&self.filters) {
            if first + INDEX_SPAN <= from || !filter.may_hold(&id) {
                continue;
            }
            let keys = self.load(first)?;
            let mut stream = keys.range().ge(from_key).le(to_key).into_stream();
            if let Some((_, index)) = stream.next().and_then(parse) {
                return Ok(Some(index));
            }
        }
        let mut newest = self.tail.range(from_key..=to_key);
        Ok(newest
            .next()
            .and_then(|key| parse(key))
            .map(|(_, index)| index))
    }

    /// Log index of the newest entry with a mark; `None` also when a file is damaged.
    pub(crate) fn last(&self, mark: &Mark) -> Option<u64> {
        let id = mark.id();
        let (from_key, to_key) = (key(&id, 0), key(&id, u64::MAX));
        if let Some(newest) = self.tail.range(from_key..=to_key).next_back() {
            return parse(newest).map(|(_, index)| index);
        }
        for (number, filter) in self.filters.iter().enumerate().rev() {
            if !filter.may_hold(&id) {
                continue;
            }
            let keys = self.load(number as u64 * INDEX_SPAN).ok()?;
            let mut stream = keys.range().ge(from_key).le(to_key).into_stream();
            let mut newest = None;
            while let Some(key) = stream.next() {
                newest = parse(key).map(|(_, index)| index);
            }
            if newest.is_some() {
                return newest;
            }
        }
        None
    }

    fn range(
        &self,
        from: &[u8; KEY_LEN],
        to: &[u8; KEY_LEN],
        may_hold: impl Fn(&Filter) -> bool,
    ) -> io::Result<Vec<(PackageId, u64)>> {
        let mut found = Vec::new();
        for (first, filter) in (0..).step_by(INDEX_SPAN as usize).zip(&self.filters) {
            if !may_hold(filter) {
                continue;
            }
            let keys = self.load(first)?;
            let mut stream = keys.range().ge(from).le(to).into_stream();
            while let Some(key) = stream.next() {
                found.extend(parse(key));
                if found.len() >= FOUND_MAX {
                    break;
                }
            }
        }
        let newest = self.tail.range(*from..=*to);
        found.extend(newest.filter_map(|key| parse(key)).take(FOUND_MAX));
        found.sort();
        Ok(found)
    }
}

/// Looks for the packages that begin alike, in files that never change.
pub(crate) struct PrefixSearch {
    disk: Arc<dyn Disk>,
    files: Vec<PathBuf>,
    range: Option<([u8; KEY_LEN], [u8; KEY_LEN])>,
    found: BTreeSet<PackageId>,
}

impl PrefixSearch {
    fn take(&mut self, key: &[u8]) {
        if self.found.len() < PREFIX_FOUND_MAX
            && let Some((package, _)) = parse(key)
            && !mark::is_mark(&package)
        {
            self.found.insert(package);
        }
    }

    /// The packages; of several only two. Reads every file, one after the other, so that nobody
    /// should wait for it, nor hold a lock meanwhile. Blocks.
    ///
    /// # Errors
    /// As [`PackageIndex::find`].
    pub(crate) fn run(mut self) -> io::Result<Vec<PackageId>> {
        let Some((from, to)) = self.range else {
            return Ok(Vec::new());
        };
        for path in std::mem::take(&mut self.files) {
            if self.found.len() >= PREFIX_FOUND_MAX {
                break;
            }
            let keys = read_keys(self.disk.as_ref(), &path)?;
            let mut stream = keys.range().ge(from).le(to).into_stream();
            while self.found.len() < PREFIX_FOUND_MAX
                && let Some(key) = stream.next()
            {
                self.take(key);
            }
        }
        Ok(self.found.into_iter().collect())
    }
}

/// The keys of a file. One that has rotted is removed.
fn read_keys(disk: &dyn Disk, path: &Path) -> io::Result<Set<Vec<u8>>> {
    let set = Set::new(disk.read(path)?);
    let set = set.and_then(|set| set.as_fst().verify().map(|()| set));
    set.map_err(|error| {
        // The log has everything: the next start makes it again.
        let _ = disk.remove(path);
        let what = format!("{}: {error}: start again, it is made again", path.display());
        tracing::error!(what, "a file of the index has rotted");
        io::Error::new(io::ErrorKind::InvalidData, what)
    })
}

fn all(keys: &Set<Vec<u8>>) -> Vec<(PackageId, u64)> {
    let mut found = Vec::new();
    let mut stream = keys.stream();
    while let Some(key) = stream.next() {
        found.extend(parse(key));
    }
    found
}

/// The filter of sorted keys.
fn filter_of(keys: Vec<(PackageId, u64)>) -> Filter {
    let mut packages: Vec<PackageId> = keys.into_iter().map(|(package, _)| package).collect();
    packages.dedup();
    Filter::of(packages.iter())
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

fn is_full(error: &io::Error) -> bool {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    full.contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use passerelle_proto::Digest;
    use passerelle_proto::v1::entry::Event;
    use std::fs;

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
        let mut index = PackageIndex::open(&passerelle_disk::system(), dir.path()).unwrap();
        for number in 0..INDEX_SPAN + 10 {
            index.push(&refused(number % 40_000)).unwrap();
        }
        let package = |number: u64| PackageId(Digest::of(&number.to_be_bytes()));
        assert_eq!(index.find(&package(3)).unwrap(), [3, 40_003]);
        let last = (INDEX_SPAN + 5) % 40_000;
        assert_eq!(index.find(&package(last)).unwrap(), [last, INDEX_SPAN + 5]);
        assert!(index.find(&package(99_999)).unwrap().is_empty());
        let short = package(3).short();
        let search = |digits: &str| index.search(digits).run().unwrap();
        assert_eq!(search(&short), [package(3)]);
        assert_eq!(search("").len(), 2);
        assert!(index.holds(&package(3)).unwrap() && !index.holds(&package(99_999)).unwrap());
        let mut again = PackageIndex::open(&passerelle_disk::system(), dir.path()).unwrap();
        assert_eq!(again.next(), INDEX_SPAN);
        for number in INDEX_SPAN..INDEX_SPAN + 10 {
            again.push(&refused(number % 40_000)).unwrap();
        }
        assert_eq!(again.find(&package(last)).unwrap(), [last, INDEX_SPAN + 5]);
    }

    #[test]
    fn a_file_for_which_there_is_no_room_is_written_later_and_its_keys_are_found_meanwhile() {
        let memory = passerelle_disk::MemoryDisk::default();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let mut index = PackageIndex::open(&disk, Path::new("/index")).unwrap();
        memory.set_full(true);
        for number in 0..INDEX_SPAN + 10 {
            index.push(&refused(number)).unwrap();
        }
        let package = |number: u64| PackageId(Digest::of(&number.to_be_bytes()));
        assert!(!disk.is_file(&index.file_path(0)));
        assert_eq!(index.find(&package(3)).unwrap(), [3]);
        memory.set_full(false);
        for number in INDEX_SPAN + 10..INDEX_SPAN + TRY_EVERY {
            index.push(&refused(number)).unwrap();
        }
        let mut again = PackageIndex::open(&disk, Path::new("/index")).unwrap();
        assert_eq!(again.next(), INDEX_SPAN);
        for number in INDEX_SPAN..INDEX_SPAN + TRY_EVERY {
            again.push(&refused(number)).unwrap();
        }
        for number in [3, INDEX_SPAN - 1, INDEX_SPAN, INDEX_SPAN + 11] {
            for index in [&index, &again] {
                assert_eq!(index.find(&package(number)).unwrap(), [number]);
            }
        }
    }

    #[test]
    fn a_lost_filter_is_made_again_and_a_damaged_file_is_read_from_the_log_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = PackageIndex::open(&passerelle_disk::system(), dir.path()).unwrap();
        for number in 0..2 * INDEX_SPAN {
            index.push(&refused(number)).unwrap();
        }
        let package = PackageId(Digest::of(&3_u64.to_be_bytes()));
        let file = index.file_path(0);
        fs::remove_file(file.with_extension(FILTER_EXTENSION)).unwrap();
        let index = PackageIndex::open(&passerelle_disk::system(), dir.path()).unwrap();
        assert_eq!(index.find(&package).unwrap(), [3]);
        assert!(file.with_extension(FILTER_EXTENSION).exists());
        let mut bytes = fs::read(&file).unwrap();
        bytes[1000] ^= 1;
        fs::write(&file, bytes).unwrap();
        fs::remove_file(file.with_extension(FILTER_EXTENSION)).unwrap();
        assert_eq!(
            PackageIndex::open(&passerelle_disk::system(), dir.path())
                .unwrap()
                .next(),
            0
        );
        assert!(
            !file.exists(),
            "it is written again when the log has been read so far"
        );
    }

    #[test]
    fn a_search_goes_on_while_the_index_grows_and_a_whole_id_is_looked_up_in_the_file_that_has_it()
    {
        let memory = passerelle_disk::MemoryDisk::default();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let mut index = PackageIndex::open(&disk, Path::new("/index")).unwrap();
        for number in 0..2 * INDEX_SPAN - 1 {
            index.push(&refused(number)).unwrap();
        }
        let package = |number: u64| PackageId(Digest::of(&number.to_be_bytes()));
        let searches = [3, 2 * INDEX_SPAN - 2].map(|number| {
            let search = index.search(&package(number).short());
            (package(number), search)
        });
        index.push(&refused(2 * INDEX_SPAN - 1)).unwrap();
        for (package, search) in searches {
            assert_eq!(search.run().unwrap(), [package]);
        }
        // It cannot be read, and nothing of the second one's lies in it.
        let index = PackageIndex::open(&disk, Path::new("/index")).unwrap();
        memory.remove(&index.file_path(0)).unwrap();
        assert!(index.holds(&package(2 * INDEX_SPAN - 2)).unwrap());
        assert!(index.holds(&package(3)).is_err());
    }

    fn cosigned(party: &str) -> v1::Entry {
        v1::Entry {
            at_ms: 0,
            event: Some(Event::Cosigned(v1::CosignedEvent {
                party: party.to_owned(),
                ours: true,
                ..v1::CosignedEvent::default()
            })),
        }
    }

    #[test]
    fn who_has_covered_an_entry_first_is_found_in_files_and_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = PackageIndex::open(&passerelle_disk::system(), dir.path()).unwrap();
        for number in 0..2 * INDEX_SPAN + 20 {
            let entry = match number {
                7 | 100_000 | 131_080 => cosigned("grand-dijon"),
                9 => cosigned("prestataire-obs"),
                _ => refused(number),
            };
            index.push(&entry).unwrap();
        }
        let of = |party: &str| Mark::CosignedBy(party.to_owned());
        let dijon = |from| index.first_from(&of("grand-dijon"), from).unwrap();
        assert_eq!(
            [dijon(0), dijon(7), dijon(8)],
            [Some(7), Some(7), Some(100_000)]
        );
        assert_eq!([dijon(100_001), dijon(131_081)], [Some(131_080), None]);
        let last = |mark: &Mark| index.last(mark);
        assert_eq!(last(&of("grand-dijon")), Some(131_080));
        assert_eq!(last(&of("prestataire-obs")), Some(9));
        assert_eq!(last(&Mark::TimeStamped), None);
        // Nobody who looks for a package meets them.
        let all_of_them = index.search("ffffffffffffffff").run().unwrap();
        assert!(all_of_them.is_empty(), "{all_of_them:?}");
    }
}
