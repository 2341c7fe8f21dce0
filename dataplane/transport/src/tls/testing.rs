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
    BasicConstraints, CertificateParams, CidrSubnet, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    NameConstraints, PublicKeyData, SanType, SignatureAlgorithm, SigningKey,
};
use stoq_interface::{
    ControlSnapshot, Identity, LogKey, NodeId, PrivateKey, SPIFFE_NODE_PREFIX, SpkiSha256,
    TrustAnchor,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

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
        Self::bent(not_before, not_after, |_| {})
    }

    /// An authority without name constraints, which no real root would sign
    pub(crate) fn unconstrained() -> Self {
        Self::bent(now() - 240 * HOUR, now() + 240 * HOUR, |params| params.name_constraints = None)
    }

    fn bent(
        not_before: SystemTime,
        not_after: SystemTime,
        bend: impl FnOnce(&mut CertificateParams),
    ) -> Self {
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
        bend(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        let certificate_der = certificate.der().to_vec();
        Self {
            issuer: Issuer::new(params, key),
            anchor: TrustAnchor { certificate_der, not_before, not_after },
        }
    }

    /// A leaf that keeps every rule, unless `bend` breaks one
    pub(crate) fn issue(&self, node: &str, bend: impl FnOnce(&mut CertificateParams)) -> Identity {
        self.certify(node, None, bend)
    }

    /// The same with an SCT of `log`, made at `at`
    pub(crate) fn issue_logged(
        &self,
        node: &str,
        log: &TestLog,
        at: SystemTime,
        bend: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        self.certify(node, Some((log, at)), bend)
    }

    /// The hash of this authority's key
    pub(crate) fn spki_sha256(&self) -> SpkiSha256 {
        let (_, parsed) = X509Certificate::from_der(&self.anchor.certificate_der).unwrap();
        sha256(parsed.public_key().raw)
    }

    /// The identifier of this authority's key
    pub(crate) fn key_id(&self) -> [u8; 20] {
        sha256(&self.issuer.key().point)[..20].try_into().unwrap()
    }

    fn certify(
        &self,
        node: &str,
        log: Option<(&TestLog, SystemTime)>,
        bend: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
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
        let mut leaf = params.signed_by(&key, &self.issuer).unwrap();
        if let Some((log, at)) = log {
            let (_, parsed) = X509Certificate::from_der(leaf.der()).unwrap();
            let content = log.promise(parsed.tbs_certificate.as_ref(), &self.spki_sha256(), at);
            // rcgen writes custom extensions last, so without it the certificate is the one above.
            let list = CustomExtension::from_oid_content(SCT_LIST_ARCS, content);
            params.custom_extensions.push(list);
            leaf = params.signed_by(&key, &self.issuer).unwrap();
        }
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

/// The extension with the list of SCTs
const SCT_LIST_ARCS: &[u64] = &[1, 3, 6, 1, 4, 1, 11_129, 2, 4, 2];

/// A transparency log that promises whatever it is asked for
pub(crate) struct TestLog(TestKey);

impl TestLog {
    pub(crate) fn new() -> Self {
        Self(TestKey::generate())
    }

    /// As a snapshot names it
    pub(crate) fn key(&self) -> LogKey {
        let spki_der = self.0.key.public_key_to_der().unwrap();
        LogKey { log_id: sha256(&spki_der), spki_der }
    }

    /// The content of the extension for a TBSCertificate without it (RFC 6962 section 3.3), with the leaf index 5
    fn promise(&self, tbs: &[u8], issuer: &SpkiSha256, at: SystemTime) -> Vec<u8> {
        let at_ms = at.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let extensions = [0, 0, 5, 0, 0, 0, 0, 5];
        let entry = [
            &[0, 0][..],
            &at_ms.to_be_bytes(),
            &[0, 1],
            issuer,
            &(tbs.len() as u32).to_be_bytes()[1..],
            tbs,
            &[0, 8],
            &extensions,
        ]
        .concat();
        let signature = SigningKey::sign(&self.0, &entry).unwrap();
        let signed = [&[4, 3][..], &long(&signature)].concat();
        let id = self.key().log_id;
        let sct = [&[0][..], &id, &at_ms.to_be_bytes(), &[0, 8], &extensions, &signed].concat();
        let list = long(&long(&sct));
        // Shorter than 256 octets and longer than 127: one octet of length
        [&[4, 0x81, u8::try_from(list.len()).unwrap()][..], &list].concat()
    }
}

/// A vector with a length of two octets
fn long(octets: &[u8]) -> Vec<u8> {
    [&(octets.len() as u16).to_be_bytes()[..], octets].concat()
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
