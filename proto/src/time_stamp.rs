//! Time-stamps of an authority over checkpoints (RFC 3161, RFC 5816).
//!
//! A cosignature says when by the clock of a partner, who has a part in the exchange. A time-stamp
//! says when by the clock of somebody who has none. What is stamped is the text of a checkpoint
//! (c2sp.org/tlog-checkpoint: origin, size, root), so it shows that everything under that root was
//! there, signatures included. It does not show that no other log was stamped as well: only
//! cosignatures do, so a time-stamp never makes a statement count that no partner has cosigned.
//!
//! Whether an authority is a qualified one (eIDAS, articles 41 and 42) is not judged here: the
//! trusted lists of the member states say so.

mod message;
#[cfg(test)]
mod tests;
mod token;

use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::Timestamp;

pub use message::TimeStampRequest;

/// Longest token in bytes: a few certificates, and one signature.
pub const TIME_STAMP_LEN_MAX: usize = 32 * 1024;
/// Longest answer of an authority in bytes: a token and what it says besides.
pub const TIME_STAMP_RESPONSE_LEN_MAX: usize = TIME_STAMP_LEN_MAX + 4096;
/// Most authorities that are trusted at once.
pub const TIME_AUTHORITIES_MAX: usize = 64;
/// Random bytes that an answer must repeat.
pub const TIME_STAMP_NONCE_LEN: usize = 16;

/// Why a time-stamp shows nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeStampError {
    /// Longer than any token.
    #[error("it has {bytes} bytes; a time-stamp has at most {TIME_STAMP_LEN_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not in DER, or not what it is to be.
    #[error("{what} cannot be read: {why}")]
    Encoding {
        /// Which part.
        what: &'static str,
        /// What the decoder says.
        why: String,
    },
    /// The authority has refused to stamp.
    #[error("the authority refuses (status {status}): {text}")]
    Refused {
        /// `PKIStatus` of RFC 3161, 2.4.2.
        status: u8,
        /// What it says about it.
        text: String,
    },
    /// A part that RFC 3161 demands otherwise.
    #[error("{0}")]
    Form(&'static str),
    /// Something else was stamped.
    #[error("it stamps something else")]
    Imprint,
    /// An algorithm that is not known here, or not believed any more.
    #[error("it uses the algorithm {oid}, which is not accepted here")]
    Algorithm {
        /// Its object identifier.
        oid: String,
    },
    /// The signature does not verify.
    #[error("its signature does not verify under the certificate of {authority}")]
    Signature {
        /// Whose certificate.
        authority: String,
    },
    /// No certificates where there are to be some.
    #[error("there is no certificate in PEM form, or there are more than {TIME_AUTHORITIES_MAX}")]
    Authorities,
    /// A certificate that cannot be trusted as an authority.
    #[error("certificate {number} cannot be an authority: {why}")]
    Authority {
        /// Which one of the file, from 1.
        number: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// Certificates of the time-stamping authorities that somebody trusts.
#[derive(Debug, Clone, Default)]
pub struct TimeAuthorities(Vec<CertificateDer<'static>>);

impl TimeAuthorities {
    /// Reads certificates in PEM form, one behind the other.
    ///
    /// # Errors
    /// [`TimeStampError::Authorities`] or [`TimeStampError::Authority`].
    pub fn from_pem(text: &[u8]) -> Result<Self, TimeStampError> {
        let mut certificates = Vec::new();
        for (at, certificate) in CertificateDer::pem_slice_iter(text).enumerate() {
            let refuse = |why: String| TimeStampError::Authority {
                number: at + 1,
                why,
            };
            let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
            webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|error| refuse(error.to_string()))?;
            certificates.push(certificate);
        }
        match certificates.len() {
            1..=TIME_AUTHORITIES_MAX => Ok(Self(certificates)),
            _ => Err(TimeStampError::Authorities),
        }
    }

    /// Those of both.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a time-stamp says. Its signature holds; whether it can be believed, `doubt` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeStamp {
    /// When, by the authority's clock.
    pub at: Timestamp,
    /// How far that may be off, as the authority says; `None` when it does not say.
    pub accuracy: Option<Duration>,
    /// Name of the authority in its certificate (RFC 4514).
    pub authority: String,
    /// Policy that it was made under, an object identifier.
    pub policy: String,
    /// Number of the time-stamp with its authority, hex.
    pub serial: String,
    /// Why the authority is not believed; `None`: somebody who is trusted vouches for it.
    pub doubt: Option<String>,
}

impl TimeStamp {
    /// Verifies a token over `stamped`: imprint, signature, and who vouches for the signer.
    ///
    /// The certificates are judged at the time that the token shows. Whether one of them was
    /// revoked is not asked: a lost key of an authority is for its supervisor to say.
    ///
    /// # Errors
    /// [`TimeStampError`]: the token shows nothing. An authority that nobody here trusts is no
    /// error but a [`TimeStamp::doubt`].
    pub fn verify(
        token: &[u8],
        stamped: &[u8],
        authorities: &TimeAuthorities,
    ) -> Result<Self, TimeStampError> {
        token::Token::parse(token)?.verify(stamped, authorities)
    }

    /// The latest instant at which what was stamped was there, if the authority is believed.
    pub fn latest(&self) -> Timestamp {
        self.at
            .saturating_add(self.accuracy.unwrap_or(Duration::ZERO))
    }
}
