//! What becomes of packages that are over.

use passerelle_proto::v1::PurgedPart;

use super::damage::{damaged, repaired};
use super::*;

const DAY_MS: i64 = 24 * 3_600_000;
const ALWAYS: Timestamp = Timestamp::from_ms(i64::MAX);

pub(super) fn purge_decided(number: u8, part: PurgedPart) -> v1::Entry {
    entry(Event::PurgeDecided(v1::PurgeDecidedEvent {
        package: id(number).as_bytes().to_vec(),
        part: part as i32,
        ..v1::PurgeDecidedEvent::default()
    }))
}

fn purged_by(issuer: &str, number: u8, part: PurgedPart, from: Option<Hop>) -> v1::Entry {
    let what = What::Purged(v1::Purged {
        part: part as i32,
        ..v1::Purged::default()
    });
    let sender = Hop::agent(party("caf21"));
    said(number, issuer, what, from, Some(sender))
}

pub(super) fn purged(number: u8, part: PurgedPart) -> v1::Entry {
    purged_by("grand-dijon", number, part, None)
}

/// At this many milliseconds.
fn at(at_ms: i64, mut entry: v1::Entry) -> v1::Entry {
    entry.at_ms = at_ms;
    entry
}

fn over(number: u8, hop_at: usize) -> v1::Entry {
    refused(number, HOPS[hop_at], vec![], Some(hop(hop_at)))
}

fn kept(queue: &dyn Queue, number: u8) -> Option<(PurgedPart, i64, Option<u64>)> {
    let items = queue.find(&id(number)).unwrap();
    let mut kept = items.iter().filter_map(|view| view.item.retained);
    let retained = kept.next()?;
    assert_eq!(kept.next(), None, "once");
    Some((retained.part, retained.due.as_ms(), retained.decided))
}

fn purgeable(queue: &dyn Queue, going: Going) -> Vec<PackageId> {
    let views = queue.purgeable(going, PAGE_MAX).unwrap();
    views.into_iter().map(|view| view.item.package).collect()
}

#[test]
fn a_package_is_kept_from_its_last_recipients_terminal_statement_on() {
    let queue = MemQueue::new();
    push(&queue, accepted(3, &[0, 1]));
    push(&queue, at(1_000, over(3, 0)));
    assert_eq!(kept(&queue, 3), None, "somebody has not said anything");
    push(&queue, at(2_000, delivered(3, 1, 0)));
    assert_eq!(kept(&queue, 3), None);
    let index = push(&queue, at(5_000, delivered(3, 1, 1)));
    let due = 5_000 + DAY_MS;
    assert_eq!(kept(&queue, 3), Some((PurgedPart::Chunks, due, None)));
    let [view] = &queue.retained_page(None, 9).unwrap()[..] else {
        panic!("one is kept")
    };
    assert_eq!(view.key, ItemKey::retained(index));
    assert_eq!(view.item.state(), ItemState::Retained);
}

#[test]
fn what_is_kept_waits_for_nobody_and_is_counted_by_itself() {
    let queue = MemQueue::new();
    push(&queue, accepted(4, &[0]));
    push(&queue, over(4, 0));
    assert_eq!(queue.page(None, 9).unwrap(), []);
    assert!(queue.counts().is_empty());
    assert_eq!(queue.due(ALWAYS, 9).unwrap(), []);
    let now = Instant::now();
    assert!(
        queue
            .claim(&hop(0), Class::Small, 9, now)
            .unwrap()
            .is_empty()
    );
    let sums = queue.retention();
    assert_eq!((sums.packages, sums.bytes, sums.heads), (1, 104, 0));
    // Neither an operator nor the next hop brings it back.
    push(&queue, entry(Event::Retried(hold(4, None))));
    push(&queue, entry(Event::Held(hold(4, None))));
    push(&queue, forwarded(4, 0));
    assert_eq!(queue.retention(), sums);
    assert_eq!(states(&queue, 4), []);
}

#[test]
fn a_held_package_and_one_that_somebody_waits_for_can_never_be_purged() {
    let queue = MemQueue::new();
    push(&queue, accepted(2, &[0]));
    push(&queue, entry(Event::Held(hold(2, None))));
    push(&queue, accepted(4, &[0]));
    push(&queue, delivered(4, 0, 0));
    let all = Going::Due {
        until: ALWAYS,
        below: u64::MAX,
    };
    assert!(purgeable(&queue, all).is_empty());
    assert!(purgeable(&queue, Going::Early { below: u64::MAX }).is_empty());
    // Such entries never stand in a log; they would change nothing.
    push(&queue, purge_decided(2, PurgedPart::Whole));
    push(&queue, purged(4, PurgedPart::Whole));
    assert_eq!(states(&queue, 2)[0].1, ItemState::Held);
    assert_eq!(states(&queue, 4).len(), 1);
}

#[test]
fn what_is_due_first_goes_first_and_nothing_above_the_cosigned_size() {
    let queue = MemQueue::new();
    for number in [3, 1, 2] {
        push(&queue, accepted(number, &[0]));
    }
    push(&queue, at(50, over(3, 0)));
    let second = push(&queue, at(70, over(1, 0)));
    push(&queue, at(90, over(2, 0)));
    let due = |until, below| {
        let until = Timestamp::from_ms(until);
        purgeable(&queue, Going::Due { until, below })
    };
    assert_eq!(due(89, u64::MAX), []);
    assert_eq!(due(90, u64::MAX), [id(2)]);
    assert_eq!(due(DAY_MS + 70, u64::MAX), [id(2), id(3), id(1)]);
    assert_eq!(due(DAY_MS + 70, second + 1), [id(3), id(1)]);
    assert_eq!(due(DAY_MS + 70, second), [id(3)]);
    let early = purgeable(&queue, Going::Early { below: second });
    assert_eq!(early, [id(3)], "not cosigned: not for want of room either");
}

