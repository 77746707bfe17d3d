//! What entries of the log do to the queue, and that both engines agree on it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use passerelle_proto::v1::{self, entry::Event, statement::What};
use passerelle_proto::{Digest, Hop, PackageId, PartyId, Timestamp};
use prost::Message;

use super::*;

mod agreement;
mod damage;
mod retention;

const HOPS: [&str; 3] = ["grand-dijon", "insee", "prestataire-obs"];

fn party(name: &str) -> PartyId {
    PartyId::parse(name).unwrap()
}

fn hop(at: usize) -> Hop {
    Hop::gateway(party(HOPS[at]))
}

/// The recipients behind a hop.
fn behind(at: usize) -> Vec<String> {
    vec![format!("{}-a", HOPS[at]), format!("{}-b", HOPS[at])]
}

fn manifest(number: u8) -> v1::Signed {
    let body = v1::Manifest {
        nonce: vec![number; 16],
        flow: "observation-iris".into(),
        sender: "caf21".into(),
        payload_length: u64::from(number % 2) * 1_000_000,
        ..v1::Manifest::default()
    };
    v1::Signed {
        body: body.encode_to_vec(),
        ..v1::Signed::default()
    }
}

fn id(number: u8) -> PackageId {
    PackageId(Digest::of(&manifest(number).body))
}

fn entry(event: Event) -> v1::Entry {
    let event = Some(event);
    v1::Entry { at_ms: 0, event }
}

fn accepted(number: u8, hops: &[usize]) -> v1::Entry {
    let route = |at: &usize| v1::Route {
        next_hop: Some(hop(*at).to_message()),
        recipients: behind(*at),
    };
    entry(Event::Accepted(v1::AcceptedEvent {
        manifest: Some(manifest(number)),
        previous_hop: Some(Hop::agent(party("caf21")).to_message()),
        routes: hops.iter().map(route).collect(),
        deadline_ms: 1_000 + i64::from(number % 4) * 1_000,
        pack: Some(v1::PackLocation {
            segment: u64::from(number % 3),
            length: u64::from(number) + 100,
            ..v1::PackLocation::default()
        }),
        retention: Some(v1::RetentionDays {
            payload: u32::from(number % 2),
            metadata: 2,
            evidence: 3,
        }),
        ..v1::AcceptedEvent::default()
    }))
}

fn said(number: u8, issuer: &str, what: What, from: Option<Hop>, to: Option<Hop>) -> v1::Entry {
    let body = v1::Statement {
        issuer: issuer.into(),
        destination: "caf21".into(),
        package: id(number).as_bytes().to_vec(),
        what: Some(what),
        ..v1::Statement::default()
    };
    entry(Event::Statement(v1::StatementEvent {
        statement: Some(v1::Signed {
            body: body.encode_to_vec(),
            ..v1::Signed::default()
        }),
        from: from.map(|hop| hop.to_message()),
        next_hop: to.map(|hop| hop.to_message()),
    }))
}

fn delivered(number: u8, at: usize, recipient: usize) -> v1::Entry {
    let name = behind(at)[recipient].clone();
    let what = What::Delivered(v1::Delivered {
        recipient: name.clone(),
        content_commit: vec![0; 32],
    });
    said(
        number,
        &name,
        what,
        Some(hop(at)),
        Some(Hop::agent(party("caf21"))),
    )
}

fn refused(number: u8, issuer: &str, recipients: Vec<String>, from: Option<Hop>) -> v1::Entry {
    let what = What::Refused(v1::Refused {
        reason: v1::Reason::FlowUnknown as i32,
        recipients,
        ..v1::Refused::default()
    });
    said(number, issuer, what, from, None)
}

fn forwarded(number: u8, at: usize) -> v1::Entry {
    entry(Event::Forwarded(v1::ForwardedEvent {
        package: id(number).as_bytes().to_vec(),
        next_hop: Some(hop(at).to_message()),
        ..v1::ForwardedEvent::default()
    }))
}

fn hold(number: u8, at: Option<usize>) -> v1::HoldEvent {
    v1::HoldEvent {
        package: id(number).as_bytes().to_vec(),
        next_hop: at.map(|at| hop(at).to_message()),
        ..v1::HoldEvent::default()
    }
}

fn handed_over(to: &Hop, log_index: Vec<u64>) -> v1::Entry {
    entry(Event::HandedOver(v1::HandedOverEvent {
        next_hop: Some(to.to_message()),
        log_index,
    }))
}

