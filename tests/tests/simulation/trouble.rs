//! Stories of an agent in trouble of its own: it goes on beside that, and by itself once that is
//! over.

use std::time::Duration;

use passerelle_tests::{CAF_AGENT, CAF_GATEWAY, DIJON_AGENT, DIJON_GATEWAY, Process};

use crate::clock::pass;
use crate::power::Death;
use crate::run::{Run, simulated};
use crate::workload::Drop;
use crate::world::EVERYBODY;

const DAY_MS: i64 = 24 * 3_600 * 1_000;
/// How wrong a clock is: more than any package may be from the future, and than any may be old.
const WRONG_BY_MS: [i64; 3] = [-DAY_MS, DAY_MS, 366 * DAY_MS];
/// Longer than it takes to refuse a package, or to seal one.
const A_WHILE: Duration = Duration::from_secs(120);
/// Longer than any package may be opened.
const EXPIRED_AFTER_MS: i64 = 100 * DAY_MS;

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
            let mut all = run.world.outgoing(CAF_AGENT).into_iter();
            all.find(|(_, dropped)| *dropped == name)
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

impl Run {
    /// Says that the drop has not come to its end, in whatever way.
    fn is_open(&self, number: usize) -> Result<(), String> {
        let drop = &self.drops[number];
        match self.world.fate(drop.party, &drop.name()) {
            None => Ok(()),
            Some(said) => Err(format!("{} is over: {said:?}", drop.name())),
        }
    }

    fn set_clock(&self, process: Process, wrong_by_ms: i64) {
        self.world.clock(process).set_wrong_by(wrong_by_ms);
    }

    async fn is_put_off(&self) -> Result<(), String> {
        self.until("a package that is put off", |run| {
            run.story.lines().iter().any(|line| line.contains("puts "))
        })
        .await
    }
}

#[test]
fn a_recipient_whose_clock_is_wrong_puts_off_what_is_in_order_and_takes_it_by_itself_later() {
    for ms in [-DAY_MS, 366 * DAY_MS] {
        let told = simulated(13, async |run: &mut Run| {
            run.drops = vec![small("signalement", 0), large(1)];
            run.start_everybody().await?;
            run.network.block(DIJON_GATEWAY, DIJON_AGENT, true);
            run.sealed(0).await?;
            run.sealed(1).await?;
            run.set_clock(DIJON_AGENT, ms);
            run.network.block(DIJON_GATEWAY, DIJON_AGENT, false);
            run.is_put_off().await?;
            pass(A_WHILE).await;
            run.is_open(0)?;
            run.is_open(1)?;
            run.set_clock(DIJON_AGENT, 0);
            run.settle().await
        });
        told.unwrap_or_else(|why| panic!("{ms} ms off:\n{why}"));
    }
}

#[test]
fn what_has_arrived_is_not_refused_by_a_clock_that_was_set_wrong_meanwhile() {
    let told = simulated(14, async |run: &mut Run| {
        run.drops = vec![small("signalement", 0)];
        run.start_everybody().await?;
        run.network.block(DIJON_GATEWAY, DIJON_AGENT, true);
        let package = run.sealed(0).await?;
        let pack = format!("incoming/{package}.pack");
        run.world.spoil("grand-dijon", &[&pack]);
        run.network.block(DIJON_GATEWAY, DIJON_AGENT, false);
        run.is_put_off().await?;
        run.world.spoil("grand-dijon", &[]);
        run.set_clock(DIJON_AGENT, 366 * DAY_MS);
        // A restart with that clock does not help, before or after it has heard the right time.
        run.restart(DIJON_AGENT).await?;
        pass(A_WHILE).await;
        run.is_open(0)?;
        run.set_clock(DIJON_AGENT, 0);
        run.settle().await
    });
    told.unwrap_or_else(|why| panic!("\n{why}"));
}

#[test]
fn a_sender_whose_clock_is_wrong_seals_nothing_until_it_is_right() {
    for ms in WRONG_BY_MS {
        let told = simulated(15, async |run: &mut Run| {
            run.drops = vec![small("signalement", 0)];
            run.set_clock(CAF_AGENT, ms);
            // Before the agent starts, as after a start of its machine.
            run.drops[0].drop_into(&run.world);
            run.start_everybody().await?;
            pass(A_WHILE).await;
            assert!(run.world.outgoing(CAF_AGENT).is_empty(), "it is sealed");
            run.is_open(0)?;
            run.set_clock(CAF_AGENT, 0);
            run.settle().await
        });
        told.unwrap_or_else(|why| panic!("{ms} ms off:\n{why}"));
    }
}

#[test]
fn an_agent_hears_by_itself_that_its_gateways_clock_is_right_again() {
    let told = simulated(16, async |run: &mut Run| {
        run.drops = vec![small("signalement", 0)];
        run.set_clock(CAF_GATEWAY, DAY_MS);
        run.start_everybody().await?;
        run.drops[0].drop_into(&run.world);
        pass(A_WHILE).await;
        assert!(run.world.outgoing(CAF_AGENT).is_empty(), "it is sealed");
        run.settle().await
    });
    told.unwrap_or_else(|why| panic!("\n{why}"));
}

#[test]
fn what_has_come_of_a_package_that_is_over_does_not_stay() {
    let told = simulated(17, async |run: &mut Run| {
        run.drops = vec![large(0)];
        // Nobody is to have it.
        run.drops[0].cancelled = true;
        run.start_everybody().await?;
        run.drops[0].drop_into(&run.world);
        run.until("the package to arrive", |run| {
            run.world.is_arriving("grand-dijon")
        })
        .await?;
        let life = run.world.life(DIJON_AGENT).ok_or("it is dead")?;
        life.end(Death::Killed);
        assert_eq!(run.world.bury(true), [DIJON_AGENT]);
        for process in EVERYBODY {
            run.set_clock(process, EXPIRED_AFTER_MS);
        }
        run.network.cut(|_, _| true);
        // Its gateway gives it up, and will not offer it again.
        run.over(0).await?;
        run.world.start(DIJON_AGENT, None).await?;
        run.until("an empty directory", |run| {
            run.world.names_in("grand-dijon", "incoming").is_empty()
        })
        .await?;
        run.settle().await
    });
    told.unwrap_or_else(|why| panic!("\n{why}"));
}
