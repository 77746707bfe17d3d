//! Shared fixtures of the end-to-end tests, and what they hold the product to.
//!
//! A [`Program`] is run as the real process that an institution runs; a [`CountingProxy`] stands in
//! front of a gateway and counts what crosses; [`eventually`] waits on a condition with a deadline;
//! [`violations`] tells from what all parties hold whether anything went wrong; the [`Judges`] say
//! whether anybody else would believe what is exported.
//!
//! # The fault model
//!
//! **A process** may die at any instruction, any number of times, also while it starts. What it has
//! written is with the system and stays; what it has promised is on the disk already. It starts
//! again with the same directory, alone: a lock sees to that. Its memory is lost: claims, backoff,
//! open transfers.
//!
//! **A machine** may lose power at any time. What was never synced may be lost then, the contents
//! of files and the names in directories each by themselves and in any order; a rename is never
//! half done. What was synced stays. (Tests: a disk in memory that forgets all of the former, also
//! with each sync left out in turn, which must be missed; ext4 on a loop device whose image is
//! copied.)
//!
//! **An operation of the disk** may fail, with an I/O error or for want of room, and may have
//! happened all the same. After an I/O error nothing is known of what the disk holds: the gateway
//! stops with exit code 70, and at the next start it copies the end of its log and syncs the copy
//! before it believes it. Want of room in the spool fails that transfer, and the package is put
//! off; want of room for the next segment of the log refuses new packages. An agent reports what
//! failed and tries again; what was dropped stays where it is or lies in its job, never in neither.
//!
//! **A file** may rot. A damaged entry of the log with intact ones behind it stops the gateway, as
//! does a log that is shorter or other than a checkpoint that anybody keeps. A damaged pack is
//! found by its digests before a byte of it is sent or opened, and fetched again from the hop
//! before, which keeps it until it is over. A damaged tile, index or queue is found when it is
//! used, and made again. Keys, convention and sheets are refused. `ROT.md` says it for every kind.
//!
//! **The network** may lose, delay, double and reorder, and cut any stream at any byte. Peers may
//! be away for days. A peer with a valid certificate may say anything.
//!
//! **The clock** may jump. Nothing expires, nothing is removed and no gateway refuses a package for
//! its time while it does not move as the system's own does, or differs from a partner's by more
//! than five minutes. An agent seals nothing and refuses nothing for its time while its own differs
//! from its gateway's by as much; only one that has not reached its gateway for ten seconds after
//! its start seals by a clock that nobody has confirmed.
//!
//! What is promised under all of these, alone or one after the other: a package that a gateway has
//! signed for is in the inbox of each of its recipients exactly once, or its sender holds a signed
//! word that it is not; each receipt verifies and speaks of a package that its issuer has; both
//! logs verify and are the ones that everybody else knows; nothing stays in spool or work
//! directories once all is said, but what the convention has kept for a time. Of that nothing goes
//! before everybody's word about it is in the log and cosigned by another institution.
//!
//! What is not promised: that an operation which failed has not happened; that a package arrives
//! while a machine on its way is down; that bytes cross once only (what was not synced is sent
//! again); that an inbox is left alone by its users.
//!
//! **The total loss of one machine**, with its disk, costs:
//!
//! - a sending agent: what was dropped and not yet accepted by its gateway; the record of what was
//!   sent, of which the gateways' logs hold every word;
//! - a receiving agent: what was opened into the inbox and not copied elsewhere, and receipts that
//!   it had not handed over yet. What it had taken and not opened is still with its gateway, which
//!   does not offer it again by itself: its sender is told that no word has come;
//! - a gateway: its log, from the last copy of it on, and with it its own proof. A lost log is
//!   never continued. Packages that it had accepted and not handed on are with the hop before it,
//!   which keeps each until it has heard how it ended;
//! - two machines in a row on the way of a package: that package.
//!
//! The queue's database does its own I/O, past the disk that our own faults are injected into; a
//! library in front of libc makes it fail all the same. No promise rests on it: it follows from the
//! log, and a start makes it again when it does not open, does not follow the log, or was open when
//! the power went.

mod deadline;
mod facts;
mod history;
mod judges;
mod laboratory;
mod outside;
mod process;
mod proxy;
mod rogue;
mod time_authority;
mod walk;

pub use deadline::eventually;
pub use facts::{Keeping, Place, Witness};
pub use history::{Fact, Said, breaches, violations};
pub use judges::{Judges, kinds, printed, refused};
pub use laboratory::{
    CAF_AGENT, CAF_GATEWAY, CONTRACTOR_AGENT, DIJON_AGENT, DIJON_GATEWAY, LIMIT, Process,
    RunningLab, noise, now, quick_options,
};
pub use outside::{
    BELOW, CLOCK, FAIL_OUTSIDE, KILL_AT, LIST_OUTSIDE, OMIT_SYNCS, PRELOAD, SYNC_MS, outside,
};
pub use process::{Program, Running, binary};
pub use proxy::{CountingProxy, free_addresses};
pub use rogue::{Outcome, Rogue, connect, hello, speak};
pub use time_authority::{Manner, TimeAuthority, openssl};
pub use walk::{Faults, STEP_LIMIT, Walk};
