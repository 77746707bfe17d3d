//! The whole exchange in one process: a laboratory, a table to two recipients, a report back, its
//! acknowledgement, and both audit logs verified against each other's cosignatures.

mod iris;
mod table;
mod verification;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use passerelle_gateway::{Config, Gateway};
use passerelle_proto::v1::statement::What;
use passerelle_proto::{Digest, PackageId, PartyId};
use tokio::sync::broadcast;

use crate::config::AgentConfig;
use crate::daemon::Agent;
use crate::event::AgentEvent;
use crate::lab::{LabOptions, Laboratory};
use crate::node::now;

/// Longest wait for one step of the demo.
const STEP_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a package of the user's own, which may be large.
const TRANSFER_MAX: Duration = Duration::from_secs(3600);

/// Tells a person what happens, step by step.
pub trait Narrator {
    /// Something has happened.
    fn tell(&mut self, line: &str);
    /// A step begins that takes a while.
    fn begin(&mut self, what: &str);
    /// That step has ended.
    fn end(&mut self);
}

/// What to demonstrate.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// New directory for the laboratory.
    pub directory: PathBuf,
    /// A file to send instead of the synthetic table.
    pub file: Option<PathBuf>,
}

/// What was shown.
#[derive(Debug, Clone, serde::Serialize)]
pub struct DemoReport {
    /// Where the laboratory is.
    pub directory: PathBuf,
    /// Directories of the audit logs.
    pub logs: Vec<PathBuf>,
    /// The table's package.
    pub package: String,
    /// The report's package.
    pub report: String,
    /// Files that arrived, by recipient.
    pub received: Vec<PathBuf>,
    /// What the verification of both logs found.
    pub audit: Vec<String>,
    /// Milliseconds from the drop to the last receipt.
    pub exchange_ms: u64,
}

/// A step of the demo that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {why}")]
pub struct DemoError {
    /// Which step.
    pub step: &'static str,
    /// What went wrong.
    pub why: String,
}

pub(crate) fn failed<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> DemoError {
    move |error| DemoError {
        step,
        why: error.to_string(),
    }
}

/// A demo that runs: both gateways and three agents.
pub struct Demo {
    laboratory: Laboratory,
    gateways: Vec<Gateway>,
    agents: Vec<Agent>,
}

impl Demo {
    /// Makes the laboratory and starts everything in it.
    ///
    /// # Errors
    /// [`DemoError`] names the step.
    pub async fn start(
        options: &DemoOptions,
        narrator: &mut dyn Narrator,
    ) -> Result<Self, DemoError> {
        const STEP: &str = "making the laboratory";
        let lab_options = LabOptions {
            settle_ms: 100,
            poll_ms: 50,
            ..LabOptions::new(now())
        };
        let directory = options.directory.clone();
        let made = move || Laboratory::create(&directory, &lab_options);
        let made = tokio::task::spawn_blocking(made)
            .await
            .map_err(failed(STEP))?;
        let laboratory = made.map_err(failed(STEP))?;
        narrator.tell(&format!(
            "Laboratory: authorities, keys, sheets and a signed convention for CAF 21, Grand \
             Dijon and its contractor, in {}",
            laboratory.dir.display()
        ));
        let mut gateways = Vec::new();
        for party in &laboratory.parties {
            const STEP: &str = "starting a gateway";
            let Some(gateway) = &party.gateway else {
                continue;
            };
            let config = Config::load(&gateway.config).map_err(failed(STEP))?;
            gateways.push(Gateway::start(config).await.map_err(failed(STEP))?);
            narrator.tell(&format!(
                "Gateway of {} listens on {} (QUIC and TCP)",
                party.id, gateway.address
            ));
        }
        let mut agents = Vec::new();
        for party in &laboratory.parties {
            const STEP: &str = "starting an agent";
            let config = AgentConfig::load(&party.agent.config).map_err(failed(STEP))?;
            agents.push(Agent::start(config).await.map_err(failed(STEP))?);
        }
        for agent in &agents {
            connected(agent, narrator).await?;
        }
        Ok(Self {
            laboratory,
            gateways,
            agents,
        })
    }

