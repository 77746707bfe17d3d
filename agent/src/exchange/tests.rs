//! What becomes of a package that is taken and opened while the disk fails.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use passerelle_disk::{Disk, Fault, FaultyDisk, Flavour};
use passerelle_link::{Exchange, NOTE_WAIT_MAX, OfferAnswer};
use passerelle_proto::session::Answer;
use passerelle_proto::v1::{self, Signed, statement::What};
use passerelle_proto::{Digest, PackageId, StatementId, statement_name};
use prost::Message;
use tokio::sync::mpsc::unbounded_channel;

use super::AgentExchange;
use crate::cancel;
use crate::damage;
use crate::incoming::{is_complete, pack_path};
use crate::node::Node;
use crate::node::tests::{CONTENT, RECIPIENT, SENDER, Scene, gateway_of, offer_of, seal, takes};
use crate::opening::open_one;

/// Attempts after which something never happens.
const ATTEMPTS_MAX: usize = 4;
/// A scenario has fewer operations than this.
const OPERATIONS_MAX: u64 = 500;

type Offer = (Signed, Bytes);

/// All that an agent has said about a package.
fn all_said(node: &Node, package: PackageId) -> Vec<Signed> {
    let mut said = damage::said_about(&node.store, &package).unwrap();
    if let Some(entry) = node.register.find(package) {
        said.extend(entry.statements().unwrap());
    }
    said
}

fn said(node: &Node, package: PackageId) -> Vec<v1::Statement> {
    let said = all_said(node, package);
    let decoded = said.iter();
    let decoded = decoded.map(|signed| v1::Statement::decode(signed.body.as_slice()).unwrap());
    decoded.collect()
}

fn ids_of(node: &Node, package: PackageId) -> Vec<StatementId> {
    let said = all_said(node, package);
    let ids = said
        .iter()
        .map(|signed| StatementId(Digest::of(&signed.body)));
    ids.collect()
}

/// How often each thing was said, as it waits for its gateway.
fn waiting(node: &Node) -> Vec<&'static str> {
    let mut waiting: Vec<_> = std::iter::from_fn(|| node.outgoing.claim_statement())
        .map(|signed| v1::Statement::decode(signed.body.as_slice()).unwrap())
        .map(|statement| statement_name(&statement.what.unwrap()))
        .collect();
    waiting.sort_unstable();
    waiting
}

/// Offers a package until it is there, and has it opened until that is done.
fn receive(node: &Arc<Node>, offer: &Offer) {
    let (sender, mut told) = unbounded_channel();
    let had = (0..ATTEMPTS_MAX).any(|_| takes(node, offer, &sender));
    assert!(had, "it is never taken");
    let package = PackageId(Digest::of(&offer.0.body));
    assert_eq!(told.try_recv(), Ok(package), "nobody is told of it");
    assert!(told.try_recv().is_err(), "somebody is told of it twice");
    let opened = (0..ATTEMPTS_MAX).any(|_| open_one(node, package).is_ok());
    assert!(opened, "it is never opened");
    node.incoming.opened(&package);
}

/// That no two statements to one party have the same place in its sequence.
fn assert_numbered(said: &[v1::Statement]) {
    let places = said.iter().map(|one| (&one.destination, one.seq));
    let places: BTreeSet<_> = places.collect();
    assert_eq!(places.len(), said.len(), "a number is used twice: {said:?}");
}

fn assert_received(node: &Node, package: PackageId) {
    let place = node.register.find(package).unwrap().place().unwrap();
    let found = node.store.disk().read(&place.unwrap().join("t.csv"));
    assert_eq!(found.unwrap(), CONTENT);
    let said = said(node, package);
    let delivered = |one: &&v1::Statement| matches!(one.what, Some(What::Delivered(_)));
    assert_eq!(said.iter().filter(delivered).count(), 1, "{said:?}");
    assert_numbered(&said);
    assert!(
        node.store
            .disk()
            .entries(&node.store.incoming())
            .unwrap()
            .is_empty()
    );
}

/// Starts an agent, lets `before` happen, and `live` with one operation that fails and happens all
/// the same; for each of them.
fn fail_each(
    scene: &Scene,
    before: impl Fn(&Arc<Node>),
    live: impl Fn(&Arc<Node>),
    check: impl Fn(&Arc<Node>),
) {
    let place = Path::new("/agent");
    let start = |fault| {
        let memory = scene.memory();
        let faulty = FaultyDisk::new(Arc::new(memory.clone()), fault);
        let node = scene.start_on(RECIPIENT, Arc::new(faulty.clone()), place);
        before(&node);
        (memory, faulty, node)
    };
    let begun = start(None).1.operations();
    for number in 1..OPERATIONS_MAX {
        let fault = Fault {
            operation: begun + number,
            full: false,
            flavour: Flavour::Persisted,
        };
        println!("{fault}");
        let (memory, faulty, node) = start(Some(fault));
        live(&node);
        check(&node);
        drop(node);
        let disk: Arc<dyn Disk> = Arc::new(memory);
        check(&scene.start_on(RECIPIENT, disk, place));
        if !faulty.has_failed() {
            assert!(number > 10, "{number} operations");
            return;
        }
    }
    panic!("the scenario has no end");
}

