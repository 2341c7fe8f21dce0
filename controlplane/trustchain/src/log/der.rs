//! DER surgery on certificates: one extension is taken out of a TBSCertificate and every other octet is kept
//! (RFC 6962 section 3.2). A small strict reader of tags and lengths; what a certificate means is read
//! elsewhere, with a whole parser.

use super::wire::Malformed;

/// Contents of the object identifier 1.3.6.1.4.1.11129.2.4.2: the list of SCTs in a certificate
pub const SCT_LIST_OID: [u8; 10] = [0x2b, 6, 1, 4, 1, 0xd6, 0x79, 2, 4, 2];
/// The same as numbers, as certificate builders take it
pub const SCT_LIST_OID_ARCS: [u64; 10] = [1, 3, 6, 1, 4, 1, 11_129, 2, 4, 2];
/// Contents of the object identifier 1.3.6.1.4.1.11129.2.4.3: the poison that makes a precertificate
pub const POISON_OID: [u8; 10] = [0x2b, 6, 1, 4, 1, 0xd6, 0x79, 2, 4, 3];
/// The same as numbers, as certificate builders take it
pub const POISON_OID_ARCS: [u64; 10] = [1, 3, 6, 1, 4, 1, 11_129, 2, 4, 3];
/// Content of the poison extension: NULL. The extension must be critical.
pub const POISON_CONTENT: [u8; 2] = [5, 0];

const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
/// `[3] EXPLICIT`, the extensions of a TBSCertificate
const EXTENSIONS: u8 = 0xa3;

/// One extension that was taken out
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extension<'a> {
    /// Whether it is critical
    pub critical: bool,
    /// What its OCTET STRING holds
    pub content: &'a [u8],
}

/// An element: all of it, and what is inside
#[derive(Clone, Copy)]
struct Element<'a> {
    tag: u8,
    whole: &'a [u8],
    content: &'a [u8],
}

/// The TBSCertificate of a certificate with nothing after it
pub fn tbs_of(certificate_der: &[u8]) -> Result<&[u8], Malformed> {
    let mut inside = only(certificate_der, SEQUENCE)?;
    let tbs = next(&mut inside)?;
    let (_algorithm, _signature) = (next(&mut inside)?, next(&mut inside)?);
    if tbs.tag != SEQUENCE || !inside.is_empty() {
        return malformed();
    }
    Ok(tbs.whole)
}

/// The TBSCertificate without the extension of this identifier, and the extension; `None` where it has no
/// such extension. One that has it twice is malformed.
pub fn without_extension<'a>(
    tbs_der: &'a [u8],
    oid: &[u8],
) -> Result<Option<(Vec<u8>, Extension<'a>)>, Malformed> {
    let fields = only(tbs_der, SEQUENCE)?;
    let mut rest = fields;
    let (before, extensions) = loop {
        if rest.is_empty() {
            return Ok(None);
        }
        let before = &fields[..fields.len() - rest.len()];
        let field = next(&mut rest)?;
        if field.tag == EXTENSIONS {
            break (before, field);
        }
    };
    // Nothing comes after the extensions (RFC 5280 section 4.1).
    if !rest.is_empty() {
        return malformed();
    }
    let mut list = only(extensions.content, SEQUENCE)?;
    let (mut kept, mut found) = (Vec::new(), None);
    while !list.is_empty() {
        let element = next(&mut list)?;
        let (identifier, extension) = parse_extension(element)?;
        if identifier != oid {
            kept.extend_from_slice(element.whole);
        } else if found.replace(extension).is_some() {
            return malformed();
        }
    }
    let Some(extension) = found else { return Ok(None) };
    let mut inside = before.to_vec();
    // An empty list of extensions may not be written (RFC 5280 section 4.1).
    if !kept.is_empty() {
        inside.extend(wrap(EXTENSIONS, &wrap(SEQUENCE, &kept)));
    }
    Ok(Some((wrap(SEQUENCE, &inside), extension)))
}

