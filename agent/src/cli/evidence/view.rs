//! A report about evidence, for people and for programs.

use std::fmt::{self, Display};
use std::time::Duration;

use passerelle_proto::PartyId;
use passerelle_proto::evidence::{
    Doubt, EvidenceReport, ManifestReport, Missing, Standing, StatementReport, meaning,
};
use passerelle_proto::v1;
use prost::Message;
use serde::Serialize;

use super::super::quantity::When;
use super::super::wording::{EntryView, StatementView, count};
use crate::progress::{Gateways, progress};

/// What a file proves.
#[derive(Debug, Serialize)]
pub(super) struct EvidenceView {
    package: String,
    manifest: Option<ManifestView>,
    /// How far the package came, as far as statements count.
    recipients: Vec<RecipientView>,
    statements: Vec<SaidView>,
    /// Other entries about the package.
    entries: Vec<String>,
    logs: Vec<LogView>,
    /// What can be seen to be missing, in sentences.
    missing: Vec<String>,
    sheets: Vec<SheetView>,
}

#[derive(Debug, Serialize)]
struct ManifestView {
    sender: String,
    recipients: Vec<String>,
    flow: String,
    article: Option<String>,
    convention: String,
    convention_version: u64,
    created_ms: i64,
    not_after_ms: i64,
    test: bool,
    /// Why the convention did not permit it, or nothing.
    denied: Option<String>,
}

#[derive(Debug, Serialize)]
struct RecipientView {
    recipient: String,
    state: &'static str,
    at_ms: i64,
    detail: String,
}

#[derive(Debug, Serialize)]
struct SaidView {
    #[serde(flatten)]
    statement: StatementView,
    seq: u64,
    counts: bool,
    /// Why it does not count, in a sentence.
    why_not: Option<String>,
    by: &'static str,
    proves: &'static str,
    does_not_prove: &'static str,
    standings: Vec<StandingView>,
}

#[derive(Debug, Serialize)]
struct StandingView {
    log: String,
    index: u64,
    at_ms: i64,
    cosigned: Vec<CosignedView>,
    stamped: Vec<StampedView>,
}

/// An authority has stamped it (RFC 3161).
#[derive(Debug, Serialize)]
struct StampedView {
    authority: String,
    policy: String,
    serial: String,
    size: u64,
    at_ms: i64,
    /// How far that may be off, as the authority says.
    accuracy_ms: Option<u64>,
    /// Why the authority is not believed.
    doubt: Option<String>,
}

#[derive(Debug, Serialize)]
struct CosignedView {
    partner: String,
    size: u64,
    at_ms: i64,
}

#[derive(Debug, Serialize)]
struct LogView {
    party: String,
    size: u64,
    entries: u64,
    cosigned: Vec<CosignedView>,
    stamped: Vec<StampedView>,
}

#[derive(Debug, Serialize)]
struct SheetView {
    party: String,
    seq: u64,
    issued_ms: i64,
}

impl EvidenceView {
    pub(super) fn of(report: &EvidenceReport) -> Self {
        let sheets = report.sheets.iter().map(|(party, seq, issued)| SheetView {
            party: party.to_string(),
            seq: *seq,
            issued_ms: issued.as_ms(),
        });
        let logs = report.logs.iter().map(|log| LogView {
            party: log.party.to_string(),
            size: log.size,
            entries: log.entries,
            cosigned: log.cosigned.iter().map(CosignedView::of).collect(),
            stamped: log.stamped.iter().map(StampedView::of).collect(),
        });
        let entry = |event: &passerelle_proto::evidence::OtherEvent| {
            let record = v1::LogRecord {
                index: event.standing.index,
                entry: event.entry.encode_to_vec(),
            };
            let EntryView { at_ms, says, .. } = EntryView::of(&record);
            format!("{}, {}: {says}", place(&event.standing), When(at_ms))
        };
        Self {
            package: report.package.to_string(),
            manifest: report.manifest.as_ref().map(ManifestView::of),
            recipients: recipients(report),
            statements: report.statements.iter().filter_map(SaidView::of).collect(),
            entries: report.events.iter().map(entry).collect(),
            logs: logs.collect(),
            missing: report.missing.iter().map(missing).collect(),
            sheets: sheets.collect(),
        }
    }
}

