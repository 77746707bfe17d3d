//! `passerelle audit`: the entries of a gateway's log, and whether its files can be believed.

use passerelle_proto::PackagePrefix;
use passerelle_proto::v1::LogRequest;

use super::arguments::{LogArguments, VerifyArguments};
use super::configured::Configured;
use super::endpoint::{Daemon, refused};
use super::failure::{Exit, Failure};
use super::output::Output;
use super::verification::verify_log_directory;
use super::wording::EntryView;

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

/// Verifies a log's directory.
pub(super) fn verify(arguments: &VerifyArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let directory = Configured::load(&arguments.config)?.trust()?;
    let witnessed = &arguments.witness;
    let verdict =
        verify_log_directory(&arguments.dir, &directory, witnessed, arguments.signatures)?;
    output.answer(&verdict)
}
