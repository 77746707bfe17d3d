//! Keys and sheets: what their commands are told.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use passerelle_proto::{KeyId, PartyId, Role, Timestamp};

use super::SignArguments;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum KeyKind {
    /// Signs the convention and sheets; kept offline.
    Root,
    /// Signs packages and receipts.
    Agent,
    /// Signs a gateway's receipts.
    Gateway,
    /// Signs a person's acts.
    Operator,
    /// Signs a gateway's log.
    Log,
    /// Opens packages.
    Recipient,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeysCommand {
    /// Make a key: a secret file, and a public one beside it.
    #[command(after_help = "\
Example:
  passerelle keys new --party caf21 --kind agent --out agent.secret")]
    New(NewKeyArguments),
    /// Show whose key a file holds, and its fingerprint.
    #[command(after_help = "Example:\n  passerelle keys show agent.secret")]
    Show {
        /// Secret or public key file.
        file: PathBuf,
    },
    /// Print the letter on which a root key's fingerprint is compared.
    #[command(after_help = "\
Example:
  passerelle keys letter root.public
  passerelle keys letter root.public --convention convention.note --to grand-dijon")]
    Letter(LetterArguments),
    /// Seal the secret keys and the certificate that a configuration names into one file.
    #[command(after_help = "\
Example:
  passerelle keys backup --config agent.toml --out agent-keys.backup

Without the keys nothing that was sealed for them can ever be opened. The file is encrypted with a
key that Argon2id makes from the passphrase.")]
    Backup(BackupArguments),
    /// Write the files of a backup into a directory; nothing is written over.
    #[command(after_help = "\
Example:
  passerelle keys restore agent-keys.backup --into /etc/passerelle")]
    Restore(RestoreArguments),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct NewKeyArguments {
    /// Whose key.
    #[arg(long)]
    pub(in crate::cli) party: PartyId,
    /// What for.
    #[arg(long)]
    pub(in crate::cli) kind: KeyKind,
    /// Where the secret goes; the public key goes to the same name with `.public`.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) out: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LetterArguments {
    /// Secret or public root key file.
    pub(in crate::cli) file: PathBuf,
    /// Convention, signed or not: the institutions' names are taken from it.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) convention: Option<PathBuf>,
    /// The party that the letter is for.
    #[arg(long, value_name = "PARTY")]
    pub(in crate::cli) to: Option<PartyId>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct BackupArguments {
    /// Configuration of an agent or of a gateway.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/passerelle/agent.toml"
    )]
    pub(in crate::cli) config: PathBuf,
    /// Where the backup goes.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) out: PathBuf,
    /// File whose first line is the passphrase, its owner's alone; default: ask at the terminal.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArguments {
    /// The backup.
    pub(in crate::cli) file: PathBuf,
    /// Directory below which the files are written.
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) into: PathBuf,
    /// File whose first line is the passphrase, its owner's alone; default: ask at the terminal.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SheetCommand {
    /// Write the text of a sheet, ready to be signed.
    #[command(after_help = "\
Example:
  passerelle sheet new --party caf21 --key agent=agent.public --recipient recipient.public \\
    --tls-anchor ca.pem --tls-name agent=agent.caf21.example --out caf21.sheet.toml")]
    New(Box<NewSheetArguments>),
    /// Write the text of the next sheet: new keys, names and dates beside those in force.
    #[command(after_help = "\
Example:
  passerelle sheet next sheets/caf21.note --key agent=new.public --recipient opens.public \\
    --retire '0a1b 2c3d …' --out caf21-2.toml

What a sheet leaves out signs nothing more. A retired key stays listed with its end, so that what it
has signed stays verifiable. New recipient and log keys are used from the moment the sheet is known:
name their secret files in the configuration of agent and gateway before.")]
    Next(Box<NextSheetArguments>),
    /// Write the text of the next sheet, with a key or a TLS name that is withdrawn.
    #[command(after_help = "\
Example:
  passerelle sheet revoke sheets/caf21.note --key '0a1b 2c3d …' --reason 'stolen laptop' \\
    --out caf21-2.toml
  passerelle sheet sign caf21-2.toml --key root.secret --out caf21-2.note

Packages that the recipient's gateway accepted before the time of the revocation stay valid.")]
    Revoke(RevokeArguments),
    /// Show a sheet.
    #[command(after_help = "Example:\n  passerelle sheet show sheets/caf21.note")]
    Show {
        /// Signed note, or plain text.
        file: PathBuf,
    },
    /// Sign a sheet with the party's root key.
    #[command(after_help = "\
Example:
  passerelle sheet sign caf21.sheet.toml --key root.secret --out caf21.note")]
    Sign(SignArguments),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct NewSheetArguments {
    /// Whose sheet.
    #[arg(long)]
    pub(in crate::cli) party: PartyId,
    /// Its number; a newer sheet has a higher one.
    #[arg(long, default_value_t = 1)]
    pub(in crate::cli) seq: u64,
    /// Days that it and its keys are valid, at most 400.
    #[arg(long, default_value_t = 366)]
    pub(in crate::cli) days: u32,
    /// Where the gateway listens, `host:port`; may be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    pub(in crate::cli) address: Vec<String>,
    /// A signing key and its role (agent, gateway, operator), `ROLE=FILE`; may be repeated.
    #[arg(long, value_name = "ROLE=FILE", value_parser = role_and_file)]
    pub(in crate::cli) key: Vec<(Role, PathBuf)>,
    /// A public recipient key file; may be repeated, the first one is used.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) recipient: Vec<PathBuf>,
    /// The log's public key file.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) log: Option<PathBuf>,
    /// Certificate of an authority that may issue the party's certificates, PEM; may be repeated.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) tls_anchor: Vec<PathBuf>,
    /// The exact TLS name of a program, `ROLE=NAME`; may be repeated.
    #[arg(long, value_name = "ROLE=NAME", value_parser = role_and_text)]
    pub(in crate::cli) tls_name: Vec<(Role, String)>,
    /// A key that is not to be believed any more, from now on; may be repeated.
    #[arg(long, value_name = "FINGERPRINT")]
    pub(in crate::cli) revoke: Vec<KeyId>,
    /// Why these keys are revoked.
    #[arg(long, default_value = "withdrawn")]
    pub(in crate::cli) reason: String,
    /// Where the text goes.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) out: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct NextSheetArguments {
    /// The sheet in force: signed note, or plain text.
    pub(in crate::cli) file: PathBuf,
    /// Days from now that it and its new keys are valid, at most 400; default: as before.
    #[arg(long)]
    pub(in crate::cli) days: Option<u32>,
    /// A further signing key and its role (agent, gateway, operator), `ROLE=FILE`; may be repeated.
    #[arg(long, value_name = "ROLE=FILE", value_parser = role_and_file)]
    pub(in crate::cli) key: Vec<(Role, PathBuf)>,
    /// A further public recipient key file; may be repeated, the first one is used from now on.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) recipient: Vec<PathBuf>,
    /// The public key file that the log is signed with from now on.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) log: Option<PathBuf>,
    /// A new log takes the place of the gateway's, which is lost; see `audit reconcile`.
    #[arg(long)]
    pub(in crate::cli) new_log: bool,
    /// A signing or recipient key that another one replaces; may be repeated.
    #[arg(long, value_name = "FINGERPRINT")]
    pub(in crate::cli) retire: Vec<KeyId>,
    /// Days from now that what a retired key signs counts: longer than until the sheet is signed,
    /// in force and known to all partners. A key that may be in other hands: `sheet revoke`.
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub(in crate::cli) overlap: u32,
    /// Certificate of a further authority, PEM; may be repeated.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) tls_anchor: Vec<PathBuf>,
    /// A further TLS name of a program, `ROLE=NAME`; may be repeated.
    #[arg(long, value_name = "ROLE=NAME", value_parser = role_and_text)]
    pub(in crate::cli) tls_name: Vec<(Role, String)>,
    /// Where the text goes.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) out: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RevokeArguments {
    /// The sheet in force: signed note, or plain text.
    pub(in crate::cli) file: PathBuf,
    /// A key that is not to be believed any more; may be repeated.
    #[arg(long, value_name = "FINGERPRINT", required_unless_present = "tls_name")]
    pub(in crate::cli) key: Vec<KeyId>,
    /// A TLS name that is not to be believed any more; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) tls_name: Vec<String>,
    /// Why, in words; partners read it.
    #[arg(long)]
    pub(in crate::cli) reason: String,
    /// From when on, as 2016-01-31 or 2016-01-31T08:00:00Z; default: now.
    #[arg(long, value_name = "TIME")]
    pub(in crate::cli) at: Option<Timestamp>,
    /// Where the text goes.
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) out: PathBuf,
}

fn role_and_text(text: &str) -> Result<(Role, String), String> {
    let (role, rest) = text.split_once('=').ok_or("write ROLE=VALUE")?;
    let role = role.parse::<Role>().map_err(|error| error.to_string())?;
    Ok((role, rest.to_owned()))
}

fn role_and_file(text: &str) -> Result<(Role, PathBuf), String> {
    role_and_text(text).map(|(role, file)| (role, file.into()))
}
