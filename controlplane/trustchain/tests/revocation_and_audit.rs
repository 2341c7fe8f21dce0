//! Revocation and audit on a whole authority: what is revoked is refused by the authority itself, named in the CRL
//! that the certificate points to, and stays so; the audit log's head is in the transparency log.

mod ca_common;

use std::sync::Arc;
use std::time::Duration;

use ca_common::{Running, key, of_certificate, request};
use stoq_store::named_thread;
use stoq_store::records::{SqliteOptions, SqliteRecords};
use stoq_trustchain::audit::{self, AnchorError, AuditEvent, AuditKind, AuditLog};
use stoq_trustchain::ca::inventory::{Inventory, InventoryQuery};
use stoq_trustchain::ca::replay::Replay;
use stoq_trustchain::ca::revoke::{
    RevocationSettings, Revocations, RevokeRequest, RevokeTarget, read_journal,
};
use stoq_trustchain::ca::{Ca, Refusal};
use stoq_trustchain::log::LogEntry;
use stoq_trustchain::revocation::crl::Sharding;
use stoq_trustchain::revocation::{Reason, SerialNumber};
use x509_parser::prelude::FromDer;

fn records(running: &std::path::Path) -> Arc<SqliteRecords> {
    let path = running.join("records");
    Arc::new(SqliteRecords::open(&path, SqliteOptions::default(), &named_thread).unwrap())
}

