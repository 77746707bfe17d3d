//! What operators ask, over a Unix socket that only the gateway's user can open.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use passerelle_proto::v1::admin_server::Admin;
use passerelle_proto::v1::{
    self, AnchorRequest, AnchorResponse, BackupRequest, Cosigned, EntryProof, EvidenceRequest,
    ExportRequest, FilePiece, Kept, LogRecord, LogRequest, PackageRequest, PackageResponse,
    ProveRequest, QueueItem, QueueRequest, QueueResponse, StatusRequest, StatusResponse,
};
use passerelle_proto::{Hop, PackageId, PackagePrefix, PrefixError, Timestamp};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use crate::anchor::{self, Hold};
use crate::backup;
use crate::damage;
use crate::exchange::software;
use crate::export::{self, Pieces, Wanted};
use crate::inquiry;
use crate::node::Node;
use crate::queue::{ItemKey, ItemState, ItemView, PAGE_MAX};
use crate::witness::cosigned;

/// Entries read at once.
const READ_AT_ONCE: u64 = 256;
/// Records that wait for a reader.
const RECORDS_WAITING: usize = 64;
/// Pieces of files that wait for a reader, 1 MiB each.
const PIECES_WAITING: usize = 4;

/// Serves `Admin`.
pub(crate) struct AdminService(pub(crate) Arc<Node>);

