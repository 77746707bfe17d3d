//! What may never happen, told from what all parties hold.
//!
//! [`violations`] is a plain function over [`Fact`]s: it reads no file and knows no process, so a
//! fact can be invented to see that it is found.

use std::collections::{BTreeMap, BTreeSet};

use passerelle_proto::{Digest, PackageId};

/// Something that one party holds, or that a test knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A person dropped a file for these parties.
    Dropped {
        /// Name of the file, different for every drop.
        name: String,
        /// What it holds.
        content: Digest,
        /// Who is to have it.
        recipients: Vec<&'static str>,
    },
    /// A file lies in an inbox.
    Inbox {
        /// Whose.
        party: &'static str,
        /// First digits of the package that it came in.
        package: String,
        /// Its name.
        name: String,
        /// What it holds.
        content: Digest,
    },
    /// An agent's register has a package.
    Registered {
        /// Whose.
        party: &'static str,
        /// Which.
        package: PackageId,
    },
    /// A sender's agent keeps a statement about a package of its own.
    Told {
        /// Whose agent.
        party: &'static str,
        /// What it says.
        said: Said,
    },
    /// A gateway's log has an entry that accepts a package.
    Accepted {
        /// Whose.
        party: &'static str,
        /// Which.
        package: PackageId,
        /// Where the entry stands.
        index: u64,
    },
    /// A gateway's log has a statement, its own or one that came.
    Logged {
        /// Whose.
        party: &'static str,
        /// What it says.
        said: Said,
    },
    /// Somebody keeps a checkpoint of a gateway's log.
    Kept {
        /// Who.
        by: String,
        /// Whose log.
        party: &'static str,
        /// Entries under it.
        size: u64,
        /// Its root.
        root: Digest,
    },
    /// A gateway's own log has this root at this size.
    Root {
        /// Whose.
        party: &'static str,
        /// How many entries.
        size: u64,
        /// Their root.
        root: Digest,
    },
    /// A log does not verify from its own files.
    Unbelievable {
        /// Whose.
        party: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A file lies where nothing should be once all is over.
    Left {
        /// Whose.
        party: &'static str,
        /// Where, in the directory of its gateway or agent.
        path: String,
    },
}

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Said {
    /// "accepted", "delivered".
    pub kind: &'static str,
    /// Who says it.
    pub issuer: String,
    /// About which package.
    pub package: PackageId,
    /// The log index that it names.
    pub index: Option<u64>,
    /// Whether its signature is the one of a key in its issuer's sheet.
    pub verifies: bool,
}

/// Everything in `facts` that must not be once all is over, in words; empty: all is well.
pub fn violations(facts: &[Fact]) -> Vec<String> {
    let mut found = breaches(facts);
    found.extend(missing(facts));
    found.extend(untold(facts));
    found.extend(left_overs(facts));
    found
}

/// Everything in `facts` that must never be, whatever is still on its way.
pub fn breaches(facts: &[Fact]) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(strays(facts));
    found.extend(receipts(facts));
    found.extend(logs(facts));
    found
}

/// How often each party has what was dropped for it.
fn arrivals(facts: &[Fact]) -> Vec<(&'static str, &str, usize)> {
    let mut found = Vec::new();
    for fact in facts {
        let Fact::Dropped {
            name,
            content,
            recipients,
        } = fact
        else {
            continue;
        };
        for party in recipients {
            let same = |fact: &&Fact| {
                matches!(fact, Fact::Inbox { party: at, name: called, content: holds, .. }
                    if at == party && called == name && holds == content)
            };
            let times = facts.iter().filter(same).count();
            found.push((*party, name.as_str(), times));
        }
    }
    found
}

/// Whatever was dropped is in the right inboxes.
fn missing(facts: &[Fact]) -> Vec<String> {
    let missing = arrivals(facts)
        .into_iter()
        .filter(|(_, _, times)| *times == 0);
    missing
        .map(|(party, name, _)| format!("{name} is 0 times in the inbox of {party}"))
        .collect()
}

