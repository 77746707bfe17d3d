//! A token: CMS `SignedData` over `TSTInfo` (RFC 3161, 2.4.2; RFC 5652, 5).

use std::time::Duration;

use cms::attr::MessageDigest;
use cms::cert::CertificateChoices;
use cms::cert::x509::Certificate;
use cms::cert::x509::attr::Attribute;
use cms::cert::x509::ext::pkix::{ExtendedKeyUsage, SubjectKeyIdentifier};
use cms::cert::x509::spki::AlgorithmIdentifierOwned;
use cms::content_info::ContentInfo;
use cms::signed_data::{SignedData, SignerIdentifier, SignerInfo};
use der::asn1::{Any, Int, ObjectIdentifier, OctetString};
use der::{Decode, Encode, Sequence, Tag, Tagged};
use ring::digest;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{EndEntityCert, KeyUsage, ring as algorithms};

use super::{TIME_STAMP_LEN_MAX, TimeAuthorities, TimeStamp, TimeStampError};
use crate::{Digest, Timestamp};

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const SIGNING_CERTIFICATE_V2: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");
const TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");
/// The same, as webpki wants it.
const TIME_STAMPING_BYTES: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 8];
const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const SUBJECT_KEY_IDENTIFIER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.14");
pub(super) const SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA_512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

type Algorithm = &'static dyn SignatureVerificationAlgorithm;

/// `MessageImprint`.
#[derive(Debug, Clone, PartialEq, Eq, Sequence)]
pub(super) struct MessageImprint {
    pub(super) hash_algorithm: AlgorithmIdentifierOwned,
    pub(super) hashed_message: OctetString,
}

/// `TSTInfo`. The time is read by us: the one of `der` has no fractions of a second.
#[derive(Debug, Clone, PartialEq, Eq, Sequence)]
struct TstInfo {
    version: u8,
    policy: ObjectIdentifier,
    message_imprint: MessageImprint,
    serial_number: Int,
    gen_time: Any,
    #[asn1(optional = "true")]
    accuracy: Option<Accuracy>,
    #[asn1(default = "Default::default")]
    ordering: bool,
    #[asn1(optional = "true")]
    nonce: Option<Int>,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    tsa: Option<Any>,
    #[asn1(
        context_specific = "1",
        tag_mode = "IMPLICIT",
        constructed = "true",
        optional = "true"
    )]
    extensions: Option<cms::cert::x509::ext::Extensions>,
}

/// `Accuracy`.
#[derive(Debug, Clone, PartialEq, Eq, Sequence)]
struct Accuracy {
    #[asn1(optional = "true")]
    seconds: Option<u32>,
    #[asn1(context_specific = "0", tag_mode = "IMPLICIT", optional = "true")]
    millis: Option<u16>,
    #[asn1(context_specific = "1", tag_mode = "IMPLICIT", optional = "true")]
    micros: Option<u16>,
}

/// `SigningCertificateV2` (RFC 5035).
#[derive(Sequence)]
struct SigningCertificate {
    certificates: Vec<CertificateId>,
    #[asn1(optional = "true")]
    policies: Option<Any>,
}

/// `ESSCertIDv2`.
#[derive(Sequence)]
struct CertificateId {
    /// Absent: SHA-256.
    #[asn1(optional = "true")]
    hash_algorithm: Option<AlgorithmIdentifierOwned>,
    hash: OctetString,
    #[asn1(optional = "true")]
    issuer_serial: Option<Any>,
}

pub(super) fn encoding(what: &'static str) -> impl Fn(der::Error) -> TimeStampError + Copy {
    move |error| TimeStampError::Encoding {
        what,
        why: error.to_string(),
    }
}

/// A token that has the form of one. Nothing in it is verified.
pub(super) struct Token {
    content: Vec<u8>,
    info: TstInfo,
    signer: SignerInfo,
    certificates: Vec<Certificate>,
}

