//! Strangers whose certificates have one thing wrong, before a running daemon, dialling it and dialled by it: each is
//! refused for its own reason, and that reason alone is counted in /metrics. What decides is `stoq-transport`'s; here
//! it is seen that the daemon asks for what the decision needs, in both roles.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustix::process::Signal;
use stoq::{ConnectError, ControlSnapshot, Endpoint, Identity, NodeId, PeerRefusal};
use stoq_admin::{NodeGauges, decode_pem, encode_pem, render_metrics};
use stoq_appliance_tests::{Node, Options, Stream, program, say, shared, wait_until};
use stoq_simulation::pki;
use stoq_trustchain::key_slots::KeySlots;
use stoq_trustchain::{KeyKind, KeyPair, certificate, csr};

use crate::forge::{Forge, HOUR, Log, any_name, dns, spiffe};

const PATIENCE: Duration = Duration::from_secs(60);
const FAMILY: &str = "stoq_worker_peers_refused_total";

/// Who says to be whom, and why that is refused: by the one that is dialled, and by the one that dials
struct Stranger {
    what: &'static str,
    identity: Identity,
    dialling: &'static str,
    dialled: &'static str,
}

/// A running daemon, and how to make trouble for it
struct Scene {
    alpha: Node,
    forge: Forge,
}

impl Scene {
    fn start() -> Self {
        let alpha = Node::start("alpha", &Options::default());
        let forge = Forge::of(&alpha);
        Self { alpha, forge }
    }

    /// An endpoint of somebody who trusts alpha, so that it is alpha who refuses
    fn endpoint(&self, identity: Identity) -> Endpoint {
        let now = SystemTime::now();
        let found = KeySlots::of(self.alpha.state().join("identity")).find(now).unwrap();
        let (current, _) = found.turns(now);
        let trust = current.unwrap().identity.trust();
        let identity = Some(identity);
        let snapshot = ControlSnapshot { epoch: 1, identity, trust, ..ControlSnapshot::default() };
        let builder = Endpoint::builder().listen("[::1]:0".parse().unwrap());
        builder.snapshot(snapshot).build().unwrap()
    }

