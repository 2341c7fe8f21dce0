"""Writes a small transparency log with its certificates, by another implementation than the product's: so that
`stoqctl log fsck`, `log verify` and `certificate verify` are held to what the specifications say and not to what the
product happens to write. The files under appliance/stoqctl/tests/fixture were made by

    make_log.py --out appliance/stoqctl/tests/fixture --entries 5 --root-years 90

and are kept: their keys were thrown away.
"""

import argparse
import base64
import datetime
import hashlib
import importlib.machinery
import importlib.util
import ipaddress
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import leaves

ORIGIN = "ca.trust.hypermesh/log"
TREE_HEAD = 5


def verifier():
    """deploy/verify-log as a module: the same hashing and DER, written apart from the product"""
    path = pathlib.Path(__file__).parents[3] / "deploy" / "verify-log"
    loader = importlib.machinery.SourceFileLoader("verify_log", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("verify_log", loader))
    loader.exec_module(module)
    return module


verify_log = verifier()


def spki(key):
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def milliseconds(time):
    return int(time.timestamp() * 1000) - 600_000


def public_pem(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def der(certificate):
    return certificate.public_bytes(serialization.Encoding.DER)


class Log:
    """A log in memory that is written out at the end"""

    def __init__(self, out, issuing, root, now_ms):
        self.out, self.now_ms = out, now_ms
        self.take_key(ec.generate_private_key(ec.SECP256R1()))
        self.issuer_key_hash = hashlib.sha256(spki(issuing.key.public_key())).digest()
        self.chain = [hashlib.sha256(der(one)).digest() for one in (issuing.certificate, root)]
        for one in (issuing.certificate, root):
            self.write(f"issuer/{hashlib.sha256(der(one)).hexdigest()}", der(one))
        self.leaves, self.tile_leaves = [], []

    def take_key(self, key):
        """Signs with this key from now on, with its own where there is none; returns the one in use"""
        self.key = key or self.key
        self.log_id = hashlib.sha256(spki(self.key.public_key())).digest()
        return self.key

    def fill(self, entries, now, inside, issuing, shared=None):
        """Logs certificates behind the entries of another log, where one is given; returns the last one"""
        if shared:
            self.leaves, self.tile_leaves = list(shared.leaves), list(shared.tile_leaves)
        last = None
        while len(self.leaves) < entries:
            last = logged(leaves.Leaf(now, inside), issuing, self).certificate
        return last

    def write(self, path, content):
        target = self.out / "log" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def sign(self, message):
        signature = self.key.sign(message, ec.ECDSA(hashes.SHA256()))
        return b"\x04\x03" + len(signature).to_bytes(2, "big") + signature

    def add(self, precertificate):
        """Logs a precertificate; returns its SCT"""
        vector, index = verify_log.vector, len(self.leaves)
        timestamp = (self.now_ms + index).to_bytes(8, "big")
        tbs, _ = verify_log.without_extension(verify_log.tbs_of(precertificate), verify_log.POISON)
        extensions = b"\x00\x00\x05" + index.to_bytes(5, "big")
        entry = timestamp + b"\x00\x01" + self.issuer_key_hash + vector(tbs, 3) + vector(extensions, 2)
        self.leaves.append(verify_log.leaf_hash(b"\x00\x00" + entry))
        self.tile_leaves.append(entry + vector(precertificate, 3) + vector(b"".join(self.chain), 2))
        signature = self.sign(b"\x00\x00" + entry)
        return b"\x00" + self.log_id + timestamp + vector(extensions, 2) + signature

    def publish(self):
        """Tiles and checkpoint; returns the proof bundles by index"""
        width = verify_log.TILE_WIDTH
        for start in range(0, len(self.leaves), width):
            piece = self.tile_leaves[start : start + width]
            self.write(verify_log.tile_path("data", start // width, len(piece)), b"".join(piece))
        level, hashes_of_level = 0, self.leaves
        while hashes_of_level:
            for start in range(0, len(hashes_of_level), width):
                piece = hashes_of_level[start : start + width]
                self.write(verify_log.tile_path(level, start // width, len(piece)), b"".join(piece))
            whole = len(hashes_of_level) // width
            hashes_of_level = [
                verify_log.perfect(hashes_of_level[at * width : (at + 1) * width]) for at in range(whole)
            ]
            level += 1
        files = verify_log.DirectoryFiles(self.out / "log")
        self.tiles = verify_log.Tiles(files, len(self.leaves))
        self.note = self.checkpoint(self.tiles.root(len(self.leaves)))
        self.write("checkpoint", self.note)

    def checkpoint(self, root):
        timestamp = (self.now_ms + len(self.leaves)).to_bytes(8, "big")
        size = len(self.leaves)
        message = b"\x00\x01" + timestamp + size.to_bytes(8, "big") + root
        named = ORIGIN.encode() + b"\n" + bytes([TREE_HEAD]) + self.log_id
        key_id = hashlib.sha256(named).digest()[:4]
        signature = base64.b64encode(key_id + timestamp + self.sign(message)).decode()
        body = f"{ORIGIN}\n{size}\n{base64.b64encode(root).decode()}\n"
        return f"{body}\n\u2014 {ORIGIN} {signature}\n".encode()

    def proof(self, index):
        """A proof that travels (C2SP tlog-proof)"""
        lines = [base64.b64encode(one).decode() for one in self.tiles.inclusion(index)]
        head = "\n".join(["c2sp.org/tlog-proof@v1", f"index {index}", *lines])
        return f"{head}\n\n".encode() + self.note


def logged(leaf, issuing, log):
    """Logs a leaf and returns it with the SCT in it, and its key; precertificate and certificate have one builder"""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = leaf.builder(issuing, key)
    precertificate = issuing.sign(builder.add_extension(x509.PrecertPoison(), critical=True))
    sct = log.add(der(precertificate))
    listed = verify_log.vector(verify_log.vector(sct, 2), 2)
    extension = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2"), verify_log.wrapped(4, listed)
    )
    return leaves.Authority(issuing.sign(builder.add_extension(extension, critical=False)), key)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--entries", type=int, default=5)
    parser.add_argument("--root-years", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    ends = now + datetime.timedelta(days=365 * options.root_years)
    inside = ipaddress.ip_address("fd77::1")
    root = leaves.authority("root", None, now, 1, ends=ends)
    issuing = leaves.authority("issuing", root, now, 0, leaves.constraints(inside), ends=ends)
    log = Log(options.out, issuing, root.certificate, milliseconds(now))
    last = None
    for _ in range(options.entries):
        leaf = leaves.Leaf(now, inside)
        leaf.ends = ends
        last = logged(leaf, issuing, log).certificate
    log.publish()
    pem = lambda one: one.public_bytes(serialization.Encoding.PEM)
    (options.out / "root.pem").write_bytes(pem(root.certificate))
    (options.out / "chain.pem").write_bytes(pem(last) + pem(issuing.certificate))
    (options.out / "proof.txt").write_bytes(log.proof(options.entries - 1))
    (options.out / "log.pem").write_bytes(public_pem(log.key))


if __name__ == "__main__":
    main()
