//! `passerelle status`: how an agent or a gateway is doing.

use std::fmt::{self, Display};

use passerelle_proto::v1::{AgentStatusRequest, StatusRequest};
use passerelle_proto::v1::{AgentStatusResponse, Kept, StatusResponse, StuckDrop};
use serde::Serialize;

use super::arguments::DaemonArguments;
use super::endpoint::{Daemon, refused};
use super::expiry::ExpiryView;
use super::failure::Failure;
use super::output::Output;
use super::quantity::{Bytes, When, hex};
use super::table::Table;
use super::wording::{count, hop};

/// Asks the daemon and shows its answer.
pub(super) async fn run(
    arguments: &DaemonArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    match Daemon::connect(arguments).await? {
        Daemon::Agent(mut agent) => {
            let answer = agent.status(AgentStatusRequest {}).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            output.answer(&AgentView::of(answer))
        }
        Daemon::Gateway(mut gateway) => {
            let answer = gateway.status(StatusRequest {}).await;
            let answer = answer.map_err(|status| refused(&status))?.into_inner();
            output.answer(&GatewayView::of(answer))
        }
    }
}

#[derive(Debug, Serialize)]
struct AgentView {
    daemon: &'static str,
    party: String,
    software: String,
    started_ms: i64,
    convention: String,
    convention_version: u64,
    gateway: String,
    gateway_address: String,
    transport: String,
    state: String,
    last_error: String,
    outgoing: u64,
    incoming: u64,
    sent_today: u64,
    received_today: u64,
    rejected: u64,
    expiries: Vec<ExpiryView>,
    damaged_packages: u64,
    unopened_packages: u64,
    stuck_drops: u64,
    stuck: Vec<StuckView>,
    clock_warning: String,
}

#[derive(Debug, Serialize)]
struct StuckView {
    path: String,
    why: String,
}

impl AgentView {
    fn of(answer: AgentStatusResponse) -> AgentView {
        AgentView {
            daemon: "agent",
            party: answer.party,
            software: answer.software,
            started_ms: answer.started_ms,
            convention: answer.convention_id,
            convention_version: answer.convention_version,
            gateway: answer.gateway,
            gateway_address: answer.gateway_address,
            transport: answer.transport,
            state: answer.state,
            last_error: answer.last_error,
            outgoing: answer.outgoing,
            incoming: answer.incoming,
            sent_today: answer.sent_today,
            received_today: answer.received_today,
            rejected: answer.rejected,
            damaged_packages: answer.damaged_packages,
            unopened_packages: answer.unopened_packages,
            stuck_drops: answer.stuck_drops,
            stuck: answer
                .stuck
                .into_iter()
                .map(|StuckDrop { path, why }| StuckView { path, why })
                .collect(),
            clock_warning: answer.clock_warning,
            expiries: ExpiryView::all(answer.expiries),
        }
    }
}

impl Display for AgentView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "agent of {} ({})", self.party, self.software)?;
        writeln!(f, "  since        {}", When(self.started_ms))?;
        writeln!(
            f,
            "  convention   {}, version {}",
            self.convention, self.convention_version
        )?;
        let over = match self.transport.as_str() {
            "" => String::new(),
            transport => format!(" over {transport} at {}", self.gateway_address),
        };
        writeln!(f, "  gateway      {}: {}{over}", self.gateway, self.state)?;
        if !self.last_error.is_empty() {
            writeln!(f, "  last error   {}", self.last_error)?;
        }
        writeln!(
            f,
            "  on its way   {} out, {} in",
            self.outgoing, self.incoming
        )?;
        writeln!(
            f,
            "  today        {} sent, {} received",
            self.sent_today, self.received_today
        )?;
        writeln!(
            f,
            "  rejected     {} (see rejected/ for the reports)",
            self.rejected
        )?;
        write_damaged(self.damaged_packages, f)?;
        write_unopened(self.unopened_packages, f)?;
        self.write_stuck(f)?;
        if !self.clock_warning.is_empty() {
            writeln!(f, "  WARNING      {}", self.clock_warning)?;
        }
        ExpiryView::write_near(&self.expiries, f)
    }
}

