//! What can be asked of the registry, and how it is written. What each does, and to whom it is refused, is in
//! `registry::execute`.

use stoq_interface::NodeId;

use super::asset::{AssetId, AssetKind, AssetName, decode_node, encode_node};
use super::change::Change;
use super::{AllocationId, RequesterId};
use crate::digest::{Digest, Domain};
use crate::wire::{Reader, WireError, Writer};

/// Parts of one batch
pub const BATCH_LIMIT: usize = 1_024;
/// Octets of one piece of evidence
pub const EVIDENCE_LIMIT_BYTES: usize = 64 << 10;

static CSR: Domain = Domain::new("hypermesh v1 certificate request");

/// What stands for a certification request (RFC 2986, DER) in [`CertificateRequest::csr_statement`]
pub fn csr_statement(csr_der: &[u8]) -> Digest {
    CSR.hash(csr_der)
}

/// What is asked
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum OperationBody {
    /// Makes the requester the owner of a new asset
    RegisterAsset(Registration),
    /// Uses an asset
    Operate(AssetOperation),
    /// Gives an asset to another requester; its allocations stay, its certificate ends
    Transfer {
        /// What
        asset: AssetId,
        /// To whom
        to: RequesterId,
    },
    /// Asks for a certificate
    RequestCertificate(CertificateRequest),
    /// Ends an asset's certificate before its time, so that another may be asked for
    EndCertificate {
        /// Of which asset
        asset: AssetId,
    },
    /// Asks for a ticket: until the epoch ends, it stands for the full proof of this operation
    RequestTicket,
    /// Changes who has how much stake
    Stake(StakeOperation),
    /// A validator's vote for a change of the rules or of the validators
    Vote(Change),
    /// Shows that a validator broke the protocol
    Evidence(EvidenceOctets),
    /// Several at once, all or none. No batch is within a batch.
    Batch(Vec<OperationBody>),
}

/// What is registered
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Registration {
    /// What it is
    pub kind: AssetKind,
    /// What its owner calls it
    pub name: AssetName,
    /// The node it is at
    pub node: NodeId,
    /// How much there is, in units of the kind; at least 1
    pub capacity: u64,
    /// Who may take of it
    pub sharing: Sharing,
}

/// Who may take of an asset
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sharing {
    /// Its owner alone, for whomever it wants
    Owner,
    /// Every requester for itself, and its owner for whomever it wants
    Anyone,
}

/// Use of an asset: `Available -> Allocated -> InUse -> Released | Failed`
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AssetOperation {
    /// Takes of what is available
    Allocate {
        /// Of which asset
        asset: AssetId,
        /// How much, in units of its kind; at least 1
        quantity: u64,
        /// For whom
        holder: RequesterId,
    },
    /// The holder begins to use what was allocated
    Use {
        /// What
        allocation: AllocationId,
    },
    /// The holder or the owner gives it back: it is available again
    Release {
        /// What
        allocation: AllocationId,
    },
    /// The holder or the owner says that it does not work: it is not available until restored
    Fail {
        /// What
        allocation: AllocationId,
    },
    /// The owner makes what failed available again
    Restore {
        /// Of which asset
        asset: AssetId,
    },
    /// The owner takes an asset of which nothing is allocated out of the registry
    Retire {
        /// Which
        asset: AssetId,
    },
}

/// A certificate that is asked for
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateRequest {
    /// The asset it shall name; none for a certificate of the requester's node
    pub asset: Option<AssetId>,
    /// What shall be certified: the digest by which TrustChain binds the request to the key
    pub csr_statement: Digest,
}

/// Who has how much stake. What is changed counts from the next epoch on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StakeOperation {
    /// Gives of the requester's stake to the holder of a key
    Give {
        /// The Ed25519 key
        to_key: [u8; 32],
        /// How much
        amount: u64,
    },
}

/// Evidence as octets; what they say is for the judge of evidence alone
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EvidenceOctets(Vec<u8>);

