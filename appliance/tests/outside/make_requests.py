"""Makes keys and certificate requests by the dozen: make_requests.py --count N --out DIRECTORY writes 0.csr, 1.csr, ..."""

import argparse
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", required=True, type=int)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for number in range(options.count):
        key = ec.generate_private_key(ec.SECP256R1())
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        (options.out / f"{number}.csr").write_bytes(request.public_bytes(serialization.Encoding.PEM))


if __name__ == "__main__":
    main()
