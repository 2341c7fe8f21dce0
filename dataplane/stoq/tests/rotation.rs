//! Identities that change while traffic flows: a flow at full speed and a thousand calls over connections that are
//! replaced again and again, and a peer that is denied while it talks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use stoq::{
    Allow, ControlSnapshot, Endpoint, FlowError, NodeId, PeerRefusal, ServiceName, WorkerPlan,
};
use stoq_interface::Denied;
use stoq_simulation::pki::{Authority, VALIDITY};

const CALLS: u32 = 1_000;
/// Calls that are under way at one time
const AT_ONCE: u32 = 20;
const PIECE_BYTES: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn snapshot(authority: &Authority, name: &str, epoch: u64) -> ControlSnapshot {
    let mut snapshot = authority.snapshot(name);
    snapshot.epoch = epoch;
    snapshot.services.insert(service("sink"), Allow::AnyEnrolled);
    snapshot
}

fn endpoint(authority: &Authority, name: &str) -> Endpoint {
    let address = "[::1]:0".parse().unwrap();
    let builder = Endpoint::builder().listen(address).workers(WorkerPlan::default());
    builder.snapshot(snapshot(authority, name, 1)).build().unwrap()
}

/// The piece with this number
fn piece(number: u64) -> Bytes {
    let mut octets = vec![number as u8; PIECE_BYTES];
    octets[..8].copy_from_slice(&number.to_le_bytes());
    Bytes::from(octets)
}

/// Serves `sink`: what comes must be the pieces in their order; counts the octets
fn sink(endpoint: &Endpoint, received: &Arc<AtomicU64>) {
    let mut incoming = endpoint.serve(service("sink")).unwrap();
    let received = Arc::clone(received);
    tokio::spawn(async move {
        let mut flow = incoming.next().await.unwrap();
        let (mut number, mut part, mut at) = (0, piece(0), 0);
        while let Some(bytes) = flow.read_chunk().await.unwrap() {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let count = rest.len().min(PIECE_BYTES - at);
                assert_eq!(rest[..count], part[at..at + count], "in piece {number}");
                (rest, at) = (&rest[count..], at + count);
                if at == PIECE_BYTES {
                    number += 1;
                    (part, at) = (piece(number), 0);
                }
            }
            received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        flow.finish().await.unwrap();
    });
}

/// Answers each call after `after`, so that calls are under way when connections go
fn answer_late(endpoint: &Endpoint, after: Duration) {
    let runtime = tokio::runtime::Handle::current();
    endpoint.serve_calls(move |call| {
        runtime.spawn(async move {
            tokio::time::sleep(after).await;
            let body = call.body().clone();
            assert!(call.reply(body), "the worker takes the answer");
        });
    });
}

