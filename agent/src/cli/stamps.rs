//! Time-stamps of authorities over a log (RFC 3161).

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};

use passerelle_proto::merkle::root;
use passerelle_proto::v1::{Entry, TimeStampedEvent, entry::Event};
use passerelle_proto::{Checkpoint, LogVerifier, Note, TileReader, TimeAuthorities, TimeStamp};
use serde::Serialize;

use super::failure::{Exit, Failure};
use super::quantity::When;
use super::wording::count;

/// Longest file of authorities, in bytes.
const AUTHORITIES_LEN_MAX: u64 = 256 * 1024;

/// What one authority has stamped of a log.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StampVerdict {
    /// Its name in its certificate.
    pub(crate) authority: String,
    /// Its time-stamps in the log.
    pub(crate) count: u64,
    /// Entries under the newest one.
    pub(crate) size: u64,
    /// When it made that, Unix milliseconds by its own clock.
    pub(crate) at_ms: i64,
    /// Why it is not believed; absent: one of the authorities that were named vouches for it.
    pub(crate) doubt: Option<String>,
}

impl Display for StampVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stamps = count(self.count, "time-stamp", "time-stamps");
        let entries = count(self.size, "entry", "entries");
        write!(
            f,
            "  {stamps} (RFC 3161) of {}, the newest over the first {entries}: {}",
            self.authority,
            When(self.at_ms)
        )?;
        match &self.doubt {
            None => writeln!(f),
            Some(doubt) => writeln!(f, "; NOT BELIEVED: {doubt}"),
        }
    }
}

/// Reads the authorities that somebody trusts, from files in PEM form.
pub(super) fn authorities(files: &[PathBuf]) -> Result<TimeAuthorities, Failure> {
    let mut all = TimeAuthorities::default();
    for file in files {
        let reading = |error: std::io::Error| Failure::reading(file, &error);
        let length = fs::metadata(file).map_err(reading)?.len();
        let refuse = |why: &dyn Display| {
            let what = format_args!("{}: {why}", file.display());
            Failure::new(Exit::Data, what, "name a file of certificates in PEM form")
        };
        if length > AUTHORITIES_LEN_MAX {
            let why = format_args!("{length} bytes; at most {AUTHORITIES_LEN_MAX} are read");
            return Err(refuse(&why));
        }
        let read = TimeAuthorities::from_pem(&fs::read(file).map_err(reading)?);
        all.extend(read.map_err(|error| refuse(&error))?);
    }
    Ok(all)
}

/// Gathers the time-stamps of a log while its entries are read.
#[derive(Default)]
pub(super) struct Stamps(Vec<(u64, TimeStampedEvent)>);

impl Stamps {
    /// Keeps an entry that is a time-stamp.
    pub(super) fn follow(&mut self, index: u64, entry: Entry) {
        if let Some(Event::TimeStamped(event)) = entry.event {
            self.0.push((index, event));
        }
    }

    /// Verifies all of them against the log in `dir`, whose tiles hold.
    ///
    /// # Errors
    /// Which one does not hold, and why.
    pub(super) fn verify(
        self,
        dir: &Path,
        size: u64,
        keys: &[LogVerifier],
        authorities: &TimeAuthorities,
    ) -> Result<Vec<StampVerdict>, String> {
        let files = |path: &str| fs::read(dir.join(path)).ok();
        let tiles = TileReader::new(&files, size);
        let mut verdicts: Vec<StampVerdict> = Vec::new();
        for (index, event) in self.0 {
            let place = |why: String| format!("entry {index}: a time-stamp does not hold: {why}");
            let signed = Checkpoint::verify_any(&event.checkpoint, keys);
            let signed = signed.map_err(|error| place(error.to_string()))?;
            if signed.size > index {
                return Err(place("its checkpoint is over later entries".to_owned()));
            }
            let found = root(&tiles, signed.size).map_err(|error| place(error.to_string()))?;
            if found != signed.root {
                return Err(place("its checkpoint is of another log".to_owned()));
            }
            let note = Note::parse(&event.checkpoint).map_err(|error| place(error.to_string()))?;
            let stamp = TimeStamp::verify(&event.token, note.text().as_bytes(), authorities);
            let stamp = stamp.map_err(|error| place(error.to_string()))?;
            let known = verdicts
                .iter_mut()
                .find(|known| known.authority == stamp.authority);
            let newest = StampVerdict {
                authority: stamp.authority,
                count: 1 + known.as_ref().map_or(0, |known| known.count),
                size: signed.size,
                at_ms: stamp.at.as_ms(),
                doubt: stamp.doubt,
            };
            match known {
                Some(known) => *known = newest,
                None => verdicts.push(newest),
            }
        }
        Ok(verdicts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_names_no_authority_is_told_with_its_own_limit() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tsa.pem");
        let told = |length: u64| {
            fs::write(&file, vec![b'x'; length as usize]).unwrap();
            authorities(std::slice::from_ref(&file))
                .unwrap_err()
                .to_string()
        };
        assert!(told(10).contains("no certificate in PEM form"));
        let long = told(AUTHORITIES_LEN_MAX + 1);
        assert!(long.contains("at most 262144 are read"), "{long}");
        assert!(authorities(&[]).unwrap().is_empty());
    }
}
