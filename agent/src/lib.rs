//! The agent inside an institution: seals, submits, collects, opens, receipts; and the operator's
//! command.
//!
//! A library first: an agent runs inside any tokio process. Its state is directories; one rename
//! is one transition. What both ends must agree on is in `passerelle-proto`, and how the gateway is
//! reached is in `passerelle-link`.

mod again;
mod cancel;
pub mod cli;
mod clock;
mod config;
mod crash;
mod daemon;
mod damage;
mod demo;
mod event;
mod exchange;
#[cfg(test)]
mod faults;
mod handing;
mod hook;
mod incoming;
mod instructions;
mod job;
pub mod lab;
mod leftovers;
mod metrics;
mod node;
mod opening;
mod outbox;
mod outgoing;
mod pack_file;
mod progress;
mod receipts;
mod received;
mod renewal;
mod retention;
mod run;
mod said;
mod sealing;
#[cfg(feature = "simulation")]
pub mod simulation;
mod socket;
mod store;
mod unopened;

pub use config::{AgentConfig, AgentLimits, ConfigError, EXIT_CONFIG};
pub use crash::CRASH_POINTS;
pub use daemon::{Agent, StartError};
pub use event::{AgentEvent, EVENTS_MAX};
pub use hook::{HOOK_TIME_MAX, HookError, HookFacts};
pub use instructions::{INSTRUCTIONS, Instructions, InstructionsError};
pub use job::{Job, JobKind, JobRecord, JobStage, REMOVED, REPORT, file_name_of};
pub use outbox::{DEPTH_MAX, Dropped, ENTRIES_MAX, Find, Outbox, Shape, Unfit};
pub use passerelle_disk::DiskError;
pub use progress::{Gateways, Progress, Stage, progress};
pub use received::{Entry, KEPT_AFTER, Register};
pub use said::Said;
pub use store::{Store, StoreError};
