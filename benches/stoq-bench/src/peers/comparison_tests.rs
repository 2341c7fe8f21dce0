//! The command line of a comparison, and how it comes out when a peer is absent or dies.

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: PeersArgs,
}

fn parse(words: &[&str]) -> Result<PeersArgs, clap::Error> {
    Line::try_parse_from([&["peers"], words].concat()).map(|line| line.args)
}

#[test]
fn the_defaults_are_the_published_comparison() {
    let args = parse(&[]).unwrap();
    assert_eq!((args.pairs, args.payload), (10, vec![1_452, 8_952]));
    let names: Vec<String> = args.peer.iter().map(|peer| peer.name()).collect();
    assert_eq!(
        names.join(","),
        "quinn,s2n-quic,tokio-quiche,msquic,tls-tcp,stunnel,haproxy,wireguard"
    );
    let args = parse(&["--peer", "msquic,quinn", "--payload", "1452", "--pairs", "1"]).unwrap();
    assert_eq!(args.peer, [Peer::Msquic, Peer::Quinn]);
    assert!(parse(&["--peer", "nobody"]).is_err() && parse(&["--pairs", "0"]).is_err());
}

fn measured(words: &[&str]) -> Result<(PeersRecord, Verdict), Failure> {
    let args = parse(words).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(&args))
}

#[test]
fn an_absent_peer_is_a_row_with_its_reason_and_no_failure() {
    let there = tempfile::tempdir().unwrap();
    let directory = there.path().to_str().unwrap();
    let words = ["--peers-dir", directory, "--peer", "quinn", "--payload", "1452"];
    let (record, verdict) = measured(&words).unwrap();
    assert_eq!(verdict, Verdict::Sound);
    assert!(record.rows[0].skipped.as_ref().unwrap().contains("peer-quinn"));
    assert_eq!(record.rows[0].gbps_median, None);
    record.check().unwrap();
}

#[test]
fn a_present_peer_that_dies_fails_the_comparison_by_name() {
    use std::os::unix::fs::PermissionsExt as _;
    let there = tempfile::tempdir().unwrap();
    let program = there.path().join("peer-quinn");
    std::fs::write(&program, "#!/bin/sh\nread identity\necho 'out of keys' >&2\nexit 9\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let plan = Plan {
        own: "/nonexistent".into(),
        payload: 1_452,
        duration: Duration::from_secs(1),
        omit: Duration::ZERO,
        cores: [0, 1],
        bundles: crate::identity::make().unwrap(),
        directory: there.path().to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(stacks::run_peer(&program, &plan)).err().unwrap();
    for part in ["peer-quinn sink", "exit status: 9", "out of keys"] {
        assert!(error.to_string().contains(part), "{part} is not in {error}");
    }
    let ours = runtime.block_on(stacks::run_ours(&plan)).err().unwrap();
    assert!(ours.to_string().contains("stoq-bench sink does not start"));
}

#[test]
fn what_cannot_be_measured_is_refused_before_anything_starts() {
    assert!(measured(&["--cores", "0"]).unwrap_err().to_string().contains("two processors"));
    assert!(measured(&["--payload", "100"]).unwrap_err().to_string().contains("100"));
    assert!(Verdict::Unsound > Verdict::Failed && Verdict::Failed > Verdict::Sound);
}
