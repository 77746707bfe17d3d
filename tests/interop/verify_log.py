#!/usr/bin/env python3
"""Verifies logs, proofs and evidence from the published specifications alone, with `cryptography`.

    pip install cryptography
    verify_log.py log FOLDER --root caf21=FINGERPRINT --root grand-dijon=FINGERPRINT
    verify_log.py proof entry-12.tlog-proof --notes FOLDER --root … --root …
    verify_log.py evidence FILE.evidence --root … --root …

FOLDER is what `passerelle audit export` writes: a log (c2sp.org/tlog-tiles) with the convention and
the party sheets (c2sp.org/signed-note). What is checked:

- both root keys, by the fingerprints that were compared on paper; the convention, signed by both;
  every sheet, signed by its party's root key; both halves of every composite signature
  (draft-ietf-lamps-pq-composite-sigs, ML-DSA-65 and Ed25519);
- checkpoints (c2sp.org/tlog-checkpoint), Ed25519 and ML-DSA-44, and cosignatures
  (c2sp.org/tlog-cosignature), again both, under any keys that the sheets of a log's owner have
  listed for it;
- every entry, bundle, tile and root (RFC 6962), proofs of inclusion and consistency (RFC 9162);
- every manifest and statement, with its place in its batch, and whether its key may say it; every
  receipt, by its place in the log;
- every time-stamp of an authority over a checkpoint (RFC 3161), and whether one of those that
  `--time-authority` names vouches for it;
- every checkpoint that an entry quotes: of this log, of a partner's, and of a log that was lost and
  whose place another one has taken. What was in a lost log is to be verified with that log.

A statement counts as evidence if another institution has cosigned it, its key held when it was made
and, where the key was revoked since, it was cosigned before that.

An entry or a statement of a kind that is not in the tables below is refused, with its number: what
it means is not known here.

Prints one line of JSON about what was verified. Exits 0 only when all of it holds, 1 when something
does not, with the reason on standard error.
"""

import argparse
import base64
import binascii
import datetime
import functools
import hashlib
import json
import pathlib
import sys
import tomllib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey, MLDSA65PublicKey
from cryptography.x509 import load_pem_x509_certificates

import time_stamp

CONTEXT = b"passerelle/v1"
LABEL = b"COMPSIG-MLDSA65-Ed25519-SHA512"
ALGORITHM = b"mldsa65-ed25519"
LOG_ALGORITHM = b"log-ed25519-mldsa44"
WIDTH = 256
MANIFEST, STATEMENT = 1, 2
# Fields of a manifest (package.proto).
RECIPIENTS, CONTENT_COMMIT = 6, 15
INQUIRE_MAX = 256
ED25519, COSIGNATURE, MLDSA44 = 0x01, 0x04, 0x06


class Refused(Exception):
    """Something does not hold."""


def need(condition, why):
    if not condition:
        raise Refused(why)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def unbase64(text, what):
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise Refused(f"{what}: {error}") from error


def holds(key, *arguments):
    try:
        key.verify(*arguments)
        return True
    except InvalidSignature:
        return False


# --- protobuf (protobuf.dev/programming-guides/encoding), as much of it as is needed


def varint(data, at):
    value = shift = 0
    while True:
        need(at < len(data) and shift < 64, "a number is cut off")
        value |= (data[at] & 0x7F) << shift
        at, shift, more = at + 1, shift + 7, data[at] & 0x80
        if not more:
            return value, at


def fields(data):
    """Fields of a message by number, in their order."""
    at, found = 0, {}
    while at < len(data):
        tag, at = varint(data, at)
        value, at = varint(data, at)
        if tag & 7 == 2:
            need(at + value <= len(data), "a field is cut off")
            value, at = data[at : at + value], at + value
        else:
            need(tag & 7 == 0, "a field of a type that is not used here")
        found.setdefault(tag >> 3, []).append(value)
    return found


def one(message, number, default=b""):
    found = message.get(number, [default])
    need(len(found) == 1, f"field {number} stands in a message {len(found)} times")
    return found[0]


def chosen(message, others, known, what):
    """The only field of a message besides the `others`: its number, which must be a known one."""
    numbers = set(message) - others
    unknown = sorted(numbers - set(known))
    need(not unknown, f"{what} holds number {unknown[0] if unknown else 0}, which is unknown here")
    need(len(numbers) == 1, f"{what} says {len(numbers)} things at once")
    return min(numbers)


# --- keys and signed notes


def public_key(text):
    party, algorithm, _, encoded = text.split("+", 3)
    need(algorithm.encode() == ALGORITHM, f"a key of {party} has the algorithm {algorithm}")
    return party, unbase64(encoded, f"a key of {party}")


def key_id(public):
    return sha256(b"passerelle/v1 key", ALGORITHM, b"\0", public)


