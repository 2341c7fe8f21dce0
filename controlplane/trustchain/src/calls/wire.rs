//! The calls as they travel: `proto/trustchain.proto` in Rust, field by field. A test holds both together.

use prost::Message;

/// `CertifyRequest`
#[derive(Clone, PartialEq, Message)]
pub struct CertifyRequest {
    /// PKCS #10 in DER
    #[prost(bytes = "vec", tag = "1")]
    pub csr: Vec<u8>,
    /// Name of the profile; empty is `node`
    #[prost(string, tag = "2")]
    pub profile: String,
    /// The registered name; empty: the asking node
    #[prost(string, tag = "3")]
    pub subject: String,
    /// Chosen by the caller
    #[prost(bytes = "vec", tag = "4")]
    pub idempotency_key: Vec<u8>,
    /// The asking node's certificate in force, in DER
    #[prost(bytes = "vec", tag = "5")]
    pub current_certificate: Vec<u8>,
    /// Begin at the activation age of `current_certificate`
    #[prost(bool, tag = "6")]
    pub successor: bool,
    /// Agreement of the validators
    #[prost(bytes = "vec", tag = "7")]
    pub consensus_proof: Vec<u8>,
    /// `[address]:port`; empty: unchanged
    #[prost(string, tag = "8")]
    pub stoq_address: String,
}

/// `CertifyReply`
#[derive(Clone, PartialEq, Message)]
pub struct CertifyReply {
    /// Leaf, issuing authority
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub chain: Vec<Vec<u8>>,
    /// Root
    #[prost(bytes = "vec", tag = "2")]
    pub root: Vec<u8>,
    /// Serial number
    #[prost(bytes = "vec", tag = "3")]
    pub serial: Vec<u8>,
    /// Seconds since 1970
    #[prost(uint64, tag = "4")]
    pub not_before: u64,
    /// Seconds since 1970
    #[prost(uint64, tag = "5")]
    pub not_after: u64,
    /// Place in the log
    #[prost(uint64, tag = "6")]
    pub leaf_index: u64,
    /// First second of the renewal window
    #[prost(uint64, tag = "7")]
    pub renew_from: u64,
    /// Last second of the renewal window
    #[prost(uint64, tag = "8")]
    pub renew_until: u64,
    /// The authority's clock
    #[prost(uint64, tag = "9")]
    pub authority_time_ms: u64,
    /// Answered before
    #[prost(bool, tag = "10")]
    pub repeated: bool,
}

/// `RenewalInformationRequest`
#[derive(Clone, PartialEq, Message)]
pub struct RenewalInformationRequest {
    /// Serial number
    #[prost(bytes = "vec", tag = "1")]
    pub serial: Vec<u8>,
}

/// `RenewalInformationReply`
#[derive(Clone, PartialEq, Message)]
pub struct RenewalInformationReply {
    /// First second of the renewal window
    #[prost(uint64, tag = "1")]
    pub renew_from: u64,
    /// Last second of the renewal window
    #[prost(uint64, tag = "2")]
    pub renew_until: u64,
    /// When to ask again
    #[prost(uint64, tag = "3")]
    pub ask_again_after_ms: u64,
}

/// `RevokeRequest`
#[derive(Clone, PartialEq, Message)]
pub struct RevokeRequest {
    /// Serial number, of a certificate
    #[prost(bytes = "vec", tag = "1")]
    pub serial: Vec<u8>,
    /// SHA-256 of the SubjectPublicKeyInfo, of a key
    #[prost(bytes = "vec", tag = "2")]
    pub spki_sha256: Vec<u8>,
    /// RFC 5280 section 5.3.1
    #[prost(uint32, tag = "3")]
    pub reason: u32,
    /// Name of a node, service or asset; operators only
    #[prost(string, tag = "4")]
    pub subject: String,
    /// The keys of what is revoked as well
    #[prost(bool, tag = "5")]
    pub with_key: bool,
}

/// `RevokeReply`
#[derive(Clone, PartialEq, Message)]
pub struct RevokeReply {
    /// Of the deny-list that has it
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Seconds since 1970
    #[prost(uint64, tag = "2")]
    pub revoked_at: u64,
    /// Revoked before
    #[prost(bool, tag = "3")]
    pub repeated: bool,
}

/// `DenyListRequest`
#[derive(Clone, PartialEq, Message)]
pub struct DenyListRequest {
    /// The epoch held
    #[prost(uint64, tag = "1")]
    pub after_epoch: u64,
    /// Where to go on
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// In which list
    #[prost(uint64, tag = "3")]
    pub epoch: u64,
}

/// `DenyListReply`
#[derive(Clone, PartialEq, Message)]
pub struct DenyListReply {
    /// Which list
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Octets from the offset on
    #[prost(bytes = "vec", tag = "2")]
    pub part: Vec<u8>,
    /// Octets of the whole
    #[prost(uint64, tag = "3")]
    pub total: u64,
}