/// How far the package came, by the statements that count.
fn recipients(report: &EvidenceReport) -> Vec<RecipientView> {
    let Some(ManifestReport {
        manifest, gateways, ..
    }) = &report.manifest
    else {
        return Vec::new();
    };
    struct Behind<'g>(&'g std::collections::BTreeMap<PartyId, PartyId>);
    impl Gateways for Behind<'_> {
        fn gateway_of(&self, party: &str) -> Option<String> {
            let party = PartyId::parse(party).ok()?;
            self.0.get(&party).map(ToString::to_string)
        }
    }
    let counting = report.statements.iter().filter(|said| said.counts());
    let statements: Vec<v1::Statement> =
        counting.map(|said| said.statement.body().clone()).collect();
    let names: Vec<String> = manifest
        .recipients()
        .iter()
        .map(ToString::to_string)
        .collect();
    let sender = manifest.sender().as_str();
    let states = progress(sender, &names, &statements, &Behind(gateways)).into_iter();
    states
        .map(|state| RecipientView {
            recipient: state.recipient,
            state: match state.at_ms {
                0 => "nothing that counts was said",
                _ => state.stage.word(),
            },
            at_ms: state.at_ms,
            detail: state.detail,
        })
        .collect()
}

impl ManifestView {
    fn of(report: &ManifestReport) -> Self {
        let manifest = &report.manifest;
        Self {
            sender: manifest.sender().to_string(),
            recipients: manifest
                .recipients()
                .iter()
                .map(ToString::to_string)
                .collect(),
            flow: manifest.flow().to_string(),
            article: report.flow.as_ref().map(|flow| flow.article.clone()),
            convention: report.convention.0.clone(),
            convention_version: report.convention.1,
            created_ms: manifest.created().as_ms(),
            not_after_ms: manifest.not_after().as_ms(),
            test: manifest.is_test(),
            denied: report.denial.as_ref().map(ToString::to_string),
        }
    }
}

impl SaidView {
    fn of(report: &StatementReport) -> Option<Self> {
        let meaning = meaning(report.what())?;
        let doubt = report.doubt.as_ref().map(doubt);
        let uncosigned = "it is not yet cosigned: no other institution has signed a checkpoint \
                          over it, so the gateway that logged it could still take it back";
        let why_not = doubt.or_else(|| (!report.counts()).then(|| uncosigned.to_owned()));
        Some(Self {
            statement: StatementView::of(report.statement.signed())?,
            seq: report.statement.body().seq,
            counts: report.counts(),
            why_not,
            by: meaning.by,
            proves: meaning.proves,
            does_not_prove: meaning.not,
            standings: report.standings.iter().map(StandingView::of).collect(),
        })
    }
}

impl StandingView {
    fn of(standing: &Standing) -> Self {
        Self {
            log: standing.log.to_string(),
            index: standing.index,
            at_ms: standing.at.as_ms(),
            cosigned: standing.cosigned.iter().map(CosignedView::of).collect(),
            stamped: standing.stamped.iter().map(StampedView::of).collect(),
        }
    }
}

impl CosignedView {
    fn of(cosigned: &passerelle_proto::evidence::CosignedAt) -> Self {
        Self {
            partner: cosigned.partner.to_string(),
            size: cosigned.size,
            at_ms: cosigned.at.as_ms(),
        }
    }
}

impl StampedView {
    fn of(stamped: &passerelle_proto::evidence::StampedAt) -> Self {
        let stamp = &stamped.stamp;
        let millis = |accuracy: Duration| u64::try_from(accuracy.as_millis()).unwrap_or(u64::MAX);
        Self {
            authority: stamp.authority.clone(),
            policy: stamp.policy.clone(),
            serial: stamp.serial.clone(),
            size: stamped.size,
            at_ms: stamp.at.as_ms(),
            accuracy_ms: stamp.accuracy.map(millis),
            doubt: stamp.doubt.clone(),
        }
    }
}

