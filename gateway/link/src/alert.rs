//! What a TLS alert of the other side says to the operator of this side.

use rustls::AlertDescription;

/// First QUIC error code that stands for a TLS alert (RFC 9001, 4.8); 256 of them.
const QUIC_CRYPTO_FIRST: u64 = 0x100;

/// Our side of an alert, with what is to be done about it.
pub(crate) fn words(alert: AlertDescription) -> String {
    let words = match alert {
        AlertDescription::UnknownCA => {
            "the peer knows no authority of ours that issued our certificate: does our sheet list \
             its CA, and has the peer that sheet?"
        }
        AlertDescription::CertificateExpired => {
            "the peer finds our certificate outside of its dates: renew it, or check the clocks"
        }
        AlertDescription::AccessDenied => {
            "the peer finds the name in our certificate in no sheet: give it our newest sheet"
        }
        AlertDescription::BadCertificate => {
            "the peer cannot use our certificate: it must have exactly one DNS name, no wildcard"
        }
        AlertDescription::UnsupportedCertificate => {
            "the peer says that our certificate is not made for TLS clients and servers"
        }
        AlertDescription::CertificateUnknown => {
            "the peer says that our public key is not among those pinned in our sheet"
        }
        AlertDescription::CertificateRequired => "the peer demands a client certificate",
        AlertDescription::HandshakeFailure => {
            "no key exchange or signature in common: the peer must offer X25519MLKEM768"
        }
        AlertDescription::ProtocolVersion => "the peer does not speak TLS 1.3",
        AlertDescription::NoApplicationProtocol => "the peer speaks TLS, and no gRPC on this port",
        other => return format!("the peer has ended the handshake: TLS alert {other:?}"),
    };
    words.to_owned()
}

/// The alert in a QUIC error code, if it is one.
pub(crate) fn of_quic(code: quinn::TransportErrorCode) -> Option<AlertDescription> {
    let alert = u64::from(code).checked_sub(QUIC_CRYPTO_FIRST)?;
    u8::try_from(alert).ok().map(AlertDescription::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_quic_codes_of_the_crypto_range_are_alerts() {
        let code = |number: u8| quinn::TransportErrorCode::crypto(number);
        assert_eq!(of_quic(code(48)), Some(AlertDescription::UnknownCA));
        assert_eq!(of_quic(quinn::TransportErrorCode::NO_ERROR), None);
        assert!(words(AlertDescription::UnknownCA).contains("sheet"));
    }
}
