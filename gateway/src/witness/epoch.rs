//! A partner that begins a new log, because its old one is lost: `passerelle audit reconcile`.
//!
//! What it had taken from us may be lost with it. Packages that are not receipted are offered to it
//! again; with them go the statements about them.

use std::sync::Arc;

use passerelle_proto::v1::{self, entry::Event};
use passerelle_proto::{Checkpoint, Hop, Note, PackageId, PartyId, log_epoch};

use super::{log_of, note_of};
use crate::node::Node;
use crate::queue::PAGE_MAX;

/// Takes note of the partner's new log, if this request is about one. May be repeated.
///
/// # Errors
/// Why this is not possible now; nothing may be cosigned then.
pub(super) async fn follow(node: &Arc<Node>, party: &PartyId, body: &[u8]) -> Result<(), String> {
    let Some((last, epoch)) = replaced(node, party, body) else {
        return Ok(());
    };
    tracing::warn!(
        partner = %party,
        "the partner has begun a new log, for its old one is lost: what is open is offered to it \
         again"
    );
    let hop = Hop::gateway(party.clone());
    for package in taken(node, &hop).await? {
        let event = Event::Retried(v1::HoldEvent {
            package: package.as_bytes().to_vec(),
            next_hop: Some(hop.to_message()),
            operator: Vec::new(),
        });
        commit(node, event).await?;
    }
    commit(
        node,
        Event::Epoch(v1::EpochEvent {
            party: party.to_string(),
            last,
            ..v1::EpochEvent::default()
        }),
    )
    .await?;
    // The last step: until then all of it is done again.
    let kept = node.witnessed_path(party);
    let aside = kept.with_file_name(format!("{party}.epoch-{epoch}.note"));
    let renamed = node.disk.rename_synced(&kept, &aside);
    renamed.map_err(|error| error.to_string())
}

async fn commit(node: &Arc<Node>, event: Event) -> Result<(), String> {
    let committed = node.sequencer.commit(event).await;
    committed.map(drop).map_err(|error| error.to_string())
}

/// What we keep of the log that the one in `body` takes the place of, and its number.
fn replaced(node: &Node, party: &PartyId, body: &[u8]) -> Option<(Vec<u8>, u32)> {
    let kept = node.read_if_there(&node.witnessed_path(party));
    let note = Note::parse(&kept).ok()?;
    let before = log_epoch(party, &Checkpoint::parse(note.text()).ok()?.origin)?;
    let log = log_of(node, party)?;
    let newer = log_epoch(party, log.name())? > before;
    let signed = newer && Checkpoint::verify(note_of(body), &log).is_ok();
    signed.then_some((kept, before))
}

/// Packages that the hop had taken, and for which somebody behind it has not receipted.
async fn taken(node: &Arc<Node>, hop: &Hop) -> Result<Vec<PackageId>, String> {
    let (node, hop) = (node.clone(), hop.clone());
    let looking = move || {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = node.queue.page(after, PAGE_MAX);
            let page = page.map_err(|error| error.to_string())?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            after = Some(last.key);
            let open = page
                .iter()
                .filter(|view| view.item.forwarded && view.item.next_hop == hop);
            found.extend(open.map(|view| view.item.package));
        }
    };
    let looked = passerelle_host::blocking(looking).await;
    looked.map_err(|_| "the gateway is stopping".to_owned())?
}
