//! The one decision: may this package go on, here and now?
//!
//! Gateways and agents on every hop call [`decide`], and nothing else decides. It is pure: all it
//! knows comes in as facts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::v1::Reason;
use crate::{
    Convention, Directory, Flow, FlowId, Hop, KeyId, KeyRole, PartyId, Role, Timestamp,
    VerifiedManifest,
};

/// How far in the future a package may have been made, for clocks that differ: 5 minutes.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// Where the question is asked.
#[derive(Debug, Clone, Copy)]
pub enum Place<'a> {
    /// In the sender's agent, before sealing.
    Sealing,
    /// In a gateway that was offered the package.
    Gateway {
        /// Whose gateway.
        party: &'a PartyId,
        /// Who offers it.
        peer: &'a Hop,
    },
    /// In a recipient's agent, before opening.
    Recipient {
        /// The recipient.
        party: &'a PartyId,
    },
}

/// Everything the decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What is believed about parties.
    pub directory: &'a Directory,
    /// The manifest, its signature verified.
    pub manifest: &'a VerifiedManifest,
    /// Where.
    pub place: Place<'a>,
    /// When the receiving institution's gateway accepted it, where that is known already.
    pub first_accepted: Option<Timestamp>,
}

/// The package may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// The flow it belongs to.
    pub flow: Flow,
    /// Recipients behind each next hop; empty where the package ends.
    pub routes: BTreeMap<Hop, Vec<PartyId>>,
    /// Last instant at which it may be opened.
    pub not_after: Timestamp,
}

/// The package may not go on, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Signed by a key that no sheet of the sender lists.
    #[error("the signing key {0} is in no sheet of the sender: its newest sheet is missing here")]
    SignerUnknown(KeyId),
    /// Signed by a key of another role.
    #[error("the signing key {key} is not an agent key of {sender}")]
    SignerRole {
        /// The key.
        key: KeyId,
        /// Sender claimed.
        sender: PartyId,
    },
    /// Made outside the key's dates.
    #[error(
        "the package was made at {created}, outside the dates of its signing key \
         ({from} to {until}): the sender signs with its newest key"
    )]
    SignerExpired {
        /// When it was made.
        created: Timestamp,
        /// First instant of the key.
        from: Timestamp,
        /// Last instant of the key.
        until: Timestamp,
    },
    /// The key was revoked before the package was accepted.
    #[error("the signing key was revoked at {0}: the sender signs again with another key")]
    SignerRevoked(Timestamp),
    /// Made under a convention that is not known here.
    #[error("the package names a convention that is not known here: {0}")]
    ConventionUnknown(String),
    /// Outside the convention's dates.
    #[error("the convention holds from {from} until {until}; the package was made at {created}")]
    ConventionDates {
        /// First instant.
        from: Timestamp,
        /// First instant after.
        until: Timestamp,
        /// When it was made.
        created: Timestamp,
    },
    /// A flow that the convention does not have.
    #[error("the convention has no flow {0}: send on one that it names")]
    FlowUnknown(FlowId),
    /// The sender may not send on this flow.
    #[error(
        "{sender} may not send on flow {flow} ({article}): send on a flow that names {sender}, \
         or amend the convention"
    )]
    FlowSender {
        /// The sender.
        sender: PartyId,
        /// The flow.
        flow: FlowId,
        /// Article of the flow.
        article: String,
    },
    /// A recipient may not receive on this flow.
    #[error(
        "{recipient} may not receive on flow {flow} ({article}): leave {recipient} out, or amend \
         the convention"
    )]
    FlowRecipient {
        /// The recipient.
        recipient: PartyId,
        /// The flow.
        flow: FlowId,
        /// Article of the flow.
        article: String,
    },
    /// Above the flow's limit.
    #[error(
        "the package has {bytes} bytes; flow {flow} allows {limit} ({article}): send it in parts"
    )]
    TooLarge {
        /// Bytes of head and chunks.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
        /// The flow.
        flow: FlowId,
        /// Article of the flow.
        article: String,
    },
    /// Too old when it first reached a gateway.
    #[error(
        "the package was made at {created}; flow {flow} takes none older than {days} days \
         ({article}): send its content again"
    )]
    TooOld {
        /// When it was made.
        created: Timestamp,
        /// The flow.
        flow: FlowId,
        /// Days allowed.
        days: u32,
        /// Article of the flow.
        article: String,
    },
    /// Made in the future.
    #[error("the package was made at {created}, and it is {now} here: check both clocks")]
    FromFuture {
        /// When it was made.
        created: Timestamp,
        /// The time here.
        now: Timestamp,
    },
    /// Past its last instant.
    #[error("the package may not be opened after {0}: the sender sends its content again")]
    Expired(Timestamp),
    /// Sealed for a recipient whose sheet no longer counts.
    #[error("the sheet of {recipient} counted until {until}: ask {recipient} for its newest one")]
    RecipientSheet {
        /// The recipient.
        recipient: PartyId,
        /// Last instant of the sheet.
        until: Timestamp,
    },
    /// Offered by, or to, somebody whose way does not lead here.
    #[error("{peer} may not offer a package of {sender} here: {why}")]
    Route {
        /// Who offered it.
        peer: Hop,
        /// Its sender.
        sender: PartyId,
        /// What is wrong with the way.
        why: &'static str,
    },
    /// The flow asks for parents, and there are none.
    #[error(
        "flow {flow} requires that a package names what it was made from ({article}): \
         name its parents"
    )]
    Lineage {
        /// The flow.
        flow: FlowId,
        /// Article of the flow.
        article: String,
    },
}

