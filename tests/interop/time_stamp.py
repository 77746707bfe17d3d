"""Verifies time-stamp tokens (RFC 3161, RFC 5652, RFC 5816) with `cryptography`."""

import datetime
import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

SIGNED_DATA = "1.2.840.113549.1.7.2"
TST_INFO = "1.2.840.113549.1.9.16.1.4"
CONTENT_TYPE = "1.2.840.113549.1.9.3"
MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"
RSA_PSS = "1.2.840.113549.1.1.10"
SHA2 = {
    "2.16.840.1.101.3.4.2.1": ("sha256", hashes.SHA256()),
    "2.16.840.1.101.3.4.2.2": ("sha384", hashes.SHA384()),
    "2.16.840.1.101.3.4.2.3": ("sha512", hashes.SHA512()),
}
INTEGER, OCTETS, OID, GENERALIZED_TIME = 0x02, 0x04, 0x06, 0x18
SEQUENCE, SET, FIRST = 0x30, 0x31, 0xA0


class Unstamped(Exception):
    """A time-stamp does not hold."""


def need(condition, why):
    if not condition:
        raise Unstamped(f"a time-stamp does not hold: {why}")


# --- DER (X.690), as much of it as is needed


def parts(data):
    """The values in some bytes: tag, content, and the whole encoding of each."""
    at, found = 0, []
    while at < len(data):
        start, tag = at, data[at]
        need(at + 1 < len(data), "it is cut off")
        length, at = data[at + 1], at + 2
        if length & 0x80:
            count = length & 0x7F
            need(0 < count <= 4, "a length is malformed")
            length, at = int.from_bytes(data[at : at + count], "big"), at + count
        need(at + length <= len(data), "it is cut off")
        found.append((tag, data[at : at + length], data[start : at + length]))
        at += length
    return found


def inside(part, tag):
    need(part[0] == tag, f"there is a value with tag {part[0]:#x}, not {tag:#x}")
    return parts(part[1])


def only(data, tag):
    found = parts(data)
    need(len(found) == 1, "there is more than one value")
    return inside(found[0], tag)


def oid(part):
    need(part[0] == OID and part[1], "an object identifier is missing")
    numbers, value = [], 0
    for byte in part[1]:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, [first, numbers[0] - 40 * first] + numbers[1:]))


def algorithm(part):
    return oid(inside(part, SEQUENCE)[0])


def sha2(name):
    need(name in SHA2, f"it uses the algorithm {name}")
    return SHA2[name]


# --- tokens


def verify(token, stamped, authorities):
    """Name of the authority, the latest time that it may mean in milliseconds since 1970, and
    whether one of `authorities` (x509) vouches for it."""
    kind, content = only(token, SEQUENCE)
    need(oid(kind) == SIGNED_DATA, "it is no signed data")
    signed = inside(inside(content, FIRST)[0], SEQUENCE)
    what, wrapped = inside(signed[2], SEQUENCE)
    need(oid(what) == TST_INFO, "it is no time")
    info_bytes = inside(wrapped, FIRST)[0][1]
    certificates = [each[2] for part in signed if part[0] == FIRST for each in parts(part[1])]
    signers = inside(signed[-1], SET)
    need(len(signers) == 1, "it has not exactly one signer")
    certificate, encoded = verify_signer(inside(signers[0], SEQUENCE), info_bytes, certificates)
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    alone = usage.critical and list(usage.value) == [ExtendedKeyUsageOID.TIME_STAMPING]
    need(alone, "its certificate is not for time-stamps alone")
    info = only(info_bytes, SEQUENCE)
    imprint_algorithm, imprint = inside(info[2], SEQUENCE)
    name, _ = sha2(algorithm(imprint_algorithm))
    need(hashlib.new(name, stamped).digest() == imprint[1], "it stamps something else")
    need(info[4][0] == GENERALIZED_TIME, "it has no time")
    text = info[4][1].decode()
    form = "%Y%m%d%H%M%S.%fZ" if "." in text else "%Y%m%d%H%M%SZ"
    at = datetime.datetime.strptime(text, form).replace(tzinfo=datetime.timezone.utc)
    others = [x509.load_der_x509_certificate(each) for each in certificates if each != encoded]
    believed = vouched(certificate, others, authorities, at)
    latest = int(at.timestamp() * 1000) + accuracy(info[5:6])
    return certificate.subject.rfc4514_string(), latest, believed


def accuracy(found):
    """Milliseconds by which the time may be off, where the authority says so."""
    if not found or found[0][0] != SEQUENCE:
        return 0
    numbers = {tag: int.from_bytes(value, "big") for tag, value, _ in parts(found[0][1])}
    return numbers.get(INTEGER, 0) * 1000 + numbers.get(0x80, 0) + numbers.get(0x81, 0) // 1000


def verify_signer(signer, info, certificates):
    """The signer's certificate, whose key has signed this content."""
    digest_name, digest = sha2(algorithm(signer[2]))
    attributes = {}
    need(signer[3][0] == FIRST, "it has no signed attributes")
    for attribute in parts(signer[3][1]):
        key, values = inside(attribute, SEQUENCE)
        need(oid(key) not in attributes, "a signed attribute stands twice")
        attributes[oid(key)] = inside(values, SET)
    wanted = {CONTENT_TYPE, MESSAGE_DIGEST, SIGNING_CERTIFICATE_V2}
    need(wanted <= set(attributes), "a signed attribute is missing")
    need(oid(attributes[CONTENT_TYPE][0]) == TST_INFO, "something else was signed")
    found = attributes[MESSAGE_DIGEST][0][1]
    need(found == hashlib.new(digest_name, info).digest(), "its digest is of something else")
    named = inside(inside(attributes[SIGNING_CERTIFICATE_V2][0], SEQUENCE)[0], SEQUENCE)[0]
    named = inside(named, SEQUENCE)
    hash_name = sha2(algorithm(named[0]))[0] if named[0][0] == SEQUENCE else "sha256"
    hashed = next(part[1] for part in named if part[0] == OCTETS)
    holders = [each for each in certificates if hashlib.new(hash_name, each).digest() == hashed]
    need(len(holders) == 1, "the certificate of its signer is not in it")
    certificate = x509.load_der_x509_certificate(holders[0])
    # The attributes were signed as the SET that they are, not under their own tag.
    message = bytes([SET]) + signer[3][2][1:]
    pss = algorithm(signer[4]) == RSA_PSS
    verify_signature(certificate.public_key(), signer[5][1], message, digest, pss)
    return certificate, holders[0]


def verify_signature(key, signature, message, digest, pss):
    try:
        if isinstance(key, rsa.RSAPublicKey):
            salted = padding.PSS(padding.MGF1(digest), digest.digest_size)
            key.verify(signature, message, salted if pss else padding.PKCS1v15(), digest)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(digest))
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            need(False, "its key is of an unknown kind")
    except InvalidSignature:
        need(False, "its signature does not verify")


def vouched(certificate, others, authorities, at):
    """Whether a chain of at most four leads from an authority to the certificate, at that time."""
    for _ in range(4):
        if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
            return False
        if any(issued(certificate, authority) for authority in authorities):
            return True
        above = [other for other in others if issued(certificate, other)]
        if not above:
            return False
        certificate = above[0]
    return False


def issued(certificate, issuer):
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints)
        return constraints.value.ca
    except x509.ExtensionNotFound:
        return False
