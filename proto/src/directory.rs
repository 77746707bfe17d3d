//! Everything that is believed about parties at one moment: an immutable, verified snapshot.

mod known;

use std::collections::BTreeMap;
use std::sync::Arc;

use known::{Known, Order};

use crate::v1::statement::What;
use crate::{
    Convention, ConventionError, Digest, Hop, KeyId, KeyRole, LogVerifier, PartyId, RecipientKey,
    Role, Roots, Sheet, SheetError, Timestamp, VerifyingKey, log_epoch,
};

/// Why notes cannot be believed together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// A convention does not hold.
    #[error(transparent)]
    Convention(#[from] ConventionError),
    /// A sheet does not hold.
    #[error(transparent)]
    Sheet(#[from] SheetError),
    /// There is no convention at all.
    #[error("no convention is known: name its signed note in the configuration")]
    NoConvention,
    /// Two different texts under one number. Somebody signs two things at once.
    #[error(
        "two different texts are signed as {what}: stop, and ask {party} which one holds \
         before anything more is exchanged"
    )]
    Conflict {
        /// `convention version 2`, `sheet 3 of caf21`.
        what: String,
        /// Who has signed both.
        party: String,
    },
    /// A sheet of a party that the convention does not know.
    #[error("the sheet is of {0}, which is no party of the convention")]
    UnknownParty(String),
    /// A TLS name that two parties claim.
    #[error("the TLS name {name} is claimed by {first} and by {second}")]
    NameTwice {
        /// The name.
        name: String,
        /// Who has it already.
        first: PartyId,
        /// Who claims it too.
        second: PartyId,
    },
    /// Another convention than the one that is followed.
    #[error("the note is convention {found:?}, and {ours:?} is followed here")]
    OtherConvention {
        /// Id in the note.
        found: String,
        /// Our convention's id.
        ours: String,
    },
}

/// What came of a note that was handed in.
#[derive(Debug)]
pub enum Adopted {
    /// It is newer: this is the directory with it.
    Newer(Directory),
    /// It is known already.
    Same,
    /// A newer one is known.
    Older,
}

/// A signing key as the sheets describe it.
#[derive(Debug, Clone)]
pub struct SigningKeyEntry {
    /// Whose key.
    pub party: PartyId,
    /// The key.
    pub key: VerifyingKey,
    /// What it may speak for.
    pub roles: Vec<KeyRole>,
    /// First instant at which it may be used.
    pub not_before: Timestamp,
    /// Last instant at which it may be used: as listed, and no later than the end of the sheet
    /// or the issue of a newer one that leaves it out.
    pub not_after: Timestamp,
    /// From when on it is not to be believed.
    pub revoked: Option<Timestamp>,
}

impl SigningKeyEntry {
    /// Whether the sheet lets it speak for `role`.
    pub fn may(&self, role: KeyRole) -> bool {
        self.roles.contains(&role)
    }

    /// Whether the sheet lets it say this.
    pub fn may_say(&self, what: &What) -> bool {
        match what {
            What::Accepted(_)
            | What::Forwarded(_)
            | What::NotCollected(_)
            | What::NotReceipted(_)
            | What::Inquire(_)
            | What::Purged(_) => self.may(KeyRole::Gateway),
            What::Delivered(_) | What::Acknowledged(_) | What::Cancel(_) => {
                self.may(KeyRole::Agent)
            }
            What::Refused(_) | What::Damaged(_) => {
                self.may(KeyRole::Agent) || self.may(KeyRole::Gateway)
            }
            What::Busy(_) => false,
        }
    }
}

/// The snapshot. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Directory(Arc<Known>);

