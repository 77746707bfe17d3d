//! `gateway.toml`: what it may say, and every mistake in it at once.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use passerelle_link::TransportChoice;
use passerelle_proto::{Document, KEYS_HELD_MAX, PartyId, Section};
pub use passerelle_proto::{Placed, Problem};

pub use crate::time_stamp::TimeStampConfig;

/// A configuration file is at most this long, in bytes.
const CONFIG_BYTES_MAX: u64 = 256 * 1024;
/// Seconds that open transfers get to finish after SIGTERM, unless configured.
const GRACE_S_DEFAULT: u64 = 20;
/// Bytes that the spool may hold in total, unless configured.
const SPOOL_BYTES_MAX_DEFAULT: u64 = 256 << 30;
/// Bytes that may wait for one next hop, unless configured.
const HOP_BYTES_MAX_DEFAULT: u64 = 128 << 30;
/// Bytes that unfinished incoming packages may hold in total, unless configured.
const PARTIAL_BYTES_MAX_DEFAULT: u64 = 128 << 30;
/// Largest package in bytes, unless configured; flows may allow less, never more than this.
const PACKAGE_BYTES_MAX_DEFAULT: u64 = 64 << 30;
/// Connections from parties and strangers together, unless configured.
const CONNECTIONS_MAX_DEFAULT: u64 = 256;

/// Seconds after which a cosignature is late, unless configured: two hours.
const COSIGNATURE_AGE_ALERT_S_DEFAULT: u64 = 2 * 3600;
/// Seconds after which no packages are taken without a newer cosignature, unless configured: a
/// week.
const COSIGNATURE_AGE_STOP_S_DEFAULT: u64 = 7 * 24 * 3600;

const ROOT_EXAMPLE: &str = "\"the root key's fingerprint, as the signed letter shows it\"";

/// Everything a gateway is told. Paths are absolute or relative to the process, already resolved
/// against the folder of the configuration file.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where this was read from, for messages.
    pub file: PathBuf,
    /// The party whose gateway this is.
    pub party: PartyId,
    /// Folder of the log, the queue and the spool; one gateway at a time uses it.
    pub data_dir: PathBuf,
    /// UDP and TCP address that partners and agents dial.
    pub listen: SocketAddr,
    /// Transport used when this gateway dials.
    pub transport: TransportChoice,
    /// How long open transfers may go on after a request to stop.
    pub grace: Duration,
    /// Certificate chain in PEM, leaf first.
    pub tls_certificate: PathBuf,
    /// Private key of the certificate in PEM; readable by its owner only.
    pub tls_key: PathBuf,
    /// The gateway's signing keys, readable by their owner only; the newest one that the party's
    /// sheet lists signs.
    pub gateway_keys: Vec<PathBuf>,
    /// The keys that sign the log's checkpoints, readable by their owner only; the one in the
    /// party's sheet signs.
    pub log_keys: Vec<PathBuf>,
    /// The convention's signed note.
    pub convention: PathBuf,
    /// Folder of party sheets (signed notes).
    pub sheets: PathBuf,
    /// Root key fingerprint of each signatory, as compared on paper.
    pub roots: Vec<(PartyId, Placed<String>)>,
    /// Unix socket of the operator's API.
    pub admin_socket: PathBuf,
    /// Loopback address of `/metrics`; absent: not served.
    pub metrics_listen: Option<SocketAddr>,
    /// Where our log is time-stamped; absent: nowhere.
    pub time_stamp: Option<TimeStampConfig>,
    /// What may grow, and how far.
    pub limits: Limits,
}

/// Upper bounds that an operator may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest package accepted, in bytes of ciphertext.
    pub package_bytes_max: u64,
    /// Bytes of the whole spool.
    pub spool_bytes_max: u64,
    /// Bytes that wait for one next hop.
    pub hop_bytes_max: u64,
    /// Bytes of unfinished incoming packages.
    pub partial_bytes_max: u64,
    /// Connections open at once.
    pub connections_max: usize,
    /// Age of a partner's cosignature over our log at which somebody is to look.
    pub cosignature_age_alert: Duration,
    /// Age of every partner's cosignature at which no more packages are taken while a partner can
    /// be reached.
    pub cosignature_age_stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            package_bytes_max: PACKAGE_BYTES_MAX_DEFAULT,
            spool_bytes_max: SPOOL_BYTES_MAX_DEFAULT,
            hop_bytes_max: HOP_BYTES_MAX_DEFAULT,
            partial_bytes_max: PARTIAL_BYTES_MAX_DEFAULT,
            connections_max: CONNECTIONS_MAX_DEFAULT as usize,
            cosignature_age_alert: Duration::from_secs(COSIGNATURE_AGE_ALERT_S_DEFAULT),
            cosignature_age_stop: Duration::from_secs(COSIGNATURE_AGE_STOP_S_DEFAULT),
        }
    }
}