/// Begins audit and revocation beside an authority that was just opened
fn beside(ca: &Ca, replay: Replay, high_water: std::path::PathBuf) -> (AuditLog, Revocations) {
    let clock = ca.clone();
    let audit =
        AuditLog::start(Arc::new(ca.clone()), replay.audit.clone(), Arc::new(move || clock.now()));
    let settings = RevocationSettings {
        tick: Duration::from_millis(5),
        crl_pause: Duration::ZERO,
        ..RevocationSettings::new(Sharding::DEFAULT, "http://[::1]:8080/crl/".into(), high_water)
    };
    let revocations = Revocations::start(ca, audit.clone(), replay, settings, None).unwrap();
    (audit, revocations)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revoked_is_refused_listed_where_the_certificate_says_and_stays_revoked() {
    let place = tempfile::tempdir().unwrap();
    let high_water = place.path().join("high-water.json");
    let kept = records(place.path());
    let running = Running::with(|_| {}, |parts| parts.records = Some(kept.clone()));
    let journal = running.directory.path().join("ca").join("journal");
    let replay = read_journal(&journal, &high_water, false).unwrap();
    let (audit, revocations) = beside(&running.ca, replay, high_water.clone());
    let (_, issued) = running.enrol("beta").await;
    let (_, other) = running.enrol("gamma").await;

    let serial = SerialNumber::from_text(&issued.serial).unwrap();
    let receipt = revocations
        .revoke(RevokeRequest {
            target: RevokeTarget::Name("beta".into()),
            reason: Reason::KeyCompromise,
            with_key: false,
            revoked_by: "operator:test".into(),
        })
        .await
        .unwrap();
    assert_eq!(receipt.items.len(), 1);
    assert_eq!(receipt.items[0].serial.as_deref(), Some(issued.serial.as_str()));

    // The authority itself: a revoked certificate renews nothing, another one does.
    let renewal = |issued| request("node", &key(), of_certificate(issued));
    let refused = running.ca.issue(renewal(&issued)).await.unwrap_err();
    assert!(matches!(refused, Refusal::Revoked), "{refused}");
    running.ca.issue(renewal(&other)).await.unwrap();

    // The CRL that the certificate names
    let (_, parsed) =
        x509_parser::certificate::X509Certificate::from_der(&issued.certificate_der).unwrap();
    let text = format!("{:?}", parsed.extensions());
    let at = text.find("http://[::1]:8080/crl/").unwrap();
    let name = &text[at + "http://[::1]:8080/crl/".len()..];
    let name = &name[..name.find(".crl").unwrap() + ".crl".len()];
    let mut crls = revocations.crls();
    let listed = crls.wait_for(|_| {
        revocations.crl_by_name(name).is_some_and(|list| {
            let (_, list) =
                x509_parser::revocation_list::CertificateRevocationList::from_der(&list.der)
                    .unwrap();
            let mut revoked = list.iter_revoked_certificates();
            revoked.any(|it| it.serial().to_bytes_be() == serial.as_bytes())
        })
    });
    tokio::time::timeout(Duration::from_secs(120), listed).await.unwrap().unwrap();

    // The inventory
    let inventory = Inventory::of(&running.ca).unwrap();
    let query = InventoryQuery { serial: Some(issued.serial.clone()), ..Default::default() };
    let page = inventory.find(&query, running.ca.now()).await.unwrap();
    assert_eq!(page.rows[0].state, "revoked");

    // And after a restart
    let status = revocations.status();
    drop((audit, revocations, inventory));
    running.ca.close().await.unwrap();
    let replay = read_journal(&journal, &high_water, false).unwrap();
    assert!(replay.deny_list.epoch >= status.epoch);
    let (settings, mut parts) = running.again();
    parts.records = Some(kept);
    let (ca, _) = ca_common::open(settings, parts).unwrap();
    let refused = ca.issue(renewal(&issued)).await.unwrap_err();
    assert!(matches!(refused, Refusal::Revoked), "{refused}");
    let (_audit, revocations) = beside(&ca, replay, high_water);
    let next = revocations.reached(status.epoch + 1).await.unwrap();
    assert_eq!(next.mark.live, 1);
    ca.close().await.unwrap();
}

/// An entry of the log as its public files have it
fn entry(ca: &Ca, index: u64) -> Option<LogEntry> {
    let size = ca.checkpoint().borrow().as_ref().map(|head| head.head().size)?;
    assert!(size < 256, "one partial tile has all");
    let path = format!("tile/data/000.p/{size}");
    let tile = ca.log_file(&path).unwrap()?;
    LogEntry::decode_all(&tile.bytes).unwrap().into_iter().nth(usize::try_from(index).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_head_of_the_audit_log_is_in_the_transparency_log() {
    let running = Running::new();
    let ca = &running.ca;
    let clock = ca.clone();
    let audit =
        AuditLog::start(Arc::new(ca.clone()), Default::default(), Arc::new(move || clock.now()));
    for number in 0..5 {
        let event = AuditEvent::done(AuditKind::TokenCreated, "operator:test", "node");
        audit.record(event.with("number", number)).await.unwrap();
    }
    let anchored = audit::anchor(ca, &audit).await.unwrap();
    assert_eq!((anchored.head.count, audit.head().count, audit.anchored()), (5, 6, 5));
    audit.record(AuditEvent::done(AuditKind::Stopped, "authority", "alpha")).await.unwrap();
    // It is an entry like any other, and under a published checkpoint by the time that the audit log says so.
    let proof = ca.inclusion_proof(anchored.leaf_index, Duration::ZERO).await.unwrap();
    assert!(proof.is_some());
    assert!(ca.registrations().is_empty(), "the name was good for this alone");

    let journal = running.directory.path().join("ca").join("journal");
    let mut lines: Vec<Vec<u8>> = Vec::new();
    let head = audit::export(&journal, |_, line| {
        lines.push(line.to_vec());
        Ok(())
    });
    assert_eq!(head.unwrap(), audit.head());
    let verify = |lines: &[Vec<u8>]| {
        audit::verify_anchors(lines.iter().map(Vec::as_slice), |index| entry(ca, index))
    };
    let (head, holding) = verify(&lines).unwrap();
    assert_eq!((head.count, holding), (7, 1));
    // Another index of the log is no anchor.
    let elsewhere = audit::verify_anchors(lines.iter().map(Vec::as_slice), |_| {
        entry(ca, anchored.leaf_index + 1)
    });
    assert!(matches!(elsewhere, Err(AnchorError::NotInLog { .. })), "{elsewhere:?}");
    let text = String::from_utf8(lines[2].clone()).unwrap();
    lines[2] = text.replace("operator:test", "operator:none").into_bytes();
    assert!(verify(&lines).is_err());
    ca.close().await.unwrap();
}
