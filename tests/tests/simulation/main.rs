//! Many seeds of two gateways and three agents, with everything of the product but its sockets,
//! its database, the file system and the clock.

mod clock;
mod dice;
mod faults;
mod network;
mod power;
mod run;
mod story;
mod workload;
mod world;

use run::{Weather, run};

#[test]
fn in_calm_weather_everything_arrives() {
    let ending = run(1, Weather::Calm).unwrap_or_else(|why| panic!("{why}"));
    println!("{}", ending.story.join("\n"));
    println!("quiet after {:?}", ending.quiet_after);
}

#[test]
fn many_seeds() {
    let from: u64 = std::env::var("PASSERELLE_SIM_SEED").map_or(1, |s| s.parse().unwrap());
    let count: u64 = std::env::var("PASSERELLE_SIM_SEEDS").map_or(1, |s| s.parse().unwrap());
    let mut failed = Vec::new();
    for seed in from..from + count {
        let began = std::time::Instant::now();
        match run(seed, Weather::Rough) {
            Ok(ending) => println!(
                "{seed} {} quiet {:?} deaths {} in {:?}",
                ending.digest,
                ending.quiet_after,
                ending.deaths,
                began.elapsed()
            ),
            Err(why) => {
                if count == 1 {
                    println!("{why}");
                } else {
                    println!("{seed} FAILED {}", why.lines().last().unwrap());
                }
                failed.push(seed);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn the_same_seed_gives_the_same_story() {
    for seed in 1..=3 {
        let one = run(seed, Weather::Rough).unwrap();
        let other = run(seed, Weather::Rough).unwrap();
        let differs = one.story.iter().zip(&other.story).position(|(a, b)| a != b);
        if let Some(at) = differs {
            println!("{}", one.story[at.saturating_sub(8)..at].join("\n"));
            println!("< {}\n> {}", one.story[at], other.story[at]);
        }
        assert_eq!(one.digest, other.digest, "seed {seed}");
    }
}
