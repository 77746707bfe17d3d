//! A laboratory: everything that a convention needs, made in one directory, on loopback.
//!
//! Authorities, certificates, keys, sheets, a convention valid from today and one configuration
//! per program, for the two signatories and their contractor. It is for trying and testing: one
//! person holds the secret keys of all parties there, which no real exchange allows.

mod authority;
mod configuration;
mod convention;
mod ports;
mod secrets;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use passerelle_link::TransportChoice;
use passerelle_proto::{
    ConventionError, KeyRole, NameError, Note, NoteError, PartyId, Retention, Role,
    SecretFileError, Sheet, SheetError, SheetKey, SheetLog, SigningKey, Timestamp, Tls, TlsName,
    UnsignedConvention, log_origin,
};

use self::authority::Authority;
pub use self::convention::{TEMPLATE, laboratory_convention};
pub use self::ports::Ports;
use self::secrets::Secrets;

/// The signatory that produces the data.
pub const PRODUCER: &str = "caf21";
/// The signatory that receives it.
pub const PARTNER: &str = "grand-dijon";
/// The contractor, served by the partner's gateway.
pub const CONTRACTOR: &str = "prestataire-obs";

/// Longest path of a Unix socket in bytes (`sun_path` of Linux is 108 with its end).
const SOCKET_PATH_LEN_MAX: usize = 107;
/// Life of keys, sheets and certificates.
const LIFE: Duration = Duration::from_secs(396 * 24 * 3600);

/// What may differ from one laboratory to the next.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// The day from which everything is valid; its midnight in UTC counts.
    pub today: Timestamp,
    /// Written into every configuration.
    pub transport: TransportChoice,
    /// Milliseconds that a dropped entry must not change before an agent claims it.
    pub settle_ms: u64,
    /// Milliseconds between two looks of an agent at its outbox.
    pub poll_ms: u64,
    /// Whether every program gets a `/metrics` port.
    pub metrics: bool,
    /// Where a party's gateway listens; absent: a free port of 127.0.0.1.
    pub listen: BTreeMap<PartyId, SocketAddr>,
    /// What a party's sheet says its gateway's address is, where that differs from `listen` (a
    /// proxy in between).
    pub advertised: BTreeMap<PartyId, SocketAddr>,
    /// What every flow says about retention; absent: as [`TEMPLATE`] has it.
    pub retention: Option<Retention>,
}

impl LabOptions {
    /// Valid from the day of `now`, and everything else as an institution would start.
    pub fn new(now: Timestamp) -> Self {
        LabOptions {
            today: now,
            transport: TransportChoice::Auto,
            settle_ms: 2_000,
            poll_ms: 500,
            metrics: true,
            listen: BTreeMap::new(),
            advertised: BTreeMap::new(),
            retention: None,
        }
    }
}

