//! `evidence verify`: what a file proves and what it does not, in plain words, without any server.

mod view;

use std::fs;

use passerelle_proto::evidence::{EVIDENCE_LEN_MAX, UntrustedEvidence};
use passerelle_proto::{Directory, Roots};

use self::view::EvidenceView;
use super::arguments::{EvidenceVerifyArguments, TrustArguments};
use super::configured::Configured;
use super::failure::{Exit, Failure};
use super::output::Output;

/// Verifies an evidence file and says what it proves.
pub(super) fn verify(
    arguments: &EvidenceVerifyArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let file = &arguments.file;
    let length = fs::metadata(file)
        .map_err(|error| Failure::reading(file, &error))?
        .len();
    if length > EVIDENCE_LEN_MAX as u64 {
        let what = format_args!(
            "{}: {length} bytes are too many for evidence",
            file.display()
        );
        return Err(Failure::new(Exit::Data, what, "name the right file"));
    }
    let bytes = fs::read(file).map_err(|error| Failure::reading(file, &error))?;
    let (roots, known) = trust(&arguments.trust)?;
    let authorities = arguments.trust.authorities()?;
    let evidence = UntrustedEvidence::parse(&bytes);
    let report =
        evidence.and_then(|evidence| evidence.verify(&roots, known.as_ref(), &authorities));
    let report = report.map_err(|error| {
        let what = format_args!("{} proves nothing: {error}", file.display());
        Failure::new(Exit::Data, what, error.remedy())
    })?;
    output.answer(&EvidenceView::of(&report))
}

/// The roots, and what the daemon's own notes say where a configuration was named.
fn trust(arguments: &TrustArguments) -> Result<(Roots, Option<Directory>), Failure> {
    if !arguments.root.is_empty() {
        return Ok((arguments.root.iter().cloned().collect(), None));
    }
    let configured = Configured::load(&arguments.config)
        .map_err(|failure| failure.and_also("or give both roots with --root PARTY=FINGERPRINT"))?;
    Ok((configured.roots()?, Some(configured.trust()?)))
}