#[test]
fn whatever_fails_once_a_package_is_opened_and_receipted_once() {
    let scene = Scene::make();
    let sender = scene.start(SENDER);
    let offer = offer_of(&sender, &seal(&sender, "t.csv"));
    let package = PackageId(Digest::of(&offer.0.body));
    let live = |node: &Arc<Node>| {
        receive(node, &offer);
        assert_eq!(waiting(node), ["delivered"]);
    };
    fail_each(&scene, |_| {}, live, |node| assert_received(node, package));
}

#[test]
fn whatever_fails_once_a_package_that_has_rotted_is_asked_for_again_and_opened() {
    let scene = Scene::make();
    let sender = scene.start(SENDER);
    let offer = offer_of(&sender, &seal(&sender, "t.csv"));
    let package = PackageId(Digest::of(&offer.0.body));
    let rots = |node: &Arc<Node>| {
        let (arrived, _told) = unbounded_channel();
        assert!(takes(node, &offer, &arrived));
        node.incoming.opened(&package);
        let pack = pack_path(node, &package);
        let file = node.store.disk().open(&pack).unwrap();
        let length = file.length().unwrap();
        file.write_at(b"\xff\xfe\xfd", length - 9).unwrap();
    };
    let live = |node: &Arc<Node>| {
        let asked = (0..ATTEMPTS_MAX).any(|_| open_one(node, package).is_ok());
        assert!(asked && !is_complete(node, &package));
        assert_eq!(waiting(node), ["damaged"]);
        let said = said(node, package);
        assert_eq!(said.len(), 1, "{said:?}");
        let ids = ids_of(node, package);
        for (package, id) in node.outgoing.settle_statements(&ids, true) {
            // What is not noted is sent once more after the next start.
            let noted = (0..ATTEMPTS_MAX).any(|_| node.acked(package, id).is_ok());
            assert!(noted);
        }
        receive(node, &offer);
    };
    fail_each(&scene, rots, live, |node| assert_received(node, package));
}

/// What a new agent key of the sender signs is known to nobody before its sheet.
struct Rotated {
    sender: Arc<Node>,
    recipient: Arc<AgentExchange>,
    sheet: Vec<u8>,
}

impl Rotated {
    fn begin(scene: &Scene) -> Self {
        let (sender, sheet) = scene.rotated(SENDER);
        let (arrived, _) = unbounded_channel();
        let recipient = AgentExchange::new(scene.start(RECIPIENT), arrived);
        Self {
            sender,
            recipient,
            sheet,
        }
    }
}

#[tokio::test]
async fn an_offer_that_overtakes_the_sheet_of_its_signer_is_taken_when_that_is_in_force() {
    let scene = Scene::make();
    let rotated = Rotated::begin(&scene);
    let (manifest, inline) = offer_of(&rotated.sender, &seal(&rotated.sender, "t.csv"));
    let exchange = rotated.recipient;
    let gateway = gateway_of(&exchange.node);
    let offered = exchange.offered(&gateway, manifest, inline, None);
    let noted = exchange.note(&gateway, rotated.sheet);
    let (answer, ()) = tokio::join!(offered, noted);
    assert!(matches!(answer, OfferAnswer::Answer(Answer::Have)));
}

#[tokio::test]
async fn a_statement_that_overtakes_the_sheet_of_its_signer_is_taken_when_that_is_in_force() {
    let scene = Scene::make();
    let rotated = Rotated::begin(&scene);
    let sent = seal(&rotated.sender, "t.csv");
    rotated.sender.outgoing.claim(|_| true).unwrap();
    cancel::ask(&rotated.sender, sent.manifest.id(), "").unwrap();
    let request = sent.job.said().all().unwrap().remove(0);
    let exchange = rotated.recipient;
    let gateway = gateway_of(&exchange.node);
    let stated = exchange.statement(&gateway, request);
    let noted = exchange.note(&gateway, rotated.sheet);
    let (taken, ()) = tokio::join!(stated, noted);
    assert!(taken);
    assert!(cancel::is_cancelled(&exchange.node, &sent.manifest).unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_vouches_for_waits_no_longer_than_it_may() {
    let scene = Scene::make();
    let rotated = Rotated::begin(&scene);
    let (manifest, inline) = offer_of(&rotated.sender, &seal(&rotated.sender, "t.csv"));
    let exchange = rotated.recipient;
    let gateway = gateway_of(&exchange.node);
    let begun = tokio::time::Instant::now();
    let answer = exchange.offered(&gateway, manifest, inline, None).await;
    assert!(begun.elapsed() >= NOTE_WAIT_MAX);
    let OfferAnswer::Answer(Answer::Statement(said)) = answer else {
        panic!("it is not refused");
    };
    let said = v1::Statement::decode(said.body.as_slice()).unwrap();
    let Some(What::Refused(refused)) = said.what else {
        panic!("{said:?}");
    };
    assert_eq!(refused.reason(), v1::Reason::SignerUnknown);
}
