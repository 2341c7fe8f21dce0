//! The issuing authority as the service uses it: its certificate, its root, and its key behind a signer. How the
//! certificate came to be is in `crate::authority` and `root`; in which state its key is, in `pinning`.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::CertificateParams;
use stoq_interface::TrustAnchor;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::certificate::{self, CertificateError, Fingerprint};
use crate::chain::{self, ChainError};
use crate::revocation::KeyId;
use crate::root::authority_name;
use crate::signer::{KeyInfo, KeyName, KeyPurpose, Signer, key_identifier_method};

/// Why an issuing authority cannot be used
#[derive(Debug, thiserror::Error)]
pub enum IssuingError {
    /// The signer does not have the key
    #[error("the signer has no key `{0}`; `stoqctl signer status` lists the keys it has")]
    NoKey(KeyName),
    /// The name is of a key for something else
    #[error("key `{0}` is not an issuing key")]
    Purpose(KeyName),
    /// The certificate is for another key
    #[error(
        "the issuing certificate is not for the signer's key `{0}`; have the root sign this key's request"
    )]
    Mismatch(KeyName),
    /// The certificate's name is not what follows from its key
    #[error(
        "the issuing certificate's name does not follow from its key; have the root sign it anew"
    )]
    Name,
    /// The chain to the root
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A certificate file
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Certificate, root and key of an issuing authority
#[derive(Clone)]
pub struct IssuingAuthority {
    certificate_der: Vec<u8>,
    root_der: Vec<u8>,
    public: KeyInfo,
    key_id: KeyId,
    signer: Arc<dyn Signer>,
    not_before: SystemTime,
    not_after: SystemTime,
    /// Networks and masks; `None`: every IPv6 address
    permitted: Option<Vec<(u128, u128)>>,
    root_at_hand: bool,
}

impl fmt::Debug for IssuingAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuingAuthority({})", self.key_id)
    }
}

impl IssuingAuthority {
    /// Puts certificate and key together and checks both against the root
    pub fn new(
        certificate_der: &[u8],
        root_der: &[u8],
        signer: Arc<dyn Signer>,
        key: &KeyName,
        now: SystemTime,
    ) -> Result<Self, IssuingError> {
        if key.purpose() != KeyPurpose::Issuing {
            return Err(IssuingError::Purpose(key.clone()));
        }
        let public = signer.key(key).ok_or_else(|| IssuingError::NoKey(key.clone()))?;
        chain::check_root(root_der, now)?;
        chain::check_issuing(certificate_der, root_der, now)?;
        let parsed = certificate::parse(certificate_der)?;
        if parsed.public_key().raw != public.spki_der() {
            return Err(IssuingError::Mismatch(key.clone()));
        }
        let key_id =
            KeyId::of_public_point(public.public_point()).map_err(|_| IssuingError::Name)?;
        let (not_before, not_after) = certificate::validity(&parsed)?;
        let permitted = permitted_networks(&parsed);
        let authority = Self {
            certificate_der: certificate_der.to_vec(),
            root_der: root_der.to_vec(),
            public,
            key_id,
            signer,
            not_before,
            not_after,
            permitted,
            root_at_hand: false,
        };
        Ok(authority)
    }

    /// Reads `issuing.pem` and `root.pem` of a directory, as `crate::authority` installs them; notes whether
    /// the root's key lies there too
    pub fn load(
        directory: &Path,
        signer: Arc<dyn Signer>,
        key: &KeyName,
        now: SystemTime,
    ) -> Result<Self, IssuingError> {
        let certificate_der = certificate::read_pem(&directory.join("issuing.pem"))?;
        let root_der = certificate::read_pem(&directory.join("root.pem"))?;
        let mut authority = Self::new(&certificate_der, &root_der, signer, key, now)?;
        authority.root_at_hand = directory.join("root").join("root.key").exists();
        Ok(authority)
    }

    /// Says that the root's key is on this host, which production refuses
    pub fn with_root_at_hand(mut self) -> Self {
        self.root_at_hand = true;
        self
    }

    /// Whether the root's key is on this host
    pub fn root_at_hand(&self) -> bool {
        self.root_at_hand
    }

    /// The authority's certificate
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }

    /// The root's certificate
    pub fn root_der(&self) -> &[u8] {
        &self.root_der
    }

    /// What nodes pin
    pub fn root_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.root_der)
    }

    /// The public half of the issuing key
    pub fn key(&self) -> &KeyInfo {
        &self.public
    }

    /// Its identifier, as certificates and CRLs carry it
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// What signs with it
    pub fn signer(&self) -> &Arc<dyn Signer> {
        &self.signer
    }

    /// Last instant of validity; no leaf outlives it
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The authority as the data plane trusts it
    pub fn trust_anchor(&self) -> TrustAnchor {
        TrustAnchor {
            certificate_der: self.certificate_der.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }

    /// Whether its name constraints let a leaf carry this address
    pub(super) fn may_name(&self, address: Ipv6Addr) -> bool {
        let bits = address.to_bits();
        self.permitted
            .as_ref()
            .is_none_or(|networks| networks.iter().any(|(network, mask)| bits & mask == *network))
    }

    /// What rcgen needs to know of the issuer: its name and the identifier of its key
    pub(super) fn issuer_params(&self) -> CertificateParams {
        issuer_params(&self.public)
    }
}

/// What rcgen needs to know of an issuer, all of which follows from its key
pub(super) fn issuer_params(key: &KeyInfo) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = authority_name(key, "issuing");
    params.key_identifier_method = key_identifier_method(key.public_point());
    params
}

fn permitted_networks(parsed: &X509Certificate<'_>) -> Option<Vec<(u128, u128)>> {
    let constraints = parsed.name_constraints().ok()??;
    let permitted = constraints.value.permitted_subtrees.as_ref()?;
    let networks = permitted.iter().filter_map(|subtree| match &subtree.base {
        GeneralName::IPAddress(octets) => {
            let (network, mask) = octets.split_first_chunk::<16>()?;
            let mask = u128::from_be_bytes(mask.try_into().ok()?);
            Some((u128::from_be_bytes(*network) & mask, mask))
        }
        _ => None,
    });
    Some(networks.collect())
}
