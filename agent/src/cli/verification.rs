//! Whether a log's files can be believed, judged by nothing but the files and the sheets.

use std::fmt::{self, Display};
use std::fs;
use std::path::{Path, PathBuf};

use passerelle_proto::audit::{verify_cosigned, verify_log};
use passerelle_proto::evidence::{Covers, EVIDENCE_ENTRIES_MAX};
use passerelle_proto::v1::{self, Entry, entry::Event, statement::What};
use passerelle_proto::{
    Checkpoint, Digest, Directory, KeyId, KeyRole, LogVerifier, Note, PartyId, SigningKeyEntry,
    TimeAuthorities, UntrustedManifest, UntrustedStatement, VerifiedStatement, log_epoch,
    signed_objects,
};
use prost::Message;
use serde::Serialize;

use super::failure::{Exit, Failure};
use super::quantity::When;
use super::stamps::{StampVerdict, Stamps};

/// How often a log that grows while it is read is read again.
const READINGS_MAX: u32 = 8;

/// What a partner has cosigned.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CosignedVerdict {
    /// The partner's log.
    pub(crate) partner: String,
    /// Entries under its cosignature.
    pub(crate) size: u64,
    /// When, Unix milliseconds.
    pub(crate) at_ms: i64,
    /// The file that proves it.
    pub(crate) note: PathBuf,
}

/// A log that can be believed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LogVerdict {
    /// Whose log.
    pub(crate) party: String,
    /// Entries, all of them hashed.
    pub(crate) size: u64,
    /// Root of the tree, hex.
    pub(crate) root: String,
    /// What partners have cosigned, and both of their signatures hold.
    pub(crate) cosigned: Vec<CosignedVerdict>,
    /// What authorities have stamped of it.
    pub(crate) stamped: Vec<StampVerdict>,
    /// Manifests and statements whose signatures were verified; `None` when not asked for.
    pub(crate) signatures: Option<u64>,
}

impl Display for LogVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the log of {} can be believed", self.party)?;
        writeln!(
            f,
            "  {} entries hash to the root of its signed checkpoint",
            self.size
        )?;
        writeln!(f, "  root {}", self.root)?;
        if let Some(count) = self.signatures {
            writeln!(
                f,
                "  {count} manifests and statements in it are signed as they say"
            )?;
        }
        for cosigned in &self.cosigned {
            let CosignedVerdict {
                partner,
                size,
                at_ms,
                ..
            } = cosigned;
            writeln!(
                f,
                "  {partner} has cosigned its first {size} entries ({})",
                When(*at_ms)
            )?;
        }
        self.stamped
            .iter()
            .try_for_each(|stamped| write!(f, "{stamped}"))?;
        let covered = self.cosigned.iter().map(|cosigned| cosigned.size).max();
        match covered.unwrap_or(0) {
            0 => writeln!(
                f,
                "  nobody has cosigned it: its own gateway could rewrite it"
            ),
            covered if covered < self.size => {
                let rest = self.size - covered;
                writeln!(f, "  its last {rest} entries are not cosigned yet")
            }
            _ => Ok(()),
        }
    }
}

/// A log that was read and can be believed.
pub(super) struct ReadLog {
    /// What was found.
    pub(super) verdict: LogVerdict,
    /// Its checkpoint.
    pub(super) checkpoint: Vec<u8>,
    /// The entries that were wanted, by index.
    pub(super) entries: Vec<(u64, Vec<u8>)>,
    /// What was said about each of them soon after.
    pub(super) covers: Covers,
}

/// How a log is judged.
pub(crate) struct Judge<'j> {
    /// Whose signatures count.
    pub(crate) directory: &'j Directory,
    /// Copies of its checkpoints that partners keep themselves.
    pub(crate) witnessed: &'j [PathBuf],
    /// Whether what is signed in it is verified as well.
    pub(crate) signatures: bool,
    /// Whose time-stamps are believed.
    pub(crate) authorities: &'j TimeAuthorities,
}

