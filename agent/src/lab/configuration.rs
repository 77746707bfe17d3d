//! The configuration files of a laboratory.

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use passerelle_link::TransportChoice;
use passerelle_proto::{KeyId, PartyId};

use super::{LabAgent, LabError, LabGateway, LabOptions, LabParty, Laboratory, io_at};

/// Writes the party's configuration files: one for its agent, one for its gateway if it has one.
pub(super) fn write(
    laboratory: &Laboratory,
    party: &LabParty,
    pins: Vec<(&PartyId, KeyId)>,
    options: &LabOptions,
) -> Result<(), LabError> {
    let trust = trust(laboratory, &pins);
    if let Some(gateway) = &party.gateway {
        let text = gateway_text(party, gateway, &trust, options);
        fs::write(&gateway.config, text).map_err(io_at(&gateway.config))?;
    }
    let text = agent_text(party, &party.agent, &trust, options);
    fs::write(&party.agent.config, text).map_err(io_at(&party.agent.config))
}

fn gateway_text(
    party: &LabParty,
    gateway: &LabGateway,
    trust: &str,
    options: &LabOptions,
) -> String {
    let transport = transport(options.transport);
    format!(
        "# The gateway of {id}, in a laboratory.\n\
         party = \"{id}\"\n\
         data_dir = {data}\n\
         listen = \"{listen}\"\n\
         transport = \"{transport}\"\n\
         \n\
         [tls]\n\
         certificate = \"tls/gateway.pem\"\n\
         key = \"tls/gateway.key\"\n\
         \n\
         [keys]\n\
         gateway = \"keys/gateway.secret\"\n\
         log = \"keys/log.secret\"\n\
         \n\
         {trust}\n\
         [admin]\n\
         socket = {socket}\n\
         {metrics}",
        id = party.id,
        data = quoted(&gateway.data_dir),
        listen = gateway.address,
        socket = quoted(&gateway.socket),
        metrics = metrics(gateway.metrics),
    )
}

fn agent_text(party: &LabParty, agent: &LabAgent, trust: &str, options: &LabOptions) -> String {
    let transport = transport(options.transport);
    format!(
        "# The agent of {id}, in a laboratory.\n\
         party = \"{id}\"\n\
         directory = {directory}\n\
         transport = \"{transport}\"\n\
         \n\
         [tls]\n\
         certificate = \"tls/agent.pem\"\n\
         key = \"tls/agent.key\"\n\
         \n\
         [keys]\n\
         agent = \"keys/agent.secret\"\n\
         recipient = \"keys/recipient.secret\"\n\
         \n\
         {trust}\n\
         [socket]\n\
         path = {socket}\n\
         \n\
         [limits]\n\
         settle_ms = {settle}\n\
         poll_ms = {poll}\n\
         {metrics}",
        id = party.id,
        directory = quoted(&agent.directory),
        socket = quoted(&agent.socket),
        settle = options.settle_ms,
        poll = options.poll_ms,
        metrics = metrics(agent.metrics),
    )
}

fn trust(laboratory: &Laboratory, pins: &[(&PartyId, KeyId)]) -> String {
    let mut text = format!(
        "[trust]\nconvention = {}\nsheets = {}\n\n[trust.roots]\n",
        quoted(&laboratory.convention),
        quoted(&laboratory.sheets),
    );
    for (party, pin) in pins {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{party} = \"{pin}\"");
    }
    text
}

fn metrics(address: Option<SocketAddr>) -> String {
    address.map_or(String::new(), |address| {
        format!("\n[metrics]\nlisten = \"{address}\"\n")
    })
}

fn transport(choice: TransportChoice) -> &'static str {
    match choice {
        TransportChoice::Auto => "auto",
        TransportChoice::Quic => "quic",
        TransportChoice::Tcp => "tcp",
    }
}

/// A path as a TOML string.
fn quoted(path: &Path) -> String {
    toml::Value::String(path.to_string_lossy().into_owned()).to_string()
}
