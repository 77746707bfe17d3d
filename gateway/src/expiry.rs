//! What becomes of a package whose time is over.
//!
//! The recipient's gateway says `NotCollected` when the package's time is over, for everybody whose
//! agent has not fetched it. A quarter of an hour later whoever still waits for a word says
//! `NotReceipted`, about its own log only; the sender hears it from its own gateway. A receipt that
//! comes later still travels, and wins.

use std::sync::Arc;
use std::time::Duration;

use passerelle_proto::v1::{self, statement::What};
use passerelle_proto::{Hop, PackageId, PartyId, Role, Timestamp};
use prost::Message;

use crate::node::Node;
use crate::own_statement::OwnStatement;
use crate::queue::{Item, ItemView, PAGE_MAX, Queue};
use crate::sequencer::{Sequencer, SubmitError};

/// How often deadlines are looked at.
pub(crate) const EXPIRY_EVERY: Duration = Duration::from_secs(10);
/// How long after a package's time a receipt is still waited for.
pub(crate) const RECEIPT_GRACE: Duration = Duration::from_secs(15 * 60);

/// What is to be said about an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    NotCollected,
    NotReceipted,
}

fn ending(item: &Item, now: Timestamp) -> Option<Ending> {
    let deadline = item.deadline?;
    // What is damaged here could not be fetched.
    if item.next_hop.role == Role::Agent && !item.forwarded && !item.damaged {
        return (now >= deadline).then_some(Ending::NotCollected);
    }
    (now >= deadline.saturating_add(RECEIPT_GRACE)).then_some(Ending::NotReceipted)
}

/// Says what is due.
pub(crate) async fn expire(node: &Arc<Node>) {
    let moment = node.host_clock.moment();
    if !node.clock.is_believed(moment) {
        return;
    }
    let asking = node.clone();
    let due = move || asking.queue.due(moment.wall, PAGE_MAX);
    let due = match passerelle_host::blocking(due).await {
        Ok(Ok(due)) => due,
        Ok(Err(error)) => return node.fail(error.to_string()),
        Err(_) => return,
    };
    for view in due {
        let Some(ending) = ending(&view.item, moment.wall) else {
            continue;
        };
        let package = view.item.package;
        let gateway = Saying {
            party: &node.party,
            sequencer: &node.sequencer,
            queue: &node.queue,
            way: node.way_to(&view.item.sender),
        };
        match gateway.end(&view, ending).await {
            Ok(()) => {
                tracing::warn!(package = package.short(), to = %view.item.next_hop, "expired")
            }
            Err(error) => return tracing::warn!(%error, "an expiry was not recorded"),
        }
    }
}

/// Takes transfers out of the spool that will never be gone on with.
pub(crate) async fn clear_partials(node: &Arc<Node>) {
    let moment = node.host_clock.moment();
    if !node.clock.is_believed(moment) {
        return;
    }
    let asking = node.clone();
    let expire = move || {
        let accepted = |package: &PackageId| asking.accepted(package).is_some();
        asking.spool.expire(accepted, moment.wall)
    };
    match passerelle_host::blocking(expire).await {
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(removed)) => tracing::info!(removed, "transfers that nobody went on with are gone"),
        Ok(Err(error)) => tracing::warn!(%error, "old transfers stay in the spool"),
    }
}

/// Whoever speaks.
struct Saying<'a> {
    party: &'a PartyId,
    sequencer: &'a Sequencer,
    queue: &'a Arc<dyn Queue>,
    /// Where statements for the sender go.
    way: Option<Hop>,
}

