//! Changes of the rules and of the validators. Validators vote for them; one that a quorum wants is made when the next
//! epoch begins, on every validator at once.

use std::fmt;

use stoq_interface::NodeId;

use super::asset::{decode_node, encode_node};
use crate::digest::{Digest, Domain, to_hex};
use crate::proof::Policy;
use crate::registry::Parameters;
use crate::wire::{Reader, WireError, Writer};

static CHANGE: Domain = Domain::new("hypermesh v1 change");

/// The Ed25519 key by which a validator is known
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ValidatorKey(pub [u8; 32]);

impl fmt::Debug for ValidatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ValidatorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

/// A validator
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Validator {
    /// The node it runs at
    pub name: NodeId,
    /// Its key
    pub key: ValidatorKey,
}

impl Validator {
    pub(crate) fn encode(&self, writer: &mut Writer) {
        encode_node(&self.name, writer);
        writer.fixed(&self.key.0);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { name: decode_node(reader)?, key: ValidatorKey(reader.fixed()?) })
    }
}

/// One change
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// A validator joins
    Admit(Validator),
    /// A validator leaves. A validator that wants to leave needs nobody else's vote.
    Remove(ValidatorKey),
    /// A validator goes on under another key. It needs nobody else's vote for its own.
    Replace {
        /// The key it has
        key: ValidatorKey,
        /// The key it shall have
        new_key: ValidatorKey,
    },
    /// The thresholds of a policy; a policy that is not there yet is added
    SetPolicy {
        /// Its number
        id: u32,
        /// Its thresholds
        policy: Policy,
    },
    /// The rules of the registry
    SetParameters(Parameters),
}

impl Change {
    /// Under which the votes for it are counted
    pub fn digest(&self) -> Digest {
        let mut writer = Writer::new();
        self.encode(&mut writer);
        CHANGE.hash(writer.as_slice())
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Admit(validator) => {
                writer.u8(1);
                validator.encode(writer);
            }
            Self::Remove(key) => {
                writer.u8(2).fixed(&key.0);
            }
            Self::Replace { key, new_key } => {
                writer.u8(3).fixed(&key.0).fixed(&new_key.0);
            }
            Self::SetPolicy { id, policy } => {
                writer.u8(4).u32(*id);
                policy.encode(writer);
            }
            Self::SetParameters(parameters) => {
                writer.u8(5);
                parameters.encode(writer);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match reader.u8()? {
            1 => Self::Admit(Validator::decode(reader)?),
            2 => Self::Remove(ValidatorKey(reader.fixed()?)),
            3 => Self::Replace {
                key: ValidatorKey(reader.fixed()?),
                new_key: ValidatorKey(reader.fixed()?),
            },
            4 => Self::SetPolicy { id: reader.u32()?, policy: Policy::decode(reader)? },
            5 => Self::SetParameters(Parameters::decode(reader)?),
            tag => return Err(WireError::BadTag { what: "change", tag: tag.into() }),
        })
    }
}
