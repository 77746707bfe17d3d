//! A peer that offers more than anybody can want.

use std::time::{Duration, Instant};

use passerelle_proto::v1::{self, Lane, Reason};
use passerelle_tests::CAF_GATEWAY;
use prost::Message;

use crate::scene::{Scene, expect_refused};

/// Offers in the burst.
const OFFERS: u32 = 10_000;
/// Offers without an answer that a stream may have.
const UNANSWERED_MAX: u32 = 64;
/// All must be answered within this time.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// Entries that refusals of one peer may cause within a minute.
const ENTRIES_PER_MINUTE_MAX: usize = 60;

#[test]
fn ten_thousand_offers_are_answered_within_30_s_and_the_log_grows_by_60_entries_a_minute() {
    let mut scene = Scene::start();
    let mut rogue = scene.rogue(Lane::Control);
    let good = scene.small(&scene.plan(), &scene.key);
    let mut body = v1::Manifest::decode(good.manifest.body.as_slice()).unwrap();
    let begun = Instant::now();
    for number in 1..=OFFERS {
        body.nonce[..4].copy_from_slice(&number.to_be_bytes());
        let mut manifest = good.manifest.clone();
        manifest.body = body.encode_to_vec();
        let slot = rogue.offer(manifest, good.inline.clone());
        assert_eq!(slot, number);
        if let Some(oldest) = number.checked_sub(UNANSWERED_MAX - 1).filter(|at| *at > 0) {
            expect_refused(&rogue.outcome(oldest), Reason::Signature, "in the burst");
        }
    }
    for oldest in OFFERS + 2 - UNANSWERED_MAX..=OFFERS {
        expect_refused(&rogue.outcome(oldest), Reason::Signature, "at its end");
    }
    let took = begun.elapsed();
    assert!(took < ANSWERED_WITHIN, "{took:?}");
    let minutes = begun.elapsed().as_secs() as usize / 60 + 1;
    let refused = |entries: &[serde_json::Value]| {
        let refused = entries.iter().filter(|entry| entry["kind"] == "refused");
        refused.count()
    };
    let entries = scene.entries(CAF_GATEWAY);
    assert!(refused(&entries) >= 1, "{entries:?}");
    assert!(refused(&entries) <= minutes * ENTRIES_PER_MINUTE_MAX);
    scene.expect_only_an_honest_package_arrives(&mut rogue);
    // The rest is counted, and a stop does not lose the count.
    drop(rogue);
    scene.lab.stop(CAF_GATEWAY);
    scene.lab.run(CAF_GATEWAY);
    let entries = scene.entries(CAF_GATEWAY);
    let counted: u64 = entries
        .iter()
        .filter(|entry| entry["kind"] == "counted")
        .map(|entry| leading_number(entry["says"].as_str().unwrap()))
        .sum();
    assert_eq!(counted + refused(&entries) as u64, u64::from(OFFERS));
}

fn leading_number(words: &str) -> u64 {
    words.split(' ').next().unwrap().parse().unwrap()
}
