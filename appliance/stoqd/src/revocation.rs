//! Holds the deny-lists of the authorities this node knows: fetches them, keeps them on disk, and has the data
//! plane refuse and close what they name. Which document counts is decided in `stoq_trustchain::revocation`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stoq::NodeId;
use stoq_admin::{decode_pem, encode_pem};
use stoq_interface::Denied;
use stoq_trustchain::ca::revoke::Revocations;
use stoq_trustchain::calls::{CallProblem, Client};
use stoq_trustchain::enrollment;
use stoq_trustchain::revocation::{
    Applied, DenyList, DenyListAction, DenyListSettings, Entry, HighWaterMark, ListSigner,
    NewConnections, Refusal, SignerError, Signers, SpkiHash, StoreForm,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::authority::authority_at;
use crate::list_age::ListAge;
use crate::node::Node;
use crate::peers::ReachError;
use crate::rotation::Notice;

/// Time one call for the next deny-list waits for it
const HOLD: Duration = Duration::from_secs(60);
/// Pause after a call that failed, at first and at most; the next authority outage must not become a herd
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_LONGEST: Duration = Duration::from_secs(30);
/// Documents that wait to be judged
const ARRIVALS: usize = 16;
/// Documents of one instance that are read back; more than the list keeps behind one full issue
const DOCUMENTS_LIMIT: usize = 2_048;
/// Octets of the largest file that is read back
const FILE_LIMIT_BYTES: u64 = 17 << 20;
const DIRECTORY: &str = "deny-list";
const MARK_FILE: &str = "mark.json";
const KEYS_FILE: &str = "keys.pem";
const KEY_LABEL: &str = "PUBLIC KEY";

/// Where the deny-lists of a node come from, and which keys sign them: a list for each issuing authority
#[derive(Clone)]
pub struct Lists {
    /// Its own authority
    pub own: Option<(NodeId, Revocations)>,
    /// The keys of all authorities that are known
    pub signers: Vec<ListSigner>,
}

impl Lists {
    /// The authorities
    fn instances(&self) -> Vec<NodeId> {
        let all: BTreeSet<&NodeId> = self.signers.iter().map(ListSigner::instance).collect();
        all.into_iter().cloned().collect()
    }

    /// Those on other nodes, asked by calls over STOQ
    fn remote(&self) -> impl Iterator<Item = NodeId> {
        let own = self.own.as_ref().map(|(own, _)| own.clone());
        self.instances().into_iter().filter(move |one| Some(one) != own.as_ref())
    }
}

/// Holds and enforces deny-lists until the identity changes; then begins again with the new authorities
pub async fn drive(node: Arc<Node>) {
    let mut changed = node.identity_changed();
    loop {
        changed.mark_unchanged();
        let issuing_changed = node.issuing_changed();
        let lists = node.lists();
        match (lists, node.identities().identity) {
            (Some(lists), Some(_)) => match Holder::begin(&node, &lists, issuing_changed).await {
                Ok(mut holder) => holder.run(lists, &mut changed).await,
                Err(error) => {
                    tracing::error!(%error, "no deny-list is followed");
                    let (fail_closed, now) = (fail_closed(&node), node.clock.now());
                    node.set_list_age(ListAge::nothing(lists.instances(), fail_closed, now));
                    if changed.changed().await.is_err() {
                        return;
                    }
                }
            },
            _ => {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

fn fail_closed(node: &Node) -> bool {
    node.config.load().trust.fail_closed
}

/// Why deny-lists cannot be followed
#[derive(Debug, thiserror::Error)]
enum CannotBegin {
    #[error(transparent)]
    Signer(#[from] SignerError),
    #[error("{0}: {1}; check the state directory")]
    Files(PathBuf, io::Error),
    #[error("the stored lists could not be read: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A document that came, and from whom
struct Arrival {
    instance: NodeId,
    document: Vec<u8>,
}

struct Holder {
    node: Arc<Node>,
    issuing_changed: watch::Receiver<u64>,
    /// The keys that sign the lists
    signers: Vec<ListSigner>,
    list: DenyList,
    directory: PathBuf,
    /// What is known of the lists' age; its end moves with each issue
    age: ListAge,
    /// What each call is to ask for: everything behind this epoch
    epochs: BTreeMap<NodeId, watch::Sender<u64>>,
}

impl Holder {
    async fn begin(
        node: &Arc<Node>,
        lists: &Lists,
        issuing_changed: watch::Receiver<u64>,
    ) -> Result<Self, CannotBegin> {
        let instances = lists.instances();
        let signers = Signers::new(lists.signers.clone())?;
        let trust = node.config.load().trust.clone();
        let settings = DenyListSettings {
            too_old_after: trust.deny_list_max_age,
            fail_closed: trust.fail_closed,
            ..DenyListSettings::default()
        };
        let directory = node.placement.state_directory.join(DIRECTORY);
        let (path, now) = (directory.clone(), node.clock.now());
        let names = instances.clone();
        let stored = tokio::task::spawn_blocking(move || Stored::read(&path, &names)).await?;
        let stored = stored.map_err(|error| CannotBegin::Files(directory.clone(), error))?;
        // What is stored was verified when it came. A key that has been retired since, or revoked, does not make that
        // undone: the node would go without a list until it has a new one.
        let were = Signers::new(lists.signers.iter().chain(&stored.signers).cloned())?;
        let (mut list, refusals) =
            DenyList::restore(settings, were, stored.marks, stored.documents, now);
        for refusal in refusals {
            tracing::error!(%refusal, "a stored deny-list is not used");
        }
        list.handle_signers(signers, now);
        let epochs: BTreeMap<_, _> =
            instances.iter().map(|name| (name.clone(), watch::Sender::new(0))).collect();
        for (name, epoch) in list.epochs() {
            if let Some(sender) = epochs.get(name) {
                sender.send_replace(epoch);
            }
        }
        let mut holder = Self {
            node: Arc::clone(node),
            issuing_changed,
            signers: lists.signers.clone(),
            list,
            directory,
            age: ListAge::nothing(instances, trust.fail_closed, now),
            epochs,
        };
        holder.enforce();
        Ok(holder)
    }

    /// Ends when the identity changes
    async fn run(&mut self, lists: Lists, changed: &mut watch::Receiver<u64>) {
        let (arrive, mut arrivals) = mpsc::channel(ARRIVALS);
        let mut followers = JoinSet::new();
        for instance in lists.remote() {
            let Some(epoch) = self.epochs.get(&instance) else { continue };
            let (epoch, node) = (epoch.subscribe(), Arc::clone(&self.node));
            followers.spawn(follow_remote(node, instance, epoch, arrive.clone()));
        }
        if let Some((instance, revocations)) = lists.own {
            followers.spawn(follow_own(instance, revocations, arrive));
        }
        loop {
            self.carry_out().await;
            let now = self.node.clock.now();
            let due = self.list.poll_timeout(now).duration_since(now).unwrap_or_default();
            let pause = self.node.clock.wait(due).max(Duration::from_millis(10));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _gone = changed.changed() => return,
                // An error cannot be: the node holds the other end.
                _more = self.issuing_changed.changed() => self.take_signers(),
                arrival = arrivals.recv() => {
                    if let Some(Arrival { instance, document }) = arrival {
                        self.take(&instance, &document);
                    }
                }
            }
            self.list.handle_time(self.node.clock.now());
        }
    }

    /// Other issuing keys are in force
    fn take_signers(&mut self) {
        let Some(lists) = self.node.lists() else { return };
        match Signers::new(lists.signers.clone()) {
            Ok(signers) => {
                self.list.handle_signers(signers, self.node.clock.now());
                self.signers = lists.signers;
                self.publish_age();
            }
            Err(error) => tracing::error!(%error, "the signers of deny-lists stay as they are"),
        }
    }

    fn take(&mut self, instance: &NodeId, document: &[u8]) {
        match self.list.handle_document(document, self.node.clock.now()) {
            Ok(Applied::AlreadyHeld) => {}
            Ok(Applied::Taken { added: 0 }) => {
                tracing::debug!(%instance, "deny-list confirmed");
                self.node.tell_list_news();
            }
            Ok(Applied::Taken { added }) => tracing::info!(%instance, added, "deny-list taken"),
            Err(refusal) => {
                tracing::error!(%instance, %refusal, label = refusal.label(), "deny-list refused");
                if matches!(refusal, Refusal::UnknownSigner(_)) {
                    self.node.tell_list_news();
                }
            }
        }
        for (name, epoch) in self.list.epochs() {
            if let Some(sender) = self.epochs.get(name) {
                sender.send_if_modified(|held| std::mem::replace(held, epoch) != epoch);
            }
        }
        // Every issue moves the time until which the list may be gone by.
        self.publish_age();
    }

    async fn carry_out(&mut self) {
        while let Some(action) = self.list.poll_action() {
            match action {
                DenyListAction::CloseConnections { revoked } => {
                    self.enforce();
                    self.notice_own(&revoked);
                }
                DenyListAction::AskFull { instance, held_epoch } => {
                    tracing::info!(%instance, held_epoch, "the full deny-list is asked for");
                    if let Some(sender) = self.epochs.get(&instance) {
                        sender.send_replace(0);
                    }
                }
                DenyListAction::Store { instance, form, document, mark } => {
                    self.store(&instance, form, document, mark).await;
                }
                DenyListAction::NewConnections(policy) => {
                    match &policy {
                        NewConnections::Allowed => tracing::info!("deny-lists are recent"),
                        NewConnections::AllowedAlthoughOld { instances } => tracing::warn!(
                            ?instances,
                            "deny-lists are too old; connections are made all the same"
                        ),
                        NewConnections::Refused { instances } => tracing::error!(
                            ?instances,
                            "deny-lists are too old; new connections are refused"
                        ),
                    }
                    self.publish_age();
                }
            }
        }
    }

    /// Has the data plane refuse what is denied now, and close the connections on which it is shown
    fn enforce(&mut self) {
        let mut denied = Denied { serials: HashSet::new(), ..Denied::default() };
        for entry in self.list.entries() {
            if let Some((_, serial)) = entry.target.named_certificate() {
                denied.serials.insert(serial.to_string());
            }
            if let Some(key) = entry.target.named_key() {
                denied.keys.insert(*key.as_bytes());
            }
            if let Some(issuer) = entry.target.named_issuer() {
                denied.issuers.insert(*issuer.as_bytes());
            }
        }
        let revoked = self.list.entries().filter_map(|entry| entry.target.named_issuer().copied());
        self.node.known.revoke(revoked.collect());
        let (serials, keys) = (denied.serials.len(), denied.keys.len());
        let issuers = denied.issuers.len();
        let epoch = self.node.set_denied(denied);
        tracing::info!(serials, keys, issuers, epoch, "deny-list in force");
        self.publish_age();
    }

    /// This node's own certificate or key may be among them, or the key that issued it
    fn notice_own(&self, revoked: &[Entry]) {
        for issuer in revoked.iter().filter_map(|entry| entry.target.named_issuer()) {
            tracing::warn!(%issuer, "an issuing key was revoked");
            self.node.rotation.tell(Notice::IssuerRevoked(*issuer));
            self.node.name_siblings();
            // It is not among those whose leaves are good any more.
            self.node.tell_list_news();
        }
        let Some(identity) = self.node.identities().identity else { return };
        let own = &identity.identity().serial;
        let parsed = stoq_trustchain::certificate::parse(identity.leaf_der());
        let key = parsed.map(|leaf| SpkiHash::of(leaf.public_key().raw)).ok();
        let is_own = |entry: &&Entry| {
            let named = entry.target.named_certificate();
            named.is_some_and(|(_, serial)| serial.to_string() == *own)
                || (key.is_some() && entry.target.named_key() == key.as_ref())
        };
        if revoked.iter().any(|entry| is_own(&entry)) {
            tracing::error!(serial = own, "this node's own certificate was revoked");
            self.node.rotation.tell(Notice::Revoked(own.clone()));
        }
    }

    fn publish_age(&mut self) {
        self.age.until = self.list.recent_until();
        let recent = |signer: &ListSigner| {
            (*signer.key_id().as_bytes(), self.list.recent_until_of(signer.instance()))
        };
        self.age.by_issuer = self.signers.iter().map(recent).collect();
        self.node.set_list_age(self.age.clone());
    }

    async fn store(
        &self,
        instance: &NodeId,
        form: StoreForm,
        document: Vec<u8>,
        mark: HighWaterMark,
    ) {
        let directory = self.directory.join(instance.as_str());
        let signers = self.signers.iter().filter(|signer| signer.instance() == instance);
        let keys: BTreeSet<Vec<u8>> = signers.map(|signer| signer.spki_der().to_vec()).collect();
        let written =
            tokio::task::spawn_blocking(move || write(&directory, form, &document, &mark, keys));
        let outcome = written.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        if let Err(error) = outcome {
            // It is in force; a host that starts without it asks for it again.
            tracing::error!(%instance, %error, "a deny-list could not be stored");
        }
    }
}

/// Follows the list of the own authority; the full one each time, which costs nothing within one process
async fn follow_own(instance: NodeId, revocations: Revocations, arrivals: mpsc::Sender<Arrival>) {
    let mut issues = revocations.deny_list();
    loop {
        let issue = issues.borrow_and_update().clone();
        if let Some(issue) = issue {
            let arrival = Arrival { instance: instance.clone(), document: issue.full.clone() };
            if arrivals.send(arrival).await.is_err() {
                return;
            }
        }
        if issues.changed().await.is_err() {
            return;
        }
    }
}

/// Follows the list of another node's authority: always one call under way that waits for the next issue
async fn follow_remote(
    node: Arc<Node>,
    instance: NodeId,
    mut epoch: watch::Receiver<u64>,
    arrivals: mpsc::Sender<Arrival>,
) {
    let mut pause = PAUSE_FIRST;
    loop {
        let held = *epoch.borrow_and_update();
        let asked = tokio::select! {
            asked = ask(&node, &instance, held) => asked,
            // Another epoch is to be asked for, or this list is of no interest any more.
            more = epoch.changed() => match more {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        match asked {
            Ok(None) => pause = PAUSE_FIRST,
            Ok(Some(document)) => {
                pause = PAUSE_FIRST;
                let arrival = Arrival { instance: instance.clone(), document };
                if arrivals.send(arrival).await.is_err() {
                    return;
                }
                // Judging it changes the epoch; one that was refused must not be asked for without end.
                tokio::select! {
                    _changed = epoch.changed() => {}
                    () = tokio::time::sleep(PAUSE_FIRST) => {}
                }
            }
            Err(Unasked { reason, refused }) => {
                tracing::debug!(%instance, reason, "the deny-list could not be asked for");
                // Perhaps because this node is on the list. It is never told so where it may not come in.
                if refused && let Some(document) = ask_over_https(&node, &instance).await {
                    let arrival = Arrival { instance: instance.clone(), document };
                    if arrivals.send(arrival).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_LONGEST);
            }
        }
    }
}

/// Why there is no answer
struct Unasked {
    reason: String,
    /// The authority has let this node into no session
    refused: bool,
}

async fn ask(node: &Node, instance: &NodeId, held: u64) -> Result<Option<Vec<u8>>, Unasked> {
    let unreached =
        |error: ReachError| Unasked { reason: error.to_string(), refused: error.is_refusal() };
    let session = node.peers.session(instance).await.map_err(unreached)?;
    let client = Client::new(session.watches(tokio::time::sleep));
    client.deny_list(held, HOLD).await.or_else(|problem| match problem {
        // Nothing new came in time.
        CallProblem::Deadline => Ok(None),
        other => Err(Unasked { reason: other.to_string(), refused: false }),
    })
}

/// The list from where it is public; `None` where it cannot be had there either
async fn ask_over_https(node: &Node, instance: &NodeId) -> Option<Vec<u8>> {
    let identity = node.identities().identity?;
    let to = authority_at(&identity, instance.clone())?;
    match enrollment::deny_list(&to, node.clock.now()).await {
        Ok(document) => Some(document),
        Err(error) => {
            tracing::debug!(%instance, %error, "nor could it be had over HTTPS");
            None
        }
    }
}

/// What is on disk
#[derive(Default)]
struct Stored {
    marks: Vec<HighWaterMark>,
    documents: Vec<Vec<u8>>,
    /// The keys that counted when these documents came
    signers: Vec<ListSigner>,
}

impl Stored {
    fn read(directory: &Path, instances: &[NodeId]) -> io::Result<Self> {
        let mut stored = Self::default();
        for instance in instances {
            let directory = directory.join(instance.as_str());
            if !directory.exists() {
                continue;
            }
            match std::fs::read(directory.join(MARK_FILE)) {
                Ok(bytes) => stored.marks.push(serde_json::from_slice(&bytes)?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            for spki_der in keys_in(&directory)? {
                let signer = ListSigner::from_spki(instance.clone(), &spki_der);
                stored.signers.push(signer.map_err(io::Error::other)?);
            }
            for path in documents(&directory)? {
                if std::fs::metadata(&path)?.len() <= FILE_LIMIT_BYTES {
                    stored.documents.push(std::fs::read(path)?);
                }
            }
        }
        Ok(stored)
    }
}

/// The last document of an instance that is on disk, and the keys that may have signed it
pub fn last_stored(
    state: &Path,
    instance: &NodeId,
) -> io::Result<Option<(Vec<u8>, Vec<ListSigner>)>> {
    let stored = Stored::read(&state.join(DIRECTORY), std::slice::from_ref(instance))?;
    let Stored { mut documents, signers, .. } = stored;
    Ok(documents.pop().map(|document| (document, signers)))
}

/// The keys that signed the documents of an instance, SubjectPublicKeyInfo in DER
fn keys_in(directory: &Path) -> io::Result<Vec<Vec<u8>>> {
    match std::fs::read_to_string(directory.join(KEYS_FILE)) {
        Ok(text) => decode_pem(KEY_LABEL, &text).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The documents of an instance, in the order in which they came: names are epochs of 20 digits
fn documents(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "list") {
            paths.push(path);
        }
        if paths.len() > DOCUMENTS_LIMIT {
            return Err(io::Error::other(format!("more than {DOCUMENTS_LIMIT} documents")));
        }
    }
    paths.sort();
    Ok(paths)
}

/// The document first and the mark after it: a mark without its list counts as a list that was lost, and the
/// list without its mark is a list. `keys` are those that may have signed it.
fn write(
    directory: &Path,
    form: StoreForm,
    document: &[u8],
    mark: &HighWaterMark,
    mut keys: BTreeSet<Vec<u8>>,
) -> io::Result<()> {
    crate::identity::private_directory(directory).map_err(std::io::Error::other)?;
    let known: BTreeSet<Vec<u8>> = keys_in(directory)?.into_iter().collect();
    let before = match form {
        StoreForm::Replace => documents(directory)?,
        StoreForm::Append => {
            keys.extend(known.iter().cloned());
            Vec::new()
        }
    };
    if keys != known {
        let text: String = keys.iter().map(|spki_der| encode_pem(KEY_LABEL, spki_der)).collect();
        replace(directory, KEYS_FILE, text.as_bytes())?;
    }
    let name = format!("{:020}.list", mark.epoch);
    replace(directory, &name, document)?;
    replace(directory, MARK_FILE, &serde_json::to_vec(mark)?)?;
    for path in before {
        if path.file_name().is_some_and(|known| known.to_str() != Some(&name)) {
            std::fs::remove_file(path)?;
        }
    }
    std::fs::File::open(directory)?.sync_all()
}

fn replace(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let fresh = directory.join(format!("{name}.new"));
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&fresh, directory.join(name))?;
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use stoq_trustchain::{KeyKind, KeyPair};

    use super::*;

    fn mark(epoch: u64) -> HighWaterMark {
        HighWaterMark {
            instance: "alpha".into(),
            epoch,
            issued_at: 5,
            live: 0,
            content_sha256: "00".into(),
            ends_by_hour: BTreeMap::new(),
        }
    }

    #[test]
    fn documents_are_read_back_in_order_and_a_full_one_takes_the_place_of_all() {
        let directory = tempfile::tempdir().unwrap();
        let alpha = NodeId::new("alpha").unwrap();
        let read = || Stored::read(directory.path(), std::slice::from_ref(&alpha)).unwrap();
        assert!(read().documents.is_empty());
        let own = directory.path().join("alpha");
        let key = |_| KeyPair::generate(KeyKind::P256).unwrap().spki_der().unwrap();
        let [one, two] = [0, 1].map(key);
        let only = |key: &Vec<u8>| BTreeSet::from([key.clone()]);
        write(&own, StoreForm::Replace, b"full", &mark(2), only(&one)).unwrap();
        write(&own, StoreForm::Append, b"change", &mark(10), only(&two)).unwrap();
        let stored = read();
        assert_eq!(stored.documents, [b"full".to_vec(), b"change".to_vec()]);
        assert_eq!(stored.marks, [mark(10)]);
        assert_eq!(stored.signers.len(), 2, "the first document still counts by its key");
        write(&own, StoreForm::Replace, b"whole", &mark(11), only(&two)).unwrap();
        assert_eq!(read().documents, [b"whole".to_vec()]);
        let expected = ListSigner::from_spki(alpha.clone(), &two).unwrap();
        assert_eq!(read().signers, [expected]);
        write(&own, StoreForm::Replace, b"again", &mark(11), only(&two)).unwrap();
        assert_eq!(read().documents, [b"again".to_vec()]);
        std::fs::write(own.join(MARK_FILE), b"{").unwrap();
        assert!(Stored::read(directory.path(), &[alpha]).is_err(), "damage is not a fresh start");
    }
}
