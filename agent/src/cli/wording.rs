//! Statements and log entries in plain words.

use std::fmt::{self, Display};

use passerelle_proto::{
    Checkpoint, Digest, Note, TimeAuthorities, TimeStamp, busy_words, purged_words, reason_words,
    v1,
};
use prost::Message;
use serde::Serialize;
use v1::entry::Event;
use v1::statement::What;

use super::quantity::{When, hex, one_line, short};

/// A statement as the command line shows it.
#[derive(Debug, Clone, Serialize)]
pub struct StatementView {
    /// SHA-256 of its body, hex.
    pub id: String,
    /// What it is, `accepted`.
    pub kind: &'static str,
    /// Party that speaks.
    pub issuer: String,
    /// Party that is spoken to.
    pub destination: String,
    /// When it was said, Unix milliseconds.
    pub at_ms: i64,
    /// The one recipient that it is about, where it is about one.
    pub recipient: Option<String>,
    /// Package it speaks of, hex.
    pub package: String,
    /// Signing key, hex.
    pub signer: String,
    /// What it says, in a sentence.
    pub says: String,
}

impl StatementView {
    /// Reads the body of `signed`; the signature is not looked at here. `None` if it is no
    /// statement.
    pub fn of(signed: &v1::Signed) -> Option<StatementView> {
        let statement = v1::Statement::decode(signed.body.as_slice()).ok()?;
        let what = statement.what.as_ref()?;
        let (kind, says) = said(&statement.issuer, what);
        Some(StatementView {
            id: Digest::of(&signed.body).to_string(),
            kind,
            says,
            at_ms: statement.at_ms,
            recipient: recipient(what).map(str::to_owned),
            package: hex(&statement.package),
            signer: hex(&statement.signer),
            issuer: statement.issuer,
            destination: statement.destination,
        })
    }

    /// All that are statements, in the order in which they were said.
    pub fn all(signed: &[v1::Signed]) -> Vec<StatementView> {
        let mut views: Vec<StatementView> = signed.iter().filter_map(Self::of).collect();
        views.sort_by(|a, b| (a.at_ms, &a.id).cmp(&(b.at_ms, &b.id)));
        views
    }
}

/// The one recipient that a statement is about.
fn recipient(what: &What) -> Option<&str> {
    match what {
        What::Forwarded(said) => Some(&said.recipient),
        What::Delivered(said) => Some(&said.recipient),
        What::Acknowledged(said) => Some(&said.recipient),
        What::NotCollected(said) => Some(&said.recipient),
        What::NotReceipted(said) => Some(&said.recipient),
        What::Cancel(said) => Some(&said.recipient),
        What::Accepted(_)
        | What::Refused(_)
        | What::Busy(_)
        | What::Damaged(_)
        | What::Inquire(_)
        | What::Purged(_) => None,
    }
}

/// "1 entry", "2 entries".
pub fn count(number: u64, one: &str, more: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        number => format!("{number} {more}"),
    }
}

