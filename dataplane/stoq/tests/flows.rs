//! Two endpoints over real sockets on [::1]: flows, calls, replacement and refusal, through the worker's own
//! I/O. Faults are `stoq-simulation`'s.

use std::time::Duration;

use bytes::Bytes;
use stoq::{
    Allow, CallChannel as _, CallEnd, CallError, CallStatus, Endpoint, FlowError, IoPreference,
    NodeId, ServiceName, WorkerPlan, ZeroCopy,
};
use stoq_simulation::pki::{Authority, VALIDITY};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn endpoint(authority: &Authority, name: &str, plan: WorkerPlan) -> Endpoint {
    let mut snapshot = authority.snapshot(name);
    snapshot.services.insert(service("echo"), Allow::AnyEnrolled);
    snapshot.services.insert(service("private"), Allow::Nobody);
    snapshot.transport.stripe_above_bytes = 1 << 20;
    let address = "[::1]:0".parse().unwrap();
    Endpoint::builder().listen(address).workers(plan).snapshot(snapshot).build().unwrap()
}

fn echo(endpoint: &Endpoint) {
    let mut incoming = endpoint.serve(service("echo")).unwrap();
    tokio::spawn(async move {
        while let Some(flow) = incoming.next().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = flow.split();
                while let Ok(Some(bytes)) = reader.read_chunk().await {
                    if writer.write_chunk(bytes).await.is_err() {
                        return;
                    }
                }
                writer.shut().await.ok();
            });
        }
    });
}

