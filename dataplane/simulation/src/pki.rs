//! A throwaway issuing authority: node identities and snapshots for tests, benches and the simulation. It
//! keeps the profile of real leaves and nothing of a real authority's care: keys live in memory and go with
//! the process. The product's authority is `stoq-trustchain`.

use std::time::{Duration, SystemTime};

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

/// Validity of the identities in [`Authority::snapshot`]: that of real ones
pub const VALIDITY: Duration = Duration::from_secs(24 * 3_600);

const BACKDATED: Duration = Duration::from_secs(300);
const MADE: &str = "a key or certificate could not be made in memory";

/// A P-256 key that rcgen can sign with
struct SoftKey {
    key: PKey<Private>,
    point: Vec<u8>,
}

impl SoftKey {
    fn generate() -> Result<Self, boring::error::ErrorStack> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
        let key = EcKey::generate(&group)?;
        let mut context = BigNumContext::new()?;
        let form = PointConversionForm::UNCOMPRESSED;
        let point = key.public_key().to_bytes(&group, form, &mut context)?;
        Ok(Self { key: PKey::from_ec_key(key)?, point })
    }
}

impl PublicKeyData for SoftKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for SoftKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let sign = || {
            let mut signer = Signer::new(MessageDigest::sha256(), &self.key)?;
            signer.update(message)?;
            signer.sign_to_vec()
        };
        sign().map_err(|_: boring::error::ErrorStack| rcgen::Error::RemoteKeyError)
    }
}

/// An issuing authority in memory
pub struct Authority {
    issuer: Issuer<'static, SoftKey>,
    anchor: TrustAnchor,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A fresh authority, in force for ten days around now
    ///
    /// # Panics
    /// If BoringSSL cannot make a key.
    pub fn new() -> Self {
        let key = SoftKey::generate().expect(MADE);
        let mut prefix = [0; 16];
        prefix[..2].copy_from_slice(&[0xfd, 0x77]);
        let now = SystemTime::now();
        let (not_before, not_after) = (now - 10 * VALIDITY, now + 10 * VALIDITY);
        let mut params = blank(&key);
        params.distinguished_name.push(DnType::CommonName, "throwaway issuing authority");
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![
                GeneralSubtree::DnsName("hypermesh".into()),
                GeneralSubtree::IpAddress(CidrSubnet::from_v6_prefix(prefix, 48)),
            ],
            // No leaf of this house carries an IPv4 address: all of that space is excluded.
            excluded_subtrees: vec![GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4]))],
        });
        let certificate = params.self_signed(&key).expect(MADE);
        let certificate_der = certificate.der().to_vec();
        Self {
            issuer: Issuer::new(params, key),
            anchor: TrustAnchor { certificate_der, not_before, not_after },
        }
    }

    /// What a host must trust to accept this authority's leaves
    pub fn anchor(&self) -> &TrustAnchor {
        &self.anchor
    }

    /// A leaf and its key for `node`, valid from five minutes ago to `validity` from now
    ///
    /// # Panics
    /// If `node` is not one LDH label, or BoringSSL cannot make a key.
    pub fn identity(&self, node: &str, validity: Duration) -> Identity {
        let key = SoftKey::generate().expect(MADE);
        let now = SystemTime::now();
        let not_after = now + validity;
        let mut params = blank(&key);
        params.not_before = (now - BACKDATED).into();
        params.not_after = not_after.into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let name = format!("{node}.nodes.hypermesh");
        let uri = format!("{SPIFFE_NODE_PREFIX}{node}");
        params.subject_alt_names = vec![
            SanType::DnsName(name.try_into().expect("a node's name is one label")),
            SanType::URI(uri.try_into().expect("a node's name is one label")),
        ];
        let serial = params.serial_number.as_ref().map(|serial| serial.to_bytes());
        let leaf = params.signed_by(&key, &self.issuer).expect(MADE);
        let key_der = key.key.private_key_to_der_pkcs8().expect(MADE);
        Identity {
            node: NodeId::new(node).expect("a node's name is one label"),
            chain_der: vec![leaf.der().to_vec()],
            key: PrivateKey::from_pkcs8_der(key_der),
            not_after,
            serial: serial.iter().flatten().map(|octet| format!("{octet:02x}")).collect(),
        }
    }

    /// A snapshot for `node` with an identity of [`VALIDITY`], trusting this authority; the rest is default
    pub fn snapshot(&self, node: &str) -> ControlSnapshot {
        ControlSnapshot {
            epoch: 1,
            identity: Some(self.identity(node, VALIDITY)),
            trust: vec![self.anchor.clone()],
            ..ControlSnapshot::default()
        }
    }
}

fn blank(key: &SoftKey) -> CertificateParams {
    let mut serial = [0; 16];
    boring::rand::rand_bytes(&mut serial).expect("BoringSSL yields random octets");
    // Positive, and without a leading zero octet that would make its text shorter.
    serial[0] = serial[0] & 0x7f | 0x40;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(serial.to_vec().into());
    params.key_identifier_method = KeyIdMethod::PreSpecified(sha256(&key.point)[..20].to_vec());
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_differ_and_carry_their_serial() {
        let authority = Authority::new();
        let one = authority.identity("alpha", VALIDITY);
        let two = authority.identity("alpha", VALIDITY);
        assert_ne!(one.serial, two.serial);
        assert_eq!(one.serial.len(), 32);
        assert_eq!(authority.snapshot("beta").trust, vec![authority.anchor().clone()]);
    }
}
