//! `[time_stamp]` of `gateway.toml`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use passerelle_proto::{Document, Section};

/// Seconds between two time-stamps, unless configured: an hour.
const TIME_STAMP_EVERY_S_DEFAULT: u64 = 3600;

const URL_EXAMPLE: &str = "\"http://tsa.example.fr/tsr\"";

/// Where time-stamps come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeStampConfig {
    /// Where the authority answers: `http`, or `https` with `tls_authority`.
    pub url: Uri,
    /// Certificates in PEM that vouch for its time-stamps.
    pub authority: PathBuf,
    /// Certificates in PEM that vouch for its web server.
    pub tls_authority: Option<PathBuf>,
    /// File with the value of the `Authorization` header that it asks for; readable by its owner
    /// only.
    pub authorization: Option<PathBuf>,
    /// How often our log is stamped when there is anything new in it.
    pub every: Duration,
}

impl TimeStampConfig {
    /// Reads the section; `None` when there is none, or when it has a mistake.
    pub(crate) fn read<'i>(
        document: &mut Document<'i>,
        root: &mut Section<'i>,
        base: &Path,
    ) -> Option<Self> {
        let mut section = document.section(root, "time_stamp");
        let line = section.line();
        let url = document.optional(&mut section, "url", URL_EXAMPLE);
        let url = document.parsed::<Uri>("[time_stamp] url", url, URL_EXAMPLE);
        let authority = document.optional(&mut section, "authority", "\"tsa.pem\"");
        let tls_authority = document.optional(&mut section, "tls_authority", "\"tsa-https.pem\"");
        let authorization = document.optional(&mut section, "authorization", "\"tsa.secret\"");
        let every_s = TIME_STAMP_EVERY_S_DEFAULT;
        let every_s = document.number(&mut section, "every_s", every_s, 1);
        let is_used = tls_authority.is_some() || authorization.is_some();
        document.close(section);
        let (url, authority) = match (url, authority) {
            (Some(url), Some(authority)) => (url, authority),
            (None, None) if !is_used => return None,
            (url, _) => {
                let missing = if url.is_none() { "url" } else { "authority" };
                let what = format!("[time_stamp] {missing} is missing or cannot be used");
                let remedy = "give both url and authority, or remove the section";
                document.add(Some(line), what, remedy);
                return None;
            }
        };
        let at = Some(url.line);
        let (scheme, secure) = (url.value.scheme_str(), tls_authority.is_some());
        if let Some((what, remedy)) = mistake(&url.value, scheme, secure) {
            document.add(
                at,
                format!("[time_stamp] url = {}: {what}", url.value),
                remedy,
            );
        }
        Some(Self {
            url: url.value,
            authority: base.join(authority.value),
            tls_authority: tls_authority.map(|path| base.join(path.value)),
            authorization: authorization.map(|path| base.join(path.value)),
            every: Duration::from_secs(every_s),
        })
    }
}

fn mistake(url: &Uri, scheme: Option<&str>, secure: bool) -> Option<(&'static str, &'static str)> {
    let authority = url.authority().map(|authority| authority.as_str());
    match (scheme, authority) {
        (_, None | Some("")) => Some(("it names no host", "write the whole address")),
        (_, Some(authority)) if authority.contains('@') => Some((
            "it holds a name or a password",
            "put them into a file and name it in authorization",
        )),
        (Some("http"), _) if secure => Some((
            "tls_authority is given, and the address is not https",
            "write https, or remove tls_authority",
        )),
        (Some("http"), _) => None,
        (Some("https"), _) if secure => None,
        (Some("https"), _) => Some((
            "nothing says who vouches for that server",
            "name the certificates that do in tls_authority",
        )),
        _ => Some(("it is neither http nor https", "use one of them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<TimeStampConfig>, Vec<String>> {
        let (mut document, mut root) = Document::parse(Path::new("gateway.toml"), text);
        let read = TimeStampConfig::read(&mut document, &mut root, Path::new("/etc"));
        document.close(root);
        let problems = document.into_problems();
        match problems.is_empty() {
            true => Ok(read),
            false => Err(problems.into_iter().map(|problem| problem.what).collect()),
        }
    }

    #[test]
    fn it_is_optional_and_paths_are_relative_to_the_file() {
        assert_eq!(read(""), Ok(None));
        let text = "[time_stamp]\nurl = \"http://tsa.example:81/tsr\"\nauthority = \"tsa.pem\"\n";
        let config = read(text).unwrap().unwrap();
        assert_eq!(config.authority, Path::new("/etc/tsa.pem"));
        assert_eq!(config.every.as_secs(), TIME_STAMP_EVERY_S_DEFAULT);
        let text = text.replace("http:", "https:") + "tls_authority = \"w.pem\"\nevery_s = 60\n";
        let config = read(&text).unwrap().unwrap();
        assert_eq!(
            config.tls_authority.as_deref(),
            Some(Path::new("/etc/w.pem"))
        );
        assert_eq!(config.every.as_secs(), 60);
    }

    #[test]
    fn every_mistake_is_named() {
        let with = |url: &str, more: &str| {
            let text = format!("[time_stamp]\nurl = \"{url}\"\nauthority = \"tsa.pem\"\n{more}");
            read(&text).unwrap_err().join(" ")
        };
        for (url, more, told) in [
            ("ftp://tsa.example/", "", "neither http nor https"),
            ("https://tsa.example/", "", "nothing says who vouches"),
            (
                "http://tsa.example/",
                "tls_authority = \"w.pem\"",
                "is not https",
            ),
            ("http://me:secret@tsa.example/", "", "a name or a password"),
            ("/tsr", "", "names no host"),
            ("http://tsa.example/", "every_s = 0", "every_s"),
            (
                "http://tsa.example/",
                "evry_s = 9",
                "evry_s is not a known key",
            ),
        ] {
            let found = with(url, more);
            assert!(found.contains(told), "{url} {more}: {found}");
        }
        for half in [
            "url = \"http://tsa.example/\"",
            "authority = \"tsa.pem\"",
            "authorization = \"a\"",
        ] {
            let found = read(&format!("[time_stamp]\n{half}\n")).unwrap_err();
            assert!(found[0].contains("is missing"), "{half}: {found:?}");
        }
    }
}
