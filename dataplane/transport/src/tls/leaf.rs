//! What a verified path does not say: the node a leaf names and the rules of the profile that path
//! validation leaves open (key usage, one SPIFFE URI, no wildcard). Reads one certificate, trusts nothing.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boring::sha::sha256;
use stoq_interface::{NodeId, PeerRefusal, SPIFFE_NODE_PREFIX, SpkiSha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

/// The parts of a leaf certificate that outlast its verification
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Leaf {
    pub(super) node: NodeId,
    /// Lower-case hexadecimal, two digits an octet, without leading zero octets
    pub(super) serial: String,
    pub(super) spki_sha256: SpkiSha256,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Leaf {
    /// Reads a leaf and holds it to the profile
    pub(super) fn from_der(der: &[u8]) -> Result<Self, PeerRefusal> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| PeerRefusal::Malformed)?;
        if !rest.is_empty() {
            return Err(PeerRefusal::Malformed);
        }
        require_digital_signature(&certificate)?;
        Ok(Self {
            node: named_node(&certificate)?,
            serial: serial_text(certificate.raw_serial()),
            spki_sha256: sha256(certificate.public_key().raw),
            not_before: instant(certificate.validity().not_before)?,
            not_after: instant(certificate.validity().not_after)?,
        })
    }
}

/// Path validation ignores KeyUsage, and BoringSSL accepts a leaf without the extension
fn require_digital_signature(certificate: &X509Certificate<'_>) -> Result<(), PeerRefusal> {
    let usage = certificate.key_usage().map_err(|_| PeerRefusal::Malformed)?;
    match usage {
        Some(usage) if usage.value.digital_signature() => Ok(()),
        _ => Err(PeerRefusal::KeyUsage),
    }
}

/// The node named by the one URI of the subject alternative name
fn named_node(certificate: &X509Certificate<'_>) -> Result<NodeId, PeerRefusal> {
    let names = certificate.subject_alternative_name().map_err(|_| PeerRefusal::Malformed)?;
    let names = names.ok_or(PeerRefusal::NoNodeIdentity)?;
    let mut uri = None;
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(text) if uri.is_none() => uri = Some(*text),
            GeneralName::URI(_) => return Err(PeerRefusal::NoNodeIdentity),
            GeneralName::DNSName(text) if text.contains('*') => return Err(PeerRefusal::Profile),
            GeneralName::DNSName(_) => {}
            GeneralName::IPAddress(octets) if octets.len() == 16 => {}
            GeneralName::Invalid(..) => return Err(PeerRefusal::Malformed),
            _ => return Err(PeerRefusal::Profile),
        }
    }
    uri.and_then(|uri| uri.strip_prefix(SPIFFE_NODE_PREFIX))
        .and_then(|node| NodeId::new(node).ok())
        .ok_or(PeerRefusal::NoNodeIdentity)
}

fn serial_text(octets: &[u8]) -> String {
    let leading = octets.iter().take_while(|octet| **octet == 0).count();
    octets[leading..].iter().fold(String::new(), |mut text, octet| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{octet:02x}");
        text
    })
}

fn instant(time: ASN1Time) -> Result<SystemTime, PeerRefusal> {
    let seconds = u64::try_from(time.timestamp()).map_err(|_| PeerRefusal::Malformed)?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(PeerRefusal::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_its_magnitude() {
        assert_eq!(serial_text(&[0x00, 0x8f, 0x00, 0x01]), "8f0001");
        assert_eq!(serial_text(&[0x0a]), "0a");
    }

    #[test]
    fn junk_is_malformed_and_never_a_panic() {
        for junk in [&[][..], &[0x30], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0xff; 64]] {
            assert_eq!(Leaf::from_der(junk), Err(PeerRefusal::Malformed));
        }
    }
}
