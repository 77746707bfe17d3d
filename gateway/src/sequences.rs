//! Which statements have come, of each sequence that a partner numbers: what is missing shows.
//!
//! A projection of the log, like the queue: written at an orderly stop, and read on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use passerelle_disk::{Disk, DiskError};
use passerelle_proto::v1::{self, entry::Event, statement::What};
use passerelle_proto::{Digest, Hop, PackageId, PartyId, Role};
use prost::Message;

/// Sequences that are followed; of more than the parties of a convention can have, no word is kept.
const SEQUENCES_MAX: usize = 16_384;
/// Numbers behind a gap that are remembered for each sequence; later ones count once it is filled.
const BEYOND_MAX: usize = 4_096;

/// Whose statements, to whom. A party's gateway and its agent number theirs apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sequence {
    pub(crate) issuer: PartyId,
    pub(crate) role: Role,
    pub(crate) destination: PartyId,
}

/// Statements that have not come, though later ones have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) sequence: Sequence,
    /// Number of the first one.
    pub(crate) first: u64,
    /// Number of the last one before the next that is here.
    pub(crate) last: u64,
    /// Package of the statement that showed it.
    pub(crate) package: PackageId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// Every number up to this one has come.
    whole: u64,
    beyond: BTreeSet<u64>,
    package: PackageId,
}

/// All sequences that the log has statements of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sequences {
    seen: BTreeMap<Sequence, Seen>,
    next: u64,
    /// The log has taken the place of a lost one: what came before it is not missing here.
    late: bool,
}

/// Which of a party's programs numbers a statement, when it came from this hop (`None`: from us).
pub(crate) fn speaker(what: &What, from: Option<&Hop>) -> Role {
    match what {
        What::Delivered(_) | What::Acknowledged(_) | What::Cancel(_) | What::Refused(_) => {
            Role::Agent
        }
        What::Damaged(_) => from.map_or(Role::Gateway, |hop| hop.role),
        What::Accepted(_)
        | What::Forwarded(_)
        | What::NotCollected(_)
        | What::NotReceipted(_)
        | What::Busy(_)
        | What::Inquire(_)
        | What::Purged(_) => Role::Gateway,
    }
}

/// A statement's place, read from an entry of our log.
pub(crate) fn place_of(body: &v1::Statement, from: Option<&Hop>) -> Option<(Sequence, u64)> {
    let sequence = Sequence {
        issuer: body.issuer.parse().ok()?,
        role: speaker(body.what.as_ref()?, from),
        destination: body.destination.parse().ok()?,
    };
    // Answers that are repeated on demand have no number.
    (body.seq > 0).then_some((sequence, body.seq))
}

/// The place of a statement that is refused, for the log; `None`: nobody counts it.
pub(crate) fn refused_place(body: &v1::Statement, from: &Hop) -> Option<v1::RefusedStatement> {
    let (sequence, seq) = place_of(body, Some(from))?;
    let issuer = Hop {
        party: sequence.issuer,
        role: sequence.role,
    };
    Some(v1::RefusedStatement {
        issuer: Some(issuer.to_message()),
        destination: sequence.destination.to_string(),
        seq,
        package: body.package.clone(),
    })
}

impl Sequences {
    /// Log index of the first entry that is not in here.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The next entry of the log.
    pub(crate) fn push(&mut self, entry: &v1::Entry) {
        self.next += 1;
        if let Some(Event::Epoch(epoch)) = &entry.event {
            self.late |= self.next == 1;
            // With its log a gateway has lost what it had numbered: it begins anew.
            let anew = |sequence: &Sequence| {
                sequence.role == Role::Gateway && sequence.issuer.as_str() == epoch.party
            };
            self.seen.retain(|sequence, _| !anew(sequence));
        }
        let event = match &entry.event {
            Some(Event::Statement(event)) => event,
            Some(Event::Refused(event)) => return self.refused(event),
            _ => return,
        };
        let Some(from) = event.from.as_ref().and_then(Hop::from_message) else {
            return;
        };
        let signed = event.statement.as_ref();
        let body = signed.and_then(|signed| v1::Statement::decode(signed.body.as_slice()).ok());
        let Some(body) = body else { return };
        let place = place_of(&body, Some(&from));
        if let (Some((sequence, seq)), Ok(package)) = (place, PackageId::from_slice(&body.package))
        {
            self.take(sequence, seq, package);
        }
    }

