//! Both gateways and the three agents of a laboratory, running in this process.

use std::time::Duration;

use passerelle_gateway::{Config, Gateway, StartError};
use passerelle_proto::PackageId;
use passerelle_proto::v1::admin_client::AdminClient;
use passerelle_proto::v1::{LogRequest, PackageRequest, StatusRequest, StatusResponse};
use passerelle_proto::v1::{PackageResponse, entry::Event, statement::What};
use prost::Message;
use tonic::transport::Channel;

use super::watch::{Watch, late};
use crate::cli::{Exit, Failure, channel, refused, start_failure};
use crate::lab::{LabGateway, LabParty, Laboratory};
use crate::{Agent, AgentConfig};

/// How long an agent may take to reach its gateway.
const CONNECT_MAX: Duration = Duration::from_secs(20);

/// What runs.
pub(super) struct Site {
    gateways: Vec<Gateway>,
    agents: Vec<Agent>,
}

impl Site {
    /// Starts everything; on return every agent is connected to its gateway.
    pub(super) async fn start(laboratory: &Laboratory) -> Result<Site, Failure> {
        let mut site = Site {
            gateways: Vec::new(),
            agents: Vec::new(),
        };
        for gateway in laboratory
            .parties
            .iter()
            .filter_map(|party| party.gateway.as_ref())
        {
            let config = Config::load(&gateway.config);
            let config = config.map_err(|error| Failure::config(error.problems))?;
            let started = Box::pin(Gateway::start(config)).await;
            site.gateways.push(started.map_err(gateway_failure)?);
        }
        for party in &laboratory.parties {
            let config = AgentConfig::load(&party.agent.config);
            let config = config.map_err(|error| Failure::config(error.problems))?;
            let started = Box::pin(Agent::start(config)).await;
            site.agents.push(started.map_err(start_failure)?);
        }
        for (agent, party) in site.agents.iter().zip(&laboratory.parties) {
            let mut link = agent.link();
            let connected = link.wait_for(|status| status.transport.is_some());
            let connected = tokio::time::timeout(CONNECT_MAX, connected).await;
            if !matches!(connected, Ok(Ok(_))) {
                let why = agent.link().borrow().last_error.clone();
                return Err(late(&format!(
                    "the agent of {} is not connected: {why}",
                    party.id
                )));
            }
        }
        Ok(site)
    }

    /// Follows what an agent does, by its place among the laboratory's parties.
    pub(super) fn watch(&self, laboratory: &Laboratory, name: &str) -> Result<Watch, Failure> {
        let parties = laboratory.parties.iter();
        let found = parties
            .zip(&self.agents)
            .find(|(party, _)| party.id.as_str() == name);
        let (party, agent) = found.ok_or_else(|| late(&format!("there is no agent of {name}")))?;
        Ok(Watch::new(party.id.to_string(), agent.events()))
    }

    /// Whether the sender holds what proves the whole way: the `Accepted` of each of these
    /// gateways and the `Delivered` of each of these recipients, each once. Says who signed what.
    pub(super) async fn receipts(
        &self,
        sender: &str,
        package: PackageId,
        gateways: &[&str],
        recipients: &[&str],
    ) -> Result<Vec<String>, Failure> {
        let sender = self
            .agents
            .iter()
            .find(|agent| agent.party().as_str() == sender);
        let sender = sender.ok_or_else(|| late("the sender's agent does not run"))?;
        let said = sender.statements_about(package);
        let said = said.map_err(|error| Failure::reading(&error.path, &error.source))?;
        let signed_by = |wanted: fn(&What) -> bool| {
            let of_kind = said.iter().filter(|statement| wanted(statement.what()));
            let mut issuers: Vec<&str> = of_kind.map(|one| one.issuer().as_str()).collect();
            issuers.sort_unstable();
            issuers
        };
        let accepted = signed_by(|what| matches!(what, What::Accepted(_)));
        let delivered = signed_by(|what| matches!(what, What::Delivered(_)));
        if accepted != gateways || delivered != recipients {
            let what = format_args!(
                "the sender holds Accepted of {accepted:?} and Delivered of {delivered:?}"
            );
            return Err(Failure::new(
                Exit::Software,
                what,
                "a receipt is missing: report it",
            ));
        }
        Ok(vec![
            format!(
                "“every byte is here”, signed by the gateways of {}",
                accepted.join(", ")
            ),
            format!(
                "“opened, and all of it right”, signed by {}",
                delivered.join(", ")
            ),
        ])
    }

