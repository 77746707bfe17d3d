//! The certificate authority of one party, as an institution's own PKI would be.

use std::path::Path;

use passerelle_proto::{PartyId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};

use super::{LIFE, LabError, io_at, secrets};

/// Issues certificates for ECDSA P-256 keys with exactly one DNS name each.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    key: String,
}

impl Authority {
    /// A new authority for a party, valid from `today`.
    pub fn create(party: &PartyId, today: Timestamp) -> Result<Authority, LabError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = named(&format!("{party} laboratory authority"));
        validity(&mut params, today);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let pem = key.serialize_pem();
        Ok(Authority {
            issuer: CertifiedIssuer::self_signed(params, key)?,
            key: pem,
        })
    }

    /// Its certificate, PEM.
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// Its secret key, PEM.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Writes `stem.pem` and `stem.key` for one DNS name, for use as client and as server.
    pub fn issue(&self, name: &str, today: Timestamp, stem: &Path) -> Result<(), LabError> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.distinguished_name = named(name);
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, today);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let path = stem.with_extension("pem");
        std::fs::write(&path, certificate.pem()).map_err(io_at(&path))?;
        secrets::write(&stem.with_extension("key"), &key.serialize_pem())
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn validity(params: &mut CertificateParams, today: Timestamp) {
    params.not_before = (std::time::UNIX_EPOCH + span(today)).into();
    params.not_after = (std::time::UNIX_EPOCH + span(today.saturating_add(LIFE))).into();
}

fn span(at: Timestamp) -> std::time::Duration {
    at.since(Timestamp::from_ms(0))
}