#[test]
fn chunks_go_first_and_what_stands_before_them_with_the_metadata() {
    let queue = MemQueue::new();
    push(&queue, accepted(3, &[0]));
    push(&queue, at(1_000, over(3, 0)));
    let decided = push(&queue, purge_decided(3, PurgedPart::Chunks));
    let due = 1_000 + DAY_MS;
    let expected = Some((PurgedPart::Chunks, due, Some(decided)));
    assert_eq!(kept(&queue, 3), expected);
    assert_eq!(purgeable(&queue, Going::Decided), [id(3)]);
    assert!(purgeable(&queue, Going::Early { below: u64::MAX }).is_empty());
    // Another gateway's word is about its own copy.
    push(
        &queue,
        purged_by("insee", 3, PurgedPart::Chunks, Some(hop(1))),
    );
    assert_eq!(kept(&queue, 3), expected);
    let index = push(&queue, purged(3, PurgedPart::Chunks));
    let due = 1_000 + 2 * DAY_MS;
    assert_eq!(kept(&queue, 3), Some((PurgedPart::Head, due, None)));
    let sums = queue.retention();
    assert_eq!((sums.packages, sums.bytes, sums.heads), (0, 0, 1));
    assert!(purgeable(&queue, Going::Early { below: u64::MAX }).is_empty());
    let sender = Hop::agent(party("caf21"));
    let leases = queue.claim(&sender, Class::Statement, 9, Instant::now());
    let told = leases.unwrap().iter().any(|lease| lease.key.index == index);
    assert!(told, "its sender hears of it");
    push(&queue, purge_decided(3, PurgedPart::Head));
    push(&queue, purged(3, PurgedPart::Head));
    assert_eq!(kept(&queue, 3), None);
    assert_eq!(queue.retention(), Retention::default());
}

#[test]
fn a_package_in_a_shared_segment_goes_as_a_whole() {
    let queue = MemQueue::new();
    push(&queue, accepted(1, &[0]));
    push(&queue, at(1_000, over(1, 0)));
    assert_eq!(
        kept(&queue, 1),
        Some((PurgedPart::Whole, 1_000 + DAY_MS, None))
    );
    push(&queue, purge_decided(1, PurgedPart::Whole));
    push(&queue, purged(1, PurgedPart::Whole));
    assert_eq!(kept(&queue, 1), None);
}

#[test]
fn a_receipt_that_comes_after_the_decision_travels_and_changes_nothing_else() {
    let queue = MemQueue::new();
    push(&queue, accepted(1, &[0]));
    push(&queue, over(1, 0));
    let decided = push(&queue, purge_decided(1, PurgedPart::Whole));
    let late = push(&queue, delivered(1, 0, 0));
    assert_eq!(kept(&queue, 1).unwrap().2, Some(decided));
    push(&queue, purged(1, PurgedPart::Whole));
    push(&queue, delivered(1, 0, 1));
    assert_eq!(kept(&queue, 1), None, "it is not kept a second time");
    let sender = Hop::agent(party("caf21"));
    let leases = queue.claim(&sender, Class::Statement, 9, Instant::now());
    assert!(leases.unwrap().iter().any(|lease| lease.key.index == late));
}

#[test]
fn a_repair_that_ends_after_the_package_was_over_says_where_it_lies_unless_it_goes_already() {
    let queue = MemQueue::new();
    let lies = |number| {
        let items = queue.find(&id(number)).unwrap();
        let kept = items.iter().find(|view| view.item.retained.is_some());
        kept.unwrap().item.whole().map(|pack| pack.segment)
    };
    for number in [1, 4, 7] {
        push(&queue, accepted(number, &[0]));
        push(&queue, damaged(number, None));
        push(&queue, over(number, 0));
    }
    let bytes = queue.retention().bytes;
    push(&queue, repaired(1));
    assert_eq!(lies(1), Some(7));
    push(&queue, purge_decided(4, PurgedPart::Whole));
    push(&queue, repaired(4));
    assert_eq!(lies(4), Some(1), "that place is being cleared");
    assert_eq!(queue.retention().bytes, bytes);
    assert_eq!(
        states(&queue, 7),
        [],
        "what is damaged and over waits for nothing"
    );
    push(&queue, purge_decided(7, PurgedPart::Whole));
    push(&queue, purged(7, PurgedPart::Whole));
    assert_eq!(kept(&queue, 7), None);
    push(&queue, accepted(3, &[0]));
    push(&queue, over(3, 0));
    push(&queue, purged(3, PurgedPart::Chunks));
    push(&queue, repaired(3));
    assert_eq!(lies(3), None, "its chunks are gone");
}

#[test]
fn what_is_kept_is_known_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let open = || SledQueue::open(&passerelle_disk::system(), dir.path()).unwrap();
    let queue = open();
    push(&queue, accepted(3, &[0]));
    push(&queue, at(1_000, over(3, 0)));
    push(&queue, accepted(1, &[0]));
    push(&queue, at(1_000, over(1, 0)));
    push(&queue, purge_decided(1, PurgedPart::Whole));
    let before = contents(&queue);
    drop(queue);
    assert_eq!(contents(&open()), before);
    assert_eq!(purgeable(&open(), Going::Decided), [id(1)]);
}
