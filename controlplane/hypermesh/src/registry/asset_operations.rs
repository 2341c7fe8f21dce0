//! What operations on assets do: the life of an asset, and of what is taken of it. Each checks everything before it
//! changes anything, so a refused one leaves no trace.

use super::Registry;
use super::block::Effect;
use super::execute::{Asking, Execution};
use super::parameters::{
    ALLOCATIONS_LIMIT, ALLOCATIONS_PER_REQUESTER_LIMIT, ASSETS_LIMIT, ASSETS_PER_REQUESTER_LIMIT,
};
use super::records::{Allocation, AllocationState, Asset, Expiry, Requester};
use super::refusal::Refusal;
use crate::digest::{Digest, Domain};
use crate::operation::{AllocationId, AssetId, Registration, RequesterId, Sharing};

static ALLOCATION: Domain = Domain::new("hypermesh v1 allocation");

/// The identity of what an operation allocated; `part` counts from 0 within a batch
fn allocation_id(operation: &Digest, part: u32) -> AllocationId {
    ALLOCATION.derive(&[operation, &part.to_be_bytes()])
}

impl Execution<'_> {
    pub(super) fn register(
        &mut self,
        asking: &Asking<'_>,
        registration: &Registration,
    ) -> Result<Effect, Refusal> {
        let Registration { kind, name, node, capacity, sharing } = registration;
        if *capacity == 0 {
            return Err(Refusal::NoCapacity);
        }
        if self.state.assets.len() >= ASSETS_LIMIT {
            return Err(Refusal::Full { what: "assets", limit: ASSETS_LIMIT });
        }
        let id = AssetId::derive(&self.state.network, &asking.requester, *kind, name);
        if self.state.assets.contains(&id.key()) {
            return Err(Refusal::AlreadyRegistered);
        }
        self.state.room_for_asset(&asking.requester)?;
        self.state.assets.insert(
            id.key(),
            Asset {
                id,
                owner: asking.requester,
                name: name.clone(),
                node: node.clone(),
                capacity: *capacity,
                sharing: *sharing,
                allocated: 0,
                in_use: 0,
                failed: 0,
                retired: false,
                certificate: None,
                registered_height: self.facts.height,
            },
        );
        self.state.change_requester(&asking.requester, |owner| owner.assets += 1);
        Ok(Effect::Registered { asset: id, owner: asking.requester })
    }

    pub(super) fn allocate(
        &mut self,
        asking: &Asking<'_>,
        id: &AssetId,
        quantity: u64,
        holder: &RequesterId,
    ) -> Result<Effect, Refusal> {
        let asset = self.state.live_asset(id)?;
        if asset.owner != asking.requester {
            match asset.sharing {
                Sharing::Owner => return Err(Refusal::NotShared),
                Sharing::Anyone if *holder != asking.requester => return Err(Refusal::NotOwner),
                Sharing::Anyone => {}
            }
        }
        let available = asset.available();
        if quantity == 0 {
            return Err(Refusal::NoQuantity);
        }
        if quantity > available {
            return Err(Refusal::NotAvailable { asked: quantity, available });
        }
        let holding = self.state.requesters.get(holder).ok_or(Refusal::NoSuchRequester)?;
        if holding.allocations >= ALLOCATIONS_PER_REQUESTER_LIMIT {
            let limit = ALLOCATIONS_PER_REQUESTER_LIMIT as usize;
            return Err(Refusal::Full { what: "allocations of one requester", limit });
        }
        if self.state.allocations.len() >= ALLOCATIONS_LIMIT {
            return Err(Refusal::Full { what: "allocations", limit: ALLOCATIONS_LIMIT });
        }
        let allocation = allocation_id(asking.operation, asking.part);
        self.state.allocations.insert(
            allocation,
            Allocation {
                asset: *id,
                holder: *holder,
                quantity,
                state: AllocationState::Allocated,
                since_height: self.facts.height,
            },
        );
        self.state.change_asset(id, |asset| asset.allocated += quantity);
        self.state.change_requester(holder, |holder| holder.allocations += 1);
        Ok(Effect::Allocated { allocation, asset: *id, holder: *holder, quantity })
    }

    pub(super) fn begin_use(
        &mut self,
        asking: &Asking<'_>,
        id: &AllocationId,
    ) -> Result<Effect, Refusal> {
        let found = self.state.allocations.get(id).copied().ok_or(Refusal::NoSuchAllocation)?;
        if found.holder != asking.requester {
            return Err(Refusal::NotHolder);
        }
        if found.state != AllocationState::Allocated {
            return Err(Refusal::AllocationState { state: found.state.name() });
        }
        let changed =
            Allocation { state: AllocationState::InUse, since_height: self.facts.height, ..found };
        self.state.allocations.insert(*id, changed);
        self.state.change_asset(&found.asset, |asset| asset.in_use += found.quantity);
        Ok(Effect::InUse { allocation: *id, asset: found.asset })
    }

    pub(super) fn end_allocation(
        &mut self,
        asking: &Asking<'_>,
        id: &AllocationId,
        end: AllocationState,
    ) -> Result<Effect, Refusal> {
        let found = self.state.allocations.get(id).copied().ok_or(Refusal::NoSuchAllocation)?;
        if !found.state.is_live() {
            return Err(Refusal::AllocationState { state: found.state.name() });
        }
        let asset = self.state.live_asset(&found.asset)?;
        if ![found.holder, asset.owner].contains(&asking.requester) {
            return Err(Refusal::NotHolder);
        }
        let Allocation { asset, quantity, .. } = found;
        let was_used = found.state == AllocationState::InUse;
        let failed = end == AllocationState::Failed;
        let changed = Allocation { state: end, since_height: self.facts.height, ..found };
        self.state.allocations.insert(*id, changed);
        self.state.change_asset(&asset, |asset| {
            asset.allocated -= quantity;
            asset.in_use -= if was_used { quantity } else { 0 };
            asset.failed += if failed { quantity } else { 0 };
        });
        self.state.change_requester(&found.holder, |holder| holder.allocations -= 1);
        self.expiries.push(Expiry::Allocation(*id));
        Ok(if failed {
            Effect::Failed { allocation: *id, asset, quantity }
        } else {
            Effect::Released { allocation: *id, asset, quantity }
        })
    }

    pub(super) fn restore(&mut self, asking: &Asking<'_>, id: &AssetId) -> Result<Effect, Refusal> {
        let quantity = self.state.owned_asset(asking, id)?.failed;
        if quantity == 0 {
            return Err(Refusal::NothingFailed);
        }
        self.state.change_asset(id, |asset| asset.failed = 0);
        Ok(Effect::Restored { asset: *id, quantity })
    }

    pub(super) fn retire(&mut self, asking: &Asking<'_>, id: &AssetId) -> Result<Effect, Refusal> {
        let asset = self.state.owned_asset(asking, id)?;
        if asset.allocated > 0 {
            return Err(Refusal::StillAllocated { allocated: asset.allocated });
        }
        let ended = asset.certificate.as_ref().map(|certificate| certificate.csr_statement);
        self.state.change_asset(id, |asset| {
            asset.retired = true;
            asset.certificate = None;
        });
        self.state.change_requester(&asking.requester, |owner| owner.assets -= 1);
        self.expiries.push(Expiry::Asset(*id));
        Ok(Effect::Retired { asset: *id, ended_certificate: ended })
    }

    pub(super) fn transfer(
        &mut self,
        asking: &Asking<'_>,
        id: &AssetId,
        to: &RequesterId,
    ) -> Result<Effect, Refusal> {
        let asset = self.state.owned_asset(asking, id)?;
        if *to == asking.requester {
            return Err(Refusal::TransferToOwner);
        }
        let ended = asset.certificate.as_ref().map(|certificate| certificate.csr_statement);
        self.state.room_for_asset(to)?;
        self.state.change_asset(id, |asset| {
            asset.owner = *to;
            asset.certificate = None;
        });
        self.state.change_requester(&asking.requester, |from| from.assets -= 1);
        self.state.change_requester(to, |to| to.assets += 1);
        let from = asking.requester;
        Ok(Effect::Transferred { asset: *id, from, to: *to, ended_certificate: ended })
    }
}