/// `CheckpointRequest`
#[derive(Clone, PartialEq, Message)]
pub struct CheckpointRequest {}

/// `CheckpointReply`
#[derive(Clone, PartialEq, Message)]
pub struct CheckpointReply {
    /// A signed note
    #[prost(bytes = "vec", tag = "1")]
    pub note: Vec<u8>,
}

/// `TileRequest`
#[derive(Clone, PartialEq, Message)]
pub struct TileRequest {
    /// Below the log's prefix
    #[prost(string, tag = "1")]
    pub path: String,
    /// Where to go on
    #[prost(uint64, tag = "2")]
    pub offset: u64,
}

/// `TileReply`
#[derive(Clone, PartialEq, Message)]
pub struct TileReply {
    /// Octets from the offset on
    #[prost(bytes = "vec", tag = "1")]
    pub part: Vec<u8>,
    /// Octets of the whole
    #[prost(uint64, tag = "2")]
    pub total: u64,
}

/// `ProofRequest`
#[derive(Clone, PartialEq, Message)]
pub struct ProofRequest {
    /// Place in the log
    #[prost(uint64, tag = "1")]
    pub leaf_index: u64,
}

/// `ProofReply`
#[derive(Clone, PartialEq, Message)]
pub struct ProofReply {
    /// C2SP tlog-proof
    #[prost(bytes = "vec", tag = "1")]
    pub bundle: Vec<u8>,
}

/// `StatusRequest`
#[derive(Clone, PartialEq, Message)]
pub struct StatusRequest {}

/// `StatusReply`
#[derive(Clone, PartialEq, Message)]
pub struct StatusReply {
    /// Name of the authority
    #[prost(string, tag = "1")]
    pub instance: String,
    /// Why nothing is issued; empty where all is well
    #[prost(string, tag = "2")]
    pub not_issuing: String,
    /// SHA-256 of the root's certificate
    #[prost(bytes = "vec", tag = "3")]
    pub root_sha256: Vec<u8>,
    /// Key identifier
    #[prost(bytes = "vec", tag = "4")]
    pub issuing_key_id: Vec<u8>,
    /// Seconds since 1970
    #[prost(uint64, tag = "5")]
    pub issuing_not_after: u64,
    /// Certificates, ever
    #[prost(uint64, tag = "6")]
    pub issued: u64,
    /// Entries of the log
    #[prost(uint64, tag = "7")]
    pub log_entries: u64,
    /// Entries under the checkpoint
    #[prost(uint64, tag = "8")]
    pub log_published: u64,
    /// Of the deny-list; 0: none yet
    #[prost(uint64, tag = "9")]
    pub deny_list_epoch: u64,
    /// The authority's clock
    #[prost(uint64, tag = "10")]
    pub authority_time_ms: u64,
}

/// `IssuingKeysRequest`
#[derive(Clone, PartialEq, Message)]
pub struct IssuingKeysRequest {}

/// `IssuingKeysReply`
#[derive(Clone, PartialEq, Message)]
pub struct IssuingKeysReply {
    /// Certificates in DER
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub certificates: Vec<Vec<u8>>,
}

/// `OperateRequest`
#[derive(Clone, PartialEq, Message)]
pub struct OperateRequest {
    /// `OperatorOrder`, as it was signed
    #[prost(bytes = "vec", tag = "1")]
    pub order: Vec<u8>,
    /// The operator's certificate in DER
    #[prost(bytes = "vec", tag = "2")]
    pub certificate: Vec<u8>,
    /// By its key
    #[prost(bytes = "vec", tag = "3")]
    pub signature: Vec<u8>,
}

/// `OperatorOrder`
#[derive(Clone, PartialEq, Message)]
pub struct OperatorOrder {
    /// Name of the authority
    #[prost(string, tag = "1")]
    pub authority: String,
    /// The node over whose session it comes
    #[prost(string, tag = "2")]
    pub node: String,
    /// `trustchain/...`
    #[prost(string, tag = "3")]
    pub method: String,
    /// The method's request
    #[prost(bytes = "vec", tag = "4")]
    pub request: Vec<u8>,
    /// Seconds since 1970
    #[prost(uint64, tag = "5")]
    pub signed_at: u64,
    /// The order's own number, 16 octets
    #[prost(bytes = "vec", tag = "6")]
    pub nonce: Vec<u8>,
}

/// `RegisterRequest`
#[derive(Clone, PartialEq, Message)]
pub struct RegisterRequest {
    /// Name of the profile
    #[prost(string, tag = "1")]
    pub profile: String,
    /// Its name
    #[prost(string, tag = "2")]
    pub subject: String,
    /// The node that owns it; empty: operators alone
    #[prost(string, tag = "3")]
    pub owner: String,
    /// IPv6 addresses
    #[prost(string, repeated, tag = "4")]
    pub addresses: Vec<String>,
    /// The profile's alternative names as well
    #[prost(bool, tag = "5")]
    pub alternative_names: bool,
}

