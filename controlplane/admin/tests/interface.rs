//! The real server and the real client over a real socket, with a backend of fixed answers: every
//! operation, the stream of a copy, the metrics listener, and what a hostile or clumsy client gets.

mod fake;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fake::{Fake, HANGS, node};
use serde_json::Value;
use stoq_admin::api::*;
use stoq_admin::{ApiError, Client, ClientError, ExitCode, ServerLimits, bind_metrics};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Longer than anything here takes; a test that waits this long has failed
const LONG: Duration = Duration::from_secs(10);

struct House {
    fake: Arc<Fake>,
    client: Client,
    served: fake::Served,
    _directory: TempDir,
}

impl House {
    fn new() -> Self {
        Self::with(ServerLimits::default())
    }

    fn with(limits: ServerLimits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stoqd.sock");
        let fake = Arc::new(Fake::default());
        let served = fake.serve_with(path.clone(), limits);
        Self { fake, client: Client::new(path), served, _directory: directory }
    }

    async fn raw(&self) -> UnixStream {
        UnixStream::connect(self.client.socket()).await.unwrap()
    }
}

/// Sends octets as they are; the status line, the headers and the body of what comes back
async fn exchange<S>(mut stream: S, request: &[u8]) -> (String, String)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A server that has already refused may close while the rest is being written.
    if let Err(error) = stream.write_all(request).await {
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "{error}");
    }
    let mut reply = Vec::new();
    let read = timeout(LONG, stream.read_to_end(&mut reply)).await.expect("an answer in time");
    if let Err(error) = read {
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    }
    let reply = String::from_utf8(reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or((&reply, ""));
    (head.to_owned(), body.to_owned())
}

fn post(path: &str, body: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nhost: stoqd\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

fn copy(source: &str) -> CopyRun {
    CopyRun {
        source: source.parse().unwrap(),
        destination: "beta:/b".parse().unwrap(),
        options: CopyOptions::default(),
    }
}

#[tokio::test]
async fn every_operation_answers_in_its_own_envelope() {
    let house = House::new();
    for (noun, verb) in OPERATIONS {
        let body = match (*noun, *verb) {
            ("node", "add") => r#"{"node":"beta","address":"[::1]:1"}"#,
            ("node", "remove") => r#"{"node":"beta"}"#,
            ("node", "token-create") => r#"{"node":"beta","lifetime_seconds":60}"#,
            ("node", "join") => r#"{"token":"t"}"#,
            ("session", "show" | "close" | "replace") => r#"{"session":{"id":"1f"}}"#,
            ("connection", "show") => r#"{"connection":"a"}"#,
            ("worker", "show") => r#"{"index":0}"#,
            ("service", "publish") => r#"{"name":"web","target":"[::1]:80","allow":["beta"]}"#,
            ("service", "attach") => r#"{"service":"web","node":"beta","listen":"unix:/s"}"#,
            ("service", "remove") => r#"{"name":"web"}"#,
            ("measure", "start") => r#"{"node":"beta","bytes":1}"#,
            ("measure", "show") => r#"{"measurement":"2a"}"#,
            ("config", "explain") => r#"{"key":"node.name"}"#,
            ("log", "level-set") => r#"{"level":"debug"}"#,
            ("ca", "register") => r#"{"registration":{"profile":"service","subject":"shop"}}"#,
            ("ca", "unregister") => r#"{"profile":"service","subject":"shop"}"#,
            ("ca", "trust") => r#"{"statement_pem":""}"#,
            ("ca", "operate") => r#"{"authority":"alpha","order_pem":""}"#,
            ("ca", "renew-all") => r#"{"within_seconds":60}"#,
            ("ca", "key-request" | "key-prepare" | "key-activate" | "key-taint" | "key-revoke") => {
                r#"{"name":"issuing-2"}"#
            }
            ("certificate", "issue") => r#"{"profile":"node","subject":"a","request_pem":""}"#,
            ("certificate", "show") => r#"{"serial":"0a"}"#,
            ("certificate", "revoke") => r#"{"of":{"serial":"0a"},"reason":"superseded"}"#,
            ("token", "create") => r#"{"node":"beta","lifetime_seconds":60}"#,
            ("token", "revoke") => r#"{"id":"4f9c"}"#,
            ("log", "prove") => r#"{"of":{"serial":"0a"}}"#,
            ("crl", "show") => r#"{"shard":0}"#,
            ("backup", "create") => r#"{"directory":"/b"}"#,
            ("drain", "run") => r#"{"timeout_seconds":1}"#,
            ("consensus", "unblock") => r#"{"key":"cd"}"#,
            ("consensus", "evidence-export") => r#"{"id":"ab"}"#,
            ("consensus", "submit") => r#"{"operation":"00"}"#,
            ("consensus", "change-vote") => r#"{"vote":{"change":"remove","key":"cd"}}"#,
            ("consensus", "stake-give") => r#"{"to_key":"cd","amount":5}"#,
            ("asset", "register") => r#"{"kind":"cpu","name":"main"}"#,
            ("asset", "show") => r#"{"asset":"cpu-abc"}"#,
            ("asset", "operate") => r#"{"action":"retire","asset":"cpu-abc"}"#,
            ("asset", "transfer") => r#"{"asset":"cpu-abc","to":"ef"}"#,
            ("asset", "release") => r#"{"allocation":"0d"}"#,
            ("asset", "certificate") => r#"{"asset":"cpu-abc","request_pem":""}"#,
            ("asset", "receipt-show") => r#"{"height":8201,"index":3}"#,
            _ => "",
        };
        let path = format!("/v1/{noun}/{verb}");
        let (head, reply) = exchange(house.raw().await, &post(&path, body)).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}\n{reply}");
        let reply: Value = serde_json::from_str(&reply).unwrap();
        assert_eq!(reply["schema"], format!("stoqctl.{noun}.{verb}/1"));
        assert!(reply.as_object().unwrap().len() > 1, "{path} says nothing: {reply}");
    }
}

