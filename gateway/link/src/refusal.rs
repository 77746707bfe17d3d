//! Why a connection was refused, on either side, in words and as a class to count.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use quinn::ConnectionError;
use rustls::{AlertDescription, Error, PeerIncompatible};

use crate::alert;
use crate::verifier::CertificateRefusal;

/// Where a verifier leaves its exact reason: TLS itself passes on less.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reason(Arc<Mutex<Option<CertificateRefusal>>>);

impl Reason {
    pub(crate) fn set(&self, refusal: &CertificateRefusal) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal.clone());
    }

    fn taken(&self) -> Option<CertificateRefusal> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A refused connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// One of few; nothing in it was chosen by the peer.
    pub(crate) class: &'static str,
    /// For people.
    pub(crate) why: String,
}

impl Refused {
    pub(crate) fn new(class: &'static str, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { class, why }
    }

    /// A handshake over TCP has failed.
    pub(crate) fn tcp(error: &io::Error, reason: &Reason) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match (reason.taken(), inner) {
            (Some(refusal), _) => refusal.into(),
            (None, Some(error)) => Self::tls(error),
            (None, None) => Self::new("handshake: broken", error.to_string()),
        }
    }

    /// A QUIC connection has ended before anything was exchanged.
    pub(crate) fn quic(error: &ConnectionError, reason: &Reason) -> Self {
        if let Some(refusal) = reason.taken() {
            return refusal.into();
        }
        match error {
            ConnectionError::TransportError(ours) => match alert::of_quic(ours.code) {
                Some(alert) => Self::our_alert(alert, &ours.reason),
                None => Self::new("handshake: broken", error.to_string()),
            },
            ConnectionError::ConnectionClosed(theirs) => {
                let alert = alert::of_quic(theirs.error_code);
                let why = alert.map_or_else(|| error.to_string(), alert::words);
                Self::new("handshake: given up by the peer", why)
            }
            ConnectionError::TimedOut => {
                Self::new("handshake: broken", "the peer has been silent for 10 s")
            }
            ConnectionError::Reset => Self::new(
                "handshake: broken",
                "the peer does not know the connection any more: it has been started again",
            ),
            other => Self::new("handshake: broken", other.to_string()),
        }
    }

    fn tls(error: &Error) -> Self {
        let alert = match error {
            Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
            Error::PeerIncompatible(
                PeerIncompatible::SupportedVersionsExtensionRequired
                | PeerIncompatible::Tls13RequiredForQuic
                | PeerIncompatible::Tls12NotOffered
                | PeerIncompatible::Tls12NotOfferedOrEnabled
                | PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => AlertDescription::ProtocolVersion,
            Error::PeerIncompatible(_) => AlertDescription::HandshakeFailure,
            Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol,
            Error::AlertReceived(alert) => {
                return Self::new("handshake: given up by the peer", alert::words(*alert));
            }
            other => return Self::new("handshake: broken", other.to_string()),
        };
        Self::our_alert(alert, &error.to_string())
    }

    /// What we say no to, by the alert that we send.
    fn our_alert(alert: AlertDescription, detail: &str) -> Self {
        match alert {
            AlertDescription::CertificateRequired => Self::new(
                "handshake: no client certificate",
                "no client certificate: peers are known by theirs",
            ),
            AlertDescription::ProtocolVersion => Self::new(
                "handshake: TLS version",
                "the other side does not speak TLS 1.3, and nothing older is spoken here",
            ),
            AlertDescription::HandshakeFailure => Self::new(
                "handshake: key exchange",
                format!("no key exchange or cipher in common ({detail})"),
            ),
            AlertDescription::NoApplicationProtocol => Self::new(
                "handshake: protocol",
                "the other side offers neither HTTP/2 nor HTTP/3 (ALPN)",
            ),
            _ => Self::new("handshake: broken", detail),
        }
    }
}

impl From<CertificateRefusal> for Refused {
    fn from(refusal: CertificateRefusal) -> Self {
        Self::new(refusal.class(), refusal.to_string())
    }
}
