//! The calls as they travel: `proto/hypermesh.proto` in Rust, field by field. A test holds both together.

use prost::Message;

/// `SubmitRequest`
#[derive(Clone, PartialEq, Message)]
pub struct SubmitRequest {
    /// At most 1,024, each as the requester made it
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub operations: Vec<Vec<u8>>,
}

/// `SubmitReply`
#[derive(Clone, PartialEq, Message)]
pub struct SubmitReply {
    /// One for each operation, in their order
    #[prost(message, repeated, tag = "1")]
    pub outcomes: Vec<Outcome>,
}

/// `Outcome`
#[derive(Clone, PartialEq, Message)]
pub struct Outcome {
    /// Whether it is final and durable
    #[prost(bool, tag = "1")]
    pub agreed: bool,
    /// The height of its block
    #[prost(uint64, tag = "2")]
    pub height: u64,
    /// Its place in the block
    #[prost(uint64, tag = "3")]
    pub index: u64,
    /// The time of the block
    #[prost(uint64, tag = "4")]
    pub time_ms: u64,
    /// The digest of the block's header
    #[prost(bytes = "vec", tag = "5")]
    pub block: Vec<u8>,
    /// Why it is not final
    #[prost(string, tag = "6")]
    pub refusal: String,
    /// The same as a stable word for programs; `BUSY` where too much waits: nothing was taken then
    #[prost(string, tag = "7")]
    pub code: String,
    /// When to hand it in again, from now, where too much waits; 0 otherwise
    #[prost(uint64, tag = "8")]
    pub retry_after_ms: u64,
}

/// `ReceiptRequest`
#[derive(Clone, PartialEq, Message)]
pub struct ReceiptRequest {
    /// Of the block
    #[prost(uint64, tag = "1")]
    pub height: u64,
    /// In the block
    #[prost(uint64, tag = "2")]
    pub index: u64,
}

/// `ReceiptReply`
#[derive(Clone, PartialEq, Message)]
pub struct ReceiptReply {
    /// As `stoqctl asset receipt verify` reads it
    #[prost(bytes = "vec", tag = "1")]
    pub receipt: Vec<u8>,
}

/// `GroundRequest`
#[derive(Clone, PartialEq, Message)]
pub struct GroundRequest {
    /// Digest of the requester's key
    #[prost(bytes = "vec", tag = "1")]
    pub requester: Vec<u8>,
}

/// `GroundReply`
#[derive(Clone, PartialEq, Message)]
pub struct GroundReply {
    /// JSON, as `stoqctl proof make --ground` reads it
    #[prost(bytes = "vec", tag = "1")]
    pub ground: Vec<u8>,
}

/// `StatusRequest`
#[derive(Clone, PartialEq, Message)]
pub struct StatusRequest {}

/// `StatusReply`
#[derive(Clone, PartialEq, Message)]
pub struct StatusReply {
    /// Digest of the genesis
    #[prost(bytes = "vec", tag = "1")]
    pub network: Vec<u8>,
    /// Of the next block
    #[prost(uint64, tag = "2")]
    pub epoch: u64,
    /// Of the last final block
    #[prost(uint64, tag = "3")]
    pub height: u64,
    /// Validators of the epoch
    #[prost(uint64, tag = "4")]
    pub validators: u64,
    /// How many must agree
    #[prost(uint64, tag = "5")]
    pub quorum: u64,
    /// Whether this node votes
    #[prost(bool, tag = "6")]
    pub votes: bool,
    /// Operations that wait for a block
    #[prost(uint64, tag = "7")]
    pub backlog: u64,
    /// Why nothing is agreed on any more; empty where all is well
    #[prost(string, tag = "8")]
    pub halted: String,
}

/// `FollowRequest`
#[derive(Clone, PartialEq, Message)]
pub struct FollowRequest {
    /// The last height that the asker knows
    #[prost(uint64, tag = "1")]
    pub after_height: u64,
    /// Of the block above it, the first operation that the asker does not know
    #[prost(uint64, tag = "2")]
    pub from_index: u64,
}

/// `FollowReply`
#[derive(Clone, PartialEq, Message)]
pub struct FollowReply {
    /// The last height that this covers
    #[prost(uint64, tag = "1")]
    pub height: u64,
    /// Final operations of the blocks up to it, in their order, and those of the block above it that come before
    /// `next_index`
    #[prost(message, repeated, tag = "2")]
    pub operations: Vec<FinalOperation>,
    /// Where the block above goes on, if it does: to be asked with as `from_index`
    #[prost(uint64, tag = "3")]
    pub next_index: u64,
}

/// `FinalOperation`
#[derive(Clone, PartialEq, Message)]
pub struct FinalOperation {
    /// The height of its block
    #[prost(uint64, tag = "1")]
    pub height: u64,
    /// Its place in the block
    #[prost(uint64, tag = "2")]
    pub index: u64,
    /// Its digest
    #[prost(bytes = "vec", tag = "3")]
    pub operation: Vec<u8>,
    /// Digest of the requester's key
    #[prost(bytes = "vec", tag = "4")]
    pub requester: Vec<u8>,
    /// What it did, one word for each part
    #[prost(string, repeated, tag = "5")]
    pub effects: Vec<String>,
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
        let text = include_str!("../../proto/hypermesh.proto");
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
            } else if let Some((name, kind_in_rust)) =
                line.strip_prefix("pub ").and_then(|line| line.split_once(": "))
            {
                let (kind, number) = attribute.rsplit_once(", tag = ").unwrap();
                let kind = match kind {
                    "bytes = \"vec\"" => "bytes".to_owned(),
                    "bytes = \"vec\", repeated" => "repeated bytes".to_owned(),
                    "string, repeated" => "repeated string".to_owned(),
                    "message, repeated" => {
                        let item = kind_in_rust.trim_start_matches("Vec<").trim_end_matches(">,");
                        format!("repeated {item}")
                    }
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
        assert_eq!(schema.len(), FIELDS, "{schema:?}");
        assert_eq!(schema, structures());
    }

    const FIELDS: usize = 35;
}
