//! The command line: every command, its arguments and an example.

mod proof;
mod trust;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use passerelle_proto::{FlowId, PartyId};

pub(super) use self::trust::{
    BackupArguments, KeyKind, KeysCommand, LetterArguments, NewKeyArguments, NewSheetArguments,
    NextSheetArguments, RestoreArguments, RevokeArguments, SheetCommand,
};

pub(super) use self::proof::{
    EvidenceCommand, EvidenceExportArguments, EvidenceVerifyArguments, ExportArguments,
    ProveArguments, TrustArguments, VerifyArguments,
};

/// Exchange signed, sealed packages with the partners of a convention.
#[derive(Debug, Parser)]
#[command(
    name = "passerelle",
    version,
    propagate_version = true,
    after_help = "\
Example:
  passerelle demo
  passerelle send tables.csv --flow observation-iris --to grand-dijon"
)]
pub(super) struct CommandLine {
    /// Answer in JSON, for programs.
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The daemon inside an institution.
    #[command(after_help = "Example:\n  passerelle agent run --config /etc/passerelle/agent.toml")]
    Agent {
        #[command(subcommand)]
        command: AgentCommand,
    },
    /// Drop a file or a directory into the outbox.
    #[command(after_help = "\
Example:
  passerelle send iris-2016.csv --flow observation-iris --to grand-dijon --title Essai")]
    Send(SendArguments),
    /// How an agent or a gateway is doing, and which transport each peer uses.
    #[command(after_help = "\
Example:
  passerelle status --config /etc/passerelle/agent.toml
  passerelle status --socket /run/passerelle/admin.sock --json")]
    Status(DaemonArguments),
    /// What an agent has sent and received, or what waits at a gateway.
    #[command(after_help = "Example:\n  passerelle queue --limit 20")]
    Queue(QueueArguments),
    /// One package and everything that was said about it.
    #[command(after_help = "Example:\n  passerelle package show 0a1b2c3d4e5f")]
    Package {
        #[command(subcommand)]
        command: PackageCommand,
    },
    /// Acknowledge a package that was received: its sender gets your signature.
    #[command(after_help = "Example:\n  passerelle ack 0a1b2c3d4e5f --comment \"bien reçu\"")]
    Ack(AckArguments),
    /// Take back a package that was sent: whoever has not opened it yet refuses it.
    #[command(
        after_help = "Example:\n  passerelle cancel 0a1b2c3d4e5f --comment \"erreur de fichier\""
    )]
    Cancel(CancelArguments),
    /// Send a test package along the whole path; it is receipted and not delivered.
    #[command(after_help = "Example:\n  passerelle ping grand-dijon --timeout-s 30")]
    Ping(PingArguments),
    /// The tamper-evident log of a gateway.
    #[command(after_help = "\
Example:
  passerelle audit log --config gateway.toml --follow
  passerelle audit verify /var/lib/passerelle/log --config gateway.toml
  passerelle audit prove 0a1b2c3d4e5f --config gateway.toml
  passerelle audit export /media/archive/caf21 --config gateway.toml
  passerelle audit anchor --without-witness --config gateway.toml")]
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
    },
    /// One file that proves what happened to a package, and that needs no server to be verified.
    #[command(after_help = "\
Example:
  passerelle evidence export 0a1b2c3d4e5f --config gateway.toml --out litige.evidence
  passerelle evidence verify litige.evidence --root caf21=\"1f2e …\" \\
    --root grand-dijon=\"9a8b …\"")]
    Evidence {
        #[command(subcommand)]
        command: EvidenceCommand,
    },
    /// Copy a gateway's directory while it works.
    #[command(after_help = "\
Example:
  passerelle backup /media/backup/gateway-2026-11-28 --config gateway.toml

The copy is the directory as it stands at one moment: log, packages, copies of partners'
checkpoints, convention and sheets; keys and configuration are not in it. To restore it, stop the
gateway, move its data_dir away, put the copy there and start. Where others have cosigned more of
the log since, the gateway stops and says so: `passerelle audit reconcile` begins a new log then,
and partners and agents offer again what is not receipted.")]
    Backup(GatewayBackupArguments),
    /// Make keys, look at them, back them up, and print the letter that is compared on paper.
    #[command(after_help = "\
Example:
  passerelle keys new --party caf21 --kind root --out root.secret
  passerelle keys letter root.public")]
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// The convention: who may send what to whom.
    #[command(after_help = "Example:\n  passerelle convention check convention.note")]
    Convention {
        #[command(subcommand)]
        command: ConventionCommand,
    },
    /// Party sheets: a party's addresses, names and keys, signed by its root key.
    #[command(after_help = "Example:\n  passerelle sheet show sheets/caf21.note")]
    Sheet {
        #[command(subcommand)]
        command: SheetCommand,
    },
    /// Certificates and keys for trying things out.
    #[command(after_help = "Example:\n  passerelle pki lab /tmp/laboratoire")]
    Pki {
        #[command(subcommand)]
        command: PkiCommand,
    },
    /// Show the whole exchange on this machine, with made-up data.
    #[command(after_help = "\
