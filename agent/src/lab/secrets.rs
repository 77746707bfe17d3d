//! The secret keys of one party of a laboratory.

use std::fs;
use std::path::Path;

use passerelle_proto::{LogSigner, PartyId, RecipientSecret, SigningKey, write_secret_file};

use super::{LabError, io_at};

/// What a party's programs sign and open with.
pub(super) struct Secrets {
    pub(super) agent: SigningKey,
    pub(super) recipient: RecipientSecret,
    pub(super) gateway: Option<SigningKey>,
    pub(super) log: Option<LogSigner>,
}

impl Secrets {
    /// Makes new keys and writes them to `keys/` and an empty `tls/` into `directory`.
    pub(super) fn create(
        id: &PartyId,
        directory: &Path,
        has_gateway: bool,
    ) -> Result<Secrets, LabError> {
        let keys = directory.join("keys");
        for folder in [&keys, &directory.join("tls")] {
            fs::create_dir(folder).map_err(io_at(folder))?;
        }
        let secrets = Secrets {
            agent: SigningKey::generate(id),
            recipient: RecipientSecret::generate(id),
            gateway: has_gateway.then(|| SigningKey::generate(id)),
            log: has_gateway.then(|| LogSigner::generate(id)),
        };
        write(&keys.join("agent.secret"), &secrets.agent.to_secret_text())?;
        write(
            &keys.join("recipient.secret"),
            &secrets.recipient.to_secret_text(),
        )?;
        if let Some(key) = &secrets.gateway {
            write(&keys.join("gateway.secret"), &key.to_secret_text())?;
        }
        if let Some(key) = &secrets.log {
            write(&keys.join("log.secret"), &key.to_secret_text())?;
        }
        Ok(secrets)
    }
}

/// Writes a secret, readable by its owner only.
pub(super) fn write(path: &Path, text: &str) -> Result<(), LabError> {
    Ok(write_secret_file(path, text)?)
}