#[tokio::test]
async fn the_client_gets_typed_replies_and_typed_refusals() {
    let house = House::new();
    let request = SessionShow { session: SessionSelector::Peer(node("beta")) };
    let shown = house.client.call(&request).await.unwrap();
    assert_eq!(shown.session.peer, node("beta"));
    assert_eq!(house.fake.last().0, "session.show");

    let ordered = ApiError::conflict("service-exists", "web is there", "remove it");
    *house.fake.fail_with.lock().unwrap() = Some(ordered.clone());
    match house.client.call(&ServiceList {}).await {
        Err(ClientError::Refused(error)) => assert_eq!(error, ordered),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_backend_is_told_which_user_asks() {
    use std::os::unix::fs::MetadataExt as _;
    let house = House::new();
    house.client.call(&NodeShow {}).await.unwrap();
    house.client.copy(&copy("/a"), |_| {}).await.unwrap();
    // What is no operation is asked for by nobody.
    exchange(house.raw().await, b"GET /healthz HTTP/1.1\r\nhost: stoqd\r\n\r\n").await;
    let own = std::fs::metadata("/proc/self").unwrap().uid();
    let callers = house.fake.callers.lock().unwrap().clone();
    assert_eq!(callers.iter().map(|caller| caller.uid()).collect::<Vec<_>>(), [own, own]);
    assert_eq!(callers[0].to_string(), format!("uid={own}"));
}

#[tokio::test]
async fn a_copy_reports_and_ends_with_its_result_or_its_error() {
    let house = House::new();
    let mut reports = Vec::new();
    let done = house.client.copy(&copy("/a"), |report| reports.push(report)).await.unwrap();
    assert_eq!(done.files_verified, 1);
    assert_eq!(reports.last().map(|report| report.bytes_done), Some(512));

    *house.fake.fail_with.lock().unwrap() = Some(ApiError::timed_out("beta is silent", ""));
    let error = house.client.copy(&copy("/a"), |_| {}).await.unwrap_err();
    assert_eq!(ApiError::from(error).exit_code, ExitCode::TimedOut);
}

#[tokio::test]
async fn a_copy_between_two_local_paths_is_refused() {
    let house = House::new();
    let request = CopyRun { destination: "/b".parse().unwrap(), ..copy("/a") };
    match house.client.copy(&request, |_| {}).await {
        Err(ClientError::Refused(error)) => assert_eq!(error.code, "copy-ends"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_copy() {
    let house = House::new();
    let client = house.client.clone();
    let copying = tokio::spawn(async move { client.copy(&copy(HANGS), |_| {}).await });
    timeout(LONG, house.fake.copy_started.notified()).await.unwrap();
    copying.abort();
    timeout(LONG, house.fake.copy_dropped.notified()).await.expect("the copy ends with its client");
}

#[tokio::test]
async fn copies_beyond_the_limit_are_refused_and_other_operations_go_on() {
    let house = House::with(ServerLimits { copies: 1, ..ServerLimits::default() });
    let client = house.client.clone();
    let copying = tokio::spawn(async move { client.copy(&copy(HANGS), |_| {}).await });
    timeout(LONG, house.fake.copy_started.notified()).await.unwrap();
    match house.client.copy(&copy("/a"), |_| {}).await {
        Err(ClientError::Refused(error)) => assert_eq!(error.code, "too-many-copies"),
        other => panic!("{other:?}"),
    }
    house.client.call(&NodeList {}).await.unwrap();
    copying.abort();
}

#[tokio::test]
async fn bad_requests_get_a_reason_and_never_reach_the_backend() {
    let house = House::with(ServerLimits { body_bytes: 1_000, ..ServerLimits::default() });
    let large = format!("{{\"level\":\"{}\"}}", "a".repeat(2_000));
    let deep = "[".repeat(900);
    for (path, body, status, code) in [
        ("/v1/node/add", "{", "400", "bad-request"),
        ("/v1/node/add", "null", "400", "bad-request"),
        ("/v1/node/add", r#"{"node":"be.ta","address":"[::1]:1"}"#, "400", "bad-request"),
        ("/v1/node/add", r#"{"node":"beta","address":"127.0.0.1:1"}"#, "400", "bad-request"),
        ("/v1/node/list", r#"{"unknown":1}"#, "400", "bad-request"),
        ("/v1/node/list", deep.as_str(), "400", "bad-request"),
        ("/v1/worker/show", r#"{"index":-1}"#, "400", "bad-request"),
        ("/v1/service/publish", r#"{"name":"web","target":"10.0.0.1:80"}"#, "400", "bad-request"),
        ("/v1/copy/run", r#"{"source":1}"#, "400", "bad-request"),
        ("/v1/log/level-set", large.as_str(), "413", "request-too-large"),
        ("/v1/nothing/here", "", "404", "no-such-operation"),
        ("/v1/node", "", "404", "no-such-operation"),
        ("/", "", "404", "no-such-operation"),
    ] {
        let (head, reply) = exchange(house.raw().await, &post(path, body)).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{path} {body}: {head}");
        let reply: Value = serde_json::from_str(&reply).unwrap();
        assert_eq!(reply["error"]["code"], code, "{path} {body}: {reply}");
    }
    let get = b"GET /v1/node/list HTTP/1.1\r\nhost: stoqd\r\n\r\n";
    let (head, _) = exchange(house.raw().await, get).await;
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    assert!(house.fake.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn octets_that_are_not_http_do_not_disturb_the_next_client() {
    let house = House::new();
    let many_headers = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1_000));
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    for octets in
        [b"\x16\x03\x01\x00\xff".as_slice(), many_headers.as_bytes(), long_path.as_bytes()]
    {
        let (head, _) = exchange(house.raw().await, octets).await;
        assert!(!head.starts_with("HTTP/1.1 2"), "{head}");
    }
    house.client.call(&NodeList {}).await.unwrap();
}

#[tokio::test]
async fn a_silent_client_is_hung_up_on_and_does_not_hold_its_place() {
    let limits = ServerLimits {
        connections: 1,
        receive_timeout: Duration::from_millis(50),
        ..ServerLimits::default()
    };
    let house = House::with(limits);
    let mut silent = house.raw().await;
    let mut half = house.raw().await;
    half.write_all(b"POST /v1/node/list HTTP/1.1\r\ncontent-length: 10\r\n\r\n{").await.unwrap();
    let mut rest = Vec::new();
    timeout(LONG, silent.read_to_end(&mut rest)).await.expect("hung up").unwrap();
    timeout(LONG, half.read_to_end(&mut rest)).await.expect("hung up").unwrap();
    assert!(String::from_utf8(rest).unwrap().contains("timed-out"));
    timeout(LONG, house.client.call(&NodeList {})).await.unwrap().unwrap();
}

#[tokio::test]
async fn nobody_at_the_socket_is_unreachable() {
    let directory = tempfile::tempdir().unwrap();
    let client = Client::new(directory.path().join("none"));
    let error = client.call(&NodeList {}).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert_eq!(ApiError::from(error).exit_code, ExitCode::Unreachable);
}

#[tokio::test]
async fn a_stopped_server_removes_its_socket() {
    let house = House::new();
    house.served.stop().await;
    assert!(!house.client.socket().exists());
}

#[tokio::test]
async fn metrics_and_health_are_on_tcp_and_operations_are_not() {
    let fake = Arc::new(Fake::default());
    let listener = bind_metrics("[::1]:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(stoq_admin::serve_metrics(
        listener,
        Arc::clone(&fake),
        ServerLimits::default(),
        std::future::pending(),
    ));
    let get = async |path: &str| {
        let stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: [::1]\r\n\r\n");
        exchange(stream, request.as_bytes()).await
    };
    let (head, body) = get("/metrics").await;
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(
        body.contains("stoq_worker_datagrams_dropped_total{cause=\"bad_token\",worker=\"0\"} 7")
    );
    assert!(body.contains("stoq_node_ready 1"));
    assert_eq!(get("/healthz").await.1, "ok\n");
    assert_eq!(get("/readyz").await.1, "ready\n");

    fake.ready.store(false, Ordering::SeqCst);
    let (head, body) = get("/readyz").await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(body.contains("no-certificate"), "{body}");
    assert!(get("/metrics").await.1.contains("stoq_node_ready 0"));

    let stream = TcpStream::connect(address).await.unwrap();
    let (head, _) = exchange(stream, &post("/v1/drain/run", r#"{"timeout_seconds":1}"#)).await;
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    assert!(!fake.asked.lock().unwrap().iter().any(|(name, _)| name == "drain.run"));
    task.abort();
}

#[tokio::test]
async fn a_held_metrics_port_is_refused_with_its_address() {
    let held = bind_metrics("[::1]:0".parse().unwrap()).unwrap();
    let std::net::SocketAddr::V6(address) = held.local_addr().unwrap() else {
        panic!("an IPv6 listener has an IPv6 address");
    };
    let error = bind_metrics(address).unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
