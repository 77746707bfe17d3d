use std::os::unix::fs::PermissionsExt;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const NONCE: [u8; 16] = [0xa5; 16];
const STAMPED: &[u8] = include_bytes!("../../../../proto/vectors/time_stamp/stamped.txt");
const ANSWER: &[u8] = include_bytes!("../../../../proto/vectors/time_stamp/ecdsa.tsr");
const TRUSTED: &[u8] = include_bytes!("../../../../proto/vectors/time_stamp/authority.pem");
const GOOD: &str = "200 OK\r\ncontent-type: application/timestamp-reply";

/// A folder with the authority's certificate, and what a configuration says of it.
fn configured(url: &str) -> (tempfile::TempDir, TimeStampConfig) {
    let dir = tempfile::tempdir().unwrap();
    let authority = dir.path().join("tsa.pem");
    fs::write(&authority, TRUSTED).unwrap();
    let config = TimeStampConfig {
        url: url.parse().unwrap(),
        authority,
        tls_authority: None,
        authorization: None,
        every: Duration::from_secs(1),
    };
    (dir, config)
}

/// Answers the next request so; what was asked.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    head: &str,
    body: &[u8],
) -> String {
    let mut asked = Vec::new();
    let query = TimeStampRequest::new(STAMPED, NONCE).unwrap();
    while !asked.ends_with(query.to_bytes()) {
        let mut bytes = [0; 1024];
        let read = stream.read(&mut bytes).await.unwrap();
        assert!(read > 0, "the query did not come");
        asked.extend_from_slice(&bytes[..read]);
    }
    let head = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    // Whoever wants no more of a long body has gone.
    let _ = stream.write_all(body).await;
    let _ = stream.shutdown().await;
    asked.truncate(asked.len() - query.to_bytes().len());
    String::from_utf8(asked).unwrap()
}

async fn asked_over_http(
    head: &str,
    body: &[u8],
    change: impl FnOnce(&mut TimeStampConfig, &Path),
) -> (Result<(Vec<u8>, TimeStamp), String>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/tsr?kind=1", listener.local_addr().unwrap());
    let (dir, mut config) = configured(&url);
    change(&mut config, dir.path());
    let authority = Authority::load(&config).unwrap();
    let request = TimeStampRequest::new(STAMPED, NONCE).unwrap();
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        answer(stream, head, body).await
    };
    tokio::join!(authority.ask(&request), serve)
}

#[tokio::test]
async fn a_time_stamp_is_asked_for_as_the_rfc_says() {
    let secret = |config: &mut TimeStampConfig, dir: &Path| {
        let path = dir.join("secret");
        fs::write(&path, "Basic dXNlcjpwYXNz\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        config.authorization = Some(path);
    };
    let (got, asked) = asked_over_http(GOOD, ANSWER, secret).await;
    let (token, stamp) = got.unwrap();
    assert_eq!((stamp.doubt, &token[..]), (None, &ANSWER[9..]));
    let asked = asked.to_ascii_lowercase();
    for part in [
        "post /tsr?kind=1 http/1.1",
        "content-type: application/timestamp-query",
        "host: 127.0.0.1:",
        "authorization: basic dxnlcjpwyxnz",
    ] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
}

#[tokio::test]
async fn whatever_else_it_answers_is_told_with_its_place() {
    let long = vec![0; TIME_STAMP_RESPONSE_LEN_MAX + 1];
    for (head, body, told) in [
        (
            "401 Unauthorized",
            &b""[..],
            "name it in [time_stamp] authorization",
        ),
        ("404 Not Found", b"", "look at [time_stamp] url"),
        ("500 Internal Server Error", b"", "500"),
        (
            "200 OK\r\ncontent-type: text/html",
            b"<p>",
            "\"text/html\", which is no time-stamp",
        ),
        (GOOD, b"", "cannot be read"),
        (GOOD, &ANSWER[..ANSWER.len() - 1], "cannot be read"),
        (GOOD, &long, "length limit exceeded"),
    ] {
        let (got, _) = asked_over_http(head, body, |_, _| {}).await;
        let why = got.unwrap_err();
        assert!(
            why.starts_with("the time-stamping authority at 127.0.0.1:"),
            "{why}"
        );
        assert!(why.contains(told), "{told} in {why}");
    }
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_dir, config) = configured(&format!("http://{}/", closed.local_addr().unwrap()));
    drop(closed);
    let request = TimeStampRequest::new(STAMPED, NONCE).unwrap();
    let why = Authority::load(&config)
        .unwrap()
        .ask(&request)
        .await
        .unwrap_err();
    assert!(why.contains("refused"), "{why}");
}

/// A web server's certificate for `127.0.0.1`, with the certificate that vouches for it in PEM.
fn server() -> (ServerConfig, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &root).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        );
    (config.unwrap(), root.pem())
}

#[tokio::test]
async fn a_web_server_that_nobody_vouches_for_is_asked_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/tsr", listener.local_addr().unwrap());
    let (dir, mut config) = configured(&url);
    let (server, pem) = server();
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let vouching = dir.path().join("https.pem");
    config.tls_authority = Some(vouching.clone());
    let request = TimeStampRequest::new(STAMPED, NONCE).unwrap();
    fs::write(&vouching, pem).unwrap();
    let authority = Authority::load(&config).unwrap();
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        answer(acceptor.accept(stream).await.unwrap(), GOOD, ANSWER).await
    };
    let (got, _) = tokio::join!(authority.ask(&request), serve);
    assert_eq!(got.unwrap().1.doubt, None);
    fs::write(&vouching, self::server().1).unwrap();
    let authority = Authority::load(&config).unwrap();
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        assert!(acceptor.accept(stream).await.is_err());
    };
    let (got, ()) = tokio::join!(authority.ask(&request), serve);
    let why = got.unwrap_err();
    assert!(why.contains("certificate"), "{why}");
}

#[test]
fn every_file_that_cannot_be_used_is_named_at_once() {
    let (dir, mut config) = configured("https://tsa.example/");
    fs::write(&config.authority, "nothing").unwrap();
    config.tls_authority = Some(dir.path().join("missing.pem"));
    let open = dir.path().join("open");
    fs::write(&open, "Basic x").unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    config.authorization = Some(open.clone());
    let problems = Authority::load(&config).err().unwrap();
    let files: Vec<_> = problems
        .iter()
        .map(|problem| problem.file.clone())
        .collect();
    let missing = config.tls_authority.unwrap();
    assert_eq!(files, [config.authority, missing, open]);
    assert!(problems.iter().all(|problem| !problem.remedy.is_empty()));
}
