use cms::cert::x509::Certificate;
use der::DecodePem;

use super::*;

const NONCE: [u8; TIME_STAMP_NONCE_LEN] = [0xa5; TIME_STAMP_NONCE_LEN];
const STAMPED: &[u8] = include_bytes!("../../vectors/time_stamp/stamped.txt");
const REQUEST: &[u8] = include_bytes!("../../vectors/time_stamp/request.tsq");
const RSA: &[u8] = include_bytes!("../../vectors/time_stamp/rsa.tsr");
const RSA_SHA512: &[u8] = include_bytes!("../../vectors/time_stamp/rsa_sha512.tsr");
const ECDSA: &[u8] = include_bytes!("../../vectors/time_stamp/ecdsa.tsr");
const SHA1: &[u8] = include_bytes!("../../vectors/time_stamp/sha1.tsr");
const AUTHORITY: &[u8] = include_bytes!("../../vectors/time_stamp/authority.pem");
const OTHER: &[u8] = include_bytes!("../../vectors/time_stamp/other.pem");
const AND_MORE: &str = include_str!("../../vectors/time_stamp/stamps_and_more.pem");
const SOFTLY: &str = include_str!("../../vectors/time_stamp/stamps_softly.pem");

fn request() -> TimeStampRequest {
    TimeStampRequest::new(STAMPED, NONCE).unwrap()
}

fn authority() -> TimeAuthorities {
    TimeAuthorities::from_pem(AUTHORITY).unwrap()
}

fn token() -> Vec<u8> {
    request().accept(ECDSA, &authority()).unwrap().0
}

#[test]
fn the_request_is_the_one_that_was_answered() {
    assert_eq!(request().to_bytes(), REQUEST);
}

#[test]
fn answers_of_another_implementation_verify_and_say_when_and_who() {
    for (answer, name) in [(RSA, "rsa"), (RSA_SHA512, "rsa"), (ECDSA, "ecdsa")] {
        let (token, stamp) = request().accept(answer, &authority()).unwrap();
        assert_eq!(stamp.doubt, None);
        assert_eq!(stamp.authority, format!("CN={name},O=Passerelle tests"));
        assert_eq!(stamp.policy, "1.3.6.1.4.1.99999.1");
        assert_eq!(stamp.accuracy, Some(Duration::from_millis(1500)));
        assert_eq!(stamp.latest().since(stamp.at), Duration::from_millis(1500));
        assert_eq!(TimeStamp::verify(&token, STAMPED, &authority()), Ok(stamp));
    }
}

#[test]
fn an_authority_that_nobody_trusts_is_told_and_not_believed() {
    let nobody = TimeStamp::verify(&token(), STAMPED, &TimeAuthorities::default()).unwrap();
    assert!(nobody.doubt.unwrap().starts_with("nobody here has said"));
    let other = TimeAuthorities::from_pem(OTHER).unwrap();
    let stamp = TimeStamp::verify(&token(), STAMPED, &other).unwrap();
    assert!(
        stamp
            .doubt
            .unwrap()
            .starts_with("no authority that is trusted")
    );
    let mut both = other;
    both.extend(authority());
    assert_eq!(
        TimeStamp::verify(&token(), STAMPED, &both).unwrap().doubt,
        None
    );
}

#[test]
fn a_time_stamp_of_something_else_or_for_somebody_else_is_refused() {
    let elsewhere = TimeStamp::verify(&token(), b"another text", &authority());
    assert_eq!(elsewhere, Err(TimeStampError::Imprint));
    let other = TimeStampRequest::new(STAMPED, [1; TIME_STAMP_NONCE_LEN]).unwrap();
    let refused = other.accept(ECDSA, &authority());
    assert!(matches!(refused, Err(TimeStampError::Form(why)) if why.contains("random number")));
    let weak = request().accept(SHA1, &authority());
    assert!(
        matches!(weak, Err(TimeStampError::Form(why)) if why.contains("SHA-2")),
        "{weak:?}"
    );
}

