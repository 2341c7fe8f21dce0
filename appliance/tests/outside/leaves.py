"""Makes leaf certificates, good and bad, under an issuing authority of the product, for the judges of the outside
tests. Each case says what is wrong with it; what the judges ought to say is in tests/outside/table.rs.

    leaves.py --root root.pem --issuing issuing.pem --issuing-key issuing.key --inside ADDRESS --out DIRECTORY

Writes <case>.pem (the leaf), <case>.der, and cases.json: name, usage (server or client), the name and the address
it is asked for, and the files of the root and of the intermediates that go with it.
"""

import argparse
import datetime
import ipaddress
import json
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOUR = datetime.timedelta(hours=1)
HOST = "n1.nodes.hypermesh"
SPIFFE = "spiffe://hypermesh/node/n1"
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
POISON = x509.PrecertPoison()


class Authority:
    """A certificate with its key"""

    def __init__(self, certificate, key):
        self.certificate, self.key = certificate, key

    def sign(self, builder):
        return builder.sign(self.key, hashes.SHA256())

    def identifier(self):
        """How its leaves name its key: as its own certificate does, however that was computed"""
        own = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own.value)


def usage(**on):
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: on.get(name, False) for name in names})


def common_name(text):
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "STOQ outside tests"),
                      x509.NameAttribute(NameOID.COMMON_NAME, text)])


def constraints(inside):
    prefix = ipaddress.ip_network((inside, 48), strict=False)
    zones = [x509.DNSName(zone) for zone in ("hypermesh", "caesar", "trust", "assets")]
    # No IPv4 at all: the whole of it, as the product's authorities exclude it.
    everything = ipaddress.IPv4Network((0, 0))
    return x509.NameConstraints(zones + [x509.IPAddress(prefix)], [x509.IPAddress(everything)])


def authority(subject, parent, now, path_length, limits=None, ends=None):
    """An authority under a parent, or a root where there is none"""
    key = ec.generate_private_key(ec.SECP256R1())
    name = common_name(subject)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(parent.certificate.subject if parent else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 48 * HOUR)
        .not_valid_after(ends or now + 90 * 24 * HOUR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if parent:
        builder = builder.add_extension(parent.identifier(), critical=False)
    if limits:
        builder = builder.add_extension(limits, critical=True)
    signer = parent or Authority(None, key)
    return Authority(signer.sign(builder), key)


class Leaf:
    """What a leaf says; each case changes one thing"""

    def __init__(self, now, inside):
        self.begins, self.ends = now - HOUR / 12, now + 24 * HOUR
        self.names = [x509.DNSName(HOST), x509.IPAddress(inside), x509.UniformResourceIdentifier(SPIFFE)]
        self.purposes = [SERVER, CLIENT]
        self.subject = x509.Name([])
        self.ca = False
        self.usage = usage(digital_signature=True)
        self.more = []

    def builder(self, issuer, key):
        """Everything but what the log adds"""
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.begins)
            .not_valid_after(self.ends)
            .add_extension(x509.BasicConstraints(ca=self.ca, path_length=None), critical=True)
            .add_extension(self.usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(issuer.identifier(), critical=False)
        )
        if self.names:
            builder = builder.add_extension(x509.SubjectAlternativeName(self.names), critical=not self.subject)
        if self.purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(self.purposes), critical=False)
        for extension in self.more:
            builder = builder.add_extension(extension, critical=True)
        return builder

    def signed(self, issuer):
        key = ec.generate_private_key(ec.SECP256R1())
        return Authority(issuer.sign(self.builder(issuer, key)), key)


def flipped(certificate, what):
    """The DER with one bit changed, in the serial number or in the signature"""
    der = bytearray(certificate.public_bytes(serialization.Encoding.DER))
    if what == "signature":
        at = len(der) - 3
    else:
        serial = certificate.serial_number.to_bytes(20, "big").lstrip(b"\0")
        at = bytes(der).index(serial) + len(serial) - 1
    der[at] ^= 1
    return bytes(der)


class Cases:
    """The cases and the files they are written to"""

    def __init__(self, out, root, issuing, inside, now):
        self.out, self.issuing, self.inside, self.now, self.listed = out, issuing, inside, now, []
        self.root = self.write_certificates("root-product", [root])
        self.intermediates = self.write_certificates("issuing-product", [issuing.certificate])

    def write_certificates(self, name, certificates):
        path = self.out / f"{name}.pem"
        path.write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates))
        return str(path)

    def add(self, name, leaf, usage_of="server", host=HOST, root=None, intermediates=None):
        """A case; the leaf as certificate or as DER"""
        der = leaf if isinstance(leaf, bytes) else leaf.public_bytes(serialization.Encoding.DER)
        (self.out / f"{name}.der").write_bytes(der)
        pem = x509_pem(der)
        (self.out / f"{name}.pem").write_text(pem)
        self.listed.append({
            "name": name, "usage": usage_of, "host": host, "leaf": str(self.out / f"{name}.pem"),
            "der": str(self.out / f"{name}.der"), "root": root or self.root,
            "intermediates": intermediates or self.intermediates,
        })

    def leaf(self, name, change=lambda leaf: None, issuer=None, **more):
        """A case that differs from a good leaf in one thing"""
        leaf = Leaf(self.now, self.inside)
        change(leaf)
        self.add(name, leaf.signed(issuer or self.issuing).certificate, **more)