impl AgentView {
    /// Says what was dropped and cannot be sent now, and what helps.
    fn write_stuck(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stuck_drops == 0 {
            return Ok(());
        }
        let drops = count(self.stuck_drops, "drop is stuck", "drops are stuck");
        writeln!(f, "  WARNING      {drops}, and not sent:")?;
        for StuckView { path, why } in &self.stuck {
            writeln!(f, "               {path}: {why}")?;
        }
        match self.stuck_drops.saturating_sub(self.stuck.len() as u64) {
            0 => Ok(()),
            others => writeln!(f, "               and {}", count(others, "other", "others")),
        }
    }
}

/// Says that arrived packages cannot be opened now, where that is so.
fn write_unopened(packages: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if packages == 0 {
        return Ok(());
    }
    let packages = count(
        packages,
        "package has arrived and cannot be opened now",
        "packages have arrived and cannot be opened now",
    );
    writeln!(f, "  WARNING      {packages}: see passerelle queue")
}

#[derive(Debug, Serialize)]
struct PeerView {
    peer: String,
    transport: String,
    address: String,
    state: String,
    last_error: String,
    connected_since_ms: i64,
    waiting_items: u64,
    bytes_sent: u64,
    bytes_received: u64,
    attention: String,
}

#[derive(Debug, Serialize)]
struct CosignedView {
    party: String,
    size: u64,
    at_ms: i64,
}

#[derive(Debug, Serialize)]
struct GatewayView {
    daemon: &'static str,
    party: String,
    software: String,
    started_ms: i64,
    serving: bool,
    reason: String,
    convention: String,
    convention_version: u64,
    log_size: u64,
    log_root: String,
    anchored: bool,
    anchored_by: String,
    waiting_items: u64,
    spool_bytes: u64,
    peers: Vec<PeerView>,
    cosigned: Vec<CosignedView>,
    expiries: Vec<ExpiryView>,
    cosignature_warning: String,
    stamped: Option<StampedView>,
    time_stamp_warning: String,
    damaged_packages: u64,
    missing_warning: String,
    kept: KeptView,
}

/// The newest time-stamp of an authority over the log.
#[derive(Debug, Serialize)]
struct StampedView {
    authority: String,
    size: u64,
    at_ms: i64,
}

/// Packages that are over and still kept.
#[derive(Debug, Serialize)]
struct KeptView {
    packages: u64,
    bytes: u64,
    heads: u64,
    due_ms: i64,
}

