//! What the registry holds of each thing, and its encoding in state roots and snapshots. Which changes are allowed is
//! in `execute`.

use stoq_interface::NodeId;

use super::tree::Value;
use crate::digest::Digest;
use crate::operation::asset::{decode_node, encode_node};
use crate::operation::{AllocationId, AssetId, AssetName, RequesterId, Sharing};
use crate::proof::SequenceWindow;
use crate::wire::{Reader, WireError, Writer};

use super::parameters::KEPT_HEIGHTS;

/// What an asset does, as a whole
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AssetState {
    /// Nothing of it is allocated, and something could be
    Available,
    /// Something of it is allocated, nothing in use
    Allocated,
    /// Something of it is in use
    InUse,
    /// Its owner took it out of the registry; it will be forgotten
    Released,
    /// All of it has failed
    Failed,
}

impl AssetState {
    /// As a word
    pub const fn name(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Allocated => "allocated",
            Self::InUse => "in use",
            Self::Released => "released",
            Self::Failed => "failed",
        }
    }
}

/// An asset
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asset {
    /// Its identity, which names its kind
    pub id: AssetId,
    /// Whose it is
    pub owner: RequesterId,
    /// What its first owner called it
    pub name: AssetName,
    /// The node it is at
    pub node: NodeId,
    /// How much there is, in units of its kind
    pub capacity: u64,
    /// Who may take of it
    pub sharing: Sharing,
    /// How much is allocated, what is in use included
    pub allocated: u64,
    /// How much is in use
    pub in_use: u64,
    /// How much has failed and was not restored
    pub failed: u64,
    /// Whether its owner took it out
    pub retired: bool,
    /// Its certificate, if it has one that was not ended
    pub certificate: Option<AssetCertificate>,
    /// The block that registered it
    pub registered_height: u64,
}

/// What was granted to the owner of an asset
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AssetCertificate {
    /// What is certified
    pub csr_statement: Digest,
    /// The block that granted it
    pub granted_height: u64,
    /// Its time, in milliseconds since 1970
    pub granted_ms: u64,
}

impl Asset {
    /// How much can be allocated
    pub fn available(&self) -> u64 {
        if self.retired { 0 } else { self.capacity - self.allocated - self.failed }
    }

    /// What it does, as a whole
    pub fn state(&self) -> AssetState {
        if self.retired {
            AssetState::Released
        } else if self.in_use > 0 {
            AssetState::InUse
        } else if self.allocated > 0 {
            AssetState::Allocated
        } else if self.failed == self.capacity {
            AssetState::Failed
        } else {
            AssetState::Available
        }
    }

    /// Whether the numbers can be those of an asset
    fn is_sound(&self) -> bool {
        let taken = self.allocated.checked_add(self.failed);
        self.capacity > 0
            && taken.is_some_and(|taken| taken <= self.capacity)
            && self.in_use <= self.allocated
            && !(self.retired && (self.allocated > 0 || self.certificate.is_some()))
    }
}

impl Value for Asset {
    fn encode(&self, writer: &mut Writer) {
        self.id.encode(writer);
        writer.fixed(&self.owner);
        self.name.encode(writer);
        encode_node(&self.node, writer);
        writer.u64(self.capacity);
        self.sharing.encode(writer);
        writer.u64(self.allocated).u64(self.in_use).u64(self.failed).bool(self.retired);
        writer.bool(self.certificate.is_some());
        if let Some(certificate) = &self.certificate {
            writer.fixed(&certificate.csr_statement);
            writer.u64(certificate.granted_height).u64(certificate.granted_ms);
        }
        writer.u64(self.registered_height);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let asset = Self {
            id: AssetId::decode(reader)?,
            owner: reader.fixed()?,
            name: AssetName::decode(reader)?,
            node: decode_node(reader)?,
            capacity: reader.u64()?,
            sharing: Sharing::decode(reader)?,
            allocated: reader.u64()?,
            in_use: reader.u64()?,
            failed: reader.u64()?,
            retired: reader.bool()?,
            certificate: if reader.bool()? {
                Some(AssetCertificate {
                    csr_statement: reader.fixed()?,
                    granted_height: reader.u64()?,
                    granted_ms: reader.u64()?,
                })
            } else {
                None
            },
            registered_height: reader.u64()?,
        };
        if asset.is_sound() { Ok(asset) } else { Err(WireError::NotCanonical { what: "asset" }) }
    }
}