    /// A statement that was verified and refused has come all the same.
    fn refused(&mut self, event: &v1::RefusedEvent) {
        let Some(said) = &event.statement else { return };
        let issuer = said.issuer.as_ref().and_then(Hop::from_message);
        let package = PackageId::from_slice(&said.package);
        if let (Some(issuer), Ok(destination), Ok(package)) =
            (issuer, said.destination.parse(), package)
            && said.seq > 0
        {
            let (issuer, role) = (issuer.party, issuer.role);
            let sequence = Sequence {
                issuer,
                role,
                destination,
            };
            self.take(sequence, said.seq, package);
        }
    }

    fn take(&mut self, sequence: Sequence, seq: u64, package: PackageId) {
        if self.seen.len() >= SEQUENCES_MAX && !self.seen.contains_key(&sequence) {
            return;
        }
        let before = if self.late { seq.saturating_sub(1) } else { 0 };
        let seen = self.seen.entry(sequence).or_insert_with(|| Seen {
            whole: before,
            beyond: BTreeSet::new(),
            package,
        });
        if seq <= seen.whole {
            return;
        }
        if seq > seen.whole + 1 {
            if seen.beyond.is_empty() {
                seen.package = package;
            }
            seen.beyond.insert(seq);
            if seen.beyond.len() > BEYOND_MAX {
                seen.beyond.pop_last();
            }
            return;
        }
        seen.whole = seq;
        while seen.beyond.remove(&(seen.whole + 1)) {
            seen.whole += 1;
        }
    }

    /// The first gap of each sequence that has one.
    pub(crate) fn gaps(&self) -> Vec<Gap> {
        let gap = |(sequence, seen): (&Sequence, &Seen)| {
            let after = seen.beyond.first()?;
            Some(Gap {
                sequence: sequence.clone(),
                first: seen.whole + 1,
                last: after - 1,
                package: seen.package,
            })
        };
        self.seen.iter().filter_map(gap).collect()
    }

    /// Writes them; the next start reads less of the log for it.
    ///
    /// # Errors
    /// [`DiskError`].
    pub(crate) fn write(&self, disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
        let mut text = format!("{} {}\n", self.next, self.late);
        for (sequence, seen) in &self.seen {
            let Sequence {
                issuer,
                role,
                destination,
            } = sequence;
            let (whole, package) = (seen.whole, seen.package);
            text.push_str(&format!("{issuer} {role} {destination} {whole} {package}"));
            seen.beyond
                .iter()
                .for_each(|seq| text.push_str(&format!(" {seq}")));
            text.push('\n');
        }
        let digest = Digest::of(text.as_bytes());
        disk.replace(path, format!("{text}{digest}\n").as_bytes())
    }

    /// Those that were written last; from the log's beginning where that is damaged.
    pub(crate) fn read(disk: &dyn Disk, path: &Path, log_size: u64) -> Self {
        let bytes = disk.read(path).unwrap_or_default();
        let read = Self::parse(&String::from_utf8_lossy(&bytes));
        read.filter(|read| read.next <= log_size)
            .unwrap_or_default()
    }

    fn parse(text: &str) -> Option<Self> {
        let (lines, digest) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let body = &text[..lines.len() + 1];
        if digest.parse() != Ok(Digest::of(body.as_bytes())) {
            return None;
        }
        let mut lines = body.lines();
        let (next, late) = lines.next()?.split_once(' ')?;
        let (next, late) = (next.parse().ok()?, late.parse().ok()?);
        let mut seen = BTreeMap::new();
        for line in lines {
            let mut parts = line.split(' ');
            let mut part = || parts.next();
            let sequence = Sequence {
                issuer: part()?.parse().ok()?,
                role: part()?.parse().ok()?,
                destination: part()?.parse().ok()?,
            };
            let (whole, package) = (part()?.parse().ok()?, part()?.parse().ok()?);
            let beyond: Option<_> = parts.map(|seq| seq.parse().ok()).collect();
            let found = Seen {
                whole,
                beyond: beyond?,
                package,
            };
            seen.insert(sequence, found);
        }
        Some(Self { seen, next, late })
    }
}

#[cfg(test)]
mod tests {
    use passerelle_proto::fixture::party;

    use super::*;

    fn sequence() -> Sequence {
        Sequence {
            issuer: party("grand-dijon"),
            role: Role::Gateway,
            destination: party("caf21"),
        }
    }

    fn package(seq: u64) -> PackageId {
        PackageId(Digest::of(&seq.to_be_bytes()))
    }

