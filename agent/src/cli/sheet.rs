//! `passerelle sheet`: write, show and sign a party's sheet.

use std::fmt::{self, Display};
use std::fs;
use std::path::Path;
use std::time::Duration;

use passerelle_proto::{
    KeyRole, Note, RecipientKey, Revocation, Role, Sheet, SheetKey, SheetLog, Timestamp, Tls,
    TlsName, VerifyingKey,
};
use serde::Serialize;

use super::arguments::{NewSheetArguments, SignArguments};
use super::convention::Signed;
use super::failure::{Exit, Failure};
use super::output::Output;
use super::quantity::now_ms;
use super::{keys, notes};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Serialize)]
struct Written {
    party: String,
    seq: u64,
    file: std::path::PathBuf,
}

impl Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "sheet {} of {}: {}",
            self.seq,
            self.party,
            self.file.display()
        )?;
        writeln!(f, "  sign it with the root key: passerelle sheet sign")
    }
}

/// Writes the text of a sheet.
pub(super) fn new(arguments: &NewSheetArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let now = Timestamp::from_ms(now_ms());
    let not_after = now.saturating_add(DAY * arguments.days);
    let mut sheet = Sheet {
        party: arguments.party.clone(),
        seq: arguments.seq,
        issued: now,
        not_after,
        addresses: arguments.address.clone(),
        recipients: Vec::new(),
        tls: Tls::default(),
        log: None,
        keys: Vec::new(),
        revocations: Vec::new(),
    };
    for file in &arguments.recipient {
        let key = keys::read_public(file)?.parse::<RecipientKey>();
        sheet
            .recipients
            .push(key.map_err(|error| keys::damaged(file, &error))?);
    }
    for (role, file) in &arguments.key {
        let key = keys::read_public(file)?.parse::<VerifyingKey>();
        sheet.keys.push(SheetKey {
            key: key.map_err(|error| keys::damaged(file, &error))?,
            roles: vec![key_role(*role)],
            not_before: now,
            not_after,
        });
    }
    if let Some(file) = &arguments.log {
        let log = keys::log_verifier(&keys::read_public(file)?);
        let log = log.map_err(|error| keys::damaged(file, &error))?;
        sheet.log = Some(SheetLog {
            origin: log.name().to_owned(),
            vkeys: log.to_vkeys(),
        });
    }
    for file in &arguments.tls_anchor {
        let pem = fs::read_to_string(file).map_err(|error| Failure::reading(file, &error))?;
        sheet.tls.anchors.push(pem);
    }
    let names = arguments.tls_name.iter().cloned();
    sheet.tls.names = names.map(|(role, name)| TlsName { name, role }).collect();
    let revoked = arguments.revoke.iter();
    sheet.revocations = revoked
        .map(|key| Revocation {
            key: *key,
            at: now,
            reason: arguments.reason.clone(),
        })
        .collect();
    write_text(&sheet, &arguments.out)?;
    output.answer(&Written {
        party: sheet.party.to_string(),
        seq: sheet.seq,
        file: arguments.out.clone(),
    })
}

/// What a program of this role signs with.
pub(super) fn key_role(role: Role) -> KeyRole {
    match role {
        Role::Agent => KeyRole::Agent,
        Role::Gateway => KeyRole::Gateway,
        Role::Operator => KeyRole::Operator,
    }
}

/// Writes the text of a sheet that does not contradict itself into a new file.
pub(super) fn write_text(sheet: &Sheet, out: &Path) -> Result<(), Failure> {
    let text = sheet
        .to_text()
        .map_err(|error| notes::unreadable(out, &error))?;
    // What contradicts itself must not reach the offline root key.
    Sheet::parse(&text).map_err(|error| {
        Failure::new(Exit::Usage, error, "correct the arguments of the command")
    })?;
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).open(out);
    let written = file.and_then(|mut file| {
        use std::io::Write;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| Failure::writing(out, &error))
}

/// Reads a sheet, signed or not.
pub(super) fn read(file: &Path) -> Result<(Note, Sheet), Failure> {
    let note = notes::read(file)?;
    let sheet = Sheet::parse(note.text()).map_err(|error| notes::unreadable(file, &error))?;
    Ok((note, sheet))
}

#[derive(Debug, Serialize)]
struct SheetView {
    sheet: Sheet,
    signature_lines: Vec<String>,
}

impl Display for SheetView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sheet = &self.sheet;
        writeln!(f, "sheet {} of {}", sheet.seq, sheet.party)?;
        writeln!(
            f,
            "  issued     {}, good until {}",
            sheet.issued, sheet.not_after
        )?;
        for address in &sheet.addresses {
            writeln!(f, "  gateway    {address}")?;
        }
        for TlsName { name, role } in &sheet.tls.names {
            writeln!(f, "  TLS name   {name} ({role})")?;
        }
        for key in &sheet.keys {
            let roles: Vec<String> = key.roles.iter().map(|role| format!("{role:?}")).collect();
            let (id, roles) = (key.key.id(), roles.join(", ").to_lowercase());
            writeln!(f, "  signs      {id} ({roles}), until {}", key.not_after)?;
        }
        for key in &sheet.recipients {
            writeln!(f, "  opens      {}", key.id())?;
        }
        if let Some(log) = &sheet.log {
            writeln!(f, "  log        {}", log.origin)?;
        }
        for revoked in &sheet.revocations {
            writeln!(
                f,
                "  REVOKED    {} at {}: {}",
                revoked.key, revoked.at, revoked.reason
            )?;
        }
        match self.signature_lines.as_slice() {
            [] => writeln!(f, "  not signed"),
            names => writeln!(
                f,
                "  a signature line by {}, not verified here",
                names.join(", ")
            ),
        }
    }
}

/// Shows a sheet, signed or not.
pub(super) fn show(file: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let (note, sheet) = read(file)?;
    output.answer(&SheetView {
        sheet,
        signature_lines: notes::signers(&note),
    })
}

/// Signs a sheet with the party's root key.
pub(super) fn sign(arguments: &SignArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let (mut note, sheet) = read(&arguments.file)?;
    let key = keys::read_signing(&arguments.key)?;
    if key.party() != &sheet.party {
        let what = format_args!(
            "this is a key of {}, the sheet is {}'s",
            key.party(),
            sheet.party
        );
        return Err(Failure::new(
            Exit::NoPermission,
            what,
            "use the root key of the same party",
        ));
    }
    note.sign_with(&key)
        .map_err(|error| notes::unreadable(&arguments.file, &error))?;
    notes::write(&arguments.out, &note)?;
    output.answer(&Signed {
        what: format!("sheet {}", sheet.seq),
        by: key.party().to_string(),
        note: arguments.out.clone(),
        missing: Vec::new(),
    })
}