/// Why a laboratory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// There is something where it is to be.
    #[error("{} is not empty: name a new directory, or remove it first", .0.display())]
    Exists(PathBuf),
    /// A socket would have a longer path than the system allows.
    #[error(
        "{}: a Unix socket's path has at most {SOCKET_PATH_LEN_MAX} bytes: choose a shorter one",
        .0.display()
    )]
    LongPath(PathBuf),
    /// A file or directory.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A secret key's file.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// A loopback port.
    #[error("no free port of 127.0.0.1 was found: {0}")]
    Port(io::Error),
    /// A certificate.
    #[error("a certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A fault of this program: the convention that it carries.
    #[error(transparent)]
    Convention(#[from] ConventionError),
    /// A fault of this program: a sheet that it made.
    #[error(transparent)]
    Sheet(#[from] SheetError),
    /// A fault of this program: a note that it made.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// A fault of this program: a name that it carries.
    #[error(transparent)]
    Name(#[from] NameError),
}

pub(crate) fn io_at(path: &Path) -> impl FnOnce(io::Error) -> LabError + '_ {
    |source| LabError::Io {
        path: path.to_owned(),
        source,
    }
}

/// One gateway of a laboratory.
#[derive(Debug, Clone)]
pub struct LabGateway {
    /// Its configuration file.
    pub config: PathBuf,
    /// Log, queue and spool.
    pub data_dir: PathBuf,
    /// Operators' socket.
    pub socket: PathBuf,
    /// Where it listens, UDP and TCP.
    pub address: SocketAddr,
    /// `/metrics`, where asked for.
    pub metrics: Option<SocketAddr>,
    /// The one DNS name of its certificate.
    pub tls_name: String,
}

/// One agent of a laboratory.
#[derive(Debug, Clone)]
pub struct LabAgent {
    /// Its configuration file.
    pub config: PathBuf,
    /// Outbox, inbox and everything between.
    pub directory: PathBuf,
    /// The command line's socket.
    pub socket: PathBuf,
    /// `/metrics`, where asked for.
    pub metrics: Option<SocketAddr>,
    /// The one DNS name of its certificate.
    pub tls_name: String,
}

/// One of the three parties that run something in a laboratory.
#[derive(Debug, Clone)]
pub struct LabParty {
    /// Who.
    pub id: PartyId,
    /// Everything that is this party's own.
    pub directory: PathBuf,
    /// The root key that signs its sheets, secret.
    pub root_key: PathBuf,
    /// Its authority's certificate and secret key, PEM.
    pub authority: (PathBuf, PathBuf),
    /// Its signed sheet.
    pub sheet: PathBuf,
    /// Its gateway; none for the contractor.
    pub gateway: Option<LabGateway>,
    /// Its agent.
    pub agent: LabAgent,
}

/// A laboratory that has been made. Nothing runs yet.
#[derive(Debug, Clone)]
pub struct Laboratory {
    /// Where all of it is.
    pub dir: PathBuf,
    /// The signed convention.
    pub convention: PathBuf,
    /// Folder of the signed sheets.
    pub sheets: PathBuf,
    /// Producer, partner, contractor.
    pub parties: Vec<LabParty>,
}

impl Laboratory {
    /// Makes a laboratory in `dir`, which must be empty or not exist yet.
    ///
    /// # Errors
    /// [`LabError`]; what was made until then stays where it is.
    pub fn create(dir: &Path, options: &LabOptions) -> Result<Laboratory, LabError> {
        let dir = empty_directory(dir)?;
        let sheets = dir.join("sheets");
        let keys = dir.join("roots");
        for folder in [&sheets, &keys] {
            fs::create_dir(folder).map_err(io_at(folder))?;
        }
        let template = UnsignedConvention::parse(TEMPLATE)?.draft();
        let mut roots = BTreeMap::new();
        for party in template.parties() {
            let root = SigningKey::generate(&party.id);
            secrets::write(
                &keys.join(format!("{}.secret", party.id)),
                &root.to_secret_text(),
            )?;
            roots.insert(party.id.clone(), root);
        }
        let convention = dir.join("convention.note");
        write_convention(&dir, &convention, &roots, options)?;
        let mut laboratory = Laboratory {
            dir,
            convention,
            sheets,
            parties: Vec::new(),
        };
        let mut ports = ports::Ports::default();
        for name in [PRODUCER, PARTNER, CONTRACTOR] {
            let id = PartyId::parse(name)?;
            let Some(root) = roots.get(&id) else { continue };
            let party = laboratory.add_party(id, root, options, &mut ports)?;
            laboratory.parties.push(party);
        }
        let pins = [PRODUCER, PARTNER].map(PartyId::parse);
        for party in &laboratory.parties {
            let pins = pins
                .iter()
                .flatten()
                .filter_map(|id| Some((id, roots.get(id)?.id())));
            configuration::write(&laboratory, party, pins.collect(), options)?;
        }
        Ok(laboratory)
    }

    /// One of the three parties, by its name in the convention.
    pub fn party(&self, name: &str) -> Option<&LabParty> {
        self.parties.iter().find(|party| party.id.as_str() == name)
    }

    /// The commands that start all programs, gateways first.
    pub fn commands(&self) -> Vec<String> {
        let gateways = self
            .parties
            .iter()
            .filter_map(|party| party.gateway.as_ref());
        let gateways =
            gateways.map(|g| format!("passerelle-gateway --config {}", g.config.display()));
        let agents = self.parties.iter().map(|party| &party.agent);
        let agents =
            agents.map(|a| format!("passerelle agent run --config {}", a.config.display()));
        gateways.chain(agents).collect()
    }

    fn add_party(
        &self,
        id: PartyId,
        root: &SigningKey,
        options: &LabOptions,
        ports: &mut ports::Ports,
    ) -> Result<LabParty, LabError> {
        let directory = self.dir.join(id.as_str());
        fs::create_dir(&directory).map_err(io_at(&directory))?;
        let today = midnight(options.today);
        let authority = Authority::create(&id, today)?;
        let has_gateway = id.as_str() != CONTRACTOR;
        let gateway = match has_gateway {
            true => Some(self.place_gateway(&id, &directory, options, ports)?),
            false => None,
        };
        let agent = place_agent(&id, &directory, options, ports)?;
        let secrets = Secrets::create(&id, &directory, has_gateway)?;
        for (name, role) in names(gateway.as_ref(), &agent) {
            let stem = directory.join("tls").join(role.as_str());
            authority.issue(&name, today, &stem)?;
        }
        let certificate = directory.join("authority.pem");
        let key = directory.join("authority.key");
        fs::write(&certificate, authority.certificate()).map_err(io_at(&certificate))?;
        secrets::write(&key, authority.key())?;
        let advertised = gateway.as_ref().map(|gateway| {
            options
                .advertised
                .get(&id)
                .copied()
                .unwrap_or(gateway.address)
                .to_string()
        });
        let sheet = Sheet {
            party: id.clone(),
            seq: 1,
            issued: today,
            not_after: today.saturating_add(LIFE),
            addresses: advertised.into_iter().collect(),
            recipients: vec![secrets.recipient.public().clone()],
            tls: Tls {
                anchors: vec![authority.certificate()],
                pins: Vec::new(),
                names: names(gateway.as_ref(), &agent)
                    .into_iter()
                    .map(|(name, role)| TlsName { name, role })
                    .collect(),
            },
            log: secrets.log.as_ref().map(|log| SheetLog {
                origin: log_origin(&id),
                vkeys: log.verifier().to_vkeys(),
            }),
            keys: signing_keys(&secrets, today),
            revocations: Vec::new(),
        };
        let note = self.sheets.join(format!("{id}.note"));
        fs::write(&note, sheet.sign(root)?).map_err(io_at(&note))?;
        Ok(LabParty {
            root_key: self.dir.join("roots").join(format!("{id}.secret")),
            authority: (certificate, key),
            sheet: note,
            directory,
            gateway,
            agent,
            id,
        })
    }

    fn place_gateway(
        &self,
        id: &PartyId,
        directory: &Path,
        options: &LabOptions,
        ports: &mut ports::Ports,
    ) -> Result<LabGateway, LabError> {
        let address = match options.listen.get(id) {
            Some(address) => *address,
            None => ports.both().map_err(LabError::Port)?,
        };
        Ok(LabGateway {
            config: directory.join("gateway.toml"),
            data_dir: directory.join("gateway"),
            socket: socket(directory.join("gateway.sock"))?,
            address,
            metrics: ports.metrics(options.metrics).map_err(LabError::Port)?,
            tls_name: format!("gateway.{id}.laboratoire.test"),
        })
    }
}

fn place_agent(
    id: &PartyId,
    directory: &Path,
    options: &LabOptions,
    ports: &mut ports::Ports,
) -> Result<LabAgent, LabError> {
    Ok(LabAgent {
        config: directory.join("agent.toml"),
        directory: directory.join("agent"),
        socket: socket(directory.join("agent.sock"))?,
        metrics: ports.metrics(options.metrics).map_err(LabError::Port)?,
        tls_name: format!("agent.{id}.laboratoire.test"),
    })
}

fn names(gateway: Option<&LabGateway>, agent: &LabAgent) -> Vec<(String, Role)> {
    let gateway = gateway.map(|gateway| (gateway.tls_name.clone(), Role::Gateway));
    gateway
        .into_iter()
        .chain([(agent.tls_name.clone(), Role::Agent)])
        .collect()
}

fn signing_keys(secrets: &Secrets, today: Timestamp) -> Vec<SheetKey> {
    let agent = Some((&secrets.agent, KeyRole::Agent));
    let gateway = secrets.gateway.as_ref().map(|key| (key, KeyRole::Gateway));
    let both = agent.into_iter().chain(gateway);
    both.map(|(key, role)| SheetKey {
        key: key.verifying_key().clone(),
        roles: vec![role],
        not_before: today,
        not_after: today.saturating_add(LIFE),
    })
    .collect()
}

fn write_convention(
    dir: &Path,
    path: &Path,
    roots: &BTreeMap<PartyId, SigningKey>,
    options: &LabOptions,
) -> Result<(), LabError> {
    let keys = roots
        .iter()
        .map(|(id, key)| (id.clone(), key.verifying_key().clone()));
    let text = laboratory_convention(&keys.collect(), midnight(options.today), options.retention);
    UnsignedConvention::parse(&text)?;
    let plain = dir.join("convention.toml");
    fs::write(&plain, &text).map_err(io_at(&plain))?;
    let mut note = Note::unsigned(&text)?;
    for name in [PRODUCER, PARTNER] {
        if let Some(root) = roots.get(&PartyId::parse(name)?) {
            note.sign_with(root)?;
        }
    }
    fs::write(path, note.to_bytes()).map_err(io_at(path))
}

/// The directory's absolute path; it exists and is empty afterwards, and is its owner's alone.
fn empty_directory(dir: &Path) -> Result<PathBuf, LabError> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(dir).map_err(io_at(dir))?;
    let dir = dir.canonicalize().map_err(io_at(dir))?;
    if fs::read_dir(&dir).map_err(io_at(&dir))?.next().is_some() {
        return Err(LabError::Exists(dir));
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(io_at(&dir))?;
    Ok(dir)
}

fn socket(path: PathBuf) -> Result<PathBuf, LabError> {
    match path.as_os_str().len() {
        0..=SOCKET_PATH_LEN_MAX => Ok(path),
        _ => Err(LabError::LongPath(path)),
    }
}

/// The first instant of the day of `at`, in UTC.
fn midnight(at: Timestamp) -> Timestamp {
    const DAY_MS: i64 = 24 * 3600 * 1000;
    Timestamp::from_ms(at.as_ms().div_euclid(DAY_MS) * DAY_MS)
}

#[cfg(test)]
mod tests;
