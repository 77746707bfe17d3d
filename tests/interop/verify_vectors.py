#!/usr/bin/env python3
"""Verifies the package vectors with nothing but `cryptography` and the published specifications.

Both halves of the composite signature (ML-DSA-65 and Ed25519), the HPKE wrap (X-Wing, HKDF-SHA256,
AES-256-GCM), key and content commitments, the index, and every chunk.

    pip install cryptography
    verify_vectors.py proto/vectors/package.json

Prints what it verified; exits 0 only when all of it holds.
"""

import base64
import hashlib
import json
import sys

from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

CONTEXT = b"passerelle/v1"
LABEL = b"COMPSIG-MLDSA65-Ed25519-SHA512"
MANIFEST, STATEMENT = 1, 2


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def derive(secret, *info):
    return HKDF(hashes.SHA256(), 32, salt=None, info=b"".join(info)).derive(secret)


def varint(data, at):
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift, more = at + 1, shift + 7, data[at] & 0x80
        if not more:
            return value, at


def fields(data):
    """Fields of a protobuf message: (number, value, the field's own bytes)."""
    at, found = 0, []
    while at < len(data):
        start = at
        tag, at = varint(data, at)
        value, at = varint(data, at)
        if tag & 7 == 2:
            value, at = data[at : at + value], at + value
        found.append((tag >> 3, value, data[start:at]))
    return found


def first(data, number):
    return next(value for field, value, _ in fields(data) if field == number)


def key_bytes(text):
    return base64.b64decode(text.split("+", 3)[3])


def verify_signature(public, message, signature):
    """draft-ietf-lamps-pq-composite-sigs: both halves sign M'."""
    digest = hashlib.sha512(message).digest()
    signed = b"CompositeAlgorithmSignatures2025" + LABEL + bytes([len(CONTEXT)]) + CONTEXT + digest
    MLDSA65PublicKey.from_public_bytes(public[:1952]).verify(signature[:3309], signed, LABEL)
    Ed25519PublicKey.from_public_bytes(public[1952:]).verify(signature[3309:], signed)


def verify_object(kind, body, key_text, signature):
    """One object alone in its batch: the root of the tree is its leaf hash."""
    public = key_bytes(key_text)
    key_id = sha256(b"passerelle/v1 key", b"mldsa65-ed25519", b"\0", public)
    root = sha256(b"\0", bytes([kind]), body)
    message = b"passerelle/v1 batch" + key_id + (1).to_bytes(4, "big") + root
    verify_signature(public, message, signature)
    assert first(body, 1) == key_id, "the body names another key"


def open_wrap(vector, manifest, wraps):
    # X-Wing: a seed of 32 bytes is expanded into the keys of both parts.
    expanded = hashlib.shake_256(bytes.fromhex(vector["recipient_seed"])).digest(96)
    secret = hpke.MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
        X25519PrivateKey.from_private_bytes(expanded[64:]),
    )
    public = key_bytes(vector["recipient"])
    key_id = sha256(b"passerelle/v1 key", b"x-wing", b"\0", public)
    without = b"".join(raw for number, _, raw in fields(manifest) if number != 16)
    info = b"passerelle/v1 wrap" + sha256(without)
    suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    ours = next(wrap for _, wrap, _ in fields(wraps) if first(wrap, 1) == key_id)
    return suite.decrypt(first(ours, 2) + first(ours, 3), secret, info)


def main(path):
    with open(path, encoding="utf-8") as file:
        vector = json.load(file)
    part = {name: bytes.fromhex(vector[name]) for name in (
        "manifest", "manifest_signature", "wraps", "chunk_table", "index", "chunks",
        "statement", "statement_signature", "plaintext",
    )}
    manifest = part["manifest"]
    verify_object(MANIFEST, manifest, vector["signer"], part["manifest_signature"])
    verify_object(
        STATEMENT, part["statement"], vector["statement_signer"], part["statement_signature"]
    )
    assert sha256(manifest).hex() == vector["package_id"]
    for number, name in ((16, "wraps"), (17, "chunk_table"), (18, "index")):
        assert first(first(manifest, number), 2) == sha256(part[name]), name
    key = open_wrap(vector, manifest, part["wraps"])
    assert derive(key, b"passerelle/v1 commit") == first(manifest, 14), "key commitment"
    nonce = bytes(12)
    index = AESGCM(derive(key, b"passerelle/v1 index")).decrypt(nonce, part["index"], None)
    description, salt, digests = (first(index, number) for number in (1, 2, 3))
    commitment = sha256(b"passerelle/v1 content", salt, sha256(description))
    assert commitment == first(manifest, 15), "content commitment"
    plain, at = b"", 0
    secret = derive(key, b"passerelle/v1 chunks")
    table = part["chunk_table"]
    for number in range(len(table) // 36):
        record = table[number * 36 : number * 36 + 36]
        chunk = part["chunks"][at : at + int.from_bytes(record[:4], "big")]
        at += len(chunk)
        assert sha256(chunk) == record[4:], "chunk digest"
        digest = digests[number * 32 : number * 32 + 32]
        opened = AESGCM(derive(secret, b"passerelle/v1 chunk", digest)).decrypt(nonce, chunk, None)
        assert sha256(opened) == digest and opened[0] == 0, "a chunk that is not compressed"
        plain += opened[5 : 5 + int.from_bytes(opened[1:5], "big")]
    assert plain == part["plaintext"]
    print("manifest and statement: both halves verify; wrap, index and chunks open")


if __name__ == "__main__":
    main(sys.argv[1])
