//! Whether a package that our gateway offers is taken, and what is said where it is not.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use passerelle_disk::DiskError;
use passerelle_link::{OfferAnswer, Peer};
use passerelle_proto::session::Answer;
use passerelle_proto::v1::{self, BusyReason, Reason, Signed, statement::What};
use passerelle_proto::{
    Denial, Digest, Facts, PackageId, PartyId, Place, Timestamp, UntrustedManifest,
    VerifiedManifest, accepted_at, decide,
};
use tokio::sync::mpsc;

use super::transfer::{Transfer, has_arrived};
use crate::again;
use crate::cancel;
use crate::damage;
use crate::event::AgentEvent;
use crate::incoming::{Arriving, forget_unfinished, is_complete, sync_complete};
use crate::node::Node;

/// When a package is to be offered again that our clock cannot judge.
const CLOCK_RETRY: Duration = Duration::from_secs(10);

/// The answer about a package that is here already.
fn had(
    node: &Arc<Node>,
    package: PackageId,
    arrived: &mpsc::UnboundedSender<PackageId>,
) -> Option<OfferAnswer> {
    let not_now = |error: &DiskError| {
        tracing::error!(%error, "what is here of a package cannot be looked at now");
        OfferAnswer::Decline("what is here of it cannot be looked at now".into())
    };
    if let Some(entry) = node.register.find(package) {
        // Whoever offers it may not know, or not know any more, what we said about it.
        let said = again::say(node, &entry);
        let answer = said.map(|()| OfferAnswer::Answer(Answer::Have));
        return Some(answer.unwrap_or_else(|error| not_now(&error)));
    }
    if !is_complete(node, &package) {
        return None;
    }
    match damage::is_to_be_told(node, &package) {
        Ok(false) => {}
        // It is let go of before it is fetched again.
        Ok(true) => return Some(OfferAnswer::Decline("what is here of it is damaged".into())),
        Err(error) => return Some(not_now(&error)),
    }
    // The disk may have failed after the mark was dropped: then nobody has been told of it.
    match sync_complete(node, &package) {
        Ok(()) => {
            if node.unopened.find(&package).is_none() {
                has_arrived(node, package, arrived);
            }
            Some(OfferAnswer::Answer(Answer::Have))
        }
        Err(error) => Some(not_now(&error)),
    }
}

/// Decides about an offer, and takes it when it is small. Blocks.
pub(crate) fn offered(
    node: &Arc<Node>,
    peer: &Peer,
    (signed, accepted): (Signed, Option<Signed>),
    inline: &[u8],
    arrived: mpsc::UnboundedSender<PackageId>,
) -> OfferAnswer {
    let package = PackageId(Digest::of(&signed.body));
    if let Some(answer) = had(node, package, &arrived) {
        return answer;
    }
    // Every gateway on the way passes a refusal on to the sender, and to nobody else.
    let claimed = UntrustedManifest::parse(signed.clone());
    let to = claimed.map_or_else(|_| peer.hop.party.clone(), |it| it.sender().clone());
    let (manifest, accepted_at) = match judge(node, peer, signed, accepted) {
        Ok(judged) => judged,
        Err(Unjudged::Refused((reason, article, why))) => {
            return refuse(node, &to, package, reason, article, why);
        }
        Err(Unjudged::NotNow(why)) => return put_off(node, peer, package, why),
    };
    match cancel::is_cancelled(node, &manifest) {
        Ok(false) => {}
        Ok(true) => {
            let (reason, why) = (Reason::Cancelled, cancel::WHY);
            return refuse(node, &to, package, reason, String::new(), why.to_owned());
        }
        Err(error) => {
            tracing::error!(%error, "an offer cannot be judged now");
            return OfferAnswer::Decline("it cannot be judged now".into());
        }
    }
    let mut arriving = match Arriving::begin(node, &manifest, accepted_at) {
        Ok(arriving) => arriving,
        Err(error) => {
            tracing::error!(%error, "an offer cannot be taken now");
            return OfferAnswer::Decline("it cannot be kept now".into());
        }
    };
    if inline.is_empty() {
        let held = arriving.held();
        return OfferAnswer::Take(Box::new(Transfer {
            node: node.clone(),
            manifest,
            held,
            arriving: Some(arriving),
            arrived,
        }));
    }
    match arriving
        .write_inline(inline)
        .and_then(|()| arriving.finish())
    {
        Ok(()) => {
            has_arrived(node, package, &arrived);
            OfferAnswer::Answer(Answer::Have)
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let (reason, why) = (Reason::Digest, error.to_string());
            refuse(node, &to, package, reason, String::new(), why)
        }
        Err(error) => {
            tracing::error!(%error, "an offer cannot be taken now");
            OfferAnswer::Decline("it cannot be kept now".into())
        }
    }
}

