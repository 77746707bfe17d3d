//! Reads from the directories of gateways and agents what all parties hold.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use passerelle_disk::{Disk, HostDisk};

use passerelle_proto::audit::verify_log;
use passerelle_proto::v1::{Entry, Signed, entry::Event, statement::What};
use passerelle_proto::{
    Checkpoint, Digest, Directory, LogVerifier, PackageId, UntrustedStatement, statement_name,
};
use prost::Message;

use crate::history::{Fact, Said};
use crate::laboratory::RunningLab;

/// Where a program keeps what it keeps.
#[derive(Clone, Debug)]
pub struct Place {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// Its directory there.
    pub dir: PathBuf,
}

/// What runs for a party.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// Who.
    pub party: &'static str,
    /// Its agent.
    pub agent: Place,
    /// Its gateway, if it has one.
    pub gateway: Option<Place>,
}

/// Reads facts of parties; remembers which signatures it has verified.
pub struct Witness {
    directory: Directory,
    parties: Vec<&'static str>,
    verified: BTreeSet<Digest>,
}

impl Witness {
    /// A witness of a laboratory.
    pub fn of(lab: &RunningLab, parties: [&'static str; 2]) -> Self {
        Self {
            parties: parties.to_vec(),
            ..Self::believing(lab.directory())
        }
    }

    /// A witness who knows the keys of all parties.
    pub fn believing(directory: Directory) -> Self {
        Self {
            directory,
            parties: Vec::new(),
            verified: BTreeSet::new(),
        }
    }

    /// Everything that the parties of a laboratory hold now, besides what was dropped.
    pub fn facts(&mut self, lab: &RunningLab) -> Vec<Fact> {
        let disk: Arc<dyn Disk> = Arc::new(HostDisk);
        let place = |dir: &Path| Place {
            disk: disk.clone(),
            dir: dir.to_owned(),
        };
        let keepings: Vec<Keeping> = self
            .parties
            .iter()
            .map(|party| Keeping {
                party,
                agent: place(&lab.party(party).agent.directory),
                gateway: lab
                    .party(party)
                    .gateway
                    .as_ref()
                    .map(|gateway| place(&gateway.data_dir)),
            })
            .collect();
        self.facts_of(&keepings)
    }

    /// Everything that these parties hold now, besides what was dropped.
    pub fn facts_of(&mut self, keepings: &[Keeping]) -> Vec<Fact> {
        let mut facts = Vec::new();
        for keeping in keepings {
            self.held_by_agent(keeping, &mut facts);
            left_at_agent(keeping.party, &keeping.agent, &mut facts);
            if let Some(gateway) = &keeping.gateway {
                left_at_gateway(keeping.party, gateway, &mut facts);
            }
        }
        for keeping in keepings {
            if let Some(gateway) = &keeping.gateway {
                self.log(keepings, keeping.party, gateway, &mut facts);
            }
        }
        facts
    }

    /// What the agent of a party has received, and has been told.
    pub fn held_by_agent(&mut self, keeping: &Keeping, facts: &mut Vec<Fact>) {
        inbox(keeping.party, &keeping.agent, facts);
        registered(keeping.party, &keeping.agent, facts);
        self.told(keeping.party, &keeping.agent, facts);
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

    fn told(&mut self, party: &'static str, agent: &Place, facts: &mut Vec<Fact>) {
        let mut jobs = agent.inside("work");
        for place in ["sent", "rejected"] {
            jobs.extend(agent.below(place));
        }
        for job in jobs {
            for path in agent.inside(job.join("statements")) {
                let unfinished = path.extension().is_some();
                let Some(bytes) = agent.disk.read(&path).ok().filter(|_| !unfinished) else {
                    continue;
                };
                let said = self.said(Signed::decode(bytes.as_slice()).unwrap());
                facts.push(Fact::Told { party, said });
            }
            if agent.disk.is_file(&job.join("package")) {
                facts.push(left(party, agent, &job.join("package")));
            }
        }
    }

    fn log(
        &mut self,
        keepings: &[Keeping],
        party: &'static str,
        gateway: &Place,
        facts: &mut Vec<Fact>,
    ) {
        let sheet = self.directory.sheet(&party.parse().unwrap()).unwrap();
        let log = sheet.log.clone().unwrap();
        let verifier = LogVerifier::from_vkeys(&log.origin, &log.vkeys).unwrap();
        let kept = kept(keepings, party, &verifier);
        let mut sizes: Vec<u64> = kept.iter().map(|(_, kept)| kept.size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let dir = gateway.dir.join("log");
        let files = |path: &str| gateway.disk.read(&dir.join(path)).ok();
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
        self.logged(party, entries, facts);
    }

    /// What a gateway's log says.
    pub fn logged(
        &mut self,
        party: &'static str,
        entries: impl IntoIterator<Item = (u64, Entry)>,
        facts: &mut Vec<Fact>,
    ) {
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

impl Place {
    /// What is in a directory of it; nothing when it is not there, or goes meanwhile.
    fn inside(&self, directory: impl AsRef<Path>) -> Vec<PathBuf> {
        let mut paths = self
            .disk
            .list(&self.dir.join(directory))
            .unwrap_or_default();
        paths.sort();
        paths
    }

    /// What is in the directories in a directory of it.
    fn below(&self, directory: &str) -> Vec<PathBuf> {
        let folders = self.inside(directory);
        folders
            .iter()
            .flat_map(|folder| self.inside(folder))
            .collect()
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn inbox(party: &'static str, agent: &Place, facts: &mut Vec<Fact>) {
    for package in agent.below("inbox") {
        // `2016-12-31-<12 digits of the package>-<title>`
        let digits: String = name(&package).chars().skip(11).take(12).collect();
        for file in agent.inside(&package) {
            facts.push(Fact::Inbox {
                party,
                package: digits.clone(),
                name: name(&file),
                content: Digest::of(&agent.disk.read(&file).unwrap()),
            });
        }
    }
}

fn registered(party: &'static str, agent: &Place, facts: &mut Vec<Fact>) {
    for entry in agent.below("received") {
        match name(&entry).parse() {
            Ok(package) => facts.push(Fact::Registered { party, package }),
            Err(_) => facts.push(left(party, agent, &entry)),
        }
    }
}

fn left(party: &'static str, place: &Place, path: &Path) -> Fact {
    let path = path.strip_prefix(&place.dir).unwrap().display().to_string();
    Fact::Left { party, path }
}

fn left_at_agent(party: &'static str, agent: &Place, facts: &mut Vec<Fact>) {
    for place in ["work", "opening", "incoming"] {
        let found = agent.inside(place);
        facts.extend(found.iter().map(|path| left(party, agent, path)));
    }
    let dropped = agent.below("outbox");
    facts.extend(dropped.iter().map(|path| left(party, agent, path)));
}

fn left_at_gateway(party: &'static str, gateway: &Place, facts: &mut Vec<Fact>) {
    let mut found = gateway.inside("spool");
    found.retain(|path| gateway.disk.is_file(path));
    let mut shared = gateway.inside("spool/shared");
    // The newest one is being written.
    shared.pop();
    found.extend(shared);
    let unfinished = |path: &PathBuf| path.extension().is_some_and(|end| end == "tmp");
    found.extend(gateway.inside("log/wal").into_iter().filter(unfinished));
    facts.extend(found.iter().map(|path| left(party, gateway, path)));
}

/// Checkpoints of a party's log that agents and partners keep.
fn kept(keepings: &[Keeping], of: &'static str, log: &LogVerifier) -> Vec<(String, Checkpoint)> {
    let mut found = Vec::new();
    let mut keep = |by: String, place: &Place, path: &str| {
        let note = place.disk.read(&place.dir.join(path)).unwrap_or_default();
        if let Ok(checkpoint) = Checkpoint::verify(&note, log) {
            found.push((by, checkpoint));
        }
    };
    for Keeping {
        party,
        agent,
        gateway,
    } in keepings
    {
        if let Some(gateway) = gateway {
            let witnessed = format!("witness/{of}.note");
            keep(format!("the gateway of {party}"), gateway, &witnessed);
        }
        let by = format!("the agent of {party}");
        keep(by, agent, "state/checkpoint.note");
    }
    found
}
