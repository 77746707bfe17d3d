//! Which notes a peer knows, so that newer ones are told as they come into force.

use std::collections::{BTreeMap, BTreeSet};

use passerelle_proto::{Digest, Directory, v1};

/// Notes sent at once; the rest follows when they have left.
const NOTES_AT_ONCE: usize = 256;

/// What a peer knows of conventions and sheets, from its `Hello` and from what was sent since.
#[derive(Debug)]
pub(crate) struct Told {
    convention_version: u64,
    seqs: BTreeMap<String, u64>,
    // Notes that the peer has brought itself.
    brought: BTreeSet<Digest>,
}

impl Told {
    pub(crate) fn new(hello: &v1::Hello) -> Self {
        let sheets = hello.sheets.iter();
        Self {
            convention_version: hello.convention_version,
            seqs: sheets
                .map(|state| (state.party.clone(), state.seq))
                .collect(),
            brought: BTreeSet::new(),
        }
    }

    /// The peer has sent this note: it need not be sent back.
    pub(crate) fn brought(&mut self, note: &[u8]) {
        self.brought.insert(Digest::of(note));
    }

    /// The newest notes that the peer lacks, at most [`NOTES_AT_ONCE`] of them; they count as
    /// sent.
    pub(crate) fn missing(&mut self, directory: &Directory) -> Vec<Vec<u8>> {
        let mut notes = Vec::new();
        let version = directory.convention().version();
        // The convention first: it may name the root keys that sign the sheets.
        if self.convention_version < version {
            self.convention_version = version;
            notes.push(directory.convention_note().to_vec());
        }
        for sheet in directory.sheets() {
            if notes.len() >= NOTES_AT_ONCE {
                break;
            }
            let known = self.seqs.get(sheet.party.as_str());
            if known.is_none_or(|known| *known < sheet.seq) {
                self.seqs.insert(sheet.party.to_string(), sheet.seq);
                notes.extend(directory.sheet_note(&sheet.party).map(<[u8]>::to_vec));
            }
        }
        notes.retain(|note| !self.brought.contains(&Digest::of(note)));
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use passerelle_proto::Adopted;
    use passerelle_proto::fixture::{keys, sheet, world};

    #[test]
    fn a_newer_sheet_is_told_once_and_never_to_whoever_brought_it() {
        let world = world();
        let directory = world.directory;
        let sheets = directory.sheets().map(|sheet| v1::SheetState {
            party: sheet.party.to_string(),
            seq: sheet.seq,
        });
        let hello = v1::Hello {
            convention_version: 1,
            sheets: sheets.skip(1).collect(),
            ..v1::Hello::default()
        };
        let (mut one, mut other) = (Told::new(&hello), Told::new(&hello));
        assert!(one.missing(&directory) == [world.sheet_notes[0].clone()]);
        assert!(one.missing(&directory).is_empty());
        let mut second = sheet("caf21");
        second.seq = 2;
        let note = second.sign(&keys("caf21").root).unwrap();
        other.brought(&note);
        let Adopted::Newer(directory) = directory.adopt_note(&note).unwrap() else {
            panic!("the sheet is newer");
        };
        assert!(one.missing(&directory) == [note]);
        assert!(other.missing(&directory).is_empty());
    }
}
