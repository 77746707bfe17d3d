//! `agent.toml`: what it may say, and every mistake in it at once.
//!
//! ```toml
//! party = "caf21"
//! directory = "/var/lib/passerelle-agent"
//! transport = "auto"                       # auto | quic | tcp
//! [tls]
//! certificate = "tls/agent.pem"
//! key = "tls/agent.key"
//! [keys]
//! agent = "keys/agent.secret"              # signs; or a list: the newest in the sheet signs
//! recipient = "keys/recipient.secret"      # opens; or a list: whichever a package is sealed for
//! [trust]
//! convention = "convention.note"
//! sheets = "sheets"
//! [trust.roots]
//! caf21 = "…"
//! grand-dijon = "…"
//! [socket]
//! path = "/run/passerelle/agent.sock"      # default: agent.sock in the directory
//! [metrics]
//! listen = "127.0.0.1:9465"
//! [hooks]
//! on_receive = ["/usr/local/bin/arrivee"]  # the package id is appended
//! [limits]
//! settle_ms = 2000
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use passerelle_link::TransportChoice;
use passerelle_proto::{Document, KEYS_HELD_MAX, PartyId, Placed, Problem, Section};

/// Exit code for a configuration that cannot be used (`EX_CONFIG` of sysexits.h).
pub const EXIT_CONFIG: u8 = 78;

/// A configuration file is at most this long, in bytes.
const CONFIG_BYTES_MAX: u64 = 256 * 1024;
/// Milliseconds that a dropped entry must not change, unless configured.
const SETTLE_MS_DEFAULT: u64 = 2_000;
/// Milliseconds between two looks at the outbox, unless configured.
const POLL_MS_DEFAULT: u64 = 500;
/// Longest allowed interval between two looks, in milliseconds.
const POLL_MS_MAX: u64 = 1_000;
/// Largest package in bytes, unless configured; flows may allow less, never more than this.
const PACKAGE_BYTES_MAX_DEFAULT: u64 = 64 << 30;
/// Seconds that open transfers get to finish after a request to stop, unless configured.
const GRACE_S_DEFAULT: u64 = 20;

const ROOT_EXAMPLE: &str = "\"the root key's fingerprint, as the signed letter shows it\"";

/// Everything an agent is told. Paths are absolute or relative to the process, already resolved
/// against the folder of the configuration file.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Where this was read from, for messages.
    pub file: PathBuf,
    /// The party whose agent this is.
    pub party: PartyId,
    /// Root of outbox, work, sent, rejected, incoming, opening, received and inbox.
    pub directory: PathBuf,
    /// Transport used to reach the gateway.
    pub transport: TransportChoice,
    /// How long open transfers may go on after a request to stop.
    pub grace: Duration,
    /// Certificate chain in PEM, leaf first.
    pub tls_certificate: PathBuf,
    /// Private key of the certificate in PEM; readable by its owner only.
    pub tls_key: PathBuf,
    /// The agent's signing keys, readable by their owner only; the newest one that the party's
    /// sheet lists signs.
    pub agent_keys: Vec<PathBuf>,
    /// The keys that open packages, readable by their owner only.
    pub recipient_keys: Vec<PathBuf>,
    /// The convention's signed note.
    pub convention: PathBuf,
    /// Folder of party sheets (signed notes).
    pub sheets: PathBuf,
    /// Root key fingerprint of each signatory, as compared on paper.
    pub roots: Vec<(PartyId, Placed<String>)>,
    /// Unix socket of the command line's API.
    pub socket: PathBuf,
    /// Loopback address of `/metrics`; absent: not served.
    pub metrics_listen: Option<SocketAddr>,
    /// Program and arguments told of each received package; empty: none.
    pub on_receive: Vec<String>,
    /// What may grow or wait, and how far.
    pub limits: AgentLimits,
}

