//! Commands about proofs: of entries, of whole logs, and of packages.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use passerelle_proto::{KeyId, PartyId};

use super::DaemonArguments;

/// Whom to trust: the two root fingerprints.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct TrustArguments {
    /// Configuration of any agent or gateway: it tells whom to trust.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/passerelle/agent.toml"
    )]
    pub(in crate::cli) config: PathBuf,
    /// A signatory and its root key's fingerprint, as the signed letter shows it; once for each of
    /// the two. No configuration is read then.
    #[arg(long, value_name = "PARTY=FINGERPRINT", value_parser = root, conflicts_with = "config")]
    pub(in crate::cli) root: Vec<(PartyId, KeyId)>,
    /// Certificates (PEM) of a time-stamping authority to believe, besides those that a gateway's
    /// configuration names; may be repeated.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) time_authority: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyArguments {
    /// The log's directory, with `checkpoint` and `tile/`.
    pub(in crate::cli) dir: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) trust: TrustArguments,
    /// A partner's own copy of a checkpoint of this log; may be repeated.
    #[arg(long, value_name = "NOTE")]
    pub(in crate::cli) witness: Vec<PathBuf>,
    /// Also verify the signature of every manifest and statement in the log.
    #[arg(long)]
    pub(in crate::cli) signatures: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ProveArguments {
    /// Package id, at least its first 12 digits: a proof of every entry about it.
    #[arg(required_unless_present = "index")]
    pub(in crate::cli) id: Option<String>,
    /// Prove the entry at this index instead.
    #[arg(long, conflicts_with = "id")]
    pub(in crate::cli) index: Option<u64>,
    /// Read this log directory; no gateway needs to run. `--config` tells whom to trust.
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) log: Option<PathBuf>,
    /// Folder for the proofs, `entry-12.tlog-proof`; it is made if need be.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(in crate::cli) out: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) daemon: DaemonArguments,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArguments {
    /// A folder that is empty or does not exist yet.
    pub(in crate::cli) folder: PathBuf,
    /// Read this log directory; no gateway needs to run. `--config` tells whom to trust.
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) log: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) daemon: DaemonArguments,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum EvidenceCommand {
    /// Write one file with everything that proves what happened to a package.
    #[command(after_help = "\
Example:
  passerelle evidence export 0a1b2c3d4e5f --config gateway.toml --out litige.evidence
  passerelle evidence export 0a1b2c3d4e5f --log /media/archive/caf21 --log /media/archive/dijon \\
    --config gateway.toml")]
    Export(EvidenceExportArguments),
    /// Verify such a file, without any server, and say what it proves and what it does not.
    #[command(after_help = "\
Example:
  passerelle evidence verify litige.evidence --root caf21=\"1f2e …\" --root grand-dijon=\"9a8b …\"
  passerelle evidence verify litige.evidence --config agent.toml --json

A fingerprint is the one of the signed letter, 16 groups of 4 digits. With --config, what the
daemon's own sheets say counts besides what is in the file: a newer sheet may revoke a key.")]
    Verify(EvidenceVerifyArguments),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct EvidenceExportArguments {
    /// Package id, at least its first 12 digits.
    pub(in crate::cli) id: String,
    /// Read this log directory; no gateway needs to run. May be repeated, for the logs of several
    /// gateways. `--config` tells whom to trust.
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) log: Vec<PathBuf>,
    /// Where the file goes; default: the first 12 digits of the id, with `.evidence`.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) out: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) daemon: DaemonArguments,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct EvidenceVerifyArguments {
    /// The evidence file.
    pub(in crate::cli) file: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) trust: TrustArguments,
}

fn root(text: &str) -> Result<(PartyId, KeyId), String> {
    let (party, fingerprint) = text.split_once('=').ok_or("write PARTY=FINGERPRINT")?;
    let party = party
        .parse::<PartyId>()
        .map_err(|error| error.to_string())?;
    let key = fingerprint.parse::<KeyId>();
    Ok((party, key.map_err(|error| error.to_string())?))
}