/// What was taken of an asset, and what became of it
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AllocationState {
    /// It is the holder's
    Allocated,
    /// The holder uses it
    InUse,
    /// It was given back
    Released,
    /// It did not work
    Failed,
}

impl AllocationState {
    /// As a word
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allocated => "allocated",
            Self::InUse => "in use",
            Self::Released => "released",
            Self::Failed => "failed",
        }
    }

    /// Whether something is still taken of the asset
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Allocated | Self::InUse)
    }
}

/// An allocation. One that has ended is remembered for [`KEPT_HEIGHTS`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Allocation {
    /// Of which asset
    pub asset: AssetId,
    /// Whose it is
    pub holder: RequesterId,
    /// How much, in units of the asset's kind
    pub quantity: u64,
    /// What became of it
    pub state: AllocationState,
    /// The block since which it is so
    pub since_height: u64,
}

impl Value for Allocation {
    fn encode(&self, writer: &mut Writer) {
        self.asset.encode(writer);
        writer.fixed(&self.holder).u64(self.quantity);
        writer.u8(match self.state {
            AllocationState::Allocated => 1,
            AllocationState::InUse => 2,
            AllocationState::Released => 3,
            AllocationState::Failed => 4,
        });
        writer.u64(self.since_height);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            asset: AssetId::decode(reader)?,
            holder: reader.fixed()?,
            quantity: reader.u64()?,
            state: match reader.u8()? {
                1 => AllocationState::Allocated,
                2 => AllocationState::InUse,
                3 => AllocationState::Released,
                4 => AllocationState::Failed,
                tag => {
                    return Err(WireError::BadTag {
                        what: "state of an allocation",
                        tag: tag.into(),
                    });
                }
            },
            since_height: reader.u64()?,
        })
    }
}

/// Somebody who may ask
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Requester {
    /// The Ed25519 key
    pub key: [u8; 32],
    /// Which sequence numbers were used
    pub window: SequenceWindow,
    /// How much is at stake; in proofs it counts from the next epoch on
    pub stake: u64,
    /// How many assets it owns
    pub assets: u32,
    /// How many live allocations it holds
    pub allocations: u32,
}

impl Requester {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self { key, window: SequenceWindow::default(), stake: 0, assets: 0, allocations: 0 }
    }
}

impl Value for Requester {
    fn encode(&self, writer: &mut Writer) {
        writer.fixed(&self.key);
        self.window.encode(writer);
        writer.u64(self.stake).u32(self.assets).u32(self.allocations);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            key: reader.fixed()?,
            window: SequenceWindow::decode(reader)?,
            stake: reader.u64()?,
            assets: reader.u32()?,
            allocations: reader.u32()?,
        })
    }
}

/// A statement that was accepted
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Seen;

impl Value for Seen {
    fn encode(&self, _: &mut Writer) {}

    fn decode(_: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self)
    }
}

/// A block by which time is proven
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Beacon {
    pub(super) hash: Digest,
    pub(super) time_ms: u64,
}

impl Value for Beacon {
    fn encode(&self, writer: &mut Writer) {
        writer.fixed(&self.hash).u64(self.time_ms);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self { hash: reader.fixed()?, time_ms: reader.u64()? })
    }
}

/// Something to be forgotten [`KEPT_HEIGHTS`] after a block
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Expiry {
    Seen(Digest),
    Allocation(AllocationId),
    Asset(AssetId),
}

/// All of one block. A block forgets at most what one block can bring, so its work has a limit, too.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Expiries(pub(super) Vec<Expiry>);

