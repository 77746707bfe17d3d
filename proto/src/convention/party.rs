//! A party of the convention.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{PartyId, VerifyingKey};

/// An institution that sends or receives.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Party {
    /// Name used everywhere.
    pub id: PartyId,
    /// SIREN number: nine digits. Names change, this does not.
    #[serde(default)]
    pub siren: Option<String>,
    /// INSEE code of a commune: five characters.
    #[serde(default)]
    pub insee: Option<String>,
    /// Name for people.
    pub name: String,
    /// What it is in the agreement, in words.
    pub role: String,
    /// Party whose gateway serves it; absent: it has one of its own.
    #[serde(default)]
    pub via: Option<PartyId>,
    /// Key that signs its sheets; absent in a text that is only a draft.
    #[serde(default)]
    pub root: Option<VerifyingKey>,
}

impl Party {
    /// Party whose gateway serves this one.
    pub fn gateway(&self) -> &PartyId {
        self.via.as_ref().unwrap_or(&self.id)
    }

    pub(super) fn check(&self, known: &BTreeMap<&PartyId, &Party>) -> Result<(), String> {
        let id = &self.id;
        let digits = |text: &str, length| {
            text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if self.siren.as_ref().is_some_and(|siren| !digits(siren, 9)) {
            return Err(format!("the SIREN of {id} is not nine digits"));
        }
        if self.insee.as_ref().is_some_and(|code| code.len() != 5) {
            return Err(format!("the INSEE code of {id} is not five characters"));
        }
        if let Some(root) = &self.root
            && root.party() != id
        {
            return Err(format!("the root key of {id} is a key of {}", root.party()));
        }
        let Some(via) = &self.via else { return Ok(()) };
        match known.get(via) {
            Some(gateway) if gateway.via.is_none() => Ok(()),
            Some(_) => Err(format!("{id} goes via {via}, which has no gateway itself")),
            None => Err(format!("{id} goes via {via}, which is no [[party]]")),
        }
    }
}