/// The TBSCertificate with one more extension, not critical, behind those it has; it must have some
pub fn with_last_extension(
    tbs_der: &[u8],
    oid: &[u8],
    content: &[u8],
) -> Result<Vec<u8>, Malformed> {
    let fields = only(tbs_der, SEQUENCE)?;
    let mut rest = fields;
    while !rest.is_empty() {
        let before = &fields[..fields.len() - rest.len()];
        let field = next(&mut rest)?;
        if field.tag == EXTENSIONS && rest.is_empty() {
            let extension = [wrap(OBJECT_IDENTIFIER, oid), octet_string(content)].concat();
            let list = [only(field.content, SEQUENCE)?, &wrap(SEQUENCE, &extension)].concat();
            let extensions = wrap(EXTENSIONS, &wrap(SEQUENCE, &list));
            return Ok(wrap(SEQUENCE, &[before, &extensions].concat()));
        }
    }
    malformed()
}

/// An OCTET STRING around these octets
pub fn octet_string(content: &[u8]) -> Vec<u8> {
    wrap(OCTET_STRING, content)
}

/// What an OCTET STRING with nothing after it holds
pub fn octet_string_content(der: &[u8]) -> Result<&[u8], Malformed> {
    only(der, OCTET_STRING)
}

fn parse_extension(element: Element<'_>) -> Result<(&[u8], Extension<'_>), Malformed> {
    let mut inside = element.content;
    let identifier = next(&mut inside)?;
    let mut value = next(&mut inside)?;
    let critical = value.tag == BOOLEAN;
    if critical {
        // DER writes no default, so FALSE is never there.
        if value.content != [0xff] {
            return malformed();
        }
        value = next(&mut inside)?;
    }
    let tags = (element.tag, identifier.tag, value.tag);
    if tags != (SEQUENCE, OBJECT_IDENTIFIER, OCTET_STRING) || !inside.is_empty() {
        return malformed();
    }
    Ok((identifier.content, Extension { critical, content: value.content }))
}

/// The content of the one element with this tag that the bytes are
fn only(bytes: &[u8], tag: u8) -> Result<&[u8], Malformed> {
    let mut rest = bytes;
    let element = next(&mut rest)?;
    if element.tag == tag && rest.is_empty() { Ok(element.content) } else { malformed() }
}

/// Takes the first element off. Lengths must be as short as they can be (X.690 section 10.1); tags of more
/// than one octet do not occur in certificates.
fn next<'a>(bytes: &mut &'a [u8]) -> Result<Element<'a>, Malformed> {
    let all = *bytes;
    let (&[tag, first], after) = all.split_first_chunk::<2>().ok_or(Malformed("DER"))?;
    let (length, content) = match first {
        0..=0x7f => (usize::from(first), after),
        0x81..=0x83 => {
            let count = usize::from(first - 0x80);
            let (octets, content) = after.split_at_checked(count).ok_or(Malformed("DER"))?;
            let length = octets.iter().fold(0, |length, octet| length << 8 | usize::from(*octet));
            let least = if count == 1 { 0x80 } else { 1 << (8 * (count - 1)) };
            if length < least {
                return malformed();
            }
            (length, content)
        }
        _ => return malformed(),
    };
    if tag & 0x1f == 0x1f || content.len() < length {
        return malformed();
    }
    let header = all.len() - content.len();
    *bytes = &content[length..];
    Ok(Element { tag, whole: &all[..header + length], content: &content[..length] })
}

pub(crate) fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let octets = &length[content.len().leading_zeros() as usize / 8..];
    let mut der = vec![tag];
    match octets {
        [] => der.push(0),
        [one] if *one < 0x80 => der.push(*one),
        _ => {
            der.push(0x80 | octets.len() as u8);
            der.extend_from_slice(octets);
        }
    }
    der.extend_from_slice(content);
    der
}