def verify_composite(public, message, signature, who):
    """draft-ietf-lamps-pq-composite-sigs: both halves sign M'."""
    need(len(public) == 1952 + 32, f"{who}: the key has another length")
    need(len(signature) == 3309 + 64, f"{who}: the signature has another length")
    digest = hashlib.sha512(message).digest()
    signed = b"CompositeAlgorithmSignatures2025" + LABEL + bytes([len(CONTEXT)]) + CONTEXT + digest
    post_quantum = MLDSA65PublicKey.from_public_bytes(public[:1952])
    classical = Ed25519PublicKey.from_public_bytes(public[1952:])
    need(holds(post_quantum, signature[:3309], signed, LABEL), f"{who}: ML-DSA-65 does not verify")
    need(holds(classical, signature[3309:], signed), f"{who}: Ed25519 does not verify")


def split_note(note):
    """c2sp.org/signed-note: the text, and (name, key hash, signature) of each line."""
    at = note.rfind(b"\n\n")
    need(at >= 0 and note.endswith(b"\n"), "a note has no signatures")
    text, lines = note[: at + 1], []
    for line in note[at + 2 : -1].decode().split("\n"):
        need(line.startswith("\u2014 ") and line.count(" ") == 2, "a signature line is malformed")
        _, name, encoded = line.split(" ")
        signature = unbase64(encoded, f"the line of {name}")
        need(len(signature) > 4, "a signature line is too short")
        lines.append((name, signature[:4], signature[4:]))
    return text, lines


def verify_note(note, party, public):
    text, lines = split_note(note)
    wanted = sha256(party.encode(), b"\n\xff", ALGORITHM, public)[:4]
    found = [signature for name, kind, signature in lines if (name, kind) == (party, wanted)]
    need(len(found) == 1, f"a note is not signed by the root key of {party}")
    verify_composite(public, text, found[0], f"a note by {party}")


def toml(note):
    return tomllib.loads(split_note(note)[0].decode())


def root_of(convention, party):
    """The root key that a convention names for a party."""
    roots = [each.get("root") for each in convention["party"] if each["id"] == party]
    need(roots and roots[0], f"the convention names no root key of {party}")
    owner, public = public_key(roots[0])
    need(owner == party, f"the convention names a key of {owner} as the root key of {party}")
    return public


def any_of(keys, verify, none="there is no key"):
    """What the first key that fits says; the refusal of the first one when none does."""
    refused = None
    for each in keys:
        try:
            return verify(each)
        except Refused as error:
            refused = refused or error
    raise refused or Refused(none)


def moment(text):
    """Milliseconds since 1970 of a time, or of a day's first instant, in UTC."""
    time = datetime.datetime.fromisoformat(text)
    if time.tzinfo is None:
        time = time.replace(tzinfo=datetime.timezone.utc)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return (time - epoch) // datetime.timedelta(milliseconds=1)


def is_of(fingerprint, identity):
    """Whether a fingerprint, which people write in groups, is that of a key."""
    return fingerprint.replace(" ", "").lower() == identity.hex()


class SigningKey:
    """A signing key as the sheets of its party describe it."""

    def __init__(self, party, listed, sheet):
        owner, self.public = public_key(listed["key"])
        need(owner == party, f"the sheet of {party} lists a key of {owner}")
        self.id, self.roles = key_id(self.public), set(listed["roles"])
        self.first = moment(listed["not_before"])
        self.last = min(moment(listed["not_after"]), moment(sheet["not_after"]))
        self.revoked = None

    def follow(self, sheet, listed):
        """A newer sheet ends what it leaves out, and undoes no revocation of an older one."""
        if not listed:
            self.last = min(self.last, moment(sheet["issued"]))
        revocations = sheet.get("revocation", [])
        times = [moment(each["at"]) for each in revocations if is_of(each["key"], self.id)]
        self.revoked = min(times) if times else self.revoked

    def is_doubted(self, said, cosigned):
        """Whether what it has signed may not be believed although the signature verifies."""
        if self.revoked is not None and not any(at < self.revoked for at in cosigned):
            return True
        return not self.first <= said <= self.last


