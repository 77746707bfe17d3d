//! Removing the bytes of packages that are over.
//!
//! `purge-decided` is appended, then the bytes go, then our signed `Purged` is appended, which also
//! travels to the package's sender. What was decided is gone on with after a start, whatever the
//! clock says by then; every step may be done twice. The log itself is never cut.
//!
//! Nothing goes unless everybody's terminal statement stands in our log under a checkpoint that
//! another institution has cosigned, and the wall clock may be believed. When room is short, chunks
//! go before their time, and the log says so.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use passerelle_disk::crash_point;
use passerelle_proto::v1::{self, PurgedPart, entry::Event, statement::What};
use passerelle_proto::{
    Hop, PackageId, PartyId, Timestamp, UntrustedManifest, VerifiedManifest, purged_words,
};
use tokio::time::MissedTickBehavior;

use crate::log::Fatal;
use crate::metrics::Counter;
use crate::node::Node;
use crate::own_statement::OwnStatement;
use crate::queue::{Going, Item, ItemView, Queue, QueueError, Retained};
use crate::sequencer::{Committed, Sequencer, SubmitError};
use crate::spool::{Spool, SpoolError};
use crate::witness;

/// How often it is looked whether anything is to go.
const PURGE_EVERY: Duration = Duration::from_secs(1);
/// Packages of which something goes at once, and of those that are gone on with beside them.
const BATCH_MAX: usize = 64;
/// The same for want of room: after each batch it is looked whether there is enough again.
const EARLY_BATCH_MAX: usize = 16;

/// How far our log is cosigned.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cosigned {
    by: PartyId,
    size: u64,
}

/// What may go now.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Terms {
    /// The wall clock, when it may be believed.
    now: Option<Timestamp>,
    /// The largest size of our log that another institution has cosigned.
    cosigned: Option<Cosigned>,
    /// Whether packages are to go before their time.
    short: bool,
}

/// Something that goes.
#[derive(Clone, Debug)]
struct Leaving {
    item: Item,
    part: PurgedPart,
    /// Index of the decision in the log.
    decided: u64,
    early: bool,
}

/// Why a purge stops before its end. It is gone on with later, unless the gateway has to stop.
#[derive(Debug, thiserror::Error)]
enum PurgeError {
    /// The queue cannot follow the log.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] Fatal),
    /// The disk.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// Nothing can be appended now.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

impl PurgeError {
    fn is_fatal(&self) -> bool {
        match self {
            Self::Queue(_) | Self::Log(_) => true,
            Self::Spool(error) => error.is_fatal(),
            Self::Submit(_) => false,
        }
    }
}

/// What goes in the next batch. Nothing that was not decided before goes without a clock that may
/// be believed and a cosignature.
fn chosen(queue: &dyn Queue, terms: &Terms) -> Result<Vec<ItemView>, QueueError> {
    let mut chosen = queue.purgeable(Going::Decided, BATCH_MAX)?;
    let (Some(until), Some(cosigned)) = (terms.now, &terms.cosigned) else {
        return Ok(chosen);
    };
    let below = cosigned.size;
    // Beside what could not be removed before, so that it never stands in the way of the rest.
    let mut more = queue.purgeable(Going::Due { until, below }, BATCH_MAX)?;
    if more.is_empty() && terms.short {
        more = queue.purgeable(Going::Early { below }, EARLY_BATCH_MAX)?;
    }
    chosen.append(&mut more);
    Ok(chosen)
}

/// What is to be appended before anything of it goes.
fn decision(view: &ItemView, retained: &Retained, terms: &Terms) -> Option<v1::PurgeDecidedEvent> {
    let (now, cosigned) = (terms.now?, terms.cosigned.as_ref()?);
    Some(v1::PurgeDecidedEvent {
        package: view.item.package.as_bytes().to_vec(),
        part: retained.part as i32,
        over_index: view.key.index,
        due_ms: retained.due.as_ms(),
        early: retained.due > now,
        cosigned_by: cosigned.by.to_string(),
        cosigned_size: cosigned.size,
    })
}

/// Lets go what is to go, as long as the gateway runs.
pub(crate) async fn keep_purging(node: Arc<Node>) {
    tokio::select! {
        () = node.anchor.wait() => {}
        () = node.stop.cancelled() => return,
    }
    let purger = Purger {
        party: node.party.clone(),
        sequencer: node.sequencer.clone(),
        queue: node.queue.clone(),
        spool: node.spool.clone(),
    };
    let mut every = tokio::time::interval(PURGE_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = node.stop.cancelled() => return,
        }
        while !node.stop.is_cancelled() {
            match turn(&node, &purger).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.is_fatal() => return node.fail(error.to_string()),
                Err(error) => {
                    tracing::warn!(%error, "a purge is gone on with later");
                    break;
                }
            }
        }
    }
}