fn resent(number: u8, to: &Hop, log_index: u64) -> v1::Entry {
    entry(Event::Resent(v1::ResentEvent {
        package: id(number).as_bytes().to_vec(),
        next_hop: Some(to.to_message()),
        statements: vec![v1::Resent {
            log_index,
            issuer: behind(0)[0].clone(),
            destination: "caf21".to_owned(),
            from: Some(hop(0).to_message()),
        }],
    }))
}

fn root(size: u64) -> Digest {
    Digest::of(&size.to_be_bytes())
}

/// Applies one entry at the end.
fn push(queue: &dyn Queue, entry: v1::Entry) -> u64 {
    let index = queue.applied().size;
    queue.apply(index, &[entry], root(index + 1)).unwrap();
    index
}

fn states(queue: &dyn Queue, number: u8) -> Vec<(Hop, ItemState, usize)> {
    let items = queue.find(&id(number)).unwrap();
    let packages = items.into_iter().filter(|view| view.item.is_package());
    packages
        .map(|view| {
            let state = view.item.state();
            (view.item.next_hop, state, view.item.recipients.len())
        })
        .collect()
}

#[test]
fn a_package_waits_once_for_each_next_hop_until_everybody_behind_it_is_done() {
    let queue = MemQueue::new();
    push(&queue, accepted(2, &[0, 1]));
    assert_eq!(
        states(&queue, 2),
        [
            (hop(0), ItemState::Waiting, 2),
            (hop(1), ItemState::Waiting, 2)
        ]
    );
    push(&queue, forwarded(2, 0));
    push(&queue, delivered(2, 0, 0));
    assert_eq!(states(&queue, 2)[0], (hop(0), ItemState::Forwarded, 1));
    push(&queue, delivered(2, 0, 0));
    assert_eq!(states(&queue, 2)[0], (hop(0), ItemState::Forwarded, 1));
    push(&queue, delivered(2, 0, 1));
    assert_eq!(states(&queue, 2), [(hop(1), ItemState::Waiting, 2)]);
}

#[test]
fn what_waits_for_a_hop_is_counted_with_its_bytes() {
    let queue = MemQueue::new();
    push(&queue, accepted(2, &[0, 1]));
    push(&queue, accepted(4, &[0]));
    push(&queue, forwarded(4, 0));
    let counts = queue.counts();
    let first = counts[&hop(0)];
    assert_eq!((first.waiting, first.forwarded, first.bytes), (1, 1, 206));
    assert_eq!((counts[&hop(1)].total(), counts[&hop(1)].bytes), (1, 102));
    push(&queue, refused(2, HOPS[0], vec![], Some(hop(0))));
    assert_eq!(queue.counts()[&hop(0)].bytes, 104);
}

#[test]
fn an_acceptance_by_the_next_hop_frees_nothing() {
    let queue = MemQueue::new();
    push(&queue, accepted(2, &[0]));
    push(&queue, forwarded(2, 0));
    let what = What::Accepted(v1::Accepted::default());
    push(&queue, said(2, HOPS[0], what, Some(hop(0)), None));
    assert_eq!(states(&queue, 2), [(hop(0), ItemState::Forwarded, 2)]);
}

#[test]
fn a_refusal_that_names_nobody_speaks_for_all_behind_its_issuer_only() {
    let queue = MemQueue::new();
    push(&queue, accepted(2, &[0, 1]));
    // A recipient's agent refuses, and its gateway relays that.
    push(&queue, refused(2, &behind(0)[0], vec![], Some(hop(0))));
    assert_eq!(states(&queue, 2)[0], (hop(0), ItemState::Waiting, 1));
    push(&queue, refused(2, HOPS[0], vec![], Some(hop(0))));
    assert_eq!(states(&queue, 2), [(hop(1), ItemState::Waiting, 2)]);
    push(&queue, refused(2, "caf21", vec![], None));
    assert_eq!(states(&queue, 2), []);
}

#[test]
fn that_nothing_was_receipted_ends_a_package_only_when_we_say_so() {
    let not_receipted = |from| {
        let recipient = behind(0)[0].clone();
        let log_size = 9;
        let what = What::NotReceipted(v1::NotReceipted {
            recipient,
            log_size,
        });
        said(2, "caf21", what, from, None)
    };
    let queue = MemQueue::new();
    push(&queue, accepted(2, &[0]));
    push(&queue, not_receipted(Some(hop(0))));
    assert_eq!(states(&queue, 2), [(hop(0), ItemState::Waiting, 2)]);
    push(&queue, not_receipted(None));
    assert_eq!(states(&queue, 2), [(hop(0), ItemState::Waiting, 1)]);
}

