//! `passerelle convention`: show, check and sign.

use std::fmt::{self, Display};
use std::path::Path;

use passerelle_proto::{Convention, Note, PartyId, Roots, SigningKey, UnsignedConvention};
use serde::Serialize;

use super::arguments::{CheckArguments, SignArguments, SignConventionArguments};
use super::configured::Configured;
use super::failure::{Exit, Failure};
use super::output::Output;
use super::table::Table;
use super::{keys, notes};

#[derive(Debug, Serialize)]
struct PartyView {
    id: String,
    name: String,
    siren: Option<String>,
    insee: Option<String>,
    via: Option<String>,
    root: Option<String>,
}

#[derive(Debug, Serialize)]
struct FlowView {
    id: String,
    article: String,
    title: String,
    from: Vec<String>,
    to: Vec<String>,
    onward: String,
    size_max: u64,
}

#[derive(Debug, Serialize)]
struct ConventionView {
    id: String,
    version: u64,
    digest: String,
    valid_from: String,
    valid_until: String,
    signatories: Vec<SignatoryView>,
    territory: String,
    communes: usize,
    parties: Vec<PartyView>,
    flows: Vec<FlowView>,
}

#[derive(Debug, Serialize)]
struct SignatoryView {
    party: String,
    fingerprint: String,
    signature: &'static str,
}

impl ConventionView {
    fn of(convention: &Convention, note: &Note) -> ConventionView {
        let parties = convention.parties().iter().map(|party| PartyView {
            id: party.id.to_string(),
            name: party.name.clone(),
            siren: party.siren.clone(),
            insee: party.insee.clone(),
            via: party.via.as_ref().map(PartyId::to_string),
            root: party.root.as_ref().map(|root| root.id().to_string()),
        });
        let flows = convention.flows().iter().map(|flow| FlowView {
            id: flow.id.to_string(),
            article: flow.article.clone(),
            title: flow.title.clone(),
            from: flow.from.iter().map(PartyId::to_string).collect(),
            to: flow.to.iter().map(PartyId::to_string).collect(),
            onward: flow.onward.clone(),
            size_max: flow.size_max,
        });
        let signatories = convention.signatories().iter();
        ConventionView {
            id: convention.id().to_owned(),
            version: convention.version(),
            digest: convention.digest().to_string(),
            valid_from: convention.valid_from().date(),
            valid_until: convention.valid_until().date(),
            signatories: signatories
                .map(|id| signatory(convention, note, id))
                .collect(),
            territory: convention.territory().name.clone(),
            communes: convention.territory().communes.len(),
            parties: parties.collect(),
            flows: flows.collect(),
        }
    }
}

fn signatory(convention: &Convention, note: &Note, id: &PartyId) -> SignatoryView {
    let root = convention.party(id).and_then(|party| party.root.as_ref());
    let fingerprint = root.map_or(String::new(), |root| root.id().fingerprint());
    let signature = match root {
        Some(root) => notes::verdict(&note.verified_by(root)),
        None => "no root key",
    };
    SignatoryView {
        party: id.to_string(),
        fingerprint,
        signature,
    }
}

impl Display for ConventionView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, version {}", self.id, self.version)?;
        writeln!(f, "  digest     {}", self.digest)?;
        writeln!(
            f,
            "  valid      from {}, until {}",
            self.valid_from, self.valid_until
        )?;
        writeln!(
            f,
            "  territory  {} ({} communes)",
            self.territory, self.communes
        )?;
        for signatory in &self.signatories {
            writeln!(
                f,
                "  signatory  {}: {}",
                signatory.party, signatory.signature
            )?;
            if !signatory.fingerprint.is_empty() {
                writeln!(f, "             {}", signatory.fingerprint)?;
            }
        }
        let mut parties = Table::new(["PARTY", "NAME", "SIREN", "INSEE", "VIA"]);
        for party in &self.parties {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let (siren, insee, via) = (text(&party.siren), text(&party.insee), text(&party.via));
            parties.row([&party.id, &party.name, &siren, &insee, &via]);
        }
        let mut flows = Table::new(["FLOW", "ARTICLE", "FROM", "TO", "ONWARD"]);
        for flow in &self.flows {
            let list = |names: &[String]| match names.len() {
                0..=3 => names.join(", "),
                count => format!("{count} parties"),
            };
            let (from, to) = (list(&flow.from), list(&flow.to));
            flows.row([&flow.id, &flow.article, &from, &to, &flow.onward]);
        }
        write!(f, "\n{parties}\n{flows}")
    }
}

fn read(file: &Path) -> Result<(Note, Convention), Failure> {
    let note = notes::read(file)?;
    let read = UnsignedConvention::parse(note.text());
    let convention = read
        .map_err(|error| notes::unreadable(file, &error))?
        .draft();
    Ok((note, convention))
}

/// Shows a convention, whether it is signed or not.
pub(super) fn show(file: &Path, output: &mut Output<'_>) -> Result<(), Failure> {
    let (note, convention) = read(file)?;
    output.answer(&ConventionView::of(&convention, &note))
}

#[derive(Debug, Serialize)]
struct Checked {
    id: String,
    version: u64,
    digest: String,
    pinned: bool,
}

impl Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, version {}: both signatories have signed it",
            self.id, self.version
        )?;
        writeln!(f, "  digest  {}", self.digest)?;
        match self.pinned {
            true => writeln!(
                f,
                "  their root keys are the ones pinned in the configuration"
            ),
            false => writeln!(
                f,
                "  whose root keys these are was NOT checked: compare the fingerprints of\n  \
                 `passerelle convention show` with the signed letters, or name a configuration"
            ),
        }
    }
}

