//! Offers are answered, withdrawn and declined; statements are acknowledged.

use super::*;

fn one_offer(lane: Lane) -> (Pair, Package) {
    let package = package(100, 100, &[300_000]);
    let mut pair = pair(lane);
    pair.near.offer(&package.manifest, Bytes::new());
    pair.cross();
    assert!(matches!(
        pair.far.poll_event(),
        Some(Event::Offered { slot: 0, .. })
    ));
    (pair, package)
}

#[test]
fn no_side_offers_more_than_the_stream_may_have_and_an_answer_makes_room() {
    for (lane, most) in [(Lane::Control, OFFERS_MAX as u32), (Lane::Bulk, 1)] {
        let package = package(100, 100, &[22]);
        let mut pair = pair(lane);
        for slot in 0..most {
            assert!(pair.near.can_offer());
            assert_eq!(pair.near.offer(&package.manifest, Bytes::new()), slot);
        }
        assert!(!pair.near.can_offer());
        pair.cross();
        pair.far.answer(0, Answer::Have);
        pair.cross();
        let answered = events(&mut pair.near);
        assert!(matches!(
            answered[..],
            [Event::Answered {
                slot: 0,
                answer: Answer::Have
            }]
        ));
        assert!(pair.near.can_offer());
        assert_eq!(pair.near.offer(&package.manifest, Bytes::new()), most);
        pair.cross();
    }
}

#[test]
fn nothing_is_offered_before_the_peer_has_introduced_itself() {
    let session = Session::new(hello(Lane::Control), START);
    assert!(!session.can_offer() && !session.can_send_statement());
}

#[test]
fn what_the_peer_still_says_about_an_offer_that_was_given_up_is_ignored() {
    let last_words: [fn(&mut Session, &Package); 4] = [
        |far, _| far.answer(0, Answer::Have),
        |far, package| far.answer(0, Answer::Statement(package.manifest.signed().clone())),
        |far, _| far.refuse(0, "not now"),
        |far, package| far.accept(0, &package.manifest, Held::default()),
    ];
    for last_word in last_words {
        let (mut pair, package) = one_offer(Lane::Bulk);
        pair.near.give_up(0, "it cannot be read");
        last_word(&mut pair.far, &package);
        pair.cross();
        assert_eq!(events(&mut pair.near).len(), 0);
        assert!(pair.near.can_offer());
        pair.near.offer(&package.manifest, Bytes::new());
        pair.cross();
    }
}

#[test]
fn a_withdrawal_is_told_unless_the_offer_was_answered_meanwhile() {
    let (mut pair, _) = one_offer(Lane::Bulk);
    pair.near.give_up(0, &"x".repeat(5000));
    pair.cross();
    let told = events(&mut pair.far);
    let [
        Event::Withdrawn {
            slot: 0,
            ours: false,
            why,
        },
    ] = &told[..]
    else {
        panic!("{told:?}");
    };
    assert_eq!(why.len(), 300, "words are cut");
    pair.far.answer(0, Answer::Have);
    assert!(!pair.far.has_frame(), "there is nothing to answer any more");

    let (mut pair, _) = one_offer(Lane::Bulk);
    pair.far.answer(0, Answer::Have);
    pair.near.give_up(0, "too late");
    pair.cross();
    assert!(events(&mut pair.far).is_empty());
}

#[test]
fn data_under_way_when_an_offer_is_declined_is_dropped() {
    let (mut pair, package) = one_offer(Lane::Bulk);
    pair.far.accept(0, &package.manifest, Held::default());
    pair.cross();
    let wraps = package.part(Section::Wraps).clone();
    pair.near.on_read(0, Section::Wraps, 0, wraps);
    pair.far.refuse(0, "it cannot be kept now");
    pair.cross();
    assert!(events(&mut pair.far).is_empty());
    let declined = events(&mut pair.near);
    let last = declined.last();
    assert!(matches!(
        last,
        Some(Event::Withdrawn {
            slot: 0,
            ours: true,
            ..
        })
    ));
}

#[test]
fn an_offer_of_which_too_little_can_be_read_is_given_up() {
    let (mut pair, package) = one_offer(Lane::Bulk);
    pair.far.accept(0, &package.manifest, Held::default());
    pair.cross_far();
    assert!(matches!(
        pair.near.poll_event(),
        Some(Event::Read { length: 100, .. })
    ));
    let short = package.read(Section::Wraps, 0, 99);
    pair.near.on_read(0, Section::Wraps, 0, short);
    let given_up = pair.near.poll_event();
    assert!(matches!(
        given_up,
        Some(Event::Withdrawn {
            slot: 0,
            ours: true,
            ..
        })
    ));
    pair.cross();
    let told = pair.far.poll_event();
    assert!(matches!(
        told,
        Some(Event::Withdrawn {
            slot: 0,
            ours: false,
            ..
        })
    ));
}

#[test]
fn a_control_lane_takes_only_what_came_inside_its_offer() {
    let (mut pair, package) = one_offer(Lane::Control);
    pair.far.accept(0, &package.manifest, Held::default());
    let declined = pair.far.poll_event();
    assert!(matches!(
        declined,
        Some(Event::Withdrawn {
            slot: 0,
            ours: false,
            ..
        })
    ));
    pair.cross();
    let told = pair.near.poll_event();
    assert!(matches!(
        told,
        Some(Event::Withdrawn {
            slot: 0,
            ours: true,
            ..
        })
    ));
}

#[test]
fn statements_are_acknowledged_once_and_only_those_that_were_sent() {
    let mut pair = pair(Lane::Control);
    let statement = package(1, 1, &[]).manifest.signed().clone();
    let id = StatementId(Digest::of(&statement.body));
    pair.near.send_statement(statement.clone());
    pair.cross();
    let told = pair.far.poll_event();
    assert!(matches!(told, Some(Event::Statement(signed)) if signed == statement));
    pair.far.ack(&[StatementId(Digest::of(b"another")), id, id]);
    pair.cross();
    let acked = events(&mut pair.near);
    assert!(matches!(&acked[..], [Event::Acked(ids)] if ids[..] == [id]));
}

#[test]
fn no_more_statements_are_sent_than_may_wait_for_their_acknowledgement() {
    let mut pair = pair(Lane::Control);
    let statement = package(1, 1, &[]).manifest.signed().clone();
    for _ in 0..STATEMENTS_MAX {
        assert!(pair.near.can_send_statement());
        pair.near.send_statement(statement.clone());
    }
    assert!(!pair.near.can_send_statement());
    pair.cross();
    pair.far.ack(&[StatementId(Digest::of(&statement.body))]);
    pair.cross();
    assert!(pair.near.can_send_statement());
}