    /// A certificate that the authority itself has issued
    fn issued(&self, node: &str) -> Identity {
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let request = self.alpha.path(&format!("{node}.csr"));
        let pem = encode_pem("CERTIFICATE REQUEST", &csr::request(&key).unwrap());
        std::fs::write(&request, pem).unwrap();
        let out = self.alpha.path(&format!("{node}.pem"));
        self.alpha.ask(&["ca", "register", "node", node]);
        let words = ["certificate", "issue", "--profile", "node", "--subject", node];
        let files = ["--request", request.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let issued = self.alpha.ask(&[&words[..], &files].concat());
        let chain = std::fs::read_to_string(&out).unwrap();
        let leaf = decode_pem("CERTIFICATE", &chain).unwrap().swap_remove(0);
        Identity {
            node: NodeId::new(node).unwrap(),
            chain_der: vec![leaf],
            key: key.to_private_key().unwrap(),
            not_after: SystemTime::now() + 24 * HOUR,
            serial: issued["serial"].as_str().unwrap().to_owned(),
        }
    }

    /// What is refused so far, by reason, as /metrics has it
    fn refused(&self) -> BTreeMap<String, u64> {
        by_reason(&self.alpha.metrics().1)
    }

    /// Waits until `reason` is counted, and says which others are that were not before
    fn counted(&self, what: &str, reason: &str, before: &BTreeMap<String, u64>) -> Vec<String> {
        let grown = |name: &str, count: u64| count > before.get(name).copied().unwrap_or(0);
        let after = wait_until(&format!("{what} is counted as {reason}"), PATIENCE, || {
            let after = self.refused();
            grown(reason, after.get(reason).copied().unwrap_or(0)).then_some(after)
        });
        assert!(self.alpha.log().contains(reason), "{what}: {}", self.alpha.log());
        let others =
            after.into_iter().filter(|(name, count)| name != reason && grown(name, *count));
        others.map(|(name, _)| name).collect()
    }

    /// The stranger dials alpha
    async fn dials(&self, stranger: &Stranger) {
        let Stranger { what, identity, dialling: reason, .. } = stranger;
        let before = self.refused();
        let endpoint = self.endpoint(identity.clone());
        let outcome = self.dial(&endpoint).await;
        assert!(matches!(outcome, Err(ConnectError::Closed(_))), "{what}: {outcome:?}");
        assert_eq!(self.counted(what, reason, &before), [""; 0], "{what}");
        say(&format!("refusals: dialling alpha with {what}: {reason}"));
    }

    async fn dial(&self, endpoint: &Endpoint) -> Result<(), ConnectError> {
        let (address, name) = (self.alpha.stoq_address(), NodeId::new("alpha").unwrap());
        let connecting = endpoint.connect(address.parse().unwrap(), &name);
        let outcome = tokio::time::timeout(PATIENCE, connecting).await;
        outcome.expect("an answer in time").map(drop)
    }

    /// Alpha is told that the stranger's address is `named`'s, and dials it
    fn is_dialled(&self, stranger: &Stranger, named: &str, earlier: &mut Option<String>) {
        let Stranger { what, identity, dialled: reason, .. } = stranger;
        let before = self.refused();
        let endpoint = self.endpoint(identity.clone());
        let attached = self.attach(named, &endpoint);
        let others = self.counted(what, reason, &before);
        // Alpha tries again and again: what it began with the stranger before this one may end now.
        assert!(others.iter().all(|other| Some(other) == earlier.as_ref()), "{what}: {others:?}");
        let sessions = self.alpha.ask(&["session", "list"]);
        let sessions = sessions["sessions"].as_array().unwrap();
        assert!(!sessions.iter().any(|one| one["peer"] == named), "{what}: {sessions:?}");
        attached.remove(&self.alpha);
        *earlier = Some((*reason).to_owned());
        say(&format!("refusals: dialled by alpha with {what}: {reason}"));
    }

    fn attach(&self, named: &str, endpoint: &Endpoint) -> Attached {
        self.alpha.ask(&["node", "add", named, &endpoint.local_address().to_string()]);
        let service = format!("any@{named}");
        let client = Stream::connect(&self.alpha.attach(&service, "[::1]:0")).unwrap();
        Attached { service, node: named.to_owned(), _client: client }
    }
}

/// A program that waits for a service of a stranger
struct Attached {
    service: String,
    node: String,
    _client: Stream,
}

impl Attached {
    fn remove(self, alpha: &Node) {
        alpha.ask(&["service", "remove", &self.service]);
        alpha.ask(&["node", "remove", &self.node]);
    }
}

/// The counters of refusals in a text of metrics, summed over the workers
fn by_reason(metrics: &str) -> BTreeMap<String, u64> {
    let mut reasons = BTreeMap::new();
    for line in metrics.lines().filter(|line| line.starts_with(&format!("{FAMILY}{{"))) {
        let (_, rest) = line.split_once("reason=\"").expect("a label");
        let (reason, _) = rest.split_once('"').expect("a value");
        let count: u64 = line.rsplit(' ').next().unwrap().parse().expect("a count");
        *reasons.entry(reason.to_owned()).or_default() += count;
    }
    assert!(reasons.len() >= PeerRefusal::ALL.len(), "{reasons:?}");
    reasons
}

fn uses(purpose: ExtendedKeyUsagePurpose) -> impl FnOnce(&mut CertificateParams) {
    |params| params.extended_key_usages = vec![purpose]
}

/// What is wrong in the same way whoever dials, of somebody of this name
fn strangers(scene: &Scene, name: &str) -> Vec<Stranger> {
    let (forge, now) = (&scene.forge, SystemTime::now());
    let mut strangers = Vec::new();
    let mut add = |what, reason, identity| {
        strangers.push(Stranger { what, identity, dialling: reason, dialled: reason });
    };
    let ended = |params: &mut CertificateParams| {
        params.not_before = (now - 25 * HOUR).into();
        params.not_after = (now - HOUR).into();
    };
    add("an expired certificate", "expired", forge.leaf(name, ended));
    let ahead = |params: &mut CertificateParams| params.not_before = (now + HOUR).into();
    add("a certificate of tomorrow", "not_yet_valid", forge.leaf(name, ahead));
    let signs_code = uses(ExtendedKeyUsagePurpose::CodeSigning);
    add("a certificate for signing code", "key_usage", forge.leaf(name, signs_code));
    let outside = |params: &mut CertificateParams| {
        params.subject_alt_names.push(dns(&format!("{name}.example.com")));
    };
    add("a name outside the zones", "name_constraint", forge.leaf(name, outside));
    let nobody = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![dns(&format!("{name}.nodes.hypermesh"))];
    };
    add("the name of no node", "no_node_identity", forge.leaf(name, nobody));
    let both = |params: &mut CertificateParams| params.subject_alt_names.push(spiffe("alpha"));
    add("the names of two nodes", "no_node_identity", forge.leaf(name, both));
    let authority = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    };
    add("a certificate with CA:TRUE", "authority_as_leaf", forge.leaf(name, authority));
    let unlogged = forge.leaf_by(name, Log::Nobody, |_| {});
    add("a certificate without an SCT", "unlogged", unlogged);
    let other = KeyPair::generate(KeyKind::P256).unwrap();
    add("an SCT of another log", "unknown_log", forge.leaf_by(name, Log::Other(&other), |_| {}));
    let tomorrow = forge.leaf_by(name, Log::Own(now + 2 * HOUR), |_| {});
    add("an SCT of tomorrow", "bad_timestamp", tomorrow);
    let foreign = pki::Authority::new().identity(name, pki::VALIDITY);
    add("a certificate of another root", "unknown_issuer", foreign);
    let impostor = Forge::impostor_of(&scene.alpha).leaf(name, |_| {});
    add("a certificate in the authority's name", "bad_signature", impostor);
    // Of the daemon's own root. It trusts authorities and not their roots, so this one is nobody to it; what becomes
    // of an authority without constraints that is trusted is in the tests below.
    let key = KeyPair::generate(KeyKind::P256).unwrap();
    let free = |params: &mut CertificateParams| params.name_constraints = None;
    let unconstrained = Forge::root_of(&scene.alpha).authority(key, any_name("free"), free);
    let unconstrained = unconstrained.leaf(name, |_| {});
    add("a certificate of an unconstrained authority", "unknown_issuer", unconstrained);
    strangers
}