class Trust:
    """The convention, the sheets, and the keys in them."""

    def __init__(self, roots, conventions, sheets):
        need(conventions, "there is no convention")
        self.pinned, self.roots, self.keys, self.logs = roots, {}, {}, {}
        self.signed_under, self.gateways = {}, {}
        self.conventions, before = {}, None
        for version, text, note in self.binding(conventions):
            before = self.add_convention(version, text, note, before)
        sheets = [(toml(note), note) for note in sheets]
        sheets.sort(key=lambda pair: (pair[0]["party"], pair[0]["seq"]))
        texts = {}
        for sheet, note in sheets:
            number, text = (sheet["party"], sheet["seq"]), split_note(note)[0]
            need(texts.setdefault(number, text) == text, f"two texts are sheet {number}")
            self.add_sheet(sheet, note)

    def binding(self, notes):
        """Versions in their order, from the lowest one on that binds under the pinned roots."""
        texts = sorted(((toml(note), note) for note in notes), key=lambda pair: pair[0]["version"])
        refused = None
        for at, (text, note) in enumerate(texts):
            try:
                for party in text["signatories"]:
                    verify_note(note, party, self.pinned_root(text, party))
                return [(text["version"], text, note) for text, note in texts[at:]]
            except Refused as error:
                refused = refused or error
        raise refused

    def pinned_root(self, convention, party):
        public = root_of(convention, party)
        need(key_id(public) == self.pinned.get(party), f"the root key of {party} is not pinned")
        return public

    def add_convention(self, version, convention, note, before):
        digest = sha256(split_note(note)[0])
        if version in self.conventions:
            need(self.conventions[version] == digest, f"two texts are convention version {version}")
            return before
        if before:
            need(convention["id"] == before["id"], "there are two conventions")
            for party in before["signatories"]:
                verify_note(note, party, root_of(before, party))
            if version == before["version"] + 1:
                superseded = self.conventions[before["version"]].hex()
                need(convention["supersedes"] == superseded, f"{version} supersedes another text")
        for party in convention["party"]:
            if party.get("root"):
                public = root_of(convention, party["id"])
                self.roots.setdefault(party["id"], []).append((version, public))
            gateway = party.get("via") or party["id"]
            self.gateways.setdefault(party["id"], set()).add(gateway)
        self.conventions[version] = digest
        return convention

    def add_sheet(self, sheet, note):
        party = sheet["party"]
        roots = list(reversed(self.roots.get(party, [])))
        why = f"{party} has no root key in the convention"
        version = any_of(roots, lambda root: verify_note(note, party, root[1]) or root[0], why)
        if version < self.signed_under.get(party, 0):
            return  # Its root key was replaced by then, perhaps because it was lost.
        self.signed_under[party] = version
        keys = self.keys.setdefault(party, {})
        listed = [SigningKey(party, each, sheet) for each in sheet.get("key", [])]
        for key in listed:
            key.revoked = keys[key.id].revoked if key.id in keys else None
            keys[key.id] = key
        for key in keys.values():
            key.follow(sheet, key in listed)
        if "log" in sheet:
            epoch_of(party, sheet["log"]["origin"])
            vkeys = sheet["log"]["vkeys"]
            pairs = [vkeys[at : at + 2] for at in range(0, len(vkeys), 2)]
            newest = [LogKeys(sheet["log"]["origin"], pair) for pair in pairs]
            known = self.logs.get(party, [])
            for log_keys in newest:
                earlier = [keys.revoked for keys in known if keys == log_keys]
                log_keys.revoked = earlier[0] if earlier else None
            self.logs[party] = newest + [keys for keys in known if keys not in newest]
        for log_keys in self.logs.get(party, []):
            log_keys.follow(sheet)

    def has_begun_anew(self, party):
        """Whether its log has taken the place of one that was lost, and its numbers with it."""
        return any(epoch_of(party, keys.name) > 1 for keys in self.logs.get(party, []))

    def serves(self, gateway, party):
        return gateway in self.gateways.get(party, set())

    def verify_object(self, kind, signed):
        """A manifest or a statement in its batch; its decoded body and the party that signed."""
        message = fields(signed)
        need(one(message, 1, 0) == kind, "a signed object is of another type")
        body, signature = one(message, 2), one(message, 6)
        content = fields(body)
        party = one(content, 5 if kind == MANIFEST else 3).decode()
        signer = one(content, 1)
        known = self.keys.get(party, {})
        need(signer in known, f"no sheet of {party} lists the key {signer.hex()}")
        public, roles = known[signer].public, known[signer].roles
        if kind == MANIFEST:
            need("agent" in roles, f"a key of {party} may not say this")
        else:
            name, speakers = STATEMENTS[what_is_said(content)]
            need(speakers & roles, f"a key of {party} may not say this: {name}")
        size = one(message, 4, 0)
        leaf = sha256(b"\0", bytes([kind]), body)
        root = root_of_path(leaf, one(message, 3, 0), size, message.get(5, []))
        batch = b"passerelle/v1 batch" + signer + size.to_bytes(4, "big") + root
        what = "manifest" if kind == MANIFEST else "statement"
        verify_composite(public, batch, signature, f"{what} by {party}")
        return party, body, content