impl Token {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, TimeStampError> {
        if bytes.len() > TIME_STAMP_LEN_MAX {
            let bytes = bytes.len();
            return Err(TimeStampError::TooLong { bytes });
        }
        let fail = encoding("the time-stamp");
        let outer = ContentInfo::from_der(bytes).map_err(fail)?;
        if outer.content_type != SIGNED_DATA {
            return Err(TimeStampError::Form("it is no signed data"));
        }
        let signed: SignedData = outer.content.decode_as().map_err(fail)?;
        let encapsulated = signed.encap_content_info;
        if encapsulated.econtent_type != TST_INFO {
            return Err(TimeStampError::Form("what is signed in it is no time"));
        }
        let content = encapsulated.econtent;
        let content = content.ok_or(TimeStampError::Form("what is signed is not in it"))?;
        let content: OctetString = content.decode_as().map_err(fail)?;
        let content = content.into_bytes();
        let info = TstInfo::from_der(&content).map_err(encoding("the time in it"))?;
        if info.version != 1 {
            return Err(TimeStampError::Form("it is of another version than 1"));
        }
        let mut signers = signed.signer_infos.0.into_vec();
        let signer = match (signers.pop(), signers.is_empty()) {
            (Some(signer), true) => signer,
            _ => return Err(TimeStampError::Form("it has not exactly one signer")),
        };
        let certificates = signed.certificates.into_iter();
        let certificates = certificates.flat_map(|set| set.0.into_vec());
        let certificates = certificates.filter_map(|choice| match choice {
            CertificateChoices::Certificate(certificate) => Some(certificate),
            CertificateChoices::Other(_) => None,
        });
        Ok(Self {
            content,
            info,
            signer,
            certificates: certificates.collect(),
        })
    }

    pub(super) fn nonce(&self) -> Option<&Int> {
        self.info.nonce.as_ref()
    }

    #[cfg(test)]
    pub(super) fn signature(&self) -> &[u8] {
        self.signer.signature.as_bytes()
    }

    #[cfg(test)]
    pub(super) fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    pub(super) fn verify(
        &self,
        stamped: &[u8],
        authorities: &TimeAuthorities,
    ) -> Result<TimeStamp, TimeStampError> {
        let imprint = &self.info.message_imprint;
        known(&imprint.hash_algorithm.oid, &[SHA_256])?;
        if imprint.hashed_message.as_bytes() != Digest::of(stamped).as_bytes() {
            return Err(TimeStampError::Imprint);
        }
        let certificate = self.certificate()?;
        let encoded = certificate.to_der().map_err(encoding("a certificate"))?;
        let attributes = self.attributes(&encoded)?;
        let authority = certificate.tbs_certificate.subject.to_string();
        for_time_stamping_only(certificate)?;
        let encoded = CertificateDer::from(encoded);
        let end = EndEntityCert::try_from(&encoded).map_err(|error| TimeStampError::Encoding {
            what: "the authority's certificate",
            why: error.to_string(),
        })?;
        let signature = self.signer.signature.as_bytes();
        let algorithms = self.algorithms()?;
        let mut held = algorithms.iter();
        if !held.any(|one| end.verify_signature(*one, &attributes, signature).is_ok()) {
            return Err(TimeStampError::Signature { authority });
        }
        let at = generalized_time(&self.info.gen_time)?;
        Ok(TimeStamp {
            at,
            accuracy: self.accuracy(),
            doubt: self.doubt(&end, authorities, at, &authority)?,
            authority,
            policy: self.info.policy.to_string(),
            serial: hex(self.info.serial_number.as_bytes()),
        })
    }

    /// The signer's certificate.
    fn certificate(&self) -> Result<&Certificate, TimeStampError> {
        let is_named = |certificate: &&Certificate| match &self.signer.sid {
            SignerIdentifier::IssuerAndSerialNumber(named) => {
                let certificate = &certificate.tbs_certificate;
                named.issuer == certificate.issuer
                    && named.serial_number == certificate.serial_number
            }
            SignerIdentifier::SubjectKeyIdentifier(named) => {
                let found = extension(certificate, &SUBJECT_KEY_IDENTIFIER);
                let found = found.and_then(|(_, value)| SubjectKeyIdentifier::from_der(value).ok());
                found.is_some_and(|found| found == *named)
            }
        };
        let found = self.certificates.iter().find(is_named);
        found.ok_or(TimeStampError::Form(
            "the certificate of its signer is not in it",
        ))
    }