/// The configuration cannot be used; every reason at once, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// In the order of the file's lines, then the files that it names.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and parses a configuration file; opens nothing that it names.
    ///
    /// # Errors
    /// Every mistake in the file, each with its line and a remedy.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = read_bounded(file).map_err(|error| ConfigError {
            problems: vec![Problem {
                file: file.to_path_buf(),
                line: None,
                what: format!("cannot be read: {error}"),
                remedy: "name an existing file with --config FILE".to_owned(),
            }],
        })?;
        Self::parse(file, &text)
    }

    /// Parses the text of a configuration; `file` names it in messages and anchors its paths.
    ///
    /// # Errors
    /// Every mistake in the text, each with its line and a remedy.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let (mut document, mut root) = Document::parse(file, text);
        let base = file.parent().unwrap_or(Path::new("."));
        let party_text = document.required(&mut root, "party", "\"grand-dijon\"");
        let party = document.parsed::<PartyId>("party", party_text, "\"grand-dijon\"");
        let data_dir = document.required(&mut root, "data_dir", "\"/var/lib/passerelle\"");
        let listen_text = document.required(&mut root, "listen", "\"0.0.0.0:7443\"");
        let listen = document.parsed::<SocketAddr>("listen", listen_text, "\"0.0.0.0:7443\"");
        let transport = transport(&mut document, &mut root);
        let grace_s = document.number(&mut root, "grace_s", GRACE_S_DEFAULT, 0);
        let mut tls = document.section(&mut root, "tls");
        let certificate = document.required(&mut tls, "certificate", "\"tls/gateway.pem\"");
        let tls_key = document.required(&mut tls, "key", "\"tls/gateway.key\"");
        document.close(tls);
        let mut keys = document.section(&mut root, "keys");
        let example = "\"keys/gateway.secret\"";
        let gateway_keys = document.required_some(&mut keys, "gateway", KEYS_HELD_MAX, example);
        let example = "\"keys/log.secret\"";
        let log_keys = document.required_some(&mut keys, "log", KEYS_HELD_MAX, example);
        document.close(keys);
        let mut trust = document.section(&mut root, "trust");
        let convention = document.required(&mut trust, "convention", "\"convention.note\"");
        let sheets = document.required(&mut trust, "sheets", "\"sheets\"");
        let roots = roots(&mut document, &mut trust);
        document.close(trust);
        let mut admin = document.section(&mut root, "admin");
        let socket = document.optional(&mut admin, "socket", "\"/run/passerelle/admin.sock\"");
        document.close(admin);
        let metrics_listen = metrics_listen(&mut document, &mut root);
        let time_stamp = TimeStampConfig::read(&mut document, &mut root, base);
        let limits = limits(&mut document, &mut root);
        document.close(root);

        let problems = document.into_problems();
        let path = |text: &Placed<String>| base.join(&text.value);
        let paths = |texts: &[String]| texts.iter().map(|text| base.join(text)).collect();
        match (party, data_dir, listen, certificate, tls_key) {
            (Some(party), Some(data), Some(listen), Some(cert), Some(tls_key))
                if problems.is_empty() =>
            {
                let (Some(convention), Some(sheets)) = (convention, sheets) else {
                    return Err(ConfigError { problems });
                };
                let data_dir = path(&data);
                Ok(Self {
                    file: file.to_path_buf(),
                    party: party.value,
                    listen: listen.value,
                    transport,
                    grace: Duration::from_secs(grace_s),
                    tls_certificate: path(&cert),
                    tls_key: path(&tls_key),
                    gateway_keys: paths(&gateway_keys),
                    log_keys: paths(&log_keys),
                    convention: path(&convention),
                    sheets: path(&sheets),
                    roots,
                    admin_socket: socket.map_or(data_dir.join("admin.sock"), |text| path(&text)),
                    metrics_listen,
                    time_stamp,
                    limits,
                    data_dir,
                })
            }
            _ => Err(ConfigError { problems }),
        }
    }
}

