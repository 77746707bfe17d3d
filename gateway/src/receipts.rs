//! Statements that arrive: verified, committed, and sent on to whom they are for.

use std::sync::Arc;

use passerelle_disk::crash_point;
use passerelle_link::{Peer, wait_to_judge_statement};
use passerelle_proto::v1::{self, Reason, Signed, entry::Event, statement::What};
use passerelle_proto::{
    Digest, Directory, Hop, PackageId, Role, StatementId, Timestamp, UntrustedStatement,
    VerifiedManifest, VerifiedStatement,
};

use crate::inquiry;
use crate::log::Fatal;
use crate::metrics::Counter;
use crate::node::Node;
use crate::sequences::refused_place;

/// Takes a statement; true when it is committed, or refused for good and recorded.
pub(crate) async fn take(node: Arc<Node>, peer: &Peer, signed: Signed) -> bool {
    if !wait_to_judge_statement(node.trust.subscribe(), &node.stop, &signed).await {
        return false;
    }
    let looked = {
        let (node, peer) = (node.clone(), peer.clone());
        passerelle_host::blocking(move || look(&node, &peer, signed)).await
    };
    let statement = match looked {
        Ok(Looked::New(statement)) => statement,
        Ok(Looked::Known) => return true,
        Ok(Looked::Refused(reason, why)) => {
            tracing::warn!(%peer, why, "a statement was refused");
            node.refused(&peer.hop, None, reason, "");
            return true;
        }
        Ok(Looked::Unwanted(reason, why, place)) => {
            tracing::warn!(%peer, why, "a statement was refused");
            node.refused_statement(&peer.hop, reason, place.map(|place| *place));
            return true;
        }
        Ok(Looked::Unreadable(fatal)) => {
            // Its sender keeps it, and says it again once the log can be read.
            node.fail(fatal.to_string());
            return false;
        }
        Err(_) => return false,
    };
    let damaged = matches!(statement.what(), What::Damaged(_));
    if damaged && is_leased(&node, &statement.package(), &peer.hop) {
        // That it was handed over is about to be recorded, and must not come after this.
        return false;
    }
    let inquiry = match statement.what() {
        What::Inquire(asked) => Some(asked.clone()),
        _ => None,
    };
    let next_hop = node.way_to(statement.destination());
    let event = Event::Statement(v1::StatementEvent {
        statement: Some(statement.signed().clone()),
        from: Some(peer.hop.to_message()),
        // What is said to this gateway ends here, and is answered here.
        next_hop: next_hop
            .filter(|_| !damaged && inquiry.is_none())
            .map(|hop| hop.to_message()),
    });
    crash_point!("statement.verified");
    match node.sequencer.commit(event).await {
        Ok(_) => {
            crash_point!("statement.committed");
            node.metrics.add(Counter::Statements, &[], 1);
            if damaged {
                let (short, by) = (statement.package().short(), &peer.hop);
                tracing::warn!(package = short, %by, "the copy there is damaged: offered again");
            }
            if let Some(asked) = inquiry {
                tokio::spawn(inquiry::answer(node.clone(), peer.hop.clone(), asked));
            }
            true
        }
        Err(_) => false,
    }
}

/// Whether a package is being handed to this hop.
fn is_leased(node: &Node, package: &PackageId, hop: &Hop) -> bool {
    let items = node.queue.find(package).unwrap_or_default();
    items
        .iter()
        .any(|view| view.item.is_package() && view.leased && view.item.next_hop == *hop)
}

enum Looked {
    New(VerifiedStatement),
    Known,
    Refused(Reason, String),
    /// Refused although it is its issuer's word: its place in its sequence is filled.
    Unwanted(Reason, String, Option<Box<v1::RefusedStatement>>),
    /// Nothing can be said about it: what the log has of its package cannot be read.
    Unreadable(Fatal),
}

/// A statement of somebody behind the peer, signed with a key that may say it.
fn verify(
    directory: &Directory,
    peer: &Peer,
    signed: Signed,
    now: Timestamp,
) -> Result<VerifiedStatement, Looked> {
    let refuse = |reason, why: &str| Err(Looked::Refused(reason, why.to_owned()));
    let untrusted = UntrustedStatement::parse(signed)
        .map_err(|error| Looked::Refused(Reason::Malformed, error.to_string()))?;
    let key = directory.signing_key(untrusted.issuer(), &untrusted.signer());
    let Some(key) = key else {
        return refuse(
            Reason::SignerUnknown,
            "its signing key is in no sheet of its issuer",
        );
    };
    let statement = untrusted
        .verify(&key.key)
        .map_err(|error| Looked::Refused(Reason::Signature, error.to_string()))?;
    if key.revoked.is_some_and(|at| at <= now) {
        return refuse(Reason::SignerRevoked, "its signing key is revoked");
    }
    if !key.may_say(statement.what()) {
        return refuse(Reason::Role, "its signing key may not say this");
    }
    let issuer = statement.issuer();
    let from_issuer = match peer.hop.role {
        Role::Agent => issuer == &peer.hop.party,
        Role::Gateway => directory.convention().gateway_of(issuer) == Some(&peer.hop.party),
        Role::Operator => false,
    };
    match from_issuer {
        true => Ok(statement),
        false => refuse(
            Reason::Route,
            "its issuer is not behind the peer that brought it",
        ),
    }
}

