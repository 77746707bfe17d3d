//! Agents of one laboratory without links, for tests of their parts: what one of them says is
//! handed to the other by hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use passerelle_disk::{Disk, HostDisk, MemoryDisk};
use passerelle_host::{Clock, HostClock};
use passerelle_link::{OfferAnswer, Outbound, Peer, Transport};
use passerelle_proto::session::Answer;
use passerelle_proto::v1::Signed;
use passerelle_proto::{
    KeyRole, PackageId, SheetKey, SigningKey, read_secret_file, write_secret_file,
};
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedSender;

use super::Node;
use crate::config::AgentConfig;
use crate::daemon::{Ground, load, prepare};
use crate::exchange::offered;
use crate::handing::Handing;
use crate::job::Job;
use crate::lab::{LabOptions, Laboratory};
use crate::outbox::Dropped;
use crate::outgoing::Sent;
use crate::sealing;

pub(crate) const SENDER: &str = "caf21";
pub(crate) const RECIPIENT: &str = "grand-dijon";
pub(crate) const CONTENT: &[u8] = b"code;nom\n21166;Chenove\n";
const FLOW: &str = "signalement";

/// A laboratory, and where its agents keep what they have.
pub(crate) struct Scene {
    lab: Laboratory,
    dir: TempDir,
}

impl Scene {
    pub(crate) fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = LabOptions::new(HostClock.now());
        let lab = Laboratory::create(&dir.path().join("lab"), &options).unwrap();
        Self { lab, dir }
    }

    /// A directory that nobody has used.
    pub(crate) fn place(&self) -> PathBuf {
        tempfile::tempdir_in(self.dir.path()).unwrap().keep()
    }

    /// A disk in memory that holds the convention and the sheets.
    pub(crate) fn memory(&self) -> MemoryDisk {
        let memory = MemoryDisk::default();
        let disk: &dyn Disk = &memory;
        let sheets = fs::read_dir(&self.lab.sheets).unwrap();
        let sheets = sheets.map(|sheet| sheet.unwrap().path());
        for path in sheets.chain([self.lab.convention.clone()]) {
            disk.create_directories(path.parent().unwrap()).unwrap();
            disk.replace(&path, &fs::read(&path).unwrap()).unwrap();
        }
        memory
    }

    /// An agent that has started in a directory, on a disk.
    pub(crate) fn start_on(&self, party: &str, disk: Arc<dyn Disk>, place: &Path) -> Arc<Node> {
        let mut config = self.config_of(party);
        config.directory = place.to_owned();
        Self::start_as(config, disk)
    }

    fn config_of(&self, party: &str) -> AgentConfig {
        AgentConfig::load(&self.lab.party(party).unwrap().agent.config).unwrap()
    }

    /// An agent that signs with a new key, and the sheet that lists it, which nobody else has.
    pub(crate) fn rotated(&self, party: &str) -> (Arc<Node>, Vec<u8>) {
        let made = self.lab.party(party).unwrap();
        let key = SigningKey::generate(&made.id);
        let file = self.place().join("new.secret");
        write_secret_file(&file, &key.to_secret_text()).unwrap();
        let mut config = self.config_of(party);
        config.directory = self.place();
        config.agent_keys.insert(0, file);
        let node = Self::start_as(config, Arc::new(HostDisk));
        let mut sheet = node.directory().sheet(&made.id).unwrap().clone();
        sheet.seq += 1;
        sheet.keys.push(SheetKey {
            key: key.verifying_key().clone(),
            roles: vec![KeyRole::Agent],
            not_before: node.now(),
            not_after: sheet.not_after,
        });
        let root = read_secret_file(&made.root_key).unwrap();
        let note = sheet.sign(&SigningKey::from_secret_text(&root).unwrap());
        let note = note.unwrap();
        node.trust.adopt(&note).unwrap();
        assert_eq!(node.signing_key().id(), key.id());
        (node, note)
    }

    fn start_as(config: AgentConfig, disk: Arc<dyn Disk>) -> Arc<Node> {
        let materials = load(&disk, &config).unwrap();
        let clock = Arc::new(HostClock);
        let (node, _) = prepare(&Ground { disk, clock }, config, materials).unwrap();
        node
    }

    /// An agent that has started for the first time.
    pub(crate) fn start(&self, party: &str) -> Arc<Node> {
        self.start_on(party, Arc::new(HostDisk), &self.place())
    }
}

/// The gateway of an agent, as it meets that.
pub(crate) fn gateway_of(node: &Node) -> Peer {
    Peer {
        hop: node.gateway().unwrap(),
        tls_name: "gateway".into(),
        transport: Transport::Quic,
        address: "127.0.0.1:1".parse().unwrap(),
        post_quantum: true,
    }
}

/// Drops a file and seals it; no gateway has heard of it.
pub(crate) fn seal(node: &Arc<Node>, name: &str) -> Sent {
    let path = node.store.outbox().join(FLOW).join(name);
    fs::write(&path, CONTENT).unwrap();
    let flow = FLOW.into();
    let job = Job::claim(&node.store, &Dropped { flow, path }, node.now()).unwrap();
    let directory = job.directory().to_owned();
    sealing::seal_job(node, job).unwrap();
    let mut sent = node.outgoing.all().into_iter();
    let sealed = sent.find(|sent| sent.job.directory() == directory);
    sealed.unwrap()
}

/// A small package, as a gateway offers it.
pub(crate) fn offer_of(node: &Arc<Node>, sent: &Sent) -> (Signed, Bytes) {
    let handing = Handing::new(node, &gateway_of(node), sent.clone()).unwrap();
    (sent.manifest.signed().clone(), handing.inline())
}

/// Its gateway offers an agent a small package; whether it has it now.
pub(crate) fn takes(
    node: &Arc<Node>,
    (manifest, inline): &(Signed, Bytes),
    arrived: &UnboundedSender<PackageId>,
) -> bool {
    let offer = (manifest.clone(), None);
    let answer = offered(node, &gateway_of(node), offer, inline, arrived.clone());
    matches!(answer, OfferAnswer::Answer(Answer::Have))
}