#[test]
fn a_statement_waits_until_its_next_hop_has_acknowledged_it() {
    let queue = MemQueue::new();
    push(&queue, accepted(2, &[0]));
    let index = push(&queue, delivered(2, 0, 0));
    let (sender, now) = (Hop::agent(party("caf21")), Instant::now());
    let leases = queue.claim(&sender, Class::Statement, 9, now).unwrap();
    assert_eq!(leases.len(), 1);
    assert_eq!(leases[0].key.index, index);
    push(&queue, handed_over(&hop(1), vec![index]));
    assert_eq!(queue.counts()[&sender].statements, 1, "another hop's word");
    // An index that is a package's takes nothing away.
    push(&queue, handed_over(&hop(0), vec![0]));
    push(&queue, handed_over(&sender, vec![index]));
    assert!(!queue.counts().contains_key(&sender));
    assert_eq!(states(&queue, 2).len(), 1);
    assert!(
        !queue.settle(leases[0].token, Settle::Return),
        "the log has ended it"
    );
}

#[test]
fn a_statement_that_its_next_hop_has_lost_waits_for_it_once_more() {
    let queue = MemQueue::new();
    push(&queue, accepted(2, &[0]));
    let index = push(&queue, delivered(2, 0, 0));
    let sender = Hop::agent(party("caf21"));
    let item = || {
        queue
            .find(&id(2))
            .unwrap()
            .into_iter()
            .find(|view| !view.item.is_package())
    };
    let before = item().unwrap();
    push(&queue, handed_over(&sender, vec![index]));
    assert!(item().is_none());
    push(&queue, resent(2, &sender, index));
    let again = item().unwrap();
    assert_eq!(again.key, before.key);
    let changed = before.item.changed;
    assert_eq!(
        Item {
            changed,
            ..again.item
        },
        before.item
    );
    push(&queue, resent(2, &sender, index));
    assert_eq!(queue.counts()[&sender].statements, 1);
    push(&queue, handed_over(&sender, vec![index]));
    assert!(item().is_none());
}

#[test]
fn what_is_held_is_not_handed_out_until_it_is_released() {
    let queue = MemQueue::new();
    let now = Instant::now();
    push(&queue, accepted(2, &[0, 1]));
    push(&queue, entry(Event::Held(hold(2, Some(0)))));
    assert_eq!(states(&queue, 2)[0].1, ItemState::Held);
    assert!(
        queue
            .claim(&hop(0), Class::Small, 9, now)
            .unwrap()
            .is_empty()
    );
    assert_eq!(queue.claim(&hop(1), Class::Small, 9, now).unwrap().len(), 1);
    push(&queue, entry(Event::Released(hold(2, None))));
    assert_eq!(queue.claim(&hop(0), Class::Small, 9, now).unwrap().len(), 1);
}

#[test]
fn the_next_hops_refusal_of_a_held_package_still_ends_it() {
    let queue = MemQueue::new();
    push(&queue, accepted(2, &[0]));
    push(&queue, entry(Event::Held(hold(2, None))));
    push(&queue, refused(2, HOPS[0], behind(0), Some(hop(0))));
    assert_eq!(states(&queue, 2), []);
    assert!(queue.counts().is_empty());
}

#[test]
fn a_retry_offers_a_forwarded_or_parked_package_again_at_once() {
    let queue = MemQueue::new();
    let now = Instant::now();
    push(&queue, accepted(2, &[0]));
    let lease = queue
        .claim(&hop(0), Class::Small, 1, now)
        .unwrap()
        .remove(0);
    let error = String::from("refused by TLS");
    assert!(queue.settle(lease.token, Settle::Park { error }));
    assert_eq!(queue.next_attempt(&hop(0), Class::Small, now), None);
    assert_eq!(queue.find(&id(2)).unwrap()[0].last_error, "refused by TLS");
    push(&queue, entry(Event::Retried(hold(2, None))));
    assert_eq!(queue.claim(&hop(0), Class::Small, 1, now).unwrap().len(), 1);
    push(&queue, forwarded(2, 0));
    assert!(
        queue
            .claim(&hop(0), Class::Small, 1, now)
            .unwrap()
            .is_empty()
    );
    push(&queue, entry(Event::Retried(hold(2, None))));
    assert_eq!(queue.claim(&hop(0), Class::Small, 1, now).unwrap().len(), 1);
}