def x509_pem(der):
    import base64
    import textwrap

    body = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"


def set_to(**values):
    return lambda leaf: [setattr(leaf, name, value) for name, value in values.items()]


def names(*texts):
    """Alternative names by their look"""
    def one(text):
        if "://" in text:
            return x509.UniformResourceIdentifier(text)
        try:
            return x509.IPAddress(ipaddress.ip_address(text))
        except ValueError:
            return x509.DNSName(text)
    return set_to(names=[one(text) for text in texts])


def good(cases):
    cases.leaf("good-server")
    cases.leaf("good-client", usage_of="client")
    cases.leaf("good-without-address", names(HOST, SPIFFE))
    cases.leaf("good-apex-and-other-zone", names("hypermesh", "n1.trust"), host="n1.trust")


def bad_in_time(cases):
    now = cases.now
    cases.leaf("expired", set_to(begins=now - 25 * HOUR, ends=now - HOUR))
    cases.leaf("not-yet-valid", set_to(begins=now + HOUR, ends=now + 25 * HOUR))


def bad_names(cases):
    cases.leaf("name-outside", names("n1.example.com"), host="n1.example.com")
    cases.leaf("one-name-outside", names(HOST, "n1.example.com"))
    cases.leaf("name-with-zone-as-suffix", names("n1.evilhypermesh"), host="n1.evilhypermesh")
    cases.leaf("address-outside", names(HOST, "2001:db8:ffff::1"))
    cases.leaf("address-of-version-4", names(HOST, "192.0.2.1"))
    cases.leaf("address-mapped", names(HOST, "::ffff:192.0.2.1"))


def bad_usage(cases):
    cases.leaf("server-for-clients-only", set_to(purposes=[CLIENT]))
    cases.leaf("client-for-servers-only", set_to(purposes=[SERVER]), usage_of="client")
    cases.leaf("for-code-signing", set_to(purposes=[ExtendedKeyUsageOID.CODE_SIGNING]))
    cases.leaf("without-purpose", set_to(purposes=[]))
    signs = usage(digital_signature=True, key_cert_sign=True)
    cases.leaf("authority-as-leaf", set_to(ca=True, usage=signs, subject=common_name("n1")))
    cases.leaf("precertificate", set_to(more=[POISON]))
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1.1"), b"\x05\x00")
    cases.leaf("unknown-critical-extension", set_to(more=[unknown]))


def bad_signatures(cases):
    leaf = Leaf(cases.now, cases.inside).signed(cases.issuing).certificate
    cases.add("changed-content", flipped(leaf, "serial"))
    cases.add("changed-signature", flipped(leaf, "signature"))


def bad_chains(cases):
    now, inside, product = cases.now, cases.inside, cases.issuing.certificate
    root = authority("a root of nobody", None, now, 1)
    limits = constraints(inside)
    foreign = authority("issuing", root, now, 0, limits)
    chain = cases.write_certificates("issuing-foreign", [foreign.certificate])
    cases.leaf("foreign-root", issuer=foreign, intermediates=chain)
    # The same name as the product's authority, another key
    alike = Authority(product, ec.generate_private_key(ec.SECP256R1()))
    cases.leaf("forged-issuer", issuer=alike)
    below_leaf = Leaf(now, inside)
    below_leaf.subject = common_name("n1")
    below_leaf = below_leaf.signed(cases.issuing)
    chain = cases.write_certificates("issuing-leaf", [below_leaf.certificate, product])
    named = Authority(below_leaf.certificate, below_leaf.key)
    cases.leaf("under-a-leaf", issuer=named, intermediates=chain)
    below = authority("one too many", cases.issuing, now, None)
    chain = cases.write_certificates("issuing-below", [below.certificate, product])
    cases.leaf("under-a-second-authority", issuer=below, intermediates=chain)
    own_root = cases.write_certificates("root-own", [root.certificate])
    ended = authority("issuing", root, now, 0, limits, ends=now - HOUR)
    chain = cases.write_certificates("issuing-ended", [ended.certificate])
    cases.leaf("authority-expired", issuer=ended, root=own_root, intermediates=chain)
    free = authority("issuing", root, now, 0)
    chain = cases.write_certificates("issuing-unconstrained", [free.certificate])
    cases.leaf("authority-unconstrained", issuer=free, root=own_root, intermediates=chain)
    # The same chain with its constraints is good: what is refused above is refused for the reason named.
    chain = cases.write_certificates("issuing-constrained", [foreign.certificate])
    cases.leaf("good-under-own-root", issuer=foreign, root=own_root, intermediates=chain)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    for name in ("--root", "--issuing", "--issuing-key", "--out"):
        parser.add_argument(name, required=True, type=pathlib.Path)
    parser.add_argument("--inside", required=True, type=ipaddress.IPv6Address)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    key = serialization.load_pem_private_key(options.issuing_key.read_bytes(), None)
    issuing = Authority(x509.load_pem_x509_certificate(options.issuing.read_bytes()), key)
    root = x509.load_pem_x509_certificate(options.root.read_bytes())
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    cases = Cases(options.out, root, issuing, options.inside, now)
    for family in (good, bad_in_time, bad_names, bad_usage, bad_signatures, bad_chains):
        family(cases)
    (options.out / "cases.json").write_text(json.dumps(cases.listed, indent=1))


if __name__ == "__main__":
    main()
