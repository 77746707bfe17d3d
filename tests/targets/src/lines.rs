//! The line formats of C2SP: checkpoints, proofs, requests to a witness, verifier keys.

use std::sync::LazyLock;

use passerelle_proto::{
    CHECKPOINT_LEN_MAX, Checkpoint, INCLUSION_HASHES_MAX, LOG_PROOF_LEN_MAX, LogProof, LogSigner,
    LogVerifier, Note, PROOF_EXTRA_LEN_MAX, PartyId, Timestamp, WITNESS_BODY_LEN_MAX,
    add_checkpoint_body, witness,
};

const NOW: Timestamp = Timestamp::from_ms(1_700_000_000_000);

fn signer(party: &str, seed: u8) -> LogSigner {
    LogSigner::from_seed(&PartyId::parse(party).unwrap(), &[seed; 64])
}

/// The log whose vectors are among the seeds, and a partner.
static LOG: LazyLock<LogSigner> = LazyLock::new(|| signer("caf21", 1));
static PARTNER: LazyLock<LogSigner> = LazyLock::new(|| signer("grand-dijon", 2));
/// A log that has signed nothing, with the name of the one that has.
static STRANGER: LazyLock<LogSigner> = LazyLock::new(|| signer("caf21", 9));

/// A checkpoint's three lines are written again as they stand; a stranger has signed none.
pub(crate) fn checkpoint(data: &[u8]) {
    assert!(Checkpoint::verify(data, STRANGER.verifier()).is_err());
    assert!(Checkpoint::verify_cosigned(data, STRANGER.verifier()).is_err());
    for verified in [
        Checkpoint::verify(data, LOG.verifier()).ok(),
        Checkpoint::verify_cosigned(data, PARTNER.verifier())
            .ok()
            .map(|(found, _)| found),
    ] {
        let Some(checkpoint) = verified else { continue };
        assert!(data.len() <= CHECKPOINT_LEN_MAX);
        check_text(Note::parse(data).unwrap().text(), &checkpoint);
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(checkpoint) = Checkpoint::parse(text)
    {
        check_text(text, &checkpoint);
        let _ = checkpoint.sign(&LOG, NOW);
    }
}

/// What is read is the beginning of the text; lines behind it are extensions.
fn check_text(text: &str, checkpoint: &Checkpoint) {
    assert!(text.starts_with(&checkpoint.to_text()), "{text:?}");
    assert_eq!(
        Checkpoint::parse(&checkpoint.to_text()).as_ref(),
        Ok(checkpoint)
    );
}

/// A proof is written again byte for byte.
pub(crate) fn proof(data: &[u8]) {
    let Ok(proof) = LogProof::parse(data) else {
        return;
    };
    assert!(data.len() <= LOG_PROOF_LEN_MAX && proof.hashes.len() <= INCLUSION_HASHES_MAX);
    assert!(
        proof
            .extra
            .as_ref()
            .is_none_or(|extra| extra.len() <= PROOF_EXTRA_LEN_MAX)
    );
    assert_eq!(proof.to_bytes(), data, "a proof has one form");
    let _ = proof.verify(b"entry 5", LOG.verifier());
    assert!(proof.verify(b"entry 5", STRANGER.verifier()).is_err());
}

/// A witness answers whatever it is asked, and remembers only what it cosigns.
pub(crate) fn witness_request(data: &[u8]) {
    let answer = witness(data, LOG.verifier(), None, &PARTNER, NOW);
    assert_eq!(answer.status == 200, answer.seen.is_some());
    assert!([200, 400, 403, 404, 409, 422].contains(&answer.status));
    if data.len() > WITNESS_BODY_LEN_MAX {
        assert_eq!(answer.status, 400);
    }
    if answer.status != 400 {
        let head = data.windows(2).take_while(|pair| pair != b"\n\n");
        let mut head = head.map(|pair| pair[0]);
        assert!(head.all(|byte| byte == b'\n' || byte == b' ' || byte.is_ascii_graphic()));
    }
    let Some(seen) = answer.seen else { return };
    let at = data.windows(2).position(|pair| pair == b"\n\n").unwrap() + 2;
    assert_eq!(
        Checkpoint::verify(&data[at..], LOG.verifier()).as_ref(),
        Ok(&seen)
    );
    // Nothing was cosigned before, so the proof is empty, and the request has one form.
    assert_eq!(add_checkpoint_body(0, &[], &data[at..]), data);
    let again = witness(data, LOG.verifier(), Some(&seen), &PARTNER, NOW);
    assert!(again.status == 409 || seen.size == 0, "{}", again.status);
}

/// Two verifier keys on two lines are written again as they stand.
pub(crate) fn vkey(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let vkeys: Vec<String> = text.split('\n').map(str::to_owned).collect();
    let origin = text.split('+').next().unwrap_or_default();
    let Ok(verifier) = LogVerifier::from_vkeys(origin, &vkeys) else {
        return;
    };
    let written = verifier.to_vkeys();
    assert!(written.iter().all(|vkey| vkeys.contains(vkey)), "{text:?}");
    assert_eq!(
        LogVerifier::from_vkeys(origin, &written).as_ref(),
        Ok(&verifier)
    );
}
