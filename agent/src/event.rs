//! What the agent has just done, for whoever follows it live (the demo, tests, a dashboard).
//!
//! Events are news, not state: they are lost when nobody listens, and nothing depends on them.
//! What must not be lost is on disk before its event is sent.

use std::path::PathBuf;

use passerelle_proto::PackageId;
use passerelle_proto::v1;

/// Events kept for a listener that is slow; older ones are dropped for it.
pub const EVENTS_MAX: usize = 1_024;

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum AgentEvent {
    /// The gateway is connected, over "quic" or "tcp".
    Connected {
        /// Transport in use.
        transport: String,
        /// Address that answered.
        address: String,
    },
    /// The gateway is not connected any more, or could not be reached.
    Disconnected {
        /// Why, for people.
        why: String,
    },
    /// A dropped file or directory is the agent's from now on.
    Claimed {
        /// Name of the job's directory in `work/`.
        job: String,
        /// Flow it was dropped for.
        flow: String,
        /// Name it was dropped under.
        name: String,
    },
    /// A job was compressed, encrypted and signed.
    Sealed {
        /// Name of the job's directory in `work/`.
        job: String,
        /// The new package.
        package: PackageId,
        /// Its title.
        title: String,
        /// Bytes of all its files.
        plain_bytes: u64,
        /// Bytes of its chunks.
        sealed_bytes: u64,
        /// Whom it is for.
        recipients: Vec<String>,
    },
    /// A statement about one of our packages arrived, was verified and is stored.
    Stated {
        /// Package it speaks of.
        package: PackageId,
        /// Party that speaks.
        issuer: String,
        /// What it says.
        what: v1::statement::What,
    },
    /// A job is over: every recipient has a terminal statement.
    Finished {
        /// The package.
        package: PackageId,
        /// Whether at least one recipient has it.
        delivered: bool,
        /// Where its directory is now.
        path: PathBuf,
    },
    /// Something was not sent, or no recipient received it.
    Rejected {
        /// Name it was dropped under, or its title.
        name: String,
        /// Why, for people.
        why: String,
        /// Its directory, with `report.txt`.
        path: PathBuf,
    },
    /// A package arrived whole and is about to be opened.
    Arrived {
        /// The package.
        package: PackageId,
        /// Who sent it.
        sender: String,
    },
    /// A package has arrived and cannot be opened now, or was offered and cannot be judged now; it
    /// is tried again.
    PutOff {
        /// The package.
        package: PackageId,
        /// Why, for people.
        why: String,
    },
    /// A package lies in the inbox and its receipt is signed.
    Received {
        /// The package.
        package: PackageId,
        /// Who sent it.
        sender: String,
        /// Its flow.
        flow: String,
        /// Its title.
        title: String,
        /// Where it was put in the inbox; `None` for a test package.
        path: Option<PathBuf>,
    },
    /// A package was offered or had arrived and is refused for good.
    Refused {
        /// The package.
        package: PackageId,
        /// The closed reason its sender is told.
        reason: v1::Reason,
        /// Why, for people.
        why: String,
    },
    /// A statement of ours is committed at the gateway.
    Acked {
        /// Package it speaks of.
        package: PackageId,
    },
    /// The `on_receive` command failed; the package is in the inbox all the same.
    HookFailed {
        /// The package.
        package: PackageId,
        /// Why, for people.
        why: String,
    },
}
