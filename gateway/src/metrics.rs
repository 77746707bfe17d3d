//! What an operator alerts on, in Prometheus' text format.
//!
//! Each gateway has a recorder of its own: two of them in one process never share a number.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use metrics::{Key, KeyName, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const METADATA: Metadata<'static> = Metadata::new("passerelle", Level::INFO, None);
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A value that only grows while the gateway runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Packages committed as accepted.
    Accepted,
    /// Packages handed to a next hop, by `peer`.
    Forwarded,
    /// Statements committed.
    Statements,
    /// Packages and statements refused, by `reason`.
    Refusals,
    /// Offers put off, by `reason`.
    Busy,
    /// Offers answered with an earlier receipt.
    Duplicates,
    /// Agents that came with a state that does not go on from where it was.
    AgentStates,
    /// Package bytes, by `peer`, `transport` and `direction`.
    Bytes,
    /// Failed attempts to reach a peer, by `peer`.
    DialFailures,
    /// Stored packages found damaged.
    Damages,
    /// Stored packages that were damaged and are whole again.
    Repairs,
    /// Packages of which something was removed after they were over, by `early`.
    Purged,
}

/// A value that goes up and down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gauge {
    /// 1 while packages are accepted.
    Serving,
    /// 1 once a copy of the log has been shown that is a prefix of it.
    Anchored,
    /// Unfinished items, by `peer`.
    QueueItems,
    /// Age of the oldest unfinished item in seconds; 0: there is none.
    QueueOldestSeconds,
    /// Entries in the audit log.
    LogEntries,
    /// Log entries under a partner's cosignature, by `partner`.
    CosignedEntries,
    /// Age of a partner's latest cosignature in seconds, by `partner`.
    CosignatureAgeSeconds,
    /// 1 while a partner's cosignature is older than configured, by `partner`.
    CosignatureLate,
    /// 1 while packages are put off because no partner has cosigned for too long.
    Uncosigned,
    /// 1 while a time-stamp over the log is due and the authority gives none.
    TimeStampLate,
    /// Age of the newest time-stamp over the log in seconds.
    TimeStampAgeSeconds,
    /// Bytes in the spool.
    SpoolBytes,
    /// Packages whose stored copy is damaged, waiting for a whole one.
    DamagedPackages,
    /// Statements that have not come though later ones have.
    MissingStatements,
    /// Packages that are over and of which something is kept, by `part`.
    RetainedPackages,
    /// Bytes of packages that are over and whose chunks are kept.
    RetainedBytes,
    /// Seconds until the next of them is due to go; negative: it waits for a cosignature, or for a
    /// clock that may be believed.
    PurgeDueSeconds,
    /// Free bytes of the data directory's file system.
    DiskFreeBytes,
    /// Open sessions, by `peer`.
    Sessions,
    /// 1 while a peer's circuit breaker is open, or it is dialled in vain, by `peer`.
    BreakerOpen,
    /// Days until this gateway's TLS certificate expires.
    CertificateExpiryDays,
    /// Days until a party's sheet expires, by `party`.
    SheetExpiryDays,
    /// Seconds until something ends, by `of` (what) and `owner`.
    ExpirySeconds,
}

const COUNTERS: [(Counter, &str, &str); 12] = [
    (
        Counter::Accepted,
        "passerelle_accepted_total",
        "Packages committed to the log as accepted.",
    ),
    (
        Counter::Forwarded,
        "passerelle_forwarded_total",
        "Packages handed over in full, by next hop.",
    ),
    (
        Counter::Statements,
        "passerelle_statements_total",
        "Statements committed to the log.",
    ),
    (
        Counter::Refusals,
        "passerelle_refusals_total",
        "Packages and statements refused, by reason: a partner's broken key or an attack.",
    ),
    (
        Counter::Busy,
        "passerelle_busy_total",
        "Offers put off, by reason: disk, quota, offers, unanchored, uncosigned.",
    ),
    (
        Counter::Duplicates,
        "passerelle_duplicate_offers_total",
        "Offers of packages already accepted, answered with the first receipt.",
    ),
    (
        Counter::AgentStates,
        "passerelle_agent_states_total",
        "Agents whose state does not go on from where it was: restored, run twice, or made anew.",
    ),
    (
        Counter::Bytes,
        "passerelle_bytes_total",
        "Package bytes, by peer, transport (quic, tcp) and direction (sent, received).",
    ),
    (
        Counter::DialFailures,
        "passerelle_dial_failures_total",
        "Failed attempts to reach a peer. A peer that is down for long shows here.",
    ),
    (
        Counter::Damages,
        "passerelle_damages_total",
        "Stored packages found damaged when they were to be sent: look at the disk.",
    ),
    (
        Counter::Repairs,
        "passerelle_repairs_total",
        "Damaged packages that are whole again.",
    ),
    (
        Counter::Purged,
        "passerelle_purged_total",
        "Packages of which bytes were removed after they were over, by early (yes: before the end \
         of their retention, for want of room).",
    ),
];

