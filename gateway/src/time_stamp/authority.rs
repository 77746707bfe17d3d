//! Asking an authority over HTTP (RFC 3161, 3.4).

#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use passerelle_proto::{
    SecretFileError, TIME_STAMP_RESPONSE_LEN_MAX, TimeAuthorities, TimeStamp, TimeStampRequest,
    read_secret_file,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::config::TimeStampConfig;
use crate::config::Problem;
use crate::materials::problem;

/// Longest wait for an answer, from the connection to its last byte.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Longest file of certificates, in bytes.
const CERTIFICATES_LEN_MAX: u64 = 256 * 1024;

const QUERY: HeaderValue = HeaderValue::from_static("application/timestamp-query");
const REPLY: &str = "application/timestamp-reply";

/// A time-stamping authority that is configured.
pub(crate) struct Authority {
    host: String,
    port: u16,
    target: String,
    header: String,
    trusted: TimeAuthorities,
    tls: Option<Arc<ClientConfig>>,
    authorization: Option<HeaderValue>,
}

impl Authority {
    /// Reads the files that the configuration names.
    ///
    /// # Errors
    /// Every problem at once, each with its file and a remedy.
    pub(crate) fn load(config: &TimeStampConfig) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let trusted = load(&config.authority, &mut problems, |bytes| {
            TimeAuthorities::from_pem(bytes).map_err(|error| error.to_string())
        });
        let tls = config.tls_authority.as_ref();
        let tls = tls.map(|path| load(path, &mut problems, tls_config));
        let authorization = config.authorization.as_ref();
        let authorization = authorization.map(|path| secret(path, &mut problems));
        let url = &config.url;
        let port = if url.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let target = url.path_and_query().map_or("/", |target| target.as_str());
        match (trusted, problems.is_empty()) {
            (Some(trusted), true) => Ok(Self {
                // An address of IPv6 stands in brackets in a URL and nowhere else.
                host: url
                    .host()
                    .unwrap_or_default()
                    .trim_matches(['[', ']'])
                    .to_owned(),
                port: url.port_u16().unwrap_or(port),
                target: target.to_owned(),
                header: url.authority().map_or(String::new(), ToString::to_string),
                trusted,
                tls: tls.flatten(),
                authorization: authorization.flatten(),
            }),
            _ => Err(problems),
        }
    }

    /// Who vouches for its time-stamps.
    pub(crate) fn trusted(&self) -> &TimeAuthorities {
        &self.trusted
    }

    /// Asks for a time-stamp: the token, and what it says.
    ///
    /// # Errors
    /// Why there is none, in words. Asking again may help.
    pub(crate) async fn ask(
        &self,
        request: &TimeStampRequest,
    ) -> Result<(Vec<u8>, TimeStamp), String> {
        let (host, port) = (&self.host, self.port);
        let place = |why: String| format!("the time-stamping authority at {host}:{port}: {why}");
        let answer = tokio::time::timeout(ANSWER_MAX, self.post(request.to_bytes())).await;
        let seconds = ANSWER_MAX.as_secs();
        let answer = answer.map_err(|_| place(format!("no answer within {seconds} s")))?;
        let answer = answer.map_err(place)?;
        let accepted = request.accept(&answer, &self.trusted);
        accepted.map_err(|error| place(error.to_string()))
    }

    async fn post(&self, query: &[u8]) -> Result<Bytes, String> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await;
        let tcp = tcp.map_err(|error| error.to_string())?;
        let Some(tls) = &self.tls else {
            return self.exchange(TokioIo::new(tcp), query).await;
        };
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        let secured = TlsConnector::from(tls.clone()).connect(name, tcp).await;
        let secured = secured.map_err(|error| error.to_string())?;
        self.exchange(TokioIo::new(secured), query).await
    }

    async fn exchange<S>(&self, stream: S, query: &[u8]) -> Result<Bytes, String>
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let words = |error: hyper::Error| error.to_string();
        let (mut sender, connection) = http1::handshake(stream).await.map_err(words)?;
        let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let mut request = Request::post(&self.target)
            .header(HOST, &self.header)
            .header(CONTENT_TYPE, QUERY)
            .header(ACCEPT, REPLY)
            .header(CONNECTION, "close");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(query)));
        let request = request.map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(words)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(format!("it answers {status}{}", hint(status)));
        }
        let kind = response.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("");
        if !kind.starts_with(REPLY) {
            return Err(format!("it answers with {kind:?}, which is no time-stamp"));
        }
        let body = Limited::new(response.into_body(), TIME_STAMP_RESPONSE_LEN_MAX);
        let body = body.collect().await.map_err(|error| error.to_string())?;
        Ok(body.to_bytes())
    }
}

fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            ": put what it asks for into a file and name it in [time_stamp] authorization"
        }
        StatusCode::NOT_FOUND => ": look at [time_stamp] url",
        _ => "",
    }
}

fn tls_config(bytes: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bytes) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("there is no certificate in PEM form".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn load<T>(
    path: &Path,
    problems: &mut Vec<Problem>,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Option<T> {
    let read = || {
        let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
        if length > CERTIFICATES_LEN_MAX {
            return Err(format!(
                "{length} bytes; at most {CERTIFICATES_LEN_MAX} are read"
            ));
        }
        fs::read(path).map_err(|error| error.to_string())
    };
    let parsed = read().and_then(|bytes| parse(&bytes));
    let told = parsed.map_err(|what| {
        let remedy = "name a file with the authority's certificates in PEM form in [time_stamp]";
        problems.push(problem(path, what, remedy));
    });
    told.ok()
}

fn secret(path: &Path, problems: &mut Vec<Problem>) -> Option<HeaderValue> {
    let read = read_secret_file(path).map_err(|error: SecretFileError| error.to_string());
    let value = read.and_then(|text| {
        let value = HeaderValue::from_str(text.trim());
        value.map_err(|_| "it is no value of a header".to_owned())
    });
    let mut value = value
        .map_err(|what| {
            let remedy = "put the value of the Authorization header into it, mode 0600";
            problems.push(problem(path, what, remedy));
        })
        .ok()?;
    value.set_sensitive(true);
    Some(value)
}
