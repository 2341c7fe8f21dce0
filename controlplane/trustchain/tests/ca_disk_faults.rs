//! A whole authority on a disk that fails while it issues: it says so, it delivers nothing that is not durable, and
//! once the disk is good again everything it has delivered is there, in the journal, in the log and at its place.

#![forbid(unsafe_code)]

mod ca_common;
#[path = "../../store/tests/common/mod.rs"]
mod store_common;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ca_common::*;
use stoq_store::journal::{self, Journal, Options};
use stoq_store::named_thread;
use stoq_trustchain::ca::{Ca, CaStatus, Entry, IssuedCertificate, Refusal, fsck};
use stoq_trustchain::chain::Usage;
use stoq_trustchain::log::sct::key_hash;
use store_common::{EIO, ENOSPC, FaultyDisk, Step};

/// Requests under way at one time
const TASKS: usize = 8;
/// Time until a proof or a state that only a defect could keep away
const PATIENCE: Duration = Duration::from_secs(60);
/// Time a request waits for its group: with a full disk all of it
const COMMIT_PATIENCE: Duration = Duration::from_millis(300);

/// An authority whose journal is on the faulty disk
struct Scene {
    running: Running,
    disk: FaultyDisk,
    delivered: Arc<Mutex<Vec<IssuedCertificate>>>,
    refused: Arc<Mutex<Vec<Refusal>>>,
}

impl Scene {
    async fn start() -> Self {
        let running = Running::new();
        running.ca.register(registration("node", "alpha", None)).await.unwrap();
        running.ca.close().await.unwrap();
        let disk = FaultyDisk::default();
        let (mut settings, parts) = running.again();
        settings.limits.commit_patience = COMMIT_PATIENCE;
        let (ca, _) = Ca::open_on(disk.clone(), settings, parts, &named_thread).unwrap();
        let running = Running { ca, ..running };
        Self { running, disk, delivered: Arc::default(), refused: Arc::default() }
    }

    fn ca(&self) -> &Ca {
        &self.running.ca
    }

    fn delivered(&self) -> usize {
        self.delivered.lock().unwrap().len()
    }

    fn refusals(&self) -> Vec<Refusal> {
        std::mem::take(&mut self.refused.lock().unwrap())
    }

