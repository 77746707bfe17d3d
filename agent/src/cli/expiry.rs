//! What ends, as a status shows it: all of it to programs, what ends soon to people.

use std::fmt::{self, Display};

use passerelle_proto::{WARN_AHEAD, v1};
use serde::Serialize;

use super::quantity::now_ms;

/// Something that ends by its own date.
#[derive(Debug, Serialize)]
pub(super) struct ExpiryView {
    what: String,
    owner: String,
    at_ms: i64,
    seconds_left: i64,
    #[serde(skip)]
    words: String,
}

impl ExpiryView {
    /// What a daemon has answered.
    pub(super) fn all(expiries: Vec<v1::Expiry>) -> Vec<ExpiryView> {
        let now = now_ms();
        let view = |expiry: v1::Expiry| ExpiryView {
            what: expiry.what,
            owner: expiry.owner,
            at_ms: expiry.at_ms,
            seconds_left: expiry.at_ms.saturating_sub(now).div_euclid(1_000),
            words: expiry.words,
        };
        expiries.into_iter().map(view).collect()
    }

    /// One line for each that ends soon.
    pub(super) fn write_near(all: &[ExpiryView], f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ahead_s = WARN_AHEAD.as_secs().cast_signed();
        let mut near = all.iter().filter(|view| view.seconds_left <= ahead_s);
        near.try_for_each(|view| writeln!(f, "  ATTENTION    {view}"))
    }
}

impl Display for ExpiryView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}