impl Registry {
    pub(super) fn live_asset(&self, id: &AssetId) -> Result<&Asset, Refusal> {
        let asset = self.assets.get(&id.key()).ok_or(Refusal::NoSuchAsset)?;
        if asset.retired { Err(Refusal::AssetRetired) } else { Ok(asset) }
    }

    pub(super) fn owned_asset(&self, asking: &Asking<'_>, id: &AssetId) -> Result<&Asset, Refusal> {
        let asset = self.live_asset(id)?;
        if asset.owner == asking.requester { Ok(asset) } else { Err(Refusal::NotOwner) }
    }

    /// Whether somebody who is known may own another asset
    pub(super) fn room_for_asset(&self, id: &RequesterId) -> Result<(), Refusal> {
        let owner = self.requesters.get(id).ok_or(Refusal::NoSuchRequester)?;
        if owner.assets >= ASSETS_PER_REQUESTER_LIMIT {
            let limit = ASSETS_PER_REQUESTER_LIMIT as usize;
            return Err(Refusal::Full { what: "assets of one requester", limit });
        }
        Ok(())
    }

    /// For what was just seen to be there
    pub(super) fn change_asset(&mut self, id: &AssetId, change: impl FnOnce(&mut Asset)) {
        if let Some(asset) = self.assets.get_mut(&id.key()) {
            change(asset);
        }
    }

    /// For who was just seen to be there
    pub(super) fn change_requester(
        &mut self,
        id: &RequesterId,
        change: impl FnOnce(&mut Requester),
    ) {
        if let Some(requester) = self.requesters.get_mut(id) {
            change(requester);
        }
    }
}
