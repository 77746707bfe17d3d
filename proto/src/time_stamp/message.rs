//! Asking an authority, and what it answers (RFC 3161, 2.4).

use cms::cert::x509::spki::AlgorithmIdentifierOwned;
use der::asn1::{Any, Int, ObjectIdentifier, OctetString};
use der::{Decode, Encode, Sequence};

use super::token::{MessageImprint, SHA_256, Token, encoding};
use super::{
    TIME_STAMP_LEN_MAX, TIME_STAMP_NONCE_LEN, TIME_STAMP_RESPONSE_LEN_MAX, TimeAuthorities,
    TimeStamp, TimeStampError,
};
use crate::Digest;

/// `PKIStatus` of an answer that holds a token.
const GRANTED: [u8; 2] = [0, 1];
/// Characters of what an authority says that are passed on.
const STATUS_TEXT_MAX: usize = 200;

/// A request for one time-stamp.
#[derive(Debug, Clone)]
pub struct TimeStampRequest {
    stamped: Vec<u8>,
    nonce: Int,
    bytes: Vec<u8>,
}

impl TimeStampRequest {
    /// Asks for a time-stamp over `stamped`, with the authority's certificates in it. The `nonce`
    /// is random: an answer that was given before does not repeat it.
    ///
    /// # Errors
    /// [`TimeStampError::Encoding`].
    pub fn new(stamped: &[u8], nonce: [u8; TIME_STAMP_NONCE_LEN]) -> Result<Self, TimeStampError> {
        let fail = encoding("the request");
        // A positive number in its shortest form, whatever the random bytes are.
        let mut positive = nonce;
        positive[0] = (positive[0] & 0x7f) | 0x40;
        let nonce = Int::new(&positive).map_err(fail)?;
        let request = Request {
            version: 1,
            message_imprint: imprint(stamped)?,
            policy: None,
            nonce: Some(nonce.clone()),
            certificates: true,
        };
        Ok(Self {
            stamped: stamped.to_vec(),
            nonce,
            bytes: request.to_der().map_err(fail)?,
        })
    }

    /// The request (`application/timestamp-query`).
    pub fn to_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Verifies an answer (`application/timestamp-reply`): the token in it, and what it says.
    ///
    /// # Errors
    /// [`TimeStampError`].
    pub fn accept(
        &self,
        response: &[u8],
        authorities: &TimeAuthorities,
    ) -> Result<(Vec<u8>, TimeStamp), TimeStampError> {
        if response.len() > TIME_STAMP_RESPONSE_LEN_MAX {
            let bytes = response.len();
            return Err(TimeStampError::TooLong { bytes });
        }
        let fail = encoding("the answer");
        let answer = Response::from_der(response).map_err(fail)?;
        let token = match (answer.status.status, answer.token) {
            (status, Some(token)) if GRANTED.contains(&status) => token,
            (status, _) => {
                let text = answer.status.text();
                return Err(TimeStampError::Refused { status, text });
            }
        };
        let bytes = token.to_der().map_err(fail)?;
        if bytes.len() > TIME_STAMP_LEN_MAX {
            let bytes = bytes.len();
            return Err(TimeStampError::TooLong { bytes });
        }
        let token = Token::parse(&bytes)?;
        if token.nonce() != Some(&self.nonce) {
            let why = "it does not repeat the random number of the request: it is another's answer";
            return Err(TimeStampError::Form(why));
        }
        let stamp = token.verify(&self.stamped, authorities)?;
        Ok((bytes, stamp))
    }
}

fn imprint(stamped: &[u8]) -> Result<MessageImprint, TimeStampError> {
    let hashed = OctetString::new(Digest::of(stamped).0.to_vec());
    Ok(MessageImprint {
        hash_algorithm: AlgorithmIdentifierOwned {
            oid: SHA_256,
            parameters: Some(Any::null()),
        },
        hashed_message: hashed.map_err(encoding("the request"))?,
    })
}

/// `TimeStampReq`.
#[derive(Sequence)]
struct Request {
    version: u8,
    message_imprint: MessageImprint,
    #[asn1(optional = "true")]
    policy: Option<ObjectIdentifier>,
    #[asn1(optional = "true")]
    nonce: Option<Int>,
    #[asn1(default = "Default::default")]
    certificates: bool,
}

/// `TimeStampResp`.
#[derive(Sequence)]
struct Response {
    status: Status,
    #[asn1(optional = "true")]
    token: Option<Any>,
}

/// `PKIStatusInfo` (RFC 4210, 5.2.3).
#[derive(Sequence)]
struct Status {
    status: u8,
    #[asn1(optional = "true")]
    text: Option<Vec<String>>,
    #[asn1(optional = "true")]
    failure: Option<der::asn1::BitString>,
}

impl Status {
    fn text(&self) -> String {
        let said = self.text.iter().flatten().map(String::as_str);
        let text: String = said.collect::<Vec<_>>().join("; ");
        match text.is_empty() {
            true => "it does not say why".to_owned(),
            // Whoever reads it must not be led on by control characters.
            false => text.escape_debug().take(STATUS_TEXT_MAX).collect(),
        }
    }
}
