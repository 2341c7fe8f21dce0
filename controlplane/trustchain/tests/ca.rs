//! The authority as a service, through its handle: who gets what, what every certificate carries, what a restart
//! remembers, and what it refuses to start with.

#![forbid(unsafe_code)]

mod ca_common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ca_common::*;
use stoq_store::journal::OpenError;
use stoq_store::named_thread;
use stoq_store::records::{CertificateQuery, SqliteOptions, SqliteRecords};
use stoq_trustchain::ca::entry::Revoked;
use stoq_trustchain::ca::{
    Activation, Agreeing, CaError, Consensus, ConsensusProof, Entry, Follower, Limits, Mode,
    NotAgreed, Profiles, Refusal, ToAgree,
};
use stoq_trustchain::chain::Usage;
use stoq_trustchain::log::recovery::StartError;
use stoq_trustchain::log::sct::key_hash;
use stoq_trustchain::rotation::RenewalWindow;
use stoq_trustchain::{certificate, csr};
use x509_parser::extensions::{GeneralName, ParsedExtension};

const HOUR: Duration = Duration::from_secs(3_600);
/// Time until what only a defect could keep away
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_enrols_and_everybody_can_check_what_it_got() {
    let running = Running::new();
    let (_, issued) = running.enrol("beta").await;
    let ca = &running.ca;
    for usage in [Usage::Server, Usage::Client] {
        accept(ca, &issued, usage, running.clock.now());
    }
    let proof = ca.inclusion_proof(issued.leaf_index, PATIENCE).await.unwrap().unwrap();
    let issuer = key_hash(&issued.issuing_der).unwrap();
    let head = proof.verify_certificate(&issued.certificate_der, &issuer, ca.log(), u64::MAX);
    assert!(head.unwrap().head.size > issued.leaf_index);
    let leaf = certificate::parse(&issued.certificate_der).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    let loopback = std::net::Ipv6Addr::LOCALHOST.octets();
    assert_eq!(
        names,
        [
            GeneralName::DNSName("beta.nodes.hypermesh"),
            GeneralName::IPAddress(&loopback),
            GeneralName::URI("spiffe://hypermesh/node/beta"),
        ]
    );
    let key_id = ca.authority().key_id().to_string();
    let mut seen = 0;
    for extension in leaf.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::CRLDistributionPoints(points) => {
                let text = format!("{points:?}");
                assert!(text.contains(&format!("http://[::1]:8080/crl/{key_id}-")), "{text}");
                seen += 1;
            }
            ParsedExtension::AuthorityInfoAccess(access) => {
                let text = format!("{access:?}");
                assert!(text.contains(&format!("http://[::1]:8080/ca/{key_id}.crt")), "{text}");
                seen += 1;
            }
            _ => {}
        }
    }
    assert_eq!(seen, 2);
    let nodes = ca.nodes();
    assert_eq!((nodes.len(), nodes[0].serial.as_str()), (1, issued.serial.as_str()));
    assert_eq!(nodes[0].address, "[::1]:9444".parse().unwrap());
    assert_eq!(ca.leaf_index(&issued.serial), Some(issued.leaf_index));
    running.ca.close().await.unwrap();
}

