//! What an operator alerts on, in Prometheus' text format.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use metrics::{Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use passerelle_host::{Clock, HostClock};
use passerelle_proto::{Expiry, Timestamp};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const METADATA: Metadata<'static> = Metadata::new("passerelle", Level::INFO, None);
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

const SENT: &str = "passerelle_agent_sent_total";
const RECEIVED: &str = "passerelle_agent_received_total";
const REJECTED: &str = "passerelle_agent_rejected_total";
const REFUSED: &str = "passerelle_agent_refused_total";
const STATEMENTS: &str = "passerelle_agent_statements_total";
const DAMAGED: &str = "passerelle_agent_damaged_total";
const LAST_SENT: &str = "passerelle_agent_last_sent_timestamp_seconds";
const LAST_RECEIVED: &str = "passerelle_agent_last_received_timestamp_seconds";
const OUTGOING: &str = "passerelle_agent_outgoing_packages";
const UNOPENED: &str = "passerelle_agent_unopened_packages";
const STUCK: &str = "passerelle_agent_stuck_drops";
const CLOCK: &str = "passerelle_agent_clock_ahead_seconds";
const CERTIFICATE: &str = "passerelle_agent_certificate_expiry_days";
const EXPIRY: &str = "passerelle_agent_expiry_seconds";
const CONNECTED: &str = "passerelle_agent_connected";

const COUNTERS: [(&str, &str); 6] = [
    (
        SENT,
        "Packages that at least one recipient has receipted, by flow.",
    ),
    (RECEIVED, "Packages opened into the inbox, by flow."),
    (
        REJECTED,
        "Drops and packages that nobody received. Each has a report in rejected/.",
    ),
    (
        REFUSED,
        "Packages and statements from outside that were refused.",
    ),
    (
        STATEMENTS,
        "Statements about our packages that were verified and stored.",
    ),
    (
        DAMAGED,
        "Stored packages found damaged, arrived ones and our own: look at the disk.",
    ),
];
const GAUGES: [(&str, &str); 9] = [
    (
        LAST_SENT,
        "When a package was last sent to its end, by flow. Alert when a night passes.",
    ),
    (LAST_RECEIVED, "When a package was last received, by flow."),
    (
        OUTGOING,
        "Packages sealed and not over for every recipient.",
    ),
    (
        UNOPENED,
        "Packages that have arrived, cannot be opened now and are tried again. Alert above 0.",
    ),
    (
        STUCK,
        "Drops that cannot be claimed or sealed now: passerelle status says why. Alert above 0.",
    ),
    (
        CLOCK,
        "Seconds by which our clock is ahead of our gateway's. Alert above 300 and below -300: \
         nothing is sealed then.",
    ),
    (
        CERTIFICATE,
        "Days until the agent's TLS certificate expires. Alert below 30.",
    ),
    (
        EXPIRY,
        "Seconds until something ends, by of (certificate, sheet, agent keys, recipient keys, \
         log keys, convention) and owner. Alert below 2592000 (30 days).",
    ),
    (CONNECTED, "1 while the gateway is connected."),
];

/// One agent's numbers.
pub(crate) struct AgentMetrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl AgentMetrics {
    /// Numbers that all carry the label `party`.
    pub(crate) fn new(party: &str) -> Arc<Self> {
        let recorder = PrometheusBuilder::new()
            .add_global_label("party", party)
            .build_recorder();
        for (name, help) in COUNTERS {
            recorder.describe_counter(KeyName::from(name), None, help.into());
        }
        for (name, help) in GAUGES {
            recorder.describe_gauge(KeyName::from(name), None, help.into());
        }
        let handle = recorder.handle();
        Arc::new(Self { recorder, handle })
    }

    fn add(&self, name: &'static str, flow: Option<&str>) {
        self.recorder
            .register_counter(&key(name, flow), &METADATA)
            .increment(1);
    }

    fn set(&self, name: &'static str, flow: Option<&str>, value: f64) {
        self.recorder
            .register_gauge(&key(name, flow), &METADATA)
            .set(value);
    }

    pub(crate) fn sent(&self, flow: &str) {
        self.add(SENT, Some(flow));
        self.set(LAST_SENT, Some(flow), seconds());
    }

