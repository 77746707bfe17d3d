//! What ends when: the certificate, sheets, keys and the convention; and whether to warn of it.
//!
//! Of several keys for one purpose the last to end counts: with a successor in the sheet, the end
//! of a key is no trouble. Recipient and log keys have no dates of their own and end with the
//! sheet that lists them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::{Directory, KeyId, KeyRole, PartyId, Sheet, SheetLog, Timestamp, v1};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long before an end people are warned: 30 days.
pub const WARN_AHEAD: Duration = Duration::from_secs(30 * 24 * 3600);
/// How often they are warned of the same end: once a day.
pub const WARN_EVERY: Duration = DAY;

/// What ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ends {
    /// The TLS certificate of the program that asks.
    Certificate,
    /// A party's sheet.
    Sheet,
    /// The keys that sign a party's packages and receipts.
    AgentKeys,
    /// The keys that sign a gateway's receipts.
    GatewayKeys,
    /// The keys that sign persons' acts.
    OperatorKeys,
    /// The keys that open a party's packages.
    RecipientKeys,
    /// The keys that sign a party's log.
    LogKeys,
    /// The convention.
    Convention,
}

impl Ends {
    /// A few words, for labels and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Sheet => "sheet",
            Self::AgentKeys => "agent keys",
            Self::GatewayKeys => "gateway keys",
            Self::OperatorKeys => "operator keys",
            Self::RecipientKeys => "recipient keys",
            Self::LogKeys => "log keys",
            Self::Convention => "convention",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Certificate => "have a new one issued and put it into the place of this one",
            Self::Sheet => "its party signs the next sheet",
            Self::Convention => "both signatories sign an amendment",
            _ => "its party lists a successor in its next sheet",
        }
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Something that ends by its own date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// What.
    pub what: Ends,
    /// Whose: a party, or the id of the convention.
    pub owner: String,
    /// Last instant at which it counts.
    pub at: Timestamp,
}

impl Expiry {
    fn new(what: Ends, owner: impl fmt::Display, at: Timestamp) -> Self {
        let owner = owner.to_string();
        Self { what, owner, at }
    }

    /// Seconds until then; negative once it is over.
    pub fn seconds_left(&self, now: Timestamp) -> i64 {
        self.at.as_ms().saturating_sub(now.as_ms()).div_euclid(1000)
    }

    /// Whether people are to be warned: it is over, or will be within [`WARN_AHEAD`].
    pub fn is_near(&self, now: Timestamp) -> bool {
        self.at <= now.saturating_add(WARN_AHEAD)
    }

    /// A sentence with the days left and what to do.
    pub fn words(&self, now: Timestamp) -> String {
        let Self { what, owner, at } = self;
        let days = at.since(now).as_secs() / DAY.as_secs();
        let when = match (*at < now, days) {
            (true, _) => format!("ended on {}", at.date()),
            (false, 0) => format!("ends within a day, at {at}"),
            (false, 1) => format!("ends in 1 day, on {}", at.date()),
            (false, days) => format!("ends in {days} days, on {}", at.date()),
        };
        let verb = match what {
            Ends::Certificate | Ends::Sheet | Ends::Convention => when,
            _ => when.replacen("ends", "end", 1),
        };
        match what {
            Ends::Convention => format!("the convention {owner} {verb}: {}", what.remedy()),
            what => format!("the {what} of {owner} {verb}: {}", what.remedy()),
        }
    }

    /// The message for a status at `now`.
    pub fn to_message(&self, now: Timestamp) -> v1::Expiry {
        v1::Expiry {
            what: self.what.to_string(),
            owner: self.owner.clone(),
            at_ms: self.at.as_ms(),
            words: self.words(now),
        }
    }
}