type Refusal = (Reason, String, String);

/// Why an offered package is not taken.
enum Unjudged {
    /// It is refused for good.
    Refused(Refusal),
    /// It would be, by a clock that is not believed.
    NotNow(String),
}

impl From<Refusal> for Unjudged {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

type Judged = (VerifiedManifest, Option<Timestamp>);

fn judge(
    node: &Node,
    peer: &Peer,
    signed: Signed,
    accepted: Option<Signed>,
) -> Result<Judged, Unjudged> {
    let plain = |reason, why: &dyn ToString| (reason, String::new(), why.to_string());
    let untrusted =
        UntrustedManifest::parse(signed).map_err(|error| plain(Reason::Malformed, &error))?;
    let directory = node.directory();
    let signer = untrusted.signer();
    let key = directory
        .signing_key(untrusted.sender(), &signer)
        .ok_or_else(|| plain(Reason::SignerUnknown, &Denial::SignerUnknown(signer)))?;
    let manifest = untrusted
        .verify(&key.key)
        .map_err(|error| plain(Reason::Signature, &error))?;
    let moment = node.host_clock.moment();
    let now = moment.wall;
    let accepted_at = accepted
        .and_then(|receipt| accepted_at(&directory, &peer.hop.party, &manifest, receipt, now));
    let facts = Facts {
        directory: &directory,
        manifest: &manifest,
        place: Place::Recipient { party: &node.party },
        first_accepted: accepted_at,
    };
    decide(&facts, now).map_err(|denial| {
        // A refusal cannot be called back: a clock that was set wrong must not be its reason.
        match node.clock.doubt(moment).filter(|_| denial.depends_on_now()) {
            Some(doubt) => Unjudged::NotNow(format!("{denial}; {doubt}")),
            None => Unjudged::Refused((
                denial.reason(),
                denial.article().to_owned(),
                denial.to_string(),
            )),
        }
    })?;
    if manifest.total_length() > node.config.limits.package_bytes_max {
        let why = "it is larger than this agent's configuration allows";
        return Err(plain(Reason::TooLarge, &why).into());
    }
    Ok((manifest, accepted_at))
}

/// Puts an offer off that cannot be judged by our clock: it is made again.
fn put_off(node: &Arc<Node>, peer: &Peer, package: PackageId, why: String) -> OfferAnswer {
    tracing::error!(package = package.short(), why, "an offer is put off");
    let what = What::Busy(v1::Busy {
        reason: BusyReason::Clock as i32,
        retry_after_ms: u64::try_from(CLOCK_RETRY.as_millis()).unwrap_or(u64::MAX),
    });
    let answer = node.answer(&peer.hop.party, package, what);
    node.tell(AgentEvent::PutOff { package, why });
    OfferAnswer::Answer(Answer::Statement(answer))
}

/// Refuses an offer for good. Blocks.
pub(super) fn refuse(
    node: &Arc<Node>,
    sender: &PartyId,
    package: PackageId,
    reason: Reason,
    article: String,
    why: String,
) -> OfferAnswer {
    if let Err(error) = forget_unfinished(node, &package) {
        tracing::error!(%error, "an offer cannot be refused now");
        return OfferAnswer::Decline("it cannot be judged now".into());
    }
    tracing::warn!(%sender, package = package.short(), why, "an offer was refused");
    node.metrics.refused();
    let what = What::Refused(v1::Refused {
        reason: reason as i32,
        article,
        recipients: vec![node.party.to_string()],
    });
    node.tell(AgentEvent::Refused {
        package,
        reason,
        why,
    });
    OfferAnswer::Answer(Answer::Statement(node.answer(sender, package, what)))
}