impl Directory {
    /// Verifies all notes, in whatever order they stand.
    ///
    /// Trust starts at the lowest version of the convention that binds under `roots`, and goes on
    /// from each version to the next under the root keys of the version before. Versions below
    /// are left aside. Of several sheets of one party the newest counts; keys and revocations of
    /// the earlier ones stay known.
    ///
    /// # Errors
    /// [`DirectoryError`]: a note that does not hold, or two that contradict each other.
    pub fn load(
        roots: &Roots,
        conventions: &[Vec<u8>],
        sheets: &[Vec<u8>],
    ) -> Result<Self, DirectoryError> {
        Known::load(roots, conventions, sheets).map(|known| Self(Arc::new(known)))
    }

    /// Takes a note that arrived: a convention or a sheet, whichever it is.
    ///
    /// # Errors
    /// [`DirectoryError`]; this directory stays as it is.
    pub fn adopt_note(&self, note: &[u8]) -> Result<Adopted, DirectoryError> {
        let mut known = self.0.as_ref().clone();
        Ok(match known.adopt(note)? {
            Order::Same => Adopted::Same,
            Order::Older => Adopted::Older,
            Order::Newer => Adopted::Newer(Self(Arc::new(known))),
        })
    }

    /// The convention in force: the highest version.
    pub fn convention(&self) -> &Convention {
        &self.latest().0
    }

    /// The signed note of the convention in force.
    pub fn convention_note(&self) -> &[u8] {
        &self.latest().1
    }

    fn latest(&self) -> &(Convention, Arc<[u8]>) {
        // `load` refuses to make a directory without a convention.
        #[allow(clippy::expect_used)]
        let (_, latest) = self
            .0
            .conventions
            .last_key_value()
            .expect("there is a convention");
        latest
    }

    /// The convention with this text, whichever version it is.
    pub fn convention_by_digest(&self, digest: &Digest) -> Option<&Convention> {
        let mut known = self
            .0
            .conventions
            .values()
            .map(|(convention, _)| convention);
        known.find(|convention| convention.digest() == *digest)
    }

    /// The newest sheet of a party.
    pub fn sheet(&self, party: &PartyId) -> Option<&Sheet> {
        self.0.sheets.get(party).map(|(sheet, _)| sheet)
    }

    /// The signed note of the newest sheet of a party.
    pub fn sheet_note(&self, party: &PartyId) -> Option<&[u8]> {
        self.0.sheets.get(party).map(|(_, note)| note.as_ref())
    }

    /// The signed notes of all versions of the convention that are known, by version.
    pub fn convention_notes(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let notes = self.0.conventions.iter();
        notes.map(|(version, (_, note))| (*version, note.as_ref()))
    }

    /// The signed notes of all sheets of a party that are known, by `seq`.
    pub fn sheet_notes(&self, party: &PartyId) -> impl Iterator<Item = (u64, &[u8])> {
        let all = (party.clone(), 0)..=(party.clone(), u64::MAX);
        let notes = self.0.texts.range(all);
        notes.map(|((_, seq), (_, note))| (*seq, note.as_ref()))
    }

    /// Everything that is known as files: paths, `conventions/1.note` and `sheets/caf21-1.note`,
    /// and signed notes.
    pub fn note_files(&self) -> impl Iterator<Item = (String, &[u8])> {
        let conventions = self.convention_notes();
        let conventions = conventions.map(|(v, note)| (format!("conventions/{v}.note"), note));
        let sheets =
            self.0.texts.iter().map(|((party, seq), (_, note))| {
                (format!("sheets/{party}-{seq}.note"), note.as_ref())
            });
        conventions.chain(sheets)
    }

    /// All newest sheets, by party.
    pub fn sheets(&self) -> impl Iterator<Item = &Sheet> {
        self.0.sheets.values().map(|(sheet, _)| sheet)
    }

    /// Who has this TLS name.
    pub fn tls_name(&self, name: &str) -> Option<(PartyId, Role)> {
        self.0.names.get(name).cloned()
    }

    /// The TLS name under which a hop is dialled.
    pub fn tls_name_of(&self, hop: &Hop) -> Option<&str> {
        let names = &self.sheet(&hop.party)?.tls.names;
        names
            .iter()
            .find(|name| name.role == hop.role)
            .map(|name| name.name.as_str())
    }

