//! Certificate revocation lists: which there are, and one of them. Revoking is in
//! `certificate`.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::text::timestamp;

/// One CRL
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Crl {
    /// Identifier of the issuing key that signs it, hexadecimal
    pub issuer_key_id: String,
    /// Which part of the serial numbers it is for
    pub shard: u8,
    /// Its number: a later one is higher
    pub number: u64,
    /// When it was made
    #[serde(with = "timestamp")]
    pub this_update: SystemTime,
    /// When a newer one will be there at the latest
    #[serde(with = "timestamp")]
    pub next_update: SystemTime,
    /// Its size
    pub bytes: usize,
}

/// Asks for [`CrlListed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CrlList {}

/// The CRLs in force
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CrlListed {
    /// By issuing key and shard
    pub crls: Vec<Crl>,
    /// Number of the deny-list, which says the same to nodes at once
    pub deny_list_epoch: u64,
    /// Entries of the deny-list
    pub deny_list_entries: usize,
    /// Why a list cannot be issued; nothing where all is well
    pub problem: Option<String>,
}

/// Asks for [`CrlShown`]
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CrlShow {
    /// Which
    pub shard: u8,
    /// Of which issuing key, by its identifier; without it of the one in force
    #[serde(default)]
    pub issuer_key_id: Option<String>,
}

/// One CRL
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CrlShown {
    /// What it is
    pub crl: Crl,
    /// The CRL itself, in PEM
    pub pem: String,
}
