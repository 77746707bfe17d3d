//! Everything that the configuration names, read and checked before anything is opened.

use std::path::Path;
use std::sync::Arc;

use passerelle_disk::Disk;
use passerelle_link::{Identity, TrustSource, TrustStore};
use passerelle_proto::{Hop, KeyRole, LogSigner, SigningKey, log_origin, read_secret_file};

use crate::config::{Config, ConfigError, Problem};

/// Keys, certificate and trust of one gateway; they belong together.
pub(crate) struct Materials {
    pub(crate) identity: Identity,
    pub(crate) key: Arc<SigningKey>,
    pub(crate) log_key: LogSigner,
    pub(crate) trust: TrustStore,
}

impl Materials {
    /// Reads everything.
    ///
    /// # Errors
    /// Every problem at once, each with its file and a remedy.
    pub(crate) fn load(disk: &Arc<dyn Disk>, config: &Config) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let key = secret(
            &config.gateway_key,
            SigningKey::from_secret_text,
            &mut problems,
        );
        let log_key = secret(&config.log_key, LogSigner::from_secret_text, &mut problems);
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
        if let (Some(key), Some(log_key), Some(identity), Some(trust)) =
            (key, log_key, identity, trust)
        {
            let materials = Self {
                identity,
                key: Arc::new(key),
                log_key,
                trust,
            };
            materials.check(config, &mut problems);
            if problems.is_empty() {
                return Ok(materials);
            }
        }
        Err(ConfigError { problems })
    }

    /// Whether the party's own sheet lists what this gateway is to use.
    fn check(&self, config: &Config, problems: &mut Vec<Problem>) {
        let party = &config.party;
        let directory = self.trust.directory();
        let Some(sheet) = directory.sheet(party) else {
            let what = format!("there is no sheet of {party}");
            let remedy = "put the party's signed sheet there";
            problems.push(problem(&config.sheets, what, remedy));
            return;
        };
        let entry = directory.signing_key(party, &self.key.id());
        let listed = entry.is_some_and(|key| key.may(KeyRole::Gateway));
        if !listed {
            let what = format!(
                "key {} is no gateway key in the sheet of {party}",
                self.key.id()
            );
            let remedy = "name the key of this gateway, or sign a sheet that lists it";
            problems.push(problem(&config.gateway_key, what, remedy));
        }
        let vkeys = sheet.log.as_ref().map(|log| &log.vkeys);
        let origin = log_origin(party);
        let same_log = self.log_key.verifier().name() == origin
            && vkeys == Some(&self.log_key.verifier().to_vkeys());
        if !same_log {
            let what = format!("this is not the log key in the sheet of {party}");
            let remedy = "name the key of this gateway's log, or sign a sheet that lists it";
            problems.push(problem(&config.log_key, what, remedy));
        }
        let name = self.identity.name();
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

fn problem(file: &Path, what: String, remedy: &str) -> Problem {
    Problem {
        file: file.to_owned(),
        line: None,
        what,
        remedy: remedy.to_owned(),
    }
}
