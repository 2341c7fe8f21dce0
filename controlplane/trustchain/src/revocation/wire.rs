//! The deny-list as it travels: `proto/deny_list.proto` in Rust, field by field. A test holds both together.

/// `SignedDenyList`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SignedDenyList {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) document: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) signer_key_id: Vec<u8>,
}

/// `DenyList`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DenyList {
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
    #[prost(string, tag = "2")]
    pub(super) instance: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) signer_key_id: Vec<u8>,
    #[prost(uint64, tag = "4")]
    pub(super) epoch: u64,
    #[prost(enumeration = "Form", tag = "5")]
    pub(super) form: i32,
    #[prost(uint64, tag = "6")]
    pub(super) base_epoch: u64,
    #[prost(uint64, tag = "7")]
    pub(super) issued_at: u64,
    #[prost(uint64, tag = "8")]
    pub(super) next_update: u64,
    #[prost(message, repeated, tag = "9")]
    pub(super) entries: Vec<Entry>,
    #[prost(uint64, tag = "10")]
    pub(super) live: u64,
    #[prost(bytes = "vec", tag = "11")]
    pub(super) content_sha256: Vec<u8>,
}

/// Number of the field `entries`, counted before it is decoded
pub(super) const ENTRIES_TAG: u32 = 9;

/// `Form`
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Form {
    Unspecified = 0,
    Full = 1,
    Delta = 2,
}

/// `Entry`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Entry {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) serial: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) issuer_key_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) spki_sha256: Vec<u8>,
    /// Numbers as `super::Reason` knows them
    #[prost(int32, tag = "4")]
    pub(super) reason: i32,
    #[prost(uint64, tag = "5")]
    pub(super) revoked_at: u64,
    #[prost(uint64, tag = "6")]
    pub(super) ends_at: u64,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::Reason;

    type Fields = BTreeMap<(String, String), (String, u32)>;

    /// Message and field to type and number, as the schema says
    fn schema() -> (Fields, BTreeMap<String, i32>) {
        let text = include_str!("../../proto/deny_list.proto");
        let (mut fields, mut constants) = (Fields::new(), BTreeMap::new());
        let mut block = String::new();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            let words: Vec<_> = line.trim_end_matches(';').split_whitespace().collect();
            match words[..] {
                ["syntax", ..] => {}
                ["message" | "enum", name, "{"] => block = name.to_owned(),
                ["repeated", kind, name, "=", number] => {
                    let kind = format!("repeated {kind}");
                    let number = number.parse().unwrap();
                    fields.insert((block.clone(), name.to_owned()), (kind, number));
                }
                [name, "=", number] => {
                    constants.insert(name.to_owned(), number.parse().unwrap());
                }
                [kind, name, "=", number] => {
                    let number = number.parse().unwrap();
                    fields.insert((block.clone(), name.to_owned()), (kind.to_owned(), number));
                }
                _ => {}
            }
        }
        (fields, constants)
    }

    /// The same, as the structures above say
    fn structures() -> Fields {
        let text = include_str!("wire.rs");
        let mut fields = Fields::new();
        let (mut block, mut attribute) = (String::new(), String::new());
        for line in text.lines().map(str::trim).take_while(|line| *line != "#[cfg(test)]") {
            if let Some(name) = line.strip_prefix("pub(super) struct ") {
                block = name.trim_end_matches(" {").to_owned();
            } else if let Some(found) = line.strip_prefix("#[prost(") {
                attribute = found.trim_end_matches(")]").to_owned();
            } else if let Some((name, rust)) =
                line.strip_prefix("pub(super) ").and_then(|line| line.split_once(": "))
                && !attribute.is_empty()
            {
                let (kind, number) = attribute.rsplit_once(", tag = ").unwrap();
                let kind = match kind {
                    "bytes = \"vec\"" => "bytes".to_owned(),
                    "message, repeated" => {
                        let inner = rust.trim_start_matches("Vec<").trim_end_matches(">,");
                        format!("repeated {inner}")
                    }
                    "enumeration = \"Form\"" => "Form".to_owned(),
                    "int32" => "Reason".to_owned(),
                    other => other.to_owned(),
                };
                let number = number.trim_matches('"').parse().unwrap();
                fields.insert((block.clone(), name.to_owned()), (kind, number));
                attribute.clear();
            }
        }
        fields
    }

    #[test]
    fn schema_and_structures_agree_in_names_kinds_and_numbers() {
        let (schema, constants) = schema();
        assert_eq!(schema.len(), 20, "{schema:?}");
        assert_eq!(schema, structures());
        let entries = &schema[&("DenyList".to_owned(), "entries".to_owned())];
        assert_eq!(entries, &("repeated Entry".to_owned(), super::ENTRIES_TAG));
        let mut expected: BTreeMap<String, i32> = Reason::ALL
            .iter()
            .map(|reason| (format!("REASON_{}", reason.label().to_uppercase()), reason.code()))
            .collect();
        for (name, form) in [
            ("UNSPECIFIED", super::Form::Unspecified),
            ("FULL", super::Form::Full),
            ("DELTA", super::Form::Delta),
        ] {
            expected.insert(format!("FORM_{name}"), form as i32);
        }
        assert_eq!(constants, expected);
    }
}