fn transport<'i>(document: &mut Document<'i>, root: &mut Section<'i>) -> TransportChoice {
    let Some(text) = document.optional(root, "transport", "\"auto\"") else {
        return TransportChoice::Auto;
    };
    match text.value.as_str() {
        "auto" => TransportChoice::Auto,
        "quic" => TransportChoice::Quic,
        "tcp" => TransportChoice::Tcp,
        other => {
            let what = format!("transport = {other:?} is not known");
            document.add(Some(text.line), what, "use one of: auto, quic, tcp");
            TransportChoice::Auto
        }
    }
}

fn roots<'i>(
    document: &mut Document<'i>,
    trust: &mut Section<'i>,
) -> Vec<(PartyId, Placed<String>)> {
    let section = document.section(trust, "roots");
    let line = section.line();
    let mut roots = Vec::new();
    for (name, pin) in document.texts(section) {
        match name.parse::<PartyId>() {
            Ok(party) => roots.push((party, pin)),
            Err(error) => {
                let what = format!("[roots] {name} is not a party: {error}");
                document.add(
                    Some(pin.line),
                    what,
                    "use the party's id, as in the convention",
                );
            }
        }
    }
    if roots.len() < 2 {
        let what = "[trust.roots] does not name both signatories";
        let remedy = format!("add one line per signatory: party = {ROOT_EXAMPLE}");
        document.add(Some(line), what, remedy);
    }
    roots
}

fn metrics_listen<'i>(document: &mut Document<'i>, root: &mut Section<'i>) -> Option<SocketAddr> {
    let example = "\"127.0.0.1:9464\"";
    let mut section = document.section(root, "metrics");
    let text = document.optional(&mut section, "listen", example);
    document.close(section);
    let address = document.parsed::<SocketAddr>("[metrics] listen", text, example)?;
    if !loopback(address.value.ip()) {
        let what = format!(
            "[metrics] listen = {}: not a loopback address",
            address.value
        );
        document.add(
            Some(address.line),
            what,
            format!("write: listen = {example}"),
        );
    }
    Some(address.value)
}

fn loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn limits<'i>(document: &mut Document<'i>, root: &mut Section<'i>) -> Limits {
    let mut section = document.section(root, "limits");
    let mut bytes = |key, default| document.number(&mut section, key, default, 1 << 20);
    let mut limits = Limits {
        package_bytes_max: bytes("package_bytes_max", PACKAGE_BYTES_MAX_DEFAULT),
        spool_bytes_max: bytes("spool_bytes_max", SPOOL_BYTES_MAX_DEFAULT),
        hop_bytes_max: bytes("hop_bytes_max", HOP_BYTES_MAX_DEFAULT),
        partial_bytes_max: bytes("partial_bytes_max", PARTIAL_BYTES_MAX_DEFAULT),
        ..Limits::default()
    };
    let count = document.number(&mut section, "connections_max", CONNECTIONS_MAX_DEFAULT, 4);
    limits.connections_max = usize::try_from(count).unwrap_or(usize::MAX);
    let mut seconds = |key, default| {
        let seconds = document.number(&mut section, key, default, 1);
        Duration::from_secs(seconds)
    };
    let alert = seconds("cosignature_age_alert_s", COSIGNATURE_AGE_ALERT_S_DEFAULT);
    let stop = seconds("cosignature_age_stop_s", COSIGNATURE_AGE_STOP_S_DEFAULT);
    (limits.cosignature_age_alert, limits.cosignature_age_stop) = (alert, stop);
    let line = section.line();
    document.close(section);
    if stop < alert {
        let what = "[limits] cosignature_age_stop_s is below cosignature_age_alert_s";
        let remedy = "alert first: write a larger cosignature_age_stop_s";
        document.add(Some(line), what, remedy);
    }
    limits
}

