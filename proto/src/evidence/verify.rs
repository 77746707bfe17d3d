//! Verifying evidence from two root fingerprints alone.

use std::collections::BTreeMap;

use prost::Message;

use super::report::{
    CosignedAt, Doubt, EvidenceReport, LogCheckpoints, ManifestReport, OtherEvent, Standing,
    StatementReport,
};
use super::{EvidenceError, UntrustedEvidence, malformed, missing};
use crate::merkle::{leaf_hash, verify_consistency, verify_inclusion};
use crate::v1::{self, entry::Event, statement::What};
use crate::{
    Checkpoint, Digest, Directory, Facts, Hop, KeyId, KeyRole, Note, PackageId, PartyId, Place,
    Roots, SigningKeyEntry, Timestamp, UntrustedManifest, UntrustedStatement, VerifiedManifest,
    VerifiedStatement, decide, package_of, signed_objects,
};

impl UntrustedEvidence {
    /// Verifies every signature and every proof in the file.
    ///
    /// Trust starts from `roots`, the fingerprints that were compared on paper. What the verifier
    /// knows about parties besides (`known`) counts as well: a newer sheet may revoke a key.
    ///
    /// # Errors
    /// The first [`EvidenceError`]; nothing in the file may be believed then.
    pub fn verify(
        &self,
        roots: &Roots,
        known: Option<&Directory>,
    ) -> Result<EvidenceReport, EvidenceError> {
        let directory = self.directory(roots, known)?;
        let mut gathered = Gathered::new(self.package(), &directory);
        for log in &self.message.logs {
            gathered.log(log)?;
        }
        gathered.report()
    }

    fn directory(
        &self,
        roots: &Roots,
        known: Option<&Directory>,
    ) -> Result<Directory, EvidenceError> {
        let mut conventions = self.message.conventions.clone();
        let mut sheets = self.message.sheets.clone();
        if let Some(known) = known {
            conventions.extend(known.convention_notes().map(|(_, note)| note.to_vec()));
            for sheet in known.sheets() {
                let notes = known.sheet_notes(&sheet.party);
                sheets.extend(notes.map(|(_, note)| note.to_vec()));
            }
        }
        Ok(Directory::load(roots, &conventions, &sheets)?)
    }
}

/// A checkpoint whose signatures hold.
struct Signed {
    checkpoint: Checkpoint,
    cosigned: Vec<CosignedAt>,
}

/// What was verified so far.
struct Gathered<'d> {
    package: PackageId,
    directory: &'d Directory,
    manifest: Option<VerifiedManifest>,
    accepted: Vec<(Standing, v1::AcceptedEvent)>,
    statements: BTreeMap<Digest, (VerifiedStatement, Vec<Standing>)>,
    events: Vec<OtherEvent>,
    logs: Vec<LogCheckpoints>,
}

impl<'d> Gathered<'d> {
    fn new(package: PackageId, directory: &'d Directory) -> Self {
        Self {
            package,
            directory,
            manifest: None,
            accepted: Vec::new(),
            statements: BTreeMap::new(),
            events: Vec::new(),
            logs: Vec::new(),
        }
    }

    fn log(&mut self, log: &v1::LogEvidence) -> Result<(), EvidenceError> {
        let party = PartyId::parse(&log.party)
            .map_err(|_| malformed("a log", "its party is no party id"))?;
        let signed = self.checkpoints(&party, &log.checkpoints)?;
        for entry in &log.entries {
            let place = format!("entry {} of the log of {party}", entry.index);
            let cosigned = included(entry, &signed, &place)?;
            self.entry(entry, &party, cosigned, &place)?;
        }
        let mut cosigned: Vec<CosignedAt> = Vec::new();
        for each in signed.iter().flat_map(|signed| &signed.cosigned) {
            // The largest of each partner, and the first one where it has cosigned it twice.
            match cosigned
                .iter_mut()
                .find(|kept| kept.partner == each.partner)
            {
                Some(kept) if kept.size < each.size => *kept = each.clone(),
                Some(_) => {}
                None => cosigned.push(each.clone()),
            }
        }
        self.logs.push(LogCheckpoints {
            party,
            size: signed.last().map_or(0, |signed| signed.checkpoint.size),
            cosigned,
            entries: log.entries.len() as u64,
        });
        Ok(())
    }

