//! Single certificates: issuing one for a request in hand, the inventory, and revocation.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::text::{plain, timestamp, timestamp_option};

/// Certificates a list has where nothing else is said
pub const CERTIFICATE_LIMIT_DEFAULT: usize = 100;
/// Certificates one list may have
pub const CERTIFICATE_LIMIT_MAX: usize = 1_000;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal {
        $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every one, with its word
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$variant, $word)),*];
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)*
                })
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().find(|(_, word)| *word == text).map(|(one, _)| *one).ok_or_else(
                    || {
                        let words: Vec<_> = Self::ALL.iter().map(|(_, word)| *word).collect();
                        format!("'{text}' is no {}: it is one of {}", $what, words.join(", "))
                    },
                )
            }
        }
    };
}

words! {
    /// How a certificate stands
    CertificateState, "state of a certificate" {
        /// Neither revoked nor expired; one that is not valid yet counts here
        Valid = "valid",
        /// Revoked, expired or not
        Revoked = "revoked",
        /// Expired and never revoked
        Expired = "expired",
    }
}

words! {
    /// Why a certificate is revoked (RFC 5280 section 5.3.1); there is no hold: a revocation is for good
    RevocationReason, "reason" {
        /// No reason given
        Unspecified = "unspecified",
        /// Its key is known to others
        KeyCompromise = "key-compromise",
        /// The authority's key is known to others
        CaCompromise = "ca-compromise",
        /// What it names has changed
        AffiliationChanged = "affiliation-changed",
        /// Another one has replaced it
        Superseded = "superseded",
        /// What it names is gone
        CessationOfOperation = "cessation-of-operation",
        /// What it stood for was taken back
        PrivilegeWithdrawn = "privilege-withdrawn",
    }
}

impl RevocationReason {
    /// The CRLReason
    pub const fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::CaCompromise => 2,
            Self::AffiliationChanged => 3,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
            Self::PrivilegeWithdrawn => 9,
        }
    }
}

/// A certificate of the inventory
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InventoryCertificate {
    /// Serial number, lower-case hexadecimal
    pub serial: String,
    /// Whom it names, without zone
    pub subject: String,
    /// Its DNS names
    pub dns_names: Vec<String>,
    /// Name of the profile
    pub profile: String,
    /// SHA-256 of its public key (SubjectPublicKeyInfo), hexadecimal
    pub spki_sha256: String,
    /// Key identifier of the issuing key, hexadecimal
    pub issuer_key_id: String,
    /// Start of validity
    #[serde(with = "timestamp")]
    pub not_before: SystemTime,
    /// End of validity
    #[serde(with = "timestamp")]
    pub not_after: SystemTime,
    /// Index of its entry in the transparency log
    pub log_index: u64,
    /// How it stands
    #[serde(with = "plain")]
    pub state: CertificateState,
    /// When it was revoked
    #[serde(with = "timestamp_option")]
    pub revoked_at: Option<SystemTime>,
    /// Why: the word of a [`RevocationReason`]
    pub revoked_for: Option<String>,
}

/// Issues a certificate for a request in hand
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateIssue {
    /// Name of the profile
    pub profile: String,
    /// What is registered under that profile
    pub subject: String,
    /// PKCS #10 in PEM; its key alone counts
    pub request_pem: String,
}

/// A certificate that was issued and logged
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CertificateIssued {
    /// Serial number, lower-case hexadecimal
    pub serial: String,
    /// Start of validity
    #[serde(with = "timestamp")]
    pub not_before: SystemTime,
    /// End of validity
    #[serde(with = "timestamp")]
    pub not_after: SystemTime,
    /// Index of its entry in the transparency log
    pub log_index: u64,
    /// The same request had been answered before with this certificate
    pub repeated: bool,
    /// The certificate and its issuing authority, in PEM
    pub chain_pem: String,
    /// The root, in PEM
    pub root_pem: String,
}

/// Asks for [`CertificateListed`]; every condition that is set must hold
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateList {
    /// Whom it names, or one of its DNS names
    #[serde(default)]
    pub name: Option<String>,
    /// Name of the profile
    #[serde(default)]
    pub profile: Option<String>,
    /// SHA-256 of its public key, hexadecimal
    #[serde(default)]
    pub spki_sha256: Option<String>,
    /// How it stands
    #[serde(default)]
    pub state: Option<CertificateState>,
    /// It ends within this time, and has not ended yet
    #[serde(default)]
    pub expiring_within_seconds: Option<u64>,
    /// At most this many; [`CERTIFICATE_LIMIT_MAX`] is the most
    #[serde(default)]
    pub limit: Option<usize>,
    /// Where the last list ended: its `next`
    #[serde(default)]
    pub after: Option<String>,
}

/// Certificates, those that end first before the others
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CertificateListed {
    /// As asked for
    pub certificates: Vec<InventoryCertificate>,
    /// Where to go on; nothing at the end
    pub next: Option<String>,
}

/// Asks for one certificate
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateShow {
    /// Serial number, hexadecimal
    pub serial: String,
}

/// One certificate
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CertificateShown {
    /// As the inventory has it
    pub certificate: InventoryCertificate,
    /// When the authority would like it renewed: begin of the window
    #[serde(with = "timestamp_option")]
    pub renew_from: Option<SystemTime>,
    /// End of that window
    #[serde(with = "timestamp_option")]
    pub renew_until: Option<SystemTime>,
}

/// What is to be revoked
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum RevokeOf {
    /// The certificate with this serial number, hexadecimal
    Serial(String),
    /// Every certificate of a node, service or asset that has not ended
    Name(String),
    /// A key, and every certificate for it: SHA-256 of its SubjectPublicKeyInfo, hexadecimal
    Key(String),
}

/// Revokes certificates, for good
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateRevoke {
    /// Which
    pub of: RevokeOf,
    /// Why
    pub reason: RevocationReason,
    /// Their keys as well: nothing that is certified for them later is accepted either
    #[serde(default)]
    pub with_key: bool,
}

/// A certificate or key that is revoked
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RevokedCertificate {
    /// Serial number, lower-case hexadecimal; nothing for a key alone
    pub serial: Option<String>,
    /// SHA-256 of the key where that is revoked, hexadecimal
    pub spki_sha256: Option<String>,
    /// Whom the certificate names
    pub subject: Option<String>,
    /// End of its validity
    #[serde(with = "timestamp")]
    pub ends_at: SystemTime,
    /// It had been revoked before; that time and reason stand
    pub repeated: bool,
}

/// What is revoked now. All of it is durable.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CertificateRevoked {
    /// Which
    pub revoked: Vec<RevokedCertificate>,
    /// Since when
    #[serde(with = "timestamp")]
    pub revoked_at: SystemTime,
    /// Why
    pub reason: RevocationReason,
    /// The deny-list that has it; nothing while none can be signed: `stoqctl doctor` says why
    pub deny_list_epoch: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_json() {
        for (state, word) in CertificateState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), *word);
            assert_eq!(word.parse(), Ok(*state));
            assert_eq!(state.to_string(), *word);
        }
        for (reason, word) in RevocationReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), *word);
            assert_eq!(word.parse(), Ok(*reason));
        }
        let error = "hold".parse::<RevocationReason>().unwrap_err();
        assert!(error.contains("key-compromise"), "{error}");
    }
}
