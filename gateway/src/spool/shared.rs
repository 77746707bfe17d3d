//! Segments that many small packages share: one file to sync for a whole burst.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use passerelle_disk::{Disk, DiskFile};
use passerelle_proto::v1::PackLocation;

use super::{SHARED_LEN_MAX, SpoolError, failed};

/// Length at which the next segment is begun, in bytes.
const SEGMENT_LEN: u64 = 256 * 1024 * 1024;

struct Open {
    number: u64,
    file: Arc<dyn DiskFile>,
    end: u64,
    syncs: Arc<Syncs>,
}

/// Lets those who have written at the same time share one sync.
#[derive(Default)]
struct Syncs {
    begun: AtomicU64,
    /// Held during a sync; says how one has failed, after which none is believed: the system may
    /// have dropped what it could not write.
    failed: Mutex<Option<i32>>,
}

impl Syncs {
    /// What was written before this call is on stable storage when it returns.
    fn sync(&self, file: &dyn DiskFile) -> io::Result<()> {
        let begun_before = self.begun.load(Ordering::SeqCst);
        let mut failed = self
            .failed
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(error) = *failed {
            return Err(io::Error::from_raw_os_error(error));
        }
        // One that began after our write, and has ended since, covers it.
        if self.begun.load(Ordering::SeqCst) > begun_before {
            return Ok(());
        }
        self.begun.fetch_add(1, Ordering::SeqCst);
        let synced = file.sync();
        *failed = synced.as_ref().err().and_then(io::Error::raw_os_error);
        synced
    }
}

/// What a segment holds of packages that are kept. Each is known by its place, so that releasing
/// one again takes nothing from the others.
#[derive(Default)]
struct Live {
    /// Lengths by offset.
    packs: BTreeMap<u64, u64>,
    /// Of all of them, and of a segment of an earlier start all that is in it, as long as nobody
    /// has said what of it is live.
    bytes: u64,
}

#[derive(Default)]
struct State {
    open: Option<Open>,
    live: BTreeMap<u64, Live>,
    /// Of all segments.
    bytes: u64,
    // Segments in which something was overwritten and not synced yet.
    erased: BTreeSet<u64>,
    next: u64,
}

impl State {
    /// A segment of an earlier start, of which nobody has said yet what is live.
    fn found(&mut self, number: u64, bytes: u64) {
        let packs = BTreeMap::new();
        self.live.insert(number, Live { packs, bytes });
        self.bytes += bytes;
    }

    /// A package lies there.
    fn keep(&mut self, number: u64, offset: u64, length: u64) {
        let live = self.live.entry(number).or_default();
        let before = live.packs.insert(offset, length).unwrap_or(0);
        live.bytes = live.bytes - before + length;
        self.bytes = self.bytes - before + length;
    }

    /// Nothing lies there any more; what is left in the segment, `None` when there is none.
    fn release(&mut self, location: &PackLocation) -> Option<u64> {
        let live = self.live.get_mut(&location.segment)?;
        let length = live.packs.remove(&location.offset).unwrap_or(0);
        live.bytes -= length;
        self.bytes -= length;
        Some(live.bytes)
    }

    /// A segment is no more.
    fn forget(&mut self, number: u64) {
        let live = self.live.remove(&number).unwrap_or_default();
        self.bytes -= live.bytes;
    }
}

