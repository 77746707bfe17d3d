//! A package that has rotted on its way is offered again, and its item comes back.

use super::*;

/// A copy is damaged: that of a next hop, or ours.
pub(super) fn damaged(number: u8, at: Option<usize>) -> v1::Entry {
    let (issuer, from) = match at {
        Some(at) => (HOPS[at], Some(hop(at))),
        None => ("caf21", None),
    };
    let what = What::Damaged(v1::Damaged {});
    let to = from.is_none().then(|| Hop::agent(party("caf21")));
    said(number, issuer, what, from, to)
}

/// Our copy is whole again, at another place.
pub(super) fn repaired(number: u8) -> v1::Entry {
    entry(Event::Repaired(v1::RepairedEvent {
        package: id(number).as_bytes().to_vec(),
        pack: Some(v1::PackLocation {
            segment: 7,
            offset: 3,
            length: u64::from(number) + 100,
        }),
    }))
}

fn claimable(queue: &dyn Queue, at: usize) -> usize {
    let now = Instant::now();
    queue.claim(&hop(at), Class::Small, 9, now).unwrap().len()
}

#[test]
fn a_package_whose_copy_here_is_damaged_is_offered_to_nobody_until_it_is_repaired() {
    let queue = MemQueue::new();
    push(&queue, accepted(2, &[0, 1]));
    push(&queue, forwarded(2, 1));
    let lease = queue.claim(&hop(0), Class::Small, 1, Instant::now());
    let token = lease.unwrap().remove(0).token;
    push(&queue, damaged(2, None));
    assert!(!queue.settle(token, Settle::Return), "the log has ended it");
    assert_eq!(states(&queue, 2)[0].1, ItemState::Damaged);
    assert_eq!(states(&queue, 2)[1].1, ItemState::Forwarded);
    assert_eq!(claimable(&queue, 0), 0);
    assert_eq!(queue.counts()[&hop(0)].damaged, 1);
    push(&queue, repaired(2));
    let place = queue.find(&id(2)).unwrap()[0].item.pack.unwrap();
    assert_eq!((place.segment, place.offset), (7, 3));
    assert_eq!((claimable(&queue, 0), claimable(&queue, 1)), (1, 0));
}

#[test]
fn a_next_hop_whose_copy_is_damaged_is_offered_the_package_again_and_no_other_is() {
    let queue = MemQueue::new();
    push(&queue, accepted(2, &[0, 1]));
    push(&queue, forwarded(2, 0));
    push(&queue, forwarded(2, 1));
    push(&queue, damaged(2, Some(0)));
    push(&queue, damaged(2, Some(0)));
    assert_eq!((claimable(&queue, 0), claimable(&queue, 1)), (1, 0));
}

#[test]
fn what_is_over_is_not_offered_again_however_damaged_a_copy_is() {
    let queue = MemQueue::new();
    push(&queue, accepted(2, &[0]));
    push(&queue, damaged(2, None));
    push(&queue, refused(2, HOPS[0], behind(0), Some(hop(0))));
    push(&queue, damaged(2, Some(0)));
    push(&queue, repaired(2));
    assert_eq!(states(&queue, 2), []);
}
