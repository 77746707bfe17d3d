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
  (c2sp.org/tlog-cosignature), again both;
- every entry, bundle, tile and root (RFC 6962), proofs of inclusion and consistency (RFC 9162);
- every manifest and statement, with its place in its batch.

Prints one line of JSON about what was verified. Exits 0 only when all of it holds, 1 when something
does not, with the reason on standard error.
"""

import argparse
import base64
import binascii
import hashlib
import json
import pathlib
import sys
import tomllib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey, MLDSA65PublicKey

CONTEXT = b"passerelle/v1"
LABEL = b"COMPSIG-MLDSA65-Ed25519-SHA512"
ALGORITHM = b"mldsa65-ed25519"
WIDTH = 256
MANIFEST, STATEMENT = 1, 2
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
    return message.get(number, [default])[0]


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


class Trust:
    """The convention, the sheets, and the keys in them."""

    def __init__(self, roots, conventions, sheets):
        need(conventions, "there is no convention")
        texts = [(tomllib.loads(split_note(note)[0].decode()), note) for note in conventions]
        texts.sort(key=lambda pair: pair[0]["version"])
        before = None
        self.conventions, self.roots = set(), {}
        for convention, note in texts:
            named = {party["id"]: party.get("root") for party in convention["party"]}
            for party in (before or convention)["signatories"]:
                if before is None:
                    _, public = public_key(named[party])
                    pinned = key_id(public) == roots.get(party)
                    need(pinned, f"the root key of {party} is not pinned")
                else:
                    _, public = public_key(self.named[party])
                verify_note(note, party, public)
            self.named, before = named, convention
            for party, root in named.items():
                if root:
                    self.roots.setdefault(party, []).append(public_key(root)[1])
            self.conventions.add(sha256(split_note(note)[0]))
        self.keys, self.logs = {}, {}
        seen = {}
        for note in sheets:
            self.add_sheet(note, seen)

    def add_sheet(self, note, seen):
        text, _ = split_note(note)
        sheet = tomllib.loads(text.decode())
        party = sheet["party"]
        refused = Refused(f"{party} has no root key in the convention")
        for root in reversed(self.roots.get(party, [])):
            try:
                verify_note(note, party, root)
                break
            except Refused as error:
                refused = error
        else:
            raise refused
        for listed in sheet.get("key", []):
            owner, public = public_key(listed["key"])
            need(owner == party, f"the sheet of {party} lists a key of {owner}")
            self.keys[party, key_id(public)] = public, set(listed["roles"])
        if "log" in sheet and sheet["seq"] >= seen.get(party, 0):
            self.logs[party] = LogKeys(sheet["log"])
            seen[party] = sheet["seq"]

    def verify_object(self, kind, signed):
        """A manifest or a statement in its batch; its decoded body and the party that signed."""
        message = fields(signed)
        need(one(message, 1, 0) == kind, "a signed object is of another type")
        body, signature = one(message, 2), one(message, 6)
        content = fields(body)
        party = one(content, 5 if kind == MANIFEST else 3).decode()
        signer = one(content, 1)
        need((party, signer) in self.keys, f"no sheet of {party} lists the key {signer.hex()}")
        public, roles = self.keys[party, signer]
        need(may_say(roles, kind, content), f"a key of {party} may not say this")
        size = one(message, 4, 0)
        leaf = sha256(b"\0", bytes([kind]), body)
        root = root_of_path(leaf, one(message, 3, 0), size, message.get(5, []))
        batch = b"passerelle/v1 batch" + signer + size.to_bytes(4, "big") + root
        what = "manifest" if kind == MANIFEST else "statement"
        verify_composite(public, batch, signature, f"{what} by {party}")
        return party, body, content


def may_say(roles, kind, content):
    if kind == MANIFEST:
        return "agent" in roles
    said = next((number for number in range(16, 24) if number in content), None)
    return {
        16: "gateway" in roles,
        17: "gateway" in roles,
        18: "agent" in roles,
        19: "agent" in roles,
        20: bool({"agent", "gateway"} & roles),
        22: "gateway" in roles,
        23: "gateway" in roles,
    }.get(said, False)


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
    """The two verifier keys of a log."""

    def __init__(self, sheet_log):
        self.name = sheet_log["origin"]
        self.keys = {}
        for vkey in sheet_log["vkeys"]:
            name, check, encoded = vkey.split("+", 2)
            typed = unbase64(encoded, "a verifier key")
            digest = sha256(name.encode(), b"\n", typed)[:4]
            need(name == self.name and digest.hex() == check, "a verifier key is damaged")
            self.keys[typed[0]] = typed[1:]
        need(set(self.keys) == {ED25519, MLDSA44}, "a log has not one key of each kind")

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
    """The checkpoint, and who else has cosigned it."""
    need(party in trust.logs, f"no sheet says with which keys {party} signs its log")
    checkpoint = trust.logs[party].verify_own(note)
    _, lines = split_note(note)
    others = {keys.name: other for other, keys in trust.logs.items() if other != party}
    names = {name for name, _, _ in lines} - {trust.logs[party].name}
    need(names <= set(others), "somebody unknown has signed a checkpoint")
    partners = sorted(others[name] for name in names)
    for partner in partners:
        trust.logs[partner].verify_cosigned(note)
    return checkpoint, partners


def owner(trust, note):
    origin, _, _ = read_checkpoint(split_note(note)[0])
    found = [party for party, keys in trust.logs.items() if keys.name == origin]
    need(found, f"no sheet says with which keys {origin} is signed")
    return found[0]


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


def verify_log(folder, trust):
    note = (folder / "checkpoint").read_bytes()
    party = owner(trust, note)
    (_, size, root), _ = verify_checkpoint(trust, party, note)
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
        cosigned.update({partner: covered for partner in partners})
    objects = sum(verify_entry(trust, entry)[0] for entry in entries)
    return {"log": party, "size": size, "cosigned": cosigned, "signatures": objects}


def verify_entry(trust, entry):
    """Verifies what is signed in an entry: how many objects, the package, and the statements."""
    event = fields(entry)
    objects, package, said = 0, None, []
    if 2 in event:
        accepted = fields(one(event, 2))
        _, body, _ = trust.verify_object(MANIFEST, one(accepted, 1))
        package, objects = sha256(body), 1
        said = accepted.get(2, [])
    elif 3 in event:
        forwarded = fields(one(event, 3))
        package, said = one(forwarded, 1), forwarded.get(3, [])
    elif 4 in event:
        said = fields(one(event, 4)).get(1, [])
    elif 5 in event or 14 in event:
        number, place = (5, 2) if 5 in event else (14, 3)
        package = one(fields(one(event, number)), place) or None
    elif {9, 10, 11} & set(event):
        number = min({9, 10, 11} & set(event))
        package = one(fields(one(event, number)), 1)
    statements = []
    for signed in said:
        issuer, body, content = trust.verify_object(STATEMENT, signed)
        need(package in (None, one(content, 8)), "a statement is about another package")
        package = one(content, 8)
        statements.append((issuer, sha256(body), content))
    return objects + len(statements), package, statements


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
    party = owner(trust, checkpoint)
    (_, size, root), partners = verify_checkpoint(trust, party, checkpoint)
    found = root_of_path(leaf_hash(entry), index, size, path)
    need(found == root, f"the proof does not show entry {index}")
    verify_entry(trust, entry)
    return {"log": party, "index": index, "size": size, "cosigned": partners}


def verify_log_evidence(trust, package, message):
    party = one(message, 1).decode()
    checkpoints, before = [], None
    for raw in message.get(2, []):
        evidence = fields(raw)
        checkpoint, partners = verify_checkpoint(trust, party, one(evidence, 1))
        if before:
            verify_consistency(*before[1:], *checkpoint[1:], evidence.get(2, []))
        before = checkpoint
        checkpoints.append((checkpoint, partners))
    statements, last = {}, -1
    for raw in message.get(3, []):
        evidence = fields(raw)
        index, entry = one(evidence, 1, 0), one(evidence, 2)
        need(index > last, "entries are not in their order")
        last = index
        covering = [each for each in checkpoints if each[0][1] > index]
        inclusions = evidence.get(3, [])
        need(covering and len(covering) == len(inclusions), f"entry {index} is not proven")
        for ((_, size, root), _), inclusion in zip(covering, inclusions):
            path = fields(inclusion).get(1, [])
            found = root_of_path(leaf_hash(entry), index, size, path)
            need(found == root, f"entry {index} of the log of {party} is not under its checkpoint")
        _, about, said = verify_entry(trust, entry)
        need(about == package, f"entry {index} is about another package")
        partners = sorted({partner for _, partners in covering for partner in partners})
        for issuer, digest, content in said:
            statements.setdefault(digest, (issuer, content, set()))[2].update(partners)
    return party, statements


def verify_sequences(statements):
    """No two statements under one number; whoever follows names whom it follows."""
    numbered = {}
    for digest, (_, content, _) in statements.items():
        seq = one(content, 5, 0)
        if seq:
            sequence = numbered.setdefault((one(content, 1), one(content, 4)), {})
            need(seq not in sequence, f"two statements have the number {seq}")
            sequence[seq] = (digest, one(content, 6))
    for sequence in numbered.values():
        for seq, (_, previous) in sequence.items():
            if seq - 1 in sequence:
                need(previous == sequence[seq - 1][0], f"number {seq} follows another statement")


KINDS = {
    16: "accepted", 17: "forwarded", 18: "delivered", 19: "acknowledged", 20: "refused",
    22: "not-collected", 23: "not-receipted",
}


def verify_evidence(data, roots):
    message = fields(data)
    need(one(message, 1) == b"passerelle/v1 evidence", "this is no evidence")
    package = one(message, 2)
    trust = Trust(roots, message.get(3, []), message.get(4, []))
    statements, logs = {}, []
    for raw in message.get(5, []):
        party, said = verify_log_evidence(trust, package, fields(raw))
        logs.append(party)
        for digest, (issuer, content, partners) in said.items():
            statements.setdefault(digest, (issuer, content, set()))[2].update(partners)
    need(logs, "there is no log in it")
    verify_sequences(statements)
    told = []
    for issuer, content, partners in statements.values():
        kind = next(KINDS[number] for number in KINDS if number in content)
        told.append({"kind": kind, "issuer": issuer, "cosigned": sorted(partners)})
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
    arguments = parser.parse_args()
    roots = dict(arguments.root)
    try:
        if arguments.what == "evidence":
            answer = verify_evidence(arguments.path.read_bytes(), roots)
        else:
            folder = arguments.notes or arguments.path
            trust = Trust(roots, notes(folder, "conventions"), notes(folder, "sheets"))
            if arguments.what == "log":
                answer = verify_log(arguments.path, trust)
            else:
                answer = verify_proof(arguments.path.read_bytes(), trust)
    except Exception as error:  # Whatever a damaged file leads to, it is not verified.
        print(f"refused: {error or type(error).__name__}", file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
