//! What an asset is called and measured in. An identity follows from who registered the asset first, its kind and its
//! name, so anyone can recompute it; its text is one DNS label that no other asset has, and its kind is read from
//! there and from a URI, never from a name that several assets share.

use std::fmt;
use std::str::FromStr;

use stoq_interface::{NameError, NodeId, ServiceName};

use super::{NetworkId, RequesterId};
use crate::digest::{Digest, Domain};
use crate::wire::{Reader, WireError, Writer};

static IDENTITY: Domain = Domain::new("hypermesh v1 asset identity");
static CHECK: Domain = Domain::new("hypermesh v1 asset text check");

/// The SPIFFE URI of an asset's certificate begins so; the identity's text follows
pub const SPIFFE_ASSET_PREFIX: &str = "spiffe://hypermesh/asset/";
/// Octets of a label (RFC 1035 section 2.3.4)
const LABEL_LIMIT_BYTES: usize = 63;
/// Octets of an identity's hash: as many as let `asset-<text>` be one label for the longest kind
const HASH_BYTES: usize = 25;
/// Octets of an identity's text that only show mistakes
const CHECK_BYTES: usize = 4;
/// Characters of base32 for both
const TEXT_CHARACTERS: usize = ((HASH_BYTES + CHECK_BYTES) * 8).div_ceil(5);

/// What an asset is
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum AssetKind {
    /// Processor time; capacity in thousandths of a logical processor
    Cpu,
    /// Whole accelerators
    Gpu,
    /// Main memory; capacity in bytes
    Memory,
    /// A file system; capacity in bytes
    Storage,
    /// An interface; capacity in bits per second
    Network,
    /// Instances of a container
    Container,
}

impl AssetKind {
    /// All kinds, in the order of their tags
    pub const ALL: [Self; 6] =
        [Self::Cpu, Self::Gpu, Self::Memory, Self::Storage, Self::Network, Self::Container];

    /// Its name
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu => "gpu",
            Self::Memory => "memory",
            Self::Storage => "storage",
            Self::Network => "network",
            Self::Container => "container",
        }
    }

    /// What one unit of its capacity is
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Cpu => "thousandths of a logical processor",
            Self::Gpu => "devices",
            Self::Memory | Self::Storage => "bytes",
            Self::Network => "bits per second",
            Self::Container => "instances",
        }
    }

    const fn tag(self) -> u8 {
        match self {
            Self::Cpu => 1,
            Self::Gpu => 2,
            Self::Memory => 3,
            Self::Storage => 4,
            Self::Network => 5,
            Self::Container => 6,
        }
    }

    pub(crate) fn encode(self, writer: &mut Writer) {
        writer.u8(self.tag());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let tag = reader.u8()?;
        let found = Self::ALL.into_iter().find(|kind| kind.tag() == tag);
        found.ok_or(WireError::BadTag { what: "kind of asset", tag: tag.into() })
    }
}

impl fmt::Display for AssetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for AssetKind {
    type Err = AssetIdError;

    fn from_str(text: &str) -> Result<Self, AssetIdError> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or(AssetIdError::Kind)
    }
}

/// What its owner calls an asset: one LDH label. Two assets of one owner and kind have different names.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AssetName(ServiceName);

impl AssetName {
    /// Parses one LDH label of 1 to 63 lower-case characters
    pub fn new(text: &str) -> Result<Self, NameError> {
        ServiceName::new(text).map(Self)
    }

    /// The label
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.bytes(self.as_str().as_bytes());
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let text = label(reader, "name of an asset")?;
        Self::new(text).map_err(|_| WireError::NotCanonical { what: "name of an asset" })
    }
}

impl fmt::Display for AssetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn label<'a>(reader: &mut Reader<'a>, what: &'static str) -> Result<&'a str, WireError> {
    let octets = reader.bytes(LABEL_LIMIT_BYTES)?;
    std::str::from_utf8(octets).map_err(|_| WireError::NotCanonical { what })
}

pub(crate) fn encode_node(node: &NodeId, writer: &mut Writer) {
    writer.bytes(node.as_str().as_bytes());
}

