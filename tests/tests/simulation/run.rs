//! One simulation: first everything goes wrong, then nothing does any more.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Once;
use std::time::Duration;

use futures::FutureExt;
use passerelle_host::simulate;
use passerelle_proto::Digest;
use passerelle_proto::fixture::seeded;
use passerelle_tests::{Fact, Process, breaches, violations};
use tokio::time::Instant;

use crate::clock::pass;
use crate::dice::Dice;
use crate::faults::{Act, agenda};
use crate::network::{Network, name_of};
use crate::power::Death;
use crate::story::Story;
use crate::workload::{Drop, drops};
use crate::world::{EVERYBODY, World};

/// How long everything may take once nothing goes wrong any more, in virtual time.
const QUIET_WITHIN: Duration = Duration::from_secs(20 * 60);
/// How often that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Longest time that a dead program stays dead, in milliseconds.
const DEAD_MS_MAX: u64 = 15_000;
/// Of so many starts one is the beginning of a short life.
const SHORT_LIFE_ONE_IN: u64 = 4;
/// Operations of a short life.
const SHORT_LIFE_MAX: u64 = 80;

/// Whether anything goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Nothing does.
    Calm,
    /// Everything does, for a while.
    Rough,
}

/// How a simulation has ended well.
#[derive(Debug)]
pub struct Ending {
    /// Digest of its story and of what everybody holds.
    pub digest: Digest,
    /// Its story.
    pub story: Vec<String>,
    /// How long it took to be quiet once nothing went wrong any more, in virtual time.
    pub quiet_after: Duration,
    /// How many programs have died.
    pub deaths: u64,
}

/// Runs the simulation of a seed.
///
/// # Errors
/// What must not be, with the end of the story.
pub fn run(seed: u64, weather: Weather) -> Result<Ending, String> {
    simulated(seed, async |run: &mut Run| run.live(weather).await)
}

/// Lets `live` happen in a simulation of its own.
///
/// # Errors
/// What it says, and whether anything has panicked, with the end of the story.
pub fn simulated(
    seed: u64,
    live: impl AsyncFnOnce(&mut Run) -> Result<Ending, String>,
) -> Result<Ending, String> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let (_in_place, _seeded) = (simulate(seed), seeded(seed));
    panics();
    let before = PANICS.get();
    let ran = runtime.block_on(async {
        let mut run = Run::new(seed);
        let ended = AssertUnwindSafe(live(&mut run)).catch_unwind().await;
        let ended = ended.unwrap_or_else(|_| Err("the simulation has panicked".to_owned()));
        let ended = match PANICS.get() == before {
            true => ended,
            // A task that panics is caught by the runtime, and nobody may be waiting for it.
            false => Err("something has panicked".to_owned()),
        };
        ended.map_err(|why| {
            let story = run.story.told(std::env::var("PASSERELLE_SIM_SEED").is_ok());
            format!("PASSERELLE_SIM_SEED={seed}\n{story}\n{why}")
        })
    });
    // What is still under way ends here, while the thread is simulated.
    drop(runtime);
    ran
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Counts panics by thread from now on.
fn panics() {
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            before(panic);
        }));
    });
}