#[tokio::test]
async fn the_same_request_gets_the_same_certificate_also_of_a_used_token_and_after_a_restart() {
    let running = Running::new();
    let (token, node_key) = (running.token("beta"), key());
    let first = request("node", &node_key, of_token(&token));
    let issued = running.ca.issue(first.clone()).await.unwrap();
    let again = running.ca.issue(first.clone()).await.unwrap();
    assert!(again.repeated && again.certificate_der == issued.certificate_der);
    // Another request with the same token is another use.
    let other = request("node", &key(), of_token(&token));
    let refused = running.ca.issue(other.clone()).await.unwrap_err();
    assert!(matches!(refused, Refusal::TokenUsed), "{refused}");
    let mut wrong = of_token(&token);
    if let stoq_trustchain::ca::Credential::Token { secret, .. } = &mut wrong {
        secret[0] ^= 1;
    }
    let refused = running.ca.issue(request("node", &node_key, wrong)).await.unwrap_err();
    assert!(matches!(refused, Refusal::TokenUnknown), "{refused}");
    let entries = running.ca.status().log_entries;
    let running = running.reopen().await;
    // The SCT may be signed anew; it is the same entry, serial number and key.
    let again = running.ca.issue(first.clone()).await.unwrap();
    assert!(again.repeated);
    assert_eq!((&again.serial, again.leaf_index), (&issued.serial, issued.leaf_index));
    accept(&running.ca, &again, Usage::Client, running.clock.now());
    assert_eq!(running.ca.issue(first).await.unwrap().certificate_der, again.certificate_der);
    let refused = running.ca.issue(other).await.unwrap_err();
    assert!(matches!(refused, Refusal::TokenUsed), "{refused}");
    assert_eq!(running.ca.status().log_entries, entries);
    running.ca.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_with_one_token_one_enrols_and_one_request_is_one_certificate() {
    let running = Running::new();
    let token = running.token("beta");
    let requests: Vec<_> = (0..16).map(|_| request("node", &key(), of_token(&token))).collect();
    let ask = |request| {
        let ca = running.ca.clone();
        tokio::spawn(async move { ca.issue(request).await })
    };
    let (mut issued, mut used) = (0, 0);
    for task in requests.into_iter().map(ask).collect::<Vec<_>>() {
        match task.await.unwrap() {
            Ok(_) => issued += 1,
            Err(Refusal::TokenUsed) => used += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!((issued, used), (1, 15));
    running.ca.register(registration("node", "alpha", None)).await.unwrap();
    let mut one = request("node", &key(), operator());
    one.subject = Some("alpha".into());
    let tasks: Vec<_> = (0..16).map(|_| ask(one.clone())).collect();
    let mut certificates = Vec::new();
    for task in tasks {
        certificates.push(task.await.unwrap().unwrap().certificate_der);
    }
    certificates.dedup();
    assert_eq!(certificates.len(), 1);
    assert_eq!(running.ca.status().log_entries, 2);
    running.ca.close().await.unwrap();
}

#[tokio::test]
async fn a_successor_begins_where_the_present_one_gives_way() {
    let running = Running::new();
    let (_, first) = running.enrol("beta").await;
    let issued_at = running.clock.now();
    running.clock.advance(16 * HOUR);
    let mut renewal = request("node", &key(), of_certificate(&first));
    renewal.activation = Activation::Successor;
    let second = running.ca.issue(renewal.clone()).await.unwrap();
    let backdate = Duration::from_secs(300);
    let start = second.not_before.duration_since(issued_at).unwrap();
    // Exactly what would have been issued at 23 h, to the whole second
    assert!((23 * HOUR - backdate).abs_diff(start) <= Duration::from_secs(1), "{start:?}");
    assert_eq!(second.not_before, first.not_before + 23 * HOUR);
    let lifetime = second.not_after.duration_since(second.not_before).unwrap();
    assert_eq!(lifetime.as_secs(), 24 * 3_600 - 1);
    // Its window counts from its own start, and the present one says when it should be renewed.
    let window = running.ca.renewal_information(&first.serial).unwrap().window;
    assert_eq!(window.start, first.not_before + 16 * HOUR);
    assert_eq!(window.end, first.not_before + 17 * HOUR);
    assert_eq!(second.window.start, second.not_before + 16 * HOUR);
    // Not yet in force, it opens no door.
    let refused = running.ca.issue(request("node", &key(), of_certificate(&second))).await;
    assert!(matches!(refused, Err(Refusal::Unauthenticated(_))), "{refused:?}");
    running.ca.close().await.unwrap();
}

#[tokio::test]
async fn an_early_renewal_is_for_now_and_one_that_is_late_as_well() {
    let running = Running::new();
    let (_, first) = running.enrol("beta").await;
    running.clock.advance(HOUR);
    for wait in [Duration::ZERO, 22 * HOUR + HOUR / 2] {
        running.clock.advance(wait);
        let mut renewal = request("node", &key(), of_certificate(&first));
        renewal.activation = Activation::Successor;
        let second = running.ca.issue(renewal).await.unwrap();
        let backdated = running.clock.now().duration_since(second.not_before).unwrap();
        assert!((300..=302).contains(&backdated.as_secs()), "{backdated:?}");
    }
    running.ca.close().await.unwrap();
}

#[tokio::test]
async fn after_the_end_the_enrolled_key_is_good_for_a_week_and_the_certificate_is_not() {
    let running = Running::new();
    let (enrolled, first) = running.enrol("beta").await;
    running.clock.advance(30 * HOUR);
    let ask = |request| running.ca.issue(request);
    let ended = ask(request("node", &key(), of_certificate(&first))).await;
    assert!(matches!(ended, Err(Refusal::Unauthenticated(_))), "{ended:?}");
    let fresh = key();
    let now = running.clock.now();
    let stranger = ask(by_enrolled_key("beta", &key(), &fresh, now)).await;
    assert!(matches!(stranger, Err(Refusal::Unauthenticated(_))), "{stranger:?}");
    let stale = ask(by_enrolled_key("beta", &enrolled, &fresh, now - HOUR)).await;
    assert!(matches!(stale, Err(Refusal::Unauthenticated(_))), "{stale:?}");
    // The statement is for its request and no other.
    let mut moved = by_enrolled_key("beta", &enrolled, &fresh, now);
    moved.csr_der = csr::request(&key()).unwrap();
    assert!(matches!(ask(moved).await, Err(Refusal::Unauthenticated(_))));
    let back = ask(by_enrolled_key("beta", &enrolled, &fresh, now)).await.unwrap();
    accept(&running.ca, &back, Usage::Client, running.clock.now());
    assert_eq!(running.ca.node(&node("beta")).unwrap().serial, back.serial);
    running.clock.advance(9 * 24 * HOUR);
    let late = ask(by_enrolled_key("beta", &enrolled, &key(), running.clock.now())).await;
    assert!(matches!(late, Err(Refusal::Unauthenticated(_))), "{late:?}");
    running.ca.close().await.unwrap();
}

#[tokio::test]
async fn names_come_from_the_registry_and_only_to_their_owner() {
    let running = Running::new();
    let ca = &running.ca;
    let (_, beta) = running.enrol("beta").await;
    let (_, gamma) = running.enrol("gamma").await;
    let service = |credential| {
        let mut service = request("service", &key(), credential);
        service.subject = Some("shop".into());
        service
    };
    let refused = ca.issue(service(of_certificate(&beta))).await.unwrap_err();
    assert!(matches!(refused, Refusal::NotRegistered { .. }), "{refused}");
    let mut shop = registration("service", "shop", Some("beta"));
    shop.alternative_names = true;
    shop.addresses = vec!["fd77::5".parse().unwrap()];
    ca.register(shop.clone()).await.unwrap();
    let refused = ca.issue(service(of_certificate(&gamma))).await.unwrap_err();
    assert!(matches!(refused, Refusal::NotPermitted(_)), "{refused}");
    let issued = ca.issue(service(of_certificate(&beta))).await.unwrap();
    accept(ca, &issued, Usage::Server, running.clock.now());
    let leaf = certificate::parse(&issued.certificate_der).unwrap();
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(names.contains(&GeneralName::DNSName("api.shop.services.hypermesh")), "{names:?}");
    // A service renews its own certificate, and is nobody's owner.
    ca.issue(request("service", &key(), of_certificate(&issued))).await.unwrap();
    let mut other = request("node", &key(), of_certificate(&issued));
    other.subject = Some("gamma".into());
    assert!(matches!(ca.issue(other).await, Err(Refusal::NotPermitted(_))));
    // One key, one holder.
    let shared = key();
    ca.issue(request("node", &shared, of_certificate(&beta))).await.unwrap();
    let refused = ca.issue(request("node", &shared, of_certificate(&gamma))).await.unwrap_err();
    assert!(matches!(refused, Refusal::KeyInUse), "{refused}");
    // An asset speaks and is not spoken to.
    ca.register(registration("asset", "7", Some("beta"))).await.unwrap();
    let mut asset = request("asset", &key(), of_certificate(&beta));
    asset.subject = Some("7".into());
    let asset = ca.issue(asset).await.unwrap();
    accept(ca, &asset, Usage::Client, running.clock.now());
    let server = stoq_trustchain::chain::check_leaf(
        &asset.certificate_der,
        &asset.issuing_der,
        &asset.root_der,
        Usage::Server,
        running.clock.now(),
    );
    assert!(server.is_err());
    assert!(ca.unregister("service", "shop").await.unwrap());
    assert!(!ca.unregister("service", "shop").await.unwrap());
    let refused = ca.issue(service(of_certificate(&beta))).await.unwrap_err();
    assert!(matches!(refused, Refusal::NotRegistered { .. }), "{refused}");
    let running = running.reopen().await;
    let names: Vec<_> = running.ca.registrations().into_iter().map(|one| one.subject).collect();
    assert_eq!(names, ["7", "beta", "gamma"]);
    running.ca.close().await.unwrap();
}

#[tokio::test]
async fn what_the_authority_may_not_name_is_refused_before_it_is_logged() {
    let directory = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    make_authority(directory.path(), "fd77::/48", clock.now());
    let signer = signer(directory.path());
    let settings = settings(directory.path(), clock.clock());
    create(&settings, &signer).unwrap();
    let (ca, _) = open(settings, parts(directory.path(), &signer, clock.now())).unwrap();
    let mut outside = registration("node", "beta", None);
    outside.addresses = vec!["2001:db8::1".parse().unwrap()];
    let refused = ca.register(outside).await.unwrap_err();
    assert!(refused.to_string().contains("2001:db8::1"), "{refused}");
    // A token says more than the authority may: the same.
    let tokens = stoq_trustchain::TokenStore::open(&directory.path().join("tokens")).unwrap();
    let token = tokens.create(&grant("beta"), clock.now()).unwrap();
    let refused = ca.issue(request("node", &key(), of_token(&token))).await.unwrap_err();
    assert!(matches!(refused, Refusal::Malformed(_)), "{refused}");
    let p384 = stoq_trustchain::KeyPair::generate(stoq_trustchain::KeyKind::P384).unwrap();
    ca.register(registration("node", "beta", None)).await.unwrap();
    let mut weak = request("node", &p384, operator());
    weak.subject = Some("beta".into());
    assert!(matches!(ca.issue(weak).await, Err(Refusal::Csr(_))));
    assert_eq!(ca.status().log_entries, 0);
    assert_eq!(ca.status().refused_since_start.len(), 2);
    ca.close().await.unwrap();
}

#[tokio::test]
async fn a_revoked_certificate_or_key_opens_no_door_also_after_a_restart() {
    let running = Running::new();
    let (beta_key, beta) = running.enrol("beta").await;
    let (gamma_key, gamma) = running.enrol("gamma").await;
    let again = running.ca.issue(request("node", &key(), of_certificate(&gamma)));
    let successor = again.await.unwrap();
    let serial = |issued: &stoq_trustchain::ca::IssuedCertificate| {
        certificate::parse(&issued.certificate_der).unwrap().raw_serial().to_vec()
    };
    let ends_at = 1_900_000_000;
    let key_id = running.ca.authority().key_id().as_bytes().to_vec();
    let entries = vec![
        Entry::Revoked(Revoked {
            serial: serial(&gamma),
            issuer_key_id: key_id,
            ends_at,
            ..Revoked::default()
        }),
        Entry::Revoked(Revoked {
            spki_sha256: boring::sha::sha256(&beta_key.spki_der().unwrap()).to_vec(),
            ends_at,
            ..Revoked::default()
        }),
    ];
    let sequence = running.ca.append(entries).await.unwrap();
    assert_eq!(*running.ca.committed().borrow(), sequence + 1);
    let refused = running.ca.append(vec![Entry::Log(vec![1])]).await.unwrap_err();
    assert!(matches!(refused, Refusal::Malformed(_)), "{refused}");
    let running = running.reopen().await;
    for issued in [&beta, &gamma] {
        let refused = running.ca.issue(request("node", &key(), of_certificate(issued))).await;
        assert!(matches!(refused, Err(Refusal::Revoked)), "{refused:?}");
    }
    // Nor is a revoked key certified again, whoever asks, nor good for coming back.
    let refused = running.ca.issue(request("node", &beta_key, of_certificate(&gamma))).await;
    assert!(matches!(refused, Err(Refusal::Revoked)), "{refused:?}");
    let back = by_enrolled_key("beta", &beta_key, &key(), running.clock.now());
    assert!(matches!(running.ca.issue(back).await, Err(Refusal::Revoked)));
    assert_eq!(running.ca.status().revoked, 2);
    // The node is out, with its other certificate and with the key it enrolled with, until it enrols anew.
    let other = running.ca.issue(request("node", &key(), of_certificate(&successor))).await;
    assert!(matches!(other, Err(Refusal::Revoked)), "{other:?}");
    let back = by_enrolled_key("gamma", &gamma_key, &key(), running.clock.now());
    assert!(matches!(running.ca.issue(back).await, Err(Refusal::Revoked)));
    let (enrolled, _) = running.enrol("gamma").await;
    let back = by_enrolled_key("gamma", &enrolled, &key(), running.clock.now());
    running.ca.issue(back).await.unwrap();
    running.ca.close().await.unwrap();
}

/// Agrees to what is signed with the right word
struct Word;

impl ConsensusProof for Word {
    fn verify(&self, asked: ToAgree, _: SystemTime) -> Agreeing {
        let refused = |why: &str| Err(NotAgreed::Refused(why.into()));
        let judged = match asked.proof {
            None if asked.at_hand => Ok(()),
            None => refused("none was shown"),
            Some(proof) if proof == b"later" => Err(NotAgreed::Unavailable("nobody votes".into())),
            Some(proof) if proof == asked.statement => Ok(()),
            Some(_) => refused("it is for something else"),
        };
        Box::pin(std::future::ready(judged))
    }
}

/// Agrees to what is shown to it as "wait" once it is told to, and to everything else at once
#[derive(Default)]
struct Patient {
    asked: tokio::sync::Notify,
    agreed: Arc<tokio::sync::Notify>,
}

impl ConsensusProof for Patient {
    fn verify(&self, asked: ToAgree, _: SystemTime) -> Agreeing {
        if asked.proof.as_deref() != Some(b"wait") {
            return Box::pin(std::future::ready(Ok(())));
        }
        self.asked.notify_one();
        let agreed = Arc::clone(&self.agreed);
        Box::pin(async move {
            agreed.notified().await;
            Ok(())
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_while_validators_are_waited_for_gets_nothing() {
    let judge = Arc::new(Patient::default());
    let required = Consensus::Required(Arc::<Patient>::clone(&judge));
    let running = Running::with(|settings| settings.consensus = required, |_| {});
    let (_, beta) = running.enrol("beta").await;
    let renew = |certificate| {
        let mut asked = request("node", &key(), of_certificate(certificate));
        asked.consensus_proof = Some(b"wait".to_vec());
        let ca = running.ca.clone();
        tokio::spawn(async move { ca.issue(asked).await })
    };
    let renewal = renew(&beta);
    judge.asked.notified().await;
    judge.agreed.notify_one();
    let renewed = renewal.await.unwrap().unwrap();

    let renewal = renew(&renewed);
    judge.asked.notified().await;
    let revoked = Entry::Revoked(Revoked {
        serial: certificate::parse(&renewed.certificate_der).unwrap().raw_serial().to_vec(),
        issuer_key_id: running.ca.authority().key_id().as_bytes().to_vec(),
        ends_at: 1_900_000_000,
        ..Revoked::default()
    });
    running.ca.append(vec![revoked]).await.unwrap();
    judge.agreed.notify_one();
    let refused = renewal.await.unwrap();
    assert!(matches!(refused, Err(Refusal::Revoked)), "{refused:?}");
    running.ca.close().await.unwrap();
}

#[tokio::test]
async fn agreement_is_for_this_key_and_these_names_where_it_is_demanded() {
    let required = Consensus::Required(Arc::new(Word));
    let running = Running::with(|settings| settings.consensus = required, |_| {});
    let (token, node_key) = (running.token("beta"), key());
    let mut asked = request("node", &node_key, of_token(&token));
    let none = running.ca.issue(asked.clone()).await.unwrap_err();
    assert!(matches!(none, Refusal::Consensus(_)), "{none}");
    let names = running.ca.profiles().get("node").unwrap();
    let mut named = registration("node", "beta", None);
    named.addresses = vec!["::1".parse().unwrap()];
    let statement = |key: &stoq_trustchain::KeyPair| {
        let spki = boring::sha::sha256(&key.spki_der().unwrap());
        let names = names.names(&named).unwrap();
        stoq_trustchain::ca::consensus_statement("alpha", "node", "beta", &names, &spki, b"once")
    };
    asked.consensus_proof = Some(statement(&key()).to_vec());
    let foreign = running.ca.issue(asked.clone()).await.unwrap_err();
    assert!(foreign.to_string().contains("something else"), "{foreign}");
    asked.consensus_proof = Some(b"later".to_vec());
    let later = running.ca.issue(asked.clone()).await.unwrap_err();
    assert_eq!(later.code(), "consensus_unavailable");
    assert!(later.retry_after().is_some(), "{later}");
    asked.consensus_proof = Some(statement(&node_key).to_vec());
    running.ca.issue(asked).await.unwrap();
    running.ca.close().await.unwrap();
}

#[tokio::test]
async fn a_full_house_and_an_eager_caller_are_told_when_to_come_again() {
    let limits = Limits {
        identity_burst: 2,
        identity_interval: Duration::from_secs(3_600),
        ..Limits::default()
    };
    let running = Running::with(|settings| settings.limits = limits, |_| {});
    let (_, first) = running.enrol("beta").await;
    for _ in 0..2 {
        running.ca.issue(request("node", &key(), of_certificate(&first))).await.unwrap();
    }
    let refused = running.ca.issue(request("node", &key(), of_certificate(&first))).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, Refusal::Busy { .. }), "{refused}");
    assert!(refused.retry_after().is_some_and(|wait| wait > Duration::ZERO));
    running.ca.set_not_issuing(Some("its key is tainted".into()));
    let refused = running.ca.issue(request("node", &key(), operator())).await.unwrap_err();
    assert!(refused.to_string().contains("tainted"), "{refused}");
    assert!(running.ca.status().not_issuing.is_some());
    running.ca.close().await.unwrap();
    let closed = running.ca.issue(request("node", &key(), operator())).await.unwrap_err();
    assert!(matches!(closed, Refusal::Stopped(_) | Refusal::Busy { .. }), "{closed}");
}

#[tokio::test]
async fn everything_can_be_called_in_to_be_renewed() {
    let running = Running::new();
    let (_, first) = running.enrol("beta").await;
    let start = running.clock.now() + HOUR;
    let window = RenewalWindow { start, end: start + HOUR };
    running.ca.renew_all(window).await.unwrap();
    let running = running.reopen().await;
    let told = running.ca.renewal_information(&first.serial).unwrap().window;
    assert!(told.start.duration_since(start).unwrap_or_default() < Duration::from_secs(1));
    assert!(told.end <= window.end && told.start < told.end);
    // What is issued from now on is not meant.
    let (_, later) = running.enrol("gamma").await;
    assert_eq!(later.window.start, later.not_before + 16 * HOUR);
    assert_eq!(running.ca.renewal_information("00ff"), None);
    running.ca.close().await.unwrap();
}

/// Counts what it is shown
struct Counting(Arc<std::sync::Mutex<Vec<u64>>>);

impl Follower for Counting {
    fn follow(&mut self, sequence: u64, _: &Entry) -> Result<(), String> {
        self.0.lock().unwrap().push(sequence);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_and_the_inventory_see_every_entry_once_and_in_order() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let store = tempfile::tempdir().unwrap();
    let records =
        |path: &Path| SqliteRecords::open(path, SqliteOptions::default(), &named_thread).unwrap();
    let (path, follower) = (store.path().join("records"), Counting(seen.clone()));
    let running = Running::with(
        |_| {},
        |parts| {
            parts.records = Some(Arc::new(records(&path)));
            parts.followers.push(Box::new(follower));
        },
    );
    let mut serials = Vec::new();
    for name in ["beta", "gamma", "delta"] {
        serials.push(running.enrol(name).await.1.serial);
    }
    running.ca.records_caught_up().await.unwrap();
    let inventory = running.ca.records().unwrap();
    let found = inventory.certificates(CertificateQuery::default()).await.unwrap();
    let mut found: Vec<_> =
        found.items.iter().map(|item| item.certificate.serial.to_string()).collect();
    found.sort();
    serials.sort();
    assert_eq!(found, serials);
    running.ca.close().await.unwrap();
    let live = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(live, (1..=live.len() as u64).collect::<Vec<_>>());
    drop(inventory);
    // The records are behind when they begin with nothing: they read the journal.
    let (settings, mut parts) = running.again();
    let other = store.path().join("other");
    parts.records = Some(Arc::new(records(&other)));
    parts.followers.push(Box::new(Counting(seen.clone())));
    let (ca, _) = open(settings, parts).unwrap();
    assert_eq!(seen.lock().unwrap()[..live.len()], live[..]);
    ca.records_caught_up().await.unwrap();
    let query = CertificateQuery { name: Some("gamma".into()), ..CertificateQuery::default() };
    let found = ca.records().unwrap().certificates(query).await.unwrap();
    assert_eq!(found.items.len(), 1);
    ca.close().await.unwrap();
}

#[tokio::test]
async fn nodes_of_a_sibling_authority_are_served() {
    let running = Running::new();
    let (_, beta) = running.enrol("beta").await;
    // Another instance under the same root
    let (home, clock) = (running.directory.path(), running.clock.clone());
    let second = home.join("second");
    let root = stoq_trustchain::Root::open(&home.join("root"), clock.now()).unwrap();
    let csr = stoq_trustchain::issuing_csr(&second).unwrap();
    let permitted = "::/0".parse().unwrap();
    let signed = stoq_trustchain::sign_issuing(&root, &csr, permitted, clock.now()).unwrap();
    let pin = root.fingerprint();
    stoq_trustchain::install_issuing(&second, &signed, root.certificate_der(), &pin, clock.now())
        .unwrap();
    let signer = signer(&second);
    let start = |siblings: Vec<Vec<u8>>| {
        let mut settings = settings(&second, clock.clock());
        (settings.instance, settings.siblings) = (node("omega"), siblings);
        open(settings, parts(&second, &signer, clock.now())).unwrap().0
    };
    create(&settings(&second, clock.clock()), &signer).unwrap();
    let alone = start(Vec::new());
    let refused = alone.issue(request("node", &key(), of_certificate(&beta))).await.unwrap_err();
    assert!(matches!(refused, Refusal::Unauthenticated(_)), "{refused}");
    alone.close().await.unwrap();
    let ca = start(vec![running.ca.authority().certificate_der().to_vec()]);
    let renewed = ca.issue(request("node", &key(), of_certificate(&beta))).await.unwrap();
    accept(&ca, &renewed, Usage::Client, clock.now());
    let leaf = certificate::parse(&renewed.certificate_der).unwrap();
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(ca.registrations().len(), 1);
    ca.close().await.unwrap();
}

/// Whatever is wrong with what an authority starts from
#[tokio::test]
async fn it_refuses_to_start_with_what_does_not_fit() {
    let running = Running::new();
    running.clock.advance(2 * HOUR);
    for name in ["beta", "gamma"] {
        running.enrol(name).await;
    }
    let proof = running.ca.inclusion_proof(1, PATIENCE).await.unwrap();
    assert!(proof.is_some());
    running.ca.close().await.unwrap();
    let refused = |settings, parts| open(settings, parts).unwrap_err();
    let home = running.directory.path();

    // It is never begun again in the place of another.
    let (settings, _) = running.again();
    assert!(matches!(create(&settings, &running.signer), Err(CaError::Log(StartError::Exists))));

    // Another log key
    let other_keys = tempfile::tempdir().unwrap();
    let (settings, mut parts) = running.again();
    parts.log_signer = signer(other_keys.path());
    let error = refused(settings, parts);
    assert!(matches!(error, CaError::Log(StartError::WrongKey { .. })), "{error}");

    // Another name
    let (mut settings, parts) = running.again();
    settings.log_origin = "elsewhere.example/log".into();
    let error = refused(settings, parts);
    assert!(matches!(error, CaError::Log(StartError::WrongLog { .. })), "{error}");

    // A clock that shows yesterday
    running.clock.set_back(HOUR);
    let (settings, parts) = running.again();
    let error = refused(settings, parts);
    assert!(matches!(error, CaError::Log(StartError::ClockWentBack { .. })), "{error}");
    running.clock.advance(HOUR);

    // A published tile that is gone, and one that has changed
    let log = home.join("ca").join("log");
    let tile = log.join("tile/0/000.p/2");
    let kept = std::fs::read(&tile).unwrap();
    std::fs::remove_file(&tile).unwrap();
    let (settings, parts) = running.again();
    let error = refused(settings, parts);
    assert!(error.to_string().contains("missing"), "{error}");
    let mut changed = kept.clone();
    changed[0] ^= 1;
    std::fs::write(&tile, &changed).unwrap();
    let (settings, parts) = running.again();
    let error = refused(settings, parts);
    assert!(error.to_string().contains("differs"), "{error}");
    std::fs::write(&tile, &kept).unwrap();

    // An older journal than the world has seen: the checkpoint is beyond it
    let journal = home.join("ca").join("journal");
    let newest = home.join("newest");
    std::fs::rename(&journal, &newest).unwrap();
    let (settings, parts) = running.again();
    let error = refused(settings, parts);
    assert!(matches!(error, CaError::JournalLost { .. }), "{error}");

    // A bit that changed in the middle
    copy_directory(&newest, &journal);
    let segment = files_below(&journal)
        .into_iter()
        .find(|path| path.metadata().unwrap().len() > 2_000)
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[1_000] ^= 4;
    std::fs::write(&segment, &bytes).unwrap();
    let (settings, parts) = running.again();
    let error = refused(settings, parts);
    assert!(matches!(error, CaError::Journal(OpenError::Damaged(_))), "{error}");
    std::fs::remove_dir_all(&journal).unwrap();
    std::fs::rename(&newest, &journal).unwrap();

    // Production and the root beside the authority; profiles for tests
    let (mut settings, parts) = running.again();
    settings.mode = Mode::Production;
    let error = refused(settings, parts);
    assert!(matches!(error, CaError::RootAtHand), "{error}");
    let (mut settings, parts) = running.again();
    settings.mode = Mode::Production;
    let text =
        Profiles::compiled_in().replacen("enrolment = true", "enrolment = true\ntest = true", 1);
    settings.profiles = Profiles::parse(&text).unwrap();
    let error = refused(settings, parts);
    assert!(error.to_string().contains("for tests"), "{error}");

    // And with everything as it was, it starts.
    let (settings, parts) = running.again();
    let (ca, found) = open(settings, parts).unwrap();
    assert_eq!((found.issued, found.log_entries), (2, 2));
    ca.close().await.unwrap();
}

#[tokio::test]
async fn while_the_clock_is_back_nothing_is_issued_and_then_it_goes_on() {
    let running = Running::with(
        // Longer than any disk takes, and no longer than a test may wait for nothing.
        |settings| settings.limits.commit_patience = Duration::from_secs(2),
        |_| {},
    );
    let (_, first) = running.enrol("beta").await;
    running.clock.set_back(2 * HOUR / 60);
    let node_key = key();
    let asked = request("node", &node_key, of_certificate(&first));
    let refused = running.ca.issue(asked.clone()).await.unwrap_err();
    assert!(matches!(refused, Refusal::ClockWentBack | Refusal::Busy { .. }), "{refused}");
    let refused = running.ca.issue(asked.clone()).await.unwrap_err();
    assert!(matches!(refused, Refusal::ClockWentBack), "{refused}");
    running.clock.advance(HOUR);
    // What had been asked is in the log's pool and comes out of it now.
    let issued = loop {
        match running.ca.issue(asked.clone()).await {
            Ok(issued) => break issued,
            Err(Refusal::ClockWentBack | Refusal::Busy { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    };
    accept(&running.ca, &issued, Usage::Client, running.clock.now());
    assert_eq!(running.ca.status().log_entries, 2);
    running.ca.close().await.unwrap();
}

#[tokio::test]
async fn a_log_that_cannot_be_published_stops_the_authority() {
    let running = Running::new();
    running.enrol("beta").await;
    assert!(running.ca.inclusion_proof(0, PATIENCE).await.unwrap().is_some());
    // Somebody puts a file where the next tile belongs.
    let tiles = running.directory.path().join("ca/log/tile/0/000.p");
    std::fs::write(tiles.join("2"), b"not the tile").unwrap();
    running.enrol("gamma").await;
    let stopping = async {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        while running.ca.status().not_issuing.is_none() {
            look.tick().await;
        }
    };
    let stopped = tokio::time::timeout(PATIENCE, stopping).await;
    assert!(stopped.is_ok(), "{:?}", running.ca.status());
    let token = running.token("delta");
    let refused = running.ca.issue(request("node", &key(), of_token(&token))).await;
    assert!(matches!(refused, Err(Refusal::Stopped(_))), "{refused:?}");
    let index = running.ca.status().log_entries - 1;
    assert!(running.ca.inclusion_proof(index, Duration::ZERO).await.unwrap().is_none());
    let status = running.ca.status();
    assert!(status.log_problem.is_some_and(|problem| problem.contains("differs")));
    assert!(running.ca.close().await.is_err());
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}
