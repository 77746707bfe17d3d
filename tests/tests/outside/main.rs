//! Disk and clock of real processes fail, wait and lie, where only the kernel is behind them.

mod faults;
mod strace;
mod weather;