# What a statement can say (statement.proto), by its number: its name, and the roles of which a key
# must have one to say it. Nobody's `busy` is kept as evidence of anything.
STATEMENTS = {
    16: ("accepted", {"gateway"}),
    17: ("forwarded", {"gateway"}),
    18: ("delivered", {"agent"}),
    19: ("acknowledged", {"agent"}),
    20: ("refused", {"agent", "gateway"}),
    21: ("busy", set()),
    22: ("not-collected", {"gateway"}),
    23: ("not-receipted", {"gateway"}),
    24: ("cancel", {"agent"}),
    25: ("damaged", {"agent", "gateway"}),
    26: ("inquire", {"gateway"}),
    27: ("purged", {"gateway"}),
}


def what_is_said(content):
    """The number of what a statement says; all of its fields are known ones."""
    said = chosen(content, set(range(1, 9)), STATEMENTS, "a statement")
    need(len(one(content, 8)) == 32, "a statement is about no package")
    if said == 26:
        inquiry = fields(one(content, said))
        first, last = one(inquiry, 4, 0), one(inquiry, 5, 0)
        need(0 < first <= last < first + INQUIRE_MAX, "an inquiry asks for no range of numbers")
    return said


# --- Merkle trees (RFC 6962, RFC 9162)


def leaf_hash(entry):
    return sha256(b"\0", entry)


def node_hash(left, right):
    return sha256(b"\1", left, right)


