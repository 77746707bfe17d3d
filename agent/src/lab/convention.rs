//! A laboratory's convention: the committed text with new dates and with root keys.

use std::collections::BTreeMap;
use std::time::Duration;

use passerelle_proto::{PartyId, Retention, Timestamp, VerifyingKey};

/// The convention 2016-2017 as data, without keys and signatures.
pub const TEMPLATE: &str = include_str!("../../../deploy/convention-2016-2017.toml");

/// Days from the first to the last day of a laboratory's convention.
const TERM_DAYS: u32 = 364;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The text of a convention for laboratories: parties, territory and flows of [`TEMPLATE`], valid
/// from `today`, with these root keys. It says of itself that it is none that anybody has agreed.
/// `retention`, when given, stands in every flow.
pub fn laboratory_convention(
    roots: &BTreeMap<PartyId, VerifyingKey>,
    today: Timestamp,
    retention: Option<Retention>,
) -> String {
    let until = today.saturating_add(DAY * TERM_DAYS);
    let mut text = format!(
        "# LABORATORY. Nobody has agreed to this text. Parties, territory and flows are those of\n\
         # the convention 2016-2017; the dates and the keys are new, made on {}.\n\n",
        today.date()
    );
    // The template's own opening comment says that it is a draft, which this is not.
    let body = TEMPLATE
        .lines()
        .skip_while(|line| line.starts_with('#') || line.is_empty());
    let mut section = "";
    for line in body {
        if line.starts_with('[') {
            section = line;
        }
        let (key, value) = line.split_once(" = ").unwrap_or((line, ""));
        let value = value.trim_matches('"');
        match (section, key) {
            ("", "id") => text.push_str(&format!("id = \"laboratoire-{value}\"")),
            ("", "valid_from") => text.push_str(&dated(key, today)),
            ("", "valid_until") => text.push_str(&dated(key, until)),
            ("[[flow]]", "retention") => match retention {
                Some(retention) => text.push_str(&kept_for(&retention)),
                None => text.push_str(line),
            },
            _ => text.push_str(line),
        }
        text.push('\n');
        if (section, key) == ("[[party]]", "id")
            && let Ok(party) = PartyId::parse(value)
            && let Some(root) = roots.get(&party)
        {
            text.push_str(&format!("root = \"{root}\"\n"));
        }
    }
    text
}

fn kept_for(retention: &Retention) -> String {
    let Retention {
        payload,
        metadata,
        evidence,
    } = retention;
    format!("retention = {{ payload = {payload}, metadata = {metadata}, evidence = {evidence} }}")
}

fn dated(key: &str, day: Timestamp) -> String {
    format!("{key} = \"{}\"", day.date())
}