Example:
  passerelle demo
  passerelle demo tables.csv --keep /tmp/demo")]
    Demo(DemoArguments),
}

/// Which daemon is asked.
#[derive(Debug, Clone, Args)]
pub(super) struct DaemonArguments {
    /// Unix socket of the agent or of the gateway.
    #[arg(long, value_name = "SOCKET", conflicts_with = "config")]
    pub(super) socket: Option<PathBuf>,
    /// Configuration of the agent or of the gateway; its socket is asked.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/passerelle/agent.toml"
    )]
    pub(super) config: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum AgentCommand {
    /// Run the agent until it is told to stop.
    #[command(after_help = "\
Example:
  passerelle agent run --config /etc/passerelle/agent.toml

A new certificate, and new notes where the configuration names them, are taken over within seconds.
SIGHUP takes them over at once, and reads the keys again that the configuration names.")]
    Run(RunArguments),
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Only check the configuration and everything it names, then exit (0, or 78).
    #[arg(long)]
    pub(super) check: bool,
}

#[derive(Debug, Args)]
pub(super) struct SendArguments {
    /// File or directory to send; it is copied, and stays where it is.
    pub(super) file: PathBuf,
    /// Flow of the convention.
    #[arg(long)]
    pub(super) flow: FlowId,
    /// A recipient; may be repeated. Default: everybody whom the flow allows.
    #[arg(long, value_name = "PARTY")]
    pub(super) to: Vec<PartyId>,
    /// Title that people see; default: the name of the file.
    #[arg(long)]
    pub(super) title: Option<String>,
    /// Period that the data is about, "2016-12".
    #[arg(long)]
    pub(super) period: Option<String>,
    /// Id of a package that this one was made from, in full; may be repeated.
    #[arg(long, value_name = "ID")]
    pub(super) parent: Vec<passerelle_proto::PackageId>,
    /// Id of the package that this one replaces, in full.
    #[arg(long, value_name = "ID")]
    pub(super) supersedes: Option<passerelle_proto::PackageId>,
    /// Configuration of the agent; it tells where the outbox is.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/passerelle/agent.toml"
    )]
    pub(super) config: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct QueueArguments {
    #[command(flatten)]
    pub(super) daemon: DaemonArguments,
    /// At most this many, newest first at an agent, oldest first at a gateway.
    #[arg(long, default_value_t = 50)]
    pub(super) limit: u32,
}

#[derive(Debug, Subcommand)]
pub(super) enum PackageCommand {
    /// Show one package.
    #[command(after_help = "Example:\n  passerelle package show 0a1b2c3d4e5f")]
    Show(ShowArguments),
}

#[derive(Debug, Args)]
pub(super) struct ShowArguments {
    /// Package id, at least its first 12 digits.
    pub(super) id: String,
    #[command(flatten)]
    pub(super) daemon: DaemonArguments,
}

#[derive(Debug, Args)]
pub(super) struct AckArguments {
    /// Package id, at least its first 12 digits.
    pub(super) id: String,
    /// A sentence for the sender.
    #[arg(long, default_value = "")]
    pub(super) comment: String,
    #[command(flatten)]
    pub(super) daemon: DaemonArguments,
}

#[derive(Debug, Args)]
pub(super) struct CancelArguments {
    /// Package id, at least its first 12 digits.
    pub(super) id: String,
    /// A sentence for the recipients.
    #[arg(long, default_value = "")]
    pub(super) comment: String,
    #[command(flatten)]
    pub(super) daemon: DaemonArguments,
}

#[derive(Debug, Args)]
pub(super) struct PingArguments {
    /// Party to reach.
    pub(super) party: PartyId,
    /// How long to wait for its receipt, in seconds.
    #[arg(long, default_value_t = 30)]
    pub(super) timeout_s: u64,
    #[command(flatten)]
    pub(super) daemon: DaemonArguments,
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Show the entries of a gateway's log.
    #[command(after_help = "\
Example:
  passerelle audit log --config gateway.toml --from 100 --follow
  passerelle audit log --config gateway.toml --kind refused --kind counted --json")]
    Log(LogArguments),
    /// Check a log's files: every hash, its checkpoint, and what partners have cosigned.
    #[command(after_help = "\
Example:
  passerelle audit verify /var/lib/passerelle/log --config gateway.toml --signatures
  passerelle audit verify /media/archive/caf21 --root caf21=\"1f2e …\" \\
    --root grand-dijon=\"9a8b …\"

With --root nothing but the folder is read: `audit export` puts the convention and the sheets into
it. A fingerprint is the one of the signed letter, 16 groups of 4 digits.")]
    Verify(VerifyArguments),
    /// Write proofs that entries are in a gateway's log (c2sp.org/tlog-proof).
    #[command(after_help = "\
Example:
  passerelle audit prove 0a1b2c3d4e5f --config gateway.toml --out proofs
  passerelle audit prove --index 12 --log /var/lib/passerelle/log --config gateway.toml

Each proof is a text of its own, with the entry itself as its extra data, under the smallest
checkpoint that a partner has cosigned over it, or under our own while nobody has.")]
    Prove(ProveArguments),
    /// Write a gateway's whole log into a folder that `audit verify` verifies alone.
    #[command(after_help = "\
Example:
  passerelle audit export /media/archive/caf21 --config gateway.toml
  passerelle audit export /media/archive/caf21 --log /var/lib/passerelle/log \\
    --config gateway.toml")]
    Export(ExportArguments),
    /// Take a gateway's log for the one that others know, although nobody shows a copy of it.
    #[command(after_help = "\
Example:
  passerelle audit anchor --without-witness --config gateway.toml

After a start a gateway accepts nothing until a partner's gateway, or an agent of its own party, has
shown the checkpoint of its log that it keeps: only that tells a log that was put back to an earlier
state. It happens by itself when one of them connects. Use this command where none of them can,
after you have made sure that the log is the newest one. It is logged, as the first entry.")]
    Anchor(AnchorArguments),
    /// Begin a new log for a stopped gateway whose log is lost, or is not the one that others know.
    #[command(after_help = "\
Example:
  passerelle sheet next caf21.note --new-log --out caf21-8.toml
  passerelle sheet sign caf21-8.toml --key root.secret --out sheets/caf21-8.note
  passerelle audit reconcile --config gateway.toml

A gateway that finds that a partner knows another history of its log stops. Restore the newest copy
of its directory if there is one. If there is none, sign a sheet that names a new log, put it where
the configuration names sheets, and run this. What is left of the old log is put aside, whole, and
the new one begins with its last known checkpoint. Start the gateway then: partners and agents keep
every package until it is receipted, and offer again what is open.")]
    Reconcile(ReconcileArguments),
}

