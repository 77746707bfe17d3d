//! A package that arrives chunk by chunk.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use passerelle_link::{Incoming, OfferAnswer, WriteError};
use passerelle_proto::session::{Answer, Fault, Held};
use passerelle_proto::v1::Section;
use passerelle_proto::{PackageId, VerifiedManifest};
use tokio::sync::mpsc;
use tonic::async_trait;

use super::offer::refuse;
use crate::incoming::Arriving;
use crate::node::Node;

/// Whoever opens packages is told of one that has arrived, once.
pub(super) fn has_arrived(
    node: &Node,
    package: PackageId,
    arrived: &mpsc::UnboundedSender<PackageId>,
) {
    if node.incoming.tell(package) {
        let _ = arrived.send(package);
    }
}

/// A package whose bytes are arriving.
pub(super) struct Transfer {
    pub(super) node: Arc<Node>,
    pub(super) manifest: VerifiedManifest,
    pub(super) held: Held,
    // Away while a blocking thread has it.
    pub(super) arriving: Option<Arriving>,
    pub(super) arrived: mpsc::UnboundedSender<PackageId>,
}

impl Transfer {
    async fn blocking(
        &mut self,
        work: impl FnOnce(&mut Arriving) -> io::Result<()> + Send + 'static,
    ) -> Result<(), WriteError> {
        let gone = || WriteError(io::Error::other("the transfer has ended"));
        let mut arriving = self.arriving.take().ok_or_else(gone)?;
        let done = passerelle_host::blocking(move || {
            let done = work(&mut arriving);
            (arriving, done)
        });
        let (arriving, done) = done.await.map_err(|_| gone())?;
        self.arriving = Some(arriving);
        Ok(done?)
    }
}

#[async_trait]
impl Incoming for Transfer {
    fn manifest(&self) -> &VerifiedManifest {
        &self.manifest
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
        self.blocking(move |arriving| arriving.write(section, offset, &bytes))
            .await
    }

    async fn sync(&mut self) -> Result<(), WriteError> {
        self.blocking(Arriving::sync).await
    }

    async fn complete(mut self: Box<Self>) -> Option<Answer> {
        let arriving = self.arriving.take()?;
        let (node, package) = (self.node.clone(), self.manifest.id());
        let arrived = self.arrived.clone();
        let finish = move || {
            arriving.finish()?;
            // Here, since the stream may have ended by now, and nobody waits any more.
            has_arrived(&node, package, &arrived);
            Ok::<_, io::Error>(())
        };
        match passerelle_host::blocking(finish).await {
            Ok(Ok(())) => Some(Answer::Have),
            Ok(Err(error)) => {
                tracing::error!(%error, "an arrived package was not kept");
                None
            }
            Err(_) => None,
        }
    }

    async fn broken(mut self: Box<Self>, fault: Fault) -> Option<Answer> {
        let arriving = self.arriving.take()?;
        let _ = passerelle_host::blocking(move || arriving.discard()).await;
        let package = self.manifest.id();
        let (node, sender) = (self.node.clone(), self.manifest.sender().clone());
        let (reason, why) = (fault.reason(), fault.to_string());
        let signing = move || match refuse(&node, &sender, package, reason, String::new(), why) {
            OfferAnswer::Answer(answer) => Some(answer),
            _ => None,
        };
        passerelle_host::blocking(signing).await.ok()?
    }
}