impl KeptView {
    fn of(kept: Kept) -> KeptView {
        KeptView {
            packages: kept.packages,
            bytes: kept.bytes,
            heads: kept.heads,
            due_ms: kept.due_ms,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.packages + self.heads == 0 {
            return Ok(());
        }
        let packages = count(
            self.packages,
            "package that is over",
            "packages that are over",
        );
        write!(f, "  kept         {packages}, {}", Bytes(self.bytes))?;
        if self.heads > 0 {
            write!(f, ", and of {} more all but the chunks", self.heads)?;
        }
        match self.due_ms {
            0 => writeln!(f),
            due => writeln!(f, "; the next goes {}", When(due)),
        }
    }
}

impl GatewayView {
    fn of(answer: StatusResponse) -> GatewayView {
        let peers = answer.peers.into_iter().map(|peer| PeerView {
            peer: hop(&peer.peer),
            transport: peer.transport,
            address: peer.address,
            state: peer.state,
            last_error: peer.last_error,
            connected_since_ms: peer.connected_since_ms,
            waiting_items: peer.waiting_items,
            bytes_sent: peer.bytes_sent,
            bytes_received: peer.bytes_received,
            attention: peer.attention,
        });
        let cosigned = answer.cosigned.into_iter().map(|cosigned| CosignedView {
            party: cosigned.party,
            size: cosigned.size,
            at_ms: cosigned.at_ms,
        });
        GatewayView {
            daemon: "gateway",
            peers: peers.collect(),
            cosigned: cosigned.collect(),
            expiries: ExpiryView::all(answer.expiries),
            cosignature_warning: answer.cosignature_warning,
            stamped: answer.stamped.map(|stamped| StampedView {
                authority: stamped.authority,
                size: stamped.size,
                at_ms: stamped.at_ms,
            }),
            time_stamp_warning: answer.time_stamp_warning,
            missing_warning: answer.missing_warning,
            damaged_packages: answer.damaged_packages,
            party: answer.party,
            software: answer.software,
            started_ms: answer.started_ms,
            serving: answer.serving,
            reason: answer.reason,
            convention: answer.convention_id,
            convention_version: answer.convention_version,
            log_size: answer.log_size,
            log_root: hex(&answer.log_root),
            anchored: answer.anchored,
            anchored_by: answer.anchored_by,
            waiting_items: answer.waiting_items,
            spool_bytes: answer.spool_bytes,
            kept: KeptView::of(answer.kept.unwrap_or_default()),
        }
    }
}

impl GatewayView {
    fn write_cosigned(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for cosigned in &self.cosigned {
            let at = When(cosigned.at_ms);
            writeln!(
                f,
                "  cosigned     {} by {}, {at}",
                count(cosigned.size, "entry", "entries"),
                cosigned.party
            )?;
        }
        if let Some(stamped) = &self.stamped {
            let entries = count(stamped.size, "entry", "entries");
            let at = When(stamped.at_ms);
            writeln!(f, "  time-stamped {entries} by {}, {at}", stamped.authority)?;
        }
        let warnings = [
            &self.cosignature_warning,
            &self.time_stamp_warning,
            &self.missing_warning,
        ];
        for warning in warnings {
            if !warning.is_empty() {
                writeln!(f, "  WARNING      {warning}")?;
            }
        }
        Ok(())
    }
}

/// Says that stored packages have rotted, where any have.
fn write_damaged(packages: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if packages == 0 {
        return Ok(());
    }
    let packages = count(
        packages,
        "stored package is damaged",
        "stored packages are damaged",
    );
    writeln!(f, "  WARNING      {packages}: see passerelle queue")
}

/// What a gateway waits for that nobody has shown a copy of its log.
const UNANCHORED: &str = concat!(
    "  anchored     no: nobody has shown a copy of this log since its start, so packages are\n",
    "               put off. A partner's gateway, or an agent of this party, shows one when it\n",
    "               connects; where none can: passerelle audit anchor --without-witness\n",
);

impl GatewayView {
    fn write_log(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = self.log_root.get(..16).unwrap_or_default();
        let entries = count(self.log_size, "entry", "entries");
        writeln!(f, "  log          {entries}, root {root}…")?;
        match self.anchored {
            true => writeln!(f, "  anchored     yes, by {}", self.anchored_by),
            false => f.write_str(UNANCHORED),
        }
    }
}

impl Display for GatewayView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "gateway of {} ({})", self.party, self.software)?;
        writeln!(f, "  since        {}", When(self.started_ms))?;
        match self.serving {
            true => writeln!(f, "  serving      yes")?,
            false => writeln!(f, "  serving      no: {}", self.reason)?,
        }
        writeln!(
            f,
            "  convention   {}, version {}",
            self.convention, self.convention_version
        )?;
        self.write_log(f)?;
        self.write_cosigned(f)?;
        write_damaged(self.damaged_packages, f)?;
        let spool = Bytes(self.spool_bytes);
        writeln!(
            f,
            "  waiting      {}, {spool} in the spool",
            count(self.waiting_items, "item", "items")
        )?;
        self.kept.write(f)?;
        ExpiryView::write_near(&self.expiries, f)?;
        if self.peers.is_empty() {
            return Ok(());
        }
        let mut table = Table::new([
            "PEER",
            "TRANSPORT",
            "STATE",
            "WAITING",
            "SENT",
            "RECEIVED",
            "SINCE",
            "ERROR",
        ]);
        for peer in &self.peers {
            let transport = match peer.transport.as_str() {
                "" => "-",
                transport => transport,
            };
            let since = When(peer.connected_since_ms);
            table.row([
                &peer.peer,
                &transport,
                &peer.state,
                &peer.waiting_items,
                &Bytes(peer.bytes_sent),
                &Bytes(peer.bytes_received),
                &since,
                &peer.last_error,
            ]);
        }
        write!(f, "\n{table}")?;
        for peer in self.peers.iter().filter(|peer| !peer.attention.is_empty()) {
            writeln!(f, "ATTENTION: {}: {}", peer.peer, peer.attention)?;
        }
        Ok(())
    }
}
