//! Everything that the configuration names, read and checked before anything is opened.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use passerelle_disk::Disk;
use passerelle_link::{Identity, TrustSource, TrustStore};
use passerelle_proto::{
    Directory, Hop, KeyId, KeyRole, LogSigner, PartyId, SigningKey, SigningKeys, log_epoch,
    read_secret_file,
};

use crate::config::{Config, ConfigError, Problem};
use crate::log::LogKeys;
use crate::time_stamp::Authority;

/// The secret keys of one gateway.
pub(crate) struct Keys {
    pub(crate) signing: SigningKeys,
    pub(crate) log: Vec<Arc<LogSigner>>,
}

impl Keys {
    /// Reads all of them.
    ///
    /// # Errors
    /// Every problem at once, each with its file and a remedy.
    pub(crate) fn load(config: &Config) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let signing = config
            .gateway_keys
            .iter()
            .filter_map(|path| {
                let parse = |text: &str| {
                    let key = SigningKey::from_secret_text(text).map_err(|e| e.to_string())?;
                    of_party(key.party(), &config.party).map(|()| key)
                };
                secret(path, parse, &mut problems)
            })
            .collect();
        let log: Vec<_> = config
            .log_keys
            .iter()
            .filter_map(|path| secret(path, LogSigner::from_secret_text, &mut problems))
            .map(Arc::new)
            .collect();
        match SigningKeys::new(KeyRole::Gateway, signing) {
            Some(signing) if problems.is_empty() => Ok(Self { signing, log }),
            _ => Err(ConfigError { problems }),
        }
    }
}

/// The keys of a party's log as its sheet has them; `None` when we do not hold those that sign now.
pub(crate) fn log_keys(
    signers: &[Arc<LogSigner>],
    directory: &Directory,
    party: &PartyId,
) -> Option<LogKeys> {
    let current = directory.log(party)?;
    // The sheet says which log they sign; the keys themselves do not.
    let signer = signers.iter().find(|key| key.id() == current.id())?;
    let signer = signer.for_origin(current.name());
    let mut known = directory.log_keys(party).to_vec();
    let held = signers.iter().map(|key| key.verifier());
    known.extend(held.flat_map(|key| [key.clone(), key.for_origin(current.name())]));
    Some(LogKeys::new(Arc::new(signer), &known))
}

/// Keys, certificate and trust of one gateway; they belong together.
pub(crate) struct Materials {
    pub(crate) identity: Identity,
    pub(crate) keys: Keys,
    pub(crate) log_keys: LogKeys,
    pub(crate) trust: TrustStore,
    pub(crate) time_stamps: Option<Authority>,
}

impl Materials {
    /// Reads everything.
    ///
    /// # Errors
    /// Every problem at once, each with its file and a remedy.
    pub(crate) fn load(disk: &Arc<dyn Disk>, config: &Config) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let keys = Keys::load(config)
            .map_err(|error| problems.extend(error.problems))
            .ok();
        let identity = match Identity::load(&config.tls_certificate, &config.tls_key) {
            Ok(identity) => Some(identity),
            Err(error) => {
                problems.push(problem(
                    &config.tls_certificate,
                    error.to_string(),
                    "name a certificate of this gateway and its key in [tls]",
                ));
                None
            }
        };
        let source = TrustSource {
            file: config.file.clone(),
            convention: config.convention.clone(),
            sheets: config.sheets.clone(),
            roots: config.roots.clone(),
            kept: config.data_dir.join("trust"),
        };
        let trust = TrustStore::open(disk, &source)
            .map_err(|found| problems.extend(found))
            .ok();
        let time_stamps = config.time_stamp.as_ref();
        let time_stamps = time_stamps.map(Authority::load).transpose();
        let time_stamps = time_stamps.map_err(|found| problems.extend(found));
        if let (Some(keys), Some(identity), Some(trust)) = (keys, identity, trust) {
            check(config, &keys, &identity, &trust, &mut problems);
            let log_keys = log_keys(&keys.log, &trust.directory(), &config.party);
            if let Some(log_keys) = log_keys.filter(|_| problems.is_empty()) {
                return Ok(Self {
                    identity,
                    keys,
                    log_keys,
                    trust,
                    time_stamps: time_stamps.ok().flatten(),
                });
            }
        }
        Err(ConfigError { problems })
    }
}

/// Whether the party's own sheet lists what this gateway is to use.
fn check(
    config: &Config,
    keys: &Keys,
    identity: &Identity,
    trust: &TrustStore,
    problems: &mut Vec<Problem>,
) {
    let party = &config.party;
    let directory = trust.directory();
    if directory.sheet(party).is_none() {
        let what = format!("there is no sheet of {party}");
        let remedy = "put the party's signed sheet there";
        problems.push(problem(&config.sheets, what, remedy));
        return;
    }
    // Others may wait for the sheet that will list them.
    let ids = keys.signing.ids();
    let listed = |id: &KeyId| {
        let key = directory.signing_key(party, id);
        key.is_some_and(|key| key.may(KeyRole::Gateway))
    };
    if !ids.iter().any(listed) {
        let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
        let what = format!(
            "key {} is no gateway key in the sheet of {party}",
            ids.join(" or ")
        );
        let remedy = "name the key of this gateway, or sign a sheet that lists it";
        problems.push(problem(first(&config.gateway_keys), what, remedy));
    }
    let ours = log_keys(&keys.log, &directory, party);
    if ours.is_none()
        || directory
            .log(party)
            .is_none_or(|log| log_epoch(party, log.name()).is_none())
    {
        let what = format!("this is not the log key in the sheet of {party}");
        let remedy = "name the key of this gateway's log, or sign a sheet that lists it";
        problems.push(problem(first(&config.log_keys), what, remedy));
    }
    let name = identity.name();
    let ours = Hop::gateway(party.clone());
    let found = directory
        .tls_name(name)
        .map(|(party, role)| Hop { party, role });
    if found.as_ref() != Some(&ours) {
        let what = format!("the sheet of {party} does not list {name} as its gateway");
        let remedy = "name the gateway's certificate, or sign a sheet that lists its name";
        problems.push(problem(&config.tls_certificate, what, remedy));
    }
}

fn first(paths: &[PathBuf]) -> &Path {
    paths.first().map_or(Path::new(""), PathBuf::as_path)
}

/// A key's text names its party, and a bit of that may have rotted.
fn of_party(named: &PartyId, party: &PartyId) -> Result<(), String> {
    match named == party {
        true => Ok(()),
        false => Err(format!(
            "the text says that this is a key of {named}, not of {party}"
        )),
    }
}

fn secret<T, E: std::fmt::Display>(
    path: &Path,
    parse: impl Fn(&str) -> Result<T, E>,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    let text = match read_secret_file(path) {
        Ok(text) => text,
        Err(error) => {
            let remedy = "a secret key file belongs to this user alone (mode 0600)";
            problems.push(problem(path, error.to_string(), remedy));
            return None;
        }
    };
    match parse(&text) {
        Ok(key) => Some(key),
        Err(error) => {
            let remedy = "make one with `passerelle keys new`, or name the right file";
            problems.push(problem(path, error.to_string(), remedy));
            None
        }
    }
}

pub(crate) fn problem(file: &Path, what: String, remedy: &str) -> Problem {
    Problem {
        file: file.to_owned(),
        line: None,
        what,
        remedy: remedy.to_owned(),
    }
}
