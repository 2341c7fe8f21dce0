//! Certificates with one thing wrong, signed by the real keys of a running authority and of its log behind their backs:
//! whoever refuses one refuses it for what is wrong with it. What a good one looks like is the product's profile of
//! nodes.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boring::sha::sha256;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose,
    NameConstraints, SanType, SigningKey as _,
};
use stoq::{Identity, NodeId, TrustAnchor};
use stoq_appliance_tests::Node;
use stoq_trustchain::log::der::{SCT_LIST_OID_ARCS, octet_string, tbs_of};
use stoq_trustchain::log::sct::key_hash;
use stoq_trustchain::{KeyKind, KeyPair, certificate};

pub const HOUR: Duration = Duration::from_secs(3_600);
const SPIFFE: &str = "spiffe://hypermesh/node/";
const BACKDATED: Duration = Duration::from_secs(300);

/// An authority that signs whatever it is told
pub struct Forge {
    issuer: Issuer<'static, KeyPair>,
    pub certificate_der: Vec<u8>,
    /// The log's key, where what is made here is logged
    log: Option<KeyPair>,
}

/// Who promises that a leaf was logged
pub enum Log<'a> {
    /// Nobody
    Nobody,
    /// The authority's own log, dated so
    Own(SystemTime),
    /// Another one
    Other(&'a KeyPair),
}

impl Forge {
    /// With the issuing key of a node's authority and the key of its log
    pub fn of(node: &Node) -> Self {
        let directory = node.state().join("authority");
        let log = KeyPair::load(&directory.join("log.key")).unwrap();
        Self { log: Some(log), ..Self::load(&directory.join("issuing")) }
    }

    /// With the key of a node's root
    pub fn root_of(node: &Node) -> Self {
        Self::load(&node.state().join("authority/root/root"))
    }

    /// A root of nobody
    pub fn root() -> Self {
        let key = KeyPair::generate(KeyKind::P384).unwrap();
        let params = authority(&key, "root of nobody", 1);
        let certificate_der = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), certificate_der, log: None }
    }

    /// `<path>.key` and `<path>.pem`
    fn load(path: &Path) -> Self {
        let key = KeyPair::load(&path.with_extension("key")).unwrap();
        let certificate_der = certificate::read_pem(&path.with_extension("pem")).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = name_of(&certificate_der);
        params.key_identifier_method = identifier(&key);
        Self { issuer: Issuer::new(params, key), certificate_der, log: None }
    }

    /// An authority below this one, for the given key and under a name of its own: good, but for what `bend` changes
    pub fn authority(
        &self,
        key: KeyPair,
        name: DistinguishedName,
        bend: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = authority(&key, "", 0);
        params.distinguished_name = name;
        params.use_authority_key_identifier_extension = true;
        params.name_constraints = Some(constraints());
        bend(&mut params);
        let certificate_der = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), certificate_der, log: None }
    }

    /// With the name of a node's authority and the key of its log, but not with the issuing key
    pub fn impostor_of(node: &Node) -> Self {
        let real = Self::of(node);
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = real.own_name();
        params.key_identifier_method = identifier(&key);
        Self { issuer: Issuer::new(params, key), ..real }
    }

    /// The name in this authority's certificate
    pub fn own_name(&self) -> DistinguishedName {
        name_of(&self.certificate_der)
    }

    /// As the data plane trusts it
    pub fn anchor(&self) -> TrustAnchor {
        let parsed = certificate::parse(&self.certificate_der).unwrap();
        let (not_before, not_after) = certificate::validity(&parsed).unwrap();
        TrustAnchor { certificate_der: self.certificate_der.clone(), not_before, not_after }
    }

    /// A leaf in the log, dated now: good, but for what `bend` changes
    pub fn leaf(&self, node: &str, bend: impl FnOnce(&mut CertificateParams)) -> Identity {
        let log = if self.log.is_some() { Log::Own(SystemTime::now()) } else { Log::Nobody };
        self.leaf_by(node, log, bend)
    }

    /// The same with this log's promise
    pub fn leaf_by(
        &self,
        node: &str,
        log: Log<'_>,
        bend: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let now = SystemTime::now();
        let mut params = blank(&key);
        params.not_before = (now - BACKDATED).into();
        params.not_after = (now + 24 * HOUR).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![dns(&format!("{node}.nodes.hypermesh")), spiffe(node)];
        bend(&mut params);
        let mut leaf = params.signed_by(&key, &self.issuer).unwrap();
        let promised = match log {
            Log::Nobody => None,
            Log::Own(at) => Some((self.log.as_ref().expect("a log of its own"), at)),
            Log::Other(log) => Some((log, now)),
        };
        if let Some((log, at)) = promised {
            let issuer = key_hash(&self.certificate_der).unwrap();
            let list = promise(log, tbs_of(leaf.der()).unwrap(), &issuer, at);
            // rcgen writes further extensions last, so without it the certificate is the one above.
            params
                .custom_extensions
                .push(CustomExtension::from_oid_content(&SCT_LIST_OID_ARCS, list));
            leaf = params.signed_by(&key, &self.issuer).unwrap();
        }
        let serial = params.serial_number.as_ref().unwrap().to_bytes();
        Identity {
            node: NodeId::new(node).unwrap(),
            chain_der: vec![leaf.der().to_vec()],
            key: key.to_private_key().unwrap(),
            // The stranger's own side believes in it, whatever it says.
            not_after: now + 24 * HOUR,
            serial: serial.iter().map(|octet| format!("{octet:02x}")).collect(),
        }
    }
}

