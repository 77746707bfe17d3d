//! What is known, and how each further note changes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{DirectoryError, SigningKeyEntry};
use crate::{
    Convention, Digest, KeyId, LogVerifier, Note, PartyId, Role, Roots, Sheet, SheetError,
    SheetKey, SheetLog, Timestamp, UnsignedConvention, VerifyingKey,
};

type DigestAndNote = (Digest, Arc<[u8]>);

#[derive(Debug, Clone)]
pub(super) struct Known {
    roots: Roots,
    /// By version, with the note they came in.
    pub(super) conventions: BTreeMap<u64, (Convention, Arc<[u8]>)>,
    /// The newest sheet of each party, with the note it came in.
    pub(super) sheets: BTreeMap<PartyId, (Sheet, Arc<[u8]>)>,
    /// All sheets that were ever believed, by number, with the digest of the text and the note: a
    /// number is given once, and what an earlier key has signed must verify elsewhere too.
    pub(super) texts: BTreeMap<(PartyId, u64), DigestAndNote>,
    /// Keys of all sheets that were ever believed, by who listed them: what they signed must
    /// still verify.
    pub(super) keys: BTreeMap<PartyId, BTreeMap<KeyId, SigningKeyEntry>>,
    /// Keys of each party's log, the newest first: old checkpoints must still verify.
    pub(super) logs: BTreeMap<PartyId, Vec<LogVerifier>>,
    /// Newest version of the convention whose root key has signed a sheet of each party.
    signed_under: BTreeMap<PartyId, u64>,
    /// Keys of logs that were revoked, and from when on.
    pub(super) revoked_logs: BTreeMap<PartyId, BTreeMap<KeyId, Timestamp>>,
    pub(super) names: BTreeMap<String, (PartyId, Role)>,
}

/// Where a note stands among those known.
pub(super) enum Order {
    Newer,
    Same,
    Older,
}

/// Which versions of the convention name the root keys that a sheet may be signed by.
#[derive(Clone, Copy)]
enum RootsOf {
    /// The one in force: for notes that arrive, since a root key may have been replaced because
    /// it was lost.
    Latest,
    /// Each one: for notes that were believed while it was in force. What only an earlier root key
    /// has signed is passed over behind a sheet that a later one has signed.
    EachVersion,
}