fn malformed<T>() -> Result<T, Malformed> {
    Err(Malformed("DER"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, CustomExtension};

    use super::*;
    use crate::certificate;
    use crate::keys::{KeyKind, KeyPair};

    fn certificate(key: &KeyPair, extensions: &[(&[u64], &[u8], bool)]) -> Vec<u8> {
        let mut params = CertificateParams::new(["alpha.nodes.hypermesh".to_owned()]).unwrap();
        params.serial_number = Some(vec![1; 16].into());
        for (oid, content, critical) in extensions {
            let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
            extension.set_criticality(*critical);
            params.custom_extensions.push(extension);
        }
        params.self_signed(key).unwrap().der().to_vec()
    }

    fn key() -> KeyPair {
        KeyPair::generate(KeyKind::P256).unwrap()
    }

    #[test]
    fn elements_of_every_length_read_back() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let content = vec![7; length];
            let der = octet_string(&content);
            assert_eq!(octet_string_content(&der).unwrap(), content);
            assert!(octet_string_content(&der[..der.len() - 1]).is_err());
            assert!(octet_string_content(&[&der[..], &[0]].concat()).is_err());
        }
        for loose in [&[4, 0x81, 1, 9][..], &[4, 0x82, 0, 1, 9], &[4, 0x80, 0, 0], &[0x1f, 1, 9]] {
            assert_eq!(octet_string_content(loose), malformed(), "{loose:?}");
        }
    }

    #[test]
    fn taking_the_poison_out_leaves_the_certificate_that_never_had_it() {
        let poison = (&POISON_OID_ARCS[..], &POISON_CONTENT[..], true);
        let key = key();
        let poisoned = certificate(&key, &[poison]);
        let (tbs, extension) =
            without_extension(tbs_of(&poisoned).unwrap(), &POISON_OID).unwrap().unwrap();
        assert_eq!(extension, Extension { critical: true, content: &POISON_CONTENT });
        // Another parser agrees on where the TBSCertificate is, and that only the poison is gone.
        let parsed = certificate::parse(&poisoned).unwrap();
        assert_eq!(tbs_of(&poisoned).unwrap(), parsed.tbs_certificate.as_ref());
        assert_eq!(tbs, tbs_of(&certificate(&key, &[])).unwrap());
        assert_eq!(without_extension(&tbs, &POISON_OID).unwrap(), None);
        assert_eq!(without_extension(&tbs, &SCT_LIST_OID).unwrap(), None);
    }

    #[test]
    fn an_extension_put_in_stands_where_the_builder_puts_it_and_comes_out_again() {
        let key = key();
        let plain = certificate(&key, &[]);
        let content = vec![9; 200];
        let tbs = with_last_extension(tbs_of(&plain).unwrap(), &SCT_LIST_OID, &content).unwrap();
        let built = certificate(&key, &[(&SCT_LIST_OID_ARCS, &content, false)]);
        assert_eq!(tbs, tbs_of(&built).unwrap());
        let (without, extension) = without_extension(&tbs, &SCT_LIST_OID).unwrap().unwrap();
        assert_eq!(without, tbs_of(&plain).unwrap());
        assert_eq!(extension, Extension { critical: false, content: &content });
        assert!(with_last_extension(&wrap(SEQUENCE, &[]), &SCT_LIST_OID, &content).is_err());
    }

    #[test]
    fn an_extension_that_is_there_twice_is_refused() {
        let poison = (&POISON_OID_ARCS[..], &POISON_CONTENT[..], true);
        let twice = certificate(&key(), &[poison, poison]);
        assert!(without_extension(tbs_of(&twice).unwrap(), &POISON_OID).is_err());
    }

    #[test]
    fn no_cut_of_a_certificate_is_taken() {
        let whole = certificate(&key(), &[(&POISON_OID_ARCS, &POISON_CONTENT, true)]);
        for length in 0..whole.len() {
            assert!(tbs_of(&whole[..length]).is_err());
        }
        let tbs = tbs_of(&whole).unwrap();
        for length in 0..tbs.len() {
            assert!(without_extension(&tbs[..length], &POISON_OID).is_err());
        }
    }
}
