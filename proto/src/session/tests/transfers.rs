//! Bytes of a package cross in order, within the window, and go on where they were.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::session::offering::RANGES_MAX;
use crate::{INDEX_LEN_MAX, MAX_CIPHERTEXT_LEN, MIN_CIPHERTEXT_LEN};

/// What a receiver has durably, and what it would lose when it is killed.
#[derive(Default)]
struct Store {
    written: BTreeMap<(i32, u64), Bytes>,
    synced: BTreeMap<(i32, u64), Bytes>,
}

impl Store {
    fn part(&self, section: Section) -> Bytes {
        let of = |((found, _), bytes): (&(i32, u64), &Bytes)| {
            (*found == section as i32).then(|| bytes.to_vec())
        };
        let parts: Vec<Vec<u8>> = self.synced.iter().filter_map(of).collect();
        parts.concat().into()
    }

    fn held(&self, package: &Package) -> Held {
        let head = [Section::Wraps, Section::ChunkTable, Section::Index];
        let whole = head.iter().all(|section| self.has(*section));
        Held {
            table: whole.then(|| package.table.clone()),
            chunks: self.part(Section::Chunks).len() as u64,
            ..Held::default()
        }
    }

    fn has(&self, section: Section) -> bool {
        self.synced.contains_key(&(section as i32, 0))
    }

    /// Bytes that need not cross again.
    fn kept(&self, package: &Package) -> u64 {
        let held = self.held(package);
        match held.table {
            Some(_) => package.head_length() + held.chunks,
            None => 0,
        }
    }
}

/// One stream that carries one package to a store.
struct Transfer<'a> {
    pair: Pair,
    package: &'a Package,
    store: &'a mut Store,
    // Writes and syncs that wait for the disk.
    disk: VecDeque<Event>,
    // Steps from one work of the disk to the next.
    disk_every: usize,
    crossed: u64,
    synced: u64,
}

impl<'a> Transfer<'a> {
    fn new(package: &'a Package, store: &'a mut Store, disk_every: usize) -> Self {
        let pair = taking(package, store.held(package));
        Self {
            pair,
            package,
            store,
            disk: VecDeque::new(),
            disk_every,
            crossed: 0,
            synced: 0,
        }
    }

    /// Runs for so many steps; true when everything has been synced before.
    fn run(&mut self, steps: usize) -> bool {
        let mut quiet = 0;
        for step in 0..steps {
            let crossed = self.step_near();
            self.take_events();
            let worked = step % self.disk_every == 0 && !self.disk.is_empty();
            if worked && self.work() {
                return true;
            }
            self.pair.cross_far();
            quiet = if crossed || worked { 0 } else { quiet + 1 };
            assert!(quiet <= self.disk_every, "the transfer is stuck");
        }
        false
    }

    fn is_whole(&self) -> bool {
        self.synced == self.package.manifest.total_length()
    }

    fn step_near(&mut self) -> bool {
        for event in events(&mut self.pair.near) {
            let Event::Read {
                slot,
                section,
                offset,
                length,
            } = event
            else {
                panic!("{event:?}");
            };
            assert!(length <= DATA_LEN_MAX);
            let bytes = self.package.read(section, offset, length);
            self.pair.near.on_read(slot, section, offset, bytes);
        }
        let Some(frame) = self.pair.near.poll_frame(START) else {
            return false;
        };
        if let Some(frame::Frame::Data(data)) = &frame.frame {
            self.crossed += data.bytes.len() as u64;
        }
        self.pair.far.on_frame(frame, START).unwrap();
        assert!(self.crossed - self.synced <= UNSYNCED_MAX);
        true
    }

    fn take_events(&mut self) {
        for event in events(&mut self.pair.far) {
            if let Event::Write { bytes, .. } = &event {
                assert!(bytes.len() as u64 <= u64::from(MAX_CIPHERTEXT_LEN).max(INDEX_LEN_MAX));
            }
            self.disk.push_back(event);
        }
    }

    /// The disk works up to its next sync; true when the package is complete.
    fn work(&mut self) -> bool {
        while let Some(event) = self.disk.pop_front() {
            match event {
                Event::Write {
                    section,
                    offset,
                    bytes,
                    ..
                } => {
                    self.store.written.insert((section as i32, offset), bytes);
                }
                Event::Sync { slot, received } => {
                    let written = std::mem::take(&mut self.store.written);
                    self.store.synced.extend(written);
                    self.synced = received;
                    self.pair.far.on_synced(slot, received);
                    return false;
                }
                Event::Complete { slot: 0 } => {
                    assert!(
                        self.store.written.is_empty(),
                        "complete before it is synced"
                    );
                    return true;
                }
                other => panic!("{other:?}"),
            }
        }
        false
    }
}

