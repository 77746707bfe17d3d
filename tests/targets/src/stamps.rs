//! Time-stamps of an authority, and its answers.

use std::sync::LazyLock;

use passerelle_proto::{
    TIME_STAMP_LEN_MAX, TIME_STAMP_NONCE_LEN, TIME_STAMP_RESPONSE_LEN_MAX, TimeAuthorities,
    TimeStamp, TimeStampRequest,
};

/// What the seeds are time-stamps of, by whom, and the answered request's random number.
const STAMPED: &[u8] = include_bytes!("../../../proto/vectors/time_stamp/stamped.txt");
const AUTHORITY: &[u8] = include_bytes!("../../../proto/vectors/time_stamp/authority.pem");
const NONCE: [u8; TIME_STAMP_NONCE_LEN] = [0xa5; TIME_STAMP_NONCE_LEN];

static AUTHORITIES: LazyLock<TimeAuthorities> =
    LazyLock::new(|| TimeAuthorities::from_pem(AUTHORITY).unwrap());
static REQUEST: LazyLock<TimeStampRequest> =
    LazyLock::new(|| TimeStampRequest::new(STAMPED, NONCE).unwrap());

/// Nothing is believed that nobody vouches for, whatever is trusted it is of what was stamped, and
/// an answer holds a token that says the same by itself.
pub(crate) fn time_stamp(data: &[u8]) {
    let nobody = TimeAuthorities::default();
    if let Ok(stamp) = TimeStamp::verify(data, STAMPED, &nobody) {
        assert!(data.len() <= TIME_STAMP_LEN_MAX && stamp.doubt.is_some());
        assert!(stamp.latest() >= stamp.at);
        assert!(TimeStamp::verify(data, b"something else", &nobody).is_err());
        let judged = TimeStamp::verify(data, STAMPED, &AUTHORITIES).unwrap();
        assert_eq!((judged.at, judged.authority), (stamp.at, stamp.authority));
    }
    if let Ok((token, stamp)) = REQUEST.accept(data, &AUTHORITIES) {
        assert!(data.len() <= TIME_STAMP_RESPONSE_LEN_MAX);
        assert_eq!(TimeStamp::verify(&token, STAMPED, &AUTHORITIES), Ok(stamp));
    }
}
