//! A package of ours on its way to the gateway.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use passerelle_host::monotonic;
use passerelle_link::{Outbound, Peer};
use passerelle_proto::session::Answer;
use passerelle_proto::v1::{self, Section, Signed, statement::What};
use passerelle_proto::{
    Damage, INLINE_LEN_MAX, PackageId, SoundReader, StoredError, VerifiedManifest,
    VerifiedStatement, busy_words,
};
use tonic::async_trait;

use crate::node::Node;
use crate::outgoing::{Sent, statements};
use crate::pack_file::PackFile;
use crate::receipts::{self, Taken};

/// Wait before a package is offered again that the gateway could not take.
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait that a busy gateway may ask for.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(300);

/// A package of ours cannot be read: one that has rotted is offered to nobody, and people are told
/// what helps.
pub(crate) fn hold_back(node: &Node, package: &PackageId, error: &StoredError) {
    let why = match error {
        StoredError::Damaged(damage) => {
            node.metrics.damaged();
            node.outgoing.hold(package, &damage.to_string())
        }
        StoredError::Io(error) => error.to_string(),
    };
    tracing::error!(
        package = package.short(),
        why,
        "a sealed package cannot be read"
    );
}

/// A package of ours that is being offered.
pub(crate) struct Handing {
    node: Arc<Node>,
    peer: Peer,
    sent: Sent,
    // Away while a blocking thread has it.
    reader: Option<SoundReader<PackFile>>,
    inline: Bytes,
    settled: bool,
}

impl Handing {
    /// Opens a package for a peer; what is small is read at once.
    ///
    /// # Errors
    /// [`StoredError`]; the package is still claimed then.
    pub(crate) fn new(node: &Arc<Node>, peer: &Peer, sent: Sent) -> Result<Self, StoredError> {
        let opened = node.store.disk().open(&sent.job.package());
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Damage::Gone.into(),
            _ => StoredError::Io(error),
        })?;
        let stored = PackFile {
            file: file.into(),
            layout: sent.layout,
        };
        let mut reader = SoundReader::new(&sent.manifest, stored);
        let inline = match sent.manifest.total_length() <= INLINE_LEN_MAX {
            true => reader.inline()?,
            false => Bytes::new(),
        };
        Ok(Self {
            node: node.clone(),
            peer: peer.clone(),
            sent,
            reader: Some(reader),
            inline,
            settled: false,
        })
    }

    fn put_back(&mut self, after: Option<Duration>) {
        self.settled = true;
        let not_before = after.map(|after| monotonic() + after);
        self.node
            .outgoing
            .put_back(&self.sent.manifest.id(), not_before);
        self.node.news.notify_waiters();
    }
}

impl Drop for Handing {
    fn drop(&mut self) {
        if !self.settled {
            self.put_back(Some(RETRY));
        }
    }
}

#[async_trait]
impl Outbound for Handing {
    fn manifest(&self) -> &VerifiedManifest {
        &self.sent.manifest
    }

    fn inline(&self) -> Bytes {
        self.inline.clone()
    }

    fn accepted(&self) -> Option<Signed> {
        let said = statements(&self.sent.job).ok()?;
        let ours = |said: &&VerifiedStatement| {
            said.issuer() == &self.peer.hop.party && matches!(said.what(), What::Accepted(_))
        };
        let first = said.iter().filter(ours).min_by_key(|said| said.at());
        first.map(|said| said.signed().clone())
    }

    async fn read(&mut self, section: Section, offset: u64, length: u64) -> io::Result<Bytes> {
        let gone = || io::Error::other("the package is not open any more");
        let mut reader = self.reader.take().ok_or_else(gone)?;
        let work = move || {
            let bytes = reader.read(section, offset, length);
            (reader, bytes)
        };
        let (reader, bytes) = passerelle_host::blocking(work)
            .await
            .map_err(io::Error::other)?;
        self.reader = Some(reader);
        bytes.map_err(|error| {
            hold_back(&self.node, &self.sent.manifest.id(), &error);
            io::Error::other(error)
        })
    }

    async fn answered(mut self: Box<Self>, answer: Answer) {
        let signed = match answer {
            Answer::Statement(signed) => signed,
            // A gateway signs for what it takes; without that it is offered again.
            Answer::Have => return self.put_back(Some(RETRY_MAX)),
        };
        if let Ok(body) = passerelle_proto::envelope::decode_exact::<v1::Statement>(&signed.body)
            && let Some(What::Busy(busy)) = body.what
        {
            let after = Duration::from_millis(busy.retry_after_ms).clamp(RETRY, RETRY_MAX);
            let (package, why) = (self.sent.manifest.id().short(), busy_words(busy.reason()));
            tracing::info!(package, why, ?after, "put off by the gateway");
            return self.put_back(Some(after));
        }
        let (node, peer) = (self.node.clone(), self.peer.clone());
        let taken = passerelle_host::blocking(move || receipts::take(&node, &peer, signed)).await;
        match taken {
            Ok(Ok(Taken::Stored)) => self.put_back(None),
            Ok(Ok(Taken::Refused(why))) => {
                tracing::error!(peer = %self.peer, why, "an answer cannot be believed");
                self.put_back(Some(RETRY_MAX));
            }
            Ok(Err(_)) | Err(_) => self.put_back(Some(RETRY)),
        }
    }
}
