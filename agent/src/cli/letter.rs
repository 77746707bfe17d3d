//! `passerelle keys letter`: the letter on which two institutions compare a root key.
//!
//! It holds what the initialisation letters of EBICS hold: who and to whom, which key and for what,
//! its algorithm, its hash in blocks, a declaration, place, date and signatures. In French, as the
//! institutions that sign it write; one page of at most 60 lines of 80 characters.

use std::fmt::{self, Display};

use passerelle_proto::{COMPOSITE_ALGORITHM, Convention, PartyId, UnsignedConvention};
use serde::Serialize;

use super::arguments::LetterArguments;
use super::failure::{Exit, Failure};
use super::output::Output;
use super::quantity::{When, now_ms};
use super::{keys, notes};

/// Longest name of an institution on a line, in characters.
const NAME_LEN_MAX: usize = 62;
const BLANK: &str = "______________________________________________________________";

/// Prints the letter.
pub(super) fn print(arguments: &LetterArguments, output: &mut Output<'_>) -> Result<(), Failure> {
    let file = &arguments.file;
    let view = keys::read(file)?;
    if view.algorithm != COMPOSITE_ALGORITHM {
        let what = format_args!("{} holds no root key", file.display());
        let remedy = "name the file of a root key";
        return Err(Failure::new(Exit::Data, what, remedy));
    }
    let convention = match &arguments.convention {
        Some(file) => {
            let note = notes::read(file)?;
            let text = UnsignedConvention::parse(note.text());
            Some(
                text.map_err(|error| notes::unreadable(file, &error))?
                    .draft(),
            )
        }
        None => None,
    };
    let name = |party: &PartyId| name_of(convention.as_ref(), party);
    let from = view.party.parse().ok();
    output.answer(&Letter {
        from_name: from.as_ref().and_then(name),
        to_name: arguments.to.as_ref().and_then(name),
        to: arguments.to.as_ref().map(ToString::to_string),
        party: view.party,
        key: "root",
        algorithm: view.algorithm,
        hash: "SHA-256",
        fingerprint: view.fingerprint,
        printed_ms: now_ms(),
    })
}

fn name_of(convention: Option<&Convention>, party: &PartyId) -> Option<String> {
    let name = &convention?.party(party)?.name;
    Some(name.chars().take(NAME_LEN_MAX).collect())
}

/// The letter, in the language of the institutions that sign it.
#[derive(Debug, Serialize)]
struct Letter {
    party: String,
    from_name: Option<String>,
    to: Option<String>,
    to_name: Option<String>,
    key: &'static str,
    algorithm: &'static str,
    hash: &'static str,
    fingerprint: String,
    printed_ms: i64,
}

impl Letter {
    fn write_parties(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blank = BLANK;
        let name = |name: &Option<String>| name.clone().unwrap_or_else(|| blank.to_owned());
        let known = |id: &str| format!("                « {id} » dans la convention");
        writeln!(f, "Émetteur      : {}", name(&self.from_name))?;
        writeln!(f, "{}", known(&self.party))?;
        writeln!(f, "Adresse       : {blank}")?;
        writeln!(f, "                {blank}\n")?;
        writeln!(f, "Destinataire  : {}", name(&self.to_name))?;
        if let Some(to) = &self.to {
            writeln!(f, "{}", known(to))?;
        }
        writeln!(f, "Adresse       : {blank}")?;
        writeln!(f, "                {blank}\n")
    }

    fn write_key(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Imprimée le   : {}\n", When(self.printed_ms))?;
        writeln!(f, "Clé           : clé racine (partie publique)")?;
        writeln!(
            f,
            "Usage         : signe la convention et les fiches de l'institution, rien d'autre"
        )?;
        writeln!(f, "Algorithme    : {}", self.algorithm)?;
        writeln!(
            f,
            "                (ML-DSA-65 et Ed25519 ; les deux signatures sont exigées)"
        )?;
        writeln!(f, "Empreinte     : {}, en hexadécimal :\n", self.hash)?;
        let groups: Vec<&str> = self.fingerprint.split(' ').collect();
        for (line, groups) in groups.chunks(4).enumerate() {
            writeln!(f, "                {}    {}", line + 1, groups.join("  "))?;
        }
        writeln!(f)
    }
}

const DECLARATION: &str = "\
Nous attestons que cette clé est celle de notre institution, que sa partie
secrète est en notre seule possession, et que ce qu'elle signe nous engage au
titre de la convention, jusqu'à son remplacement par un avenant.

Le destinataire compare l'empreinte, chiffre à chiffre, avec celle que son
logiciel affiche (passerelle keys show), avant toute mise en service. En cas de
différence, il ne met rien en service et nous appelle. Il conserve cette lettre.
";

const SIGNATURES: &str = "\
Fait à _______________________________ , le _______________________________

Pour l'institution                       Second signataire, s'il y a lieu

Nom     : ___________________________    Nom     : ___________________________

Qualité : ___________________________    Qualité : ___________________________

Signature et cachet :                    Signature :
";

impl Display for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "LETTRE D'INITIALISATION")?;
        writeln!(f, "Attestation d'empreinte d'une clé racine\n")?;
        self.write_parties(f)?;
        self.write_key(f)?;
        writeln!(f, "{DECLARATION}")?;
        f.write_str(SIGNATURES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> Letter {
        let blocks: Vec<String> = (0..16).map(|block| format!("{block:04x}")).collect();
        Letter {
            party: "a".repeat(40),
            from_name: Some("é".repeat(NAME_LEN_MAX)),
            to: Some("b".repeat(40)),
            to_name: None,
            key: "root",
            algorithm: COMPOSITE_ALGORITHM,
            hash: "SHA-256",
            fingerprint: blocks.join(" "),
            printed_ms: 1_483_150_445_000,
        }
    }

    #[test]
    fn it_is_one_page() {
        let text = letter().to_string();
        assert!(text.lines().count() <= 60, "{} lines", text.lines().count());
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn it_holds_what_a_reader_compares_and_what_a_signatory_fills_in() {
        let text = letter().to_string();
        for part in [
            "Émetteur",
            "Destinataire",
            "Adresse",
            "clé racine",
            COMPOSITE_ALGORITHM,
            "SHA-256",
            "0000  0001  0002  0003",
            "000c  000d  000e  000f",
            "2016-12-31",
            "Fait à",
            "Qualité",
            "Signature et cachet",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