fn unavailable(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

impl AdminService {
    fn status_now(&self) -> StatusResponse {
        let node = &self.0;
        let directory = node.directory();
        let (log_size, log_root) = {
            let ledger = node.sequencer.ledger();
            (ledger.log.size(), ledger.log.root())
        };
        let counts = node.queue.counts();
        let waiting: BTreeMap<Hop, u64> = counts
            .iter()
            .map(|(hop, counts)| (hop.clone(), counts.total()))
            .collect();
        let kept = node.queue.retention();
        let failure = node.failure.borrow().clone();
        let partners = directory.sheets().filter(|sheet| sheet.log.is_some());
        let cosigned = partners.filter_map(|sheet| {
            let (size, at) = cosigned(node, &sheet.party)?;
            Some(Cosigned {
                party: sheet.party.to_string(),
                size,
                at_ms: at.as_ms(),
            })
        });
        StatusResponse {
            party: node.party.to_string(),
            software: software(),
            started_ms: node.started.as_ms(),
            serving: failure.is_none(),
            reason: failure.map_or(String::new(), |failure| failure.why),
            convention_id: directory.convention().id().to_owned(),
            convention_version: directory.convention().version(),
            log_size,
            log_root: log_root.0.to_vec(),
            peers: node.peers.list(&waiting),
            waiting_items: waiting.values().sum(),
            spool_bytes: node.spool.bytes(),
            damaged_packages: damage::count(node),
            missing_warning: inquiry::words(node),
            cosigned: cosigned.collect(),
            anchored: node.anchor.is_held(),
            anchored_by: held_by(node),
            expiries: node.expiry_messages(),
            cosignature_warning: node.freshness().words(),
            stamped: node.stamps.newest().map(|newest| v1::Stamped {
                authority: newest.stamp.authority,
                size: newest.size,
                at_ms: newest.stamp.at.as_ms(),
            }),
            time_stamp_warning: node.stamps.words(),
            kept: Some(Kept {
                packages: kept.packages,
                bytes: kept.bytes,
                heads: kept.heads,
                due_ms: kept.due.map_or(0, Timestamp::as_ms),
            }),
        }
    }

    /// The package that a person means.
    async fn find(&self, id: &str) -> Result<PackageId, Status> {
        let prefix = PackagePrefix::parse(id).map_err(no_package)?;
        let node = self.0.clone();
        let looked = passerelle_host::blocking(move || look_up(&node, &prefix)).await;
        looked.map_err(|_| Status::unavailable("stopping"))?
    }

    /// An item of the queue, and why it waits where its next hop is away.
    fn item(&self, view: &ItemView) -> QueueItem {
        let mut message = item_message(view);
        if let Some(why) = damage::words(&self.0, &view.item) {
            message.last_error = why;
        }
        if view.item.state() == ItemState::Waiting
            && !view.leased
            && let Some((why, dials)) = self.0.peers.absence(&view.item.next_hop)
        {
            message.attempts = message.attempts.saturating_add(dials);
            message.last_error = why;
        }
        message
    }
}

/// The package that begins like this. Blocks, and holds up nobody else while files are read.
fn look_up(node: &Node, prefix: &PackagePrefix) -> Result<PackageId, Status> {
    let failed = |error: std::io::Error| Status::internal(format!("index: {error}"));
    let found = match prefix.whole() {
        Some(package) => {
            let known = node.sequencer.ledger().index.holds(&package);
            known
                .map_err(failed)?
                .then_some(package)
                .into_iter()
                .collect()
        }
        None => {
            let search = node.sequencer.ledger().index.search(prefix.digits());
            search.run().map_err(failed)?
        }
    };
    prefix.only(found).map_err(no_package)
}

/// Answers with what `work` sends, on a thread that may block.
fn pieces(
    node: &Arc<Node>,
    work: impl FnOnce(&Node, &Pieces) -> Result<(), Status> + Send + 'static,
) -> Response<FileStream> {
    let (sender, receiver) = mpsc::channel(PIECES_WAITING);
    let node = node.clone();
    passerelle_host::blocking(move || {
        if let Err(status) = work(&node, &sender) {
            // Whoever has gone away needs no answer.
            let _ = sender.blocking_send(Err(status));
        }
    });
    Response::new(ReceiverStream::new(receiver).boxed())
}

fn no_package(error: PrefixError) -> Status {
    match error {
        PrefixError::Unknown(_) => Status::not_found(format!("{error} to this gateway's log")),
        _ => Status::invalid_argument(error.to_string()),
    }
}

/// What holds the log, in words.
fn held_by(node: &Node) -> String {
    node.anchor
        .held_by()
        .map_or(String::new(), |hold| hold.to_string())
}

fn item_message(view: &ItemView) -> QueueItem {
    let item = &view.item;
    let state = match item.state() {
        _ if view.leased => "leased",
        ItemState::Waiting => "waiting",
        ItemState::Held => "held",
        ItemState::Forwarded => "forwarded",
        ItemState::Damaged => "damaged",
        ItemState::Retained => "kept",
    };
    let until = item.retained.map_or(item.deadline, |it| Some(it.due));
    QueueItem {
        log_index: view.key.index,
        package: item.package.as_bytes().to_vec(),
        kind: match item.flow {
            Some(_) => "package",
            None => "statement",
        }
        .to_owned(),
        flow: item
            .flow
            .as_ref()
            .map_or(String::new(), ToString::to_string),
        sender: item.sender.to_string(),
        recipients: item.recipients.iter().map(ToString::to_string).collect(),
        // What is over goes nowhere.
        next_hop: match item.retained {
            Some(_) => None,
            None => Some(item.next_hop.to_message()),
        },
        state: state.to_owned(),
        attempts: view.attempts,
        deadline_ms: until.map_or(0, Timestamp::as_ms),
        last_error: view.last_error.clone(),
    }
}

type FileStream = Pin<Box<dyn Stream<Item = Result<FilePiece, Status>> + Send>>;

#[async_trait]
impl Admin for AdminService {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(self.status_now()))
    }

    async fn queue(
        &self,
        request: Request<QueueRequest>,
    ) -> Result<Response<QueueResponse>, Status> {
        let request = request.into_inner();
        let limit = match request.limit {
            0 => PAGE_MAX,
            limit => PAGE_MAX.min(limit as usize),
        };
        let after = (request.after_index > 0).then_some(ItemKey {
            index: request.after_index,
            route: u8::MAX,
        });
        let items = self.0.queue.page(after, limit).map_err(unavailable)?;
        let items = items.iter().map(|view| self.item(view)).collect();
        Ok(Response::new(QueueResponse { items }))
    }

    async fn package(
        &self,
        request: Request<PackageRequest>,
    ) -> Result<Response<PackageResponse>, Status> {
        let package = self.find(&request.into_inner().id).await?;
        let sequencer = self.0.sequencer.clone();
        let entries = passerelle_host::blocking(move || sequencer.entries_about(&package)).await;
        let entries = entries.map_err(unavailable)?.map_err(unavailable)?;
        let records = entries.iter().map(|committed| LogRecord {
            index: committed.index,
            entry: committed.entry.encode_to_vec(),
        });
        let items = self.0.queue.find(&package).map_err(unavailable)?;
        Ok(Response::new(PackageResponse {
            package: package.as_bytes().to_vec(),
            records: records.collect(),
            items: items.iter().map(|view| self.item(view)).collect(),
        }))
    }

    async fn anchor(
        &self,
        request: Request<AnchorRequest>,
    ) -> Result<Response<AnchorResponse>, Status> {
        if !request.into_inner().without_witness {
            let why = "whoever anchors a log without a copy of it has to say so";
            return Err(Status::invalid_argument(why));
        }
        let lifted = anchor::lift(&self.0, Hold::Operator)
            .await
            .map_err(unavailable)?;
        let ledger = self.0.sequencer.ledger();
        Ok(Response::new(AnchorResponse {
            before: !lifted,
            anchored_by: held_by(&self.0),
            log_size: ledger.log.size(),
            log_root: ledger.log.root().0.to_vec(),
        }))
    }

    type ProveStream = Pin<Box<dyn Stream<Item = Result<EntryProof, Status>> + Send>>;

    async fn prove(
        &self,
        request: Request<ProveRequest>,
    ) -> Result<Response<Self::ProveStream>, Status> {
        let request = request.into_inner();
        let wanted = match request.id.is_empty() {
            true => Wanted::Entry(request.index),
            false => Wanted::About(self.find(&request.id).await?),
        };
        let node = self.0.clone();
        let work = move || export::prove(&node, &wanted);
        let proofs = passerelle_host::blocking(work).await;
        let proofs = proofs.map_err(|_| Status::unavailable("stopping"))??;
        Ok(Response::new(
            futures::stream::iter(proofs.into_iter().map(Ok)).boxed(),
        ))
    }

    type EvidenceStream = FileStream;

    async fn evidence(
        &self,
        request: Request<EvidenceRequest>,
    ) -> Result<Response<FileStream>, Status> {
        let package = self.find(&request.into_inner().id).await?;
        Ok(pieces(&self.0, move |node, to| {
            export::evidence(node, package, to)
        }))
    }

    type ExportStream = FileStream;

    async fn export(&self, _: Request<ExportRequest>) -> Result<Response<FileStream>, Status> {
        Ok(pieces(&self.0, export::export))
    }

    type BackupStream = FileStream;

    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<FileStream>, Status> {
        Ok(pieces(&self.0, backup::backup))
    }

    type LogStream = Pin<Box<dyn Stream<Item = Result<LogRecord, Status>> + Send>>;

    async fn log(&self, request: Request<LogRequest>) -> Result<Response<Self::LogStream>, Status> {
        let request = request.into_inner();
        let (sender, receiver) = mpsc::channel(RECORDS_WAITING);
        let node = self.0.clone();
        tokio::spawn(async move {
            let mut size = node.sequencer.size();
            let mut index = request.from_index;
            let mut left = if request.limit == 0 {
                u64::MAX
            } else {
                request.limit
            };
            while left > 0 {
                let wanted = left.min(READ_AT_ONCE);
                let entries = node.sequencer.ledger().log.entries(index, wanted);
                let entries = match entries {
                    Ok(entries) => entries,
                    Err(error) => {
                        let _ = sender.send(Err(unavailable(error))).await;
                        return;
                    }
                };
                for entry in entries {
                    if sender.send(Ok(LogRecord { index, entry })).await.is_err() {
                        return;
                    }
                    index += 1;
                    left -= 1;
                }
                if index < *size.borrow_and_update() {
                    continue;
                }
                if !request.follow || size.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }
}