/// What is gathered of a log while it is read.
#[derive(Default)]
struct Gathered<'g> {
    /// Whose signatures count, where they are asked for, and whose log it is.
    signatures: Option<(&'g Directory, PartyId)>,
    counted: u64,
    /// The first entry with a signature that does not hold, and why.
    unsigned: Option<String>,
    entries: Vec<(u64, Vec<u8>)>,
    covers: Covers,
    stamps: Stamps,
}

impl Gathered<'_> {
    fn take(&mut self, index: u64, bytes: &[u8], is_wanted: bool) {
        if is_wanted && self.entries.len() < EVIDENCE_ENTRIES_MAX {
            self.entries.push((index, bytes.to_vec()));
            self.covers.want(index);
        }
        if let Some((directory, log)) = &self.signatures
            && self.unsigned.is_none()
        {
            match check_signatures(index, bytes, log, directory) {
                Ok(count) => self.counted += count,
                Err(why) => self.unsigned = Some(format!("entry {index}: {why}")),
            }
        }
        if let Ok(entry) = Entry::decode(bytes) {
            self.covers.follow(&entry);
            self.stamps.follow(index, entry);
        }
    }
}

/// Verifies the log in `dir`: checkpoint, entries, tiles, every time-stamp in it, every cosigned
/// copy below it and the witnessed ones, and if that is asked for what is signed in it.
pub(crate) fn verify_log_directory(dir: &Path, judge: &Judge<'_>) -> Result<LogVerdict, Failure> {
    let nothing = |_: u64, _: &[u8]| false;
    read_log_directory(dir, judge, &nothing).map(|read| read.verdict)
}

/// Verifies the log in `dir`, and hands over the entries that are `wanted`.
///
/// A log that grows meanwhile is read again; any other difference is a failure.
pub(super) fn read_log_directory(
    dir: &Path,
    judge: &Judge<'_>,
    wanted: &dyn Fn(u64, &[u8]) -> bool,
) -> Result<ReadLog, Failure> {
    let path = dir.join("checkpoint");
    let mut readings = 0;
    loop {
        let checkpoint = fs::read(&path).map_err(|error| Failure::reading(&path, &error))?;
        let result = verify_once(dir, &checkpoint, judge, wanted);
        readings += 1;
        let grew = fs::read(&path).is_ok_and(|after| after != checkpoint);
        match result {
            Err(_) if grew && readings < READINGS_MAX => {}
            Err(failure) => return Err(failure),
            Ok((
                verdict,
                Gathered {
                    entries,
                    mut covers,
                    ..
                },
            )) => {
                for cosigned in &verdict.cosigned {
                    let note = fs::read(&cosigned.note);
                    let note = note.map_err(|error| Failure::reading(&cosigned.note, &error))?;
                    covers.newest(&cosigned.partner, &note);
                }
                return Ok(ReadLog {
                    verdict,
                    checkpoint,
                    entries,
                    covers,
                });
            }
        }
    }
}

