//! Certificates for this crate's tests: an issuing authority in memory whose leaves can be bent in every
//! way a real authority would refuse. Compiled for tests only.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boring::bn::BigNumContext;
use boring::ec::{EcGroup, EcKey, PointConversionForm};
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{PKey, Private};
use boring::sha::sha256;
use boring::sign::Signer;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    NameConstraints, PublicKeyData, SanType, SignatureAlgorithm, SigningKey,
};
use stoq_interface::{
    ControlSnapshot, Identity, NodeId, PrivateKey, SPIFFE_NODE_PREFIX, TrustAnchor,
};

/// The instant at which every test takes place
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

const HOUR: Duration = Duration::from_secs(3_600);

/// A P-256 key that rcgen can sign with
pub(crate) struct TestKey {
    key: PKey<Private>,
    point: Vec<u8>,
}

impl TestKey {
    pub(crate) fn generate() -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = EcKey::generate(&group).unwrap();
        let mut context = BigNumContext::new().unwrap();
        let form = PointConversionForm::UNCOMPRESSED;
        let point = key.public_key().to_bytes(&group, form, &mut context).unwrap();
        Self { key: PKey::from_ec_key(key).unwrap(), point }
    }

    fn identifier(&self) -> KeyIdMethod {
        KeyIdMethod::PreSpecified(sha256(&self.point)[..20].to_vec())
    }
}

impl PublicKeyData for TestKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for TestKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let mut signer = Signer::new(MessageDigest::sha256(), &self.key).unwrap();
        signer.update(message).unwrap();
        Ok(signer.sign_to_vec().unwrap())
    }
}

/// An issuing authority as the data plane sees it: an anchor with name constraints
pub(crate) struct TestAuthority {
    issuer: Issuer<'static, TestKey>,
    pub(crate) anchor: TrustAnchor,
}

impl TestAuthority {
    /// An authority for `hypermesh` names and fd77::/48 addresses, in force around [`now`]
    pub(crate) fn new() -> Self {
        Self::in_force(now() - 240 * HOUR, now() + 240 * HOUR)
    }

    pub(crate) fn in_force(not_before: SystemTime, not_after: SystemTime) -> Self {
        let key = TestKey::generate();
        let mut prefix = [0; 16];
        prefix[..2].copy_from_slice(&[0xfd, 0x77]);
        let mut params = blank(&key);
        params.distinguished_name.push(DnType::CommonName, "test issuing authority");
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![
                GeneralSubtree::DnsName("hypermesh".into()),
                GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(prefix, 48)),
            ],
            excluded_subtrees: vec![GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4]))],
        });
        let certificate = params.self_signed(&key).unwrap();
        let certificate_der = certificate.der().to_vec();
        Self {
            issuer: Issuer::new(params, key),
            anchor: TrustAnchor { certificate_der, not_before, not_after },
        }
    }

    /// A leaf that keeps every rule, unless `bend` breaks one
    pub(crate) fn issue(&self, node: &str, bend: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = TestKey::generate();
        let mut params = blank(&key);
        params.not_before = (now() - HOUR).into();
        params.not_after = (now() + 23 * HOUR).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![dns(&format!("{node}.nodes.hypermesh")), spiffe(node)];
        bend(&mut params);
        let not_after = params.not_after.into();
        let serial = params.serial_number.as_ref().unwrap().to_bytes();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            node: NodeId::new(node).unwrap(),
            chain_der: vec![leaf.der().to_vec()],
            key: PrivateKey::from_pkcs8_der(key.key.private_key_to_der_pkcs8().unwrap()),
            not_after,
            serial: serial.iter().map(|octet| format!("{octet:02x}")).collect(),
        }
    }

    /// A snapshot with this authority's good leaf for `node`, trusting this authority
    pub(crate) fn snapshot(&self, node: &str) -> ControlSnapshot {
        self.snapshot_of(self.issue(node, |_| {}))
    }

    /// A snapshot of any identity, trusting this authority
    pub(crate) fn snapshot_of(&self, identity: Identity) -> ControlSnapshot {
        ControlSnapshot {
            epoch: 1,
            identity: Some(identity),
            trust: vec![self.anchor.clone()],
            ..ControlSnapshot::default()
        }
    }
}

/// A DNS name of a subject
pub(crate) fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// The SPIFFE URI of a node
pub(crate) fn spiffe(node: &str) -> SanType {
    SanType::URI(format!("{SPIFFE_NODE_PREFIX}{node}").try_into().unwrap())
}

fn blank(key: &TestKey) -> CertificateParams {
    let mut serial = [0; 16];
    boring::rand::rand_bytes(&mut serial).unwrap();
    // Positive, and without a leading zero octet that would make its text shorter.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(serial.to_vec().into());
    params.key_identifier_method = key.identifier();
    params
}
