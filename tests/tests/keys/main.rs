//! Keys, certificates, sheets and the convention change while everything runs.

mod certificates;
mod partners;
mod revocation;
mod rotation;
mod scene;