/// Everything that ends, the first to end first.
///
/// `certificate` is the program's own, with its last instant; `party` is whose program it is.
pub fn expiries(
    directory: &Directory,
    party: &PartyId,
    certificate: Option<Timestamp>,
) -> Vec<Expiry> {
    let convention = directory.convention();
    let mut found = vec![Expiry::new(
        Ends::Convention,
        convention.id(),
        convention.valid_until(),
    )];
    found.extend(certificate.map(|at| Expiry::new(Ends::Certificate, party, at)));
    // A party that an amendment has left out needs no sheet any more.
    let sheets = directory.sheets();
    for sheet in sheets.filter(|sheet| convention.party(&sheet.party).is_some()) {
        found.push(Expiry::new(Ends::Sheet, &sheet.party, sheet.not_after));
        let keys = keys(sheet).into_iter();
        found.extend(keys.map(|(what, at)| Expiry::new(what, &sheet.party, at)));
    }
    found.sort_by(|a, b| (a.at, a.what, &a.owner).cmp(&(b.at, b.what, &b.owner)));
    found
}

/// Until when a sheet gives its party at least one usable key for each purpose.
fn keys(sheet: &Sheet) -> BTreeMap<Ends, Timestamp> {
    let mut last = BTreeMap::new();
    let mut note = |what, key: KeyId, until: Timestamp| {
        let until = until.min(sheet.not_after);
        let until = sheet.revoked(&key).map_or(until, |at| at.min(until));
        let known = last.entry(what).or_insert(until);
        *known = until.max(*known);
    };
    for listed in &sheet.keys {
        for role in &listed.roles {
            let what = match role {
                KeyRole::Agent => Ends::AgentKeys,
                KeyRole::Gateway => Ends::GatewayKeys,
                KeyRole::Operator => Ends::OperatorKeys,
            };
            note(what, listed.key.id(), listed.not_after);
        }
    }
    for key in &sheet.recipients {
        note(Ends::RecipientKeys, key.id(), sheet.not_after);
    }
    let log = sheet.log.as_ref().map(SheetLog::keys);
    if let Some(current) = log.as_deref().and_then(<[_]>::first) {
        note(Ends::LogKeys, current.id(), sheet.not_after);
    }
    last
}

/// What was warned about and when, so that the same is said once a day.
#[derive(Debug, Default)]
pub struct Warnings(BTreeMap<(Ends, String), Timestamp>);

