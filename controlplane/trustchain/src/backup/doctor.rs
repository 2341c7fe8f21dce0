//! What is looked at when something may be wrong: named checks, each with what was found and what to do. Those of
//! this file need only what is passed in: paths for an authority that does not run, statuses for one that does.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::high_water::HighWaterFile;
use super::restore::verify;
use super::take::STATE;
use crate::ca::CaStatus;
use crate::ca::replay::Replay;
use crate::ca::revoke::RevocationStatus;
use crate::certificate::{self, unix_seconds};
use crate::signer::{KeyName, SignerStatus};

/// An issuing certificate with less left than this wants a successor
const ISSUING_WARNING: Duration = Duration::from_secs(14 * 24 * 3_600);
/// A backup older than this is worth a word
const BACKUP_WARNING: Duration = Duration::from_secs(2 * 24 * 3_600);
/// A checkpoint older than this with entries waiting
const CHECKPOINT_WARNING_MS: u64 = 10_000;
/// Journal entries the inventory may be behind
const RECORDS_WARNING: u64 = 10_000;

/// How a check went
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be
    Good,
    /// It works and wants attention
    Warning,
    /// It does not work
    Bad,
}

/// One check
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Check {
    /// Its name; stable
    pub name: &'static str,
    /// How it went
    pub verdict: Verdict,
    /// What was found
    pub found: String,
    /// What to do; empty where nothing is to be done
    pub remedy: String,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, found: found.into(), remedy: String::new() }
    }

    fn new(
        name: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { name, verdict, found: found.into(), remedy: remedy.into() }
    }
}

/// The worst verdict of a list
pub fn worst(checks: &[Check]) -> Verdict {
    checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Good)
}

/// Where an authority that may not run keeps its state
#[derive(Clone, Debug)]
pub struct Places {
    /// The authority's directory, with `journal/` and `log/` in it or in `ca/` below it
    pub directory: PathBuf,
    /// The file of the highest state
    pub high_water: PathBuf,
    /// The latest backup, if there is one
    pub backup: Option<PathBuf>,
}

/// Checks files; reads the whole journal. The authority may run meanwhile.
pub fn check_files(places: &Places, now: SystemTime) -> Vec<Check> {
    let mut checks = vec![check_directory(&places.directory)];
    let below = places.directory.join(STATE);
    let books = if below.is_dir() { below } else { places.directory.clone() };
    let journal = books.join("journal");
    let mut in_force = None;
    match Replay::inspect(&journal) {
        Ok((replay, report)) => {
            checks.push(match report.errors.first() {
                None => Check::good(
                    "journal",
                    format!("{} entries in {} segments", report.entries, report.segments),
                ),
                Some(first) => Check::new(
                    "journal",
                    Verdict::Bad,
                    format!("{} places are damaged, first: {first}", report.errors.len()),
                    "stop the authority and restore the newest backup that checks",
                ),
            });
            checks.push(Check::good(
                "audit_log",
                format!(
                    "{} records, {} of them anchored",
                    replay.audit.head().count,
                    replay.audit.anchored()
                ),
            ));
            checks.push(check_high_water(&places.high_water, &replay));
            // The ordinary key's certificate is in a file, and another key's in the journal.
            let key = replay.issuing_keys.in_force();
            let key = key.filter(|key| key.name != KeyName::issuing());
            in_force = key.map(|key| key.certificate_der.clone());
        }
        Err(error) => checks.push(Check::new(
            "journal",
            Verdict::Bad,
            error.to_string(),
            "restore the newest backup that checks, or create the authority if there never was one",
        )),
    }
    checks.push(check_issuing(&places.directory, in_force, now));
    checks.push(check_backup(places.backup.as_deref(), now));
    checks
}

