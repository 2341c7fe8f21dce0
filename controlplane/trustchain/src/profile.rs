//! What certificates may name: the zones, a node with its addresses, and the network an authority is held to. Names
//! come from the operator's grant and never from a request. The kinds of certificates are `ca`'s profiles.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints};
use stoq_interface::NodeId;

/// The zones an issuing authority may name; nobody else owns them
pub const ZONES: [&str; 4] = ["hypermesh", "caesar", "trust", "assets"];

/// IPv6 addresses one certificate may carry
pub const ADDRESSES_PER_SUBJECT: usize = 16;

/// Whom a certificate names, as the operator granted it
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subject {
    node: NodeId,
    addresses: Vec<Ipv6Addr>,
}

/// Why a subject cannot be named
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SubjectError {
    /// Not an address that one host can be reached at
    #[error("{0} is no IPv6 address of one host; name a unicast address")]
    Address(Ipv6Addr),
    /// More addresses than a certificate carries
    #[error("a certificate carries at most {ADDRESSES_PER_SUBJECT} addresses")]
    TooMany,
}

impl Subject {
    /// A node and the addresses it may prove; repeated addresses count once
    pub fn new(
        node: NodeId,
        addresses: impl IntoIterator<Item = Ipv6Addr>,
    ) -> Result<Self, SubjectError> {
        let mut kept = Vec::new();
        for address in addresses {
            let mapped = address.to_ipv4_mapped().is_some();
            if address.is_unspecified() || address.is_multicast() || mapped {
                return Err(SubjectError::Address(address));
            }
            if !kept.contains(&address) {
                kept.push(address);
            }
            if kept.len() > ADDRESSES_PER_SUBJECT {
                return Err(SubjectError::TooMany);
            }
        }
        Ok(Self { node, addresses: kept })
    }

    /// The node
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Its addresses
    pub fn addresses(&self) -> &[Ipv6Addr] {
        &self.addresses
    }
}

/// `<node>.nodes.hypermesh`
pub fn node_dns_name(node: &NodeId) -> String {
    format!("{node}.nodes.hypermesh")
}

/// An IPv6 prefix, written `address/bits`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ipv6Subtree {
    network: Ipv6Addr,
    prefix_bits: u8,
}

/// Why a text is no IPv6 prefix
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("an IPv6 prefix is an address, a slash and 0 to 128 bits, with no bit set beyond them")]
pub struct Ipv6SubtreeError;

impl Ipv6Subtree {
    /// Every IPv6 address
    pub const ALL: Self = Self { network: Ipv6Addr::UNSPECIFIED, prefix_bits: 0 };

    /// A prefix; bits beyond it must be zero
    pub fn new(network: Ipv6Addr, prefix_bits: u8) -> Result<Self, Ipv6SubtreeError> {
        let host_bits = u128::MAX.checked_shr(u32::from(prefix_bits)).unwrap_or(0);
        if prefix_bits > 128 || network.to_bits() & host_bits != 0 {
            return Err(Ipv6SubtreeError);
        }
        Ok(Self { network, prefix_bits })
    }

    /// The constraints of an issuing authority: the four zones, this prefix, and no IPv4 at all
    pub(crate) fn name_constraints(self) -> NameConstraints {
        let zones = ZONES.iter().map(|zone| GeneralSubtree::DnsName((*zone).to_owned()));
        let prefix = CidrSubnet::from_v6_prefix(self.network.octets(), self.prefix_bits);
        NameConstraints {
            permitted_subtrees: zones.chain([GeneralSubtree::IpAddress(prefix)]).collect(),
            excluded_subtrees: vec![GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4]))],
        }
    }
}

impl Default for Ipv6Subtree {
    fn default() -> Self {
        Self::ALL
    }
}

impl fmt::Display for Ipv6Subtree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix_bits)
    }
}

impl FromStr for Ipv6Subtree {
    type Err = Ipv6SubtreeError;

    fn from_str(text: &str) -> Result<Self, Ipv6SubtreeError> {
        let (network, bits) = text.split_once('/').ok_or(Ipv6SubtreeError)?;
        let network = network.parse().map_err(|_| Ipv6SubtreeError)?;
        Self::new(network, bits.parse().map_err(|_| Ipv6SubtreeError)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_parse_strictly() {
        for text in ["::/0", "fd77::/48", "2001:db8::1/128"] {
            assert_eq!(text.parse::<Ipv6Subtree>().unwrap().to_string(), text);
        }
        for text in ["fd77::", "fd77::1/48", "fd77::/129", "fd77::/x", "10.0.0.0/8", "/0"] {
            assert_eq!(text.parse::<Ipv6Subtree>(), Err(Ipv6SubtreeError), "{text}");
        }
    }

    #[test]
    fn a_subject_has_only_addresses_of_one_host() {
        let node = NodeId::new("alpha").unwrap();
        for wrong in ["::", "ff02::1", "::ffff:1.2.3.4"] {
            let address = wrong.parse().unwrap();
            let refused = Subject::new(node.clone(), [address]);
            assert_eq!(refused, Err(SubjectError::Address(address)));
        }
        let loopback = Ipv6Addr::LOCALHOST;
        let subject = Subject::new(node.clone(), [loopback, loopback]).unwrap();
        assert_eq!(subject.addresses(), [loopback]);
        let many = (1..=17u128).map(Ipv6Addr::from_bits);
        assert_eq!(Subject::new(node, many), Err(SubjectError::TooMany));
    }
}
