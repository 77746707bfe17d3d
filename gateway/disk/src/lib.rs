//! Durable files: everything that gateways and agents write goes through one [`Disk`].
//!
//! [`HostDisk`] is the file system of the machine; [`MemoryDisk`] is one in memory that can lose,
//! as a power cut does, what was never synced; [`FaultyDisk`] stands in front of either, counts
//! what changes or syncs anything, and makes one such operation fail; [`OmittingDisk`] leaves out
//! syncs.
//! What takes more than one operation (replace a file, rename and sync) stands once, on `dyn Disk`.
//!
//! Besides, there are [`crash_point`]s: named places at which a test lets a process die. They are
//! not in release builds, and neither are the faults that the environment asks for.
//!
//! What is not here: the queue's database does its own I/O. It is derived from the log, and a
//! start makes it again when it cannot be opened or does not follow the log. Configuration and keys
//! are read where they lie: nothing of ours is lost with them.

mod crash;
mod cursor;
mod disk;
mod durable;
mod fault;
mod host;
mod memory;
mod omission;

pub use crash::{CRASH_AT, CrashPoint, reached};
pub use cursor::FileCursor;
pub use disk::{Disk, DiskFile, Kind, Lock, Status};
pub use durable::{At, DiskError, beside};
pub use fault::{FAIL_AT, Fault, FaultParseError, FaultyDisk, Flavour, LIST_IN};
pub use host::{HostDisk, system};
pub use memory::MemoryDisk;
pub use omission::{Look, OmittingDisk};