    /// Verifies the checkpoints of a log, who has cosigned them, and that they are one history.
    fn checkpoints(
        &self,
        party: &PartyId,
        checkpoints: &[v1::EvidenceCheckpoint],
    ) -> Result<Vec<Signed>, EvidenceError> {
        // Keys are replaced, and what earlier ones have signed is proof still.
        let logs = self.directory.log_keys(party);
        if logs.is_empty() {
            let party = party.clone();
            return Err(EvidenceError::LogKeys { party });
        }
        let mut signed: Vec<Signed> = Vec::new();
        for (number, evidence) in checkpoints.iter().enumerate() {
            let place = format!("checkpoint {} of the log of {party}", number + 1);
            let refuse = |error| EvidenceError::Checkpoint {
                place: place.clone(),
                error,
            };
            let checkpoint = Checkpoint::verify_any(&evidence.note, logs).map_err(refuse)?;
            let hashes = digests(&evidence.consistency);
            let follows = match signed.last() {
                None => hashes.is_empty(),
                Some(Signed {
                    checkpoint: old, ..
                }) => {
                    let Checkpoint { size, root, .. } = &checkpoint;
                    old.size > 0 && verify_consistency(old.size, &old.root, *size, root, &hashes)
                }
            };
            if !follows {
                let smaller = signed.last().map_or(0, |signed| signed.checkpoint.size);
                return Err(EvidenceError::History {
                    party: party.clone(),
                    smaller,
                    larger: checkpoint.size,
                });
            }
            let cosigned = self.cosigned(party, &checkpoint, evidence, &place)?;
            signed.push(Signed {
                checkpoint,
                cosigned,
            });
        }
        Ok(signed)
    }

    /// Who has cosigned a checkpoint. Whoever has a line under it must have signed both halves, and
    /// nobody has one whose log no sheet names.
    fn cosigned(
        &self,
        owner: &PartyId,
        checkpoint: &Checkpoint,
        evidence: &v1::EvidenceCheckpoint,
        place: &str,
    ) -> Result<Vec<CosignedAt>, EvidenceError> {
        let refuse = |error| EvidenceError::Checkpoint {
            place: place.to_owned(),
            error,
        };
        let note = &evidence.note;
        let lines = Note::parse(note).map_err(|error| refuse(error.into()))?;
        let mut names: Vec<&str> = lines
            .signatures()
            .iter()
            .map(|line| line.name.as_str())
            .collect();
        names.retain(|name| *name != checkpoint.origin);
        let mut cosigned = Vec::new();
        let others = self.directory.sheets().map(|sheet| &sheet.party);
        for partner in others.filter(|party| *party != owner) {
            let keys = self.directory.log_keys(partner);
            let is_theirs = |name: &&str| keys.iter().any(|key| key.name() == *name);
            if names.iter().any(is_theirs) {
                names.retain(|name| !is_theirs(name));
                let verified = Checkpoint::verify_cosigned_any(note, keys);
                let (checkpoint, at) = verified.map_err(refuse)?;
                cosigned.push(CosignedAt {
                    partner: partner.clone(),
                    size: checkpoint.size,
                    at,
                });
            }
        }
        match names.is_empty() {
            true => Ok(cosigned),
            false => Err(malformed(
                place,
                "it bears a signature line of somebody whose log no sheet in the file names",
            )),
        }
    }

    fn entry(
        &mut self,
        evidence: &v1::EvidenceEntry,
        log: &PartyId,
        cosigned: Vec<CosignedAt>,
        place: &str,
    ) -> Result<(), EvidenceError> {
        let other = || EvidenceError::OtherPackage {
            place: place.to_owned(),
        };
        let entry = v1::Entry::decode(evidence.entry.as_slice()).map_err(|_| other())?;
        if package_of(&entry) != Some(self.package) {
            return Err(other());
        }
        let standing = Standing {
            log: log.clone(),
            index: evidence.index,
            at: Timestamp::from_ms(entry.at_ms),
            cosigned,
        };
        let event = entry.event.clone().ok_or_else(other)?;
        let objects = signed_objects(&event);
        for signed in &objects {
            match v1::ObjectType::try_from(signed.r#type) {
                Ok(v1::ObjectType::Manifest) => self.manifest(signed, place)?,
                _ => self.statement(signed, &standing, place)?,
            }
        }
        match event {
            Event::Accepted(accepted) => {
                self.own_receipt(&accepted, &standing, place)?;
                self.accepted.push((standing, accepted));
            }
            _ if objects.is_empty() => self.events.push(OtherEvent { standing, entry }),
            _ => {}
        }
        Ok(())
    }