    /// "quic" or "tcp" for each agent's connection.
    pub(super) fn transports(&self, laboratory: &Laboratory) -> Vec<String> {
        let parties = laboratory.parties.iter();
        let both = parties.zip(&self.agents).map(|(party, agent)| {
            let link = agent.link().borrow().clone();
            let transport = link
                .transport
                .map_or("nothing".to_owned(), |t| t.to_string());
            format!(
                "the agent of {} reaches its gateway over {transport}",
                party.id
            )
        });
        both.collect()
    }

    /// Stops everything in good order, agents first.
    pub(super) async fn stop(self) {
        for agent in self.agents {
            agent.stop().await;
        }
        for gateway in self.gateways {
            gateway.stop().await;
        }
    }
}

fn gateway_failure(error: StartError) -> Failure {
    match error {
        StartError::Config(error) => Failure::config(error.problems),
        error => {
            let remedy = "mend what it names, then try again";
            Failure::new(Exit::CannotCreate, error, remedy)
        }
    }
}

/// A gateway asked over its operators' socket.
pub(super) struct Operator {
    client: AdminClient<Channel>,
}

impl Operator {
    /// Connects to a gateway of the laboratory.
    pub(super) async fn connect(gateway: &LabGateway) -> Result<Operator, Failure> {
        Ok(Operator {
            client: AdminClient::new(channel(&gateway.socket).await?),
        })
    }

    /// How the gateway is doing.
    pub(super) async fn status(&mut self) -> Result<StatusResponse, Failure> {
        let answer = self.client.status(StatusRequest {}).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    }

    /// What its log says about a package.
    pub(super) async fn package(&mut self, id: &str) -> Result<PackageResponse, Failure> {
        let answer = self
            .client
            .package(PackageRequest { id: id.to_owned() })
            .await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    }

    /// Waits until a partner has cosigned at least `size` entries of its log.
    pub(super) async fn cosigned(&mut self, size: u64, limit: Duration) -> Result<u64, Failure> {
        let request = LogRequest {
            from_index: 0,
            limit: 0,
            follow: true,
        };
        let answer = self.client.log(request).await;
        let mut records = answer.map_err(|status| refused(&status))?.into_inner();
        let wait = async {
            while let Some(record) = records.message().await.map_err(|s| refused(&s))? {
                let entry = passerelle_proto::v1::Entry::decode(record.entry.as_slice());
                let event = entry.ok().and_then(|entry| entry.event);
                let Some(Event::Cosigned(cosigned)) = event else {
                    continue;
                };
                let covered = size_of(&cosigned.checkpoint);
                if cosigned.ours && covered >= size {
                    return Ok(covered);
                }
            }
            Err(late("the gateway's log ended"))
        };
        let waited = tokio::time::timeout(limit, wait).await;
        waited.unwrap_or_else(|_| Err(late("the partner has not cosigned the log in time")))
    }
}

/// The size that a checkpoint speaks of: its second line.
fn size_of(checkpoint: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(checkpoint);
    text.lines()
        .nth(1)
        .and_then(|line| line.parse().ok())
        .unwrap_or(0)
}

/// The gateway of a party that has one.
pub(super) fn gateway_of(party: &LabParty) -> Result<&LabGateway, Failure> {
    party
        .gateway
        .as_ref()
        .ok_or_else(|| late(&format!("{} has no gateway", party.id)))
}