impl EvidenceOctets {
    /// At most [`EVIDENCE_LIMIT_BYTES`]
    pub fn new(octets: Vec<u8>) -> Result<Self, WireError> {
        if octets.len() > EVIDENCE_LIMIT_BYTES {
            return Err(WireError::TooLong { limit: EVIDENCE_LIMIT_BYTES });
        }
        Ok(Self(octets))
    }

    /// The octets
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

mod tag {
    pub(super) const REGISTER_ASSET: u8 = 1;
    pub(super) const OPERATE: u8 = 2;
    pub(super) const TRANSFER: u8 = 3;
    pub(super) const REQUEST_CERTIFICATE: u8 = 4;
    pub(super) const END_CERTIFICATE: u8 = 5;
    pub(super) const REQUEST_TICKET: u8 = 6;
    pub(super) const STAKE: u8 = 7;
    pub(super) const VOTE: u8 = 8;
    pub(super) const EVIDENCE: u8 = 9;
    pub(super) const BATCH: u8 = 10;
}

impl OperationBody {
    /// The kind a statement names, also the tag on the wire
    pub const fn kind(&self) -> u8 {
        match self {
            Self::RegisterAsset(_) => tag::REGISTER_ASSET,
            Self::Operate(_) => tag::OPERATE,
            Self::Transfer { .. } => tag::TRANSFER,
            Self::RequestCertificate(_) => tag::REQUEST_CERTIFICATE,
            Self::EndCertificate { .. } => tag::END_CERTIFICATE,
            Self::RequestTicket => tag::REQUEST_TICKET,
            Self::Stake(_) => tag::STAKE,
            Self::Vote(_) => tag::VOTE,
            Self::Evidence(_) => tag::EVIDENCE,
            Self::Batch(_) => tag::BATCH,
        }
    }

    /// The request for a certificate that this makes, alone or in a batch. In a receipt of it, TrustChain finds whom
    /// it may certify, and that every validator found the requester to own the asset.
    pub fn certificate_request(&self, csr_statement: &Digest) -> Option<&CertificateRequest> {
        match self {
            Self::RequestCertificate(request) if request.csr_statement == *csr_statement => {
                Some(request)
            }
            Self::Batch(parts) => {
                parts.iter().find_map(|part| part.certificate_request(csr_statement))
            }
            _ => None,
        }
    }

    /// The kind as a word, for logs and counters
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RegisterAsset(_) => "register-asset",
            Self::Operate(operation) => operation.name(),
            Self::Transfer { .. } => "transfer",
            Self::RequestCertificate(_) => "request-certificate",
            Self::EndCertificate { .. } => "end-certificate",
            Self::RequestTicket => "request-ticket",
            Self::Stake(_) => "stake",
            Self::Vote(_) => "vote",
            Self::Evidence(_) => "evidence",
            Self::Batch(_) => "batch",
        }
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u8(self.kind());
        match self {
            Self::RegisterAsset(registration) => registration.encode(writer),
            Self::Operate(operation) => operation.encode(writer),
            Self::Transfer { asset, to } => {
                asset.encode(writer);
                writer.fixed(to);
            }
            Self::RequestCertificate(request) => request.encode(writer),
            Self::EndCertificate { asset } => asset.encode(writer),
            Self::RequestTicket => {}
            Self::Stake(StakeOperation::Give { to_key, amount }) => {
                writer.u8(1).fixed(to_key).u64(*amount);
            }
            Self::Vote(change) => change.encode(writer),
            Self::Evidence(evidence) => {
                writer.bytes(&evidence.0);
            }
            Self::Batch(parts) => {
                writer.count(parts.len());
                for part in parts {
                    part.encode(writer);
                }
            }
        }
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let kind = reader.u8()?;
        if kind != tag::BATCH {
            return Self::decode_single(kind, reader);
        }
        let count = reader.count(BATCH_LIMIT)?;
        let mut parts = Vec::new();
        for _part in 0..count {
            let kind = reader.u8()?;
            parts.push(Self::decode_single(kind, reader)?);
        }
        if parts.is_empty() {
            return Err(WireError::NotCanonical { what: "batch" });
        }
        Ok(Self::Batch(parts))
    }

    fn decode_single(kind: u8, reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match kind {
            tag::REGISTER_ASSET => Self::RegisterAsset(Registration::decode(reader)?),
            tag::OPERATE => Self::Operate(AssetOperation::decode(reader)?),
            tag::TRANSFER => {
                Self::Transfer { asset: AssetId::decode(reader)?, to: reader.fixed()? }
            }
            tag::REQUEST_CERTIFICATE => {
                Self::RequestCertificate(CertificateRequest::decode(reader)?)
            }
            tag::END_CERTIFICATE => Self::EndCertificate { asset: AssetId::decode(reader)? },
            tag::REQUEST_TICKET => Self::RequestTicket,
            tag::STAKE => match reader.u8()? {
                1 => Self::Stake(StakeOperation::Give {
                    to_key: reader.fixed()?,
                    amount: reader.u64()?,
                }),
                tag => {
                    return Err(WireError::BadTag { what: "stake operation", tag: tag.into() });
                }
            },
            tag::VOTE => Self::Vote(Change::decode(reader)?),
            tag::EVIDENCE => {
                Self::Evidence(EvidenceOctets(reader.bytes(EVIDENCE_LIMIT_BYTES)?.to_vec()))
            }
            tag => return Err(WireError::BadTag { what: "operation", tag: tag.into() }),
        })
    }
}

