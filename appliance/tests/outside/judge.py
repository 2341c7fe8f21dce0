"""What the verifier of Python's `cryptography` says about the cases that leaves.py made.

    judge.py cases.json      prints one JSON object: case -> null where it is accepted, else the reason
"""

import json
import pathlib
import sys

from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError


def certificates(path):
    return x509.load_pem_x509_certificates(pathlib.Path(path).read_bytes())


def judged(case):
    """Why a case is refused, None where it is accepted"""
    try:
        leaf = x509.load_der_x509_certificate(pathlib.Path(case["der"]).read_bytes())
    except ValueError as error:
        return f"it does not parse: {error}"
    builder = PolicyBuilder().store(Store(certificates(case["root"])))
    between = certificates(case["intermediates"])
    try:
        if case["usage"] == "client":
            builder.build_client_verifier().verify(leaf, between)
        else:
            builder.build_server_verifier(x509.DNSName(case["host"])).verify(leaf, between)
    except (VerificationError, ValueError) as error:
        return str(error)
    return None


def main():
    cases = json.loads(pathlib.Path(sys.argv[1]).read_text())
    print(json.dumps({case["name"]: judged(case) for case in cases}))


if __name__ == "__main__":
    main()