    fn manifest(&mut self, signed: &v1::Signed, place: &str) -> Result<(), EvidenceError> {
        let place = format!("the manifest in {place}");
        let object = |reason: String| EvidenceError::Object {
            place: place.clone(),
            reason,
        };
        let untrusted = UntrustedManifest::parse(signed.clone());
        let untrusted = untrusted.map_err(|error| object(error.to_string()))?;
        let key = self.key(untrusted.sender(), untrusted.signer(), &place)?;
        if !key.may(KeyRole::Agent) {
            return Err(role(&place, key));
        }
        let verified = untrusted.verify(&key.key);
        self.manifest = Some(verified.map_err(|error| object(error.to_string()))?);
        Ok(())
    }

    fn statement(
        &mut self,
        signed: &v1::Signed,
        standing: &Standing,
        place: &str,
    ) -> Result<(), EvidenceError> {
        let place = format!("the statement in {place}");
        let object = |reason: String| EvidenceError::Object {
            place: place.clone(),
            reason,
        };
        let untrusted = UntrustedStatement::parse(signed.clone());
        let untrusted = untrusted.map_err(|error| object(error.to_string()))?;
        let key = self.key(untrusted.issuer(), untrusted.signer(), &place)?;
        let verified = untrusted.verify(&key.key);
        let verified = verified.map_err(|error| object(error.to_string()))?;
        if !key.may_say(verified.what()) {
            return Err(role(&place, key));
        }
        if verified.package() != self.package {
            return Err(EvidenceError::OtherPackage { place });
        }
        let known = self.statements.entry(verified.id().0);
        let (_, standings) = known.or_insert((verified, Vec::new()));
        standings.push(standing.clone());
        Ok(())
    }

    /// Whoever accepts says so itself, and at which index.
    fn own_receipt(
        &self,
        accepted: &v1::AcceptedEvent,
        standing: &Standing,
        place: &str,
    ) -> Result<(), EvidenceError> {
        let receipt = accepted.receipt.as_ref();
        let id = receipt.map(|receipt| Digest::of(&receipt.body));
        let said = id.and_then(|id| self.statements.get(&id));
        let holds = said.is_some_and(|(statement, _)| match statement.what() {
            What::Accepted(said) => {
                said.log_index == standing.index && statement.issuer() == &standing.log
            }
            _ => false,
        });
        match holds {
            true => Ok(()),
            false => Err(EvidenceError::Contradiction {
                place: place.to_owned(),
                problem: "the receipt in it is not its gateway's own receipt for this entry"
                    .to_owned(),
            }),
        }
    }

