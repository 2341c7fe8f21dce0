//! Issuing a leaf: build from profile and grant, sign, verify the chain as a stranger would, lint, record,
//! release. Who may ask for what is decided before (`enrollment`).

use std::time::SystemTime;

use rcgen::{CertificateParams, DistinguishedName, IsCa, KeyUsagePurpose, PublicKeyData, SanType};

use crate::authority::Authority;
use crate::certificate::{hex, unix_seconds, whole_seconds};
use crate::chain::{self, ChainError, Usage};
use crate::csr::ProvenKey;
use crate::keys::KeyError;
use crate::ledger::{LedgerError, LedgerRecord};
use crate::lint::{Order, lint};
use crate::profile::{Profile, Subject};
use crate::root::random_serial;
use crate::signer::key_identifier_method;

/// Why a certificate was not issued
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The certificate does not say what was ordered
    #[error("the certificate failed its last check in field `{0}` and was thrown away")]
    Lint(&'static str),
    /// The chain does not verify, for instance because of the authority's name constraints
    #[error("the certificate would not be accepted by anyone: {0}")]
    Chain(#[from] ChainError),
    /// The authority itself ends too soon
    #[error("the issuing authority has expired; renew it first")]
    AuthorityExpired,
    /// The record could not be made durable
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The randomness or key failed
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A name or field could not be encoded
    #[error("the certificate could not be made: {0}")]
    Encoding(#[from] rcgen::Error),
}

/// A certificate that was issued and recorded
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Issued {
    /// The certificate
    pub certificate_der: Vec<u8>,
    /// Serial number, lower-case hexadecimal without leading zero octets
    pub serial: String,
    /// First instant of validity
    pub not_before: SystemTime,
    /// Last instant of validity
    pub not_after: SystemTime,
}

impl Authority {
    /// Issues one leaf. It is recorded durably before this returns; blocks for one fsync.
    pub fn issue(
        &self,
        profile: &Profile,
        subject: &Subject,
        key: &ProvenKey,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let not_before = whole_seconds(now) - profile.backdate;
        // Both ends count, so a lifetime of n seconds ends n - 1 after its first.
        let lifetime = profile.lifetime.saturating_sub(std::time::Duration::from_secs(1));
        let not_after = (not_before + lifetime).min(self.not_after());
        if not_after <= now {
            return Err(IssueError::AuthorityExpired);
        }
        let serial = random_serial()?;
        let params = leaf_params(profile, subject, key, &serial, (not_before, not_after))?;
        let certificate_der = params.signed_by(key, &self.issuer)?.der().to_vec();
        let leading = serial.iter().take_while(|octet| **octet == 0).count();
        let serial = hex(&serial[leading..]);
        let authority = self.certificate_der();
        chain::check_leaf(&certificate_der, authority, self.root_der(), Usage::Server, now)?;
        if profile.client_auth {
            chain::check_leaf(&certificate_der, authority, self.root_der(), Usage::Client, now)?;
        }
        let order = Order {
            profile,
            subject,
            spki_der: key.spki_der(),
            public_point: key.der_bytes(),
            serial: &serial,
            not_before,
            not_after,
            issuer_der: authority,
            issuer_point: self.issuer.key().public_point(),
        };
        lint(&certificate_der, &order).map_err(IssueError::Lint)?;
        self.ledger().append(&LedgerRecord {
            serial: serial.clone(),
            profile: profile.name.to_owned(),
            node: subject.node().to_string(),
            spki_sha256: hex(&boring::sha::sha256(key.spki_der())),
            not_before: unix_seconds(not_before),
            not_after: unix_seconds(not_after),
            issued_at: unix_seconds(now),
        })?;
        Ok(Issued { certificate_der, serial, not_before, not_after })
    }
}

fn leaf_params(
    profile: &Profile,
    subject: &Subject,
    key: &ProvenKey,
    serial: &[u8; 16],
    (not_before, not_after): (SystemTime, SystemTime),
) -> Result<CertificateParams, rcgen::Error> {
    let mut names = vec![SanType::DnsName(subject.dns_name().try_into()?)];
    let addresses = subject.addresses().iter();
    names.extend(addresses.map(|address| SanType::IpAddress((*address).into())));
    if profile.node_identity {
        names.push(SanType::URI(subject.spiffe_uri().try_into()?));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(serial.to_vec().into());
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = profile.extended_key_usages();
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = key_identifier_method(key.der_bytes());
    Ok(params)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;
    use std::time::{Duration, UNIX_EPOCH};

    use stoq_interface::NodeId;
    use x509_parser::extensions::GeneralName;

    use super::*;
    use crate::certificate;
    use crate::csr;
    use crate::keys::{KeyKind, KeyPair};
    use crate::profile::{Ipv6Subtree, NODE, SERVER};

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn proven() -> ProvenKey {
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        ProvenKey::from_csr(&csr::request(&key).unwrap()).unwrap()
    }

    fn alpha() -> Subject {
        Subject::new(NodeId::new("alpha").unwrap(), [Ipv6Addr::LOCALHOST]).unwrap()
    }

    #[test]
    fn a_node_certificate_has_the_golden_fields() {
        let directory = tempfile::tempdir().unwrap();
        let authority =
            Authority::open_or_create(directory.path(), Ipv6Subtree::ALL, now()).unwrap();
        let key = proven();
        let issued = authority.issue(&NODE, &alpha(), &key, now()).unwrap();
        let leaf = certificate::parse(&issued.certificate_der).unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert!(names.critical);
        assert_eq!(
            names.value.general_names,
            [
                GeneralName::DNSName("alpha.nodes.hypermesh"),
                GeneralName::IPAddress(&Ipv6Addr::LOCALHOST.octets()),
                GeneralName::URI("spiffe://hypermesh/node/alpha"),
            ]
        );
        assert_eq!(leaf.key_usage().unwrap().unwrap().value.flags, 1);
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && extended.client_auth);
        assert_eq!(issued.not_before, now() - Duration::from_secs(300));
        let inclusive = issued.not_after.duration_since(issued.not_before).unwrap().as_secs() + 1;
        assert_eq!(inclusive, 86_400);
        assert_eq!(certificate::serial_text(&leaf), issued.serial);
        assert_eq!(leaf.public_key().raw, key.spki_der());
        let record = std::fs::read_to_string(directory.path().join("issued.jsonl")).unwrap();
        assert!(record.contains(&issued.serial) && record.ends_with('\n'), "{record}");
    }

    #[test]
    fn a_server_certificate_is_nobody_on_the_data_plane() {
        let directory = tempfile::tempdir().unwrap();
        let authority =
            Authority::open_or_create(directory.path(), Ipv6Subtree::ALL, now()).unwrap();
        let issued = authority.issue(&SERVER, &alpha(), &proven(), now()).unwrap();
        let leaf = certificate::parse(&issued.certificate_der).unwrap();
        let extended = leaf.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.server_auth && !extended.client_auth);
        let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert!(!names.iter().any(|name| matches!(name, GeneralName::URI(_))));
    }

    #[test]
    fn an_address_outside_the_authority_is_not_certified_nor_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let permitted = "fd77::/48".parse().unwrap();
        let authority = Authority::open_or_create(directory.path(), permitted, now()).unwrap();
        let refused = authority.issue(&NODE, &alpha(), &proven(), now()).unwrap_err();
        assert!(matches!(refused, IssueError::Chain(ChainError::Leaf(_))), "{refused}");
        assert_eq!(authority.issued_count(), 0);
    }

    #[test]
    fn no_leaf_outlives_its_authority() {
        let directory = tempfile::tempdir().unwrap();
        let authority =
            Authority::open_or_create(directory.path(), Ipv6Subtree::ALL, now()).unwrap();
        let late = authority.not_after() - Duration::from_secs(3_600);
        let issued = authority.issue(&NODE, &alpha(), &proven(), late).unwrap();
        assert_eq!(issued.not_after, authority.not_after());
        let too_late = authority.not_after() + Duration::from_secs(1);
        let refused = authority.issue(&NODE, &alpha(), &proven(), too_late);
        assert!(matches!(refused, Err(IssueError::AuthorityExpired)));
    }

    #[test]
    fn the_lint_notices_each_wrong_field() {
        let directory = tempfile::tempdir().unwrap();
        let authority =
            Authority::open_or_create(directory.path(), Ipv6Subtree::ALL, now()).unwrap();
        let (key, other_key, subject) = (proven(), proven(), alpha());
        let issued = authority.issue(&NODE, &subject, &key, now()).unwrap();
        let nobody = Subject::new(NodeId::new("beta").unwrap(), []).unwrap();
        let good = || Order {
            profile: &NODE,
            subject: &subject,
            spki_der: key.spki_der(),
            public_point: key.der_bytes(),
            serial: &issued.serial,
            not_before: issued.not_before,
            not_after: issued.not_after,
            issuer_der: authority.certificate_der(),
            issuer_point: authority.issuer.key().public_point(),
        };
        let found = |order: Order<'_>| lint(&issued.certificate_der, &order);
        assert_eq!(found(good()), Ok(()));
        assert_eq!(found(Order { serial: "00", ..good() }), Err("serial"));
        assert_eq!(found(Order { not_after: now(), ..good() }), Err("validity"));
        assert_eq!(found(Order { issuer_der: authority.root_der(), ..good() }), Err("issuer"));
        assert_eq!(found(Order { spki_der: other_key.spki_der(), ..good() }), Err("public key"));
        let wrong = Order { public_point: other_key.der_bytes(), ..good() };
        assert_eq!(found(wrong), Err("subject key identifier"));
        let wrong = Order { issuer_point: key.der_bytes(), ..good() };
        assert_eq!(found(wrong), Err("authority key identifier"));
        let server_only = Profile { client_auth: false, ..NODE };
        assert_eq!(found(Order { profile: &server_only, ..good() }), Err("extended key usage"));
        assert_eq!(found(Order { subject: &nobody, ..good() }), Err("subject alternative name"));
    }
}
