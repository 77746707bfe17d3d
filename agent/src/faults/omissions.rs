//! Each sync of an agent is left out, and the power goes at every moment after that: what was
//! promised is missed, or the sync is not needed and stands in a list here, with the reason.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};

use passerelle_disk::{Disk, MemoryDisk, OmittingDisk};

use super::{CONTENT, FLOW, Promised, Promises, check, live};

/// Sites of syncs that no promise needs, and why they are there all the same.
const UNMISSED: [(&str, &str); 4] = [
    (
        "sync_directories < store::open",
        "what a process named that was killed before is lost without it, and none was here",
    ),
    (
        "sync_parent < create_directories < store::open",
        "all that is there is synced right after it",
    ),
    (
        "sync_parent < create_directories < job::prepare",
        "the record that is written next syncs the same directory",
    ),
    (
        "sync_parent < rename_synced < replace < store::check_format",
        "what was not marked is marked again",
    ),
];

/// Lock and devices are looked at where this is, everything else in memory.
fn begin(root: &Path) -> MemoryDisk {
    let memory = MemoryDisk::default();
    let disk: &dyn Disk = &memory;
    for place in [
        "outbox", "work", "sent", "rejected", "incoming", "opening", "received", "inbox", "state",
    ] {
        fs::create_dir_all(root.join(place)).unwrap();
    }
    let outbox = root.join("outbox").join(FLOW);
    disk.create_directories(&outbox).unwrap();
    // Its dropper has not synced what is in it.
    let dropped = outbox.join("t.csv");
    disk.create(&dropped).unwrap().write_at(CONTENT, 0).unwrap();
    disk.sync_parent(&dropped).unwrap();
    memory
}

/// What a power cut leaves, and what has been promised by then.
type Cut = (MemoryDisk, Promised);

/// A life with the syncs of a site left out, and every power cut that can be told from others.
fn lived_without(root: &Path, site: Option<String>) -> (BTreeSet<String>, Vec<Cut>) {
    let memory = begin(root);
    let promised = Arc::new(Promises::default());
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
    live(&disk, root, &promised).unwrap();
    look(&memory);
    let cuts = std::mem::take(&mut *cuts.lock().unwrap());
    (omitting.sites(), cuts)
}

fn is_missed(root: &Path, site: &str) -> bool {
    let (_, cuts) = lived_without(root, Some(site.to_owned()));
    cuts.into_iter().any(|(disk, promised)| {
        let disk: Arc<dyn Disk> = Arc::new(disk);
        catch_unwind(AssertUnwindSafe(|| check(&disk, root, &promised, &site))).is_err()
    })
}

#[test]
fn each_sync_is_missed_after_a_power_cut_or_listed_as_not_needed() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let (sites, cuts) = lived_without(&root, None);
    assert!(sites.len() > 10, "{sites:#?}");
    for (disk, promised) in cuts {
        let disk: Arc<dyn Disk> = Arc::new(disk);
        check(&disk, &root, &promised, &"no sync left out");
    }
    let unmissed = sites.iter().filter(|site| !is_missed(&root, site));
    let unmissed: BTreeSet<&str> = unmissed.map(String::as_str).collect();
    let listed: BTreeSet<&str> = UNMISSED.iter().map(|(site, _)| *site).collect();
    assert_eq!(unmissed, listed);
}