    /// What the signature is over, if it speaks of this content and of this certificate.
    fn attributes(&self, certificate: &[u8]) -> Result<Vec<u8>, TimeStampError> {
        let fail = encoding("the signed attributes");
        let attributes = self.signer.signed_attrs.as_ref();
        let attributes = attributes.ok_or(TimeStampError::Form("it has no signed attributes"))?;
        let one = |oid: &ObjectIdentifier| -> Result<&Any, TimeStampError> {
            let mut found = attributes.iter().filter(|it: &&Attribute| it.oid == *oid);
            match (found.next(), found.next()) {
                (Some(attribute), None) if attribute.values.len() == 1 => attribute
                    .values
                    .get(0)
                    .ok_or(TimeStampError::Form("a signed attribute is empty")),
                _ => Err(TimeStampError::Form(
                    "it does not sign once each: what it is, its digest, and its certificate by \
                     SHA-2 (RFC 5816)",
                )),
            }
        };
        let kind: ObjectIdentifier = one(&CONTENT_TYPE)?.decode_as().map_err(fail)?;
        if kind != TST_INFO {
            return Err(TimeStampError::Form("its signature is over something else"));
        }
        let digest: MessageDigest = one(&MESSAGE_DIGEST)?.decode_as().map_err(fail)?;
        let hash = hash_of(&self.signer.digest_alg.oid)?;
        if digest.as_bytes() != digest::digest(hash, &self.content).as_ref() {
            return Err(TimeStampError::Form("its digest is of something else"));
        }
        let named: SigningCertificate = one(&SIGNING_CERTIFICATE_V2)?.decode_as().map_err(fail)?;
        let named = named.certificates.first();
        let named = named.ok_or(TimeStampError::Form("it names no certificate"))?;
        let hash = named.hash_algorithm.as_ref().map_or(SHA_256, |it| it.oid);
        let hash = hash_of(&hash)?;
        if named.hash.as_bytes() != digest::digest(hash, certificate).as_ref() {
            return Err(TimeStampError::Form("it names another certificate"));
        }
        attributes.to_der().map_err(fail)
    }

    /// What may have made the signature; the certificate's key decides which of them.
    fn algorithms(&self) -> Result<Vec<Algorithm>, TimeStampError> {
        let pss = self.signer.signature_algorithm.oid == RSA_PSS;
        Ok(match (self.signer.digest_alg.oid, pss) {
            (SHA_256, true) => vec![algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY],
            (SHA_384, true) => vec![algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY],
            (SHA_512, true) => vec![algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY],
            (SHA_256, false) => vec![
                algorithms::RSA_PKCS1_2048_8192_SHA256,
                algorithms::ECDSA_P256_SHA256,
                algorithms::ECDSA_P384_SHA256,
                algorithms::ED25519,
            ],
            (SHA_384, false) => vec![
                algorithms::RSA_PKCS1_2048_8192_SHA384,
                algorithms::ECDSA_P256_SHA384,
                algorithms::ECDSA_P384_SHA384,
                algorithms::ED25519,
            ],
            (SHA_512, false) => vec![algorithms::RSA_PKCS1_2048_8192_SHA512, algorithms::ED25519],
            (oid, _) => {
                let oid = oid.to_string();
                return Err(TimeStampError::Algorithm { oid });
            }
        })
    }

    fn accuracy(&self) -> Option<Duration> {
        let accuracy = self.info.accuracy.as_ref()?;
        let micros = u64::from(accuracy.millis.unwrap_or(0)) * 1000
            + u64::from(accuracy.micros.unwrap_or(0));
        let seconds = u64::from(accuracy.seconds.unwrap_or(0));
        Some(Duration::from_secs(seconds) + Duration::from_micros(micros))
    }