/// Lets one batch go; of how many packages something is gone.
async fn turn(node: &Arc<Node>, purger: &Purger) -> Result<usize, PurgeError> {
    let asking = node.clone();
    let looked = passerelle_host::blocking(move || look(&asking)).await;
    let Some(terms) = looked.map_err(|_| SubmitError::Stopped)? else {
        return Ok(0);
    };
    let gone = purger.batch(&terms, |sender| node.way_to(sender)).await?;
    for leaving in &gone {
        let early = if leaving.early { "yes" } else { "no" };
        node.metrics.add(Counter::Purged, &[("early", early)], 1);
    }
    Ok(gone.len())
}

/// What may go now; `None` when there is nothing to look for. Blocks.
fn look(node: &Node) -> Option<Terms> {
    let moment = node.host_clock.moment();
    let now = node.clock.is_believed(moment).then_some(moment.wall);
    let short = node.spool.is_short().unwrap_or_else(|error| {
        tracing::warn!(%error, "how much room there is cannot be told");
        false
    });
    let kept = node.queue.retention();
    let due = now.is_some_and(|now| kept.due.is_some_and(|due| short || due <= now));
    (due || kept.decided > 0).then(|| Terms {
        now,
        cosigned: cosigned(node),
        short,
    })
}

/// How far our log is cosigned by whoever has cosigned most of it.
fn cosigned(node: &Node) -> Option<Cosigned> {
    let directory = node.directory();
    let others = directory.sheets().filter(|sheet| sheet.party != node.party);
    let cosigned = others.filter_map(|sheet| {
        let (size, _) = witness::cosigned(node, &sheet.party)?;
        let by = sheet.party.clone();
        Some(Cosigned { by, size })
    });
    cosigned.max_by_key(|cosigned| cosigned.size)
}

/// Whether it goes by this decision, and nobody has said yet that it is gone.
fn is_decided(view: &ItemView, decided: u64) -> bool {
    let retained = view.item.retained;
    retained.is_some_and(|retained| retained.decided == Some(decided))
}

/// Whoever removes.
#[derive(Clone)]
struct Purger {
    party: PartyId,
    sequencer: Sequencer,
    queue: Arc<dyn Queue>,
    spool: Arc<Spool>,
}

impl Purger {
    /// Lets a batch go; `way` says where statements to a sender go. Returns what is gone, and said
    /// to be.
    async fn batch(
        &self,
        terms: &Terms,
        way: impl Fn(&PartyId) -> Option<Hop>,
    ) -> Result<Vec<Leaving>, PurgeError> {
        let (queue, asked) = (self.queue.clone(), terms.clone());
        let chosen = passerelle_host::blocking(move || chosen(queue.as_ref(), &asked)).await;
        let views = chosen.map_err(|_| SubmitError::Stopped)??;
        if views.is_empty() {
            return Ok(Vec::new());
        }
        let decided = views.into_iter().map(|view| self.decide(view, terms));
        let decided: Result<Vec<_>, PurgeError> = join_all(decided).await.into_iter().collect();
        let leaving: Vec<Leaving> = decided?.into_iter().flatten().collect();
        crash_point!("purge.decided");
        let removing = self.clone();
        let removed = passerelle_host::blocking(move || removing.remove(leaving)).await;
        let removed = removed.map_err(|_| SubmitError::Stopped)??;
        let said = removed.into_iter().map(|leaving| {
            let way = way(&leaving.item.sender);
            self.say(leaving, way)
        });
        let said: Result<Vec<_>, SubmitError> = join_all(said).await.into_iter().collect();
        crash_point!("purge.said");
        Ok(said?.into_iter().flatten().collect())
    }

    /// Appends the decision, unless it is in the log already.
    async fn decide(&self, view: ItemView, terms: &Terms) -> Result<Option<Leaving>, PurgeError> {
        let Some(retained) = view.item.retained else {
            return Ok(None);
        };
        let (decided, early) = match retained.decided {
            Some(index) => (index, self.was_early(index).await?),
            None => {
                let Some(event) = decision(&view, &retained, terms) else {
                    return Ok(None);
                };
                let early = event.early;
                let committed = self.sequencer.commit(Event::PurgeDecided(event)).await?;
                (committed.index, early)
            }
        };
        Ok(Some(Leaving {
            item: view.item,
            part: retained.part,
            decided,
            early,
        }))
    }

