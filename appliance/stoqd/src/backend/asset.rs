//! `stoqctl asset`: assets by agreement of the validators, asked for in the name of this node.

use std::path::Path;
use std::sync::Arc;

use stoq_admin::api::{
    ASSET_LIMIT_DEFAULT, ASSET_LIMIT_MAX, Allocation, Asset, AssetAction, AssetCertificate,
    AssetCertified, AssetDone, AssetKind, AssetList, AssetListed, AssetOperate, AssetReceipt,
    AssetReceiptShown, AssetRegister, AssetRelease, AssetShow, AssetShown, AssetTransfer,
};
use stoq_admin::{ApiError, decode_pem, encode_pem};
use stoq_hypermesh::digest::{Digest, to_hex};
use stoq_hypermesh::operation::{
    self, AssetId, AssetName, AssetOperation, CertificateRequest, OperationBody, Registration,
    Sharing, csr_statement,
};
use stoq_hypermesh::readings::{self, ReadingError};
use stoq_hypermesh::receipt::Receipt;
use stoq_hypermesh::registry::{self, AllocationState, Effect};
use stoq_trustchain::ca::{Activation, Credential, IssueRequest};

use super::Admin;
use super::authority::{desk, refused};
use super::consensus::{agreement, digest, instant, not_agreed};
use crate::agreement::{Agreement, Done, RequestError, effect_name};
use crate::certifier::octets;

/// The profile whose certificates name assets
const ASSET_PROFILE: &str = "asset";

fn kind(kind: AssetKind) -> operation::AssetKind {
    match kind {
        AssetKind::Cpu => operation::AssetKind::Cpu,
        AssetKind::Gpu => operation::AssetKind::Gpu,
        AssetKind::Memory => operation::AssetKind::Memory,
        AssetKind::Storage => operation::AssetKind::Storage,
        AssetKind::Network => operation::AssetKind::Network,
        AssetKind::Container => operation::AssetKind::Container,
    }
}

fn id(text: &str) -> Result<AssetId, ApiError> {
    text.parse().map_err(|error: operation::AssetIdError| {
        ApiError::usage("bad-asset", format!("`{text}`: {error}"), "see `stoqctl asset list`")
    })
}

async fn perform(admin: &Admin, body: OperationBody) -> Result<AssetDone, ApiError> {
    let done = agreement(admin)?.requester.perform(body).await;
    done.map(|done| shown(&done)).map_err(|error| not_agreed(&error))
}

fn shown(done: &Done) -> AssetDone {
    let allocation = done.effects.iter().find_map(|effect| match effect {
        Effect::Allocated { allocation, .. }
        | Effect::InUse { allocation, .. }
        | Effect::Released { allocation, .. }
        | Effect::Failed { allocation, .. } => Some(to_hex(allocation)),
        _ => None,
    });
    let asset = done.effects.iter().find_map(|effect| match effect {
        Effect::Registered { asset, .. }
        | Effect::Allocated { asset, .. }
        | Effect::InUse { asset, .. }
        | Effect::Released { asset, .. }
        | Effect::Failed { asset, .. }
        | Effect::Restored { asset, .. }
        | Effect::Retired { asset, .. }
        | Effect::Transferred { asset, .. }
        | Effect::CertificateEnded { asset, .. } => Some(asset.to_string()),
        _ => None,
    });
    AssetDone {
        operation: to_hex(&done.operation),
        height: done.place.height,
        index: done.place.index,
        time: instant(done.place.time_ms),
        effects: done.effects.iter().map(|effect| effect_name(effect).to_owned()).collect(),
        asset,
        allocation,
        receipt: to_hex(&done.receipt.to_vec()),
    }
}

pub async fn register(admin: &Admin, request: AssetRegister) -> Result<AssetDone, ApiError> {
    let name = AssetName::new(&request.name).map_err(|error| {
        ApiError::usage("bad-name", format!("{}: {error}", request.name), "1 to 63 of a-z, 0-9, -")
    })?;
    let capacity = match request.capacity {
        Some(capacity) => capacity,
        None => tokio::task::spawn_blocking({
            let request = request.clone();
            move || read_capacity(&request)
        })
        .await
        .map_err(|error| super::authority::broken("reading-failed", error))??,
    };
    let sharing = if request.shared { Sharing::Anyone } else { Sharing::Owner };
    let node = admin.0.name();
    let kind = kind(request.kind);
    perform(
        admin,
        OperationBody::RegisterAsset(Registration { kind, name, node, capacity, sharing }),
    )
    .await
}

