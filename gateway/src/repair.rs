//! Taking a package again whose copy here is damaged: what is damaged is fetched and written over,
//! and the receipt stays the one that was given first.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use passerelle_disk::crash_point;
use passerelle_link::{Incoming, OfferAnswer, Peer, WriteError};
use passerelle_proto::session::{Answer, Fault, Held};
use passerelle_proto::v1::{self, PackLocation, Section, Signed, entry::Event};
use passerelle_proto::{INLINE_LEN_MAX, PackageId, VerifiedManifest};
use tonic::async_trait;

use crate::damage;
use crate::metrics::Counter;
use crate::node::Node;
use crate::spool::{Mending, SpoolError};

/// A package that was accepted, and whose copy here is damaged.
pub(crate) struct Wanted {
    /// Its manifest, as it was verified when it was accepted.
    pub(crate) manifest: VerifiedManifest,
    /// What was answered when it was accepted.
    pub(crate) receipt: Signed,
}

/// Takes from an offer of such a package what is wanted of it.
pub(crate) async fn take(
    node: Arc<Node>,
    peer: Peer,
    wanted: Wanted,
    inline: Bytes,
) -> OfferAnswer {
    let small = wanted.manifest.total_length() <= INLINE_LEN_MAX;
    let (mender, manifest) = (node.clone(), wanted.manifest.clone());
    let begun = passerelle_host::blocking(move || {
        let mut mending = mender
            .spool
            .mend(&manifest, || lies(&mender, &manifest.id()))?;
        if small {
            mending.write_inline(&inline)?;
        }
        Ok::<Mending, SpoolError>(mending)
    });
    let mending = match begun.await {
        Ok(Ok(mending)) => mending,
        Ok(Err(SpoolError::Committed)) => {
            return OfferAnswer::Answer(Answer::Statement(wanted.receipt));
        }
        Ok(Err(error)) => {
            if error.is_fatal() {
                node.fail(error.to_string());
            }
            let package = wanted.manifest.id().short();
            tracing::warn!(package, %peer, %error, "a damaged package cannot be repaired now");
            return OfferAnswer::Decline("it cannot be repaired now".into());
        }
        Err(_) => return OfferAnswer::Decline("the gateway is stopping".into()),
    };
    let held = mending.held();
    let repair = Box::new(Repair {
        node,
        peer,
        wanted,
        mending: Some(mending),
        held,
    });
    if !small {
        return OfferAnswer::Take(repair);
    }
    match repair.complete().await {
        Some(answer) => OfferAnswer::Answer(answer),
        None => OfferAnswer::Decline("it cannot be repaired now".into()),
    }
}

/// Where a package lies, if its copy is damaged.
fn lies(node: &Node, package: &PackageId) -> Option<PackLocation> {
    let damaged = damage::is_damaged(node, package);
    node.accepted(package).filter(|_| damaged)?.1.pack
}

/// Removes the damaged copy where it lies elsewhere than the whole one, and the whole one too when
/// the package has been over, and purged, meanwhile.
fn tidy(
    node: &Node,
    package: &PackageId,
    before: Option<PackLocation>,
    pack: &PackLocation,
) -> Result<(), SpoolError> {
    if let Some(before) = before.filter(|before| before != pack) {
        node.spool.remove(package, &before)?;
    }
    let items = match node.queue.find(package) {
        Ok(items) => items,
        Err(error) => {
            node.fail(error.to_string());
            return Ok(());
        }
    };
    match items
        .iter()
        .any(|view| view.item.whole().as_ref() == Some(pack))
    {
        true => Ok(()),
        false => node.spool.remove(package, pack),
    }
}

/// A repair under way.
struct Repair {
    node: Arc<Node>,
    peer: Peer,
    wanted: Wanted,
    // Away while a blocking thread has it.
    mending: Option<Mending>,
    held: Held,
}

impl Repair {
    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Mending) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, WriteError> {
        let gone = || WriteError(io::Error::other("the repair has ended"));
        let mut mending = self.mending.take().ok_or_else(gone)?;
        let done = passerelle_host::blocking(move || {
            let done = work(&mut mending);
            (mending, done)
        });
        let (mending, done) = done.await.map_err(|_| gone())?;
        self.mending = Some(mending);
        done.map_err(|error| {
            if error.is_fatal() {
                self.node.fail(error.to_string());
            }
            WriteError(io::Error::other(error))
        })
    }

    /// Has the log say that the copy is whole, and lets go of the damaged one.
    async fn commit(&self, pack: PackLocation) -> Option<()> {
        let (node, package) = (self.node.clone(), self.wanted.manifest.id());
        let before = {
            let node = node.clone();
            passerelle_host::blocking(move || node.accepted(&package))
        };
        let before = before.await.ok()?.and_then(|(_, event)| event.pack);
        let event = Event::Repaired(v1::RepairedEvent {
            package: package.as_bytes().to_vec(),
            pack: Some(pack),
        });
        let committed = node.sequencer.commit(event).await;
        if let Err(error) = &committed {
            tracing::warn!(package = package.short(), %error, "a repair was not recorded");
        }
        crash_point!("repair.recorded");
        let recorded = committed.is_ok();
        let tidying = move || {
            let tidied = match recorded {
                true => tidy(&node, &package, before, &pack),
                false => node.spool.release(&pack),
            };
            if let Err(error) = tidied {
                tracing::warn!(%error, "a copy that nothing needs stays until the next start");
            }
        };
        passerelle_host::blocking(tidying).await.ok()?;
        committed.ok().map(drop)
    }

    /// Every byte that was wanted has come.
    async fn record(mut self) -> Option<Answer> {
        let location = self.blocking(Mending::finish).await.ok()?;
        crash_point!("repair.written");
        self.commit(location).await?;
        self.node.metrics.add(Counter::Repairs, &[], 1);
        let (package, from) = (self.wanted.manifest.id().short(), &self.peer.hop);
        tracing::info!(package, %from, "a damaged package is repaired");
        Some(Answer::Statement(self.wanted.receipt))
    }
}

#[async_trait]
impl Incoming for Repair {
    fn manifest(&self) -> &VerifiedManifest {
        &self.wanted.manifest
    }

    fn held(&self) -> Held {
        self.held.clone()
    }

    async fn write(
        &mut self,
        section: Section,
        offset: u64,
        bytes: Bytes,
    ) -> Result<(), WriteError> {
        self.node.received(&self.peer, bytes.len() as u64);
        self.blocking(move |mending| mending.write(section, offset, &bytes))
            .await
    }

    async fn sync(&mut self) -> Result<(), WriteError> {
        self.blocking(Mending::sync).await
    }

    /// Goes on when the stream ends meanwhile: what is written is recorded, or let go of.
    async fn complete(self: Box<Self>) -> Option<Answer> {
        tokio::spawn(self.record()).await.ok()?
    }

    /// The package was accepted once: wrong bytes are no reason to refuse it now.
    async fn broken(self: Box<Self>, fault: Fault) -> Option<Answer> {
        let package = self.wanted.manifest.id().short();
        tracing::warn!(package, peer = %self.peer, %fault, "wrong bytes for a damaged package");
        None
    }
}
