//! X-Wing against the vectors of its draft, and HPKE around it written down once more.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hmac;

use super::*;

/// `test-vectors.json` of draft-connolly-cfrg-xwing-kem.
const VECTORS: &str = include_str!("../../../vectors/x-wing.json");
const PACKAGE_KEY: [u8; 32] = [0x11; 32];

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Key schedule of RFC 9180, 5.1, in base mode: key and nonce of the first message.
fn key_schedule(shared_secret: &[u8], info: &[u8]) -> (Vec<u8>, Vec<u8>) {
    // Suite: KEM 0x647a, KDF HKDF-SHA256, AEAD AES-256-GCM.
    let suite = b"HPKE\x64\x7a\x00\x01\x00\x02";
    let mac = |key: &[u8], parts: &[&[u8]]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        hmac::sign(&key, &parts.concat()).as_ref().to_vec()
    };
    let extract =
        |salt: &[u8], label: &[u8], ikm: &[u8]| mac(salt, &[b"HPKE-v1", suite, label, ikm]);
    let context = [
        vec![0],
        extract(b"", b"psk_id_hash", b""),
        extract(b"", b"info_hash", info),
    ];
    let secret = extract(shared_secret, b"secret", b"");
    let expand = |label: &[u8], length: u8| {
        let context = context.concat();
        let parts = [
            &[0, length],
            b"HPKE-v1".as_slice(),
            suite,
            label,
            &context,
            &[1],
        ];
        mac(&secret, &parts)[..length.into()].to_vec()
    };
    (expand(b"key", 32), expand(b"base_nonce", 12))
}

/// What a sender makes who came to this shared secret.
fn sealed(shared_secret: &[u8], info: &[u8]) -> Vec<u8> {
    let (key, nonce) = key_schedule(shared_secret, info);
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).unwrap());
    let nonce = Nonce::try_assume_unique_for_key(&nonce).unwrap();
    let mut message = PACKAGE_KEY.to_vec();
    key.seal_in_place_append_tag(nonce, Aad::empty(), &mut message)
        .unwrap();
    message
}

#[test]
fn x_wing_derives_and_decapsulates_as_its_draft_says() {
    let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
    let vectors = vectors.as_array().unwrap();
    assert_eq!(vectors.len(), 3, "vectors that ran");
    for vector in vectors {
        let field = |name: &str| unhex(vector[name].as_str().unwrap());
        let seed: [u8; 32] = field("sk").try_into().unwrap();
        let secret = RecipientSecret::from_seed(&PartyId::parse("caf21").unwrap(), &seed);
        assert_eq!(secret.public().as_bytes(), field("pk"));
        let mut wrap = v1::Wrap {
            key: secret.id().0.to_vec(),
            enc: field("ct"),
            ciphertext: sealed(&field("ss"), b"info"),
        };
        assert_eq!(*secret.open_wrap(&wrap, b"info").unwrap(), PACKAGE_KEY);
        assert_eq!(secret.open_wrap(&wrap, b"other"), Err(WrapError::Sealed));
        // Both halves count: ML-KEM rejects implicitly, X25519 is bound by the combiner.
        for at in [0, 1087, 1088, 1119] {
            wrap.enc[at] ^= 1;
            assert_eq!(
                secret.open_wrap(&wrap, b"info"),
                Err(WrapError::Sealed),
                "byte {at}"
            );
            wrap.enc[at] ^= 1;
        }
    }
}
