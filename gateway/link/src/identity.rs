//! Our own certificate and its key.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use passerelle_proto::read_secret_file;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::verifier::{CertificateRefusal, leaf_name};

/// Certificates that one chain may have.
const CHAIN_MAX: usize = 8;
/// Longest file of certificates in bytes.
const CERTIFICATE_FILE_LEN_MAX: u64 = 256 * 1024;

/// A certificate chain with its key, checked to belong together.
#[derive(Clone, Debug)]
pub struct Identity {
    name: String,
    not_after: i64,
    key: Arc<CertifiedKey>,
}

/// Why a certificate or a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate file.
    #[error("{path}: {problem}")]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The key file: missing, or readable by others.
    #[error(transparent)]
    KeyFile(#[from] passerelle_proto::SecretFileError),
    /// The key itself.
    #[error("{path}: {problem}")]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Identity {
    /// Reads a PEM chain, leaf first, and the PEM key of the leaf.
    ///
    /// The chain must have exactly one DNS name, and a key of ECDSA P-256 or RSA: other clients
    /// refuse Ed25519.
    ///
    /// # Errors
    /// [`IdentityError`] names the file and what is wrong with it.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let refuse = |problem: String| IdentityError::Certificate {
            path: certificate.to_owned(),
            problem,
        };
        let length = fs::metadata(certificate)
            .map_err(|error| refuse(error.to_string()))?
            .len();
        if length > CERTIFICATE_FILE_LEN_MAX {
            return Err(refuse(format!(
                "{length} bytes are too many for certificates"
            )));
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(certificate)
            .map_err(|error| refuse(error.to_string()))?
            .collect();
        let chain = chain.map_err(|error| refuse(format!("no PEM certificate: {error}")))?;
        let leaf = chain
            .first()
            .filter(|_| chain.len() <= CHAIN_MAX)
            .ok_or_else(|| refuse("holds no certificate, or more than eight".into()))?;
        let name =
            leaf_name(leaf).map_err(|error: CertificateRefusal| refuse(error.to_string()))?;
        let not_after = not_after(leaf).ok_or_else(|| refuse("is no X.509 certificate".into()))?;
        let text = read_secret_file(key)?;
        let refuse_key = |problem: String| IdentityError::Key {
            path: key.to_owned(),
            problem,
        };
        let private = PrivateKeyDer::from_pem_slice(text.as_bytes())
            .map_err(|error| refuse_key(format!("no PEM private key: {error}")))?;
        let provider: CryptoProvider = rustls::crypto::ring::default_provider();
        let certified = CertifiedKey::from_der(chain, private, &provider).map_err(|error| {
            refuse_key(format!(
                "does not belong to {} ({error}): name the key of this certificate",
                certificate.display()
            ))
        })?;
        Ok(Self {
            name,
            not_after,
            key: Arc::new(certified),
        })
    }

    /// The one DNS name in the certificate.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Last second at which the certificate holds, Unix time.
    pub fn not_after_s(&self) -> i64 {
        self.not_after
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }
}

fn not_after(leaf: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    Some(certificate.validity().not_after.timestamp())
}
