//! A configuration file, of an agent or of a gateway: whichever it is.

use std::fs;
use std::path::{Path, PathBuf};

use passerelle_gateway::Config;
use passerelle_link::{TrustSource, TrustStore};
use passerelle_proto::{Directory, KeyId, PartyId, Placed, Problem, Roots};

use super::failure::{Exit, Failure};
use crate::AgentConfig;

/// A configuration that has been read.
#[derive(Debug, Clone)]
pub(crate) enum Configured {
    /// Of an agent.
    Agent(Box<AgentConfig>),
    /// Of a gateway.
    Gateway(Box<Config>),
}

impl Configured {
    /// Reads `file`. A gateway's is recognised by its `data_dir`.
    pub(crate) fn load(file: &Path) -> Result<Configured, Failure> {
        let text = fs::read_to_string(file).map_err(|error| {
            let what = format!("cannot be read: {error}");
            let remedy = "name an existing file with --config FILE, or a socket with --socket";
            Failure::config(vec![problem(file, what, remedy)])
        })?;
        let of_gateway = text.lines().any(|line| {
            let key = line.split('=').next().unwrap_or_default();
            key.trim() == "data_dir"
        });
        if of_gateway {
            let config = Config::load(file).map_err(|e| Failure::config(e.problems))?;
            return Ok(Configured::Gateway(Box::new(config)));
        }
        Ok(Configured::Agent(Box::new(agent(file)?)))
    }

    /// The daemon's Unix socket.
    pub(super) fn socket(&self) -> &Path {
        match self {
            Configured::Agent(config) => &config.socket,
            Configured::Gateway(config) => &config.admin_socket,
        }
    }

    /// The files of the secret keys that the program uses, and of its certificate.
    pub(super) fn key_files(&self) -> (Vec<PathBuf>, PathBuf) {
        let (one, other, certificate, key) = match self {
            Configured::Agent(config) => (
                &config.agent_keys,
                &config.recipient_keys,
                &config.tls_certificate,
                &config.tls_key,
            ),
            Configured::Gateway(config) => (
                &config.gateway_keys,
                &config.log_keys,
                &config.tls_certificate,
                &config.tls_key,
            ),
        };
        let keys = one.iter().chain(other);
        let keys = keys.chain([key]).cloned().collect();
        (keys, certificate.clone())
    }

    /// Root key fingerprint of each signatory.
    pub(super) fn roots(&self) -> Result<Roots, Failure> {
        let (file, roots) = match self {
            Configured::Agent(config) => (&config.file, &config.roots),
            Configured::Gateway(config) => (&config.file, &config.roots),
        };
        let pin = |(party, pin): &(PartyId, Placed<String>)| {
            let key = pin.value.parse::<KeyId>().map_err(|error| {
                let remedy = "copy the fingerprint from the letter that the party signed";
                Failure::config(vec![problem(file, error.to_string(), remedy)])
            })?;
            Ok((party.clone(), key))
        };
        roots.iter().map(pin).collect()
    }

    /// Convention and sheets that the daemon believes, verified.
    pub(crate) fn trust(&self) -> Result<Directory, Failure> {
        let source = match self.clone() {
            Configured::Agent(config) => TrustSource {
                file: config.file,
                convention: config.convention,
                sheets: config.sheets,
                roots: config.roots,
                kept: config.directory.join("state").join("trust"),
            },
            Configured::Gateway(config) => TrustSource {
                file: config.file,
                convention: config.convention,
                sheets: config.sheets,
                roots: config.roots,
                kept: config.data_dir.join("trust"),
            },
        };
        let store =
            TrustStore::open(&passerelle_disk::system(), &source).map_err(Failure::config)?;
        Ok(store.directory())
    }
}

/// Convention and sheets that `audit export` has put beside a log, judged from these roots.
pub(super) fn notes_in(dir: &Path, roots: &[(PartyId, KeyId)]) -> Result<Directory, Failure> {
    let notes = |name: &str| -> Result<Vec<Vec<u8>>, Failure> {
        let folder = dir.join(name);
        let found = passerelle_disk::system().entries(&folder);
        let mut paths = found.map_err(|error| Failure::reading(&folder, &error.source))?;
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "note"));
        paths.sort();
        let read = |path: &PathBuf| super::notes::read(path).map(|note| note.to_bytes());
        paths.iter().map(read).collect()
    };
    let roots: Roots = roots.iter().cloned().collect();
    let loaded = Directory::load(&roots, &notes("conventions")?, &notes("sheets")?);
    loaded.map_err(|error| {
        let what = format_args!("the notes in {} do not hold: {error}", dir.display());
        let remedy = "compare the root fingerprints with the signed letters, or name --config";
        Failure::new(Exit::Data, what, remedy)
    })
}

/// Reads the configuration of an agent.
pub(super) fn agent(file: &Path) -> Result<AgentConfig, Failure> {
    AgentConfig::load(file).map_err(|error| Failure::config(error.problems))
}

fn problem(file: &Path, what: String, remedy: &str) -> Problem {
    Problem {
        file: PathBuf::from(file),
        line: None,
        what,
        remedy: remedy.to_owned(),
    }
}
