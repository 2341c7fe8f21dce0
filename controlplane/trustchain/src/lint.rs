//! The last look at a certificate before it is recorded and released: parsed again from its bytes and
//! compared with the order, field by field. Anything unexpected is a refusal, whatever caused it.

use std::net::Ipv6Addr;
use std::time::SystemTime;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_SIG_ECDSA_WITH_SHA256, OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER,
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
};
use x509_parser::x509::X509Version;

use crate::certificate;
use crate::profile::{Profile, Subject};
use crate::signer::key_identifier;

/// What the certificate has to say
pub(crate) struct Order<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) subject: &'a Subject,
    pub(crate) spki_der: &'a [u8],
    pub(crate) public_point: &'a [u8],
    pub(crate) serial: &'a str,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) issuer_der: &'a [u8],
    pub(crate) issuer_point: &'a [u8],
}

/// Compares a leaf with its order; the error names the first field that differs
pub(crate) fn lint(leaf_der: &[u8], order: &Order<'_>) -> Result<(), &'static str> {
    let leaf = certificate::parse(leaf_der).map_err(|_| "encoding")?;
    let issuer = certificate::parse(order.issuer_der).map_err(|_| "issuer encoding")?;
    let ensure = |holds: bool, field: &'static str| if holds { Ok(()) } else { Err(field) };
    ensure(leaf.version() == X509Version::V3, "version")?;
    ensure(leaf.signature_algorithm.algorithm == OID_SIG_ECDSA_WITH_SHA256, "signature algorithm")?;
    ensure(leaf.signature_algorithm == leaf.signature, "inner signature algorithm")?;
    ensure(certificate::serial_text(&leaf) == order.serial, "serial")?;
    ensure(leaf.raw_serial().len() <= 20 && leaf.raw_serial()[0] & 0x80 == 0, "serial sign")?;
    ensure(leaf.issuer().as_raw() == issuer.subject().as_raw(), "issuer")?;
    let dates = certificate::validity(&leaf).map_err(|_| "validity")?;
    ensure(dates == (order.not_before, order.not_after), "validity")?;
    ensure(leaf.public_key().raw == order.spki_der, "public key")?;
    ensure(leaf.subject().as_raw() == [0x30, 0x00], "subject")?;
    lint_extensions(&leaf, order)
}

fn lint_extensions(leaf: &X509Certificate<'_>, order: &Order<'_>) -> Result<(), &'static str> {
    let mut expected = vec![
        (OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, false),
        (OID_X509_EXT_BASIC_CONSTRAINTS, true),
        (OID_X509_EXT_EXTENDED_KEY_USAGE, false),
        (OID_X509_EXT_KEY_USAGE, true),
        // Critical because the subject is empty (RFC 5280 section 4.2.1.6)
        (OID_X509_EXT_SUBJECT_ALT_NAME, true),
        (OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, false),
    ];
    for extension in leaf.extensions() {
        let known = expected
            .iter()
            .position(|(oid, critical)| *oid == extension.oid && *critical == extension.critical)
            .ok_or("extensions")?;
        expected.swap_remove(known);
        lint_extension(extension.parsed_extension(), order)?;
    }
    if expected.is_empty() { Ok(()) } else { Err("extensions") }
}

fn lint_extension(extension: &ParsedExtension<'_>, order: &Order<'_>) -> Result<(), &'static str> {
    let (holds, field) = match extension {
        ParsedExtension::AuthorityKeyIdentifier(found) => {
            let identifier = found.key_identifier.as_ref().map(|identifier| identifier.0);
            (
                identifier == Some(&key_identifier(order.issuer_point)[..]),
                "authority key identifier",
            )
        }
        ParsedExtension::SubjectKeyIdentifier(found) => {
            (found.0 == key_identifier(order.public_point), "subject key identifier")
        }
        ParsedExtension::BasicConstraints(found) => {
            (!found.ca && found.path_len_constraint.is_none(), "basic constraints")
        }
        // Bit 0 is digitalSignature (RFC 5280 section 4.2.1.3) and must stand alone.
        ParsedExtension::KeyUsage(found) => (found.flags == 1, "key usage"),
        ParsedExtension::ExtendedKeyUsage(found) => {
            let others = found.any
                || found.code_signing
                || found.email_protection
                || found.time_stamping
                || found.ocsp_signing
                || !found.other.is_empty();
            let wanted = found.server_auth && found.client_auth == order.profile.client_auth;
            (wanted && !others, "extended key usage")
        }
        ParsedExtension::SubjectAlternativeName(found) => {
            (names_match(&found.general_names, order), "subject alternative name")
        }
        _ => (false, "extensions"),
    };
    if holds { Ok(()) } else { Err(field) }
}

/// Exactly the names of the order, in its order: DNS, addresses, URI
fn names_match(found: &[GeneralName<'_>], order: &Order<'_>) -> bool {
    let (dns, uri) = (order.subject.dns_name(), order.subject.spiffe_uri());
    let octets: Vec<[u8; 16]> = order.subject.addresses().iter().map(Ipv6Addr::octets).collect();
    let mut wanted = vec![GeneralName::DNSName(&dns)];
    wanted.extend(octets.iter().map(|octets| GeneralName::IPAddress(octets)));
    if order.profile.node_identity {
        wanted.push(GeneralName::URI(&uri));
    }
    found == wanted
}
