//! `stoqctl doctor`: what the node says of itself, what its authority says, and with `--deep` everything the authority
//! has ever written, read again.

use std::time::{Duration, SystemTime};

use stoq_admin::api::{AuditVerify, Check, Diagnosis, DoctorRun, Health, LogFsck, Problem};
use stoq_admin::{ApiError, show_time};
use stoq_trustchain::backup::doctor::{self, Places, Verdict};

use super::authority::{broken, desk};
use super::{Admin, audit, status, transparency};
use crate::identity::Source;
use crate::list_age::TOO_OLD;

/// An issuing certificate with less left than this wants a successor
const ISSUING_WARNING: Duration = Duration::from_secs(14 * 86_400);

pub async fn run(admin: &Admin, request: DoctorRun) -> Result<Diagnosis, ApiError> {
    let mut checks = node(admin);
    checks.push(rotation(admin));
    match (&admin.1, admin.0.identities().source) {
        (_, Source::Joined) => {
            checks.push(Check::skipped("authority", "this node has joined another and has none"));
        }
        (None, Source::Own(_)) => {
            checks.push(Check::skipped("authority", "it does not run as a service on this node"));
        }
        (Some(_), Source::Own(_)) => {
            checks.extend(authority(admin).await?);
            if request.deep {
                checks.extend(deep(admin).await?);
            }
        }
    }
    Ok(Diagnosis { checks })
}

/// What the node itself shows as problems, each under its own name; one good word where there is none
fn node(admin: &Admin) -> Vec<Check> {
    let problems = status::problems(admin);
    if problems.is_empty() {
        let workers = admin.0.endpoint.workers().len();
        return vec![Check::good("node", format!("it serves, with {workers} workers"))];
    }
    let fail_closed = admin.0.list_age().is_some_and(|age| age.fail_closed);
    let check = |problem: Problem| {
        let health = match problem.code.as_str() {
            "certificate-ends-soon" | "io-fallback" => Health::Warning,
            // Connections are made all the same: it works, and less than it was asked to.
            TOO_OLD if !fail_closed => Health::Warning,
            _ => Health::Bad,
        };
        Check::new(&problem.code, health, problem.message, problem.remedy)
    };
    problems.into_iter().map(check).collect()
}

/// What the running authority says
async fn authority(admin: &Admin) -> Result<Vec<Check>, ApiError> {
    let desk = desk(admin)?;
    let signer = desk.ca.authority().signer().status().await;
    let checks = doctor::check_running(
        &desk.ca.status(),
        &desk.revocations.status(),
        signer.as_ref().ok(),
        desk.ca.now(),
    );
    let mut checks: Vec<Check> = checks.into_iter().map(shown).collect();
    checks.push(issuing_certificate(desk.ca.status().issuing_not_after, desk.ca.now()));
    if let Err(error) = signer {
        let remedy = "look at the token or the signing process";
        checks.push(Check::new("signer", Health::Bad, error.to_string(), remedy));
    }
    Ok(checks)
}

/// Checks of files that are not asked for here: the issuing certificate is judged as the running authority has it,
/// its directory is made by this daemon, and which backup is the latest only its keeper knows
const NOT_OF_THE_JOURNAL: [&str; 3] = ["directory", "issuing_certificate", "backup"];

/// The issuing certificate of the running authority
fn issuing_certificate(not_after: SystemTime, now: SystemTime) -> Check {
    const NAME: &str = "issuing-certificate";
    let remedy = "have the root sign a new one: `stoqctl root sign-issuing`";
    match not_after.duration_since(now) {
        Ok(left) if left > ISSUING_WARNING => {
            Check::good(NAME, format!("valid for {} more days", left.as_secs() / 86_400))
        }
        Ok(left) => {
            let message = format!("it ends in {} hours", left.as_secs() / 3_600);
            Check::new(NAME, Health::Warning, message, remedy)
        }
        Err(_) => Check::new(NAME, Health::Bad, "it has ended", remedy),
    }
}

/// How the renewal of this node's own certificate goes
fn rotation(admin: &Admin) -> Check {
    const NAME: &str = "rotation";
    let status = admin.0.rotation.status();
    match (status.last_failure, status.acquire_at) {
        (Some(failure), _) => Check::new(
            NAME,
            Health::Warning,
            format!("the last request failed: {failure}"),
            "it is repeated without end; see whether the authority can be reached",
        ),
        (None, Some(at)) if status.successor.is_none() => {
            Check::good(NAME, format!("a successor is fetched at {}", show_time(at)))
        }
        (None, _) => Check::good(NAME, "a successor is here, or none is due"),
    }
}

/// What takes minutes: every file of the authority
async fn deep(admin: &Admin) -> Result<Vec<Check>, ApiError> {
    let desk = desk(admin)?;
    let places = Places {
        directory: desk.directory.clone(),
        high_water: desk.high_water.clone(),
        backup: None,
    };
    let now = desk.ca.now();
    let files = tokio::task::spawn_blocking(move || doctor::check_files(&places, now));
    let files = files.await.map_err(|error| broken("doctor-failed", error))?;
    let written = files.into_iter().filter(|check| !NOT_OF_THE_JOURNAL.contains(&check.name));
    let mut checks: Vec<Check> = written.map(shown).collect();
    let log = transparency::check(admin, LogFsck {}).await?;
    checks.push(found(
        "log-fsck",
        log.findings.first().map(|one| format!("{}: {}", one.place, one.problem)),
        log.errors,
        format!(
            "{} entries under {} checkpoint, all as they should be",
            log.entries, log.checkpoints
        ),
        "`stoqctl log fsck` lists everything; restore the newest backup that checks",
    ));
    let audit = audit::verify(admin, AuditVerify {}).await?;
    checks.push(found(
        "audit-verify",
        audit.errors.first().cloned(),
        audit.errors.len() as u64,
        format!("{} records, {} of them anchored", audit.records, audit.anchored),
        "keep the journal as evidence: somebody or something has changed it",
    ));
    Ok(checks)
}

fn found(name: &str, first: Option<String>, errors: u64, good: String, remedy: &str) -> Check {
    match first {
        None => Check::good(name, good),
        Some(first) => {
            Check::new(name, Health::Bad, format!("{errors} findings, first: {first}"), remedy)
        }
    }
}

fn shown(check: doctor::Check) -> Check {
    let health = match check.verdict {
        Verdict::Good => Health::Good,
        Verdict::Warning => Health::Warning,
        Verdict::Bad => Health::Bad,
    };
    Check::new(&check.name.replace('_', "-"), health, check.found, check.remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuing_certificate_is_warned_of_before_it_ends() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let health = |left| issuing_certificate(now + left, now).health;
        assert_eq!(health(ISSUING_WARNING * 2), Health::Good);
        assert_eq!(health(ISSUING_WARNING / 2), Health::Warning);
        assert_eq!(issuing_certificate(now - Duration::from_secs(1), now).health, Health::Bad);
    }
}