/// Nothing is in an inbox twice, or in one where it does not belong.
fn strays(facts: &[Fact]) -> Vec<String> {
    let mut found = Vec::new();
    let mut expected = BTreeSet::new();
    for (party, name, times) in arrivals(facts) {
        expected.insert((party, name));
        if times > 1 {
            found.push(format!("{name} is {times} times in the inbox of {party}"));
        }
    }
    for fact in facts {
        if let Fact::Inbox { party, name, .. } = fact
            && !expected.contains(&(*party, name.as_str()))
        {
            found.push(format!(
                "{name} is in the inbox of {party}, who was not to have it"
            ));
        }
    }
    found
}

/// Whether the inbox of a party has files of a package.
fn has_opened(facts: &[Fact], party: &str, package: &PackageId) -> bool {
    let digits = package.to_string();
    facts.iter().any(|fact| {
        matches!(fact, Fact::Inbox { party: at, package, .. }
            if *at == party && digits.starts_with(package.as_str()))
    })
}

/// Receipts verify, and speak of packages that their issuers have.
fn receipts(facts: &[Fact]) -> Vec<String> {
    let mut found = Vec::new();
    for fact in facts {
        let (holder, said) = match fact {
            Fact::Told { party, said } => (format!("the agent of {party}"), said),
            Fact::Logged { party, said } => (format!("the log of {party}"), said),
            _ => continue,
        };
        let Said {
            kind,
            issuer,
            package,
            ..
        } = said;
        let what = format!("{kind} by {issuer} about {} with {holder}", package.short());
        if !said.verifies {
            found.push(format!("{what} does not verify"));
        }
        let founded = match *kind {
            "accepted" => facts.iter().any(|fact| {
                matches!(fact, Fact::Accepted { party, package: has, index }
                    if party == issuer && has == package && said.index == Some(*index))
            }),
            "delivered" => {
                let registered = |fact: &Fact| {
                    matches!(fact, Fact::Registered { party, package: has }
                        if party == issuer && has == package)
                };
                has_opened(facts, issuer, package) && facts.iter().any(registered)
            }
            // What was never taken charge of cannot be let go.
            "purged" => facts.iter().any(|fact| {
                matches!(fact, Fact::Accepted { party, package: has, .. }
                    if party == issuer && has == package)
            }),
            _ => true,
        };
        if !founded {
            found.push(format!("{what}, and {issuer} does not have it"));
        }
    }
    found
}

/// Every sender knows who has its packages.
fn untold(facts: &[Fact]) -> Vec<String> {
    let mut found = Vec::new();
    for fact in facts {
        let Fact::Registered { party, package } = fact else {
            continue;
        };
        let told = facts.iter().any(|fact| {
            matches!(fact, Fact::Told { said, .. } if said.package == *package
                && said.issuer == *party && matches!(said.kind, "delivered" | "refused"))
        });
        if !told {
            let package = package.short();
            found.push(format!(
                "{party} has {package}, and its sender does not know"
            ));
        }
    }
    found
}

/// Each log accepts a package once, and is the one that everybody else knows.
fn logs(facts: &[Fact]) -> Vec<String> {
    let mut found = Vec::new();
    let mut accepted: BTreeMap<(&str, &PackageId), u64> = BTreeMap::new();
    for fact in facts {
        match fact {
            Fact::Accepted { party, package, .. } => {
                *accepted.entry((party, package)).or_default() += 1;
            }
            Fact::Kept {
                by,
                party,
                size,
                root,
            } => {
                let ours = Fact::Root {
                    party,
                    size: *size,
                    root: *root,
                };
                if !facts.contains(&ours) {
                    found.push(format!(
                        "the checkpoint of {size} entries that {by} keeps is none of {party}'s log"
                    ));
                }
            }
            Fact::Unbelievable { party, why } => {
                found.push(format!("the log of {party} does not verify: {why}"));
            }
            _ => {}
        }
    }
    for ((party, package), times) in accepted {
        if times > 1 {
            let package = package.short();
            found.push(format!(
                "the log of {party} accepts {package} {times} times"
            ));
        }
    }
    found
}

