//! `passerelle audit`: the entries of a gateway's log, and whether its files can be believed.

use passerelle_proto::v1::LogRequest;

use super::arguments::{LogArguments, VerifyArguments};
use super::configured::Configured;
use super::endpoint::{Daemon, refused};
use super::failure::Failure;
use super::output::Output;
use super::verification::verify_log_directory;
use super::wording::EntryView;

/// Shows entries as they come.
pub(super) async fn log(arguments: &LogArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let why = "the log is kept by gateways";
    let mut gateway = Daemon::gateway(&arguments.daemon, why).await?;
    let request = LogRequest {
        from_index: arguments.from,
        limit: arguments.limit,
        follow: arguments.follow,
    };
    let stream = gateway.log(request).await;
    let mut stream = stream.map_err(|status| refused(&status))?.into_inner();
    let wanted = arguments.package.trim().to_ascii_lowercase();
    while let Some(record) = stream.message().await.map_err(|status| refused(&status))? {
        let entry = EntryView::of(&record);
        if entry.package.starts_with(&wanted) {
            output.item(&entry)?;
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
