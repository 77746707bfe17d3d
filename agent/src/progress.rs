//! How far a sent package has come, recipient by recipient: one pure reading of its statements.
//!
//! `Delivered` (and the `Acknowledged` after it) wins over every other statement whenever it
//! arrives; of the other terminal ones the earliest counts; all of them stay stored.

use passerelle_proto::reason_words;
use passerelle_proto::v1::{self, statement::What};

/// How far a package has come towards one recipient, in the order of its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Sealed here; nobody has said anything.
    Sealed,
    /// Our gateway has every byte.
    Submitted,
    /// The recipient's gateway has every byte.
    Accepted,
    /// The recipient's agent took every byte.
    Forwarded,
    /// Terminal: nothing reached our gateway's log in time.
    NotReceipted,
    /// Terminal: the recipient's gateway held it and nobody fetched it.
    NotCollected,
    /// Terminal: refused by a gateway or the recipient.
    Refused,
    /// Terminal: the recipient's key opened it.
    Delivered,
    /// Delivered, and a person or system of the recipient says so.
    Acknowledged,
}

impl Stage {
    /// Whether the package needs nothing more from us for this recipient.
    pub fn is_terminal(self) -> bool {
        self >= Stage::NotReceipted
    }

    /// Whether the recipient has it.
    pub fn is_delivered(self) -> bool {
        self >= Stage::Delivered
    }

    /// The word that `status` shows.
    pub fn word(self) -> &'static str {
        match self {
            Stage::Sealed => "sealed",
            Stage::Submitted => "submitted",
            Stage::Accepted => "accepted",
            Stage::Forwarded => "forwarded",
            Stage::NotReceipted => "not receipted",
            Stage::NotCollected => "not collected",
            Stage::Refused => "refused",
            Stage::Delivered => "delivered",
            Stage::Acknowledged => "acknowledged",
        }
    }
}

/// The state of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Whom it is for.
    pub recipient: String,
    /// How far it has come.
    pub stage: Stage,
    /// When that was said, Unix milliseconds; 0 while nothing was.
    pub at_ms: i64,
    /// Reason, article or comment, for people.
    pub detail: String,
}

/// Tells which party's gateway a party is behind.
pub trait Gateways {
    /// The gateway's party, or `None` for a party that the convention does not name.
    fn gateway_of(&self, party: &str) -> Option<String>;
}

/// What `statements` (verified, all about one package) say, for each of its `recipients`.
pub fn progress(
    sender: &str,
    recipients: &[String],
    statements: &[v1::Statement],
    gateways: &impl Gateways,
) -> Vec<Progress> {
    recipients
        .iter()
        .map(|recipient| {
            let first = Progress {
                recipient: recipient.clone(),
                stage: Stage::Sealed,
                at_ms: 0,
                detail: String::new(),
            };
            statements
                .iter()
                .filter_map(|s| said(sender, recipient, s, gateways))
                .fold(first, later)
        })
        .collect()
}

/// Of two states the one that counts.
fn later(a: Progress, b: Progress) -> Progress {
    let failures = |p: &Progress| p.stage.is_terminal() && !p.stage.is_delivered();
    let b_counts = match (failures(&a), failures(&b)) {
        (true, true) => b.at_ms < a.at_ms,
        _ => b.stage > a.stage,
    };
    if b_counts { b } else { a }
}

/// What one statement says about one recipient, if anything.
fn said(
    sender: &str,
    recipient: &str,
    statement: &v1::Statement,
    gateways: &impl Gateways,
) -> Option<Progress> {
    let issuer = statement.issuer.as_str();
    let ours = gateways.gateway_of(sender);
    let theirs = gateways.gateway_of(recipient);
    let by_ours = ours.as_deref() == Some(issuer);
    let by_theirs = theirs.as_deref() == Some(issuer);
    let (stage, detail) = match statement.what.as_ref()? {
        What::Accepted(_) if by_theirs => (Stage::Accepted, String::new()),
        What::Accepted(_) if by_ours => (Stage::Submitted, String::new()),
        What::Forwarded(f) if by_theirs && f.recipient == recipient => {
            (Stage::Forwarded, f.tls_name.clone())
        }
        What::Delivered(d) if issuer == recipient && d.recipient == recipient => {
            (Stage::Delivered, String::new())
        }
        What::Acknowledged(a) if issuer == recipient && a.recipient == recipient => {
            (Stage::Acknowledged, a.comment.clone())
        }
        What::NotCollected(n) if by_theirs && n.recipient == recipient => {
            (Stage::NotCollected, String::new())
        }
        What::NotReceipted(n) if by_ours && n.recipient == recipient => {
            (Stage::NotReceipted, String::new())
        }
        What::Refused(r) => {
            let concerns = if r.recipients.is_empty() {
                by_ours || by_theirs || issuer == recipient
            } else {
                let may_speak = by_ours || by_theirs || issuer == recipient;
                may_speak && r.recipients.iter().any(|named| named == recipient)
            };
            concerns.then(|| (Stage::Refused, refusal_words(issuer, r)))?
        }
        _ => return None,
    };
    let at_ms = statement.at_ms;
    Some(Progress {
        recipient: recipient.to_owned(),
        stage,
        at_ms,
        detail,
    })
}

