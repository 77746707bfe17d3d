//! What goes wrong in the simulation of a seed, and when.

use std::time::Duration;

use passerelle_tests::{
    CAF_AGENT, CAF_GATEWAY, CONTRACTOR_AGENT, DIJON_AGENT, DIJON_GATEWAY, Process,
};
use tokio::time::Instant;

use crate::dice::Dice;
use crate::power::Death;
use crate::run::Weather;
use crate::workload::Drop;
use crate::world::EVERYBODY;

/// How long things go wrong, in milliseconds.
const ROUGH_MS: (u64, u64) = (20_000, 90_000);
/// How many do.
const FAULTS: (u64, u64) = (2, 14);
/// Longest partition, in milliseconds.
const PARTITION_MS_MAX: u64 = 45_000;
/// How many operations of its disk somebody still does who is about to die.
const OPERATIONS_MAX: u64 = 150;
/// How far a clock is set ahead or back.
const DAY_MS: i64 = 24 * 3600 * 1000;

/// Who talks to whom.
const LINES: [(Process, Process); 4] = [
    (CAF_GATEWAY, DIJON_GATEWAY),
    (CAF_AGENT, CAF_GATEWAY),
    (DIJON_AGENT, DIJON_GATEWAY),
    (CONTRACTOR_AGENT, DIJON_GATEWAY),
];

/// Something that happens.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// A person drops something.
    Drop(usize),
    /// A person takes it back.
    TakeBack(usize),
    /// A program that does not live is started.
    Start(Process),
    /// A program is asked to stop.
    Stop(Process),
    /// A program dies after so many operations of its disk.
    Die(Process, u64, Death),
    /// All connections of these two break.
    Cut(Process, Process),
    /// Nothing gets through from the first to the second, or it does again.
    Block(Process, Process, bool),
    /// Somebody sets a clock so many milliseconds off.
    SetClock(Process, i64),
}

/// What happens, and until when things go wrong.
pub fn agenda(dice: &mut Dice, drops: &[Drop], weather: Weather) -> (Vec<(Instant, Act)>, Instant) {
    let length = dice.ms(ROUGH_MS.0, ROUGH_MS.1);
    let start = Instant::now();
    let mut agenda = Vec::new();
    for (number, drop) in drops.iter().enumerate() {
        let at = start + moment(dice, length / 2);
        agenda.push((at, Act::Drop(number)));
        if drop.cancelled {
            agenda.push((at + moment(dice, length / 2), Act::TakeBack(number)));
        }
    }
    if weather == Weather::Rough {
        for _ in 0..dice.between(FAULTS.0, FAULTS.1) {
            let at = start + moment(dice, length);
            fault(dice, at, &mut agenda);
        }
    }
    (agenda, start + length)
}

fn moment(dice: &mut Dice, within: Duration) -> Duration {
    dice.ms(0, within.as_millis() as u64)
}

fn fault(dice: &mut Dice, at: Instant, agenda: &mut Vec<(Instant, Act)>) {
    let somebody = dice.pick(&EVERYBODY);
    let (one, other) = dice.pick(&LINES);
    match dice.between(0, 9) {
        0..=3 => {
            let death = dice.pick(&[Death::Killed, Death::PowerCut]);
            let operations = dice.between(0, OPERATIONS_MAX);
            agenda.push((at, Act::Die(somebody, operations, death)));
        }
        4..=6 => {
            let until = at + dice.ms(100, PARTITION_MS_MAX);
            for (from, to) in dice.pick::<&[(Process, Process)]>(&[
                &[(one, other)],
                &[(other, one)],
                &[(one, other), (other, one)],
            ]) {
                agenda.push((at, Act::Block(*from, *to, true)));
                agenda.push((until, Act::Block(*from, *to, false)));
            }
        }
        7 => agenda.push((at, Act::Cut(one, other))),
        8 => {
            let ms = dice.pick(&[DAY_MS, -DAY_MS]);
            agenda.push((at, Act::SetClock(somebody, ms)));
            if dice.one_in(2) {
                let back = at + dice.ms(1_000, 30_000);
                agenda.push((back, Act::SetClock(somebody, 0)));
            }
        }
        _ => agenda.push((at, Act::Stop(somebody))),
    }
}
