//! A gateway: it accepts, queues, forwards, receipts and audits packages that it cannot open.
//!
//! A library first: a gateway runs inside any tokio process. What is durable is decided in one
//! place, the append to the audit log; everything else here is derived from it. What both ends
//! must agree on byte for byte is not here but in `passerelle-proto`, and how peers are reached
//! and recognised is in `passerelle-link`.

mod acceptance;
mod admin;
mod agent_state;
mod anchor;
mod backup;
mod breaker;
mod config;
mod courier;
mod crash;
mod damage;
mod exchange;
mod expiry;
mod export;
#[cfg(test)]
mod faults;
mod freshness;
mod gateway;
mod gauges;
mod index;
mod inquiry;
mod log;
mod materials;
mod metrics;
mod node;
mod on_the_way;
mod opening;
mod own_statement;
mod peers;
mod purge;
mod queue;
mod receipts;
mod reconcile;
mod refusals;
mod renewal;
mod repair;
mod resend;
mod room;
mod sequencer;
mod sequences;
#[cfg(feature = "simulation")]
pub mod simulation;
mod spool;
mod time_stamp;
mod witness;

pub use anchor::Anchor;
pub use breaker::{Breaker, FAILURES_UNTIL_OPEN, FIRST_RETRY, RETRY_MAX};
pub use config::{Config, ConfigError, Limits};
pub use crash::CRASH_POINTS;
pub use freshness::{COSIGN_EVERY_MAX, Cosigner, Freshness, RENEWAL_GRACE_MAX};
pub use gateway::{EXIT_CONFIG, EXIT_STOPPED, Gateway, StartError};
pub use index::INDEX_SPAN;
pub use log::{
    AppendError, BATCH_ENTRIES_MAX, BATCH_LEN_MAX, ENTRY_LEN_MAX, Fatal, Log, LogKeys, SEGMENT_LEN,
    SEGMENT_LEN_ASKED,
};
pub use metrics::{Counter, Gauge, Metrics};
pub use node::Failure;
pub use queue::{
    Applied, Change, Class, Counts, FoldError, Going, Item, ItemKey, ItemState, ItemView, Items,
    Lease, LeaseToken, MemQueue, PAGE_MAX, Queue, QueueError, Retained, Retention, Settle,
    SledQueue, StoreError, fold,
};
pub use reconcile::{ReconcileError, Reconciled, reconcile};
pub use refusals::{Counted, ENTRIES_PER_MINUTE_MAX, RefusalBudget, WINDOW};
pub use room::START_BYTES_MIN;
pub use sequencer::{Acceptance, Committed, OpenError, Sequencer, Signer, SubmitError};
pub use spool::{FREE_BYTES_MIN, PackReader, Partial, Spool, SpoolError};
