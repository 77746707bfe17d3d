//! Both transports between parties with certificates of their own, on loopback.

mod lab;
mod memory;
mod refusals;
mod sessions;
mod transports;
