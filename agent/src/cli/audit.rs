//! `passerelle audit`: the entries of a gateway's log, and whether its files can be believed.

use std::fmt::{self, Display};

use passerelle_proto::v1::{AnchorRequest, LogRequest};
use passerelle_proto::{PackagePrefix, TimeAuthorities};
use serde::Serialize;

use super::arguments::{AnchorArguments, LogArguments, TrustArguments, VerifyArguments};
use super::configured::{Configured, notes_in};
use super::endpoint::{Daemon, refused};
use super::failure::{Exit, Failure};
use super::output::Output;
use super::quantity::hex;
use super::stamps::authorities;
use super::verification::{Judge, verify_log_directory};
use super::wording::{EntryView, count};

/// Shows entries as they come.
pub(super) async fn log(arguments: &LogArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let why = "the log is kept by gateways";
    let mut gateway = Daemon::gateway(&arguments.daemon, why).await?;
    let package = match &arguments.package {
        Some(text) => Some(PackagePrefix::parse(text).map_err(|error| {
            Failure::new(
                Exit::Usage,
                error,
                "look at `passerelle queue` for what is known",
            )
        })?),
        None => None,
    };
    // The limit is of what is shown: with a filter, more has to be looked at.
    let all = package.is_none() && arguments.kind.is_empty();
    let request = LogRequest {
        from_index: arguments.from,
        limit: if all { arguments.limit } else { 0 },
        follow: arguments.follow,
    };
    let stream = gateway.log(request).await;
    let mut stream = stream.map_err(|status| refused(&status))?.into_inner();
    let wanted = |entry: &EntryView| {
        let about = |prefix: &PackagePrefix| entry.package.starts_with(prefix.digits());
        package.as_ref().is_none_or(about)
            && (arguments.kind.is_empty() || arguments.kind.iter().any(|kind| kind == entry.kind))
    };
    let mut shown = 0;
    while let Some(record) = stream.message().await.map_err(|status| refused(&status))? {
        let entry = EntryView::of(&record);
        if wanted(&entry) {
            output.item(&entry)?;
            shown += 1;
            if shown == arguments.limit {
                break;
            }
        }
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct Anchored {
    before: bool,
    anchored_by: String,
    log_size: u64,
    log_root: String,
}

impl Display for Anchored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = &self.anchored_by;
        match self.before {
            true => writeln!(f, "nothing was done: the log is anchored already, by {by}")?,
            false => writeln!(
                f,
                "the log is anchored by {by}; packages are accepted again"
            )?,
        }
        let entries = count(self.log_size, "entry", "entries");
        writeln!(f, "  {entries}, root {}", self.log_root)
    }
}

/// Takes a gateway's log for the one that others know.
pub(super) async fn anchor(
    arguments: &AnchorArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let why = "the log is kept by gateways";
    let mut gateway = Daemon::gateway(&arguments.daemon, why).await?;
    let without_witness = arguments.without_witness;
    let answer = gateway.anchor(AnchorRequest { without_witness }).await;
    let answer = answer.map_err(|status| refused(&status))?.into_inner();
    output.answer(&Anchored {
        before: answer.before,
        anchored_by: answer.anchored_by,
        log_size: answer.log_size,
        log_root: hex(&answer.log_root),
    })
}

impl TrustArguments {
    /// Whose time-stamps are believed.
    pub(super) fn authorities(&self) -> Result<TimeAuthorities, Failure> {
        let mut files = self.time_authority.clone();
        if self.root.is_empty()
            && let Configured::Gateway(config) = Configured::load(&self.config)?
        {
            files.extend(config.time_stamp.map(|stamping| stamping.authority));
        }
        authorities(&files)
    }
}

/// Verifies a log's directory.
pub(super) fn verify(arguments: &VerifyArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let trust = &arguments.trust;
    let directory = match trust.root.is_empty() {
        true => Configured::load(&trust.config)?.trust()?,
        false => notes_in(&arguments.dir, &trust.root)?,
    };
    let judge = Judge {
        directory: &directory,
        witnessed: &arguments.witness,
        signatures: arguments.signatures,
        authorities: &trust.authorities()?,
    };
    let verdict = verify_log_directory(&arguments.dir, &judge)?;
    output.answer(&verdict)
}
