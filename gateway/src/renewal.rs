//! What changes while a gateway runs: its certificate, its keys, and the notes in force.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use passerelle_link::AdoptError;
use passerelle_proto::v1::{self, Reason, entry::Event};
use passerelle_proto::{Digest, Expiry, Hop, Timestamp, Warnings, expiries};
use tokio::time::MissedTickBehavior;

use crate::config::{Config, ConfigError};
use crate::materials::{Keys, log_keys};
use crate::metrics::Gauge;
use crate::node::Node;

/// How often files are looked at: what replaces them counts soon after.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Looks after everything that changes, until the gateway stops.
pub(crate) async fn keep_current(node: Arc<Node>) {
    let mut trust = node.trust.subscribe();
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
            Ok(()) = trust.changed() => use_log_keys(&node).await,
        }
    }
}

/// Takes over what has changed on the disk, once.
pub(crate) async fn look(node: &Arc<Node>) {
    let looking = node.clone();
    let looked = passerelle_host::blocking(move || {
        match looking.identity.reload_if_changed() {
            Ok(true) => {
                let until = Timestamp::from_ms(looking.identity.not_after_s() * 1000);
                tracing::info!(%until, "new connections present the new certificate");
            }
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the certificate stays as it was"),
        }
        looking.trust.look()
    });
    for (path, adopted) in looked.await.unwrap_or_default() {
        note_adopted(node, &path.display().to_string(), None, adopted);
    }
}

/// Reads the secret keys again that the configuration names.
///
/// # Errors
/// Every problem at once; the keys stay as they are then.
pub(crate) async fn reload_keys(node: &Arc<Node>) -> Result<(), ConfigError> {
    let reading = node.clone();
    let read = passerelle_host::blocking(move || {
        let config = Config::load(&reading.config_file)?;
        Keys::load(&config)
    });
    let Ok(read) = read.await else { return Ok(()) };
    let Keys { signing, log } = read?;
    node.keys.replace(signing);
    {
        let signers = node.log_signers.write();
        *signers.unwrap_or_else(PoisonError::into_inner) = log;
    }
    use_log_keys(node).await;
    Ok(())
}

/// Signs the log with the keys that the newest sheet names.
async fn use_log_keys(node: &Arc<Node>) {
    let node = node.clone();
    let used = passerelle_host::blocking(move || {
        let directory = node.directory();
        let signers = node.log_signers.read();
        let signers = signers.unwrap_or_else(PoisonError::into_inner).clone();
        let mut ledger = node.sequencer.ledger();
        match log_keys(&signers, &directory, &node.party) {
            Some(keys) if keys.origin() == ledger.log.origin() => ledger.log.rekey(keys),
            Some(keys) => tracing::error!(
                wanted = keys.origin(),
                "the newest sheet of {} names another log: partners do not believe this one any \
                 more; stop the gateway and run `passerelle audit reconcile`",
                node.party
            ),
            None => tracing::error!(
                "the newest sheet of {} names log keys that are not configured here: partners \
                 do not believe the log's next checkpoints; name them in [keys] log",
                node.party
            ),
        }
    });
    let _ = used.await;
}

/// Follows up on a note that was looked at: recorded when it is in force now, and the end when
/// somebody has signed two texts under one number. `peer` has brought it; `None`: our own operator.
pub(crate) fn note_adopted(
    node: &Arc<Node>,
    from: &str,
    peer: Option<&Hop>,
    adopted: Result<Option<Digest>, AdoptError>,
) {
    match adopted {
        Ok(None) => {}
        Ok(Some(digest)) => {
            tracing::info!(from, %digest, "a newer note is in force");
            let event = Event::Configured(v1::ConfiguredEvent {
                what: "note".into(),
                sha256: digest.0.to_vec(),
            });
            let node = node.clone();
            tokio::spawn(async move {
                node.anchor.wait().await;
                if let Err(error) = node.sequencer.commit(event).await {
                    tracing::warn!(%error, "a newer note was not recorded");
                }
            });
        }
        Err(error) => {
            tracing::error!(from, %error, "a note was refused");
            if let Some(peer) = peer {
                node.refused(peer, None, Reason::Signature, "");
            }
            if error.is_conflict() {
                node.fail(error.to_string());
            }
        }
    }
}

/// Says what ends soon, once a day each, and measures all of it.
fn warn(node: &Node, warnings: &mut Warnings) {
    let (found, now) = (node.expiries(), node.now());
    for expiry in &found {
        let labels = [
            ("of", expiry.what.as_str()),
            ("owner", expiry.owner.as_str()),
        ];
        let left = expiry.seconds_left(now) as f64;
        node.metrics.set(Gauge::ExpirySeconds, &labels, left);
    }
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
