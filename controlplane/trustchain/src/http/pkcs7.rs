//! Certificates in the envelope EST wants: a PKCS #7 SignedData without content and without signatures
//! ("certs-only", RFC 5652 section 5, RFC 7030 section 4.1.3). Written only; nothing here reads one.

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const CONTEXT_0: u8 = 0xa0;
/// 1.2.840.113549.1.7.2
const SIGNED_DATA: [u8; 11] = [0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
/// 1.2.840.113549.1.7.1
const DATA: [u8; 11] = [0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
/// INTEGER 1
const VERSION: [u8; 3] = [0x02, 1, 1];

/// The envelope around these certificates, in DER
pub fn certs_only(certificates: &[&[u8]]) -> Vec<u8> {
    let mut sorted = certificates.to_vec();
    // DER orders the elements of a SET OF by their encodings.
    sorted.sort_unstable();
    let no_digests = element(SET, &[]);
    let no_content = element(SEQUENCE, &DATA);
    let certificates = element(CONTEXT_0, &sorted.concat());
    let no_signers = element(SET, &[]);
    let signed = [&VERSION[..], &no_digests, &no_content, &certificates, &no_signers].concat();
    let explicit = element(CONTEXT_0, &element(SEQUENCE, &signed));
    element(SEQUENCE, &[&SIGNED_DATA[..], &explicit].concat())
}

/// Tag, length, content
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|octet| **octet == 0).count()..];
    match *significant {
        [] => out.push(0),
        [short] if short < 0x80 => out.push(short),
        _ => {
            // At most eight octets of length
            out.push(0x80 | significant.len() as u8);
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_definite_and_shortest() {
        assert_eq!(element(SET, &[]), [0x31, 0]);
        assert_eq!(element(SET, &[9; 127])[..2], [0x31, 127]);
        assert_eq!(element(SET, &[9; 128])[..3], [0x31, 0x81, 128]);
        assert_eq!(element(SET, &[9; 256])[..4], [0x31, 0x82, 1, 0]);
        assert_eq!(element(SET, &vec![9; 65_536])[..5], [0x31, 0x83, 1, 0, 0]);
    }

    #[test]
    fn certificates_stand_in_the_order_of_der() {
        let (first, second) = ([0x30, 1, 5], [0x30, 1, 9]);
        let one = certs_only(&[&first, &second]);
        assert_eq!(one, certs_only(&[&second, &first]));
        let joined = [first, second].concat();
        assert!(one.windows(6).any(|window| window == joined));
    }
}