#[test]
fn a_lease_is_given_once_oldest_first_and_a_failure_delays_only_its_item() {
    let queue = MemQueue::new();
    let now = Instant::now();
    for number in [0, 2, 4] {
        push(&queue, accepted(number, &[0]));
    }
    let first = queue.claim(&hop(0), Class::Small, 2, now).unwrap();
    let indices: Vec<u64> = first.iter().map(|lease| lease.key.index).collect();
    assert_eq!(indices, [0, 1]);
    let retry = |at, progress| Settle::Retry {
        at,
        progress,
        error: String::from("timeout"),
    };
    let at = now + Duration::from_secs(5);
    assert!(queue.settle(first[0].token, retry(at, false)));
    assert!(queue.settle(first[1].token, Settle::Return));
    assert!(
        !queue.settle(first[1].token, Settle::Return),
        "a lease ends once"
    );
    let second = queue.claim(&hop(0), Class::Small, 9, now).unwrap();
    let indices: Vec<u64> = second.iter().map(|lease| lease.key.index).collect();
    assert_eq!(indices, [1, 2], "the failing item blocks nobody");
    assert_eq!(second[0].attempts, 1, "a returned lease is no attempt");
    assert_eq!(queue.next_attempt(&hop(0), Class::Small, now), Some(at));
    let third = queue.claim(&hop(0), Class::Small, 9, at).unwrap();
    assert_eq!((third[0].key.index, third[0].attempts), (0, 2));
    let at = at + Duration::from_secs(300);
    assert!(queue.settle(third[0].token, retry(at, true)));
    queue.wake(&hop(0));
    let woken = queue.claim(&hop(0), Class::Small, 9, now).unwrap();
    assert_eq!(woken.len(), 1, "a peer that shows itself is tried at once");
    assert_eq!(woken[0].attempts, 1, "what got further has not failed");
}

#[test]
fn small_and_bulk_packages_stand_in_lines_of_their_own() {
    let queue = MemQueue::new();
    let now = Instant::now();
    push(&queue, accepted(1, &[0]));
    push(&queue, accepted(2, &[0]));
    let of = |class| queue.claim(&hop(0), class, 9, now).unwrap();
    assert_eq!(of(Class::Bulk)[0].item.package, id(1));
    assert_eq!(of(Class::Small)[0].item.package, id(2));
}

#[test]
fn entries_that_were_applied_are_passed_over_and_a_gap_is_refused() {
    let queue = MemQueue::new();
    let log = [accepted(2, &[0]), refused(2, HOPS[0], vec![], Some(hop(0)))];
    queue.apply(0, &log, root(2)).unwrap();
    queue.apply(0, &log[..1], root(1)).unwrap();
    assert_eq!(states(&queue, 2), [], "what is finished does not come back");
    assert_eq!(queue.applied().size, 2);
    queue
        .apply(1, &[log[1].clone(), accepted(4, &[0])], root(3))
        .unwrap();
    assert_eq!(states(&queue, 4).len(), 1);
    let gap = queue.apply(4, &log, root(6));
    assert_eq!(gap, Err(QueueError::Gap { size: 3, first: 4 }));
}

#[test]
fn an_entry_that_cannot_be_read_is_named() {
    let queue = MemQueue::new();
    let nothing = v1::Entry::default();
    let error = queue.apply(0, &[nothing], root(1)).unwrap_err();
    assert!(error.to_string().contains("log entry 0"), "{error}");
}

#[test]
fn deadlines_come_earliest_first() {
    let queue = MemQueue::new();
    for number in [3, 1, 2] {
        push(&queue, accepted(number, &[0]));
    }
    assert_eq!(queue.next_due().unwrap(), Some(Timestamp::from_ms(2_000)));
    let due = queue.due(Timestamp::from_ms(3_000), 9).unwrap();
    let due: Vec<_> = due.iter().map(|view| view.item.package).collect();
    assert_eq!(due, [id(1), id(2)]);
}

/// Everything that an engine must keep.
type Contents = (
    Applied,
    Vec<(ItemKey, Item)>,
    Vec<ItemKey>,
    BTreeMap<Hop, Counts>,
    Retention,
    Vec<ItemKey>,
);