impl Display for StampedView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            authority,
            size,
            at_ms,
            ..
        } = self;
        let at = When(*at_ms);
        write!(f, "time-stamped (RFC 3161) with the first {size} entries: ")?;
        match &self.doubt {
            None => write!(
                f,
                "it was there at the latest {at} by the clock of {authority}, who has no part in \
                 this exchange"
            )?,
            Some(doubt) => write!(f, "{at}, NOT BELIEVED: {doubt}")?,
        }
        match self.accuracy_ms {
            Some(millis) => write!(f, " (give or take {millis} ms)"),
            None => Ok(()),
        }
    }
}

fn place(standing: &Standing) -> String {
    format!("entry {} of the log of {}", standing.index, standing.log)
}

fn doubt(doubt: &Doubt) -> String {
    match doubt {
        Doubt::Dates { from, until } => format!(
            "its signature verifies, and it says that it was made outside the dates of its key, \
             {from} to {until}"
        ),
        Doubt::Revoked { at } => format!(
            "its signature verifies, and its key was revoked at {at}: no partner has cosigned it \
             before"
        ),
        Doubt::NotIts => "its signature verifies, and its issuer has not the part in this package \
                          that the words are about"
            .to_owned(),
        Doubt::OtherContent => "its signature verifies, and it is about another content than the \
                                manifest names"
            .to_owned(),
    }
}

fn missing(missing: &Missing) -> String {
    match missing {
        Missing::Between {
            issuer,
            destination,
            after,
            before,
        } => {
            let lacking = count(before - after - 1, "statement", "statements");
            format!(
                "{lacking} of {issuer} to {destination}, between its numbers {after} and \
                 {before}: about other packages, or left out; the log of {issuer} says which"
            )
        }
        Missing::Entry { log, index, anew } => {
            let or_lost = match anew {
                true => ", or stood in the log that was lost and whose place this one has taken",
                false => "",
            };
            format!(
                "entry {index} of the log of {log}, which its gateway has signed to be about this \
                 package: it was left out{or_lost}"
            )
        }
        Missing::Anew {
            issuer,
            destination,
        } => format!(
            "the numbers of {issuer} to {destination} began anew when its log was lost: they do \
             not show what is missing"
        ),
    }
}

impl Display for EvidenceView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "every signature and every proof in this file holds")?;
        writeln!(f, "package {}", self.package)?;
        match &self.manifest {
            Some(manifest) => write!(f, "{manifest}")?,
            None => writeln!(
                f,
                "  no log in this file has accepted it: its manifest is not here"
            )?,
        }
        for recipient in &self.recipients {
            let at = When(recipient.at_ms);
            let detail = match recipient.detail.as_str() {
                "" => String::new(),
                detail => format!(": {detail}"),
            };
            writeln!(
                f,
                "for {}: {} ({at}){detail}",
                recipient.recipient, recipient.state
            )?;
        }
        if self.statements.is_empty() {
            writeln!(f, "\nnobody has said anything about it in this file")?;
        }
        for (number, said) in self.statements.iter().enumerate() {
            writeln!(f, "\n{}. {said}", number + 1)?;
        }
        if !self.entries.is_empty() {
            writeln!(f, "\nwhat gateways have noted besides, unsigned")?;
        }
        for entry in &self.entries {
            writeln!(f, "  {entry}")?;
        }
        self.limits(f)
    }
}

impl EvidenceView {
    /// What the file does not say.
    fn limits(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nwhat the logs are")?;
        for log in &self.logs {
            let (entries, size) = (count(log.entries, "entry", "entries"), log.size);
            write!(
                f,
                "  the log of {}: {entries} about it of {size}",
                log.party
            )?;
            log.covered(f)?;
            writeln!(f)?;
        }
        self.times(f)?;
        writeln!(f, "\nwhat is missing")?;
        for missing in &self.missing {
            writeln!(f, "  {missing}")?;
        }
        writeln!(
            f,
            "  what was left out behind the last number of a signer cannot be seen here; the \
             whole log shows it"
        )?;
        writeln!(
            f,
            "\njudged under these sheets; a newer one may revoke a key"
        )?;
        for sheet in &self.sheets {
            writeln!(
                f,
                "  sheet {} of {}, {}",
                sheet.seq,
                sheet.party,
                When(sheet.issued_ms)
            )?;
        }
        Ok(())
    }
}

