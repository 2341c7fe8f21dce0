//! `stoqctl certificate`: the inventory, issuing for a request in hand, and revoking.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stoq_admin::api::{
    CERTIFICATE_LIMIT_DEFAULT, CERTIFICATE_LIMIT_MAX, CertificateIssue, CertificateIssued,
    CertificateList, CertificateListed, CertificateRevoke, CertificateRevoked, CertificateShow,
    CertificateShown, CertificateState, InventoryCertificate, RevocationReason, RevokeOf,
    RevokedCertificate,
};
use stoq_admin::{ApiError, decode_pem, encode_pem};
use stoq_trustchain::ca::inventory::{
    Inventory, InventoryError, InventoryQuery, InventoryRow, state_of_label,
};
use stoq_trustchain::ca::revoke::{RevokeError, RevokeRequest, RevokeTarget, RevokedItem};
use stoq_trustchain::ca::{Activation, Credential, IssueRequest};
use stoq_trustchain::revocation::{EntryError, Reason, SerialNumber, SpkiHash};

use super::Admin;
use super::authority::{broken, desk, refused};

pub async fn issue(
    admin: &Admin,
    request: CertificateIssue,
) -> Result<CertificateIssued, ApiError> {
    let bad = |why: String| {
        ApiError::usage("bad-request-file", why, "make it with `openssl req -new -key KEY -subj /`")
    };
    // Both labels are in use: RFC 7468 section 7 and what older tools write.
    let blocks = decode_pem("CERTIFICATE REQUEST", &request.request_pem)
        .or_else(|_| decode_pem("NEW CERTIFICATE REQUEST", &request.request_pem))
        .map_err(|error| bad(error.to_string()))?;
    let [csr_der] = blocks.as_slice() else {
        return Err(bad(format!("it holds {} requests", blocks.len())));
    };
    let order = IssueRequest {
        profile: request.profile,
        subject: Some(request.subject),
        csr_der: csr_der.clone(),
        credential: Credential::Operator { name: admin.2.to_string() },
        idempotency_key: Vec::new(),
        consensus_proof: None,
        stoq_address: None,
        activation: Activation::Now,
    };
    let issued = desk(admin)?.ca.issue(order).await.map_err(|error| refused(&error))?;
    let pem = |der: &[u8]| encode_pem("CERTIFICATE", der);
    Ok(CertificateIssued {
        serial: issued.serial,
        not_before: issued.not_before,
        not_after: issued.not_after,
        log_index: issued.leaf_index,
        repeated: issued.repeated,
        chain_pem: pem(&issued.certificate_der) + &pem(&issued.issuing_der),
        root_pem: pem(&issued.root_der),
    })
}

pub async fn list(admin: &Admin, request: CertificateList) -> Result<CertificateListed, ApiError> {
    let desk = desk(admin)?;
    let ca = &desk.ca;
    let limit = request.limit.unwrap_or(CERTIFICATE_LIMIT_DEFAULT).clamp(1, CERTIFICATE_LIMIT_MAX);
    let query = InventoryQuery {
        name: request.name,
        spki_sha256: request.spki_sha256,
        profile: request.profile,
        state: request.state.and_then(|state| state_of_label(&state.to_string())),
        expires_within: request.expiring_within_seconds.map(Duration::from_secs),
        limit,
        page: request.after,
        ..InventoryQuery::default()
    };
    let page = inventory(ca)?.find(&query, ca.now()).await.map_err(|error| unanswered(&error))?;
    let certificates = page.rows.into_iter().map(shown).collect::<Result<_, _>>()?;
    Ok(CertificateListed { certificates, next: page.next })
}

pub async fn show(admin: &Admin, request: CertificateShow) -> Result<CertificateShown, ApiError> {
    let desk = desk(admin)?;
    let ca = &desk.ca;
    let certificate = shown(find(admin, &request.serial).await?)?;
    let window = ca.renewal_information(&certificate.serial).map(|renewal| renewal.window);
    Ok(CertificateShown {
        certificate,
        renew_from: window.map(|window| window.start),
        renew_until: window.map(|window| window.end),
    })
}

