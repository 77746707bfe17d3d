//! What is decided about Ed25519 signatures at the edges of the curve, as the parent's text says.
//!
//! The cases are those of C2SP/CCTV `ed25519vectors` and of "Taming the many EdDSAs" (Chalkias,
//! Garillot, Nikolaenko, 2020), made anew here: from the eight points of small order, and from the
//! encodings of `y` that are not below the field's prime.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use curve25519_dalek::edwards::EdwardsPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;

use super::*;
use crate::PartyId;
use crate::note::key_hash;

const ORIGIN: &str = "caf21.passerelle/log";
/// Messages among which one with the wanted digest is looked for.
const MESSAGES: u32 = 4096;

/// A verifier of the log whose Ed25519 key is these 32 bytes.
fn verifier(public: &[u8; 32]) -> LogVerifier {
    let honest = LogSigner::from_seed(&PartyId::parse("caf21").unwrap(), &[1; 64]);
    let post_quantum = honest.verifier().to_vkeys().pop().unwrap();
    let bytes = [&[TYPE_ED25519], public.as_slice()].concat();
    let hash = key_hash(ORIGIN, &bytes);
    let classical = format!("{ORIGIN}+{hash:08x}+{}", STANDARD.encode(bytes));
    LogVerifier::from_vkeys(ORIGIN, &[classical, post_quantum]).unwrap()
}

fn holds(public: &[u8; 32], message: &[u8], r: &[u8; 32], s: &[u8; 32]) -> bool {
    verifier(public).verify_classical(message, &[r.as_slice(), s].concat())
}

/// `k` of RFC 8032: SHA-512(R, A, message), modulo the order of the group.
fn challenge(r: &[u8; 32], public: &[u8; 32], message: &[u8]) -> Scalar {
    let digest = ring::digest::digest(
        &ring::digest::SHA512,
        &[r.as_slice(), public, message].concat(),
    );
    Scalar::from_bytes_mod_order_wide(digest.as_ref().try_into().unwrap())
}

fn bytes(point: &EdwardsPoint) -> [u8; 32] {
    point.compress().0
}

fn base(scalar: Scalar) -> EdwardsPoint {
    ED25519_BASEPOINT_POINT * scalar
}

/// A secret scalar and a nonce.
fn secrets() -> (Scalar, Scalar) {
    (
        Scalar::from(0x1234_5678_9abc_u64),
        Scalar::from(0xfeed_beef_u64),
    )
}

/// The first message whose challenge the condition holds for.
fn message(wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let messages = (0..MESSAGES).map(|n| n.to_be_bytes().to_vec());
    messages
        .into_iter()
        .find(|message| wanted(message))
        .expect("a message in thousands")
}

/// A point's other encoding: `y` above the prime, which only `y` below 19 has.
fn with_prime_added(mut encoded: [u8; 32]) -> [u8; 32] {
    // p = 2^255 - 19, so y + p is y - 19 + 2^255 in its lowest bytes: 0xed + y, then 0xff.
    assert!(encoded[1..31].iter().all(|byte| *byte == 0) && encoded[0] < 19);
    encoded[0] += 0xed;
    encoded[1..31].fill(0xff);
    encoded[31] |= 0x7f;
    encoded
}

#[test]
fn an_honest_signature_holds() {
    let (secret, nonce) = secrets();
    let (public, r) = (bytes(&base(secret)), bytes(&base(nonce)));
    let s = nonce + challenge(&r, &public, b"m") * secret;
    assert!(holds(&public, b"m", &r, &s.to_bytes()));
    assert!(!holds(&public, b"n", &r, &s.to_bytes()));
}

#[test]
fn an_s_at_or_above_the_order_is_refused() {
    // The order of the group (RFC 8032, 5.1), little endian.
    let order: [u8; 32] = {
        let less_one = (-Scalar::ONE).to_bytes();
        let mut order = less_one;
        order[0] += 1;
        order
    };
    let (secret, nonce) = secrets();
    let (public, r) = (bytes(&base(secret)), bytes(&base(nonce)));
    let s = (nonce + challenge(&r, &public, b"m") * secret).to_bytes();
    let mut carry = 0;
    let mut malleated = [0; 32];
    for (at, byte) in malleated.iter_mut().enumerate() {
        carry += u16::from(s[at]) + u16::from(order[at]);
        *byte = carry as u8;
        carry >>= 8;
    }
    assert_eq!(carry, 0);
    assert!(holds(&public, b"m", &r, &s));
    assert!(!holds(&public, b"m", &r, &malleated), "S + L");
    for high in [0x20, 0x40, 0x80, 0xe0] {
        let mut marked = s;
        marked[31] |= high;
        assert!(!holds(&public, b"m", &r, &marked), "bit {high:#x}");
    }
    let (identity, zero) = (bytes(&EIGHT_TORSION[0]), [0; 32]);
    assert!(holds(&identity, b"m", &identity, &zero));
    assert!(!holds(&identity, b"m", &identity, &order), "S = L");
}

