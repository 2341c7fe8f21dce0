//! The states of issuing keys on a whole authority: a second key takes over while it issues, the first signs nothing
//! new but still its revocations, and when it is revoked nothing counts that it has signed; all of it also after a
//! restart.

mod ca_common;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ca_common::{
    TestClock, accept, by_enrolled_key, grant, key, make_authority, node, of_certificate, of_token,
    request, settings, signer,
};
use stoq_store::named_thread;
use stoq_store::records::{RecordsError, SqliteOptions, SqliteRecords};
use stoq_trustchain::audit::{AuditKind, AuditLog};
use stoq_trustchain::ca::keys::{IssuingKeys, KEY_SPREAD, KeyError};
use stoq_trustchain::ca::revoke::{
    RevocationSettings, Revocations, RevokeRequest, RevokeTarget, read_journal,
};
use stoq_trustchain::ca::{Ca, IssueRequest, IssuingAuthority, Parts, Refusal};
use stoq_trustchain::certificate::read_pem;
use stoq_trustchain::chain::Usage;
use stoq_trustchain::pinning::{AuthorityState, CutOff, StateError, TaintReason};
use stoq_trustchain::revocation::crl::Sharding;
use stoq_trustchain::revocation::{
    DenyList, DenyListSettings, KeyId, ListSigner, Reason, SerialNumber, Signers, SpkiHash,
};
use stoq_trustchain::signer::{KeyName, Signer, StateGuard};
use stoq_trustchain::{Ipv6Subtree, Root, TokenStore, sign_issuing};
use x509_parser::prelude::FromDer;

const HOUR: Duration = Duration::from_secs(3_600);

/// What outlives a restart
struct House {
    directory: tempfile::TempDir,
    clock: TestClock,
    pool: Arc<dyn Signer>,
}

/// What does not
struct Open {
    ca: Ca,
    guard: Arc<StateGuard>,
    audit: AuditLog,
    revocations: Revocations,
    keys: IssuingKeys,
}

fn issuing() -> KeyName {
    KeyName::issuing()
}

fn second() -> KeyName {
    KeyName::new("issuing-2").unwrap()
}