/// Checks that a convention binds.
pub(super) fn check(arguments: &CheckArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let mut versions = arguments.amends.iter().collect::<Vec<_>>();
    versions.push(&arguments.file);
    let mut versions = versions
        .into_iter()
        .map(|file| read(file).map(|(note, convention)| (file, note, convention)))
        .collect::<Result<Vec<_>, Failure>>()?;
    let (_, _, last) = &versions[versions.len() - 1];
    let digest = last.digest();
    versions.sort_by_key(|(_, _, convention)| convention.version());
    let (_, _, first) = &versions[0];
    let roots = match &arguments.config {
        Some(config) => pins(config)?,
        None => {
            let parties = first.signatories().iter();
            let roots =
                parties.filter_map(|id| Some((id.clone(), first.party(id)?.root.as_ref()?.id())));
            roots.collect()
        }
    };
    let mut bound: Option<Convention> = None;
    for (file, note, _) in &versions {
        let verified = match &bound {
            None => Convention::verify(&note.to_bytes(), &roots),
            Some(before) => Convention::verify_amendment(&note.to_bytes(), before),
        };
        bound = Some(verified.map_err(|error| {
            let what = format_args!("{}: {error}", file.display());
            let remedy = "the convention does not bind until both signatories have signed this \
                          text; an amendment is judged with --amends, the version before";
            Failure::new(Exit::Data, what, remedy)
        })?);
    }
    let verified = bound.filter(|bound| bound.digest() == digest);
    let verified = verified.ok_or_else(|| {
        let what = "--amends names a version that is not before the one to check";
        Failure::new(Exit::Usage, what, "name the versions before it")
    })?;
    output.answer(&Checked {
        id: verified.id().to_owned(),
        version: verified.version(),
        digest: verified.digest().to_string(),
        pinned: arguments.config.is_some(),
    })
}

fn pins(config: &Path) -> Result<Roots, Failure> {
    let roots = match Configured::load(config)? {
        Configured::Agent(config) => config.roots,
        Configured::Gateway(config) => config.roots,
    };
    let mut pins = Roots::new();
    for (party, pin) in roots {
        let id = pin.value.parse().map_err(|error| {
            let what = format_args!("{}:{}: {error}", config.display(), pin.line);
            Failure::new(
                Exit::Config,
                what,
                "copy the fingerprint from the signed letter",
            )
        })?;
        pins.insert(party, id);
    }
    Ok(pins)
}

#[derive(Debug, Serialize)]
pub(super) struct Signed {
    pub(super) what: String,
    pub(super) by: String,
    pub(super) note: std::path::PathBuf,
    pub(super) missing: Vec<String>,
}

impl Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} signed {}: {}",
            self.by,
            self.what,
            self.note.display()
        )?;
        if !self.missing.is_empty() {
            let missing = self.missing.join(" and ");
            writeln!(f, "  it counts when {missing} has signed the same text")?;
        }
        Ok(())
    }
}

/// Adds a signatory's signature.
pub(super) fn sign(
    arguments: &SignConventionArguments,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let SignArguments { file, key, out } = &arguments.sign;
    let (mut note, convention) = read(file)?;
    let key = keys::read_signing(key)?;
    let before = match &arguments.amends {
        Some(amends) => Some(amended(file, &convention, amends)?),
        None => None,
    };
    // Whoever has agreed to the version before agrees to what replaces it.
    let signed_by = before.as_ref().unwrap_or(&convention);
    let party = signed_by.party(key.party());
    let root = party.and_then(|party| party.root.as_ref());
    if !signed_by.signatories().contains(key.party()) {
        let what = format_args!("{} is no signatory of this convention", key.party());
        return Err(Failure::new(
            Exit::NoPermission,
            what,
            "use a signatory's root key",
        ));
    }
    if root.map(|root| root.id()) != Some(key.id()) {
        return Err(not_the_root(&key, before.is_some()));
    }
    note.sign_with(&key)
        .map_err(|error| notes::unreadable(file, &error))?;
    notes::write(out, &note)?;
    let missing = signed_by.signatories().iter().filter(|id| {
        let root = signed_by.party(id).and_then(|party| party.root.as_ref());
        root.is_none_or(|root| note.verified_by(root).is_err())
    });
    output.answer(&Signed {
        what: format!("{}, version {}", convention.id(), convention.version()),
        by: key.party().to_string(),
        note: out.clone(),
        missing: missing.map(PartyId::to_string).collect(),
    })
}

fn not_the_root(key: &SigningKey, amends: bool) -> Failure {
    let (party, id) = (key.party(), key.id());
    match amends {
        true => Failure::new(
            Exit::Data,
            format_args!("the version before does not name this key as root of {party}"),
            "an amendment is signed with the root keys of the version before",
        ),
        false => Failure::new(
            Exit::Data,
            format_args!("the text does not name this key as root of {party}"),
            format_args!(
                "write the key into the text: root = \"…\" ({id}); or, where the text replaces \
                 it, name the version before with --amends"
            ),
        ),
    }
}

/// The version that a text amends.
fn amended(file: &Path, next: &Convention, amends: &Path) -> Result<Convention, Failure> {
    let (_, before) = read(amends)?;
    let follows = next.id() == before.id()
        && next.version() == before.version() + 1
        && next.supersedes() == Some(before.digest());
    match follows {
        true => Ok(before),
        false => Err(Failure::new(
            Exit::Data,
            format_args!(
                "{}: it is not the version after {}",
                file.display(),
                amends.display()
            ),
            format_args!(
                "write into the text: id = {:?}, version = {}, supersedes = \"{}\"",
                before.id(),
                before.version() + 1,
                before.digest()
            ),
        )),
    }
}