fn look(node: &Node, peer: &Peer, signed: Signed) -> Looked {
    let directory = node.directory();
    let statement = match verify(&directory, peer, signed, node.now()) {
        Ok(statement) => statement,
        Err(refused) => return refused,
    };
    let place = refused_place(statement.body(), &peer.hop).map(Box::new);
    match judge(node, &directory, peer, statement) {
        Looked::Refused(reason, why) => Looked::Unwanted(reason, why, place),
        looked => looked,
    }
}

/// Whether it is news, and its issuer's to say of that package.
fn judge(node: &Node, directory: &Directory, peer: &Peer, statement: VerifiedStatement) -> Looked {
    let refuse = |reason, why: &str| Looked::Refused(reason, why.to_owned());
    let (id, issuer) = (statement.id(), statement.issuer());
    let entries = match node.sequencer.entries_about(&statement.package()) {
        Ok(entries) => entries,
        Err(fatal) => return Looked::Unreadable(fatal),
    };
    let (mut manifest, mut handed_to_peer) = (None, false);
    for committed in entries {
        match committed.entry.event {
            Some(Event::Accepted(event)) => {
                let hop = Some(peer.hop.to_message());
                handed_to_peer = event.routes.iter().any(|route| route.next_hop == hop);
                manifest = event.manifest;
            }
            Some(Event::Statement(event)) => {
                let known = event
                    .statement
                    .map(|known| StatementId(Digest::of(&known.body)));
                if known == Some(id) {
                    return Looked::Known;
                }
            }
            _ => {}
        }
    }
    if let What::Inquire(asked) = statement.what() {
        return match inquiry::may_ask(node, &peer.hop, &statement, asked) {
            true => Looked::New(statement),
            false => refuse(
                Reason::Route,
                "it asks for what is not said to it, or not by us",
            ),
        };
    }
    let manifest = manifest.and_then(|m| passerelle_proto::UntrustedManifest::parse(m).ok());
    let Some(manifest) = manifest.map(passerelle_proto::UntrustedManifest::verified_before) else {
        // A request to cancel may overtake its package. Its recipient's agent judges it then.
        let ours = directory.convention().gateway_of(statement.destination()) == Some(&node.party);
        return match statement.what() {
            What::Cancel(_) if ours && peer.hop.role == Role::Gateway => Looked::New(statement),
            _ => refuse(Reason::Other, "its package was never accepted here"),
        };
    };
    if let What::Damaged(_) = statement.what() {
        let own_word = issuer == &peer.hop.party && statement.destination() == &node.party;
        return match own_word && handed_to_peer {
            true => Looked::New(statement),
            false => refuse(Reason::Route, "its issuer did not get the package from us"),
        };
    }
    let gateway = directory.convention().gateway_of(issuer) == Some(issuer);
    match concerns(&statement, &manifest, gateway) {
        true => Looked::New(statement),
        false => refuse(
            Reason::Route,
            "it is not its issuer's to say, or not to its sender",
        ),
    }
}

/// Whether the issuer has a part in the package, speaks for itself, and to its sender; only the
/// sender speaks to a recipient, to take the package back.
fn concerns(statement: &VerifiedStatement, manifest: &VerifiedManifest, gateway: bool) -> bool {
    let issuer = statement.issuer();
    if let What::Cancel(said) = statement.what() {
        let to = statement.destination();
        let recipient = manifest.recipients().contains(to) && said.recipient == to.as_str();
        return recipient && manifest.sender() == issuer;
    }
    let speaks_for = match statement.what() {
        What::Delivered(said) => Some(&said.recipient),
        What::Acknowledged(said) => Some(&said.recipient),
        _ => None,
    };
    let own_word = speaks_for.is_none_or(|recipient| recipient == issuer.as_str());
    let involved = manifest.recipients().contains(issuer) || manifest.sender() == issuer;
    own_word && (involved || gateway) && statement.destination() == manifest.sender()
}
