//! The issuing keys of the authority and the steps of their lives: prepared, active, tainted, revoked.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::text::{timestamp, timestamp_option};

/// An issuing key
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaKey {
    /// Its name where keys are kept
    pub name: String,
    /// `prepared`, `active`, `tainted` or `revoked`
    pub state: String,
    /// Since when
    #[serde(with = "timestamp")]
    pub since: SystemTime,
    /// Why it is tainted: `replaced` or `compromised`
    pub taint: Option<String>,
    /// What nodes pin: `spki-sha256:` and 64 hexadecimal digits
    pub pin: String,
    /// Its identifier, as its leaves carry it, hexadecimal
    pub key_id: String,
    /// End of its certificate
    #[serde(with = "timestamp")]
    pub not_after: SystemTime,
    /// End of the last certificate it has signed; nothing where it has signed none
    #[serde(with = "timestamp_option")]
    pub last_leaf_ends: Option<SystemTime>,
    /// Whether it signs the deny-list: the active key, or the one tainted last where none is active
    pub signs_lists: bool,
}

/// Asks for [`CaKeysListed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaKeyList {}

/// The issuing keys
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaKeysListed {
    /// Those taken in first before the others
    pub keys: Vec<CaKey>,
}

/// Makes a key where keys are kept, unless it is there, and asks for its request to the root
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaKeyRequest {
    /// `issuing-` and a suffix
    pub name: String,
}

/// The request to take to the root
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaKeyRequested {
    /// The key
    pub name: String,
    /// What nodes pin: `spki-sha256:` and 64 hexadecimal digits
    pub pin: String,
    /// PKCS #10, PEM
    pub request_pem: String,
}

/// Takes a key in that the root has certified, so that every node learns of it before it issues
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaKeyPrepare {
    /// The key
    pub name: String,
    /// Its certificate, PEM; without it the root on this node certifies the key
    #[serde(default)]
    pub certificate_pem: Option<String>,
}

/// Lets a prepared key issue in the place of the active one
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaKeyActivate {
    /// The key
    pub name: String,
    /// Without waiting until every node can have learned of it
    #[serde(default)]
    pub at_once: bool,
}

/// Stops a key from issuing; its certificates stay good
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaKeyTaint {
    /// The key
    pub name: String,
    /// Somebody else may have it: its holders are to renew now
    #[serde(default)]
    pub compromised: bool,
}

/// A key after a step
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaKeyChanged {
    /// As it is now
    pub key: CaKey,
}

/// Ends a key: nothing it has signed counts any more
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaKeyRevoke {
    /// The key
    pub name: String,
    /// Also where certificates of it are in force, whose holders have to be certified again
    #[serde(default)]
    pub cut_off: bool,
}

/// A key that was revoked
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaKeyRevoked {
    /// As it is now
    pub key: CaKey,
    /// Number of the deny-list that names it; nothing while that cannot be signed, and where its certificate has ended
    pub deny_list_epoch: Option<u64>,
}