impl Saying<'_> {
    async fn end(&self, view: &ItemView, ending: Ending) -> Result<(), SubmitError> {
        let held_from_ms = match ending {
            Ending::NotCollected => self.accepted_at(view.key.index).await,
            Ending::NotReceipted => 0,
        };
        let held_until_ms = view.item.deadline.map_or(0, Timestamp::as_ms);
        // Of what another gateway waits for only it can speak to the sender.
        let own = self.way.as_ref().is_some_and(|hop| hop.role == Role::Agent);
        let says = ending == Ending::NotCollected || own;
        for party in &view.item.recipients {
            let waits = self.still_waits(view.item.package, party);
            let recipient = party.to_string();
            let words = move |log_size| {
                if !waits() {
                    return Err("a receipt has come".to_owned());
                }
                Ok(match ending {
                    Ending::NotCollected => What::NotCollected(v1::NotCollected {
                        recipient,
                        held_from_ms,
                        held_until_ms,
                    }),
                    Ending::NotReceipted => What::NotReceipted(v1::NotReceipted {
                        recipient,
                        log_size,
                    }),
                })
            };
            let statement = OwnStatement::new(
                self.party.clone(),
                view.item.sender.clone(),
                view.item.package,
                self.way.clone().filter(|_| says),
                words,
            );
            match self.sequencer.accept(statement).await {
                Ok(_) | Err(SubmitError::Denied(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether a word about this recipient is still awaited, asked again at the commit.
    fn still_waits(&self, package: PackageId, party: &PartyId) -> impl FnOnce() -> bool + 'static {
        let (queue, party) = (self.queue.clone(), party.clone());
        move || {
            let items = queue.find(&package).unwrap_or_default();
            let waits =
                |view: &ItemView| view.item.is_package() && view.item.recipients.contains(&party);
            items.iter().any(waits)
        }
    }

    async fn accepted_at(&self, index: u64) -> i64 {
        let sequencer = self.sequencer.clone();
        let read = move || sequencer.ledger().log.entry(index);
        let bytes = passerelle_host::blocking(read).await;
        let entry = bytes.ok().and_then(Result::ok);
        let entry = entry.and_then(|bytes| v1::Entry::decode(bytes.as_slice()).ok());
        entry.map_or(0, |entry| entry.at_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use passerelle_proto::fixture::{NOW, keys, party};
    use passerelle_proto::v1::entry::Event;
    use passerelle_proto::v1::{AcceptedEvent, Entry, Route, Signed};
    use passerelle_proto::{Digest, LogSigner};

    use super::*;
    use crate::log::Log;
    use crate::queue::{Class, MemQueue};
    use crate::sequencer::Signer;

    fn manifest() -> Signed {
        let body = v1::Manifest {
            flow: "observation-iris".into(),
            sender: "caf21".into(),
            not_after_ms: NOW.as_ms(),
            ..v1::Manifest::default()
        };
        Signed {
            body: body.encode_to_vec(),
            ..Signed::default()
        }
    }

    fn package() -> PackageId {
        PackageId(Digest::of(&manifest().body))
    }

    fn accepted(next_hop: &Hop) -> Event {
        Event::Accepted(AcceptedEvent {
            manifest: Some(manifest()),
            routes: vec![Route {
                next_hop: Some(next_hop.to_message()),
                recipients: vec!["grand-dijon".into(), "prestataire-obs".into()],
            }],
            deadline_ms: NOW.as_ms(),
            ..AcceptedEvent::default()
        })
    }

    fn item(next_hop: Hop, forwarded: bool) -> Item {
        let queue = MemQueue::new();
        let event = Some(accepted(&next_hop));
        let root = Digest::of(b"");
        queue.apply(0, &[Entry { at_ms: 0, event }], root).unwrap();
        let mut item = queue.find(&package()).unwrap().remove(0).item;
        item.forwarded = forwarded;
        item
    }

    #[test]
    fn a_package_ends_on_time_where_it_is_fetched_and_later_where_a_word_is_awaited() {
        let agent = Hop::agent(party("grand-dijon"));
        let gateway = Hop::gateway(party("grand-dijon"));
        let before = NOW.saturating_sub(Duration::from_millis(1));
        let late = NOW.saturating_add(RECEIPT_GRACE);
        let waiting = item(agent.clone(), false);
        assert_eq!(ending(&waiting, before), None);
        assert_eq!(ending(&waiting, NOW), Some(Ending::NotCollected));
        for awaited in [
            item(agent, true),
            item(gateway.clone(), false),
            item(gateway, true),
        ] {
            assert_eq!(ending(&awaited, NOW), None);
            assert_eq!(ending(&awaited, late), Some(Ending::NotReceipted));
        }
    }

    struct Running {
        sequencer: Sequencer,
        queue: Arc<dyn Queue>,
        thread: passerelle_host::Worker,
        _dir: tempfile::TempDir,
    }

    impl Running {
        fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let disk = passerelle_disk::system();
            let signer = LogSigner::from_seed(&party("grand-dijon"), &[1; 64]);
            let log = Log::open(&disk, &dir.path().join("log"), signer).unwrap();
            let queue: Arc<dyn Queue> = Arc::new(MemQueue::new());
            let key = Arc::new(keys("grand-dijon").gateway);
            let signer: Signer = Arc::new(move || key.clone());
            let anchor = crate::anchor::Anchor::open();
            let path = dir.path();
            let started = Sequencer::start(&disk, log, queue.clone(), signer, path, anchor, || NOW);
            let (sequencer, thread) = started.unwrap();
            Self {
                sequencer,
                queue,
                thread,
                _dir: dir,
            }
        }

        fn view(&self) -> ItemView {
            self.queue.find(&package()).unwrap().remove(0)
        }

        async fn end(&self, view: &ItemView, ending: Ending, way: &Hop) {
            let saying = Saying {
                party: &party("grand-dijon"),
                sequencer: &self.sequencer,
                queue: &self.queue,
                way: Some(way.clone()),
            };
            saying.end(view, ending).await.unwrap();
        }

        /// Numbers of the statements in the log.
        fn numbers(&self) -> Vec<u64> {
            let said = self.sequencer.entries_about(&package()).unwrap();
            let number = |committed: crate::sequencer::Committed| match committed.entry.event {
                Some(Event::Statement(event)) => {
                    let body = event.statement.unwrap().body;
                    Some(v1::Statement::decode(body.as_slice()).unwrap().seq)
                }
                _ => None,
            };
            said.into_iter().filter_map(number).collect()
        }

        fn stop(self) {
            self.sequencer.stop();
            self.thread.join().unwrap();
        }
    }

    #[tokio::test]
    async fn an_expired_package_leaves_the_queue_and_its_sender_hears_about_each_recipient() {
        let running = Running::start();
        let agent = Hop::agent(party("grand-dijon"));
        running.sequencer.commit(accepted(&agent)).await.unwrap();
        let (view, way) = (running.view(), Hop::gateway(party("caf21")));
        running.end(&view, Ending::NotCollected, &way).await;
        let packages = running.queue.find(&package()).unwrap();
        assert!(packages.iter().all(|view| !view.item.is_package()));
        let statements = running
            .queue
            .claim(&way, Class::Statement, 9, Instant::now());
        assert_eq!(statements.unwrap().len(), 2);
        assert_eq!(running.numbers(), [1, 2]);
        // What was settled meanwhile is not said again.
        running.end(&view, Ending::NotReceipted, &way).await;
        assert_eq!(*running.sequencer.size().borrow(), 3);
        running.stop();
    }

    #[tokio::test]
    async fn what_stays_in_our_log_takes_no_number_that_the_sender_would_miss() {
        let running = Running::start();
        let agent = Hop::agent(party("grand-dijon"));
        running.sequencer.commit(accepted(&agent)).await.unwrap();
        let (view, way) = (running.view(), Hop::gateway(party("caf21")));
        running.end(&view, Ending::NotReceipted, &way).await;
        let statements = running
            .queue
            .claim(&way, Class::Statement, 9, Instant::now());
        assert!(statements.unwrap().is_empty());
        assert_eq!(running.numbers(), [0, 0]);
        running.stop();
    }
}
