//! Three parties with authorities of their own, on loopback.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use passerelle_link::{Dialer, Identity, Listener, RefusalSink, TransportChoice, Trust};
use passerelle_proto::fixture::{self, PARTIES, keys};
use passerelle_proto::{Directory, Hop, Revocation, Role, Roots, TlsName};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// Limit of everything that a test waits for.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Connections that the listeners here take.
pub const CONNECTIONS_MAX: usize = 10;

/// An authority of one party.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// PEM of a certificate and of its key.
    pub fn issue(&self, params: CertificateParams, key: &KeyPair) -> (String, String) {
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// What an ordinary certificate of a program says.
pub fn ordinary(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

/// Refusals that a listener reports.
pub struct Refusals(Mutex<mpsc::UnboundedSender<(&'static str, String)>>);

impl RefusalSink for Refusals {
    fn refused(&self, class: &'static str, _: SocketAddr, why: &str) {
        let sender = self.0.lock().unwrap();
        let _ = sender.send((class, why.to_owned()));
    }
}

/// A listener that serves.
pub struct Serving {
    pub address: SocketAddr,
    pub stop: CancellationToken,
    pub refusals: mpsc::UnboundedReceiver<(&'static str, String)>,
    pub done: tokio::task::JoinHandle<()>,
}

impl Serving {
    /// The next refusal that the listener reports.
    pub async fn refusal(&mut self) -> (&'static str, String) {
        let next = tokio::time::timeout(DEADLINE, self.refusals.recv()).await;
        next.expect("no refusal was reported").unwrap()
    }
}

pub struct Lab {
    folder: TempDir,
    pub authorities: BTreeMap<&'static str, Authority>,
    addresses: BTreeMap<&'static str, Vec<String>>,
    seq: u64,
    trust: watch::Sender<Directory>,
}

impl Lab {
    pub fn new() -> Self {
        let authorities = PARTIES.map(|name| (name, Authority::new())).into();
        let addresses = BTreeMap::new();
        let directory = directory(&authorities, &addresses, 1, None, None);
        Self {
            folder: tempfile::tempdir().unwrap(),
            authorities,
            addresses,
            seq: 1,
            trust: watch::channel(directory).0,
        }
    }

    pub fn trust(&self) -> Trust {
        self.trust.subscribe()
    }

    /// The next sheet of `party` names these addresses.
    pub fn announce(&mut self, party: &'static str, addresses: &[SocketAddr]) {
        let texts = addresses.iter().map(ToString::to_string).collect();
        self.addresses.insert(party, texts);
        self.publish(None);
    }

    /// The next sheets; `without` loses its TLS names.
    pub fn publish(&mut self, without: Option<&str>) {
        self.publish_with(without, None);
    }

    /// The next sheets; that of `party` revokes its agent's key.
    pub fn revoke_key(&mut self, party: &str) {
        self.publish_with(None, Some(party));
    }

    fn publish_with(&mut self, without: Option<&str>, revoking: Option<&str>) {
        self.seq += 1;
        let (authorities, addresses) = (&self.authorities, &self.addresses);
        let next = directory(authorities, addresses, self.seq, without, revoking);
        self.trust.send_replace(next);
    }

    /// The ordinary identity of a program.
    pub fn identity(&self, party: &'static str, role: Role) -> Identity {
        let name = format!("{role}.{party}.test");
        self.identity_from(party, ordinary(&name))
    }

    /// An identity that `authority` has issued.
    pub fn identity_from(&self, authority: &str, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let (certificate, key) = self.authorities[authority].issue(params, &key);
        self.load(&certificate, &key).unwrap()
    }

    /// Writes both files and loads them.
    pub fn load(
        &self,
        certificate: &str,
        key: &str,
    ) -> Result<Identity, passerelle_link::IdentityError> {
        let folder = self.folder.path();
        let (certificate_path, key_path) = (folder.join("tls.crt"), folder.join("tls.key"));
        fs::write(&certificate_path, certificate).unwrap();
        fs::write(&key_path, key).unwrap();
        fs::set_permissions(&key_path, fs::Permissions::from_mode(0o600)).unwrap();
        Identity::load(&certificate_path, &key_path)
    }

    pub fn dialer(&self, identity: Identity, choice: TransportChoice) -> Dialer {
        Dialer::new(identity, self.trust(), choice).unwrap()
    }

    /// Serves health, and `routes` besides, as the gateway of `party`, on any port.
    pub async fn serve(&mut self, party: &'static str, routes: Routes) -> Serving {
        let identity = self.identity(party, Role::Gateway);
        self.serve_as(party, identity, routes).await
    }

    pub async fn serve_as(
        &mut self,
        party: &'static str,
        identity: Identity,
        routes: Routes,
    ) -> Serving {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let serving = self.serve_at(any, identity, routes).await;
        self.announce(party, &[serving.address]);
        serving
    }

    pub async fn serve_at(
        &self,
        address: SocketAddr,
        identity: Identity,
        routes: Routes,
    ) -> Serving {
        let listener = Listener::bind(address, &identity, self.trust(), &[7; 64], CONNECTIONS_MAX);
        let listener = listener.await.unwrap();
        let (sender, refusals) = mpsc::unbounded_channel();
        let (_, health) = tonic_health::server::health_reporter();
        let routes = routes.add_service(health);
        let address = listener.address();
        let stop = CancellationToken::new();
        let sink = Arc::new(Refusals(Mutex::new(sender)));
        let done = tokio::spawn(listener.serve(routes, sink, stop.clone()));
        Serving {
            address,
            stop,
            refusals,
            done,
        }
    }
}

fn directory(
    authorities: &BTreeMap<&'static str, Authority>,
    addresses: &BTreeMap<&'static str, Vec<String>>,
    seq: u64,
    without: Option<&str>,
    revoking: Option<&str>,
) -> Directory {
    let sheets: Vec<Vec<u8>> = PARTIES
        .iter()
        .map(|party| {
            let mut sheet = fixture::sheet(party);
            sheet.seq = seq;
            sheet.addresses = addresses.get(party).cloned().unwrap_or_default();
            sheet.tls.anchors = vec![authorities[party].pem.clone()];
            sheet.tls.names.push(TlsName {
                name: format!("operator.{party}.test"),
                role: Role::Operator,
            });
            if without == Some(*party) {
                sheet.tls.names.clear();
            }
            if revoking == Some(*party) {
                sheet.revocations.push(Revocation {
                    key: keys(party).agent.id(),
                    at: fixture::NOW,
                    reason: "lost".into(),
                });
            }
            sheet.sign(&keys(party).root).unwrap()
        })
        .collect();
    let roots: Roots = ["caf21", "grand-dijon"]
        .map(|name| (fixture::party(name), keys(name).root.id()))
        .into();
    let convention = fixture::sign_convention(&fixture::convention_text());
    Directory::load(&roots, &[convention], &sheets).unwrap()
}

/// The gateway of a party.
pub fn gateway(party: &str) -> Hop {
    Hop::gateway(fixture::party(party))
}