fn read_bounded(file: &Path) -> std::io::Result<String> {
    let length = std::fs::metadata(file)?.len();
    if length > CONFIG_BYTES_MAX {
        let what = format!("{length} bytes; at most {CONFIG_BYTES_MAX} are allowed");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, what));
    }
    std::fs::read_to_string(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
party = "grand-dijon"
data_dir = "data"
listen = "127.0.0.1:7443"
[tls]
certificate = "gateway.pem"
key = "gateway.key"
[keys]
gateway = "gateway.secret"
log = "log.secret"
[trust]
convention = "convention.note"
sheets = "sheets"
[trust.roots]
caf21 = "00"
grand-dijon = "11"
"#;

    fn problems(text: &str) -> Vec<(Option<usize>, String)> {
        let error = Config::parse(Path::new("/etc/gateway.toml"), text).unwrap_err();
        let found = error.problems.into_iter();
        found.map(|problem| (problem.line, problem.what)).collect()
    }

    #[test]
    fn paths_are_relative_to_the_file_and_the_rest_has_defaults() {
        let config = Config::parse(Path::new("/etc/p/gateway.toml"), GOOD).unwrap();
        assert_eq!(config.data_dir, Path::new("/etc/p/data"));
        assert_eq!(config.admin_socket, Path::new("/etc/p/data/admin.sock"));
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.metrics_listen, None);
        assert_eq!(config.roots.len(), 2);
    }

    #[test]
    fn one_key_or_several_may_be_named() {
        let config = Config::parse(Path::new("/etc/gateway.toml"), GOOD).unwrap();
        assert_eq!(config.log_keys, [Path::new("/etc/log.secret")]);
        let text = GOOD.replace("\"log.secret\"", "[\"new.secret\", \"log.secret\"]");
        let config = Config::parse(Path::new("/etc/gateway.toml"), &text).unwrap();
        let both = [Path::new("/etc/new.secret"), Path::new("/etc/log.secret")];
        assert_eq!(config.log_keys, both);
        let found = problems(&GOOD.replace("\"log.secret\"", "[]"));
        assert_eq!(found.len(), 1);
        assert!(found[0].1.contains("[keys] log lists 0"), "{found:?}");
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_their_lines() {
        let text = GOOD
            .replace("\"127.0.0.1:7443\"", "\"nowhere\"")
            .replace("key = \"gateway.key\"", "key = 3")
            .replace("log = ", "logg = ");
        let found = problems(&text);
        let lines: Vec<_> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [Some(4), Some(7), Some(8), Some(10)], "{found:?}");
        assert!(found[0].1.contains("nowhere"));
        assert!(found[2].1.contains("[keys] log is missing"));
        assert!(found[3].1.contains("[keys] logg is not a known key"));
    }

    #[test]
    fn a_syntax_error_does_not_hide_the_others() {
        let found = problems(&GOOD.replace("data_dir = \"data\"", "data_dir = "));
        assert!(found.iter().any(|(line, _)| *line == Some(3)), "{found:?}");
    }

    #[test]
    fn packages_are_never_put_off_before_somebody_was_alerted() {
        let limits = "[limits]\ncosignature_age_alert_s = 10\ncosignature_age_stop_s = ";
        let found = problems(&format!("{GOOD}{limits}9\n"));
        assert!(
            found[0].1.contains("cosignature_age_stop_s is below"),
            "{found:?}"
        );
        let text = format!("{GOOD}{limits}20\n");
        let config = Config::parse(Path::new("/etc/gateway.toml"), &text).unwrap();
        assert_eq!(config.limits.cosignature_age_alert.as_secs(), 10);
        assert_eq!(config.limits.cosignature_age_stop.as_secs(), 20);
    }

    #[test]
    fn metrics_are_served_on_loopback_only() {
        let found = problems(&format!("{GOOD}\n[metrics]\nlisten = \"10.0.0.1:9464\"\n"));
        assert_eq!(found.len(), 1);
        assert!(found[0].1.contains("loopback"));
    }

    #[test]
    fn one_root_is_not_enough() {
        let found = problems(&GOOD.replace("caf21 = \"00\"\n", ""));
        assert_eq!(found.len(), 1);
        assert!(found[0].1.contains("both signatories"));
    }
}