    /// Whether a decision in the log was made before the end of the retention.
    async fn was_early(&self, index: u64) -> Result<bool, PurgeError> {
        let sequencer = self.sequencer.clone();
        let read = passerelle_host::blocking(move || sequencer.entry(index)).await;
        let entry = read.map_err(|_| SubmitError::Stopped)??;
        Ok(match entry.and_then(|entry| entry.event) {
            Some(Event::PurgeDecided(event)) => event.early,
            _ => false,
        })
    }

    /// Removes the bytes; what of it is durably gone. Blocks.
    fn remove(&self, leaving: Vec<Leaving>) -> Result<Vec<Leaving>, PurgeError> {
        let mut gone = Vec::new();
        for leaving in leaving {
            match self.remove_one(&leaving) {
                Ok(()) => gone.push(leaving),
                Err(error) if error.is_fatal() => return Err(error),
                // One bad record holds nobody else up.
                Err(error) => {
                    let package = leaving.item.package.short();
                    tracing::warn!(package, %error, "a package is purged later");
                }
            }
        }
        crash_point!("purge.removed");
        self.spool.sync_removed()?;
        crash_point!("purge.synced");
        Ok(gone)
    }

    fn remove_one(&self, leaving: &Leaving) -> Result<(), PurgeError> {
        let package = &leaving.item.package;
        if leaving.part == PurgedPart::Head {
            return Ok(self.spool.remove_head(package)?);
        }
        let Some(location) = self.lies(leaving)? else {
            return Ok(());
        };
        if leaving.part == PurgedPart::Chunks
            && let Some(manifest) = self.manifest(package)?
        {
            match self.spool.keep_head(&manifest) {
                // A file that is shorter than what was signed for has nothing to keep, and neither
                // has one that the disk does not give any more.
                Err(SpoolError::Io { source, .. })
                    if matches!(
                        source.kind(),
                        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
                    ) =>
                {
                    let package = package.short();
                    tracing::error!(package, %source, "nothing of it can be kept");
                }
                kept => kept?,
            }
            crash_point!("purge.headed");
        }
        Ok(self.spool.remove(package, &location)?)
    }

    /// Where it lies, since it was decided that it goes: it may have been repaired just before.
    fn lies(&self, leaving: &Leaving) -> Result<Option<v1::PackLocation>, QueueError> {
        let items = self.queue.find(&leaving.item.package)?;
        let meant = |view: &ItemView| is_decided(view, leaving.decided);
        Ok(items
            .into_iter()
            .find(meant)
            .and_then(|view| view.item.pack))
    }

    /// The manifest with which the log has accepted a package. Blocks.
    fn manifest(&self, package: &PackageId) -> Result<Option<VerifiedManifest>, Fatal> {
        let entries = self.sequencer.entries_about(package)?;
        let manifest = entries.into_iter().find_map(|Committed { entry, .. }| {
            let Some(Event::Accepted(event)) = entry.event else {
                return None;
            };
            UntrustedManifest::parse(event.manifest?).ok()
        });
        Ok(manifest.map(UntrustedManifest::verified_before))
    }

    /// Says to the package's sender, and in our log, what is gone; `None`: it was said before.
    async fn say(
        &self,
        leaving: Leaving,
        way: Option<Hop>,
    ) -> Result<Option<Leaving>, SubmitError> {
        let Leaving {
            part,
            decided,
            early,
            ..
        } = leaving;
        let (queue, package) = (self.queue.clone(), leaving.item.package);
        let words = move |_| {
            let items = queue.find(&package).unwrap_or_default();
            let part = part as i32;
            match items.iter().any(|view| is_decided(view, decided)) {
                true => Ok(What::Purged(v1::Purged {
                    part,
                    decided_index: decided,
                    early,
                })),
                false => Err("it has been said".to_owned()),
            }
        };
        let (party, sender) = (self.party.clone(), leaving.item.sender.clone());
        let statement = OwnStatement::new(party, sender, package, way, words);
        match self.sequencer.accept(statement).await {
            Err(SubmitError::Denied(_)) => return Ok(None),
            said => said?,
        };
        let (package, what) = (package.short(), purged_words(part));
        match early {
            true => tracing::warn!(package, what, "purged early for want of room"),
            false => tracing::info!(package, what, "purged"),
        }
        Ok(Some(leaving))
    }
}

#[cfg(test)]
mod tests;