    /// Why nobody who is trusted vouches for the signer.
    fn doubt(
        &self,
        end: &EndEntityCert<'_>,
        authorities: &TimeAuthorities,
        at: Timestamp,
        authority: &str,
    ) -> Result<Option<String>, TimeStampError> {
        if authorities.is_empty() {
            let why = format!("nobody here has said that {authority} is to be believed");
            return Ok(Some(why));
        }
        let others = self.certificates.iter().map(|certificate| {
            let encoded = certificate.to_der().map_err(encoding("a certificate"))?;
            Ok(CertificateDer::from(encoded))
        });
        let others = others.collect::<Result<Vec<_>, TimeStampError>>()?;
        let anchors = authorities.0.iter();
        let anchors = anchors.filter_map(|it| webpki::anchor_from_trusted_cert(it).ok());
        let anchors: Vec<_> = anchors.collect();
        let seconds = u64::try_from(at.as_ms() / 1000).unwrap_or(0);
        let verified = end.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &others,
            UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            KeyUsage::required(TIME_STAMPING_BYTES),
            None,
            None,
        );
        let why = verified.err();
        Ok(why
            .map(|why| format!("no authority that is trusted here vouches for {authority}: {why}")))
    }
}

fn known(oid: &ObjectIdentifier, accepted: &[ObjectIdentifier]) -> Result<(), TimeStampError> {
    match accepted.contains(oid) {
        true => Ok(()),
        false => Err(TimeStampError::Algorithm {
            oid: oid.to_string(),
        }),
    }
}

fn hash_of(oid: &ObjectIdentifier) -> Result<&'static digest::Algorithm, TimeStampError> {
    known(oid, &[SHA_256, SHA_384, SHA_512])?;
    Ok(match *oid {
        SHA_256 => &digest::SHA256,
        SHA_384 => &digest::SHA384,
        _ => &digest::SHA512,
    })
}

/// Whether an extension is critical, and its value.
fn extension<'c>(certificate: &'c Certificate, oid: &ObjectIdentifier) -> Option<(bool, &'c [u8])> {
    let extensions = certificate.tbs_certificate.extensions.as_ref()?;
    let found = extensions.iter().find(|one| one.extn_id == *oid)?;
    Some((found.critical, found.extn_value.as_bytes()))
}

/// RFC 3161, 2.3: a key for time-stamps is for nothing else, and says so.
pub(super) fn for_time_stamping_only(certificate: &Certificate) -> Result<(), TimeStampError> {
    let usage = extension(certificate, &EXTENDED_KEY_USAGE);
    let only = usage.is_some_and(|(critical, value)| {
        let usage = ExtendedKeyUsage::from_der(value);
        critical && usage.is_ok_and(|usage| usage.0 == [TIME_STAMPING])
    });
    match only {
        true => Ok(()),
        false => Err(TimeStampError::Form(
            "its signer's certificate is not for time-stamps alone",
        )),
    }
}

/// `YYYYMMDDhhmmss[.f…]Z` (RFC 3161, 2.4.2).
fn generalized_time(value: &Any) -> Result<Timestamp, TimeStampError> {
    let malformed = || TimeStampError::Encoding {
        what: "the time in it",
        why: "it is not written as in RFC 3161".to_owned(),
    };
    if value.tag() != Tag::GeneralizedTime {
        return Err(malformed());
    }
    let text = std::str::from_utf8(value.value()).map_err(|_| malformed())?;
    let digits = text.strip_suffix('Z').ok_or_else(malformed)?;
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S%.f", digits);
    let time = time.ok().filter(|_| digits.get(..14).is_some());
    let time = time.and_then(|time| jiff::tz::Offset::UTC.to_timestamp(time).ok());
    Ok(Timestamp::from_ms(
        time.ok_or_else(malformed)?.as_millisecond(),
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_read_with_and_without_fractions() {
        let read = |text: &str| {
            let value = Any::new(Tag::GeneralizedTime, text.as_bytes()).unwrap();
            generalized_time(&value).map(Timestamp::as_ms)
        };
        assert_eq!(read("20261128131415Z"), Ok(1_795_871_655_000));
        assert_eq!(read("20261128131415.25Z"), Ok(1_795_871_655_250));
        for bad in [
            "20261128131415",
            "202611281314Z",
            "20261328131415Z",
            "",
            "Z",
            "20261128131415+0100",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let other = Any::new(Tag::Utf8String, *b"20261128131415Z").unwrap();
        assert!(generalized_time(&other).is_err());
    }
}
