//! A story told step by step: a line per step, and on a terminal what is being waited for.

use std::fmt::{self, Display};
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use serde::Serialize;

use super::failure::Failure;
use super::output::Output;
use super::quantity::Elapsed;

/// How often the moving sign moves.
const TICK: Duration = Duration::from_millis(100);

/// What shows on standard error how many bytes have come, if that is a terminal; it goes when it is
/// dropped.
pub(super) fn moving_bytes() -> ProgressBar {
    let target = match io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(None, target).with_finish(ProgressFinish::AndClear);
    // The template is a constant; without it the bar has its default look.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {decimal_bytes} {elapsed}") {
        bar.set_style(style);
    }
    bar
}

/// A step that is over.
#[derive(Debug, Serialize)]
struct Step {
    number: u32,
    says: String,
    elapsed_ms: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    details: Vec<String>,
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Step {
            number,
            says,
            elapsed_ms,
            details,
        } = self;
        writeln!(
            f,
            "{number:>2}. {says} ({})",
            Elapsed(Duration::from_millis(*elapsed_ms))
        )?;
        details
            .iter()
            .try_for_each(|detail| writeln!(f, "      {detail}"))
    }
}

/// Tells the steps.
pub(crate) struct Steps<'o, 'w> {
    output: &'o mut Output<'w>,
    bar: Option<ProgressBar>,
    number: u32,
    begun: Instant,
}

impl<'o, 'w> Steps<'o, 'w> {
    /// Steps are written to `output`; what moves is drawn on standard error, if that is a terminal.
    pub(crate) fn new(output: &'o mut Output<'w>) -> Self {
        let moving = io::stderr().is_terminal() && !output.is_json();
        let bar = moving.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            // The template is a constant; without it the bar has its default look.
            if let Ok(style) = ProgressStyle::with_template("    {spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar
        });
        Steps {
            output,
            bar,
            number: 0,
            begun: Instant::now(),
        }
    }

    /// A step begins.
    pub(crate) fn begin(&mut self, what: impl Display) {
        self.begun = Instant::now();
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_message(what.to_string());
            bar.enable_steady_tick(TICK);
        }
    }

    /// The step goes on; only shown while it moves.
    pub(crate) fn going(&self, what: impl Display) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_string());
        }
    }

    /// The step is over.
    pub(crate) fn done(&mut self, says: impl Display, details: Vec<String>) -> Result<(), Failure> {
        let elapsed_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.clear();
        self.number += 1;
        let (number, says) = (self.number, says.to_string());
        self.output.item(&Step {
            number,
            says,
            elapsed_ms,
            details,
        })
    }

    /// A line for people, between steps.
    pub(crate) fn note(&mut self, line: impl Display) -> Result<(), Failure> {
        self.clear();
        self.output.note(line)
    }

    /// The answer at the end.
    pub(crate) fn answer<T: Serialize + Display>(&mut self, answer: &T) -> Result<(), Failure> {
        self.clear();
        self.output.item(answer)
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.disable_steady_tick();
            bar.finish_and_clear();
        }
    }
}

impl Drop for Steps<'_, '_> {
    fn drop(&mut self) {
        self.clear();
    }
}