/// What is wrong for one role only: the other one has no question to which it would be the wrong answer
fn strangers_to_one(scene: &Scene, name: &str) -> [Stranger; 3] {
    let only = |purpose, what, dialling, dialled| {
        let identity = scene.forge.leaf(name, uses(purpose));
        Stranger { what, identity, dialling, dialled }
    };
    let (server, client) =
        (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
    // Good, and of somebody else: only who dials knows whom to expect.
    let eve = scene.forge.leaf("eve", |_| {});
    [
        only(server, "a certificate for servers", "key_usage", ""),
        only(client, "a certificate for clients", "", "key_usage"),
        Stranger { what: "eve's certificate", identity: eve, dialling: "", dialled: "wrong_node" },
    ]
}

#[test]
fn each_stranger_is_refused_in_both_roles_for_its_own_reason() {
    let _turn = shared();
    let scene = Scene::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // The control: what is made here is good but for what is said, and nothing is refused for its maker.
    let before = scene.refused();
    {
        let endpoint = scene.endpoint(scene.forge.leaf("good", |_| {}));
        runtime.block_on(scene.dial(&endpoint)).expect("a good certificate is let in");
    }
    {
        let endpoint = scene.endpoint(scene.forge.leaf("better", |_| {}));
        let attached = scene.attach("better", &endpoint);
        has_session_with(&scene.alpha, "better");
        attached.remove(&scene.alpha);
    }
    assert_eq!(scene.refused(), before);

    let all = |name: &str| {
        let both = strangers(&scene, name).into_iter();
        both.chain(strangers_to_one(&scene, name)).collect::<Vec<_>>()
    };
    for stranger in all("mallory").iter().filter(|one| !one.dialling.is_empty()) {
        runtime.block_on(scene.dials(stranger));
    }
    let (mut earlier, count) = (None, all("mallory").len());
    for number in 0..count {
        // Each of a name of its own: the pause after a failed try is each peer's own.
        let named = format!("m{number}");
        let stranger = &all(&named)[number];
        if !stranger.dialled.is_empty() {
            scene.is_dialled(stranger, &named, &mut earlier);
        }
    }
    let sessions = scene.alpha.ask(&["session", "list"]);
    let sessions = sessions["sessions"].as_array().unwrap();
    let good = |one: &serde_json::Value| one["peer"] == "good" || one["peer"] == "better";
    assert!(sessions.iter().all(good), "{sessions:?}");
}

/// Waits until there is a session with a peer
fn has_session_with(alpha: &Node, peer: &str) {
    wait_until("a session with a good peer", PATIENCE, || {
        let sessions = alpha.ask(&["session", "list"]);
        let sessions = sessions["sessions"].as_array().unwrap();
        sessions.iter().any(|one| one["peer"] == peer).then_some(())
    });
}

#[test]
fn a_revoked_certificate_is_refused_in_both_roles_and_was_good_before() {
    let _turn = shared();
    let scene = Scene::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let identity = scene.issued("beta");
    {
        let endpoint = scene.endpoint(identity.clone());
        runtime.block_on(scene.dial(&endpoint)).expect("it is good");
        has_session_with(&scene.alpha, "beta");
    }
    scene.alpha.ask(&["certificate", "revoke", &identity.serial, "--reason", "key-compromise"]);
    wait_until("the deny-list", PATIENCE, || {
        let log = scene.alpha.log();
        let mut lines = log.lines();
        lines.any(|l| l.contains("deny-list in force") && l.contains("serials=1")).then_some(())
    });
    let what = "a revoked certificate";
    let revoked = Stranger { what, identity, dialling: "revoked", dialled: "revoked" };
    runtime.block_on(scene.dials(&revoked));
    scene.is_dialled(&revoked, "beta", &mut None);
}

/// A daemon takes no authority into its trust that could name anybody, so it comes to no handshake
#[test]
fn a_daemon_is_no_authority_without_constraints() {
    let _turn = shared();
    let mut alpha = Node::start("alpha", &Options::default());
    let name = Forge::of(&alpha).own_name();
    alpha.signal(Signal::TERM);
    assert!(alpha.wait_exit(PATIENCE).success());
    let directory = alpha.state().join("authority");
    let start = || {
        let mut command = Command::new("timeout");
        command.arg("60").arg(program("stoqd")).args(["run", "--config"]).arg(alpha.config());
        command.stdin(Stdio::null()).output().unwrap()
    };
    let key = || KeyPair::load(&directory.join("issuing.key")).unwrap();
    let free = |params: &mut CertificateParams| params.name_constraints = None;
    let unconstrained = Forge::root_of(&alpha).authority(key(), name.clone(), free);
    let file = directory.join("issuing.pem");
    certificate::write_pem(&file, &unconstrained.certificate_der).unwrap();
    let refused = start();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("no critical name constraints"), "{said}");
    // The same made with constraints is one: what is refused above is refused for the reason named.
    let constrained = Forge::root_of(&alpha).authority(key(), name, |_| {});
    certificate::write_pem(&file, &constrained.certificate_der).unwrap();
    alpha.launch();
}