impl Denial {
    /// The reason as a signed refusal gives it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::SignerUnknown(_) => Reason::SignerUnknown,
            Self::SignerRole { .. } => Reason::Role,
            Self::SignerExpired { .. } => Reason::SignerExpired,
            Self::SignerRevoked(_) => Reason::SignerRevoked,
            Self::ConventionUnknown(_) => Reason::ConventionUnknown,
            Self::ConventionDates { .. } => Reason::ConventionDates,
            Self::FlowUnknown(_) => Reason::FlowUnknown,
            Self::FlowSender { .. } => Reason::FlowSender,
            Self::FlowRecipient { .. } => Reason::FlowRecipient,
            Self::TooLarge { .. } => Reason::TooLarge,
            Self::TooOld { .. } => Reason::TooOld,
            Self::FromFuture { .. } => Reason::FromFuture,
            Self::Expired(_) => Reason::Expired,
            Self::RecipientSheet { .. } => Reason::Key,
            Self::Route { .. } => Reason::Route,
            Self::Lineage { .. } => Reason::Lineage,
        }
    }

    /// Whether another `now` could have decided otherwise.
    pub fn depends_on_now(&self) -> bool {
        matches!(
            self,
            Self::SignerRevoked(_)
                | Self::TooOld { .. }
                | Self::FromFuture { .. }
                | Self::Expired(_)
                | Self::RecipientSheet { .. }
        )
    }

    /// Article of the convention that decides, or empty.
    pub fn article(&self) -> &str {
        match self {
            Self::FlowSender { article, .. }
            | Self::FlowRecipient { article, .. }
            | Self::TooLarge { article, .. }
            | Self::TooOld { article, .. }
            | Self::Lineage { article, .. } => article,
            _ => "",
        }
    }
}

/// Decides about one package at one place.
///
/// The sender's key is judged by its dates at the package's `created`, and by its revocation at
/// the receiving institution's acceptance. The convention is the one that the package names.
///
/// # Errors
/// The first [`Denial`] that holds.
pub fn decide(facts: &Facts<'_>, now: Timestamp) -> Result<Permit, Denial> {
    let manifest = facts.manifest;
    signer(facts, now)?;
    let digest = manifest.convention();
    let convention = facts
        .directory
        .convention_by_digest(&digest)
        .ok_or_else(|| Denial::ConventionUnknown(digest.to_string()))?;
    let flow = convention
        .flow(manifest.flow())
        .ok_or_else(|| Denial::FlowUnknown(manifest.flow().clone()))?;
    times(facts, convention, flow, now)?;
    parties(manifest, flow)?;
    if manifest.total_length() > flow.size_max {
        return Err(Denial::TooLarge {
            bytes: manifest.total_length(),
            limit: flow.size_max,
            flow: flow.id.clone(),
            article: flow.article.clone(),
        });
    }
    // A ping carries no data, so it has no parents to name.
    if flow.parents_required && manifest.parents().is_empty() && !manifest.is_test() {
        return Err(Denial::Lineage {
            flow: flow.id.clone(),
            article: flow.article.clone(),
        });
    }
    if matches!(facts.place, Place::Sealing) {
        recipient_sheets(facts, now)?;
    }
    Ok(Permit {
        flow: flow.clone(),
        routes: routes(facts, convention, flow)?,
        not_after: manifest.not_after(),
    })
}

