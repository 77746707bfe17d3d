//! `passerelle demo`: the whole exchange, told in plain words.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use serde::Serialize;

use super::arguments::Demo as DemoArguments;
use super::failure::{Exit, Failure};
use super::output::Output;
use super::quantity::Elapsed;
use crate::demo::{Demo, DemoError, DemoOptions, DemoReport, Narrator};

struct Spoken<'o, 'w> {
    output: &'o mut Output<'w>,
    begun: Instant,
    bar: Option<ProgressBar>,
}

impl Narrator for Spoken<'_, '_> {
    fn tell(&mut self, line: &str) {
        let at = Elapsed(self.begun.elapsed()).to_string();
        let line = format!("{at:>8}  {line}");
        match &self.bar {
            Some(bar) => bar.suspend(|| {
                let _ = self.output.note(&line);
            }),
            None => {
                let _ = self.output.note(&line);
            }
        }
    }

    fn begin(&mut self, what: &str) {
        if self.output.is_json() || !std::io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::new_spinner().with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("          {spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        self.bar = Some(bar);
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn failure(error: &DemoError) -> Failure {
    Failure::new(
        Exit::Software,
        format!("the demo stopped at {error}"),
        "keep its directory with --keep DIR and look there",
    )
}

pub(crate) async fn run(demo: &DemoArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let temporary = tempfile::Builder::new()
        .prefix("passerelle-demo-")
        .tempdir()
        .map_err(|error| Failure::writing(&std::env::temp_dir(), &error))?;
    let options = DemoOptions {
        directory: demo
            .keep
            .clone()
            .unwrap_or_else(|| temporary.path().join("lab")),
        file: demo.file.clone(),
    };
    let mut narrator = Spoken {
        output,
        begun: Instant::now(),
        bar: None,
    };
    let running = Demo::start(&options, &mut narrator).await;
    let running = running.map_err(|error| failure(&error))?;
    let shown = running.run(&options, &mut narrator).await;
    narrator.end();
    let report = match shown {
        Ok(report) => report,
        Err(error) => {
            running.stop().await;
            return Err(failure(&error));
        }
    };
    let begun = narrator.begun;
    output.answer(&told(&report, begun.elapsed(), demo))?;
    if !demo.once {
        output.note("\nEverything keeps running; press Ctrl-C to end it.")?;
        let _ = tokio::signal::ctrl_c().await;
    }
    running.stop().await;
    Ok(())
}

/// What was shown: a text for people, the report for programs.
struct Answer<'r> {
    text: String,
    report: &'r DemoReport,
}

impl std::fmt::Display for Answer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Answer<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.report.serialize(serializer)
    }
}

fn told<'r>(report: &'r DemoReport, elapsed: Duration, demo: &DemoArguments) -> Answer<'r> {
    let mut text = format!("\nVerified in {}.\n", Elapsed(elapsed));
    if demo.once && demo.keep.is_none() {
        text.push_str("The laboratory is removed now; --keep DIR keeps it.\n");
    } else {
        text.push_str(&format!(
            "Everything is in {}\n",
            report.directory.display()
        ));
        for path in &report.received {
            text.push_str(&format!("  received  {}\n", path.display()));
        }
        for log in &report.logs {
            text.push_str(&format!("  audit log {}\n", log.display()));
        }
    }
    Answer { text, report }
}