fn check_directory(directory: &Path) -> Check {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::metadata(directory) {
        Ok(metadata) if metadata.permissions().mode() & 0o077 == 0 => {
            Check::good("directory", "only its owner may enter")
        }
        Ok(metadata) => Check::new(
            "directory",
            Verdict::Bad,
            format!("{} has mode {:o}", directory.display(), metadata.permissions().mode() & 0o777),
            format!("chmod 700 {}", directory.display()),
        ),
        Err(error) => Check::new(
            "directory",
            Verdict::Bad,
            format!("{}: {error}", directory.display()),
            "name the authority's directory, or create the authority",
        ),
    }
}

fn check_high_water(path: &Path, replay: &Replay) -> Check {
    const NAME: &str = "highest_state";
    match HighWaterFile::open(path) {
        Ok(file) if file.held().journal.is_empty() => Check::new(
            NAME,
            Verdict::Warning,
            "nothing is remembered yet",
            "if this authority has run before, bring the file back: without it an old backup is not recognised",
        ),
        Ok(file) => match file.held().check(replay) {
            Ok(()) => Check::good(
                NAME,
                format!("entry {}, as far as the journal has it", file.held().sequence),
            ),
            Err(behind) => Check::new(
                NAME,
                Verdict::Bad,
                behind.to_string(),
                "do not remove the file: it keeps revoked certificates revoked",
            ),
        },
        Err(error) => Check::new(
            NAME,
            Verdict::Bad,
            format!("{}: {error}", path.display()),
            "repair the file or bring a copy back; the authority does not start without it",
        ),
    }
}

fn check_issuing(directory: &Path, in_force: Option<Vec<u8>>, now: SystemTime) -> Check {
    const NAME: &str = "issuing_certificate";
    let found = match in_force {
        Some(certificate_der) => Ok(certificate_der),
        None => certificate::read_pem(&directory.join("issuing.pem")),
    };
    let read = found.and_then(|der| {
        let parsed = certificate::parse(&der)?;
        certificate::validity(&parsed)
    });
    let remedy = "have the root sign a new issuing certificate: `stoqctl root sign-issuing`";
    match read {
        Ok((not_before, _)) if now < not_before => Check::new(
            NAME,
            Verdict::Bad,
            "it is not valid yet",
            "set this host's clock right, or wait",
        ),
        Ok((_, not_after)) => match not_after.duration_since(now) {
            Ok(left) if left > ISSUING_WARNING => {
                Check::good(NAME, format!("valid for {} more days", left.as_secs() / 86_400))
            }
            Ok(left) => Check::new(
                NAME,
                Verdict::Warning,
                format!("it ends in {} hours", left.as_secs() / 3_600),
                remedy,
            ),
            Err(_) => Check::new(NAME, Verdict::Bad, "it has ended", remedy),
        },
        Err(error) => Check::new(NAME, Verdict::Bad, error.to_string(), remedy),
    }
}

fn check_backup(backup: Option<&Path>, now: SystemTime) -> Check {
    const NAME: &str = "backup";
    let remedy = "take one: `stoqctl backup`";
    let Some(backup) = backup else {
        return Check::new(NAME, Verdict::Warning, "no backup is named", remedy);
    };
    match verify(backup) {
        Ok((manifest, _)) => {
            let age = unix_seconds(now).saturating_sub(manifest.taken_at);
            let found = format!("it checks, and is {} hours old", age / 3_600);
            if age > BACKUP_WARNING.as_secs() {
                Check::new(NAME, Verdict::Warning, found, remedy)
            } else {
                Check::good(NAME, found)
            }
        }
        Err(error) => Check::new(NAME, Verdict::Bad, error.to_string(), remedy),
    }
}

