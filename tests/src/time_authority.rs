//! A time-stamping authority: `openssl ts` behind HTTP.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;

/// Longest query that it reads, in bytes.
const QUERY_LEN_MAX: usize = 4096;

const CONFIG: &str = "
[ tsa ]
serial = ./serial
crypto_device = builtin
default_policy = 1.3.6.1.4.1.99999.1
digests = sha256
accuracy = secs:1
ess_cert_id_alg = sha256
[ stamps ]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
";

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Stamps,
    /// `503`.
    IsAway,
    /// With the answer that it gave first, to whatever is asked.
    Repeats,
}

/// One that runs until it is dropped; its thread ends with the process.
pub struct TimeAuthority {
    folder: TempDir,
    port: u16,
    manner: Arc<Mutex<Manner>>,
}

impl TimeAuthority {
    /// Makes its root, its key and its certificate, and answers from then on.
    ///
    /// # Panics
    /// When `openssl` is not there or refuses.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        fs::write(dir.join("openssl.cnf"), CONFIG).unwrap();
        fs::write(dir.join("serial"), "01\n").unwrap();
        for line in [
            "req -x509 -newkey rsa:2048 -nodes -subj /CN=root -days 2 -keyout root.key \
             -out root.pem",
            "req -newkey rsa:2048 -nodes -subj /CN=authority -keyout tsa.key -out tsa.csr",
            "x509 -req -in tsa.csr -CA root.pem -CAkey root.key -CAcreateserial -days 2 \
             -extfile openssl.cnf -extensions stamps -out tsa.pem",
        ] {
            openssl(dir, &line.split_whitespace().collect::<Vec<_>>());
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let manner = Arc::new(Mutex::new(Manner::Stamps));
        let (serving, at) = (manner.clone(), dir.to_owned());
        std::thread::spawn(move || serve(&listener, &at, &serving));
        Self {
            folder,
            port,
            manner,
        }
    }

    /// The certificate that vouches for its own.
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// What a gateway's configuration says to use it, so often.
    pub fn config(&self, every_s: u64) -> String {
        format!(
            "\n[time_stamp]\nurl = \"http://127.0.0.1:{}/tsr\"\nauthority = {:?}\n\
             every_s = {every_s}\n",
            self.port,
            self.root()
        )
    }

    /// Answers like this from now on.
    pub fn set(&self, manner: Manner) {
        *self.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }
}

/// Runs `openssl` in a folder.
///
/// # Panics
/// When it fails.
pub fn openssl(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .current_dir(dir)
        .args(arguments)
        .output()
        .unwrap();
    let told =
        [output.stdout, output.stderr].map(|part| String::from_utf8_lossy(&part).into_owned());
    let told: String = told.concat();
    assert!(output.status.success(), "openssl {arguments:?}: {told}");
    told
}

fn serve(listener: &TcpListener, dir: &Path, manner: &Mutex<Manner>) {
    let mut first = None;
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let Some(query) = read(&stream) else { continue };
        let now = *manner.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match (now, &first) {
            (Manner::IsAway, _) => None,
            (Manner::Repeats, Some(first)) => Some(Vec::clone(first)),
            _ => Some(stamp(dir, &query)),
        };
        if let Some(answer) = &answer {
            first.get_or_insert_with(|| answer.clone());
        }
        // Whoever has asked may have gone.
        let _ = reply(&mut stream, answer.as_deref());
    }
}

fn read(stream: &TcpStream) -> Option<Vec<u8>> {
    let mut reader = BufReader::new(stream);
    let (mut length, mut is_query) = (0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        match line.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().ok()?,
            Some(("content-type", value)) => is_query = value == "application/timestamp-query",
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    let mut query = vec![0; length];
    reader.read_exact(&mut query).ok()?;
    (is_query && length <= QUERY_LEN_MAX).then_some(query)
}

fn stamp(dir: &Path, query: &[u8]) -> Vec<u8> {
    fs::write(dir.join("query.tsq"), query).unwrap();
    let line = "ts -reply -config openssl.cnf -section tsa -queryfile query.tsq -sha256 \
                -signer tsa.pem -inkey tsa.key -out answer.tsr";
    openssl(dir, &line.split_whitespace().collect::<Vec<_>>());
    fs::read(dir.join("answer.tsr")).unwrap()
}

fn reply(stream: &mut TcpStream, answer: Option<&[u8]>) -> std::io::Result<()> {
    let (status, body) = match answer {
        Some(body) => ("200 OK", body),
        None => ("503 Service Unavailable", &b"later"[..]),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/timestamp-reply\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)
}