/// The four zones of the product, an IPv6 prefix, and no address of the old protocol
pub fn constraints() -> NameConstraints {
    let zones = ["hypermesh", "caesar", "trust", "assets"];
    let zones = zones.map(|zone| GeneralSubtree::DnsName(zone.into()));
    let everywhere = GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix([0; 16], 0));
    NameConstraints {
        permitted_subtrees: zones.into_iter().chain([everywhere]).collect(),
        excluded_subtrees: vec![GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4]))],
    }
}

/// A DNS name of a subject
pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// The SPIFFE URI of a node
pub fn spiffe(node: &str) -> SanType {
    SanType::URI(format!("{SPIFFE}{node}").try_into().unwrap())
}

/// A name of an authority that nothing follows from
pub fn any_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "hypermesh");
    name.push(DnType::CommonName, text);
    name
}

fn authority(key: &KeyPair, name: &str, path_length: u8) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = blank(key);
    params.distinguished_name = any_name(name);
    params.not_before = (now - 48 * HOUR).into();
    params.not_after = (now + 90 * 24 * HOUR).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn blank(key: &KeyPair) -> CertificateParams {
    let mut serial = [0; 16];
    boring::rand::rand_bytes(&mut serial).unwrap();
    // Positive, and without a leading zero octet that would make its text shorter.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(serial.to_vec().into());
    params.key_identifier_method = identifier(key);
    params
}

fn identifier(key: &KeyPair) -> KeyIdMethod {
    KeyIdMethod::PreSpecified(sha256(key.public_point())[..20].to_vec())
}

/// The subject of a certificate, as rcgen writes it again octet for octet
fn name_of(certificate_der: &[u8]) -> DistinguishedName {
    let parsed = certificate::parse(certificate_der).unwrap();
    let mut name = DistinguishedName::new();
    for attribute in parsed.subject().iter_attributes() {
        let kind = match attribute.attr_type().to_id_string().as_str() {
            "2.5.4.10" => DnType::OrganizationName,
            "2.5.4.3" => DnType::CommonName,
            other => panic!("an authority's name has {other}"),
        };
        name.push(kind, attribute.as_str().unwrap());
    }
    name
}

/// The content of the extension for a TBSCertificate without it (RFC 6962 section 3.3), with the leaf index 5
fn promise(log: &KeyPair, tbs: &[u8], issuer: &[u8; 32], at: SystemTime) -> Vec<u8> {
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
    let signature = log.sign(&entry).unwrap();
    let signed = [&[4, 3][..], &long(&signature)].concat();
    let id = sha256(&log.spki_der().unwrap());
    let sct = [&[0][..], &id, &at_ms.to_be_bytes(), &[0, 8], &extensions, &signed].concat();
    octet_string(&long(&long(&sct)))
}

/// A vector with a length of two octets
fn long(octets: &[u8]) -> Vec<u8> {
    [&(octets.len() as u16).to_be_bytes()[..], octets].concat()
}
