//! What is kept of requests rots and fills up, and the disk fails while a package is taken back.

use std::fs::{self, File};
use std::sync::mpsc::channel;

use passerelle_proto::Digest;

use super::*;
use crate::node::tests::{RECIPIENT, SENDER, Scene, gateway_of, seal};
use crate::receipts::{Taken, take};

/// Longest wait for what happens at once.
const AT_ONCE: Duration = Duration::from_secs(60);

/// The request to cancel a package that a gateway may have.
fn request(sender: &Arc<Node>, sent: &Sent) -> Signed {
    sender.outgoing.claim(|_| true).unwrap();
    let asked = ask(sender, sent.manifest.id(), "").unwrap();
    assert_eq!(asked.state(), CancelState::Asked);
    sent.job.said().all().unwrap().remove(0)
}

fn is_stored(node: &Arc<Node>, request: &Signed) -> bool {
    let taken = take(node, &gateway_of(node), request.clone());
    matches!(taken, Ok(Taken::Stored))
}

#[test]
fn a_request_that_has_rotted_is_put_aside_and_the_others_go_on() {
    let scene = Scene::make();
    let (sender, recipient) = (scene.start(SENDER), scene.start(RECIPIENT));
    let sent = seal(&sender, "t.csv");
    let request = request(&sender, &sent);
    let folder = kept_in(&recipient.store);
    fs::create_dir_all(&folder).unwrap();
    let [rotten, unfinished] =
        [b"one", b"two"].map(|name| folder.join(Digest::of(name).to_string()));
    fs::write(&rotten, b"\xff").unwrap();
    fs::write(beside(&unfinished, ".tmp"), b"").unwrap();
    assert!(is_stored(&recipient, &request));
    prune(&recipient).unwrap();
    assert!(!rotten.exists() && beside(&rotten, DAMAGED).exists());
    assert!(is_cancelled(&recipient, &sent.manifest).unwrap());
    // The one about the package itself.
    let kept = folder.join(sent.manifest.id().to_string());
    let mut bytes = fs::read(&kept).unwrap();
    bytes[60] ^= 1;
    fs::write(&kept, bytes).unwrap();
    assert!(!is_cancelled(&recipient, &sent.manifest).unwrap());
    assert!(beside(&kept, DAMAGED).exists());
    assert!(is_stored(&recipient, &request), "it may come again");
    assert!(is_cancelled(&recipient, &sent.manifest).unwrap());
}

#[test]
fn what_was_put_aside_or_left_half_written_goes_with_its_package() {
    let scene = Scene::make();
    let recipient = scene.start(RECIPIENT);
    let folder = kept_in(&recipient.store);
    fs::create_dir_all(&folder).unwrap();
    let name = folder.join(Digest::of(b"").to_string());
    for (ending, age, stays) in [
        (".tmp", 89, true),
        (".tmp", 91, false),
        (DAMAGED, 91, false),
    ] {
        let path = beside(&name, ending);
        let file = File::create(&path).unwrap();
        let day = Duration::from_secs(24 * 3_600);
        file.set_modified(SystemTime::now() - day * age).unwrap();
        prune(&recipient).unwrap();
        assert_eq!(path.exists(), stays, "{ending} of {age} days");
    }
}

#[test]
fn a_package_that_cannot_be_taken_back_now_can_be_later() {
    let scene = Scene::make();
    let sender = scene.start(SENDER);
    let sent = seal(&sender, "t.csv");
    let package = sent.manifest.id();
    let day = sender.store.rejected().join(sender.now().date());
    fs::write(&day, b"in the way").unwrap();
    ask(&sender, package, "").unwrap_err();
    fs::remove_file(&day).unwrap();
    let asked = ask(&sender, package, "").unwrap();
    assert_eq!(asked.state(), CancelState::NeverLeft);
    assert!(sender.outgoing.all().is_empty());
    assert!(
        !sent.job.directory().exists(),
        "the next start would send it"
    );
}

#[test]
fn a_package_that_may_have_left_is_taken_back_while_another_is_sealed() {
    let scene = Scene::make();
    let sender = scene.start(SENDER);
    let sent = seal(&sender, "t.csv");
    let seals = sender.sealing();
    let (told, asked) = channel();
    let (asking, taking_back) = (sender.clone(), sent.clone());
    let thread = std::thread::spawn(move || {
        let _ = told.send(request(&asking, &taking_back));
    });
    let said = asked.recv_timeout(AT_ONCE);
    drop(seals);
    thread.join().unwrap();
    said.unwrap();
}
