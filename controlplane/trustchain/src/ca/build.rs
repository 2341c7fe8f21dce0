//! Building one certificate: the to-be-signed octets from profile, names and key; the precertificate; and, from
//! what the log has, the final certificate. Every step is read back before anything is signed or released. Who
//! signs is the caller's business.

use std::net::Ipv6Addr;
use std::time::SystemTime;

use rcgen::{
    CertificateParams, CrlDistributionPoint, CustomExtension, DistinguishedName, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_CT_LIST_SCT, OID_PKIX_AUTHORITY_INFO_ACCESS, OID_SIG_ECDSA_WITH_SHA256,
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_CRL_DISTRIBUTION_POINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, Oid,
};
use x509_parser::x509::X509Version;

use super::authority::IssuingAuthority;
use super::profile::{Names, Profile};
use crate::certificate;
use crate::csr::ProvenKey;
use crate::log::der::{
    self, POISON_CONTENT, POISON_OID, POISON_OID_ARCS, SCT_LIST_OID, tbs_of, without_extension,
};
use crate::log::sct::{parse_sct_list, sct_list_content};
use crate::log::{DurableEntry, Malformed, Sct, SignedEntry};
use crate::signer::{TbsCapture, key_identifier, key_identifier_method, signed_object};

/// 1.3.6.1.5.5.7.1.1, authority information access (RFC 5280 section 4.2.2.1)
const AIA_ARCS: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 1, 1];
/// 1.3.6.1.5.5.7.48.2, caIssuers
const CA_ISSUERS: [u8; 8] = [0x2b, 6, 1, 5, 5, 7, 0x30, 2];
/// What stands for a signature while a certificate is read back before it is signed
const NO_SIGNATURE: [u8; 8] = [0x30, 6, 2, 1, 1, 2, 1, 1];

/// Everything one certificate is to say
pub(super) struct Order<'a> {
    pub(super) authority: &'a IssuingAuthority,
    pub(super) profile: &'a Profile,
    pub(super) names: &'a Names,
    pub(super) key: &'a ProvenKey,
    pub(super) serial: [u8; 16],
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    pub(super) crl_uri: &'a str,
    pub(super) authority_uri: &'a str,
}

