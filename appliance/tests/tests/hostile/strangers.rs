//! Peers that can speak the protocol and are not enrolled.

use std::time::{Duration, SystemTime};

use stoq::{ConnectError, ControlSnapshot, Endpoint, NodeId, PeerRefusal};
use stoq_appliance_tests::{Node, Options, shared, wait_until};
use stoq_simulation::pki::{Authority, VALIDITY};
use stoq_trustchain::key_slots::KeySlots;

use crate::Scene;

/// Whom a node of alpha's trusts
fn trusting(alpha: &Node) -> ControlSnapshot {
    let (slots, now) = (KeySlots::of(alpha.state().join("identity")), SystemTime::now());
    let found = slots.find(now).unwrap();
    let (current, _) = found.turns(now);
    let trust = current.unwrap().identity.trust();
    ControlSnapshot { epoch: 1, trust, ..ControlSnapshot::default() }
}

fn connect(scene: &Scene, snapshot: ControlSnapshot) -> Result<(), ConnectError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint::builder().listen("[::1]:0".parse().unwrap()).snapshot(snapshot);
        let endpoint = endpoint.build().unwrap();
        let address = scene.alpha.stoq_address().parse().unwrap();
        let alpha = NodeId::new("alpha").unwrap();
        let connecting = endpoint.connect(address, &alpha);
        let outcome = tokio::time::timeout(Duration::from_secs(15), connecting).await;
        outcome.expect("an answer in time").map(drop)
    })
}

fn refused(scene: &Scene, reason: &str) -> f64 {
    let label = format!("reason=\"{reason}\"");
    scene.alpha.metric("stoq_worker_peers_refused_total", &label)
}

#[test]
fn a_certificate_of_another_root_is_refused_with_its_reason() {
    let _turn = shared();
    let mut scene = Scene::start(&Options::default());
    let foreign = Authority::new();
    // The stranger trusts alpha, so that it is alpha who refuses.
    let mut snapshot = trusting(&scene.alpha);
    snapshot.identity = Some(foreign.identity("beta", VALIDITY));
    let outcome = connect(&scene, snapshot);
    assert!(matches!(outcome, Err(ConnectError::Closed(_))), "{outcome:?}");
    wait_until("the refusal is counted", Duration::from_secs(5), || {
        (refused(&scene, "unknown_issuer") >= 1.0).then_some(())
    });
    assert!(scene.alpha.log().contains("unknown_issuer"), "{}", scene.alpha.log());
    assert_eq!(scene.alpha.metric("stoq_worker_sessions_open", ""), 1.0);
    scene.round_trip();
}

#[test]
fn an_expired_certificate_of_another_root_is_refused() {
    let _turn = shared();
    let mut scene = Scene::start(&Options::default());
    let foreign = Authority::new();
    let mut snapshot = trusting(&scene.alpha);
    let mut identity = foreign.identity("beta", Duration::ZERO);
    // The stranger's own side believes in it.
    identity.not_after = SystemTime::now() + VALIDITY;
    snapshot.identity = Some(identity);
    let outcome = connect(&scene, snapshot);
    assert!(matches!(outcome, Err(ConnectError::Closed(_))), "{outcome:?}");
    wait_until("the refusal is counted", Duration::from_secs(5), || {
        (refused(&scene, "expired") + refused(&scene, "unknown_issuer") >= 1.0).then_some(())
    });
    scene.round_trip();
}

#[test]
fn a_daemon_of_another_root_is_refused_by_the_client() {
    let _turn = shared();
    let scene = Scene::start(&Options::default());
    let foreign = Authority::new();
    let outcome = connect(&scene, foreign.snapshot("beta"));
    assert!(
        matches!(outcome, Err(ConnectError::Refused(PeerRefusal::UnknownIssuer))),
        "{outcome:?}"
    );
}

#[test]
fn a_program_without_an_identity_dials_nobody() {
    let _turn = shared();
    let mut scene = Scene::start(&Options::default());
    scene.round_trip();
    let outcome = connect(&scene, trusting(&scene.alpha));
    assert!(matches!(outcome, Err(ConnectError::Closed(_))), "{outcome:?}");
    // The one accepted is the neighbour.
    assert_eq!(scene.alpha.metric("stoq_worker_connections_accepted_total", ""), 1.0);
    scene.round_trip();
}