/// The name of a statement, and what it says.
fn said(issuer: &str, what: &What) -> (&'static str, String) {
    match what {
        What::Accepted(a) => {
            let place = format!("at index {} of its log", a.log_index);
            let for_whom = a.recipients.join(", ");
            let says = format!(
                "{issuer}'s gateway holds every byte, {place}, and takes charge of {for_whom}"
            );
            ("accepted", says)
        }
        What::Forwarded(f) => {
            let says = format!("all bytes were handed to {} ({})", f.recipient, f.tls_name);
            ("forwarded", says)
        }
        What::Delivered(d) => {
            let says = format!("{}'s key opened it and every digest was right", d.recipient);
            ("delivered", says)
        }
        What::Acknowledged(a) => {
            let says = format!("{} acknowledges it", a.recipient);
            ("acknowledged", commented(says, &a.comment))
        }
        What::Refused(r) => ("refused", refused(r)),
        What::Busy(b) => {
            let (why, after) = (busy_words(b.reason()), b.retry_after_ms);
            ("busy", format!("not now ({why}), again in {after} ms"))
        }
        What::Cancel(c) => {
            let says = format!("{issuer} asks {} to let go of it unopened", c.recipient);
            ("cancel", commented(says, &c.comment))
        }
        What::Damaged(_) => {
            let says = format!("{issuer}'s stored copy has rotted: it asks for the package again");
            ("damaged", says)
        }
        What::Inquire(i) => {
            let says = format!(
                "{issuer} lacks statements {} to {} of {}/{} to {}, and asks for them",
                i.first, i.last, i.issuer, i.role, i.destination
            );
            ("inquire", says)
        }
        What::Purged(p) => ("purged", purged(issuer, p)),
        What::NotCollected(n) => {
            let (from, until) = (When(n.held_from_ms), When(n.held_until_ms));
            let says = format!("{} did not fetch it from {from} to {until}", n.recipient);
            ("not-collected", says)
        }
        What::NotReceipted(n) => {
            let says = format!(
                "nothing about {} reached this log up to size {}",
                n.recipient, n.log_size
            );
            ("not-receipted", says)
        }
    }
}

/// What is said, with the words of a person behind it.
fn commented(says: String, comment: &str) -> String {
    match comment {
        "" => says,
        comment => format!("{says}: “{}”", one_line(comment)),
    }
}

fn purged(issuer: &str, purged: &v1::Purged) -> String {
    let what = purged_words(purged.part());
    let early = match purged.early {
        true => ", early for want of room",
        false => "",
    };
    let entry = purged.decided_index;
    format!("{issuer}'s gateway has removed {what}{early}, as entry {entry} of its log decides")
}

fn refused(refused: &v1::Refused) -> String {
    let mut says = reason_words(refused.reason()).to_owned();
    if !refused.article.is_empty() {
        says.push_str(&format!(" (article {})", refused.article));
    }
    if !refused.recipients.is_empty() {
        says.push_str(&format!(", for {}", refused.recipients.join(", ")));
    }
    says
}

/// Every kind of log entry.
pub const ENTRY_KINDS: [&str; 20] = [
    "accepted",
    "forwarded",
    "handed-over",
    "statement",
    "refused",
    "started",
    "stopped",
    "configured",
    "held",
    "released",
    "retried",
    "repaired",
    "purge-decided",
    "resent",
    "cosigned",
    "time-stamped",
    "counted",
    "operator",
    "agent-state",
    "epoch",
];

/// A log entry as the command line shows it.
#[derive(Debug, Clone, Serialize)]
pub struct EntryView {
    /// Index in the log, from 0.
    pub index: u64,
    /// When it was appended, Unix milliseconds.
    pub at_ms: i64,
    /// What it is.
    pub kind: &'static str,
    /// Package it is about, hex; empty where it is about none.
    pub package: String,
    /// What it says, in a sentence.
    pub says: String,
}

impl Display for EntryView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.package.get(..12).unwrap_or_default();
        let at = When(self.at_ms);
        write!(
            f,
            "{:>6}  {at}  {:<13}  {id:<12}  {}",
            self.index, self.kind, self.says
        )
    }
}

impl EntryView {
    /// Reads an entry; what cannot be read is shown as `unreadable`.
    pub fn of(record: &v1::LogRecord) -> EntryView {
        let read = v1::Entry::decode(record.entry.as_slice()).ok();
        let at_ms = read.as_ref().map_or(0, |entry| entry.at_ms);
        let told = read.and_then(|entry| entry.event).as_ref().map(told);
        let (kind, package, says) = told.unwrap_or_else(|| {
            let says = format!("{} bytes that are no entry", record.entry.len());
            ("unreadable", Vec::new(), says)
        });
        EntryView {
            index: record.index,
            at_ms,
            kind,
            package: hex(&package),
            says,
        }
    }
}