impl Value for Expiries {
    fn encode(&self, writer: &mut Writer) {
        writer.count(self.0.len());
        for expiry in &self.0 {
            match expiry {
                Expiry::Seen(statement) => {
                    writer.u8(1).fixed(statement);
                }
                Expiry::Allocation(allocation) => {
                    writer.u8(2).fixed(allocation);
                }
                Expiry::Asset(asset) => {
                    writer.u8(3);
                    asset.encode(writer);
                }
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let limit = super::BLOCK_PARTS_LIMIT + super::BLOCK_OPERATIONS_LIMIT;
        let count = reader.count(limit)?;
        let mut expiries = Vec::new();
        for _expiry in 0..count {
            expiries.push(match reader.u8()? {
                1 => Expiry::Seen(reader.fixed()?),
                2 => Expiry::Allocation(reader.fixed()?),
                3 => Expiry::Asset(AssetId::decode(reader)?),
                tag => return Err(WireError::BadTag { what: "expiry", tag: tag.into() }),
            });
        }
        Ok(Self(expiries))
    }
}

/// How long ended allocations, retired assets and statements are remembered after block `height`
pub(super) fn forgotten_at(height: u64) -> u64 {
    height.saturating_add(KEPT_HEIGHTS + 1)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::operation::AssetKind;

    fn asset() -> Asset {
        let name = AssetName::new("first").unwrap();
        Asset {
            id: AssetId::derive(&[1; 32], &[2; 32], AssetKind::Cpu, &name),
            owner: [2; 32],
            name,
            node: NodeId::new("alpha").unwrap(),
            capacity: 10,
            sharing: Sharing::Anyone,
            allocated: 6,
            in_use: 4,
            failed: 3,
            retired: false,
            certificate: Some(AssetCertificate {
                csr_statement: [3; 32],
                granted_height: 4,
                granted_ms: 5,
            }),
            registered_height: 6,
        }
    }

    pub(crate) fn read_back<V: Value + PartialEq + std::fmt::Debug>(
        value: &V,
    ) -> Result<V, WireError> {
        let mut writer = Writer::new();
        value.encode(&mut writer);
        for end in 0..writer.len() {
            let shorter = V::decode(&mut Reader::new(&writer.as_slice()[..end]));
            assert_eq!(shorter, Err(WireError::Truncated), "{end}");
        }
        let mut reader = Reader::new(writer.as_slice());
        let again = V::decode(&mut reader)?;
        reader.finish()?;
        Ok(again)
    }

    #[test]
    fn records_are_read_back() {
        assert_eq!(read_back(&asset()), Ok(asset()));
        for state in [
            AllocationState::Allocated,
            AllocationState::InUse,
            AllocationState::Released,
            AllocationState::Failed,
        ] {
            let (asset, holder) = (asset().id, [7; 32]);
            let allocation = Allocation { asset, holder, quantity: 8, state, since_height: 9 };
            assert_eq!(read_back(&allocation), Ok(allocation));
        }
        let requester =
            Requester { stake: 1, assets: 2, allocations: 3, ..Requester::new([4; 32]) };
        assert_eq!(read_back(&requester), Ok(requester));
        let beacon = Beacon { hash: [1; 32], time_ms: 2 };
        assert_eq!(read_back(&beacon), Ok(beacon));
        let all =
            vec![Expiry::Seen([1; 32]), Expiry::Allocation([2; 32]), Expiry::Asset(asset().id)];
        assert_eq!(read_back(&Expiries(all.clone())), Ok(Expiries(all)));
    }

    #[test]
    fn an_asset_whose_numbers_cannot_be_is_refused() {
        let refused = Err(WireError::NotCanonical { what: "asset" });
        let sound = asset();
        for wrong in [
            Asset { capacity: 0, allocated: 0, in_use: 0, failed: 0, ..sound.clone() },
            Asset { capacity: 8, ..sound.clone() },
            Asset { in_use: 7, ..sound.clone() },
            Asset { failed: u64::MAX, ..sound.clone() },
            Asset { retired: true, ..sound.clone() },
            Asset { retired: true, allocated: 0, in_use: 0, ..sound.clone() },
        ] {
            assert_eq!(read_back(&wrong), refused, "{wrong:?}");
        }
    }

    #[test]
    fn the_state_of_an_asset_follows_from_its_numbers() {
        let idle = Asset { allocated: 0, in_use: 0, failed: 0, ..asset() };
        for (asset, state, available) in [
            (idle.clone(), AssetState::Available, 10),
            (Asset { failed: 9, ..idle.clone() }, AssetState::Available, 1),
            (Asset { allocated: 10, ..idle.clone() }, AssetState::Allocated, 0),
            (Asset { allocated: 3, in_use: 1, failed: 7, ..idle.clone() }, AssetState::InUse, 0),
            (Asset { failed: 10, ..idle.clone() }, AssetState::Failed, 0),
            (Asset { retired: true, certificate: None, ..idle }, AssetState::Released, 0),
        ] {
            assert_eq!((asset.state(), asset.available()), (state, available), "{asset:?}");
        }
    }
}
