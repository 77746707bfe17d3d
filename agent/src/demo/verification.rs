//! Verifying both audit logs from their files alone, against each other's cosignatures.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use passerelle_proto::audit::{verify_cosigned, verify_log};
use passerelle_proto::v1::{self, entry::Event};
use passerelle_proto::{Checkpoint, LogSigner, LogVerifier, read_secret_file};
use prost::Message;
use tokio::time::Instant;

use super::{DemoError, failed};
use crate::lab::{LabGateway, LabParty, Laboratory};

const STEP: &str = "verifying the audit logs";

struct Found {
    lines: Vec<String>,
    complete: bool,
}

/// Verifies until every receipt stands under a cosignature, at most for `limit`.
pub(super) async fn verify(
    laboratory: &Laboratory,
    limit: Duration,
) -> Result<Vec<String>, DemoError> {
    let until = Instant::now() + limit;
    loop {
        let lab = laboratory.clone();
        let looked = tokio::task::spawn_blocking(move || look(&lab)).await;
        let found = looked.map_err(failed(STEP))?;
        match found {
            Ok(Found {
                lines,
                complete: true,
            }) => return Ok(lines),
            Ok(_) if Instant::now() < until => {}
            // A log that is being written may be read between two of its files.
            Err(_) if Instant::now() < until => {}
            Ok(_) => {
                return Err(failed(STEP)(
                    "a receipt is not under the partner's cosignature",
                ));
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn keys(gateway: &LabGateway) -> Result<LogVerifier, DemoError> {
    let path = gateway.config.with_file_name("keys").join("log.secret");
    let text = read_secret_file(&path).map_err(failed(STEP))?;
    let signer = LogSigner::from_secret_text(&text).map_err(failed(STEP))?;
    Ok(signer.verifier().clone())
}

fn look(laboratory: &Laboratory) -> Result<Found, DemoError> {
    let mut lines = Vec::new();
    let mut complete = true;
    let gateways: Vec<(&LabParty, &LabGateway)> = with_gateway(laboratory).collect();
    let [one, two] = gateways.as_slice() else {
        return Err(failed(STEP)("there are not two gateways"));
    };
    for ((own, gateway), (partner, other)) in [(one, two), (two, one)] {
        let (log, cosigner) = (keys(gateway)?, keys(other)?);
        let dir = gateway.data_dir.join("log");
        let cosigned_path = format!("cosigned/{}.note", partner.id);
        let note = fs::read(dir.join(&cosigned_path)).map_err(failed(STEP))?;
        let (kept, _) = Checkpoint::verify_cosigned(&note, &cosigner).map_err(failed(STEP))?;
        let files = |path: &str| fs::read(dir.join(path)).ok();
        let mut kinds: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut last_receipt = 0;
        let count = |index: u64, bytes: &[u8]| {
            if let Some(kind) = receipt_kind(bytes) {
                *kinds.entry(kind).or_default() += 1;
                last_receipt = index + 1;
            }
        };
        let verified = verify_log(&files, &log, &[kept.size], count).map_err(failed(STEP))?;
        let (report, roots) = verified;
        let root_at = |size| {
            (size == kept.size)
                .then(|| roots.first().copied())
                .flatten()
        };
        let cosigned = verify_cosigned(&cosigned_path, &note, &log, &cosigner, root_at);
        let cosigned = cosigned.map_err(failed(STEP))?;
        complete &= last_receipt > 0 && cosigned.size >= last_receipt;
        let kinds: Vec<String> = kinds
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        lines.push(format!(
            "Audit log of {}: {} entries verified ({}), cosigned by {} up to entry {}",
            own.id,
            report.size,
            kinds.join(", "),
            partner.id,
            cosigned.size
        ));
    }
    Ok(Found { lines, complete })
}

/// Directories of all audit logs.
pub(super) fn logs(laboratory: &Laboratory) -> Vec<std::path::PathBuf> {
    let logs = with_gateway(laboratory).map(|(_, gateway)| gateway.data_dir.join("log"));
    logs.collect()
}

fn with_gateway(lab: &Laboratory) -> impl Iterator<Item = (&LabParty, &LabGateway)> {
    let parties = lab.parties.iter();
    parties.filter_map(|party| Some((party, party.gateway.as_ref()?)))
}

fn receipt_kind(bytes: &[u8]) -> Option<&'static str> {
    match v1::Entry::decode(bytes).ok()?.event? {
        Event::Accepted(_) => Some("packages"),
        Event::Statement(_) => Some("receipts"),
        _ => None,
    }
}