async fn calls(session: stoq::Session, seed: u32) -> Result<(), String> {
    for number in 0..CALLS / AT_ONCE {
        let body = Bytes::from(format!("{seed}-{number}"));
        let timer = tokio::time::sleep(PATIENCE);
        let reply = session.call("test/echo", body.clone(), PATIENCE, timer).await;
        match reply {
            Ok(reply) if reply == body => {}
            other => return Err(format!("call {seed}-{number}: {other:?}")),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_and_no_call_is_lost_while_both_nodes_change_their_certificates() {
    let authority = Authority::new();
    let (alpha, beta) = (endpoint(&authority, "alpha"), endpoint(&authority, "beta"));
    let received = Arc::new(AtomicU64::new(0));
    sink(&beta, &received);
    for end in [&alpha, &beta] {
        answer_late(end, Duration::from_millis(40));
    }
    let session = alpha.connect(beta.local_address(), &node("beta")).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (mut flow, told) = (session.open(&service("sink")), Arc::clone(&stop));
    let sending = tokio::spawn(async move {
        let mut number = 0;
        while !told.load(Ordering::Acquire) {
            flow.write_chunk(piece(number)).await.unwrap();
            number += 1;
        }
        flow.finish().await.unwrap();
        // The sink ends its half once it has read everything: a finished half is only known to have arrived.
        assert_eq!(flow.read_chunk().await.unwrap(), None);
        number * PIECE_BYTES as u64
    });
    let callers: Vec<_> =
        (0..AT_ONCE).map(|seed| tokio::spawn(calls(session.clone(), seed))).collect();
    let mut rounds = 0;
    while rounds < 6 || callers.iter().any(|caller| !caller.is_finished()) {
        rounds += 1;
        let before: Vec<u64> = alpha.connections().await.iter().map(|one| one.id).collect();
        let mut renewed = snapshot(&authority, "alpha", rounds + 1);
        renewed.identity = Some(authority.identity("alpha", VALIDITY));
        let serial = renewed.identity.as_ref().unwrap().serial.clone();
        alpha.publish(renewed);
        beta.publish(snapshot(&authority, "beta", rounds + 1));
        assert!(session.replace_connections());
        // The connections of before go, and those of now show the new certificate.
        let end = Instant::now() + PATIENCE;
        loop {
            let (ours, theirs) = (alpha.connections().await, beta.connections().await);
            let live = |state: &str| state == "active" || state == "draining";
            let gone = !ours.iter().any(|one| before.contains(&one.id) && live(one.state));
            let shown = theirs
                .iter()
                .any(|one| one.state == "active" && one.peer_serial.as_ref() == Some(&serial));
            if gone && shown {
                break;
            }
            assert!(Instant::now() < end, "round {rounds}: {ours:?} {theirs:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    for caller in callers {
        assert_eq!(caller.await.unwrap(), Ok(()));
    }
    stop.store(true, Ordering::Release);
    let sent = tokio::time::timeout(PATIENCE, sending).await.unwrap().unwrap();
    assert_eq!(received.load(Ordering::Relaxed), sent);
    let status = alpha.sessions().await.remove(0);
    assert_eq!(status.losses, 0, "{status:?}");
    assert!(status.replacements >= 6, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_denied_while_it_talks_is_cut_off_within_a_second() {
    let authority = Authority::new();
    for by_key in [false, true] {
        let (alpha, beta) = (endpoint(&authority, "alpha"), endpoint(&authority, "beta"));
        let received = Arc::new(AtomicU64::new(0));
        let mut incoming = beta.serve(service("sink")).unwrap();
        let counted = Arc::clone(&received);
        let reading = tokio::spawn(async move {
            let mut flow = incoming.next().await.unwrap();
            loop {
                match flow.read_chunk().await {
                    Ok(Some(bytes)) => counted.fetch_add(bytes.len() as u64, Ordering::Relaxed),
                    Ok(None) => return None,
                    Err(error) => return Some(error),
                };
            }
        });
        let session = alpha.connect(beta.local_address(), &node("beta")).await.unwrap();
        let mut flow = session.open(&service("sink"));
        let writing = tokio::spawn(async move {
            let mut number = 0;
            loop {
                if let Err(error) = flow.write_chunk(piece(number)).await {
                    return error;
                }
                number += 1;
            }
        });
        let end = Instant::now() + PATIENCE;
        while received.load(Ordering::Relaxed) < 1 << 20 {
            assert!(Instant::now() < end, "the flow does not move");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let own = alpha.snapshot().identity.clone().unwrap();
        let mut denying = (*beta.snapshot()).clone();
        denying.epoch += 1;
        let key = key_hash(&own.chain_der[0]);
        denying.denied = Arc::new(match by_key {
            false => Denied { serials: [own.serial].into(), ..Denied::default() },
            true => Denied { keys: [key].into(), ..Denied::default() },
        });
        let begun = Instant::now();
        beta.publish(denying);
        // Both programs are told, and no connection is left on either side.
        assert_eq!(reading.await.unwrap(), Some(FlowError::SessionLost));
        assert_eq!(writing.await.unwrap(), FlowError::SessionLost);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
        assert!(beta.sessions().await.is_empty() && alpha.sessions().await.is_empty());
        let again = alpha.connect(beta.local_address(), &node("beta")).await;
        assert!(again.is_err());
        let reason = if by_key { PeerRefusal::KeyRevoked } else { PeerRefusal::Revoked };
        // Counted when the refused connection is taken out, which is after its closing period.
        let end = Instant::now() + PATIENCE;
        while !beta.counters().iter().any(|one| one.refused[reason.index()].get() > 0) {
            assert!(Instant::now() < end, "{reason} was not counted");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo
fn key_hash(certificate_der: &[u8]) -> [u8; 32] {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate_der).unwrap();
    boring::sha::sha256(parsed.public_key().raw)
}
