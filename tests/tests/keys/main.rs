//! Keys, certificates, sheets and the convention change while everything runs.

mod certificates;
mod revocation;
mod rotation;
mod scene;
