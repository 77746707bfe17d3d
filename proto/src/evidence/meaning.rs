//! Exactly what each statement proves, and what it does not.

use crate::v1::statement::What;

/// What one kind of statement is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meaning {
    /// Name of the statement.
    pub statement: &'static str,
    /// Who says it.
    pub by: &'static str,
    /// What it proves.
    pub proves: &'static str,
    /// What it does not prove.
    pub not: &'static str,
}

/// All statements that stand in evidence.
pub const MEANINGS: [Meaning; 11] = [
    Meaning {
        statement: "accepted",
        by: "an institution's gateway",
        proves: "it has every byte on stable storage, digests verified, at this index of its log",
        not: "that the package can be opened",
    },
    Meaning {
        statement: "forwarded",
        by: "the last gateway",
        proves: "it handed all bytes to this TLS identity",
        not: "that they were read",
    },
    Meaning {
        statement: "delivered",
        by: "the recipient's agent",
        proves: "its key opened the package, commitments and digests verified",
        not: "that a person read it",
    },
    Meaning {
        statement: "acknowledged",
        by: "a person or a system of the recipient",
        proves: "they say so, with their comment",
        not: "anything beyond their word",
    },
    Meaning {
        statement: "refused",
        by: "a gateway or an agent",
        proves: "the package was refused, for a reason from a closed list",
        not: "that the sender is at fault",
    },
    Meaning {
        statement: "not-collected",
        by: "the recipient's gateway",
        proves: "it held the package over this time and nobody fetched it",
        not: "why nobody fetched it",
    },
    Meaning {
        statement: "not-receipted",
        by: "the sender's own gateway",
        proves: "no receipt had reached its log when that log had this many entries",
        not: "anything about the other side",
    },
    Meaning {
        statement: "cancel",
        by: "the sender's agent",
        proves: "it asked this recipient to let go of the package unopened",
        not: "that the recipient did",
    },
    Meaning {
        statement: "damaged",
        by: "a gateway, or a recipient's agent before it opened the package",
        proves: "its stored copy had rotted, and it asked the hop before for the package again",
        not: "that it got it, or whose fault the rot is",
    },
    Meaning {
        statement: "inquire",
        by: "a gateway",
        proves: "statements under these numbers had not come to it, though later ones had, and it \
                 asked for them",
        not: "that they were ever sent",
    },
    Meaning {
        statement: "purged",
        by: "a gateway",
        proves: "it says that it has removed these bytes, by the decision in its log, after the \
                 package was over for everybody behind it",
        not: "that no copy is left with it or with anybody else",
    },
];

/// What a statement is worth; `None` for `Busy`, which is no evidence of anything.
pub fn meaning(what: &What) -> Option<&'static Meaning> {
    let name = crate::statement_name(what);
    MEANINGS.iter().find(|meaning| meaning.statement == name)
}