/// The shared segments.
pub(super) struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Self, SpoolError> {
        disk.create_directories(dir)?;
        let mut state = State::default();
        for path in disk.list(dir).map_err(failed(dir))? {
            let name = path.file_name().and_then(|name| name.to_str());
            let number = name.and_then(|name| name.strip_suffix(".packs"));
            if let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) {
                let length = disk.status(&path).map_err(failed(&path))?.length;
                state.found(number, length);
                state.next = state.next.max(number);
            }
        }
        Ok(Self {
            disk: disk.clone(),
            dir: dir.to_owned(),
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(super) fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:08}.packs"))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// Appends and syncs; those who come while a sync runs share the next one.
    pub(super) fn append(&self, bytes: &[u8]) -> Result<PackLocation, SpoolError> {
        let (number, file, offset, syncs) = {
            let mut state = self.state();
            let full = state
                .open
                .as_ref()
                .is_none_or(|open| open.end >= SEGMENT_LEN);
            if full {
                self.next_segment(&mut state)?;
            }
            let Some(open) = &mut state.open else {
                return Err(SpoolError::Full("there is no segment"));
            };
            let offset = open.end;
            open.end += bytes.len() as u64;
            let found = (open.number, open.file.clone(), offset, open.syncs.clone());
            state.keep(found.0, offset, bytes.len() as u64);
            found
        };
        let path = self.path(number);
        let location = PackLocation {
            segment: number,
            offset,
            length: bytes.len() as u64,
        };
        let written = file.write_at(bytes, offset);
        if let Err(error) = written.and_then(|()| syncs.sync(file.as_ref())) {
            self.abandon(&location)?;
            return Err(failed(&path)(error));
        }
        Ok(location)
    }

    /// What was to lie here does not, and nothing more is written to this segment.
    fn abandon(&self, location: &PackLocation) -> Result<(), SpoolError> {
        {
            let mut state = self.state();
            let here = |open: &Open| open.number == location.segment;
            if state.open.as_ref().is_some_and(here) {
                state.open = None;
            }
        }
        self.release(location)
    }

    /// Begins another segment when this one has lost its name: nobody could read what was appended.
    pub(super) fn leave_if_gone(&self, number: u64) {
        let mut state = self.state();
        let here = state
            .open
            .as_ref()
            .is_some_and(|open| open.number == number);
        if here && !self.disk.is_file(&self.path(number)) {
            state.open = None;
        }
    }

    fn next_segment(&self, state: &mut State) -> Result<(), SpoolError> {
        state.next += 1;
        let number = state.next;
        let path = self.path(number);
        let file = self.disk.create_new(&path).map_err(failed(&path))?;
        self.disk.sync_parent(&path)?;
        let before = state.open.as_ref().map(|open| open.number);
        state.open = Some(Open {
            number,
            file: file.into(),
            end: 0,
            syncs: Arc::default(),
        });
        // While it was written to it stayed, also when nothing in it was kept any more.
        let empty = |before: &u64| state.live.get(before).is_some_and(|live| live.bytes == 0);
        match before.filter(empty) {
            Some(before) => self.forget(state, before),
            None => Ok(()),
        }
    }

    fn forget(&self, state: &mut State, number: u64) -> Result<(), SpoolError> {
        self.disk.remove_if_there(&self.path(number))?;
        state.forget(number);
        Ok(())
    }

    /// Overwrites a package, so that it is gone also while its segment has to stay, and releases
    /// it. Doing so twice is harmless.
    pub(super) fn erase(&self, location: &PackLocation) -> Result<(), SpoolError> {
        let path = self.path(location.segment);
        let file = match self.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.release(location),
            opened => opened.map_err(failed(&path))?,
        };
        let length = usize::try_from(location.length.min(SHARED_LEN_MAX)).unwrap_or(0);
        let zeros = vec![0; length];
        file.write_at(&zeros, location.offset)
            .map_err(failed(&path))?;
        self.state().erased.insert(location.segment);
        self.release(location)
    }

    /// A package is kept no more; a segment without any is removed. Releasing twice is harmless.
    pub(super) fn release(&self, location: &PackLocation) -> Result<(), SpoolError> {
        let mut state = self.state();
        if state.release(location).is_none_or(|left| left > 0) {
            return Ok(());
        }
        let in_use = state
            .open
            .as_ref()
            .is_some_and(|open| open.number == location.segment);
        match in_use {
            true => Ok(()),
            false => self.forget(&mut state, location.segment),
        }
    }

    /// What was removed before is durably gone when this returns.
    pub(super) fn sync_removed(&self) -> Result<(), SpoolError> {
        let erased = std::mem::take(&mut self.state().erased);
        for number in erased {
            let path = self.path(number);
            let synced = match self.disk.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.and_then(|file| file.sync()),
            };
            if let Err(error) = synced {
                self.state().erased.insert(number);
                return Err(failed(&path)(error));
            }
        }
        self.disk.sync_dir(&self.dir).map_err(failed(&self.dir))
    }

    /// Counts what is live, and removes segments in which nothing is.
    pub(super) fn sweep<'a>(
        &self,
        live: impl Iterator<Item = &'a PackLocation>,
    ) -> Result<(), SpoolError> {
        let mut found: BTreeMap<u64, BTreeMap<u64, u64>> = BTreeMap::new();
        for location in live.filter(|location| location.segment != 0) {
            let segment = found.entry(location.segment).or_default();
            segment.insert(location.offset, location.length);
        }
        let mut state = self.state();
        // Its number does not come again when a segment is gone: packages are said to lie there,
        // and what lies there is removed once more.
        let known = found.keys().next_back().copied().unwrap_or(0);
        state.next = state.next.max(known);
        for number in state.live.keys().copied().collect::<Vec<_>>() {
            state.forget(number);
            match found.get(&number) {
                Some(packs) => {
                    for (offset, length) in packs {
                        state.keep(number, *offset, *length);
                    }
                }
                None => self.disk.remove_if_there(&self.path(number))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use passerelle_disk::MemoryDisk;
    use passerelle_proto::Digest;

    use super::*;

    fn check(shared: &Shared) {
        let state = shared.state();
        let mut all = 0;
        for live in state.live.values() {
            assert_eq!(live.bytes, live.packs.values().sum::<u64>());
            all += live.bytes;
        }
        assert_eq!(state.bytes, all);
    }

    #[test]
    fn the_bytes_of_all_segments_are_those_of_the_packages_in_them_whatever_happens() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let mut shared = Shared::open(&disk, Path::new("/shared")).unwrap();
        let mut places = Vec::new();
        let chance = |turn: u64| u64::from(Digest::of(&turn.to_be_bytes()).0[0]);
        for turn in 0..2_000 {
            let chosen = chance(turn + 10_000) as usize % places.len().max(1);
            match chance(turn) {
                0..=120 => places.push(shared.append(&vec![1; chosen + 1]).unwrap()),
                // Also what was released before.
                121..=180 if !places.is_empty() => shared.release(&places[chosen]).unwrap(),
                181..=235 if !places.is_empty() => {
                    shared.erase(&places.swap_remove(chosen)).unwrap();
                }
                236..=245 => shared.state().open = None,
                246..=250 => {
                    shared = Shared::open(&disk, Path::new("/shared")).unwrap();
                    places.retain(|place: &PackLocation| disk.is_file(&shared.path(place.segment)));
                    shared.sweep(places.iter()).unwrap();
                }
                _ => {}
            }
            check(&shared);
        }
    }
}