#[derive(Debug, Args)]
pub(super) struct GatewayBackupArguments {
    /// A folder that is not there yet.
    pub(super) folder: PathBuf,
    #[command(flatten)]
    pub(super) daemon: DaemonArguments,
}

#[derive(Debug, Args)]
pub(super) struct ReconcileArguments {
    /// Configuration file of the gateway, on its own machine.
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct AnchorArguments {
    #[command(flatten)]
    pub(super) daemon: DaemonArguments,
    /// Yes: you answer for the log yourself.
    #[arg(long, required = true)]
    pub(super) without_witness: bool,
}

#[derive(Debug, Args)]
pub(super) struct LogArguments {
    #[command(flatten)]
    pub(super) daemon: DaemonArguments,
    /// First entry.
    #[arg(long, default_value_t = 0)]
    pub(super) from: u64,
    /// Show at most this many; 0: all.
    #[arg(long, default_value_t = 0)]
    pub(super) limit: u64,
    /// Go on with entries as they come, until Ctrl-C.
    #[arg(long)]
    pub(super) follow: bool,
    /// Only entries about this package: its id, or at least the first 12 digits of it.
    #[arg(long, value_name = "ID")]
    pub(super) package: Option<String>,
    /// Only entries of this kind, "accepted" or "refused"; may be repeated.
    #[arg(long, value_name = "KIND", value_parser = super::wording::ENTRY_KINDS)]
    pub(super) kind: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConventionCommand {
    /// Show parties and flows.
    #[command(after_help = "Example:\n  passerelle convention show convention.note")]
    Show {
        /// Signed note, or plain text.
        file: PathBuf,
    },
    /// Check that a convention holds: its text, and both signatures.
    #[command(after_help = "\
Example:
  passerelle convention check convention.note --config agent.toml")]
    Check(CheckArguments),
    /// Add a signatory's signature.
    #[command(after_help = "\
Example:
  passerelle convention sign convention.toml --key root.secret --out convention.note")]
    Sign(SignConventionArguments),
}

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// Signed note, or plain text.
    pub(super) file: PathBuf,
    /// Configuration with the pinned fingerprints; without it only the keys in the text count.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The signed note of a version before, whose root keys sign what it is replaced by; once for
    /// each version from the pinned one on.
    #[arg(long, value_name = "NOTE")]
    pub(super) amends: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct SignConventionArguments {
    #[command(flatten)]
    pub(super) sign: SignArguments,
    /// The signed note of the version before: an amendment is signed with its root keys.
    #[arg(long, value_name = "NOTE")]
    pub(super) amends: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct SignArguments {
    /// Text to sign, or a note that lacks a signature.
    pub(super) file: PathBuf,
    /// Secret root key.
    #[arg(long, value_name = "FILE")]
    pub(super) key: PathBuf,
    /// Where the note goes; it may be FILE itself if that is a note.
    #[arg(long, value_name = "NOTE")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum PkiCommand {
    /// Make a complete laboratory on loopback and print the commands that start it.
    #[command(after_help = "Example:\n  passerelle pki lab /tmp/laboratoire")]
    Lab {
        /// A directory that is empty or does not exist yet.
        dir: PathBuf,
    },
}

/// What `passerelle demo` is told.
#[derive(Debug, Clone, Args)]
pub struct DemoArguments {
    /// A file of your own to send instead of the made-up table.
    pub file: Option<PathBuf>,
    /// Stop when everything is verified: 0 if it was, else not 0.
    #[arg(long)]
    pub once: bool,
    /// Make the laboratory in this directory and keep it.
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}
