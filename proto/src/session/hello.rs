//! What two peers must agree on before anything else crosses a stream.

use super::{Fault, PROTOCOL_MAX, PROTOCOL_MIN};
use crate::v1::{Hello, Lane};
use crate::{CHECKPOINT_LEN_MAX, PARTIES_MAX};

/// Longest name of a program and its version, in bytes.
const SOFTWARE_LEN_MAX: usize = 200;

/// Whether a stream for `lane` can go on after this introduction.
///
/// Conventions and sheets of another age are no obstacle: notes bring them up to date.
pub(super) fn check(hello: &Hello, lane: Lane) -> Result<(), Fault> {
    if common_version(hello).is_none() {
        return Err(Fault::Versions {
            theirs: (hello.protocol_min, hello.protocol_max),
        });
    }
    if hello.lane() != lane {
        return Err(Fault::Hello);
    }
    let too_long = hello.sheets.len() > PARTIES_MAX
        || hello.checkpoint.len() > CHECKPOINT_LEN_MAX
        || hello.cosigned.len() > CHECKPOINT_LEN_MAX
        || hello.software.len() > SOFTWARE_LEN_MAX;
    match too_long {
        true => Err(Fault::TooLong("Hello")),
        false => Ok(()),
    }
}

/// The newest version of the protocol that both speak.
fn common_version(hello: &Hello) -> Option<u32> {
    let newest = hello.protocol_max.min(PROTOCOL_MAX);
    let oldest = hello.protocol_min.max(PROTOCOL_MIN);
    (oldest <= newest).then_some(newest)
}