impl LogView {
    /// Who has covered how much of it.
    fn covered(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cosigned.is_empty() {
            write!(f, ", cosigned by nobody")?;
        }
        for cosigned in &self.cosigned {
            let CosignedView { partner, size, .. } = cosigned;
            let at = When(cosigned.at_ms);
            write!(f, ", the first {size} cosigned by {partner} ({at})")?;
        }
        for stamped in &self.stamped {
            let StampedView {
                authority, size, ..
            } = stamped;
            let at = When(stamped.at_ms);
            write!(f, ", the first {size} time-stamped by {authority} ({at})")?;
        }
        Ok(())
    }
}

impl EvidenceView {
    /// Which kinds of time stand in the file, and what each is worth.
    fn times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = self.statements.iter().flat_map(|said| &said.standings);
        let stamped = said.clone().flat_map(|standing| &standing.stamped);
        let believed = stamped.clone().any(|stamped| stamped.doubt.is_none());
        let cosigned = said
            .flat_map(|standing| &standing.cosigned)
            .next()
            .is_some();
        writeln!(f, "\nwhat the times are")?;
        writeln!(
            f,
            "  by a signer's or a gateway's own clock: that it says so, no more"
        )?;
        if cosigned {
            writeln!(
                f,
                "  by a partner's clock: another institution, which has a part in this exchange, \
                 has signed that it was there by then"
            )?;
        }
        match (believed, stamped.count()) {
            (true, _) => writeln!(
                f,
                "  by an authority's clock (RFC 3161): somebody without a part in it has signed \
                 that it was there by then; whether the authority is a qualified one (eIDAS, \
                 article 42) the trusted lists say"
            ),
            (false, 0) => writeln!(
                f,
                "  by nobody without a part in it: there is no time-stamp (RFC 3161)"
            ),
            (false, _) => writeln!(
                f,
                "  by an authority's clock (RFC 3161): not believed until its certificate is \
                 named with --time-authority"
            ),
        }
    }
}

impl Display for ManifestView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = self.recipients.join(", ");
        let test = if self.test { " (test)" } else { "" };
        writeln!(f, "  from {} to {to}{test}", self.sender)?;
        let article = self
            .article
            .as_deref()
            .unwrap_or("no article: the flow is not in it");
        writeln!(f, "  flow {}, {article}", self.flow)?;
        let (id, version) = (&self.convention, self.convention_version);
        writeln!(f, "  under the convention {id}, version {version}")?;
        let (created, until) = (When(self.created_ms), When(self.not_after_ms));
        writeln!(
            f,
            "  made {created} by the sender's clock, to be opened until {until}"
        )?;
        match &self.denied {
            None => writeln!(f, "  the convention permitted it when it was accepted"),
            Some(why) => writeln!(f, "  the convention DID NOT permit it: {why}"),
        }
    }
}

impl Display for SaidView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StatementView {
            kind,
            issuer,
            at_ms,
            says,
            signer,
            ..
        } = &self.statement;
        let at = When(*at_ms);
        writeln!(f, "{kind}, signed by {issuer}, {at} by its own clock")?;
        writeln!(f, "   it says: {says}")?;
        writeln!(f, "   it proves, said by {}: {}", self.by, self.proves)?;
        writeln!(f, "   it does not prove: {}", self.does_not_prove)?;
        let key = signer.get(..12).unwrap_or(signer);
        writeln!(
            f,
            "   both halves of its signature hold (key {key}, number {})",
            self.seq
        )?;
        for standing in &self.standings {
            let StandingView {
                log, index, at_ms, ..
            } = standing;
            let at = When(*at_ms);
            writeln!(
                f,
                "   entry {index} of the log of {log}, {at} by that gateway's clock"
            )?;
            for CosignedView {
                partner,
                size,
                at_ms,
            } in &standing.cosigned
            {
                let at = When(*at_ms);
                writeln!(
                    f,
                    "     cosigned by {partner} with the first {size} entries: it was there at \
                     the latest {at} by the clock of {partner}"
                )?;
            }
        }
        let stamped = self.standings.iter().flat_map(|standing| &standing.stamped);
        for stamped in stamped {
            writeln!(f, "     {stamped}")?;
        }
        match &self.why_not {
            None => write!(f, "   it counts as evidence"),
            Some(why) => write!(f, "   it DOES NOT COUNT as evidence: {why}"),
        }
    }
}
