//! The certificate authority as its operator sees it: how it is, its profiles, what it may name, and moving
//! every renewal. Single certificates are in `certificate`.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use stoq_interface::NodeId;

use crate::text::{plain, plain_option, timestamp, timestamp_option};

/// Asks for [`CaShown`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaShow {}

/// How the authority is
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaShown {
    /// Name of this instance
    #[serde(with = "plain")]
    pub instance: NodeId,
    /// `production` or `development`
    pub mode: String,
    /// Why nothing is issued; nothing where all is well
    pub not_issuing: Option<String>,
    /// SHA-256 of the root's certificate, `sha256:` and 64 digits
    pub root_fingerprint: String,
    /// Key identifier of the issuing key, hexadecimal
    pub issuing_key_id: String,
    /// End of the issuing certificate
    #[serde(with = "timestamp")]
    pub issuing_not_after: SystemTime,
    /// Certificates issued, ever
    pub issued: u64,
    /// Certificates issued since the start
    pub issued_since_start: u64,
    /// Requests answered with the certificate they got before, since the start
    pub repeated_since_start: u64,
    /// Refusals since the start, by code
    pub refused_since_start: BTreeMap<String, u64>,
    /// Requests under way
    pub in_flight: usize,
    /// Requests that may be under way
    pub in_flight_limit: usize,
    /// Revoked certificates and keys that are remembered
    pub revoked: usize,
    /// Enrolled nodes
    pub nodes: usize,
    /// Last durable entry of the journal
    pub journal_sequence: u64,
    /// Last journal entry that the inventory reflects; nothing where there is no inventory
    pub records_sequence: Option<u64>,
    /// Entries that are in the transparency log
    pub log_entries: u64,
    /// Entries under its published checkpoint
    pub log_published: u64,
    /// When that checkpoint was signed
    #[serde(with = "timestamp_option")]
    pub log_published_at: Option<SystemTime>,
    /// Why nothing is published; nothing where all is well
    pub log_problem: Option<String>,
}

/// Asks for [`CaProfilesListed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaProfiles {}

/// A kind of certificate
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CertificateProfile {
    /// Its name, as commands take it
    pub name: String,
    /// From the first to the last second of validity
    pub lifetime_seconds: u64,
    /// Extended key usages
    pub usages: Vec<String>,
    /// DNS names with `{subject}` where the name of what is certified goes
    pub names: Vec<String>,
    /// Whether its certificates carry addresses
    pub addresses: bool,
}

/// The profiles in force
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaProfilesListed {
    /// By name
    pub profiles: Vec<CertificateProfile>,
}

/// Something that certificates may name
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaRegistration {
    /// Name of the profile its certificates have
    pub profile: String,
    /// Its name, one label
    pub subject: String,
    /// The node whose certificate asks for its certificates; nothing: the operator alone
    #[serde(default, with = "plain_option")]
    pub owner: Option<NodeId>,
    /// Addresses its certificates carry
    #[serde(default)]
    pub addresses: Vec<Ipv6Addr>,
    /// Whether its certificates carry the profile's alternative names as well
    #[serde(default)]
    pub alternative_names: bool,
}

/// Registers something, or changes its registration
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaRegister {
    /// What is registered
    pub registration: CaRegistration,
}

/// What is registered now
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaRegistered {
    /// As it is in the journal
    pub registration: CaRegistration,
}

/// Takes a registration or an enrolled node back
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaUnregister {
    /// Name of the profile
    pub profile: String,
    /// Its name
    pub subject: String,
}

/// What was taken back
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaUnregistered {
    /// Name of the profile
    pub profile: String,
    /// Its name
    pub subject: String,
}

/// Asks for [`CaRegistrationsListed`]
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaRegistrations {
    /// Of one profile only
    #[serde(default)]
    pub profile: Option<String>,
}

/// Everything that certificates may name
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaRegistrationsListed {
    /// By profile and name
    pub registrations: Vec<CaRegistration>,
}

/// Moves the renewal of everything issued so far to a window that begins now
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CaRenewAll {
    /// Length of the window
    pub within_seconds: u64,
}

/// The window
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CaRenewingAll {
    /// Its begin
    #[serde(with = "timestamp")]
    pub start: SystemTime,
    /// Its end
    #[serde(with = "timestamp")]
    pub end: SystemTime,
}
