//! More than anybody plans for: a queue of a million, and a next hop that takes nothing. Memory
//! stays bounded, and who has nothing to do with it notices nothing.

mod enrolled;
mod peers;
mod queued;
mod stuck;