impl Warnings {
    /// What is to be said now; it counts as said.
    pub fn due<'e>(&mut self, expiries: &'e [Expiry], now: Timestamp) -> Vec<&'e Expiry> {
        // What was replaced is warned about at once when its successor nears its end.
        let near = |expiry: &&Expiry| expiry.is_near(now);
        let names: Vec<(Ends, &str)> = expiries
            .iter()
            .filter(near)
            .map(|expiry| (expiry.what, expiry.owner.as_str()))
            .collect();
        self.0
            .retain(|(what, owner), _| names.contains(&(*what, owner.as_str())));
        let mut due: Vec<&Expiry> = expiries.iter().filter(near).collect();
        due.retain(|expiry| {
            let name = (expiry.what, expiry.owner.clone());
            let said = self.0.get(&name);
            let again = said.is_none_or(|said| now.since(*said) >= WARN_EVERY);
            if again {
                self.0.insert(name, now);
            }
            again
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, NOW, keys as keys_of, party, world};
    use crate::{Adopted, Revocation, SheetKey, SigningKey};

    fn at(days: i64) -> Timestamp {
        Timestamp::from_ms(NOW.as_ms() + days * 24 * 3600 * 1000)
    }

    /// The directory after a second sheet of `caf21`.
    fn with_sheet(edit: impl FnOnce(&mut Sheet)) -> Directory {
        let mut sheet = fixture::sheet("caf21");
        sheet.seq = 2;
        edit(&mut sheet);
        let note = sheet.sign(&keys_of("caf21").root).unwrap();
        match world().directory.adopt_note(&note).unwrap() {
            Adopted::Newer(directory) => directory,
            other => panic!("{other:?}"),
        }
    }

    fn find(directory: &Directory, what: Ends, owner: &str) -> Expiry {
        let found = expiries(directory, &party("caf21"), Some(at(5)));
        let mut found = found.into_iter();
        found
            .find(|expiry| expiry.what == what && expiry.owner == owner)
            .unwrap()
    }

    #[test]
    fn people_are_warned_from_thirty_days_ahead_on() {
        let end = find(&world().directory, Ends::Certificate, "caf21").at;
        let expiry = Expiry::new(Ends::Certificate, "caf21", end);
        let before = |days: i64| Timestamp::from_ms(end.as_ms() - days * 24 * 3600 * 1000);
        assert!(!expiry.is_near(before(31)));
        assert!(expiry.is_near(before(29)));
        assert!(expiry.is_near(before(-1)));
        assert_eq!(expiry.seconds_left(before(31)), 31 * 24 * 3600);
        assert_eq!(expiry.seconds_left(before(-1)), -24 * 3600);
        let words = expiry.words(before(29));
        assert!(words.contains("the certificate of caf21 ends in 29 days"));
        let words = expiry.words(before(-1));
        assert!(words.contains("ended on 2026-06-06"), "{words}");
    }

    #[test]
    fn everything_that_ends_is_found_the_first_end_first() {
        let found = expiries(&world().directory, &party("caf21"), Some(at(5)));
        assert_eq!(found[0].what, Ends::Certificate);
        assert!(found.is_sorted_by_key(|expiry| expiry.at));
        let of = |what| found.iter().filter(|expiry| expiry.what == what).count();
        assert_eq!(of(Ends::Convention), 1);
        for what in [
            Ends::Sheet,
            Ends::AgentKeys,
            Ends::GatewayKeys,
            Ends::RecipientKeys,
        ] {
            assert_eq!(of(what), 3, "{what}");
        }
    }

    #[test]
    fn a_key_that_ends_is_no_trouble_once_its_successor_is_listed() {
        let short = |sheet: &mut Sheet| sheet.keys[0].not_after = at(10);
        let alone = find(&with_sheet(short), Ends::AgentKeys, "caf21");
        assert_eq!(alone.at, at(10));
        let successor = SigningKey::from_seed(&party("caf21"), &[77; 64]);
        let both = with_sheet(|sheet| {
            short(sheet);
            sheet.keys.push(SheetKey {
                key: successor.verifying_key().clone(),
                roles: vec![KeyRole::Agent],
                not_before: at(0),
                not_after: at(100),
            });
        });
        assert_eq!(find(&both, Ends::AgentKeys, "caf21").at, at(100));
    }

    #[test]
    fn a_key_without_dates_ends_with_its_sheet_or_with_its_revocation() {
        let short = with_sheet(|sheet| sheet.not_after = at(10));
        assert_eq!(find(&short, Ends::RecipientKeys, "caf21").at, at(10));
        let revoked = with_sheet(|sheet| {
            sheet.revocations.push(Revocation {
                key: keys_of("caf21").recipient.id(),
                at: at(-1),
                reason: "lost".into(),
            });
        });
        let found = find(&revoked, Ends::RecipientKeys, "caf21");
        assert!(found.words(NOW).contains("ended"), "{}", found.words(NOW));
    }

    #[test]
    fn the_same_is_said_once_a_day() {
        let expiry = [Expiry::new(Ends::Sheet, "caf21", at(29))];
        let mut warnings = Warnings::default();
        let mut said = |hours: u64| {
            let now = NOW.saturating_add(Duration::from_secs(hours * 3600));
            warnings.due(&expiry, now).len()
        };
        assert_eq!(
            [said(0), said(1), said(23), said(24), said(25)],
            [1, 0, 0, 1, 0]
        );
        let far = [Expiry::new(Ends::Sheet, "caf21", at(400))];
        assert!(warnings.due(&far, NOW).is_empty());
        // The successor is near its end as well: that is another warning.
        assert_eq!(warnings.due(&expiry, NOW).len(), 1);
    }
}