pub async fn revoke(
    admin: &Admin,
    request: CertificateRevoke,
) -> Result<CertificateRevoked, ApiError> {
    let desk = desk(admin)?;
    let bad = |error: EntryError| {
        ApiError::usage("bad-target", error.to_string(), "copy it from `stoqctl certificate list`")
    };
    let target = match request.of {
        RevokeOf::Serial(serial) => {
            RevokeTarget::Certificate(SerialNumber::from_text(&serial).map_err(bad)?)
        }
        RevokeOf::Name(name) => RevokeTarget::Name(name),
        RevokeOf::Key(key) => {
            let octets = crate::certifier::octets(&key).unwrap_or_default();
            RevokeTarget::Key(SpkiHash::from_bytes(&octets).map_err(bad)?)
        }
    };
    let order = RevokeRequest {
        target,
        reason: Reason::from_code(i32::from(request.reason.code())).map_err(bad)?,
        with_key: request.with_key,
        revoked_by: admin.actor(),
    };
    let receipt = desk.revocations.revoke(order).await.map_err(|error| not_revoked(&error))?;
    let item = |item: RevokedItem| RevokedCertificate {
        serial: item.serial,
        spki_sha256: item.spki_sha256,
        subject: item.subject,
        ends_at: at(item.ends_at),
        repeated: item.repeated,
    };
    Ok(CertificateRevoked {
        revoked: receipt.items.into_iter().map(item).collect(),
        revoked_at: at(receipt.revoked_at),
        reason: request.reason,
        deny_list_epoch: receipt.epoch,
    })
}

fn not_revoked(error: &RevokeError) -> ApiError {
    match error {
        RevokeError::NotFound(what) => {
            ApiError::not_found("certificate in force for", what, "stoqctl certificate list")
        }
        RevokeError::Busy => ApiError::timed_out(error.to_string(), "try again in a second"),
        RevokeError::Inventory(error) => unanswered(error),
        _ => broken("not-revoked", error),
    }
}

/// The inventory's row of a serial number
pub async fn find(admin: &Admin, serial: &str) -> Result<InventoryRow, ApiError> {
    let desk = desk(admin)?;
    let ca = &desk.ca;
    let query = InventoryQuery { serial: Some(serial.to_owned()), ..InventoryQuery::default() };
    let page = inventory(ca)?.find(&query, ca.now()).await.map_err(|error| unanswered(&error))?;
    page.rows
        .into_iter()
        .next()
        .ok_or_else(|| ApiError::not_found("certificate", serial, "stoqctl certificate list"))
}

fn inventory(ca: &stoq_trustchain::ca::Ca) -> Result<Inventory, ApiError> {
    Inventory::of(ca).map_err(|error| unanswered(&error))
}

fn unanswered(error: &InventoryError) -> ApiError {
    match error {
        InventoryError::Malformed(_) | InventoryError::TooMany => {
            ApiError::usage("bad-question", error.to_string(), "correct the command")
        }
        InventoryError::Records(stoq_store::records::RecordsError::Invalid(_)) => {
            ApiError::usage("bad-question", error.to_string(), "correct the command")
        }
        InventoryError::Behind(refusal) => refused(refusal),
        _ => broken("no-inventory", error),
    }
}

fn shown(row: InventoryRow) -> Result<InventoryCertificate, ApiError> {
    let state: CertificateState =
        row.state.parse().map_err(|error: String| broken("bad-inventory", error))?;
    let reason = row.reason.map(|code| {
        RevocationReason::ALL
            .iter()
            .find(|(reason, _)| reason.code() == code)
            .map_or_else(|| format!("reason {code}"), |(_, word)| (*word).to_owned())
    });
    Ok(InventoryCertificate {
        serial: row.serial,
        subject: row.subject,
        dns_names: row.dns_names,
        profile: row.profile,
        spki_sha256: row.spki_sha256,
        issuer_key_id: row.issuer_key_id,
        not_before: at(row.not_before),
        not_after: at(row.not_after),
        log_index: row.leaf_index,
        state,
        revoked_at: row.revoked_at.map(at),
        revoked_for: reason,
    })
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}