pub(crate) fn decode_node(reader: &mut Reader<'_>) -> Result<NodeId, WireError> {
    let text = label(reader, "name of a node")?;
    NodeId::new(text).map_err(|_| WireError::NotCanonical { what: "name of a node" })
}

/// An asset's identity. It stays when the asset changes hands.
///
/// Its text is `<kind>-<47 characters of base32>`: the hash, and 32 bits over kind and hash by which a mistyped
/// text is told.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AssetId {
    kind: AssetKind,
    hash: [u8; HASH_BYTES],
}

/// Why a text is no asset's identity
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AssetIdError {
    /// It does not begin with a kind of asset
    #[error(
        "an asset is named `<kind>-<code>`, the kind being cpu, gpu, memory, storage, network or container"
    )]
    Kind,
    /// The code is no base32 of the right length
    #[error("the code of an asset has {TEXT_CHARACTERS} characters of a-z and 2-7")]
    Code,
    /// The code does not fit itself
    #[error("a character of this asset's name is wrong: copy it again from `stoqctl asset list`")]
    Check,
}

impl AssetId {
    /// The identity of what `owner` registers in `network` under `name`
    pub fn derive(
        network: &NetworkId,
        owner: &RequesterId,
        kind: AssetKind,
        name: &AssetName,
    ) -> Self {
        let digest = IDENTITY.derive(&[network, owner, &[kind.tag()], name.as_str().as_bytes()]);
        let mut hash = [0; HASH_BYTES];
        hash.copy_from_slice(&digest[..HASH_BYTES]);
        Self { kind, hash }
    }

    /// What it is
    pub fn kind(&self) -> AssetKind {
        self.kind
    }

    /// The URI that its certificate carries
    pub fn uri(&self) -> String {
        format!("{SPIFFE_ASSET_PREFIX}{self}")
    }

    /// The identity in such a URI
    pub fn from_uri(uri: &str) -> Result<Self, AssetIdError> {
        uri.strip_prefix(SPIFFE_ASSET_PREFIX).ok_or(AssetIdError::Kind)?.parse()
    }

    fn check(&self) -> [u8; CHECK_BYTES] {
        let digest = CHECK.derive(&[&[self.kind.tag()], &self.hash]);
        std::array::from_fn(|octet| digest[octet])
    }

    /// Where the state keeps it
    pub(crate) fn key(&self) -> Digest {
        let mut key = [0; 32];
        key[..HASH_BYTES].copy_from_slice(&self.hash);
        key[HASH_BYTES] = self.kind.tag();
        key
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        self.kind.encode(writer);
        writer.fixed(&self.hash);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { kind: AssetKind::decode(reader)?, hash: reader.fixed()? })
    }
}

impl fmt::Display for AssetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut octets = self.hash.to_vec();
        octets.extend(self.check());
        write!(f, "{}-{}", self.kind, to_base32(&octets))
    }
}

impl FromStr for AssetId {
    type Err = AssetIdError;

    fn from_str(text: &str) -> Result<Self, AssetIdError> {
        let (kind, code) = text.split_once('-').ok_or(AssetIdError::Kind)?;
        let kind = kind.parse()?;
        let octets: [u8; HASH_BYTES + CHECK_BYTES] = from_base32(code).ok_or(AssetIdError::Code)?;
        let (hash, check) = octets.split_at(HASH_BYTES);
        let id = Self { kind, hash: hash.try_into().map_err(|_| AssetIdError::Code)? };
        if id.check() == check { Ok(id) } else { Err(AssetIdError::Check) }
    }
}

/// RFC 4648 section 6 without padding and in lower case, as DNS labels are written here
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn to_base32(octets: &[u8]) -> String {
    let mut text = String::with_capacity((octets.len() * 8).div_ceil(5));
    let (mut pending, mut bits) = (0u32, 0);
    for octet in octets {
        pending = pending << 8 | u32::from(*octet);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(BASE32[(pending >> bits & 31) as usize]));
        }
        pending &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(char::from(BASE32[(pending << (5 - bits) & 31) as usize]));
    }
    text
}