    /// Issues from several tasks until so many are delivered, or until one is refused for good. Who is told to come
    /// again comes again.
    async fn load(&self, until_delivered: Option<usize>) {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| {
                let (ca, stop) = (self.ca().clone(), stop.clone());
                let (delivered, refused) = (self.delivered.clone(), self.refused.clone());
                tokio::spawn(async move {
                    while !stop.load(Ordering::Acquire) {
                        let mut asked = request("node", &key(), operator());
                        asked.subject = Some("alpha".into());
                        let enough = match ca.issue(asked).await {
                            Ok(issued) => {
                                let mut delivered = delivered.lock().unwrap();
                                delivered.push(issued);
                                until_delivered.is_some_and(|enough| delivered.len() >= enough)
                            }
                            Err(Refusal::Busy { .. }) => false,
                            Err(refusal) => {
                                refused.lock().unwrap().push(refusal);
                                true
                            }
                        };
                        if enough {
                            stop.store(true, Ordering::Release);
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }

    /// Opens it again on a good disk and asks it, and the files, about everything that was delivered
    async fn all_there(self) {
        let (settings, parts) = self.running.again();
        let (ca, _) = open(settings, parts).unwrap();
        let now = self.running.clock.now();
        let delivered = self.delivered.lock().unwrap().clone();
        let (mut places, mut serials) = (HashSet::new(), HashSet::new());
        let issuer = key_hash(ca.authority().certificate_der()).unwrap();
        for issued in &delivered {
            assert_eq!(ca.leaf_index(&issued.serial), Some(issued.leaf_index));
            assert!(places.insert(issued.leaf_index) && serials.insert(&issued.serial));
            accept(&ca, issued, Usage::Client, now);
            let proof = ca.inclusion_proof(issued.leaf_index, PATIENCE).await.unwrap();
            let proof = proof.expect("what was delivered is in the published log");
            proof.verify_certificate(&issued.certificate_der, &issuer, ca.log(), u64::MAX).unwrap();
        }
        // It works again, and goes on where it was.
        let mut asked = request("node", &key(), operator());
        asked.subject = Some("alpha".into());
        let next = ca.issue(asked).await.unwrap();
        assert!(places.insert(next.leaf_index) && serials.insert(&next.serial));
        let log = ca.log().clone();
        ca.close().await.unwrap();
        let directory = self.running.directory.path();
        let books = directory.join("ca/journal");
        let report = journal::fsck(&books).unwrap();
        assert!(report.is_sound() && report.torn_tail.is_none(), "{report:?}");
        let mut written = HashSet::new();
        let (journal, _) = Journal::open(&books, Options::default(), &named_thread, |entry| {
            if let Entry::Issued(issued) = Entry::decode(entry.kind, entry.payload)? {
                assert!(written.insert(issued.serial), "a serial number twice in the journal");
            }
            Ok(())
        })
        .unwrap();
        assert!(written.len() > delivered.len());
        let report = fsck(&directory.join("ca/log"), &log, Some(&journal));
        assert!(report.is_sound(), "{:?}", report.errors);
        assert_eq!(report.entries, written.len() as u64);
        journal.close().await.unwrap();
    }
}

/// Looks at the status until it is so: nothing announces it
async fn until(scene: &Scene, what: &str, holds: impl Fn(&CaStatus) -> bool) {
    let looking = async {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while !holds(&scene.ca().status()) {
            look.tick().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, looking).await;
    assert!(waited.is_ok(), "{what}: {:?}", scene.ca().status());
}

/// After an error that leaves the disk's content unknown: over until a restart, whatever the disk does by then
async fn is_over(scene: &Scene, word: &str) {
    let first = scene.refusals();
    assert!(!first.is_empty());
    for refusal in &first {
        assert!(matches!(refusal, Refusal::Stopped(_)), "{refusal}");
        assert!(refusal.to_string().contains("stopped"), "{refusal}");
    }
    let reason = scene.ca().status().not_issuing.expect("it says that it does not issue");
    assert!(reason.contains(word) && reason.contains("accepts nothing more"), "{reason}");
    scene.disk.heal();
    let delivered = scene.delivered();
    scene.load(None).await;
    assert_eq!(scene.delivered(), delivered, "it issues after its journal has failed");
    let revoking = scene.ca().append(vec![Entry::Revoked(Default::default())]).await;
    assert!(matches!(revoking, Err(Refusal::Stopped(_))), "{revoking:?}");
    let closed = scene.ca().close().await.unwrap_err();
    assert!(closed.to_string().contains(word), "{closed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_the_disk_is_the_end_until_a_restart_and_nothing_delivered_is_lost() {
    let faults = [
        (Step::SyncData, EIO, 0, "fdatasync"),
        (Step::SyncData, EIO, 5, "fdatasync"),
        (Step::SyncData, ENOSPC, 3, "fdatasync"),
        (Step::WriteAt, EIO, 4, "writing"),
    ];
    for (step, errno, groups, word) in faults {
        let scene = Scene::start().await;
        scene.load(Some(20)).await;
        scene.disk.fail(step, groups, errno);
        scene.load(None).await;
        is_over(&scene, word).await;
        assert!(scene.delivered() >= 20);
        scene.all_there().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_and_ends_by_itself_without_a_restart() {
    // Space for nothing, for a part of a group, and for some groups
    for spare in [0, 100, 20_000] {
        let scene = Scene::start().await;
        scene.load(Some(10)).await;
        scene.disk.set_space(spare);
        scene.load(None).await;
        let refused = scene.refusals();
        assert!(!refused.is_empty());
        for refusal in &refused {
            assert!(matches!(refusal, Refusal::NoSpace), "{refusal}");
        }
        let reason = scene.ca().status().not_issuing.expect("it says that it does not issue");
        assert!(reason.contains("disk is full"), "{reason}");
        let before = scene.delivered();
        scene.disk.heal();
        // What waited is written when there is space.
        until(&scene, "it issues again", |status| status.not_issuing.is_none()).await;
        scene.load(Some(before + 20)).await;
        assert_eq!(scene.refusals().len(), 0);
        scene.ca().close().await.unwrap();
        scene.all_there().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_stops_the_authority_and_is_made_good_by_a_restart() {
    let scene = Scene::start().await;
    scene.load(Some(10)).await;
    until(&scene, "it is published", |status| status.log_published == status.log_entries).await;
    // The public files lie on another disk, which goes away: a file stands where their directory was.
    let log = scene.running.directory.path().join("ca/log");
    let aside = scene.running.directory.path().join("ca/log.aside");
    std::fs::rename(&log, &aside).unwrap();
    std::fs::write(&log, b"").unwrap();
    scene.load(None).await;
    let refused = scene.refusals();
    assert!(!refused.is_empty());
    assert!(refused.iter().all(|one| matches!(one, Refusal::Stopped(_))), "{refused:?}");
    let status = scene.ca().status();
    assert!(status.log_problem.is_some(), "{status:?}");
    assert!(status.not_issuing.is_some_and(|why| why.contains("cannot be published")));
    assert!(scene.ca().close().await.is_err());
    std::fs::remove_file(&log).unwrap();
    std::fs::rename(&aside, &log).unwrap();
    // Delivered before and after the files were gone: the journal had all of it first.
    scene.all_there().await;
}