#[test]
fn by_a_key_of_small_order_what_anybody_can_make_holds() {
    for torsion in &EIGHT_TORSION {
        let public = bytes(torsion);
        // S = 0 and R = -k·A: no secret is needed, only a message whose k fits.
        let r = bytes(&-torsion);
        let fits = |m: &[u8]| (torsion * challenge(&r, &public, m) - torsion).is_identity();
        assert!(holds(&public, &message(fits), &r, &[0; 32]));
        if !torsion.is_identity() {
            assert!(!holds(&public, &message(|m| !fits(m)), &r, &[0; 32]));
        }
        // With R in the main group and S = r it holds where k·A vanishes.
        let (_, nonce) = secrets();
        let r = bytes(&base(nonce));
        let vanishes = |m: &[u8]| (torsion * challenge(&r, &public, m)).is_identity();
        assert!(holds(&public, &message(vanishes), &r, &nonce.to_bytes()));
    }
}

#[test]
fn the_cofactor_is_not_multiplied_by() {
    let (secret, nonce) = secrets();
    for torsion in &EIGHT_TORSION[1..] {
        // R of mixed order, A honest: only a verifier with cofactor would take it.
        let (public, r) = (bytes(&base(secret)), bytes(&(base(nonce) + torsion)));
        let s = nonce + challenge(&r, &public, b"m") * secret;
        assert!(!holds(&public, b"m", &r, &s.to_bytes()));
        // R of small order alone, and S·B = k·A.
        let r = bytes(torsion);
        let s = challenge(&r, &public, b"m") * secret;
        assert!(!holds(&public, b"m", &r, &s.to_bytes()));
        // A of mixed order: it depends on the message whether k·T vanishes.
        let (public, r) = (bytes(&(base(secret) + torsion)), bytes(&base(nonce)));
        let vanishes = |m: &[u8]| (torsion * challenge(&r, &public, m)).is_identity();
        for (message, wanted) in [
            (message(vanishes), true),
            (message(|m| !vanishes(m)), false),
        ] {
            let s = nonce + challenge(&r, &public, &message) * secret;
            assert_eq!(holds(&public, &message, &r, &s.to_bytes()), wanted);
        }
    }
}

#[test]
fn r_has_one_encoding_and_a_may_have_another() {
    let identity = bytes(&EIGHT_TORSION[0]);
    let other = with_prime_added(identity);
    // y = 1 with the sign of x set, though x is 0.
    let mut negative_zero = identity;
    negative_zero[31] |= 0x80;
    for public in [identity, other, negative_zero] {
        assert!(
            holds(&public, b"m", &identity, &[0; 32]),
            "A = {public:02x?}"
        );
        for r in [other, negative_zero] {
            assert!(!holds(&public, b"m", &r, &[0; 32]), "R = {r:02x?}");
        }
    }
}

#[test]
fn what_is_no_point_verifies_nothing() {
    // y = 2 has no x on the curve.
    let mut none = [0; 32];
    none[0] = 2;
    assert!(
        curve25519_dalek::edwards::CompressedEdwardsY(none)
            .decompress()
            .is_none()
    );
    let identity = bytes(&EIGHT_TORSION[0]);
    assert!(!holds(&none, b"m", &identity, &[0; 32]));
    assert!(!holds(&identity, b"m", &none, &[0; 32]));
}

#[test]
fn a_classical_part_that_anybody_can_make_does_not_make_a_composite_signature() {
    let party = PartyId::parse("caf21").unwrap();
    let honest = SigningKey::from_seed(&party, &[7; 64]);
    let identity = bytes(&EIGHT_TORSION[0]);
    let post_quantum = &honest.verifying_key().as_bytes()[..PUBLIC_KEY_LEN - 32];
    let weak = [post_quantum, &identity].concat();
    let weak = VerifyingKey::from_bytes(party, &weak).unwrap();
    assert_ne!(weak.id(), honest.id(), "keys are named by their bytes");
    let mut signature = honest.sign(b"message");
    signature[SIGNATURE_LEN - 64..].copy_from_slice(&[identity, [0; 32]].concat());
    assert_eq!(weak.verify(b"message", &signature), Ok(()));
    assert_eq!(
        weak.verify(b"massage", &signature),
        Err(SignatureError::PostQuantum)
    );
    let honest = honest.verifying_key().verify(b"message", &signature);
    assert_eq!(honest, Err(SignatureError::Classical));
}
