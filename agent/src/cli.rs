//! The `passerelle` command: what it is told, and what it answers.

mod failure;
mod output;
mod quantity;
mod table;
mod wording;

pub use failure::{Exit, Failure};
pub use output::Output;
