//! What people are told of packages whose end is not the usual one.

use std::fs;

use passerelle_disk::HostDisk;
use passerelle_proto::{Digest, StatementId};
use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::node::tests::{RECIPIENT, SENDER, Scene, offer_of, seal, takes};
use crate::opening::open_one;
use crate::outgoing::Sent;

/// A package that has arrived at its recipient and is not opened yet.
fn arrived(scene: &Scene, recipient: &Arc<Node>) -> (Arc<Node>, Sent) {
    let sender = scene.start(SENDER);
    let sent = seal(&sender, "t.csv");
    sender.outgoing.claim(|_| true).unwrap();
    let (told, _arrived) = unbounded_channel();
    assert!(takes(recipient, &offer_of(&sender, &sent), &told));
    (sender, sent)
}

/// A package that was refused when it was to be opened.
fn refused(scene: &Scene, recipient: &Arc<Node>) -> PackageId {
    let (sender, sent) = arrived(scene, recipient);
    let package = sent.manifest.id();
    cancel::ask(&sender, package, "").unwrap();
    let request = sent.job.said().all().unwrap().remove(0);
    let gateway = crate::node::tests::gateway_of(recipient);
    crate::receipts::take(recipient, &gateway, request).unwrap();
    assert!(open_one(recipient, package).is_ok());
    package
}

fn what(signed: &Signed) -> What {
    let body = v1::Statement::decode(signed.body.as_slice()).unwrap();
    body.what.unwrap()
}

#[test]
fn a_package_that_was_refused_is_not_acknowledged() {
    let scene = Scene::make();
    let recipient = scene.start(RECIPIENT);
    let package = refused(&scene, &recipient);
    let answer = acknowledge(&recipient, &package.to_string(), "lu".into());
    let why = answer.unwrap_err().message().to_owned();
    assert!(why.contains("was refused here (cancelled)"), "{why}");
    let entry = recipient.register.find(package).unwrap();
    assert_eq!(entry.statements().unwrap().len(), 1);
}

#[test]
fn a_refusal_that_has_rotted_does_not_become_a_delivery() {
    let scene = Scene::make();
    let place = scene.place();
    let start = || scene.start_on(RECIPIENT, Arc::new(HostDisk), &place);
    let recipient = start();
    let package = refused(&scene, &recipient);
    let directory = recipient
        .register
        .find(package)
        .unwrap()
        .directory()
        .to_owned();
    drop(recipient);
    let said = fs::read_dir(directory.join("unacked")).unwrap().next();
    fs::write(said.unwrap().unwrap().path(), b"\xff").unwrap();
    let entry = start().register.find(package).unwrap();
    let said: Vec<What> = entry.statements().unwrap().iter().map(what).collect();
    assert!(matches!(said.as_slice(), [What::Refused(_)]), "{said:?}");
}

#[test]
fn a_package_that_was_acknowledged_is_shown_so_whatever_its_gateway_has_first() {
    let scene = Scene::make();
    let recipient = scene.start(RECIPIENT);
    let (_sender, sent) = arrived(&scene, &recipient);
    let package = sent.manifest.id();
    assert!(open_one(&recipient, package).is_ok());
    let said = acknowledge(&recipient, &package.to_string(), "lu".into()).unwrap();
    let entry = recipient.register.find(package).unwrap();
    assert!(entry.acked(StatementId(Digest::of(&said.body))).unwrap());
    let state = in_job(&entry).unwrap().state;
    assert_eq!(state, "acknowledged, receipt on its way");
}

#[test]
fn a_package_that_was_taken_back_before_it_left_is_shown_so_and_counted() {
    let scene = Scene::make();
    let sender = scene.start(SENDER);
    let package = seal(&sender, "t.csv").manifest.id();
    let states = |sender: &Node| {
        let jobs = all_jobs(sender, 10).unwrap();
        (jobs[0].state.clone(), jobs[0].recipients[0].state.clone())
    };
    assert_eq!(states(&sender), ("on its way".into(), "sealed".into()));
    cancel::ask(&sender, package, "").unwrap();
    assert_eq!(states(&sender), (NEVER_LEFT.into(), NEVER_LEFT.into()));
    let shown = show(&sender, &package.to_string()).unwrap().job.unwrap();
    assert_eq!(shown.state, NEVER_LEFT);
    assert_eq!(status(&sender).rejected, 1);
    // What was rejected on another day lies there as well.
    let day = sender.store.rejected().join("2016-01-31");
    fs::create_dir_all(day.join("a")).unwrap();
    assert_eq!(status(&sender).rejected, 2);
}
