//! Assets: registered, used, transferred and certified by agreement of the validators. Digests and octets are hexadecimal.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::text::timestamp;

/// Assets of one answer where nothing else is said
pub const ASSET_LIMIT_DEFAULT: usize = 100;
/// Assets of one answer at most
pub const ASSET_LIMIT_MAX: usize = 10_000;

/// What an asset is
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AssetKind {
    /// Processor time, in thousandths of a logical processor
    Cpu,
    /// Whole accelerators
    Gpu,
    /// Main memory, in bytes
    Memory,
    /// A file system, in bytes
    Storage,
    /// An interface, in bits per second
    Network,
    /// Instances of a container
    Container,
}

/// Registers an asset of this node
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AssetRegister {
    /// What it is
    pub kind: AssetKind,
    /// What its owner calls it
    pub name: String,
    /// How much there is; read from the host where it is not said and can be read
    #[serde(default)]
    pub capacity: Option<u64>,
    /// The directory whose file system is registered as storage
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// The interface that is registered as network
    #[serde(default)]
    pub interface: Option<String>,
    /// Every requester may take of it for itself
    #[serde(default)]
    pub shared: bool,
}

/// What the validators agreed on
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AssetDone {
    /// The digest of the operation
    pub operation: String,
    /// Of its block
    pub height: u64,
    /// In its block
    pub index: u32,
    /// Of its block
    #[serde(with = "timestamp")]
    pub time: SystemTime,
    /// What it did, one word for each part
    pub effects: Vec<String>,
    /// The asset it was about
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub asset: Option<String>,
    /// The allocation it was about
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub allocation: Option<String>,
    /// What shows it to anyone
    pub receipt: String,
}

/// Asks for registered assets
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AssetList {
    /// Of this kind
    #[serde(default)]
    pub kind: Option<AssetKind>,
    /// Of this owner: a requester
    #[serde(default)]
    pub owner: Option<String>,
    /// Those of this node's key alone
    #[serde(default)]
    pub own: bool,
    /// At most so many
    #[serde(default)]
    pub limit: Option<usize>,
}

/// Registered assets
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AssetListed {
    /// The assets
    pub assets: Vec<Asset>,
    /// How many match
    pub total: usize,
    /// The block after which it was so
    pub height: u64,
}

/// A registered asset
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Asset {
    /// Its name for everyone
    pub id: String,
    /// What it is
    pub kind: String,
    /// What its first owner called it
    pub name: String,
    /// The node it is at
    pub node: String,
    /// Whose it is: a requester
    pub owner: String,
    /// Whether it is this node's key's
    pub own: bool,
    /// How much there is
    pub capacity: u64,
    /// In what that is counted
    pub unit: String,
    /// How much is allocated, what is in use included
    pub allocated: u64,
    /// How much is in use
    pub in_use: u64,
    /// How much has failed
    pub failed: u64,
    /// `available`, `allocated`, `in use`, `released` or `failed`
    pub state: String,
    /// Every requester may take of it
    pub shared: bool,
    /// The certificate request that was agreed to last, if it still counts
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub certificate: Option<String>,
    /// The block that registered it
    pub registered_height: u64,
}

/// Asks for one asset
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AssetShow {
    /// Which
    pub asset: String,
}

/// One asset
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AssetShown {
    /// The asset
    pub asset: Asset,
    /// What was taken of it
    pub allocations: Vec<Allocation>,
    /// The block after which it was so
    pub height: u64,
}

/// Something that was taken of an asset
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Allocation {
    /// Its name
    pub id: String,
    /// Whose it is: a requester
    pub holder: String,
    /// How much
    pub quantity: u64,
    /// `allocated`, `in use`, `released` or `failed`
    pub state: String,
    /// The block since which it is so
    pub since_height: u64,
}

/// What is done with an asset
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
pub enum AssetAction {
    /// Takes of what is available
    Allocate {
        /// Of which asset
        asset: String,
        /// How much
        quantity: u64,
        /// For which requester; this node's where it is not said
        #[serde(default)]
        holder: Option<String>,
    },
    /// Begins to use what was allocated
    Use {
        /// What
        allocation: String,
    },
    /// Says that it does not work
    Fail {
        /// What
        allocation: String,
    },
    /// Makes what failed available again
    Restore {
        /// Of which asset
        asset: String,
    },
    /// Takes an asset out of the registry
    Retire {
        /// Which
        asset: String,
    },
    /// Ends an asset's certificate before its time
    EndCertificate {
        /// Of which asset
        asset: String,
    },
}

/// Uses an asset
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AssetOperate {
    /// How
    #[serde(flatten)]
    pub action: AssetAction,
}

/// Gives an asset away
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AssetTransfer {
    /// Which
    pub asset: String,
    /// To which requester
    pub to: String,
}

/// Gives back what was allocated
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AssetRelease {
    /// What
    pub allocation: String,
}

/// Has an asset certified
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AssetCertificate {
    /// Which
    pub asset: String,
    /// PKCS #10, in PEM
    pub request_pem: String,
    /// The validators' agreement to this request, if it is there already
    #[serde(default)]
    pub receipt: Option<String>,
}

/// An asset's certificate
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AssetCertified {
    /// Its serial number
    pub serial: String,
    /// Since when it counts
    #[serde(with = "timestamp")]
    pub not_before: SystemTime,
    /// Until when it counts
    #[serde(with = "timestamp")]
    pub not_after: SystemTime,
    /// Certificate and issuing authority, in PEM
    pub chain_pem: String,
    /// The root, in PEM
    pub root_pem: String,
    /// The validators' agreement
    pub receipt: String,
}

/// Asks for a receipt
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AssetReceipt {
    /// Of the block
    pub height: u64,
    /// In the block
    pub index: u32,
}

/// A receipt
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AssetReceiptShown {
    /// What `stoqctl asset receipt verify` reads
    pub receipt: String,
}