const GAUGES: [(Gauge, &str, &str); 23] = [
    (
        Gauge::Serving,
        "passerelle_serving",
        "1 while packages are accepted; 0: alert at once.",
    ),
    (
        Gauge::Anchored,
        "passerelle_anchored",
        "1 once a partner or our own agent has shown a copy of the audit log since the start; 0: \
         packages are put off. Alert after a minute.",
    ),
    (
        Gauge::QueueItems,
        "passerelle_queue_items",
        "Unfinished items, by next hop.",
    ),
    (
        Gauge::QueueOldestSeconds,
        "passerelle_queue_oldest_seconds",
        "Age of the oldest unfinished item in seconds. Alert when it passes a night.",
    ),
    (
        Gauge::LogEntries,
        "passerelle_log_entries",
        "Entries in the audit log.",
    ),
    (
        Gauge::CosignedEntries,
        "passerelle_cosigned_entries",
        "Entries of the audit log under a partner's cosignature.",
    ),
    (
        Gauge::CosignatureAgeSeconds,
        "passerelle_cosignature_age_seconds",
        "Age of a partner's latest cosignature, in seconds. Receipts count as evidence under one.",
    ),
    (
        Gauge::CosignatureLate,
        "passerelle_cosignature_late",
        "1 while a partner's cosignature is older than cosignature_age_alert_s: alert.",
    ),
    (
        Gauge::Uncosigned,
        "passerelle_uncosigned",
        "1 while packages are put off because no partner has cosigned for cosignature_age_stop_s: \
         alert at once.",
    ),
    (
        Gauge::TimeStampLate,
        "passerelle_time_stamp_late",
        "1 while a time-stamp over the log is due and the authority gives none.",
    ),
    (
        Gauge::TimeStampAgeSeconds,
        "passerelle_time_stamp_age_seconds",
        "Age of the newest time-stamp over the log.",
    ),
    (
        Gauge::SpoolBytes,
        "passerelle_spool_bytes",
        "Bytes of packages in the spool, unfinished ones included.",
    ),
    (
        Gauge::DamagedPackages,
        "passerelle_damaged_packages",
        "Packages whose stored copy is damaged and that wait for a whole one, by route. Alert \
         above 0 for ten minutes.",
    ),
    (
        Gauge::MissingStatements,
        "passerelle_missing_statements",
        "Statements of partners that have not come though later ones have: somebody drops them. \
         They are asked for; alert above 0 for ten minutes.",
    ),
    (
        Gauge::RetainedPackages,
        "passerelle_retained_packages",
        "Packages that are over and still kept, by part (chunks: whole; head: without chunks).",
    ),
    (
        Gauge::RetainedBytes,
        "passerelle_retained_bytes",
        "Bytes of packages that are over and whose chunks are still kept.",
    ),
    (
        Gauge::PurgeDueSeconds,
        "passerelle_purge_due_seconds",
        "Seconds until the next package that is over is due to be purged. Alert below -86400: no \
         partner cosigns, or the clock is not believed.",
    ),
    (
        Gauge::DiskFreeBytes,
        "passerelle_disk_free_bytes",
        "Free bytes of the data directory's file system.",
    ),
    (
        Gauge::Sessions,
        "passerelle_sessions",
        "Open session streams, by peer.",
    ),
    (
        Gauge::BreakerOpen,
        "passerelle_breaker_open",
        "1 while a peer is probed, not used: it cannot be reached, or fails again and again.",
    ),
    (
        Gauge::CertificateExpiryDays,
        "passerelle_certificate_expiry_days",
        "Days until this gateway's TLS certificate expires. Alert below 30.",
    ),
    (
        Gauge::SheetExpiryDays,
        "passerelle_sheet_expiry_days",
        "Days until a party's sheet expires. Alert below 30.",
    ),
    (
        Gauge::ExpirySeconds,
        "passerelle_expiry_seconds",
        "Seconds until something ends, by of (certificate, sheet, agent keys, gateway keys, \
         recipient keys, log keys, convention) and owner. Alert below 2592000 (30 days).",
    ),
];

