//! Signed objects: whatever is accepted has one encoding and keeps its limits.

use passerelle_proto::envelope::{self, BATCH_MAX, PATH_MAX};
use passerelle_proto::v1::{self, Signed};
use passerelle_proto::{
    COMMENT_LEN_MAX, Digest, LIFETIME_MS_MAX, MANIFEST_LEN_MAX, PARENTS_MAX, PAYLOAD_LEN_MAX,
    PartyId, RECIPIENTS_MAX, RecipientSecret, SIGNATURE_LEN, STATEMENT_LEN_MAX, SigningKey,
    UntrustedManifest, UntrustedStatement, terminal_recipients,
};
use prost::Message;
use std::sync::LazyLock;

static SIGNER: LazyLock<SigningKey> =
    LazyLock::new(|| SigningKey::from_seed(&PartyId::parse("caf21").unwrap(), &[7; 64]));

static RECIPIENT: LazyLock<RecipientSecret> =
    LazyLock::new(|| RecipientSecret::from_seed(&PartyId::parse("caf21").unwrap(), &[7; 32]));

/// An envelope that nobody of ours has signed is never believed, and has one encoding.
pub(crate) fn envelope(data: &[u8]) {
    let Ok(signed) = envelope::decode_exact::<Signed>(data) else {
        return;
    };
    assert_eq!(signed.encode_to_vec(), data);
    let verified = envelope::verify(&signed, SIGNER.verifying_key());
    assert!(verified.is_err(), "a signature that was never made");
}

/// As it is encoded, or, for want of a signature, as a body alone.
fn signed_or_body(data: &[u8], object: v1::ObjectType) -> Signed {
    Signed::decode(data).unwrap_or_else(|_| Signed {
        r#type: object as i32,
        body: data.to_vec(),
        index: 0,
        size: 1,
        path: Vec::new(),
        sig: vec![0; SIGNATURE_LEN],
    })
}

fn check_position(signed: &Signed) {
    assert!(signed.index < signed.size && signed.size as usize <= BATCH_MAX);
    assert!(signed.path.len() <= PATH_MAX && signed.sig.len() == SIGNATURE_LEN);
}

/// A manifest within every limit; its id is the digest of its bytes.
pub(crate) fn manifest(data: &[u8]) {
    let signed = signed_or_body(data, v1::ObjectType::Manifest);
    let Ok(manifest) = UntrustedManifest::parse(signed.clone()) else {
        return;
    };
    assert!(manifest.clone().verify(SIGNER.verifying_key()).is_err());
    let manifest = manifest.verified_before();
    assert_eq!(manifest.signed(), &signed);
    check_position(&signed);
    assert!((1..=MANIFEST_LEN_MAX).contains(&signed.body.len()));
    assert_eq!(manifest.body().encode_to_vec(), signed.body);
    assert_eq!(manifest.id().0, Digest::of(&signed.body));
    assert!((1..=RECIPIENTS_MAX).contains(&manifest.recipients().len()));
    assert!(manifest.recipients().is_sorted_by(|a, b| a < b));
    assert!(manifest.parents().len() <= PARENTS_MAX);
    assert!(manifest.parents().is_sorted_by(|a, b| a < b));
    let life = manifest.not_after().as_ms() - manifest.created().as_ms();
    assert!((1..=LIFETIME_MS_MAX).contains(&life));
    assert!(manifest.payload_length() <= PAYLOAD_LEN_MAX);
    assert!(manifest.total_length() >= manifest.payload_length());
    let _ = (
        manifest.is_test(),
        manifest.created().date(),
        manifest.not_after().to_string(),
    );
}

/// A statement within every limit; its id is the digest of its bytes.
pub(crate) fn statement(data: &[u8]) {
    let signed = signed_or_body(data, v1::ObjectType::Statement);
    let Ok(statement) = UntrustedStatement::parse(signed.clone()) else {
        return;
    };
    assert!(statement.clone().verify(SIGNER.verifying_key()).is_err());
    let statement = statement.verified_before();
    assert_eq!(statement.signed(), &signed);
    check_position(&signed);
    assert!((1..=STATEMENT_LEN_MAX).contains(&signed.body.len()));
    assert_eq!(statement.body().encode_to_vec(), signed.body);
    assert_eq!(statement.id().0, Digest::of(&signed.body));
    let recipients = terminal_recipients(statement.what()).unwrap_or_default();
    assert!(recipients.len() <= RECIPIENTS_MAX);
    if let v1::statement::What::Acknowledged(said) = statement.what() {
        assert!(said.comment.len() <= COMMENT_LEN_MAX);
    }
    let mut chain = passerelle_proto::StatementChain::default();
    chain.seen(&statement);
    let (next, _) = chain.next(statement.destination());
    assert!(
        next > statement.body().seq,
        "the sequence goes on behind what was seen"
    );
    let _ = statement.at().to_string();
}

/// Wraps that nobody has made for our key do not open.
pub(crate) fn wraps(data: &[u8]) {
    let Ok(wraps) = envelope::decode_exact::<v1::Wraps>(data) else {
        return;
    };
    assert_eq!(wraps.encode_to_vec(), data);
    for mut wrap in wraps.wraps.into_iter().take(RECIPIENTS_MAX) {
        wrap.key = RECIPIENT.id().0.to_vec();
        assert!(RECIPIENT.open_wrap(&wrap, b"info").is_err());
    }
}
