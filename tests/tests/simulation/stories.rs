//! Stories that seeds have told, each told again on purpose.

use passerelle_tests::{CAF_AGENT, DIJON_AGENT, DIJON_GATEWAY};

use crate::run::{Run, simulated};
use crate::workload::Drop;

/// A package of several chunks from the producer to the partner.
fn large(number: usize) -> Drop {
    Drop::of(
        "caf21",
        "observation-iris",
        &["grand-dijon"],
        number,
        1_000_000,
    )
}

#[test]
fn a_package_taken_back_while_it_arrives_leaves_nothing() {
    let told = simulated(7, async |run: &mut Run| {
        run.start_everybody().await?;
        run.drops = vec![large(0)];
        run.drops[0].cancelled = true;
        run.drops[0].drop_into(&run.world);
        run.until("the package to arrive", |run| {
            run.world.is_arriving("grand-dijon")
        })
        .await?;
        for blocked in [true, false] {
            run.network.block(DIJON_GATEWAY, DIJON_AGENT, blocked);
            if blocked {
                run.network.cut(|_, to| to == DIJON_GATEWAY);
                run.drops[0].take_back(&run.world);
                // The request overtakes the package.
                run.until("the request at the last gateway", |run| {
                    run.world.statements_for(DIJON_GATEWAY, "grand-dijon") > 0
                })
                .await?;
            }
        }
        assert!(run.world.runs(CAF_AGENT));
        run.settle().await
    });
    told.unwrap_or_else(|why| panic!("\n{why}"));
}
