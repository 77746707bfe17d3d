//! Stories that seeds have told, each told again on purpose.

use passerelle_tests::{CAF_AGENT, DIJON_AGENT, DIJON_GATEWAY, Process};

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

/// A small package from the producer to the partner.
fn small(flow: &'static str, number: usize) -> Drop {
    Drop::of("caf21", flow, &["grand-dijon"], number, 2_000)
}

impl Run {
    /// Drops the next one; the package that its sender makes of it.
    async fn sealed(&mut self, number: usize) -> Result<String, String> {
        self.drops[number].drop_into(&self.world);
        let name = self.drops[number].name();
        let made = |run: &Self| {
            let all = run.world.outgoing(CAF_AGENT).into_iter();
            all.into_iter().find(|(_, dropped)| *dropped == name)
        };
        self.until("the package to be sealed", |run| made(run).is_some())
            .await?;
        let (package, _) = made(self).ok_or("it is over by now")?;
        Ok(package.to_string())
    }

    /// Waits until what was dropped is over for its sender.
    async fn over(&self, number: usize) -> Result<(), String> {
        let drop = &self.drops[number];
        let what = format!("the end of {}", drop.name());
        self.until(&what, |run| {
            run.world.fate(drop.party, &drop.name()).is_some()
        })
        .await
    }

    /// Stops a program in good order, and starts it again.
    async fn restart(&mut self, process: Process) -> Result<(), String> {
        self.world.stop(process).await;
        self.world.start(process, None).await
    }

    /// Lets the first drop meet a bad place of its recipient's disk: all others arrive, before and
    /// after a restart, and the first one as soon as the disk is well again.
    async fn goes_on_beside(
        &mut self,
        bad: impl FnOnce(&str) -> String,
        left: &str,
    ) -> Result<(), String> {
        self.start_everybody().await?;
        self.network.block(DIJON_GATEWAY, DIJON_AGENT, true);
        let package = self.sealed(0).await?;
        self.world.spoil("grand-dijon", &[&bad(&package)]);
        self.network.block(DIJON_GATEWAY, DIJON_AGENT, false);
        let has_arrived = |run: &Self| {
            let names = run.world.names_in("grand-dijon", left);
            names.iter().any(|name| name.starts_with(&package))
        };
        self.until("the package at its recipient", has_arrived)
            .await?;
        for number in 1..3 {
            self.drops[number].drop_into(&self.world);
            self.over(number).await?;
            assert!(has_arrived(self), "it is still to be opened");
            let first = self.drops[0].name();
            assert!(self.world.fate("caf21", &first).is_none(), "{first}");
            self.restart(DIJON_AGENT).await?;
        }
        self.world.spoil("grand-dijon", &[]);
        self.settle().await.map(drop)
    }
}

#[test]
fn a_package_whose_file_cannot_be_read_waits_and_holds_no_other_up() {
    let told = simulated(11, async |run: &mut Run| {
        run.drops = (0..3).map(|number| small("signalement", number)).collect();
        let pack = |package: &str| format!("incoming/{package}.pack");
        run.goes_on_beside(pack, "incoming").await?;
        run.settle().await
    });
    told.unwrap_or_else(|why| panic!("\n{why}"));
}

#[test]
fn a_package_for_which_the_inbox_has_no_place_waits_and_holds_no_other_up() {
    let told = simulated(12, async |run: &mut Run| {
        run.drops = (0..3)
            .map(|number| match number {
                0 => small("observation-iris", number),
                _ => small("signalement", number),
            })
            .collect();
        let inbox = |_: &str| "inbox/observation-iris".to_owned();
        run.goes_on_beside(inbox, "opening").await?;
        run.settle().await
    });
    told.unwrap_or_else(|why| panic!("\n{why}"));
}
