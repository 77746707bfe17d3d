//! What a gateway or an agent refuses: with its own clear error, in the log, and nothing of it in
//! an inbox.

mod burst;
mod contents;
mod manifests;
mod scene;
mod slowness;
mod strangers;
mod transfers;