    fn key(
        &self,
        party: &PartyId,
        key: KeyId,
        place: &str,
    ) -> Result<&'d SigningKeyEntry, EvidenceError> {
        let found = self.directory.signing_key(party, &key);
        found.ok_or_else(|| EvidenceError::Signer {
            place: place.to_owned(),
            party: party.clone(),
            key,
        })
    }

    fn report(mut self) -> Result<EvidenceReport, EvidenceError> {
        let manifest = self.manifest_report()?;
        let statements = std::mem::take(&mut self.statements);
        let mut statements: Vec<StatementReport> = statements
            .into_values()
            .map(|(statement, standings)| StatementReport {
                doubt: self.doubt(&statement, &standings),
                statement,
                standings,
            })
            .collect();
        statements.sort_by_key(|report| (report.statement.at(), report.statement.id().0));
        let mut gaps = missing::holes(&statements)?;
        let logs: Vec<PartyId> = self.logs.iter().map(|log| log.party.clone()).collect();
        gaps.extend(missing::receipts(&statements, &logs)?);
        let sheets = self.directory.sheets();
        Ok(EvidenceReport {
            package: self.package,
            manifest,
            statements,
            events: self.events,
            logs: self.logs,
            missing: gaps,
            sheets: sheets
                .map(|sheet| (sheet.party.clone(), sheet.seq, sheet.issued))
                .collect(),
        })
    }

    fn doubt(&self, statement: &VerifiedStatement, standings: &[Standing]) -> Option<Doubt> {
        let key = self
            .directory
            .signing_key(statement.issuer(), &statement.signer())?;
        if let Some(at) = key.revoked {
            // Only somebody else's clock shows that it was there before its key was lost.
            let mut cosigned = standings.iter().flat_map(|standing| &standing.cosigned);
            if !cosigned.any(|cosigned| cosigned.at < at) {
                return Some(Doubt::Revoked { at });
            }
        }
        let (from, until) = (key.not_before, key.not_after);
        let within = (from..=until).contains(&statement.at());
        (!within).then_some(Doubt::Dates { from, until })
    }

    fn manifest_report(&self) -> Result<Option<ManifestReport>, EvidenceError> {
        let Some(manifest) = self.manifest.clone() else {
            return Ok(None);
        };
        let convention = self.directory.convention_by_digest(&manifest.convention());
        let convention = convention.ok_or_else(|| EvidenceError::Object {
            place: "the manifest".to_owned(),
            reason: format!(
                "it was made under the convention {}, which is not in the file",
                manifest.convention()
            ),
        })?;
        let denials = self.accepted.iter().map(|(standing, event)| {
            let peer = event.previous_hop.as_ref().and_then(Hop::from_message)?;
            let facts = Facts {
                directory: self.directory,
                manifest: &manifest,
                place: Place::Gateway {
                    party: &standing.log,
                    peer: &peer,
                },
                first_accepted: Some(standing.at),
            };
            decide(&facts, standing.at).err()
        });
        let parties = manifest.recipients().iter().chain([manifest.sender()]);
        let gateway =
            |party: &PartyId| Some((party.clone(), convention.gateway_of(party)?.clone()));
        Ok(Some(ManifestReport {
            gateways: parties.filter_map(gateway).collect(),
            convention: (convention.id().to_owned(), convention.version()),
            flow: convention.flow(manifest.flow()).cloned(),
            denial: denials.flatten().next(),
            standings: self
                .accepted
                .iter()
                .map(|(standing, _)| standing.clone())
                .collect(),
            manifest,
        }))
    }
}

fn role(place: &str, key: &SigningKeyEntry) -> EvidenceError {
    EvidenceError::Role {
        place: place.to_owned(),
        party: key.party.clone(),
        key: key.key.id(),
    }
}

/// Verifies that an entry is under every checkpoint that covers it; the first cosignature of each
/// partner over it.
fn included(
    entry: &v1::EvidenceEntry,
    signed: &[Signed],
    place: &str,
) -> Result<Vec<CosignedAt>, EvidenceError> {
    let covering: Vec<&Signed> = signed
        .iter()
        .filter(|signed| signed.checkpoint.size > entry.index)
        .collect();
    if covering.is_empty() {
        return Err(EvidenceError::Uncovered {
            place: place.to_owned(),
            size: signed.last().map_or(0, |signed| signed.checkpoint.size),
        });
    }
    if covering.len() != entry.inclusions.len() {
        return Err(malformed(
            place,
            "it has not one proof for each checkpoint that covers it",
        ));
    }
    let leaf = leaf_hash(&entry.entry);
    let mut cosigned: Vec<CosignedAt> = Vec::new();
    for (signed, inclusion) in covering.iter().zip(&entry.inclusions) {
        let Checkpoint { size, root, .. } = &signed.checkpoint;
        let hashes = digests(&inclusion.hashes);
        if !verify_inclusion(&leaf, entry.index, *size, &hashes, root) {
            return Err(EvidenceError::NotIncluded {
                place: place.to_owned(),
                size: *size,
            });
        }
        for each in &signed.cosigned {
            match cosigned
                .iter_mut()
                .find(|kept| kept.partner == each.partner)
            {
                Some(kept) if each.at < kept.at => *kept = each.clone(),
                Some(_) => {}
                None => cosigned.push(each.clone()),
            }
        }
    }
    Ok(cosigned)
}

fn digests(hashes: &[Vec<u8>]) -> Vec<Digest> {
    let hashes = hashes.iter().map(|hash| Digest::from_slice(hash));
    // The lengths were looked at when the file was read; another length verifies nothing.
    hashes.map(|hash| hash.unwrap_or(Digest([0; 32]))).collect()
}
