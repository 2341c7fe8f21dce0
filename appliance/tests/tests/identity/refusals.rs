//! Strangers with certificates that are almost good, issued with the real authority's key behind its back: each is
//! refused by a running daemon, dialling and dialled, with a reason and a counter of its own. The whole table is
//! `stoq-transport`'s; here it is seen that the daemon asks for what the table needs.

use std::time::{Duration, SystemTime};

use stoq::{ControlSnapshot, Endpoint, Identity, NodeId};
use stoq_appliance_tests::{Node, Options, Stream, shared, wait_until};
use stoq_simulation::pki::{self, VALIDITY};
use stoq_trustchain::csr::{self, ProvenKey};
use stoq_trustchain::key_slots::KeySlots;
use stoq_trustchain::profile::{NODE, Profile, SERVER};
use stoq_trustchain::{Authority, KeyKind, KeyPair, Subject};

const HOUR: Duration = Duration::from_secs(3_600);

/// A certificate by the authority whose files alpha has: good in every way but that its log never saw it
fn unlogged(alpha: &Node, profile: &Profile, node: &str, at: SystemTime) -> Identity {
    let authority = Authority::open(&alpha.state().join("authority"), SystemTime::now()).unwrap();
    let key = KeyPair::generate(KeyKind::P256).unwrap();
    let proven = ProvenKey::from_csr(&csr::request(&key).unwrap()).unwrap();
    let subject = Subject::new(NodeId::new(node).unwrap(), []).unwrap();
    let issued = authority.issue(profile, &subject, &proven, at).unwrap();
    Identity {
        node: NodeId::new(node).unwrap(),
        chain_der: vec![issued.certificate_der],
        key: key.to_private_key().unwrap(),
        not_after: issued.not_after,
        serial: issued.serial,
    }
}

/// A stranger who trusts alpha, so that it is alpha who refuses
fn stranger(alpha: &Node, identity: Identity) -> ControlSnapshot {
    let found = KeySlots::of(alpha.state().join("identity")).find(SystemTime::now()).unwrap();
    let (current, _) = found.turns(SystemTime::now());
    let trust = current.unwrap().identity.trust();
    ControlSnapshot { epoch: 1, identity: Some(identity), trust, ..ControlSnapshot::default() }
}

fn counted(alpha: &Node, reason: &str, role: &str, before: u64) {
    wait_until("the refusal is counted", Duration::from_secs(10), || {
        (alpha.counter("refused", reason) > before).then_some(())
    });
    assert!(alpha.log().contains(reason), "{role}: {}", alpha.log());
}

/// The stranger dials alpha
async fn dials(alpha: &Node, identity: Identity, reason: &str) {
    let before = alpha.counter("refused", reason);
    let builder = Endpoint::builder().listen("[::1]:0".parse().unwrap());
    let endpoint = builder.snapshot(stranger(alpha, identity)).build().unwrap();
    let (address, name) = (alpha.stoq_address().parse().unwrap(), NodeId::new("alpha").unwrap());
    let connecting = endpoint.connect(address, &name);
    let outcome = tokio::time::timeout(Duration::from_secs(15), connecting).await;
    assert!(outcome.expect("an answer in time").is_err(), "{reason}: let in");
    counted(alpha, reason, "dialling", before);
}

/// Alpha dials the stranger, who says to be `named`
async fn is_dialled(alpha: &Node, identity: Identity, named: &str, reason: &str) {
    let before = alpha.counter("refused", reason);
    let builder = Endpoint::builder().listen("[::1]:0".parse().unwrap());
    let endpoint = builder.snapshot(stranger(alpha, identity)).build().unwrap();
    alpha.ask(&["node", "add", named, &endpoint.local_address().to_string()]);
    let service = format!("any@{named}");
    let at = alpha.attach(&service, "[::1]:0");
    let client = Stream::connect(&at).unwrap();
    counted(alpha, reason, "dialled", before);
    drop(client);
    alpha.ask(&["service", "remove", &service]);
    alpha.ask(&["node", "remove", named]);
}

#[test]
fn each_stranger_is_refused_in_both_roles_for_its_own_reason() {
    let _turn = shared();
    let alpha = Node::start("alpha", &Options::default());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(refuse_each(&alpha));
    assert_eq!(alpha.metric("stoq_worker_sessions_open", ""), 0.0);
}

async fn refuse_each(alpha: &Node) {
    let now = SystemTime::now();
    dials(alpha, unlogged(alpha, &NODE, "mallory", now), "unlogged").await;
    is_dialled(alpha, unlogged(alpha, &NODE, "mallory", now), "mallory", "unlogged").await;
    let early = unlogged(alpha, &NODE, "mallory", now + 2 * HOUR);
    dials(alpha, early.clone(), "not_yet_valid").await;
    is_dialled(alpha, early, "mallory", "not_yet_valid").await;
    // A server's certificate is for no client, and names no node.
    let server = unlogged(alpha, &SERVER, "mallory", now);
    dials(alpha, server.clone(), "key_usage").await;
    is_dialled(alpha, server, "mallory", "no_node_identity").await;
    let foreign = pki::Authority::new();
    dials(alpha, foreign.identity("mallory", VALIDITY), "unknown_issuer").await;
    let foreign = foreign.identity("mallory", VALIDITY);
    is_dialled(alpha, foreign, "mallory", "unknown_issuer").await;
}
