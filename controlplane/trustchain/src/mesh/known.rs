//! The authorities that are known under one root: one statement for each issuing key, the latest. What is known is
//! only ever what verified; it is bounded, and it ends with the authority's certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use stoq_interface::NodeId;
use tokio::sync::watch;

use super::statement::{AuthorityStatement, StatementRefusal};
use crate::revocation::{INSTANCES_LIMIT, KEYS_LIMIT, KeyId};

#[derive(Clone, Debug)]
struct Known {
    statement: AuthorityStatement,
    signed: Vec<u8>,
}

#[derive(Debug, Default)]
struct Table {
    root_der: Vec<u8>,
    by_key: BTreeMap<KeyId, Known>,
    /// Keys that were revoked: what they say does not count
    revoked: BTreeSet<KeyId>,
}

/// What is known of the authorities under one root
#[derive(Debug)]
pub struct KnownAuthorities {
    table: Mutex<Table>,
    changes: watch::Sender<u64>,
}

impl Default for KnownAuthorities {
    fn default() -> Self {
        Self { table: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl KnownAuthorities {
    /// Nothing yet, under this root
    pub fn new(root_der: Vec<u8>) -> Self {
        let known = Self::default();
        known.set_root(root_der);
        known
    }

    /// From now on of this root. What was known of another one is forgotten.
    pub fn set_root(&self, root_der: Vec<u8>) {
        let mut table = self.table();
        if table.root_der != root_der {
            *table = Table { root_der, ..Table::default() };
            drop(table);
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Takes a signed statement; whether it says something new
    pub fn learn(&self, signed: &[u8], now: SystemTime) -> Result<bool, StatementRefusal> {
        let mut table = self.table();
        let statement = AuthorityStatement::open(signed, &table.root_der, now)?;
        let key = statement.key_id()?;
        if table.revoked.contains(&key) {
            return Err(StatementRefusal::Revoked(key));
        }
        let held = table.by_key.get(&key).map(|held| &held.statement);
        if let Some(held) = held {
            if held.instance != statement.instance {
                return Err(StatementRefusal::OtherInstance(held.instance.clone()));
            }
            if held.stated_at >= statement.stated_at {
                return Ok(false);
            }
        } else {
            let mut instances: BTreeSet<&NodeId> =
                table.by_key.values().map(|known| &known.statement.instance).collect();
            instances.insert(&statement.instance);
            if table.by_key.len() >= KEYS_LIMIT || instances.len() > INSTANCES_LIMIT {
                return Err(StatementRefusal::TooMany);
            }
        }
        let news = !held.is_some_and(|held| held.says_the_same_as(&statement));
        table.by_key.insert(key, Known { statement, signed: signed.to_vec() });
        drop(table);
        if news {
            self.changes.send_modify(|count| *count += 1);
        }
        Ok(news)
    }

    /// Forgets what these issuing keys have said, and hears nothing of them any more
    pub fn revoke(&self, keys: BTreeSet<KeyId>) {
        let mut table = self.table();
        let before = table.by_key.len();
        table.by_key.retain(|key, _| !keys.contains(key));
        table.revoked = keys;
        let changed = table.by_key.len() != before;
        drop(table);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Forgets authorities whose certificates have ended
    pub fn forget_ended(&self, now: SystemTime) {
        let mut table = self.table();
        let before = table.by_key.len();
        table.by_key.retain(|_, known| {
            known.statement.trust_anchor().is_ok_and(|anchor| anchor.not_after >= now)
        });
        let changed = table.by_key.len() != before;
        drop(table);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// What each says, by the identifier of its key
    pub fn all(&self) -> Vec<AuthorityStatement> {
        self.table().by_key.values().map(|known| known.statement.clone()).collect()
    }

    /// The same as they were signed, to be passed on
    pub fn signed(&self) -> Vec<(KeyId, Vec<u8>)> {
        self.table().by_key.iter().map(|(key, known)| (*key, known.signed.clone())).collect()
    }

    /// Changes whenever something else is known
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The table is whole between two calls
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::authority::{issuing_csr, sign_issuing};
    use crate::keys::{KeyKind, KeyPair};
    use crate::profile::Ipv6Subtree;
    use crate::root::{Root, init_root};
    use crate::signer::{KeyName, Pool, PoolSettings, Signer, SoftSettings};

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    /// An authority under a root: its certificate and what signs for it
    struct Made {
        statement: AuthorityStatement,
        signer: Arc<dyn Signer>,
    }

    impl Made {
        fn under(root: &Root, directory: &std::path::Path, name: &str) -> Self {
            let home = directory.join(name);
            let csr = issuing_csr(&home).unwrap();
            let issuing_der = sign_issuing(root, &csr, Ipv6Subtree::ALL, now()).unwrap();
            let keys = SoftSettings::read_or_create(&home, &[KeyName::issuing()]).unwrap();
            let signer = Pool::start(Arc::new(keys), PoolSettings::default()).unwrap();
            let log = KeyPair::generate(KeyKind::P256).unwrap();
            let statement = AuthorityStatement {
                instance: NodeId::new(name).unwrap(),
                issuing_der,
                other_ders: Vec::new(),
                log_spki_der: log.spki_der().unwrap(),
                log_origin: format!("{name}.nodes.hypermesh/log"),
                stoq_address: Some("[2001:db8::1]:8444".parse().unwrap()),
                stated_at: 1_800_000_000,
            };
            Self { statement, signer: Arc::new(signer) }
        }

        async fn sign(&self, change: impl FnOnce(&mut AuthorityStatement)) -> Vec<u8> {
            let mut statement = self.statement.clone();
            change(&mut statement);
            statement.sign(&self.signer, &KeyName::issuing()).await.unwrap()
        }
    }

    #[tokio::test]
    async fn authorities_of_the_root_are_known_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let root = init_root(&directory.path().join("root"), now()).unwrap();
        let foreign = init_root(&directory.path().join("foreign"), now()).unwrap();
        let alpha = Made::under(&root, directory.path(), "alpha");
        let beta = Made::under(&root, directory.path(), "beta");
        let mallory = Made::under(&foreign, directory.path(), "mallory");
        let known = KnownAuthorities::new(root.certificate_der().to_vec());
        let mut changes = known.changes();
        assert!(known.learn(&alpha.sign(|_| {}).await, now()).unwrap());
        assert!(known.learn(&beta.sign(|_| {}).await, now()).unwrap());
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let refused = known.learn(&mallory.sign(|_| {}).await, now()).unwrap_err();
        assert!(matches!(refused, StatementRefusal::Chain(_)), "{refused}");
        // Of one key the later statement counts, and one that says the same is no news.
        let moved = Some("[2001:db8::2]:8444".parse().unwrap());
        let older = alpha.sign(|it| (it.stated_at, it.stoq_address) = (1, moved)).await;
        assert!(!known.learn(&older, now()).unwrap());
        assert!(!known.learn(&alpha.sign(|it| it.stated_at += 1).await, now()).unwrap());
        assert!(!changes.has_changed().unwrap());
        let news = alpha.sign(|it| (it.stated_at, it.stoq_address) = (it.stated_at + 2, moved));
        assert!(known.learn(&news.await, now()).unwrap());
        assert!(known.all().iter().any(|one| one.stoq_address == moved));
        assert_eq!((known.all().len(), known.signed().len()), (2, 2));
        // Nobody takes another's place.
        let named_beta = beta.statement.instance.clone();
        let posing = alpha.sign(|it| (it.stated_at, it.instance) = (it.stated_at + 3, named_beta));
        let refused = known.learn(&posing.await, now()).unwrap_err();
        assert!(matches!(refused, StatementRefusal::OtherInstance(_)), "{refused}");
        let stolen = alpha.sign(|it| it.issuing_der = beta.statement.issuing_der.clone()).await;
        let refused = known.learn(&stolen, now()).unwrap_err();
        assert!(matches!(refused, StatementRefusal::BadSignature), "{refused}");
        // What a revoked key says does not count, whoever passes it on.
        let of_beta = beta.statement.key_id().unwrap();
        let said = beta.sign(|_| {}).await;
        known.revoke([of_beta].into());
        assert_eq!(known.all().len(), 1);
        assert!(matches!(known.learn(&said, now()), Err(StatementRefusal::Revoked(_))));
        known.revoke(BTreeSet::new());
        known.learn(&said, now()).unwrap();
        // What has ended is forgotten, and so is everything with the root.
        known.forget_ended(now() + Duration::from_secs(200 * 86_400));
        assert!(known.all().is_empty());
        known.learn(&beta.sign(|_| {}).await, now()).unwrap();
        known.set_root(foreign.certificate_der().to_vec());
        assert!(known.all().is_empty());
    }

    #[tokio::test]
    async fn other_issuing_keys_of_an_authority_count_where_this_root_has_signed_them() {
        let directory = tempfile::tempdir().unwrap();
        let root = init_root(&directory.path().join("root"), now()).unwrap();
        let foreign = init_root(&directory.path().join("foreign"), now()).unwrap();
        let alpha = Made::under(&root, directory.path(), "alpha");
        let next = Made::under(&root, directory.path(), "next").statement.issuing_der;
        let stranger = Made::under(&foreign, directory.path(), "stranger").statement.issuing_der;
        let known = KnownAuthorities::new(root.certificate_der().to_vec());
        known.learn(&alpha.sign(|_| {}).await, now()).unwrap();
        let others = vec![next.clone(), stranger, vec![1, 2, 3]];
        let said = alpha.sign(|it| (it.stated_at, it.other_ders) = (it.stated_at + 1, others));
        assert!(known.learn(&said.await, now()).unwrap(), "another key is news");
        let [one] = &known.all()[..] else { panic!("one authority") };
        let certificates: Vec<_> = one.certificates().cloned().collect();
        assert_eq!(certificates, [alpha.statement.issuing_der.clone(), next]);
        assert_eq!((one.trust_anchors().len(), one.list_signers().len()), (2, 2));
        assert!(one.list_signers().iter().all(|signer| signer.instance().as_str() == "alpha"));
        let many =
            vec![alpha.statement.issuing_der.clone(); crate::pinning::KEYS_PER_RING_LIMIT + 1];
        let said = alpha.sign(|it| (it.stated_at, it.other_ders) = (it.stated_at + 2, many));
        assert!(matches!(known.learn(&said.await, now()), Err(StatementRefusal::Malformed(_))));
    }

    #[tokio::test]
    async fn what_is_no_statement_or_not_of_now_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let root = init_root(&directory.path().join("root"), now()).unwrap();
        let alpha = Made::under(&root, directory.path(), "alpha");
        let known = KnownAuthorities::new(root.certificate_der().to_vec());
        let good = alpha.sign(|_| {}).await;
        for at in [0, good.len() / 3, good.len() / 2, good.len() - 1] {
            let mut damaged = good.clone();
            damaged[at] ^= 0x20;
            assert!(known.learn(&damaged, now()).is_err(), "octet {at}");
        }
        for junk in [&[][..], &[0xff; 64], &vec![0; super::super::STATEMENT_LIMIT_BYTES + 1]] {
            assert!(known.learn(junk, now()).is_err());
        }
        let ahead = alpha.sign(|it| it.stated_at += 301).await;
        assert!(matches!(known.learn(&ahead, now()), Err(StatementRefusal::Future)));
        let origin = alpha.sign(|it| it.log_origin = "no name".into()).await;
        assert!(matches!(known.learn(&origin, now()), Err(StatementRefusal::Malformed(_))));
        let nowhere = alpha.sign(|it| it.stoq_address = Some("[::]:8444".parse().unwrap())).await;
        assert!(matches!(known.learn(&nowhere, now()), Err(StatementRefusal::Malformed(_))));
        let late = now() + Duration::from_secs(200 * 86_400);
        assert!(matches!(known.learn(&good, late), Err(StatementRefusal::Chain(_))));
        assert!(known.all().is_empty());
    }
}
