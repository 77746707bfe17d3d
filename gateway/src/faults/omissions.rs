//! Each sync of a gateway is left out, and the power goes at every moment after that: what was
//! promised is missed, or the sync is not needed and stands in a list here, with the reason.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use passerelle_disk::{Disk, MemoryDisk, OmittingDisk};

use super::{Parts, Promised, Promises, check, live};

/// Sites that are tried at the same time.
const LANES: usize = 2;
/// Sites of syncs that no promise needs in these lives, and why they are there all the same.
const UNMISSED: [(&str, &str); 14] = [
    (
        "sync_parent < create_directories < index::open",
        "the index is made again from the log",
    ),
    (
        "sync_parent < create_directories < heads::open",
        "a purge puts the first file there, and nothing is purged in these lives",
    ),
    (
        "sync_parent < create_directories < shared::open",
        "what is opened next beside it syncs the same directory",
    ),
    (
        "sync_parent < remove_tree < tiles::remove_partial",
        "a part of a tile that comes back is still true",
    ),
    (
        "sync_parent < rename_synced < replace < log::checkpoint",
        "an older checkpoint is still true, and the next one replaces it",
    ),
    (
        "sync_parent < rename_synced < replace < recovery::write_chain",
        "after an older sequence of statements more of the log is read",
    ),
    (
        "write_synced < replace < recovery::write_chain",
        "half a file might be believed; the disk in memory leaves nothing or all of it",
    ),
    (
        "sync_parent < rename_synced < replace < sequences::write",
        "after older sequences more of the log is read",
    ),
    (
        "write_synced < replace < sequences::write",
        "what has rotted in it shows, and all of the log is read",
    ),
    (
        "sync_parent < rename_synced < replace < tiles::write_partial",
        "tiles that are not full are made again from the segments",
    ),
    (
        "write_synced < replace < tiles::write_partial",
        "tiles that are not full are made again from the segments",
    ),
    (
        "sync_parent < rename_synced < segment::create",
        "the next reservation syncs the same directory; not when there is no room for one",
    ),
    (
        "sync_parent < rename_synced < segment::reserve",
        "a reserved segment is made again",
    ),
    (
        "sync_parent < tiles::write_full",
        "for a process that died between name and sync, before the power went",
    ),
];

/// A life, a start from what it has left, and entries that take a new segment, unless there was one
/// just before.
fn live_on(disk: &Arc<dyn Disk>, promised: &Promises) -> Result<(), String> {
    live(disk, promised)?;
    let parts = Parts::start(disk, promised)?;
    if !promised.late {
        parts.fill_segment(promised)?;
    }
    parts.checkpoint()?;
    parts.stop();
    Ok(())
}

/// What a power cut leaves, and what has been promised by then.
type Cut = (MemoryDisk, Promised);

/// A life with the syncs of a site left out, and every power cut that can be told from others.
fn lived_without(site: Option<String>, late: bool) -> (BTreeSet<String>, Vec<Cut>) {
    let memory = MemoryDisk::default();
    let promised = Arc::new(Promises {
        late,
        ..Promises::default()
    });
    let cuts = Arc::new(Mutex::new(Vec::new()));
    let look = {
        let (promised, cuts) = (promised.clone(), cuts.clone());
        move |disk: &MemoryDisk| {
            let cut = disk.copy();
            cut.power_cut();
            let so_far = promised.so_far().clone();
            cuts.lock().unwrap().push((cut, so_far));
        }
    };
    let omitting = OmittingDisk::new(memory.clone(), site, Box::new(look.clone()));
    let disk: Arc<dyn Disk> = Arc::new(omitting.clone());
    live_on(&disk, &promised).unwrap();
    look(&memory);
    let cuts = std::mem::take(&mut *cuts.lock().unwrap());
    (omitting.sites(), cuts)
}

fn is_missed(site: &str, late: bool) -> bool {
    let (_, cuts) = lived_without(Some(site.to_owned()), late);
    cuts.iter().any(|(disk, promised)| {
        catch_unwind(AssertUnwindSafe(|| check(disk, promised, &site))).is_err()
    })
}

#[test]
fn each_sync_is_missed_after_a_power_cut_or_listed_as_not_needed() {
    let mut sites = BTreeSet::new();
    for late in [false, true] {
        let (seen, cuts) = lived_without(None, late);
        sites.extend(seen);
        for (disk, promised) in &cuts {
            check(disk, promised, &"no sync left out");
        }
    }
    assert!(sites.len() > 20, "{sites:#?}");
    let listed: BTreeSet<&str> = UNMISSED.iter().map(|(site, _)| *site).collect();
    let is_unmissed = |site: &str| {
        let missed = is_missed(site, false);
        !missed && (listed.contains(site) || !is_missed(site, true))
    };
    // Every site takes some lives: the lanes share them, each the next that nobody has taken.
    let next = Mutex::new(sites.iter().map(String::as_str));
    let lane = || {
        let mut unmissed = Vec::new();
        loop {
            let site = next.lock().unwrap().next();
            let Some(site) = site else {
                return unmissed;
            };
            unmissed.extend(is_unmissed(site).then_some(site));
        }
    };
    let unmissed: BTreeSet<&str> = std::thread::scope(|scope| {
        let lanes = std::array::from_fn::<_, LANES, _>(|_| scope.spawn(lane));
        let found = lanes.into_iter().flat_map(|lane| lane.join().unwrap());
        found.collect()
    });
    assert_eq!(unmissed, listed);
}