/// `RegisterReply`
#[derive(Clone, PartialEq, Message)]
pub struct RegisterReply {}

/// `UnregisterRequest`
#[derive(Clone, PartialEq, Message)]
pub struct UnregisterRequest {
    /// Name of the profile
    #[prost(string, tag = "1")]
    pub profile: String,
    /// Its name
    #[prost(string, tag = "2")]
    pub subject: String,
}

/// `UnregisterReply`
#[derive(Clone, PartialEq, Message)]
pub struct UnregisterReply {
    /// It was registered until now
    #[prost(bool, tag = "1")]
    pub was_registered: bool,
}

/// `AuthoritiesRequest`
#[derive(Clone, PartialEq, Message)]
pub struct AuthoritiesRequest {}

/// `AuthoritiesReply`
#[derive(Clone, PartialEq, Message)]
pub struct AuthoritiesReply {
    /// `SignedAuthority` each
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub statements: Vec<Vec<u8>>,
}

/// `SignedAuthority`
#[derive(Clone, PartialEq, Message)]
pub struct SignedAuthority {
    /// `AuthorityStatement`, as it was signed
    #[prost(bytes = "vec", tag = "1")]
    pub statement: Vec<u8>,
    /// By the issuing key
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
}

/// `AuthorityStatement`
#[derive(Clone, PartialEq, Message)]
pub struct AuthorityStatement {
    /// Name of the authority
    #[prost(string, tag = "1")]
    pub instance: String,
    /// Its certificate in DER
    #[prost(bytes = "vec", tag = "2")]
    pub issuing_certificate: Vec<u8>,
    /// SubjectPublicKeyInfo of its log in DER
    #[prost(bytes = "vec", tag = "3")]
    pub log_key: Vec<u8>,
    /// Origin of its log
    #[prost(string, tag = "4")]
    pub log_origin: String,
    /// `[address]:port`; empty: unknown
    #[prost(string, tag = "5")]
    pub stoq_address: String,
    /// Seconds since 1970
    #[prost(uint64, tag = "6")]
    pub stated_at: u64,
    /// The certificates of its other issuing keys in DER
    #[prost(bytes = "vec", repeated, tag = "7")]
    pub other_certificates: Vec<Vec<u8>>,
}

/// `Refusal`
#[derive(Clone, PartialEq, Message)]
pub struct Refusal {
    /// A stable word for programs
    #[prost(string, tag = "1")]
    pub code: String,
    /// Cause and remedy
    #[prost(string, tag = "2")]
    pub message: String,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    /// Message and field to type and number
    type Fields = BTreeMap<(String, String), (String, u32)>;

    fn schema() -> Fields {
        let text = include_str!("../../proto/trustchain.proto");
        let (mut fields, mut block) = (Fields::new(), String::new());
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            let words: Vec<_> = line.trim_end_matches(';').split_whitespace().collect();
            let (kind, name, number) = match words[..] {
                ["message", name, "{"] => {
                    block = name.to_owned();
                    continue;
                }
                ["repeated", kind, name, "=", number] => (format!("repeated {kind}"), name, number),
                ["syntax", ..] => continue,
                [kind, name, "=", number] => (kind.to_owned(), name, number),
                _ => continue,
            };
            fields.insert((block.clone(), name.to_owned()), (kind, number.parse().unwrap()));
        }
        fields
    }

    fn structures() -> Fields {
        let text = include_str!("wire.rs");
        let mut fields = Fields::new();
        let (mut block, mut attribute) = (String::new(), String::new());
        for line in text.lines().map(str::trim).take_while(|line| *line != "#[cfg(test)]") {
            if let Some(name) = line.strip_prefix("pub struct ") {
                block = name.trim_end_matches(" {").to_owned();
            } else if let Some(found) = line.strip_prefix("#[prost(") {
                attribute = found.trim_end_matches(")]").to_owned();
            } else if let Some((name, _)) =
                line.strip_prefix("pub ").and_then(|line| line.split_once(": "))
            {
                let (kind, number) = attribute.rsplit_once(", tag = ").unwrap();
                let kind = match kind {
                    "bytes = \"vec\"" => "bytes".to_owned(),
                    "bytes = \"vec\", repeated" => "repeated bytes".to_owned(),
                    "string, repeated" => "repeated string".to_owned(),
                    other => other.to_owned(),
                };
                let number = number.trim_matches('"').parse().unwrap();
                fields.insert((block.clone(), name.to_owned()), (kind, number));
            }
        }
        fields
    }

    #[test]
    fn schema_and_structures_agree_in_names_kinds_and_numbers() {
        let schema = schema();
        assert_eq!(schema.len(), 83, "{schema:?}");
        assert_eq!(schema, structures());
    }
}