    /// A stored package has rotted.
    pub(crate) fn damaged(&self) {
        self.add(DAMAGED, None);
    }

    pub(crate) fn received(&self, flow: &str) {
        self.add(RECEIVED, Some(flow));
        self.set(LAST_RECEIVED, Some(flow), seconds());
    }

    pub(crate) fn rejected(&self) {
        self.add(REJECTED, None);
    }

    pub(crate) fn refused(&self) {
        self.add(REFUSED, None);
    }

    pub(crate) fn stated(&self) {
        self.add(STATEMENTS, None);
    }

    /// `not_after_s`: seconds since the Unix epoch.
    pub(crate) fn certificate_ends(&self, not_after_s: i64) {
        self.set(
            CERTIFICATE,
            None,
            (not_after_s as f64 - seconds()) / 86_400.0,
        );
    }

    pub(crate) fn ends(&self, expiries: &[Expiry], now: Timestamp) {
        for expiry in expiries {
            let labels = vec![
                Label::new("of", expiry.what.as_str()),
                Label::new("owner", expiry.owner.clone()),
            ];
            let gauge = Key::from_parts(EXPIRY, labels);
            let left = expiry.seconds_left(now) as f64;
            self.recorder.register_gauge(&gauge, &METADATA).set(left);
        }
    }

    pub(crate) fn set_now(&self, outgoing: usize, connected: bool) {
        self.set(OUTGOING, None, outgoing as f64);
        self.set(CONNECTED, None, f64::from(u8::from(connected)));
    }

    /// By how many seconds our clock is ahead of our gateway's.
    pub(crate) fn set_clock_ahead(&self, seconds: f64) {
        self.set(CLOCK, None, seconds);
    }

    /// How many arrived packages cannot be opened now.
    pub(crate) fn set_unopened(&self, packages: usize) {
        self.set(UNOPENED, None, packages as f64);
    }

    /// How many drops cannot be claimed or sealed now.
    pub(crate) fn set_stuck(&self, drops: usize) {
        self.set(STUCK, None, drops as f64);
    }
}

fn seconds() -> f64 {
    HostClock.now().as_ms() as f64 / 1000.0
}

fn key(name: &'static str, flow: Option<&str>) -> Key {
    let labels: Vec<Label> = flow
        .iter()
        .map(|flow| Label::new("flow", (*flow).to_owned()))
        .collect();
    Key::from_parts(name, labels)
}

/// Binds the address of `/metrics`.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves `GET /metrics` until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    metrics: Arc<AgentMetrics>,
    stop: CancellationToken,
) {
    let page = move || {
        let metrics = metrics.clone();
        async move { ([(CONTENT_TYPE, TEXT)], metrics.handle.render()) }
    };
    let router = axum::Router::new().route("/metrics", get(page));
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::warn!(%error, "the metrics page has stopped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use passerelle_proto::Ends;

    #[test]
    fn every_number_is_on_the_page_with_its_help() {
        let metrics = AgentMetrics::new("caf21");
        metrics.sent("rapport");
        metrics.received("rapport");
        metrics.rejected();
        metrics.refused();
        metrics.damaged();
        metrics.stated();
        metrics.set_now(2, true);
        metrics.set_unopened(1);
        metrics.set_stuck(1);
        metrics.set_clock_ahead(-0.5);
        metrics.certificate_ends(0);
        let convention = Expiry {
            what: Ends::Convention,
            owner: "essai".into(),
            at: Timestamp::from_ms(5_000),
        };
        metrics.ends(&[convention], Timestamp::from_ms(6_000));
        let page = metrics.handle.render();
        for (name, _) in COUNTERS.iter().chain(&GAUGES) {
            assert!(
                page.contains(&format!("# HELP {name} ")),
                "{name} in\n{page}"
            );
        }
        let left = r#"expiry_seconds{party="caf21",of="convention",owner="essai"} -1"#;
        assert!(page.contains(left), "{page}");
        assert!(page.contains(r#"passerelle_agent_sent_total{party="caf21",flow="rapport"} 1"#));
    }
}