/// A simulation that is under way.
pub struct Run {
    dice: Dice,
    /// What has happened.
    pub story: Story,
    /// What connects everybody.
    pub network: Network,
    /// Everybody.
    pub world: World,
    /// What was dropped, or will be.
    pub drops: Vec<Drop>,
    agenda: Vec<(Instant, Act)>,
    // Whether a clock was wrong at any time: packages may be refused for it.
    wrong_clocks: bool,
    deaths: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let story = Story::begin();
        let later: BTreeSet<Process> = match dice.one_in(3) {
            true => [dice.pick(&EVERYBODY)].into(),
            false => BTreeSet::new(),
        };
        for process in &later {
            let name = name_of(*process);
            story.tell(format_args!("{name} speaks a later protocol, too"));
        }
        let network = Network::new(dice.another(), later, &story);
        let world = World::new(network.clone(), &story);
        let drops = drops(&mut dice);
        Self {
            dice,
            story,
            network,
            world,
            drops,
            agenda: Vec::new(),
            wrong_clocks: false,
            deaths: 0,
        }
    }

    async fn live(&mut self, weather: Weather) -> Result<Ending, String> {
        self.start_everybody().await?;
        let (agenda, end) = agenda(&mut self.dice, &self.drops, weather);
        self.agenda = agenda;
        self.network.set_rough(weather == Weather::Rough);
        self.go_wrong(end).await?;
        self.check_in_the_dark()?;
        self.settle().await
    }

    /// Starts all programs.
    ///
    /// # Errors
    /// Why one does not start.
    pub async fn start_everybody(&mut self) -> Result<(), String> {
        for process in EVERYBODY {
            self.world.start(process, None).await?;
        }
        Ok(())
    }

    /// Waits until something is so.
    ///
    /// # Errors
    /// It never is.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<(), String> {
        let until = Instant::now() + QUIET_WITHIN;
        while !is_so(self) {
            if Instant::now() >= until {
                return Err(format!("waited in vain for {what}"));
            }
            pass(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// From now on nothing goes wrong; waits until all is over, and checks everything.
    ///
    /// # Errors
    /// What must not be.
    pub async fn settle(&mut self) -> Result<Ending, String> {
        self.heal().await?;
        let healed = Instant::now();
        let facts = self.quiet(healed + QUIET_WITHIN).await?;
        for fact in facts {
            self.story.tell(format_args!("{fact:?}"));
        }
        Ok(Ending {
            digest: self.story.digest(),
            story: self.story.lines(),
            quiet_after: healed.elapsed(),
            deaths: self.deaths,
        })
    }

    /// Does what stands on the agenda until `end`.
    async fn go_wrong(&mut self, end: Instant) -> Result<(), String> {
        let mut ended = self.world.ended.subscribe();
        while Instant::now() < end {
            self.agenda.sort_by_key(|(at, _)| *at);
            let next = self.agenda.first().map_or(end, |(at, _)| *at).min(end);
            tokio::select! {
                biased;
                () = ended.changed() => self.bury()?,
                () = tokio::time::sleep_until(next) => {}
            }
            while let Some(due) = self.agenda.first().filter(|(at, _)| *at <= Instant::now()) {
                let act = due.1;
                self.agenda.remove(0);
                self.act(act).await?;
                // Later acts may have been added.
                self.agenda.sort_by_key(|(at, _)| *at);
            }
            self.check_failure()?;
        }
        Ok(())
    }

    fn check_failure(&self) -> Result<(), String> {
        self.world.failure().map_or(Ok(()), Err)
    }

    /// Takes note of those who have died, and sees to it that they live again.
    fn bury(&mut self) -> Result<(), String> {
        let told = self.dice.one_in(2);
        for process in self.world.bury(told) {
            self.deaths += 1;
            let back = Instant::now() + self.dice.ms(50, DEAD_MS_MAX);
            self.agenda.push((back, Act::Start(process)));
        }
        self.check_in_the_dark()
    }

    async fn act(&mut self, act: Act) -> Result<(), String> {
        match act {
            Act::Drop(number) => self.drops[number].drop_into(&self.world),
            Act::TakeBack(number) => self.drops[number].take_back(&self.world),
            Act::Start(process) => self.start(process).await?,
            Act::Stop(process) if self.world.runs(process) => {
                self.world.stop(process).await;
                let back = Instant::now() + self.dice.ms(50, DEAD_MS_MAX);
                self.agenda.push((back, Act::Start(process)));
            }
            Act::Stop(_) => {}
            Act::Die(process, operations, death) => {
                if let Some(life) = self.world.life(process) {
                    let how = format!("{death:?} after {operations} operations");
                    self.story.tell(format_args!("{}: {how}", name_of(process)));
                    life.end_after(operations, death);
                }
            }
            Act::Cut(one, other) => {
                let (a, b) = (name_of(one), name_of(other));
                self.story.tell(format_args!("{a} and {b} are cut"));
                let both = |from, to| (from, to) == (one, other) || (to, from) == (one, other);
                self.network.cut(both);
            }
            Act::Block(from, to, blocked) => {
                let (a, b) = (name_of(from), name_of(to));
                let word = if blocked { "nothing gets" } else { "it gets" };
                self.story.tell(format_args!("{word} from {a} to {b}"));
                self.network.block(from, to, blocked);
            }
            Act::SetClock(process, ms) => {
                self.wrong_clocks |= ms != 0;
                let name = name_of(process);
                self.story
                    .tell(format_args!("{name}: the clock is set {ms} ms off"));
                self.world.clock(process).set_wrong_by(ms);
            }
        }
        Ok(())
    }

    async fn start(&mut self, process: Process) -> Result<(), String> {
        if self.world.life(process).is_some() {
            return Ok(());
        }
        let short = self.dice.one_in(SHORT_LIFE_ONE_IN);
        let ends = short.then(|| {
            let death = self.dice.pick(&[Death::Killed, Death::PowerCut]);
            (self.dice.between(1, SHORT_LIFE_MAX), death)
        });
        self.world.start(process, ends).await
    }

    /// From now on nothing goes wrong.
    async fn heal(&mut self) -> Result<(), String> {
        self.story.tell("nothing goes wrong from now on");
        self.bury()?;
        self.network.heal();
        for process in EVERYBODY {
            self.world.clock(process).set_wrong_by(0);
            match self.world.life(process) {
                Some(life) => life.end_never(),
                None => self.world.start(process, None).await?,
            }
        }
        // What people wanted to do they do now.
        for (_, act) in std::mem::take(&mut self.agenda) {
            if matches!(act, Act::Drop(_)) {
                self.act(act).await?;
            }
        }
        Ok(())
    }

    /// Waits until all is said, and nothing is as it must not be.
    async fn quiet(&mut self, until: Instant) -> Result<Vec<Fact>, String> {
        loop {
            pass(LOOK_EVERY).await;
            self.check_failure()?;
            let mut wrong = self.world.unfinished();
            if wrong.is_empty() {
                let (facts, found) = self.check_all();
                if found.is_empty() {
                    return Ok(facts);
                }
                wrong = found.join("\n");
            }
            if Instant::now() >= until {
                return Err(format!("not over after {QUIET_WITHIN:?}: {wrong}"));
            }
        }
    }

    /// What everybody holds once all is over, and what of it must not be.
    fn check_all(&self) -> (Vec<Fact>, Vec<String>) {
        let mut facts = self.world.facts();
        let mut found = Vec::new();
        for drop in &self.drops {
            let name = drop.name();
            let Some(said) = self.world.fate(drop.party, &name) else {
                found.push(format!("{name} is not over"));
                continue;
            };
            let has = |party: &str| {
                said.iter()
                    .any(|(kind, by)| *kind == "delivered" && by == party)
            };
            let (with, without): (Vec<_>, Vec<_>) = drop
                .recipients
                .iter()
                .copied()
                .partition(|party| has(party));
            let excused = drop.cancelled || drop.too_large || self.wrong_clocks;
            if !without.is_empty() && !excused {
                found.push(format!("{name} did not reach {without:?}: {said:?}"));
            }
            facts.push(drop.fact(with));
        }
        found.extend(violations(&facts));
        found.extend(self.world.astray());
        (facts, found)
    }

    /// What must never be, were all power to go at this moment.
    fn check_in_the_dark(&self) -> Result<(), String> {
        let mut facts = self.world.facts_in_the_dark()?;
        facts.extend(
            self.drops
                .iter()
                .map(|drop| drop.fact(drop.recipients.to_vec())),
        );
        let found = breaches(&facts);
        match found.is_empty() {
            true => Ok(()),
            false => Err(format!("in the dark: {}", found.join("\n"))),
        }
    }
}