/// The last line behind that: workers on real sockets that were told to trust such an authority all the same
#[test]
fn an_authority_without_constraints_is_refused_in_both_roles_also_where_it_is_trusted() {
    let _turn = shared();
    let good = pki::Authority::new();
    let root = Forge::root();
    let key = KeyPair::generate(KeyKind::P256).unwrap();
    let free = |params: &mut CertificateParams| params.name_constraints = None;
    let loose = root.authority(key, any_name("free"), free);
    let mut trusting = good.snapshot("alpha");
    trusting.trust.push(loose.anchor());
    let mut stranger = good.snapshot("mallory");
    stranger.identity = Some(loose.leaf("mallory", |_| {}));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let endpoint = |snapshot| {
            let builder = Endpoint::builder().listen("[::1]:0".parse().unwrap());
            builder.snapshot(snapshot).build().unwrap()
        };
        let (judge, stranger) = (endpoint(trusting), endpoint(stranger));
        let counted = || {
            let metrics = render_metrics(&NodeGauges::default(), judge.counters()).unwrap();
            by_reason(&metrics)["unconstrained"]
        };
        let name = NodeId::new("mallory").unwrap();
        let outcome = judge.connect(stranger.local_address(), &name).await.map(drop);
        assert_eq!(outcome, Err(ConnectError::Refused(PeerRefusal::Unconstrained)));
        assert_eq!(counted(), 1);
        let name = NodeId::new("alpha").unwrap();
        let outcome = stranger.connect(judge.local_address(), &name).await.map(drop);
        assert!(matches!(outcome, Err(ConnectError::Closed(_))), "{outcome:?}");
        wait_until("the refusal is counted", PATIENCE, || (counted() >= 2).then_some(()));
    });
}
