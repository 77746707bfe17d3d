//! `passerelle sheet next` and `sheet revoke`: the next sheet, made from the one in force.

use std::fmt::{self, Display};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use passerelle_proto::{
    KeyId, KeyRole, LogVerifier, RecipientKey, Revocation, Sheet, SheetKey, SheetLog, Timestamp,
    TlsName, VerifyingKey, next_log_origin,
};
use serde::Serialize;

use super::arguments::{NextSheetArguments, RevokeArguments};
use super::failure::{Exit, Failure};
use super::output::Output;
use super::quantity::now_ms;
use super::{keys, sheet};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Serialize)]
struct Written {
    party: String,
    seq: u64,
    file: PathBuf,
    /// Purposes for which the sheet lists no key that may be used.
    without_key: Vec<&'static str>,
    /// What differs from the sheet before.
    changes: Vec<String>,
}

impl Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { party, seq, .. } = self;
        writeln!(f, "sheet {seq} of {party}: {}", self.file.display())?;
        for change in &self.changes {
            writeln!(f, "  {change}")?;
        }
        for purpose in &self.without_key {
            writeln!(
                f,
                "  ATTENTION: no {purpose} key is left; add one with `passerelle sheet next`"
            )?;
        }
        writeln!(
            f,
            "  sign it with the root key: passerelle sheet sign\n\
             \x20 put the note into [trust] sheets of the gateway: it is in force within seconds,\n\
             \x20 and partners have it as soon as they are connected"
        )
    }
}

/// Writes the text of the next sheet, with keys, names and dates changed.
pub(super) fn next(arguments: &NextSheetArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let (mut next, now) = begin(&arguments.file)?;
    let mut changes = Vec::new();
    if let Some(days) = arguments.days {
        next.not_after = now.saturating_add(DAY * days);
        changes.push(format!("good until {}", next.not_after));
    }
    // Until the sheet is signed, in force and known to all, the key before signs: that counts.
    let end = now.saturating_add(DAY * arguments.overlap);
    for key in &arguments.retire {
        changes.push(match retire(&mut next, key, end)? {
            true => format!("what key {key} signs until {end} counts, and nothing after that"),
            false => {
                format!("nothing more is sealed for key {key}: keep it to open what is on its way")
            }
        });
    }
    for (role, file) in &arguments.key {
        let key = keys::read_public(file)?.parse::<VerifyingKey>();
        let key = key.map_err(|error| keys::damaged(file, &error))?;
        changes.push(format!("key {} signs as {role}", key.id()));
        next.keys.push(SheetKey {
            key,
            roles: vec![sheet::key_role(*role)],
            not_before: now,
            not_after: next.not_after,
        });
    }
    for file in arguments.recipient.iter().rev() {
        let key = keys::read_public(file)?.parse::<RecipientKey>();
        let key = key.map_err(|error| keys::damaged(file, &error))?;
        changes.push(format!("packages are sealed for key {}", key.id()));
        // The first one is used; the others still open what is on its way.
        next.recipients.insert(0, key);
    }
    if let Some(file) = &arguments.log {
        let log = keys::log_verifier(&keys::read_public(file)?);
        let log = log.map_err(|error| keys::damaged(file, &error))?;
        changes.push(format!("key {} signs the log", log.id()));
        let (origin, before) = match next.log.take() {
            Some(before) => (before.origin, before.vkeys),
            None => (log.name().to_owned(), Vec::new()),
        };
        next.log = Some(SheetLog {
            vkeys: [log.for_origin(&origin).to_vkeys(), before].concat(),
            origin,
        });
    }
    if arguments.new_log {
        let log = new_log(&next)?;
        changes.push(format!("a new log begins: {}", log.origin));
        next.log = Some(log);
    }
    for file in &arguments.tls_anchor {
        let pem = fs::read_to_string(file).map_err(|error| Failure::reading(file, &error))?;
        changes.push(format!("the authority in {} may issue", file.display()));
        next.tls.anchors.push(pem);
    }
    for (role, name) in &arguments.tls_name {
        changes.push(format!("TLS name {name} ({role})"));
        let (role, name) = (*role, name.clone());
        next.tls.names.push(TlsName { name, role });
    }
    finish(&next, &arguments.retire, &arguments.out, changes, output)
}

/// The log that takes the place of the sheet's, signed with the same keys.
fn new_log(sheet: &Sheet) -> Result<SheetLog, Failure> {
    let next = sheet.log.as_ref().and_then(|log| {
        let keys = LogVerifier::from_vkeys(&log.origin, &log.vkeys).ok()?;
        let origin = next_log_origin(&sheet.party, &log.origin)?;
        let vkeys = keys.for_origin(&origin).to_vkeys();
        // Keys that signed the lost log stand in the sheets before this one.
        Some(SheetLog { origin, vkeys })
    });
    next.ok_or_else(|| {
        let what = format_args!("the sheet of {} names no log of it", sheet.party);
        Failure::new(Exit::Data, what, "name its key with --log FILE instead")
    })
}