def tree_hash(leaves):
    """MTH of RFC 6962, 2.1."""
    if not leaves:
        return sha256()
    level = leaves
    while len(level) > 1:
        pairs = [node_hash(*level[at : at + 2]) for at in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def roots_at(leaves, sizes):
    """The root of the first so many leaves, for each of these sizes that there is."""
    if 0 in sizes:
        yield 0, sha256()
    peaks = []
    for size, leaf in enumerate(leaves, 1):
        peaks.append((1, leaf))
        while len(peaks) > 1 and peaks[-1][0] == peaks[-2][0]:
            (_, right), (width, left) = peaks.pop(), peaks.pop()
            peaks.append((2 * width, node_hash(left, right)))
        if size in sizes:
            root = peaks[-1][1]
            for _, left in reversed(peaks[:-1]):
                root = node_hash(left, root)
            yield size, root


def root_of_path(leaf, index, size, path):
    """RFC 9162, 2.1.3.2."""
    need(index < size, "an index is beyond its tree")
    node, last, root = index, size - 1, leaf
    for sibling in path:
        need(last > 0 and len(sibling) == 32, "a proof is too long")
        if node & 1 or node == last:
            root = node_hash(sibling, root)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        node, last = node >> 1, last >> 1
    need(last == 0, "a proof is too short")
    return root


def verify_consistency(first, first_root, second, second_root, path):
    """RFC 9162, 2.1.4.2."""
    why = f"the first {first} entries are not the beginning of {second}"
    need(0 < first <= second, why)
    if first == second:
        need(not path and first_root == second_root, why)
        return
    path = ([first_root] if first & (first - 1) == 0 else []) + path
    need(path, why)
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    one_root = two_root = path[0]
    for sibling in path[1:]:
        need(last > 0, why)
        if node & 1 or node == last:
            one_root, two_root = node_hash(sibling, one_root), node_hash(sibling, two_root)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            two_root = node_hash(two_root, sibling)
        node, last = node >> 1, last >> 1
    need(last == 0 and one_root == first_root and two_root == second_root, why)


# --- checkpoints and cosignatures


class LogKeys:
    """A pair of verifier keys of a log."""

    def __init__(self, origin, vkeys):
        self.name = origin
        self.keys = {}
        for vkey in vkeys:
            name, check, encoded = vkey.split("+", 2)
            typed = unbase64(encoded, "a verifier key")
            digest = sha256(name.encode(), b"\n", typed)[:4]
            need(name == self.name and digest.hex() == check, "a verifier key is damaged")
            self.keys[typed[0]] = typed[1:]
        need(set(self.keys) == {ED25519, MLDSA44}, "a log has not one key of each kind")
        self.id = sha256(
            b"passerelle/v1 key", LOG_ALGORITHM, b"\0", self.keys[ED25519], self.keys[MLDSA44]
        )
        self.revoked = None

    def __eq__(self, other):
        return (self.name, self.keys) == (other.name, other.keys)

    def follow(self, sheet):
        """A newer sheet undoes no revocation of an older one."""
        revocations = sheet.get("revocation", [])
        times = [moment(each["at"]) for each in revocations if is_of(each["key"], self.id)]
        self.revoked = min(times) if times else self.revoked

    def line(self, lines, kind):
        key = self.keys[MLDSA44 if kind == MLDSA44 else ED25519]
        digest = sha256(self.name.encode(), b"\n", bytes([kind]), key)[:4]
        found = [line for name, key_hash, line in lines if (name, key_hash) == (self.name, digest)]
        need(found, f"the line of {self.name} with type {kind} is missing")
        return found[0]

    def verify_post_quantum(self, lines, checkpoint):
        line = self.line(lines, MLDSA44)
        origin, size, root = checkpoint
        names = [bytes([len(name)]) + name for name in (self.name.encode(), origin.encode())]
        message = (
            b"subtree/v1\n\0" + names[0] + line[:8] + names[1]
            + (0).to_bytes(8, "big") + size.to_bytes(8, "big") + root
        )
        key = MLDSA44PublicKey.from_public_bytes(self.keys[MLDSA44])
        need(holds(key, line[8:], message), f"ML-DSA-44 of {self.name} does not verify")

    def verify_own(self, note):
        text, lines = split_note(note)
        checkpoint = read_checkpoint(text)
        need(checkpoint[0] == self.name, f"a checkpoint is of {checkpoint[0]}, not of {self.name}")
        key = Ed25519PublicKey.from_public_bytes(self.keys[ED25519])
        need(holds(key, self.line(lines, ED25519), text), f"Ed25519 of {self.name} does not verify")
        self.verify_post_quantum(lines, checkpoint)
        return checkpoint

    def verify_cosigned(self, note):
        """When it cosigned, in seconds."""
        text, lines = split_note(note)
        line = self.line(lines, COSIGNATURE)
        time = int.from_bytes(line[:8], "big")
        message = f"cosignature/v1\ntime {time}\n".encode() + text
        key = Ed25519PublicKey.from_public_bytes(self.keys[ED25519])
        need(holds(key, line[8:], message), f"the cosignature of {self.name} does not verify")
        self.verify_post_quantum(lines, read_checkpoint(text))
        return time


def read_checkpoint(text):
    origin, size, root = text.decode().split("\n")[:3]
    need(size == str(int(size)), "the size of a checkpoint is malformed")
    return origin, int(size), unbase64(root, "a root")


def verify_checkpoint(trust, party, note):
    """The checkpoint, and who else has cosigned it: when, and from when on its key is revoked."""
    why = f"no sheet says with which keys {party} signs its log"
    checkpoint = any_of(trust.logs.get(party, []), lambda keys: keys.verify_own(note), why)
    names = {name for name, _, _ in split_note(note)[1]} - {checkpoint[0]}
    partners = {}
    for partner in sorted(set(trust.logs) - {party}):
        named = [keys for keys in trust.logs[partner] if keys.name in names]
        if named:
            verify = lambda keys: (1000 * keys.verify_cosigned(note), keys.revoked)
            partners[partner] = any_of(named, verify)
            names -= {keys.name for keys in named}
    need(not names, "somebody unknown has signed a checkpoint")
    return checkpoint, partners


def counting(partners):
    """Those who have cosigned before their key was revoked, if it was."""
    said = partners.items()
    return {who: at for who, at in said if at[1] is None or at[0] < at[1]}


def owner(trust, origin):
    found = [party for party in trust.logs if origin in {keys.name for keys in trust.logs[party]}]
    need(found, f"no sheet says with which keys {origin} is signed")
    return found[0]


def epoch_of(party, origin):
    """Which log of its owner it is: 1, or the number of one that has taken another's place."""
    first = f"{party}.passerelle/log"
    if origin == first:
        return 1
    number = origin.removeprefix(first + "/")
    numbered = number.isdecimal() and f"{first}/{int(number)}" == origin
    need(numbered and int(number) > 1, f"{origin} is no log of {party}")
    return int(number)


# --- a log's folder


def number_path(number):
    groups = [f"{number % 1000:03}"]
    while number >= 1000:
        number //= 1000
        groups.insert(0, f"x{number % 1000:03}")
    return "/".join(groups)


def tile(folder, level, index, width):
    partial = "" if width == WIDTH else f".p/{width}"
    path = folder / "tile" / str(level) / (number_path(index) + partial)
    need(path.is_file(), f"{path} is missing")
    return path.read_bytes()


def entries_of(bundle, width):
    entries, at = [], 0
    while at < len(bundle):
        length = int.from_bytes(bundle[at : at + 2], "big")
        entries.append(bundle[at + 2 : at + 2 + length])
        at += 2 + length
    need(at == len(bundle) and len(entries) == width, "a bundle of entries is damaged")
    return entries


def widths(count):
    return [min(WIDTH, count - first) for first in range(0, count, WIDTH)]


def verify_log(folder, trust, authorities):
    note = (folder / "checkpoint").read_bytes()
    origin, size, root = read_checkpoint(split_note(note)[0])
    party = owner(trust, origin)
    verify_checkpoint(trust, party, note)
    entries = []
    for index, width in enumerate(widths(size)):
        entries += entries_of(tile(folder, "entries", index, width), width)
    row, level = [leaf_hash(entry) for entry in entries], 0
    leaves = row
    while row:
        for index, width in enumerate(widths(len(row))):
            hashes = row[index * WIDTH : index * WIDTH + width]
            stored = tile(folder, level, index, width)
            need(stored == b"".join(hashes), f"tile {level}/{index} differs from its entries")
        full = len(row) // WIDTH
        row = [tree_hash(row[at * WIDTH : at * WIDTH + WIDTH]) for at in range(full)]
        level += 1
    need(tree_hash(leaves) == root, "the entries do not hash to the root of the checkpoint")
    cosigned = {}
    for path in sorted((folder / "cosigned").glob("*.note")):
        (_, covered, signed), partners = verify_checkpoint(trust, party, path.read_bytes())
        need(partners, f"{path} bears no partner's cosignature")
        need(covered <= size, f"{path}: more entries were cosigned than there are")
        need(tree_hash(leaves[:covered]) == signed, f"{path}: another history was cosigned")
        cosigned.update({partner: covered for partner in counting(partners)})
    if epoch_of(party, origin) > 1:
        first, _ = event_of(entries[0])
        need(EVENTS[first][0] == "epoch", f"{origin} does not say which log's place it has taken")
    signatures, said, quoted, stamped = 0, {}, [], {}
    for index, entry in enumerate(entries):
        objects, _, statements = verify_entry(trust, party, entry, index)
        signatures += objects
        for _, _, content in statements:
            name, _ = STATEMENTS[what_is_said(content)]
            said[name] = said.get(name, 0) + 1
        quoted += verify_quoted(trust, party, origin, entry, index)
        number, event = event_of(entry)
        if EVENTS[number][0] == "time-stamped":
            text, _ = split_note(one(event, 1))
            authority, _, believed = time_stamp.verify(one(event, 2), text, authorities)
            if believed:
                stamped[authority] = read_checkpoint(text)[1]
    roots = dict(roots_at(leaves, {covered for covered, _ in quoted}))
    for covered, found in quoted:
        need(roots[covered] == found, f"an entry quotes another history of {covered} entries")
    return {
        "log": party, "size": size, "cosigned": cosigned, "signatures": signatures,
        "statements": said, "quoted": len(quoted), "stamped": stamped,
    }


# What an entry can be (log.proto), by the number of its event: its name, and the number of the
# field that names a package. Manifests and statements name one themselves.
EVENTS = {
    2: ("accepted", None),
    3: ("forwarded", 1),
    4: ("statement", None),
    5: ("refused", 2),
    6: ("started", None),
    7: ("stopped", None),
    8: ("configured", None),
    9: ("held", 1),
    10: ("released", 1),
    11: ("retried", 1),
    12: ("cosigned", None),
    13: ("counted", None),
    14: ("operator", 3),
    15: ("handed-over", None),
    16: ("epoch", None),
    17: ("resent", 1),
    18: ("agent-state", None),
    19: ("repaired", 1),
    20: ("purge-decided", 1),
    21: ("time-stamped", None),
}


def event_of(entry):
    """The number of an entry's event, and its fields."""
    message = fields(entry)
    number = chosen(message, {1}, EVENTS, "an entry")
    return number, fields(one(message, number))


def verify_entry(trust, log, entry, index):
    """Verifies what is signed in an entry: how many objects, the package, and the statements."""
    number, event = event_of(entry)
    name, place = EVENTS[number]
    objects, said = 0, []
    package = one(event, place) if place else None
    if name == "accepted":
        _, body, _ = trust.verify_object(MANIFEST, one(event, 1))
        package, objects, said = sha256(body), 1, [one(event, 2)]
    elif name == "forwarded":
        said = event.get(3, [])
    elif name == "statement":
        said = [one(event, 1)]
    need(package is None or len(package) in (0, 32), f"entry {index} names a malformed package")
    statements = []
    for signed in said:
        issuer, body, content = trust.verify_object(STATEMENT, signed)
        need(package in (None, one(content, 8)), "a statement is about another package")
        package = one(content, 8)
        statements.append((issuer, sha256(body), content))
    if name == "accepted":
        issuer, _, content = statements[0]
        own = issuer == log and receipt(content) == index
        need(own, f"entry {index} does not hold the receipt of {log} for it")
    return objects + len(statements), package or None, statements


def receipt(content):
    """At which index its issuer says that it has accepted a package; nothing else says any."""
    return one(fields(one(content, 16)), 1, 0) if 16 in content else None


def verify_quoted(trust, log, origin, entry, index):
    """Verifies a checkpoint that an entry quotes: size and root, where it is of this very log."""
    number, event = event_of(entry)
    name, _ = EVENTS[number]
    if name == "time-stamped":
        (signed, size, root), _ = verify_checkpoint(trust, log, one(event, 1))
        need(signed == origin and size <= index, f"entry {index} stamps what follows")
        return [(size, root)]
    if name not in ("cosigned", "epoch"):
        return []
    party = one(event, 1).decode()
    if name == "epoch":
        need(party != log or index == 0, f"entry {index} begins a log that has begun")
        last = one(event, 2)
        if last:
            (lost, _, _), _ = verify_checkpoint(trust, party, last)
            known = [epoch_of(party, keys.name) for keys in trust.logs[party]]
            newer = epoch_of(log, origin) if party == log else max(known)
            need(epoch_of(party, lost) < newer, f"entry {index}: no older log was lost")
        return []
    ours = one(event, 2, 0)
    whose, witness = (log, party) if ours else (party, log)
    (signed, size, root), partners = verify_checkpoint(trust, whose, one(event, 3))
    need(witness in partners, f"entry {index}: {witness} has not cosigned what it quotes")
    if not ours:
        return []
    need(signed == origin and size <= index, f"entry {index} quotes a checkpoint of what follows")
    return [(size, root)]


# --- proofs and evidence


def verify_proof(text, trust):
    """c2sp.org/tlog-proof, with the entry as its extra data."""
    head, checkpoint = text.split(b"\n\n", 1)
    lines = head.decode().split("\n")
    need(lines[0] == "c2sp.org/tlog-proof@v1", "this is no tlog-proof")
    need(lines[1].startswith("extra ") and lines[2].startswith("index "), "a line is missing")
    entry = unbase64(lines[1][6:], "the entry")
    index = int(lines[2][6:])
    path = [unbase64(line, "a hash") for line in lines[3:]]
    origin, size, root = read_checkpoint(split_note(checkpoint)[0])
    party = owner(trust, origin)
    _, partners = verify_checkpoint(trust, party, checkpoint)
    found = root_of_path(leaf_hash(entry), index, size, path)
    need(found == root, f"the proof does not show entry {index}")
    verify_entry(trust, party, entry, index)
    verify_quoted(trust, party, origin, entry, index)
    return {"log": party, "index": index, "size": size, "cosigned": sorted(counting(partners))}


def verify_stamps(note, tokens, authorities):
    """The authorities that are believed and have stamped the text of a checkpoint, and when."""
    text, _ = split_note(note)
    stamps = [time_stamp.verify(token, text, authorities) for token in tokens]
    return {(authority, latest) for authority, latest, believed in stamps if believed}


def verify_log_evidence(trust, package, message, authorities):
    party = one(message, 1).decode()
    checkpoints, before = [], None
    for raw in message.get(2, []):
        evidence = fields(raw)
        checkpoint, partners = verify_checkpoint(trust, party, one(evidence, 1))
        if before:
            need(before[0] == checkpoint[0], f"there are checkpoints of two logs of {party}")
            verify_consistency(*before[1:], *checkpoint[1:], evidence.get(2, []))
        before = checkpoint
        stamped = verify_stamps(one(evidence, 1), evidence.get(3, []), authorities)
        checkpoints.append((checkpoint, partners, stamped))
    statements, last, manifest = {}, -1, None
    for raw in message.get(3, []):
        evidence = fields(raw)
        index, entry = one(evidence, 1, 0), one(evidence, 2)
        need(index > last, "entries are not in their order")
        last = index
        covering = [each for each in checkpoints if each[0][1] > index]
        inclusions = evidence.get(3, [])
        need(covering and len(covering) == len(inclusions), f"entry {index} is not proven")
        for ((_, size, root), _, _), inclusion in zip(covering, inclusions):
            path = fields(inclusion).get(1, [])
            found = root_of_path(leaf_hash(entry), index, size, path)
            need(found == root, f"entry {index} of the log of {party} is not under its checkpoint")
        _, about, said = verify_entry(trust, party, entry, index)
        need(about == package, f"entry {index} is about another package")
        manifest = verify_convention(trust, entry) or manifest
        partners = [
            (partner, *when) for _, cosigned, _ in covering
            for partner, when in counting(cosigned).items()
        ]
        stamped = set().union(*(each[2] for each in covering))
        for issuer, digest, content in said:
            placed = issuer != party or receipt(content) in (None, index)
            need(placed, f"entry {index} of the log of {party} has the receipt of another")
            known = statements.setdefault(digest, (issuer, content, set(), set()))
            known[2].update(partners)
            known[3].update(stamped)
    return party, statements, manifest


def verify_convention(trust, entry):
    """The manifest in an entry, if there is one; the convention it was made under is known."""
    number, event = event_of(entry)
    if EVENTS[number][0] != "accepted":
        return None
    manifest = fields(one(fields(one(event, 1)), 2))
    need(one(manifest, 7) in trust.conventions.values(), "a manifest names an unknown convention")
    return manifest


def may_say(trust, manifest, issuer, content):
    """Whether the issuer has the part in the package that its words are about, and whether what it
    has opened is what the manifest names."""
    name, _ = STATEMENTS[what_is_said(content)]
    said = fields(one(content, what_is_said(content)))
    sender = one(manifest, 5).decode()
    recipients = {each.decode() for each in manifest.get(RECIPIENTS, [])}
    if name not in ("delivered", "acknowledged", "cancel", "not-collected", "not-receipted"):
        return True
    recipient = one(said, 1).decode()
    if recipient not in recipients:
        return False
    if name == "delivered" and one(said, 2) != one(manifest, CONTENT_COMMIT):
        return False
    serving = {recipient} if name == "not-collected" else {sender, recipient}
    return {
        "delivered": issuer == recipient,
        "acknowledged": issuer == recipient,
        "cancel": issuer == sender,
    }.get(name, any(trust.serves(issuer, party) for party in serving))


def verify_sequences(trust, statements):
    """No two statements under one number; whoever follows names whom it follows.

    A gateway's numbers begin anew with a log that takes the place of a lost one.
    """
    numbered = {}
    for digest, (issuer, content, _, _) in statements.items():
        seq, signer = one(content, 5, 0), one(content, 1)
        speaks = "gateway" in trust.keys[issuer][signer].roles
        if seq and not (speaks and trust.has_begun_anew(issuer)):
            sequence = numbered.setdefault((signer, one(content, 4)), {})
            need(seq not in sequence, f"two statements have the number {seq}")
            sequence[seq] = (digest, one(content, 6))
    for sequence in numbered.values():
        numbers = sorted(sequence)
        for before, seq in zip(numbers, numbers[1:]):
            follows = sequence[seq][1] == sequence[before][0]
            need(follows == (seq == before + 1), f"number {seq} follows another statement")


def verify_evidence(data, roots, authorities):
    message = fields(data)
    need(one(message, 1) == b"passerelle/v1 evidence", "this is no evidence")
    package = one(message, 2)
    trust = Trust(roots, message.get(3, []), message.get(4, []))
    statements, logs, manifest = {}, [], None
    for raw in message.get(5, []):
        party, said, accepted = verify_log_evidence(trust, package, fields(raw), authorities)
        logs.append(party)
        manifest = accepted or manifest
        for digest, (issuer, content, partners, stamped) in said.items():
            known = statements.setdefault(digest, (issuer, content, set(), set()))
            known[2].update(partners)
            known[3].update(stamped)
    need(logs, "there is no log in it")
    verify_sequences(trust, statements)
    told = []
    for issuer, content, partners, stamped in statements.values():
        kind, _ = STATEMENTS[what_is_said(content)]
        key = trust.keys[issuer][one(content, 1)]
        # Whoever has the lost key of the issuer's own log writes any time with it.
        shown = {at for who, at, revoked in partners if revoked is None or who != issuer}
        shown |= {latest for _, latest in stamped}
        doubted = key.is_doubted(one(content, 7, 0), shown)
        doubted = doubted or not (manifest is None or may_say(trust, manifest, issuer, content))
        cosigned = sorted({partner for partner, _, _ in partners})
        told.append({
            "kind": kind, "issuer": issuer, "cosigned": cosigned,
            "counts": bool(cosigned) and not doubted,
            "stamped": sorted({authority for authority, _ in stamped}),
        })
    told.sort(key=lambda each: (each["kind"], each["issuer"]))
    return {"package": package.hex(), "logs": logs, "statements": told}


def notes(folder, name):
    return [path.read_bytes() for path in sorted((folder / name).glob("*.note"))]


def root(text):
    party, fingerprint = text.split("=", 1)
    return party, bytes.fromhex(fingerprint.replace(" ", ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("what", choices=["log", "proof", "evidence"])
    parser.add_argument("path", type=pathlib.Path)
    parser.add_argument("--root", action="append", type=root, required=True)
    parser.add_argument("--notes", type=pathlib.Path, help="folder with conventions/ and sheets/")
    parser.add_argument(
        "--time-authority", action="append", type=pathlib.Path, default=[],
        help="certificates (PEM) of an authority whose time-stamps are believed",
    )
    arguments = parser.parse_args()
    roots = dict(arguments.root)
    try:
        read = [load_pem_x509_certificates(path.read_bytes()) for path in arguments.time_authority]
        authorities = functools.reduce(list.__add__, read, [])
        if arguments.what == "evidence":
            answer = verify_evidence(arguments.path.read_bytes(), roots, authorities)
        else:
            folder = arguments.notes or arguments.path
            trust = Trust(roots, notes(folder, "conventions"), notes(folder, "sheets"))
            if arguments.what == "log":
                answer = verify_log(arguments.path, trust, authorities)
            else:
                answer = verify_proof(arguments.path.read_bytes(), trust)
    except Exception as error:  # Whatever a damaged file leads to, it is not verified.
        print(f"refused: {error or type(error).__name__}", file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
