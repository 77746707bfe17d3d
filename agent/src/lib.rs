//! The agent.

mod durable;
mod event;
mod hook;
mod instructions;
mod job;
mod outbox;
mod progress;
mod received;
mod store;

pub use durable::DiskError;
pub use event::{AgentEvent, EVENTS_MAX};
pub use hook::{HOOK_TIME_MAX, HookError, HookFacts};
pub use instructions::{INSTRUCTIONS, Instructions, InstructionsError};
pub use job::{Job, JobKind, JobRecord, JobStage, REPORT, file_name_of};
pub use outbox::{DEPTH_MAX, Dropped, ENTRIES_MAX, Find, Outbox, Shape, Unfit};
pub use progress::{Gateways, Progress, Stage, progress, reason_words};
pub use received::{Entry, KEPT_AFTER, Register};
pub use store::{Store, StoreError};