impl House {
    fn new() -> Self {
        let (directory, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
        make_authority(directory.path(), "::/0", clock.now());
        let pool = signer(directory.path());
        let settings = settings(directory.path(), clock.clock());
        ca_common::create(&settings, &pool).unwrap();
        Self { directory, clock, pool }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn root(&self) -> Root {
        Root::open(&self.file("root"), self.clock.now()).unwrap()
    }

    /// As the daemon opens an authority
    async fn open(&self) -> Open {
        let settings = settings(self.directory.path(), self.clock.clock());
        let high_water = self.file("high-water.json");
        let replay = read_journal(&settings.journal_directory(), &high_water, false).unwrap();
        let guard = StateGuard::new(self.pool.clone(), replay.issuing_keys.states());
        let guard = Arc::new(guard);
        let (name, certificate_der) = match replay.issuing_keys.in_force() {
            Some(key) => (key.name.clone(), key.certificate_der.clone()),
            None => (issuing(), read_pem(&self.file("issuing.pem")).unwrap()),
        };
        let root = self.root();
        let (now, signs) = (self.clock.now(), guard.clone());
        let root_der = root.certificate_der();
        let authority = IssuingAuthority::new(&certificate_der, root_der, signs, &name, now);
        let records = self.records().await;
        let parts = Parts {
            authority: authority.unwrap(),
            log_signer: guard.clone(),
            log_key: KeyName::log(),
            tokens: Arc::new(TokenStore::open(&self.file("tokens")).unwrap()),
            records: Some(Arc::new(records)),
            followers: Vec::new(),
        };
        let (ca, _) = ca_common::open(settings, parts).unwrap();
        let clock = ca.clone();
        let audit = AuditLog::start(
            Arc::new(ca.clone()),
            replay.audit.clone(),
            Arc::new(move || clock.now()),
        );
        let base = "http://[::1]:8080/crl/".into();
        let revoking = RevocationSettings {
            tick: Duration::from_millis(5),
            crl_pause: Duration::ZERO,
            ..RevocationSettings::new(Sharding::DEFAULT, base, high_water)
        };
        let revocations = Revocations::start(&ca, audit.clone(), replay, revoking, None).unwrap();
        let (signs, lists) = (guard.clone(), revocations.clone());
        let keys = IssuingKeys::start(&ca, signs, audit.clone(), lists, KEY_SPREAD).await.unwrap();
        Open { ca, guard, audit, revocations, keys }
    }

    /// The records, once the tasks of an authority that was open before have let go of them: they end when they see
    /// that nobody asks any more
    async fn records(&self) -> SqliteRecords {
        let (file, begin) = (self.file("records"), std::time::Instant::now());
        loop {
            match SqliteRecords::open(&file, SqliteOptions::default(), &named_thread) {
                Err(RecordsError::Failed(text)) if text.contains("in use") => {
                    assert!(begin.elapsed() < Duration::from_secs(20), "{text}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                opened => return opened.unwrap(),
            }
        }
    }

    /// Has the root sign the request of a second key, and takes it in
    async fn prepare(&self, open: &Open) -> Vec<u8> {
        let csr = open.keys.request(&second()).await.unwrap();
        let now = self.clock.now();
        let signed = sign_issuing(&self.root(), &csr, Ipv6Subtree::ALL, now).unwrap();
        open.keys.prepare(&second(), &signed, "operator:test").await.unwrap();
        signed
    }

    /// A request with a token for a node
    fn by_token(&self, name: &str) -> IssueRequest {
        let tokens = TokenStore::open(&self.file("tokens")).unwrap();
        let token = tokens.create(&grant(name), self.clock.now()).unwrap();
        request("node", &key(), of_token(&token))
    }
}

impl Open {
    async fn close(self) {
        let Self { ca, guard: _, audit, revocations, keys } = self;
        drop((audit, revocations, keys));
        ca.close().await.unwrap();
    }

    fn states(&self) -> Vec<(KeyName, AuthorityState)> {
        self.keys.list().into_iter().map(|key| (key.name, key.record.state)).collect()
    }

    fn key_id(&self, name: &KeyName) -> KeyId {
        self.keys.list().into_iter().find(|key| key.name == *name).unwrap().key_id
    }

    /// The newest deny-list, as a node that knows these keys takes it
    fn deny_list(&self, certificates: &[&[u8]], now: SystemTime) -> DenyList {
        let signer = |der: &&[u8]| ListSigner::from_certificate(node("alpha"), der).unwrap();
        let signers = Signers::new(certificates.iter().map(signer)).unwrap();
        let mut list = DenyList::new(DenyListSettings::default(), signers, now);
        let published = self.revocations.deny_list().borrow().clone().unwrap();
        list.handle_document(&published.full, now).unwrap();
        list
    }
}

fn serial(text: &str) -> SerialNumber {
    SerialNumber::from_text(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_key_takes_over_and_the_first_signs_only_what_takes_its_leaves_back() {
    let house = House::new();
    let open = house.open().await;
    assert_eq!(open.states(), [(issuing(), AuthorityState::Active)]);
    let first_der = open.ca.authority().certificate_der().to_vec();
    let mut by_token = house.by_token("beta");
    let beta = open.ca.issue(by_token.clone()).await.unwrap();

    let second_der = house.prepare(&open).await;
    assert_eq!(open.guard.state(&second()), AuthorityState::Prepared);
    let again = open.keys.prepare(&second(), &second_der, "operator:test").await.unwrap_err();
    assert!(matches!(again, KeyError::Step(StateError::Known(_))), "{again}");
    let early = open.keys.activate(&second(), false, "operator:test").await.unwrap_err();
    assert!(matches!(early, KeyError::Step(StateError::TooFresh { .. })), "{early}");
    // Nodes that ask are told of it, and it issues nothing yet.
    let known = open.ca.issuing_certificate(&open.key_id(&second()).to_string());
    assert_eq!(known.as_deref(), Some(&second_der[..]));
    let gamma = open.ca.issue(house.by_token("gamma")).await.unwrap();
    assert_eq!(gamma.issuing_der, first_der);

    // Requests that are under way end as they began; none falls between the keys.
    house.clock.advance(KEY_SPREAD);
    let ca = open.ca.clone();
    let requests: Vec<_> = (0..20).map(|n| house.by_token(&format!("node{n}"))).collect();
    let issuing_all = tokio::spawn(async move {
        let mut issued = Vec::new();
        for request in requests {
            issued.push(ca.issue(request).await.unwrap());
        }
        issued
    });
    let active = open.keys.activate(&second(), false, "operator:test").await.unwrap();
    assert_eq!(active.record.state, AuthorityState::Active);
    for issued in issuing_all.await.unwrap() {
        assert!([&first_der, &second_der].contains(&&issued.issuing_der));
        accept(&open.ca, &issued, Usage::Server, house.clock.now());
    }
    let states = [(issuing(), AuthorityState::Tainted), (second(), AuthorityState::Active)];
    assert_eq!(open.states(), states);
    let delta = open.ca.issue(house.by_token("delta")).await.unwrap();
    assert_eq!(delta.issuing_der, second_der);
    accept(&open.ca, &delta, Usage::Client, house.clock.now());
    let proof = open.ca.inclusion_proof(delta.leaf_index, Duration::from_secs(20)).await.unwrap();
    assert!(proof.is_some(), "the log knows the second key's certificate");
    let file = format!("issuer/{}", hex(&boring::sha::sha256(&second_der)));
    assert!(open.ca.log_file(&file).unwrap().is_some(), "{file} is not published");
    // The last door: not even whoever has the signer gets a leaf of the first key.
    let leaf = [0x30, 5, 0xa0, 3, 2, 1, 2].to_vec();
    let refused = open.guard.sign(&issuing(), leaf.clone()).await.unwrap_err();
    assert!(refused.to_string().contains("tainted"), "{refused}");
    assert!(open.guard.sign(&second(), leaf).await.is_ok());

    // Its leaves are good, renew under the second key, and are revoked in its own CRL.
    let renewal = open.ca.issue(request("node", &key(), of_certificate(&gamma))).await.unwrap();
    assert_eq!(renewal.issuing_der, second_der);
    let revoke = RevokeRequest {
        target: RevokeTarget::Certificate(serial(&beta.serial)),
        reason: Reason::Superseded,
        with_key: false,
        revoked_by: "operator:test".into(),
    };
    open.revocations.revoke(revoke).await.unwrap();
    crl_of(&open, &open.key_id(&issuing()), &beta.serial).await;
    let list = open.deny_list(&[&second_der], house.clock.now());
    let spki = SpkiHash::of(b"nobody");
    assert!(list.check(&open.key_id(&issuing()), &serial(&beta.serial), &spki).is_some());

    // After a restart all is as it was. What was committed under the first key cannot be finished any more, and the
    // same request is answered anew; its token counts for it still.
    open.close().await;
    let open = house.open().await;
    assert_eq!(open.states(), states);
    assert_eq!(open.ca.authority().certificate_der(), second_der);
    by_token = house.by_token("epsilon");
    let before = open.ca.issue(by_token.clone()).await.unwrap();
    assert!(open.ca.issue(by_token.clone()).await.unwrap().repeated);
    assert_eq!(before.issuing_der, second_der);
    open.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_under_a_key_that_was_replaced_is_answered_anew() {
    let house = House::new();
    let open = house.open().await;
    let asked = house.by_token("beta");
    let before = open.ca.issue(asked.clone()).await.unwrap();
    house.prepare(&open).await;
    open.keys.activate(&second(), true, "operator:test").await.unwrap();
    // As long as the authority remembers the answer, it is the answer.
    assert!(open.ca.issue(asked.clone()).await.unwrap().repeated);
    open.close().await;
    let open = house.open().await;
    let anew = open.ca.issue(asked.clone()).await.unwrap();
    assert!(!anew.repeated && anew.serial != before.serial);
    accept(&open.ca, &anew, Usage::Client, house.clock.now());
    assert_eq!(open.ca.issue(asked.clone()).await.unwrap().serial, anew.serial);
    // The token is good for that request and for no other.
    let mut other = asked;
    other.idempotency_key = b"another".to_vec();
    assert!(matches!(open.ca.issue(other).await.unwrap_err(), Refusal::TokenUsed));
    open.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_counts_that_a_revoked_key_has_signed() {
    let house = House::new();
    let open = house.open().await;
    let enrolled = key();
    let mut asked = house.by_token("beta");
    asked.csr_der = stoq_trustchain::csr::request(&enrolled).unwrap();
    let beta = open.ca.issue(asked).await.unwrap();
    let first = open.key_id(&issuing());
    let first_der = open.ca.authority().certificate_der().to_vec();
    let second_der = house.prepare(&open).await;
    open.keys.activate(&second(), true, "operator:test").await.unwrap();

    let revoke = |name: KeyName, cut_off| {
        let keys = open.keys.clone();
        async move { keys.revoke(&name, cut_off, "operator:ana").await }
    };
    let refused = revoke(second(), CutOff::Accept).await.unwrap_err();
    assert!(matches!(refused, KeyError::Step(StateError::Transition { .. })), "{refused}");
    let refused = revoke(issuing(), CutOff::Refuse).await.unwrap_err();
    assert!(matches!(refused, KeyError::Step(StateError::LeavesInForce { .. })), "{refused}");
    open.keys.taint(&issuing(), TaintReason::Compromised, "operator:ana").await.unwrap();
    let information = open.ca.renewal_information(&beta.serial).unwrap();
    assert!(information.window.start <= house.clock.now(), "its holders are to renew now");
    let revoked = revoke(issuing(), CutOff::Accept).await.unwrap();
    assert_eq!(revoked.key.record.state, AuthorityState::Revoked);
    assert_eq!(Some(open.revocations.status().epoch), revoked.epoch);

    // One list, signed with the other key, names it; nodes refuse each of its leaves.
    let list = open.deny_list(&[&second_der], house.clock.now());
    let (spki, any) = (SpkiHash::of(b"nobody"), serial("0badcafe"));
    let found = list.check(&first, &any, &spki).unwrap();
    assert_eq!((found.reason, found.by_key), (Reason::CaCompromise, false));
    assert!(list.check(&open.key_id(&second()), &any, &spki).is_none());
    // It signs nothing at all, and has no CRLs.
    let refused = open.guard.sign(&issuing(), b"stoq-trustchain deny-list v1".to_vec()).await;
    assert!(refused.is_err());
    assert!(open.revocations.crls().borrow().keys().all(|(key, _)| *key != first));
    // Nodes are not told to trust it, and who follows what they are told knows the rest.
    let told = open.ca.issuing_keys().into_iter();
    let told: Vec<_> = told.filter(|key| key.record.state.accepts_leaves()).collect();
    assert!(told.iter().all(|key| key.certificate_der != first_der) && told.len() == 1);
    // Who did it is in the audit log, once for each step.
    let recorded = open.audit.recent(100);
    let steps = recorded.iter().filter(|record| record.kind == AuditKind::IssuingKeyState);
    let steps: Vec<_> =
        steps.map(|one| (one.actor.as_str(), one.details["state"].as_str())).collect();
    let (ana, test) = ("operator:ana", "operator:test");
    let expected = [
        ("authority", "active"),
        (test, "prepared"),
        (test, "tainted"),
        (test, "active"),
        (ana, "tainted"),
        (ana, "revoked"),
    ];
    assert_eq!(steps, expected);

    // A node with such a leaf comes back with the key it enrolled with, and with nothing else.
    let renewal = request("node", &key(), of_certificate(&beta));
    let refused = open.ca.issue(renewal.clone()).await.unwrap_err();
    assert!(matches!(refused, Refusal::Revoked), "{refused}");
    open.close().await;
    let open = house.open().await;
    let states = [(issuing(), AuthorityState::Revoked), (second(), AuthorityState::Active)];
    assert_eq!(open.states(), states);
    assert_eq!(open.guard.state(&issuing()), AuthorityState::Revoked);
    let refused = open.ca.issue(renewal).await.unwrap_err();
    assert!(matches!(refused, Refusal::Revoked), "{refused}");
    let back = by_enrolled_key("beta", &enrolled, &key(), house.clock.now());
    let back = open.ca.issue(back).await.unwrap();
    assert_eq!(back.issuing_der, second_der);
    let next = open.revocations.reached(revoked.epoch.unwrap() + 1).await.unwrap();
    assert_eq!(next.mark.live, 1, "the list keeps it");
    open.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_whose_only_key_is_tainted_issues_nothing_and_can_get_another() {
    let house = House::new();
    let open = house.open().await;
    open.ca.issue(house.by_token("beta")).await.unwrap();
    open.keys.taint(&issuing(), TaintReason::Compromised, "operator:test").await.unwrap();
    let refused = |refusal: Refusal| {
        assert!(matches!(refusal, Refusal::NotIssuing(_)), "{refusal}");
        assert!(refusal.to_string().contains("stoqctl ca key activate"), "{refusal}");
    };
    refused(open.ca.issue(house.by_token("gamma")).await.unwrap_err());
    let epoch = open.revocations.status().epoch;
    open.close().await;

    // After a restart too; lists are signed all the same.
    let open = house.open().await;
    refused(open.ca.issue(house.by_token("delta")).await.unwrap_err());
    open.revocations.reached(epoch + 1).await.unwrap();
    let alone = open.keys.revoke(&issuing(), CutOff::Accept, "operator:test").await.unwrap_err();
    assert!(matches!(alone, KeyError::NobodySigns(_)), "{alone}");
    let unknown = open.keys.activate(&second(), true, "operator:test").await.unwrap_err();
    assert!(matches!(unknown, KeyError::Unknown(_)), "{unknown}");
    house.prepare(&open).await;
    // With none in force there is nothing to wait for.
    open.keys.activate(&second(), false, "operator:test").await.unwrap();
    open.ca.issue(house.by_token("epsilon")).await.unwrap();
    open.keys.revoke(&issuing(), CutOff::Accept, "operator:test").await.unwrap();
    house.clock.advance(HOUR);
    open.close().await;
}

/// Waits until the CRL of this key's shard has the certificate, and that the key has signed it
async fn crl_of(open: &Open, key: &KeyId, text: &str) {
    let shard = Sharding::DEFAULT.shard_of(&serial(text));
    let mut crls = open.revocations.crls();
    let listed = crls.wait_for(|crls| {
        crls.get(&(*key, shard)).is_some_and(|list| {
            let (_, list) =
                x509_parser::revocation_list::CertificateRevocationList::from_der(&list.der)
                    .unwrap();
            let mut revoked = list.iter_revoked_certificates();
            revoked.any(|it| it.serial().to_bytes_be() == serial(text).as_bytes())
        })
    });
    tokio::time::timeout(Duration::from_secs(20), listed).await.unwrap().unwrap();
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