/// Checks an authority that runs, by what it says of itself
pub fn check_running(
    ca: &CaStatus,
    revocation: &RevocationStatus,
    signer: Option<&SignerStatus>,
    now: SystemTime,
) -> Vec<Check> {
    let mut checks = vec![
        match &ca.not_issuing {
            None => Check::good("issuing", format!("{} certificates so far", ca.issued)),
            Some(reason) => Check::new(
                "issuing",
                Verdict::Bad,
                reason.clone(),
                "what stops it is named; the authority's log has more",
            ),
        },
        check_log(ca, now),
        check_deny_list(revocation, now),
        check_crls(revocation, now),
        match &revocation.high_water_problem {
            None => Check::good("highest_state_written", "it is"),
            Some(error) => Check::new(
                "highest_state_written",
                Verdict::Bad,
                error.clone(),
                "make room, or mend the disk it lies on: a restore could un-revoke meanwhile",
            ),
        },
        check_records(ca),
        check_load(ca),
    ];
    if let Some(signer) = signer {
        checks.push(check_signer(signer));
    }
    checks
}

fn check_log(ca: &CaStatus, now: SystemTime) -> Check {
    const NAME: &str = "transparency_log";
    if let Some(problem) = &ca.log_problem {
        return Check::new(
            NAME,
            Verdict::Bad,
            problem.clone(),
            "`stoqctl log fsck` shows what is wrong; nothing is published meanwhile",
        );
    }
    let now_ms = unix_seconds(now).saturating_mul(1_000);
    let age_ms = ca.log_published_ms.map(|at| now_ms.saturating_sub(at));
    let waiting = ca.log_entries.saturating_sub(ca.log_published);
    if waiting > 0 && age_ms.is_none_or(|age| age > CHECKPOINT_WARNING_MS) {
        return Check::new(
            NAME,
            Verdict::Warning,
            format!("{waiting} entries have waited for a checkpoint for more than 10 s"),
            "look at the signer and at the disk of the log",
        );
    }
    Check::good(NAME, format!("{} entries, {waiting} of them unpublished", ca.log_entries))
}

fn check_deny_list(revocation: &RevocationStatus, now: SystemTime) -> Check {
    const NAME: &str = "deny_list";
    let remedy = "look at the signer; nodes refuse new connections once their list is too old";
    let now = unix_seconds(now);
    if let Some(problem) = &revocation.problem {
        return Check::new(NAME, Verdict::Bad, problem.clone(), remedy);
    }
    if revocation.epoch == 0 || revocation.next_update < now {
        return Check::new(NAME, Verdict::Bad, "it was not issued in time", remedy);
    }
    let age = now.saturating_sub(revocation.issued_at);
    Check::good(
        NAME,
        format!("epoch {}, {} entries, {age} s old", revocation.epoch, revocation.entries),
    )
}

fn check_crls(revocation: &RevocationStatus, now: SystemTime) -> Check {
    const NAME: &str = "crls";
    let remedy =
        "look at the signer; whoever relies on CRLs refuses certificates once they are too old";
    let now = unix_seconds(now);
    let late = revocation.crls.iter().filter(|crl| crl.next_update < now).count();
    match revocation.crls.len() {
        0 => Check::new(NAME, Verdict::Bad, "none was issued", remedy),
        _ if late > 0 => Check::new(NAME, Verdict::Bad, format!("{late} are out of date"), remedy),
        count => Check::good(NAME, format!("{count}, all in date")),
    }
}

fn check_records(ca: &CaStatus) -> Check {
    const NAME: &str = "inventory";
    match ca.records_sequence {
        None => Check::new(
            NAME,
            Verdict::Warning,
            "this authority keeps none",
            "configure records: without them nothing can be found or revoked by name",
        ),
        Some(at) if ca.journal_sequence.saturating_sub(at) > RECORDS_WARNING => Check::new(
            NAME,
            Verdict::Warning,
            format!("{} entries behind the journal", ca.journal_sequence - at),
            "look at the disk or the cluster that holds the records",
        ),
        Some(at) => Check::good(
            NAME,
            format!("{} entries behind the journal", ca.journal_sequence.saturating_sub(at)),
        ),
    }
}