    /// Sends, receives, reports back, acknowledges and verifies.
    ///
    /// # Errors
    /// [`DemoError`] names the step that was not verified.
    pub async fn run(
        &self,
        options: &DemoOptions,
        narrator: &mut dyn Narrator,
    ) -> Result<DemoReport, DemoError> {
        let [caf, dijon, contractor] = self.agents.as_slice() else {
            return Err(failed("starting the agents")("there are not three of them"));
        };
        let (name, bytes) = source(options)?;
        let begun = Instant::now();
        let mut caf_events = caf.events();
        let mut receiving = [dijon.events(), contractor.events()];
        let dropped = caf.directory().join("outbox/observation-iris").join(&name);
        drop_file(&dropped, &bytes)?;
        let size = crate::cli::Bytes(bytes.len() as u64);
        narrator.tell(&format!("CAF 21 drops {name} ({size}) into its outbox"));
        narrator.begin("sealing and sending");
        let package = sealed(&mut caf_events, narrator).await?;
        let mut received = Vec::new();
        for (events, agent) in receiving.iter_mut().zip([dijon, contractor]) {
            let path = arrived(events, package).await?;
            let file = path.join(&name);
            same(&file, &bytes)?;
            let from = path.strip_prefix(agent.directory()).unwrap_or(&path);
            narrator.tell(&format!(
                "Received, byte for byte the same: {}",
                from.display()
            ));
            received.push(file);
        }
        let sent = over(&mut caf_events, package).await?;
        narrator.end();
        let exchange_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        receipts(caf, package, narrator)?;
        narrator.tell(&format!(
            "CAF 21 holds every receipt, {} after the drop: {}",
            crate::cli::Elapsed(begun.elapsed()),
            sent.display()
        ));
        let report = self.report_back(package, narrator).await?;
        let audit = self.verify_logs(narrator).await?;
        Ok(DemoReport {
            directory: self.laboratory.dir.clone(),
            logs: verification::logs(&self.laboratory),
            package: package.to_string(),
            report: report.to_string(),
            received,
            audit,
            exchange_ms,
        })
    }

    async fn report_back(
        &self,
        parent: PackageId,
        narrator: &mut dyn Narrator,
    ) -> Result<PackageId, DemoError> {
        const STEP: &str = "sending the report back";
        let (caf, dijon) = (&self.agents[0], &self.agents[1]);
        let mut caf_events = caf.events();
        let mut dijon_events = dijon.events();
        let folder = dijon.directory().join("outbox/rapport/.rapport");
        fs::create_dir_all(&folder).map_err(failed(STEP))?;
        let text = format!(
            "Rapport de démonstration\n\nÉtabli à partir du pli {parent}.\n\
             Les quartiers prioritaires concentrent les allocataires aux ressources faibles.\n"
        );
        fs::write(folder.join("rapport.txt"), &text).map_err(failed(STEP))?;
        let instructions = format!("title = \"Rapport\"\nparents = [\"{parent}\"]\n");
        fs::write(folder.join("package.toml"), instructions).map_err(failed(STEP))?;
        let dropped = dijon.directory().join("outbox/rapport/rapport");
        fs::rename(&folder, &dropped).map_err(failed(STEP))?;
        narrator.begin("the report goes back");
        let report = sealed(&mut dijon_events, narrator).await?;
        let path = arrived(&mut caf_events, report).await?;
        same(&path.join("rapport.txt"), text.as_bytes())?;
        narrator.end();
        narrator.tell("Grand Dijon's report, which names the table it was made from, is at CAF 21");
        let comment = "Bien reçu, merci.";
        caf.acknowledge(report, comment)
            .await
            .map_err(failed("acknowledging the report"))?;
        acknowledged(&mut dijon_events, report).await?;
        narrator.tell(&format!("CAF 21 acknowledges the report: “{comment}”"));
        Ok(report)
    }

    async fn verify_logs(&self, narrator: &mut dyn Narrator) -> Result<Vec<String>, DemoError> {
        narrator.begin("waiting until each gateway has cosigned the other's log");
        let found = verification::verify(&self.laboratory, STEP_MAX).await?;
        narrator.end();
        for line in &found {
            narrator.tell(line);
        }
        Ok(found)
    }

    /// Stops everything in good order.
    pub async fn stop(self) {
        for agent in self.agents {
            agent.stop().await;
        }
        for gateway in self.gateways {
            gateway.stop().await;
        }
    }
}

async fn connected(agent: &Agent, narrator: &mut dyn Narrator) -> Result<(), DemoError> {
    const STEP: &str = "connecting an agent to its gateway";
    let mut link = agent.link();
    let linked = tokio::time::timeout(STEP_MAX, link.wait_for(|now| now.transport.is_some()));
    let now = linked
        .await
        .map_err(failed(STEP))?
        .map_err(failed(STEP))?
        .clone();
    let transport = now
        .transport
        .map_or(String::new(), |transport| transport.to_string());
    let party = agent.party();
    narrator.tell(&format!(
        "Agent of {party} is connected to its gateway over {transport}"
    ));
    Ok(())
}

fn source(options: &DemoOptions) -> Result<(String, Vec<u8>), DemoError> {
    const STEP: &str = "reading the file to send";
    let Some(file) = &options.file else {
        return Ok((
            "observation-iris-2025.csv".into(),
            table::synthetic().into_bytes(),
        ));
    };
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| failed(STEP)("the path has no file name in UTF-8"))?;
    let bytes = fs::read(file).map_err(failed(STEP))?;
    Ok((name.to_owned(), bytes))
}