fn contents(queue: &dyn Queue) -> Contents {
    let mut items = Vec::new();
    let pages = [Queue::page, Queue::retained_page];
    for page in pages {
        let mut after = None;
        // Pages of two, so that the joints are tried as well.
        loop {
            let page = page(queue, after, 2).unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.key);
            items.extend(page.into_iter().map(|view| (view.key, view.item)));
        }
    }
    let until = Timestamp::from_ms(i64::MAX);
    let goings = [
        Going::Decided,
        Going::Due {
            until,
            below: u64::MAX,
        },
    ];
    let going = goings.map(|going| queue.purgeable(going, PAGE_MAX).unwrap());
    let going = going.into_iter().flatten().map(|view| view.key).collect();
    let due = queue.due(Timestamp::from_ms(i64::MAX), PAGE_MAX).unwrap();
    let due = due.into_iter().map(|view| view.key).collect();
    let (counts, kept) = (queue.counts(), queue.retention());
    (queue.applied(), items, due, counts, kept, going)
}

#[test]
fn a_database_that_is_lost_is_rebuilt_from_the_log_item_for_item() {
    let dir = tempfile::tempdir().unwrap();
    let log = vec![
        accepted(1, &[0, 1]),
        accepted(2, &[1, 2]),
        forwarded(1, 0),
        entry(Event::Held(hold(2, Some(1)))),
        delivered(1, 0, 1),
        refused(2, HOPS[2], vec![], Some(hop(2))),
    ];
    let queue = SledQueue::open(&passerelle_disk::system(), dir.path()).unwrap();
    queue.apply(0, &log, root(6)).unwrap();
    let before = contents(&queue);
    queue.close().unwrap();
    drop(queue);
    std::fs::remove_dir_all(dir.path()).unwrap();
    let queue = SledQueue::open(&passerelle_disk::system(), dir.path()).unwrap();
    assert_eq!(queue.applied(), Applied::nothing());
    queue.apply(0, &log, root(6)).unwrap();
    assert_eq!(contents(&queue), before);
    queue.reset().unwrap();
    assert_eq!(contents(&queue), contents(&MemQueue::new()));
    queue.apply(0, &log, root(6)).unwrap();
    assert_eq!(contents(&queue), before);
}

#[test]
fn a_database_that_cannot_be_read_is_moved_aside_and_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let queue = SledQueue::open(&passerelle_disk::system(), dir.path()).unwrap();
    push(&queue, accepted(2, &[0]));
    drop(queue);
    std::fs::write(dir.path().join("db/conf"), b"no configuration").unwrap();
    let queue = SledQueue::open(&passerelle_disk::system(), dir.path()).unwrap();
    assert_eq!(queue.applied(), Applied::nothing());
    assert!(dir.path().join("db.aside").is_dir());
    push(&queue, accepted(2, &[0]));
    assert_eq!(states(&queue, 2).len(), 1);
}

#[test]
fn a_database_that_is_still_being_closed_is_waited_for_and_not_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let queue = SledQueue::open(&passerelle_disk::system(), dir.path()).unwrap();
    push(&queue, accepted(2, &[0]));
    drop(queue);
    let held = std::fs::File::open(dir.path().join("db/db")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let (opened, opening) = std::sync::mpsc::channel();
    let path = dir.path().to_path_buf();
    std::thread::spawn(move || {
        let queue = SledQueue::open(&passerelle_disk::system(), &path).unwrap();
        opened.send(queue.applied().size).unwrap();
    });
    let too_early = opening.recv_timeout(Duration::from_millis(200));
    assert!(too_early.is_err(), "opened while another has it open");
    drop(held);
    assert_eq!(opening.recv_timeout(Duration::from_secs(20)), Ok(1));
    assert!(!dir.path().join("db.aside").exists());
}

#[test]
fn a_machine_that_stopped_without_notice_has_its_queue_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let stop = |orderly: bool, boot: &str| {
        let queue = SledQueue::open(&passerelle_disk::system(), dir.path()).unwrap();
        push(&queue, accepted(2, &[0]));
        if orderly {
            queue.close().unwrap();
        } else {
            // As if it had run before the machine was started last.
            std::fs::write(dir.path().join("open"), boot).unwrap();
        }
    };
    let size = || {
        SledQueue::open(&passerelle_disk::system(), dir.path())
            .unwrap()
            .applied()
            .size
    };
    let this_boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    stop(false, &this_boot);
    assert_eq!(size(), 1, "only the process was killed");
    stop(true, "");
    assert_eq!(size(), 2);
    stop(false, "another boot");
    assert_eq!(size(), 0);
}
