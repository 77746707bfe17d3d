//! Our own certificate and its key.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use passerelle_proto::read_secret_file;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::sign::CertifiedKey;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION};

use crate::verifier::leaf_name;

/// Certificates that one chain may have.
const CHAIN_MAX: usize = 8;
/// Longest file of certificates in bytes.
const CERTIFICATE_FILE_LEN_MAX: u64 = 256 * 1024;

/// A certificate chain with its key, checked to belong together.
///
/// Clones share it: after [`Identity::reload`] all new connections present the new certificate.
#[derive(Clone, Debug)]
pub struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    name: Arc<str>,
    current: Arc<RwLock<Current>>,
    // The two files as they were when they were read last, in vain or not.
    looked: Arc<Mutex<[Stamp; 2]>>,
}

/// What tells one content of a file from the next: time of change, length and inode.
type Stamp = Option<(i64, i64, u64, u64)>;

fn stamp(path: &Path) -> Stamp {
    let found = fs::metadata(path).ok()?;
    Some((found.ctime(), found.ctime_nsec(), found.len(), found.ino()))
}

#[derive(Debug)]
struct Current {
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
    /// The leaf must have exactly one DNS name, a key of ECDSA P-256 or RSA (other clients refuse
    /// Ed25519), and a last day that has not passed.
    ///
    /// # Errors
    /// [`IdentityError`] names the file and what is wrong with it.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let stamps = [stamp(certificate), stamp(key)];
        let (name, current) = read(certificate, key)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            name: name.into(),
            current: Arc::new(RwLock::new(current)),
            looked: Arc::new(Mutex::new(stamps)),
        })
    }

    /// Reads the files again if they have changed since they were read last; whether they had.
    ///
    /// Of two files that are replaced one after the other, the first alone is an error; the
    /// second makes both good.
    ///
    /// # Errors
    /// As [`Identity::reload`]; once for each change.
    pub fn reload_if_changed(&self) -> Result<bool, IdentityError> {
        let found = [stamp(&self.certificate), stamp(&self.key)];
        {
            let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
            if *looked == found {
                return Ok(false);
            }
            *looked = found;
        }
        self.reload().map(|()| true)
    }

    /// Reads the files again; connections made from now on use what they hold.
    ///
    /// # Errors
    /// [`IdentityError`], also when the name is another one; then everything stays as it was.
    pub fn reload(&self) -> Result<(), IdentityError> {
        let (name, current) = read(&self.certificate, &self.key)?;
        if name != *self.name {
            return Err(IdentityError::Certificate {
                path: self.certificate.clone(),
                problem: format!("is for {name}; {} is running: restart it", self.name),
            });
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current;
        Ok(())
    }

    /// The one DNS name in the certificate.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Last second at which the certificate holds, Unix time.
    pub fn not_after_s(&self) -> i64 {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).not_after
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        let current = self.current.read();
        let current = current.unwrap_or_else(PoisonError::into_inner);
        current.key.clone()
    }
}

fn read(certificate: &Path, key: &Path) -> Result<(String, Current), IdentityError> {
    let refuse = |problem: String| IdentityError::Certificate {
        path: certificate.to_owned(),
        problem,
    };
    let chain = chain(certificate).map_err(refuse)?;
    let leaf = chain
        .first()
        .filter(|_| chain.len() <= CHAIN_MAX)
        .ok_or_else(|| refuse("holds no certificate, or more than eight".into()))?;
    let name = leaf_name(leaf).map_err(|refusal| refuse(refusal.to_string()))?;
    let not_after = check_leaf(leaf).map_err(refuse)?;
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
    let key = Arc::new(certified);
    Ok((name, Current { not_after, key }))
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > CERTIFICATE_FILE_LEN_MAX {
        return Err(format!("{length} bytes are too many for certificates"));
    }
    let chain = CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())?;
    chain
        .collect::<Result<_, _>>()
        .map_err(|error| format!("no PEM certificate: {error}"))
}

/// Last second of a leaf that may be used now.
fn check_leaf(leaf: &CertificateDer<'_>) -> Result<i64, String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf)
        .map_err(|_| "is no X.509 certificate".to_owned())?;
    let key = &certificate.tbs_certificate.subject_pki.algorithm;
    let curve = key.parameters.as_ref().and_then(|any| any.as_oid().ok());
    let usable = key.algorithm == OID_PKCS1_RSAENCRYPTION
        || key.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256);
    if !usable {
        return Err("must have a key of ECDSA P-256 or RSA: other clients refuse the rest".into());
    }
    let not_after = certificate.validity().not_after;
    match not_after.timestamp() < UnixTime::now().as_secs().cast_signed() {
        true => Err(format!("has expired on {not_after}: renew it")),
        false => Ok(not_after.timestamp()),
    }
}