/// Writes the text of the next sheet, with keys or TLS names withdrawn before their time.
pub(super) fn revoke(arguments: &RevokeArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let (mut next, now) = begin(&arguments.file)?;
    let at = arguments.at.unwrap_or(now);
    let mut changes = Vec::new();
    for key in &arguments.key {
        if !lists(&next, key) {
            return Err(not_listed(&next, &format_args!("key {key}")));
        }
        changes.push(format!("key {key} is revoked from {at} on"));
        next.revocations.push(Revocation {
            key: *key,
            at,
            reason: arguments.reason.clone(),
        });
    }
    for name in &arguments.tls_name {
        let before = next.tls.names.len();
        next.tls.names.retain(|listed| listed.name != *name);
        if next.tls.names.len() == before {
            return Err(not_listed(&next, &format_args!("TLS name {name}")));
        }
        changes.push(format!(
            "TLS name {name} is withdrawn: {}",
            arguments.reason
        ));
    }
    finish(&next, &[], &arguments.out, changes, output)
}

fn begin(file: &std::path::Path) -> Result<(Sheet, Timestamp), Failure> {
    let (_, before) = sheet::read(file)?;
    let now = Timestamp::from_ms(now_ms());
    let next = Sheet {
        seq: before.seq + 1,
        issued: now,
        ..before
    };
    Ok((next, now))
}

fn finish(
    next: &Sheet,
    retired: &[KeyId],
    out: &std::path::Path,
    changes: Vec<String>,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    if changes.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "nothing would change",
            "say what is to change; see --help",
        ));
    }
    sheet::write_text(next, out)?;
    output.answer(&Written {
        party: next.party.to_string(),
        seq: next.seq,
        file: out.to_owned(),
        without_key: without_key(next, retired),
        changes,
    })
}

/// A retired signing key stays listed with its end: what it has signed stays verifiable for
/// everybody who sees this sheet first. Whether it is one.
fn retire(next: &mut Sheet, key: &KeyId, end: Timestamp) -> Result<bool, Failure> {
    let mut found = false;
    for listed in next
        .keys
        .iter_mut()
        .filter(|listed| listed.key.id() == *key)
    {
        listed.not_after = listed.not_after.min(end);
        found = true;
    }
    let before = next.recipients.len();
    next.recipients.retain(|listed| listed.id() != *key);
    match found || next.recipients.len() < before {
        true => Ok(found),
        false => Err(not_listed(next, &format_args!("key {key}"))),
    }
}

fn lists(sheet: &Sheet, key: &KeyId) -> bool {
    let log = sheet.log.as_ref().map_or(Vec::new(), SheetLog::keys);
    sheet.keys.iter().any(|listed| listed.key.id() == *key)
        || sheet.recipients.iter().any(|listed| listed.id() == *key)
        || log.iter().any(|listed| listed.id() == *key)
}

fn not_listed(sheet: &Sheet, what: &dyn Display) -> Failure {
    let what = format_args!("the sheet of {} has no {what}", sheet.party);
    let remedy = "look at what it lists: passerelle sheet show";
    Failure::new(Exit::Data, what, remedy)
}

/// Purposes for which the sheet before had a key and this one has none that is to be used.
fn without_key(sheet: &Sheet, retired: &[KeyId]) -> Vec<&'static str> {
    let usable = |key: &KeyId| sheet.revoked(key).is_none() && !retired.contains(key);
    let mut without = Vec::new();
    let roles = [
        (KeyRole::Agent, "agent"),
        (KeyRole::Gateway, "gateway"),
        (KeyRole::Operator, "operator"),
    ];
    for (role, name) in roles {
        let mut of_role = sheet.keys.iter().filter(|key| key.roles.contains(&role));
        let had_one = of_role.clone().next().is_some();
        if had_one && !of_role.any(|key| usable(&key.key.id()) && key.not_after > sheet.issued) {
            without.push(name);
        }
    }
    let recipients = &sheet.recipients;
    if !recipients.is_empty() && !recipients.iter().any(|key| usable(&key.id())) {
        without.push("recipient");
    }
    let log = sheet.log.as_ref().map_or(Vec::new(), SheetLog::keys);
    if log.first().is_some_and(|key| !usable(&key.id())) {
        without.push("log");
    }
    without
}
