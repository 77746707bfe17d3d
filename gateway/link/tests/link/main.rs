//! Both transports between parties with certificates of their own, on loopback.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;
mod memory;
mod refusals;
mod sessions;
mod transports;