/// Bounds that an operator may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentLimits {
    /// Time that a dropped entry must not change before it is claimed.
    pub settle: Duration,
    /// Time between two looks at the outbox; at most one second.
    pub poll: Duration,
    /// Largest package, in bytes of ciphertext.
    pub package_bytes_max: u64,
}

impl Default for AgentLimits {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(SETTLE_MS_DEFAULT),
            poll: Duration::from_millis(POLL_MS_DEFAULT),
            package_bytes_max: PACKAGE_BYTES_MAX_DEFAULT,
        }
    }
}

/// The configuration cannot be used; every reason at once, never empty. The process exits with
/// [`EXIT_CONFIG`].
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

/// The texts of the required keys, where they were found.
struct Required {
    party: Option<Placed<PartyId>>,
    directory: Option<Placed<String>>,
    certificate: Option<Placed<String>>,
    tls_key: Option<Placed<String>>,
    agent_keys: Vec<String>,
    recipient_keys: Vec<String>,
    convention: Option<Placed<String>>,
    sheets: Option<Placed<String>>,
}

impl AgentConfig {
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
        let (required, roots) = required(&mut document, &mut root);
        let transport = transport(&mut document, &mut root);
        let grace_s = document.number(&mut root, "grace_s", GRACE_S_DEFAULT, 0);
        let mut section = document.section(&mut root, "socket");
        let socket = document.optional(&mut section, "path", "\"/run/passerelle/agent.sock\"");
        document.close(section);
        let metrics_listen = metrics_listen(&mut document, &mut root);
        let mut hooks = document.section(&mut root, "hooks");
        let on_receive = document.list(&mut hooks, "on_receive", "[\"/usr/local/bin/arrivee\"]");
        document.close(hooks);
        let limits = limits(&mut document, &mut root);
        document.close(root);

        let problems = document.into_problems();
        let unusable = || ConfigError {
            problems: problems.clone(),
        };
        let path =
            |text: Option<Placed<String>>| text.map(|t| base.join(t.value)).ok_or_else(unusable);
        let paths = |texts: Vec<String>| texts.iter().map(|text| base.join(text)).collect();
        if !problems.is_empty() {
            return Err(unusable());
        }
        let directory = path(required.directory)?;
        Ok(Self {
            file: file.to_path_buf(),
            party: required.party.ok_or_else(unusable)?.value,
            transport,
            grace: Duration::from_secs(grace_s),
            tls_certificate: path(required.certificate)?,
            tls_key: path(required.tls_key)?,
            agent_keys: paths(required.agent_keys),
            recipient_keys: paths(required.recipient_keys),
            convention: path(required.convention)?,
            sheets: path(required.sheets)?,
            roots,
            socket: socket.map_or(directory.join("agent.sock"), |t| base.join(t.value)),
            metrics_listen,
            on_receive,
            limits,
            directory,
        })
    }
}