impl Registration {
    fn encode(&self, writer: &mut Writer) {
        self.kind.encode(writer);
        self.name.encode(writer);
        encode_node(&self.node, writer);
        writer.u64(self.capacity);
        self.sharing.encode(writer);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            kind: AssetKind::decode(reader)?,
            name: AssetName::decode(reader)?,
            node: decode_node(reader)?,
            capacity: reader.u64()?,
            sharing: Sharing::decode(reader)?,
        })
    }
}

impl Sharing {
    pub(crate) fn encode(self, writer: &mut Writer) {
        writer.u8(match self {
            Self::Owner => 1,
            Self::Anyone => 2,
        });
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match reader.u8()? {
            1 => Ok(Self::Owner),
            2 => Ok(Self::Anyone),
            tag => Err(WireError::BadTag { what: "sharing of an asset", tag: tag.into() }),
        }
    }
}

impl AssetOperation {
    const fn name(&self) -> &'static str {
        match self {
            Self::Allocate { .. } => "allocate",
            Self::Use { .. } => "use",
            Self::Release { .. } => "release",
            Self::Fail { .. } => "fail",
            Self::Restore { .. } => "restore",
            Self::Retire { .. } => "retire",
        }
    }

    fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Allocate { asset, quantity, holder } => {
                writer.u8(1);
                asset.encode(writer);
                writer.u64(*quantity).fixed(holder);
            }
            Self::Use { allocation } => {
                writer.u8(2).fixed(allocation);
            }
            Self::Release { allocation } => {
                writer.u8(3).fixed(allocation);
            }
            Self::Fail { allocation } => {
                writer.u8(4).fixed(allocation);
            }
            Self::Restore { asset } => {
                writer.u8(5);
                asset.encode(writer);
            }
            Self::Retire { asset } => {
                writer.u8(6);
                asset.encode(writer);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(match reader.u8()? {
            1 => Self::Allocate {
                asset: AssetId::decode(reader)?,
                quantity: reader.u64()?,
                holder: reader.fixed()?,
            },
            2 => Self::Use { allocation: reader.fixed()? },
            3 => Self::Release { allocation: reader.fixed()? },
            4 => Self::Fail { allocation: reader.fixed()? },
            5 => Self::Restore { asset: AssetId::decode(reader)? },
            6 => Self::Retire { asset: AssetId::decode(reader)? },
            tag => return Err(WireError::BadTag { what: "use of an asset", tag: tag.into() }),
        })
    }
}

impl CertificateRequest {
    fn encode(&self, writer: &mut Writer) {
        writer.bool(self.asset.is_some());
        if let Some(asset) = &self.asset {
            asset.encode(writer);
        }
        writer.fixed(&self.csr_statement);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let asset = if reader.bool()? { Some(AssetId::decode(reader)?) } else { None };
        Ok(Self { asset, csr_statement: reader.fixed()? })
    }
}