fn drop_file(path: &Path, bytes: &[u8]) -> Result<(), DemoError> {
    const STEP: &str = "dropping the file";
    // Written under a name that the agent passes over, then renamed: never half a file.
    let unfinished = path.with_file_name(".dropping");
    fs::write(&unfinished, bytes).map_err(failed(STEP))?;
    fs::rename(&unfinished, path).map_err(failed(STEP))
}

fn same(path: &Path, bytes: &[u8]) -> Result<(), DemoError> {
    const STEP: &str = "comparing what arrived";
    let found = fs::read(path).map_err(failed(STEP))?;
    match Digest::of(&found) == Digest::of(bytes) {
        true => Ok(()),
        false => Err(failed(STEP)(format!(
            "{} differs from what was sent",
            path.display()
        ))),
    }
}

/// Waits for one event, and fails at once on those that say it will not come.
async fn wait_for<T>(
    step: &'static str,
    events: &mut broadcast::Receiver<AgentEvent>,
    mut pick: impl FnMut(AgentEvent) -> Option<T>,
) -> Result<T, DemoError> {
    let waited = tokio::time::timeout(TRANSFER_MAX, async {
        loop {
            match events.recv().await {
                Ok(AgentEvent::Rejected { name, why, .. }) => {
                    return Err(failed(step)(format!("{name} was rejected: {why}")));
                }
                Ok(AgentEvent::Refused { why, .. }) => {
                    return Err(failed(step)(format!("it was refused: {why}")));
                }
                Ok(event) => {
                    if let Some(found) = pick(event) {
                        return Ok(found);
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(error) => return Err(failed(step)(error)),
            }
        }
    });
    waited.await.map_err(failed(step))?
}

async fn sealed(
    events: &mut broadcast::Receiver<AgentEvent>,
    narrator: &mut dyn Narrator,
) -> Result<PackageId, DemoError> {
    let found = wait_for("sealing", events, |event| match event {
        AgentEvent::Sealed {
            package,
            sealed_bytes,
            recipients,
            ..
        } => Some((package, sealed_bytes, recipients)),
        _ => None,
    });
    let (package, bytes, recipients) = found.await?;
    narrator.tell(&format!(
        "Sealed and signed: package {} ({}) for {}",
        package.short(),
        crate::cli::Bytes(bytes),
        recipients.join(" and ")
    ));
    Ok(package)
}

async fn arrived(
    events: &mut broadcast::Receiver<AgentEvent>,
    wanted: PackageId,
) -> Result<PathBuf, DemoError> {
    wait_for("receiving", events, |event| match event {
        AgentEvent::Received { package, path, .. } if package == wanted => path,
        _ => None,
    })
    .await
}

async fn over(
    events: &mut broadcast::Receiver<AgentEvent>,
    wanted: PackageId,
) -> Result<PathBuf, DemoError> {
    wait_for("collecting the receipts", events, |event| match event {
        AgentEvent::Finished { package, path, .. } if package == wanted => Some(path),
        _ => None,
    })
    .await
}

async fn acknowledged(
    events: &mut broadcast::Receiver<AgentEvent>,
    wanted: PackageId,
) -> Result<(), DemoError> {
    wait_for(
        "waiting for the acknowledgement",
        events,
        |event| match event {
            AgentEvent::Stated {
                package,
                what: What::Acknowledged(_),
                ..
            } if package == wanted => Some(()),
            _ => None,
        },
    )
    .await
}

/// Whether the sender holds one `Accepted` per gateway and one `Delivered` per recipient.
fn receipts(
    sender: &Agent,
    package: PackageId,
    narrator: &mut dyn Narrator,
) -> Result<(), DemoError> {
    const STEP: &str = "counting the receipts";
    let said = sender.statements_about(package).map_err(failed(STEP))?;
    let of = |wanted: fn(&What) -> bool| -> Vec<PartyId> {
        let of = said.iter().filter(|one| wanted(one.what()));
        of.map(|one| one.issuer().clone()).collect()
    };
    let mut delivered = of(|what| matches!(what, What::Delivered(_)));
    delivered.sort();
    let mut accepted = of(|what| matches!(what, What::Accepted(_)));
    accepted.sort();
    let shown = |parties: &[PartyId]| {
        parties
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    narrator.tell(&format!(
        "Accepted, signed by the gateways of {}",
        shown(&accepted)
    ));
    narrator.tell(&format!(
        "Delivered, signed by the agents of {}",
        shown(&delivered)
    ));
    let complete = shown(&delivered) == "grand-dijon, prestataire-obs"
        && shown(&accepted) == "caf21, grand-dijon";
    match complete {
        true => Ok(()),
        false => Err(failed(STEP)(
            "a receipt is missing, or there is one too many",
        )),
    }
}
