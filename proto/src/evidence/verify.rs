//! Verifying evidence from two root fingerprints alone.

use std::collections::BTreeMap;

use prost::Message;

use super::report::{
    CosignedAt, Doubt, EvidenceReport, LogCheckpoints, ManifestReport, OtherEvent, StampedAt,
    Standing, StatementReport,
};
use super::{EvidenceError, UntrustedEvidence, decision, malformed, missing};
use crate::merkle::{leaf_hash, verify_consistency, verify_inclusion};
use crate::v1::{self, entry::Event, statement::What};
use crate::{
    Checkpoint, Digest, Directory, Facts, Hop, KeyId, KeyRole, Note, PackageId, PartyId, Place,
    Roots, SigningKeyEntry, TimeAuthorities, TimeStamp, Timestamp, UntrustedManifest,
    UntrustedStatement, VerifiedManifest, VerifiedStatement, decide, package_of, signed_objects,
};

impl UntrustedEvidence {
    /// Verifies every signature and every proof in the file.
    ///
    /// Trust starts from `roots`, the fingerprints that were compared on paper. What the verifier
    /// knows about parties besides (`known`) counts as well: a newer sheet may revoke a key. A
    /// time-stamp is believed when one of the `authorities` vouches for it.
    ///
    /// # Errors
    /// The first [`EvidenceError`]; nothing in the file may be believed then.
    pub fn verify(
        &self,
        roots: &Roots,
        known: Option<&Directory>,
        authorities: &TimeAuthorities,
    ) -> Result<EvidenceReport, EvidenceError> {
        let directory = self.directory(roots, known)?;
        let mut gathered = Gathered::new(self.package(), &directory, authorities);
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
    stamped: Vec<StampedAt>,
}

/// What was verified so far.
struct Gathered<'d> {
    package: PackageId,
    directory: &'d Directory,
    authorities: &'d TimeAuthorities,
    manifest: Option<VerifiedManifest>,
    accepted: Vec<(Standing, v1::AcceptedEvent)>,
    statements: BTreeMap<Digest, (VerifiedStatement, Vec<Standing>)>,
    events: Vec<OtherEvent>,
    logs: Vec<LogCheckpoints>,
}

