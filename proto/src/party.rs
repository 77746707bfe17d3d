//! Names of parties and flows, roles, and who is next on a package's way.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::v1;

/// Longest name of a party or a flow, in characters.
pub const NAME_LEN_MAX: usize = 64;

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no name: write 1 to 64 lowercase letters, digits and hyphens, \
     and begin with a letter or a digit"
)]
pub struct NameError {
    /// The text, cut at 80 characters.
    pub text: String,
}

fn check(text: &str) -> Result<(), NameError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let fits = (1..=NAME_LEN_MAX).contains(&text.len());
    if fits && text.bytes().all(allowed) && !text.starts_with('-') {
        return Ok(());
    }
    Err(NameError {
        text: text.chars().take(80).collect(),
    })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a text that is such a name.
            ///
            /// # Errors
            /// [`NameError`] for any other text.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check(text).map(|()| Self(text.into()))
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name! {
    /// Name of an institution in the convention, `caf21`.
    PartyId
}

name! {
    /// Name of a flow of the convention, `observation-iris`.
    FlowId
}

/// What a party's key or TLS name is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The endpoint in the DMZ.
    Gateway,
    /// The program inside the institution that seals and opens.
    Agent,
    /// A person who watches and decides.
    Operator,
}

impl Role {
    /// The word used in sheets, logs and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::Agent => "agent",
            Role::Operator => "operator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no role: write gateway, agent or operator")]
pub struct RoleError {
    /// The text, cut at 80 characters.
    pub text: String,
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        let roles = [Role::Gateway, Role::Agent, Role::Operator];
        let found = roles.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| RoleError {
            text: text.chars().take(80).collect(),
        })
    }
}

/// The program of a party that a connection leads to: a peer, or the next hop of a package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// Whose program it is.
    pub party: PartyId,
    /// Which of the party's programs.
    pub role: Role,
}

impl Hop {
    /// The gateway of `party`.
    pub const fn gateway(party: PartyId) -> Self {
        Self {
            party,
            role: Role::Gateway,
        }
    }

    /// The agent of `party`.
    pub const fn agent(party: PartyId) -> Self {
        Self {
            party,
            role: Role::Agent,
        }
    }

    /// As it stands in log entries and answers.
    pub fn to_message(&self) -> v1::Hop {
        v1::Hop {
            party: self.party.to_string(),
            role: self.role.to_string(),
        }
    }

    /// From a log entry; `None` when a field is no name.
    pub fn from_message(message: &v1::Hop) -> Option<Self> {
        Some(Self {
            party: message.party.parse().ok()?,
            role: message.role.parse().ok()?,
        })
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}", self.party, self.role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lowercase_letters_digits_and_hyphens() {
        for text in [
            "caf21",
            "grand-dijon",
            "commune-21166",
            "2",
            &"a".repeat(64),
        ] {
            assert_eq!(PartyId::parse(text).unwrap().as_str(), text);
        }
        for text in ["", "-a", "Caf21", "a b", "a/b", "é", "a+b", &"a".repeat(65)] {
            assert!(FlowId::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_hop_survives_its_message() {
        let hop = Hop::gateway(PartyId::parse("grand-dijon").unwrap());
        assert_eq!(hop.to_string(), "grand-dijon/gateway");
        assert_eq!(Hop::from_message(&hop.to_message()), Some(hop.clone()));
        let unknown = v1::Hop {
            role: "owner".into(),
            ..hop.to_message()
        };
        assert_eq!(Hop::from_message(&unknown), None);
    }
}
