//! Names that cross trust boundaries: one LDH label each, so that no name can inject a dot, a slash or
//! a wildcard into a certificate, a path or a log line.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is not a node or service name
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NameError {
    /// The text is empty
    Empty,
    /// The text is longer than 63 octets, the limit of a DNS label (RFC 1035 section 2.3.4)
    TooLong,
    /// Only `a-z`, `0-9` and `-` are allowed; the offending byte is carried
    Character(u8),
    /// A label neither starts nor ends with a hyphen
    Hyphen,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a name must have at least one character"),
            Self::TooLong => f.write_str("a name has at most 63 characters"),
            Self::Character(byte) => write!(
                f,
                "a name holds only a-z, 0-9 and '-', not '{}'",
                std::ascii::escape_default(*byte)
            ),
            Self::Hyphen => f.write_str("a name neither starts nor ends with '-'"),
        }
    }
}

impl std::error::Error for NameError {}

fn validate(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > 63 {
        return Err(NameError::TooLong);
    }
    if let Some(byte) =
        text.bytes().find(|b| !(b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-'))
    {
        return Err(NameError::Character(byte));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(NameError::Hyphen);
    }
    Ok(())
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses one LDH label of 1 to 63 lower-case characters
            pub fn new(text: &str) -> Result<Self, NameError> {
                validate(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The label as text
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

label! {
    /// The name of a node, as its certificate's SPIFFE URI proves it
    NodeId
}

label! {
    /// The name under which a node publishes a service
    ServiceName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_ldh_label_is_a_name() {
        assert!(NodeId::new("a").is_ok());
        assert!(NodeId::new(&"a".repeat(63)).is_ok());
        assert_eq!(NodeId::new(""), Err(NameError::Empty));
        assert_eq!(NodeId::new(&"a".repeat(64)), Err(NameError::TooLong));
        for (text, byte) in [("a.b", b'.'), ("A", b'A'), ("a/b", b'/'), ("*", b'*'), ("a b", b' ')]
        {
            assert_eq!(ServiceName::new(text), Err(NameError::Character(byte)), "{text}");
        }
        assert_eq!(ServiceName::new("-a"), Err(NameError::Hyphen));
        assert_eq!(ServiceName::new("a-"), Err(NameError::Hyphen));
    }
}
