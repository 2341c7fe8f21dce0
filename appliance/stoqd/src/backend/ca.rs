//! `stoqctl ca`: how the authority is, what it may name, and having everything renewed.

use std::time::{Duration, UNIX_EPOCH};

use stoq_admin::ApiError;
use stoq_admin::api::{
    CaProfiles, CaProfilesListed, CaRegister, CaRegistered, CaRegistration, CaRegistrations,
    CaRegistrationsListed, CaRenewAll, CaRenewingAll, CaShow, CaShown, CaUnregister,
    CaUnregistered, CertificateProfile,
};
use stoq_trustchain::audit::{AuditEvent, AuditKind};
use stoq_trustchain::ca::profile::{Profile, Usage};
use stoq_trustchain::ca::{CaStatus, Registration};
use stoq_trustchain::rotation::RenewalWindow;

use super::Admin;
use super::authority::{desk, refused};

/// Longest window of `ca renew-all`: what is issued lives no longer
const WINDOW_LIMIT: Duration = Duration::from_secs(24 * 3_600);

pub async fn show(admin: &Admin, _request: CaShow) -> Result<CaShown, ApiError> {
    Ok(shown(desk(admin)?.ca.status()))
}

fn shown(status: CaStatus) -> CaShown {
    let refused = status.refused_since_start.iter().filter(|(_, count)| *count > 0);
    CaShown {
        instance: status.instance,
        mode: status.mode.into(),
        not_issuing: status.not_issuing,
        root_fingerprint: status.root.to_string(),
        issuing_key_id: status.issuing_key_id,
        issuing_not_after: status.issuing_not_after,
        issued: status.issued,
        issued_since_start: status.issued_since_start,
        repeated_since_start: status.repeated_since_start,
        refused_since_start: refused
            .map(|(code, count)| (code.replace('_', "-"), *count))
            .collect(),
        in_flight: status.in_flight,
        in_flight_limit: status.in_flight_limit,
        revoked: status.revoked,
        nodes: status.nodes,
        journal_sequence: status.journal_sequence,
        records_sequence: status.records_sequence,
        log_entries: status.log_entries,
        log_published: status.log_published,
        log_published_at: status.log_published_ms.map(|at| UNIX_EPOCH + Duration::from_millis(at)),
        log_problem: status.log_problem,
    }
}

pub async fn profiles(admin: &Admin, _request: CaProfiles) -> Result<CaProfilesListed, ApiError> {
    let desk = desk(admin)?;
    let mut profiles: Vec<_> = desk.ca.profiles().all().iter().map(profile).collect();
    profiles.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(CaProfilesListed { profiles })
}

fn profile(profile: &Profile) -> CertificateProfile {
    let usage = |usage: &Usage| match usage {
        Usage::Server => "serverAuth".to_owned(),
        Usage::Client => "clientAuth".to_owned(),
    };
    let names = [&profile.dns_name].into_iter().chain(&profile.alternative_dns_names);
    CertificateProfile {
        name: profile.name.clone(),
        lifetime_seconds: profile.lifetime_seconds,
        usages: profile.usages.iter().map(usage).collect(),
        names: names.cloned().collect(),
        addresses: profile.addresses,
    }
}

pub async fn register(admin: &Admin, request: CaRegister) -> Result<CaRegistered, ApiError> {
    let desk = desk(admin)?;
    let asked = request.registration;
    let registration = Registration {
        profile: asked.profile.clone(),
        subject: asked.subject.clone(),
        owner: asked.owner.clone(),
        addresses: asked.addresses.clone(),
        alternative_names: asked.alternative_names,
    };
    desk.ca.register(registration).await.map_err(|error| refused(&error))?;
    let event = AuditEvent::done(AuditKind::Registered, &admin.actor(), &asked.subject)
        .with("profile", &asked.profile);
    desk.record(event).await;
    Ok(CaRegistered { registration: asked })
}

pub async fn unregister(admin: &Admin, request: CaUnregister) -> Result<CaUnregistered, ApiError> {
    let desk = desk(admin)?;
    let CaUnregister { profile, subject } = request;
    let was = desk.ca.unregister(&profile, &subject).await.map_err(|error| refused(&error))?;
    if !was {
        let name = format!("{profile} {subject}");
        return Err(ApiError::not_found("registration", name, "stoqctl ca registrations"));
    }
    let event = AuditEvent::done(AuditKind::Unregistered, &admin.actor(), &subject)
        .with("profile", &profile);
    desk.record(event).await;
    Ok(CaUnregistered { profile, subject })
}

pub async fn registrations(
    admin: &Admin,
    request: CaRegistrations,
) -> Result<CaRegistrationsListed, ApiError> {
    let all = desk(admin)?.ca.registrations().into_iter();
    let wanted = all.filter(|one| request.profile.as_ref().is_none_or(|p| *p == one.profile));
    let registrations = wanted
        .map(|one| CaRegistration {
            profile: one.profile,
            subject: one.subject,
            owner: one.owner,
            addresses: one.addresses,
            alternative_names: one.alternative_names,
        })
        .collect();
    Ok(CaRegistrationsListed { registrations })
}

pub async fn renew_all(admin: &Admin, request: CaRenewAll) -> Result<CaRenewingAll, ApiError> {
    let desk = desk(admin)?;
    let length = Duration::from_secs(request.within_seconds);
    if length.is_zero() || length > WINDOW_LIMIT {
        return Err(ApiError::usage(
            "bad-window",
            "the window has a second at least and 24 hours at most",
            "give --within as 10m or 2h",
        ));
    }
    let start = desk.ca.now();
    let window = RenewalWindow { start, end: start + length };
    desk.ca.renew_all(window).await.map_err(|error| refused(&error))?;
    let event =
        AuditEvent::done(AuditKind::RenewalMoved, &admin.actor(), "everything issued so far")
            .with("within_seconds", request.within_seconds);
    desk.record(event).await;
    Ok(CaRenewingAll { start: window.start, end: window.end })
}