fn check_load(ca: &CaStatus) -> Check {
    const NAME: &str = "load";
    let found = format!("{} of {} requests under way", ca.in_flight, ca.in_flight_limit);
    if ca.in_flight * 10 > ca.in_flight_limit * 9 {
        return Check::new(
            NAME,
            Verdict::Warning,
            found,
            "requests are refused with a hint when to come again; add an authority if this lasts",
        );
    }
    Check::good(NAME, found)
}

fn check_signer(signer: &SignerStatus) -> Check {
    const NAME: &str = "signer";
    if !signer.healthy {
        let error = signer.last_error.clone().unwrap_or_else(|| "its self-test failed".into());
        return Check::new(
            NAME,
            Verdict::Bad,
            error,
            "look at the token or the signing process; `stoqctl signer status` says more",
        );
    }
    Check::good(
        NAME,
        format!(
            "{}, {} keys, {} of {} requests waiting",
            signer.backend,
            signer.keys.len(),
            signer.queued,
            signer.queue_limit
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::UNIX_EPOCH;

    use super::*;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn a_place_without_an_authority_is_bad_everywhere_and_each_check_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let places = Places {
            directory: directory.path().join("ca"),
            high_water: directory.path().join("high-water.json"),
            backup: Some(directory.path().join("backup")),
        };
        let checks = check_files(&places, now());
        let names: BTreeSet<_> = checks.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), checks.len(), "no two checks share a name");
        assert_eq!(worst(&checks), Verdict::Bad);
        for check in checks {
            assert_eq!(check.verdict, Verdict::Bad, "{check:?}");
            assert!(!check.remedy.is_empty() && !check.found.is_empty(), "{check:?}");
        }
    }

    #[test]
    fn a_sound_journal_is_good_and_one_that_is_behind_is_not() {
        use stoq_store::journal::Journal;
        let root = tempfile::tempdir().unwrap();
        let places = Places {
            directory: root.path().join("ca"),
            high_water: root.path().join("high-water.json"),
            backup: None,
        };
        crate::files::create_directory(&places.directory).unwrap();
        Journal::create(&places.directory.join("journal")).unwrap();
        let verdict = |name: &str| {
            let checks = check_files(&places, now());
            checks.iter().find(|check| check.name == name).unwrap().verdict
        };
        assert_eq!(verdict("directory"), Verdict::Good);
        assert_eq!(verdict("journal"), Verdict::Good);
        assert_eq!(verdict("highest_state"), Verdict::Warning);
        assert_eq!(verdict("backup"), Verdict::Warning);
        assert_eq!(verdict("issuing_certificate"), Verdict::Bad);
        let (replay, _) = Replay::inspect(&places.directory.join("journal")).unwrap();
        let mut seen = super::super::HighWater::of("alpha", &replay);
        HighWaterFile::open(&places.high_water).unwrap().grow(&seen).unwrap();
        assert_eq!(verdict("highest_state"), Verdict::Good);
        seen.sequence = 7;
        HighWaterFile::open(&places.high_water).unwrap().grow(&seen).unwrap();
        assert_eq!(verdict("highest_state"), Verdict::Bad);
    }

    #[test]
    fn a_list_that_is_late_or_stalled_is_bad() {
        let seconds = unix_seconds(now());
        let fresh = RevocationStatus {
            epoch: 3,
            issued_at: seconds - 10,
            next_update: seconds + 900,
            ..RevocationStatus::default()
        };
        assert_eq!(check_deny_list(&fresh, now()).verdict, Verdict::Good);
        assert_eq!(check_crls(&fresh, now()).verdict, Verdict::Bad);
        let late = RevocationStatus { next_update: seconds - 1, ..fresh.clone() };
        assert_eq!(check_deny_list(&late, now()).verdict, Verdict::Bad);
        let stalled = RevocationStatus { problem: Some("no signer".into()), ..fresh };
        assert_eq!(check_deny_list(&stalled, now()).verdict, Verdict::Bad);
    }
}