impl<'d> Gathered<'d> {
    fn new(package: PackageId, directory: &'d Directory, authorities: &'d TimeAuthorities) -> Self {
        Self {
            package,
            directory,
            authorities,
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
            let covered = included(entry, &signed, &place)?;
            self.entry(entry, &party, covered, &place)?;
        }
        let cosigned = signed.iter().flat_map(|signed| &signed.cosigned);
        let stamped = signed.iter().flat_map(|signed| &signed.stamped);
        self.logs.push(LogCheckpoints {
            party,
            size: signed.last().map_or(0, |signed| signed.checkpoint.size),
            // The largest of each, and the first one where there are two of it.
            cosigned: best_of_each(
                cosigned,
                |each| &each.partner,
                |one, kept| one.size > kept.size,
            ),
            stamped: best_of_each(
                stamped,
                |each| &each.stamp.authority,
                |one, kept| one.size > kept.size,
            ),
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
            let stamped = self.stamped(checkpoint.size, evidence, &place)?;
            signed.push(Signed {
                checkpoint,
                cosigned,
                stamped,
            });
        }
        Ok(signed)
    }

    /// Who has cosigned a checkpoint, before the key was revoked if it was. Whoever has a line
    /// under it must have signed both halves, and nobody has one whose log no sheet names.
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
                let (key, checkpoint, at) = Checkpoint::cosigner(note, keys).map_err(refuse)?;
                let revoked = self.directory.log_revoked(partner, key);
                if revoked.is_none_or(|revoked| at < revoked) {
                    cosigned.push(CosignedAt {
                        partner: partner.clone(),
                        size: checkpoint.size,
                        at,
                        revoked,
                    });
                }
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

    /// The time-stamps over a checkpoint. What they say must hold, whoever is trusted.
    fn stamped(
        &self,
        size: u64,
        evidence: &v1::EvidenceCheckpoint,
        place: &str,
    ) -> Result<Vec<StampedAt>, EvidenceError> {
        let note = Note::parse(&evidence.note).map_err(|error| EvidenceError::Checkpoint {
            place: place.to_owned(),
            error: error.into(),
        })?;
        let verify = |token: &Vec<u8>| {
            let stamp = TimeStamp::verify(token, note.text().as_bytes(), self.authorities);
            let stamp = stamp.map_err(|error| EvidenceError::TimeStamp {
                place: place.to_owned(),
                error,
            })?;
            Ok(StampedAt { size, stamp })
        };
        evidence.time_stamps.iter().map(verify).collect()
    }

    fn entry(
        &mut self,
        evidence: &v1::EvidenceEntry,
        log: &PartyId,
        covered: (Vec<CosignedAt>, Vec<StampedAt>),
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
            cosigned: covered.0,
            stamped: covered.1,
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
        let directory = self.directory;
        let mut gaps = missing::holes(&statements, directory)?;
        let logs: Vec<PartyId> = self.logs.iter().map(|log| log.party.clone()).collect();
        gaps.extend(missing::receipts(&statements, &logs, directory)?);
        gaps.extend(decision::decisions(
            &statements,
            &self.events,
            &logs,
            directory,
        )?);
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
        // Only somebody else's clock shows that it was there before its key was lost.
        let shown = |at| {
            standings
                .iter()
                .any(|standing| standing.was_there_before(at, statement.issuer()))
        };
        if let Some(at) = key.revoked.filter(|at| !shown(*at)) {
            return Some(Doubt::Revoked { at });
        }
        let (from, until) = (key.not_before, key.not_after);
        let within = (from..=until).contains(&statement.at());
        if !within {
            return Some(Doubt::Dates { from, until });
        }
        let manifest = self.manifest.as_ref()?;
        match statement.what() {
            _ if !self.is_its_to_say(statement, manifest) => Some(Doubt::NotIts),
            What::Delivered(said) if said.content_commit != manifest.content_commit().0 => {
                Some(Doubt::OtherContent)
            }
            _ => None,
        }
    }

    /// Whether the issuer has the part in the package that its words are about.
    fn is_its_to_say(&self, statement: &VerifiedStatement, manifest: &VerifiedManifest) -> bool {
        let issuer = statement.issuer();
        let is_recipient = |name: &str| {
            let mut recipients = manifest.recipients().iter();
            recipients.any(|recipient| recipient.as_str() == name)
        };
        let serves = |name: &str| {
            let party = PartyId::parse(name);
            party.is_ok_and(|party| self.directory.has_been_gateway_of(issuer, &party))
        };
        let own = |name: &str| is_recipient(name) && name == issuer.as_str();
        match statement.what() {
            What::Delivered(said) => own(&said.recipient),
            What::Acknowledged(said) => own(&said.recipient),
            What::Cancel(said) => manifest.sender() == issuer && is_recipient(&said.recipient),
            What::NotCollected(said) => is_recipient(&said.recipient) && serves(&said.recipient),
            What::NotReceipted(said) => {
                let serves_one = serves(manifest.sender().as_str()) || serves(&said.recipient);
                is_recipient(&said.recipient) && serves_one
            }
            _ => true,
        }
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
/// partner over it, and the first time-stamp of each authority.
fn included(
    entry: &v1::EvidenceEntry,
    signed: &[Signed],
    place: &str,
) -> Result<(Vec<CosignedAt>, Vec<StampedAt>), EvidenceError> {
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
    for (signed, inclusion) in covering.iter().zip(&entry.inclusions) {
        let Checkpoint { size, root, .. } = &signed.checkpoint;
        let hashes = digests(&inclusion.hashes);
        if !verify_inclusion(&leaf, entry.index, *size, &hashes, root) {
            return Err(EvidenceError::NotIncluded {
                place: place.to_owned(),
                size: *size,
            });
        }
    }
    let cosigned = covering.iter().flat_map(|signed| &signed.cosigned);
    let stamped = covering.iter().flat_map(|signed| &signed.stamped);
    // One that is believed stands before one that is not.
    let rank = |each: &StampedAt| (each.stamp.doubt.is_some(), each.stamp.latest());
    Ok((
        best_of_each(cosigned, |each| &each.partner, |one, kept| one.at < kept.at),
        best_of_each(
            stamped,
            |each| &each.stamp.authority,
            |one, kept| rank(one) < rank(kept),
        ),
    ))
}

/// Of all that have one name, the one that no other is better than; in the order of the names'
/// first appearance.
fn best_of_each<'e, T: Clone + 'e, N: PartialEq + ?Sized + 'e>(
    all: impl Iterator<Item = &'e T>,
    name: impl Fn(&T) -> &N,
    is_better: impl Fn(&T, &T) -> bool,
) -> Vec<T> {
    let mut best: Vec<T> = Vec::new();
    for each in all {
        match best.iter_mut().find(|kept| name(kept) == name(each)) {
            Some(kept) if is_better(each, kept) => *kept = each.clone(),
            Some(_) => {}
            None => best.push(each.clone()),
        }
    }
    best
}

fn digests(hashes: &[Vec<u8>]) -> Vec<Digest> {
    let hashes = hashes.iter().map(|hash| Digest::from_slice(hash));
    // The lengths were looked at when the file was read; another length verifies nothing.
    hashes.map(|hash| hash.unwrap_or(Digest([0; 32]))).collect()
}