    /// Certificates of the authorities of a party, in PEM.
    pub fn anchors(&self, party: &PartyId) -> &[String] {
        self.sheet(party).map_or(&[], |sheet| &sheet.tls.anchors)
    }

    /// A signing key that a party has listed in any of its sheets.
    ///
    /// Keys are public, and anybody can list anybody's: what a party lists binds that party only.
    pub fn signing_key(&self, party: &PartyId, id: &KeyId) -> Option<&SigningKeyEntry> {
        self.0.keys.get(party)?.get(id)
    }

    /// The keys that sign a party's log now; `None` also where they are revoked.
    pub fn log(&self, party: &PartyId) -> Option<&LogVerifier> {
        let current = self.sheet(party)?.log.as_ref()?.keys().into_iter().next()?;
        let mut known = self.log_keys(party).iter();
        let found = known.find(|known| **known == current);
        found.filter(|key| self.log_revoked(party, key).is_none())
    }

    /// From when on what these keys of a party's log have signed is not to be believed.
    ///
    /// Whoever has such a key writes whatever time it likes: what it has signed with an earlier
    /// one is worth what others show of it.
    pub fn log_revoked(&self, party: &PartyId, key: &LogVerifier) -> Option<Timestamp> {
        self.0.revoked_logs.get(party)?.get(&key.id()).copied()
    }

    /// All keys that have signed a party's log, as far as its sheets say, the newest first.
    pub fn log_keys(&self, party: &PartyId) -> &[LogVerifier] {
        self.0.logs.get(party).map_or(&[], Vec::as_slice)
    }

    /// The key that packages for this party are sealed for: the first one that is not revoked.
    pub fn recipient_key(&self, party: &PartyId) -> Option<&RecipientKey> {
        let sheet = self.sheet(party)?;
        let mut keys = sheet.recipients.iter();
        keys.find(|key| sheet.revoked(&key.id()).is_none())
    }

    /// Where a package for `destination` goes next from the gateway of `at`.
    ///
    /// `None` when no version of the convention knows it. A party that an amendment has left out
    /// gets what an earlier version has let be sent to it.
    pub fn next_hop(&self, at: &PartyId, destination: &PartyId) -> Option<Hop> {
        let mut newest_first = self.0.conventions.values().rev();
        let gateway = newest_first.find_map(|(version, _)| version.gateway_of(destination))?;
        Some(if gateway == at {
            Hop::agent(destination.clone())
        } else {
            Hop::gateway(gateway.clone())
        })
    }

    /// Whether `gateway` is, or was under any version of the convention, the gateway of `party`.
    pub fn has_been_gateway_of(&self, gateway: &PartyId, party: &PartyId) -> bool {
        let mut versions = self.0.conventions.values();
        versions.any(|(version, _)| version.gateway_of(party) == Some(gateway))
    }

    /// Whether a party's log has taken the place of one that was lost: what its gateway numbers
    /// began anew with it.
    pub fn has_begun_anew(&self, party: &PartyId) -> bool {
        let mut epochs = self
            .log_keys(party)
            .iter()
            .map(|key| log_epoch(party, key.name()));
        epochs.any(|epoch| epoch > Some(1))
    }

    /// The recipients behind each next hop, from the gateway of `at`.
    ///
    /// `None` when one of them is unknown.
    pub fn routes(
        &self,
        at: &PartyId,
        recipients: &[PartyId],
    ) -> Option<BTreeMap<Hop, Vec<PartyId>>> {
        let mut routes: BTreeMap<Hop, Vec<PartyId>> = BTreeMap::new();
        for recipient in recipients {
            let hop = self.next_hop(at, recipient)?;
            routes.entry(hop).or_default().push(recipient.clone());
        }
        Some(routes)
    }
}
