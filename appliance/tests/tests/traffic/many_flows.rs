//! Ten thousand flows through one attached service, all open at once, each with bytes of its own.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stoq_appliance_tests::{
    EchoProcess, Node, Options, alone, fill, raise_descriptor_limit, resident_bytes, say,
    wait_until,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::{pair, unix};

const FLOWS: u64 = 10_000;
/// Descriptors that a daemon, or this process, needs besides one per flow
const SPARE_DESCRIPTORS: u64 = 500;
const GREETING_BYTES: usize = 64;
const PATTERN_BYTES: usize = 32 << 10;
const PATIENCE: Duration = Duration::from_secs(60);

/// One flow: shows that it is open, waits for all, then sends and gets back its own bytes
async fn flow(stream: StdUnixStream, seed: u64, barrier: Arc<Barrier>) -> Result<(), String> {
    let wrong = |what: &str| format!("flow {seed}: {what}");
    stream.set_nonblocking(true).map_err(|error| wrong(&error.to_string()))?;
    let stream = UnixStream::from_std(stream).map_err(|error| wrong(&error.to_string()))?;
    let (mut reader, mut writer) = stream.into_split();
    let mut pattern = vec![0; GREETING_BYTES + PATTERN_BYTES];
    fill(seed, 0, &mut pattern);
    let mut back = vec![0; GREETING_BYTES];
    writer.write_all(&pattern[..GREETING_BYTES]).await.map_err(|e| wrong(&e.to_string()))?;
    reader.read_exact(&mut back).await.map_err(|e| wrong(&e.to_string()))?;
    if back != pattern[..GREETING_BYTES] {
        return Err(wrong("the greeting of another"));
    }
    // All are open; the test measures; all go on.
    barrier.wait().await;
    barrier.wait().await;
    let rest = pattern.split_off(GREETING_BYTES);
    let sent = rest.clone();
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await?;
        writer.shutdown().await
    });
    back.clear();
    reader.read_to_end(&mut back).await.map_err(|e| wrong(&e.to_string()))?;
    writing.await.map_err(|e| wrong(&e.to_string()))?.map_err(|e| wrong(&e.to_string()))?;
    if back == rest { Ok(()) } else { Err(wrong("the bytes of another")) }
}

fn open_flows(node: &Node, side: &str) -> u64 {
    node.ask(&["service", "list"])[side][0]["flows_open"].as_u64().unwrap()
}

#[test]
fn ten_thousand_flows_do_not_mix() {
    let _turn = alone();
    let descriptors = raise_descriptor_limit();
    let flows = FLOWS.min(descriptors.saturating_sub(SPARE_DESCRIPTORS));
    let (alpha, beta) = pair(&Options::default());
    let echo = EchoProcess::start(env!("CARGO_BIN_EXE_stoq-test-echo"), &alpha.path("echo.sock"));
    alpha.publish("echo", &echo.target(), &["beta"]);
    let attached = unix(&beta, "echo.sock");
    beta.attach("echo@alpha", &attached);
    let path = beta.path("echo.sock");
    let memory = || (resident_bytes(alpha.pid()), resident_bytes(beta.pid()));

    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let barrier = Arc::new(Barrier::new(flows as usize + 1));
    let mut tasks = JoinSet::new();
    let before = memory();
    let begin = Instant::now();
    for seed in 0..flows {
        // Blocks while the daemon's backlog is full, which a non-blocking connect would not.
        let stream = StdUnixStream::connect(&path).unwrap();
        tasks.spawn_on(flow(stream, seed, Arc::clone(&barrier)), runtime.handle());
    }
    let meet = || runtime.block_on(async { tokio::time::timeout(PATIENCE, barrier.wait()).await });
    meet().expect("every flow opens");
    let opened = begin.elapsed();
    wait_until("both ends count every flow", Duration::from_secs(10), || {
        let counts = (open_flows(&alpha, "published"), open_flows(&beta, "attached"));
        (counts == (flows, flows)).then_some(())
    });
    let open = memory();
    let begin = Instant::now();
    meet().expect("every flow goes on");
    let failures: Vec<String> = runtime.block_on(async {
        let mut failures = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            failures.extend(ended.unwrap().err());
        }
        failures
    });
    let exchanged = begin.elapsed();
    let after = memory();
    let per_flow = |from: u64, to: u64| to.saturating_sub(from) / flows;
    say(&format!(
        "{flows} concurrent flows, descriptor limit {descriptors}: open after {:.1} s, {PATTERN_BYTES} \
         octets each way through each after {:.1} s; memory per open flow {} octets where published, \
         {} where attached; after the exchange {} and {}",
        opened.as_secs_f64(),
        exchanged.as_secs_f64(),
        per_flow(before.0, open.0),
        per_flow(before.1, open.1),
        per_flow(before.0, after.0),
        per_flow(before.1, after.1),
    ));
    assert!(failures.is_empty(), "{} flows failed: {:?}", failures.len(), &failures[..1]);
    assert_eq!(flows, FLOWS, "the hard limit of open files, {descriptors}, is too low for {FLOWS}");
    wait_until("every flow is over", Duration::from_secs(10), || {
        (open_flows(&alpha, "published") + open_flows(&beta, "attached") == 0).then_some(())
    });
}