fn chunk_lengths() -> impl Strategy<Value = Vec<u32>> {
    let length = prop_oneof![
        MIN_CIPHERTEXT_LEN..1000,
        200_000_u32..700_000,
        200_000_u32..700_000,
        4_000_000..=MAX_CIPHERTEXT_LEN,
    ];
    prop::collection::vec(length, 0..9)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_transfer_that_breaks_anywhere_goes_on_where_it_was(
        index in 0_usize..2_000_000,
        chunks in chunk_lengths(),
        disk_every in prop_oneof![Just(1_usize), 2_usize..30],
        breaks in prop::collection::vec(1_usize..80, 0..6),
    ) {
        let package = package(1200, index, &chunks);
        let mut store = Store::default();
        let mut done = false;
        for steps in breaks.into_iter().chain([usize::MAX]) {
            let kept_before = store.kept(&package);
            let mut transfer = Transfer::new(&package, &mut store, disk_every);
            done = transfer.run(steps);
            let crossed = transfer.crossed;
            store.written.clear();
            let lost = crossed - (store.kept(&package) - kept_before);
            let head = if kept_before == 0 { package.head_length() } else { 0 };
            prop_assert!(lost <= head + UNSYNCED_MAX, "{lost} bytes cross again");
            if disk_every == 1 {
                let longest = chunks.iter().copied().max().map_or(0, u64::from);
                let bound = head + SYNC_EVERY + longest + DATA_LEN;
                prop_assert!(lost <= bound, "{lost} bytes cross again");
            }
            if done {
                prop_assert_eq!(lost, 0, "nothing crosses twice on one stream");
                break;
            }
        }
        prop_assert!(done);
        for (section, part) in (1..).zip(&package.parts) {
            let section = Section::try_from(section).unwrap();
            prop_assert!(store.part(section) == *part, "{section:?} differs");
        }
    }
}

#[test]
fn the_longest_index_behind_a_table_that_is_not_synced_yet_does_not_wait_for_ever() {
    let chunks = vec![MIN_CIPHERTEXT_LEN; 27_000];
    let package = package(30_000, INDEX_LEN_MAX as usize, &chunks);
    assert!(package.part(Section::ChunkTable).len() as u64 + 30_000 < SYNC_EVERY);
    let mut store = Store::default();
    assert!(Transfer::new(&package, &mut store, 3).run(usize::MAX));
}

#[test]
fn parts_without_bytes_are_not_asked_for() {
    let mut pair = taking(&package(0, 0, &[]), Held::default());
    assert!(!pair.far.has_frame());
    let done = events(&mut pair.far);
    assert!(matches!(done.last(), Some(Event::Complete { slot: 0 })));
    let writes = done
        .iter()
        .filter(|event| matches!(event, Event::Write { .. }));
    assert_eq!(writes.count(), 3, "each part of the head is made known");
}

#[test]
fn a_package_that_is_held_in_whole_is_complete_at_once() {
    let package = package(100, 100, &[500, 500]);
    let held = Held {
        table: Some(package.table.clone()),
        chunks: 1000,
        ..Held::default()
    };
    let mut pair = taking(&package, held);
    assert!(!pair.far.has_frame(), "nothing is asked for");
    let complete = events(&mut pair.far);
    assert!(matches!(complete[..], [Event::Complete { slot: 0 }]));
}

#[test]
fn a_chunk_that_is_held_in_part_is_asked_for_from_its_beginning() {
    let package = package(100, 100, &[500, 500]);
    let held = Held {
        table: Some(package.table.clone()),
        chunks: 999,
        ..Held::default()
    };
    let mut pair = taking(&package, held);
    let Some(frame::Frame::Need(need)) = pair.far.poll_frame(START).unwrap().frame else {
        panic!();
    };
    let range = v1::Range {
        section: Section::Chunks as i32,
        offset: 500,
        length: 500,
    };
    assert_eq!(need.ranges, [range]);
}