fn required<'i>(
    document: &mut Document<'i>,
    root: &mut Section<'i>,
) -> (Required, Vec<(PartyId, Placed<String>)>) {
    let party_text = document.required(root, "party", "\"caf21\"");
    let party = document.parsed::<PartyId>("party", party_text, "\"caf21\"");
    let directory = document.required(root, "directory", "\"/var/lib/passerelle-agent\"");
    let mut tls = document.section(root, "tls");
    let certificate = document.required(&mut tls, "certificate", "\"tls/agent.pem\"");
    let tls_key = document.required(&mut tls, "key", "\"tls/agent.key\"");
    document.close(tls);
    let mut keys = document.section(root, "keys");
    let example = "\"keys/agent.secret\"";
    let agent_keys = document.required_some(&mut keys, "agent", KEYS_HELD_MAX, example);
    let example = "\"keys/recipient.secret\"";
    let recipient_keys = document.required_some(&mut keys, "recipient", KEYS_HELD_MAX, example);
    document.close(keys);
    let mut trust = document.section(root, "trust");
    let convention = document.required(&mut trust, "convention", "\"convention.note\"");
    let sheets = document.required(&mut trust, "sheets", "\"sheets\"");
    let roots = roots(document, &mut trust);
    document.close(trust);
    let required = Required {
        party,
        directory,
        certificate,
        tls_key,
        agent_keys,
        recipient_keys,
        convention,
        sheets,
    };
    (required, roots)
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
    let example = "\"127.0.0.1:9465\"";
    let mut section = document.section(root, "metrics");
    let text = document.optional(&mut section, "listen", example);
    document.close(section);
    let address = document.parsed::<SocketAddr>("[metrics] listen", text, example)?;
    if !address.value.ip().to_canonical().is_loopback() {
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

fn limits<'i>(document: &mut Document<'i>, root: &mut Section<'i>) -> AgentLimits {
    let mut section = document.section(root, "limits");
    let settle_ms = document.number(&mut section, "settle_ms", SETTLE_MS_DEFAULT, 0);
    let mut poll_ms = document.number(&mut section, "poll_ms", POLL_MS_DEFAULT, 10);
    let package_bytes_max = document.number(
        &mut section,
        "package_bytes_max",
        PACKAGE_BYTES_MAX_DEFAULT,
        1 << 20,
    );
    if poll_ms > POLL_MS_MAX {
        let what = format!("[limits] poll_ms = {poll_ms} is more than {POLL_MS_MAX}");
        let remedy = format!("write: poll_ms = {POLL_MS_DEFAULT}");
        document.add(Some(section.line()), what, remedy);
        poll_ms = POLL_MS_MAX;
    }
    document.close(section);
    AgentLimits {
        settle: Duration::from_millis(settle_ms),
        poll: Duration::from_millis(poll_ms),
        package_bytes_max,
    }
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
party = "caf21"
directory = "agent"
[tls]
certificate = "agent.pem"
key = "agent.key"
[keys]
agent = "agent.secret"
recipient = "recipient.secret"
[trust]
convention = "convention.note"
sheets = "sheets"
[trust.roots]
caf21 = "00"
grand-dijon = "11"
"#;

    fn problems(text: &str) -> Vec<(Option<usize>, String)> {
        let error = AgentConfig::parse(Path::new("/etc/agent.toml"), text).unwrap_err();
        let found = error.problems.into_iter();
        found.map(|problem| (problem.line, problem.what)).collect()
    }

    #[test]
    fn paths_are_relative_to_the_file_and_the_rest_has_defaults() {
        let config = AgentConfig::parse(Path::new("/etc/p/agent.toml"), GOOD).unwrap();
        assert_eq!(config.directory, Path::new("/etc/p/agent"));
        assert_eq!(config.socket, Path::new("/etc/p/agent/agent.sock"));
        assert_eq!(config.limits, AgentLimits::default());
        assert_eq!(config.on_receive, Vec::<String>::new());
        assert_eq!(config.roots.len(), 2);
    }

    #[test]
    fn all_mistakes_are_reported_at_once_with_their_lines() {
        let text = GOOD
            .replace("directory = ", "dir = ")
            .replace("key = \"agent.key\"", "key = 3")
            .replace("caf21 = \"00\"\n", "");
        let text = format!("{text}[hooks]\non_receive = \"x\"\n[limits]\npoll_ms = 5000\n");
        let found = problems(&text);
        for part in [
            "directory is missing",
            "dir is not a known key",
            "key is a integer",
            "both signatories",
            "on_receive is not a list",
            "poll_ms = 5000",
        ] {
            assert!(
                found.iter().any(|(_, what)| what.contains(part)),
                "{part}: {found:?}"
            );
        }
        assert!(found.iter().all(|(line, _)| line.is_some()), "{found:?}");
    }

    #[test]
    fn metrics_are_served_on_loopback_only() {
        let found = problems(&format!("{GOOD}\n[metrics]\nlisten = \"10.0.0.1:9464\"\n"));
        assert_eq!(found.len(), 1);
        assert!(found[0].1.contains("loopback"));
    }
}