    fn seen(numbers: &[u64]) -> Sequences {
        let mut sequences = Sequences::default();
        for seq in numbers {
            sequences.take(sequence(), *seq, package(*seq));
        }
        sequences
    }

    fn epoch(party: &str) -> v1::Entry {
        let event = Some(Event::Epoch(v1::EpochEvent {
            party: party.to_owned(),
            ..v1::EpochEvent::default()
        }));
        v1::Entry { at_ms: 0, event }
    }

    #[test]
    fn a_log_in_the_place_of_a_lost_one_misses_nothing_of_what_came_before_it() {
        let mut sequences = Sequences::default();
        sequences.push(&epoch("caf21"));
        sequences.take(sequence(), 57, package(57));
        assert_eq!(sequences.gaps(), []);
        sequences.take(sequence(), 59, package(59));
        let gaps = sequences.gaps();
        assert_eq!((gaps[0].first, gaps[0].last), (58, 58));
    }

    #[test]
    fn a_partner_that_has_begun_a_new_log_numbers_from_one_again() {
        let mut sequences = Sequences::default();
        let event = Some(Event::Stopped(v1::StoppedEvent::default()));
        sequences.push(&v1::Entry { at_ms: 0, event });
        for seq in [1, 2, 3] {
            sequences.take(sequence(), seq, package(seq));
        }
        sequences.push(&epoch("grand-dijon"));
        sequences.take(sequence(), 2, package(2));
        let gaps = sequences.gaps();
        assert_eq!((gaps[0].first, gaps[0].last), (1, 1));
    }

    #[test]
    fn a_statement_that_was_refused_has_come_all_the_same() {
        let from = Hop::gateway(party("grand-dijon"));
        let mut sequences = seen(&[1, 4]);
        for seq in [3, 2] {
            let body = v1::Statement {
                issuer: "grand-dijon".to_owned(),
                destination: "caf21".to_owned(),
                seq,
                package: package(seq).as_bytes().to_vec(),
                what: Some(What::Purged(v1::Purged::default())),
                ..v1::Statement::default()
            };
            let event = Some(Event::Refused(v1::RefusedEvent {
                statement: refused_place(&body, &from),
                ..v1::RefusedEvent::default()
            }));
            sequences.push(&v1::Entry { at_ms: 0, event });
        }
        assert_eq!(sequences.gaps(), []);
        assert_eq!(sequences.seen[&sequence()].whole, 4);
    }

    fn gap(numbers: &[u64]) -> Option<(u64, u64, PackageId)> {
        let gaps = seen(numbers).gaps();
        assert!(gaps.len() <= 1);
        gaps.first().map(|gap| (gap.first, gap.last, gap.package))
    }

    #[test]
    fn what_is_missing_shows_with_the_package_that_showed_it_until_it_comes() {
        assert_eq!(gap(&[1, 2, 3]), None);
        assert_eq!(gap(&[1, 4, 6]), Some((2, 3, package(4))));
        assert_eq!(gap(&[1, 4, 6, 3]), Some((2, 2, package(4))));
        assert_eq!(
            gap(&[1, 4, 6, 3, 2]).map(|gap| (gap.0, gap.1)),
            Some((5, 5))
        );
        assert_eq!(gap(&[1, 4, 6, 3, 2, 5, 2, 6]), None);
        assert_eq!(gap(&[3]), Some((1, 2, package(3))));
    }

    #[test]
    fn no_flood_of_numbers_fills_the_memory() {
        let numbers: Vec<u64> = (2..BEYOND_MAX as u64 + 100).collect();
        let mut sequences = seen(&numbers);
        assert_eq!(sequences.seen[&sequence()].beyond.len(), BEYOND_MAX);
        sequences.take(sequence(), 1, package(1));
        assert_eq!(sequences.gaps(), []);
        assert_eq!(sequences.seen[&sequence()].whole, BEYOND_MAX as u64 + 1);
    }

    #[test]
    fn what_was_written_reads_back_and_rot_in_it_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (disk, path) = (passerelle_disk::system(), dir.path().join("sequences"));
        let mut written = seen(&[1, 2, 5, 7]);
        written.next = 9;
        written.write(disk.as_ref(), &path).unwrap();
        assert_eq!(Sequences::read(disk.as_ref(), &path, 9), written);
        assert_eq!(
            Sequences::read(disk.as_ref(), &path, 8),
            Sequences::default()
        );
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen(" 5", " 6", 1)).unwrap();
        assert_eq!(
            Sequences::read(disk.as_ref(), &path, 9),
            Sequences::default()
        );
    }
}
