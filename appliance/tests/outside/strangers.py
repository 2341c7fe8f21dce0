"""Makes leaf certificates with their keys for handshakes with a real node, good and bad, signed with the real keys of
its issuing authority and of its log: whatever is refused is refused for what is wrong with it and for nothing else.

    strangers.py --root root.pem --issuing issuing.pem --issuing-key issuing.key --log-key log.key --out DIRECTORY

Writes <case>.pem, the leaf alone, and <case>.key.
"""

import argparse
import datetime
import ipaddress
import pathlib
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import leaves
import make_log
from leaves import HOUR, HOST, SPIFFE, names, set_to


def cases(now):
    """What each case changes in a good leaf"""
    signs = leaves.usage(digital_signature=True, key_cert_sign=True)
    code_signing = leaves.ExtendedKeyUsageOID.CODE_SIGNING
    critical = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1.1"), b"\x05\x00")
    return {
        "good": set_to(),
        "expired": set_to(begins=now - 25 * HOUR, ends=now - HOUR),
        "not-yet-valid": set_to(begins=now + HOUR, ends=now + 25 * HOUR),
        "for-servers-only": set_to(purposes=[leaves.SERVER]),
        "for-code-signing": set_to(purposes=[code_signing]),
        "without-purpose": set_to(purposes=[]),
        "authority-as-leaf": set_to(ca=True, usage=signs, subject=leaves.common_name("n1")),
        "without-digital-signature": set_to(usage=leaves.usage(key_agreement=True)),
        "unknown-critical-extension": set_to(more=[critical]),
        "name-outside": names("n1.example.com", SPIFFE),
        "address-of-version-4": names(HOST, "192.0.2.1", SPIFFE),
        "wildcard": names("*.nodes.hypermesh", SPIFFE),
        "without-node": names(HOST),
        "two-nodes": names(HOST, SPIFFE, "spiffe://hypermesh/node/n2"),
        "foreign-trust-domain": names(HOST, "spiffe://elsewhere/node/n1"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    for name in ("--root", "--issuing", "--issuing-key", "--log-key", "--out"):
        parser.add_argument(name, required=True, type=pathlib.Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    load = lambda path: serialization.load_pem_private_key(path.read_bytes(), None)
    issuing = x509.load_pem_x509_certificate(options.issuing.read_bytes())
    issuing = leaves.Authority(issuing, load(options.issuing_key))
    root = x509.load_pem_x509_certificate(options.root.read_bytes())
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    inside = ipaddress.ip_address("::1")

    def write(name, made):
        (options.out / f"{name}.pem").write_bytes(made.certificate.public_bytes(serialization.Encoding.PEM))
        (options.out / f"{name}.key").write_bytes(made.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ))

    with tempfile.TemporaryDirectory() as directory:
        log = make_log.Log(pathlib.Path(directory), issuing, root, make_log.milliseconds(now))
        other = make_log.Log(pathlib.Path(directory), issuing, root, make_log.milliseconds(now))
        log.take_key(load(options.log_key))
        for name, change in cases(now).items():
            leaf = leaves.Leaf(now, inside)
            change(leaf)
            write(name, make_log.logged(leaf, issuing, log))
        write("never-logged", leaves.Leaf(now, inside).signed(issuing))
        write("logged-elsewhere", make_log.logged(leaves.Leaf(now, inside), issuing, other))
        # Of the right key, and dated two hours ahead
        ahead = make_log.Log(pathlib.Path(directory), issuing, root, make_log.milliseconds(now) + 7_200_000)
        ahead.take_key(load(options.log_key))
        write("logged-tomorrow", make_log.logged(leaves.Leaf(now, inside), issuing, ahead))
        alike = leaves.Authority(issuing.certificate, ec.generate_private_key(ec.SECP256R1()))
        write("forged-issuer", make_log.logged(leaves.Leaf(now, inside), alike, log))
        own = leaves.authority("a root of nobody", None, now, 1)
        foreign = leaves.authority("issuing", own, now, 0, leaves.constraints(inside))
        write("foreign-issuer", make_log.logged(leaves.Leaf(now, inside), foreign, log))


if __name__ == "__main__":
    main()
