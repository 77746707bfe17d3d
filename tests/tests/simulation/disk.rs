//! Stories of a gateway whose streams break, whose disk fails in places, or is full.

use std::time::Duration;

use passerelle_tests::{CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY};

use crate::clock::pass;
use crate::run::{Run, simulated};
use crate::workload::Drop;

/// How long connections last, one after the other, in milliseconds: some break while a package is
/// being kept.
const SHORT_MS: std::ops::Range<u64> = 20..140;
/// Packages that travel within their offers while connections break: one in each would be kept too
/// early or too late.
const WITHIN_OFFERS: usize = 60;
/// Long enough to try again many times.
const A_WHILE: Duration = Duration::from_secs(60);

/// Packages from the producer to the partner: one travels within its offer, one chunk by chunk into
/// a segment that many share, and one into a file of its own.
fn of_every_kind() -> Vec<Drop> {
    let all = (0..).zip([2_000, 100_000, 1_000_000]);
    let drop = |(number, length)| {
        let to = &["grand-dijon"];
        Drop::of("caf21", "observation-iris", to, number, length)
    };
    all.map(drop).collect()
}

impl Run {
    fn drop_all(&self) {
        for drop in &self.drops {
            drop.drop_into(&self.world);
        }
    }

    /// Has everything lie at the last gateway, from which nothing gets to its recipient.
    async fn all_at_the_last_gateway(&mut self) -> Result<(), String> {
        self.drops = of_every_kind();
        self.start_everybody().await?;
        self.network.block(DIJON_GATEWAY, DIJON_AGENT, true);
        self.drop_all();
        let all = self.drops.len() as u64;
        self.until("the packages at the last gateway", |run| {
            run.world.packages_for(DIJON_GATEWAY, "grand-dijon") == all
        })
        .await
    }
}

#[test]
fn a_stream_that_breaks_while_a_package_is_kept_leaves_no_room_taken() {
    let told = simulated(21, async |run: &mut Run| {
        run.start_everybody().await?;
        run.drops = of_every_kind();
        let more = (run.drops.len()..).take(WITHIN_OFFERS);
        let small = |number| Drop::of("caf21", "observation-iris", &["grand-dijon"], number, 2_000);
        run.drops.extend(more.map(small));
        run.drop_all();
        for ms in SHORT_MS {
            pass(Duration::from_millis(ms)).await;
            run.network.cut(|_, _| true);
        }
        run.settle().await
    });
    told.unwrap_or_else(|why| panic!("\n{why}"));
}

#[test]
fn packages_whose_sectors_have_failed_are_asked_for_again_and_arrive() {
    for gateways in [
        [DIJON_GATEWAY].as_slice(),
        &[CAF_GATEWAY],
        &[CAF_GATEWAY, DIJON_GATEWAY],
    ] {
        let told = simulated(22, async |run: &mut Run| {
            run.all_at_the_last_gateway().await?;
            for gateway in gateways {
                run.world.wear_out_spool(*gateway);
            }
            run.network.block(DIJON_GATEWAY, DIJON_AGENT, false);
            run.settle().await
        });
        told.unwrap_or_else(|why| panic!("{gateways:?}\n{why}"));
    }
}

#[test]
fn packages_that_could_not_be_opened_for_a_while_are_tried_again_by_themselves() {
    let told = simulated(23, async |run: &mut Run| {
        run.all_at_the_last_gateway().await?;
        run.world.crowd_spool(DIJON_GATEWAY, true);
        run.network.block(DIJON_GATEWAY, DIJON_AGENT, false);
        pass(A_WHILE).await;
        run.world.crowd_spool(DIJON_GATEWAY, false);
        run.settle().await
    });
    told.unwrap_or_else(|why| panic!("\n{why}"));
}

#[test]
fn a_gateway_whose_disk_is_full_goes_on_with_statements() {
    let told = simulated(24, async |run: &mut Run| {
        run.all_at_the_last_gateway().await?;
        run.world.set_full(CAF_GATEWAY, true);
        run.network.block(DIJON_GATEWAY, DIJON_AGENT, false);
        run.until("what was said about the packages", |run| {
            let mut drops = run.drops.iter();
            drops.all(|drop| run.world.fate(drop.party, &drop.name()).is_some())
        })
        .await?;
        pass(A_WHILE).await;
        if let Some(why) = run.world.failure() {
            return Err(why);
        }
        run.world.set_full(CAF_GATEWAY, false);
        run.settle().await
    });
    told.unwrap_or_else(|why| panic!("\n{why}"));
}