/// Why nothing was built
#[derive(Debug, thiserror::Error)]
pub(super) enum BuildError {
    /// A field could not be encoded
    #[error("the certificate could not be encoded: {0}")]
    Encoding(#[from] rcgen::Error),
    /// What came out does not parse
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// What came out is not what was ordered
    #[error("field `{0}`")]
    Lint(&'static str),
}

impl Order<'_> {
    /// The to-be-signed octets of the precertificate, read back and compared with the order field by field
    pub(super) fn precertificate_tbs(&self) -> Result<Vec<u8>, BuildError> {
        let params = self.params()?;
        let issuer_params = self.authority.issuer_params();
        let capture = TbsCapture::new(self.authority.key().clone());
        let issuer = Issuer::from_params(&issuer_params, capture);
        params.signed_by(self.key, &issuer)?;
        let tbs = issuer.key().take().ok_or(BuildError::Lint("encoding"))?;
        self.lint(&signed_object(&tbs, &NO_SIGNATURE)).map_err(BuildError::Lint)?;
        Ok(tbs)
    }

    fn params(&self) -> Result<CertificateParams, rcgen::Error> {
        let mut names = Vec::new();
        for name in &self.names.dns {
            names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        names.extend(self.names.addresses.iter().map(|one| SanType::IpAddress((*one).into())));
        if let Some(uri) = &self.names.uri {
            names.push(SanType::URI(uri.as_str().try_into()?));
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(self.serial.to_vec().into());
        params.not_before = self.not_before.into();
        params.not_after = self.not_after.into();
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = self.profile.extended_key_usages();
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = key_identifier_method(self.key.der_bytes());
        params.crl_distribution_points =
            vec![CrlDistributionPoint { uris: vec![self.crl_uri.to_owned()] }];
        let access = CustomExtension::from_oid_content(&AIA_ARCS, aia(self.authority_uri));
        let mut poison =
            CustomExtension::from_oid_content(&POISON_OID_ARCS, POISON_CONTENT.to_vec());
        poison.set_criticality(true);
        params.custom_extensions = vec![access, poison];
        Ok(params)
    }

    /// The error names the first field that differs
    fn lint(&self, precertificate_der: &[u8]) -> Result<(), &'static str> {
        let leaf = certificate::parse(precertificate_der).map_err(|_| "encoding")?;
        let issuer =
            certificate::parse(self.authority.certificate_der()).map_err(|_| "issuer encoding")?;
        let ensure = |holds: bool, field| if holds { Ok(()) } else { Err(field) };
        ensure(leaf.version() == X509Version::V3, "version")?;
        ensure(leaf.signature.algorithm == OID_SIG_ECDSA_WITH_SHA256, "signature algorithm")?;
        ensure(leaf.signature_algorithm == leaf.signature, "inner signature algorithm")?;
        let serial = leaf.raw_serial();
        ensure(serial.len() <= 20 && serial[0] & 0x80 == 0, "serial sign")?;
        ensure(
            super::state::serial_number(serial) == Some(u128::from_be_bytes(self.serial)),
            "serial",
        )?;
        ensure(leaf.issuer().as_raw() == issuer.subject().as_raw(), "issuer")?;
        let dates = certificate::validity(&leaf).map_err(|_| "validity")?;
        ensure(dates == (self.not_before, self.not_after), "validity")?;
        ensure(self.not_after <= self.authority.not_after(), "validity beyond the issuer's")?;
        ensure(leaf.public_key().raw == self.key.spki_der(), "public key")?;
        ensure(leaf.subject().as_raw() == [0x30, 0x00], "subject")?;
        self.lint_extensions(&leaf)
    }

    fn lint_extensions(&self, leaf: &X509Certificate<'_>) -> Result<(), &'static str> {
        let poison = Oid::new((&POISON_OID[..]).into());
        let mut expected = vec![
            (OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, false),
            (OID_X509_EXT_BASIC_CONSTRAINTS, true),
            (OID_X509_EXT_EXTENDED_KEY_USAGE, false),
            (OID_X509_EXT_KEY_USAGE, true),
            // Critical because the subject is empty (RFC 5280 section 4.2.1.6)
            (OID_X509_EXT_SUBJECT_ALT_NAME, true),
            (OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, false),
            (OID_X509_EXT_CRL_DISTRIBUTION_POINTS, false),
            (OID_PKIX_AUTHORITY_INFO_ACCESS, false),
            (poison.clone(), true),
        ];
        for extension in leaf.extensions() {
            let known = expected
                .iter()
                .position(|(oid, critical)| {
                    *oid == extension.oid && *critical == extension.critical
                })
                .ok_or("extensions")?;
            expected.swap_remove(known);
            if extension.oid == poison {
                if extension.value != POISON_CONTENT {
                    return Err("poison");
                }
            } else {
                self.lint_extension(extension.parsed_extension())?;
            }
        }
        if expected.is_empty() { Ok(()) } else { Err("extensions") }
    }

    fn lint_extension(&self, extension: &ParsedExtension<'_>) -> Result<(), &'static str> {
        let (holds, field) = match extension {
            ParsedExtension::AuthorityKeyIdentifier(found) => {
                let identifier = found.key_identifier.as_ref().map(|identifier| identifier.0);
                let own = self.authority.key_id();
                (identifier == Some(&own.as_bytes()[..]), "authority key identifier")
            }
            ParsedExtension::SubjectKeyIdentifier(found) => {
                (found.0 == key_identifier(self.key.der_bytes()), "subject key identifier")
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
                let wanted = found.server_auth == self.profile.is_server()
                    && found.client_auth == self.profile.is_client();
                (wanted && !others, "extended key usage")
            }
            ParsedExtension::SubjectAlternativeName(found) => {
                (self.names_match(&found.general_names), "subject alternative name")
            }
            ParsedExtension::CRLDistributionPoints(found) => {
                let [point] = found.points.as_slice() else {
                    return Err("CRL distribution points");
                };
                let plain = point.reasons.is_none() && point.crl_issuer.is_none();
                let named = matches!(
                    &point.distribution_point,
                    Some(DistributionPointName::FullName(names))
                        if *names == [GeneralName::URI(self.crl_uri)]
                );
                (plain && named, "CRL distribution points")
            }
            ParsedExtension::AuthorityInfoAccess(found) => {
                let [access] = found.accessdescs.as_slice() else {
                    return Err("authority information access");
                };
                let method = access.access_method.as_bytes() == CA_ISSUERS;
                let place = access.access_location == GeneralName::URI(self.authority_uri);
                (method && place, "authority information access")
            }
            _ => (false, "extensions"),
        };
        if holds { Ok(()) } else { Err(field) }
    }

    /// Exactly the names of the order, in its order: DNS, addresses, URI
    fn names_match(&self, found: &[GeneralName<'_>]) -> bool {
        let octets: Vec<_> = self.names.addresses.iter().map(Ipv6Addr::octets).collect();
        let mut wanted: Vec<_> =
            self.names.dns.iter().map(|name| GeneralName::DNSName(name)).collect();
        wanted.extend(octets.iter().map(|octets| GeneralName::IPAddress(octets)));
        wanted.extend(self.names.uri.as_ref().map(|uri| GeneralName::URI(uri)));
        found == wanted
    }
}

/// The to-be-signed octets of the final certificate: what the log has, and the SCT
pub(super) fn final_tbs(durable: &DurableEntry, sct: &Sct) -> Result<Vec<u8>, BuildError> {
    let content = sct_list_content(std::slice::from_ref(sct))?;
    Ok(der::with_last_extension(logged_tbs(durable)?, &SCT_LIST_OID, &content)?)
}

/// Reads a final certificate back: nothing but the SCT may differ from what the log has
pub(super) fn lint_final(
    certificate_der: &[u8],
    durable: &DurableEntry,
    sct: &Sct,
) -> Result<(), BuildError> {
    let parsed = certificate::parse(certificate_der).map_err(|_| BuildError::Lint("encoding"))?;
    if parsed.signature_algorithm != parsed.signature {
        return Err(BuildError::Lint("inner signature algorithm"));
    }
    let listed = parsed.extensions().iter().filter(|one| one.oid == OID_CT_LIST_SCT).count();
    let (without, list) = without_extension(tbs_of(certificate_der)?, &SCT_LIST_OID)?
        .ok_or(BuildError::Lint("SCT list"))?;
    if listed != 1 || list.critical || parse_sct_list(list.content)? != std::slice::from_ref(sct) {
        return Err(BuildError::Lint("SCT list"));
    }
    if without != logged_tbs(durable)? {
        return Err(BuildError::Lint("difference from the precertificate"));
    }
    Ok(())
}

fn logged_tbs(durable: &DurableEntry) -> Result<&[u8], BuildError> {
    match &durable.entry().signed {
        SignedEntry::Precertificate { tbs_der, .. } => Ok(tbs_der),
        SignedEntry::Certificate { .. } => Err(BuildError::Lint("kind of log entry")),
    }
}

/// AuthorityInfoAccessSyntax with one caIssuers URI
fn aia(uri: &str) -> Vec<u8> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_IDENTIFIER: u8 = 0x06;
    /// `[6] IA5String`, uniformResourceIdentifier of GeneralName
    const URI: u8 = 0x86;
    let description =
        [der::wrap(OBJECT_IDENTIFIER, &CA_ISSUERS), der::wrap(URI, uri.as_bytes())].concat();
    der::wrap(SEQUENCE, &der::wrap(SEQUENCE, &description))
}
