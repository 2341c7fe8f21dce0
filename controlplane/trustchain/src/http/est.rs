//! The bodies of EST (RFC 7030, with the corrections of RFC 8951): requests and answers are base64, broken
//! into lines or not. Who may have what is not decided here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::pkcs7;
use crate::csr::CSR_LIMIT_BYTES;

/// Size of the largest request body: the largest CSR in base64, broken into lines, with PEM markers
pub const BODY_LIMIT_BYTES: usize = CSR_LIMIT_BYTES * 3 / 2 + 256;
/// Characters of base64 in one line of an answer (RFC 2045 section 6.8)
const LINE_CHARACTERS: usize = 76;

/// What `csrattrs` answers: a P-256 key, and ecdsa-with-SHA256 for the request (RFC 7030 section 4.5.2)
#[rustfmt::skip]
pub const CSR_ATTRIBUTES: [u8; 35] = [
    0x30, 33,
        0x30, 21,
            0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, // id-ecPublicKey
            0x31, 10, 0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7, // prime256v1
        0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2, // ecdsa-with-SHA256
];

/// Why a body is no request
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BodyError {
    /// Longer than is read
    #[error("the request has more than {BODY_LIMIT_BYTES} octets")]
    TooLong,
    /// Not base64
    #[error(
        "the request is not a PKCS #10 request in base64; `openssl req -new -key node.key -subj / \
         -outform DER | base64` makes one"
    )]
    Encoding,
}

/// The PKCS #10 request in a body: base64 with or without line breaks. The markers of a PEM file are passed
/// over, because that is what `openssl req` writes and what many clients send as it is.
pub fn request_der(body: &[u8]) -> Result<Vec<u8>, BodyError> {
    if body.len() > BODY_LIMIT_BYTES {
        return Err(BodyError::TooLong);
    }
    let text = std::str::from_utf8(body).map_err(|_| BodyError::Encoding)?;
    let mut characters = String::with_capacity(text.len());
    for line in text.lines() {
        if !line.starts_with("-----") {
            characters.extend(line.chars().filter(|character| !character.is_ascii_whitespace()));
        }
    }
    let der = STANDARD.decode(characters).map_err(|_| BodyError::Encoding)?;
    if der.is_empty() { Err(BodyError::Encoding) } else { Ok(der) }
}

/// Certificates as EST answers them
pub fn certificates_body(certificates: &[&[u8]]) -> Vec<u8> {
    lines(&pkcs7::certs_only(certificates))
}

/// Base64 in lines
pub fn lines(octets: &[u8]) -> Vec<u8> {
    let encoded = STANDARD.encode(octets);
    let mut out = Vec::with_capacity(encoded.len() + encoded.len() / LINE_CHARACTERS * 2 + 2);
    for line in encoded.as_bytes().chunks(LINE_CHARACTERS) {
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_however_its_lines_are_broken() {
        let der = vec![0x30; 200];
        let encoded = STANDARD.encode(&der);
        assert_eq!(request_der(encoded.as_bytes()).unwrap(), der);
        assert_eq!(request_der(&lines(&der)).unwrap(), der);
        let pem = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{encoded}\n-----END CERTIFICATE REQUEST-----\n"
        );
        assert_eq!(request_der(pem.as_bytes()).unwrap(), der);
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for body in [&b""[..], b"\n\n", b"MIIB", b"%%%%", b"\xff\xfe"] {
            let read = request_der(body);
            assert_eq!(
                read,
                if body == b"MIIB" { Ok(vec![0x30, 0x82, 1]) } else { Err(BodyError::Encoding) }
            );
        }
        assert_eq!(request_der(&vec![b'A'; BODY_LIMIT_BYTES + 1]), Err(BodyError::TooLong));
    }

    #[test]
    fn the_attributes_are_well_formed() {
        use x509_parser::der_parser::parse_der;
        let (rest, attributes) = parse_der(&CSR_ATTRIBUTES).unwrap();
        assert!(rest.is_empty());
        let parts = attributes.as_sequence().unwrap();
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1].as_oid().unwrap().to_id_string(), "1.2.840.10045.4.3.2");
        let key = parts[0].as_sequence().unwrap();
        assert_eq!(key[0].as_oid().unwrap().to_id_string(), "1.2.840.10045.2.1");
        let curve = &key[1].as_set().unwrap()[0];
        assert_eq!(curve.as_oid().unwrap().to_id_string(), "1.2.840.10045.3.1.7");
    }

    #[test]
    fn lines_have_the_length_of_mime() {
        let text = lines(&[1; 100]);
        assert!(text.ends_with(b"\r\n"));
        assert!(text.split(|octet| *octet == b'\n').all(|line| line.len() <= LINE_CHARACTERS + 1));
    }
}
