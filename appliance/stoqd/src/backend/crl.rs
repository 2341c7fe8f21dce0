//! `stoqctl crl`: the certificate revocation lists in force.

use std::time::{Duration, UNIX_EPOCH};

use stoq_admin::api::{Crl, CrlList, CrlListed, CrlShow, CrlShown};
use stoq_admin::{ApiError, encode_pem};

use super::Admin;
use super::authority::desk;

pub async fn list(admin: &Admin, _request: CrlList) -> Result<CrlListed, ApiError> {
    let status = desk(admin)?.revocations.status();
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let crls = status.crls.iter().map(|one| Crl {
        issuer_key_id: one.issuer.to_string(),
        shard: one.shard,
        number: one.number,
        this_update: at(one.this_update),
        next_update: at(one.next_update),
        bytes: one.bytes,
    });
    Ok(CrlListed {
        crls: crls.collect(),
        deny_list_epoch: status.epoch,
        deny_list_entries: status.entries,
        problem: status.problem,
    })
}

pub async fn show(admin: &Admin, request: CrlShow) -> Result<CrlShown, ApiError> {
    let desk = desk(admin)?;
    let key_id = match &request.issuer_key_id {
        Some(key_id) => key_id.clone(),
        None => desk.ca.authority().key_id().to_string(),
    };
    let name = format!("{key_id}-{}.crl", request.shard);
    let issued = desk.revocations.crl_by_name(&name).ok_or_else(|| {
        let what = format!("{} of issuing key {key_id}", request.shard);
        ApiError::not_found("revocation list of shard", what, "stoqctl crl list")
    })?;
    let crl = Crl {
        issuer_key_id: key_id,
        shard: issued.shard,
        number: issued.number,
        this_update: issued.this_update,
        next_update: issued.next_update,
        bytes: issued.der.len(),
    };
    Ok(CrlShown { crl, pem: encode_pem("X509 CRL", &issued.der) })
}