fn verify_once<'j>(
    dir: &Path,
    checkpoint: &[u8],
    judge: &Judge<'j>,
    wanted: &dyn Fn(u64, &[u8]) -> bool,
) -> Result<(LogVerdict, Gathered<'j>), Failure> {
    let Judge {
        directory,
        witnessed,
        signatures,
        authorities,
    } = *judge;
    let party = party_of(dir, checkpoint)?;
    let logs = logs_of(directory, &party)?;
    let log = key_of(checkpoint, logs);
    let copies = cosigned_copies(dir, directory, &party, witnessed)?;
    let mut sizes: Vec<u64> = copies.iter().map(|copy| copy.size).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut gathered = Gathered {
        signatures: signatures.then(|| (directory, party.clone())),
        ..Gathered::default()
    };
    let read = |path: &str| match path {
        // One and the same checkpoint, however the file changes meanwhile.
        "checkpoint" => Some(checkpoint.to_vec()),
        path => fs::read(dir.join(path)).ok(),
    };
    let verified = verify_log(&read, log, &sizes, |index, bytes| {
        gathered.take(index, bytes, wanted(index, bytes));
    });
    let (report, roots) = verified.map_err(|error| unbelievable(dir, &error))?;
    if let Some(why) = &gathered.unsigned {
        return Err(unbelievable(dir, why));
    }
    let root_at = |size: u64| -> Option<Digest> {
        let at = sizes.iter().position(|known| *known == size)?;
        roots.get(at).copied()
    };
    let cosigned = copies.into_iter().map(|copy| {
        if copy.size > report.size {
            let (path, size) = (copy.path.display(), copy.size);
            let why = format!(
                "{path}: {size} entries were cosigned, and the log has {}",
                report.size
            );
            return Err(unbelievable(dir, &why));
        }
        let revoked = directory.log_revoked(&copy.party, &copy.partner);
        let verdict = copy.verdict(dir, logs, root_at)?;
        let holds = revoked.is_none_or(|revoked| verdict.at_ms < revoked.as_ms());
        Ok(holds.then_some(verdict))
    });
    // What was cosigned with a key from the moment of its revocation on covers nothing.
    let cosigned = cosigned.filter_map(Result::transpose);
    let cosigned = cosigned.collect::<Result<_, _>>()?;
    let stamps = std::mem::take(&mut gathered.stamps);
    let stamped = stamps.verify(dir, report.size, logs, authorities);
    let verdict = LogVerdict {
        party: party.to_string(),
        size: report.size,
        root: report.root.to_string(),
        cosigned,
        stamped: stamped.map_err(|why| unbelievable(dir, &why))?,
        signatures: signatures.then_some(gathered.counted),
    };
    Ok((verdict, gathered))
}

fn party_of(dir: &Path, checkpoint: &[u8]) -> Result<PartyId, Failure> {
    let path = dir.join("checkpoint");
    let text = Note::parse(checkpoint).map(|note| note.text().to_owned());
    let text = text.map_err(|error| unbelievable(&path, &error))?;
    let origin = Checkpoint::parse(&text)
        .map_err(|error| unbelievable(&path, &error))?
        .origin;
    let name = origin.split('.').next().unwrap_or_default();
    match PartyId::parse(name) {
        Ok(party) if log_epoch(&party, &origin).is_some() => Ok(party),
        _ => Err(unbelievable(
            &path,
            &format_args!("{origin:?} is no log of a party"),
        )),
    }
}

/// All keys that have signed a party's log; there is at least one.
fn logs_of<'d>(directory: &'d Directory, party: &PartyId) -> Result<&'d [LogVerifier], Failure> {
    match directory.log_keys(party) {
        [] => {
            let what = format_args!("no sheet says with which keys {party} signs its log");
            Err(Failure::new(
                Exit::NoInput,
                what,
                "put the party's sheet where the configuration says",
            ))
        }
        keys => Ok(keys),
    }
}

/// Which of a log's keys has signed a checkpoint; the newest one where none has.
fn key_of<'k>(checkpoint: &[u8], keys: &'k [LogVerifier]) -> &'k LogVerifier {
    let mut signers = keys.iter();
    let signer = signers.find(|key| Checkpoint::verify(checkpoint, key).is_ok());
    signer.unwrap_or(&keys[0])
}

/// A checkpoint of this log that a partner has cosigned.
struct Copy {
    path: PathBuf,
    note: Vec<u8>,
    party: PartyId,
    partner: LogVerifier,
    size: u64,
}

impl Copy {
    fn verdict(
        self,
        dir: &Path,
        logs: &[LogVerifier],
        root_at: impl Fn(u64) -> Option<Digest>,
    ) -> Result<CosignedVerdict, Failure> {
        let path = self.path.display().to_string();
        let log = key_of(&self.note, logs);
        let found = verify_cosigned(&path, &self.note, log, &self.partner, root_at);
        let found = found.map_err(|error| unbelievable(dir, &error))?;
        Ok(CosignedVerdict {
            partner: self.party.to_string(),
            size: found.size,
            at_ms: found.at.as_ms(),
            note: self.path,
        })
    }
}