/// One gateway's numbers.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Metrics {
    /// Numbers that all carry the label `gateway`.
    #[must_use]
    pub fn new(gateway: &str) -> Arc<Self> {
        let recorder = PrometheusBuilder::new()
            .add_global_label("gateway", gateway)
            .build_recorder();
        for (_, name, help) in COUNTERS {
            recorder.describe_counter(KeyName::from(name), Some(Unit::Count), help.into());
        }
        for (_, name, help) in GAUGES {
            recorder.describe_gauge(KeyName::from(name), None, help.into());
        }
        let handle = recorder.handle();
        Arc::new(Self { recorder, handle })
    }

    /// Adds `amount` to a counter.
    pub fn add(&self, counter: Counter, labels: &[(&'static str, &str)], amount: u64) {
        let found = COUNTERS.iter().find(|(which, ..)| *which == counter);
        let Some((_, name, _)) = found else { return };
        let key = key(name, labels);
        self.recorder
            .register_counter(&key, &METADATA)
            .increment(amount);
    }

    /// Sets a gauge.
    pub fn set(&self, gauge: Gauge, labels: &[(&'static str, &str)], value: f64) {
        let found = GAUGES.iter().find(|(which, ..)| *which == gauge);
        let Some((_, name, _)) = found else { return };
        let key = key(name, labels);
        self.recorder.register_gauge(&key, &METADATA).set(value);
    }

    /// Everything, in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> = labels
        .iter()
        .map(|(name, value)| Label::new(*name, (*value).to_owned()))
        .collect();
    Key::from_parts(name, labels)
}

/// Binds the address of `/metrics`.
///
/// # Errors
/// The address cannot be bound.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves `GET /metrics` until `stop`.
pub(crate) async fn serve(listener: TcpListener, metrics: Arc<Metrics>, stop: CancellationToken) {
    let page = move || {
        let metrics = metrics.clone();
        async move { ([(CONTENT_TYPE, TEXT)], metrics.render()) }
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

    #[test]
    fn two_gateways_in_one_process_keep_their_numbers_apart() {
        let (one, two) = (Metrics::new("caf21"), Metrics::new("grand-dijon"));
        one.add(Counter::Refusals, &[("reason", "digest")], 2);
        two.set(Gauge::LogEntries, &[], 7.0);
        let (one, two) = (one.render(), two.render());
        let line = r#"passerelle_refusals_total{gateway="caf21",reason="digest"} 2"#;
        assert!(one.contains(line), "{one}");
        assert!(!two.contains("digest"), "{two}");
        assert!(
            two.contains(r#"passerelle_log_entries{gateway="grand-dijon"} 7"#),
            "{two}"
        );
    }

    #[test]
    fn every_number_has_a_help_text() {
        let metrics = Metrics::new("caf21");
        for (counter, ..) in COUNTERS {
            metrics.add(counter, &[], 1);
        }
        for (gauge, ..) in GAUGES {
            metrics.set(gauge, &[], 1.0);
        }
        let page = metrics.render();
        for name in COUNTERS
            .iter()
            .map(|c| c.1)
            .chain(GAUGES.iter().map(|g| g.1))
        {
            assert!(
                page.contains(&format!("# HELP {name} ")),
                "{name} in\n{page}"
            );
        }
    }
}