/// Exactly `N` octets, written the one way: bits beyond the last octet must be zero
fn from_base32<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != (N * 8).div_ceil(5) {
        return None;
    }
    let mut octets = [0; N];
    let (mut pending, mut bits, mut at) = (0u32, 0, 0);
    for character in text.bytes() {
        let value = match character {
            b'a'..=b'z' => character - b'a',
            b'2'..=b'7' => character - b'2' + 26,
            _ => return None,
        };
        pending = pending << 5 | u32::from(value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            *octets.get_mut(at)? = (pending >> bits & 0xff) as u8;
            at += 1;
        }
        pending &= (1 << bits) - 1;
    }
    (pending == 0 && at == N).then_some(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(kind: AssetKind) -> AssetId {
        AssetId::derive(&[1; 32], &[2; 32], kind, &AssetName::new("first").unwrap())
    }

    #[test]
    fn base32_is_that_of_rfc_4648() {
        for (octets, text) in [
            ("", ""),
            ("f", "my"),
            ("fo", "mzxq"),
            ("foo", "mzxw6"),
            ("foob", "mzxw6yq"),
            ("fooba", "mzxw6ytb"),
            ("foobar", "mzxw6ytboi"),
        ] {
            assert_eq!(to_base32(octets.as_bytes()), text);
        }
        assert_eq!(from_base32(&to_base32(b"foobar")), Some(*b"foobar"));
        for wrong in ["mz", "m1", "MY", "m", "mya", "m="] {
            assert_eq!(from_base32::<1>(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_identity_is_one_label_and_is_read_back() {
        for kind in AssetKind::ALL {
            let id = id(kind);
            let text = id.to_string();
            assert_eq!(text.parse(), Ok(id));
            assert_eq!(AssetId::from_uri(&id.uri()), Ok(id));
            // The label under which TrustChain's profile puts it into DNS
            assert!(NodeId::new(&format!("asset-{text}")).is_ok(), "{text}");
            let mut writer = Writer::new();
            id.encode(&mut writer);
            assert_eq!(AssetId::decode(&mut Reader::new(writer.as_slice())), Ok(id));
        }
    }

    #[test]
    fn a_changed_character_is_noticed_wherever_it_stands() {
        let text = id(AssetKind::Memory).to_string();
        for at in 0..text.len() {
            for other in b"ab7-1A." {
                let mut changed = text.clone().into_bytes();
                if changed[at] == *other {
                    continue;
                }
                changed[at] = *other;
                let changed = String::from_utf8(changed).unwrap();
                assert!(changed.parse::<AssetId>().is_err(), "{changed}");
            }
        }
        // Another kind before a good code
        let code = text.split_once('-').unwrap().1;
        assert_eq!(format!("cpu-{code}").parse::<AssetId>(), Err(AssetIdError::Check));
        assert_eq!(format!("disk-{code}").parse::<AssetId>(), Err(AssetIdError::Kind));
        assert_eq!(AssetId::from_uri(&text), Err(AssetIdError::Kind));
    }

    #[test]
    fn network_owner_kind_and_name_each_make_another_asset() {
        let name = AssetName::new("first").unwrap();
        let other = AssetName::new("second").unwrap();
        let ids = [
            AssetId::derive(&[1; 32], &[2; 32], AssetKind::Cpu, &name),
            AssetId::derive(&[9; 32], &[2; 32], AssetKind::Cpu, &name),
            AssetId::derive(&[1; 32], &[9; 32], AssetKind::Cpu, &name),
            AssetId::derive(&[1; 32], &[2; 32], AssetKind::Gpu, &name),
            AssetId::derive(&[1; 32], &[2; 32], AssetKind::Cpu, &other),
        ];
        for (index, id) in ids.iter().enumerate() {
            assert!(ids[index + 1..].iter().all(|other| other.hash != id.hash), "{index}");
        }
    }

    #[test]
    fn tags_of_kinds_are_those_on_the_wire() {
        for (index, kind) in AssetKind::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(kind.tag()), index + 1);
            assert_eq!(kind.name().parse(), Ok(kind));
            assert!(!kind.unit().is_empty());
        }
        for tag in [0, 7, 255] {
            let refused = Err(WireError::BadTag { what: "kind of asset", tag: tag.into() });
            assert_eq!(AssetKind::decode(&mut Reader::new(&[tag])), refused);
        }
    }
}