fn signer(facts: &Facts<'_>, now: Timestamp) -> Result<(), Denial> {
    let manifest = facts.manifest;
    let key = facts
        .directory
        .signing_key(manifest.sender(), &manifest.signer())
        .ok_or_else(|| Denial::SignerUnknown(manifest.signer()))?;
    if !key.may(KeyRole::Agent) {
        return Err(Denial::SignerRole {
            key: manifest.signer(),
            sender: manifest.sender().clone(),
        });
    }
    let created = manifest.created();
    if created < key.not_before || created > key.not_after {
        return Err(Denial::SignerExpired {
            created,
            from: key.not_before,
            until: key.not_after,
        });
    }
    let judged = facts.first_accepted.unwrap_or(now);
    match key.revoked {
        Some(revoked) if revoked <= judged => Err(Denial::SignerRevoked(revoked)),
        _ => Ok(()),
    }
}

fn times(
    facts: &Facts<'_>,
    convention: &Convention,
    flow: &Flow,
    now: Timestamp,
) -> Result<(), Denial> {
    let manifest = facts.manifest;
    let created = manifest.created();
    let until = match flow.after_term {
        true => convention.wind_down_until(),
        false => convention.valid_until(),
    };
    if created < convention.valid_from() || created >= until {
        return Err(Denial::ConventionDates {
            from: convention.valid_from(),
            until,
            created,
        });
    }
    if created > now.saturating_add(CLOCK_TOLERANCE) {
        return Err(Denial::FromFuture { created, now });
    }
    if now > manifest.not_after() {
        return Err(Denial::Expired(manifest.not_after()));
    }
    let first = facts.first_accepted.unwrap_or(now);
    let on_the_way = matches!(facts.place, Place::Gateway { .. });
    if on_the_way && first.since(created) > flow.age_max() {
        return Err(Denial::TooOld {
            created,
            flow: flow.id.clone(),
            days: flow.age_max_days,
            article: flow.article.clone(),
        });
    }
    Ok(())
}

fn parties(manifest: &VerifiedManifest, flow: &Flow) -> Result<(), Denial> {
    // A ping may go to and from every party of the flow: it carries no data.
    let may_send = flow.from.contains(manifest.sender())
        || (manifest.is_test() && flow.to.contains(manifest.sender()));
    if !may_send {
        return Err(Denial::FlowSender {
            sender: manifest.sender().clone(),
            flow: flow.id.clone(),
            article: flow.article.clone(),
        });
    }
    for recipient in manifest.recipients() {
        let may_receive =
            flow.to.contains(recipient) || (manifest.is_test() && flow.from.contains(recipient));
        if !may_receive || recipient == manifest.sender() {
            return Err(Denial::FlowRecipient {
                recipient: recipient.clone(),
                flow: flow.id.clone(),
                article: flow.article.clone(),
            });
        }
    }
    Ok(())
}

/// A key that a package is sealed for must still be said by its holder to be the right one.
fn recipient_sheets(facts: &Facts<'_>, now: Timestamp) -> Result<(), Denial> {
    for recipient in facts.manifest.recipients() {
        if let Some(sheet) = facts.directory.sheet(recipient)
            && now > sheet.not_after
        {
            return Err(Denial::RecipientSheet {
                recipient: recipient.clone(),
                until: sheet.not_after,
            });
        }
    }
    Ok(())
}

fn routes(
    facts: &Facts<'_>,
    convention: &Convention,
    flow: &Flow,
) -> Result<BTreeMap<Hop, Vec<PartyId>>, Denial> {
    let manifest = facts.manifest;
    match facts.place {
        Place::Sealing => Ok(BTreeMap::new()),
        Place::Recipient { party } if manifest.recipients().contains(party) => Ok(BTreeMap::new()),
        Place::Recipient { party } => Err(Denial::FlowRecipient {
            recipient: party.clone(),
            flow: flow.id.clone(),
            article: flow.article.clone(),
        }),
        Place::Gateway { party, peer } => {
            let refuse = |why| Denial::Route {
                peer: peer.clone(),
                sender: manifest.sender().clone(),
                why,
            };
            let home = convention.gateway_of(manifest.sender());
            let from_sender = match peer.role {
                Role::Agent => &peer.party == manifest.sender() && home == Some(party),
                Role::Gateway => home == Some(&peer.party) && home != Some(party),
                Role::Operator => false,
            };
            if !from_sender {
                return Err(refuse(
                    "an agent offers its own party's packages to its own \
                                   gateway, a gateway those of parties at or behind it",
                ));
            }
            let here = |recipient: &&PartyId| {
                peer.role == Role::Agent || convention.gateway_of(recipient) == Some(party)
            };
            let ours: Vec<PartyId> = manifest.recipients().iter().filter(here).cloned().collect();
            if ours.is_empty() {
                return Err(refuse("no recipient is behind this gateway"));
            }
            facts
                .directory
                .routes(party, &ours)
                .ok_or_else(|| refuse("a recipient is no party of the convention"))
        }
    }
}