/// What this host has
fn read_capacity(request: &AssetRegister) -> Result<u64, ApiError> {
    let unread = |error: ReadingError| {
        ApiError::failed("reading-failed", error.to_string(), "say how much there is: --capacity")
    };
    let needed = |what: &str| {
        ApiError::usage(
            "no-capacity",
            format!("{what} is not said"),
            "see `stoqctl asset register --help`",
        )
    };
    match request.kind {
        AssetKind::Cpu => readings::cpu().map(|cpu| cpu.capacity()).map_err(unread),
        AssetKind::Memory => readings::memory(Path::new("/proc/meminfo"))
            .map(|memory| memory.total_bytes)
            .map_err(unread),
        AssetKind::Storage => {
            let path = request.path.as_deref().ok_or_else(|| needed("the directory (--path)"))?;
            readings::storage(path).map(|storage| storage.total_bytes).map_err(unread)
        }
        AssetKind::Network => {
            let name = request.interface.as_deref();
            let name = name.ok_or_else(|| needed("the interface (--interface)"))?;
            let all = readings::network(Path::new("/sys/class/net")).map_err(unread)?;
            let found = all
                .into_iter()
                .find(|one| one.name == name)
                .ok_or_else(|| ApiError::not_found("interface", name, "ip -6 link"))?;
            found.bits_per_second.ok_or_else(|| {
                needed(&format!("the rate of {name}, which the kernel does not know, (--capacity)"))
            })
        }
        AssetKind::Gpu | AssetKind::Container => Err(needed("how much there is (--capacity)")),
    }
}

pub async fn list(admin: &Admin, request: AssetList) -> Result<AssetListed, ApiError> {
    let agreement = agreement(admin)?;
    let own = agreement.key.requester();
    let owner = match (&request.owner, request.own) {
        (Some(owner), _) => Some(digest("owner", owner)?),
        (None, true) => Some(own),
        (None, false) => None,
    };
    let of_kind = request.kind.map(kind);
    let limit = request.limit.unwrap_or(ASSET_LIMIT_DEFAULT).clamp(1, ASSET_LIMIT_MAX);
    let registry = agreement.view.registry();
    let matches = |asset: &&registry::Asset| {
        owner.is_none_or(|owner| asset.owner == owner)
            && of_kind.is_none_or(|kind| asset.id.kind() == kind)
    };
    let (mut assets, mut total) = (Vec::new(), 0);
    for asset in registry.assets().filter(matches) {
        total += 1;
        if assets.len() < limit {
            assets.push(asset_shown(asset, &own));
        }
    }
    Ok(AssetListed { assets, total, height: registry.last_height() })
}

fn asset_shown(asset: &registry::Asset, own: &Digest) -> Asset {
    Asset {
        id: asset.id.to_string(),
        kind: asset.id.kind().name().to_owned(),
        name: asset.name.to_string(),
        node: asset.node.to_string(),
        owner: to_hex(&asset.owner),
        own: asset.owner == *own,
        capacity: asset.capacity,
        unit: asset.id.kind().unit().to_owned(),
        allocated: asset.allocated,
        in_use: asset.in_use,
        failed: asset.failed,
        state: asset.state().name().to_owned(),
        shared: asset.sharing == Sharing::Anyone,
        certificate: asset.certificate.as_ref().map(|one| to_hex(&one.csr_statement)),
        registered_height: asset.registered_height,
    }
}

fn unknown(id: &AssetId) -> ApiError {
    ApiError::not_found("asset", id, "stoqctl asset list")
}

pub async fn show(admin: &Admin, request: AssetShow) -> Result<AssetShown, ApiError> {
    let agreement = agreement(admin)?;
    let id = id(&request.asset)?;
    let registry = agreement.view.registry();
    let asset = registry.asset(&id).ok_or_else(|| unknown(&id))?;
    let allocations = registry.allocations().filter(|(_, one)| one.asset == id);
    let allocations = allocations.map(|(allocation, one)| Allocation {
        id: to_hex(allocation),
        holder: to_hex(&one.holder),
        quantity: one.quantity,
        state: match one.state {
            AllocationState::Allocated => "allocated",
            AllocationState::InUse => "in use",
            AllocationState::Released => "released",
            AllocationState::Failed => "failed",
        }
        .to_owned(),
        since_height: one.since_height,
    });
    Ok(AssetShown {
        asset: asset_shown(asset, &agreement.key.requester()),
        allocations: allocations.take(ASSET_LIMIT_MAX).collect(),
        height: registry.last_height(),
    })
}

