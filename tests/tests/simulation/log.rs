//! Stories of a gateway that cannot read its log.

use std::time::Duration;

use passerelle_tests::{CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY};

use crate::clock::pass;
use crate::run::{Run, simulated};
use crate::workload::Drop;

/// Entries in a bundle of the log; what stands in full ones is not in memory.
const BUNDLE: u64 = 256;
/// Packages that fill one.
const OTHERS: usize = 40;
/// Longer than anything takes that follows from a package.
const A_WHILE: Duration = Duration::from_secs(120);

/// A small package from the producer.
fn small(to: &'static [&'static str], number: usize) -> Drop {
    Drop::of("caf21", "observation-iris", to, number, 2_000)
}

impl Run {
    /// Drops one more.
    fn drop_next(&mut self, to: &'static [&'static str]) {
        let drop = small(to, self.drops.len());
        drop.drop_into(&self.world);
        self.drops.push(drop);
    }
}

#[test]
fn a_statement_that_comes_while_the_log_cannot_be_read_is_not_lost() {
    let told = simulated(18, async |run: &mut Run| {
        run.drops.clear();
        run.start_everybody().await?;
        run.network.block(DIJON_GATEWAY, DIJON_AGENT, true);
        run.drop_next(&["grand-dijon"]);
        run.until("a package that waits", |run| {
            run.world.unfinished().contains("has for grand-dijon/agent")
        })
        .await?;
        (0..OTHERS).for_each(|_| run.drop_next(&["prestataire-obs"]));
        run.until("a full bundle", |run| {
            run.world.log_size(CAF_GATEWAY) > BUNDLE
        })
        .await?;
        pass(A_WHILE).await;
        let first = "log/tile/entries/000";
        run.world.spoil_gateway("caf21", &[first]);
        run.network.block(DIJON_GATEWAY, DIJON_AGENT, false);
        run.until("a gateway that gives up", |run| {
            run.world.failure().is_some_and(|why| why.contains(first))
        })
        .await?;
        run.world.spoil_gateway("caf21", &[]);
        run.world.stop(CAF_GATEWAY).await;
        run.settle().await
    });
    told.unwrap_or_else(|why| panic!("\n{why}"));
}