fn left_overs(facts: &[Fact]) -> Vec<String> {
    let left = facts.iter().filter_map(|fact| match fact {
        Fact::Left { party, path } => Some(format!("{path} is left at {party}")),
        _ => None,
    });
    left.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package() -> PackageId {
        PackageId(Digest::of(b"package"))
    }

    fn said(kind: &'static str, issuer: &str) -> Said {
        Said {
            kind,
            issuer: issuer.to_owned(),
            package: package(),
            index: (kind == "accepted").then_some(7),
            verifies: true,
        }
    }

    fn told(said: Said) -> Fact {
        let party = "caf21";
        Fact::Told { party, said }
    }

    /// One package from CAF to Grand Dijon, as it should be.
    fn good() -> Vec<Fact> {
        let content = Digest::of(b"content");
        vec![
            Fact::Dropped {
                name: "t.csv".into(),
                content,
                recipients: vec!["grand-dijon"],
            },
            Fact::Inbox {
                party: "grand-dijon",
                package: package().short().to_string(),
                name: "t.csv".into(),
                content,
            },
            Fact::Registered {
                party: "grand-dijon",
                package: package(),
            },
            told(said("accepted", "grand-dijon")),
            told(said("delivered", "grand-dijon")),
            Fact::Accepted {
                party: "grand-dijon",
                package: package(),
                index: 7,
            },
            Fact::Logged {
                party: "caf21",
                said: said("accepted", "grand-dijon"),
            },
            Fact::Root {
                party: "grand-dijon",
                size: 8,
                root: content,
            },
            Fact::Kept {
                by: "caf21".into(),
                party: "grand-dijon",
                size: 8,
                root: content,
            },
        ]
    }

    /// What is found when the fact at `index` is missing, and this one is added.
    fn without(index: usize, more: Option<Fact>) -> String {
        let mut facts = good();
        facts.remove(index);
        facts.extend(more);
        violations(&facts).join("; ")
    }

    fn with(more: Fact) -> String {
        let mut facts = good();
        facts.push(more);
        violations(&facts).join("; ")
    }

    #[test]
    fn a_good_history_has_no_violation() {
        assert_eq!(violations(&good()), Vec::<String>::new());
    }

    #[test]
    fn a_package_that_is_lost_doubled_altered_or_misdirected_is_found() {
        assert!(without(1, None).contains("0 times in the inbox"));
        assert!(with(good()[1].clone()).contains("2 times in the inbox"));
        let mut altered = good();
        if let Fact::Inbox { content, .. } = &mut altered[1] {
            *content = Digest::of(b"other");
        }
        assert!(violations(&altered).join("; ").contains("0 times"));
        let mut astray = good()[1].clone();
        if let Fact::Inbox { party, .. } = &mut astray {
            *party = "caf21";
        }
        assert!(with(astray).contains("was not to have it"));
    }

    #[test]
    fn a_receipt_without_its_package_and_a_package_without_its_receipt_are_found() {
        assert!(without(2, None).contains("does not have it"));
        assert!(without(5, None).contains("does not have it"));
        assert!(without(4, None).contains("its sender does not know"));
        let other_index = Fact::Accepted {
            party: "grand-dijon",
            package: package(),
            index: 8,
        };
        assert!(without(5, Some(other_index)).contains("does not have it"));
        let mut forged = said("forwarded", "grand-dijon");
        forged.verifies = false;
        assert!(with(told(forged)).contains("does not verify"));
    }

    #[test]
    fn logs_that_differ_or_accept_twice_are_found() {
        assert!(without(7, None).contains("none of grand-dijon's log"));
        let again = Fact::Accepted {
            party: "grand-dijon",
            package: package(),
            index: 9,
        };
        assert!(with(again).contains("2 times"));
        let why = "entry 3 was altered".to_owned();
        let party = "caf21";
        assert!(with(Fact::Unbelievable { party, why }).contains("entry 3"));
    }

    #[test]
    fn what_is_left_is_found() {
        let path = "spool/x.pack".to_owned();
        let party = "caf21";
        assert!(with(Fact::Left { party, path }).contains("spool/x.pack is left at caf21"));
    }
}
