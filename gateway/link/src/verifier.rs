//! Who a certificate belongs to, and whether it may be believed.
//!
//! The leaf has exactly one DNS name; the name says whose it is; and only that party's own
//! authorities count for it. The role comes from the sheet, never from the certificate.

use std::collections::BTreeSet;
use std::sync::Arc;

use passerelle_proto::{Digest, Directory, Hop, KeyId, PartyId};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;

use crate::peer::Trust;
use crate::refusal::Reason;

/// Intermediate certificates that a peer may present.
const INTERMEDIATES_MAX: usize = 8;

/// Why a peer's certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRefusal {
    /// Not an X.509 certificate, or too many of them.
    #[error("the certificate is malformed")]
    Malformed,
    /// None or several names, a wildcard, or names of another kind.
    #[error("the certificate must have exactly one DNS name and no wildcard")]
    Names,
    /// A name that no sheet lists.
    #[error("the name {0} is in no party's sheet")]
    UnknownName(String),
    /// Not the program that was dialled.
    #[error("the certificate of {name} is that of {found}, and {wanted} was dialled")]
    OtherHop {
        /// Name in the certificate.
        name: String,
        /// Whose it is.
        found: Hop,
        /// Who was dialled.
        wanted: Hop,
    },
    /// Not issued by an authority of the party whose name it bears.
    #[error("the certificate of {0} is not issued by an authority in its party's sheet")]
    Issuer(String),
    /// Past its last day.
    #[error("the certificate of {0} has expired")]
    Expired(String),
    /// Before its first day.
    #[error("the certificate of {0} is not valid yet: check the clocks")]
    NotYetValid(String),
    /// Not made for this usage.
    #[error("the certificate of {0} is not made for TLS clients and servers")]
    Usage(String),
    /// A public key that the sheet does not pin.
    #[error("the public key of {0} is not among those pinned in its party's sheet")]
    Pin(String),
    /// A key of the peer was revoked while it was connected: it is to begin anew.
    #[error(
        "the sheet of {party} revokes its key {key}: what was begun before is not gone on with"
    )]
    Revoked {
        /// Whose key.
        party: PartyId,
        /// The key.
        key: KeyId,
    },
}

impl CertificateRefusal {
    /// A few words for counting, without anything that the peer chose.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Malformed | Self::Names => "certificate: malformed",
            Self::UnknownName(_) => "certificate: unknown name",
            Self::OtherHop { .. } => "certificate: another peer",
            Self::Issuer(_) => "certificate: issuer",
            Self::Expired(_) | Self::NotYetValid(_) => "certificate: dates",
            Self::Usage(_) => "certificate: usage",
            Self::Pin(_) => "certificate: pin",
            Self::Revoked { .. } => "certificate: key revoked",
        }
    }

    /// Each has an alert of its own, so that the other side can say what it is told.
    fn into_rustls(self) -> Error {
        match &self {
            Self::Expired(_) => CertificateError::Expired,
            Self::NotYetValid(_) => CertificateError::NotValidYet,
            Self::Issuer(_) => CertificateError::UnknownIssuer,
            Self::UnknownName(_) => CertificateError::ApplicationVerificationFailure,
            Self::Names | Self::OtherHop { .. } => CertificateError::NotValidForName,
            Self::Malformed => CertificateError::BadEncoding,
            Self::Usage(_) => CertificateError::InvalidPurpose,
            Self::Pin(_) => CertificateError::Other(OtherError(Arc::new(self))),
            Self::Revoked { .. } => CertificateError::Revoked,
        }
        .into()
    }
}

/// The one DNS name of a leaf certificate; its CN is ignored.
pub(crate) fn leaf_name(leaf: &CertificateDer<'_>) -> Result<String, CertificateRefusal> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(leaf).map_err(|_| CertificateRefusal::Malformed)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| CertificateRefusal::Malformed)?
        .ok_or(CertificateRefusal::Names)?;
    match names.value.general_names.as_slice() {
        [GeneralName::DNSName(name)] if !name.contains('*') => Ok(name.to_ascii_lowercase()),
        _ => Err(CertificateRefusal::Names),
    }
}

