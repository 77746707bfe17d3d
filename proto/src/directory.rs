//! Everything that is believed about parties at one moment: an immutable, verified snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{
    Convention, ConventionError, Digest, Hop, KeyId, KeyRole, Note, PartyId, RecipientKey, Role,
    Roots, Sheet, SheetError, Timestamp, VerifyingKey,
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
    /// Last instant at which it may be used.
    pub not_after: Timestamp,
    /// From when on it is not to be believed.
    pub revoked: Option<Timestamp>,
}

impl SigningKeyEntry {
    /// Whether the sheet lets it speak for `role`.
    pub fn may(&self, role: KeyRole) -> bool {
        self.roles.contains(&role)
    }
}

#[derive(Debug, Clone)]
struct Known {
    roots: Roots,
    /// By version, with the note they came in.
    conventions: BTreeMap<u64, (Convention, Arc<[u8]>)>,
    sheets: BTreeMap<PartyId, (Sheet, Arc<[u8]>)>,
    keys: BTreeMap<KeyId, SigningKeyEntry>,
    names: BTreeMap<String, (PartyId, Role)>,
}

/// The snapshot. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Directory(Arc<Known>);

impl Directory {
    /// Verifies all notes; of several sheets of one party the newest counts.
    ///
    /// # Errors
    /// [`DirectoryError`]: a note that does not hold, or two that contradict each other.
    pub fn load(
        roots: &Roots,
        conventions: &[Vec<u8>],
        sheets: &[Vec<u8>],
    ) -> Result<Self, DirectoryError> {
        let mut known = Known {
            roots: roots.clone(),
            conventions: BTreeMap::new(),
            sheets: BTreeMap::new(),
            keys: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        for note in conventions {
            known.add_convention(note)?;
        }
        if known.conventions.is_empty() {
            return Err(DirectoryError::NoConvention);
        }
        for note in sheets {
            known.add_sheet(note)?;
        }
        known.index()?;
        Ok(Self(Arc::new(known)))
    }

    /// Takes a note that arrived: a convention or a sheet, whichever it is.
    ///
    /// # Errors
    /// [`DirectoryError`]; this directory stays as it is.
    pub fn adopt_note(&self, note: &[u8]) -> Result<Adopted, DirectoryError> {
        let mut known = self.0.as_ref().clone();
        let text = Note::parse(note).map_err(SheetError::Note)?;
        // A sheet names one party; a convention has no such key.
        let is_sheet = Sheet::parse(text.text()).is_ok();
        let outcome = match is_sheet {
            true => known.add_sheet(note)?,
            false => known.add_convention(note)?,
        };
        match outcome {
            Order::Same => Ok(Adopted::Same),
            Order::Older => Ok(Adopted::Older),
            Order::Newer => {
                known.index()?;
                Ok(Adopted::Newer(Self(Arc::new(known))))
            }
        }
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

    /// A signing key by its id.
    pub fn signing_key(&self, id: &KeyId) -> Option<&SigningKeyEntry> {
        self.0.keys.get(id)
    }

    /// The key that packages for this party are sealed for.
    pub fn recipient_key(&self, party: &PartyId) -> Option<&RecipientKey> {
        self.sheet(party)?.recipients.first()
    }

    /// Where a package for `destination` goes next from the gateway of `at`.
    ///
    /// `None` when the convention does not know one of them.
    pub fn next_hop(&self, at: &PartyId, destination: &PartyId) -> Option<Hop> {
        let gateway = self.convention().gateway_of(destination)?;
        Some(if gateway == at {
            Hop::agent(destination.clone())
        } else {
            Hop::gateway(gateway.clone())
        })
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

enum Order {
    Newer,
    Same,
    Older,
}

fn order(new: u64, new_note: &[u8], old: Option<(u64, &[u8])>) -> Result<Order, ()> {
    let text = |note: &[u8]| Note::parse(note).map(|note| note.digest());
    match old {
        None => Ok(Order::Newer),
        Some((seq, _)) if new > seq => Ok(Order::Newer),
        Some((seq, _)) if new < seq => Ok(Order::Older),
        Some((_, note)) if text(note) == text(new_note) => Ok(Order::Same),
        Some(_) => Err(()),
    }
}

impl Known {
    fn add_convention(&mut self, note: &[u8]) -> Result<Order, DirectoryError> {
        let latest = self
            .conventions
            .last_key_value()
            .map(|(_, (convention, _))| convention);
        let convention = match latest {
            // An amendment carries both signatures under the root keys of the version before.
            Some(latest) => Convention::verify(note, &roots_of(latest))
                .or_else(|_| Convention::verify(note, &self.roots))?,
            None => Convention::verify(note, &self.roots)?,
        };
        if let Some(latest) = latest
            && latest.id() != convention.id()
        {
            return Err(DirectoryError::OtherConvention {
                found: convention.id().to_owned(),
                ours: latest.id().to_owned(),
            });
        }
        let version = convention.version();
        if let Some((same, _)) = self.conventions.get(&version)
            && same.digest() != convention.digest()
        {
            let [one, two] = convention.signatories();
            return Err(DirectoryError::Conflict {
                what: format!("convention version {version}"),
                party: format!("{one} and {two}"),
            });
        }
        let newest = self
            .conventions
            .last_key_value()
            .map(|(version, _)| *version);
        let known = self.conventions.contains_key(&version);
        self.conventions
            .entry(version)
            .or_insert_with(|| (convention, note.into()));
        Ok(match newest {
            Some(newest) if known && newest == version => Order::Same,
            Some(newest) if newest > version => Order::Older,
            _ => Order::Newer,
        })
    }

    fn add_sheet(&mut self, note: &[u8]) -> Result<Order, DirectoryError> {
        let text = Note::parse(note).map_err(SheetError::Note)?;
        let party = Sheet::parse(text.text())?.party;
        let latest = self
            .conventions
            .last_key_value()
            .map(|(_, (convention, _))| convention);
        let root = latest
            .and_then(|convention| convention.party(&party))
            .and_then(|party| party.root.as_ref())
            .ok_or_else(|| DirectoryError::UnknownParty(party.to_string()))?;
        let sheet = Sheet::verify(note, root)?;
        let old = self
            .sheets
            .get(&party)
            .map(|(sheet, note)| (sheet.seq, note.as_ref()));
        let outcome = order(sheet.seq, note, old).map_err(|()| DirectoryError::Conflict {
            what: format!("sheet {} of {party}", sheet.seq),
            party: party.to_string(),
        })?;
        if matches!(outcome, Order::Newer) {
            self.sheets.insert(party, (sheet, note.into()));
        }
        Ok(outcome)
    }

    fn index(&mut self) -> Result<(), DirectoryError> {
        self.names.clear();
        for (party, (sheet, _)) in &self.sheets {
            for name in &sheet.tls.names {
                let entry = (party.clone(), name.role);
                if let Some((first, _)) = self.names.insert(name.name.clone(), entry) {
                    return Err(DirectoryError::NameTwice {
                        name: name.name.clone(),
                        first,
                        second: party.clone(),
                    });
                }
            }
            for entry in &sheet.keys {
                let revoked = sheet.revoked(&entry.key.id());
                self.keys
                    .insert(entry.key.id(), entry_of(party, entry, revoked));
            }
            // Keys of earlier sheets stay known: what they signed must still verify.
            for (id, entry) in &mut self.keys {
                if entry.party == *party {
                    entry.revoked = sheet.revoked(id).or(entry.revoked);
                }
            }
        }
        Ok(())
    }
}

fn entry_of(party: &PartyId, key: &crate::SheetKey, revoked: Option<Timestamp>) -> SigningKeyEntry {
    SigningKeyEntry {
        party: party.clone(),
        key: key.key.clone(),
        roles: key.roles.clone(),
        not_before: key.not_before,
        not_after: key.not_after,
        revoked,
    }
}

fn roots_of(convention: &Convention) -> Roots {
    let roots = convention.signatories().iter().filter_map(|id| {
        let root = convention.party(id)?.root.as_ref()?;
        Some((id.clone(), root.id()))
    });
    roots.collect()
}
