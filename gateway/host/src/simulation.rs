//! One thread on which all work is done in place, and all chance comes from a seed.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::time::Duration;

/// Of so many pieces of blocking work one takes longer than a moment.
const SLOW_ONE_IN: u8 = 4;
/// Longest time that blocking work takes, in milliseconds.
const WORK_MS_MAX: u8 = 20;

thread_local! {
    static CHANCE: RefCell<Option<u64>> = const { RefCell::new(None) };
}

/// While it lives, its thread is simulated.
pub struct Simulated(PhantomData<*const ()>);

impl Drop for Simulated {
    fn drop(&mut self) {
        CHANCE.with(|chance| *chance.borrow_mut() = None);
    }
}

/// Simulates on this thread from now on: blocking work is done in place and takes virtual time, and
/// all chance follows from `seed`.
#[must_use]
pub fn simulate(seed: u64) -> Simulated {
    CHANCE.with(|chance| *chance.borrow_mut() = Some(seed));
    Simulated(PhantomData)
}

/// Whether this thread is simulated.
pub(crate) fn is_simulated() -> bool {
    CHANCE.with(|chance| chance.borrow().is_some())
}

/// The next random byte, in a simulation.
pub(crate) fn byte() -> Option<u8> {
    CHANCE.with(|chance| {
        let mut chance = chance.borrow_mut();
        let state = chance.as_mut()?;
        // splitmix64: every seed gives another sequence.
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some((mixed >> 56) as u8)
    })
}

/// The time that a piece of blocking work takes.
pub(crate) async fn pass_time() {
    let (slow, length) = (byte().unwrap_or(1), byte().unwrap_or(0));
    match slow % SLOW_ONE_IN {
        0 => tokio::time::sleep(Duration::from_millis(u64::from(length % WORK_MS_MAX))).await,
        _ => tokio::task::yield_now().await,
    }
}