fn pattern(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

async fn round_trip(session: &stoq::Session, seed: u64, length: usize) {
    let (mut reader, mut writer) = session.open(&service("echo")).split();
    let body = pattern(seed, length);
    let sent = body.clone();
    let writing = tokio::spawn(async move {
        writer.write_chunk(sent).await.unwrap();
        writer.finish().await.unwrap();
    });
    let mut back = Vec::with_capacity(length);
    while let Some(bytes) = reader.read_chunk().await.unwrap() {
        back.extend_from_slice(&bytes);
    }
    writing.await.unwrap();
    assert!(back == body, "flow {seed} came back changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_come_back_as_they_went() {
    let authority = Authority::new();
    let beta = endpoint(&authority, "beta", WorkerPlan::default());
    let alpha = endpoint(&authority, "alpha", WorkerPlan::default());
    echo(&beta);
    let session = alpha.connect(beta.local_address(), &node("beta")).await.unwrap();
    assert_eq!(session.peer(), &node("beta"));
    for (seed, length) in [(1, 0), (2, 1), (3, 70_000), (4, 20 << 20)] {
        round_trip(&session, seed, length).await;
    }
    let connection = &alpha.connections().await[0];
    assert_eq!(connection.key_exchange, "X25519MLKEM768");
    assert_eq!(connection.peer, Some(node("beta")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_that_nobody_waits_for_leaves_no_session() {
    let authority = Authority::new();
    let beta = endpoint(&authority, "beta", WorkerPlan::default());
    let alpha = endpoint(&authority, "alpha", WorkerPlan::default());
    let (at, name) = (beta.local_address(), node("beta"));
    // Polled once, so that the worker is told, and then no more: a time-out, however short, may come
    // after the handshake where the host is busy.
    tokio::select! {
        biased;
        _ = alpha.connect(at, &name) => unreachable!("the answer comes from another thread"),
        () = std::future::ready(()) => {}
    }
    let session = alpha.connect(at, &name).await.unwrap();
    let accepted = || -> u64 { beta.counters().iter().map(|c| c.connections_accepted.get()).sum() };
    let settled = async {
        while accepted() < 2 || beta.sessions().await.len() != 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), settled).await.expect("one session is left");
    let left = alpha.sessions().await;
    assert_eq!(left.iter().map(|one| one.id).collect::<Vec<_>>(), [session.number()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_flows_do_not_mix() {
    let authority = Authority::new();
    let beta = endpoint(&authority, "beta", WorkerPlan::default());
    let alpha = endpoint(&authority, "alpha", WorkerPlan::default());
    echo(&beta);
    let session = alpha.connect(beta.local_address(), &node("beta")).await.unwrap();
    let mut flows = tokio::task::JoinSet::new();
    for seed in 0..500 {
        let session = session.clone();
        flows.spawn(async move { round_trip(&session, seed, 10_000).await });
    }
    while let Some(done) = flows.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_is_striped_over_two_workers_and_survives_replacement() {
    let authority = Authority::new();
    let plan = WorkerPlan { cores: vec![0, 1], ..WorkerPlan::default() };
    let beta = endpoint(&authority, "beta", plan.clone());
    let alpha = endpoint(&authority, "alpha", plan);
    echo(&beta);
    let session = alpha.connect(beta.local_address(), &node("beta")).await.unwrap();
    let replaced = session.clone();
    let replacing = tokio::spawn(async move {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert!(replaced.replace_connections());
        }
    });
    round_trip(&session, 9, 96 << 20).await;
    replacing.await.unwrap();
    let status = &alpha.sessions().await[0];
    assert_eq!(status.connections, 2, "one connection per worker");
    assert!(status.replacements >= 2, "{status:?}");
    assert_eq!(status.losses, 0, "{status:?}");
}

#[tokio::test]
async fn every_switch_of_a_plan_reaches_the_workers_and_bytes_still_arrive() {
    let authority = Authority::new();
    let bare = WorkerPlan {
        cores: vec![0],
        pinned: false,
        gso: false,
        gro: false,
        multishot: false,
        zero_copy: ZeroCopy::Off,
        registered_buffers: false,
        trains_per_receive: 1,
        huge_pages: false,
        ..WorkerPlan::default()
    };
    for plan in [bare.clone(), WorkerPlan { io: IoPreference::SystemCalls, ..bare }] {
        let beta = endpoint(&authority, "beta", plan.clone());
        let alpha = endpoint(&authority, "alpha", plan);
        assert_eq!(alpha.workers()[0].core, None);
        let io = &alpha.io()[0];
        assert!(!io.gro && !io.multishot && !io.registered_buffers, "{io:?}");
        assert_eq!(io.gso_segments, 1);
        echo(&beta);
        let session = alpha.connect(beta.local_address(), &node("beta")).await.unwrap();
        round_trip(&session, 3, 8 << 20).await;
        let counted = alpha.counters()[0].entries();
        let value = |name| counted.iter().find(|(n, _)| *n == name).unwrap().1;
        assert_eq!(value("trains_sent"), value("datagrams_sent"));
        assert_eq!(value("trains_received"), value("datagrams_received"));
    }
}

#[tokio::test]
async fn refusals_are_named() {
    let authority = Authority::new();
    let beta = endpoint(&authority, "beta", WorkerPlan::default());
    let alpha = endpoint(&authority, "alpha", WorkerPlan::default());
    let session = alpha.connect(beta.local_address(), &node("beta")).await.unwrap();
    for (name, expected) in [
        ("absent", FlowError::NoSuchService),
        ("private", FlowError::NotAuthorized),
        ("echo", FlowError::NoSuchService),
    ] {
        let mut flow = session.open(&service(name));
        flow.write_all(b"x").await.unwrap();
        assert_eq!(flow.read_chunk().await, Err(expected), "{name}");
    }
    let wrong = alpha.connect(beta.local_address(), &node("gamma")).await;
    assert!(matches!(wrong, Err(stoq::ConnectError::Refused(stoq::PeerRefusal::WrongNode))));
    let foreign = endpoint(&Authority::new(), "alpha", WorkerPlan::default());
    assert!(foreign.connect(beta.local_address(), &node("beta")).await.is_err());
}

#[tokio::test]
async fn calls_are_answered_or_refused() {
    let authority = Authority::new();
    let beta = endpoint(&authority, "beta", WorkerPlan::default());
    let alpha = endpoint(&authority, "alpha", WorkerPlan::default());
    beta.serve_calls(|call| {
        if call.method() == "test/echo" {
            let body = call.body().clone();
            call.reply(body);
        } else {
            call.refuse(CallStatus::Unknown, Bytes::new());
        }
    });
    let session = alpha.connect(beta.local_address(), &node("beta")).await.unwrap();
    let second = Duration::from_secs(5);
    for length in [0, 10, 500_000] {
        let body = pattern(1, length);
        let timer = tokio::time::sleep(second);
        let reply = session.call("test/echo", body.clone(), second, timer).await;
        assert_eq!(reply, Ok(body));
    }
    let timer = tokio::time::sleep(second);
    let refused = session.call("test/other", Bytes::new(), second, timer).await;
    assert_eq!(refused, Err(CallError::Status(CallStatus::Unknown, Bytes::new())));
}

#[tokio::test]
async fn a_handler_sees_the_certificate_of_the_connection_and_a_channel_carries_its_answer() {
    let authority = Authority::new();
    let beta = endpoint(&authority, "beta", WorkerPlan::default());
    let mut snapshot = authority.snapshot("alpha");
    let first = snapshot.identity.clone().unwrap();
    let listen = "[::1]:0".parse().unwrap();
    let alpha = Endpoint::builder().listen(listen).snapshot(snapshot.clone()).build().unwrap();
    beta.serve_calls(|call| {
        let shown = call.peer_certificate();
        let body = [&shown.sha256[..], shown.serial.as_bytes()].concat();
        let status = match call.method() {
            "test/who" => CallStatus::Ok,
            _ => CallStatus::Denied,
        };
        call.answer(status, body.into());
    });
    let session = alpha.connect(beta.local_address(), &node("beta")).await.unwrap();
    let (channel, second) = (session.calls(tokio::time::sleep), Duration::from_secs(5));
    let shown = |identity: &stoq::Identity| {
        let sha256 = boring::sha::sha256(&identity.chain_der[0]);
        [&sha256[..], identity.serial.as_bytes()].concat()
    };
    let seen = channel.call("test/who", Vec::new(), second).await;
    assert_eq!(seen, Ok(shown(&first)));
    let refused = channel.call("test/other", Vec::new(), second).await;
    assert_eq!(refused, Err(CallEnd::Status(CallStatus::Denied, shown(&first))));
    // Another certificate of the same node shows once a connection was made with it, not before.
    snapshot.epoch += 1;
    snapshot.identity = Some(authority.identity("alpha", VALIDITY));
    let next = snapshot.identity.clone().unwrap();
    alpha.publish(snapshot);
    assert_eq!(channel.call("test/who", Vec::new(), second).await, Ok(shown(&first)));
    assert!(session.replace_connections());
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while channel.call("test/who", Vec::new(), second).await != Ok(shown(&next)) {
        assert!(std::time::Instant::now() < end, "calls still go by the former connection");
    }
    beta.serve_calls(drop);
    let none = channel.call("test/who", Vec::new(), Duration::from_millis(50)).await;
    assert_eq!(none, Err(CallEnd::Deadline));
}

#[tokio::test]
async fn half_close_and_reset_reach_the_other_side() {
    let authority = Authority::new();
    let beta = endpoint(&authority, "beta", WorkerPlan::default());
    let alpha = endpoint(&authority, "alpha", WorkerPlan::default());
    let mut incoming = beta.serve(service("echo")).unwrap();
    let session = alpha.connect(beta.local_address(), &node("beta")).await.unwrap();
    let mut flow = session.open(&service("echo"));
    flow.write_all(b"question").await.unwrap();
    flow.finish().await.unwrap();
    let mut served = incoming.next().await.unwrap();
    let mut question = String::new();
    served.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question");
    served.write_all(b"answer").await.unwrap();
    served.shutdown().await.unwrap();
    let mut answer = String::new();
    flow.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer");

    let mut flow = session.open(&service("echo"));
    flow.write_all(b"x").await.unwrap();
    let mut served = incoming.next().await.unwrap();
    served.reset(FlowError::TargetRefused);
    assert_eq!(flow.read_chunk().await, Err(FlowError::TargetRefused));
}