/// The chunks that a receiver asks for and gets, when it lacks these.
fn fetched(package: &Package, lacks: &[usize]) -> (usize, Vec<u64>) {
    let held = Held {
        table: Some(package.table.clone()),
        lacks: lacks.to_vec(),
        ..Held::default()
    };
    let mut pair = taking(package, held);
    let mut ranges = 0;
    let mut written = Vec::new();
    loop {
        if let Some(frame) = pair.far.poll_frame(START) {
            if let Some(frame::Frame::Need(need)) = &frame.frame {
                ranges += need.ranges.len();
            }
            pair.near.on_frame(frame, START).unwrap();
        }
        pair.cross();
        for event in events(&mut pair.near) {
            if let Event::Read {
                slot,
                section,
                offset,
                length,
            } = event
            {
                let bytes = package.read(section, offset, length);
                pair.near.on_read(slot, section, offset, bytes);
            }
        }
        for event in events(&mut pair.far) {
            match event {
                Event::Write { offset, bytes, .. } => {
                    assert_eq!(
                        bytes,
                        package.read(Section::Chunks, offset, bytes.len() as u64)
                    );
                    written.push(offset);
                }
                Event::Sync { slot, received } => pair.far.on_synced(slot, received),
                Event::Complete { .. } => return (ranges, written),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn of_a_copy_with_gaps_only_the_gaps_are_asked_for() {
    let package = package(100, 100, &[500, 400, 700_000, 300, 200, 600]);
    let second_third_and_last = fetched(&package, &[1, 2, 5]);
    assert_eq!(second_third_and_last, (2, vec![500, 900, 701_400]));
    assert_eq!(fetched(&package, &[0]), (1, vec![0]));
}

#[test]
fn more_gaps_than_one_request_can_name_end_in_one_that_names_what_lies_between() {
    let chunks = vec![MIN_CIPHERTEXT_LEN; 2 * RANGES_MAX + 20];
    let package = package(100, 100, &chunks);
    let every_second: Vec<usize> = (0..chunks.len()).step_by(2).collect();
    let (ranges, written) = fetched(&package, &every_second);
    assert_eq!(ranges, RANGES_MAX);
    assert!(written.len() > every_second.len() && written.len() < chunks.len());
}

#[test]
fn no_more_than_the_window_is_sent_ahead_of_the_sync() {
    let package = package(100, 100, &[MAX_CIPHERTEXT_LEN; 4]);
    let mut store = Store::default();
    let mut transfer = Transfer::new(&package, &mut store, 1);
    while transfer.crossed < package.head_length() || transfer.step_near() {
        transfer.step_near();
        transfer.take_events();
        transfer.pair.cross_far();
    }
    assert_eq!(transfer.crossed, UNSYNCED_MAX);
}

#[test]
fn packages_cross_both_ways_on_one_stream() {
    let package = package(100, 100, &[300_000; 3]);
    let mut pair = taking(&package, Held::default());
    pair.far.offer(&package.manifest, Bytes::new());
    let mut complete = [false; 2];
    for _ in 0..100 {
        pair.cross();
        for (session, complete) in [&mut pair.near, &mut pair.far]
            .into_iter()
            .zip(&mut complete)
        {
            for event in events(session) {
                match event {
                    Event::Offered { slot, .. } => {
                        session.accept(slot, &package.manifest, Held::default());
                    }
                    Event::Read {
                        slot,
                        section,
                        offset,
                        length,
                    } => {
                        let bytes = package.read(section, offset, length);
                        session.on_read(slot, section, offset, bytes);
                    }
                    Event::Sync { slot, received } => session.on_synced(slot, received),
                    Event::Complete { .. } => *complete = true,
                    _ => {}
                }
            }
        }
    }
    assert_eq!(complete, [true; 2]);
}

#[test]
fn what_arrives_is_synced_every_mebibyte_and_at_the_end() {
    let longest = 300_000;
    let package = package(100, 100, &[longest; 20]);
    let mut store = Store::default();
    let mut transfer = Transfer::new(&package, &mut store, 1);
    let mut before = 0;
    for _ in 0..1000 {
        let done = transfer.run(1);
        let since = transfer.synced - before;
        assert!(since == 0 || since >= SYNC_EVERY || done || transfer.is_whole());
        assert!(since < SYNC_EVERY + u64::from(longest) + DATA_LEN);
        before = transfer.synced;
        if done {
            break;
        }
    }
    assert!(transfer.is_whole());
}