impl Known {
    pub(super) fn load(
        roots: &Roots,
        conventions: &[Vec<u8>],
        sheets: &[Vec<u8>],
    ) -> Result<Self, DirectoryError> {
        let mut known = Self {
            roots: roots.clone(),
            conventions: BTreeMap::new(),
            sheets: BTreeMap::new(),
            texts: BTreeMap::new(),
            keys: BTreeMap::new(),
            logs: BTreeMap::new(),
            signed_under: BTreeMap::new(),
            revoked_logs: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        known.add_conventions(conventions)?;
        let mut sheets = sheets
            .iter()
            .map(|note| {
                let sheet = claimed_sheet(note)?;
                Ok((sheet.party, sheet.seq, note))
            })
            .collect::<Result<Vec<_>, SheetError>>()?;
        sheets.sort();
        for (_, _, note) in sheets {
            known.add_sheet(note, RootsOf::EachVersion)?;
        }
        known.index_names()?;
        Ok(known)
    }

    /// Takes a note that arrived; after an error this is to be thrown away.
    pub(super) fn adopt(&mut self, note: &[u8]) -> Result<Order, DirectoryError> {
        let text = Note::parse(note).map_err(SheetError::Note)?;
        // Only a convention has signatories. The rest is read, and judged, as a sheet.
        let table: Option<toml::Table> = text.text().parse().ok();
        let order = match table.is_some_and(|table| table.contains_key("signatories")) {
            true => self.add_convention(note)?,
            false => self.add_sheet(note, RootsOf::Latest)?,
        };
        if matches!(order, Order::Newer) {
            self.index_names()?;
        }
        Ok(order)
    }

    fn add_conventions(&mut self, notes: &[Vec<u8>]) -> Result<(), DirectoryError> {
        let mut notes = notes
            .iter()
            .map(|note| Ok((claimed_convention(note)?.version(), note)))
            .collect::<Result<Vec<_>, DirectoryError>>()?;
        notes.sort();
        let binds = |note: &[u8]| Convention::verify(note, &self.roots);
        let first = match notes.iter().find(|(_, note)| binds(note).is_ok()) {
            Some((version, _)) => *version,
            None => {
                let (_, note) = notes.first().ok_or(DirectoryError::NoConvention)?;
                binds(note)?.version()
            }
        };
        for (_, note) in notes.iter().filter(|(version, _)| *version >= first) {
            self.add_convention(note)?;
        }
        Ok(())
    }

    fn add_convention(&mut self, note: &[u8]) -> Result<Order, DirectoryError> {
        let claimed = claimed_convention(note)?;
        let version = claimed.version();
        let newest = self.conventions.last_key_value().map(|(newest, _)| *newest);
        let same = self.conventions.get(&version);
        // The text binds already, whoever has signed this copy of it.
        if same.is_some_and(|(same, _)| same.digest() == claimed.digest()) {
            return Ok(match newest == Some(version) {
                true => Order::Same,
                false => Order::Older,
            });
        }
        let before = self.conventions.range(..version).next_back();
        let convention = match before {
            Some((_, (before, _))) => Convention::verify_amendment(note, before)?,
            None => Convention::verify(note, &self.roots)?,
        };
        if let Some((_, (ours, _))) = self.conventions.last_key_value()
            && ours.id() != convention.id()
        {
            return Err(DirectoryError::OtherConvention {
                found: convention.id().to_owned(),
                ours: ours.id().to_owned(),
            });
        }
        if same.is_some() {
            let [one, two] = convention.signatories();
            return Err(DirectoryError::Conflict {
                what: format!("convention version {version}"),
                party: format!("{one} and {two}"),
            });
        }
        self.conventions.insert(version, (convention, note.into()));
        Ok(match newest.is_some_and(|newest| newest > version) {
            true => Order::Older,
            false => Order::Newer,
        })
    }

    fn add_sheet(&mut self, note: &[u8], roots: RootsOf) -> Result<Order, DirectoryError> {
        let claimed = claimed_sheet(note)?;
        let text = Note::parse(note).map_err(SheetError::Note)?.digest();
        let number = (claimed.party, claimed.seq);
        let newest = self.sheets.get(&number.0).map(|(sheet, _)| sheet.seq);
        if self
            .texts
            .get(&number)
            .is_some_and(|(known, _)| known == &text)
        {
            // It was believed once; its root key may have been replaced since.
            self.verify_sheet(note, &number.0, RootsOf::EachVersion)?;
            return Ok(match newest == Some(number.1) {
                true => Order::Same,
                false => Order::Older,
            });
        }
        let (sheet, version) = self.verify_sheet(note, &number.0, roots)?;
        let under = self.signed_under.entry(number.0.clone()).or_insert(version);
        if version < *under {
            // Its root key was replaced by then, perhaps because it was lost.
            return Ok(Order::Older);
        }
        *under = version;
        if self.texts.contains_key(&number) {
            let (party, seq) = number;
            return Err(DirectoryError::Conflict {
                what: format!("sheet {seq} of {party}"),
                party: party.to_string(),
            });
        }
        if newest.is_some_and(|newest| newest > sheet.seq) {
            return Ok(Order::Older);
        }
        self.remember_keys(&sheet);
        self.remember_log(&sheet);
        let note: Arc<[u8]> = note.into();
        self.sheets.insert(number.0.clone(), (sheet, note.clone()));
        self.texts.insert(number, (text, note));
        Ok(Order::Newer)
    }

    /// The sheet, and the newest version of the convention that names the root key that signed it.
    fn verify_sheet(
        &self,
        note: &[u8],
        party: &PartyId,
        roots: RootsOf,
    ) -> Result<(Sheet, u64), DirectoryError> {
        let newest_first = self.conventions.values().rev();
        let versions = match roots {
            RootsOf::Latest => 1,
            RootsOf::EachVersion => self.conventions.len(),
        };
        let mut refused = DirectoryError::UnknownParty(party.to_string());
        let mut tried: Option<&VerifyingKey> = None;
        for (convention, _) in newest_first.take(versions) {
            let root = convention
                .party(party)
                .and_then(|party| party.root.as_ref());
            // Most versions keep the root keys of the one before.
            let Some(root) = root.filter(|root| tried != Some(*root)) else {
                continue;
            };
            match Sheet::verify(note, root) {
                Ok(sheet) => return Ok((sheet, convention.version())),
                Err(error) if tried.is_none() => refused = error.into(),
                Err(_) => {}
            }
            tried = Some(root);
        }
        Err(refused)
    }

    fn remember_keys(&mut self, sheet: &Sheet) {
        let keys = self.keys.entry(sheet.party.clone()).or_default();
        for listed in &sheet.keys {
            let key = listed.key.id();
            let mut entry = entry_of(sheet, listed);
            entry.revoked = keys.get(&key).and_then(|known| known.revoked);
            keys.insert(key, entry);
        }
        for (key, entry) in keys {
            // Rotation needs no revocation: what is left out signs nothing more from then on.
            if !sheet.keys.iter().any(|listed| listed.key.id() == *key) {
                entry.not_after = entry.not_after.min(sheet.issued);
            }
            // A revocation is not undone by a sheet that does not speak of it.
            entry.revoked = sheet.revoked(key).or(entry.revoked);
        }
    }

    fn remember_log(&mut self, sheet: &Sheet) {
        let mut listed = sheet.log.as_ref().map_or(Vec::new(), SheetLog::keys);
        let known = self.logs.entry(sheet.party.clone()).or_default();
        known.retain(|key| !listed.contains(key));
        listed.append(known);
        *known = listed;
        let revoked = self.revoked_logs.entry(sheet.party.clone()).or_default();
        for key in known.iter().map(LogVerifier::id) {
            // A revocation is not undone by a sheet that does not speak of it.
            if let Some(at) = sheet.revoked(&key) {
                revoked.insert(key, at);
            }
        }
    }

    fn index_names(&mut self) -> Result<(), DirectoryError> {
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
        }
        Ok(())
    }
}

/// What a note says before anybody's signature has been looked at.
fn claimed_convention(note: &[u8]) -> Result<Convention, DirectoryError> {
    let note = Note::parse(note).map_err(crate::ConventionError::Note)?;
    Ok(UnsignedConvention::parse(note.text())?.draft())
}

/// What a note says before anybody's signature has been looked at.
fn claimed_sheet(note: &[u8]) -> Result<Sheet, SheetError> {
    Sheet::parse(Note::parse(note)?.text())
}

fn entry_of(sheet: &Sheet, listed: &SheetKey) -> SigningKeyEntry {
    SigningKeyEntry {
        party: sheet.party.clone(),
        key: listed.key.clone(),
        roles: listed.roles.clone(),
        not_before: listed.not_before,
        not_after: listed.not_after.min(sheet.not_after),
        revoked: None,
    }
}