/// Verifies a chain for the party whose name the leaf bears.
pub(crate) fn verify_chain(
    directory: &Directory,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    usage: KeyUsage,
    now: UnixTime,
) -> Result<(String, Hop), CertificateRefusal> {
    if intermediates.len() > INTERMEDIATES_MAX {
        return Err(CertificateRefusal::Malformed);
    }
    let name = leaf_name(leaf)?;
    let (party, role) = directory
        .tls_name(&name)
        .ok_or_else(|| CertificateRefusal::UnknownName(name.clone()))?;
    let certificates: Vec<CertificateDer<'static>> = directory
        .anchors(&party)
        .iter()
        .filter_map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok())
        .collect();
    let anchors: Vec<TrustAnchor<'_>> = certificates
        .iter()
        .filter_map(|certificate| webpki::anchor_from_trusted_cert(certificate).ok())
        .collect();
    let end = EndEntityCert::try_from(leaf).map_err(|_| CertificateRefusal::Malformed)?;
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    end.verify_for_usage(algorithms, &anchors, intermediates, now, usage, None, None)
        .map_err(|error| refusal(error, &name))?;
    let pins = directory
        .sheet(&party)
        .map_or(&[][..], |sheet| &sheet.tls.pins);
    if !pins.is_empty() && !pins.contains(&public_key_digest(leaf)?) {
        return Err(CertificateRefusal::Pin(name));
    }
    Ok((name, Hop { party, role }))
}

/// Waits until the sheets no longer let this chain speak for `hop`, or revoke a key of its party,
/// and says why.
///
/// A party whose key is revoked may connect again: then everything is judged by the new sheet.
pub(crate) async fn distrusted(
    mut trust: Trust,
    chain: Vec<CertificateDer<'static>>,
    usage: fn() -> KeyUsage,
    hop: Hop,
) -> CertificateRefusal {
    let before = revoked(&trust.borrow(), &hop.party);
    while trust.changed().await.is_ok() {
        let directory = trust.borrow_and_update().clone();
        let Some((leaf, intermediates)) = chain.split_first() else {
            return CertificateRefusal::Malformed;
        };
        let now = UnixTime::now();
        match verify_chain(&directory, leaf, intermediates, usage(), now) {
            Ok((_, found)) if found == hop => {
                let now = revoked(&directory, &hop.party);
                if let Some(key) = now.difference(&before).next() {
                    let (party, key) = (hop.party, *key);
                    return CertificateRefusal::Revoked { party, key };
                }
            }
            Ok((name, found)) => {
                return CertificateRefusal::OtherHop {
                    name,
                    found,
                    wanted: hop,
                };
            }
            Err(refusal) => return refusal,
        }
    }
    // Nobody can change the sheets any more.
    std::future::pending().await
}

fn revoked(directory: &Directory, party: &PartyId) -> BTreeSet<KeyId> {
    let sheet = directory.sheet(party).into_iter();
    let revocations = sheet.flat_map(|sheet| &sheet.revocations);
    revocations.map(|revocation| revocation.key).collect()
}

fn refusal(error: webpki::Error, name: &str) -> CertificateRefusal {
    let name = name.to_owned();
    match error {
        webpki::Error::CertExpired { .. } => CertificateRefusal::Expired(name),
        webpki::Error::CertNotValidYet { .. } => CertificateRefusal::NotYetValid(name),
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EndEntityUsedAsCa => {
            CertificateRefusal::Usage(name)
        }
        webpki::Error::BadDer => CertificateRefusal::Malformed,
        _ => CertificateRefusal::Issuer(name),
    }
}

fn public_key_digest(leaf: &CertificateDer<'_>) -> Result<Digest, CertificateRefusal> {
    let (_, certificate) =
        x509_parser::parse_x509_certificate(leaf).map_err(|_| CertificateRefusal::Malformed)?;
    Ok(Digest::of(certificate.tbs_certificate.subject_pki.raw))
}

/// Verifies peers against the latest directory, in both directions.
#[derive(Debug)]
pub(crate) struct PartyVerifier {
    trust: Trust,
    /// The hop that is dialled; `None` when listening.
    dialled: Option<Hop>,
    algorithms: WebPkiSupportedAlgorithms,
    reason: Reason,
}

impl PartyVerifier {
    pub(crate) fn new(trust: Trust, dialled: Option<Hop>, provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self {
            trust,
            dialled,
            algorithms: provider.signature_verification_algorithms,
            reason: Reason::default(),
        })
    }

    /// Where the exact reason of a refusal is left.
    pub(crate) fn reason(&self) -> Reason {
        self.reason.clone()
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<(), Error> {
        let directory = self.trust.borrow().clone();
        let checked = verify_chain(&directory, leaf, intermediates, usage, now);
        let checked = checked.and_then(|(found, hop)| match &self.dialled {
            Some(dialled) if *dialled != hop => Err(CertificateRefusal::OtherHop {
                name: found,
                found: hop,
                wanted: dialled.clone(),
            }),
            _ => Ok(()),
        });
        checked.map_err(|refusal| {
            self.reason.set(&refusal);
            refusal.into_rustls()
        })
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

impl ServerCertVerifier for PartyVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(leaf, intermediates, KeyUsage::server_auth(), now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PartyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(leaf, intermediates, KeyUsage::client_auth(), now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
