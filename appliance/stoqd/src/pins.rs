//! The pins of the configuration: refused where they could lock this node out or have no backup, and as the data plane
//! holds peers to them. What a pin is and what it decides is in `stoq_trustchain::pinning` and in the handshake.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stoq::TrustAnchor;
use stoq_admin::api::Problem;
use stoq_config::Config;
use stoq_interface::{Pins, SpkiSha256};
use stoq_trustchain::NodeIdentity;
use stoq_trustchain::certificate::CertificateError;
use stoq_trustchain::pinning::{ChainKeys, Pin, PinSetError, Tier};

/// Why pins are not used
#[derive(Debug, thiserror::Error)]
pub enum PinProblem {
    /// They do not fit this node
    #[error(transparent)]
    Set(#[from] PinSetError),
    /// A certificate of this node
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl PinProblem {
    /// The word for it in the admin interface
    pub fn code(&self) -> &'static str {
        match self {
            Self::Set(PinSetError::LocksOut { .. }) => "pins-lock-out",
            Self::Set(_) => "pins-without-backup",
            Self::Certificate(_) => "pins-not-checked",
        }
    }
}

/// The keys of the chain in use
pub fn chain_keys(identity: &NodeIdentity) -> Result<ChainKeys, CertificateError> {
    Ok(ChainKeys {
        leaf: Pin::of_certificate(identity.leaf_der())?,
        issuing: Pin::of_certificate(identity.issuing_der())?,
        root: Pin::of_certificate(identity.root_der())?,
    })
}

fn of_tier(config: &Config, tier: Tier) -> &BTreeSet<SpkiSha256> {
    match tier {
        Tier::Root => &config.trust.root_pins,
        Tier::Issuing => &config.trust.issuing_pins,
    }
}

/// Holds the pins to this node's own chain: its keys have to be among them, and another one in each tier that is
/// pinned. A node without a certificate has nothing to hold them to.
pub fn check(config: &Config, identity: Option<&NodeIdentity>) -> Result<(), PinProblem> {
    let pinned = Tier::ALL.into_iter().filter(|tier| !of_tier(config, *tier).is_empty());
    let Some(identity) = identity else { return Ok(()) };
    let current = chain_keys(identity)?;
    Ok(pinned.into_iter().try_for_each(|tier| fits(of_tier(config, tier), tier, &current))?)
}

fn fits(pins: &BTreeSet<SpkiSha256>, tier: Tier, current: &ChainKeys) -> Result<(), PinSetError> {
    let key = current.of(tier);
    if !pins.contains(key.as_bytes()) {
        return Err(PinSetError::LocksOut { tier, key });
    }
    if pins.iter().all(|pin| current.contains(&Pin::from_bytes(*pin))) {
        return Err(PinSetError::NoBackup { tier });
    }
    Ok(())
}

/// Without a backup the node does not start. With pins that its own chain does not match it does: who else would say
/// so, and what it would lose is lost already.
pub fn check_at_start(config: &Config, identity: Option<&NodeIdentity>) -> Result<(), PinProblem> {
    match check(config, identity) {
        Err(problem @ PinProblem::Set(PinSetError::LocksOut { .. })) => {
            tracing::error!(%problem, "every handshake of this node is refused by nodes with its pins");
            Ok(())
        }
        outcome => outcome,
    }
}

/// What an operator should know of the pins
pub fn problem(config: &Config, identity: Option<&NodeIdentity>) -> Option<Problem> {
    let problem = check(config, identity).err()?;
    Some(Problem {
        code: problem.code().into(),
        message: problem.to_string(),
        remedy:
            "`stoqctl node show` prints the pins of the chain in use; correct trust.root_pins and \
                 trust.issuing_pins, then `stoqctl config reload`"
                .into(),
    })
}

/// What the data plane holds peers to; `None` where nothing is pinned. A tier without pins accepts what is trusted
/// anyhow. `anchors` were verified against the root.
pub fn of_data_plane(
    config: &Config,
    root_der: Option<&[u8]>,
    anchors: &[TrustAnchor],
) -> Option<Arc<Pins>> {
    let trust = &config.trust;
    if trust.root_pins.is_empty() && trust.issuing_pins.is_empty() && config.pins.is_empty() {
        return None;
    }
    // A key that cannot be read has no root in the table, and its leaves are refused.
    let key = |certificate_der: &[u8]| Pin::of_certificate(certificate_der).ok();
    let root = root_der.and_then(key);
    let issuing: BTreeSet<Pin> =
        anchors.iter().filter_map(|anchor| key(&anchor.certificate_der)).collect();
    let root_of: BTreeMap<SpkiSha256, SpkiSha256> = issuing
        .iter()
        .filter_map(|issuing| Some((*issuing.as_bytes(), *root?.as_bytes())))
        .collect();
    let or_known = |pins: &BTreeSet<SpkiSha256>, known: BTreeSet<SpkiSha256>| {
        if pins.is_empty() { known } else { pins.clone() }
    };
    let peers = config.pins.iter().map(|pins| (pins.node.clone(), pins.keys.clone()));
    Some(Arc::new(Pins {
        roots: or_known(&trust.root_pins, root_of.values().copied().collect()),
        issuing: or_known(&trust.issuing_pins, root_of.keys().copied().collect()),
        peers: peers.collect(),
        root_of,
    }))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

    use boring::asn1::Asn1Time;
    use boring::bn::BigNum;
    use boring::ec::{EcGroup, EcKey};
    use boring::hash::MessageDigest;
    use boring::nid::Nid;
    use boring::pkey::{PKey, Private};
    use boring::x509::X509;
    use boring::x509::extension::{ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
    use stoq::NodeId;
    use stoq_config::PeerPins;
    use stoq_interface::PeerRefusal;
    use stoq_trustchain::{Authority, Ipv6Subtree};

    use super::*;

    /// A node's identity under an authority of its own, with the files as enrolling leaves them
    fn identity(directory: &Path) -> NodeIdentity {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let authority_files = directory.join("ca");
        let authority = Authority::open_or_create(&authority_files, Ipv6Subtree::ALL, now).unwrap();
        let issuing = X509::from_der(authority.certificate_der()).unwrap();
        let issuing_key = fs::read(authority_files.join("issuing.key")).unwrap();
        let issuing_key = PKey::private_key_from_pem(&issuing_key).unwrap();
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let leaf = leaf(&issuing, &issuing_key, &key);
        let root = X509::from_der(authority.root_der()).unwrap().to_pem().unwrap();
        let chain = [leaf.to_pem().unwrap(), issuing.to_pem().unwrap()].concat();
        let node = directory.join("node");
        fs::create_dir(&node).unwrap();
        let key_pem = key.private_key_to_pem_pkcs8().unwrap();
        for (name, pem) in [("node.key", key_pem), ("node.pem", chain), ("root.pem", root)] {
            fs::write(node.join(name), pem).unwrap();
            fs::set_permissions(node.join(name), Permissions::from_mode(0o600)).unwrap();
        }
        NodeIdentity::load(&node, now).unwrap()
    }

    /// A day's leaf of the node alpha
    fn leaf(issuing: &X509, issuing_key: &PKey<Private>, key: &PKey<Private>) -> X509 {
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let serial = BigNum::from_u32(7).unwrap().to_asn1_integer().unwrap();
        builder.set_serial_number(&serial).unwrap();
        builder.set_issuer_name(issuing.subject_name()).unwrap();
        builder.set_pubkey(key).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(1_799_999_700).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(1_800_086_099).unwrap()).unwrap();
        let mut names = SubjectAlternativeName::new();
        names.critical().dns("alpha.nodes.hypermesh").uri("spiffe://hypermesh/node/alpha");
        let names = names.build(&builder.x509v3_context(Some(issuing), None)).unwrap();
        let mut usages = ExtendedKeyUsage::new();
        let extensions = [
            names,
            KeyUsage::new().critical().digital_signature().build().unwrap(),
            usages.server_auth().client_auth().build().unwrap(),
        ];
        for extension in &extensions {
            builder.append_extension(extension).unwrap();
        }
        builder.sign(issuing_key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    fn pinned(root: &[SpkiSha256], issuing: &[SpkiSha256]) -> Config {
        let mut config = Config::default();
        config.trust.root_pins = root.iter().copied().collect();
        config.trust.issuing_pins = issuing.iter().copied().collect();
        config
    }

    #[test]
    fn pins_that_leave_out_the_own_chain_or_have_no_backup_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let identity = identity(directory.path());
        let keys = chain_keys(&identity).unwrap();
        let (root, issuing) = (*keys.root.as_bytes(), *keys.issuing.as_bytes());
        let other = [7; 32];
        let judge = |config: &Config| check(config, Some(&identity)).map_err(|error| error.code());
        assert_eq!(judge(&Config::default()), Ok(()));
        assert_eq!(judge(&pinned(&[root, other], &[issuing, other])), Ok(()));
        assert_eq!(judge(&pinned(&[], &[issuing, other])), Ok(()));
        assert_eq!(judge(&pinned(&[other, [8; 32]], &[])), Err("pins-lock-out"));
        assert_eq!(judge(&pinned(&[root, other], &[root, other])), Err("pins-lock-out"));
        // The other one is in use as well.
        let alone = pinned(&[root, issuing], &[]);
        assert_eq!(judge(&alone), Err("pins-without-backup"));
        assert!(check_at_start(&alone, Some(&identity)).is_err());
        let locked = pinned(&[other, [8; 32]], &[]);
        assert!(check_at_start(&locked, Some(&identity)).is_ok());
        assert_eq!(problem(&locked, Some(&identity)).unwrap().code, "pins-lock-out");
        assert!(problem(&locked, None).is_none());
    }

    #[test]
    fn a_tier_without_pins_accepts_what_is_trusted_and_the_others_what_is_pinned() {
        let directory = tempfile::tempdir().unwrap();
        let identity = identity(directory.path());
        let keys = chain_keys(&identity).unwrap();
        let (leaf, issuing) = (*keys.leaf.as_bytes(), *keys.issuing.as_bytes());
        let beta = NodeId::new("beta").unwrap();
        let (anchors, root_der) = (identity.trust(), identity.root_der());
        let refusal = |config: &Config| {
            let pins = of_data_plane(config, Some(root_der), &anchors).unwrap();
            pins.refusal(&beta, &leaf, &issuing)
        };
        assert!(of_data_plane(&Config::default(), Some(root_der), &anchors).is_none());
        assert_eq!(refusal(&pinned(&[*keys.root.as_bytes(), [7; 32]], &[])), None);
        assert_eq!(refusal(&pinned(&[], &[issuing, [7; 32]])), None);
        assert_eq!(refusal(&pinned(&[[7; 32]], &[])), Some(PeerRefusal::RootNotPinned));
        assert_eq!(refusal(&pinned(&[], &[[7; 32]])), Some(PeerRefusal::IssuingNotPinned));
        let pins = vec![PeerPins { node: beta.clone(), keys: [[7; 32], [8; 32]].into() }];
        let mut config = Config { pins, ..Config::default() };
        assert_eq!(refusal(&config), Some(PeerRefusal::PeerNotPinned));
        config.pins[0].keys.insert(issuing);
        assert_eq!(refusal(&config), None);
        // Whatever is not known to lead to the root is refused.
        let pins = of_data_plane(&config, None, &anchors).unwrap();
        assert_eq!(pins.refusal(&beta, &leaf, &issuing), Some(PeerRefusal::RootNotPinned));
    }
}
