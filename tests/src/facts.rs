//! Reads from the directories of a laboratory what all its parties hold.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use passerelle_proto::audit::verify_log;
use passerelle_proto::v1::{Entry, Signed, entry::Event, statement::What};
use passerelle_proto::{
    Checkpoint, Digest, Directory, LogVerifier, PackageId, UntrustedStatement, statement_name,
};
use prost::Message;

use crate::history::{Fact, Said};
use crate::laboratory::RunningLab;

/// Reads facts of two parties with a gateway each; remembers which signatures it has verified.
pub struct Witness {
    directory: Directory,
    parties: [&'static str; 2],
    verified: BTreeSet<Digest>,
}

impl Witness {
    /// A witness of a laboratory.
    pub fn of(lab: &RunningLab, parties: [&'static str; 2]) -> Self {
        Self {
            directory: lab.directory(),
            parties,
            verified: BTreeSet::new(),
        }
    }

    /// Everything that the parties hold now, besides what was dropped.
    pub fn facts(&mut self, lab: &RunningLab) -> Vec<Fact> {
        let mut facts = Vec::new();
        for party in self.parties {
            let agent = lab.party(party).agent.directory.clone();
            inbox(party, &agent, &mut facts);
            registered(party, &agent, &mut facts);
            self.told(party, &agent, &mut facts);
            left_at_agent(party, &agent, &mut facts);
            let gateway = lab.party(party).gateway.as_ref().unwrap();
            left_at_gateway(party, &gateway.data_dir, &mut facts);
        }
        for party in self.parties {
            self.log(lab, party, &mut facts);
        }
        facts
    }

    fn said(&mut self, signed: Signed) -> Said {
        let digest = Digest::of(&signed.encode_to_vec());
        let statement = UntrustedStatement::parse(signed).unwrap();
        let issuer = statement.issuer().clone();
        let key = self.directory.signing_key(&issuer, &statement.signer());
        let known = self.verified.contains(&digest);
        let (body, verifies) = match key.filter(|_| !known) {
            None => (statement.verified_before().body().clone(), known),
            Some(key) => match statement.clone().verify(&key.key) {
                Ok(verified) => (verified.body().clone(), true),
                Err(_) => (statement.verified_before().body().clone(), false),
            },
        };
        if verifies {
            self.verified.insert(digest);
        }
        let what = body.what.unwrap();
        Said {
            kind: statement_name(&what),
            issuer: body.issuer,
            package: PackageId::from_slice(&body.package).unwrap(),
            index: match &what {
                What::Accepted(accepted) => Some(accepted.log_index),
                _ => None,
            },
            verifies,
        }
    }

    fn told(&mut self, party: &'static str, agent: &Path, facts: &mut Vec<Fact>) {
        let mut jobs = inside(&agent.join("work"));
        for place in ["sent", "rejected"] {
            jobs.extend(
                inside(&agent.join(place))
                    .iter()
                    .flat_map(|day| inside(day)),
            );
        }
        for job in jobs {
            for path in inside(&job.join("statements")) {
                let Ok(bytes) = fs::read(&path) else { continue };
                let said = self.said(Signed::decode(bytes.as_slice()).unwrap());
                facts.push(Fact::Told { party, said });
            }
            if job.join("package").exists() {
                facts.push(left(party, agent, &job.join("package")));
            }
        }
    }

    fn log(&mut self, lab: &RunningLab, party: &'static str, facts: &mut Vec<Fact>) {
        let sheet = self.directory.sheet(&party.parse().unwrap()).unwrap();
        let log = sheet.log.clone().unwrap();
        let verifier = LogVerifier::from_vkeys(&log.origin, &log.vkeys).unwrap();
        let kept = kept(lab, self.parties, party, &verifier);
        let mut sizes: Vec<u64> = kept.iter().map(|(_, kept)| kept.size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let dir = lab
            .party(party)
            .gateway
            .as_ref()
            .unwrap()
            .data_dir
            .join("log");
        let files = |path: &str| fs::read(dir.join(path)).ok();
        let mut entries = Vec::new();
        let verified = verify_log(&files, &verifier, &sizes, |index, bytes| {
            entries.push((index, Entry::decode(bytes).unwrap()));
        });
        match verified {
            Ok((_, roots)) => {
                let roots = sizes.into_iter().zip(roots);
                facts.extend(roots.map(|(size, root)| Fact::Root { party, size, root }));
            }
            Err(error) => {
                let why = error.to_string();
                facts.push(Fact::Unbelievable { party, why });
            }
        }
        for (by, Checkpoint { size, root, .. }) in kept {
            facts.push(Fact::Kept {
                by,
                party,
                size,
                root,
            });
        }
        for (index, entry) in entries {
            match entry.event {
                Some(Event::Accepted(event)) => {
                    let package = PackageId(Digest::of(&event.manifest.unwrap().body));
                    facts.push(Fact::Accepted {
                        party,
                        package,
                        index,
                    });
                    let said = self.said(event.receipt.unwrap());
                    facts.push(Fact::Logged { party, said });
                }
                Some(Event::Statement(event)) => {
                    let said = self.said(event.statement.unwrap());
                    facts.push(Fact::Logged { party, said });
                }
                _ => {}
            }
        }
    }
}

/// What is in a directory; nothing when it is not there, or goes meanwhile.
fn inside(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn inbox(party: &'static str, agent: &Path, facts: &mut Vec<Fact>) {
    for package in inside(&agent.join("inbox"))
        .iter()
        .flat_map(|flow| inside(flow))
    {
        // `2016-12-31-<12 digits of the package>-<title>`
        let digits: String = name(&package).chars().skip(11).take(12).collect();
        for file in inside(&package) {
            facts.push(Fact::Inbox {
                party,
                package: digits.clone(),
                name: name(&file),
                content: Digest::of(&fs::read(&file).unwrap()),
            });
        }
    }
}

fn registered(party: &'static str, agent: &Path, facts: &mut Vec<Fact>) {
    for entry in inside(&agent.join("received"))
        .iter()
        .flat_map(|day| inside(day))
    {
        match name(&entry).parse() {
            Ok(package) => facts.push(Fact::Registered { party, package }),
            Err(_) => facts.push(left(party, agent, &entry)),
        }
    }
}

fn left(party: &'static str, root: &Path, path: &Path) -> Fact {
    let path = path.strip_prefix(root).unwrap().display().to_string();
    Fact::Left { party, path }
}

fn left_at_agent(party: &'static str, agent: &Path, facts: &mut Vec<Fact>) {
    for place in ["work", "opening", "incoming"] {
        let found = inside(&agent.join(place));
        facts.extend(found.iter().map(|path| left(party, agent, path)));
    }
    let dropped = inside(&agent.join("outbox"));
    let dropped = dropped.iter().flat_map(|flow| inside(flow));
    facts.extend(dropped.map(|path| left(party, agent, &path)));
}

fn left_at_gateway(party: &'static str, data: &Path, facts: &mut Vec<Fact>) {
    let mut found = inside(&data.join("spool"));
    found.retain(|path| path.is_file());
    let mut shared = inside(&data.join("spool/shared"));
    // The newest one is being written.
    shared.pop();
    found.extend(shared);
    let unfinished = |path: &PathBuf| path.extension().is_some_and(|end| end == "tmp");
    found.extend(inside(&data.join("log/wal")).into_iter().filter(unfinished));
    facts.extend(found.iter().map(|path| left(party, data, path)));
}

/// Checkpoints of a party's log that agents and partners keep.
fn kept(
    lab: &RunningLab,
    parties: [&'static str; 2],
    of: &'static str,
    log: &LogVerifier,
) -> Vec<(String, Checkpoint)> {
    let mut found = Vec::new();
    let mut keep = |by: String, path: PathBuf| {
        let note = fs::read(path).unwrap_or_default();
        if let Ok(checkpoint) = Checkpoint::verify(&note, log) {
            found.push((by, checkpoint));
        }
    };
    for party in parties {
        let data = lab.party(party).gateway.as_ref().unwrap().data_dir.clone();
        let witnessed = data.join("witness").join(format!("{of}.note"));
        keep(format!("the gateway of {party}"), witnessed);
        let agent = lab.party(party).agent.directory.clone();
        keep(
            format!("the agent of {party}"),
            agent.join("state/checkpoint.note"),
        );
    }
    found
}
