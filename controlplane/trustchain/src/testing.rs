//! For this crate's own tests: leaves signed with an authority's key behind its back, good in every way but that no
//! log has seen them. What an authority issues comes from `ca`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use stoq_interface::{NodeId, SPIFFE_NODE_PREFIX};

use crate::authority::Authority;
use crate::certificate::{Fingerprint, whole_seconds};
use crate::csr::{self, ProvenKey};
use crate::keys::KeyPair;
use crate::node_identity::{Certificates, NodeIdentity, prepare_key};
use crate::profile::{Ipv6Subtree, node_dns_name};
use crate::root::{authority_name, random_serial};
use crate::signer::key_identifier_method;

/// An authority with its root in a directory, and its key at hand
pub(crate) struct LooseAuthority {
    installed: Authority,
    issuer: Issuer<'static, KeyPair>,
}

impl LooseAuthority {
    pub(crate) fn make(directory: &Path, now: SystemTime) -> Self {
        let installed = Authority::open_or_create(directory, Ipv6Subtree::ALL, now).unwrap();
        let key = KeyPair::load(&directory.join("issuing.key")).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = authority_name(&key, "issuing");
        params.key_identifier_method = key_identifier_method(key.public_point());
        Self { installed, issuer: Issuer::new(params, key) }
    }

    pub(crate) fn certificate_der(&self) -> &[u8] {
        self.installed.certificate_der()
    }

    pub(crate) fn root_der(&self) -> &[u8] {
        self.installed.root_der()
    }

    pub(crate) fn root_fingerprint(&self) -> Fingerprint {
        self.installed.root_fingerprint()
    }

    /// A node's leaf as it would be issued at `at`: a day, from five minutes before
    pub(crate) fn leaf(&self, node: &NodeId, key: &impl PublicKeyData, at: SystemTime) -> Vec<u8> {
        let from = whole_seconds(at) - Duration::from_secs(300);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(random_serial().unwrap().to_vec().into());
        params.not_before = from.into();
        params.not_after = (from + Duration::from_secs(86_399)).into();
        params.subject_alt_names = vec![
            SanType::DnsName(node_dns_name(node).try_into().unwrap()),
            SanType::URI(format!("{SPIFFE_NODE_PREFIX}{node}").try_into().unwrap()),
        ];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = key_identifier_method(key.der_bytes());
        params.signed_by(key, &self.issuer).unwrap().der().to_vec()
    }

    /// An identity as enrolling leaves it in a directory
    pub(crate) fn identity(&self, directory: &Path, node: &NodeId, at: SystemTime) -> NodeIdentity {
        let key = prepare_key(directory).unwrap();
        let proven = ProvenKey::from_csr(&csr::request(&key).unwrap()).unwrap();
        let leaf_der = self.leaf(node, &proven, at);
        let certificates = Certificates {
            leaf_der: &leaf_der,
            issuing_der: self.certificate_der(),
            root_der: self.root_der(),
        };
        let pinned = self.root_fingerprint();
        NodeIdentity::store(directory, node, &certificates, &pinned, at).unwrap()
    }
}