/// "by grand-dijon: flow recipient (article 1)".
fn refusal_words(issuer: &str, refused: &v1::Refused) -> String {
    let article = match refused.article.as_str() {
        "" => String::new(),
        article => format!(" (article {article})"),
    };
    format!("by {issuer}: {}{article}", reason_words(refused.reason()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contractor is behind Grand Dijon's gateway.
    struct Field;

    impl Gateways for Field {
        fn gateway_of(&self, party: &str) -> Option<String> {
            let gateway = if party == "caf21" {
                "caf21"
            } else {
                "grand-dijon"
            };
            Some(gateway.to_owned())
        }
    }

    fn statement(issuer: &str, at_ms: i64, what: What) -> v1::Statement {
        v1::Statement {
            issuer: issuer.into(),
            at_ms,
            what: Some(what),
            ..Default::default()
        }
    }

    fn stages(statements: &[v1::Statement]) -> Vec<Stage> {
        let recipients = ["contractor".to_owned(), "grand-dijon".to_owned()];
        let read = progress("caf21", &recipients, statements, &Field);
        read.into_iter().map(|p| p.stage).collect()
    }

    fn delivered(recipient: &str) -> What {
        What::Delivered(v1::Delivered {
            recipient: recipient.into(),
            ..Default::default()
        })
    }

    fn refused(recipients: &[&str]) -> What {
        let recipients = recipients.iter().map(|r| (*r).to_owned()).collect();
        What::Refused(v1::Refused {
            recipients,
            ..Default::default()
        })
    }

    #[test]
    fn each_gateway_moves_the_recipients_behind_it() {
        let accepted = || What::Accepted(v1::Accepted::default());
        let ours = statement("caf21", 1, accepted());
        let theirs = statement("grand-dijon", 2, accepted());
        assert_eq!(stages(&[]), [Stage::Sealed; 2]);
        assert_eq!(stages(std::slice::from_ref(&ours)), [Stage::Submitted; 2]);
        assert_eq!(stages(&[theirs, ours]), [Stage::Accepted; 2]);
    }

    #[test]
    fn a_late_delivery_wins_over_a_refusal_and_over_a_missing_receipt() {
        let lost = What::NotReceipted(v1::NotReceipted {
            recipient: "contractor".into(),
            log_size: 4,
        });
        let statements = [
            statement("caf21", 5, lost),
            statement("grand-dijon", 6, refused(&["contractor"])),
            statement("contractor", 9, delivered("contractor")),
        ];
        assert_eq!(
            stages(&statements[..2]),
            [Stage::NotReceipted, Stage::Sealed]
        );
        assert_eq!(stages(&statements), [Stage::Delivered, Stage::Sealed]);
    }

    #[test]
    fn nobody_receipts_for_another() {
        let forged = statement("grand-dijon", 1, delivered("contractor"));
        assert_eq!(stages(&[forged]), [Stage::Sealed; 2]);
        let meddling = statement("contractor", 1, refused(&["grand-dijon"]));
        assert_eq!(stages(&[meddling]), [Stage::Sealed; 2]);
    }

    #[test]
    fn a_refusal_that_names_nobody_is_about_all_behind_its_issuer() {
        assert_eq!(
            stages(&[statement("caf21", 1, refused(&[]))]),
            [Stage::Refused; 2]
        );
        let by_agent = statement("contractor", 1, refused(&[]));
        assert_eq!(stages(&[by_agent]), [Stage::Refused, Stage::Sealed]);
    }

    #[test]
    fn the_detail_of_a_refusal_names_who_why_and_the_article() {
        let why = What::Refused(v1::Refused {
            reason: v1::Reason::FlowRecipient.into(),
            article: "1".into(),
            recipients: vec![],
        });
        let recipients = ["grand-dijon".to_owned()];
        let read = progress("caf21", &recipients, &[statement("caf21", 1, why)], &Field);
        assert_eq!(read[0].detail, "by caf21: flow recipient (article 1)");
    }
}
