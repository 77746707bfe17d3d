//! What changes while an agent runs: its certificate, its keys, and the notes in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use passerelle_link::AdoptError;
use passerelle_proto::{
    Digest, Expiry, KeyRole, PartyId, Problem, RecipientKeys, RecipientSecret, SigningKey,
    SigningKeys, Timestamp, Warnings, expiries, read_secret_file, v1,
};
use tokio::time::MissedTickBehavior;

use crate::config::{AgentConfig, ConfigError};
use crate::node::Node;

/// How often files are looked at: what replaces them counts soon after.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The secret keys of one agent.
pub(crate) struct Keys {
    pub(crate) signing: SigningKeys,
    pub(crate) recipients: RecipientKeys,
}

impl Keys {
    /// Reads all of them.
    ///
    /// # Errors
    /// Every problem at once, each with its file and a remedy.
    pub(crate) fn load(config: &AgentConfig) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let signing = config
            .agent_keys
            .iter()
            .filter_map(|path| {
                let parse = |text: &str| {
                    let key = SigningKey::from_secret_text(text).map_err(|e| e.to_string())?;
                    of_party(key.party(), &config.party).map(|()| key)
                };
                secret(path, parse, &mut problems)
            })
            .collect();
        let recipients = config
            .recipient_keys
            .iter()
            .filter_map(|path| {
                let parse = |text: &str| {
                    let key = RecipientSecret::from_secret_text(text).map_err(|e| e.to_string())?;
                    of_party(key.public().party(), &config.party).map(|()| key)
                };
                secret(path, parse, &mut problems)
            })
            .collect();
        let signing = SigningKeys::new(KeyRole::Agent, signing);
        match (signing, RecipientKeys::new(recipients)) {
            (Some(signing), Some(recipients)) if problems.is_empty() => Ok(Self {
                signing,
                recipients,
            }),
            _ => Err(ConfigError { problems }),
        }
    }
}

/// Looks after everything that changes, until the agent stops.
pub(crate) async fn keep_current(node: Arc<Node>) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut warnings = Warnings::default();
    loop {
        tokio::select! {
            () = node.stop.cancelled() => return,
            _ = look.tick() => {
                self::look(&node).await;
                warn(&node, &mut warnings);
            }
        }
    }
}

/// Takes over what has changed on the disk, once.
pub(crate) async fn look(node: &Arc<Node>) {
    let node = node.clone();
    let looked = passerelle_host::blocking(move || {
        match node.identity.reload_if_changed() {
            Ok(true) => {
                let until = Timestamp::from_ms(node.identity.not_after_s() * 1000);
                tracing::info!(%until, "new connections present the new certificate");
            }
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the certificate stays as it was"),
        }
        node.trust.look()
    });
    for (path, adopted) in looked.await.unwrap_or_default() {
        note_adopted(&path.display().to_string(), adopted);
    }
}

/// Reads the secret keys again that the configuration names.
///
/// # Errors
/// Every problem at once; the keys stay as they are then.
pub(crate) async fn reload_keys(node: &Arc<Node>) -> Result<(), ConfigError> {
    let file = node.config.file.clone();
    let read = move || Keys::load(&AgentConfig::load(&file)?);
    let Ok(read) = passerelle_host::blocking(read).await else {
        return Ok(());
    };
    let Keys {
        signing,
        recipients,
    } = read?;
    node.keys.replace(signing);
    node.recipients.replace(recipients);
    Ok(())
}

/// Says what came of a note.
pub(crate) fn note_adopted(from: &str, adopted: Result<Option<Digest>, AdoptError>) {
    match adopted {
        Ok(Some(digest)) => tracing::info!(from, %digest, "a newer note is in force"),
        Ok(None) => {}
        Err(error) => tracing::error!(from, %error, "a note was refused"),
    }
}

/// Says what ends soon, once a day each, and measures all of it.
fn warn(node: &Node, warnings: &mut Warnings) {
    let (found, now) = (node.expiries(), node.now());
    node.metrics.ends(&found, now);
    for expiry in warnings.due(&found, now) {
        tracing::warn!("{}", expiry.words(now));
    }
}

impl Node {
    /// What ends, the first to end first.
    pub(crate) fn expiries(&self) -> Vec<Expiry> {
        let certificate = Timestamp::from_ms(self.identity.not_after_s().saturating_mul(1000));
        expiries(&self.directory(), &self.party, Some(certificate))
    }

    /// The same for a status.
    pub(crate) fn expiry_messages(&self) -> Vec<v1::Expiry> {
        let (found, now) = (self.expiries(), self.now());
        found.iter().map(|expiry| expiry.to_message(now)).collect()
    }
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
    let read = read_secret_file(path);
    let text = read.map_err(|error| {
        let remedy = "a secret key file belongs to this user alone (mode 0600)";
        problems.push(problem(path, error.to_string(), remedy));
    });
    let parsed = parse(&text.ok()?);
    let parsed = parsed.map_err(|error| {
        let remedy = "make one with `passerelle keys new`, or name the right file";
        problems.push(problem(path, error.to_string(), remedy));
    });
    parsed.ok()
}

/// A problem with a file that the configuration names.
pub(crate) fn problem(file: &Path, what: String, remedy: &str) -> Problem {
    Problem {
        file: PathBuf::from(file),
        line: None,
        what,
        remedy: remedy.to_owned(),
    }
}
