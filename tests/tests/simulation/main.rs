//! Many seeds of two gateways and three agents, with everything that can go wrong under one seed.
//!
//! The programs are the product's own, from the outbox to the audit log and back: sessions, links,
//! leases, backoff, recovery. Only what is below them is simulated: the network, the disks and
//! their power, the wall clocks, and time itself, which passes when nobody has anything to do.
//! Instead of its database the queue is the one in memory, made again from the log at every start.
//!
//! First everything goes wrong: connections break at any frame, frames are late, nothing gets
//! through in one direction or both, programs die at any operation of their disk, also while they
//! start, with the power or without, clocks are a day off, and some speak a later version of the
//! protocol as well. Whenever somebody dies it is checked what everybody would hold if all power
//! went: nothing that was promised is missing, and nothing is twice. Then nothing goes wrong any
//! more, and within bounded virtual time all is said, and nothing is left anywhere.
//!
//! Every sleep here is of virtual time: a frame that is late, an answer that takes a while, the
//! next act. It costs nothing and races with nothing, since one thread does everything in the order
//! that the seed says.
//!
//! A failure prints its seed and the end of its story. `PASSERELLE_SIM_SEED` runs that one again
//! and tells all of it, with what the programs log where `PASSERELLE_SIM_LOG` says how much;
//! `PASSERELLE_SIM_SEEDS` says how many seeds are run, and `PASSERELLE_SIM_SECONDS` for how long
//! new ones are (`just soak`).

mod clock;
mod dice;
mod disk;
mod faults;
mod log;
mod network;
mod power;
mod run;
mod stories;
mod story;
mod trouble;
mod workload;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use run::{Weather, run};

/// Seeds that are run unless the environment says otherwise.
const SEEDS: u64 = 300;
/// Failures after which no more seeds are begun.
const FAILURES_SHOWN: usize = 3;

/// Shows what the programs log, when `PASSERELLE_SIM_LOG` says which of it ("debug").
fn show_logs() {
    if let Ok(filter) = std::env::var("PASSERELLE_SIM_LOG") {
        let shown = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .without_time();
        let _ = shown.with_ansi(false).try_init();
    }
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

/// Which seeds are run, and until when new ones are begun.
fn asked() -> (std::ops::Range<u64>, Option<Instant>) {
    if let Some(seed) = setting("PASSERELLE_SIM_SEED") {
        return (seed..seed + 1, None);
    }
    if let Some(seconds) = setting("PASSERELLE_SIM_SECONDS") {
        // Others than the last time.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let first = now.as_secs() * 1_000_000;
        let until = Instant::now() + Duration::from_secs(seconds);
        return (first..u64::MAX, Some(until));
    }
    let seeds = setting("PASSERELLE_SIM_SEEDS").unwrap_or(SEEDS);
    (1..seeds + 1, None)
}

#[test]
fn whatever_goes_wrong_nothing_is_lost_and_nothing_is_twice() {
    show_logs();
    let (seeds, until) = asked();
    let next = AtomicU64::new(seeds.start);
    let failures = Mutex::new(Vec::new());
    let (run_through, deaths) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            let over = until.is_some_and(|until| Instant::now() >= until);
            if over || seed >= seeds.end || failures.lock().unwrap().len() >= FAILURES_SHOWN {
                return;
            }
            match run(seed, Weather::Rough) {
                Ok(ending) => {
                    deaths.fetch_add(ending.deaths, Ordering::SeqCst);
                    run_through.fetch_add(1, Ordering::SeqCst);
                    if setting("PASSERELLE_SIM_SEED").is_some() {
                        println!("{}", ending.story.join("\n"));
                    }
                }
                Err(why) => failures.lock().unwrap().push(why),
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    println!("{run_through:?} seeds went well, with {deaths:?} deaths");
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "\n{}", failures.join("\n\n"));
}

#[test]
fn where_nothing_goes_wrong_everything_arrives_at_once() {
    for seed in 1..=3 {
        let ending = run(seed, Weather::Calm).unwrap_or_else(|why| panic!("\n{why}"));
        assert!(ending.quiet_after < Duration::from_secs(10), "{ending:?}");
        assert_eq!(ending.deaths, 0);
    }
}

#[test]
fn the_same_seed_gives_the_same_story() {
    for seed in 1..=2 {
        let [one, other] = [(); 2].map(|()| run(seed, Weather::Rough).unwrap());
        let mut lines = one.story.iter().zip(&other.story);
        let differ = lines.find(|(one, other)| one != other);
        assert_eq!(differ, None, "seed {seed}");
        assert_eq!(one.digest, other.digest, "seed {seed}");
    }
    let [one, other] = [1, 2].map(|seed| run(seed, Weather::Calm).unwrap().digest);
    assert_ne!(one, other, "another seed gives another story");
}
