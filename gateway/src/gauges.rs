//! What can be measured at any moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use passerelle_proto::{Hop, Timestamp, v1};
use prost::Message;

use crate::breaker::FAILURES_UNTIL_OPEN;
use crate::damage;
use crate::metrics::{Gauge, Metrics};
use crate::node::Node;
use crate::queue::Counts;
use crate::witness;

const DAY_S: f64 = 86_400.0;

/// Measures everything once; `hops` are those for which anything has waited since the start.
pub(crate) async fn set(node: &Arc<Node>, hops: &mut BTreeSet<Hop>) {
    let expiry = node.identity.not_after_s() as f64 - node.now().as_ms() as f64 / 1000.0;
    node.metrics
        .set(Gauge::CertificateExpiryDays, &[], expiry / DAY_S);
    let measured = node.clone();
    let mut known = std::mem::take(hops);
    let measure = move || {
        set_state(&measured);
        set_queues(&measured.metrics, &measured.queue.counts(), &mut known);
        set_peers(&measured);
        set_parties(&measured);
        known
    };
    match passerelle_host::blocking(measure).await {
        Ok(known) => *hops = known,
        Err(error) => tracing::warn!(%error, "nothing could be measured"),
    }
}

/// What waits, by next hop; where nothing does any more that is said, too.
fn set_queues(metrics: &Metrics, counts: &BTreeMap<Hop, Counts>, hops: &mut BTreeSet<Hop>) {
    hops.extend(counts.keys().cloned());
    for hop in hops.iter() {
        let label = hop.to_string();
        let labels = [("peer", label.as_str())];
        let items = counts.get(hop).map_or(0, Counts::total);
        metrics.set(Gauge::QueueItems, &labels, items as f64);
    }
}

fn set_state(node: &Node) {
    let metrics = &node.metrics;
    let set = |gauge, value| metrics.set(gauge, &[], value);
    let serving = node.failure.borrow().is_none();
    set(Gauge::Serving, f64::from(serving));
    set(Gauge::Anchored, f64::from(node.anchor.is_held()));
    let size = node.sequencer.ledger().log.size();
    set(Gauge::LogEntries, size as f64);
    set(Gauge::DamagedPackages, damage::count(node) as f64);
    set(Gauge::SpoolBytes, node.spool.bytes() as f64);
    set_retention(node);
    if let Ok(free) = node.disk.free_bytes(&node.data_dir) {
        set(Gauge::DiskFreeBytes, free as f64);
    }
    let age = oldest(node).map_or(0.0, |at| node.now().since(at).as_secs_f64());
    set(Gauge::QueueOldestSeconds, age);
}

fn set_retention(node: &Node) {
    let metrics = &node.metrics;
    let kept = node.queue.retention();
    for (part, packages) in [("chunks", kept.packages), ("head", kept.heads)] {
        let labels = [("part", part)];
        metrics.set(Gauge::RetainedPackages, &labels, packages as f64);
    }
    metrics.set(Gauge::RetainedBytes, &[], kept.bytes as f64);
    let due = kept.due.map_or(0, |due| due.as_ms() - node.now().as_ms());
    metrics.set(Gauge::PurgeDueSeconds, &[], due as f64 / 1000.0);
}

/// When the oldest unfinished item was committed.
fn oldest(node: &Node) -> Option<Timestamp> {
    let first = node.queue.page(None, 1).ok()?.pop()?;
    let bytes = node.sequencer.ledger().log.entry(first.key.index).ok()?;
    let entry = v1::Entry::decode(bytes.as_slice()).ok()?;
    Some(Timestamp::from_ms(entry.at_ms))
}

fn set_peers(node: &Node) {
    let metrics = &node.metrics;
    for (hop, contact) in node.peers.contacts() {
        let label = hop.to_string();
        let labels = [("peer", label.as_str())];
        metrics.set(Gauge::Sessions, &labels, contact.streams as f64);
        let open = node.circuits.is_open(&hop) || contact.failures >= FAILURES_UNTIL_OPEN;
        metrics.set(Gauge::BreakerOpen, &labels, f64::from(open));
    }
}

fn set_parties(node: &Node) {
    let metrics = &node.metrics;
    let (directory, now) = (node.directory(), node.now());
    for sheet in directory.sheets() {
        let label = sheet.party.to_string();
        let days = sheet.not_after.since(now).as_secs_f64() / DAY_S;
        metrics.set(Gauge::SheetExpiryDays, &[("party", &label)], days);
        if let Some((size, at)) = witness::cosigned(node, &sheet.party) {
            let labels = [("partner", label.as_str())];
            metrics.set(Gauge::CosignedEntries, &labels, size as f64);
            let age = now.since(at).as_secs_f64();
            metrics.set(Gauge::CosignatureAgeSeconds, &labels, age);
        }
    }
}

#[cfg(test)]
mod tests {
    use passerelle_proto::fixture::party;

    use super::*;

    #[test]
    fn a_hop_for_which_nothing_waits_any_more_has_no_items() {
        let metrics = Metrics::new("caf21");
        let (hop, mut hops) = (Hop::gateway(party("grand-dijon")), BTreeSet::new());
        let counts = Counts {
            statements: 3,
            ..Counts::default()
        };
        let waits = |items: u64| {
            let page = metrics.render();
            let line = format!("peer=\"{hop}\"}} {items}");
            assert!(page.contains(&line), "{line} in\n{page}");
        };
        set_queues(&metrics, &[(hop.clone(), counts)].into(), &mut hops);
        waits(3);
        set_queues(&metrics, &BTreeMap::new(), &mut hops);
        waits(0);
    }
}