/// The copies below the log, and those that partners keep themselves. Each must bear a partner's
/// cosignature: a copy that does not is a failure, not a copy that is passed over.
fn cosigned_copies(
    dir: &Path,
    directory: &Directory,
    owner: &PartyId,
    witnessed: &[PathBuf],
) -> Result<Vec<Copy>, Failure> {
    let folder = dir.join("cosigned");
    let own = passerelle_disk::system().entries(&folder);
    let mut paths = own.map_err(|error| Failure::reading(&folder, &error.source))?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "note"));
    paths.extend_from_slice(witnessed);
    let partners: Vec<(PartyId, LogVerifier)> = directory
        .sheets()
        .filter(|sheet| &sheet.party != owner)
        .flat_map(|sheet| {
            let keys = directory.log_keys(&sheet.party).iter();
            keys.map(|key| (sheet.party.clone(), key.clone()))
        })
        .collect();
    let mut copies = Vec::new();
    for path in paths {
        let note = fs::read(&path).map_err(|error| Failure::reading(&path, &error))?;
        let found = partners.iter().find_map(|(party, partner)| {
            let (checkpoint, _) = Checkpoint::verify_cosigned(&note, partner).ok()?;
            Some((party.clone(), partner.clone(), checkpoint.size))
        });
        let Some((party, partner, size)) = found else {
            let why = format_args!("{} bears no partner's cosignature", path.display());
            return Err(unbelievable(dir, &why));
        };
        copies.push(Copy {
            path,
            note,
            party,
            partner,
            size,
        });
    }
    Ok(copies)
}

/// Verifies every manifest and statement of an entry, and that each is its signer's to say; says
/// how many there were.
fn check_signatures(
    index: u64,
    entry: &[u8],
    log: &PartyId,
    directory: &Directory,
) -> Result<u64, String> {
    let entry = Entry::decode(entry).map_err(|error| error.to_string())?;
    let event = entry.event.ok_or("it says nothing")?;
    let signed = signed_objects(&event);
    let mut own_receipt = None;
    for object in &signed {
        match v1::ObjectType::try_from(object.r#type) {
            Ok(v1::ObjectType::Manifest) => check_manifest(object, directory)?,
            _ => {
                let statement = check_statement(object, directory)?;
                if let What::Accepted(said) = statement.what() {
                    let is_own = statement.issuer() == log;
                    own_receipt = is_own.then_some(said.log_index).or(own_receipt);
                }
            }
        }
    }
    match event {
        Event::Accepted(_) if own_receipt != Some(index) => {
            Err(format!("it does not hold the receipt of {log} for it"))
        }
        _ => Ok(signed.len() as u64),
    }
}

fn check_manifest(object: &v1::Signed, directory: &Directory) -> Result<(), String> {
    let manifest = UntrustedManifest::parse(object.clone()).map_err(|error| error.to_string())?;
    let key = key_in(directory, manifest.sender(), manifest.signer())?;
    if !key.may(KeyRole::Agent) {
        return Err(format!("key {} may sign no manifest", key.key.id()));
    }
    let verified = manifest.verify(&key.key);
    verified.map(drop).map_err(|error| error.to_string())
}

fn check_statement(
    object: &v1::Signed,
    directory: &Directory,
) -> Result<VerifiedStatement, String> {
    let statement = UntrustedStatement::parse(object.clone()).map_err(|error| error.to_string())?;
    let key = key_in(directory, statement.issuer(), statement.signer())?;
    let verified = statement
        .verify(&key.key)
        .map_err(|error| error.to_string())?;
    match key.may_say(verified.what()) {
        true => Ok(verified),
        false => Err(format!("key {} may not say what it says", key.key.id())),
    }
}

fn key_in<'d>(
    directory: &'d Directory,
    party: &PartyId,
    signer: KeyId,
) -> Result<&'d SigningKeyEntry, String> {
    let key = directory.signing_key(party, &signer);
    key.ok_or_else(|| format!("no sheet of {party} lists its signer {signer}"))
}

fn unbelievable(dir: &Path, why: &dyn Display) -> Failure {
    let what = format_args!("{} cannot be believed: {why}", dir.display());
    let remedy = "keep all its files as they are, and compare them with the partners' copies";
    Failure::new(Exit::Data, what, remedy)
}