#[test]
fn no_flipped_bit_changes_what_a_time_stamp_says() {
    let token = token();
    let said = TimeStamp::verify(&token, STAMPED, &authority()).unwrap();
    let mut refused = 0;
    for at in 0..token.len() {
        let mut altered = token.clone();
        altered[at] ^= 1 << (at % 8);
        match TimeStamp::verify(&altered, STAMPED, &authority()) {
            // What is not signed: version numbers, and certificates that are not needed.
            Ok(stamp) if stamp.doubt.is_none() => assert_eq!(stamp, said, "byte {at}"),
            Ok(_) => {}
            Err(_) => refused += 1,
        }
    }
    assert!(
        refused * 10 > token.len() * 6,
        "{refused} of {}",
        token.len()
    );
    for length in 0..token.len() {
        assert!(TimeStamp::verify(&token[..length], STAMPED, &authority()).is_err());
    }
}

/// A token with one bit changed where these bytes are in it.
fn altered(token: &[u8], part: &[u8]) -> Result<TimeStamp, TimeStampError> {
    let at = token
        .windows(part.len())
        .position(|found| found == part)
        .unwrap();
    let mut altered = token.to_vec();
    altered[at + part.len() - 1] ^= 1;
    TimeStamp::verify(&altered, STAMPED, &authority())
}

#[test]
fn another_signature_and_another_certificate_of_the_same_key_are_refused() {
    let token = token();
    let parsed = token::Token::parse(&token).unwrap();
    let signature = altered(&token, parsed.signature());
    let authority = "CN=ecdsa,O=Passerelle tests".to_owned();
    assert_eq!(signature, Err(TimeStampError::Signature { authority }));
    // The certificate's own signature: who bears it, with which key and for what, is as before.
    let signer = |one: &&Certificate| one.tbs_certificate.subject.to_string().contains("ecdsa");
    let certificate = parsed.certificates().iter().find(signer).unwrap();
    let twin = altered(&token, certificate.signature.raw_bytes());
    assert_eq!(
        twin,
        Err(TimeStampError::Form("it names another certificate"))
    );
}

#[test]
fn what_an_authority_refuses_is_told_in_its_words() {
    // PKIStatusInfo: rejection, with a text.
    let answer = b"\x30\x10\x30\x0e\x02\x01\x02\x30\x09\x0c\x07no\nluck";
    let refused = request().accept(answer, &authority());
    let said = "the authority refuses (status 2): no\\nluck";
    assert_eq!(refused.unwrap_err().to_string(), said);
    let silent = request().accept(b"\x30\x05\x30\x03\x02\x01\x02", &authority());
    assert!(silent.unwrap_err().to_string().contains("does not say why"));
    let empty = request().accept(b"", &authority());
    assert!(matches!(empty, Err(TimeStampError::Encoding { .. })));
    let long = request().accept(&[0; TIME_STAMP_RESPONSE_LEN_MAX + 1], &authority());
    assert!(matches!(long, Err(TimeStampError::TooLong { .. })));
}

#[test]
fn a_certificate_that_is_for_more_than_time_stamps_makes_none() {
    for text in [AND_MORE, SOFTLY, std::str::from_utf8(AUTHORITY).unwrap()] {
        let certificate = Certificate::from_pem(text).unwrap();
        assert!(token::for_time_stamping_only(&certificate).is_err());
    }
}

#[test]
fn a_file_that_names_no_authority_is_refused() {
    for text in [&b""[..], b"no certificate", STAMPED] {
        let refused = TimeAuthorities::from_pem(text);
        assert_eq!(refused.unwrap_err(), TimeStampError::Authorities);
    }
    let broken = String::from_utf8(AUTHORITY.to_vec())
        .unwrap()
        .replacen("MII", "MIA", 1);
    assert!(TimeAuthorities::from_pem(broken.as_bytes()).is_err());
    let many = AUTHORITY.repeat(TIME_AUTHORITIES_MAX + 1);
    assert!(TimeAuthorities::from_pem(&many).is_err());
}