type Told = (&'static str, Vec<u8>, String);

fn told(event: &Event) -> Told {
    match event {
        Event::Accepted(e) => accepted(e),
        Event::Forwarded(e) => forwarded(e),
        Event::HandedOver(e) => handed_over(e),
        Event::Statement(e) => statement(e),
        Event::Epoch(e) => ("epoch", Vec::new(), epoch(e)),
        Event::AgentState(e) => ("agent-state", Vec::new(), agent_state(e)),
        Event::Resent(e) => {
            let statements = count(e.statements.len() as u64, "statement", "statements");
            let says = format!("{statements} go to {} once more", hop(&e.next_hop));
            ("resent", e.package.clone(), says)
        }
        Event::Refused(e) => {
            let mut says = format!("{} was refused: {}", hop(&e.peer), reason_words(e.reason()));
            if !e.article.is_empty() {
                says.push_str(&format!(" (article {})", e.article));
            }
            ("refused", e.package.clone(), says)
        }
        Event::Started(e) => ("started", Vec::new(), started(e)),
        Event::Stopped(e) if e.why.is_empty() => {
            ("stopped", Vec::new(), "stopped in good order".into())
        }
        Event::Stopped(e) => ("stopped", Vec::new(), format!("stopped: {}", e.why)),
        Event::Configured(e) => {
            let says = format!("in force from here: {} {}", e.what, short(&e.sha256));
            ("configured", Vec::new(), says)
        }
        Event::Held(e) => (
            "held",
            e.package.clone(),
            format!("held before {}", hop(&e.next_hop)),
        ),
        Event::Released(e) => (
            "released",
            e.package.clone(),
            format!("released to {}", hop(&e.next_hop)),
        ),
        Event::Retried(e) => (
            "retried",
            e.package.clone(),
            format!("to be tried again: {}", hop(&e.next_hop)),
        ),
        Event::Repaired(e) => (
            "repaired",
            e.package.clone(),
            "the damaged copy here is whole again".into(),
        ),
        Event::Cosigned(e) => ("cosigned", Vec::new(), cosigned(e)),
        Event::TimeStamped(e) => ("time-stamped", Vec::new(), time_stamped(e)),
        Event::Counted(e) => {
            let says = format!("{} more were refused: {}", e.count, e.class);
            ("counted", Vec::new(), says)
        }
        Event::Operator(e) => {
            let who = match e.operator.as_slice() {
                [] => "an operator of this machine".to_owned(),
                key => format!("operator {}", short(key)),
            };
            let says = format!("{who} did: {}", e.act);
            ("operator", e.package.clone(), says)
        }
        Event::PurgeDecided(e) => ("purge-decided", e.package.clone(), purge_decided(e)),
    }
}

fn time_stamped(event: &v1::TimeStampedEvent) -> String {
    let read = || {
        let note = Note::parse(&event.checkpoint).ok()?;
        let size = Checkpoint::parse(note.text()).ok()?.size;
        let nobody = TimeAuthorities::default();
        let stamp = TimeStamp::verify(&event.token, note.text().as_bytes(), &nobody).ok()?;
        Some((size, stamp))
    };
    match read() {
        None => "a time-stamp that does not hold: passerelle audit verify says why".to_owned(),
        Some((size, TimeStamp { at, authority, .. })) => {
            let (entries, at) = (count(size, "entry", "entries"), When(at.as_ms()));
            format!("{authority} has stamped the first {entries} ({at}, RFC 3161)")
        }
    }
}

fn purge_decided(event: &v1::PurgeDecidedEvent) -> String {
    let what = purged_words(event.part());
    let (due, by, over) = (When(event.due_ms), &event.cosigned_by, event.over_index);
    let when = match event.early {
        true => format!("early for want of room: it was due {due}"),
        false => format!("due {due}"),
    };
    format!("{what} goes, {when}; over with entry {over}, which {by} has cosigned")
}

fn started(event: &v1::StartedEvent) -> String {
    let software = &event.software;
    match &event.anchored_by {
        None => format!("started as {software}"),
        by => {
            let entries = count(event.anchored_size, "entry", "entries");
            format!(
                "started as {software}; {} keeps a copy of {entries}",
                hop(by)
            )
        }
    }
}

fn accepted(event: &v1::AcceptedEvent) -> Told {
    let manifest = event.manifest.clone().unwrap_or_default();
    let package = Digest::of(&manifest.body).0.to_vec();
    let body = v1::Manifest::decode(manifest.body.as_slice()).unwrap_or_default();
    let test = if event.test { " (test)" } else { "" };
    let says = format!(
        "{} → {} under {}{test}, from {}",
        body.sender,
        body.recipients.join(", "),
        body.flow,
        hop(&event.previous_hop)
    );
    ("accepted", package, says)
}

fn handed_over(event: &v1::HandedOverEvent) -> Told {
    let indices: Vec<String> = event.log_index.iter().map(u64::to_string).collect();
    let word = if indices.len() == 1 {
        "entry"
    } else {
        "entries"
    };
    let says = format!(
        "{} keeps the statement of {word} {} too",
        hop(&event.next_hop),
        indices.join(", ")
    );
    ("handed-over", Vec::new(), says)
}

fn forwarded(event: &v1::ForwardedEvent) -> Told {
    let how = match &event.receipt {
        Some(_) => "which receipted it".to_owned(),
        None => format!("which took every byte as {}", event.tls_name),
    };
    let says = format!("handed to {}, {how}", hop(&event.next_hop));
    ("forwarded", event.package.clone(), says)
}

fn statement(event: &v1::StatementEvent) -> Told {
    let signed = event.statement.clone().unwrap_or_default();
    let view = StatementView::of(&signed);
    let package = v1::Statement::decode(signed.body.as_slice())
        .unwrap_or_default()
        .package;
    let from = match &event.from {
        Some(_) => format!("from {}", hop(&event.from)),
        None => "our own".to_owned(),
    };
    let to = match &event.next_hop {
        Some(_) => format!(", on to {}", hop(&event.next_hop)),
        None => String::new(),
    };
    let says = match view {
        Some(view) => {
            let about = view.recipient.filter(|party| *party != view.issuer);
            let about = about.map_or(String::new(), |party| format!(", for {party}"));
            format!("{} by {}{about} ({from}{to})", view.kind, view.issuer)
        }
        None => format!("an unreadable statement ({from}{to})"),
    };
    ("statement", package, says)
}

fn agent_state(event: &v1::AgentStateEvent) -> String {
    let (agent, number, before) = (hop(&event.agent), event.number, event.number_before);
    match event.other {
        true => format!("{agent} came with another state than before"),
        false => format!(
            "{agent} came with a state of run {number}, after run {before}: restored, or run twice"
        ),
    }
}

fn epoch(event: &v1::EpochEvent) -> String {
    let lost = match checkpoint_size(&event.last) {
        Some(size) => format!("known up to {}", count(size, "entry", "entries")),
        None => "of which no checkpoint is known".to_owned(),
    };
    format!("a new log of {} begins after one {lost}", event.party)
}

/// The second line of a C2SP checkpoint is the size of the tree.
fn checkpoint_size(note: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(note);
    text.lines().nth(1)?.parse().ok()
}

fn cosigned(event: &v1::CosignedEvent) -> String {
    let entries = count(
        checkpoint_size(&event.checkpoint).unwrap_or(0),
        "entry",
        "entries",
    );
    match event.ours {
        true => format!("{} has cosigned our log up to {entries}", event.party),
        false => format!(
            "we have cosigned the log of {} up to {entries}",
            event.party
        ),
    }
}

/// A hop as "party/role".
pub fn hop(hop: &Option<v1::Hop>) -> String {
    match hop {
        Some(hop) => format!("{}/{}", hop.party, hop.role),
        None => "-".to_owned(),
    }
}
