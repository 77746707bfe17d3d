//! Silence, and the end of a stream in good order.

use super::*;

fn is_keep_alive(frame: &v1::Frame) -> bool {
    matches!(frame.frame, Some(frame::Frame::KeepAlive(_)))
}

#[test]
fn silence_is_filled_with_keep_alives_and_ended_after_ten_seconds() {
    let mut pair = pair(Lane::Control);
    assert_eq!(pair.near.poll_timeout(), START + KEEP_ALIVE);
    let early = START + KEEP_ALIVE - Duration::from_millis(1);
    pair.near.on_timeout(early).unwrap();
    assert!(!pair.near.has_frame());
    pair.near.on_timeout(START + KEEP_ALIVE).unwrap();
    let frame = pair.near.poll_frame(START + KEEP_ALIVE).unwrap();
    assert!(is_keep_alive(&frame));
    assert_eq!(pair.near.poll_timeout(), START + 2 * KEEP_ALIVE);
    pair.far.on_frame(frame, START + KEEP_ALIVE).unwrap();
    assert_eq!(pair.near.on_timeout(START + IDLE_MAX), Err(Fault::Idle));
    assert_eq!(pair.far.on_timeout(START + IDLE_MAX), Ok(()));
}

#[test]
fn two_peers_with_nothing_to_say_stay_connected() {
    let mut pair = pair(Lane::Control);
    let end = START + Duration::from_secs(3600);
    while pair.now < end {
        pair.now = pair.near.poll_timeout().min(pair.far.poll_timeout());
        pair.near.on_timeout(pair.now).unwrap();
        pair.far.on_timeout(pair.now).unwrap();
        pair.cross();
    }
}

#[test]
fn a_stream_that_cannot_write_is_not_woken_for_a_keep_alive() {
    let mut pair = pair(Lane::Control);
    pair.near.send_note(vec![1]);
    assert_eq!(pair.near.poll_timeout(), START + IDLE_MAX);
    pair.near.on_timeout(START + KEEP_ALIVE).unwrap();
    let frame = pair.near.poll_frame(START + KEEP_ALIVE).unwrap();
    assert!(!is_keep_alive(&frame));
    assert!(!pair.near.has_frame());
}

#[test]
fn a_stream_ends_when_both_want_it_and_nothing_is_open() {
    let package = package(100, 100, &[22]);
    let mut pair = pair(Lane::Control);
    let slot = pair.near.offer(&package.manifest, Bytes::new());
    let statement = package.manifest.signed().clone();
    let id = StatementId(Digest::of(&statement.body));
    pair.far.send_statement(statement);
    pair.near.bye("stopping");
    assert!(!pair.near.can_offer() && !pair.near.can_send_statement());
    pair.cross();
    assert!(!pair.near.is_finished() && !pair.far.is_finished());
    assert!(!pair.far.can_offer() && !pair.far.can_send_statement());
    pair.far.answer(slot, Answer::Have);
    pair.near.ack(&[id]);
    pair.cross();
    assert!(
        !pair.near.is_finished(),
        "the peer may still have something to say"
    );
    pair.far.bye("as you wish");
    assert!(!pair.far.is_finished(), "its last word has not left");
    pair.cross();
    assert!(pair.near.is_finished() && pair.far.is_finished());
    let is_told = |event: &Event| matches!(event, Event::Bye(why) if why == "stopping");
    assert!(events(&mut pair.far).iter().any(is_told));
}

#[test]
fn an_offer_that_crosses_our_bye_is_declined() {
    let package = package(100, 100, &[22]);
    let mut pair = pair(Lane::Control);
    pair.far.bye("stopping");
    pair.near.offer(&package.manifest, Bytes::new());
    pair.cross();
    assert!(events(&mut pair.far).is_empty());
    let told = events(&mut pair.near);
    assert!(told.iter().any(|event| matches!(
        event,
        Event::Withdrawn {
            slot: 0,
            ours: true,
            ..
        }
    )));
    pair.near.bye("as you wish");
    pair.cross();
    assert!(pair.near.is_finished() && pair.far.is_finished());
}

#[test]
fn a_peer_that_does_not_answer_a_bye_is_waited_for_ten_seconds() {
    let mut pair = pair(Lane::Control);
    pair.near.bye("stopping");
    pair.cross_near();
    let deadline = START + IDLE_MAX;
    let later = START + Duration::from_secs(5);
    // It goes on speaking, of other things.
    let alive = framed(frame::Frame::KeepAlive(v1::KeepAlive {}));
    pair.near.on_frame(alive, later).unwrap();
    let just_before = deadline - Duration::from_millis(1);
    pair.near.on_timeout(just_before).unwrap();
    while pair.near.poll_frame(just_before).is_some() {}
    assert!(!pair.near.is_finished());
    assert_eq!(pair.near.poll_timeout(), deadline);
    pair.near.on_timeout(deadline).unwrap();
    assert!(pair.near.is_finished());
}

#[test]
fn a_peer_that_wants_none_of_a_stream_may_say_why_at_once() {
    let mut session = Session::new(hello(Lane::Control), START);
    let bye = v1::Bye {
        why: "not yet".into(),
    };
    session
        .on_frame(framed(frame::Frame::Bye(bye)), START)
        .unwrap();
    assert!(matches!(session.poll_event(), Some(Event::Bye(why)) if why == "not yet"));
}