pub async fn operate(admin: &Admin, request: AssetOperate) -> Result<AssetDone, ApiError> {
    let body = match request.action {
        AssetAction::Allocate { asset, quantity, holder } => {
            let holder = match holder {
                Some(holder) => digest("holder", &holder)?,
                None => agreement(admin)?.key.requester(),
            };
            OperationBody::Operate(AssetOperation::Allocate {
                asset: id(&asset)?,
                quantity,
                holder,
            })
        }
        AssetAction::Use { allocation } => OperationBody::Operate(AssetOperation::Use {
            allocation: digest("allocation", &allocation)?,
        }),
        AssetAction::Fail { allocation } => OperationBody::Operate(AssetOperation::Fail {
            allocation: digest("allocation", &allocation)?,
        }),
        AssetAction::Restore { asset } => {
            OperationBody::Operate(AssetOperation::Restore { asset: id(&asset)? })
        }
        AssetAction::Retire { asset } => {
            OperationBody::Operate(AssetOperation::Retire { asset: id(&asset)? })
        }
        AssetAction::EndCertificate { asset } => {
            OperationBody::EndCertificate { asset: id(&asset)? }
        }
    };
    perform(admin, body).await
}

pub async fn transfer(admin: &Admin, request: AssetTransfer) -> Result<AssetDone, ApiError> {
    let (asset, to) = (id(&request.asset)?, digest("to", &request.to)?);
    perform(admin, OperationBody::Transfer { asset, to }).await
}

pub async fn release(admin: &Admin, request: AssetRelease) -> Result<AssetDone, ApiError> {
    let allocation = digest("allocation", &request.allocation)?;
    perform(admin, OperationBody::Operate(AssetOperation::Release { allocation })).await
}

pub async fn receipt(admin: &Admin, request: AssetReceipt) -> Result<AssetReceiptShown, ApiError> {
    let agreement = agreement(admin)?;
    let receipt = agreement.client.receipt(request.height, request.index).await;
    let receipt = receipt.ok_or_else(|| not_agreed(&RequestError::NoReceipt(request.height)))?;
    Ok(AssetReceiptShown { receipt: to_hex(&receipt.to_vec()) })
}

pub async fn certificate(
    admin: &Admin,
    request: AssetCertificate,
) -> Result<AssetCertified, ApiError> {
    let agreement = agreement(admin)?;
    let asset = id(&request.asset)?;
    let bad = |why: String| {
        ApiError::usage("bad-request-file", why, "make it with `openssl req -new -key KEY -subj /`")
    };
    let blocks = decode_pem("CERTIFICATE REQUEST", &request.request_pem);
    let blocks = blocks.map_err(|error| bad(error.to_string()))?;
    let [csr_der] = blocks.as_slice() else {
        return Err(bad(format!("it holds {} requests", blocks.len())));
    };
    let authority = desk(admin)?;
    let receipt = match &request.receipt {
        Some(text) => octets(text).ok_or_else(|| bad("the receipt is no hexadecimal".into()))?,
        None => agreed(&agreement, asset, csr_der).await?.to_vec(),
    };
    authority.register_asset(&asset.to_string(), &admin.0.name()).await?;
    let own = admin.0.identities().identity.ok_or_else(|| {
        ApiError::conflict("no-certificate", "this node has no certificate", "see `stoqctl status`")
    })?;
    let order = IssueRequest {
        profile: ASSET_PROFILE.to_owned(),
        subject: Some(asset.to_string()),
        csr_der: csr_der.clone(),
        // Not the operator's, of whom no agreement is asked
        credential: Credential::Certificate { leaf_der: own.leaf_der().to_vec() },
        idempotency_key: Vec::new(),
        consensus_proof: Some(receipt.clone()),
        stoq_address: None,
        activation: Activation::Now,
    };
    let issued = authority.ca.issue(order).await.map_err(|error| refused(&error))?;
    let pem = |der: &[u8]| encode_pem("CERTIFICATE", der);
    Ok(AssetCertified {
        serial: issued.serial,
        not_before: issued.not_before,
        not_after: issued.not_after,
        chain_pem: pem(&issued.certificate_der) + &pem(&issued.issuing_der),
        root_pem: pem(&issued.root_der),
        receipt: to_hex(&receipt),
    })
}

async fn agreed(
    agreement: &Arc<Agreement>,
    asset: AssetId,
    csr_der: &[u8],
) -> Result<Receipt, ApiError> {
    let csr_statement = csr_statement(csr_der);
    let request = CertificateRequest { asset: Some(asset), csr_statement };
    let done = agreement.requester.perform(OperationBody::RequestCertificate(request)).await;
    done.map(|done| done.receipt).map_err(|error| not_agreed(&error))
}
