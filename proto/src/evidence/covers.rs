//! What was said about a log soon after an entry was appended to it.

use std::collections::BTreeMap;

use super::claimed_checkpoint;
use crate::v1::{self, entry::Event};

/// Gathers, while a log is read from its beginning, the first cosignature of each partner and the
/// first time-stamp over each entry that is wanted.
///
/// The newest ones would cover the entries too, but show only that they were there by then: years
/// later that would not tell whether a statement is older than the revocation of its key.
#[derive(Debug, Default)]
pub struct Covers {
    // Ascending. All are kept: what covers an entry may stand in the log behind the next of them.
    wanted: Vec<u64>,
    // Entries below this are covered by this party; the empty name is the authority.
    covered: BTreeMap<String, u64>,
    /// Cosigned checkpoints, oldest first.
    pub cosigned: Vec<Vec<u8>>,
    /// Stamped checkpoints, oldest first.
    pub stamped: Vec<v1::TimeStampedEvent>,
}

impl Covers {
    /// The entry at `index` is wanted; each is behind those that were wanted before.
    pub fn want(&mut self, index: u64) {
        self.wanted.push(index);
    }

    /// The log goes on with this entry; whether it covers the newest entry that is wanted.
    pub fn follow(&mut self, entry: &v1::Entry) -> bool {
        match &entry.event {
            Some(Event::Cosigned(event)) if event.ours => {
                if self.is_first(&event.party, &event.checkpoint) {
                    self.cosigned.push(event.checkpoint.clone());
                }
                self.covers_last(&event.checkpoint)
            }
            Some(Event::TimeStamped(event)) => {
                if self.is_first("", &event.checkpoint) {
                    self.stamped.push(event.clone());
                }
                self.covers_last(&event.checkpoint)
            }
            _ => false,
        }
    }

    /// A partner's newest cosignature, which the log may not hold yet.
    pub fn newest(&mut self, partner: &str, note: &[u8]) {
        if self.is_first(partner, note) {
            self.cosigned.push(note.to_vec());
        }
    }

    /// Whether this is what `by` says first about an entry that is wanted; from now on it is not.
    fn is_first(&mut self, by: &str, note: &[u8]) -> bool {
        let before = self.covered.get(by).copied().unwrap_or(0);
        let next = self.wanted.partition_point(|wanted| *wanted < before);
        let Some(wanted) = self.wanted.get(next) else {
            return false;
        };
        match claimed_checkpoint(note) {
            Ok(checkpoint) if checkpoint.size > *wanted => {
                self.covered.insert(by.to_owned(), checkpoint.size);
                true
            }
            _ => false,
        }
    }

    fn covers_last(&self, note: &[u8]) -> bool {
        self.wanted
            .last()
            .is_some_and(|wanted| covers(note, *wanted))
    }
}

/// Whether a checkpoint says that it is over an entry.
fn covers(note: &[u8], index: u64) -> bool {
    claimed_checkpoint(note).is_ok_and(|checkpoint| checkpoint.size > index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::party;
    use crate::{Checkpoint, LogSigner};

    fn note(size: u64) -> Vec<u8> {
        let signer = LogSigner::from_seed(&party("caf21"), &[1; 64]);
        let checkpoint = Checkpoint {
            origin: signer.verifier().name().to_owned(),
            size,
            root: crate::Digest::of(&size.to_be_bytes()),
        };
        checkpoint.sign(&signer, crate::fixture::NOW).unwrap()
    }

    fn cosigned(by: &str, size: u64, ours: bool) -> v1::Entry {
        let event = Event::Cosigned(v1::CosignedEvent {
            party: by.to_owned(),
            ours,
            checkpoint: note(size),
        });
        v1::Entry {
            at_ms: 1,
            event: Some(event),
        }
    }

    fn stamped(size: u64) -> v1::Entry {
        let event = Event::TimeStamped(v1::TimeStampedEvent {
            checkpoint: note(size),
            token: vec![1],
        });
        v1::Entry {
            at_ms: 1,
            event: Some(event),
        }
    }

    fn sizes(covers: &Covers) -> (Vec<u64>, Vec<u64>) {
        let size = |note: &[u8]| claimed_checkpoint(note).unwrap().size;
        let cosigned = covers.cosigned.iter().map(|note| size(note)).collect();
        let stamped = covers.stamped.iter().map(|event| size(&event.checkpoint));
        (cosigned, stamped.collect())
    }

    #[test]
    fn the_first_that_each_partner_and_the_authority_say_about_each_entry_is_kept() {
        let mut covers = Covers::default();
        let follow = |covers: &mut Covers, entries: &[v1::Entry]| {
            for entry in entries {
                covers.follow(entry);
            }
        };
        follow(&mut covers, &[cosigned("dijon", 1, true), stamped(1)]);
        covers.want(2);
        // Two over what came before it, one of ours over a partner's log.
        let before = [
            cosigned("dijon", 2, true),
            stamped(2),
            cosigned("dijon", 9, false),
        ];
        follow(&mut covers, &before);
        assert_eq!(sizes(&covers), (vec![], vec![]));
        let later = [
            cosigned("dijon", 5, true),
            cosigned("other", 6, true),
            stamped(7),
        ];
        follow(&mut covers, &later);
        follow(&mut covers, &[cosigned("dijon", 8, true), stamped(9)]);
        assert_eq!(sizes(&covers), (vec![5, 6], vec![7]));
        covers.want(12);
        // What is over this one stands in the log behind the next that is wanted.
        covers.want(13);
        let later = [13, 14, 15].map(|size| cosigned("dijon", size, true));
        follow(&mut covers, &later);
        assert_eq!(sizes(&covers), (vec![5, 6, 13, 14], vec![7]));
        // What the log does not hold yet, where it is needed.
        covers.newest("dijon", &note(20));
        covers.newest("other", &note(12));
        covers.newest("other", &note(21));
        assert_eq!(sizes(&covers), (vec![5, 6, 13, 14, 21], vec![7]));
    }
}
